//! The run that a script belongs to: its parameters, its directory, metrics and progress.

use super::saver::Saver;
use crate::checkpoint::PROVENANCE_FILE;
use crate::dist;
use crate::error::{Context as _, Result, bail, ensure};
use crate::functions;
use crate::nn::shape_words;
use crate::run::checkpoints::SaverOptions;
use crate::run::directory::{CHECKPOINTS_DIR, RUNS_DIR};
use crate::run::progress;
use crate::run::signals::Interrupt;
use crate::run::{RunDir, RunInfo, RunState};
use crate::script::docs::Reference;
use crate::script::params::Params;
use crate::script::registry::Group;
use crate::script::values::{Tensor, found, ints, number, object, read_options};
use crate::table_file::{self, Column};
use rhai::{Array, Dynamic, Engine, ImmutableString, Map};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tch::Kind;

/// What the command line decided about a run.
pub struct Session {
    /// Recipe, seed, device and the rest.
    pub info: RunInfo,
    /// The directory asked for with --out; without it one is made when the script first needs it.
    pub out: Option<PathBuf>,
    /// Whether a run has to be in `out`, to go on with.
    pub must_resume: bool,
    /// The recipe's parameters.
    pub params: Params,
    /// The signals that the run gets.
    pub interrupt: Interrupt,
    dir: Option<RunDir>,
    /// Names of training loops met so far, and how often.
    loops: BTreeMap<String, usize>,
    /// Models that the recipe has loaded: what its own are started from.
    loaded: Vec<Value>,
}

thread_local! {
    static SESSION: RefCell<Option<Session>> = const { RefCell::new(None) };
}

impl Session {
    /// Starts the session of this thread. A directory asked for is taken at once, so that a script
    /// does not find out at its end that it cannot be written.
    pub fn start(
        info: RunInfo,
        out: Option<PathBuf>,
        must_resume: bool,
        params: Params,
        interrupt: Interrupt,
    ) -> Result<()> {
        let (loops, loaded) = (BTreeMap::new(), Vec::new());
        let mut session = Session { info, out, must_resume, params, interrupt, dir: None, loops, loaded };
        if session.out.is_some() {
            session.dir()?;
        }
        SESSION.set(Some(session));
        Ok(())
    }

    /// Ends the session and records how; gives the run directory, if there is one.
    pub fn end(state: RunState, error: Option<&str>) -> Result<Option<PathBuf>> {
        let Some(mut session) = SESSION.take() else { return Ok(None) };
        let Some(dir) = &mut session.dir else { return Ok(None) };
        dir.finish(state, error)?;
        Ok(Some(dir.path().to_path_buf()))
    }

    /// The run directory, made where it is not there yet; of several processes, the first one makes it.
    pub fn dir(&mut self) -> Result<&mut RunDir> {
        if self.dir.is_none() {
            let mut info = self.info.clone();
            info.params = self.params.effective.clone();
            let mut made = None;
            let path = dist::from_main("the run directory", || {
                let path = self.out.clone().unwrap_or_else(|| self.default_dir());
                made = Some(RunDir::open(&path, info.clone(), self.must_resume)?);
                dist::remember_run(&path)?;
                Ok(path.display().to_string().into())
            })?;
            let path = PathBuf::from(path.as_str().unwrap_or_default());
            self.dir = Some(made.unwrap_or_else(|| RunDir::of_main(path, info)));
        }
        Ok(self.dir.as_mut().expect("just made"))
    }

    /// A path inside the run directory, and nowhere else.
    fn inside(&mut self, name: &str) -> Result<PathBuf> {
        let path = Path::new(name);
        ensure!(
            path.is_relative() && !path.components().any(|c| c.as_os_str() == ".."),
            "expected a name inside the run directory, found \"{name}\""
        );
        Ok(self.dir()?.path().join(path))
    }

