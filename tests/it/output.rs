//! Where nobody reads what nepa says: a full disk, a closed pipe, no stdout or stderr at all.

use crate::common::{Folder, TINY, repository};

/// Ways to start a command whose words are lost. `${PIPESTATUS[0]}` is nepa's own exit code.
const LOST: [&str; 4] = [
    "COMMAND >/dev/full 2>/dev/full",
    "COMMAND >&- 2>&-",
    "COMMAND 2>&1 | true; exit ${PIPESTATUS[0]}",
    "COMMAND 2>&1 | head -c 1; exit ${PIPESTATUS[0]}",
];

fn lost(folder: &Folder, how: &str, command: &str) -> Option<i32> {
    folder.shell(&how.replace("COMMAND", &format!("\"$nepa\" {command}"))).finish().code
}

#[test]
fn a_run_ends_as_it_would_and_records_it() {
    let script = r#"
        run::log(#{ a: 1 });
        for i in 0..100 { print(i); debug(i); run::note(`${i}`); }
        if param("fails", false) { throw "on purpose"; }
    "#;
    let folder = Folder::new();
    folder.write("recipe.rhai", script);
    for (i, how) in LOST.into_iter().enumerate() {
        let run = |out: &str, more: &str| {
            lost(&folder, how, &format!("run recipe.rhai --device cpu --threads 1 --out {out} {more}"))
        };
        let out = format!("good-{i}");
        assert_eq!(run(&out, ""), Some(0), "{how}");
        assert_eq!(folder.json(&format!("{out}/run.json"))["state"], "finished", "{how}");

        let out = format!("bad-{i}");
        assert_eq!(run(&out, "--set fails=true"), Some(1), "{how}");
        let info = folder.json(&format!("{out}/run.json"));
        assert_eq!((&info["state"], &info["error"]), (&"failed".into(), &"on purpose".into()), "{how}");
        let log = folder.text(&format!("{out}/run.log"));
        assert!(
            log.contains("  99\n") && log.contains("--> recipe.rhai:4:") && log.contains("failed: on purpose"),
            "{how}: {log}"
        );
    }
    let how = LOST[0];
    let command = "run recipe.rhai --device cpu --threads 1 --nproc 2 --out both --set fails=true";
    assert_eq!(lost(&folder, how, command), Some(1));
    assert_eq!(folder.json("both/run.json")["error"], "on purpose");
}

#[test]
fn every_command_ends_with_its_own_exit_code() {
    let folder = Folder::new();
    folder.write("good.rhai", "print(1);\n");
    folder.write("bad.rhai", "nn::linaer(1, 2);\n");
    let model = format!("checkpoint::save(nn::vit_nepa({TINY}), \"model\");");
    folder.run(&model).succeeds();
    let images = format!("data {}", repository("tests/fixtures/data/folder").display());
    for (command, code) in [
        ("api", 1),
        ("inspect model", 1),
        ("--help", 0),
        ("run good.rhai --help", 0),
        ("check good.rhai", 0),
        ("check bad.rhai", 1),
        ("run bad.rhai", 1),
        ("inspect nothing", 1),
        ("report nothing", 1),
        ("data nothing", 1),
        (images.as_str(), 1),
        ("--nonsense", 2),
        ("run", 2),
    ] {
        assert_eq!(lost(&folder, LOST[0], command), Some(code), "{command}");
    }
    // A reader that has gone has read what it wanted; on a full disk half of an answer would look like a whole one.
    assert_eq!(lost(&folder, LOST[3], "api"), Some(0));
    folder
        .shell("\"$nepa\" api >/dev/full")
        .finish()
        .fails(1)
        .says(&["cannot write to stdout: No space left on device"]);
    // Words of the command line that are no text.
    let said = folder.shell("\"$nepa\" run $'good.rhai\\xff'; \"$nepa\" run good.rhai --out $'o\\xff'").finish();
    said.fails(1).says(&["does not exist", "o\u{fffd}"]);
}
