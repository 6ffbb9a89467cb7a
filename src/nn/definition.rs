//! How a script builds a model.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Enough to build a script's model again elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The folder that the scripts were read from.
    pub folder: PathBuf,
    /// The script with `fn build(config)`, one of `scripts`.
    pub script: String,
    /// The texts of that script and of those that it imports, by their paths from the folder.
    pub scripts: BTreeMap<String, String>,
    /// Keys of the configuration that the script alone knows.
    pub config: Map<String, Value>,
}
