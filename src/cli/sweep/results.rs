//! What the runs of a sweep came to: their states, and the last values of what they returned and logged.

use super::jobs::error_in;
use super::plan::{PlannedRun, SweepFile};
use super::values::{SEED, text};
use crate::bail_hint;
use crate::cli::plot::read::{self, MOST_METRICS};
use crate::error::Result;
use crate::files::{beside, read_json};
use crate::run::inside;
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::metrics::METRICS_FILE;
use crate::run::numbers::number;
use crate::run::schema::EVALUATION_FILE;
use crate::run::{RunFile, RunState};
use crate::untrusted::MOST_TEXT;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The folder of what the processes of a sweep print.
pub const LOGS_DIR: &str = "logs";
/// The most results of a run that are told apart.
const MOST_RESULTS: usize = 500;
/// The most things that the lines of a phase are told apart by: a text that always differs is a remark.
const MOST_THINGS: usize = 100;
/// What every loop logs about its course: it is no result to compare runs by.
const COURSE: &[&str] = &[
    "step",
    "steps",
    "epoch",
    "time",
    "seconds",
    "lr",
    "grad_norm",
    "images_per_second",
    "data_wait",
    "flops_share",
    "images",
];

/// A sweep, as its directory has it now.
pub struct Sweep {
    /// Its directory.
    pub dir: PathBuf,
    /// Its description.
    pub file: SweepFile,
    /// Its runs, in the order of the description.
    pub runs: Vec<RunResult>,
    /// Names of results, those that runs returned first, then as they were logged.
    pub keys: Vec<String>,
}

/// A run of a sweep.
pub struct RunResult {
    /// Its name and parameters.
    pub planned: PlannedRun,
    /// Its directory.
    pub dir: PathBuf,
    /// How far it is.
    pub progress: Progress,
    /// Its state in words.
    pub state: String,
    /// What ended it.
    pub error: Option<String>,
    /// `run.json`, once it has one.
    pub file: Option<RunFile>,
    /// What it wrote to `evaluation.json`, by model.
    evaluation: Map<String, Value>,
    /// Its lines of metrics.
    pub lines: Vec<Map<String, Value>>,
    /// The last value of each result, by name; not finite ones too.
    pub values: HashMap<String, f64>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has not been started, or failed before its directory was made.
    Missing,
    /// It has finished.
    Finished,
    /// It ended with an error.
    Failed,
    /// It was interrupted or killed.
    Stopped,
    /// A process is running it.
    Running,
}

/// How far the run in `dir` is, with its `run.json`.
pub fn progress_of(sweep: &Path, name: &str) -> Result<(Progress, Option<RunFile>)> {
    let dir = inside::path_in(sweep, Path::new(name))?;
    inside::check(sweep, &format!("{name}/{}", RunFile::NAME), MOST_TEXT)?;
    inside::check(sweep, &format!("{name}/{LOCK_FILE}"), MOST_TEXT)?;
    if !RunFile::is_in(&dir) {
        let held = RunLock::is_held(&dir) == Some(true);
        return Ok((if held { Progress::Running } else { Progress::Missing }, None));
    }
    let file = RunFile::read(&dir)?;
    let progress = match (RunLock::is_held(&dir), file.state) {
        (Some(true), _) => Progress::Running,
        (_, RunState::Finished) => Progress::Finished,
        (_, RunState::Failed) => Progress::Failed,
        _ => Progress::Stopped,
    };
    Ok((progress, Some(file)))
}

/// Where what a run's process prints goes.
pub fn log_of(sweep: &Path, name: &str) -> Result<PathBuf> {
    inside::path_in(sweep, &Path::new(LOGS_DIR).join(format!("{name}.log")))
}

/// Checks that `dir` holds a sweep.
pub fn ensure_is_sweep(dir: &Path) -> Result<()> {
    if !SweepFile::is_in(dir) {
        bail_hint!(
            "{} holds no sweep (no {}){}", dir.display(), SweepFile::NAME, beside(dir);
            "give the directory that `nepa sweep` made"
        );
    }
    Ok(())
}

