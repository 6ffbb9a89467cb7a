//! Signals as launchers, schedulers, terminals and people send them: several at once, too early, or again.

use crate::common::{Folder, Running, fashion, outcome};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Trains for ever; says so when a checkpoint can be asked for.
const TRAINING: &str = r#"
import "std/pretrain" as pretrain;
let images = data::idx(param("data", ()), "test").take(64);
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
});
if param("fails", false) { throw "not yet"; }
pretrain::fit(model, images, #{
    steps: 100000, batch: 32, save_every: 0, on_epoch: |m, e, s| if s.epoch == 1 { print("running"); },
});
"#;

fn training(folder: &Folder, more: &[&str]) -> Running {
    folder.write("recipe.rhai", TRAINING);
    let data = format!("data={}", fashion());
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "out", "--set", &data];
    folder.start(&[&args[..], more].concat(), &[])
}

fn send(pid: i32, signal: i32) {
    // SAFETY: a plain system call.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn one_that_reaches_launcher_and_ranks_alike_saves_once() {
    let folder = Folder::new();
    let launcher = training(&folder, &["--nproc", "2", "--dist-timeout", "60"]);
    // A checkpoint asked for too early does not end a rank.
    let until = Instant::now() + Duration::from_secs(30);
    let mut asked = 0;
    while asked < 200 && Instant::now() < until {
        for rank in launcher.ranks() {
            send(rank, libc::SIGUSR1);
            asked += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    launcher.wait_for("running");
    // As systemd, Slurm and pkill do.
    for pid in [launcher.id() as i32].into_iter().chain(launcher.ranks()) {
        send(pid, libc::SIGTERM);
    }
    let said = launcher.finish();
    said.fails(143).says(&["pretrain: saved at step", "interrupted; what was saved is in out"]);
    assert!(!said.stderr.contains("processes failed"), "{said}");
    assert_eq!(folder.json("out/run.json")["state"], "interrupted");
    // To go on in the same way.
    assert!(said.stderr.trim_end().ends_with("--nproc 2 --dist-timeout 60"), "{said}");
}

#[test]
fn a_closed_terminal_saves_unless_the_run_was_started_by_nohup() {
    let folder = Folder::on_cpu(); // which it names
    std::fs::create_dir(folder.path("lib")).unwrap();
    let run = training(&folder, &["--stdlib", "lib"]);
    run.wait_for("running").signal(libc::SIGHUP);
    let said = run.finish();
    said.fails(129).says(&["pretrain: saved at step", "nepa run recipe.rhai --resume out --stdlib lib --device cpu"]);
    assert_eq!(folder.json("out/run.json")["state"], "interrupted");
    // An attempt that did not come to a step is not part of the run, and its command not in run.json.
    let said = training(&folder, &["--set", "fails=true", "--allow-change", "lr"]).finish();
    let set = format!("--set data={} --set fails=true", fashion());
    said.fails(1).says(&[&format!("recipe.rhai --resume out {set} --allow-change lr --device cpu --threads 1\n")]);

    folder.write("short.rhai", "print(\"ready\");\nsleep(0.3);\nprint(\"done\");\n");
    let run = folder.shell("exec nohup \"$nepa\" run short.rhai --device cpu --nproc 1");
    run.wait_for("ready").signal(libc::SIGHUP);
    for rank in run.ranks() {
        send(rank, libc::SIGHUP);
    }
    run.finish().succeeds().prints(&["done"]);
}

/// Before the script begins there is nothing to save: SIGTERM ends the process at once, SIGUSR1 does not.
#[test]
fn a_process_that_waits_for_others_ends_at_once() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(1);");
    // Rank 0, which does not answer.
    let rank0 = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = rank0.local_addr().unwrap().port().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nepa"));
    command.args(["run", "recipe.rhai", "--device", "cpu"]).current_dir(folder.path(""));
    command.envs([("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &port)]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", waiting.id())).map_or(0, Iterator::count);
    while threads() < 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    send(waiting.id() as i32, libc::SIGUSR1);
    send(waiting.id() as i32, libc::SIGTERM);
    assert_eq!(waiting.wait().unwrap().signal(), Some(libc::SIGTERM));
}

/// An evaluation ends where a signal asks to stop: a scheduler does not wait until it is over. The resumed run makes up
/// for it, and ends like one that was not stopped.
#[test]
fn a_stop_does_not_wait_for_an_evaluation() {
    // In the middle of an epoch, at its end, and after the last step.
    let cases = [
        ("every_steps: 3", "evaluating after 3", 1),
        ("every_epochs: 1", "evaluating after 4", 1),
        ("every_epochs: 5", "evaluating after 10", 1),
        ("every_steps: 3", "evaluating after 3", 2),
    ];
    for (when, moment, processes) in cases {
        let folder = Folder::new();
        folder.write("recipe.rhai", EVALUATING.replace("WHEN", when));
        let (data, processes) = (format!("data={}", fashion()), processes.to_string());
        let run = |out: &str, slow: &str| {
            let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", out, "--nproc", &processes];
            folder.start(&[&args[..], &["--set", &data, "--set", slow]].concat(), &[])
        };
        run("whole", "slow=false").finish().succeeds();
        let stopped = run("stopped", "slow=true");
        stopped.wait_for(moment);
        // Of several processes, the last one alone.
        match stopped.ranks().last() {
            Some(rank) => send(*rank, libc::SIGTERM),
            None => send(stopped.id() as i32, libc::SIGTERM),
        }
        let step = moment.rsplit(' ').next().unwrap();
        stopped.finish().fails(143).says(&[
            &format!("train: a signal ended the evaluation after step {step}; the resumed run repeats it"),
            &format!("train: saved at step {step}"),
        ]);
        let again = run("stopped", "slow=false").finish();
        again.succeeds().says(&[&format!("train: resumed from step {step}")]).prints(&[moment]);
        outcome(&folder.path("whole")).assert_same(&folder.path("stopped"));
    }
}

/// Evaluates at the moments WHEN, for ever where it is `slow`. Two lines of metrics are logged, before and after.
const EVALUATING: &str = r#"
import "std/train" as train;
import "std/features" as features;
let images = data::idx(param("data", ()), "test").take(64);
let slow = param("slow", false);
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
});
train::fit(model, images, #{
    loss: |model, batch, o| #{ loss: (model.forward(batch.images) - rand([1])).pow(2).mean() },
    evaluate: |model, ema, now, o| {
        run::log(#{ phase: "before", step: now.step });
        if slow { print(`evaluating after ${now.step}`); }
        loop {
            let found = ema.apply(|| features::extract(model, images, #{ batch: 16 }));
            if !slow { break; }
        }
        print(`evaluating after ${now.step}`);
        run::log(#{ phase: "after", step: now.step, drawn: rand([1]) });
        #{ evaluated_at: now.step }
    },
    state: #{ evaluated_at: () },
}, #{ steps: 10, batch: 16, log_every: 1, save_every: 6, keep: 1, evaluate: #{ WHEN } });
"#;
