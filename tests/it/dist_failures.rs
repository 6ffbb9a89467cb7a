//! Processes that train together and fail: every other one ends in time, says which one it was and why, and the last
//! checkpoint is whole.

use crate::common::{Folder, Running, Said, fashion, names_in, on_cuda};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A loop of small exchanges; process 1 does something else after some of them.
const LOOP: &str = r#"
let what = param("what", "");
for i in 0..100000 {
    let sum = dist::all_reduce(tensor([1.0]));
    if i == 20 { print("running"); }
    if i == 40 && dist::rank() == 1 {
        if what == "error" { throw "a broken image"; }
        if what == "hang" { sleep(600); }
        if what == "end" { break; }
        if what == "memory" { zeros([1000000, 1000000, 1000]); }
    }
}
"#;

const TIMEOUT: &str = "10";

/// Processes that somebody else has started, as torchrun or srun would.
fn processes(folder: &Folder, n: usize, args: &[&str]) -> Vec<Running> {
    let port = free_port();
    (0..n).map(|rank| process(folder, rank, n, ("127.0.0.1", port), args)).collect()
}

fn process(folder: &Folder, rank: usize, n: usize, (host, port): (&str, u16), args: &[&str]) -> Running {
    let (rank, n, port) = (rank.to_string(), n.to_string(), port.to_string());
    let env = [
        ("RANK", rank.as_str()),
        ("LOCAL_RANK", &rank),
        ("WORLD_SIZE", &n),
        ("LOCAL_WORLD_SIZE", &n),
        ("MASTER_ADDR", host),
        ("MASTER_PORT", &port),
    ];
    let start = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--dist-timeout", TIMEOUT];
    folder.start(&[&start[..], args].concat(), &env)
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// All but the given process end by themselves, in time, with this to say.
#[track_caller]
fn others_say(processes: Vec<Running>, failed: usize, pieces: &[&str]) {
    let started = Instant::now();
    for (rank, process) in processes.into_iter().enumerate() {
        if rank != failed {
            let said = process.finish();
            said.fails(1).says(pieces);
            assert_eq!(said.stderr.contains(&format!("[rank {rank}] ")), rank > 0, "{said}");
        }
    }
    // The timeout, and what it takes to ask who is silent.
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
}

fn looping(what: &str) -> (Folder, Vec<Running>) {
    let folder = Folder::new();
    folder.write("recipe.rhai", LOOP);
    let processes = processes(&folder, 3, &["--set", &format!("what={what}")]);
    (folder, processes)
}

#[test]
fn a_killed_process_is_named() {
    let (_folder, processes) = looping("");
    processes[0].wait_for("running");
    processes[2].signal(libc::SIGKILL);
    others_say(processes, 2, &["rank 2 has sent no heartbeat for", "killed, hung, out of memory"]);
}

#[test]
fn the_end_of_the_process_that_keeps_the_store_is_told_as_such() {
    let (_folder, processes) = looping("");
    processes[0].wait_for("running");
    processes[0].signal(libc::SIGKILL);
    others_say(processes, 0, &["rank 0 is lost, and with it the store"]);
}

#[test]
fn a_stopped_process_is_named() {
    let (_folder, processes) = looping("");
    processes[0].wait_for("running");
    processes[1].signal(libc::SIGSTOP);
    others_say(processes, 1, &["rank 1 has sent no heartbeat for"]);
}

#[test]
fn a_process_that_hangs_is_named_with_the_place_where_it_was_last_seen() {
    let (_folder, processes) = looping("hang");
    others_say(processes, 1, &["rank 1 did not reach all_reduce within 10 s: it is alive, after all_reduce"]);
}

#[test]
fn a_process_that_fails_tells_the_others_why() {
    // The CPU's words, or CUDA's.
    let memory = if on_cuda() { "rank 1 failed: CUDA out of memory" } else { "rank 1 failed: not enough memory" };
    for (what, why) in [("error", "rank 1 failed: a broken image"), ("memory", memory)] {
        let (_folder, mut processes) = looping(what);
        let failed = processes.remove(1).finish();
        failed.fails(1).says(&["[rank 1] error: ", "recipe.rhai:", why.strip_prefix("rank 1 failed: ").unwrap()]);
        for process in processes {
            process.finish().fails(1).says(&[why]);
        }
    }
}

#[test]
fn a_broken_image_in_the_part_of_one_process_is_named_by_all() {
    let folder = Folder::new();
    let fixtures = crate::common::repository("tests/fixtures/data/folder/train");
    let class = std::fs::read_dir(fixtures).unwrap().flatten().find(|e| e.path().is_dir()).unwrap().path();
    let image = std::fs::read_dir(&class).unwrap().flatten().next().unwrap().path();
    let ending = image.extension().unwrap().to_string_lossy().into_owned();
    let whole = std::fs::read(&image).unwrap();
    for i in 0..12 {
        folder.write(&format!("images/a/{i:02}.{ending}"), &whole);
    }
    // Image 10 of a batch of 12 is process 2's.
    folder.write(&format!("images/a/10.{ending}"), &whole[..whole.len() / 3]);
    let script = r#"
        let images = data::open("images");
        let fit = [transform::resize(8), transform::center_crop(8)];
        let loader = data::loader(images, fit, #{ batch: 12, shuffle: false });
        for epoch in 0..100 {
            for batch in loader.epoch(epoch) { dist::all_reduce(batch.images.sum()); }
        }
    "#;
    let said = folder.run_with(script, &["--nproc", "3", "--dist-timeout", TIMEOUT]);
    said.fails(1).says(&[
        "[rank 2] error: cannot read item 10",
        "\nerror: rank 2 failed: cannot read item 10",
        "[rank 1] error: rank 2 failed",
    ]);
}

#[test]
fn a_process_that_ends_before_the_others_is_named() {
    let (_folder, mut processes) = looping("end");
    processes.remove(1).finish().succeeds();
    for process in processes {
        process.finish().fails(1).says(&["rank 1 ended without joining all_reduce"]);
    }
}

#[test]
fn the_same_error_in_all_processes_is_told_once() {
    for script in ["let x = 1;\nnn::vitnepa(#{});\n", "let x = param(\"x\", 1);\nthrow \"all of them\";\n"] {
        let said = Folder::new().run_with(script, &["--nproc", "3", "--dist-timeout", TIMEOUT]);
        said.fails(1).says(&["recipe.rhai:2:", "nepa: 3 of 3 processes failed"]);
        assert_eq!(said.stderr.matches("error: ").count(), 1, "{said}");
    }
}

#[test]
fn processes_that_run_other_things_stop_at_the_start() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "let lr = param(\"lr\", 0.1);\nprint(lr);\n");
    let at = ("127.0.0.1", free_port());
    let pair = vec![process(&folder, 0, 2, at, &[]), process(&folder, 1, 2, at, &["--set", "lr=0.2", "--seed", "3"])];
    others_say(
        pair,
        9,
        &[
            "some ranks differ from rank 0",
            "rank 1 on",
            "parameter lr: nothing on rank 0, 0.2 here",
            "seed: nothing on rank 0, 3 here",
        ],
    );

    // The text of the recipe, as where a folder is not shared.
    let other = Folder::new();
    other.write("recipe.rhai", "let lr = param(\"lr\", 0.1);\nprint(lr + 1);\n");
    let at = ("127.0.0.1", free_port());
    let pair = vec![process(&folder, 0, 2, at, &[]), process(&other, 1, 2, at, &[])];
    others_say(pair, 9, &["rank 1 on", "text of recipe.rhai: "]);

    // One of them has no such recipe.
    let (at, empty) = (("127.0.0.1", free_port()), Folder::new());
    let pair = vec![process(&folder, 0, 2, at, &[]), process(&empty, 1, 2, at, &[])];
    others_say(pair, 9, &["the recipe recipe.rhai does not exist"]);
}

