//! The directory of one run: what was run, with which values, and the results.
//!
//! ```text
//! run.json        recipe, parameters, seed, device, versions, state; each time that it was resumed
//! recipe.rhai     the recipe as it was run last
//! scripts/        the texts of the recipe and of what it imports, all that were run
//! metrics.jsonl   one JSON object a line, as the script logs them
//! metrics.cut.jsonl   lines that were cut off when the run was rolled back to a checkpoint
//! events.out.tfevents.nepa    the same numbers for TensorBoard
//! run.log         everything printed and logged, for people
//! system.jsonl    what the run takes of its machine, a line every 15 seconds
//! checkpoints/    LABEL/step-N: what each training loop can be resumed from
//! …               models and pictures, where the script puts them
//! ```
//!
//! A run that has checkpoints is resumed in two stages. What the new attempt says about itself waits in memory until
//! one of its loops makes a step or starts, or the recipe has ended well. If the attempt is refused or fails before,
//! the directory stays as it was.

use crate::bail_hint;
use crate::differences::differences;
use crate::dist;
use crate::error::{Context as _, Diagnostic, Result, one_line};
use crate::files::{PARTIAL, beside, folders_in, names_in, write_atomic};
use crate::provenance::{Versions, timestamp};
use crate::run::allowed::{Allowed, RECIPE, SEED, STD};
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::metrics::{CUT_FILE, METRICS_FILE, Metrics};
use crate::run::schema::{CheckpointState, ModelSize, RECIPE_FILE, Resumption};
use crate::run::scripts::{self, ChangeKind, SCRIPTS_DIR, Script, ScriptChange};
use crate::run::settings::{Change, INITIAL_WEIGHTS};
use crate::run::system::SystemLog;
use crate::run::tensorboard::EVENTS_FILE;
use crate::run::writer::{checkpoints_in, remove_leftovers};
use crate::run::{RunFile, RunState, log, progress};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where runs go that were given no directory.
pub const RUNS_DIR: &str = "runs";
/// The folder of a run's checkpoints.
pub const CHECKPOINTS_DIR: &str = "checkpoints";
/// The key under which torchrun's store remembers a run directory across a restart.
pub const REMEMBERED_KEY: &str = "nepa/run";

/// How long to wait before what could not be written at the end of a run is tried again.
const RETRY: Duration = Duration::from_secs(3);

/// What is known about a run when it starts.
#[derive(Debug, Clone, Default)]
pub struct RunInfo {
    /// The recipe's path, as given.
    pub recipe: PathBuf,
    /// The recipe and everything that it imports; the recipe comes first.
    pub scripts: Vec<Script>,
    /// What may change if it is resumed.
    pub allowed: Allowed,
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
    /// Called with the directory once the run, or an attempt to resume it, is in it.
    pub begun: Option<fn(&Path)>,
}

impl RunInfo {
    /// The recipe's text.
    pub fn recipe_text(&self) -> &str {
        self.scripts.first().map_or("", |recipe| &recipe.text)
    }
}

/// An open run directory, locked against other runs for as long as it lives.
pub struct RunDir {
    path: PathBuf,
    /// `run.json` as this attempt makes it.
    file: RunFile,
    scripts: Vec<Script>,
    allowed: Allowed,
    /// The run as it was before this attempt to resume it.
    earlier: Option<Earlier>,
    /// Whether the attempt waits for its first step: nothing is written before.
    waits: bool,
    begun: Option<fn(&Path)>,
    /// Ends before the lock is released.
    system: Option<SystemLog>,
    /// On rank 0 only: the other ranks know the directory, but write no results to it.
    files: Option<Files>,
}

struct Files {
    metrics: Metrics,
    _lock: RunLock,
}

/// A run before it is resumed.
struct Earlier {
    file: RunFile,
    /// How scripts have changed since.
    changed: Vec<ChangeKind>,
}

impl RunDir {
    /// The directory that rank 0 has opened, as the other ranks know it.
    pub fn of_rank0(path: PathBuf, info: &RunInfo) -> Self {
        let (scripts, allowed) = (info.scripts.clone(), info.allowed.clone());
        let (file, begun) = (started_now(info), info.begun);
        let mut run =
            Self { path, file, scripts, allowed, earlier: None, waits: false, begun, system: None, files: None };
        if !dist::is_rank0() {
            run.measure();
        }
        run
    }

