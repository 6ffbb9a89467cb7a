//! `gpu-check` with a nepa that hangs, fails or is missing a GPU: what it reports, and that it ends in time.
//! tests/it/gpu_check.rs runs it with the real one, on the simulated CUDA.

mod world;

use serde_json::Value;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};
use world::{Ran, World, wait_for};

const DEVICE: &str = r#"{"gpus":2,"memory":{"total":8e10,"free":8e10},"float32":1e13,"tf32":1e14,"bfloat16":4e14}"#;

/// A copy of the folders that gpu-check needs, with two models, and a `nepa` that answers for the device and does
/// `more` for all else.
fn world(more: &str) -> World {
    let world = World::new();
    for folder in ["recipes", "examples", "tests/fixtures/model/a", "tests/fixtures/model/b", "tests/fixtures/train"] {
        fs::create_dir_all(world.path("project").join(folder)).unwrap();
    }
    world.script("nvidia-smi", "echo 'Some GPU, 580.1, 80000 MiB, 9.0, 700 W'");
    world.script("nepa", &format!("case \"$*\" in *device.rhai*) echo '{DEVICE}'; exit;; esac\n{more}"));
    world
}

fn arguments(world: &World, minutes: &str) -> Vec<String> {
    let (nepa, out) = (world.path("bin/nepa").display().to_string(), world.path("out").display().to_string());
    ["gpu-check", "--nepa", &nepa, "--out", &out, "--minutes", minutes].map(String::from).to_vec()
}

fn run(world: &World, minutes: &str) -> Ran {
    let arguments = arguments(world, minutes);
    world.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn reports(world: &World) -> (String, Value) {
    let text = |name: &str| fs::read_to_string(world.path("out").join(name)).unwrap();
    (text("report.md"), serde_json::from_str(&text("report.json")).unwrap())
}

/// A part's state and reason.
fn part<'r>(report: &'r Value, name: &str) -> (&'r str, &'r str) {
    let part = report["parts"].as_array().unwrap().iter().find(|part| part["name"] == name).unwrap();
    (part["state"].as_str().unwrap(), part["reason"].as_str().unwrap())
}

/// Whether a process is there and has not ended.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
#[cfg(target_os = "linux")]
fn what_hangs_is_killed_and_told_as_late() {
    // With a child in a process group of its own, as a launcher's ranks are, and one that ignores SIGTERM.
    let world = world(
        "trap '' TERM; setsid sleep 1000 & echo $! > \"$STORE/child-$$.new\"; mv \"$STORE/child-$$.new\" \
         \"$STORE/child-$$\"; echo 'the last words'; wait",
    );
    let started = Instant::now();
    let ran = run(&world, "0.1");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(12), "took {took:?} of 6 s: {}", ran.err);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let (text, report) = reports(&world);
    for name in ["parity", "step", "recipes", "nccl", "data"] {
        let (state, reason) = part(&report, name);
        assert!(state == "late" && reason.contains("not done after"), "{name}: {state}, {reason}");
    }
    assert_eq!(part(&report, "device").0, "ok");
    assert_eq!(part(&report, "reference"), ("skipped", "no --reference and --python"));
    assert!(text.contains("**1 of 8 parts ok; parity late; step late;"), "{text}");
    assert!(text.contains("the last words"), "{text}");
    // The table comes before the sections.
    assert!(text.find("| device | ok | 2 GPUs: Some GPU, 580.1").unwrap() < text.find("## device").unwrap(), "{text}");
    let children: Vec<_> = fs::read_dir(world.path("store")).unwrap().flatten().map(|entry| entry.path()).collect();
    let children = children.iter().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("child-"));
    let pids: Vec<String> = children.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert!(pids.len() >= 5, "{pids:?}");
    assert!(!pids.iter().any(|pid| is_alive(pid)), "{pids:?}");
}

#[test]
fn what_fails_says_why_and_the_rest_goes_on() {
    let world = world("echo \"error: $HOME/secret and $(pwd)/file are broken\" >&2; exit 3");
    let ran = run(&world, "1");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let (text, report) = reports(&world);
    let all = ["a", "b", "of training"].map(|what| format!("parity {what}: exit status: 3")).join("; ");
    assert_eq!(part(&report, "parity"), ("failed", all.as_str()));
    assert_eq!(part(&report, "step"), ("failed", "step base: exit status: 3; step large: exit status: 3"));
    assert_eq!(part(&report, "resume"), ("failed", "the undisturbed run: exit status: 3"));
    assert_eq!(part(&report, "data"), ("failed", "nepa data: exit status: 3"));
    assert_eq!(report["parts"][1]["output"][0], "error: ~/secret and WORK/file are broken");
    assert!(text.contains("error: ~/secret and WORK/file are broken"), "{text}");
    assert!(ran.err.contains("parity failed: parity a: exit status: 3"), "{}", ran.err);
}

