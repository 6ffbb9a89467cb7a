//! Folders of shards that `nepa data pack` has written: whether they are complete, and how it names their images.

use super::paths;
use crate::bail_hint;
use crate::error::Result;
use crate::untrusted;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The file that makes a folder one of packed images; its `complete` says whether all shards are there.
pub const PACK_FILE: &str = "nepa-pack.json";

/// Whether a shard is one of packed images, whose names in it are those that they had where they came from.
pub(super) fn is_packed(shard: &Path) -> Result<bool> {
    Ok(about(shard.parent().unwrap_or(Path::new("")))?.is_some())
}

/// What a folder's file says, if it has one.
fn about(dir: &Path) -> Result<Option<Value>> {
    let file = dir.join(PACK_FILE);
    let is_there = paths::look_at(&file)?.is_some_and(|found| found.is_file());
    is_there.then(|| untrusted::read_json(&file)).transpose()
}

/// The split of each prefix of the names of shards in a folder of packed images, where images without splits have one
/// too; none in other folders.
pub(super) fn splits(dir: &Path) -> Result<Option<HashMap<String, Option<String>>>> {
    let Some(about) = about(dir)? else { return Ok(None) };
    let text = |value: &Value| value.as_str().map(str::to_string);
    let named = |split: &Value| Some((text(&split["prefix"])?, text(&split["name"])));
    Ok(about["splits"].as_array().map(|splits| splits.iter().filter_map(named).collect()))
}

/// Refuses a folder that `nepa data pack` has not finished.
pub(super) fn ensure_complete(dir: &Path) -> Result<()> {
    let Some(about) = about(dir)? else { return Ok(()) };
    if about["complete"] != Value::Bool(true) {
        let command = about["command"].as_str().unwrap_or("nepa data pack SOURCE DEST");
        bail_hint!(
            "{} is not complete: `nepa data pack` has been interrupted, or is still at it", dir.display();
            "this goes on where it was: {command}"
        );
    }
    Ok(())
}

/// The name of an image in an archive, without its ending: what webdataset calls the key of the sample. It is the
/// image's own name, but for what would be read as something else: dots in the last part, where a key ends, and parts
/// that mean no data. Two images may get the same one.
pub fn sample_key(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    let (last, folders) = parts.split_last().unwrap_or((&"", &[]));
    let base = if paths::is_image_name(last.as_bytes()) { last.rsplit_once('.').map_or(*last, |b| b.0) } else { last };
    let safe = |part: &str| {
        let part: String = part.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
        let means_no_data = matches!(part.as_str(), "" | "." | "..") || paths::is_stray(part.as_bytes());
        if means_no_data { format!("_{part}") } else { part }
    };
    let mut key: Vec<String> = folders.iter().map(|part| safe(part)).collect();
    key.push(safe(base).replace('.', "_"));
    key.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_that_are_read_as_they_were_meant() {
        for (name, key) in [
            ("n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10026"),
            ("train-0001.tar/a.b.jpg", "train-0001.tar/a_b"),
            ("train/00000012/", "train/00000012"),
            ("a/photo.v2", "a/photo_v2"),
            ("/../a/.hidden.png", "_../a/__hidden"),
            ("__MACOSX/a\n.png", "___MACOSX/a_"),
            ("", "_"),
        ] {
            assert_eq!(sample_key(name), key, "{name:?}");
        }
    }
}
