//! What a run writes about itself, as JSON: the one declaration for writer and readers. A key that an older version did
//! not write yet has a default.

use crate::checkpoint::STATE_FILE;
use crate::error::{Result, ensure};
use crate::files::{read_json, read_json_of, write_atomic};
use crate::provenance::{RunProvenance, Versions};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The recipe as it was run, in the run directory and in each checkpoint.
pub const RECIPE_FILE: &str = "recipe.rhai";

/// What an evaluation leaves in a run directory: `evaluate::save` of the standard library writes it.
pub const EVALUATION_FILE: &str = "evaluation.json";

/// The state of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Running, or killed.
    Running,
    /// Finished.
    Finished,
    /// Ended with an error.
    Failed,
    /// Ended by a signal.
    Interrupted,
    /// A state that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RunState::Running => "running",
            RunState::Finished => "finished",
            RunState::Failed => "failed",
            RunState::Interrupted => "interrupted",
            RunState::Unknown => "unknown state",
        })
    }
}

/// `run.json`: what was run, with which values, and its state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFile {
    /// The run's state.
    pub state: RunState,
    /// When it was started (UTC).
    pub started: String,
    /// Each time that it was resumed and made a step.
    pub resumed: Vec<Resumption>,
    /// When it ended.
    pub ended: Option<String>,
    /// The error that ended it.
    pub error: Option<String>,
    /// The recipe's path, as given.
    pub recipe: String,
    /// The command line that started it.
    pub command: Vec<String>,
    /// The scripts that it was started with, the recipe first.
    pub scripts: Vec<ScriptRecord>,
    /// Parameters given with --set, as written.
    #[serde(with = "pairs")]
    pub set: Vec<(String, String)>,
    /// Values of the recipe's parameters.
    pub params: Map<String, Value>,
    /// Seed of everything random.
    pub seed: u64,
    /// The device, as the command line writes it.
    pub device: String,
    /// CPU threads.
    pub threads: usize,
    /// What the training loops depended on, by label: all options, given or not, and the model's architecture.
    pub settings: Map<String, Value>,
    /// The models of the training loops, by label.
    pub models: BTreeMap<String, ModelSize>,
    /// What the recipe returned, if that was a map: its numbers, texts and truth values.
    pub result: Map<String, Value>,
    /// Versions of what ran it.
    pub versions: Versions,
}

/// How large a model is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSize {
    /// What it is, in words.
    pub model: String,
    /// Its parameters: numbers, not tensors.
    pub parameters: u64,
    /// Those of them that are trained.
    pub trained: u64,
}

impl RunFile {
    /// The file's name in a run directory.
    pub const NAME: &str = "run.json";

    /// Whether `dir` is a run directory.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(Self::NAME).is_file()
    }

    /// Reads it from a run directory.
    pub fn read(dir: &Path) -> Result<Self> {
        read_json(&dir.join(Self::NAME))
    }

    /// Writes it to a run directory.
    pub fn write(&self, dir: &Path) -> Result<()> {
        write_atomic(&dir.join(Self::NAME), &to_json(self)?)
    }

    /// The state in words; a run that claims to be running while its directory is not `in_use` was killed, and one that
    /// has ended while it is waits for the first step of an attempt to resume it. `None`: that cannot be found out.
    pub fn status(&self, in_use: Option<bool>) -> String {
        match (self.state, in_use) {
            (RunState::Running, Some(true)) => RunState::Running.to_string(),
            (RunState::Running, Some(false)) => "killed: it never finished, and no process is running it".into(),
            (RunState::Running, None) => "running, or killed: its lock cannot be read".into(),
            (state, Some(true)) => format!("{state}; a process is resuming it"),
            (state, _) => state.to_string(),
        }
    }

    /// The scripts that it ran last; none if an older version did not record them.
    pub fn last_scripts(&self) -> &[ScriptRecord] {
        self.resumed.last().map_or(&self.scripts, |last| &last.scripts)
    }

    /// The place to record the scripts that it runs now.
    pub fn last_scripts_mut(&mut self) -> &mut Vec<ScriptRecord> {
        self.resumed.last_mut().map_or(&mut self.scripts, |last| &mut last.scripts)
    }
}

/// A time that a run was resumed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "AnyResumption")]
pub struct Resumption {
    /// When (UTC).
    pub at: String,
    /// The command line.
    pub command: Vec<String>,
    /// The scripts that it ran, the recipe first.
    pub scripts: Vec<ScriptRecord>,
    /// The steps that its loops were resumed from, by label.
    pub steps: Map<String, Value>,
    /// By label, settings that had changed although they must not, because it was allowed, with their new values.
    pub allowed: BTreeMap<String, Map<String, Value>>,
    /// What had changed since the run was last started, in words.
    pub changes: Vec<String>,
}

/// nepa 0.1.0 recorded the time alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyResumption {
    At(String),
    Full {
        at: String,
        #[serde(default)]
        command: Vec<String>,
        #[serde(default)]
        scripts: Vec<ScriptRecord>,
        #[serde(default)]
        steps: Map<String, Value>,
        #[serde(default)]
        allowed: BTreeMap<String, Map<String, Value>>,
        #[serde(default)]
        changes: Vec<String>,
    },
}

impl From<AnyResumption> for Resumption {
    fn from(any: AnyResumption) -> Self {
        match any {
            AnyResumption::At(at) => Self { at, ..Self::default() },
            AnyResumption::Full { at, command, scripts, steps, allowed, changes } => {
                Self { at, command, scripts, steps, allowed, changes }
            }
        }
    }
}