impl Sweep {
    /// Reads a sweep's directory.
    pub fn read(dir: &Path) -> Result<Self> {
        ensure_is_sweep(dir)?;
        let file = SweepFile::read(dir)?;
        let runs = file.runs.iter().map(|run| RunResult::read(dir, run)).collect::<Result<Vec<_>>>()?;
        let mut sweep = Self { dir: dir.to_path_buf(), file, runs, keys: Vec::new() };
        sweep.name_results();
        Ok(sweep)
    }

    /// Gives each result a name: what was returned its own, what was logged that of its phase and its own, without the
    /// phase if only one logs it. What a run logs of several things in one phase is named by them too:
    /// evaluate/fine-tuned/top1.
    fn name_results(&mut self) {
        let mut told_apart: HashSet<(String, String)> = HashSet::new();
        self.runs.iter().for_each(|run| told_apart.extend(run.told_apart()));
        let found: Vec<Vec<Found>> = self.runs.iter().map(|run| run.found(&told_apart)).collect();
        let mut phases: HashMap<&str, Vec<&str>> = HashMap::new();
        for one in found.iter().flatten() {
            let known = phases.entry(&one.key).or_default();
            if !known.contains(&one.phase.as_str()) {
                known.push(&one.phase);
            }
        }
        let name = |one: &Found| match phases[one.key.as_str()].len() {
            1 => one.key.clone(),
            _ if one.phase.is_empty() => one.key.clone(),
            _ => format!("{}/{}", one.phase, one.key),
        };
        let mut keys: Vec<(bool, String)> = Vec::new();
        for (run, found) in self.runs.iter_mut().zip(&found) {
            for one in found {
                let name = name(one);
                if !run.values.contains_key(&name) && !keys.iter().any(|(_, known)| *known == name) {
                    keys.push((!one.returned, name.clone()));
                }
                run.values.insert(name, one.value);
            }
        }
        keys.sort_by_key(|(logged, _)| *logged);
        keys.truncate(MOST_RESULTS);
        self.keys = keys.into_iter().map(|(_, name)| name).collect();
    }

    /// Parameters that differ between runs, or were written as lists, without the seed.
    pub fn varying(&self) -> Vec<String> {
        self.varying_with_seed().into_iter().filter(|name| name != SEED).collect()
    }

    /// As [`Sweep::varying`], with the seed.
    pub fn varying_with_seed(&self) -> Vec<String> {
        let names = self.file.values.keys().chain(self.runs.iter().flat_map(|run| run.planned.params.keys()));
        let mut varying: Vec<String> = Vec::new();
        for name in names {
            let first = self.runs.first().and_then(|run| run.planned.params.get(name));
            let differs = self.runs.iter().any(|run| run.planned.params.get(name) != first);
            if (differs || self.file.swept.contains(name)) && !varying.contains(name) {
                varying.push(name.clone());
            }
        }
        varying
    }

    /// Results that tell how good a run is, and not how it went.
    pub fn results(&self) -> Vec<&str> {
        let is_course = |key: &str| COURSE.contains(&key.rsplit('/').next().unwrap_or(key));
        self.keys.iter().map(String::as_str).filter(|key| !is_course(key)).collect()
    }

    /// The runs with a state.
    pub fn in_state(&self, progress: Progress) -> impl Iterator<Item = &RunResult> {
        self.runs.iter().filter(move |run| run.progress == progress)
    }
}

