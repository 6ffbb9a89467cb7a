//! Weights in several files: `model.safetensors.index.json` or `pytorch_model.bin.index.json`, which say in which file
//! each tensor is.

use super::{INDEX_FILES, TensorFile, tensors};
use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use crate::untrusted;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Whether a file is such an index, by its name.
pub fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

/// One of several files of weights in a folder, if there is one.
pub(super) fn without_index(dir: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("-of-") && INDEX_FILES.iter().any(|index| is_shard_of(name, index)))
        .collect();
    names.sort();
    names.into_iter().next()
}

/// "model-00001-of-00002.safetensors" of "model.safetensors.index.json".
fn is_shard_of(name: &str, index: &str) -> bool {
    let file = index.trim_end_matches(".index.json");
    file.split_once('.').is_some_and(|(stem, ending)| name.starts_with(stem) && name.ends_with(ending))
}

/// The files that an index names, in order, each with the tensors that it should hold. All of them are there.
pub fn files(index: &Path) -> Result<BTreeMap<PathBuf, BTreeSet<String>>> {
    let shown = index.display();
    let value = untrusted::read_json(index)?;
    let Some(map) = value["weight_map"].as_object().filter(|map| !map.is_empty()) else {
        bail!("{shown} names no files of weights: expected \"weight_map\", the file of each tensor");
    };
    let mut files: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for (name, file) in map {
        let Some(file) = file.as_str().filter(|file| !file.is_empty() && !file.contains(['/', '\\'])) else {
            bail!("{shown}: the file of the tensor `{name}` is {file}, expected the name of a file beside the index");
        };
        files.entry(index.with_file_name(file)).or_default().insert(name.clone());
    }
    let missing: Vec<String> = files
        .keys()
        .filter(|file| !file.is_file())
        .map(|file| file.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    if !missing.is_empty() {
        bail_hint!(
            "{shown} names {} files, of which {} {} missing: {}", files.len(), missing.len(),
            if missing.len() == 1 { "is" } else { "are" }, missing.join(", ");
            "copy them too: a model needs all of its tensors"
        );
    }
    Ok(files)
}

/// The tensors of all files that an index names.
pub(super) fn read(index: &Path) -> Result<TensorFile> {
    let mut all = TensorFile { tensors: Vec::new(), metadata: Default::default(), others: Vec::new(), others_total: 0 };
    let mut seen = BTreeSet::new();
    for (path, expected) in files(index)? {
        let file = tensors::read(&path)?;
        let held: BTreeSet<&String> = file.tensors.iter().map(|(name, _)| name).collect();
        let lacking = expected.iter().find(|name| !held.contains(name));
        if let Some(name) = lacking {
            bail_hint!(
                "{} lacks the tensor `{name}`, which {} says is in it", path.display(), index.display();
                "the files belong to different models; copy all of them again"
            );
        }
        for (name, tensor) in file.tensors {
            ensure!(seen.insert(name.clone()), "{}: the tensor `{name}` is in several files", index.display());
            all.tensors.push((name, tensor));
        }
        all.metadata.extend(file.metadata);
        all.others.extend(file.others);
        all.others_total += file.others_total;
    }
    all.tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}
