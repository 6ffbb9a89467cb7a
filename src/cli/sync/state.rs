//! `sync-CLIENT.json` in a run directory: what of the run has been sent to a client, and as which run of the client's.
//!
//! Lines of metrics have no identity of their own: when a run is resumed from a checkpoint, its last steps are logged
//! once more. They are told by phase, step, and how often the phase has begun anew at a smaller step.

use super::client::To;
use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::files::{read_json, write_atomic};
use crate::run::inside;
use crate::run::schema::to_json;
use crate::untrusted::MOST_TEXT;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// What has been sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The client's name for the run; none before it has one.
    pub id: Option<String>,
    /// The project, experiment or folder that it is in.
    pub project: Option<String>,
    /// The name that it was given.
    pub name: String,
    /// Rows sent so far, of all kinds.
    pub rows: u64,
    /// What has been sent of each phase of the metrics.
    pub phases: BTreeMap<String, Phase>,
    /// Lines sent of each file of what the machine does.
    pub system: BTreeMap<String, u64>,
    /// Checksums of files, and of the other things that change as a whole, as they were sent last.
    pub sent: BTreeMap<String, String>,
}

/// What has been sent of a phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Phase {
    /// For each time that it began at a smaller step than the line before: the last step, and its lines.
    pub passes: Vec<(i64, u64)>,
    /// Lines without a step.
    pub stepless: u64,
}

/// Where in its phase a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A pass, the step, and the number of the line among those of this step, from 1.
    Step(usize, i64, u64),
    /// The number of the line among those without a step, from 1.
    Stepless(u64),
}

impl Phase {
    /// Whether the line at a place has been sent.
    pub fn has(&self, place: Place) -> bool {
        match place {
            Place::Step(pass, step, number) => self.passes.get(pass).is_some_and(|sent| (step, number) <= *sent),
            Place::Stepless(number) => number <= self.stepless,
        }
    }

    /// Records that the line at a place has been sent.
    pub fn add(&mut self, place: Place) {
        match place {
            Place::Step(pass, step, number) => match self.passes.get_mut(pass) {
                Some(sent) => *sent = (step, number),
                None => self.passes.push((step, number)),
            },
            Place::Stepless(number) => self.stepless = number,
        }
    }
}

/// The state as a file, which no other process uses meanwhile.
pub struct StateFile {
    /// What it holds, and what is to be written.
    pub state: State,
    path: PathBuf,
    _lock: File,
}

impl StateFile {
    /// Opens that of a run directory, or begins one. It is written at once: what is sent can be recorded.
    pub fn open(dir: &Path, to: To) -> Result<Self> {
        let (name, lock) = (name_of(to), format!(".sync-{to}.lock"));
        for name in [&name, &lock] {
            inside::check(dir, name, MOST_TEXT)?;
        }
        let path = dir.join(&name);
        let recording = || format!("cannot record in {} what is sent", dir.display());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(lock));
        let file = file.with_context(recording)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => bail_hint!(
                "{} is being sent to {to} by another process", dir.display();
                "wait for it; a run that was started with --log sends itself"
            ),
            // A file system without locks is used as it is.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let state: State = if path.is_file() { read_json(&path)? } else { State::default() };
        let is_plain = |id: &String| !id.is_empty() && !id.starts_with('.') && !id.contains(['\\', '\n']);
        if !state.id.iter().all(is_plain) || to != To::Tensorboard && state.id.iter().any(|id| id.contains('/')) {
            bail_hint!("{}: `id` is none of {to}'s", path.display(); "remove the file to send the run anew");
        }
        let file = Self { state, path, _lock: file };
        file.write().with_context(recording)?;
        Ok(file)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the state.
    pub fn write(&self) -> Result<()> {
        write_atomic(&self.path, &to_json(&self.state)?)
    }
}

/// The name of the file in a run directory.
pub fn name_of(to: To) -> String {
    format!("sync-{to}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_sent_once() {
        let mut phase = Phase::default();
        let places = [
            Place::Step(0, 10, 1),
            Place::Step(0, 10, 2),
            Place::Step(0, 20, 1),
            Place::Step(1, 5, 1),
            Place::Stepless(1),
        ];
        for place in places {
            assert!(!phase.has(place), "{place:?}");
            phase.add(place);
            assert!(phase.has(place), "{place:?}");
        }
        assert!(places.into_iter().all(|place| phase.has(place)));
        assert!(phase.has(Place::Step(0, 15, 7)) && !phase.has(Place::Step(0, 20, 2)));
        assert!(!phase.has(Place::Step(1, 6, 1)) && !phase.has(Place::Step(2, 1, 1)) && !phase.has(Place::Stepless(2)));
    }
}
