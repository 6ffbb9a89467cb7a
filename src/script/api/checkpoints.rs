//! The checkpoints of a training loop, for scripts: see [`run::Checkpoints`].

use super::optim::{Ema, Optimizer};
use crate::error::{Result, bail, ensure};
use crate::options::known_keys;
use crate::run::settings::FUNCTION;
use crate::run::{self, CheckpointOptions, Moment, Settings, TrainingState};
use crate::script::error::is_end_by_signal;
use crate::script::registry::Api;
use crate::script::session::{self, with_session};
use crate::script::types::{handles, type_of};
use crate::script::values::{Module, call, found, from_json, to_json};
use nepa_macros::functions;
use rhai::{Array, Dynamic, FnPtr, Map};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;

/// The checkpoints of one training loop, with handles to what they hold.
#[derive(Clone)]
pub struct Checkpoints(Rc<Handles>);

struct Handles {
    checkpoints: RefCell<run::Checkpoints>,
    model: Module,
    ema: Option<Ema>,
    optimizer: Option<Optimizer>,
}

impl Checkpoints {
    /// Keeps the checkpoints of a loop called `label`: of the parts `model`, `ema` and `optimizer`.
    pub fn new(label: &str, parts: &Map, options: &CheckpointOptions) -> Result<Self> {
        let known = ["model", "ema", "optimizer"];
        known_keys("part", "run::checkpoints", parts.keys().map(|key| key.as_str()), &known)?;
        let Some(model) = part(parts, "model", "a module")? else {
            bail!("run::checkpoints: the part `model` is missing");
        };
        Ok(Self(Rc::new(Handles {
            checkpoints: RefCell::new(with_session(|session| run::Checkpoints::new(session, label, options))?),
            model,
            ema: part(parts, "ema", "an average made by optim::ema")?,
            optimizer: part(parts, "optimizer", "an optimizer, such as optim::adamw makes")?,
        })))
    }

    /// Calls `f` with the run, its checkpoints and what they hold.
    fn with<R>(
        &self,
        f: impl FnOnce(&mut run::Session, &mut run::Checkpoints, &mut TrainingState<'_>) -> Result<R>,
    ) -> Result<R> {
        let Handles { checkpoints, model, ema, optimizer } = self.0.as_ref();
        let mut ema = ema.as_ref().map(|e| e.0.borrow_mut());
        let mut optimizer = optimizer.as_ref().map(|o| o.0.borrow_mut());
        let mut training =
            TrainingState { model: model.0.as_ref(), ema: ema.as_deref_mut(), optimizer: optimizer.as_deref_mut() };
        with_session(|session| f(session, &mut checkpoints.borrow_mut(), &mut training))
    }

    fn resume(&self, settings: &Map, changeable: &Array) -> Result<Dynamic> {
        let changeable: Vec<String> = changeable.iter().map(|name| name.to_string()).collect();
        let settings = Settings::new(plain_settings(settings), &changeable)?;
        let saved = self.with(|session, checkpoints, training| checkpoints.resume(session, training, settings))?;
        Ok(saved.map_or(Dynamic::UNIT, |saved| restored(&Value::Object(saved))))
    }
}

/// How far a loop has come; `of` is the method that is told.
fn moment(of: &str, step: i64, state: Map) -> Result<Moment> {
    ensure!(step >= 0, "{of}: expected a number of steps, found {step}");
    match saved(&state.into())? {
        Value::Object(state) => Ok(Moment { step, state }),
        _ => unreachable!("a map is an object"),
    }
}

/// The key that marks a float which JSON cannot write: `{ "$float": "NaN" }`.
const FLOAT: &str = "$float";

/// A loop's state as JSON, from which [`restored`] gets back the same values: numbers that are not finite, too, which
/// [`to_json`] writes as strings.
fn saved(value: &Dynamic) -> Result<Value> {
    if let Some(list) = value.read_lock::<Array>() {
        return list.iter().map(saved).collect();
    }
    if let Some(map) = value.read_lock::<Map>() {
        return map.iter().map(|(name, value)| Ok((name.to_string(), saved(value)?))).collect();
    }
    match (to_json(value)?, value.is_string()) {
        // A float, or a tensor that holds one.
        (Value::String(text), false) if text.parse::<f64>().is_ok_and(|x| !x.is_finite()) => Ok(json!({ FLOAT: text })),
        (plain, _) => Ok(plain),
    }
}

/// The value that [`saved`] has written.
fn restored(value: &Value) -> Dynamic {
    match value {
        Value::Array(items) => items.iter().map(restored).collect::<Array>().into(),
        Value::Object(map) => match map.get(FLOAT).and_then(|text| text.as_str()?.parse::<f64>().ok()) {
            Some(x) => x.into(),
            None => map.iter().map(|(name, value)| (name.as_str().into(), restored(value))).collect::<Map>().into(),
        },
        plain => from_json(plain),
    }
}

/// One of the handles of `run::checkpoints`.
fn part<T: Clone + 'static>(parts: &Map, name: &str, what: &str) -> Result<Option<T>> {
    match parts.get(name).filter(|v| !v.is_unit()) {
        None => Ok(None),
        Some(value) => match value.read_lock::<T>() {
            Some(part) => Ok(Some(part.clone())),
            None => bail!("run::checkpoints: `{name}`: expected {what}, found {}", found(value)),
        },
    }
}

/// Settings as JSON: what is no plain data in them, as the text that it shows itself with; functions by their code.
pub fn plain_settings(settings: &Map) -> serde_json::Map<String, Value> {
    /// How deep the values in a setting are told apart: a function may have captured itself.
    const DEPTH: usize = 16;
    settings.iter().map(|(name, value)| (name.to_string(), plain(value, DEPTH))).collect()
}

