//! What a run directory holds, as the page shows it.

use super::evaluation::Evaluation;
use super::machine::{self, Machine};
use crate::bail_hint;
use crate::checkpoint::{CONFIG_FILE, STATE_FILE, manifest};
use crate::cli::inspect;
use crate::cli::plot::CURVES_FILE;
use crate::cli::plot::read::{self, MOST_METRICS, Run};
use crate::error::{Context as _, Result};
use crate::files::{beside, folders_in, read_json};
use crate::provenance::ModelProvenance;
use crate::run::inside;
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::log::LOG_FILE;
use crate::run::metrics::METRICS_FILE;
use crate::run::schema::{EVALUATION_FILE, RECIPE_FILE};
use crate::run::{CheckpointState, RunFile, Settings};
use crate::untrusted::MOST_TEXT;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The most pictures that the page shows.
const MOST_PICTURES: usize = 40;
/// The most models, and the most checkpoints, that the page shows.
const MOST_FOLDERS: usize = 1000;
/// The most warnings that the page shows.
const MOST_WARNINGS: usize = 30;

/// Everything that the page shows.
pub struct Report {
    pub dir: PathBuf,
    pub run: RunFile,
    /// The settings of its loops, by label.
    pub settings: Map<String, Value>,
    pub state: String,
    pub logged: Run,
    pub evaluation: Option<Evaluation>,
    /// Lines of the run log that warn of something, each once.
    pub warnings: Vec<String>,
    /// Names in the run directory.
    pub pictures: Vec<String>,
    pub models: Vec<Folder>,
    pub checkpoints: Vec<Folder>,
    pub recipe: Option<String>,
    pub machines: Vec<Machine>,
}

/// A folder of the run, with a note about it.
pub struct Folder {
    pub name: String,
    pub bytes: u64,
    pub about: String,
}

/// All of a run.
pub fn report(dir: &Path) -> Result<Report> {
    let mut report = without_lines(dir)?;
    inside::check(dir, METRICS_FILE, MOST_METRICS)?;
    if let Some(text) = optional(&dir.join(METRICS_FILE), MOST_METRICS)? {
        (report.logged.lines, report.logged.torn) = read::lines(&dir.join(METRICS_FILE), &text)?;
    }
    report.machines = machine::machines(dir)?;
    Ok(report)
}

/// All but the lines that it logged, of metrics and machines.
pub fn without_lines(dir: &Path) -> Result<Report> {
    is_run(dir)?;
    for name in [RunFile::NAME, LOCK_FILE, EVALUATION_FILE, LOG_FILE, RECIPE_FILE] {
        inside::check(dir, name, MOST_TEXT)?;
    }
    let run = RunFile::read(dir)?;
    let named = dir.canonicalize().ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
    let given = dir.display().to_string();
    let name = named.unwrap_or_else(|| given.clone());
    let logged =
        Run { name, given, dir: dir.into(), folder: None, state: None, params: None, lines: Vec::new(), torn: false };
    let evaluation = Evaluation::read(dir)?;
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut pictures: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    // The curves are in the page themselves.
    pictures.retain(|name| name.ends_with(".png") && name != CURVES_FILE);
    pictures.sort();
    pictures.truncate(MOST_PICTURES);
    let below = |path: &Path| path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let folder = |path: PathBuf, about: String| Folder { name: below(&path), bytes: size(&path), about };
    let models = inspect::models(dir)?.into_iter().take(MOST_FOLDERS).map(|path| {
        let about = provenance(dir, &path);
        folder(path, about)
    });
    let (checkpoints, outside) = inspect::checkpoints(dir)?;
    let checkpoints = checkpoints.into_iter().take(MOST_FOLDERS).map(|path| {
        let name = below(&path.join(manifest::MANIFEST_FILE));
        let verified = inside::check(dir, &name, MOST_TEXT).and_then(|()| manifest::verify_sizes(&path));
        let about = match verified {
            Ok(()) => "complete".into(),
            Err(e) => format!("incomplete: {e:#}"),
        };
        folder(path, about)
    });
    let mut warnings = optional(&dir.join(LOG_FILE), MOST_TEXT)?.map_or(Vec::new(), |log| warnings(&log));
    warnings.extend(outside);
    Ok(Report {
        state: run.status(RunLock::is_held(dir)),
        settings: settings(dir, &run)?,
        run,
        logged,
        evaluation,
        warnings,
        pictures,
        models: models.collect(),
        checkpoints: checkpoints.collect(),
        recipe: optional(&dir.join(RECIPE_FILE), MOST_TEXT)?,
        machines: Vec::new(),
        dir: dir.into(),
    })
}

