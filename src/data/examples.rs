//! The example images that come with nepa.

use crate::bail_hint;
use crate::error::{Context as _, Result, did_you_mean};
use std::path::{Path, PathBuf};

/// The folder of a set of example images: beside an installed binary, or in the clone that it was built in.
pub fn folder(name: &str) -> Result<PathBuf> {
    let installed = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join("examples/data")));
    let cloned = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data");
    let roots: Vec<PathBuf> = installed.into_iter().chain([cloned]).collect();
    let Some(root) = roots.iter().find(|root| root.is_dir()) else {
        let looked: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
        bail_hint!(
            "the example images did not come with this nepa (looked in {})", looked.join(" and ");
            "they are the wheel nepa_examples, and examples/data in a clone; or give a folder of your own images"
        );
    };
    let sets = root.read_dir().with_context(|| format!("cannot read {}", root.display()))?;
    let mut names: Vec<String> =
        sets.filter_map(|set| Some(set.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort_unstable();
    if !names.iter().any(|known| known == name) {
        bail_hint!(
            "no example images are called \"{name}\"{}", did_you_mean(name, names.iter().map(String::as_str));
            "expected {}", names.join(" or ")
        );
    }
    Ok(root.join(name))
}
