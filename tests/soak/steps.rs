//! Many steps: memory, open files and threads stay as they are.

use crate::common::{Folder, TINY};
use crate::{Row, Soak, panics};
use std::time::{Duration, Instant};

const STEPS: usize = 20_000;
/// Growth from the second quarter of the samples to the last: what the allocator may keep, and the run's history.
const MOST_GROWTH: f64 = 8.0;

/// What a process has at a moment.
struct Sample {
    megabytes: f64,
    files: usize,
    threads: usize,
}

pub fn soak(soak: &Soak) -> Vec<Row> {
    let steps = soak.scaled(STEPS);
    let mut note = String::new();
    let failure = panics(|| {
        let samples = samples(steps);
        let quarter = samples.len() / 4;
        let [early, late] = [&samples[quarter..2 * quarter], &samples[3 * quarter..]];
        let most = |of: &[Sample], get: fn(&Sample) -> usize| of.iter().map(get).max().unwrap();
        let megabytes = |of: &[Sample]| {
            let mut all: Vec<f64> = of.iter().map(|sample| sample.megabytes).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let (files, threads): (fn(&Sample) -> usize, fn(&Sample) -> usize) = (|s| s.files, |s| s.threads);
        note = format!(
            "{} samples; second and last quarter: {:.1} and {:.1} MB, at most {} and {} files, {} and {} threads",
            samples.len(),
            megabytes(early),
            megabytes(late),
            most(early, files),
            most(late, files),
            most(early, threads),
            most(late, threads)
        );
        assert!(megabytes(late) - megabytes(early) < MOST_GROWTH, "memory grows: {note}");
        assert!(most(late, files) <= most(early, files), "open files grow: {note}");
        assert!(most(late, threads) <= most(early, threads), "threads grow: {note}");
    });
    let failures = failure.into_iter().collect();
    vec![Row { what: "steps: nothing grows".into(), points: steps, failures, note }]
}

/// Runs so many steps, in epochs of 16, and looks at the process again and again.
fn samples(steps: usize) -> Vec<Sample> {
    let folder = Folder::new();
    let recipe = format!(
        "import \"std/pretrain\" as pretrain;\n\
         let images = data::synthetic(#{{ len: 64, size: 8, classes: 2, seed: 1 }});\n\
         pretrain::fit(nn::vit_nepa({TINY}), images, #{{ steps: {steps}, batch: 4, log_every: 50, save_every: 500 }});\n"
    );
    folder.write("recipe.rhai", recipe);
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "o"];
    // Started once: the process that is looked at is the one that runs.
    let mut running = folder.start(&args, &[("GOMP_SPINCOUNT", "1000")]);
    let mut samples = Vec::new();
    while !running.ended_before(Instant::now() + Duration::from_millis(200)) {
        samples.extend(sample(running.id()));
        if samples.len() % 50 == 0 {
            eprintln!("steps: {} samples, {:.0} MB", samples.len(), samples.last().map_or(0.0, |s| s.megabytes));
        }
    }
    running.finish().succeeds();
    samples
}

/// Nothing if the process has ended.
fn sample(pid: u32) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some(Sample { megabytes: number("VmRSS:")? as f64 / 1024.0, files, threads: number("Threads:")? })
}
