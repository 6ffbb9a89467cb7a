//! `nepa sync` and `nepa run --log`: what arrives at a client, once. The client is a stand-in that records its calls;
//! `sync_clients` has the real ones.

use crate::common::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// A recipe with everything that is sent.
pub const RECIPE: &str = r#"
    let lr = param("lr", 0.5);
    for step in 1..=3 { run::log(#{ phase: "train", step: step * 10, loss: lr / step, note: "x" }); }
    run::log(#{ phase: "train", step: 30, extra: 7 });
    run::log(#{ step: 1, alone: 2.5 });
    for k in [5, 7] { run::log(#{ phase: "knn", k: k, top1: 80.5 + k }); }
    plot::images(run::path("pic.png"), rand([4, 3, 8, 8]), #{});
    plot::lines(run::path("plots/loss.svg"), #{ loss: [[0, 1.0], [1, 2.0]] }, #{});
    run::write_table("scores.parquet", [["name", ["a", "b"]], ["score", [0.25, 1.5]], ["n", [1, 2]]]);
    run::write_table("rows.csv", [["name", ["c"]], ["score", [3.5]]]);
    run::write_json("evaluation.json", #{ ema: #{ top1: 64.5, per_class: [#{ label: 0, top1: 1.5 }, #{ label: 1 }] } });
    checkpoint::save(nn::vit_nepa(TINY), run::path("model"), #{});
    #{ top1: 64.5, best: #{ epoch: 3 }, note: "good" }
"#;

/// A folder with a finished run in runs/a.
pub fn finished() -> Folder {
    let folder = Folder::new();
    folder.run_with(&RECIPE.replace("TINY", TINY), &["--out", "runs/a", "--set", "lr=0.25"]).succeeds();
    folder
}

/// The environment in which Python has the stand-in for wandb.
fn environment(folder: &Folder) -> Vec<(&'static str, String)> {
    folder.write("fake/wandb/__init__.py", std::fs::read(repository("tests/it/common/wandb.py")).unwrap());
    vec![
        ("PYTHONPATH", folder.path("fake").display().to_string()),
        ("FAKE_CALLS", folder.path("calls.jsonl").display().to_string()),
        ("NEPA_PYTHON", "python3".into()),
        ("WANDB_PROJECT", String::new()),
    ]
}

fn start(folder: &Folder, args: &[&str], more: &[(&str, &str)]) -> Running {
    let environment = environment(folder);
    let all: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    folder.start(args, &[&all[..], more].concat())
}

fn sync(folder: &Folder, args: &[&str], more: &[(&str, &str)]) -> Said {
    let said = start(folder, &[&["sync", "runs/a", "--to", "wandb"], args].concat(), more).finish();
    assert!(!said.stderr.contains("Traceback"), "{said}");
    said
}

/// The calls of the stand-in since this was last asked.
fn calls(folder: &Folder) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.path("calls.jsonl")).unwrap_or_default();
    let _ = std::fs::remove_file(folder.path("calls.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn named<'a>(calls: &'a [Value], name: &str) -> Vec<&'a Value> {
    calls.iter().filter(|call| call[0] == name).collect()
}

/// What was logged of numbers, but for steps: (name, step, value) in the order of the calls.
fn numbers(calls: &[Value]) -> Vec<(String, i64, f64)> {
    let axes: BTreeMap<&str, &str> =
        named(calls, "define").iter().map(|call| (call[1].as_str().unwrap(), call[2].as_str().unwrap())).collect();
    let mut all = Vec::new();
    for call in named(calls, "log") {
        for (name, value) in call[2].as_object().unwrap() {
            if let (Some(axis), Some(value)) = (axes.get(name.as_str()), value.as_f64()) {
                all.push((name.clone(), call[2][axis].as_i64().unwrap(), value));
            }
        }
    }
    all
}

/// What a file of metrics holds, by its own reading: every number of a line with a phase and a step.
fn numbers_of(metrics: &str) -> Vec<(String, i64, f64)> {
    let mut all = Vec::new();
    for line in metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let (Some(phase), Some(step)) = (line["phase"].as_str(), line["step"].as_i64()) else { continue };
        for (name, value) in line.as_object().unwrap() {
            if name != "step" && value.is_number() {
                all.push((format!("{phase}/{name}"), step, value.as_f64().unwrap()));
            }
        }
    }
    all
}

#[test]
fn everything_of_a_run_arrives_once() {
    let folder = finished();
    sync(&folder, &["--model", "--name", "first"], &[]).succeeds().says(&[
        "runs/a: sending to wandb",
        "a client prints",
        "7 lines and 6 files sent; the run has finished",
    ]);
    let all = calls(&folder);
    let init = named(&all, "init");
    let [_, project, name, id, resume, config] = init[0].as_array().unwrap().as_slice() else { panic!("{init:?}") };
    assert_eq!((project, name, resume), (&json!("nepa"), &json!("first"), &json!("allow")));
    assert_eq!((&config["lr"], &config["seed"], &config["recipe"]), (&json!(0.25), &json!(0), &json!("recipe.rhai")));
    let expected = [
        ("train/loss", 10, 0.25),
        ("train/loss", 20, 0.125),
        ("train/loss", 30, 0.25 / 3.0),
        ("train/extra", 30, 7.0),
        ("alone", 1, 2.5),
        // Lines without a step are counted.
        ("knn/k", 1, 5.0),
        ("knn/top1", 1, 85.5),
        ("knn/k", 2, 7.0),
        ("knn/top1", 2, 87.5),
    ];
    assert_eq!(numbers(&all), expected.map(|(name, step, value)| (name.to_string(), step, value)));
    assert!(named(&all, "define").iter().any(|call| call[1] == "alone" && call[2] == "step"));
    // wandb drops a row whose number is not larger than the last one's.
    let rows: Vec<i64> = named(&all, "log").iter().map(|call| call[1].as_i64().unwrap()).collect();
    assert!(rows.is_sorted_by(|a, b| a < b), "{rows:?}");
    let media: BTreeMap<&String, &Value> = named(&all, "log")
        .into_iter()
        .flat_map(|call| call[2].as_object().unwrap())
        .filter(|(_, v)| v.is_array())
        .collect();
    let table =
        |columns: Value, rows: Value| json!(["Table", { "columns": columns, "data": rows, "allow_mixed_types": true }]);
    for (name, value) in [
        ("tables/scores", table(json!(["name", "score", "n"]), json!([["a", 0.25, 1], ["b", 1.5, 2]]))),
        ("tables/rows", table(json!(["name", "score"]), json!([["c", 3.5]]))),
        ("tables/evaluation/ema/per_class", table(json!(["label", "top1"]), json!([[0, 1.5], [1, null]]))),
        ("pictures/pic", json!(["Image", folder.path("runs/a/pic.png"), {}])),
        ("pictures/plots/loss", json!(["Html", folder.text("runs/a/plots/loss.svg"), { "inject": false }])),
    ] {
        assert_eq!(media.get(&name.to_string()), Some(&&value), "{name}");
    }
    assert_eq!(media.len(), 5, "{:?}", media.keys());
    let summary =
        json!({ "result/top1": 64.5, "result/best/epoch": 3, "result/note": "good", "evaluation/ema/top1": 64.5 });
    assert_eq!(named(&all, "summary"), [&json!(["summary", summary])]);
    let files: BTreeMap<String, usize> = folder
        .names("runs/a/model")
        .into_iter()
        .map(|name| (name.clone(), folder.read(&format!("runs/a/model/{name}")).len()))
        .collect();
    assert!(files.contains_key("model.safetensors"));
    assert_eq!(named(&all, "artifact"), [&json!(["artifact", files])]);
    assert_eq!(named(&all, "finish"), [&json!(["finish", 0])]);

    // Again: the same run, and nothing in it.
    sync(&folder, &["--model"], &[])
        .succeeds()
        .says(&["runs/a: going on sending", "nothing new; the run has finished"]);
    let again = calls(&folder);
    assert_eq!((&again[0][3], again.len()), (id, 2), "{again:?}");

    // A picture that has changed, and lines that have come.
    folder.write("runs/a/pic.png", folder.read("runs/a/plots/loss.svg"));
    let more =
        folder.text("runs/a/metrics.jsonl") + "{\"phase\": \"train\", \"step\": 40, \"loss\": 9}\n{\"phase\": \"tr";
    folder.write("runs/a/metrics.jsonl", more);
    sync(&folder, &[], &[]).succeeds().says(&["1 line and 1 file sent"]);
    let third = calls(&folder);
    assert_eq!(numbers(&third), [("train/loss".to_string(), 40, 9.0)]);
    assert!(named(&third, "log")[0][1].as_i64() > rows.last().copied(), "{third:?}");
    for (option, value) in [("--project", "other"), ("--name", "other")] {
        sync(&folder, &[option, value], &[]).fails(1).says(&[option, "was sent before with", "sync-wandb.json"]);
    }
    assert_eq!(folder.names("runs/a").iter().filter(|n| n.starts_with(".partial")).count(), 0);
}

#[test]
fn a_run_that_is_killed_and_resumed_goes_on_as_the_same() {
    let folder = Folder::new();
    folder.write(
        "recipe.rhai",
        format!(
            r#"import "std/pretrain" as pretrain;
            let images = data::synthetic(#{{ len: 8, size: 8, classes: 2 }});
            let stop = param("stop", false);
            pretrain::fit(nn::vit_nepa({TINY}), images, #{{
                epochs: 12, batch: 4, save_every: 10, log_every: 1, transforms: [transform::normalize(0.5, 0.5)],
                on_epoch: |model, ema, state| if stop && state.epoch == 7 {{ print("at 14"); sleep(600); }},
            }});
            run::log(#{{ phase: "end", top1: 1.0 }});"#
        ),
    );
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "runs/a", "--log", "wandb"];
    let first = start(&folder, &[&args[..], &["--set", "stop=true"]].concat(), &[]);
    first.wait_for("at 14");
    first.signal(libc::SIGKILL);
    first.killed();
    // The process beside it notices, sends the rest, and ends.
    let limit = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(folder.path("runs/a/sync.log")).unwrap_or_default().contains("the run was killed") {
        assert!(Instant::now() < limit, "{}", folder.text("runs/a/sync.log"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let before = calls(&folder);
    assert_eq!(numbers(&before), numbers_of(&folder.text("runs/a/metrics.jsonl")));
    assert_eq!(named(&before, "finish"), [&json!(["finish", 1])]);

    let second = start(&folder, &args, &[]).finish();
    second.succeeds().says(&["the run was sent to wandb"]);
    let after = calls(&folder);
    assert_eq!(named(&after, "init")[0][3], named(&before, "init")[0][3]);
    assert_eq!(named(&after, "finish"), [&json!(["finish", 0])]);
    // Steps 11 to 14 were logged again. Times differ between the attempts; steps do not.
    assert!(folder.path("runs/a/metrics.cut.jsonl").exists());
    let steps =
        |all: Vec<(String, i64, f64)>| -> Vec<(String, i64)> { all.into_iter().map(|(n, s, _)| (n, s)).collect() };
    let mut sent = steps(numbers(&before));
    sent.extend(steps(numbers(&after)));
    let mut whole = steps(numbers_of(&folder.text("runs/a/metrics.jsonl")));
    whole.push(("end/top1".into(), 1));
    assert_eq!(sent, whole);
    assert!(folder.text("runs/a/run.log").contains("the run was sent to wandb"));
}

#[test]
fn following_sends_what_comes_until_the_end_or_a_signal() {
    let folder = Folder::new();
    folder.write(
        "recipe.rhai",
        "for i in 0..400 { run::log(#{ phase: \"p\", step: i, x: i }); if i == 1 { print(\"two\"); } sleep(0.02); }",
    );
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out"];
    let one = start(&folder, &[&args[..], &["runs/a"]].concat(), &[]);
    let two = start(&folder, &[&args[..], &["runs/b"]].concat(), &[]);
    one.wait_for("two");
    two.wait_for("two");
    let follower = start(&folder, &["sync", "runs/a", "runs/b", "--to", "wandb", "--follow"], &[]);
    let seen = || std::fs::read_to_string(folder.path("calls.jsonl")).unwrap_or_default().matches("p/x\":").count();
    let limit = Instant::now() + Duration::from_secs(30);
    while seen() < 4 {
        assert!(Instant::now() < limit, "nothing was sent");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Nobody else may send it meanwhile.
    sync(&folder, &[], &[]).fails(1).says(&["runs/a is being sent to wandb by another process"]);
    one.signal(libc::SIGINT);
    one.finish().fails(130);
    two.signal(libc::SIGKILL);
    two.killed();
    let said = follower.finish();
    said.succeeds().says(&["runs/a: ", "the run was interrupted", "runs/b: ", "the run was killed"]);
    let count = |run: &str| folder.text(&format!("{run}/metrics.jsonl")).lines().count();
    assert_eq!(numbers(&calls(&folder)).len(), count("runs/a") + count("runs/b"));

    // Ctrl-C ends the one that follows, not the run.
    let one = start(&folder, &[&args[..], &["runs/c"]].concat(), &[]);
    one.wait_for("two");
    let follower = start(&folder, &["sync", "runs/c", "--to", "wandb", "--follow"], &[]);
    while seen() < 2 {
        assert!(Instant::now() < limit, "nothing was sent");
        std::thread::sleep(Duration::from_millis(50));
    }
    follower.signal(libc::SIGINT);
    follower.finish().fails(130).says(&["the run is running"]);
    assert_eq!(named(&calls(&folder), "finish").len(), 1);
    one.signal(libc::SIGINT);
    one.finish().fails(130);
}

#[test]
fn what_goes_wrong_is_told_with_what_helps_and_what_is_left_is_sent_later() {
    let folder = finished();
    let fault = |what: &'static str| [("FAKE_FAULT", what)];
    sync(&folder, &["--python", "pythno"], &[])
        .fails(1)
        .says(&["there is no program pythno", "--python or NEPA_PYTHON"]);
    // A Python without packages, and a folder that is none.
    folder.write("bare", "#!/bin/sh\nexec python3 -E -S \"$@\"\n");
    std::fs::set_permissions(folder.path("bare"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    folder.write("trackio/data", "");
    let trackio = ["sync", "runs/a", "--to", "trackio", "--python", "./bare"];
    start(&folder, &trackio, &[]).finish().fails(1).says(&["has no trackio", "-m pip install trackio"]);
    // A module of the folder in which nepa runs is not the user's.
    folder.write("trackio.py", "open('imported', 'w')");
    start(&folder, &trackio, &[]).finish().fails(1).says(&["has no trackio"]);
    assert!(!folder.path("imported").exists());
    sync(&folder, &[], &fault("login")).fails(1).says(&[
        "wandb: ValueError: api_key not configured",
        "wandb login",
        "offline",
    ]);
    sync(&folder, &["--python", "/bin/false"], &[]).fails(1).says(&["/bin/false ended unexpectedly (exit status: 1)"]);
    assert_eq!(calls(&folder), Vec::<Value>::new());

    // A server that goes away, and a client that dies.
    sync(&folder, &[], &fault("log:2")).fails(1).says(&["wandb: ConnectionError: the server is\n"]);
    sync(&folder, &[], &fault("exit:8")).fails(1).says(&["python3 ended unexpectedly (exit status: 3)"]);
    calls(&folder);
    sync(&folder, &[], &[]).succeeds();
    assert_eq!(numbers(&calls(&folder)), [], "the lines had been sent before");

    let nepa = |args: &[&str]| start(&folder, args, &[]).finish();
    nepa(&["sync", "runs", "--to", "wandb"]).fails(1).says(&["runs is not a run directory", "runs/a"]);
    nepa(&["sync", "runs/a", "--to", "wand"]).fails(2).says(&["wandb, mlflow, trackio, tensorboard"]);
    nepa(&["sync", "runs/a", "runs/a", "--to", "wandb", "--name", "x"]).fails(1).says(&["--name x: 2 runs are given"]);
    nepa(&["sync", "runs/a", "--to", "tensorboard", "--model"]).fails(1).says(&["TensorBoard keeps no models"]);
    sync(&folder, &["--model=modle"], &[]).fails(1).says(&["runs/a holds no model modle", "--model=model"]);
    folder.write("runs/a/metrics.jsonl", "nothing\n");
    sync(&folder, &[], &[]).fails(1).says(&["runs/a/metrics.jsonl, line 1: expected a JSON object"]);
}

#[test]
fn a_client_beside_a_run_does_not_change_it() {
    let folder = Folder::new();
    let run = |out: &str, more: &[&str], fault: &str| {
        folder.write("recipe.rhai", "for i in 0..5 { run::log(#{ phase: \"p\", step: i, x: randn([1]).item() }); }");
        let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", out];
        start(&folder, &[&args[..], more].concat(), &[("FAKE_FAULT", fault)]).finish()
    };
    run("alone", &[], "").succeeds();
    run("beside", &["--log", "wandb"], "").succeeds().says(&["the run was sent to wandb"]);
    run("failing", &["--log", "wandb"], "log:0").succeeds().says(&[
        "warning: not all of the run was sent to wandb: see failing/sync.log",
        "`nepa sync failing --to wandb` sends the rest",
    ]);
    assert!(folder.text("failing/sync.log").contains("ConnectionError"));
    outcome(&folder.path("alone")).assert_same(&folder.path("beside"));
    outcome(&folder.path("alone")).assert_same(&folder.path("failing"));
    // What can be known before the first step is told before it.
    folder.write("bare", "#!/bin/sh\nexec python3 -E -S \"$@\"\n");
    std::fs::set_permissions(folder.path("bare"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bare = [("NEPA_PYTHON", "./bare")];
    let said = start(&folder, &["run", "recipe.rhai", "--out", "none", "--log", "wandb,mlflow"], &bare).finish();
    said.fails(1).says(&["has no wandb", "-m pip install wandb"]);
    assert!(!folder.path("none").exists());
}

#[test]
fn of_a_strangers_run_nothing_from_elsewhere_is_sent() {
    let folder = finished();
    folder.write("secret.png", "secret");
    folder.write("secrets/secret.csv", "a\nsecret\n");
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.path(name)).unwrap();
    link("../../secret.png", "runs/a/link.png");
    link("../../secrets", "runs/a/folder");
    sync(&folder, &[], &[]).succeeds().says(&["link.png is not sent: ", "leads out of the run directory"]);
    let text = json!(calls(&folder)).to_string();
    assert!(text.contains("pic.png") && !text.contains("secret") && !text.contains("link"), "{text}");
    // A model with a file from elsewhere, and places that are the client's to choose.
    link("../../../secret.png", "runs/a/model/more");
    sync(&folder, &["--model"], &[]).fails(1).says(&["runs/a/model/more is a link that leads out"]);
    for id in ["../x", "", ".hidden", "a\\b"] {
        folder.write("runs/a/sync-wandb.json", json!({ "id": id }).to_string());
        sync(&folder, &[], &[]).fails(1).says(&["sync-wandb.json: `id` is none of wandb's"]);
    }
    std::fs::remove_file(folder.path("runs/a/sync-wandb.json")).unwrap();
    link("../../state", "runs/a/sync-wandb.json");
    sync(&folder, &[], &[]).fails(1).says(&["sync-wandb.json is a link that leads nowhere"]);
    std::fs::remove_file(folder.path("runs/a/sync-wandb.json")).unwrap();
    std::fs::remove_file(folder.path("runs/a/metrics.jsonl")).unwrap();
    link("../../secret.png", "runs/a/metrics.jsonl");
    sync(&folder, &[], &[]).fails(1).says(&["metrics.jsonl is a link that leads out"]);
}

#[test]
fn what_the_machine_does_is_sent_by_seconds() {
    let folder = finished();
    folder.write(
        "runs/a/system.jsonl",
        "{\"time\": 1000, \"cpu_percent\": 5.5}\n{\"ti\n{\"time\": 1015, \"cpu_percent\": 6.5, \"gpu0_power_watts\": 300}\n",
    );
    folder.write("runs/a/system-8.jsonl", "{\"time\": 1004, \"cpu_percent\": 1}\n");
    sync(&folder, &[], &[]).succeeds();
    let all = calls(&folder);
    let of_machine: Vec<_> = numbers(&all).into_iter().filter(|(name, ..)| name.starts_with("system")).collect();
    let expected = [
        ("system-8/cpu_percent", 0, 1.0),
        ("system/cpu_percent", 0, 5.5),
        ("system/cpu_percent", 15, 6.5),
        ("system/gpu0_power_watts", 15, 300.0),
    ];
    assert_eq!(of_machine, expected.map(|(name, step, value)| (name.to_string(), step, value)));
    assert!(named(&all, "log").iter().any(|call| call[2]["_timestamp"] == json!(1015.0)));
    folder.write("runs/a/system.jsonl", folder.text("runs/a/system.jsonl") + "{\"time\": 1030, \"cpu_percent\": 7}\n");
    sync(&folder, &[], &[]).succeeds().says(&["1 line sent"]);
    assert_eq!(numbers(&calls(&folder)), [("system/cpu_percent".to_string(), 30, 7.0)]);
}

/// The Python of the tests, if it has all of these modules.
pub fn python_with(modules: &[&str]) -> Option<String> {
    let python = std::env::var("NEPA_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let find = "import importlib.util, sys; sys.exit(any(not importlib.util.find_spec(m) for m in sys.argv[1:]))";
    let found = Command::new(&python).args(["-c", find]).args(modules).output();
    found.is_ok_and(|output| output.status.success()).then_some(python)
}
