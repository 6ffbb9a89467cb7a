//! One run of one recipe.

use crate::dist;
use crate::error::Result;
use crate::files::{read_json, write_atomic};
use crate::provenance::{ModelProvenance, RunProvenance, StartedFrom, timestamp};
use crate::run::directory::{CHECKPOINTS_DIR, REMEMBERED_KEY, RUNS_DIR, RunInfo};
use crate::run::signals::Interrupt;
use crate::run::{RunDir, RunState, Script, inside};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A run in progress. All ranks have one; only rank 0's writes files.
pub struct Session {
    info: RunInfo,
    /// The directory asked for; without it one is created when something is first written.
    out: Option<PathBuf>,
    must_resume: bool,
    interrupt: Interrupt,
    dir: Option<RunDir>,
    /// Names of training loops so far, and how often each came.
    loops: BTreeMap<String, usize>,
    started_from: Vec<StartedFrom>,
}

impl Session {
    /// Starts a run in the directory `out`, or resumes the one that is in it; with `must_resume`, one must be there.
    /// The directory is opened at once, so that a run does not find out at its end that it cannot write. Without `out`,
    /// a directory is created in [`RUNS_DIR`] when it is first needed.
    pub fn start(info: RunInfo, out: Option<PathBuf>, must_resume: bool, interrupt: Interrupt) -> Result<Self> {
        let (loops, started_from) = (BTreeMap::new(), Vec::new());
        let mut session = Self { info, out, must_resume, interrupt, dir: None, loops, started_from };
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

    /// The run directory, which rank 0 creates if needed.
    pub fn dir(&mut self) -> Result<&mut RunDir> {
        if self.dir.is_none() {
            let mut opened = None;
            let path = dist::broadcast_from_rank0("the run directory", || {
                let path = self.out.clone().unwrap_or_else(|| default_dir(&self.info.recipe));
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

    /// Writes a file of the run directory, whole or not at all.
    pub fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(name)?;
        if dist::is_rank0() { write_atomic(&path, content) } else { Ok(()) }
    }

    /// Appends a line to the metrics and to the run log.
    pub fn log(&mut self, values: &Map<String, Value>) -> Result<()> {
        self.dir()?.log(values);
        Ok(())
    }

    /// Takes up a script that the recipe imports by a path that it computes; a changed one may be refused.
    pub fn add_script(&mut self, script: Script) -> Result<()> {
        if let Some(dir) = &mut self.dir {
            dir.add_script(script.clone())?;
        }
        if !self.info.scripts.iter().any(|known| known.name == script.name) {
            self.info.scripts.push(script);
        }
        Ok(())
    }

    /// Records the value of a parameter of the recipe.
    pub fn set_param(&mut self, name: &str, value: Value) {
        if let Some(dir) = &mut self.dir {
            dir.set_param(name, &value);
        }
        self.info.params.insert(name.to_string(), value);
    }

    /// A folder for the checkpoints of one more training loop, called `label`: in characters that any file system accepts,
    /// with a number if the run had a loop of that name before.
    pub fn next_loop_dir(&mut self, label: &str) -> Result<PathBuf> {
        let plain: String = label.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let words: Vec<&str> = plain.split('-').filter(|w| !w.is_empty()).collect();
        let name = if words.is_empty() { "loop".to_string() } else { words.join("-") };
        let uses = self.loops.entry(name.clone()).or_insert(0);
        *uses += 1;
        let name = if *uses == 1 { name } else { format!("{name}-{uses}") };
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

    /// Ends the run and records how; gives the run directory, if there is one.
    pub fn finish(mut self, state: RunState, error: Option<&str>) -> Result<Option<PathBuf>> {
        let Some(dir) = &mut self.dir else { return Ok(None) };
        dir.finish(state, error)?;
        Ok(Some(dir.path().to_path_buf()))
    }
}

/// `runs/RECIPE-DATE-TIME`, with a number if that is taken.
fn default_dir(recipe: &Path) -> PathBuf {
    let stem = recipe.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned());
    let moment = timestamp().replace([':', '-'], "").replace('T', "-").replace('Z', "");
    let base = Path::new(RUNS_DIR).join(format!("{stem}-{moment}"));
    let numbered = (2..).map(|n| PathBuf::from(format!("{}-{n}", base.display())));
    std::iter::once(base.clone()).chain(numbered).find(|p| !p.exists()).expect("an endless list")
}
