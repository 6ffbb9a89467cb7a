//! Folders with a manifest: the size and CRC-32 of every file, so that a damaged one is found.

use crate::bail_hint;
use crate::error::{Context as _, Error, Result, anyhow, bail, ensure};
use crate::files::{Checksum, ChecksumWriter, Existing, FolderWriter, checksum_of, write_folder};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Component, Path};

/// What is in a folder: the last file written, itself with a checksum in its second line.
pub const MANIFEST_FILE: &str = "manifest.json";

/// A folder that is being filled, with the checksums of its files so far.
pub struct ManifestWriter<'a> {
    folder: &'a FolderWriter<'a>,
    checksums: BTreeMap<String, Checksum>,
}

impl ManifestWriter<'_> {
    /// Writes one file, synced; `name` may lie in a folder below.
    pub fn file(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let mut checksum = None;
        self.folder.file(name, |out| {
            let mut out = ChecksumWriter::new(out);
            write(&mut out)?;
            checksum = Some(out.checksum());
            Ok(())
        })?;
        self.checksums.insert(name.to_string(), checksum.expect("set where the file was written"));
        Ok(())
    }
}

/// Creates the folder `dir` with what `fill` writes and a manifest of it: whole or not at all. Returns its size in bytes.
pub fn write(
    dir: &Path,
    existing: Existing<'_>,
    fill: impl FnOnce(&mut ManifestWriter<'_>) -> Result<()>,
) -> Result<u64> {
    let mut size = 0;
    write_folder(dir, existing, |folder| {
        let mut writer = ManifestWriter { folder, checksums: BTreeMap::new() };
        fill(&mut writer)?;
        let list = serde_json::to_string(&writer.checksums).expect("names and numbers are JSON");
        let manifest = format!("{list}\n{:08x}\n", crc32fast::hash(list.as_bytes()));
        folder.file(MANIFEST_FILE, |out| Ok(out.write_all(manifest.as_bytes())?))?;
        size = manifest.len() as u64 + writer.checksums.values().map(|c| c.bytes).sum::<u64>();
        Ok(())
    })?;
    Ok(size)
}

/// Why a folder is not as it was written.
#[derive(Debug)]
pub enum Fault {
    /// A file is missing or has another size or checksum.
    Damaged(Error),
    /// A file cannot be read now. It may be whole.
    Unreadable(Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Damaged(e) | Fault::Unreadable(e) => e,
        }
    }
}

impl Fault {
    /// That the file `path` could not be read.
    fn of_reading(path: &Path, error: std::io::Error) -> Self {
        let is_gone = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        let error = Error::from(error).context(format!("cannot read {}", path.display()));
        if is_gone { Self::Damaged(error) } else { Self::Unreadable(error) }
    }
}

/// Checks every file of a folder against its manifest; the error names the first damaged one.
pub fn verify(dir: &Path) -> std::result::Result<(), Fault> {
    verify_below(dir, "")
}

/// Checks the files whose names begin with `prefix` against the manifest.
pub fn verify_below(dir: &Path, prefix: &str) -> std::result::Result<(), Fault> {
    for (name, expected) in checksums(dir)?.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let path = dir.join(name);
        let found = checksum_of(&path).map_err(|e| Fault::of_reading(&path, e))?;
        if found != *expected {
            return Err(Fault::Damaged(anyhow!(
                "{} is damaged: expected {} bytes with CRC-32 {:08x}, found {} bytes with {:08x}",
                path.display(),
                expected.bytes,
                expected.crc32,
                found.bytes,
                found.crc32
            )));
        }
    }
    Ok(())
}

/// Checks by size alone, without reading it, that every file of a folder is there.
pub fn verify_sizes(dir: &Path) -> Result<()> {
    for (name, expected) in checksums(dir)? {
        let path = dir.join(name);
        let found = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        let expected = expected.bytes;
        ensure!(found == expected, "{} is damaged: expected {expected} bytes, found {found}", path.display());
    }
    Ok(())
}

fn checksums(dir: &Path) -> std::result::Result<BTreeMap<String, Checksum>, Fault> {
    let path = dir.join(MANIFEST_FILE);
    let text = std::fs::read(&path).map_err(|e| Fault::of_reading(&path, e))?;
    parse(&text).with_context(|| format!("{} is damaged", path.display())).map_err(Fault::Damaged)
}

fn parse(text: &[u8]) -> Result<BTreeMap<String, Checksum>> {
    let Some((list, sum)) = std::str::from_utf8(text)?.strip_suffix('\n').and_then(|t| t.split_once('\n')) else {
        bail_hint!("its end is missing"; "it was cut short or changed");
    };
    ensure!(sum == format!("{:08x}", crc32fast::hash(list.as_bytes())), "its checksum does not match");
    let checksums: BTreeMap<String, Checksum> = serde_json::from_str(list)?;
    let lies_there = |name: &String| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if let Some(name) = checksums.keys().find(|name| !lies_there(name)) {
        bail!("it names the file \"{}\", which does not lie in its folder", name.escape_debug());
    }
    Ok(checksums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_in_the_folder() {
        for (name, accepted) in [("a", true), ("raw/a", true), ("../a", false), ("raw/../../a", false), ("/a", false)] {
            let list = format!(r#"{{"{name}":{{"bytes":1,"crc32":2}}}}"#);
            let read = parse(format!("{list}\n{:08x}\n", crc32fast::hash(list.as_bytes())).as_bytes());
            let told = read.map_or_else(|e| e.to_string(), |files| format!("{:?}", files.keys()));
            assert_eq!(!told.contains("does not lie in its folder"), accepted, "{told}");
            assert!(told.contains(name), "{told}");
        }
    }
}
