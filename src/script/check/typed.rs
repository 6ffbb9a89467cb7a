//! Whether the values that are written out are of the types that functions and options take.

use super::keys;
use super::tree::{Call, Script};
use crate::error::Diagnostic;
use crate::script::Host;
use crate::script::docs::FnDoc;
use crate::script::types::{self, fit, type_of};
use crate::script::values::found;
use crate::types::{Type, unknown_choice};
use rhai::{Dynamic, Position};

/// What is wrong with the values that a call is given, and where; the words are those of a run.
pub fn judge(host: &Host, call: &Call, script: &Script) -> Option<(Diagnostic, Position)> {
    let argument = argument(host, call, script).map(|diagnostic| (diagnostic, call.position));
    argument.or_else(|| option(host, call, script))
}

/// Of the arguments of functions that are told apart by types.
fn argument(host: &Host, call: &Call, script: &Script) -> Option<Diagnostic> {
    let name = call.expression.name.as_str();
    let (given, before) = (&call.expression.args, usize::from(call.is_method));
    let qualified = !call.expression.namespace.is_empty();
    let namespace = if qualified { call.expression.namespace.root() } else { "" };
    let reference = host.reference();
    let passed = given.len() + before;
    let is_scripts = script.modules.contains_key(namespace)
        || !qualified && script.own.iter().any(|(own, params)| own == name && [given.len(), passed].contains(params));
    let is_builtin = !qualified && reference.builtin.iter().any(|f| f.name == name && f.params.len() == passed);
    if is_scripts || is_builtin {
        return None;
    }
    let is_it = |f: &&FnDoc| f.name == name && f.qualified == qualified && (!qualified || f.group == namespace);
    let named: Vec<&FnDoc> = reference.functions.iter().filter(is_it).filter(|f| f.takes(passed)).collect();
    // Those with defaults tell more of an argument than that they do not take it.
    if named.is_empty() || named.iter().any(|f| !f.optional.is_empty()) {
        return None;
    }
    let values: Vec<Option<Dynamic>> =
        given.iter().map(|value| script.variables.resolve(value).get_literal_value(None)).collect();
    let takes = |of: &str, value: &Dynamic| types::parse(of).map_or(true, |of| is_of(&of, value));
    let fits = |f: &&FnDoc| {
        let mut pairs = f.params.iter().skip(before).zip(&values);
        pairs.all(|((_, of), value)| value.as_ref().is_none_or(|value| takes(of, value)))
    };
    if named.iter().any(fits) {
        return None;
    }
    let shown = |value: &Option<Dynamic>| value.as_ref().map_or("…".to_string(), |value| type_of(value).to_string());
    let receiver = call.is_method.then(|| "…".to_string());
    let shown: Vec<String> = receiver.into_iter().chain(values.iter().map(shown)).collect();
    let called = if qualified { format!("{namespace}::{name}") } else { name.to_string() };
    Some(reference.explain_missing(&format!("{called} ({})", shown.join(", "))))
}

/// Of the options of a call.
fn option(host: &Host, call: &Call, script: &Script) -> Option<(Diagnostic, Position)> {
    let given = keys::given_options(host, call, script)?;
    given.options.iter().find_map(|(key, value, declared)| {
        let value = script.variables.resolve(value).get_literal_value(None)?;
        if declared.is_empty() || declared.iter().any(|option| is_of(&option.of, &value)) {
            return None;
        }
        let of = &declared[0].of;
        let wrong = match of {
            Type::OneOf(names) if value.is_string() => unknown_choice(&value.to_string(), names),
            of => format!("expected {}, found {}", of.expected(), found(&value)),
        };
        Some((Diagnostic::new(format!("option `{}` of {}: {wrong}", key.name, given.of)), key.pos))
    })
}

/// Whether a value may be of a type; any may be, of one that no text is known to make.
fn is_of(of: &Type, value: &Dynamic) -> bool {
    const PLAIN: [&str; 10] = ["int", "float", "bool", "string", "array", "map", "function", "()", "Tensor", "Module"];
    fn is_plain(of: &Type) -> bool {
        match of {
            Type::Named(name) => PLAIN.contains(&name.as_ref()),
            Type::OneOf(_) => true,
            Type::ArrayOf(inner) | Type::ArrayOfLength(_, inner) => is_plain(inner),
            Type::Either(types) => types.iter().all(is_plain),
        }
    }
    !is_plain(of) || fit(of, value).is_some()
}
