//! The lock of a run directory: one run at a time writes to it.

use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::run::progress::note_line;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file in a run directory that is locked.
pub const LOCK_FILE: &str = ".lock";

/// How long to wait for a lock: who only looks whether it is held holds it for a moment.
const WAIT: Duration = Duration::from_millis(500);

/// A run directory that no other run can open for as long as this lives.
pub struct RunLock {
    _file: File,
    is_new: bool,
}

impl RunLock {
    /// Locks the directory, creating it if needed. It is an error if another process holds the lock.
    pub fn take(dir: &Path) -> Result<Self> {
        let creating = || format!("cannot create the run directory {}", dir.display());
        std::fs::create_dir_all(dir).with_context(creating)?;
        let path = dir.join(LOCK_FILE);
        let is_new = !path.exists();
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).with_context(creating)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if started.elapsed() < WAIT => std::thread::sleep(WAIT / 10),
                Err(TryLockError::WouldBlock) => bail_hint!(
                    "{} is in use by another run", dir.display();
                    "wait for it, or choose another directory with --out"
                ),
                Err(TryLockError::Error(e)) if has_no_locks(&e) => {
                    note_line(&format!(
                        "warning: the file system of {} has no locks: see to it that no other run uses this directory",
                        dir.display()
                    ));
                    break;
                }
                Err(TryLockError::Error(e)) => return Err(e).with_context(creating),
            }
        }
        Ok(Self { _file: file, is_new })
    }

    /// Whether no run had ever locked the directory.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether a process holds the lock now; `None` if that cannot be found out.
    pub fn is_held(dir: &Path) -> Option<bool> {
        let file = match File::open(dir.join(LOCK_FILE)) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Some(false),
            Err(_) => return None,
        };
        // A shared one: over NFS, a file that is open for reading can have no other.
        match file.try_lock_shared() {
            Ok(()) => Some(false),
            Err(TryLockError::WouldBlock) => Some(true),
            Err(TryLockError::Error(_)) => None,
        }
    }
}

/// Whether an attempt to lock failed because the file system has no locks, such as Lustre without `-o flock`, or NFS
/// without a lock daemon.
fn has_no_locks(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::ENOLCK | libc::ENOTSUP))
        || error.kind() == ErrorKind::Unsupported
}
