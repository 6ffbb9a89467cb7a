//! Files and folders that appear whole or not at all: written beside their destination, synced, then renamed.

use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, bail, ensure, nearest};
use crate::untrusted;
use crc32fast::Hasher;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// How the names of unfinished files and folders begin. What a killed process leaves of them may be removed.
pub const PARTIAL: &str = ".partial-";
/// How the name of a folder begins while another one takes its place, where a file system cannot exchange two.
pub const REPLACED: &str = ".replaced-";
/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;
/// Most characters of a destination's name in the name of what is being written to it.
const NAME_PART: usize = 60;
/// How long an unfinished file or folder has not been written to when the process that wrote it must be gone.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The folder that a path lies in: "." for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The nearest folder that exists: `path`, or the one that it would be made in.
pub fn nearest_folder(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    Ok(path.ancestors().find(|folder| folder.exists()).unwrap_or(&path).to_path_buf())
}

/// Bytes that this user can still write to the file system that `path` lies on, or will lie on.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let folder = nearest_folder(path)?;
    let found = rustix::fs::statvfs(&folder).map_err(std::io::Error::from);
    let found = found.with_context(|| format!("cannot find out how much room there is in {}", folder.display()))?;
    Ok(found.f_bavail * found.f_frsize)
}

/// Whether there is something at `path`. That it cannot be found out (an I/O error, say) is an error, not a no.
pub fn exists(path: &Path) -> Result<bool> {
    match path.try_exists() {
        // Nothing lies in a file.
        Err(e) if matches!(e.kind(), ErrorKind::NotADirectory | ErrorKind::InvalidFilename) => Ok(false),
        found => found.with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A file's size and CRC-32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Its size.
    pub bytes: u64,
    /// Of its content.
    pub crc32: u32,
}

/// Passes on what is written, and knows its checksum.
pub struct ChecksumWriter<W> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> ChecksumWriter<W> {
    /// One that has written nothing.
    pub fn new(out: W) -> Self {
        Self { out, hasher: Hasher::new(), bytes: 0 }
    }

    /// Of all that has been written.
    pub fn checksum(&self) -> Checksum {
        Checksum { bytes: self.bytes, crc32: self.hasher.clone().finalize() }
    }

    /// What it writes to.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> Write for ChecksumWriter<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.out.write(data)?;
        self.hasher.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// The checksum of a file, read to its end.
pub fn checksum_of(path: &Path) -> std::io::Result<Checksum> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes, mut buffer) = (Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Checksum { bytes, crc32: hasher.finalize() }),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Writes a file whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |out| Ok(out.write_all(bytes)?))
}

/// Writes a large file whole or not at all, its content piece by piece. What killed processes left of it is removed.
pub fn write_atomic_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_file(path, write)?;
    remove_abandoned(path);
    Ok(())
}

fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let saving = || format!("cannot write {}", path.display());
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).with_context(saving)?;
    let file = partial(&partial_prefix(path), 0o666).tempfile_in(parent).with_context(saving)?;
    let mut out = BufWriter::with_capacity(BUFFER, file);
    write(&mut out).with_context(saving)?;
    let file = out.into_inner().map_err(|e| e.into_error()).with_context(saving)?;
    file.as_file().sync_all().with_context(saving)?;
    file.persist(path).with_context(saving)?;
    Ok(())
}

/// What to do if the folder exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing<'a> {
    /// An existing one is an error.
    Refuse,
    /// One that holds nothing but files and folders of these names is replaced; any other is an error.
    Replace(&'a [&'a str]),
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
/// returns; at no moment is there neither the new one nor the one that it replaces. If it fails, nothing is left behind
/// and an existing one stays as it was. A link is followed.
pub fn write_folder(
    dir: &Path,
    existing: Existing<'_>,
    fill: impl FnOnce(&FolderWriter<'_>) -> Result<()>,
) -> Result<()> {
    ensure!(dir.file_name().is_some(), "expected a folder's path, found \"{}\"", dir.display());
    let target = follow_links(dir)?;
    recover_replaced(&target)?;
    ensure_replaceable(&target, existing)?;
    let staging = staging(&target)?;
    fill(&FolderWriter { root: staging.path() })?;
    sync_folders(staging.path())?;
    if ensure_replaceable(&target, existing)? {
        replace(staging.path(), &target)?;
    } else {
        std::fs::rename(staging.path(), &target)?;
    }
    File::open(folder_of(&target))?.sync_all()?;
    // The folder that was replaced, if any. One that cannot be removed now is abandoned later.
    let _ = staging.close();
    remove_abandoned(&target);
    Ok(())
}

/// Waits until a folder's names, and those of the folders in it, are on the disk.
fn sync_folders(dir: &Path) -> Result<()> {
    for folder in folders_in(dir)? {
        sync_folders(&folder)?;
    }
    Ok(File::open(dir)?.sync_all()?)
}

/// Whether there is a folder at `dir` that may be replaced; an error if there is anything that may not.
fn ensure_replaceable(dir: &Path, existing: Existing<'_>) -> Result<bool> {
    if !exists(dir)? {
        return Ok(false);
    }
    let Existing::Replace(own) = existing else { bail!("{} exists already", dir.display()) };
    ensure!(dir.is_dir(), "{} is a file, not a folder, and is not replaced", dir.display());
    let mut others = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !own.contains(&name.as_str()) {
            others.push(name);
        }
    }
    if others.is_empty() {
        return Ok(true);
    }
    others.sort();
    let more = if others.len() > 4 { format!(" and {} more", others.len() - 4) } else { String::new() };
    others.truncate(4);
    bail_hint!(
        "{} is not replaced, because other files lie in it: {}{more}", dir.display(), others.join(", ");
        "choose another path, or move them elsewhere; replaced is only a folder that holds nothing but {}", own.join(", ")
    );
}

