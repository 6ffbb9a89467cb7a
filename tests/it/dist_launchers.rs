//! Processes that others start: torchrun itself, and two machines that are network namespaces. Where a test cannot be run
//! it says so on stderr, and passes. All on the CPU: the simulated NCCL connects the processes of one machine, and who has
//! started them makes no difference to it.

use crate::common::{Folder, fashion};
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// 40 steps; with `crash` process 1 fails once, at step 20.
const RECIPE: &str = r#"
import "std/pretrain" as pretrain;
let images = data::idx(param("data", ()), "test").take(320);
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2,
});
let crash = param("crash", false);
let began = ();
pretrain::fit(model, images, #{
    steps: 40, batch: 32, lr: 3e-4, save_every: 5, log_every: 1,
    on_epoch: |m, e, s| {
        if began == () { began = s.epoch; }
        if crash && began == 0 && s.epoch == 1 && dist::rank() == 1 { throw "crashed on purpose"; }
    },
});
checkpoint::save(model, run::path("model"));
print("trained");
"#;

/// Not caught by the test harness, unlike `eprintln!`.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn arguments() -> Vec<String> {
    let data = format!("data={}", fashion());
    let words = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--dist-timeout", "15", "--set", &data];
    words.map(String::from).to_vec()
}

fn final_weights(folder: &Folder, run: &str) -> Vec<u8> {
    folder.read(&format!("{run}/model/model.safetensors"))
}

fn steps_logged(folder: &Folder, run: &str) -> Vec<u64> {
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap();
    folder.text(&format!("{run}/metrics.jsonl")).lines().map(line).collect()
}

/// torchrun of PyTorch 2.11, from the package index where it is not there yet; kept beside libtorch in the cache.
fn torchrun() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("NEPA_TEST_TORCHRUN") {
        return Ok(path.into());
    }
    let venv = nepa::cache::folder().ok_or("there is no folder for caches")?.join("torchrun-2.11.0");
    let program = venv.join("bin/torchrun");
    // The last thing that pip writes is not the program.
    let whole = venv.join("installed");
    if whole.exists() {
        return Ok(program);
    }
    let run = |command: &mut Command| match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(text(&output).lines().last().unwrap_or("it failed").to_string()),
        Err(e) => Err(e.to_string()),
    };
    let _ = std::fs::remove_dir_all(&venv);
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "torch==2.11.0", "numpy"];
    run(Command::new(venv.join("bin/python")).args(pip))?;
    std::fs::write(&whole, "").map_err(|e| e.to_string())?;
    Ok(program)
}

#[test]
fn torchrun_starts_processes_and_starts_them_again() {
    let torchrun = match torchrun() {
        Ok(torchrun) => torchrun,
        Err(why) => return skip(&format!("torchrun cannot be installed: {why}")),
    };
    let folder = Folder::new();
    folder.write("recipe.rhai", RECIPE);
    let run = |more: &[&str], args: &[&str]| {
        let mut command = Command::new(&torchrun);
        command.args(["--no-python", "--nproc-per-node", "2"]).args(more).arg(env!("CARGO_BIN_EXE_nepa"));
        command.args(arguments()).args(args).current_dir(folder.path(""));
        command.stdin(Stdio::null()).output().unwrap()
    };
    let plain = run(&[], &["--out", "plain"]);
    assert!(plain.status.success(), "{}", text(&plain));
    assert_eq!(String::from_utf8_lossy(&plain.stdout), "trained\n", "one process prints: {}", text(&plain));

    // Started again after a failure, without --out: the agent remembers the run, which goes on from its checkpoint.
    let again = run(&["--max-restarts", "1"], &["--set", "crash=true"]);
    let said = text(&again);
    assert!(again.status.success(), "{said}");
    for piece in ["[rank 1] error: crashed on purpose", "rank 1 failed: crashed on purpose", "resumed from step 20"] {
        assert!(said.contains(piece), "says `{piece}`: {said}");
    }
    let names = folder.names("runs");
    assert_eq!(names.len(), 1, "{names:?}");
    let resumed = format!("runs/{}", names[0]);
    assert_eq!(steps_logged(&folder, &resumed), (1..=40).collect::<Vec<u64>>());
    assert!(final_weights(&folder, &resumed) == final_weights(&folder, "plain"), "the weights differ");

    // torchrun's own report of a run that failed for good tells the cause.
    let failed = run(&[], &["--set", "crash=true", "--out", "failed"]);
    assert!(!failed.status.success());
    let said = text(&failed);
    let report = said.split("Root Cause").nth(1).unwrap_or_default();
    assert!(report.contains("crashed on purpose"), "{said}");
}

