//! What was found in large folders and archives, kept between runs; and progress messages while looking.
//!
//! A listing is only ever a shortcut: one that is missing, damaged or of another version is made again, and failing to
//! write one is not an error.

use crate::{cache, dist};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a listing begins; its number changes with the layout.
const MAGIC: &[u8; 8] = b"nepalst3";
/// Magic, checksum of the body.
const HEADER: usize = 8 + 4;
/// How often progress is printed.
const INTERVAL: Duration = Duration::from_secs(2);

/// Where listings are kept; none if no cache folder is known.
pub(super) fn folder() -> Option<PathBuf> {
    #[cfg(test)]
    if let Some(dir) = testing::folder() {
        return Some(dir);
    }
    Some(cache::folder()?.join("listings"))
}

/// The file in `folder` for the listing of `path`.
fn file(folder: &Path, kind: &str, path: &Path) -> PathBuf {
    // FNV-1a does not change with the version of Rust. The body repeats the path, so that a collision is noticed.
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ *b as u64).wrapping_mul(0x0000_0100_0000_01b3));
    folder.join(format!("{kind}-{hash:016x}"))
}

/// A listing as it is written, after the header.
#[derive(Serialize, Deserialize)]
struct Body<P, T> {
    path: P,
    content: T,
}

/// The listing of `path` (absolute), if there is a whole one.
pub(super) fn load<T: DeserializeOwned>(folder: Option<&Path>, kind: &str, path: &Path) -> Option<T> {
    let bytes = std::fs::read(file(folder?, kind, path)).ok()?;
    let body = bytes.get(HEADER..)?;
    if bytes[..8] != *MAGIC || bytes[8..HEADER] != crc32fast::hash(body).to_le_bytes() {
        return None;
    }
    let body: Body<Vec<u8>, T> = postcard::from_bytes(body).ok()?;
    (body.path == path.as_os_str().as_bytes()).then_some(body.content)
}

/// Keeps the listing of `path`; all or nothing, also when two runs write it at once.
pub(super) fn store<T: Serialize>(folder: Option<&Path>, kind: &str, path: &Path, content: T) {
    let Some(folder) = folder else { return };
    let write = || -> anyhow::Result<()> {
        let body = postcard::to_stdvec(&Body { path: path.as_os_str().as_bytes(), content })?;
        std::fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(MAGIC)?;
        temporary.write_all(&crc32fast::hash(&body).to_le_bytes())?;
        temporary.write_all(&body)?;
        temporary.persist(file(folder, kind, path))?;
        Ok(())
    };
    // The next run lists again.
    let _ = write();
}

/// What tells that a file or folder is still the one that was listed. Times alone do not: copies keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    /// Of a file; 0 for a folder, whose size says nothing.
    size: u64,
    /// The last change of the content, which programs may set.
    modified: u64,
    /// The last change of anything, which they cannot set.
    changed: u64,
    inode: u64,
}

impl FileState {
    pub fn of(meta: &Metadata) -> Self {
        let nanoseconds = |s: i64, ns: i64| (s as u64).wrapping_mul(1_000_000_000).wrapping_add(ns as u64);
        Self {
            size: if meta.is_dir() { 0 } else { meta.len() },
            modified: nanoseconds(meta.mtime(), meta.mtime_nsec()),
            changed: nanoseconds(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    /// Whether the last change of the content was long enough before `now` that another one could not have the same
    /// time: the clocks of file systems are coarse, and what changed a moment ago may change again without a trace.
    pub fn is_settled(self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
        self.modified < now.saturating_sub(2_000_000_000)
    }
}

/// Prints one line to stderr.
pub(super) fn note(line: &str) {
    #[cfg(test)]
    testing::printed(line);
    crate::output::err!("{line}");
}

/// Prints one line to stderr, of the first process of a run, unless it has been printed before: data sets are opened
/// split by split.
pub(super) fn note_once(line: &str) {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let is_new = || PRINTED.lock().unwrap_or_else(|e| e.into_inner()).insert(line.to_string());
    if dist::rank() == 0 && is_new() {
        note(line);
    }
}

/// Prints how far a listing is, every two seconds, from any thread.
pub(super) struct Progress {
    what: String,
    /// Images so far, and when that was last printed.
    printed: Mutex<(u64, Instant)>,
}

impl Progress {
    /// `what`: "listing DIR".
    pub fn new(what: String) -> Self {
        Self { what, printed: Mutex::new((0, Instant::now())) }
    }

    pub fn add(&self, images: u64) {
        let mut printed = self.printed.lock().unwrap_or_else(|e| e.into_inner());
        printed.0 += images;
        if printed.1.elapsed() >= INTERVAL {
            printed.1 = Instant::now();
            note(&format!("{}: {} images…", self.what, thousands(printed.0)));
        }
    }
}

/// "1,281,167"
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A folder for listings and a record of what was printed, for the thread that runs a test.
#[cfg(test)]
pub(super) mod testing {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local! {
        static FOLDER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
        static PRINTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub fn set_folder(dir: &Path) {
        FOLDER.set(Some(dir.to_path_buf()));
    }

    pub fn folder() -> Option<PathBuf> {
        FOLDER.with_borrow(Clone::clone)
    }

    pub fn printed(line: &str) {
        PRINTED.with_borrow_mut(|s| s.push(line.to_string()));
    }

    /// What was printed since the last call.
    pub fn take_printed() -> Vec<String> {
        PRINTED.take()
    }
}
