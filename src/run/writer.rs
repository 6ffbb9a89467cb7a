//! Writes the checkpoints of a training loop in a background thread, and keeps the newest few and every m-th.

use super::{log, progress};
use crate::bail_hint;
use crate::checkpoint::manifest::{self, Fault};
use crate::error::{Diagnostic, Result, ensure, one_line};
use crate::files::{PARTIAL, REPLACED, exists, names_in, recover_replaced, to_read};
use crate::options;
use crate::run::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How the name of a checkpoint begins; its step follows.
const STEP: &str = "step-";
/// How the name of a damaged checkpoint begins.
const DAMAGED: &str = "damaged-";
/// How the name of a checkpoint begins while it is removed: nothing reads it.
const REMOVING: &str = ".removing-";

options! {
    /// When to write checkpoints, and which to keep.
    pub struct CheckpointOptions {
        /// Steps between checkpoints; 0 writes one only at the end and when a signal asks for it.
        every: i64 = 1000,
        /// Number of newest checkpoints to keep.
        keep: usize = 3,
        /// Checkpoints at multiples of this many steps are kept permanently; 0 means none.
        keep_every: i64 = 0,
    }
}

/// The checkpoints of one training loop on disk, in one folder.
pub struct CheckpointWriter {
    dir: PathBuf,
    options: CheckpointOptions,
    writing: Option<Writing>,
    last: Option<Checkpoint>,
    /// Why the last write failed, if it did.
    fault: Option<String>,
    /// Newer ones than the last, each with its fault.
    damaged: Vec<(PathBuf, String)>,
}

/// A checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Steps that the loop had done.
    pub step: i64,
    /// Its folder.
    pub path: PathBuf,
}

/// Number of checkpoints being written now, by any loop.
static WRITERS: AtomicUsize = AtomicUsize::new(0);

struct CountedWriter;

