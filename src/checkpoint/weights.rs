//! The tensors of a model in a file: whose they are where it holds other things, too.

use super::channels::PATCH_EMBEDDING;
use super::{STATE_FILE, manifest, read_tensors, tensors};
use crate::bail_hint;
use crate::error::Result;
use std::collections::BTreeSet;
use std::path::Path;
use tch::Tensor;

/// The tensors meant by `path`, which must be finite. If a file keeps a `state_dict` among other things, these are its
/// tensors, as the reference's loader has it; averages of them beside it are an error.
pub fn weights(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let all = all_tensors(path)?;
    let inner = |name: &str| name.strip_prefix("state_dict.").map(str::to_string);
    let names: BTreeSet<String> = all.iter().filter_map(|(name, _)| inner(name)).collect();
    let twin = all.iter().filter_map(|(name, _)| name.split_once('.'));
    let twin =
        twin.filter(|(group, rest)| group.contains("ema") && names.contains(*rest)).map(|(group, _)| group).next();
    if let Some(twin) = twin {
        bail_hint!(
            "{} holds two sets of the same tensors, state_dict and {twin}", path.display();
            "take those that you mean out of checkpoint::tensors(PATH), and load them with load_state_dict"
        );
    }
    let own = |(name, t): (String, Tensor)| if names.is_empty() { Some((name, t)) } else { Some((inner(&name)?, t)) };
    let tensors: Vec<_> = all.into_iter().filter_map(own).collect();
    tensors::ensure_finite(&tensors, &path.display().to_string())?;
    Ok(tensors)
}

/// The tensors of a ViT-NEPA meant by `path`, which must be finite, by their own names, and what stands before all of
/// these in the file: such as `module.` of DistributedDataParallel, or `model.` of a file that holds other things, too.
/// `prefix` says which of several models.
pub fn nepa_weights(path: &Path, prefix: Option<&str>) -> Result<(String, Vec<(String, Tensor)>)> {
    let all = all_tensors(path)?;
    let stem = |name: &str| -> Option<String> {
        let before = name.strip_suffix(PATCH_EMBEDDING)?;
        let before = before.strip_suffix("vit_nepa.").unwrap_or(before);
        (before.is_empty() || before.ends_with('.')).then(|| before.to_string())
    };
    let found: BTreeSet<String> = all.iter().filter_map(|(name, _)| stem(name)).collect();
    // A model may hold another one as a part.
    let is_inner = |name: &&String| found.iter().any(|other| other != *name && name.starts_with(other.as_str()));
    let found: Vec<&str> = found.iter().filter(|name| !is_inner(name)).map(String::as_str).collect();
    let chosen = match (prefix.map(with_dot), &found[..]) {
        // With patch embeddings of its own.
        (None, []) => return Ok((String::new(), weights(path)?)),
        (None, [only]) => only.to_string(),
        (None, several) => bail_hint!(
            "{} holds several models, whose tensors begin with {}", path.display(), prefixes_in_words(several);
            "`nepa import {} DEST --prefix {}` makes a folder of one of them", path.display(),
            several[0].trim_end_matches('.')
        ),
        (Some(given), found) if found.contains(&given.as_str()) => given,
        (Some(given), found) => bail_hint!(
            "{}: --prefix {}: no NEPA's tensors begin so", path.display(), given.trim_end_matches('.');
            "those in it begin with: {}", prefixes_in_words(found)
        ),
    };
    let own = |(name, t): (String, Tensor)| Some((name.strip_prefix(&chosen)?.to_string(), t));
    let tensors: Vec<_> = all.into_iter().filter_map(own).collect();
    tensors::ensure_finite(&tensors, &path.display().to_string())?;
    Ok((chosen, tensors))
}

/// A prefix of names as it stands before them: "teacher." of "teacher".
pub(super) fn with_dot(prefix: &str) -> String {
    if prefix.is_empty() { String::new() } else { format!("{}.", prefix.trim_end_matches('.')) }
}

/// Prefixes of names, for errors.
pub(super) fn prefixes_in_words(prefixes: &[&str]) -> String {
    let name = |prefix: &&str| if prefix.is_empty() { "nothing (\"\")".to_string() } else { format!("`{prefix}`") };
    if prefixes.is_empty() { "none".into() } else { prefixes.iter().map(name).collect::<Vec<_>>().join(", ") }
}

/// Every tensor meant by `path`. A model folder of a checkpoint is verified by its checksums.
pub(super) fn all_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    if let Some(folder) = path.parent()
        && let (Some(checkpoint), Some(name)) = (folder.parent(), folder.file_name())
        && checkpoint.join(STATE_FILE).is_file()
    {
        manifest::verify_below(checkpoint, &format!("{}/", name.to_string_lossy()))?;
    }
    Ok(read_tensors(path)?.tensors)
}