    /// Begins to measure what the run takes of this machine.
    fn measure(&mut self) {
        self.system = SystemLog::start(&self.path, self.file.device != "cpu");
    }

    /// Opens a run directory: creates it, uses an empty one, or resumes the run that is in it. With `must_resume`, a
    /// run must be there.
    pub fn open(path: &Path, info: &RunInfo, must_resume: bool) -> Result<Self> {
        if must_resume {
            ensure_is_run(path)?;
        } else if !info.allowed.is_empty() && !RunFile::is_in(path) {
            bail_hint!("--allow-change: {} holds no run to resume", path.display(); "leave it out to start a new run");
        }
        let lock = RunLock::take(path)?;
        let earlier = RunFile::is_in(path).then(|| RunFile::read(path)).transpose()?;
        let has_checkpoints = !checkpoints_of_run(path)?.is_empty();
        match &earlier {
            Some(earlier) => ensure_resumable(path, earlier, info, has_checkpoints)?,
            None => refuse_other_content(path, &lock)?,
        }
        let mut files = Files { metrics: Metrics::open(path)?, _lock: lock };
        if !has_checkpoints {
            files.metrics.roll_back(&[])?;
        }
        let mut run = Self { files: Some(files), ..Self::of_rank0(path.to_path_buf(), info) };
        let how = match &earlier {
            None => "started",
            Some(_) if has_checkpoints => "resumed",
            Some(_) => "restarted from the first step: it has no checkpoint yet",
        };
        if let Some(earlier) = earlier {
            run.file.started.clone_from(&earlier.started);
            run.file.command.clone_from(&earlier.command);
            run.file.scripts.clone_from(&earlier.scripts);
            run.file.resumed.clone_from(&earlier.resumed);
            let command = info.command.clone();
            run.file.resumed.push(Resumption { at: timestamp(), command, ..Resumption::default() });
            if has_checkpoints {
                run.resume(earlier)?;
            } else {
                progress::note_line(&format!("{}: {how}", path.display()));
            }
        }
        log::write(&format!("---- {how}: {}", info.command.join(" ")));
        if !run.waits {
            run.write_all()?;
        }
        Ok(run)
    }

    /// Compares what is to be run with the run as it was so far.
    fn resume(&mut self, earlier: RunFile) -> Result<()> {
        let mut known = settings_of_run(&self.path)?;
        known.extend(earlier.params.keys().cloned());
        known.push(SEED.into());
        self.allowed.ensure_known(&known)?;
        let seed =
            (earlier.seed != self.file.seed).then(|| format!("seed: was {}, now {}", earlier.seed, self.file.seed));
        if let Some(change) = seed.as_ref().filter(|_| !self.allowed.has(SEED)) {
            bail_hint!(
                "cannot resume {}, because what it draws has changed:\n  {change}", self.path.display();
                "resume it with --seed {}, or start a new run with another --out; to go on with the seed {}, add \
                 --allow-change {SEED}", earlier.seed, self.file.seed
            );
        }
        let mut versions = Vec::new();
        for (name, was) in earlier.versions.known() {
            let other = self.file.versions.known().find(|(of, now)| *of == name && *now != was);
            versions.extend(other.map(|(_, now)| format!("{name}: was {was}, now {now}")));
        }
        let kept_scripts = !earlier.last_scripts().is_empty();
        self.earlier = Some(Earlier { file: earlier, changed: Vec::new() });
        self.waits = true;
        let scripts = self.allowed_changes(&self.scripts)?;
        progress::note_line(&format!("{}: resumed", self.path.display()));
        for change in seed.into_iter().chain(versions) {
            self.note_change(change);
        }
        if !kept_scripts {
            progress::note_line("  the nepa that ran it kept no scripts to compare the present ones with");
        }
        self.note_scripts(scripts);
        Ok(())
    }

