//! `nepa inspect`

use crate::bail_hint;
use crate::checkpoint::{self, CONFIG_FILE, ConfigFile, MODEL_FILE, Own, STATE_FILE, manifest, shards};
use crate::cli::plot::read::MOST_METRICS;
use crate::error::Result;
use crate::files::{folders_in, read_json};
use crate::output::to_stdout;
use crate::provenance::ModelProvenance;
use crate::run::directory::checkpoints_of_run;
use crate::run::inside;
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::metrics::METRICS_FILE;
use crate::run::signals::Interrupt;
use crate::run::{CheckpointState, RunFile};
use crate::script::Host;
use crate::tensor::dtype_name;
use crate::untrusted::MOST_TEXT;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub fn inspect(path: &Path, stdlib: Option<&Path>) -> Result<()> {
    let text = if RunFile::is_in(path) {
        run(path)?
    } else if path.join(STATE_FILE).is_file() {
        training_checkpoint(path)?
    } else if path.is_dir() && checkpoint::model_file(path).is_none() {
        let found = models(path)?;
        let inside = match found.is_empty() {
            true => String::new(),
            false => format!("; inside it are: {}", list(&found)),
        };
        bail_hint!(
            "{} is neither a model folder ({MODEL_FILE}) nor a run directory ({})", path.display(), RunFile::NAME;
            "expected one of them or a .safetensors, .bin, .pt or .pth file{inside}"
        );
    } else {
        model(path, stdlib)?
    };
    to_stdout(&text);
    Ok(())
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Model folders in `path`, two levels deep; links that lead out of it are not followed.
pub(super) fn models(path: &Path) -> Result<Vec<PathBuf>> {
    let is_inside = |d: &PathBuf| inside::is_in(path, d);
    let mut models = Vec::new();
    for folder in folders_in(path)?.into_iter().filter(is_inside) {
        let below = folders_in(&folder)?.into_iter().filter(is_inside);
        models.extend(std::iter::once(folder).chain(below).filter(|d| checkpoint::model_file(d).is_some()));
    }
    Ok(models)
}

/// "key  value" lines of a JSON object.
fn lines(map: &Map<String, Value>, out: &mut String) {
    let width = map.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in map {
        let text = match value {
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(out, "  {key:<width$}  {text}");
    }
}

fn object(content: &impl Serialize) -> Result<Map<String, Value>> {
    Ok(serde_json::from_value(serde_json::to_value(content)?)?)
}

fn run(path: &Path) -> Result<String> {
    for (name, most) in [(RunFile::NAME, MOST_TEXT), (LOCK_FILE, MOST_TEXT), (METRICS_FILE, MOST_METRICS)] {
        inside::check(path, name, most)?;
    }
    let run = RunFile::read(path)?;
    let mut shown = object(&run)?;
    shown.insert("state".into(), run.status(RunLock::is_held(path)).into());
    for key in ["scripts", "resumed"] {
        shown.shift_remove(key);
    }
    let mut out = format!("run {}\n", path.display());
    lines(&shown, &mut out);
    for resumption in &run.resumed {
        let _ = writeln!(out, "resumed {}: {}", resumption.at, resumption.command.join(" "));
        for (label, step) in &resumption.steps {
            let _ = writeln!(out, "  {label}: from step {step}");
        }
        for change in &resumption.changes {
            let _ = writeln!(out, "  {change}");
        }
    }
    for script in run.last_scripts() {
        let place = script.file.clone().unwrap_or(format!("nepa {}", run.versions.nepa));
        let _ = writeln!(out, "script {}: {place}", script.name);
    }
    if let Ok(metrics) = std::fs::read_to_string(path.join(METRICS_FILE)) {
        let rows: Vec<&str> = metrics.lines().collect();
        let _ = writeln!(out, "metrics: {} lines", rows.len());
        if let Some(last) = rows.last() {
            let _ = writeln!(out, "  last: {last}");
        }
    }
    let (checkpoints, outside) = checkpoints(path)?;
    for checkpoint in checkpoints {
        let _ = writeln!(out, "checkpoint: {}", checkpoint.display());
    }
    if let Some(words) = outside {
        let _ = writeln!(out, "{words}");
    }
    for model in models(path)? {
        let _ = writeln!(out, "model: {}", model.display());
    }
    Ok(out)
}

/// The checkpoints that lie in a run directory, and a line about those that only a link in it leads to: they are not
/// looked at.
pub fn checkpoints(run: &Path) -> Result<(Vec<PathBuf>, Option<String>)> {
    let (mut there, mut first) = (Vec::new(), None);
    for path in checkpoints_of_run(run)? {
        match inside::path_in(run, path.strip_prefix(run).unwrap_or(&path)) {
            Ok(_) => there.push(path),
            Err(why) => first = first.or(Some(format!("there are checkpoints that are not shown: {why}"))),
        }
    }
    Ok((there, first))
}

/// A checkpoint of a training loop: whether it is intact, where the loop stands, what it depends on.
fn training_checkpoint(path: &Path) -> Result<String> {
    manifest::verify(path)?;
    let CheckpointState {
        label, step, saved_at, device, threads, versions, loop_state, fixed, changeable, run, ..
    } = CheckpointState::read(path)?;
    let mut out = format!("checkpoint {}: intact (all checksums match)\n", path.display());
    let mut head = object(&json!({
        "label": label, "step": step, "saved_at": saved_at, "device": device, "threads": threads, "versions": versions,
    }))?;
    // Counters; the history of losses is long.
    head.extend(loop_state.into_iter().filter(|(_, value)| !value.is_array()));
    lines(&head, &mut out);
    for (title, map) in
        [("settings that may not change", fixed), ("settings that may change", changeable), ("run", object(&run)?)]
    {
        let _ = writeln!(out, "{title}:");
        lines(&map, &mut out);
    }
    for model in models(path)? {
        let _ = writeln!(out, "model: {}", model.display());
    }
    Ok(out)
}

/// How a model that is not a plain ViT-NEPA comes about. One that a script builds is built.
fn built(file: &Path, own: &Own, stdlib: Option<&Path>) -> String {
    let script = match own {
        Own::Parts(parts) => return format!("parts of its own, which a recipe made: {}", parts.join(", ")),
        Own::Script(definition) => &definition.script,
    };
    let host = Host::new(stdlib.map(Path::to_path_buf), Interrupt::default());
    let text = format!("checkpoint::load({}).describe()", Value::from(file.display().to_string()));
    match host.evaluate("inspect", &text, |found| Ok(found.to_string())) {
        Ok(model) => format!("built by {script}: {model}"),
        Err(error) => format!("not built by {script}: {}", error.render(&host.sources)),
    }
}

fn model(path: &Path, stdlib: Option<&Path>) -> Result<String> {
    let file = checkpoint::tensor_file(path)?;
    let content = checkpoint::read_tensors(&file)?;
    let total: usize = content.tensors.iter().map(|(_, t)| t.numel()).sum();
    let parts = if shards::is_index(&file) { shards::files(&file)? } else { Default::default() };
    let size = |file: &Path| -> Result<u64> { Ok(std::fs::metadata(file)?.len()) };
    let bytes =
        if parts.is_empty() { size(&file)? } else { parts.keys().map(|part| size(part)).sum::<Result<u64>>()? };
    let mut out = format!(
        "{}: {} tensors, {total} values, {:.1} MB\n",
        file.display(),
        content.tensors.len(),
        bytes as f64 / 1e6
    );
    for (part, names) in &parts {
        let name = part.file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(out, "  {name}: {} tensors, {:.1} MB", names.len(), size(part)? as f64 / 1e6);
    }
    let mut metadata: Vec<_> = content.metadata.iter().collect();
    metadata.sort();
    for (key, value) in metadata {
        let _ = writeln!(out, "  {key}: {value}");
    }
    if let Some(others) = content.left_out() {
        let _ = writeln!(out, "left out: {others}");
    }
    let config = file.with_file_name(CONFIG_FILE);
    if config.is_file() {
        let config_file = ConfigFile::read(&config)?;
        if let Some(own) = &config_file.own {
            let _ = writeln!(out, "{}", built(&file, own, stdlib));
        }
        let _ = writeln!(out, "configuration:");
        lines(&config_file.all_keys(), &mut out);
        if let Some(names) = config_file.class_names() {
            let shown: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
            let more = if names.len() > 10 { ", …" } else { "" };
            let _ = writeln!(out, "classes: {} ({}{more})", names.len(), shown.join(", "));
        }
    }
    let provenance = file.with_file_name(ModelProvenance::FILE);
    if provenance.is_file() {
        let _ = writeln!(out, "provenance:");
        lines(&read_json(&provenance)?, &mut out);
    }
    let _ = writeln!(out, "tensors:");
    let width = content.tensors.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
    for (name, t) in &content.tensors {
        let _ = writeln!(out, "  {name:<width$}  {:<9} {:?}", dtype_name(t.kind()), t.size());
    }
    Ok(out)
}
