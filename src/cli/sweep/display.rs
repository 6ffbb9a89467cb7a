//! How far a sweep has come: a line for each run and one for all, as bars on a terminal, as plain lines elsewhere.

use crate::output::err;
use crate::run::metrics::METRICS_FILE;
use crate::run::progress::{clock, log_line};
use crate::text::visible;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often plain lines are written.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How much of the end of a file is read to see how far a run has come.
const TAIL: u64 = 16 << 10;

/// A run that is running, as it is shown.
pub struct Shown {
    name: String,
    dir: PathBuf,
    /// What its process prints.
    log: PathBuf,
    started: Instant,
    bar: Option<ProgressBar>,
}

/// What is shown of a sweep.
pub struct Display {
    terminal: Option<(MultiProgress, ProgressBar)>,
    /// By slot.
    running: BTreeMap<usize, Shown>,
    slots: usize,
    total: usize,
    done: usize,
    failed: usize,
    waiting: usize,
    /// Seconds that the runs took that this process has seen from their beginning to their end.
    durations: Vec<f64>,
    last_lines: Instant,
}

impl Display {
    /// Of `total` runs, of which `done` were finished before and `waiting` are to be run, at most `slots` at once.
    pub fn new(total: usize, done: usize, waiting: usize, slots: usize) -> Self {
        let terminal = std::io::stderr().is_terminal().then(|| {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(4));
            let bar = multi.add(ProgressBar::new(total as u64).with_style(style("[{bar:24}] {msg}")));
            (multi, bar)
        });
        let (running, durations) = (BTreeMap::new(), Vec::new());
        Self { terminal, running, slots, total, done, failed: 0, waiting, durations, last_lines: Instant::now() }
    }

    /// Prints a line above what changes.
    pub fn line(&self, text: &str) {
        match &self.terminal {
            Some((multi, _)) => multi.suspend(|| err!("{text}")),
            None => err!("{text}"),
        }
    }

    /// A run has been started.
    pub fn started(&mut self, slot: usize, name: &str, dir: &Path, log: &Path, again: bool) {
        self.waiting = self.waiting.saturating_sub(1);
        let bar = self.terminal.as_ref().map(|(multi, all)| {
            let bar = multi.insert_before(all, ProgressBar::new(1000).with_style(style("  [{bar:10}] {msg}")));
            bar.set_message(visible(name).into_owned());
            bar
        });
        self.line(&format!("{name}: {}", if again { "resumed" } else { "started" }));
        let (name, dir, log) = (name.to_string(), dir.to_path_buf(), log.to_path_buf());
        self.running.insert(slot, Shown { name, dir, log, started: Instant::now(), bar });
        self.tick();
    }

    /// A run has ended: well, or for a reason.
    pub fn ended(&mut self, slot: usize, fault: Option<&str>) {
        let Some(shown) = self.running.remove(&slot) else { return };
        if let (Some(bar), Some((multi, _))) = (&shown.bar, &self.terminal) {
            bar.finish_and_clear();
            multi.remove(bar);
        }
        let took = shown.started.elapsed();
        match fault {
            None => {
                self.done += 1;
                self.durations.push(took.as_secs_f64());
                let last = last_metrics(&shown.dir).map(|values| format!(": {}", log_line(&values)));
                self.line(&format!("{}: finished in {}{}", shown.name, clock(took), last.unwrap_or_default()));
            }
            Some(fault) => {
                self.failed += 1;
                self.line(&format!("{}: {fault}", shown.name));
            }
        }
        self.tick();
    }

    /// Shows the present state: at once on a terminal, from time to time elsewhere.
    pub fn tick(&mut self) {
        let due = self.last_lines.elapsed() >= PLAIN_INTERVAL;
        if self.terminal.is_none() && !due {
            return;
        }
        let states: Vec<Status> = self.running.values().map(|shown| Status::of(&shown.dir, &shown.log)).collect();
        let overall = self.overall(&states);
        match &self.terminal {
            Some((_, all)) => {
                for (shown, status) in self.running.values().zip(&states) {
                    let Some(bar) = &shown.bar else { continue };
                    bar.set_position((status.fraction.unwrap_or(0.0) * 1000.0) as u64);
                    bar.set_message(visible(&format!("{}  {}", shown.name, status.words)).into_owned());
                }
                all.set_position((self.done + self.failed) as u64);
                all.set_message(overall);
            }
            None => {
                self.last_lines = Instant::now();
                for (shown, status) in self.running.values().zip(&states) {
                    err!("{}: {}", shown.name, status.words);
                }
                err!("{overall}");
            }
        }
    }

    /// "3 of 8 done, 1 failed, 2 running, ETA 4m10s"
    fn overall(&self, states: &[Status]) -> String {
        let mut parts = vec![format!("{} of {} done", self.done, self.total)];
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.push(format!("{} running", self.running.len()));
        if let Some(left) = self.time_left(states) {
            parts.push(format!("ETA {}", clock(left)));
        }
        parts.join(", ")
    }

    /// From what a run has taken so far, or else from how far those are that run.
    fn time_left(&self, states: &[Status]) -> Option<Duration> {
        let elapsed: Vec<f64> = self.running.values().map(|shown| shown.started.elapsed().as_secs_f64()).collect();
        let projected = elapsed.iter().zip(states).filter_map(|(seconds, status)| {
            let fraction = status.fraction.filter(|fraction| *fraction > 0.02)?;
            Some(seconds / fraction)
        });
        let mut known = self.durations.clone();
        if known.is_empty() {
            known.extend(projected);
        }
        if known.is_empty() {
            return None;
        }
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let begun = elapsed.iter().map(|seconds| (mean - seconds).max(0.0));
        let longest = begun.clone().fold(0.0, f64::max);
        let work = self.waiting as f64 * mean + begun.sum::<f64>();
        Some(Duration::from_secs_f64((work / self.slots as f64).max(longest)))
    }

    /// Removes what changes from the screen.
    pub fn finish(&mut self) {
        if let Some((multi, _)) = self.terminal.take() {
            let _ = multi.clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ")
}

/// How far a run has come.
struct Status {
    words: String,
    /// Of its present loop.
    fraction: Option<f64>,
}

impl Status {
    /// By the last progress that it has printed, else by its last line of metrics.
    fn of(dir: &Path, log: &Path) -> Self {
        let text = tail(log).unwrap_or_default();
        if let Some((line, fraction)) = text.lines().rev().find_map(|line| Some((line, progress(line)?))) {
            return Self { words: line.to_string(), fraction: Some(fraction) };
        }
        let words = last_metrics(dir).map_or("starting".to_string(), |values| log_line(&values));
        Self { words, fraction: None }
    }
}

/// The fraction that a line of progress tells: "pretrain: step 30/100, loss 0.5, ETA 3.0s".
fn progress(line: &str) -> Option<f64> {
    if !line.contains(", ETA ") {
        return None;
    }
    let counts = line.split_once(": ")?.1.split_once(' ')?.1.split(',').next()?;
    let (done, total) = counts.split_once('/')?;
    let (done, total) = (done.parse::<f64>().ok()?, total.parse::<f64>().ok()?);
    (total > 0.0).then(|| (done / total).clamp(0.0, 1.0))
}

/// The last whole line of a run's metrics.
fn last_metrics(dir: &Path) -> Option<Map<String, Value>> {
    let text = tail(&dir.join(METRICS_FILE))?;
    text.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

/// The end of a file.
fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok().filter(|about| about.is_file())?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::progress;

    #[test]
    fn a_line_of_progress_tells_how_far_a_run_is() {
        assert_eq!(progress("pretrain: step 30/120, loss 0.5, 10 images/s, ETA 3.0s"), Some(0.25));
        assert_eq!(progress("evaluate: image 5/10, 10 images/s, ETA 3.0s"), Some(0.5));
        assert_eq!(progress("note: 3/4 of the images, ETA unknown"), None);
        assert_eq!(progress("pretrain: 120/120 steps in 3.0s"), None);
    }
}
