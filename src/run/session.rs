//! One run of one recipe.

use crate::bail_hint;
use crate::dist;
use crate::error::{Context as _, Result};
use crate::files::{read_json, write_atomic};
use crate::provenance::{ModelProvenance, RunProvenance, StartedFrom, timestamp};
use crate::run::directory::{CHECKPOINTS_DIR, REMEMBERED_KEY, RUNS_DIR, RunInfo};
use crate::run::signal_poll::SignalPoll;
use crate::run::signals::Interrupt;
use crate::run::writer::{CheckpointOptions, prune};
use crate::run::{RunDir, RunState, Script, inside};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Most characters in the name of a loop's folder.
const MOST_CHARACTERS: usize = 60;

/// A run in progress. All ranks have one; only rank 0's writes files.
pub struct Session {
    info: RunInfo,
    /// The directory asked for; without it one is created when something is first written.
    out: Option<PathBuf>,
    must_resume: bool,
    interrupt: Interrupt,
    signals: SignalPoll,
    dir: Option<RunDir>,
    /// Folders of the training loops so far, in lower case.
    loops: BTreeSet<String>,
    started_from: Vec<StartedFrom>,
    /// Last checkpoints that could not be written, and why.
    unsaved: Rc<RefCell<Vec<String>>>,
    /// Loops whose old checkpoints are removed once the run has ended well.
    pruned: Vec<(PathBuf, CheckpointOptions)>,
}

impl Session {
    /// Starts a run in the directory `out`, or resumes the one that is in it; with `must_resume`, one must be there.
    /// The directory is opened at once, so that a run does not find out at its end that it cannot write. Without `out`,
    /// a directory is created in [`RUNS_DIR`] when it is first needed.
    pub fn start(info: RunInfo, out: Option<PathBuf>, must_resume: bool, interrupt: Interrupt) -> Result<Self> {
        let (loops, started_from) = (BTreeSet::new(), Vec::new());
        let (unsaved, pruned) = (Rc::default(), Vec::new());
        let signals = SignalPoll::new(interrupt.clone());
        let mut session =
            Self { info, out, must_resume, interrupt, signals, dir: None, loops, started_from, unsaved, pruned };
        if session.out.is_some() {
            session.dir()?;
        }
        Ok(session)
    }

    /// What is known about the run.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// The signals that the run gets.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The signals that any of its processes gets.
    pub fn signals(&mut self) -> &mut SignalPoll {
        &mut self.signals
    }

    /// The run directory, which rank 0 creates if needed.
    pub fn dir(&mut self) -> Result<&mut RunDir> {
        if self.dir.is_none() {
            let mut opened = None;
            let path = dist::broadcast_from_rank0("the run directory", || {
                let path = self.out.clone().map_or_else(|| create_default_dir(&self.info.recipe), Ok)?;
                inside::check_written(&path)?;
                opened = Some(RunDir::open(&path, &self.info, self.must_resume)?);
                dist::remember(REMEMBERED_KEY, &path.display().to_string())?;
                Ok(path.display().to_string().into())
            })?;
            let path: PathBuf = serde_json::from_value(path)?;
            self.dir = Some(opened.unwrap_or_else(|| RunDir::of_rank0(path, &self.info)));
        }
        Ok(self.dir.as_mut().expect("just opened"))
    }

    /// The path of a file or folder inside the run directory, and nowhere else.
    pub fn path(&mut self, name: &str) -> Result<PathBuf> {
        inside::path_in(self.dir()?.path(), Path::new(name))
    }

