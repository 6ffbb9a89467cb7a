//! What must never be lost: other people's files, logged lines, the last evaluation, a checkpoint that could not be read
//! for a moment.

use crate::common::faults::strike;
use crate::common::{Folder, Running, fashion, names_in};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

const SAVE: &str = "checkpoint::save(nn::linear(2, 2), \"m\");";

#[test]
fn a_model_is_saved_in_the_place_of_an_earlier_one_only_if_nothing_else_lies_there() {
    let folder = Folder::new();
    folder.run(SAVE).succeeds();
    let first = folder.read("m/model.safetensors");
    folder.run(&format!("seed(5); {SAVE}")).succeeds();
    let second = folder.read("m/model.safetensors");
    assert!(first != second);
    assert_eq!(folder.names(""), ["m", "recipe.rhai"], "nothing is left beside it");

    folder.write("m/README.md", "mine");
    folder.write("m/checkpoint-500/optimizer.pt", "mine too");
    let said = folder.run(&format!("seed(6); {SAVE}"));
    said.fails(1).says(&["cannot save the model to m", "not replaced", "README.md, checkpoint-500", "another path"]);
    assert_eq!(
        (folder.text("m/README.md"), folder.text("m/checkpoint-500/optimizer.pt")),
        ("mine".into(), "mine too".into())
    );
    assert!(folder.read("m/model.safetensors") == second);
    assert_eq!(folder.names(""), ["m", "recipe.rhai"], "nothing is left beside it");

    // The run directory, with a file of weights in it.
    let script = "checkpoint::save_tensors(#{ w: ones([2]) }, run::path(\"model.safetensors\"));
                  checkpoint::save(nn::linear(2, 2), \"o\");";
    folder.run_with(script, &["--out", "o"]).fails(1).says(&["not replaced", ".lock", "metrics.jsonl"]);
    assert!(folder.path("o/run.json").is_file());

    // A link is followed: the model behind it is replaced, not the link.
    std::os::unix::fs::symlink("real", folder.path("link")).unwrap();
    folder.write("real/model.safetensors", "old");
    folder.run(&SAVE.replace("\"m\"", "\"link\"")).succeeds();
    assert!(folder.path("link").is_symlink());
    assert!(folder.read("real/model.safetensors").len() > 3);
}

#[test]
fn a_model_whose_replacement_was_cut_short_is_found_again() {
    let folder = Folder::new();
    folder.run(SAVE).succeeds();
    // On a file system that cannot exchange two folders, a process was killed between two renames.
    std::fs::rename(folder.path("m"), folder.path(".replaced-m")).unwrap();
    folder.run("print(checkpoint::tensors(\"m\").len());").succeeds().prints(&["2"]);
    assert_eq!(folder.names(""), [".replaced-m", "recipe.rhai"], "who reads changes nothing");
    std::os::unix::fs::symlink("m", folder.path("link")).unwrap();
    folder.nepa(&["inspect", "link"]).succeeds().prints(&["weight"]);
    folder.run(&SAVE.replace("\"m\"", "\"link\"")).succeeds();
    assert_eq!(folder.names(""), ["link", "m", "recipe.rhai"]);
    std::fs::remove_file(folder.path("link")).unwrap();
    // Or before it had removed the old one.
    folder.write(".replaced-m/model.safetensors", "old");
    folder.run(SAVE).succeeds();
    assert_eq!(folder.names(""), ["m", "recipe.rhai"]);
}

/// As on NFS, where the folder that was replaced cannot be removed while another process has a file of it open.
#[test]
fn two_renames_take_the_place_of_an_exchange_and_what_cannot_be_removed_is_no_obstacle() {
    let folder = Folder::new();
    folder.write("recipe.rhai", format!("seed(param(\"seed\", 1)); {SAVE}"));
    let below = folder.path(".replaced-m").display().to_string();
    let error = libc::ENOTEMPTY.to_string();
    let mut stubborn = strike(&below, ",remove,", "1", &error);
    stubborn.extend([("FAULT_LASTS", "1"), ("FAULT_NO_EXCHANGE", "1")]);
    let mut before = Vec::new();
    for seed in ["seed=1", "seed=2", "seed=3"] {
        folder.nepa_with(&stubborn, &["run", "recipe.rhai", "--device", "cpu", "--set", seed]).succeeds();
        let weights = folder.read("m/model.safetensors");
        assert!(weights != before, "{seed}");
        folder.nepa(&["inspect", "m"]).succeeds();
        before = weights;
    }
}

#[test]
fn files_have_the_permissions_that_the_umask_leaves() {
    let folder = Folder::new();
    folder.write("recipe.rhai", format!("run::log(#{{ a: 1 }}); {}", SAVE.replace("\"m\"", "run::path(\"m\")")));
    for (umask, expected) in [(0o077, [0o700, 0o600]), (0o002, [0o775, 0o664])] {
        let out = format!("o{umask}");
        let nepa = env!("CARGO_BIN_EXE_nepa");
        let line = format!("umask {umask:03o}; exec {nepa} run recipe.rhai --device cpu --threads 1 --out {out}");
        let status =
            std::process::Command::new("sh").args(["-c", &line]).current_dir(folder.path("")).output().unwrap();
        assert!(status.status.success(), "{status:?}");
        let mode =
            |name: &str| std::fs::metadata(folder.path(&format!("{out}/{name}"))).unwrap().permissions().mode() & 0o777;
        for folder in ["", "m", "scripts"] {
            assert_eq!(mode(folder), expected[0], "{folder} under {umask:o}");
        }
        for file in ["run.json", "metrics.jsonl", "recipe.rhai", "m/model.safetensors", "m/provenance.json"] {
            assert_eq!(mode(file), expected[1], "{file} under {umask:o}");
        }
    }
}

/// A loop by hand, whose label is a parameter, and which may be left out.
const LOOP: &str = r#"
    run::log(#{ note: "begins" });
    let model = nn::linear(1, 1);
    if param("train", true) {
        let saver = run::checkpoints(param("label", "loop"), #{ model: model }, #{ every: 2 });
        let now = saver.resume(#{}, []) ?? #{ step: 0 };
        while now.step < param("steps", 4) {
            now.step += 1;
            run::log(#{ step: now.step, attempt: param("attempt", 1) });
            if saver.due(now.step) { saver.save(now.step, now); }
            if now.step == param("stop", 0) { throw "stopped"; }
        }
        saver.finish(now.step, now);
    }
    run::log(#{ note: param("note", "ends") });
"#;

fn lines(folder: &Folder, file: &str) -> Vec<String> {
    folder.text(file).lines().map(String::from).collect()
}

#[test]
fn nothing_but_a_return_to_a_checkpoint_shortens_the_metrics_and_the_cut_lines_are_kept() {
    let folder = Folder::new();
    folder.run_with(LOOP, &["--out", "o"]).succeeds();
    let whole = lines(&folder, "o/metrics.jsonl");
    assert_eq!(whole.len(), 6, "{whole:?}");

    // No loop is met.
    folder.run_with(LOOP, &["--out", "o", "--set", "train=false", "--set", "note=again"]).succeeds();
    let more = lines(&folder, "o/metrics.jsonl");
    assert_eq!(more[..6], whole);
    assert_eq!(more[6..], ["{\"note\":\"begins\"}", "{\"note\":\"again\"}"]);

    // The loop has another label: it starts anew, which is told.
    let said = folder.run_with(LOOP, &["--out", "o", "--set", "label=other"]);
    said.succeeds().says(&["warning: other: starts from its first step", "only of loop"]);
    let third = lines(&folder, "o/metrics.jsonl");
    assert_eq!((&third[..8], &third[8..]), (&more[..], &whole[..]));

    // Back to a checkpoint, and killed lines after it.
    let steps = ["--out", "p", "--set", "steps=8", "--set", "stop=7"];
    folder.run_with(LOOP, &steps).fails(1);
    let before = lines(&folder, "p/metrics.jsonl");
    assert_eq!(before.last().unwrap(), "{\"attempt\":1,\"step\":7}");
    folder.run_with(LOOP, &["--out", "p", "--set", "steps=8", "--set", "stop=0", "--set", "attempt=2"]).succeeds();
    assert_eq!(lines(&folder, "p/metrics.jsonl").len(), 10);
    assert_eq!(lines(&folder, "p/metrics.cut.jsonl"), ["{\"attempt\":1,\"step\":7}"]);

    // Restarted from the first step, since there is no checkpoint: the lines of the first attempt are kept too.
    folder.run_with(LOOP, &["--out", "q", "--set", "stop=1"]).fails(1);
    folder.run_with(LOOP, &["--out", "q", "--set", "stop=0"]).succeeds();
    assert_eq!(lines(&folder, "q/metrics.jsonl"), whole);
    // Those that the new attempt logs again, too.
    assert_eq!(lines(&folder, "q/metrics.cut.jsonl"), whole[..2]);

    // Lines of a loop that went on in this attempt, before a later one is resumed, are not lost.
    let two = format!(
        "let finished = param(\"first\", 2);\n{}",
        ["first", "second"].map(|label| format!("{{ let steps = if \"{label}\" == \"first\" {{ finished }} else {{ 4 }};
            let model = nn::linear(1, 1);
            let saver = run::checkpoints(\"{label}\", #{{ model: model }}, #{{ every: 2 }});
            let now = saver.resume(#{{}}, []) ?? #{{ step: 0 }};
            while now.step < steps {{ now.step += 1; run::log(#{{ {label}: now.step }}); if saver.due(now.step) {{ saver.save(now.step, now); }} }}
            saver.finish(now.step, now); }}")).join("\n")
    );
    folder.run_with(&two, &["--out", "two"]).succeeds();
    folder.run_with(&two, &["--out", "two", "--set", "first=4"]).succeeds();
    let expected =
        ["first\":1", "first\":2", "second\":1", "second\":2", "second\":3", "second\":4", "first\":3", "first\":4"];
    assert_eq!(lines(&folder, "two/metrics.jsonl"), expected.map(|line| format!("{{\"{line}}}")));

    // The end of a line that was cut short by a power failure is no line.
    let torn = format!("{}\n{{\"st", whole.join("\n"));
    folder.write("o/metrics.jsonl", &torn);
    folder.run_with(LOOP, &["--out", "o", "--set", "train=false"]).succeeds();
    assert_eq!(lines(&folder, "o/metrics.jsonl").len(), 8);
    assert_eq!(lines(&folder, "o/metrics.cut.jsonl"), ["{\"st"]);
}

#[test]
fn every_loop_of_a_run_has_a_folder_of_its_own_inside_the_run() {
    let folder = Folder::new();
    let script = r#"
        let n = 0;
        for label in ["probe", "probe", "probe-2", "Probe", "..", ".", "a/b", "../../x", ".partial-x", "é 1", "-", "x".pad_to(300)] {
            n += 1;
            let saver = run::checkpoints(label, #{ model: nn::linear(1, 1) }, #{});
            let now = saver.resume(#{}, []);
            if now != () && now.n != n { throw `${label} resumed from ${now}`; }
            saver.finish(1, #{ n: n });
        }
    "#;
    let script = script.replace("\"x\".pad_to(300)", &format!("\"{}\"", "x".repeat(300)));
    folder.run_with(&script, &["--out", "o"]).succeeds();
    let names = folder.names("o/checkpoints");
    let long = "x".repeat(60);
    let mut expected = vec![
        "Probe-3",
        "a-b",
        "loop",
        "loop-2",
        "loop-3",
        "partial-x",
        "probe",
        "probe-2",
        "probe-2-2",
        "x",
        &long,
        "é-1",
    ];
    expected.sort();
    assert_eq!(names, expected);
    assert!(!folder.names("o").iter().any(|name| name.starts_with("step-")));
    folder.run_with(&script, &["--out", "o"]).succeeds();
    // In another order: a loop does not go on from another one's checkpoint.
    let swapped = script.replace("\"probe\", \"probe\", \"probe-2\"", "\"probe\", \"probe-2\", \"probe\"");
    let said = folder.run_with(&swapped, &["--out", "o", "--allow-change", "recipe"]);
    said.fails(1).says(&["is a checkpoint of the loop \"probe\", not of \"probe-2\"", "another --out"]);
}

/// Training with an evaluation that waits, when the file `wait` exists, until it is killed.
const EVALUATED: &str = r#"
    import "std/train" as train;
    let images = data::idx(param("data", ()), "test").take(64);
    let model = nn::linear(1, 1);
    let task = #{
        loss: |model, batch, o| #{ loss: model.forward(batch.images.mean().reshape([1, 1])).pow(2).mean() },
        evaluate: |model, ema, now, o| {
            print(`evaluates ${now.step}`);
            if now.step == 8 && fs_exists("wait") { loop { } }
            let value = model.state_dict().values()[0].sum().item();
            run::log(#{ evaluated: now.step, value: value });
            #{ best: max(now.best, value) }
        },
        state: #{ best: -1.0 },
    };
    let result = train::fit(model, images, task, #{ epochs: 2, batch: 16, save_every: 4, log_every: 4,
        evaluate: #{ every_epochs: 1 } });
    print(result.best);
"#;

#[test]
fn a_kill_in_the_last_evaluation_does_not_lose_it() {
    let folder = Folder::new();
    let data = format!("data={}", fashion());
    // Scripts have no way to look for a file; the loop is endless in one of two recipes that differ in a comment.
    let script = |waits: bool| {
        let condition = if waits { "true" } else { "/* true */ false" };
        EVALUATED.replace("fs_exists(\"wait\")", condition)
    };
    folder.write("recipe.rhai", script(false));
    let start = |out: &str| -> Running {
        let run = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--set", &data, "--out", out];
        let change: &[&str] = if folder.path(out).exists() { &["--allow-change", "recipe"] } else { &[] };
        folder.start(&[&run[..], change].concat(), &[])
    };
    start("whole").finish().succeeds();
    folder.write("recipe.rhai", script(true));
    let running = start("killed");
    running.wait_for("evaluates 8");
    while !folder.path("killed/checkpoints/train/step-00000008").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    running.signal(libc::SIGKILL);
    running.killed();
    folder.write("recipe.rhai", script(false));
    start("killed").finish().succeeds();

    // The evaluation is in the metrics, and in the last checkpoint with what it keeps.
    let values = |file: String| -> Vec<Value> {
        let rows = lines(&folder, &file).into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        rows.filter(|row| row.get("value").is_some()).collect()
    };
    let last = |out: &str| format!("{out}/checkpoints/train/step-00000008");
    for file in ["metrics.jsonl".to_string(), "checkpoints/train/step-00000008/metrics.jsonl".to_string()] {
        let whole = values(format!("whole/{file}"));
        assert_eq!(whole.len(), 2, "{whole:?}");
        assert_eq!(values(format!("killed/{file}")), whole, "{file}");
    }
    let best = |out: &str| folder.json(&format!("{}/state.json", last(out)))["loop"]["best"].clone();
    assert!(best("whole").is_f64());
    assert_eq!(best("killed"), best("whole"));
    // A finished run that is run again has nothing left to evaluate.
    let again = start("killed").finish();
    assert!(!again.succeeds().stdout.contains("evaluates"), "{again}");
}

#[test]
fn a_checkpoint_that_cannot_be_read_now_is_not_taken_for_damaged_or_missing() {
    let folder = Folder::new();
    folder.run_with(LOOP, &["--out", "o", "--set", "stop=4"]).fails(1);
    // A link to itself stands for a disk that fails for a moment: opening it is an error, but no "not found".
    let hide = |name: &str| {
        let path = folder.path(name);
        std::fs::rename(&path, folder.path("hidden")).unwrap();
        std::os::unix::fs::symlink(path.file_name().unwrap(), &path).unwrap();
    };
    let restore = |name: &str| {
        std::fs::remove_file(folder.path(name)).unwrap();
        std::fs::rename(folder.path("hidden"), folder.path(name)).unwrap();
    };
    let newest = "o/checkpoints/loop/step-00000004";
    for name in [
        "o/checkpoints",
        "o/checkpoints/loop",
        newest,
        &format!("{newest}/state.json"),
        &format!("{newest}/manifest.json"),
    ] {
        let metrics = folder.text("o/metrics.jsonl");
        hide(name);
        folder.run_with(LOOP, &["--out", "o", "--set", "stop=0"]).fails(1).says(&["cannot read", name]);
        restore(name);
        assert_eq!(folder.names("o/checkpoints/loop"), ["step-00000002", "step-00000004"], "{name}");
        assert_eq!(folder.text("o/metrics.jsonl"), metrics, "{name}");
    }
    let said = folder.run_with(LOOP, &["--out", "o", "--set", "stop=0"]);
    said.succeeds().says(&["loop: resumed from step 4"]);
}

#[test]
fn runs_that_start_at_once_get_directories_of_their_own() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "run::log(#{ a: 1 });");
    let started: Vec<Running> =
        (0..4).map(|_| folder.start(&["run", "recipe.rhai", "--device", "cpu", "--threads", "1"], &[])).collect();
    for running in started {
        running.finish().succeeds();
    }
    let runs = folder.names("runs");
    assert_eq!(runs.len(), 4, "{runs:?}");
    for run in runs {
        assert_eq!(folder.text(&format!("runs/{run}/metrics.jsonl")), "{\"a\":1}\n");
    }
}

#[test]
fn who_looks_at_a_run_does_not_keep_it_from_being_resumed() {
    let folder = Folder::new();
    folder.run_with(LOOP, &["--out", "o", "--set", "stop=1"]).fails(1);
    // As inspect, report and plot do.
    let look = std::fs::File::open(folder.path("o/.lock")).unwrap();
    look.lock_shared().unwrap();
    folder.write("recipe.rhai", LOOP);
    let running = folder.start(&["run", "recipe.rhai", "--out", "o", "--set", "stop=0", "--device", "cpu"], &[]);
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(look);
    running.finish().succeeds();
    // Two who look at once do not take each other for the run.
    let look = std::fs::File::open(folder.path("o/.lock")).unwrap();
    look.lock_shared().unwrap();
    let run = folder.json("o/run.json");
    folder.write("o/run.json", serde_json::to_string(&run).unwrap().replace("\"finished\"", "\"running\""));
    folder.nepa(&["inspect", "o"]).succeeds().prints(&["killed: it never finished"]);
    assert_eq!(names_in(&folder.path("o/checkpoints/loop")).len(), 2);
}

/// Lustre without `-o flock`, or NFS without a lock daemon.
#[test]
fn a_file_system_without_locks_is_told_and_used() {
    let folder = Folder::new();
    folder.write("recipe.rhai", LOOP);
    let below = folder.path("").canonicalize().unwrap().display().to_string();
    let error = libc::ENOLCK.to_string();
    let mut without_locks = strike(&below, ",lock,", "1", &error);
    without_locks.push(("FAULT_LASTS", "1"));
    let said = folder.nepa_with(&without_locks, &["run", "recipe.rhai", "--device", "cpu", "--out", "o"]);
    said.succeeds().says(&["warning: the file system of o has no locks", "no other run uses this directory"]);
    let run = folder.text("o/run.json").replace("\"finished\"", "\"running\"");
    folder.write("o/run.json", run);
    let said = folder.nepa_with(&without_locks, &["inspect", "o"]);
    said.succeeds().prints(&["running, or killed: its lock cannot be read"]);
}
