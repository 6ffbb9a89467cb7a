//! Errors between Rust and scripts, and how they are shown to the user.

use super::docs::Reference;
use super::{Sources, ast, habits, limits};
use crate::error::{Diagnostic, did_you_mean, hint_of, nearest, one_line};
use crate::text::visible;
use rhai::{Dynamic, Engine, EvalAltResult, Map, ParseErrorType, Position};
use send_wrapper::SendWrapper;
use std::cell::OnceCell;
use std::fmt;
use std::rc::Rc;

/// A script's error on its way through Rust code, as when a script's module fails inside a block.
#[derive(Debug)]
struct ScriptFault(SendWrapper<std::cell::RefCell<Option<Box<EvalAltResult>>>>);

impl fmt::Display for ScriptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an error in a script function")
    }
}

impl std::error::Error for ScriptFault {}

/// A script's error as an [`anyhow::Error`], to be taken out again by [`to_rhai`].
pub fn from_rhai(error: Box<EvalAltResult>) -> anyhow::Error {
    anyhow::Error::new(ScriptFault(SendWrapper::new(std::cell::RefCell::new(Some(error)))))
}

/// Whether it is a script's error on its way through Rust code.
pub fn is_scripts(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<ScriptFault>())
}

/// Whether a signal has ended the script's function.
pub fn is_end_by_signal(error: &anyhow::Error) -> bool {
    let fault = error.chain().find_map(|cause| cause.downcast_ref::<ScriptFault>());
    fault.is_some_and(|fault| fault.0.borrow().as_deref().is_some_and(|e| termination(e).is_some()))
}

/// The exit code inside an error that a signal caused.
pub fn termination(error: &EvalAltResult) -> Option<i32> {
    match error {
        EvalAltResult::ErrorTerminated(code, _) => code.as_int().ok().map(|c| c as i32),
        EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) => {
            termination(inner)
        }
        _ => None,
    }
}

/// A Rust error as one that a script can catch and that knows its hint; `position` is that of the
/// call that failed, since Rhai does not add it to calls of functions in namespaces.
pub fn to_rhai(error: anyhow::Error, position: Position) -> Box<EvalAltResult> {
    let script_fault = error.chain().find_map(|cause| cause.downcast_ref::<ScriptFault>()?.0.borrow_mut().take());
    if let Some(mut inner) = script_fault {
        if inner.position().is_none() {
            inner.set_position(position);
        }
        // Where it happened inside a module ("in encoder", "in layer 3") becomes a separate frame.
        let contexts: Vec<String> = error.chain().map(|c| c.to_string()).take_while(|t| t.starts_with("in ")).collect();
        if contexts.is_empty() {
            return inner;
        }
        let context = contexts.join(", ").replace("in ", "");
        return Box::new(EvalAltResult::ErrorInFunctionCall(
            format!("{PLACE}{context}"),
            String::new(),
            inner,
            position,
        ));
    }
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(Diagnostic::of(&error)), position))
}

/// Marks a frame that is a position inside a module rather than a function.
const PLACE: &str = "place ";
/// How the names of the standard library's files begin: a caller's mistake is not theirs.
const STDLIB: &str = "std/";

/// The most calls that an error shows, innermost first.
const MOST_FRAMES: usize = 16;

/// One entry of the script's call stack: a function, and where it was called.
#[derive(Clone)]
struct Frame {
    function: String,
    called_from: (String, Position),
}

/// An error ready to be shown.
#[derive(Clone)]
pub struct ScriptError {
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    place: Option<(String, Position)>,
    stack: Vec<Frame>,
}

