//! Keeps checkpoints of a training loop: written by a thread of its own, the newest few and every m-th kept.

use super::{log, progress};
use crate::bail_hint;
use crate::checkpoint::manifest;
use crate::error::{Result, ensure, one_line};
use crate::files::PARTIAL;
use crate::options;
use crate::run::snapshot::Snapshot;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How the name of a checkpoint begins; its step follows.
const STEP: &str = "step-";
/// How the name of one that was found damaged begins.
const DAMAGED: &str = "damaged-";
/// What is being removed, under a name that nobody reads.
const REMOVING: &str = ".removing-";

options! {
    /// When checkpoints are written, and which are kept.
    pub struct SaverOptions {
        /// Steps between checkpoints; 0 writes one at the end and where a signal asks for it only.
        every: i64 = 1000,
        /// The newest ones that are kept.
        keep: usize = 3,
        /// Checkpoints at multiples of so many steps are kept for good; 0 means none are.
        keep_every: i64 = 0,
    }
}

/// The checkpoints of one training loop, in a folder of their own.
pub struct Saver {
    dir: PathBuf,
    options: SaverOptions,
    writing: Option<Writing>,
    last: Option<(i64, PathBuf)>,
}

/// Checkpoints being written at this moment, by any loop.
static IN_WRITING: AtomicUsize = AtomicUsize::new(0);

struct InWriting;

impl InWriting {
    fn begin() -> Self {
        IN_WRITING.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for InWriting {
    fn drop(&mut self) {
        IN_WRITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until no checkpoint is being written, for at most so long: before the process is ended from outside.
pub fn wait_for_writers(limit: Duration) {
    let started = Instant::now();
    while IN_WRITING.load(Ordering::Relaxed) > 0 && started.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Writing {
    step: i64,
    path: PathBuf,
    thread: JoinHandle<Result<(u64, Duration)>>,
}

impl Saver {
    /// Keeps checkpoints in `dir`, which is made with the first one.
    pub fn new(dir: PathBuf, options: &SaverOptions) -> Result<Self> {
        let o = options;
        ensure!(o.every >= 0, "every (save_every) must not be negative, found {}", o.every);
        ensure!(o.keep_every >= 0, "keep_every must not be negative, found {}", o.keep_every);
        ensure!(o.keep >= 1, "keep must be at least 1, found 0: the last checkpoint is what a lost run goes on from");
        Ok(Self { dir, options: options.clone(), writing: None, last: None })
    }

    /// The newest checkpoint that is known to be whole: its step and folder.
    pub fn last(&self) -> Option<(i64, &Path)> {
        self.last.as_ref().map(|(step, path)| (*step, path.as_path()))
    }

    /// Whether a checkpoint is due after `step` steps by its number.
    pub fn is_due(&self, step: i64) -> bool {
        self.options.every > 0 && step % self.options.every == 0
    }

    /// The newest checkpoint that is whole. Damaged ones before it are named and set aside; it is an error where all are.
    pub fn newest(&mut self) -> Result<Option<(i64, PathBuf)>> {
        let mut damaged: Vec<(PathBuf, String)> = Vec::new();
        for (step, path) in checkpoints(&self.dir).into_iter().rev() {
            match manifest::verify(&path) {
                Ok(()) => {
                    for (path, fault) in damaged {
                        progress::note_line(&format!("warning: {fault}; the checkpoint before it is used"));
                        let aside = path.with_file_name(format!("{DAMAGED}{}", name_of(&path)));
                        let _ = std::fs::remove_dir_all(&aside);
                        std::fs::rename(&path, &aside)?;
                    }
                    self.last = Some((step, path.clone()));
                    return Ok(Some((step, path)));
                }
                Err(e) => damaged.push((path, one_line(&e))),
            }
        }
        if let Some((_, fault)) = damaged.first() {
            bail_hint!(
                "no checkpoint in {} is whole: {fault}", self.dir.display();
                "to begin anew from the first step, remove this folder"
            );
        }
        Ok(None)
    }

    /// Starts to write a checkpoint. Where the one before is still being written, that is waited for.
    pub fn save(&mut self, step: i64, snapshot: Snapshot) -> Result<()> {
        if self.writing.as_ref().is_some_and(|w| !w.thread.is_finished()) {
            log::write(&format!("the checkpoint before the one at step {step} is still being written: waiting"));
        }
        self.poll(true);
        let path = self.dir.join(format!("{STEP}{step:08}"));
        // The loop went on from this very checkpoint.
        if path.exists() {
            return Ok(());
        }
        let (dir, options, to) = (self.dir.clone(), self.options.clone(), path.clone());
        let work = move || {
            let _writing = InWriting::begin();
            let started = Instant::now();
            let bytes = snapshot.write(&to)?;
            // What cannot be removed now is tried again after the next one.
            let _ = prune(&dir, &options);
            Ok((bytes, started.elapsed()))
        };
        let thread = std::thread::Builder::new().name("nepa-checkpoint".into()).spawn(work)?;
        self.writing = Some(Writing { step, path, thread });
        Ok(())
    }

    /// Tells how the last write went, once it has ended; with `wait` it is waited for. Whether all is well.
    pub fn poll(&mut self, wait: bool) -> bool {
        if !self.writing.as_ref().is_some_and(|w| wait || w.thread.is_finished()) {
            return true;
        }
        let Writing { step, path, thread } = self.writing.take().expect("looked at above");
        match thread.join().unwrap_or_else(|_| Err(crate::error::Diagnostic::new("internal fault").into())) {
            Ok((bytes, took)) => {
                let (size, took) = (bytes as f64 / 1e6, took.as_secs_f64());
                log::write(&format!("checkpoint at step {step}: {} ({size:.1} MB in {took:.2} s)", path.display()));
                self.last = Some((step, path));
                true
            }
            Err(e) => {
                let last = match &self.last {
                    Some((step, path)) => format!("the last good one is {} (step {step})", path.display()),
                    None => "there is none yet".to_string(),
                };
                let why = one_line(&e);
                progress::note_line(&format!(
                    "warning: the checkpoint at step {step} could not be written: {why}; {last}"
                ));
                false
            }
        }
    }
}

/// The checkpoints in a folder, by step.
pub fn checkpoints(dir: &Path) -> Vec<(i64, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let step = |path: &Path| name_of(path).strip_prefix(STEP)?.parse().ok();
    let mut all: Vec<(i64, PathBuf)> = entries.filter_map(|e| Some((step(&e.path())?, e.path()))).collect();
    all.sort();
    all
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or("")
}

/// Removes all but the newest `keep` checkpoints and those at multiples of `keep_every`.
fn prune(dir: &Path, options: &SaverOptions) -> Result<()> {
    let mut old = checkpoints(dir);
    old.truncate(old.len().saturating_sub(options.keep));
    for (step, path) in old {
        if options.keep_every == 0 || step % options.keep_every != 0 {
            // A name that no one reads first: a folder that is half removed must not look like a checkpoint.
            let gone = path.with_file_name(format!("{REMOVING}{}", name_of(&path)));
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