/// Puts the folder `new` in the place of `dir`; the old one is then at `new`, or gone.
fn replace(new: &Path, dir: &Path) -> Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, new, CWD, dir, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(()),
            // The file system cannot.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(e) => return Err(std::io::Error::from(e).into()),
        }
    }
    replace_in_two_steps(new, dir)
}

/// The place of [`replace`] where two folders cannot be exchanged; killed in between, it leaves the old one to
/// [`recover_replaced`].
fn replace_in_two_steps(new: &Path, dir: &Path) -> Result<()> {
    let replaced = replaced_name(dir);
    if exists(&replaced)? {
        // What could not be removed is out of the way, and is abandoned later.
        std::fs::rename(&replaced, staging(dir)?.keep())?;
    }
    std::fs::rename(dir, &replaced)?;
    if let Err(e) = std::fs::rename(new, dir) {
        std::fs::rename(&replaced, dir)?;
        return Err(e.into());
    }
    let _ = std::fs::remove_dir_all(&replaced);
    Ok(())
}

fn replaced_name(dir: &Path) -> PathBuf {
    let mut replaced = std::ffi::OsString::from(REPLACED);
    replaced.push(dir.file_name().unwrap_or_default());
    dir.with_file_name(replaced)
}

/// What a path leads to, if it is a link; there need be nothing.
fn follow_links(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..40 {
        if !path.is_symlink() {
            return Ok(path);
        }
        let target = path.read_link().with_context(|| format!("cannot follow the link {}", path.display()))?;
        path = folder_of(&path).join(target);
    }
    bail!("{} is one of links that lead to each other", path.display());
}

/// Where to read the folder `path`: there, or, if a process was killed while it replaced it in two steps, where the old
/// one was left. Nothing is changed: the process may be at it.
pub fn to_read(path: &Path) -> Result<PathBuf> {
    if !exists(path)? {
        let replaced = replaced_name(&follow_links(path)?);
        if exists(&replaced)? {
            return Ok(replaced);
        }
    }
    Ok(path.to_path_buf())
}

/// If a process was killed while it replaced the folder `dir` in two steps, gives the old one its name back, or removes
/// it where the new one is complete. To be called by who may write to it.
pub fn recover_replaced(dir: &Path) -> Result<()> {
    let replaced = replaced_name(dir);
    if !exists(&replaced)? {
        return Ok(());
    }
    if exists(dir)? {
        // One that cannot be removed is no obstacle.
        let _ = std::fs::remove_dir_all(&replaced);
        return Ok(());
    }
    match std::fs::rename(&replaced, dir) {
        // Another process was faster.
        Err(e) if e.kind() == ErrorKind::NotFound && exists(dir)? => Ok(()),
        renamed => renamed.with_context(|| format!("cannot recover {} from {}", dir.display(), replaced.display())),
    }
}

/// A folder beside `path`, to be filled and renamed to it; removed if that does not happen.
pub fn staging(path: &Path) -> Result<TempDir> {
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let creating = || format!("cannot create a folder in {}", parent.display());
    partial(&partial_prefix(path), 0o777).tempdir_in(parent).with_context(creating)
}

/// Makes an unfinished file or folder, with those of the permissions `mode` that the umask leaves.
fn partial(prefix: &str, mode: u32) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    builder
}

/// How the names of unfinished files and folders begin that are to become `path`: what is left of one is found again.
fn partial_prefix(path: &Path) -> String {
    let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().take(NAME_PART).collect();
    format!("{PARTIAL}{name}-")
}

