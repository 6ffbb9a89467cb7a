//! The directory of one run: what was run, with which values, and what came of it.
//!
//! ```text
//! run.json        recipe, parameters, seed, device, versions, state
//! recipe.rhai     the recipe as it was run
//! metrics.jsonl   one JSON object a line, as the script logs them
//! …               checkpoints and pictures, where the script puts them
//! ```

use crate::bail_hint;
use crate::checkpoint::tensors::write_atomic;
use crate::error::{Context as _, Result};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

/// State and parameters of a run.
pub const RUN_FILE: &str = "run.json";
/// What a run logged, one JSON object a line.
pub const METRICS_FILE: &str = "metrics.jsonl";
const LOCK_FILE: &str = ".lock";

/// What is known about a run when it starts.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// The recipe's path, as given.
    pub recipe: PathBuf,
    /// The recipe's text.
    pub source: String,
    /// Values of the recipe's parameters.
    pub params: Map<String, Value>,
    /// Seed of everything random.
    pub seed: u64,
    /// The device, as the command line writes it.
    pub device: String,
    /// CPU threads.
    pub threads: usize,
    /// The command line.
    pub command: Vec<String>,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Under way, or killed.
    Running,
    /// Ended by itself.
    Finished,
    /// Ended by an error.
    Failed,
    /// Ended by a signal.
    Interrupted,
}

impl RunState {
    fn name(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Finished => "finished",
            RunState::Failed => "failed",
            RunState::Interrupted => "interrupted",
        }
    }
}

/// An open run directory, locked against other runs for as long as it lives.
pub struct RunDir {
    path: PathBuf,
    info: RunInfo,
    started: String,
    metrics: File,
    _lock: File,
}

impl RunDir {
    /// Creates the directory, or takes an empty one.
    pub fn create(path: &Path, info: RunInfo) -> Result<Self> {
        let creating = || format!("cannot create the run directory {}", path.display());
        std::fs::create_dir_all(path).with_context(creating)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK_FILE))
            .with_context(creating)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail_hint!(
                "{} is in use by another run", path.display();
                "wait for it, or choose another directory with --out"
            ),
            Err(TryLockError::Error(e)) => return Err(e).with_context(creating),
        }
        if path.join(RUN_FILE).exists() {
            let state = match read_info(path) {
                Ok(info) => state_words(&info, false),
                Err(_) => "unreadable".into(),
            };
            bail_hint!(
                "{} already holds a run ({state})", path.display();
                "choose another directory with --out, or remove this one; `nepa inspect {}` shows it", path.display()
            );
        }
        let others = std::fs::read_dir(path)?.flatten().any(|e| e.file_name() != LOCK_FILE);
        if others {
            let _ = std::fs::remove_file(path.join(LOCK_FILE));
            bail_hint!(
                "{} is not empty and not a run directory", path.display();
                "choose a new directory with --out"
            );
        }
        write_atomic(&path.join("recipe.rhai"), info.source.as_bytes())?;
        let metrics =
            OpenOptions::new().create(true).append(true).open(path.join(METRICS_FILE)).with_context(creating)?;
        let run = Self { path: path.to_path_buf(), info, started: super::timestamp(), metrics, _lock: lock };
        run.write_state(RunState::Running, None)?;
        Ok(run)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line to `metrics.jsonl`.
    pub fn log(&mut self, values: &Map<String, Value>) -> Result<()> {
        let line = format!("{}\n", Value::Object(values.clone()));
        self.metrics
            .write_all(line.as_bytes())
            .with_context(|| format!("cannot write {}", self.path.join(METRICS_FILE).display()))
    }

    /// Records the values of the parameters, which a recipe declares one by one.
    pub fn set_params(&mut self, params: Map<String, Value>) -> Result<()> {
        self.info.params = params;
        self.write_state(RunState::Running, None)
    }

    /// What a checkpoint says about the run that wrote it.
    pub fn provenance(info: &RunInfo) -> Map<String, Value> {
        let value = json!({
            "recipe": info.recipe.display().to_string(),
            "params": info.params,
            "seed": info.seed,
        });
        value.as_object().expect("made as an object").clone()
    }

    /// Records how the run ended.
    pub fn finish(&self, state: RunState, error: Option<&str>) -> Result<()> {
        self.write_state(state, error)
    }

    fn write_state(&self, state: RunState, error: Option<&str>) -> Result<()> {
        let ended = (state != RunState::Running).then(super::timestamp);
        let run = json!({
            "state": state.name(),
            "started": self.started,
            "ended": ended,
            "error": error,
            "recipe": self.info.recipe.display().to_string(),
            "command": self.info.command,
            "params": self.info.params,
            "seed": self.info.seed,
            "device": self.info.device,
            "threads": self.info.threads,
            "versions": versions(),
        });
        write_atomic(&self.path.join(RUN_FILE), format!("{run:#}\n").as_bytes())
    }
}

/// The content of a run's `run.json`.
pub fn read_info(path: &Path) -> Result<Value> {
    let file = path.join(RUN_FILE);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", file.display()))
}

/// Whether a process holds the run directory at this moment.
pub fn is_in_use(path: &Path) -> bool {
    match File::open(path.join(LOCK_FILE)) {
        Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// A run's state in words; one that claims to run while nobody holds it was killed.
pub fn state_words(info: &Value, in_use: bool) -> String {
    match info["state"].as_str() {
        Some("running") if !in_use => "killed: it never ended, and no process holds it".into(),
        Some(state) => state.into(),
        None => "unknown state".into(),
    }
}

/// Versions of what a result depends on.
pub fn versions() -> Value {
    json!({ "nepa": env!("CARGO_PKG_VERSION"), "libtorch": "2.11.0", "rhai": "1.24.0" })
}
