//! What was found in large folders and archives, kept between runs; and progress messages while looking.
//!
//! A listing is only ever a shortcut: one that is missing, damaged or of another version is made again, and failing to
//! write one is not an error.

use crate::cache;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
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

/// Size and last change of a file, by which a listing knows that the file is still what was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    size: u64,
    modified: u64,
}

impl FileState {
    pub fn of(meta: &Metadata) -> Self {
        Self { size: meta.len(), modified: modified(meta) }
    }

    /// Whether the last change was long enough before `now`, see [`is_settled`].
    pub fn is_settled(self, now: SystemTime) -> bool {
        is_settled(self.modified, now)
    }
}

/// Nanoseconds since 1970 of a file's or folder's last change.
pub(super) fn modified(meta: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    (meta.mtime() as u64).wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec() as u64)
}

/// Whether that was long enough before `now` that another change could not have the same time: the clocks of file
/// systems are coarse, and what changed a moment ago may change again without a trace.
pub(super) fn is_settled(modified: u64, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    modified < now.saturating_sub(2_000_000_000)
}

/// Prints one line to stderr.
pub(super) fn note(line: &str) {
    #[cfg(test)]
    testing::printed(line);
    // A closed stderr should not stop the run.
    let _ = writeln!(std::io::stderr(), "{line}");
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