/// Removes what killed processes have left of files or folders that were to become `path`.
fn remove_abandoned(path: &Path) {
    let prefix = partial_prefix(path);
    let entries = std::fs::read_dir(folder_of(path)).into_iter().flatten().flatten();
    // What follows is random; a hyphen in it would be a part of a longer name.
    let is_own = |name: &str| name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('-'));
    for entry in entries.filter(|e| is_own(&e.file_name().to_string_lossy())) {
        let path = entry.path();
        if last_written(&path).is_some_and(|at| at.elapsed().is_ok_and(|since| since > ABANDONED)) {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// When a file, or a folder or anything in it, was last written to.
fn last_written(path: &Path) -> Option<SystemTime> {
    let about = std::fs::symlink_metadata(path).ok()?;
    let mut last = about.modified().ok()?;
    if about.is_dir() {
        for entry in std::fs::read_dir(path).ok()? {
            last = last.max(last_written(&entry.ok()?.path())?);
        }
    }
    Some(last)
}

/// Reads a JSON file that holds an object; the error names the file, and the key that does not fit.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    read_json_of(path, untrusted::MOST_TEXT)
}

/// Likewise, of at most `most` bytes.
pub fn read_json_of<T: DeserializeOwned>(path: &Path, most: u64) -> Result<T> {
    let value = untrusted::read_json_of(path, most)?;
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

/// The names in the folder `dir`, sorted; none if there is no such folder. One that cannot be read is an error: what is
/// in it must not be taken for missing.
pub fn names_in(dir: &Path) -> Result<Vec<String>> {
    let reading = || format!("cannot read {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(reading)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.with_context(reading)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The folders in `dir`, by name, as [`names_in`] reads it.
pub fn folders_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for path in names_in(dir)?.into_iter().map(|name| dir.join(name)) {
        match std::fs::metadata(&path) {
            Ok(about) if about.is_dir() => folders.push(path),
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot read {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(folders)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(dir: &Path, text: &str) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("a"), text).unwrap();
    }

    fn text(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("a")).unwrap()
    }

    #[test]
    fn two_renames_replace_a_folder_where_two_cannot_be_exchanged() {
        let root = tempfile::tempdir().unwrap();
        let [old, new] = ["m", "new"].map(|name| root.path().join(name));
        fill(&old, "old");
        fill(&new, "new");
        replace_in_two_steps(&new, &old).unwrap();
        assert_eq!(text(&old), "new");
        // The second rename fails: the old one is there again.
        replace_in_two_steps(&root.path().join("none"), &old).unwrap_err();
        assert_eq!((text(&old), names_in(root.path()).unwrap()), ("new".into(), vec!["m".to_string()]));
    }

    #[test]
    fn what_killed_processes_left_of_a_folder_is_removed_once_it_is_old() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let hours_ago = |name: &str, hours: u64| {
            let time = SystemTime::now() - Duration::from_secs(hours * 3600);
            File::open(path(name)).unwrap().set_modified(time).unwrap();
        };
        for (name, folder_hours, file_hours) in [
            (".partial-m-old", 2, 2),
            (".partial-m-growing", 2, 0),
            (".partial-m-new", 0, 2),
            (".partial-other-old", 2, 2),
        ] {
            fill(&path(name), "unfinished");
            hours_ago(&format!("{name}/a"), file_hours);
            hours_ago(name, folder_hours);
        }
        write_folder(&path("m"), Existing::Refuse, |folder| folder.file("a", |out| Ok(out.write_all(b"whole")?)))
            .unwrap();
        assert_eq!(names_in(root.path()).unwrap(), [".partial-m-growing", ".partial-m-new", ".partial-other-old", "m"]);
    }

    #[test]
    fn a_folder_that_cannot_be_filled_leaves_the_old_one_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("m");
        fill(&dir, "old");
        let failing = |_: &FolderWriter<'_>| bail!("full");
        write_folder(&dir, Existing::Replace(&["a"]), failing).unwrap_err();
        // Something comes to lie there while the new one is being filled.
        let meanwhile = |folder: &FolderWriter<'_>| {
            std::fs::write(dir.join("notes.txt"), "mine")?;
            folder.file("a", |out| Ok(out.write_all(b"new")?))
        };
        let error = write_folder(&dir, Existing::Replace(&["a"]), meanwhile).unwrap_err();
        assert!(error.to_string().contains("notes.txt"), "{error}");
        assert_eq!((text(&dir), names_in(root.path()).unwrap()), ("old".into(), vec!["m".to_string()]));
    }
}
