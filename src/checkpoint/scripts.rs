//! The scripts of a model that a script builds, in a folder of the model's own.

use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::untrusted::read_text;
use std::collections::BTreeMap;
use std::path::Path;

/// The folder of the scripts, in a model folder.
pub const DIR: &str = "model_script";
/// No model has more of them.
const MOST: usize = 100;

/// The texts of the scripts in a folder and below it, by their paths from there; `main` must be one of them.
pub fn read(folder: &Path, main: &str) -> Result<BTreeMap<String, String>> {
    let mut scripts = BTreeMap::new();
    let mut open = vec![String::new()];
    while let Some(below) = open.pop() {
        let dir = folder.join(&below);
        let reading = || format!("cannot read {}", dir.display());
        for entry in std::fs::read_dir(&dir).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            // Links are not followed: scripts lie in the folder itself.
            let kind = entry.file_type().with_context(reading)?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && path.ends_with(".rhai") {
                scripts.insert(path.clone(), read_text(&folder.join(path))?);
            }
            if scripts.len() + open.len() > MOST {
                bail_hint!("{} holds more than {MOST} scripts", folder.display(); "no model is built by so many");
            }
        }
    }
    if !scripts.contains_key(main) {
        let found: Vec<&str> = scripts.keys().map(String::as_str).collect();
        bail_hint!(
            "{} does not hold the script {main}, which builds the model", folder.display();
            "it holds: {}", if found.is_empty() { "no scripts".to_string() } else { found.join(", ") }
        );
    }
    Ok(scripts)
}
