//! The folder that shards are packed into: what is there already, what was begun with which options, what is complete.
//!
//! ```text
//! nepa-pack.json          what is packed, and how; `complete` comes last
//! classes.txt             names of the classes (WebDataset)
//! train-00000-of-00257.tar, …
//! .nepa-pack/             until it is complete: the lock, a shard that is being written, a record of each whole one
//! ```
//!
//! A shard is written and verified in `.nepa-pack`, then its record is written, then it is moved: one that lies beside
//! `nepa-pack.json` without a record is somebody else's.

use super::format::Format;
use crate::bail_hint;
use crate::data::source::PACK_FILE;
use crate::differences::differences;
use crate::error::{Context as _, Result};
use crate::files::{exists, names_in, read_json};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

const STATE: &str = ".nepa-pack";
const LOCK: &str = "lock";
/// A small file while it is being written.
const NEW: &str = "new";

/// The options that decide which bytes are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub format: Format,
    pub shorter_side: usize,
    pub quality: u8,
    pub images_per_shard: usize,
    /// Decoders differ in the last bit.
    pub jpeg_decoder: String,
}

/// A split of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// None if the source has no splits.
    pub name: Option<String>,
    /// How the names of its shards begin.
    pub prefix: String,
    pub images: usize,
    /// Of its images, wherever they are stored.
    pub fingerprint: String,
}

/// An image that was left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// In its split.
    pub index: usize,
    pub name: String,
    pub reason: String,
}

/// What a shard holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShardRecord {
    pub file: String,
    pub images: usize,
    pub bytes: u64,
    /// CRC-32, in hexadecimal.
    pub crc32: String,
    /// Images of each kind.
    pub copied: usize,
    pub resized: usize,
    pub encoded: usize,
    pub kept: usize,
    /// Bytes of these images where they come from.
    pub source_bytes: u64,
    pub left_out: Vec<LeftOut>,
}

/// `nepa-pack.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub complete: bool,
    pub nepa: String,
    /// The command that goes on.
    pub command: String,
    pub source: String,
    pub settings: Settings,
    pub splits: Vec<SplitRecord>,
    /// Once it is complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardRecord>,
}

/// What a folder holds.
pub enum Found {
    /// Nothing, or there is no such folder.
    Nothing,
    /// Some of these shards.
    Begun,
    /// All of them.
    Complete(Manifest),
}

/// Looks at a folder; an error if other things lie there, or shards of other images or options.
pub fn look(dir: &Path, wanted: &Manifest) -> Result<Found> {
    if exists(dir)? && !dir.is_dir() {
        bail_hint!("{} is a file, expected a folder", dir.display(); "name another one");
    }
    let names = names_in(dir)?;
    if !names.iter().any(|name| name == PACK_FILE) {
        let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != STATE).collect();
        if let Some(first) = others.first() {
            let more = if others.len() > 1 { format!(" and {} more", others.len() - 1) } else { String::new() };
            bail_hint!(
                "{} is not empty: it holds {first}{more}", dir.display();
                "give a new folder, an empty one, or one that this command has begun"
            );
        }
        return Ok(Found::Nothing);
    }
    let found: Manifest = read_json(&dir.join(PACK_FILE))?;
    let json = |settings: &Settings| serde_json::to_value(settings).expect("texts and numbers are JSON");
    let differ = differences(&json(&found.settings), &json(&wanted.settings));
    if !differ.is_empty() {
        let words: Vec<String> = differ.iter().map(|(name, a, b)| format!("{name} {a} there, {b} here")).collect();
        bail_hint!(
            "{} was begun with other options: {}", dir.display(), words.join("; ");
            "give the same ones (only --on-bad and --threads may differ), or another folder"
        );
    }
    if found.splits != wanted.splits {
        let words = |splits: &[SplitRecord]| {
            let one = |s: &SplitRecord| format!("{} ({})", s.name.as_deref().unwrap_or("no split"), s.fingerprint);
            splits.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        bail_hint!(
            "{} was begun with other images: {} there, {} here", dir.display(), words(&found.splits), words(&wanted.splits);
            "give the source that it was begun with, unchanged ({}), or another folder", found.source
        );
    }
    Ok(if found.complete { Found::Complete(found) } else { Found::Begun })
}

