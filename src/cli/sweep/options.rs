//! What the runs of a sweep share out, and the commands that start them.

use super::SweepArgs;
use super::plan::{PlannedRun, RunOptions};
use super::values::{SEED, text};
use crate::cli::sweep::SweepFile;
use crate::error::Result;
use crate::text::shell_word;
use std::path::Path;
use tch::{Cuda, Device};

/// Where runs are executed, each at a time.
pub struct Slots {
    /// The GPUs of each, as CUDA_VISIBLE_DEVICES has them; none: those that this process sees.
    pub environments: Vec<Option<String>>,
    /// CPU threads of each process; none: `nepa run` chooses.
    pub threads: Option<u16>,
    processes: usize,
    gpus: usize,
}

impl Slots {
    /// So many as are asked for, but no more than there are runs.
    pub fn new(jobs: u16, options: &RunOptions, device: Device, runs: usize) -> Result<Self> {
        let slots = usize::from(jobs).min(runs.max(1));
        let processes = usize::from(options.nproc.unwrap_or(1));
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = (slots > 1).then(|| (cores / (slots * processes)).max(1) as u16);
        let names_one = options.device.as_deref().is_some_and(|name| name.contains(':'));
        let all = if device.is_cuda() && !names_one && slots > 1 { visible_gpus() } else { Vec::new() };
        let environments = share(&all, slots, processes);
        let gpus = all.len();
        Ok(Self { environments, threads: options.threads.or(shared), processes, gpus })
    }

    /// How many runs there are at a time, and on what.
    pub fn words(&self) -> String {
        let slots = self.environments.len();
        let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let mut words = format!("{} at a time", plural(slots, "run"));
        if self.processes > 1 {
            words += &format!(", {} each", plural(self.processes, "process").replace("processs", "processes"));
        }
        if let Some(threads) = self.threads {
            let each = if self.processes > 1 { "a process" } else { "each" };
            words += &format!(", {} {each}", plural(threads.into(), "CPU thread"));
        }
        let mut own: Vec<&String> = self.environments.iter().flatten().collect();
        own.sort();
        own.dedup();
        match (own.len(), self.gpus) {
            (_, 0) => {}
            (0, gpus) => words += &format!(", sharing {}", plural(gpus, "GPU")),
            (groups, gpus) if groups < slots => words += &format!(", sharing {}", plural(gpus, "GPU")),
            _ => words += &format!(", each on {} of its own", plural(self.processes, "GPU")),
        }
        words
    }
}

/// The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them.
fn visible_gpus() -> Vec<String> {
    let count = Cuda::device_count().max(0) as usize;
    let named = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let named: Vec<String> = named.split(',').map(|name| name.trim().to_string()).filter(|n| !n.is_empty()).collect();
    if named.len() >= count { named[..count].to_vec() } else { (0..count).map(|n| n.to_string()).collect() }
}

/// Shares GPUs out among slots, so many to each as a run has processes. Where there are too few, slots share them.
fn share(gpus: &[String], slots: usize, processes: usize) -> Vec<Option<String>> {
    let groups: Vec<String> = gpus.chunks_exact(processes).map(|group| group.join(",")).collect();
    if groups.len() < 2 {
        return vec![None; slots];
    }
    (0..slots).map(|slot| Some(groups[slot % groups.len()].clone())).collect()
}

/// What the command line says takes the place of what the sweep had.
pub fn merge(options: &mut RunOptions, args: &SweepArgs) {
    if args.device.is_some() {
        options.device.clone_from(&args.device);
    }
    options.threads = args.threads.or(options.threads);
    options.nproc = args.nproc.or(options.nproc);
    options.dist_timeout = args.dist_timeout.or(options.dist_timeout);
    options.seed = args.seed.or(options.seed);
}

/// The words after `nepa` that start a run of a sweep, or resume it.
pub fn run_arguments(
    file: &SweepFile,
    run: &PlannedRun,
    dir: &Path,
    stdlib: Option<&Path>,
    threads: Option<u16>,
    allowed: &[String],
) -> Vec<String> {
    let mut words = vec!["run".to_string(), file.recipe.clone()];
    let mut add = |name: &str, value: String| words.extend([name.to_string(), value]);
    let mut seed = file.options.seed.map(|seed| seed.to_string());
    for (name, value) in &run.params {
        match name == SEED && file.seed_is_option {
            true => seed = Some(text(value)),
            false => add("--set", format!("{name}={}", text(value))),
        }
    }
    if let Some(seed) = seed {
        add("--seed", seed);
    }
    let options = &file.options;
    if let Some(device) = &options.device {
        add("--device", device.clone());
    }
    let numbers = [
        ("--threads", threads.map(u64::from)),
        ("--nproc", options.nproc.filter(|n| *n > 1).map(u64::from)),
        ("--dist-timeout", options.dist_timeout),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            add(name, value.to_string());
        }
    }
    if let Some(stdlib) = stdlib {
        add("--stdlib", stdlib.display().to_string());
    }
    for name in allowed {
        add("--allow-change", name.clone());
    }
    add("--out", dir.join(&run.name).display().to_string());
    words
}

/// The command that goes on with a sweep.
pub fn resuming_command(args: &SweepArgs, dir: &Path, stdlib: Option<&Path>, slots: &Slots) -> String {
    let option = |name: &str, value: &str| format!("{name} {}", shell_word(value));
    let mut words = vec!["nepa sweep".to_string(), option("--resume", &dir.display().to_string())];
    let jobs = slots.environments.len().max(args.jobs.into());
    if jobs > 1 {
        words.push(format!("--jobs {jobs}"));
    }
    words.extend(args.allow_change.iter().map(|name| option("--allow-change", name)));
    words.extend(args.metric.iter().map(|name| option("--metric", name)));
    words.extend(stdlib.map(|stdlib| option("--stdlib", &stdlib.display().to_string())));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_gpus_of_its_own_while_there_are_enough() {
        let gpus: Vec<String> = ["4", "5", "6", "7"].map(String::from).to_vec();
        let shared = |slots, processes| {
            share(&gpus, slots, processes).into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>()
        };
        assert_eq!(shared(2, 1), ["4", "5"]);
        assert_eq!(shared(2, 2), ["4,5", "6,7"]);
        assert_eq!(shared(3, 2), ["4,5", "6,7", "4,5"]);
        // One group for all: they see what this process sees.
        assert_eq!(shared(2, 4), ["", ""]);
    }
}
