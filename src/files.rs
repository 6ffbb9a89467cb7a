//! Files and folders that appear whole or not at all: written beside their destination, synced, then renamed.

use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, ensure, nearest};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How the names of unfinished files and folders begin; what a killed process leaves of them may be removed.
pub const PARTIAL: &str = ".partial-";
/// How the name of a folder begins while another one replaces it.
const REPLACED: &str = ".replaced-";
/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// The folder that a path lies in: "." for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| Ok(out.write_all(bytes)?))
}

/// Writes a file whole or not at all, its content piece by piece.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let saving = || format!("cannot write {}", path.display());
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).with_context(saving)?;
    let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(parent).with_context(saving)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    write(&mut out).with_context(saving)?;
    let file = out.into_inner().map_err(|e| e.into_error()).with_context(saving)?;
    file.as_file().sync_all().with_context(saving)?;
    set_mode(file.path(), 0o644);
    file.persist(path).with_context(saving)?;
    Ok(())
}

/// What to do if the folder exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// An existing one is an error.
    Refuse,
    /// An existing one is replaced, and restored if that fails.
    Replace,
}

/// A folder that is being filled by [`write_folder`].
pub struct FolderWriter<'a> {
    root: &'a Path,
}

impl FolderWriter<'_> {
    /// Writes one file, synced; `name` may lie in a folder below.
    pub fn file(&self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let path = self.root.join(name);
        std::fs::create_dir_all(folder_of(&path))?;
        let mut out = BufWriter::with_capacity(BUFFER, File::create_new(&path)?);
        write(&mut out)?;
        out.flush()?;
        Ok(out.get_ref().sync_all()?)
    }
}

/// Makes the folder `dir` of the files that `fill` writes. It appears whole or not at all, and is on the disk when this
/// returns. If it fails, nothing is left behind.
pub fn write_folder(dir: &Path, existing: Existing, fill: impl FnOnce(&FolderWriter<'_>) -> Result<()>) -> Result<()> {
    ensure!(dir.file_name().is_some(), "expected a folder's path, found \"{}\"", dir.display());
    ensure!(existing == Existing::Replace || !dir.exists(), "{} exists already", dir.display());
    let staging = staging(dir)?;
    fill(&FolderWriter { root: staging.path() })?;
    for entry in std::fs::read_dir(staging.path())?.flatten().filter(|e| e.path().is_dir()) {
        File::open(entry.path())?.sync_all()?;
    }
    File::open(staging.path())?.sync_all()?;
    let replaced = dir.exists().then(|| folder_of(dir).join(format!("{REPLACED}{}", std::process::id())));
    if let Some(replaced) = &replaced {
        std::fs::rename(dir, replaced)?;
    }
    if let Err(e) = std::fs::rename(staging.path(), dir) {
        if let Some(replaced) = &replaced {
            std::fs::rename(replaced, dir)?;
        }
        return Err(e.into());
    }
    let _ = staging.keep();
    if let Some(replaced) = &replaced {
        std::fs::remove_dir_all(replaced)?;
    }
    Ok(File::open(folder_of(dir))?.sync_all()?)
}

/// A folder beside `path`, to be filled and renamed to it; removed if that does not happen.
pub fn staging(path: &Path) -> Result<TempDir> {
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let staging = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(parent)?;
    set_mode(staging.path(), 0o755);
    Ok(staging)
}

/// Temporary files are private at first; a finished one gets the usual permissions.
fn set_mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    }
}

/// Reads a JSON file that holds an object; the error names the file, and the key that does not fit.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    if !value.is_object() {
        bail_hint!(
            "{}: expected a JSON object, found {value}", path.display();
            "nepa writes this file; something else has changed it"
        );
    }
    json_value(&path.display().to_string(), value)
}

/// Reads a part of the JSON file `of`; the error names the key that does not fit.
pub fn json_value<T: DeserializeOwned>(of: &str, value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let key = e.path().to_string();
        let at = if key == "." { String::new() } else { format!(" `{key}`:") };
        Diagnostic::new(format!("{of}:{at} {}", e.into_inner()))
            .hint("nepa writes this file; something else, or another version, has changed it")
            .into()
    })
}

/// The folders in `dir`, by name; none if it cannot be read.
pub fn folders_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

/// "; did you mean …?" from the names in the folder of `path`.
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