/// Removes what was left when the process was killed after the last file.
pub fn tidy(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir.join(STATE));
}

/// A folder that this process alone packs into.
pub struct Destination {
    dir: PathBuf,
    state: PathBuf,
    _lock: File,
}

impl Destination {
    /// Begins, or goes on where [`look`] has found the same.
    pub fn begin(dir: &Path, manifest: &Manifest, classes: Option<&str>) -> Result<Self> {
        let state = dir.join(STATE);
        let creating = || format!("cannot create {}", state.display());
        std::fs::create_dir_all(&state).with_context(creating)?;
        let lock = state.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).with_context(creating)?;
        // Some file systems have no locks.
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            bail_hint!("another `nepa data pack` is writing to {}", dir.display(); "wait for it, or choose another folder");
        }
        let destination = Self { dir: dir.to_path_buf(), state, _lock: lock };
        if !exists(&dir.join(PACK_FILE))? {
            destination.put(PACK_FILE, &json(manifest))?;
        }
        if let Some(classes) = classes {
            const CLASSES: &str = "classes.txt";
            match std::fs::read(dir.join(CLASSES)) {
                Ok(found) if found == classes.as_bytes() => {}
                Ok(_) => bail_hint!(
                    "{} has other classes than the source", dir.join(CLASSES).display();
                    "something else has changed it: remove it, and the same command writes it again"
                ),
                Err(e) if e.kind() == ErrorKind::NotFound => destination.put(CLASSES, classes.as_bytes())?,
                Err(e) => return Err(e).with_context(|| format!("cannot read {}", dir.join(CLASSES).display())),
            }
        }
        Ok(destination)
    }

    /// Where a shard is written.
    pub fn staged(&self, file: &str) -> PathBuf {
        self.state.join(file)
    }

    /// The record of a shard, if the shard is whole.
    pub fn record(&self, file: &str) -> Result<Option<ShardRecord>> {
        let (path, record) = (self.dir.join(file), self.state.join(record_of(file)));
        if !exists(&path)? {
            return Ok(None);
        }
        if !exists(&record)? {
            bail_hint!("{} is in the way: this command has not written it", path.display(); "move it elsewhere");
        }
        let record: ShardRecord = read_json(&record)?;
        let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if size != record.bytes {
            bail_hint!(
                "{} has {size} bytes, {} were written", path.display(), record.bytes;
                "something else has changed it: remove it, and the same command writes it again"
            );
        }
        Ok(Some(record))
    }

    /// Moves a shard that is whole to its place.
    pub fn keep(&self, record: &ShardRecord) -> Result<()> {
        let path = self.dir.join(&record.file);
        if exists(&path)? {
            bail_hint!("{} is in the way: this command has not written it", path.display(); "move it elsewhere");
        }
        self.put(&format!("{STATE}/{}", record_of(&record.file)), &json(record))?;
        self.rename(&self.staged(&record.file), &path)
    }

    /// Says that all is there.
    pub fn finish(self, manifest: &Manifest) -> Result<()> {
        self.put(PACK_FILE, &json(manifest))?;
        tidy(&self.dir);
        Ok(())
    }

    /// Writes a small file, whole or not at all.
    fn put(&self, name: &str, content: &[u8]) -> Result<()> {
        let new = self.state.join(NEW);
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", self.dir.join(name).display()))?;
        self.rename(&new, &self.dir.join(name))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let rename = || -> std::io::Result<()> {
            std::fs::rename(from, to)?;
            File::open(to.parent().unwrap_or(&self.dir))?.sync_all()
        };
        rename().with_context(|| format!("cannot write {}", to.display()))
    }
}

fn record_of(file: &str) -> String {
    format!("{file}.json")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(value).expect("texts and numbers are JSON");
    text.push('\n');
    text.into_bytes()
}
