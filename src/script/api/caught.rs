//! Errors that a script has caught: one kind of value, whatever went wrong.

use crate::error::{Diagnostic, Result};
use crate::script::error::{Caught, to_rhai};
use crate::script::registry::Api;
use crate::script::types::handles;
use nepa_macros::functions;
use rhai::{Dynamic, EvalAltResult, Map, Position};

handles! { "Error": Caught; }

pub fn register(api: &mut Api<'_>) {
    api.methods::<Caught>(
        "What `catch (e)` holds: nepa's errors, the language's own and thrown values alike. `throw e;` throws it again \
         with its place.",
        functions::register,
    );
    // An error is not what was thrown: without these, every comparison of the two would be false.
    for operator in ["==", "!=", "<", "<=", ">", ">="] {
        api.engine.register_fn(operator, |_: Caught, _: Dynamic| refuse_comparison());
        api.engine.register_fn(operator, |_: Dynamic, _: Caught| refuse_comparison());
        api.engine.register_fn(operator, |_: Caught, _: Caught| refuse_comparison());
    }
}

#[functions]
mod functions {
    use super::*;

    /// What went wrong. Of a thrown map, it is the map's `message`; of another thrown value, the value as text.
    ///
    /// Example: `try { checkpoint::load(path); } catch (e) { print(e.message); }`
    #[script(get)]
    pub fn message(error: &Caught) -> String {
        error.error.message.clone()
    }

    /// What to do about it, or "".
    #[script(get)]
    pub fn hint(error: &Caught) -> String {
        error.error.hint.clone().unwrap_or_default()
    }

    /// The script in which it happened, or "".
    #[script(get)]
    pub fn file(error: &Caught) -> String {
        error.error.file().unwrap_or_default().to_string()
    }

    /// The line of that script, from 1; `()` if unknown.
    #[script(get)]
    pub fn line(error: &Caught) -> Option<i64> {
        error.error.line().map(|line| line as i64)
    }

    /// The column of that line, from 1; `()` if unknown.
    #[script(get)]
    pub fn column(error: &Caught) -> Option<i64> {
        error.error.column().map(|column| column as i64)
    }

    /// The value that the script threw; `()` if it threw none.
    ///
    /// Example: `try { throw #{ code: 7 }; } catch (e) { print(e.value.code); }`
    #[script(get)]
    pub fn value(error: &Caught) -> Dynamic {
        error.thrown.clone()
    }

    /// A key of the map that the script threw.
    ///
    /// Example: `try { throw #{ code: 7 }; } catch (e) { print(e.code); }`
    #[script(index)]
    pub fn key(error: &Caught, name: &str) -> Result<Dynamic> {
        let thrown = error.thrown.read_lock::<Map>();
        if let Some(value) = thrown.as_ref().and_then(|map| map.get(name)) {
            return Ok(value.clone());
        }
        let own = ["message", "hint", "file", "line", "column", "value"];
        let keys = thrown.iter().flat_map(|map| map.keys()).map(|key| key.as_str());
        let names: Vec<&str> = own.into_iter().chain(keys).collect();
        let near = crate::error::did_you_mean(name, names.iter().copied());
        Err(Diagnostic::new(format!("the error has no `{name}`{near}"))
            .hint(format!("it has: {}", names.join(", ")))
            .into())
    }

    /// Its message.
    pub fn to_string(error: &Caught) -> String {
        error.error.message.clone()
    }
}

fn refuse_comparison() -> std::result::Result<bool, Box<EvalAltResult>> {
    let wrong = Diagnostic::new("an error cannot be compared");
    Err(to_rhai(wrong.hint("compare e.message, or e.value, which is what was thrown").into(), Position::NONE))
}
