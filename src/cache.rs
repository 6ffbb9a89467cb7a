//! The folder, shared by all clones, for what takes long to make or to fetch. `xtask` includes this file: one rule for
//! libtorch and for listings.

use std::env;
use std::path::PathBuf;

/// `$NEPA_CACHE`, else `nepa` in the user's cache folder; none where neither is known.
pub fn folder() -> Option<PathBuf> {
    let var = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = var("NEPA_CACHE") {
        return std::path::absolute(path).ok();
    }
    // The XDG rules: relative values do not count.
    if let Some(path) = var("XDG_CACHE_HOME").filter(|p| p.is_absolute()) {
        return Some(path.join("nepa"));
    }
    let home = env::home_dir().filter(|h| h.is_absolute())?;
    Some(home.join(if cfg!(target_os = "macos") { "Library/Caches/nepa" } else { ".cache/nepa" }))
}
