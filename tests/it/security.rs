//! What docs/security.md promises: what scripts, run directories and names from strangers reach, and what they do not.

use crate::common::*;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A script that calls each function and prints how it failed.
fn tries(calls: &[&str]) -> String {
    let calls: Vec<String> = calls.iter().map(|call| format!("|| {{ {call} }}")).collect();
    format!(
        "for (f, i) in [{}] {{ try {{ f.call(); print(`${{i}}: done`); }} catch (e) {{ print(`${{i}}: ${{e.message}}`); }} }}",
        calls.join(", ")
    )
}

/// Line `i` of what [`tries`] prints holds piece `i`.
#[track_caller]
fn each_says(said: &Said, pieces: &[&str]) {
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), pieces.len(), "{said}");
    for (i, (line, piece)) in lines.iter().zip(pieces).enumerate() {
        assert!(line.starts_with(&format!("{i}: ")) && line.contains(piece), "`{line}` should hold `{piece}`: {said}");
    }
}

fn make_pipe(path: &Path) {
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a plain system call with a string that ends with a zero byte.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

#[test]
fn no_name_leads_out_of_the_run_directory() {
    let folder = Folder::new();
    folder.write("outside/secret.json", "{}");
    let script = tries(&[
        "run::path(\"../x\")",
        "run::path(\"/etc/passwd\")",
        "run::path(\"a/../../x\")",
        "run::path(\"way/out.png\")",
        "run::write(\"way/x.txt\", \"text\")",
        "run::write_json(\"secret.json\", #{})",
        "run::write_table(\"way/t.csv\", [[\"a\", [1]]])",
        "run::write(\"a/b/x.txt\", \"text\")",
        "run::write(\"inner/y.txt\", \"text\")",
    ]);
    // Failed, so that it may be started again.
    folder.run_with("run::write(\"a/b/x.txt\", \"\"); throw \"stop\";", &["--out", "o"]).fails(1);
    symlink("../outside", folder.path("o/way")).unwrap();
    symlink("../outside/secret.json", folder.path("o/secret.json")).unwrap();
    symlink("a", folder.path("o/inner")).unwrap();
    let said = folder.run_with(&script, &["--out", "o", "--allow-change", "recipe"]);
    let leads_out = "is a link that leads out of the run directory, to ../outside";
    each_says(
        &said,
        &[
            "expected a name inside the run directory, found \"../x\"",
            "expected a name inside",
            "expected a name inside",
            leads_out,
            leads_out,
            leads_out,
            leads_out,
            "done",
            "done",
        ],
    );
    assert_eq!(folder.names("outside"), ["secret.json"]);
    // Nor is anything appended to through a link.
    folder.write("outside/log", "before");
    std::fs::remove_file(folder.path("o/run.log")).unwrap();
    symlink("../outside/log", folder.path("o/run.log")).unwrap();
    let again = folder.run_with("run::note(\"after\");", &["--out", "o", "--allow-change", "recipe"]);
    again.fails(1).says(&["o/run.log is a link that leads out of the run directory"]);
    assert_eq!(folder.text("outside/log"), "before");
    assert_eq!(folder.text("outside/secret.json"), "{}");
    assert_eq!(folder.text("o/a/y.txt"), "text");
}

/// A run directory whose files are links to a picture, a model and texts outside, and a pipe.
fn hostile_run(folder: &Folder) {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\nsecret";
    folder.write("outside/picture.png", PNG);
    folder.write("outside/model/model.safetensors", "secret");
    folder.write("outside/model/provenance.json", "{\"weights\": \"secret\"}");
    let run = json!({ "state": "finished", "error": "\u{1b}[2J\u{202e}<script>alert(1)</script>" });
    folder.write("r/run.json", run.to_string());
    folder.write("r/metrics.jsonl", "{\"phase\":\"\\u001b]0;title\\u0007\",\"step\":1,\"loss\":1}\n");
    folder.write("r/own.png", PNG);
    folder.write("r/text.png", "<svg onload='alert(1)'/>");
    symlink("../outside/picture.png", folder.path("r/link.png")).unwrap();
    symlink("../outside", folder.path("r/way")).unwrap();
    symlink("../outside/model", folder.path("r/model")).unwrap();
    std::fs::create_dir_all(folder.path("outside/loops/pretrain/step-00000001")).unwrap();
    symlink("../outside/loops", folder.path("r/checkpoints")).unwrap();
    make_pipe(&folder.path("r/pipe.png"));
    let samples: Vec<_> = ["own.png", "link.png", "way/picture.png", "pipe.png", "text.png", "/dev/zero"]
        .iter()
        .map(|image| json!({ "item": image, "image": image }))
        .collect();
    folder.write("r/evaluation.json", json!({ "samples": samples }).to_string());
}

#[test]
fn a_page_of_a_strangers_run_holds_nothing_from_elsewhere_and_runs_nothing() {
    let folder = Folder::new();
    hostile_run(&folder);
    folder.nepa(&["report", "r", "--out", "page.html"]).succeeds();
    let page = folder.text("page.html");
    // As a picture, and as a sample.
    assert_eq!(page.matches("data:image/").count(), 2, "own.png alone");
    assert_eq!(page.matches("link.png: not shown: it is outside the run directory").count(), 2);
    assert!(page.contains("way/picture.png: not shown: it is outside") && page.contains("/dev/zero: not shown"));
    assert!(page.contains("is a named pipe, expected a file") && page.contains("not a PNG, JPEG or WebP file"));
    assert!(!page.contains("model</th>") && !page.contains("secret"), "the model outside");
    assert!(page.contains("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:;"));
    assert!(!page.contains("<script") && !page.contains("<svg onload"));
    assert!(page.contains("\\x1b[2J\\u{202e}&lt;script&gt;") && page.contains("\\x1b]0;title\\x07"));
    assert!(!page.contains(['\u{1b}', '\u{7}', '\u{202e}']));
    folder.nepa(&["plot", "r", "--out", "o.svg"]).succeeds();
    assert!(!folder.text("o.svg").contains(['\u{1b}', '\u{7}']));
    let said = folder.nepa(&["inspect", "r"]);
    let outside =
        "there are checkpoints that are not shown: r/checkpoints is a link that leads out of the run directory";
    said.succeeds().prints(&["\\x1b[2J", "\\u001b]0;title", outside]);
    assert!(page.contains(outside));
    assert!(!said.stdout.contains("model:") && !said.stdout.contains('\u{1b}'), "{said}");
}

#[test]
fn commands_read_only_whole_files_of_a_run_directory() {
    for (name, commands) in [
        ("run.json", &["report", "inspect", "plot"][..]),
        ("metrics.jsonl", &["report", "inspect", "plot"]),
        (".lock", &["report", "inspect"]),
        ("run.log", &["report"]),
        ("recipe.rhai", &["report"]),
    ] {
        let folder = Folder::new();
        folder.write("outside", "{\"step\": 1, \"loss\": 1}\n");
        folder.write("r/run.json", "{}");
        folder.write("r/metrics.jsonl", "{\"step\": 1, \"loss\": 1}\n");
        let path = folder.path("r").join(name);
        let _ = std::fs::remove_file(&path);
        symlink("../outside", &path).unwrap();
        for command in commands {
            folder.nepa(&[command, "r"]).fails(1).says(&[name, "leads out of the run directory, to ../outside"]);
        }
        std::fs::remove_file(&path).unwrap();
        make_pipe(&path);
        if name == "run.log" || name == ".lock" {
            folder.nepa(&["report", "r"]).fails(1).says(&[name, "is no file that can be read to its end"]);
        }
    }
}

#[test]
fn imports_are_scripts_and_each_is_one_however_it_is_written() {
    let folder = Folder::new();
    folder.write("secret", "password = hunter2");
    folder.write("lib/shared.rhai", "print(\"shared\"); fn f() { 1 }");
    folder.write("lib/round.rhai", "import \"../lib/./round\" as round;");
    symlink("../secret", folder.path("lib/passwords.rhai")).unwrap();
    symlink("/dev/zero", folder.path("lib/zero.rhai")).unwrap();
    symlink("shared.rhai", folder.path("lib/link.rhai")).unwrap();
    // From any folder, by any path, read and run once.
    folder.write(
        "recipes/r.rhai",
        "import \"../lib/shared\" as a; import \"../recipes/../lib/./shared\" as b; import \"../lib/link\" as c; \
         print(a::f() + b::f() + c::f());",
    );
    let said = folder.nepa(&["run", "recipes/r.rhai", "--device", "cpu"]);
    said.succeeds();
    assert_eq!(said.stdout, "shared\nshared\n3\n", "link.rhai is another file");
    for (import, pieces) in [
        ("lib/passwords", &["lib/passwords.rhai is a link to", "secret, which is no script", "ends in .rhai"][..]),
        ("lib/zero", &["lib/zero.rhai is a link to /dev/zero, which is no script"]),
        ("lib/round", &["circular import: lib/round.rhai -> lib/round.rhai"]),
        ("/etc/passwd", &["cannot find the module `/etc/passwd`"]),
    ] {
        let said = folder.run(&format!("import \"{import}\" as x;"));
        said.fails(1).says(pieces);
        assert!(!said.stderr.contains("hunter2"), "{said}");
    }
}

#[test]
fn what_is_no_file_is_not_read() {
    let folder = Folder::new();
    make_pipe(&folder.path("pipe"));
    let script = tries(&[
        "read_json(\"/dev/zero\")",
        "read_json(\"pipe\")",
        "read_json(\".\")",
        "data::read_image(\"/dev/zero\")",
        "data::read_image(\"pipe\")",
    ]);
    let (device, pipe) = ("is a device, expected a file", "is a named pipe, expected a file");
    each_says(&folder.run(&script), &[device, pipe, "is a folder, expected a file", device, pipe]);
}

#[test]
fn a_script_that_nests_without_an_end_gets_an_error() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let brackets = format!("{}f(n + 1){}", "[".repeat(900), "]".repeat(900));
    let deep = "expressions or blocks are nested too deeply: more than about 1000 in each other";
    for (script, said) in [
        (format!("let x = {};", nested("(", "1)")), deep),
        (nested("{", "}"), deep),
        (format!("let x = {};", nested("[", "]")), deep),
        (format!("let x = {}true;", "!".repeat(100_000)), deep),
        (format!("let x = {};", ["1"; 100_000].join(" + ")), deep),
        ("fn f(n) { 1 + f(n + 1) } f(0);".into(), "stack overflow: function calls are nested more than 200 deep"),
        (format!("fn f(n) {{ {brackets} }} f(0);"), "stack overflow"),
        (format!("fn f(n) {{ no_grad(|| {{ let x = {brackets}; x }}) }} f(0);"), "stack overflow"),
        ("let m = #{}; m.f = |m| no_grad(|| m.f.call(m)); m.f.call(m);".into(), "nested more than 64 deep"),
        (
            "fn f(m) { nn::define(#{}, |own, x| f(m).forward(x)) } f(1).forward(ones([1]));".into(),
            "nested more than 64",
        ),
        ("let a = []; for i in 0..200 { a = [a]; } run::log(#{ a: a });".into(), "nested more than 100 deep"),
    ] {
        let found = run(&script);
        found.fails(1).says(&[said]);
        assert!(found.stderr.len() < 20_000, "no line of 100,000 brackets: {}", found.stderr.len());
    }
}

