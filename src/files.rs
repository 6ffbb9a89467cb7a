//! Files and folders that appear whole or not at all: made beside their place, synced, then renamed into it.

use crate::error::{Context as _, Result, nearest};
use std::io::{BufWriter, Write};
use std::path::Path;
use tempfile::TempDir;

/// How the names of unfinished files and folders begin; what a killed process leaves of them may be removed.
pub const PARTIAL: &str = ".partial-";

/// The folder that a path lies in: "." for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| Ok(out.write_all(bytes)?))
}

/// The same with the content written piece by piece. Of processes that train together only the first one writes.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if !crate::dist::is_rank0() {
        return Ok(());
    }
    let saving = || format!("cannot write {}", path.display());
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).with_context(saving)?;
    let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(parent).with_context(saving)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    write(&mut out).with_context(saving)?;
    let file = out.into_inner().map_err(|e| e.into_error()).with_context(saving)?;
    file.as_file().sync_all().with_context(saving)?;
    set_mode(file.path(), 0o644);
    file.persist(path).with_context(saving)?;
    Ok(())
}

/// A folder beside `path`, to be filled and renamed to it; removed where that does not come about.
pub fn staging(path: &Path) -> Result<TempDir> {
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let staging = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(parent)?;
    set_mode(staging.path(), 0o755);
    Ok(staging)
}

/// What is temporary is private at first; a result is as readable as anything else.
fn set_mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    }
}

/// "; did you mean …?" from the names that lie where `path` was looked for.
pub fn beside(path: &Path) -> String {
    let Some(name) = path.file_name().and_then(|n| n.to_str()) else { return String::new() };
    let parent = folder_of(path);
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    match nearest(name, names.iter().map(String::as_str).filter(|n| *n != name)) {
        Some(near) => format!("; did you mean {}?", parent.join(near).display()),
        None => String::new(),
    }
}
