//! `metrics.jsonl`: what a run logs, one JSON object per line, without gaps or repeats even if the run was killed and
//! resumed.
//!
//! A resumed recipe starts at its first line, and logs again what it logged before its checkpoint. When it has found
//! that checkpoint, what the checkpoint says was logged takes their place: the file is rolled back to it. Nothing else
//! shortens the file, and the lines that are cut off then are kept in `metrics.cut.jsonl`. Until the run goes on, lines
//! are only kept in memory.
//!
//! The TensorBoard event file beside it holds the same numbers.

use crate::error::{Context as _, Result, ensure};
use crate::files::{exists, write_atomic};
use crate::run::tensorboard::{self, EVENTS_FILE, EventFile};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name in a run directory.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// The file that keeps the lines that were cut off when a run was rolled back to a checkpoint.
pub const CUT_FILE: &str = "metrics.cut.jsonl";

/// The open file, and what is still to be written to it.
pub struct Metrics {
    path: PathBuf,
    file: File,
    /// Lines that are not in the file yet: it waits for a checkpoint, or could not be written.
    pending: Vec<u8>,
    waits: bool,
    /// Whether the pending lines are all that was logged: the file is rolled back to them. Else they come after its own.
    rolled_back: bool,
    /// Where what this attempt has added begins, in bytes of all that was logged.
    own: usize,
    failing: bool,
    /// `None` if it could not be written: it is rewritten when a loop starts and when the run ends.
    events: Option<EventFile>,
}

impl Metrics {
    /// The metrics of a run directory. Nothing is written before [`Metrics::begin`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(METRICS_FILE);
        let file = append_to(&path)?;
        Ok(Self {
            path,
            file,
            pending: Vec::new(),
            waits: true,
            rolled_back: false,
            own: 0,
            failing: false,
            events: None,
        })
    }

    /// Appends one line. A failed write loses nothing: it is retried with the next line. Returns a warning for the
    /// user, once.
    pub fn log(&mut self, values: &Map<String, Value>) -> Option<String> {
        let line = serde_json::to_string(values).expect("plain data are JSON");
        self.pending.extend(line.as_bytes());
        self.pending.push(b'\n');
        if let Some(events) = &mut self.events
            && events.line(values).is_err()
        {
            self.events = None;
        }
        self.flush()
    }

    /// Writes the event file from what was logged. It only mirrors the metrics: a failure loses nothing.
    fn rewrite_events(&mut self) {
        let path = self.path.with_file_name(EVENTS_FILE);
        let lines = self.content().unwrap_or_default();
        let lines = lines.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        self.events = tensorboard::rewrite(&path, lines).and_then(|()| EventFile::append(&path)).ok();
    }

    /// Called when nothing more will be logged, unless it waits. It is an error if lines are left that cannot be written.
    pub fn end(&mut self) -> Result<()> {
        if self.rolled_back {
            self.begin()?;
        }
        self.flush();
        if self.events.is_none() {
            self.rewrite_events();
        }
        let left = self.pending.iter().filter(|b| **b == b'\n').count();
        ensure!(left == 0, "{left} lines of {} could not be written", self.path.display());
        Ok(())
    }

    /// Writes what is pending, unless it waits or the file is not rolled back yet.
    pub fn flush(&mut self) -> Option<String> {
        if self.waits || self.rolled_back {
            return None;
        }
        let failing = std::mem::replace(&mut self.failing, false);
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => break,
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.failing = true;
                    let warning = format!(
                        "cannot write {}: {e}; its lines are kept, and writing is tried again",
                        self.path.display()
                    );
                    return (!failing).then_some(warning);
                }
            }
        }
        None
    }

    /// Everything that was logged.
    pub fn content(&self) -> Result<Vec<u8>> {
        let mut all = if self.rolled_back { Vec::new() } else { read(&self.path)? };
        all.extend(&self.pending);
        Ok(all)
    }

    /// Rolls the file back: makes `content`, what a checkpoint says was logged, all that was logged so far. If this
    /// attempt has made steps before, in another loop, their lines stay, after those of `content`.
    pub fn roll_back(&mut self, content: &[u8]) -> Result<()> {
        let all = if self.waits { Vec::new() } else { self.content()? };
        let lines =
            |bytes: &'_ [u8]| -> Vec<Vec<u8>> { bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect() };
        let known: HashSet<Vec<u8>> = lines(content).into_iter().collect();
        let own = lines(all.get(self.own..).unwrap_or_default()).into_iter().filter(|line| !known.contains(line));
        self.pending = content.to_vec();
        self.pending.extend(own.flatten());
        self.own = content.len();
        self.rolled_back = true;
        if self.waits { Ok(()) } else { self.begin() }
    }

    /// Writes the lines that have waited; later ones are appended to them.
    pub fn begin(&mut self) -> Result<()> {
        if !self.rolled_back {
            // A line that was cut short, by a power failure say, is no line.
            let mut whole = read(&self.path)?;
            let end = whole.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
            if end < whole.len() {
                whole.truncate(end);
                self.pending.splice(..0, whole);
                self.rolled_back = true;
            }
            self.own = end;
        }
        // If a part of this fails, all of it can be done again.
        if self.rolled_back {
            self.keep_cut_lines()?;
            write_atomic(&self.path, &self.pending)?;
            self.file = append_to(&self.path)?;
            self.pending.clear();
            self.rolled_back = false;
        }
        self.waits = false;
        self.rewrite_events();
        Ok(())
    }

    /// Adds the lines of the file that the pending ones do not have to those that were cut off before.
    fn keep_cut_lines(&self) -> Result<()> {
        let old = read(&self.path)?;
        let equal = old.iter().zip(&self.pending).take_while(|(a, b)| a == b).count();
        if equal == old.len() {
            return Ok(());
        }
        let line = old[..equal].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        let path = self.path.with_file_name(CUT_FILE);
        let mut cut = if exists(&path)? { read(&path)? } else { Vec::new() };
        let mut lines = old[line..].to_vec();
        if !lines.ends_with(b"\n") {
            lines.push(b'\n');
        }
        // A process that was killed after this has kept them already.
        if cut.ends_with(&lines) {
            return Ok(());
        }
        cut.extend(lines);
        write_atomic(&path, &cut)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn append_to(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}
