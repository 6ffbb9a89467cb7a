//! Several processes, each on a GPU of its own, which `tests/simulated-cuda` simulates together with NCCL: the bits of as
//! many processes on a CPU, and what is said when one of them is lost.

use crate::common::gpu_faults::{LOOPS, LOST, NOT_FINITE, OUT_OF_MEMORY};
use crate::common::simulated_cuda::{Report, Setting, environment, folder_with, simulated};
use crate::common::*;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// LOOPS with two parts a step in each of two processes; with `pause`, it waits in the first epoch of fine-tuning.
fn recipe() -> String {
    let recipe = LOOPS.replace("batch: 4,", "batch: 8,").replace("accumulate: 2,", "accumulate: 4,");
    let pausing = "finetune::fit(classifier, images, often + #{ on_epoch: |m, e, s| \
                   if param(\"pause\", false) { print(\"running\"); sleep(4); }, epochs";
    let paused = recipe.replace("finetune::fit(classifier, images, often + #{ epochs", pausing);
    assert!(paused != recipe && recipe != LOOPS);
    paused
}

const TWO: Setting<'_> = ("NEPA_SIMULATED_CUDA_DEVICES", "2");
const PAIR: [&str; 11] =
    ["run", "recipe.rhai", "--device", "cuda", "--threads", "1", "--nproc", "2", "--dist-timeout", "10", "--out"];

