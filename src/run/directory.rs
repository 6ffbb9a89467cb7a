//! The directory of one run: what was run, with which values, and the results.
//!
//! ```text
//! run.json        recipe, parameters, seed, device, versions, state
//! recipe.rhai     the recipe as it was run
//! metrics.jsonl   one JSON object a line, as the script logs them
//! events.out.tfevents.nepa    the same numbers for TensorBoard
//! run.log         everything printed and logged, for people
//! checkpoints/    LABEL/step-N: what each training loop can be resumed from
//! …               models and pictures, where the script puts them
//! ```

use crate::bail_hint;
use crate::error::{Context as _, Result, one_line};
use crate::files::{PARTIAL, beside, folders_in, write_atomic};
use crate::provenance::{Versions, timestamp};
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::metrics::{METRICS_FILE, Metrics};
use crate::run::schema::RECIPE_FILE;
use crate::run::tensorboard::EVENTS_FILE;
use crate::run::writer::{checkpoints_in, remove_leftovers};
use crate::run::{RunFile, RunState, log, progress};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Where runs go that were given no directory.
pub const RUNS_DIR: &str = "runs";
/// The folder of a run's checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
/// The key under which torchrun's store remembers a run directory across a restart.
pub const REMEMBERED_KEY: &str = "nepa/run";

/// What is known about a run when it starts.
#[derive(Debug, Clone, Default)]
pub struct RunInfo {
    /// The recipe's path, as given.
    pub recipe: PathBuf,
    /// The recipe's text.
    pub source: String,
    /// Parameters given with --set, as written.
    pub set: Vec<(String, String)>,
    /// Values of the recipe's parameters, those that it has declared so far.
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

/// An open run directory, locked against other runs for as long as it lives.
pub struct RunDir {
    path: PathBuf,
    file: RunFile,
    /// `run.json` as it was before the run was resumed. Its parameters apply until a loop has accepted the new ones.
    earlier: Option<RunFile>,
    /// On rank 0 only: the other ranks know the directory, but write nothing to it.
    files: Option<Files>,
}

struct Files {
    metrics: Metrics,
    _lock: RunLock,
}

impl RunDir {
    /// The directory that rank 0 has opened, as the other ranks know it.
    pub fn of_rank0(path: PathBuf, info: &RunInfo) -> Self {
        Self { path, file: started_now(info), earlier: None, files: None }
    }