impl ScriptError {
    /// Finds message, place and call stack of a script's error. `main` is the recipe's path.
    pub fn new(error: &EvalAltResult, main: &str, engine: &Engine, sources: &Sources, api: &Reference) -> Self {
        let mut stack = Vec::new();
        let (mut file, mut inner) = (main.to_string(), error);
        loop {
            match inner {
                EvalAltResult::ErrorInFunctionCall(function, source, next, position) => {
                    stack.push(Frame { function: function.clone(), called_from: (file.clone(), *position) });
                    if !source.is_empty() {
                        file = source.clone();
                    }
                    inner = next;
                }
                EvalAltResult::ErrorInModule(module, next, position) => {
                    stack.push(Frame { function: format!("import {module}"), called_from: (file.clone(), *position) });
                    file = sources.module_file(&file, module).unwrap_or_else(|| module.clone());
                    inner = next;
                }
                _ => break,
            }
        }
        if let EvalAltResult::ErrorRuntime(value, _) = inner
            && let Some(caught) = value.read_lock::<Caught>()
        {
            // Thrown again: it happened where it did the first time.
            let mut error = ScriptError::clone(&caught.error);
            error.stack.splice(0..0, stack);
            return error;
        }
        let text = sources.text(&file);
        if let EvalAltResult::ErrorParsing(kind, position) = inner
            && let Some((diagnostic, position)) =
                text.as_deref().and_then(|text| habits::of_syntax(kind, *position, text))
        {
            return Self { stack, ..Self::at(diagnostic, file, position) };
        }
        let Diagnostic { message, mut hint, blame_caller, key } = diagnose(inner, api, text.as_deref());
        if let EvalAltResult::ErrorModuleNotFound(path, _) = inner {
            hint = hint.or_else(|| sources.import_hint(&file, path));
        }
        let mut place = (file, inner.position());
        // An error of Rust code that called a script function has no position itself.
        while place.1.is_none() || (blame_caller && !stack.is_empty()) {
            let Some(frame) = stack.pop() else { break };
            place = frame.called_from;
            if blame_caller && !place.1.is_none() && !place.0.starts_with(STDLIB) {
                break;
            }
        }
        if let Some(key) = key
            && let Some(text) = sources.text(&place.0)
            && let Ok(ast) = engine.compile(text)
        {
            place.1 = ast::key_position(&ast, place.1, &key).unwrap_or(place.1);
        }
        Self { message, hint, place: Some(place), stack }
    }

    /// The script in which it happened.
    pub fn file(&self) -> Option<&str> {
        self.place.as_ref().map(|(file, _)| file.as_str())
    }

    /// The line of that script.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref()?.1.line()
    }

    /// The column of that line.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref()?.1.position()
    }

    /// A message about a given place.
    pub fn at(diagnostic: Diagnostic, file: String, position: Position) -> Self {
        let Diagnostic { message, hint, .. } = diagnostic;
        Self { message, hint, place: Some((file, position)), stack: Vec::new() }
    }

    /// An error outside any script.
    pub fn of_rust(error: &anyhow::Error) -> Self {
        Self { message: one_line(error), hint: hint_of(error), place: None, stack: Vec::new() }
    }

    /// The message with place, source line, call stack and hint.
    pub fn render(&self, sources: &Sources) -> String {
        let mut out = format!("error: {}\n", self.message);
        if let Some((file, position)) = &self.place {
            out += &excerpt(file, *position, sources);
        }
        for (i, frame) in self.stack.iter().rev().enumerate() {
            // Of an endless recursion.
            if i == MOST_FRAMES && self.stack.len() > MOST_FRAMES + 1 {
                out += &format!("  … and {} more calls\n", self.stack.len() - MOST_FRAMES);
                break;
            }
            let (file, position) = &frame.called_from;
            let name = match frame.function.as_str() {
                name if name.starts_with("import ") => name.to_string(),
                name if name.starts_with("anon$") => "a closure".to_string(),
                name if name.starts_with(PLACE) => name[PLACE.len()..].to_string(),
                name => format!("`{name}`"),
            };
            out += &format!("  in {name}, from {}\n", place_words(file, *position));
        }
        if let Some(hint) = &self.hint {
            out += &format!("hint: {hint}\n");
        }
        visible(&out).into_owned()
    }
}

/// What the variable of a `catch` holds.
#[derive(Clone)]
pub struct Caught {
    /// The error, as it would be shown had nothing caught it.
    pub error: Rc<ScriptError>,
    /// What the script threw; `()` for any other error.
    pub thrown: Dynamic,
}

impl Caught {
    /// The value for an error that the script `file` catches. An error thrown again stays what it was.
    fn new(error: &EvalAltResult, file: &str, engine: &Engine, sources: &Sources, reference: &Reference) -> Self {
        let thrown = match error.unwrap_inner() {
            EvalAltResult::ErrorRuntime(value, _) => match value.read_lock::<Self>() {
                Some(caught) => return caught.clone(),
                None if value.is::<Diagnostic>() => Dynamic::UNIT,
                None => value.clone(),
            },
            _ => Dynamic::UNIT,
        };
        Self { error: ScriptError::new(error, file, engine, sources, reference).into(), thrown }
    }
}

/// Makes every `catch` of the engine's scripts give a [`Caught`]; `reference` is filled once everything is registered.
pub fn catch_all(engine: &mut Engine, sources: Sources, reference: Rc<OnceCell<Reference>>) {
    engine.on_catch(move |error, file| {
        let empty = Reference::default();
        let reference = reference.get().unwrap_or(&empty);
        crate::script::with_engine(|engine| {
            Dynamic::from(Caught::new(error, file.unwrap_or_default(), engine, &sources, reference))
        })
    });
}