#[test]
fn what_succeeds_and_says_nothing_has_failed() {
    let world = world("exit 0");
    assert_eq!(run(&world, "1").code, 1);
    let (_, report) = reports(&world);
    for (name, reason) in [
        ("parity", "parity a: no tensor was compared; "),
        ("step", "step base: no JSON was printed; "),
        ("resume", "the run to be killed: it ended before it was: exit status: 0"),
        ("recipes", "cannot read WORK/pretrain_vits-cuda/metrics.jsonl: No such file or directory (os error 2); "),
        ("nccl", "all_reduce of 1: no JSON was printed"),
        ("data", "nepa data: no speeds were printed"),
    ] {
        let (state, found) = part(&report, name);
        assert!(state == "failed" && found.starts_with(reason), "{name}: {state}, {found}");
    }
}

#[test]
fn the_reference_is_timed_eager_and_compiled() {
    let world = world("exit 3");
    // Slow while it is set up, and twice as fast when it is compiled.
    world.script(
        "python",
        "case \"$*\" in *'--batch 256 --dtype bfloat16 --device cuda --compile') t=0.25;; *) t=0.5;; esac\n\
         n=0; while read -r line; do n=$((n + 1)); [ $n -le 3 ] && echo '{\"times\":[9,9,9,9]}' || \
         echo \"{\\\"times\\\":[$t,$t,0,0]}\"; done",
    );
    fs::create_dir_all(world.path("reference")).unwrap();
    let (python, reference) =
        (world.path("bin/python").display().to_string(), world.path("reference").display().to_string());
    let arguments =
        [arguments(&world, "1"), ["--python", &python, "--reference", &reference].map(String::from).to_vec()];
    let arguments = arguments.concat();
    world.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let (text, report) = reports(&world);
    assert_eq!(part(&report, "reference"), ("ok", ""), "{text}");
    assert_eq!(report["parts"][7]["headline"], "eager 256 images/s; compiled 512 images/s");
    assert_eq!(report["parts"][7]["values"]["eager"]["steps"].as_array().unwrap().len(), 20);
}

#[test]
fn without_a_gpu_nothing_is_run() {
    let world = world("echo run >> \"$STORE/calls\"");
    world.script("nepa", "echo run >> \"$STORE/calls\"; echo 'error: device `cuda` was asked for, but' >&2; exit 1");
    let ran = run(&world, "1");
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("error: there is no GPU to check:\n  error: device `cuda` was asked for, but\n"),
        "{}",
        ran.err
    );
    assert_eq!(fs::read_to_string(world.path("store/calls")).unwrap(), "run\n");
    assert!(!world.path("out/report.md").exists());
}

#[test]
fn a_device_that_is_there_and_fails_is_reported() {
    let world = world("");
    world.script("nepa", "case \"$*\" in *device.rhai*) kill -SEGV $$;; esac; exit 3");
    let ran = run(&world, "1");
    assert_eq!(ran.code, 1);
    let (_, report) = reports(&world);
    let (state, reason) = part(&report, "device");
    assert!(state == "failed" && reason.starts_with("device: signal: 11"), "{state}, {reason}");
    assert!(part(&report, "step").1.starts_with("step base: exit status: 3"));
}

#[test]
fn a_device_that_does_not_answer_costs_its_own_time_alone() {
    let world = world("");
    world.script("nepa", "exec sleep 1000");
    let started = Instant::now();
    let ran = run(&world, "0.2");
    assert!(ran.code == 1 && started.elapsed() < Duration::from_secs(6), "{:?} {}", started.elapsed(), ran.err);
    let (_, report) = reports(&world);
    assert_eq!(part(&report, "device").0, "late");
    assert_eq!(part(&report, "parity"), ("skipped", "the device does not answer"));
}

