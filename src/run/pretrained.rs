//! Finds the weights that a path stands for, raw or averaged: a training checkpoint's, a run's, a model folder's (ours
//! or Hugging Face's).

use crate::bail_hint;
use crate::checkpoint::{STATE_FILE, TORCH_EMA_FILE, model_file, tensor_file};
use crate::error::{Result, did_you_mean};
use crate::files::{exists, folders_in, read_json};
use crate::provenance::{ModelProvenance, SavedWeights};
use crate::run::RunFile;
use crate::run::directory::checkpoints_of_run;
use crate::run::snapshot::{EMA_DIR, RAW_DIR};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The kind, if it is known, and the file of the `weights` ("raw", "ema", or "" for the only ones) that `path` stands for: a training checkpoint's
/// folder, a run directory with checkpoints of one loop (the newest), a model folder, or a file. What a folder says
/// about its weights must agree.
pub fn find(path: &Path, weights: &str) -> Result<(Option<&'static str>, PathBuf)> {
    if !["raw", "ema", ""].contains(&weights) {
        bail_hint!(
            "unknown weights \"{weights}\"{}", did_you_mean(weights, ["raw", "ema"]);
            "expected \"raw\" (as trained) or \"ema\" (their average)"
        );
    }
    let mut found = kinds(path)?;
    if weights.is_empty() && found.len() > 1 {
        bail_hint!(
            "{} holds raw and averaged weights", path.display();
            "say which: weights \"raw\" (as trained) or \"ema\" (their average)"
        );
    }
    let (only, file) = match found.iter().position(|(kind, _)| weights.is_empty() || *kind == Some(weights)) {
        Some(place) => found.swap_remove(place),
        None => found.swap_remove(0),
    };
    match only {
        Some(only) if !weights.is_empty() && only != weights => bail_hint!(
            "{} holds {only} weights, but \"{weights}\" were asked for", path.display();
            "pass \"{only}\", or give the path of the {weights} weights"
        ),
        // A folder that does not say is taken to hold raw weights; the name of a file settles which it is.
        None if weights == "ema" && path.is_dir() => bail_hint!(
            "{} has no averaged weights ({TORCH_EMA_FILE})", path.display();
            "pass \"raw\" for those of {}", file.file_name().unwrap_or_default().to_string_lossy()
        ),
        // What was asked for, where nothing says otherwise.
        None => Ok((["raw", "ema"].into_iter().find(|kind| *kind == weights), file)),
        only => Ok((only, file)),
    }
}

/// The files of weights that `path` stands for, at least one, each with its kind, if it is known or if there are both.
pub fn kinds(path: &Path) -> Result<Vec<(Option<&'static str>, PathBuf)>> {
    if RunFile::is_in(path) {
        return kinds(&newest_of_run(path)?);
    }
    let parts = [("raw", RAW_DIR), ("ema", EMA_DIR)].map(|(kind, part)| (Some(kind), path.join(part)));
    let there = parts.into_iter().filter_map(|(kind, folder)| Some((kind, model_file(&folder)?)));
    let found: Vec<_> = there.collect();
    if !found.is_empty() {
        return Ok(found);
    }
    if path.join(STATE_FILE).is_file() {
        bail_hint!("{} holds no weights", path.display(); "expected {RAW_DIR} or {EMA_DIR} in it");
    }
    let file = tensor_file(path)?;
    let average = file.with_file_name(TORCH_EMA_FILE);
    if file.file_name() == average.file_name() {
        return Ok(vec![(Some("ema"), file)]);
    }
    Ok(match declared_weights(&file)?.as_deref() {
        Some("ema") => vec![(Some("ema"), file)],
        Some(_) => vec![(Some("raw"), file)],
        // In a folder of the reference, the average lies beside the weights.
        None if path.is_dir() && average.is_file() => vec![(Some("raw"), file), (Some("ema"), average)],
        None => vec![(None, file)],
    })
}

/// Which weights the folder of a weights file says it holds, if it says so.
fn declared_weights(file: &Path) -> Result<Option<String>> {
    let provenance = file.with_file_name(ModelProvenance::FILE);
    if exists(&provenance)? { Ok(read_json::<SavedWeights>(&provenance)?.weights) } else { Ok(None) }
}

/// The newest checkpoint of a run with one training loop.
fn newest_of_run(run: &Path) -> Result<PathBuf> {
    let newest = checkpoints_of_run(run)?;
    let loops: BTreeSet<_> = newest.iter().filter_map(|c| c.parent()).collect();
    match (newest.last(), loops.len()) {
        (Some(checkpoint), 1) => Ok(checkpoint.clone()),
        (None, _) => {
            let models: Vec<String> = folders_in(run)?
                .into_iter()
                .filter(|folder| model_file(folder).is_some())
                .map(|folder| folder.display().to_string())
                .collect();
            let inside = if models.is_empty() { String::new() } else { format!(", such as {}", models.join(", ")) };
            bail_hint!(
                "the run {} has no checkpoint", run.display();
                "give a run with a checkpoint, or a model folder{inside}"
            )
        }
        (Some(_), _) => bail_hint!(
            "the run {} has checkpoints of {} training loops", run.display(), loops.len();
            "name one: {}", newest.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}