/// Runs the recipe in two processes on two GPUs.
fn pair(folder: &Folder, settings: &[Setting<'_>], out: &str) -> Said {
    simulated(folder, &[&[TWO], settings].concat(), &[&PAIR[..], &[out]].concat())
}

/// What two processes leave on the CPU.
fn pair_on_cpu() -> Outcome {
    let folder = folder_with(&recipe());
    let args = [&PAIR[..], &["out"]].concat();
    let args: Vec<&str> = args.into_iter().map(|arg| if arg == "cuda" { "cpu" } else { arg }).collect();
    folder.nepa(&args).succeeds();
    outcome(&folder.path("out"))
}

/// Starts two processes by hand, as torchrun or srun would, each with settings of its own.
fn by_hand(folder: &Folder, settings: [&[Setting<'_>]; 2], more: &[&str]) -> [Running; 2] {
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port().to_string();
    let simulation = environment();
    [0, 1].map(|rank: usize| {
        let number = rank.to_string();
        let mut env: Vec<Setting<'_>> = simulation.iter().map(|(name, value)| (*name, value.as_str())).collect();
        env.extend([
            ("RANK", number.as_str()),
            ("LOCAL_RANK", &number),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
        ]);
        env.extend([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", port.as_str())]);
        env.extend(settings[rank]);
        let start = ["run", "recipe.rhai", "--device", "cuda", "--threads", "1", "--dist-timeout", "10"];
        folder.start(&[&start[..], more].concat(), &env)
    })
}

#[test]
fn two_gpus_give_the_bits_of_two_processes_on_the_cpu() {
    let folder = folder_with(&recipe());
    let said = pair(&folder, &[("NEPA_SIMULATED_CUDA_REPORT", "report.json")], "out");
    said.succeeds().says(&["recipe.rhai on 2 processes, rank 0 on cuda:0"]);
    assert!(!said.stderr.contains("Warning:"), "{said}");
    pair_on_cpu().assert_same(&folder.path("out"));
    for (rank, name) in ["report.json", "report.json.1"].into_iter().enumerate() {
        let report = Report::read(&folder, name);
        for collective in ["allreduce", "broadcast", "allgather"] {
            assert!(
                report.0["collectives"][collective].as_i64() > Some(0),
                "{collective} of rank {rank}: {}",
                report.0
            );
        }
        let peak = |gpu: usize| report.0["devices"][gpu]["peak_bytes"].as_i64().unwrap();
        assert!(peak(rank) > 0 && peak(1 - rank) == 0, "rank {rank} uses its own GPU alone: {}", report.0);
        assert_eq!(report.0["notes"], serde_json::json!({}), "{}", report.0);
    }
}

#[test]
fn more_processes_than_gpus_are_refused() {
    let folder = folder_with("print(dist::all_reduce(ones([1]).to(device())).item());");
    let run = |gpus: &str, processes: &str| {
        let args = ["run", "recipe.rhai", "--device", "cuda", "--nproc", processes, "--dist-timeout", "10"];
        simulated(&folder, &[("NEPA_SIMULATED_CUDA_DEVICES", gpus)], &args)
    };
    for (gpus, processes, words) in [("1", "2", "sees 1 GPU\n"), ("2", "3", "sees 2 GPUs\n")] {
        let said = run(gpus, processes);
        said.fails(1).says(&[&format!("{processes} processes were started on this machine"), words]);
        said.says(&["hint: start as many processes as there are GPUs, or use --device cpu"]);
        assert_eq!(said.stderr.matches("error: ").count(), 1, "told once: {said}");
    }
    run("2", "2").succeeds().prints(&["2.0\n"]);
}

/// A batch system shows each process its own GPU alone. If it is the same one, nobody but NCCL can tell.
#[test]
fn processes_that_see_one_gpu_each_use_it() {
    let folder = folder_with("print(dist::all_reduce(ones([1]).to(device())).item());\nprint(device());");
    let [first, second] = ["0", "1"].map(|gpu| [TWO, ("CUDA_VISIBLE_DEVICES", gpu)]);
    let [rank0, rank1] = by_hand(&folder, [&first, &second], &[]).map(Running::finish);
    rank0.succeeds().prints(&["2.0\ncuda:0\n"]);
    rank1.succeeds();
    for (rank, said) in by_hand(&folder, [&first, &first], &[]).map(Running::finish).into_iter().enumerate() {
        said.fails(1).says(&["failed in all_reduce: NCCL error: invalid usage", "Duplicate GPU detected"]);
        said.says(&["hint: every process needs a GPU of its own"]);
        assert_eq!(said.stderr.lines().filter(|line| line.contains("NCCL")).count(), 1, "rank {rank}: {said}");
    }
}

/// NCCL's kernels wait for a process of the same machine for ever. Over a network, libtorch's watchdog learns that it is
/// lost, and would end the process itself.
#[test]
fn a_killed_rank_is_named_and_nothing_is_lost() {
    let whole = pair_on_cpu();
    let simulation = environment();
    for silent in ["0", "1"] {
        let folder = folder_with(&recipe());
        let mut env: Vec<Setting<'_>> = simulation.iter().map(|(name, value)| (*name, value.as_str())).collect();
        env.extend([TWO, ("NEPA_SIMULATED_CUDA_SILENT_PEERS", silent)]);
        let launcher = folder.start(&[&PAIR[..], &["out", "--set", "pause=true"]].concat(), &env);
        let victim = launcher.wait_for("running").ranks()[1];
        let killed = Instant::now();
        // SAFETY: a plain system call.
        assert_eq!(unsafe { libc::kill(victim, libc::SIGKILL) }, 0);
        let said = launcher.finish();
        said.fails(1).says(&["error: rank 1 has sent no heartbeat for", "killed, hung, out of memory"]);
        assert!(killed.elapsed() < Duration::from_secs(45), "{:?}", killed.elapsed());
        assert_eq!(folder.json("out/run.json")["state"], "failed");
        assert_checkpoints_whole(&folder.path("out"));
        pair(&folder, &[], "out").succeeds().says(&["resumed from step"]);
        whole.assert_same(&folder.path("out"));
    }
}

/// One rank runs out of memory, or loses its GPU.
#[test]
fn a_gpu_that_fails_one_rank_is_told_by_all() {
    let whole = pair_on_cpu();
    let counted = folder_with(&recipe());
    pair(&counted, &[("NEPA_SIMULATED_CUDA_REPORT", "report.json")], "out").succeeds();
    let report = Report::read(&counted, "report.json.1");
    let two_thirds = |all: i64| (all * 2 / 3).to_string();
    let allocations = two_thirds(report.0["allocations"].as_i64().unwrap());
    let launches = two_thirds(report.count("launches"));
    for (setting, words, cause) in [
        (("NEPA_SIMULATED_CUDA_ALLOCATIONS", allocations.as_str()), &OUT_OF_MEMORY[..], "CUDA out of memory"),
        (("NEPA_SIMULATED_CUDA_LOST", &launches), &LOST, "CUDA error: an illegal memory access"),
    ] {
        let folder = folder_with(&recipe());
        let [rank0, rank1] = by_hand(&folder, [&[TWO], &[TWO, setting]], &["--out", "out"]).map(Running::finish);
        rank1.fails(1).says(words).says(&["[rank 1] error: "]);
        rank0.fails(1).says(words).says(&["error: rank 1 failed", cause]);
        assert_checkpoints_whole(&folder.path("out"));
        pair(&folder, &[], "out").succeeds().says(&["resumed from step"]);
        whole.assert_same(&folder.path("out"));
    }
}

/// libtorch's watchdog finds that the GPU is lost, while the script is busy with something else.
#[test]
fn a_gpu_that_is_lost_while_the_script_is_busy_is_told() {
    let script = "let sum = dist::all_reduce(ones([1]).to(device()));\n\
                  if dist::rank() == 1 { try { for i in 0..50 { sum += 1.0; } } catch {} }\n\
                  sleep(600);";
    let folder = folder_with(script);
    let lost = [TWO, ("NEPA_SIMULATED_CUDA_LOST", "45")];
    let [rank0, rank1] = by_hand(&folder, [&[TWO], &lost], &[]);
    for said in [rank0.finish(), rank1.finish()] {
        said.fails(1).says(&["error: rank 1 failed: "]).says(&LOST);
    }
}

/// Each process hears of a NaN when its own GPU gets there; what all do about it comes at the same step.
#[test]
fn steps_that_are_not_finite_are_left_out_by_all_processes_at_once() {
    let (cpu, folder) = (folder_with(NOT_FINITE), folder_with(NOT_FINITE));
    let on_cpu: Vec<&str> = PAIR.iter().map(|arg| if *arg == "cuda" { "cpu" } else { arg }).collect();
    cpu.nepa(&[&on_cpu[..], &["out"]].concat()).succeeds().prints(&["8"]);
    let said = pair(&folder, &[], "out");
    said.succeeds().prints(&["8"]).says(&["not finite at step 1: loss NaN", "not finite at step 9: loss NaN"]);
    outcome(&cpu.path("out")).assert_same(&folder.path("out"));
}
