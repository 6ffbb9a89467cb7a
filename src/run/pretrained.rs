//! Finds the weights that a path stands for, raw or averaged: a training checkpoint's, a run's, a model folder's (ours
//! or Hugging Face's).

use crate::bail_hint;
use crate::checkpoint::{STATE_FILE, TORCH_EMA_FILE, model_file, tensor_file};
use crate::error::{Result, did_you_mean};
use crate::files::read_json;
use crate::provenance::{ModelProvenance, SavedWeights};
use crate::run::RunFile;
use crate::run::directory::checkpoints_of_run;
use crate::run::snapshot::{EMA_DIR, RAW_DIR};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The file of the `weights` ("raw" or "ema") that `path` stands for: a training checkpoint's folder, a run directory
/// with checkpoints of one loop (the newest), a model folder, or a file. What a folder says about its weights must
/// agree.
pub fn find(path: &Path, weights: &str) -> Result<PathBuf> {
    if !["raw", "ema"].contains(&weights) {
        bail_hint!(
            "unknown weights \"{weights}\"{}", did_you_mean(weights, ["raw", "ema"]);
            "expected \"raw\" (as trained) or \"ema\" (their average)"
        );
    }
    if RunFile::is_in(path) {
        return find(&newest_of_run(path)?, weights);
    }
    if path.join(STATE_FILE).is_file() {
        let folder = path.join(if weights == "ema" { EMA_DIR } else { RAW_DIR });
        if model_file(&folder).is_none() {
            bail_hint!("{} holds no {weights} weights", path.display(); "the loop that wrote it had no EMA: pass \"raw\"");
        }
        return tensor_file(&folder);
    }
    let file = tensor_file(path)?;
    let declared = declared_weights(&file);
    let ema = file.with_file_name(TORCH_EMA_FILE);
    match (weights, declared.as_deref()) {
        (asked, Some(declared)) if asked != declared => bail_hint!(
            "{} holds {declared} weights, but \"{asked}\" were asked for", path.display();
            "its {} says so: pass \"{declared}\", or give the folder of the {asked} weights", ModelProvenance::FILE
        ),
        // In a folder of the reference, the average lies beside the weights. The name of a file settles which it is.
        ("ema", None) if path.is_dir() => {
            if !ema.is_file() {
                bail_hint!(
                    "{} has no averaged weights ({TORCH_EMA_FILE})", path.display();
                    "pass \"raw\" for those of {}", file.file_name().unwrap_or_default().to_string_lossy()
                );
            }
            Ok(ema)
        }
        _ => Ok(file),
    }
}

/// Which weights the folder of a weights file says it holds.
fn declared_weights(file: &Path) -> Option<String> {
    read_json::<SavedWeights>(&file.with_file_name(ModelProvenance::FILE)).ok()?.weights
}

/// The newest checkpoint of a run with one training loop.
fn newest_of_run(run: &Path) -> Result<PathBuf> {
    let newest = checkpoints_of_run(run);
    let loops: BTreeSet<_> = newest.iter().filter_map(|c| c.parent()).collect();
    match (newest.last(), loops.len()) {
        (Some(checkpoint), 1) => Ok(checkpoint.clone()),
        (None, _) => {
            bail_hint!("the run {} has no checkpoint", run.display(); "give a run with a checkpoint, or a model folder")
        }
        (Some(_), _) => bail_hint!(
            "the run {} has checkpoints of {} training loops", run.display(), loops.len();
            "name one: {}", newest.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
    }
}
