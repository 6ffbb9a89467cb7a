//! What the machine is, as its driver and nepa see it.

use super::{Check, Deadline, Section, Trouble, count};
use serde_json::{Value, json};
use std::{env, fs, path::Path, process::Command, thread, time::Duration};

pub const ASKS: &str = "The machine, and the TFLOP/s that plain matrix products reach on it (`matmul_rate`).";

const QUERY: &str = "--query-gpu=name,driver_version,memory.total,compute_cap,power.limit";

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    // nepa first: where it finds no GPU, that is all there is to say.
    let out = check.work.join("device");
    let more = ["--out".to_string(), out.display().to_string()];
    let answer = check.run("device", &check.script("device.rhai"), "cuda", &more, deadline)?.answer()?;
    let number = |name: &str| answer[name].as_f64().unwrap_or_default();
    check.gpus = answer["gpus"].as_u64().unwrap_or_default();
    check.matmul_rate = answer["bfloat16"].as_f64();

    let cards = cards(check, deadline);
    let cores = thread::available_parallelism().map_or(0, |n| n.get());
    let card = cards.first().map_or("no answer from nvidia-smi, which knows the name", String::as_str);
    let rates = [("bfloat16", "bfloat16"), ("TF32", "tf32"), ("float32", "float32")]
        .map(|(word, name)| format!("{word} {:.1}", number(name) / 1e12))
        .join(", ");
    let (gpus, cpus) = (count(check.gpus, "GPU"), count(cores as u64, "CPU core"));
    section.headline = format!("{gpus}: {card}; TFLOP/s: {rates}; {cpus}");
    section.line(format!("GPUs that libtorch sees: {}", check.gpus));
    section.line(format!(
        "nvidia-smi (name, driver, memory, compute capability, power limit): {}",
        if cards.is_empty() { "no answer".into() } else { cards.join("; ") }
    ));
    let gigabytes = |name: &str| answer["memory"][name].as_f64().unwrap_or_default() / 1e9;
    section.line(format!("memory of the GPU: {:.1} GB, of which {:.1} GB free", gigabytes("total"), gigabytes("free")));
    section.line(format!("plain matrix products, TFLOP/s: {rates}"));
    let (versions, commit) = (versions(&out), commit(&check.checkout));
    section.line(format!("versions: {versions}, commit {commit}"));
    section.line(format!("{cpus}, {} {}", env::consts::OS, env::consts::ARCH));
    // Not their values, which are paths.
    let set: Vec<&str> = VARIABLES.into_iter().filter(|name| env::var_os(name).is_some()).collect();
    section.line(format!(
        "of {}, set: {}",
        VARIABLES.join(", "),
        if set.is_empty() { "none".into() } else { set.join(", ") }
    ));
    section.set("measured", answer);
    section.set("cards", cards.into());
    section.set("cores", cores.into());
    section.set("versions", versions);
    section.set("commit", commit.into());
    section.set("environment", json!(set));
    Ok(())
}

const VARIABLES: [&str; 5] =
    ["CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF", "NEPA_STDLIB"];

/// What the run directory names.
fn versions(run: &Path) -> Value {
    let run = fs::read_to_string(run.join("run.json")).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    run.map_or(Value::Null, |run| run["versions"].clone())
}

/// A line for each GPU of the machine, where nvidia-smi is there and answers.
fn cards(check: &Check, deadline: Deadline) -> Vec<String> {
    let mut command = check.program(Path::new("nvidia-smi"));
    command.args([QUERY, "--format=csv,noheader"]);
    let ended = check.runner.run("nvidia-smi", &mut command, deadline.within(Duration::from_secs(15)), &mut || None);
    match ended.and_then(|ended| ended.succeeded()) {
        Ok(ended) => ended.out.lines().map(str::to_string).collect(),
        Err(_) => Vec::new(),
    }
}

/// The checkout's commit, where git knows it.
fn commit(checkout: &Path) -> String {
    let output = Command::new("git").arg("-C").arg(checkout).args(["rev-parse", "--short", "HEAD"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        _ => "unknown".into(),
    }
}