    /// How scripts differ from those that the run was last resumed or started with; an error if that is not allowed.
    fn allowed_changes(&self, scripts: &[Script]) -> Result<Vec<ScriptChange>> {
        let Some(Earlier { file, .. }) = &self.earlier else { return Ok(Vec::new()) };
        if file.last_scripts().is_empty() {
            return Ok(Vec::new());
        }
        let versions = [file.versions.nepa.as_str(), self.file.versions.nepa.as_str()];
        let changes = scripts::changes(&self.path, file.last_scripts(), scripts, versions);
        let refused: Vec<&ScriptChange> = changes.iter().filter(|c| !self.allowed.has_script(c.kind)).collect();
        if refused.is_empty() { Ok(changes) } else { Err(refusal(&self.path, &refused)) }
    }

    /// Notes and records changes of scripts.
    fn note_scripts(&mut self, changes: Vec<ScriptChange>) {
        for change in changes {
            if let Some(earlier) = &mut self.earlier {
                earlier.changed.push(change.kind);
            }
            if let Some(diff) = &change.diff {
                progress::note_line(diff);
            }
            self.note_change(change.summary);
        }
    }

    /// Takes up a script that the recipe imports by a path that it computes.
    pub fn add_script(&mut self, script: Script) -> Result<()> {
        if self.files.is_none() || self.scripts.iter().any(|known| known.name == script.name) {
            return Ok(());
        }
        let changes = self.allowed_changes(std::slice::from_ref(&script))?;
        self.note_scripts(changes);
        self.scripts.push(script);
        if !self.waits {
            self.keep_scripts()?;
        }
        self.note_state();
        Ok(())
    }

    /// Notes a change since the run was last started, and records it.
    fn note_change(&mut self, change: String) {
        progress::note_line(&format!("  {change}"));
        self.record_change(change);
    }

    fn record_change(&mut self, change: String) {
        if let Some(resumption) = self.file.resumed.last_mut() {
            resumption.changes.push(change);
        }
    }