    /// The folder of a training loop's checkpoints: its label in letters that any file system takes, with a number where
    /// the recipe used it before.
    pub fn checkpoints_dir(&mut self, label: &str) -> Result<PathBuf> {
        let plain: String = label.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let words: Vec<&str> = plain.split('-').filter(|w| !w.is_empty()).collect();
        let name = if words.is_empty() { "loop".to_string() } else { words.join("-") };
        let uses = self.loops.entry(name.clone()).or_insert(0);
        *uses += 1;
        let name = if *uses == 1 { name } else { format!("{name}-{uses}") };
        Ok(self.dir()?.path().join(CHECKPOINTS_DIR).join(name))
    }

    /// `runs/RECIPE-DATE-TIME`, with a number where that is taken.
    fn default_dir(&self) -> PathBuf {
        let stem = self.info.recipe.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned());
        let moment = crate::run::timestamp().replace([':', '-'], "").replace('T', "-").replace('Z', "");
        let base = Path::new(RUNS_DIR).join(format!("{stem}-{moment}"));
        let numbered = (2..).map(|n| PathBuf::from(format!("{}-{n}", base.display())));
        std::iter::once(base.clone()).chain(numbered).find(|p| !p.exists()).expect("an endless list")
    }
}

/// Calls `f` with the session of this thread.
pub fn with_session<R>(f: impl FnOnce(&mut Session) -> Result<R>) -> Result<R> {
    SESSION.with_borrow_mut(|session| match session {
        Some(session) => f(session),
        None => crate::error::bail!("this function needs a run: start the script with `nepa run`"),
    })
}

/// The value of a recipe's parameter.
pub fn param(name: &str, default: &Dynamic) -> Result<Dynamic> {
    with_session(|s| {
        let value = s.params.declare(name, default)?;
        if let Some(dir) = &mut s.dir {
            dir.set_params(s.params.effective.clone());
        }
        Ok(value)
    })
}

/// A path inside the run directory.
pub fn inside(name: &str) -> Result<PathBuf> {
    with_session(|s| s.inside(name))
}

/// What a checkpoint says about the present run.
pub fn provenance() -> serde_json::Map<String, Value> {
    SESSION.with_borrow(|session| match session {
        Some(s) => {
            let mut info = s.info.clone();
            info.params = s.params.effective.clone();
            let mut about = RunDir::provenance(&info);
            if !s.loaded.is_empty() {
                about.insert("started_from".into(), Value::from(s.loaded.clone()));
            }
            about
        }
        None => serde_json::Map::new(),
    })
}

/// Records that the recipe has loaded a model: where from, and what its provenance says of it.
pub fn note_loaded(path: &Path) {
    let provenance = if path.is_dir() { path.join(PROVENANCE_FILE) } else { path.with_file_name(PROVENANCE_FILE) };
    let text = std::fs::read_to_string(provenance).ok();
    let about: Value = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let entry = serde_json::json!({ "weights": about["weights"], "saved_at": about["saved_at"] });
    started_from(&path.display().to_string(), entry.as_object().cloned().unwrap_or_default());
}

/// Records what there is to say about a model that the run was started from, in place of what was said before.
fn started_from(path: &str, about: serde_json::Map<String, Value>) {
    SESSION.with_borrow_mut(|session| {
        let Some(s) = session else { return };
        let known = s.loaded.iter().position(|entry| entry["path"] == path);
        let mut entry = serde_json::json!({ "path": path });
        if let Some(saved_at) = known.map(|at| &s.loaded[at]["saved_at"]) {
            entry["saved_at"] = saved_at.clone();
        }
        entry.as_object_mut().expect("made as an object").extend(about);
        match known {
            Some(at) => s.loaded[at] = entry,
            None => s.loaded.push(entry),
        }
    });
}