fn phase_of(line: &Map<String, Value>) -> &str {
    line.get("phase").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a field of a line may say what its numbers are of.
fn is_of_things(field: &str, value: &Value) -> bool {
    field != "phase" && (value.is_string() && number(value).is_none() || ["block", "k"].contains(&field))
}

/// The last value of something.
struct Found {
    phase: String,
    key: String,
    value: f64,
    returned: bool,
}

impl RunResult {
    fn read(sweep: &Path, planned: &PlannedRun) -> Result<Self> {
        let (mut progress, file) = progress_of(sweep, &planned.name)?;
        let dir = sweep.join(&planned.name);
        let mut error = file.as_ref().and_then(|file| file.error.clone());
        let mut state = match progress {
            Progress::Missing => "not started".to_string(),
            Progress::Running => "running".to_string(),
            _ => file.as_ref().map_or("unknown state".into(), |file| file.status(Some(false))),
        };
        if progress == Progress::Missing
            && let Some(found) = log_of(sweep, &planned.name).ok().and_then(|log| error_in(&log, 0))
        {
            (progress, state, error) = (Progress::Failed, "failed".into(), Some(found));
        }
        let metrics = format!("{}/{METRICS_FILE}", planned.name);
        inside::check(sweep, &metrics, MOST_METRICS)?;
        let path = sweep.join(metrics);
        let lines = match path.is_file() {
            true => read::lines(&path, &read::text(&path, MOST_METRICS)?)?.0,
            false => Vec::new(),
        };
        let name = format!("{}/{EVALUATION_FILE}", planned.name);
        inside::check(sweep, &name, MOST_TEXT)?;
        let path = sweep.join(name);
        let evaluation = if path.is_file() { read_json(&path)? } else { Map::new() };
        let (planned, values) = (planned.clone(), HashMap::new());
        Ok(Self { planned, dir, progress, state, error, file, evaluation, lines, values })
    }

    /// Fields that tell the lines of a phase apart, each with its phase: texts, blocks and numbers of neighbours.
    fn told_apart(&self) -> Vec<(String, String)> {
        let mut all: HashMap<(&str, &str), Vec<&Value>> = HashMap::new();
        for line in &self.lines {
            for (field, value) in line.iter().filter(|(field, value)| is_of_things(field, value)) {
                let values = all.entry((phase_of(line), field)).or_default();
                if values.len() <= MOST_THINGS && !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        let several = all.into_iter().filter(|(_, values)| (2..=MOST_THINGS).contains(&values.len()));
        several.map(|((phase, field), _)| (phase.to_string(), field.to_string())).collect()
    }

    /// The last value of everything that is a number; `told_apart` are fields that belong to names, with their phases.
    fn found(&self, told_apart: &HashSet<(String, String)>) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::new();
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        let mut add = |phase: &str, key: &str, value: &Value, returned: bool| {
            let Some(value) = number(value) else { return };
            match places.get(&(phase.to_string(), key.to_string())) {
                Some(place) => {
                    all[*place].value = value;
                    all[*place].returned |= returned;
                }
                None => {
                    places.insert((phase.into(), key.into()), all.len());
                    all.push(Found { phase: phase.into(), key: key.into(), value, returned });
                }
            }
        };
        for line in &self.lines {
            let phase = phase_of(line);
            let (things, values): (Vec<_>, Vec<_>) =
                line.iter().partition(|(key, _)| told_apart.contains(&(phase.to_string(), key.to_string())));
            let things = things.into_iter().map(|(_, value)| text(value)).collect::<Vec<_>>().join(", ");
            let of: Vec<&str> = [phase, &things].into_iter().filter(|part| !part.is_empty()).collect();
            let of = of.join("/");
            values.into_iter().for_each(|(key, value)| add(&of, key, value, false));
        }
        for (model, values) in &self.evaluation {
            let values = values.as_object().into_iter().flatten();
            values.for_each(|(key, value)| add(model, key, value, true));
        }
        let returned = self.file.as_ref().map(|file| &file.result);
        for (key, value) in returned.into_iter().flatten() {
            match value {
                Value::Object(inner) => inner.iter().for_each(|(name, value)| add(key, name, value, true)),
                // Returned values stand for those that were logged under the same name.
                value => add("", key, value, true),
            }
        }
        all
    }

    /// Whether its results count.
    pub fn is_finished(&self) -> bool {
        self.progress == Progress::Finished
    }
}
