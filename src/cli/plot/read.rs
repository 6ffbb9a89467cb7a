//! Runs as `nepa plot` finds them: name, state, lines of metrics.

use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::files::beside;
use crate::run::RunFile;
use crate::run::inside;
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::metrics::METRICS_FILE;
use crate::untrusted;
use crate::untrusted::MOST_TEXT;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A run and what it logged.
pub struct Run {
    /// How it was named on the command line.
    pub given: String,
    /// The folder of its metrics.
    pub dir: PathBuf,
    /// The folder's name, which tells runs apart if they differ.
    pub name: String,
    /// The folder's name, where `name` is made of parameters.
    pub folder: Option<String>,
    /// Its state, if known.
    pub state: Option<String>,
    /// Its parameters and its seed, if known.
    pub params: Option<Map<String, Value>>,
    /// Its lines, parsed.
    pub lines: Vec<Map<String, Value>>,
    /// Whether the last line was cut short, as when a run is killed.
    pub torn: bool,
}

/// The most bytes of metrics that are read: some millions of lines.
pub const MOST_METRICS: u64 = 1 << 30;

/// Reads a run directory or a file of metrics.
pub fn run(path: &Path) -> Result<Run> {
    let file = metrics_file(path)?;
    let (lines, torn) = lines(&file, &text(&file, MOST_METRICS)?)?;
    if lines.is_empty() {
        bail_hint!(
            "{} holds no metrics{}", file.display(), if torn { " but a line that was cut short" } else { "" };
            "a recipe writes them with run::log; the standard library does so every `log_every` steps"
        );
    }
    let dir = file.parent().map_or(PathBuf::from("."), Path::to_path_buf);
    let known = match RunFile::is_in(&dir) {
        true => {
            inside::check(&dir, RunFile::NAME, MOST_TEXT)?;
            inside::check(&dir, LOCK_FILE, MOST_TEXT)?;
            Some(RunFile::read(&dir)?)
        }
        false => None,
    };
    let state = known.as_ref().map(|run| run.status(RunLock::is_held(&dir)));
    let params = known.map(|run| {
        let mut params = run.params;
        params.entry("seed").or_insert(run.seed.into());
        params
    });
    // "." and "runs/x/.." are named as what they are.
    let named = dir.canonicalize().ok().filter(|_| file.ends_with(METRICS_FILE));
    let name = named.as_deref().unwrap_or(&file).file_name().map(|n| n.to_string_lossy().into_owned());
    let given = path.display().to_string();
    let name = name.unwrap_or_else(|| given.clone());
    Ok(Run { name, given, dir, folder: None, state, params, lines, torn })
}

/// A file's text.
pub fn text(file: &Path, most: u64) -> Result<String> {
    String::from_utf8(untrusted::read(file, most)?).with_context(|| format!("{} is not text", file.display()))
}

fn metrics_file(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.exists() {
        bail_hint!("{} does not exist", path.display(); "expected run directories or metrics.jsonl files{}", beside(path));
    }
    let file = path.join(METRICS_FILE);
    if file.is_file() {
        inside::check(path, METRICS_FILE, MOST_METRICS)?;
        return Ok(file);
    }
    if RunFile::is_in(path) {
        bail_hint!("{} has no {METRICS_FILE}", path.display(); "it was removed: every run begins with an empty one");
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut inside: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.join(METRICS_FILE).is_file()).collect();
    inside.sort();
    let list = match inside.is_empty() {
        true => String::new(),
        false => {
            let shown: Vec<String> = inside.iter().take(5).map(|p| p.display().to_string()).collect();
            format!("; inside it are: {}{}", shown.join(", "), if inside.len() > 5 { ", …" } else { "" })
        }
    };
    bail_hint!("{} is not a run directory: it has no {METRICS_FILE}", path.display(); "expected a directory made by `nepa run`{list}")
}

/// The lines as JSON objects, and whether the last was cut short.
pub fn lines(file: &Path, text: &str) -> Result<(Vec<Map<String, Value>>, bool)> {
    let mut all = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Value>(line) {
            Ok(Value::Object(map)) => all.push(map),
            // Lines are written whole with their end; one without was being written.
            _ if !line.ends_with('\n') => return Ok((all, true)),
            found => {
                let fault = match found {
                    Ok(_) => "it is JSON, but not an object".to_string(),
                    Err(e) => e.to_string(),
                };
                let begin: String = line.trim().chars().take(60).collect();
                bail_hint!(
                    "{}, line {}: expected a JSON object, found `{}`: {fault}", file.display(), i + 1, begin.escape_debug();
                    "only `nepa run` writes to this file; remove the line if you know where it came from"
                );
            }
        }
    }
    Ok((all, false))
}
