//! How much a script may nest and hold: beyond, it gets an error, where the process would otherwise end without one.

use crate::error::Diagnostic;
use rhai::Engine;

/// How deep expressions and blocks nest in a text, as Rhai counts: about three for each bracket.
const DEPTH: usize = 3000;
/// How deep functions call each other; [`super::values::call`] counts those that Rust calls.
const CALLS: usize = 200;
/// Elements of an array, keys of a map, bytes of a string. Each holds for one value, not for all of them together.
pub const ARRAY: usize = 100_000_000;
const MAP: usize = 10_000_000;
const STRING: usize = 1 << 30;
/// The stack that must be left, in bytes: for what Rust does between two operations of a script.
const LEAST_STACK: usize = 512 << 10;

/// Runs `compile` with the stack that a text of the greatest [`DEPTH`] takes.
pub fn with_stack_to_compile<R>(compile: impl FnOnce() -> R) -> R {
    const NEEDED: usize = 64 << 20;
    stacker::maybe_grow(NEEDED, NEEDED, compile)
}

/// Gives an engine its limits.
pub fn set(engine: &mut Engine) {
    engine.set_max_expr_depths(DEPTH, DEPTH);
    engine.set_max_call_levels(CALLS);
    engine.set_max_array_size(ARRAY);
    engine.set_max_map_size(MAP);
    engine.set_max_string_size(STRING);
}

/// The error if hardly any stack is left: functions in functions, each with deeply nested expressions, may take it all
/// before any of them reaches its limit.
pub fn stack_overflow() -> Option<Diagnostic> {
    (stacker::remaining_stack()? < LEAST_STACK)
        .then(|| endless("stack overflow: functions and expressions are nested too deeply".into()))
}

/// More than [`CALLS`] calls in each other.
pub fn too_many_calls() -> Diagnostic {
    endless(format!("stack overflow: function calls are nested more than {CALLS} deep"))
}

fn endless(message: String) -> Diagnostic {
    Diagnostic::new(message).hint("does a function call itself without an end?")
}

/// What is too large, by Rhai's name for it.
pub fn too_large(what: &str) -> Diagnostic {
    let (value, most, of) = match what {
        _ if what.contains("map") => ("a map", MAP, "keys"),
        _ if what.contains("tring") => ("a string", STRING, "bytes"),
        _ => ("an array", ARRAY, "elements"),
    };
    Diagnostic::new(format!("{value} is too large: it would have more than {most} {of}"))
        .hint("a tensor holds more in less memory")
}

/// An expression or a block that is nested too deeply.
pub fn too_deep() -> Diagnostic {
    Diagnostic::new(format!("expressions or blocks are nested too deeply: more than about {} in each other", DEPTH / 3))
        .hint("name parts of the expression with `let`, or move inner blocks to functions")
}