impl From<anyhow::Error> for ScriptError {
    fn from(error: anyhow::Error) -> Self {
        Self::of_rust(&error)
    }
}

fn place_words(file: &str, position: Position) -> String {
    match (position.line(), position.position()) {
        (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
        (Some(line), None) => format!("{file}:{line}"),
        _ => file.to_string(),
    }
}

/// The place and its source line with a caret under the column.
fn excerpt(file: &str, position: Position, sources: &Sources) -> String {
    let mut out = format!("  --> {}\n", place_words(file, position));
    let Some(line) = position.line() else { return out };
    let Some(text) = sources.text(file).and_then(|t| t.lines().nth(line - 1).map(String::from)) else { return out };
    let number = line.to_string();
    let pad = " ".repeat(number.len());
    let column = position.position();
    let (text, column) =
        if text.chars().count() > WIDEST { around(&text, column.unwrap_or(1)) } else { (text, column) };
    out += &format!("{pad} |\n{number} | {text}\n");
    if let Some(column) = column {
        // Tabs stay tabs, so that the caret stands where the eye expects it.
        let before: String = text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        out += &format!("{pad} | {before}^\n");
    }
    out
}

/// The longest line that is shown whole.
const WIDEST: usize = 400;

/// The part of a long line around a column, and the column in it.
fn around(text: &str, column: usize) -> (String, Option<usize>) {
    const SIDE: usize = 60;
    let start = column.saturating_sub(SIDE + 1);
    let part: String = text.chars().skip(start).take(2 * SIDE).collect();
    let (before, after) =
        (if start > 0 { "…" } else { "" }, if text.chars().count() > start + 2 * SIDE { "…" } else { "" });
    (format!("{before}{part}{after}"), Some(column - start + before.chars().count()))
}

/// What the innermost error says.
fn diagnose(error: &EvalAltResult, api: &Reference, text: Option<&str>) -> Diagnostic {
    match error {
        EvalAltResult::ErrorRuntime(value, _) => match value.read_lock::<Diagnostic>() {
            Some(diagnostic) => diagnostic.clone(),
            None if value.is_unit() => Diagnostic::new("the script threw an error"),
            None => thrown(value),
        },
        EvalAltResult::ErrorFunctionNotFound(signature, _) => api.explain_missing(signature),
        EvalAltResult::ErrorVariableNotFound(name, _) => unknown_variable(name, api, text),
        EvalAltResult::ErrorParsing(kind, _) => diagnose_syntax(kind, api, text),
        EvalAltResult::ErrorModuleNotFound(path, _) => Diagnostic::new(format!("cannot find the module `{path}`")),
        EvalAltResult::ErrorDotExpr(text, _) => api.explain_property(text),
        EvalAltResult::ErrorMismatchDataType(expected, found, _) => mismatch(expected, found),
        EvalAltResult::ErrorDataTooLarge(what, _) => limits::too_large(what),
        EvalAltResult::ErrorStackOverflow(_) => limits::too_many_calls(),
        EvalAltResult::ErrorTerminated(token, _) if token.is::<Diagnostic>() => token.clone().cast(),
        EvalAltResult::ErrorDataRace(name, _) => {
            // "argument #2 of function 'filter'" names the variable no better.
            let name = if name.is_empty() || name.starts_with("argument ") { "a captured variable" } else { name };
            Diagnostic::new(format!("{name} is in use: a call on it has not returned yet")).hint(
                "a closure captured it: call it on a separate variable, as in let ema = state.ema; \
                 ema.apply(|| …)",
            )
        }
        EvalAltResult::ErrorFor(_) => {
            Diagnostic::new("this value cannot be looped over: expected a range, an array, a string or an epoch")
                .hint("a map is looped over by its keys: for key in map.keys() { map[key]; }")
        }
        other => {
            // Rhai's own text carries the position at its end; it is shown apart.
            let text = other.to_string();
            let cut = text.rfind(" (line ").unwrap_or(text.len());
            Diagnostic::new(in_plain_types(&text[..cut]))
        }
    }
}

/// Makes the error of a key that a map does not have name what it has.
pub fn name_missing_keys(engine: &mut Engine) {
    #[allow(deprecated)] // that is, volatile; Rhai's copy is ours
    engine.on_map_missing_property(|map, key, _| {
        let keys = || map.keys().map(|key| key.as_str());
        let hint = match (nearest(key, keys()), map.len()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, 0) => "it is empty".to_string(),
            (None, n) => {
                let some: Vec<&str> = keys().take(20).collect();
                format!("it has {}{}", some.join(", "), if n > some.len() { ", …" } else { "" })
            }
        };
        let error = Diagnostic::new(format!("the map has no `{key}`")).hint(hint);
        Err(Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(error), Position::NONE)))
    });
}

