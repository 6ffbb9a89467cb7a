//! `nepa sweep`: a run for every combination, resumed and extended, failures apart, and results against numbers
//! computed by hand.

use crate::common::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Results that follow from parameters and seed alone: top1 = 50 + 10 lr + noise.
const PLAIN: &str = r#"
    let lr = param("lr", 0.1, "learning rate");
    let model = param("model", "small", "a text");
    let sizes = param("sizes", [1, 2], "a list");
    let fast = param("fast", true, "a truth value");
    let noise = [0.0, 0.5, 0.1][seed()];
    for step in 1..=5 { run::log(#{ phase: "train", step: step, loss: lr + noise / step, val_loss: 1.0 }); }
    if lr > 0.5 { throw "diverged at once"; }
    run::log(#{ my_score: noise });
    #{ top1: 50.0 + 10.0 * lr + noise, ema: #{ top1: noise } }
"#;

fn sweep(folder: &Folder, args: &[&str]) -> Said {
    folder.nepa(&[&["sweep", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "s"], args].concat())
}

/// The rows of a CSV file, by the names of its columns.
fn rows(folder: &Folder, name: &str) -> Vec<std::collections::HashMap<String, String>> {
    let text = folder.text(name);
    let cells = |line: &str| line.split(',').map(String::from).collect::<Vec<_>>();
    // Of what is in quotes, commas are none.
    let plain = |line: &str| {
        let parts = line.split('"').enumerate();
        parts.map(|(i, part)| if i % 2 == 1 { part.replace(',', ";") } else { part.to_string() }).collect::<String>()
    };
    let mut lines = text.lines().map(plain);
    let header = cells(&lines.next().unwrap());
    lines.map(|line| header.iter().cloned().zip(cells(&line)).collect()).collect()
}

#[test]
fn every_combination_runs_once_and_a_failure_stops_no_other() {
    let folder = Folder::on_cpu(); // which it names
    folder.write("recipe.rhai", PLAIN);
    let lists = ["--set", "lr=[0.1, 2e-1]", "--set", "seed=0..3", "--set", "model=small"];
    let said = sweep(&folder, &[&lists[..], &["--jobs", "2"]].concat());
    said.succeeds().says(&["s: 6 runs of recipe.rhai: 6 to start", "2 runs at a time", "it is the --seed of each run"]);
    let names = ["lr=0.1,seed=0", "lr=0.1,seed=1", "lr=0.1,seed=2", "lr=0.2,seed=0", "lr=0.2,seed=1", "lr=0.2,seed=2"];
    let folders: Vec<String> = folder.names("s").into_iter().filter(|name| name.contains('=')).collect();
    assert_eq!(folders, names);
    // Noise of 0, 0.5 and 0.1: mean 0.2, deviation sqrt((0.04 + 0.09 + 0.01) / 2) = 0.2646.
    said.prints(&[
        "lr   runs  top1",
        "0.1  3     51.20 ± 0.26",
        "0.2  3     52.20 ± 0.26",
        "<- best",
        "best: top1, highest",
    ]);
    said.prints(&["mean ± standard deviation (n - 1) over seed", "s/sweep.csv"]);
    let found = rows(&folder, "s/sweep.csv");
    assert_eq!(found.iter().map(|row| row["run"].replace(';', ",")).collect::<Vec<_>>(), names);
    for row in &found {
        let [lr, seed, top1] = ["lr", "seed", "top1"].map(|name| row[name].parse::<f64>().unwrap());
        let noise = [0.0, 0.5, 0.1][seed as usize];
        assert_close(&[top1, row["loss"].parse().unwrap()], &[50.0 + 10.0 * lr + noise, lr + noise / 5.0], 1e-12);
        assert_eq!((&*row["state"], &*row["model"], &*row["my_score"]), ("finished", "small", &*noise.to_string()));
    }
    let about = folder.json("s/lr=0.2,seed=1/run.json");
    assert_eq!((&about["params"]["lr"], &about["seed"]), (&json!(0.2), &json!(1)));
    assert_eq!(about["result"], json!({ "top1": 52.5, "ema": { "top1": 0.5 } }));
    let plan = folder.json("s/sweep.json");
    assert_eq!(plan["values"], json!({ "lr": [0.1, 0.2], "seed": [0, 1, 2], "model": ["small"] }));
    assert_eq!(plan["runs"][5], json!({ "name": names[5], "params": { "lr": 0.2, "seed": 2, "model": "small" } }));

    // The same again starts nothing.
    let before = folder.read("s/lr=0.1,seed=0/run.json");
    sweep(&folder, &lists).succeeds().says(&["6 runs of recipe.rhai: 6 finished before"]).prints(&["51.20 ± 0.26"]);
    folder.nepa(&["sweep", "--resume", "s"]).succeeds().says(&["6 finished before"]);
    // One value more adds one run, which fails.
    let said = sweep(&folder, &["--set", "lr=[0.1,0.9]", "--set", "seed=[0]"]);
    said.fails(1).says(&["2 runs of recipe.rhai: 1 to start, 1 finished before", "the sweep has 5 more"]);
    said.says(&["1 of 2 runs failed:", "lr=0.9,seed=0: diverged at once", "1 of 2 runs have not finished"]);
    let again =
        "nepa run recipe.rhai --set lr=0.9 --set model=small --seed 0 --device cpu --threads 1 --out s/lr=0.9,seed=0";
    said.says(&[again, "nepa sweep --resume s"]).prints(&["0.9  0 of 1  -", "0.1  3       51.20 ± 0.26"]);
    assert_eq!(folder.read("s/lr=0.1,seed=0/run.json"), before);
    let words: Vec<&str> = again.split_whitespace().skip(1).collect();
    folder.nepa(&words).fails(1).says(&["diverged at once"]);
    let failed = rows(&folder, "s/sweep.csv").pop().unwrap();
    assert_eq!((&*failed["state"], &*failed["error"], &*failed["top1"]), ("failed", "diverged at once", ""));
    reports(&folder);
}

/// The page of that sweep.
fn reports(folder: &Folder) {
    folder.nepa(&["report", "s"]).succeeds().prints(&["s/report.html"]);
    let page = folder.text("s/report.html");
    for piece in [
        "7 runs: <strong>6 finished, 1 failed</strong>",
        "51.20 ± 0.26",
        "Bold: the best, top1, highest",
        "<h2>Failures</h2>",
        "diverged at once",
        "top1 by lr",
        "one standard deviation to either side",
        "href=\"lr=0.1,seed=0/report.html\"",
        "lr=0.2",
    ] {
        assert!(page.contains(piece), "the page should hold `{piece}`");
    }
    // Loss of both kinds in one panel, in which the band of three seeds is an area.
    assert_eq!(page.matches("<svg width").count(), 1, "one panel");
    assert_eq!(page.matches("<polygon").count(), 4, "bands of two settings, for the loss of two parts");
    assert!(!page.contains("<script") && page.len() < 200_000, "{}", page.len());
    assert!(folder.text("s/lr=0.1,seed=0/report.html").contains("<h2>Result</h2>"));
    folder.nepa(&["report", "s", "--metric", "ema/top1:min", "--out", "elsewhere.html"]).succeeds();
    let page = folder.text("elsewhere.html");
    let root = folder.path("s").canonicalize().unwrap().display().to_string();
    assert!(page.contains("ema/top1, lowest") && page.contains(&format!("href=\"{root}/lr=0.1,seed=0/report.html")));
    folder.nepa(&["report", "s", "--metric", "topp1"]).fails(1).says(&["did you mean `top1`?", "my_score"]);
    folder.nepa(&["sweep", "--table", "s", "--metric", "loss"]).succeeds().prints(&["best: loss, lowest", "0.9"]);
    let runs = ["s/lr=0.1,seed=0", "s/lr=0.2,seed=0"];
    folder.nepa(&[&["plot", "--out", "two.svg"], &runs[..]].concat()).succeeds();
    let svg = folder.text("two.svg");
    assert!(svg.contains("lr=0.1: ") && svg.contains("lr=0.2: "), "{svg}");
}

#[test]
fn seeds_that_are_added_later_count_the_runs_there_are() {
    let folder = Folder::new();
    folder.write("recipe.rhai", PLAIN);
    let lists = ["--set", "lr=[0.1,0.2]"];
    sweep(&folder, &lists).succeeds().says(&["2 runs of recipe.rhai: 2 to start"]);
    // The runs so far have the seed 0.
    let said = sweep(&folder, &[&lists[..], &["--set", "seed=0..3"]].concat());
    said.succeeds().says(&["6 runs of recipe.rhai: 4 to start, 2 finished before"]);
    said.prints(&["0.1  3     51.20 ± 0.26", "0.2  3     52.20 ± 0.26"]);
    let plan = folder.json("s/sweep.json");
    assert_eq!(plan["runs"][0], json!({ "name": "lr=0.1", "params": { "lr": 0.1, "seed": 0 } }));
    // Another seed for new runs alone would not be seen in the table.
    for args in [&["recipe.rhai", "--set", "lr=[0.3]", "--out", "s"][..], &["--resume", "s"]] {
        let said = folder.nepa(&[&["sweep", "--seed", "2"], args].concat());
        said.fails(1).says(&["this sweep has --seed 0, now it is 2", "--out, or try both: --set seed=[0,2]"]);
    }
    assert_eq!(folder.json("s/sweep.json"), plan);
}

/// As from another folder.
#[test]
fn a_sweep_that_goes_on_runs_the_recipe_of_the_path_that_is_given() {
    let folder = Folder::new();
    folder.write("recipe.rhai", PLAIN);
    sweep(&folder, &["--set", "lr=[0.1]"]).succeeds();
    std::fs::remove_file(folder.path("recipe.rhai")).unwrap();
    folder.write("moved/recipe.rhai", PLAIN);
    let said = folder.nepa(&["sweep", "moved/recipe.rhai", "--set", "lr=[0.1,0.2,0.9]", "--out", "s"]);
    said.fails(1).says(&["3 runs of moved/recipe.rhai: 2 to start, 1 finished before", "1 of 3 runs failed:"]);
    said.says(&["to try it again: nepa run moved/recipe.rhai --set lr=0.9"]);
    assert_eq!(folder.json("s/sweep.json")["recipe"], "moved/recipe.rhai");
    assert_eq!(folder.json("s/lr=0.2/run.json")["recipe"], "moved/recipe.rhai");
    folder.nepa(&["sweep", "--resume", "s"]).fails(1).says(&["1 to resume, 2 finished before", "diverged at once"]);
}

#[test]
fn commands_to_go_on_have_the_options_of_the_one_before() {
    let folder = Folder::on_cpu(); // which they name
    folder.write("recipe.rhai", PLAIN);
    let lists = ["--set", "lr=[0.9]"];
    sweep(&folder, &lists).fails(1).says(&["to go on: nepa sweep --resume s\n"]);
    folder.write("recipe.rhai", PLAIN.replace("diverged at once", "diverged again"));
    let said = sweep(&folder, &[&lists[..], &["--allow-change", "recipe,a b", "--metric", "val_loss:max"]].concat());
    said.fails(1).says(&[
        "to try it again: nepa run recipe.rhai --set lr=0.9 --device cpu --threads 1 --allow-change recipe \
         --allow-change 'a b' --out s/lr=0.9",
        "to go on: nepa sweep --resume s --allow-change recipe --allow-change 'a b' --metric val_loss:max\n",
    ]);
}

#[test]
fn values_have_the_types_of_the_recipe() {
    let folder = Folder::new();
    folder.write("recipe.rhai", PLAIN);
    let lists = ["--set", "sizes=[[1, 2], \"[3]\"]", "--set", "fast=false", "--set", "model=[\"a,b/c\"]"];
    sweep(&folder, &[&lists[..], &["--seed", "2"]].concat()).succeeds().prints(&["last values of the finished runs"]);
    let plan = folder.json("s/sweep.json");
    let params = |i: usize| {
        let about = folder.json(&format!("s/{}/run.json", plan["runs"][i]["name"].as_str().unwrap()));
        (about["params"].clone(), about["seed"].clone())
    };
    let expected = |sizes: Value| (json!({ "lr": 0.1, "model": "a,b/c", "sizes": sizes, "fast": false }), json!(2));
    assert_eq!((params(0), params(1)), (expected(json!([1, 2])), expected(json!([3]))));
    assert_eq!(folder.names("s").iter().filter(|name| name.starts_with("sizes=")).count(), 2);
}

/// Means of fewer runs than have finished say so; a setting that is not complete or finite is not the best.
#[test]
fn results_that_not_every_run_has_are_counted() {
    let folder = Folder::new();
    folder.write(
        "recipe.rhai",
        r#"
        let lr = param("lr", 0.1, "learning rate");
        let seed = param("seed", 0, "seed");
        if lr == 0.4 { #{ top1: if seed == 0 { 1.0 / 0.0 } else { 90.0 } } }
        else if lr == 0.3 && seed == 1 { #{ other: 1 } }
        else { #{ top1: 100.0 * lr, other: 2 } }
        "#,
    );
    let said = sweep(&folder, &["--set", "lr=[0.1,0.2,0.3,0.4]", "--set", "seed=0..2", "--jobs", "2"]);
    said.succeeds();
    let row = |lr: &str| said.stdout.lines().find(|line| line.starts_with(lr)).unwrap_or_default().to_string();
    assert!(row("0.3").contains("30 (1 of 2)") && !row("0.3").contains("best"), "{said}");
    assert!(row("0.4").contains("inf") && !row("0.4").contains("best"), "{said}");
    assert!(row("0.2").contains("20 ± 0") && row("0.2").ends_with("<- best"), "{said}");
    folder.nepa(&["report", "s"]).succeeds();
    assert!(folder.text("s/report.html").contains("30 (1 of 2)"));
    let open = folder.nepa(&["sweep", "recipe.rhai", "--set", "lr=[0.1,0.2", "--out", "t"]);
    open.fails(1).says(&["a bracket of the list is not closed"]);
}

/// Lines of one phase about several things are several results.
#[test]
fn lines_about_different_things_are_told_apart() {
    let folder = Folder::new();
    folder.write(
        "recipe.rhai",
        r#"
        let lr = param("lr", 0.1, "learning rate");
        for block in [3, 6] { run::log(#{ phase: "probe", block: block, top1: lr * block }); }
        run::log(#{ phase: "evaluate", row: "fine-tuned, scratch", top1: lr });
        run::log(#{ phase: "evaluate", row: "fine-tuned, nepa", top1: 2 * lr });
        for step in 0..3 { run::log(#{ phase: "train", step: step, loss: lr, note: "as ever" }); }
        "#,
    );
    sweep(&folder, &["--set", "lr=[0.5,1.0]"]).succeeds();
    let row = &rows(&folder, "s/sweep.csv")[1];
    for (name, value) in [
        ("probe/3/top1", "3"),
        ("probe/6/top1", "6"),
        ("evaluate/fine-tuned; scratch/top1", "1"),
        ("evaluate/fine-tuned; nepa/top1", "2"),
        ("loss", "1"),
    ] {
        assert_eq!(row.get(name).map(String::as_str), Some(value), "{name}: {row:?}");
    }
}

/// A loop that saves checkpoints, and goes on for long enough to be interrupted.
fn training(folder: &Folder) {
    let script = format!(
        r#"import "std/pretrain" as pretrain;
        let lr = param("lr", 0.001, "learning rate");
        let images = data::synthetic(#{{ len: 8, size: 8, classes: 2 }});
        let slowly = |batch| {{ sleep(0.02); batch }};
        let o = #{{ steps: 100, batch: 4, lr: lr, log_every: 1, save_every: 1000, transforms: [transform::normalize(0.5, 0.5), slowly] }};
        let result = pretrain::fit(nn::vit_nepa({TINY}), images, o);
        #{{ loss: result.loss }}"#
    );
    folder.write("recipe.rhai", script);
}

/// Waits until each run has logged a line.
fn wait_for_steps(folder: &Folder, runs: &[&str]) {
    let started = Instant::now();
    let has_steps = |run: &&str| {
        std::fs::read_to_string(folder.path(&format!("{run}/metrics.jsonl")))
            .is_ok_and(|text| text.contains("\"step\""))
    };
    while !runs.iter().all(has_steps) {
        assert!(started.elapsed() < Duration::from_secs(60), "no run came to a step");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_was() {
    let folder = Folder::new();
    training(&folder);
    let lists = ["sweep", "recipe.rhai", "--set", "lr=[1e-3,3e-3]", "--device", "cpu", "--out", "s", "--jobs", "2"];
    let runs = ["s/lr=0.001", "s/lr=0.003"];
    let running = folder.start(&lists, &[]);
    wait_for_steps(&folder, &runs);
    running.signal(libc::SIGTERM);
    let said = running.finish();
    said.fails(143).says(&["stopping: the runs save a checkpoint", "2 of 2 runs have not finished"]);
    said.says(&["to go on: nepa sweep --resume s --jobs 2"]);
    for run in runs {
        assert_eq!(folder.json(&format!("{run}/run.json"))["state"], "interrupted");
        assert_checkpoints_whole(&folder.path(run));
    }
    // The sweep is killed: its runs save and end by themselves.
    let running = folder.start(&["sweep", "--resume", "s", "--jobs", "2"], &[]);
    let began = Instant::now();
    while !runs.iter().all(|run| folder.json(&format!("{run}/run.json"))["state"] == "running") {
        assert!(began.elapsed() < Duration::from_secs(60), "the runs were not resumed");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.signal(libc::SIGKILL);
    running.killed();
    folder.nepa(&["sweep", "--table", "s"]).succeeds();
    let free = || runs.iter().all(|run| folder.json(&format!("{run}/run.json"))["state"] != "running");
    while !free() {
        assert!(began.elapsed() < Duration::from_secs(60), "the runs did not end with their sweep");
        std::thread::sleep(Duration::from_millis(5));
    }
    // A single run is resumed as any run; the sweep resumes the other.
    folder.nepa(&["run", "recipe.rhai", "--resume", runs[1], "--device", "cpu", "--threads", "1"]).succeeds();
    let said = folder.nepa(&lists);
    said.succeeds().says(&["2 runs of recipe.rhai: 1 to resume, 1 finished before"]).prints(&["best: loss, lowest"]);
    for run in runs {
        let lines = folder.text(&format!("{run}/metrics.jsonl"));
        let steps: Vec<i64> =
            lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].as_i64().unwrap()).collect();
        assert_eq!(steps, (1..=100).collect::<Vec<_>>(), "{run}");
        let about = folder.json(&format!("{run}/run.json"));
        assert_eq!(about["settings"]["pretrain"]["batch"], 4);
        assert_eq!(about["settings"]["pretrain"]["model"]["hidden_size"], 8);
        assert!(about["models"]["pretrain"]["parameters"].as_u64().unwrap() > 500, "{about}");
    }
    // The recipe has changed: new runs could not be compared with the old ones.
    folder.write("recipe.rhai", folder.text("recipe.rhai").replace("steps: 100", "steps: 3"));
    let more = [&lists[..], &["--set", "x=1"]].concat();
    folder.nepa(&more).fails(1).says(&["the recipe has no parameter `x`"]);
    folder.nepa(&lists).fails(1).says(&["recipe.rhai has changed since the runs in s", "--allow-change recipe"]);
}

#[test]
fn bad_input_starts_nothing() {
    let folder = Folder::new();
    folder.write("recipe.rhai", PLAIN);
    folder.write("other.rhai", PLAIN);
    folder.write("full/file", "");
    folder.write("run/run.json", "{}");
    for (args, pieces) in [
        (&["--set", "lrr=[1,2]"][..], &["no parameter `lrr`", "did you mean `lr`?", "it declares: lr, model"][..]),
        (&["--set", "lr=[0.1,big]"], &["--set lr=big: expected a number, found \"big\""]),
        (&["--set", "lr=[0.1,,0.2]"], &["an element of the list is empty"]),
        (&["--set", "lr=[\"0.1,0.2]"], &["a quote or bracket in the list is not closed"]),
        (&["--set", "fast=[true,no]"], &["expected true or false, found \"no\""]),
        (&["--set", "seed=3..3"], &["the range 3..3 is empty", "0..=3"]),
        (&["--set", "seed=0..1000000"], &["is too long"]),
        (&["--set", "seed=[a]"], &["expected whole numbers from 0 on, found \"a\""]),
        (&["--set", "lr=0.1", "--set", "lr=0.2"], &["--set lr is given twice", "lr=[A,B]"]),
        (&["--set", "seed=0..3", "--seed", "1"], &["--seed 1 and --set seed both give the seed"]),
        (&["--set", "seed=0..2000", "--set", "lr=0..2000"], &["2000 x 2000 = 4000000 runs"]),
        (&["--set", "lr=[1]", "--out", "full"], &["full is not empty and holds no sweep"]),
        (&["--set", "lr=[1]", "--out", "run"], &["run holds a run, not a sweep"]),
        (&["--set", "lr=[1]", "--device", "gpu"], &["unknown device `gpu`"]),
    ] {
        let defaults = if args.contains(&"--out") { vec![] } else { vec!["--out", "s"] };
        folder.nepa(&[&["sweep", "recipe.rhai"], args, &defaults[..]].concat()).fails(1).says(pieces);
    }
    folder.nepa(&["sweep"]).fails(2).says(&["RECIPE"]);
    folder.nepa(&["sweep", "none.rhai", "--set", "a=1"]).fails(1).says(&["none.rhai"]);
    folder.nepa(&["sweep", "recipe.rhai", "--lr", "[1,2]"]).fails(2).says(&["is given as --set lr=[1,2]"]);
    folder.nepa(&["sweep", "--resume", "full"]).fails(1).says(&["full holds no sweep (no sweep.json)"]);
    assert!(!folder.path("s").exists() && !folder.path("sweeps").exists(), "{:?}", folder.names(""));

    let plan =
        |name: &str| json!({ "recipe": "recipe.rhai", "runs": [{ "name": name, "params": { "model": "small" } }] });
    folder.write("s/sweep.json", plan("a").to_string());
    for (args, pieces) in [
        (&["recipe.rhai", "--set", "model=base"][..], &["have model=small, now it is base", "model=[small,base]"][..]),
        (&["other.rhai", "--set", "model=small"], &["s holds a sweep of recipe.rhai, not of other.rhai"]),
    ] {
        folder.nepa(&[&["sweep", "--out", "s"], args].concat()).fails(1).says(pieces);
    }
    // A stranger's description names folders of its own alone.
    for name in ["../run", "", ".", "a/b"] {
        folder.write("s/sweep.json", plan(name).to_string());
        folder.nepa(&["sweep", "--table", "s"]).fails(1).says(&["is no name of a run's folder"]);
        folder.nepa(&["report", "s"]).fails(1).says(&["is no name of a run's folder"]);
    }
    std::os::unix::fs::symlink("../run", folder.path("s/link")).unwrap();
    folder.write("s/sweep.json", plan("link").to_string());
    folder.nepa(&["sweep", "--resume", "s"]).fails(1).says(&["leads out of the run directory"]);
}