fn plain(value: &Dynamic, depth: usize) -> Value {
    if depth == 0 {
        return "…".into();
    }
    let inner = |value: &Dynamic| plain(value, depth - 1);
    if let Some(list) = value.read_lock::<Array>() {
        return list.iter().map(inner).collect();
    }
    if let Some(map) = value.read_lock::<Map>() {
        return Value::Object(map.iter().map(|(name, value)| (name.to_string(), inner(value))).collect());
    }
    if let Some(function) = value.read_lock::<FnPtr>() {
        return function_json(&function, inner);
    }
    if let Some(text) = super::transform::describe(value) {
        return text.into();
    }
    to_json(value).unwrap_or_else(|_| type_of(value).to_string().into())
}

/// A function as JSON: its code, and the numbers, texts and functions that it has captured, except for those that it
/// changes. (Its own name tells its line in the script, and changes with every edit above it.)
fn function_json(function: &FnPtr, inner: impl Fn(&Dynamic) -> Value) -> Value {
    let Some(found) = session::function(function) else { return json!({ FUNCTION: function.fn_name() }) };
    let is_told = |value: &Dynamic| {
        let value = value.flatten_clone();
        value.is_bool() || value.is_int() || value.is_float() || value.is_string() || value.is_fnptr()
    };
    let captured = found.captured.into_iter().zip(function.iter_curry());
    let captured = captured.filter(|(name, value)| is_told(value) && !found.assigned.contains(name));
    let captured: serde_json::Map<String, Value> = captured.map(|(name, value)| (name, inner(value))).collect();
    match captured.is_empty() {
        true => json!({ FUNCTION: found.code }),
        false => json!({ FUNCTION: found.code, "captured": captured }),
    }
}

handles! { "Checkpoints": Checkpoints; }

pub fn register(api: &mut Api<'_>) {
    api.methods::<Checkpoints>(
        "The checkpoints of a training loop, made by run::checkpoints. std/train is a loop that uses them.",
        functions::register,
    );
}

#[functions]
mod functions {
    use super::*;

    /// Restores the newest intact checkpoint of this run, and returns the state that the loop saved with it, or () if
    /// there is no checkpoint. All ranks call it once, before the loop. `settings` is a map of everything that the loop
    /// depends on; functions in it are compared by their code, and by the numbers, texts and functions that they
    /// capture. Settings named in `changeable` may differ from when the run was started, which is reported; any other
    /// change is an error, unless `--allow-change` names it.
    pub fn resume(checkpoints: &Checkpoints, settings: Map, changeable: Array) -> Result<Dynamic> {
        checkpoints.resume(&settings, &changeable)
    }

    /// Whether a checkpoint is due, by the number of steps or because a signal to any rank (Ctrl-C, SIGTERM, SIGUSR1)
    /// asks for one. All ranks call it after every step.
    pub fn due(checkpoints: &Checkpoints, step: i64) -> Result<bool> {
        with_session(|session| checkpoints.0.checkpoints.borrow_mut().is_due(session, step))
    }

    /// Saves a checkpoint after `step` steps; rank 0 writes it. `state` is a map of plain values that `resume` will
    /// return. If a signal asked to stop, the run ends afterwards. If a tensor holds NaN or infinite values, nothing is
    /// written and it is an error, or, if the run ends, a warning.
    pub fn save(checkpoints: &Checkpoints, step: i64, state: Map) -> Result<()> {
        let moment = moment("save", step, state)?;
        checkpoints.with(|session, checkpoints, training| checkpoints.save(session, training, moment))
    }

    /// Saves the last step, unless it is saved already, and waits until everything is on disk. All ranks call it after
    /// the loop.
    pub fn finish(checkpoints: &Checkpoints, step: i64, state: Map) -> Result<()> {
        let moment = moment("finish", step, state)?;
        checkpoints.with(|session, checkpoints, training| checkpoints.finish(session, training, &moment))
    }

    /// Calls `body`, an evaluation within the loop, and returns its result. A signal that asks the run to stop ends it
    /// where it calls run::check_signals, as those of the standard library do with every batch; then the result is (),
    /// and `stops` is true: save, and leave the evaluation to the resumed run. All ranks call it.
    ///
    /// Example: `let found = saver.interruptible(|| evaluate::classify(model, held_out, #{}));`
    pub fn interruptible(checkpoints: &Checkpoints, body: FnPtr) -> Result<Dynamic> {
        let own = &checkpoints.0.checkpoints;
        with_session(|session| own.borrow_mut().begin_evaluation(session))?;
        let result = call(&body, ());
        with_session(|session| {
            let is_ended = result.as_ref().is_err_and(is_end_by_signal) && session.signals().stops();
            own.borrow_mut().end_evaluation(session, is_ended);
            if is_ended { Ok(Dynamic::UNIT) } else { result }
        })
    }

    /// Whether a signal to any rank (Ctrl-C, SIGTERM, SIGHUP) asks the run to stop; the same on all ranks.
    #[script(get)]
    pub fn stops(checkpoints: &Checkpoints) -> Result<bool> {
        let _ = checkpoints;
        with_session(|session| Ok(session.signals().stops()))
    }

    /// The folder of the newest intact checkpoint, or "" if there is none yet. Waits for one that is being written. All
    /// ranks must ask, and get rank 0's answer.
    #[script(get)]
    pub fn last(checkpoints: &Checkpoints) -> Result<String> {
        let last = checkpoints.0.checkpoints.borrow_mut().last()?;
        Ok(last.map_or(String::new(), |path| path.display().to_string()))
    }
}