#[test]
fn processes_whose_data_differ_stop_before_the_first_step() {
    let script = format!(
        r#"
        let images = data::idx("{}", "test").take(64 - dist::rank());
        let loader = data::loader(images, [], #{{ batch: 8 }});
        print("begun");
        "#,
        fashion()
    );
    let said = Folder::new().run_with(&script, &["--nproc", "2", "--dist-timeout", TIMEOUT]);
    said.fails(1).says(&["the data differ between ranks: on rank 1, images: 64 images", "63 images"]);
    assert!(said.stdout.is_empty(), "{said}");
}

#[test]
fn models_that_differ_stop_before_the_first_step() {
    let script = "dist::gradients(nn::linear(3, 4 + dist::rank()));\nprint(\"begun\");\n";
    let said = Folder::new().run_with(script, &["--nproc", "2", "--dist-timeout", TIMEOUT]);
    said.fails(1).says(&["the comparison of parameters"]);
    assert!(said.stdout.is_empty(), "{said}");
}

#[test]
fn a_process_of_another_binary_stops_at_the_start() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(1);\n");
    let other = folder.path("nepa-of-yesterday");
    std::fs::copy(env!("CARGO_BIN_EXE_nepa"), &other).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&other).unwrap();
    std::io::Write::write_all(&mut file, b"yesterday").unwrap();
    drop(file);
    let at = ("127.0.0.1", free_port());
    let ours = process(&folder, 0, 2, at, &[]);
    let mut theirs = std::process::Command::new(&other);
    theirs.args(["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--dist-timeout", TIMEOUT]);
    theirs.envs([("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", at.0), ("MASTER_PORT", &at.1.to_string())]);
    let theirs = theirs.current_dir(folder.path("")).output().unwrap();
    assert_eq!(theirs.status.code(), Some(1));
    ours.finish().fails(1).says(&["some ranks differ from rank 0", "rank 1 on", "nepa: "]);
}

