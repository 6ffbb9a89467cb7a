//! The run that a script belongs to: its parameters, its directory, metrics and progress.

use super::checkpoints::Checkpoints;
use crate::error::{Result, bail, ensure};
use crate::run::{CheckpointOptions, progress};
use crate::script::registry::Api;
use crate::script::session::{is_interrupted, with_session};
use crate::script::types::handles;
use crate::script::values::{Tensor, found, ints, number, object};
use crate::table_file::{self, Column};
use crate::tensor::shape_text;
use nepa_macros::functions;
use rhai::{Array, Dynamic, Map};
use serde_json::Value;
use std::cell::RefCell;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tch::Kind;

/// A column of a table: [name, values].
fn column(pair: &Dynamic) -> Result<(String, Column)> {
    let parts = pair.clone().try_cast::<Array>().filter(|parts| parts.len() == 2);
    let Some([name, values]) = parts.and_then(|parts| <[Dynamic; 2]>::try_from(parts).ok()) else {
        bail!("run::write_table: expected a column [name, values], found {}", found(pair));
    };
    let name = name.to_string();
    if let Some(t) = values.read_lock::<Tensor>() {
        ensure!(t.dim() == 1, "run::write_table: column `{name}`: expected a tensor [n], found {}", shape_text(&t));
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
                Err(_) => bail!("{what}: expected only strings, found {} among them", found(v)),
            };
            Column::Texts(list.iter().map(text).collect::<Result<_>>()?)
        }
        Some(_) if list.iter().all(|v| v.is_int()) => Column::Ints(ints(&list, &what)?),
        _ => Column::Floats(list.iter().map(|v| number(v, &what)).collect::<Result<_>>()?),
    };
    Ok((name, column))
}

/// The step of a line of metrics, which a float may be if it is whole.
fn whole(step: &Value, given: &Dynamic) -> Result<i64> {
    let of_float = || step.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 2f64.powi(53)).map(|x| x as i64);
    match step.as_i64().or_else(of_float) {
        Some(step) => Ok(step),
        None => bail!("run::log: `step`: expected an integer, found {}", found(given)),
    }
}

/// A path without `.` and, where that is possible, without `..`: a/recipes/../data reads better as a/data.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        let ends_with_name = matches!(clean.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::CurDir => {}
            Component::ParentDir if ends_with_name => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

/// A progress display.
#[derive(Clone)]
struct Progress(Rc<RefCell<Shown>>);

struct Shown(progress::Progress);

impl Drop for Shown {
    /// A loop that a signal has ended tells how far it came.
    fn drop(&mut self) {
        if is_interrupted() {
            self.0.interrupted();
        }
    }
}

impl Progress {
    fn of(progress: progress::Progress) -> Self {
        Progress(Rc::new(RefCell::new(Shown(progress))))
    }
}

handles! { "Progress": Progress; }

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "run",
        "The run directory (--out DIR, by default runs/RECIPE-DATE, created when first needed): metrics, progress, \
         checkpoints. A map that a recipe returns as the value of its last expression is recorded as the result of the \
         run: its numbers, texts and truth values, which `nepa sweep` and `nepa report` show.",
        functions::register,
    );
    api.methods::<Progress>(
        "A progress display: a bar on a terminal, otherwise plain lines. If a signal ends the run, it reports how far \
         the run got.",
        methods::register,
    );
}

#[functions]
mod functions {
    use super::*;

    /// The run directory's path.
    pub fn dir() -> Result<String> {
        with_session(|s| Ok(s.dir()?.path().display().to_string()))
    }

    /// A path inside the run directory.
    pub fn path(name: &str) -> Result<String> {
        with_session(|s| Ok(s.path(name)?.display().to_string()))
    }

    /// Appends a map of plain values (and scalar tensors) as one line to metrics.jsonl. `nepa plot` and `nepa report` draw
    /// each number in it over the key `step`, by the key `phase` if there is one; `train/loss` and `val/loss`, or
    /// `train_loss` and `val_loss`, in one chart. `step` is an integer.
    pub fn log(values: Map) -> Result<()> {
        let mut line = object(&values)?;
        if let Some(step) = line.get_mut("step") {
            *step = whole(step, &values["step"])?.into();
        }
        with_session(|s| s.log(&line))
    }

    /// Records what the run was started from, in addition to the models that it loads: a path, and a map of anything
    /// worth knowing. Models and checkpoints that the run saves have it in their provenance, under `started_from`.
    pub fn started_from(path: &str, about: Map) -> Result<()> {
        let about = object(&about)?;
        with_session(|s| {
            s.note_started_from(path, about);
            Ok(())
        })
    }

