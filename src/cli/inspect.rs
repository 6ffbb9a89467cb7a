//! `nepa inspect`

use crate::bail_hint;
use crate::checkpoint::{self, CONFIG_FILE, ConfigFile, MODEL_FILE, PROVENANCE_FILE, manifest};
use crate::error::{Context as _, Result};
use crate::run::directory::{self, RUN_FILE};
use crate::run::metrics::METRICS_FILE;
use crate::run::snapshot;
use crate::tensor::dtype_name;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub fn inspect(path: &Path) -> Result<()> {
    let text = if path.join(RUN_FILE).is_file() {
        run(path)?
    } else if path.join(snapshot::STATE_FILE).is_file() {
        training_checkpoint(path)?
    } else if path.is_dir() && checkpoint::model_file(path).is_none() {
        let found = models(path);
        let inside = match found.is_empty() {
            true => String::new(),
            false => format!("; inside it are: {}", list(&found)),
        };
        bail_hint!(
            "{} is neither a model folder ({MODEL_FILE}) nor a run directory ({RUN_FILE})", path.display();
            "expected one of them or a .safetensors, .bin, .pt or .pth file{inside}"
        );
    } else {
        model(path)?
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Model folders below `path`, two levels deep.
pub(super) fn models(path: &Path) -> Vec<PathBuf> {
    let children = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut dirs: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
        dirs.sort();
        dirs
    };
    children(path)
        .into_iter()
        .flat_map(|d| std::iter::once(d.clone()).chain(children(&d)))
        .filter(|d| checkpoint::model_file(d).is_some())
        .collect()
}

fn json_file(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))
}

/// "key: value" lines of a JSON object.
fn lines(value: &Value, out: &mut String) {
    let Some(map) = value.as_object() else { return };
    let width = map.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in map {
        let text = match value {
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        let _ = writeln!(out, "  {key:<width$}  {text}");
    }
}

fn run(path: &Path) -> Result<String> {
    let mut info = directory::read_info(path)?;
    info["state"] = Value::String(directory::state_words(&info, directory::is_in_use(path)));
    let mut out = format!("run {}\n", path.display());
    lines(&info, &mut out);
    if let Ok(metrics) = std::fs::read_to_string(path.join(METRICS_FILE)) {
        let rows: Vec<&str> = metrics.lines().collect();
        let _ = writeln!(out, "metrics: {} lines", rows.len());
        if let Some(last) = rows.last() {
            let _ = writeln!(out, "  last: {last}");
        }
    }
    for checkpoint in directory::all_checkpoints(path) {
        let _ = writeln!(out, "checkpoint: {}", checkpoint.display());
    }
    for model in models(path) {
        let _ = writeln!(out, "model: {}", model.display());
    }
    Ok(out)
}

/// A checkpoint of a training loop: whether it is whole, where the loop stands, what it depends on.
fn training_checkpoint(path: &Path) -> Result<String> {
    manifest::verify(path)?;
    let state = snapshot::read_state(path)?;
    let mut out = format!("checkpoint {}, whole (every checksum is right)\n", path.display());
    let mut head = Value::Object(Default::default());
    for key in ["label", "step", "saved_at", "device", "threads", "versions"] {
        head[key] = state[key].clone();
    }
    // Counters; the history of losses is long.
    for (key, value) in state["loop"].as_object().into_iter().flatten().filter(|(_, v)| !v.is_array()) {
        head[key] = value.clone();
    }
    lines(&head, &mut out);
    for (title, key) in [("settings that may not change", "fixed"), ("settings that may", "changeable"), ("run", "run")]
    {
        let _ = writeln!(out, "{title}:");
        lines(&state[key], &mut out);
    }
    for model in models(path) {
        let _ = writeln!(out, "model: {}", model.display());
    }
    Ok(out)
}

fn model(path: &Path) -> Result<String> {
    let file = checkpoint::tensor_file(path)?;
    let content = checkpoint::tensors::read(&file)?;
    let total: usize = content.tensors.iter().map(|(_, t)| t.numel()).sum();
    let bytes = std::fs::metadata(&file)?.len();
    let mut out = format!(
        "{}: {} tensors, {total} values, {:.1} MB\n",
        file.display(),
        content.tensors.len(),
        bytes as f64 / 1e6
    );
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
        let _ = writeln!(out, "configuration:");
        lines(&serde_json::to_value(&config_file.config)?, &mut out);
        if let Some(names) = config_file.class_names() {
            let shown: Vec<&str> = names.iter().take(10).map(String::as_str).collect();
            let more = if names.len() > 10 { ", …" } else { "" };
            let _ = writeln!(out, "classes: {} ({}{more})", names.len(), shown.join(", "));
        }
    }
    let provenance = file.with_file_name(PROVENANCE_FILE);
    if provenance.is_file() {
        let _ = writeln!(out, "provenance:");
        lines(&json_file(&provenance)?, &mut out);
    }
    let _ = writeln!(out, "tensors:");
    let width = content.tensors.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
    for (name, t) in &content.tensors {
        let _ = writeln!(out, "  {name:<width$}  {:<9} {:?}", dtype_name(t.kind()), t.size());
    }
    Ok(out)
}
