//! Folders that are whole or not there: filled beside their place, every file with its size and CRC-32 in a manifest,
//! synced to the disk, then renamed into place.

use crate::bail_hint;
use crate::error::{Context as _, Result, ensure};
use crate::files::{folder_of, staging};
use crc32fast::Hasher;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// What is in a folder: the last file written, itself with a checksum in its second line.
pub const MANIFEST_FILE: &str = "manifest.json";

/// A file's size and CRC-32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    bytes: u64,
    crc32: u32,
}

/// A folder that is being filled.
pub struct Folder<'a> {
    root: &'a Path,
    seals: BTreeMap<String, Seal>,
}

impl Folder<'_> {
    /// Writes one file, synced; `name` may lie in a folder below.
    pub fn file(&mut self, name: &str, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
        let mut out = Sealing { file, hasher: Hasher::new(), bytes: 0 };
        write(&mut out)?;
        out.flush()?;
        out.file.get_ref().sync_all()?;
        self.seals.insert(name.to_string(), Seal { bytes: out.bytes, crc32: out.hasher.finalize() });
        Ok(())
    }
}

struct Sealing {
    file: BufWriter<File>,
    hasher: Hasher,
    bytes: u64,
}

impl Write for Sealing {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(data)?;
        self.hasher.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Makes the folder `dir`, which must not exist, of what `fill` writes. Gives its size in bytes. Nothing is left behind
/// where it fails.
pub fn write(dir: &Path, fill: impl FnOnce(&mut Folder<'_>) -> Result<()>) -> Result<u64> {
    ensure!(dir.file_name().is_some(), "expected a folder's path, found \"{}\"", dir.display());
    ensure!(!dir.exists(), "{} exists already", dir.display());
    let staging = staging(dir)?;
    let mut folder = Folder { root: staging.path(), seals: BTreeMap::new() };
    fill(&mut folder)?;
    let list = serde_json::to_string(&folder.seals).expect("names and numbers are JSON");
    let mut size: u64 = folder.seals.values().map(|s| s.bytes).sum();
    let manifest = format!("{list}\n{:08x}\n", crc32fast::hash(list.as_bytes()));
    size += manifest.len() as u64;
    folder.file(MANIFEST_FILE, |out| Ok(out.write_all(manifest.as_bytes())?))?;
    for entry in std::fs::read_dir(staging.path())?.flatten().filter(|e| e.path().is_dir()) {
        File::open(entry.path())?.sync_all()?;
    }
    File::open(staging.path())?.sync_all()?;
    std::fs::rename(staging.path(), dir)?;
    let _ = staging.keep();
    File::open(folder_of(dir))?.sync_all()?;
    Ok(size)
}

/// Reads every file of a folder against its manifest; the first one that is not as it was written is named.
pub fn verify(dir: &Path) -> Result<()> {
    verify_below(dir, "")
}

/// The same for the files whose names begin with `prefix`.
pub fn verify_below(dir: &Path, prefix: &str) -> Result<()> {
    for (name, seal) in seals(dir)?.iter().filter(|(name, _)| name.starts_with(prefix)) {
        let path = dir.join(name);
        let found = seal_of(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            found == *seal,
            "{} is damaged: expected {} bytes with CRC-32 {:08x}, found {} bytes with {:08x}",
            path.display(),
            seal.bytes,
            seal.crc32,
            found.bytes,
            found.crc32
        );
    }
    Ok(())
}

/// Checks by size alone, without reading it, that every file of a folder is there.
pub fn verify_sizes(dir: &Path) -> Result<()> {
    for (name, seal) in seals(dir)? {
        let path = dir.join(name);
        let found = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        ensure!(found == seal.bytes, "{} is damaged: expected {} bytes, found {found}", path.display(), seal.bytes);
    }
    Ok(())
}

fn seals(dir: &Path) -> Result<BTreeMap<String, Seal>> {
    let path = dir.join(MANIFEST_FILE);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let damaged = || format!("{} is damaged", path.display());
    let text = std::str::from_utf8(&text).with_context(damaged)?;
    let Some((list, sum)) = text.strip_suffix('\n').and_then(|t| t.split_once('\n')) else {
        bail_hint!("{}: it does not end as it should", damaged(); "it was cut short or changed");
    };
    ensure!(sum == format!("{:08x}", crc32fast::hash(list.as_bytes())), "{}: its checksum is another", damaged());
    serde_json::from_str(list).with_context(damaged)
}

fn seal_of(path: &Path) -> Result<Seal> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes, mut buffer) = (Hasher::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Seal { bytes, crc32: hasher.finalize() }),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}
