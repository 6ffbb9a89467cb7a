//! What was found in large folders and archives, kept between runs; and what is said while looking.
//!
//! A listing is only ever a shortcut: one that is missing, damaged or of another version is made anew,
//! one that cannot be written is no error.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"nepalst1";
/// Magic, length of the body, checksum of the body.
const HEADER: usize = 8 + 8 + 4;
/// How often progress is told.
const INTERVAL: Duration = Duration::from_secs(2);

/// Where listings are kept: `$NEPA_CACHE`, else the user's cache folder; none where neither is known.
pub(super) fn folder() -> Option<PathBuf> {
    #[cfg(test)]
    if let Some(dir) = testing::folder() {
        return Some(dir);
    }
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = match var("NEPA_CACHE") {
        Some(path) => std::path::absolute(path).ok()?,
        // The XDG rules: relative values do not count.
        None => match var("XDG_CACHE_HOME").filter(|p| p.is_absolute()) {
            Some(path) => path.join("nepa"),
            None => {
                let home = std::env::home_dir().filter(|h| h.is_absolute())?;
                home.join(if cfg!(target_os = "macos") { "Library/Caches/nepa" } else { ".cache/nepa" })
            }
        },
    };
    Some(cache.join("listings"))
}

/// The file in `folder` for the listing of `path`.
fn file(folder: &Path, kind: &str, path: &Path) -> PathBuf {
    // FNV-1a: the same in every version of Rust. The body repeats the path, so that a collision is noticed.
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ *b as u64).wrapping_mul(0x0000_0100_0000_01b3));
    folder.join(format!("{kind}-{hash:016x}"))
}

/// The body of the listing of `path` (absolute), if there is a whole one.
pub(super) fn load(folder: Option<&Path>, kind: &str, path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(file(folder?, kind, path)).ok()?;
    let body = bytes.get(HEADER..)?;
    let whole = bytes[..8] == *MAGIC
        && bytes[8..16] == (body.len() as u64).to_le_bytes()
        && bytes[16..20] == crc32fast::hash(body).to_le_bytes();
    let mut reader = Reader(body);
    if !whole || reader.bytes()? != path.as_os_str().as_encoded_bytes() {
        return None;
    }
    let used = bytes.len() - reader.0.len();
    bytes.drain(..used);
    Some(bytes)
}

/// Keeps the listing of `path`; all or nothing, also when two runs write it at once.
pub(super) fn store(folder: Option<&Path>, kind: &str, path: &Path, body: &Writer) {
    let Some(folder) = folder else { return };
    let mut whole = Writer::default();
    whole.bytes(path.as_os_str().as_encoded_bytes());
    whole.0.extend_from_slice(&body.0);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(MAGIC)?;
        temporary.write_all(&(whole.0.len() as u64).to_le_bytes())?;
        temporary.write_all(&crc32fast::hash(&whole.0).to_le_bytes())?;
        temporary.write_all(&whole.0)?;
        temporary.persist(file(folder, kind, path))?;
        Ok(())
    };
    // The next run lists again.
    let _ = write();
}

/// Builds a listing's body.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub fn u32s(&mut self, values: &[u32]) {
        self.u64(values.len() as u64);
        self.0.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }

    pub fn u64s(&mut self, values: &[u64]) {
        self.u64(values.len() as u64);
        self.0.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
}

/// Reads a listing's body; None where it ends too early.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.u64()? as usize;
        self.take(n)
    }

    pub fn u32s(&mut self) -> Option<Vec<u32>> {
        let n = self.u64()? as usize;
        let bytes = self.take(n.checked_mul(4)?)?;
        Some(bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect())
    }

    pub fn u64s(&mut self) -> Option<Vec<u64>> {
        let n = self.u64()? as usize;
        let bytes = self.take(n.checked_mul(8)?)?;
        Some(bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
    }
}

/// Nanoseconds since 1970 of a file's or folder's last change.
pub(super) fn modified(meta: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    (meta.mtime() as u64).wrapping_mul(1_000_000_000).wrapping_add(meta.mtime_nsec() as u64)
}

/// Whether that was so long before `now` that another change could not bear the same time: the clocks of file systems
/// are coarse, and what changed a moment ago may change again without a trace.
pub(super) fn is_settled(modified: u64, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    modified < now.saturating_sub(2_000_000_000)
}

/// Says one line on stderr.
pub(super) fn note(line: &str) {
    #[cfg(test)]
    testing::said(line);
    // A closed stderr is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Tells how far a listing is, every two seconds, from any thread.
pub(super) struct Progress {
    what: String,
    state: Mutex<(u64, Instant)>,
}

impl Progress {
    /// `what`: "listing DIR".
    pub fn new(what: String) -> Self {
        Self { what, state: Mutex::new((0, Instant::now())) }
    }

    pub fn add(&self, images: u64) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.0 += images;
        if state.1.elapsed() >= INTERVAL {
            state.1 = Instant::now();
            note(&format!("{}: {} images…", self.what, thousands(state.0)));
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

/// A folder for listings and a record of what was said, for the thread that runs a test.
#[cfg(test)]
pub(super) mod testing {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};

    thread_local! {
        static FOLDER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
        static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub fn set_folder(dir: &Path) {
        FOLDER.set(Some(dir.to_path_buf()));
    }

    pub fn folder() -> Option<PathBuf> {
        FOLDER.with_borrow(Clone::clone)
    }

    pub fn said(line: &str) {
        SAID.with_borrow_mut(|s| s.push(line.to_string()));
    }

    /// What was said since the last call.
    pub fn take_said() -> Vec<String> {
        SAID.take()
    }
}
