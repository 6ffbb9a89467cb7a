//! The directory of one run: what was run, with which values, and what came of it.
//!
//! ```text
//! run.json        recipe, parameters, seed, device, versions, state
//! recipe.rhai     the recipe as it was run
//! metrics.jsonl   one JSON object a line, as the script logs them
//! events.out.tfevents.nepa    the same numbers for TensorBoard
//! run.log         the same for people, with all that was said
//! checkpoints/    LABEL/step-N: where each training loop can go on from
//! …               models and pictures, where the script puts them
//! ```

use crate::bail_hint;
use crate::error::{Context as _, Result, one_line};
use crate::files::{PARTIAL, beside, write_atomic};
use crate::run::metrics::{METRICS_FILE, Metrics};
use crate::run::tensorboard::EVENTS_FILE;
use crate::run::{checkpoints, log, progress};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

/// Where runs lie that were given no directory.
pub const RUNS_DIR: &str = "runs";
/// State and parameters of a run.
pub const RUN_FILE: &str = "run.json";
/// The folder of its checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
/// The recipe as it was run.
pub const RECIPE_FILE: &str = "recipe.rhai";
/// The key under which torchrun's store remembers a run directory over a restart.
pub const REMEMBERED_KEY: &str = "nepa/run";
const LOCK_FILE: &str = ".lock";

/// What is known about a run when it starts.
#[derive(Debug, Clone)]
pub struct RunInfo {
    /// The recipe's path, as given.
    pub recipe: PathBuf,
    /// The recipe's text.
    pub source: String,
    /// Parameters given with --set, as written.
    pub set: Vec<(String, String)>,
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
    /// When it went on after an end.
    resumed: Vec<String>,
    /// `run.json` as it was before the run went on. Its parameters hold until a loop has accepted the new ones.
    earlier: Option<Value>,
    /// `None` in all but the first of processes that train together: they know the directory, and leave it alone.
    files: Option<Files>,
}

struct Files {
    metrics: Metrics,
    _lock: File,
}

impl RunDir {
    /// The directory of a run that another process writes to.
    pub fn of_main(path: PathBuf, info: RunInfo) -> Self {
        Self { path, info, started: String::new(), resumed: Vec::new(), earlier: None, files: None }
    }