/// The settings of the run's loops; those of its checkpoints, if an older version did not record them in `run.json`.
fn settings(dir: &Path, run: &RunFile) -> Result<Map<String, Value>> {
    let mut settings = run.settings.clone();
    if settings.is_empty() {
        let (checkpoints, _) = inspect::checkpoints(dir)?;
        for path in checkpoints.iter().rev().take(MOST_FOLDERS) {
            let name = path.strip_prefix(dir).unwrap_or(path).join(STATE_FILE).display().to_string();
            let read = inside::check(dir, &name, MOST_TEXT).and_then(|()| CheckpointState::read(path));
            // One that cannot be read is told below, where checkpoints are listed.
            if let Ok(state) =
                read.map(|state| (state.label, Settings { fixed: state.fixed, changeable: state.changeable }))
            {
                settings.entry(state.0).or_insert_with(|| state.1.all());
            }
        }
    }
    Ok(settings)
}

/// The warnings in a run log, whose lines begin with date and time.
fn warnings(log: &str) -> Vec<String> {
    let mut known = HashSet::new();
    let all = log.lines().filter_map(|line| line.split_once("  warning: "));
    let each_once = all.filter(|(_, warning)| known.insert(*warning));
    let mut shown: Vec<String> = each_once.map(|(time, warning)| format!("{time}: {warning}")).collect();
    let left_out = shown.len().saturating_sub(MOST_WARNINGS);
    shown.truncate(MOST_WARNINGS);
    if left_out > 0 {
        shown.push(format!("… and {left_out} more in {LOG_FILE}"));
    }
    shown
}

/// Checks that `dir` is a run directory.
pub fn is_run(dir: &Path) -> Result<()> {
    if RunFile::is_in(dir) {
        return Ok(());
    }
    if !dir.exists() {
        bail_hint!("{} does not exist", dir.display(); "expected a run directory{}", beside(dir));
    }
    if !dir.is_dir() {
        bail_hint!("{} is a file, not a run directory", dir.display(); "give the folder that `nepa run` made");
    }
    let inside: Vec<String> =
        folders_in(dir)?.iter().filter(|p| RunFile::is_in(p)).map(|p| p.display().to_string()).collect();
    let list = match inside.len() {
        0 => String::new(),
        n => format!("; inside it are: {}{}", inside[..n.min(5)].join(", "), if n > 5 { ", …" } else { "" }),
    };
    bail_hint!("{} is not a run directory: it has no {}", dir.display(), RunFile::NAME; "expected a directory made by `nepa run`{list}")
}

/// A file's text, if there is one.
fn optional(path: &Path, most: u64) -> Result<Option<String>> {
    path.exists().then(|| read::text(path, most)).transpose()
}

/// Which weights a model folder of the run holds and what they were started from.
fn provenance(dir: &Path, path: &Path) -> String {
    let file = path.join(ModelProvenance::FILE);
    let name = file.strip_prefix(dir).unwrap_or(&file).display().to_string();
    let read = inside::check(dir, &name, MOST_TEXT).and_then(|()| read_json::<ModelProvenance>(&file));
    let Ok(provenance) = read else {
        return "provenance unknown".into();
    };
    let mut parts = Vec::new();
    if let Some(weights) = provenance.weights {
        parts.push(format!("weights: {weights}"));
    }
    let config = path.join(CONFIG_FILE);
    let name = config.strip_prefix(dir).unwrap_or(&config).display().to_string();
    if inside::check(dir, &name, MOST_TEXT).is_ok()
        && let Ok(config) = read_json::<Value>(&config)
        && let Some(script) = config["script"].as_str()
    {
        parts.push(format!("built by {script}"));
    }
    for start in provenance.run.unwrap_or_default().started_from {
        match start.weights() {
            Some(weights) => parts.push(format!("started from {} ({weights})", start.path)),
            None => parts.push(format!("started from {}", start.path)),
        }
    }
    if let Some(saved_at) = provenance.saved_at {
        parts.push(format!("saved {saved_at}"));
    }
    parts.join("; ")
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => size(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}