/// A column of a table: [name, values].
fn column(pair: &Dynamic) -> Result<(String, Column)> {
    let parts = pair.clone().try_cast::<Array>().filter(|parts| parts.len() == 2);
    let Some([name, values]) = parts.and_then(|parts| <[Dynamic; 2]>::try_from(parts).ok()) else {
        bail!("run::write_table: expected a column [name, values], found {}", found(pair));
    };
    let name = name.to_string();
    if let Some(t) = values.read_lock::<Tensor>() {
        ensure!(t.dim() == 1, "run::write_table: column `{name}`: expected a tensor [n], found {}", shape_words(&t));
        return Ok(match t.is_floating_point() {
            true => (name, Column::Floats(Vec::<f64>::try_from(&t.f_to_kind(Kind::Double)?)?)),
            false => (name, Column::Ints(Vec::<i64>::try_from(&t.f_to_kind(Kind::Int64)?)?)),
        });
    }
    let Some(list) = values.read_lock::<Array>() else {
        bail!("run::write_table: column `{name}`: expected an array or a tensor [n], found {}", found(&values));
    };
    let what = format!("run::write_table: column `{name}`");
    let column = match list.first() {
        Some(v) if v.is_string() => {
            let text = |v: &Dynamic| match v.clone().into_string() {
                Ok(text) => Ok(text),
                Err(_) => bail!("{what}: expected strings only, found {} too", found(v)),
            };
            Column::Texts(list.iter().map(text).collect::<Result<_>>()?)
        }
        Some(_) if list.iter().all(|v| v.is_int()) => Column::Ints(ints(&list, &what)?),
        _ => Column::Floats(list.iter().map(|v| number(v, &what)).collect::<Result<_>>()?),
    };
    Ok((name, column))
}

/// A progress display.
#[derive(Clone)]
struct Progress(Rc<RefCell<Shown>>);

struct Shown(progress::Progress);

impl Drop for Shown {
    /// A loop that a signal ended says how far it came.
    fn drop(&mut self) {
        let stopped = SESSION
            .try_with(|s| s.try_borrow().is_ok_and(|s| s.as_ref().is_some_and(|s| s.interrupt.exit_code().is_some())));
        if stopped.unwrap_or(false) {
            self.0.interrupted();
        }
    }
}

impl Progress {
    fn of(progress: progress::Progress) -> Self {
        Progress(Rc::new(RefCell::new(Shown(progress))))
    }
}