impl CountedWriter {
    fn new() -> Self {
        WRITERS.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for CountedWriter {
    fn drop(&mut self) {
        WRITERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until no checkpoint is being written, for at most `limit`: called before the process is killed.
pub fn wait_for_writers(limit: Duration) {
    let started = Instant::now();
    while WRITERS.load(Ordering::Relaxed) > 0 && started.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Writing {
    checkpoint: Checkpoint,
    /// Gives the checkpoint's size in bytes, and how long it took.
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl CheckpointWriter {
    /// Keeps checkpoints in `dir`, which is made with the first one.
    pub fn new(dir: PathBuf, options: &CheckpointOptions) -> Result<Self> {
        let o = options;
        ensure!(o.every >= 0, "every (save_every) must not be negative, found {}", o.every);
        ensure!(o.keep_every >= 0, "keep_every must not be negative, found {}", o.keep_every);
        ensure!(
            o.keep >= 1,
            "keep must be at least 1, found 0: an interrupted run is resumed from its last checkpoint"
        );
        Ok(Self { dir, options: options.clone(), writing: None, last: None, fault: None, damaged: Vec::new() })
    }

    /// The newest checkpoint that is known to be intact.
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// The newest intact checkpoint in words, for an error.
    pub fn last_words(&self) -> String {
        match &self.last {
            Some(Checkpoint { step, path }) => format!("the last good one is {} (step {step})", path.display()),
            None => "there is none yet".to_string(),
        }
    }

    /// Whether the interval makes a checkpoint due after `step` steps.
    pub fn is_due(&self, step: i64) -> bool {
        self.options.every > 0 && step % self.options.every == 0
    }

    /// Looks for the newest intact checkpoint on disk; it is an error if all are damaged, or if one cannot be read now.
    pub fn find_newest(&mut self) -> Result<Option<Checkpoint>> {
        for name in names_in(&self.dir)? {
            if let Some(name) = name.strip_prefix(REPLACED) {
                recover_replaced(&self.dir.join(name))?;
            }
        }
        for (step, path) in checkpoints_in(&self.dir)?.into_iter().rev() {
            match manifest::verify(&path) {
                Ok(()) => {
                    self.last = Some(Checkpoint { step, path });
                    return Ok(self.last.clone());
                }
                Err(Fault::Damaged(e)) => self.damaged.push((path, one_line(&e))),
                Err(Fault::Unreadable(e)) => bail_hint!(
                    "{}", one_line(&e);
                    "the checkpoint may be whole: try again; to resume from the one before it, move {} elsewhere",
                    path.display()
                ),
            }
        }
        if let Some((_, fault)) = self.damaged.first() {
            bail_hint!(
                "no checkpoint in {} is intact: {fault}", self.dir.display();
                "to start over from the first step, remove this folder"
            );
        }
        Ok(None)
    }

    /// Reports damaged checkpoints that are newer than the one found, and gives them other names.
    pub fn set_damaged_aside(&mut self) -> Result<()> {
        for (path, fault) in self.damaged.drain(..) {
            progress::note_line(&format!("warning: {fault}; using the checkpoint before it"));
            let aside = path.with_file_name(format!("{DAMAGED}{}", name_of(&path)));
            let _ = std::fs::remove_dir_all(&aside);
            std::fs::rename(&path, &aside)?;
        }
        Ok(())
    }

    /// Starts writing a checkpoint, once the one before has been written. One of this step is replaced.
    pub fn write(&mut self, step: i64, snapshot: Snapshot) -> Result<()> {
        if self.writing.as_ref().is_some_and(|w| !w.thread.is_finished()) {
            log::write(&format!("checkpoint at step {step}: waiting until the one before is written"));
        }
        self.wait();
        let path = self.dir.join(format!("{STEP}{step:08}"));
        let (dir, options, to) = (self.dir.clone(), self.options.clone(), path.clone());
        let counted = CountedWriter::new();
        let work = move || {
            let _counted = counted;
            let started = Instant::now();
            let bytes = snapshot.write(&to)?;
            // A failed removal is tried again after the next checkpoint.
            let _ = prune(&dir, &options);
            Ok((bytes, started.elapsed()))
        };
        let thread = std::thread::Builder::new().name("nepa-checkpoint".into()).spawn(work)?;
        self.writing = Some(Writing { checkpoint: Checkpoint { step, path }, thread });
        Ok(())
    }

    /// Reports how the last write went, if it has ended.
    pub fn poll(&mut self) {
        if self.writing.as_ref().is_some_and(|w| w.thread.is_finished()) {
            self.wait();
        }
    }

    /// Waits for a write in progress and reports how it went. Returns whether the last write succeeded.
    pub fn wait(&mut self) -> bool {
        let Some(Writing { checkpoint, thread }) = self.writing.take() else { return self.fault.is_none() };
        let Checkpoint { step, path } = &checkpoint;
        match thread.join().unwrap_or_else(|_| Err(Diagnostic::new("internal fault").into())) {
            Ok((bytes, took)) => {
                let (size, took) = (bytes as f64 / 1e6, took.as_secs_f64());
                log::write(&format!("checkpoint at step {step}: {} ({size:.1} MB in {took:.2} s)", path.display()));
                self.last = Some(checkpoint);
                self.fault = None;
            }
            Err(e) => {
                let fault = format!("the checkpoint at step {step} could not be written: {}", one_line(&e));
                progress::note_line(&format!("warning: {fault}; {}", self.last_words()));
                self.fault = Some(fault);
            }
        }
        self.fault.is_none()
    }

    /// The folder of the checkpoints, and which of them to keep: see [`prune`].
    pub fn kept(&self) -> (PathBuf, CheckpointOptions) {
        (self.dir.clone(), self.options.clone())
    }

    /// Why the last write failed, in words.
    pub fn last_fault(&self) -> String {
        format!("{}; {}", self.fault.as_deref().unwrap_or("every checkpoint was written"), self.last_words())
    }
}

/// The checkpoints in a folder, by step; none if there is no such folder.
pub fn checkpoints_in(dir: &Path) -> Result<Vec<(i64, PathBuf)>> {
    let mut all = BTreeMap::new();
    for name in names_in(dir)? {
        // A process may have been killed while it replaced this one.
        let name = name.strip_prefix(REPLACED).unwrap_or(&name);
        if let Some(step) = name.strip_prefix(STEP).and_then(|step| step.parse().ok()) {
            all.insert(step, to_read(&dir.join(name))?);
        }
    }
    Ok(all.into_iter().collect())
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("")
}

/// Removes all but the newest `keep` checkpoints and those at multiples of `keep_every`.
pub fn prune(dir: &Path, options: &CheckpointOptions) -> Result<()> {
    let mut old = checkpoints_in(dir)?;
    old.truncate(old.len().saturating_sub(options.keep));
    for (step, path) in old {
        if options.keep_every == 0 || step % options.keep_every != 0 {
            // Renamed first: a folder that is half removed must not look like a checkpoint.
            let gone = path.with_file_name(format!("{REMOVING}{}", name_of(&path)));
            // What is left of an earlier attempt.
            if exists(&gone)? {
                std::fs::remove_dir_all(&gone)?;
            }
            std::fs::rename(&path, &gone)?;
            std::fs::remove_dir_all(&gone)?;
        }
    }
    Ok(())
}

/// Removes what a killed process left unfinished in a run directory, three levels deep.
pub fn remove_leftovers(dir: &Path) {
    fn walk(dir: &Path, depth: usize) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = name_of(&path);
            if name.starts_with(PARTIAL) || name.starts_with(REMOVING) {
                let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            } else if depth > 0 && path.is_dir() && !path.is_symlink() {
                walk(&path, depth - 1);
            }
        }
    }
    walk(dir, 2);
}