#[test]
fn a_port_that_is_taken_and_a_rank_0_that_is_not_there_are_told() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(1);\n");
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let at = ("127.0.0.1", taken.local_addr().unwrap().port());
    let said = process(&folder, 0, 2, at, &[]).finish();
    said.fails(1).says(&[&format!("rank 0 cannot listen on port {}", at.1), "it is in use", "MASTER_PORT"]);
    let said = process(&folder, 1, 2, ("127.0.0.1", free_port()), &[]).finish();
    said.fails(1).says(&["no answer from 127.0.0.1:", "within 10 s", "MASTER_ADDR"]);
}

#[test]
fn a_name_that_nobody_knows_and_a_process_that_does_not_come_are_told() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "print(1);\n");
    let nowhere = process(&folder, 1, 2, ("no-such-machine.invalid", 29500), &[]);
    let at = ("127.0.0.1", free_port());
    let two = vec![process(&folder, 0, 3, at, &[]), process(&folder, 1, 3, at, &[])];
    nowhere.finish().fails(1).says(&["cannot resolve MASTER_ADDR \"no-such-machine.invalid\""]);
    others_say(two, 9, &["only 2 of 3 ranks joined within 10 s; missing: rank 2"]);
    // Half of what is needed to meet.
    let said = folder.nepa_with(&[("WORLD_SIZE", "2"), ("RANK", "0")], &["run", "recipe.rhai"]);
    said.fails(1).says(&["RANK, WORLD_SIZE are set in the environment, but not MASTER_ADDR, MASTER_PORT"]);
}

const TRAINING: &str = r#"
import "std/pretrain" as pretrain;
let images = data::idx(param("data", ()), "test").take(320);
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
});
pretrain::fit(model, images, #{ steps: param("steps", 100000), batch: 30, save_every: 10, on_epoch: |m, e, s| if s.epoch == 3 { print("running"); } });
print("trained");
"#;

fn training(folder: &Folder, more: &[&str]) -> Running {
    folder.write("recipe.rhai", TRAINING);
    let data = format!("data={}", fashion());
    let args =
        ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--nproc", "3", "--out", "out", "--set", &data];
    folder.start(&[&args[..], &["--dist-timeout", TIMEOUT], more].concat(), &[])
}

/// The run can go on from its newest checkpoint.
#[track_caller]
fn goes_on(folder: &Folder) {
    let newest = names_in(&folder.path("out/checkpoints/pretrain")).pop().unwrap();
    let step: usize = newest.strip_prefix("step-").unwrap().parse().unwrap();
    let said: Said = training(folder, &["--set", &format!("steps={}", step + 5)]).finish();
    said.succeeds().says(&[&format!("resumed from step {step} ")]).prints(&["trained"]);
}

#[test]
fn the_launcher_reports_a_killed_process_and_the_checkpoint_is_whole() {
    let folder = Folder::new();
    let launcher = training(&folder, &[]);
    launcher.wait_for("running");
    let victim = launcher.ranks()[1];
    // SAFETY: a plain system call.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    let said = launcher.finish();
    said.fails(1).says(&[
        "nepa: 3 of 3 processes failed",
        &format!("rank 1 (process {victim}) was killed (signal 9)"),
        "rank 1 has sent no heartbeat",
        "to resume from its last checkpoint: nepa run recipe.rhai --resume out",
        "--nproc 3",
    ]);
    goes_on(&folder);
}

#[test]
fn one_signal_saves_once_and_ends_all() {
    for (signal, to_child, code) in [(libc::SIGINT, false, 130), (libc::SIGTERM, true, 143)] {
        let folder = Folder::new();
        let launcher = training(&folder, &[]);
        launcher.wait_for("running");
        let pid = if to_child { launcher.ranks()[2] } else { launcher.id() as i32 };
        // SAFETY: a plain system call.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        let said = launcher.finish();
        said.fails(code).says(&["pretrain: saved at step", "interrupted; what was saved is in out"]);
        assert_eq!(said.stderr.matches("saved at step").count(), 1, "{said}");
        assert!(!said.stderr.contains("processes failed"), "{said}");
        goes_on(&folder);
    }
}

#[test]
fn a_signal_outside_of_a_training_loop_ends_all_at_once() {
    let folder = Folder::new();
    folder.write("recipe.rhai", LOOP);
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--nproc", "3", "--dist-timeout", "300"];
    let launcher = folder.start(&args, &[]);
    launcher.wait_for("running").signal(libc::SIGINT);
    let started = Instant::now();
    let said = launcher.finish();
    said.fails(130).says(&["interrupted"]);
    assert!(!said.stderr.contains("processes failed"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn nothing_is_left_behind_when_the_launcher_is_killed() {
    let folder = Folder::new();
    let launcher = training(&folder, &[]);
    launcher.wait_for("running");
    let pids = launcher.ranks();
    assert_eq!(pids.len(), 3);
    launcher.signal(libc::SIGKILL).id();
    assert_eq!(launcher.killed(), None);
    let started = Instant::now();
    // One that has ended may still be listed: whoever adopted it has not looked.
    let runs = |pid: &i32| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    while pids.iter().any(runs) {
        assert!(started.elapsed() < Duration::from_secs(30), "processes are left behind");
        std::thread::sleep(Duration::from_millis(50));
    }
}
