//! Runs that are killed at random moments and resumed until they end: they end as the undisturbed one.

use crate::common::{Folder, Outcome, Running, assert_checkpoints_whole, outcome};
use crate::{Progress, Row, Soak, panics};
use rand::Rng;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Kills of each case.
const KILLS: usize = 250;
/// A run that was killed so often and has not ended comes to no end.
const TOO_OFTEN: usize = 100;

struct Case {
    name: &'static str,
    recipe: &'static str,
    processes: &'static str,
}

/// What all recipes begin with.
const BEGIN: &str = r#"
import "std/pretrain" as pretrain;
import "std/finetune" as finetune;
import "std/evaluate" as evaluate;
let of = |number, seed| data::synthetic(#{ len: number, size: 8, classes: 2, seed: seed });
let images = of.call(48, 1);
let model = nn::vit_nepa(#{
    image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 2, num_attention_heads: 2,
    intermediate_size: 16, drop_path_prob: 0.2, pos_embed_rescale: 2.0,
});
let often = #{ batch: 8, log_every: 1, save_every: 5, transforms: [transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)] };
"#;

const CASES: [Case; 4] = [
    Case {
        name: "pretraining",
        recipe: "pretrain::fit(model, images, often + #{ epochs: 25 });\ncheckpoint::save(model, run::path(\"model\"));",
        processes: "1",
    },
    Case {
        name: "fine-tuning",
        recipe: "pretrain::fit(model, images, often + #{ epochs: 3 });\n\
                 let classifier = finetune::classifier(model, 2, #{});\n\
                 finetune::fit(classifier, images, often + #{ epochs: 15, evaluate: #{ images: of.call(100, 2), best: \"best\" } });\n\
                 checkpoint::save(classifier, run::path(\"model\"));",
        processes: "1",
    },
    Case {
        name: "evaluation",
        recipe: "let classifier = finetune::classifier(model, 2, #{});\n\
                 finetune::fit(classifier, images, often + #{ epochs: 3 });\n\
                 let found = evaluate::classify(classifier, of.call(4000, 2), #{ batch: 16, predictions: run::path(\"predictions.csv\") });\n\
                 run::log(#{ top1: found.top1, loss: found.loss });\n\
                 checkpoint::save(classifier, run::path(\"model\"));",
        processes: "1",
    },
    Case {
        name: "two processes",
        recipe: "pretrain::fit(model, images, often + #{ epochs: 25 });\ncheckpoint::save(model, run::path(\"model\"));",
        processes: "2",
    },
];

pub fn soak(soak: &Soak) -> Vec<Row> {
    CASES.iter().filter(|case| soak.wants(&what(case))).map(|case| of_case(soak, case)).collect()
}

fn what(case: &Case) -> String {
    format!("kills: {}", case.name)
}

fn of_case(soak: &Soak, case: &Case) -> Row {
    let what = what(case);
    let (folder, started) = (folder(case), Instant::now());
    start(&folder, case).finish().succeeds();
    let (whole, took) = (compared(outcome(&folder.path("o")), case), started.elapsed());

    let wanted = soak.scaled(KILLS);
    let progress = Mutex::new(Progress::new(&what, wanted));
    let next = Mutex::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while progress.lock().unwrap().done < wanted {
            let number = {
                let mut next = next.lock().unwrap();
                *next += 1;
                *next
            };
            let mut kills = 0;
            let failure = panics(|| killed_and_resumed(soak, case, number, took, &whole, &mut kills));
            progress.lock().unwrap().step(kills);
            if let Some(words) = failure {
                eprintln!("{what}: run {number}: FAILED: {words}");
                failures.lock().unwrap().push(format!("run {number}, killed {kills} times: {words}"));
            }
        }
    };
    std::thread::scope(|scope| {
        // Two processes have work for two cores.
        for _ in 0..if case.processes == "1" { soak.jobs } else { soak.jobs.div_ceil(2) } {
            scope.spawn(work);
        }
    });
    let points = progress.into_inner().unwrap().done;
    let note = format!("in {} runs", next.into_inner().unwrap());
    Row { what, points, failures: failures.into_inner().unwrap(), note }
}

/// Kills a run at random moments until it has ended by itself, and compares it with the undisturbed one.
fn killed_and_resumed(soak: &Soak, case: &Case, number: usize, took: Duration, whole: &Outcome, kills: &mut usize) {
    let mut random = soak.random(case.name, number);
    let folder = folder(case);
    loop {
        let mut running = start(&folder, case);
        let moment = Instant::now() + took.mul_f64(random.random_range(0.02..1.1));
        if running.ended_before(moment) {
            running.finish().succeeds();
            break;
        }
        let processes = processes_in(&folder.path(""));
        let victim = processes.get(random.random_range(0..processes.len().max(1)));
        // SAFETY: a plain system call on a process that lives in the test's own folder.
        victim.map(|pid| unsafe { libc::kill(*pid, libc::SIGKILL) });
        *kills += 1;
        running.killed();
        let until = Instant::now() + Duration::from_secs(60);
        while !processes_in(&folder.path("")).is_empty() {
            assert!(Instant::now() < until, "processes are left 60 s after one was killed");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_checkpoints_whole(&folder.path("o"));
        assert!(*kills < TOO_OFTEN, "comes to no end");
    }
    whole.assert_equals(&compared(outcome(&folder.path("o")), case));
}

/// What must be the same however often the run was killed. Where one of several processes is killed, the others save
/// wherever they are, and older checkpoints go: then the last one of each loop counts.
fn compared(Outcome(mut files): Outcome, case: &Case) -> Outcome {
    if case.processes == "1" {
        return Outcome(files);
    }
    let folder = |name: &str| name.split('/').take(3).collect::<Vec<_>>().join("/");
    let of_loop = |folder: &str| folder.rsplit_once('/').map(|(of, _)| of.to_string());
    let all: Vec<String> =
        files.keys().filter(|name| name.starts_with("checkpoints/")).map(|name| folder(name)).collect();
    let is_last = |one: &str| all.iter().all(|other| of_loop(other) != of_loop(one) || other.as_str() <= one);
    files.retain(|name, _| !name.starts_with("checkpoints/") || is_last(&folder(name)));
    Outcome(files)
}

fn folder(case: &Case) -> Folder {
    let folder = Folder::new();
    folder.write("recipe.rhai", format!("{BEGIN}{}", case.recipe));
    folder
}

fn start(folder: &Folder, case: &Case) -> Running {
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "o"];
    let more = ["--nproc", case.processes, "--dist-timeout", "60"];
    let args = if case.processes == "1" { args.to_vec() } else { [&args[..], &more].concat() };
    folder.start(&args, &[])
}

/// The processes whose current folder is this one.
fn processes_in(folder: &Path) -> Vec<i32> {
    let folder = folder.canonicalize().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)).collect()
}