    /// Opens a run directory: makes a new one, takes an empty one, or goes on with the run that is in it. `must_resume`
    /// wants a run to be there.
    pub fn open(path: &Path, info: RunInfo, must_resume: bool) -> Result<Self> {
        let creating = || format!("cannot create the run directory {}", path.display());
        if must_resume {
            known_run(path)?;
        }
        std::fs::create_dir_all(path).with_context(creating)?;
        let was_begun = path.join(LOCK_FILE).exists();
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
        let earlier = match path.join(RUN_FILE).exists() {
            true => Some(read_info(path)?),
            false => None,
        };
        let has_checkpoints = !all_checkpoints(path).is_empty();
        match &earlier {
            Some(earlier) => may_go_on(path, earlier, &info, has_checkpoints)?,
            None => {
                // A run that was killed as it began has left some of its first files.
                let own = |name: &str| {
                    let first = [RECIPE_FILE, METRICS_FILE, EVENTS_FILE, log::LOG_FILE];
                    name == LOCK_FILE || was_begun && (first.contains(&name) || name.starts_with(PARTIAL))
                };
                let others = std::fs::read_dir(path)?.flatten().any(|e| !own(&e.file_name().to_string_lossy()));
                if others {
                    if !was_begun {
                        let _ = std::fs::remove_file(path.join(LOCK_FILE));
                    }
                    bail_hint!(
                        "{} is not empty and not a run directory", path.display();
                        "choose a new directory with --out"
                    );
                }
            }
        }
        checkpoints::remove_leftovers(path);
        write_atomic(&path.join(RECIPE_FILE), info.source.as_bytes())?;
        let mut metrics = Metrics::open(path, earlier.is_some())?;
        if !has_checkpoints {
            metrics.begin(None)?;
        }
        let mut run = Self {
            path: path.to_path_buf(),
            info,
            started: super::timestamp(),
            resumed: Vec::new(),
            earlier: None,
            files: Some(Files { metrics, _lock: lock }),
        };
        if let Some(earlier) = &earlier {
            let text = |v: &Value| v.as_str().map(String::from);
            run.started = text(&earlier["started"]).unwrap_or_default();
            run.resumed = earlier["resumed"].as_array().into_iter().flatten().filter_map(text).collect();
            run.resumed.push(super::timestamp());
        }
        log::open(path).with_context(creating)?;
        let how = match (&earlier, has_checkpoints) {
            (None, _) => "begins",
            (Some(_), true) => "goes on",
            // Nothing to go on from.
            (Some(_), false) => "begins anew: it has no checkpoint yet",
        };
        run.earlier = earlier.filter(|_| has_checkpoints);
        run.write_state(RunState::Running, None)?;
        log::write(&format!("---- the run {how}: {}", run.info.command.join(" ")));
        if how != "begins" {
            progress::note_line(&format!("{}: the run in it {how}", path.display()));
        }
        Ok(run)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line to `metrics.jsonl`, and the same for people to `run.log`.
    pub fn log(&mut self, values: &Map<String, Value>) {
        let Some(files) = &mut self.files else { return };
        tell(files.metrics.log(values));
        log::write(&progress::log_line(values));
    }

    /// Everything that was logged.
    pub fn logged(&self) -> Result<Vec<u8>> {
        self.files.as_ref().map_or(Ok(Vec::new()), |files| files.metrics.content())
    }

    /// A loop goes on from a checkpoint that had logged `metrics`, or begins (`None`): with the parameters given now.
    pub fn begin(&mut self, metrics: Option<&[u8]>) -> Result<()> {
        if let Some(files) = &mut self.files {
            files.metrics.begin(metrics)?;
        }
        self.earlier = None;
        self.note_state();
        Ok(())
    }

    /// Writes the state of a run under way; a disk that cannot take it at the moment does not end the run.
    fn note_state(&self) {
        tell(self.write_state(RunState::Running, None).err().map(|e| one_line(&e)));
    }

    /// Records the values of the parameters, which a recipe declares one by one; says where one has changed since the
    /// run's last start.
    pub fn set_params(&mut self, params: Map<String, Value>) {
        for (name, value) in &params {
            if self.info.params.contains_key(name) {
                continue;
            }
            let before = self.earlier.as_ref().and_then(|earlier| earlier["params"].get(name));
            if let Some(before) = before.filter(|before| *before != value) {
                progress::note_line(&format!("parameter {name}: {before} so far, {value} now"));
            }
        }
        self.info.params = params;
        self.note_state();
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
    pub fn finish(&mut self, state: RunState, error: Option<&str>) -> Result<()> {
        // A run that never came to a checkpoint of its own has logged to memory so far.
        if state == RunState::Finished {
            self.begin(None)?;
        }
        if let Some(files) = &mut self.files {
            tell(files.metrics.end());
        }
        log::write(&match error {
            Some(error) => format!("---- {}: {error}", state.name()),
            None => format!("---- {}", state.name()),
        });
        self.write_state(state, error)
    }

    fn write_state(&self, state: RunState, error: Option<&str>) -> Result<()> {
        let ended = (state != RunState::Running).then(super::timestamp);
        let mut run = json!({
            "state": state.name(),
            "started": self.started,
            "resumed": self.resumed,
            "ended": ended,
            "error": error,
            "recipe": self.info.recipe.display().to_string(),
            "command": self.info.command,
            "set": self.info.set.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<Map<_, _>>(),
            "params": self.info.params,
            "seed": self.info.seed,
            "device": self.info.device,
            "threads": self.info.threads,
            "versions": versions(),
        });
        if let Some(earlier) = &self.earlier {
            for key in ["set", "params", "seed"] {
                run[key] = earlier[key].clone();
            }
        }
        write_atomic(&self.path.join(RUN_FILE), format!("{run:#}\n").as_bytes())
    }
}

fn tell(problem: Option<String>) {
    if let Some(problem) = problem {
        progress::note_line(&format!("warning: {problem}"));
    }
}

/// Checks that `path` holds a run.
pub fn known_run(path: &Path) -> Result<()> {
    if path.join(RUN_FILE).is_file() {
        return Ok(());
    }
    bail_hint!(
        "{} holds no run to resume (no {RUN_FILE}){}", path.display(), beside(path);
        "give a run directory, or leave --resume out to begin a new run"
    );
}

/// The run of a recipe in [`RUNS_DIR`] that was started last.
pub fn newest_of(recipe: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(RUNS_DIR).into_iter().flatten().flatten();
    let runs = entries.map(|e| e.path()).filter_map(|path| Some((read_info(&path).ok()?, path)));
    let own = runs.filter(|(info, path)| same_recipe(path, info, recipe).is_ok());
    match own.max_by_key(|(info, path)| (info["started"].as_str().unwrap_or_default().to_string(), path.clone())) {
        Some((_, path)) => Ok(path),
        None => bail_hint!(
            "there is no run of {} in {RUNS_DIR}/ to resume", recipe.display();
            "give its directory: --resume DIR"
        ),
    }
}

/// Refuses to go on with a run that is another one, or that has ended without a checkpoint.
fn may_go_on(path: &Path, earlier: &Value, info: &RunInfo, has_checkpoints: bool) -> Result<()> {
    same_recipe(path, earlier, &info.recipe)?;
    if earlier["state"] == "finished" && !has_checkpoints {
        bail_hint!(
            "{} already holds a run (finished), and no checkpoint to go on from", path.display();
            "choose another directory with --out, or remove this one; `nepa inspect {}` shows it", path.display()
        );
    }
    Ok(())
}

/// Checks that the run in `path`, whose `run.json` is `earlier`, is one of `recipe`.
pub fn same_recipe(path: &Path, earlier: &Value, recipe: &Path) -> Result<()> {
    let before = Path::new(earlier["recipe"].as_str().unwrap_or_default());
    if before.file_name() != recipe.file_name() {
        bail_hint!(
            "{} already holds a run of {} ({}), not of {}",
            path.display(), before.display(), state_words(earlier, false), recipe.display();
            "choose another directory with --out"
        );
    }
    Ok(())
}

/// All checkpoints of a run, loop by loop.
pub fn all_checkpoints(path: &Path) -> Vec<PathBuf> {
    let loops = std::fs::read_dir(path.join(CHECKPOINTS_DIR)).into_iter().flatten().flatten();
    let mut loops: Vec<PathBuf> = loops.map(|e| e.path()).collect();
    loops.sort();
    loops.iter().flat_map(|dir| checkpoints::checkpoints(dir)).map(|(_, path)| path).collect()
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
