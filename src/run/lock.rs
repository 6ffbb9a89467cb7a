//! The lock of a run directory: one run at a time writes to it.

use crate::bail_hint;
use crate::error::{Context as _, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// The file in a run directory that is locked.
pub const LOCK_FILE: &str = ".lock";

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
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file, is_new }),
            Err(TryLockError::WouldBlock) => bail_hint!(
                "{} is in use by another run", dir.display();
                "wait for it, or choose another directory with --out"
            ),
            Err(TryLockError::Error(e)) => Err(e).with_context(creating),
        }
    }

    /// Whether no run had ever locked the directory.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether a process holds the lock now.
    pub fn is_held(dir: &Path) -> bool {
        match File::open(dir.join(LOCK_FILE)) {
            Ok(file) => matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }
}