    /// Whether the loop `label` may be resumed after `step` steps with a setting that must stay the same and has
    /// changed: because the setting is named, or the changed parameter whose value it has; because it follows from a
    /// change of scripts that is allowed; because another standard library, which is allowed, brings it along; or
    /// because an earlier attempt that went on from the same step was allowed to change it so. Another seed, which is
    /// allowed, brings other initial weights along.
    pub fn allows(&self, label: &str, step: i64, change: &Change) -> bool {
        let has_new_seed = self.earlier.as_ref().is_some_and(|earlier| earlier.file.seed != self.file.seed);
        let is_drawn = change.name == INITIAL_WEIGHTS && has_new_seed && self.allowed.has(SEED);
        if is_drawn || self.allowed.has(&change.name) {
            return true;
        }
        let Some(Earlier { file, changed }) = &self.earlier else { return false };
        let is = |a: &Value, b: &Value| differences(a, b).is_empty();
        let same_step = |r: &&Resumption| r.steps.get(label).is_some_and(|from| *from == step);
        let was_allowed = |r: &Resumption| {
            r.allowed.get(label).and_then(|settings| settings.get(&change.name)).is_some_and(|now| is(now, &change.now))
        };
        if file.resumed.iter().rev().take_while(same_step).any(was_allowed) {
            return true;
        }
        // The parameter of the setting's name, or those that have its value.
        let parameters: Vec<&String> = self
            .file
            .params
            .iter()
            .filter(|(name, now)| file.params.get(*name).is_some_and(|before| !is(before, now)) && is(now, &change.now))
            .map(|(name, _)| name)
            .collect();
        match (parameters.contains(&&change.name), parameters.is_empty()) {
            (true, _) => false, // it was not named above
            (false, false) => parameters.iter().all(|name| self.allowed.has(name)),
            (false, true) => {
                let follows = |kind: &ChangeKind| *kind != ChangeKind::Spacing && self.allowed.has_script(*kind);
                changed.iter().any(follows) || change.is_new && self.allowed.has(STD)
            }
        }
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

    /// Makes `metrics`, what a checkpoint says was logged, all that was logged so far.
    pub fn roll_back(&mut self, metrics: &[u8]) -> Result<()> {
        self.files.as_mut().map_or(Ok(()), |files| files.metrics.roll_back(metrics))
    }

    /// Tells that a loop starts from its first step although the run has checkpoints of other loops, none of which has
    /// been resumed: perhaps this one had another label.
    pub fn note_new_loop(&self, label: &str) -> Result<()> {
        if self.earlier.is_none() || self.file.resumed.last().is_some_and(|last| !last.steps.is_empty()) {
            return Ok(());
        }
        let mut others: Vec<String> = Vec::new();
        for path in folders_in(&self.path.join(CHECKPOINTS_DIR))? {
            let has_some = !checkpoints_in(&path)?.is_empty();
            others.extend(path.file_name().filter(|_| has_some).map(|name| name.to_string_lossy().into_owned()));
        }
        if !others.is_empty() {
            progress::note_line(&format!(
                "warning: {label}: starts from its first step, since the run has no checkpoint of this label, only of {}",
                others.join(", ")
            ));
        }
        Ok(())
    }

    /// Everything that was logged.
    pub fn logged(&self) -> Result<Vec<u8>> {
        self.files.as_ref().map_or(Ok(Vec::new()), |files| files.metrics.content())
    }

    /// Records that the loop `label` is resumed after `step` steps, with these changes, in words, and these new values
    /// of settings that were allowed to change.
    pub fn loop_resumed(
        &mut self,
        label: &str,
        step: i64,
        changes: &[String],
        allowed: Map<String, Value>,
    ) -> Result<()> {
        if let Some(resumption) = self.file.resumed.last_mut() {
            resumption.steps.insert(label.to_string(), step.into());
            if !allowed.is_empty() {
                resumption.allowed.insert(label.to_string(), allowed);
            }
        }
        for change in changes {
            self.record_change(format!("{label}, step {step}: {change}"));
        }
        if self.waits { Ok(()) } else { self.write() }
    }

    /// Goes on with the run: from now on this attempt is part of it, and what has waited is written.
    pub fn go_on(&mut self) -> Result<()> {
        if self.waits {
            self.write_all()?;
            self.waits = false;
        }
        Ok(())
    }

    /// Records the value of a parameter (a recipe declares them one by one), and notes if it has changed since the run
    /// was last started.
    pub fn set_param(&mut self, name: &str, value: &Value) {
        let is_new = self.file.params.insert(name.to_string(), value.clone()).is_none();
        let before = self.earlier.as_ref().and_then(|earlier| earlier.file.params.get(name));
        if let Some(before) = before.filter(|before| is_new && *before != value) {
            let change = format!("parameter {name}: was {before}, now {value}");
            progress::note_line(&change);
            self.record_change(change);
        }
        self.note_state();
    }

    /// Records what the training loop `label` depends on, and its model.
    pub fn set_settings(&mut self, label: &str, settings: Value, model: ModelSize) {
        self.file.settings.insert(label.to_string(), settings);
        self.file.models.insert(label.to_string(), model);
        self.note_state();
    }

    /// Records what the recipe returned.
    pub fn set_result(&mut self, result: Map<String, Value>) {
        self.file.result = result;
    }

    /// Records how the run ended. One that was resumed and did not come to a step leaves the directory as it was. A run
    /// whose metrics cannot be written has failed.
    pub fn finish(&mut self, state: RunState, error: Option<&str>) -> Result<()> {
        if state == RunState::Finished {
            self.go_on()?;
        }
        if self.waits {
            return Ok(());
        }
        if let Err(e) = self.end_metrics() {
            warn(Some(one_line(&e)));
            if state == RunState::Finished {
                self.record_end(RunState::Failed, Some(&one_line(&e)))?;
                return Err(Diagnostic::new(one_line(&e)).hint("make room on the disk, and run it again").into());
            }
        }
        self.record_end(state, error)
    }

    /// Writes what is left of the metrics; if that fails, tries once more.
    fn end_metrics(&mut self) -> Result<()> {
        let Some(files) = &mut self.files else { return Ok(()) };
        files.metrics.end().or_else(|_| {
            std::thread::sleep(RETRY);
            files.metrics.end()
        })
    }

    fn record_end(&mut self, state: RunState, error: Option<&str>) -> Result<()> {
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
        if !self.waits {
            warn(self.write().err().map(|e| one_line(&e)));
        }
    }

    /// Writes everything that the run says about itself, and what it has logged so far.
    fn write_all(&mut self) -> Result<()> {
        let Some(files) = &mut self.files else { return Ok(()) };
        remove_leftovers(&self.path);
        files.metrics.begin()?;
        warn(files.metrics.flush());
        log::open(&self.path).with_context(|| format!("cannot create the run directory {}", self.path.display()))?;
        let recipe = self.scripts.first().map_or("", |recipe| &recipe.text);
        write_atomic(&self.path.join(RECIPE_FILE), recipe.as_bytes())?;
        self.keep_scripts()?;
        self.write()?;
        self.measure();
        if let Some(begun) = self.begun {
            begun(&self.path);
        }
        Ok(())
    }

    fn keep_scripts(&mut self) -> Result<()> {
        *self.file.last_scripts_mut() = scripts::keep(&self.path, &self.scripts)?;
        Ok(())
    }

    fn write(&self) -> Result<()> {
        if self.files.is_none() { Ok(()) } else { self.file.write(&self.path) }
    }
}

/// The error about scripts that have changed.
fn refusal(path: &Path, changes: &[&ScriptChange]) -> crate::error::Error {
    let shown: Vec<&str> = changes.iter().map(|change| change.shown()).collect();
    let mut names: Vec<&str> =
        changes.iter().map(|c| if c.kind == ChangeKind::Library { STD } else { RECIPE }).collect();
    names.dedup();
    let message = format!(
        "cannot resume {}, because its scripts have changed since it was last run:\n{}",
        path.display(),
        shown.join("\n")
    );
    let hint = format!(
        "restore what was run, which is in {}, or start a new run with another --out; to go on from the last \
         checkpoint with what is there now, add --allow-change {}",
        path.join(SCRIPTS_DIR).display(),
        names.join(",")
    );
    Diagnostic::new(message).hint(hint).into()
}

/// The settings of a run's loops, by their newest checkpoints.
fn settings_of_run(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for dir in folders_in(&path.join(CHECKPOINTS_DIR))? {
        // One that cannot be read is not the one that is resumed.
        let state = checkpoints_in(&dir)?.into_iter().rev().find_map(|(_, dir)| CheckpointState::read(&dir).ok());
        if let Some(CheckpointState { fixed, changeable, .. }) = state {
            add_names("", &fixed, &mut names);
            add_names("", &changeable, &mut names);
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The names in a map, and in the maps in it after their own name and a dot.
fn add_names(of: &str, map: &Map<String, Value>, names: &mut Vec<String>) {
    for (name, value) in map {
        let name = format!("{of}{name}");
        if let Value::Object(inner) = value {
            add_names(&format!("{name}."), inner, names);
        }
        names.push(name);
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
        scripts: Vec::new(),
        set: info.set.clone(),
        params: info.params.clone(),
        seed: info.seed,
        device: info.device.clone(),
        threads: info.threads,
        settings: Map::new(),
        models: BTreeMap::new(),
        result: Map::new(),
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
    let first_files = [RECIPE_FILE, SCRIPTS_DIR, METRICS_FILE, CUT_FILE, EVENTS_FILE, log::LOG_FILE];
    let is_own =
        |name: &str| name == LOCK_FILE || !lock.is_new() && (first_files.contains(&name) || name.starts_with(PARTIAL));
    if names_in(path)?.iter().all(|name| is_own(name)) {
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
            path.display(), earlier.recipe, earlier.status(Some(false)), recipe.display();
            "choose another directory with --out"
        );
    }
    Ok(())
}

/// The most recently started run of a recipe in [`RUNS_DIR`].
pub fn newest_run_of(recipe: &Path) -> Result<PathBuf> {
    let runs = folders_in(Path::new(RUNS_DIR))?.into_iter().filter_map(|path| Some((RunFile::read(&path).ok()?, path)));
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
pub fn checkpoints_of_run(path: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for dir in folders_in(&path.join(CHECKPOINTS_DIR))? {
        all.extend(checkpoints_in(&dir)?.into_iter().map(|(_, path)| path));
    }
    Ok(all)
}
