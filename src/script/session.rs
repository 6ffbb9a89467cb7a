//! The run that this thread's script belongs to.

use super::functions::Function;
use super::params::Params;
use super::values::to_json;
use crate::error::{Result, bail};
use crate::provenance::RunProvenance;
use crate::run::{RunState, Script, Session};
use rhai::{Dynamic, FnPtr, Map};
use serde_json::Value;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

struct ScriptRun {
    session: Session,
    params: Params,
    find: Rc<FindFunction>,
}

/// Finds the function that a pointer calls in the texts of the scripts.
type FindFunction = dyn Fn(&FnPtr) -> Option<Function>;

thread_local! {
    static RUN: RefCell<Option<ScriptRun>> = const { RefCell::new(None) };
}

/// Scripts of this thread belong to the run `session` from now on, with the parameters given for it; `find` finds the
/// function that a pointer calls in their texts.
pub fn start_run(session: Session, params: Params, find: impl Fn(&FnPtr) -> Option<Function> + 'static) {
    RUN.set(Some(ScriptRun { session, params, find: Rc::new(find) }));
}

/// Ends the run of this thread and records how; gives the run directory, if there is one.
pub fn finish_run(state: RunState, error: Option<&str>) -> Result<Option<PathBuf>> {
    RUN.take().map_or(Ok(None), |run| run.session.finish(state, error))
}

fn with_run<R>(f: impl FnOnce(&mut ScriptRun) -> Result<R>) -> Result<R> {
    RUN.with_borrow_mut(|run| match run {
        Some(run) => f(run),
        None => bail!("this function needs a run: start the script with `nepa run`"),
    })
}

/// Calls `f` with the run of this thread.
pub fn with_session<R>(f: impl FnOnce(&mut Session) -> Result<R>) -> Result<R> {
    with_run(|run| f(&mut run.session))
}

/// The function of a script that a pointer calls, if there is a run and one of its scripts defines the function.
pub fn function(pointer: &FnPtr) -> Option<Function> {
    let find = RUN.with_borrow(|run| run.as_ref().map(|run| run.find.clone()))?;
    find(pointer)
}

/// Tells the run, if there is one, of a script that is imported: its path may be computed, so that the run does not
/// know of it yet. `script` is given the recipe's path.
pub fn note_import(script: impl FnOnce(&Path) -> Script) -> Result<()> {
    RUN.with_borrow_mut(|run| match run {
        Some(run) => run.session.add_script(script(&run.session.info().recipe)),
        None => Ok(()),
    })
}

/// The value of a recipe's parameter.
pub fn param(name: &str, default: &Dynamic) -> Result<Dynamic> {
    with_run(|run| {
        let (value, recorded) = run.params.declare(name, default)?;
        run.session.set_param(name, recorded);
        Ok(value)
    })
}

/// Records what the recipe returned, if that is a map: its numbers, texts and truth values, also those in maps in it.
pub fn record_result(returned: &Dynamic) {
    let Some(map) = returned.read_lock::<Map>() else { return };
    let scalar = |value: &Dynamic| {
        let json = to_json(value).ok()?;
        (json.is_number() || json.is_boolean() || json.is_string()).then_some(json)
    };
    let scalars = |map: &Map| -> serde_json::Map<String, Value> {
        map.iter().filter_map(|(name, value)| Some((name.to_string(), scalar(value)?))).collect()
    };
    let mut result = scalars(&map);
    for (name, value) in map.iter() {
        if let Some(inner) = value.read_lock::<Map>() {
            result.insert(name.to_string(), Value::Object(scalars(&inner)));
        }
    }
    RUN.with_borrow_mut(|run| run.as_mut().map(|run| run.session.set_result(result)));
}

/// What a checkpoint says about the present run.
pub fn provenance() -> Option<RunProvenance> {
    RUN.with_borrow(|run| run.as_ref().map(|run| run.session.provenance()))
}

/// Records that the recipe has loaded a model, if there is a run.
pub fn note_loaded(path: &Path) {
    RUN.with_borrow_mut(|run| run.as_mut().map(|run| run.session.note_loaded(path)));
}

/// Whether a signal has asked this thread's run to stop. Any moment may ask, also one in which the thread ends.
pub fn is_interrupted() -> bool {
    let asks = |run: &Option<ScriptRun>| run.as_ref().is_some_and(|r| r.session.interrupt().exit_code().is_some());
    RUN.try_with(|run| run.try_borrow().is_ok_and(|run| asks(&run))).unwrap_or(false)
}