#[test]
fn a_value_larger_than_memory_is_an_error() {
    let array = "an array is too large: it would have more than 100000000 elements";
    for (script, said) in [
        ("let a = []; a.pad(1_000_000_000_000, 0);", array),
        ("let a = [1, 2]; a.pad(9_000_000_000_000_000_000, [1, 2, 3]);", array),
        ("blob(1_000_000_000_000, 0);", array),
        (
            "let s = \"x\"; s.pad(1_000_000_000_000, \"x\");",
            "a string is too large: it would have more than 1073741824 bytes",
        ),
    ] {
        run(script).fails(1).says(&[said]);
    }
    let memory = "not enough memory";
    let tensors = [
        ("let a = []; a.pad(10_000_000, 0.5)", "done"),
        ("zeros([1_000_000, 1_000_000])", memory),
        ("ones([1_000_000, 1_000_000])", memory),
        ("randn([1_000_000, 1_000_000])", memory),
        ("arange(1_000_000_000_000)", memory),
        ("eye(1_000_000)", memory),
        ("ones([1]).repeat([1_000_000_000_000])", memory),
        ("ones([1_000_000, 1]) + ones([1, 1_000_000])", memory),
        ("ones([1]).expand([1_000_000_000_000]).copy()", memory),
        ("randperm((1 << 32) + 5)", "randperm: expected n from 0 to 4294967295, found 4294967301"),
        ("tensor([1]).one_hot(1_000_000_000_000)", memory),
        ("nn::linear(10_000_000, 10_000_000)", memory),
        (
            "nn::vit_nepa(#{ num_hidden_layers: 1_000_000_000 })",
            "num_hidden_layers must be at most 65536, found 1000000000",
        ),
        ("nn::vit_nepa(#{ hidden_size: 1_000_000, num_attention_heads: 1000, num_hidden_layers: 60_000 })", memory),
        ("data::synthetic(#{ classes: 1_000_000_000_000 })", "classes must be 1..=1000000, found 1000000000000"),
        (
            "zeros([1, 1]).expand([1_000_000, 1_000_000]).to_array()",
            "to_array: expected at most 100000000 elements, found [1000000, 1000000] float32",
        ),
    ];
    // A GPU's memory has words of its own.
    each_says(&Folder::on_cpu().run(&tries(&tensors.map(|t| t.0))), &tensors.map(|t| t.1));
}