crate::script::types::handles! { "Progress": Progress; }

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Progress>("Progress");
    let mut group = Group::namespace(
        reference,
        "run",
        "The run directory (--out DIR, else runs/RECIPE-DATE, made when first needed): metrics, progress, checkpoints.",
    );
    group.options::<SaverOptions>("run::checkpoints");
    functions! { group;
        /// The run directory's path.
        "dir" () -> String { with_session(|s| Ok(s.dir()?.path().display().to_string())) }
        /// A path inside the run directory.
        "path" (name: ImmutableString) -> String {
            with_session(|s| Ok(s.inside(&name)?.display().to_string()))
        }
        /// Appends a map of plain values (scalar tensors too) as one line to metrics.jsonl.
        "log" (values: Map) -> () {
            let values = object(&values)?;
            with_session(|s| {
                s.dir()?.log(&values);
                Ok(())
            })
        }
        /// Records what the run was started from, beside the models that it loads: the path, and a map of anything worth
        /// knowing. The models and checkpoints that it saves say so in their provenance, under `started_from`.
        "started_from" (path: ImmutableString, about: Map) -> () { started_from(&path, object(&about)?); Ok(()) }
        /// Says something beside the results: a line on stderr, and in run.log.
        "note" (text: ImmutableString) -> () { progress::note_line(&text); Ok(()) }
        /// Shows progress of `total` steps under a label.
        "progress" (label: ImmutableString, total: i64) -> Progress {
            Ok(Progress::of(progress::Progress::new(&label, total.max(0) as u64)))
        }
        /// The same of a loop that goes on after `done` steps.
        "progress" (label: ImmutableString, total: i64, done: i64) -> Progress {
            Ok(Progress::of(progress::Progress::new(&label, total.max(0) as u64).going_on(done.max(0) as u64)))
        }
        /// Keeps the checkpoints of a training loop, in checkpoints/LABEL/step-N of the run directory: from the newest
        /// one the run goes on after `nepa run … --resume DIR`, or after the same command again. `parts` is a map of what
        /// changes from step to step: `model`, and where there are such `ema` and `optimizer`. Each checkpoint also holds
        /// the generator's state, the metrics so far, the recipe and its parameters. They are written beside the
        /// training, which waits for the copy only.
        ///
        /// Example: `let saver = run::checkpoints("pretrain", #{ model: model, ema: ema, optimizer: opt }, #{ every: 500 });`
        "checkpoints" (label: ImmutableString, parts: Map, options: Map) -> Saver {
            Saver::new(&label, &parts, &read_options("run::checkpoints", &options)?)
        }
        /// A path relative to the recipe's own folder, so that it holds wherever nepa is started.
        "beside" (path: ImmutableString) -> String {
            with_session(|s| {
                let folder = s.info.recipe.parent().unwrap_or(Path::new(""));
                let joined = folder.join(path.as_str());
                // a/recipes/../data reads better as a/data.
                let mut clean = PathBuf::new();
                for part in joined.components() {
                    let last_is_name = matches!(clean.components().next_back(), Some(std::path::Component::Normal(_)));
                    match part {
                        std::path::Component::CurDir => {}
                        std::path::Component::ParentDir if last_is_name => {
                            clean.pop();
                        }
                        other => clean.push(other),
                    }
                }
                Ok(clean.display().to_string())
            })
        }
        /// Writes a map of plain values to a JSON file of the run directory.
        "write_json" (name: ImmutableString, values: Map) -> () {
            let text = format!("{:#}\n", Value::Object(object(&values)?));
            with_session(|s| crate::files::write_atomic(&s.inside(&name)?, text.as_bytes()))
        }
        /// Writes a table to a file of the run directory whose name ends in .parquet or .csv: an array of columns
        /// [name, values], the values being integers, numbers or strings in an array, or a tensor [n].
        ///
        /// Example: `run::write_table("predictions.csv", [["item", ["a.png", "b.png"]], ["label", [3, 7]]]);`
        "write_table" (name: ImmutableString, columns: Array) -> () {
            let columns = columns.iter().map(column).collect::<Result<_>>()?;
            with_session(|s| table_file::write(&s.inside(&name)?, columns))
        }
        /// Writes text to a file of the run directory.
        "write" (name: ImmutableString, text: ImmutableString) -> () {
            with_session(|s| {
                let path = s.inside(&name)?;
                crate::files::write_atomic(&path, text.as_bytes())
                    .with_context(|| format!("run::write {name}"))
            })
        }
    }
    group.register(engine);

    let mut group = Group::global(
        reference,
        "Progress",
        "A progress display: a bar on a terminal, else plain lines. Where a signal ends the run, it says how far it came.",
    );
    functions! { group;
        /// One step done, with the values to show.
        "step" (progress: Progress, values: Map) -> () { progress.0.borrow_mut().0.step(0, &object(&values)?); Ok(()) }
        /// One step done on a number of images, with the values to show.
        "step" (progress: Progress, images: i64, values: Map) -> () {
            progress.0.borrow_mut().0.step(images.max(0) as u64, &object(&values)?);
            Ok(())
        }
        /// Ends the display with a line that stays.
        "finish" (progress: Progress) -> () { progress.0.borrow_mut().0.finish(&Default::default()); Ok(()) }
        /// The same with final values.
        "finish" (progress: Progress, values: Map) -> () {
            progress.0.borrow_mut().0.finish(&object(&values)?);
            Ok(())
        }
    }
    group.register(engine);
}