    /// Opens a run directory: creates it, uses an empty one, or resumes the run that is in it. With `must_resume`, a
    /// run must be there.
    pub fn open(path: &Path, info: &RunInfo, must_resume: bool) -> Result<Self> {
        if must_resume {
            ensure_is_run(path)?;
        }
        let lock = RunLock::take(path)?;
        let earlier = RunFile::is_in(path).then(|| RunFile::read(path)).transpose()?;
        let has_checkpoints = !checkpoints_of_run(path).is_empty();
        match &earlier {
            Some(earlier) => ensure_resumable(path, earlier, info, has_checkpoints)?,
            None => refuse_other_content(path, &lock)?,
        }
        remove_leftovers(path);
        write_atomic(&path.join(RECIPE_FILE), info.source.as_bytes())?;
        let mut metrics = Metrics::open(path, earlier.is_some())?;
        if !has_checkpoints {
            metrics.begin(None)?;
        }
        log::open(path).with_context(|| format!("cannot create the run directory {}", path.display()))?;

        let mut file = started_now(info);
        let how = match &earlier {
            None => "started",
            Some(_) if has_checkpoints => "resumed",
            Some(_) => "restarted from the first step: it has no checkpoint yet",
        };
        if let Some(earlier) = &earlier {
            file.started.clone_from(&earlier.started);
            file.resumed = [&earlier.resumed[..], &[timestamp()]].concat();
            progress::note_line(&format!("{}: {how}", path.display()));
        }
        log::write(&format!("---- {how}: {}", info.command.join(" ")));
        let earlier = earlier.filter(|_| has_checkpoints);
        let run = Self { path: path.to_path_buf(), file, earlier, files: Some(Files { metrics, _lock: lock }) };
        run.write()?;
        Ok(run)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one line to the metrics, and one for people to the run log.
    pub fn log(&mut self, values: &Map<String, Value>) {
        let Some(files) = &mut self.files else { return };
        warn(files.metrics.log(values));
        log::write(&progress::log_line(values));
    }

    /// Everything that was logged.
    pub fn logged(&self) -> Result<Vec<u8>> {
        self.files.as_ref().map_or(Ok(Vec::new()), |files| files.metrics.content())
    }

    /// A loop is resumed from a checkpoint that had logged `metrics`, or starts (`None`): from now on the new
    /// parameters apply.
    pub fn begin(&mut self, metrics: Option<&[u8]>) -> Result<()> {
        if let Some(files) = &mut self.files {
            files.metrics.begin(metrics)?;
        }
        self.earlier = None;
        self.note_state();
        Ok(())
    }

    /// Records the value of a parameter (a recipe declares them one by one), and notes if it has changed since the run
    /// was last started.
    pub fn set_param(&mut self, name: &str, value: &Value) {
        let is_new = self.file.params.insert(name.to_string(), value.clone()).is_none();
        let before = self.earlier.as_ref().and_then(|earlier| earlier.params.get(name));
        if let Some(before) = before.filter(|before| is_new && *before != value) {
            progress::note_line(&format!("parameter {name}: was {before}, now {value}"));
        }
        self.note_state();
    }

    /// Records how the run ended.
    pub fn finish(&mut self, state: RunState, error: Option<&str>) -> Result<()> {
        // A resumed run that reached no checkpoint has logged to memory so far.
        if state == RunState::Finished {
            self.begin(None)?;
        }
        if let Some(files) = &mut self.files {
            warn(files.metrics.end());
        }
        log::write(&match error {
            Some(error) => format!("---- {state}: {error}"),
            None => format!("---- {state}"),
        });
        self.file.state = state;
        self.file.ended = Some(timestamp());
        self.file.error = error.map(String::from);
        self.write()
    }

    /// Writes the state of the run; a failed write does not end it.
    fn note_state(&self) {
        warn(self.write().err().map(|e| one_line(&e)));
    }

    fn write(&self) -> Result<()> {
        if self.files.is_none() {
            return Ok(());
        }
        let mut file = self.file.clone();
        if let Some(RunFile { set, params, seed, .. }) = self.earlier.clone() {
            file = RunFile { set, params, seed, ..file };
        }
        file.write(&self.path)
    }
}

/// `run.json` of a run that starts now.
fn started_now(info: &RunInfo) -> RunFile {
    RunFile {
        state: RunState::Running,
        started: timestamp(),
        resumed: Vec::new(),
        ended: None,
        error: None,
        recipe: info.recipe.display().to_string(),
        command: info.command.clone(),
        set: info.set.clone(),
        params: info.params.clone(),
        seed: info.seed,
        device: info.device.clone(),
        threads: info.threads,
        versions: Versions::of_this_build(),
    }
}

fn warn(problem: Option<String>) {
    if let Some(problem) = problem {
        progress::note_line(&format!("warning: {problem}"));
    }
}

/// Refuses a directory that holds anything but the leftovers of a run that was killed as it started.
fn refuse_other_content(path: &Path, lock: &RunLock) -> Result<()> {
    let first_files = [RECIPE_FILE, METRICS_FILE, EVENTS_FILE, log::LOG_FILE];
    let is_own =
        |name: &str| name == LOCK_FILE || !lock.is_new() && (first_files.contains(&name) || name.starts_with(PARTIAL));
    if std::fs::read_dir(path)?.flatten().all(|e| is_own(&e.file_name().to_string_lossy())) {
        return Ok(());
    }
    if lock.is_new() {
        let _ = std::fs::remove_file(path.join(LOCK_FILE));
    }
    bail_hint!("{} is not empty and not a run directory", path.display(); "choose a new directory with --out");
}

/// Checks that `path` holds a run.
pub fn ensure_is_run(path: &Path) -> Result<()> {
    if RunFile::is_in(path) {
        return Ok(());
    }
    bail_hint!(
        "{} holds no run to resume (no {}){}", path.display(), RunFile::NAME, beside(path);
        "give a run directory, or leave --resume out to start a new run"
    );
}

/// Refuses to resume a run of another recipe, or a finished one without a checkpoint.
fn ensure_resumable(path: &Path, earlier: &RunFile, info: &RunInfo, has_checkpoints: bool) -> Result<()> {
    ensure_same_recipe(path, earlier, &info.recipe)?;
    if earlier.state == RunState::Finished && !has_checkpoints {
        bail_hint!(
            "{} already holds a finished run without a checkpoint to resume from", path.display();
            "choose another directory with --out, or remove this one; `nepa inspect {}` shows it", path.display()
        );
    }
    Ok(())
}

/// Checks that the run in `path`, whose `run.json` is `earlier`, is one of `recipe`.
pub fn ensure_same_recipe(path: &Path, earlier: &RunFile, recipe: &Path) -> Result<()> {
    if Path::new(&earlier.recipe).file_name() != recipe.file_name() {
        bail_hint!(
            "{} already holds a run of {} ({}), not of {}",
            path.display(), earlier.recipe, earlier.status(false), recipe.display();
            "choose another directory with --out"
        );
    }
    Ok(())
}

/// The most recently started run of a recipe in [`RUNS_DIR`].
pub fn newest_run_of(recipe: &Path) -> Result<PathBuf> {
    let runs = folders_in(Path::new(RUNS_DIR)).into_iter().filter_map(|path| Some((RunFile::read(&path).ok()?, path)));
    let own = runs.filter(|(run, path)| ensure_same_recipe(path, run, recipe).is_ok());
    match own.max_by_key(|(run, path)| (run.started.clone(), path.clone())) {
        Some((_, path)) => Ok(path),
        None => bail_hint!(
            "there is no run of {} in {RUNS_DIR}/ to resume", recipe.display();
            "give its directory: --resume DIR"
        ),
    }
}

/// All checkpoints of a run, loop by loop, each loop's in the order of their steps.
pub fn checkpoints_of_run(path: &Path) -> Vec<PathBuf> {
    let loops = folders_in(&path.join(CHECKPOINTS_DIR));
    loops.iter().flat_map(|dir| checkpoints_in(dir)).map(|(_, path)| path).collect()
}