#[test]
fn ctrl_c_ends_it_with_a_report() {
    let world = world("echo $$ > \"$STORE/pid.new\"; mv \"$STORE/pid.new\" \"$STORE/pid\"; exec sleep 1000");
    let arguments = arguments(&world, "1");
    let child = world.xtask(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    wait_for(&world.path("store/pid"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    let (text, report) = reports(&world);
    assert_eq!(part(&report, "parity"), ("interrupted", "parity a was interrupted"));
    assert_eq!(part(&report, "data"), ("skipped", "the check was interrupted"));
    assert!(text.contains("| parity | interrupted |"), "{text}");
    let pid = fs::read_to_string(world.path("store/pid")).unwrap();
    assert!(!is_alive(&pid), "{pid} is left");
}

#[test]
fn mistakes_are_told_before_anything_is_built() {
    let world = world("");
    for (args, says) in [
        (&["--minutes", "ten"][..], "--minutes: expected a number from 0.01, found \"ten\""),
        (&["--minutes", "0"], "--minutes: expected a number from 0.01, found \"0\""),
        (&["--minutes"], "--minutes needs a value"),
        (&["--nepa", "nowhere"], "--nepa: expected a file, and "),
        (&["--reference", "x"], "--reference and --python go together"),
        (&["--rehersal"], "unknown argument `--rehersal` (did you mean `--rehearsal`?)"),
    ] {
        let ran = world.run(&[&["gpu-check"], args].concat());
        assert!(ran.code == 2 && ran.err.contains(says), "{args:?}: {}", ran.err);
    }
    let ran = world.run(&["gpu-check", "--help"]);
    assert!(ran.code == 0 && ran.out.contains("--rehearsal"), "{}", ran.out);
    fs::remove_dir_all(world.path("project/tests")).unwrap();
    let ran = world.run(&["gpu-check", "--nepa", world.path("bin/nepa").to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("there is no tests/fixtures/model"), "{}", ran.err);
}

#[test]
fn a_resumed_run_that_ends_elsewhere_has_failed() {
    // Saves when it is asked to, is killed, and ends with $LAST where the undisturbed run has 0.4.
    let resumed = |last: &str| {
        let world = world(&format!(
            "case \"$*\" in *pretrain_vitb*) ;; *) exit 3;; esac\n\
             for word; do [ \"$before\" = --out ] && out=$word; before=$word; done; mkdir -p \"$out\"\n\
             log() {{ echo \"{{\\\"step\\\":$1,\\\"loss\\\":$2}}\" >> \"$out/metrics.jsonl\"; }}\n\
             case \"$out\" in *undisturbed) log 100 0.5; log 200 0.4; exit;; esac\n\
             if [ -d \"$out/checkpoints\" ]; then\n\
               log 200 {last}; echo '{{\"resumed\":[{{\"steps\":{{\"pretrain\":60}}}}]}}' > \"$out/run.json\"; exit\n\
             fi\n\
             trap 'mkdir -p \"$out/checkpoints/pretrain/step-00000060\"; log 100 0.5' USR1\n\
             log 50 0.6; while :; do sleep 0.05; done"
        ));
        run(&world, "1");
        reports(&world).1["parts"][3].clone()
    };
    let part = resumed("0.41");
    assert_eq!((&part["state"], &part["reason"]), (&"ok".into(), &"".into()), "{part:#}");
    let values = &part["values"];
    assert_eq!((&values["killed_at"], &values["resumed_from"]), (&100.into(), &60.into()));
    assert!((values["difference"].as_f64().unwrap() - 0.01).abs() < 1e-9, "{part:#}");
    let part = resumed("0.43");
    assert_eq!(
        (&part["state"], &part["reason"]),
        (&"failed".into(), &"the losses differ by 3.0e-2, more than 0.02".into())
    );
    let part = resumed("null");
    let reason = "the resumed run's loss is NaN at step 200";
    assert_eq!((&part["state"], &part["reason"]), (&"failed".into(), &reason.into()));
}

#[test]
fn all_gpus_are_tried_beside_one() {
    let with = |loss: &str| {
        let world = world(&format!(
            "case \"$*\" in\n\
             *nccl.rhai*) echo '{{\"rows\":[{{\"bytes\":1000000000,\"seconds\":0.01}}]}}';;\n\
             *training.rhai*'batch=16 --nproc 1') echo 'loss -0.5';;\n\
             *training.rhai*'batch=16 --nproc 2') echo 'loss {loss}';;\n\
             *) exit 3;; esac"
        ));
        run(&world, "1");
        reports(&world).1["parts"][5].clone()
    };
    let part = with("-0.5001");
    let headline =
        "1 process: sums right; 2 processes: sums right, 100 GB/s; loss -0.500000 with one, -0.500100 with 2";
    assert_eq!((&part["state"], &part["headline"]), (&"ok".into(), &headline.into()), "{part:#}");
    let reason = "the losses of 1 and 2 processes differ by more than 1e-3";
    let part = with("-0.6");
    assert_eq!((&part["state"], &part["reason"]), (&"failed".into(), &reason.into()), "{part:#}");
}
