//! `metrics.jsonl`: what a run logs, one JSON object per line, without gaps or repeats even if the run was killed and
//! resumed.
//!
//! A resumed recipe starts at its first line, and logs again what it logged before its checkpoint. When it has found
//! that checkpoint, what the checkpoint says was logged takes their place. Until the run goes on, lines are only kept
//! in memory.
//!
//! The TensorBoard event file beside it holds the same numbers.

use crate::error::{Context as _, Result};
use crate::files::write_atomic;
use crate::run::tensorboard::{self, EVENTS_FILE, EventFile};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file's name in a run directory.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// The open file, and what is still to be written to it.
pub struct Metrics {
    path: PathBuf,
    file: File,
    /// Lines that are not in the file yet: it waits for a checkpoint, or could not be written.
    pending: Vec<u8>,
    waits: bool,
    failing: bool,
    /// `None` if it could not be written: it is rewritten when a loop starts and when the run ends.
    events: Option<EventFile>,
}

impl Metrics {
    /// The metrics of a run directory. Nothing is written before [`Metrics::begin`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(METRICS_FILE);
        let file = append_to(&path)?;
        Ok(Self { path, file, pending: Vec::new(), waits: true, failing: false, events: None })
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

    /// Called when nothing more will be logged.
    pub fn end(&mut self) -> Option<String> {
        if self.events.is_none() && !self.waits {
            self.rewrite_events();
        }
        self.flush()
    }

    /// Writes what is pending, unless it waits.
    pub fn flush(&mut self) -> Option<String> {
        if self.waits {
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
        let mut all = match self.waits {
            true => Vec::new(),
            false => std::fs::read(&self.path).with_context(|| format!("cannot read {}", self.path.display()))?,
        };
        all.extend(&self.pending);
        Ok(all)
    }

    /// Makes `content` what was logged so far.
    pub fn set(&mut self, content: &[u8]) -> Result<()> {
        self.pending = content.to_vec();
        if self.waits { Ok(()) } else { self.begin() }
    }

    /// Makes the lines that have waited the content of the file, to which later ones are appended.
    pub fn begin(&mut self) -> Result<()> {
        write_atomic(&self.path, &self.pending)?;
        self.pending.clear();
        self.file = append_to(&self.path)?;
        self.waits = false;
        self.rewrite_events();
        Ok(())
    }
}

fn append_to(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}