#[test]
fn a_loop_without_an_end_ends_with_a_signal() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(\"begun\"); loop { }");
    let running = folder.start(&["run", "recipe.rhai", "--device", "cpu"], &[]);
    running.wait_for("begun").signal(libc::SIGINT);
    running.finish().fails(130).says(&["interrupted"]);
}

#[test]
fn names_cannot_steer_the_terminal() {
    let folder = Folder::new();
    let pixel = b"P5 1 1 255\n\0";
    for class in ["\u{1b}[2Ja", "b\u{202e}"] {
        folder.write(&format!("data/{class}/x.pgm"), pixel);
    }
    let script = r#"
        print("\x1b[2J\x07 printed\ttab");
        run::note("noted \x1b[31m");
        print(data::open("data").class_names);
        checkpoint::save_tensors(#{ "\x1b[1mweight": ones([1]) }, "t.safetensors");
        throw "thrown \x1b]0;title\x07";
    "#;
    let run = folder.run_with(script, &["--out", "o"]);
    run.fails(1).prints(&["\\x1b[2J\\x07 printed\ttab", "[2Ja", "b\\u{202e}"]);
    run.says(&["noted \\x1b[31m", "error: thrown \\x1b]0;title\\x07"]);
    let inspect = folder.nepa(&["inspect", "t.safetensors"]);
    inspect.succeeds().prints(&["\\x1b[1mweight"]);
    let data = folder.nepa(&["data", "data"]);
    data.succeeds();
    let missing = folder.nepa(&["inspect", "\u{1b}[2J"]);
    missing.fails(1).says(&["\\x1b[2J"]);
    for said in [&run, &inspect, &data, &missing] {
        assert!(!format!("{}{}", said.stdout, said.stderr).contains(['\u{1b}', '\u{7}', '\u{202e}']), "{said}");
    }
    assert!(!folder.text("o/run.log").contains(['\u{1b}', '\u{7}']));
}
