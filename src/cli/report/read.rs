//! What a run directory holds, as the page shows it.

use crate::bail_hint;
use crate::checkpoint::{PROVENANCE_FILE, manifest};
use crate::cli::inspect;
use crate::cli::plot::read::{self, Run};
use crate::error::{Context as _, Result};
use crate::files::beside;
use crate::run::directory::{self, RUN_FILE};
use crate::run::metrics::METRICS_FILE;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What an evaluation leaves in a run directory.
const EVALUATION_FILE: &str = "evaluation.json";
/// Pictures that the page shows at most.
const MOST_PICTURES: usize = 40;

/// Everything that the page shows.
pub struct Report {
    pub dir: PathBuf,
    pub info: Value,
    pub state: String,
    pub logged: Run,
    pub evaluation: Option<Value>,
    /// Names in the run directory.
    pub pictures: Vec<String>,
    pub models: Vec<Folder>,
    pub checkpoints: Vec<Folder>,
    pub recipe_file: String,
    pub recipe: Option<String>,
}

/// A folder of the run, with what is to be said about it.
pub struct Folder {
    pub name: String,
    pub bytes: u64,
    pub about: String,
}

pub fn report(dir: &Path) -> Result<Report> {
    is_run(dir)?;
    let info = directory::read_info(dir)?;
    if !info.is_object() {
        bail_hint!(
            "{}: expected a JSON object", dir.join(RUN_FILE).display();
            "only `nepa run` writes this file; it was changed"
        );
    }
    let state = directory::state_words(&info, directory::is_in_use(dir));
    let named = dir.canonicalize().ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
    let given = dir.display().to_string();
    let (lines, torn) = match optional(&dir.join(METRICS_FILE))? {
        Some(text) => read::lines(&dir.join(METRICS_FILE), &text)?,
        None => (Vec::new(), false),
    };
    let logged = Run { name: named.unwrap_or_else(|| given.clone()), given, dir: dir.into(), state: None, lines, torn };
    let evaluation = match optional(&dir.join(EVALUATION_FILE))? {
        Some(text) => Some(parse(&dir.join(EVALUATION_FILE), &text)?),
        None => None,
    };
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut pictures: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    // The curves are in the page themselves.
    pictures.retain(|name| name.ends_with(".png") && name != "curves.png");
    pictures.sort();
    pictures.truncate(MOST_PICTURES);
    let below = |path: &Path| path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let folder = |path: PathBuf, about: String| Folder { name: below(&path), bytes: size(&path), about };
    let models = inspect::models(dir).into_iter().map(|path| {
        let about = provenance(&path);
        folder(path, about)
    });
    let checkpoints = directory::all_checkpoints(dir).into_iter().map(|path| {
        let about = match manifest::verify_sizes(&path) {
            Ok(()) => "complete".into(),
            Err(e) => format!("not complete: {e:#}"),
        };
        folder(path, about)
    });
    let recipe_file = directory::RECIPE_FILE.to_string();
    Ok(Report {
        state,
        logged,
        evaluation,
        pictures,
        models: models.collect(),
        checkpoints: checkpoints.collect(),
        recipe: optional(&dir.join(&recipe_file))?,
        recipe_file,
        info,
        dir: dir.into(),
    })
}

fn is_run(dir: &Path) -> Result<()> {
    if dir.join(RUN_FILE).is_file() {
        return Ok(());
    }
    if !dir.exists() {
        bail_hint!("{} does not exist", dir.display(); "expected a run directory{}", beside(dir));
    }
    if !dir.is_dir() {
        bail_hint!("{} is a file, no run directory", dir.display(); "give the folder that `nepa run` made");
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut inside: Vec<String> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join(RUN_FILE).is_file())
        .map(|p| p.display().to_string())
        .collect();
    inside.sort();
    let list = match inside.len() {
        0 => String::new(),
        n => format!("; inside it are: {}{}", inside[..n.min(5)].join(", "), if n > 5 { ", …" } else { "" }),
    };
    bail_hint!("{} is no run directory: it has no {RUN_FILE}", dir.display(); "expected what `nepa run` made{list}")
}

/// A file's text, where there is one.
fn optional(path: &Path) -> Result<Option<String>> {
    match path.exists() {
        true => Ok(Some(std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?)),
        false => Ok(None),
    }
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    if !value.is_object() {
        bail_hint!(
            "{}: expected a JSON object of results by name, found {}", path.display(), value;
            "evaluate::save of the standard library writes this file"
        );
    }
    Ok(value)
}

/// Which weights a model folder holds and where they began.
fn provenance(path: &Path) -> String {
    let text = std::fs::read_to_string(path.join(PROVENANCE_FILE)).unwrap_or_default();
    let Ok(Value::Object(about)) = serde_json::from_str(&text) else { return "provenance unknown".into() };
    let mut parts = Vec::new();
    if let Some(weights) = about.get("weights").and_then(Value::as_str) {
        parts.push(format!("weights: {weights}"));
    }
    for start in about.get("started_from").and_then(Value::as_array).into_iter().flatten() {
        let path = start["path"].as_str().unwrap_or("unknown");
        match start["weights"].as_str() {
            Some(weights) => parts.push(format!("started from {path} ({weights})")),
            None => parts.push(format!("started from {path}")),
        }
    }
    if let Some(saved) = about.get("saved_at").and_then(Value::as_str) {
        parts.push(format!("saved {saved}"));
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