/// A script as a run ran it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptRecord {
    /// Its path from the recipe's folder, or `std/NAME`.
    pub name: String,
    /// The file of the run directory that holds its text; null for the standard library's, which belongs to nepa.
    pub file: Option<String>,
    /// CRC-32 of its text.
    pub crc32: String,
    /// CRC-32 of its text without comments and spacing.
    pub code_crc32: String,
}

/// `state.json` of a checkpoint: everything but tensors that a training loop needs to be resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// The layout of the checkpoint.
    pub format: u32,
    /// The training loop's name.
    pub label: String,
    /// Steps done.
    pub step: i64,
    /// The loop's own state, as it gave it.
    #[serde(rename = "loop")]
    pub loop_state: Map<String, Value>,
    /// State of the run's generator.
    pub rng: GeneratorState,
    /// Updates that the average of the weights has had; null without an average.
    #[serde(default)]
    pub ema_updates: Option<u64>,
    /// Names of the parameters that are trained, and of those that were when the loop began; null in older checkpoints.
    #[serde(default)]
    pub trained: Option<[Vec<String>; 2]>,
    /// Settings that may not change.
    pub fixed: Map<String, Value>,
    /// Settings that may.
    pub changeable: Map<String, Value>,
    /// The device, as the command line writes it.
    #[serde(default)]
    pub device: String,
    /// CPU threads.
    #[serde(default)]
    pub threads: usize,
    /// How many processes trained together.
    #[serde(default = "one")]
    pub processes: usize,
    /// When the checkpoint was taken (UTC).
    #[serde(default)]
    pub saved_at: String,
    /// Versions of what wrote it.
    #[serde(default)]
    pub versions: Versions,
    /// The run that it belongs to.
    #[serde(default)]
    pub run: RunProvenance,
}

/// The run's generator: a seed, and how many keys it gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratorState {
    /// The seed it started from.
    pub seed: u64,
    /// Keys given out so far.
    pub drawn: u64,
}

impl CheckpointState {
    /// The layout that is written, and the only one that is read. Up to 1, loaders drew an epoch's order from other
    /// streams of random numbers, so that an epoch could not be continued.
    pub const FORMAT: u32 = 2;
    /// The most bytes that are read: 17 million lines of history.
    const MOST: u64 = 1 << 30;

    /// Reads it from a checkpoint's folder. Call `manifest::verify` first.
    pub fn read(dir: &Path) -> Result<Self> {
        /// What every format has.
        #[derive(Deserialize)]
        struct Header {
            format: u32,
            #[serde(default)]
            versions: Versions,
        }
        let path = dir.join(STATE_FILE);
        // A long run's history of losses is in it.
        let Header { format, versions } = read_json_of(&path, Self::MOST)?;
        ensure!(
            format == Self::FORMAT,
            "{} has format {format}, written by nepa {}; this version reads format {}",
            path.display(),
            versions.nepa,
            Self::FORMAT
        );
        read_json_of(&path, Self::MOST)
    }
}

/// The bytes to write for a file's content.
pub fn to_json(content: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    Ok(text)
}

fn one() -> usize {
    1
}

/// Names and texts as an object, in their order; of repeated names the last one counts.
mod pairs {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::{Map, Value};

    pub fn serialize<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
        let object: Map<String, Value> = pairs.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect();
        object.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
        let pair = |(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            other => Err(D::Error::custom(format!("expected strings, found `{name}`: {other}"))),
        };
        Map::deserialize(deserializer)?.into_iter().map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_of_older_and_newer_versions_can_be_read() {
        let old: RunFile = serde_json::from_value(json!({ "state": "paused", "seed": 3, "unheard_of": 1 })).unwrap();
        assert_eq!(old, RunFile { seed: 3, ..RunFile::default() });
        assert_eq!(old.status(Some(false)), "unknown state");

        let times: RunFile = serde_json::from_value(json!({ "resumed": ["2026-01-31T12:00:00Z"] })).unwrap();
        assert_eq!(times.resumed[0].at, "2026-01-31T12:00:00Z");
        let text = serde_json::to_value(&times.resumed).unwrap();
        assert_eq!(serde_json::from_value::<Vec<Resumption>>(text).unwrap(), times.resumed);
    }

    #[test]
    fn keys_keep_their_order() {
        let file = RunFile { set: vec![("b".into(), "1".into()), ("a".into(), "2".into())], ..RunFile::default() };
        let text = String::from_utf8(to_json(&file).unwrap()).unwrap();
        let keys: Vec<_> = serde_json::from_str::<Map<String, Value>>(&text).unwrap().keys().cloned().collect();
        assert_eq!(
            keys,
            [
                "state", "started", "resumed", "ended", "error", "recipe", "command", "scripts", "set", "params",
                "seed", "device", "threads", "settings", "models", "result", "versions"
            ]
        );
        assert!(text.contains("\"b\": \"1\",\n    \"a\": \"2\""), "{text}");
    }

    #[test]
    fn what_cannot_be_read_names_file_and_key() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(RunFile::NAME), r#"{ "versions": { "rhai": 1 } }"#).unwrap();
        let error = RunFile::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("run.json: `versions.rhai`: invalid type: integer `1`"), "{error}");
    }
}