    /// Writes a file of the run directory, whole or not at all; other ranks wait for rank 0, and get its error.
    pub fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(name)?;
        dist::on_rank0(&format!("the writing of {}", path.display()), || write_atomic(&path, content))
    }

    /// Appends a line to the metrics and to the run log.
    pub fn log(&mut self, values: &Map<String, Value>) -> Result<()> {
        self.dir()?.log(values);
        Ok(())
    }

    /// Takes up a script that the recipe imports by a path that it computes; a changed one may be refused.
    pub fn add_script(&mut self, script: Script) -> Result<()> {
        if self.info.scripts.iter().any(|known| known.name == script.name) {
            return Ok(());
        }
        if let Some(dir) = &mut self.dir {
            dist::on_rank0(&format!("the import of {}", script.name), || dir.add_script(script.clone()))?;
        }
        self.info.scripts.push(script);
        Ok(())
    }

    /// Records the value of a parameter of the recipe.
    pub fn set_param(&mut self, name: &str, value: Value) {
        if let Some(dir) = &mut self.dir {
            dir.set_param(name, &value);
        }
        self.info.params.insert(name.to_string(), value);
    }

    /// Records what the recipe returned, where the run has a directory.
    pub fn set_result(&mut self, result: Map<String, Value>) {
        if let Some(dir) = &mut self.dir {
            dir.set_result(result);
        }
    }

    /// A folder for the checkpoints of one more training loop, called `label`, that no other loop of the run has: in
    /// characters that any file system accepts, with a number if a loop before had that name.
    pub fn next_loop_dir(&mut self, label: &str) -> Result<PathBuf> {
        let plain: String = label.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let words: Vec<&str> = plain.split('-').filter(|w| !w.is_empty()).collect();
        // A name that begins with a dot is hidden, is what is left of a killed process, or leads elsewhere.
        let name: String = words.join("-").trim_start_matches(['.', '-']).chars().take(MOST_CHARACTERS).collect();
        let name = if name.is_empty() { "loop".to_string() } else { name };
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        let mut names = std::iter::once(name.clone()).chain(numbered);
        let name = names.find(|name| self.loops.insert(name.to_lowercase())).expect("an endless list");
        Ok(self.dir()?.path().join(CHECKPOINTS_DIR).join(name))
    }

    /// What a checkpoint says about this run.
    pub fn provenance(&self) -> RunProvenance {
        RunProvenance {
            recipe: self.info.recipe.display().to_string(),
            params: self.info.params.clone(),
            seed: self.info.seed,
            started_from: self.started_from.clone(),
            step: None,
        }
    }

    /// Records a loaded model (a folder, or a file in one) that this run's models are started from.
    pub fn note_loaded(&mut self, path: &Path) {
        let name = ModelProvenance::FILE;
        let provenance = if path.is_dir() { path.join(name) } else { path.with_file_name(name) };
        let model = StartedFrom::model(path.display().to_string(), read_json(&provenance).unwrap_or_default());
        match self.started_from.iter_mut().find(|known| known.path == model.path) {
            Some(known) => known.replace(model.about),
            None => self.started_from.push(model),
        }
    }

    /// Records details of a model that the run was started from, replacing those recorded before.
    pub fn note_started_from(&mut self, path: &str, mut about: Map<String, Value>) {
        // The entry has the path itself.
        about.shift_remove("path");
        match self.started_from.iter_mut().find(|known| known.path == path) {
            Some(known) => known.replace(about),
            None => self.started_from.push(StartedFrom { path: path.to_string(), about }),
        }
    }

    /// Where a loop whose last checkpoint could not be written says so: then the run cannot have finished well.
    pub fn unsaved(&self) -> Rc<RefCell<Vec<String>>> {
        self.unsaved.clone()
    }

    /// Removes a finished loop's old checkpoints once more when the run has ended well: after each write this is tried
    /// once, and a process may have been killed before. An attempt that fails before its first step removes nothing.
    pub fn prune_at_end(&mut self, kept: (PathBuf, CheckpointOptions)) {
        self.pruned.push(kept);
    }

    /// Ends the run and records how; gives the run directory, if there is one. It is an error if the last checkpoint of a
    /// loop could not be written.
    pub fn finish(mut self, state: RunState, error: Option<&str>) -> Result<Option<PathBuf>> {
        let Some(dir) = &mut self.dir else { return Ok(None) };
        let unsaved = self.unsaved.borrow().join("; ");
        if state == RunState::Finished && !unsaved.is_empty() {
            dir.finish(RunState::Failed, Some(&unsaved))?;
            bail_hint!(
                "{unsaved}";
                "make room, or mend what is in the way; then run it again with --resume {}: it repeats the steps after \
                 its last checkpoint", dir.path().display()
            );
        }
        dir.finish(state, error)?;
        if state == RunState::Finished {
            for (dir, options) in self.pruned {
                let _ = prune(&dir, &options);
            }
        }
        Ok(Some(dir.path().to_path_buf()))
    }
}

/// Creates `runs/RECIPE-DATE-TIME`, with a number if that is taken: each of several runs that start at once gets its own.
fn create_default_dir(recipe: &Path) -> Result<PathBuf> {
    let stem = recipe.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned());
    let moment = timestamp().replace([':', '-'], "").replace('T', "-").replace('Z', "");
    let base = Path::new(RUNS_DIR).join(format!("{stem}-{moment}"));
    let creating = |path: &Path| format!("cannot create the run directory {}", path.display());
    std::fs::create_dir_all(RUNS_DIR).with_context(|| creating(Path::new(RUNS_DIR)))?;
    let mut path = base.clone();
    for n in 2.. {
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => path = format!("{}-{n}", base.display()).into(),
            created => return created.with_context(|| creating(&path)).map(|()| path),
        }
    }
    unreachable!("an endless list")
}