    /// Writes a message as a line to stderr and to run.log.
    pub fn note(text: &str) {
        progress::note_line(text);
    }

    /// Ends an evaluation that runs within a training loop, if a signal to any rank asks the run to stop: the loop then
    /// saves, and the resumed run evaluates again. Call it with every batch of a long evaluation of your own, in all
    /// processes equally often; the standard library's do. Does nothing elsewhere.
    ///
    /// Example: `for batch in loader.epoch(0) { run::check_signals(); total += score(batch); }`
    pub fn check_signals() -> Result<()> {
        with_session(|session| session.signals().step_of_evaluation())
    }

    /// Shows progress of `total` steps under a label.
    pub fn progress(label: &str, total: i64) -> Progress {
        Progress::of(progress::Progress::new(label, total.max(0) as u64))
    }

    /// Shows progress of a loop that is resumed after `done` of its `total` steps.
    #[script(name = "progress")]
    pub fn progress_from(label: &str, total: i64, done: i64) -> Progress {
        Progress::of(progress::Progress::new(label, total.max(0) as u64).resumed_after(done.max(0) as u64))
    }

    /// Manages the checkpoints of a training loop, in checkpoints/LABEL/step-N of the run directory: `nepa run …
    /// --resume DIR`, or the same command again, resumes the run from the newest one. `parts` is a map of what changes
    /// from step to step: `model`, and optionally `ema` and `optimizer`. Each checkpoint also holds the generator's
    /// state, the metrics so far, the recipe and its parameters. They are written in the background; training waits
    /// only while they are copied.
    ///
    /// Example: `let checkpoints = run::checkpoints("pretrain", #{ model: model, optimizer: opt }, #{ every: 500 });`
    pub fn checkpoints(label: &str, parts: Map, options: CheckpointOptions) -> Result<Checkpoints> {
        Checkpoints::new(label, &parts, &options)
    }

    /// A path relative to the recipe's own folder, which works wherever nepa is started.
    pub fn beside(path: &str) -> Result<String> {
        with_session(|s| {
            let folder = s.info().recipe.parent().unwrap_or(Path::new(""));
            Ok(without_dots(&folder.join(path)).display().to_string())
        })
    }

    /// Writes a map of plain values to a JSON file of the run directory.
    pub fn write_json(name: &str, values: Map) -> Result<()> {
        let text = format!("{:#}\n", Value::Object(object(&values)?));
        with_session(|s| s.write(name, text.as_bytes()))
    }

    /// Writes a table to a .parquet or .csv file of the run directory. `columns` is an array of [name, values], where
    /// the values are an array of integers, floats or strings, or a tensor [n].
    ///
    /// Example: `run::write_table("predictions.csv", [["item", ["a.png", "b.png"]], ["label", [3, 7]]]);`
    pub fn write_table(name: &str, columns: Array) -> Result<()> {
        let columns: Vec<(String, Column)> = columns.iter().map(column).collect::<Result<_>>()?;
        for (i, (name, _)) in columns.iter().enumerate() {
            ensure!(
                columns[..i].iter().all(|other| other.0 != *name),
                "run::write_table: two columns are called `{name}`"
            );
        }
        let content = table_file::encode(Path::new(name), columns)?;
        with_session(|s| s.write(name, &content))
    }

    /// Writes text to a file of the run directory.
    pub fn write(name: &str, text: &str) -> Result<()> {
        with_session(|s| s.write(name, text.as_bytes()))
    }
}

#[functions]
mod methods {
    use super::*;

    /// Counts one step, and shows these values.
    pub fn step(progress: &Progress, values: Map) -> Result<()> {
        progress.0.borrow_mut().0.step(0, &object(&values)?);
        Ok(())
    }

    /// Counts one step on a number of images, and shows these values.
    #[script(name = "step")]
    pub fn step_images(progress: &Progress, images: i64, values: Map) -> Result<()> {
        progress.0.borrow_mut().0.step(images.max(0) as u64, &object(&values)?);
        Ok(())
    }

    /// Ends the display, leaving a last line.
    pub fn finish(progress: &Progress) {
        progress.0.borrow_mut().0.finish(&Default::default());
    }

    /// Ends the display, leaving a last line with these values.
    #[script(name = "finish")]
    pub fn finish_with(progress: &Progress, values: Map) -> Result<()> {
        progress.0.borrow_mut().0.finish(&object(&values)?);
        Ok(())
    }
}
