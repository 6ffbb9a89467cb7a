//! `cargo xtask soak`: attacks on runs that take too long for the tests. Each point is tried with the real program in a
//! folder of its own; the table at the end says how many there were, and how many the runs survived.

#[path = "../it/common/mod.rs"]
#[allow(dead_code, unused_imports)]
mod common;
mod damage;
mod faults;
#[cfg(target_os = "linux")]
mod gpu;
mod kills;
mod steps;

use clap::{Parser, ValueEnum};
use rand::{SeedableRng, rngs::StdRng};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(name = "cargo xtask soak", about = "Attacks runs for hours, and says how many attacks they survived")]
struct Args {
    /// What to do; everything if none is given
    parts: Vec<Part>,
    /// Seed of the moments and places of attacks
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How much of it to do, such as 0.01 for a trial
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Only lines of the table that have this text
    #[arg(long, default_value = "")]
    only: String,
    /// Runs at the same time; as many as there are cores by default
    #[arg(long)]
    jobs: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// 1,000 SIGKILLs at random moments of pretraining, fine-tuning, evaluation and two processes, each resumed
    Kills,
    /// Every file of a checkpoint damaged at 200 places
    Damage,
    /// 20,000 steps with constant memory, open files and threads
    Steps,
    /// Every system call on a run's files fails in turn, or the run is killed at it
    Faults,
    /// A simulated GPU's memory runs out at every allocation of a run, and it is lost at every launch
    #[cfg(target_os = "linux")]
    Gpu,
}

/// What all parts need to know.
struct Soak {
    seed: u64,
    scale: f64,
    only: String,
    jobs: usize,
}

/// A line of the table.
struct Row {
    what: String,
    points: usize,
    failures: Vec<String>,
    /// What else was measured, in words.
    note: String,
}

impl Soak {
    /// A number of points, scaled; at least one.
    fn scaled(&self, points: usize) -> usize {
        ((points as f64 * self.scale).round() as usize).max(1)
    }

    /// Random numbers that depend on the seed and on what they are for.
    fn random(&self, of: &str, number: usize) -> StdRng {
        let key = format!("{} {of} {number}", self.seed);
        StdRng::seed_from_u64(u64::from(crc32fast::hash(key.as_bytes())) << 32 | number as u64)
    }

    /// An even choice of the points that the scale allows.
    fn sample<T>(&self, all: Vec<T>) -> Vec<T> {
        let (number, wanted) = (all.len(), self.scaled(all.len()));
        let chosen = |i: &usize| (i + 1) * wanted / number > i * wanted / number;
        all.into_iter().enumerate().filter(|(i, _)| chosen(i)).map(|(_, point)| point).collect()
    }

    /// Whether a line of the table is wanted.
    fn wants(&self, what: &str) -> bool {
        what.contains(&self.only)
    }

    /// Tries each point, several at the same time. One that panics has failed.
    fn try_all<T: Display + Send>(&self, what: &str, points: Vec<T>, one: impl Fn(&T) + Sync) -> Row {
        let number = points.len();
        let open = Mutex::new(points.into_iter().enumerate());
        let progress = Mutex::new(Progress::new(what, number));
        let failures = Mutex::new(Vec::new());
        let work = || {
            while let Some((_, point)) = { open.lock().unwrap().next() } {
                let failure = panics(|| one(&point));
                if let Some(words) = &failure {
                    eprintln!("{what}: {point}: FAILED: {words}");
                    failures.lock().unwrap().push(format!("{point}: {words}"));
                }
                progress.lock().unwrap().step(1);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(work);
            }
        });
        Row { what: what.into(), points: number, failures: failures.into_inner().unwrap(), note: String::new() }
    }
}

/// The words of a panic, if there is one.
fn panics(work: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(work)).err()?;
    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
    Some(text.unwrap_or_default())
}

/// A line after each twentieth of the points.
struct Progress {
    what: String,
    number: usize,
    done: usize,
    started: Instant,
}

impl Progress {
    fn new(what: &str, number: usize) -> Self {
        Progress { what: what.into(), number, done: 0, started: Instant::now() }
    }

    fn step(&mut self, points: usize) {
        let part = |done: usize| done.min(self.number) * 20 / self.number;
        let told = part(self.done);
        self.done += points;
        if part(self.done) > told {
            eprintln!("{}: {} of {}, {:.0} s", self.what, self.done, self.number, self.started.elapsed().as_secs_f64());
        }
    }
}

/// A part's lines of the table; one that could not begin is a line that failed.
fn rows(soak: &Soak, part: Part) -> Vec<Row> {
    let mut rows = Vec::new();
    let failure = panics(|| {
        rows = match part {
            Part::Kills => kills::soak(soak),
            Part::Damage => damage::soak(soak),
            Part::Steps => steps::soak(soak),
            Part::Faults => faults::soak(soak),
            #[cfg(target_os = "linux")]
            Part::Gpu => gpu::soak(soak),
        }
    });
    let what = part.to_possible_value().map_or(String::new(), |value| value.get_name().to_string());
    rows.extend(failure.map(|words| Row { what, points: 1, failures: vec![words], note: "could not begin".into() }));
    rows
}

fn main() -> ExitCode {
    let Args { mut parts, seed, scale, only, jobs } = Args::parse();
    if parts.is_empty() {
        parts = Part::value_variants().to_vec();
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let soak = Soak { seed, scale, only, jobs: jobs.unwrap_or(cores) };
    // The machine may have other work for the hours that this takes.
    common::DEADLINE.get_or_init(|| Duration::from_secs(600));
    // What fails is told point by point.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let rows: Vec<Row> = parts.into_iter().flat_map(|part| rows(&soak, part)).collect();

    println!("\n{:<44}{:>8}{:>10}{:>8}", "", "points", "survived", "failed");
    for Row { what, points, failures, note } in &rows {
        let failed = failures.len();
        println!("{what:<44}{points:>8}{:>10}{failed:>8}  {note}", points.saturating_sub(failed));
    }
    println!("seed {seed}, scale {scale}, {:.0} s", started.elapsed().as_secs_f64());
    for Row { what, failures, .. } in &rows {
        for failure in failures {
            println!("\n{what}: {failure}");
        }
    }
    ExitCode::from(u8::from(rows.iter().any(|row| !row.failures.is_empty())))
}