/// What a thrown value says: a map may bring message and hint.
fn thrown(value: &Dynamic) -> Diagnostic {
    let field = |name: &str| value.read_lock::<Map>()?.get(name).map(|text| text.to_string());
    let message = field("message").unwrap_or_else(|| value.to_string());
    Diagnostic { hint: field("hint").filter(|hint| !hint.is_empty()), ..Diagnostic::new(message) }
}

/// A text in which types have the names that scripts have for them: `nepa::script::values::Tensor` is Tensor.
fn in_plain_types(text: &str) -> String {
    let is_of_type = |c: char| c.is_alphanumeric() || "_:<>".contains(c);
    let word = |word: &str| match word.trim_end_matches('>').rsplit("::").next().unwrap_or(word) {
        _ if word.contains("Range<") => "range".to_string(),
        "i64" => "int".into(),
        "f64" => "float".into(),
        short if ["nepa::", "core::", "alloc::", "rhai::", "tch::"].iter().any(|root| word.starts_with(root)) => {
            short.into()
        }
        _ => word.into(),
    };
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_of_type) {
        let length = rest[start..].find(|c| !is_of_type(c)).unwrap_or(rest.len() - start);
        plain += &rest[..start];
        plain += &word(&rest[start..start + length]);
        rest = &rest[start + length..];
    }
    plain + rest
}

fn mismatch(expected: &str, found: &str) -> Diagnostic {
    let short = in_plain_types;
    let diagnostic = Diagnostic::new(format!("expected {}, found {}", short(expected), short(found)));
    match short(found) == "Tensor" && expected == "bool" {
        true => diagnostic.hint("a comparison of tensors is a tensor: use .all(), .any() or .equal(other)"),
        false => diagnostic,
    }
}

fn diagnose_syntax(kind: &ParseErrorType, api: &Reference, text: Option<&str>) -> Diagnostic {
    match kind {
        ParseErrorType::VariableUndefined(name) => unknown_variable(name, api, text),
        ParseErrorType::ModuleUndefined(name) => {
            let near = did_you_mean(name, api.module_names());
            let modules: Vec<&str> = api.module_names().collect();
            Diagnostic::new(format!("unknown module `{name}`{near}")).hint(format!(
                "built-in modules: {}; import a script's own with import \"path\" as {name};",
                modules.join(", ")
            ))
        }
        ParseErrorType::ExprTooDeep => limits::too_deep(),
        ParseErrorType::LiteralTooLarge(what, _) => limits::too_large(what),
        other => Diagnostic::new(format!("syntax error: {other}")),
    }
}

fn unknown_variable(name: &str, api: &Reference, text: Option<&str>) -> Diagnostic {
    let declared = text.map(declared_names).unwrap_or_default();
    let near = did_you_mean(name, declared.iter().map(String::as_str).filter(|n| *n != name));
    let diagnostic = Diagnostic::new(format!("unknown variable `{name}`{near}"));
    if api.module_names().any(|module| module == name) {
        return diagnostic.hint(format!("`{name}` is a module: write {name}::function(…)"));
    }
    if text.is_some_and(|text| text.contains(&format!("fn {name}("))) {
        return Diagnostic::new(format!("unknown variable `{name}`"))
            .hint(format!("it is a function that is defined below: move it up, or write Fn(\"{name}\")"));
    }
    if declared.iter().any(|n| n == name) {
        return diagnostic.hint(
            "a Rhai function sees its own parameters only: pass the value in, or use a closure |…| that captures it",
        );
    }
    Diagnostic { hint: habits::of_variable(name).map(String::from), ..diagnostic }
}

/// Names that a script declares: let, const, for, function parameters, import aliases.
pub fn declared_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).collect();
    for pair in words.windows(2) {
        if ["let", "const", "for", "as"].contains(&pair[0]) {
            names.push(pair[1].to_string());
        }
    }
    for (open, _) in text.match_indices("fn ") {
        let rest = &text[open..];
        if let (Some(a), Some(b)) = (rest.find('('), rest.find(')'))
            && a < b
        {
            names.extend(rest[a + 1..b].split(',').map(|p| p.trim().to_string()).filter(|p| !p.is_empty()));
        }
    }
    names.sort();
    names.dedup();
    names
}
