//! Progress of anything that takes longer than two seconds: a bar on a terminal, plain lines elsewhere, both with
//! steps, speed, time left and the latest values.

use crate::dist;
use crate::output::{err, out};
use crate::text::visible;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often plain lines are written.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

thread_local! {
    /// The bar on the screen, so that lines can be printed above it.
    static ACTIVE: RefCell<Option<ProgressBar>> = const { RefCell::new(None) };
}

/// Prints a line to stdout above the bar, on rank 0 only.
pub fn print_line(text: &str) {
    if !dist::is_rank0() {
        return;
    }
    super::log::write(text);
    let print = || out!("{text}");
    ACTIVE.with_borrow(|bar| match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    });
}

/// Prints a line to stderr above the bar, on rank 0 only.
pub fn note_line(text: &str) {
    if dist::is_rank0() {
        note_line_of_any(text);
    }
}

/// Prints a line to stderr on any rank: what concerns this rank alone.
pub fn note_line_of_any(text: &str) {
    super::log::write(text);
    let print = || err!("{}{text}", dist::rank_prefix());
    ACTIVE.with_borrow(|bar| match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    });
}

/// A bar on a terminal, plain lines elsewhere.
pub struct Progress {
    label: String,
    /// What is counted: "step".
    unit: &'static str,
    total: u64,
    done: u64,
    /// Steps that an earlier process did.
    before: u64,
    images: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
    values: String,
    /// Values of the last step, shown or not.
    latest: Map<String, Value>,
    finished: bool,
}

impl Progress {
    /// Progress of `total` steps.
    pub fn new(label: &str, total: u64) -> Self {
        Self::of("step", label, total)
    }

    /// Progress of `total` images, where each is a step.
    pub fn of_images(label: &str, total: u64) -> Self {
        Self::of("image", label, total)
    }

    fn of(unit: &'static str, label: &str, total: u64) -> Self {
        let bar = (dist::is_rank0() && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let template = "{prefix:>12} [{bar:24}] {pos}/{len} {msg}";
            bar.set_style(ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> "));
            bar.set_prefix(visible(label).into_owned());
            ACTIVE.set(Some(bar.clone()));
            bar
        });
        let now = Instant::now();
        Self {
            label: visible(label).into_owned(),
            unit,
            total,
            done: 0,
            before: 0,
            images: 0,
            started: now,
            last_line: now,
            bar,
            values: String::new(),
            latest: Map::new(),
            finished: false,
        }
    }

    /// Counts `done` steps that an earlier process did.
    pub fn resumed_after(mut self, done: u64) -> Self {
        (self.done, self.before) = (done, done);
        self
    }

    /// One step done, on `images` images, with the values to show.
    pub fn step(&mut self, images: u64, values: &Map<String, Value>) {
        self.done += 1;
        self.images += images;
        self.latest.clone_from(values);
        let due = self.last_line.elapsed() >= PLAIN_INTERVAL;
        if self.bar.is_none() && !due || !dist::is_rank0() {
            return;
        }
        self.values = words(values);
        let status = self.status();
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.set_message(status);
            }
            None => {
                self.last_line = Instant::now();
                err!("{}: {} {}/{}, {status}", self.label, self.unit, self.done, self.total);
            }
        }
    }

    fn status(&self) -> String {
        let elapsed = self.started.elapsed();
        let done = self.done - self.before;
        let left = elapsed.mul_f64((self.total.saturating_sub(self.done)) as f64 / done.max(1) as f64);
        let speed = match self.images {
            0 => format!("{:.1} steps/s", done as f64 / elapsed.as_secs_f64().max(1e-9)),
            n => format!("{:.0} images/s", n as f64 / elapsed.as_secs_f64().max(1e-9)),
        };
        let values = if self.values.is_empty() { String::new() } else { format!("{}, ", self.values) };
        format!("{values}{speed}, ETA {}", clock(left))
    }

    /// If it did not reach the end, prints how far it got and the last values.
    pub fn interrupted(&mut self) {
        if self.finished || self.done == self.before || !dist::is_rank0() {
            return;
        }
        if let Some(bar) = self.bar.take() {
            ACTIVE.set(None);
            bar.finish_and_clear();
        }
        let images = if self.images > 0 { format!(" ({} images)", self.images) } else { String::new() };
        let values = if self.latest.is_empty() { String::new() } else { format!(": {}", words(&self.latest)) };
        let (done, total, unit) = (self.done, self.total, self.unit);
        note_line(&format!("{}: interrupted after {done}/{total} {unit}s{images}{values}", self.label));
    }

    /// Leaves a last line behind: how long it took and the final values.
    pub fn finish(&mut self, values: &Map<String, Value>) {
        self.finished = true;
        if !dist::is_rank0() {
            return;
        }
        if !values.is_empty() {
            self.values = words(values);
        }
        if let Some(bar) = self.bar.take() {
            ACTIVE.set(None);
            bar.finish_and_clear();
        }
        let elapsed = self.started.elapsed();
        let speed = match self.images {
            0 => String::new(),
            n => format!(", {:.0} images/s", n as f64 / elapsed.as_secs_f64().max(1e-9)),
        };
        let values = if self.values.is_empty() { String::new() } else { format!(", {}", self.values) };
        let (done, total, unit) = (self.done, self.total, self.unit);
        err!("{}: {done}/{total} {unit}s in {}{speed}{values}", self.label, clock(elapsed));
    }
}

/// A line of metrics for people: "pretrain: step 30, epoch 2, loss -0.8123, lr 1.00e-3".
pub fn log_line(values: &Map<String, Value>) -> String {
    let mut rest = values.clone();
    let phase = match rest.shift_remove("phase") {
        Some(Value::String(phase)) => format!("{phase}: "),
        _ => String::new(),
    };
    // Step and epoch come first.
    let position = ["step", "epoch"].into_iter().filter_map(|name| rest.shift_remove_entry(name)).collect::<Vec<_>>();
    format!("{phase}{}", words(&position.into_iter().chain(rest).collect()))
}

/// "loss -0.8123, lr 1.0e-3"
fn words(values: &Map<String, Value>) -> String {
    let word = |v: &Value| match v {
        Value::Number(n) if n.is_f64() => {
            let x = n.as_f64().unwrap_or(f64::NAN);
            if x != 0.0 && x.abs() < 0.01 { format!("{x:.2e}") } else { format!("{x:.4}") }
        }
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let text = values.iter().map(|(k, v)| format!("{k} {}", word(v))).collect::<Vec<_>>().join(", ");
    visible(&text).into_owned()
}

/// A duration in words: "4.2s", "3m05s", "2h10m".
pub fn clock(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{:.1}s", d.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}