/// Two network namespaces with a cable between them: 10.203.77.1 and .2.
struct Machines(u32);

impl Machines {
    fn new() -> Result<Self, String> {
        let machines = Self(std::process::id());
        let [a, b] = [machines.name(0), machines.name(1)];
        let (x, y) = (format!("nx{}", machines.0), format!("ny{}", machines.0));
        for command in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("link add {x} netns {a} type veth peer name {y} netns {b}"),
            format!("-n {a} addr add 10.203.77.1/24 dev {x}"),
            format!("-n {b} addr add 10.203.77.2/24 dev {y}"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set {x} up"),
            format!("-n {b} link set {y} up"),
        ] {
            machines.ip(&command)?;
        }
        Ok(machines)
    }

    fn name(&self, machine: usize) -> String {
        format!("nepa-{}-{machine}", self.0)
    }

    fn ip(&self, command: &str) -> Result<(), String> {
        let output = Command::new("ip").args(command.split(' ')).output().map_err(|e| format!("ip: {e}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("ip {command}: {}", text(&output).trim())),
        }
    }

    /// Starts the process of a machine.
    fn start(&self, machine: usize, folder: &Folder, out: &str) -> std::process::Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine), env!("CARGO_BIN_EXE_nepa")]).args(arguments());
        command.args(["--out", out]).current_dir(folder.path(""));
        let rank = machine.to_string();
        command.envs([("RANK", rank.as_str()), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")]);
        command.envs([("MASTER_ADDR", "10.203.77.1"), ("MASTER_PORT", "29511")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in 0..2 {
            let _ = self.ip(&format!("netns del {}", self.name(machine)));
        }
    }
}

#[test]
fn two_machines_train_together_and_notice_when_the_network_fails() {
    let machines = match Machines::new() {
        Ok(machines) => machines,
        Err(why) => return skip(&format!("network namespaces cannot be made here: {why}")),
    };
    // Nothing is shared but the network: only the first machine's disk has the run.
    let folders = [Folder::new(), Folder::new()];
    for folder in &folders {
        folder.write("recipe.rhai", RECIPE);
    }
    let start = |out| [0, 1].map(|machine| machines.start(machine, &folders[machine], out));
    for child in start("out") {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_eq!(steps_logged(&folders[0], "out").len(), 40);
    assert!(!folders[1].path("out").exists(), "the second machine writes nothing");
    let args: Vec<String> =
        [&arguments()[..], &["--nproc".into(), "2".into(), "--out".into(), "local".into()]].concat();
    folders[0].nepa(&args.iter().map(String::as_str).collect::<Vec<_>>()).succeeds();
    assert!(final_weights(&folders[0], "local") == final_weights(&folders[0], "out"), "the weights differ");

    // The cable is pulled: both end, each with the other to name.
    for folder in &folders {
        folder.write("recipe.rhai", RECIPE.replace("steps: 40", "steps: 1000000"));
    }
    let mut children = start("cut");
    let started = Instant::now();
    while !folders[0].path("cut/checkpoints").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(50));
    }
    machines.ip(&format!("-n {} link set nx{} down", machines.name(0), machines.0)).unwrap();
    let cut = Instant::now();
    let pieces = ["rank 1 has sent no heartbeat", "rank 0 is lost, and with it the store"];
    let [a, b] = &mut children;
    for (child, piece) in [a, b].into_iter().zip(pieces) {
        while child.try_wait().unwrap().is_none() {
            if cut.elapsed() > Duration::from_secs(100) {
                let _ = child.kill();
                panic!("does not end after the network has failed: {piece}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for (child, piece) in children.into_iter().zip(pieces) {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(piece), "says `{piece}`: {}", text(&output));
    }
}
