//! Whether a call reaches a function.

use super::tree::{Call, Functions, Imported, Script};
use crate::error::{Diagnostic, did_you_mean};
use crate::script::builtin::Builtin;
use crate::script::{Host, error, habits};

/// Words of the language that parse as calls.
const KEYWORDS: &[&str] = &["call", "curry", "Fn", "is_def_fn", "is_def_var", "is_shared", "type_of"];

/// What is wrong with a call, if anything.
pub fn judge(host: &Host, call: &Call, script: &Script) -> Option<Diagnostic> {
    let name = call.expression.name.as_str();
    let given = call.expression.args.len();
    let reference = host.reference();
    if !call.expression.namespace.is_empty() {
        return judge_qualified(host, call, script);
    }
    if KEYWORDS.contains(&name) || name.starts_with("anon$") {
        return None;
    }
    // A script's function sees x of `x.f(a)` as `this`; a native one takes it as its first argument.
    if script.own.iter().any(|(n, params)| n == name && *params == given) {
        return None;
    }
    let own: Vec<String> = script.own.iter().map(|f| f.0.clone()).filter(|n| !n.starts_with("anon$")).collect();
    let passed = given + usize::from(call.is_method);
    let native = reference.functions.iter().filter(|f| !f.qualified && f.name == name);
    let signatures: Vec<String> = native.clone().map(|f| f.signature()).collect();
    if native.clone().any(|f| f.takes(passed))
        || reference.builtin.iter().any(|f| f.name == name && f.params.len() == passed)
    {
        return None;
    }
    let getter = format!("get${name}");
    if call.is_method && given == 0 && reference.functions.iter().any(|f| f.name == getter) {
        return Some(
            Diagnostic::new(format!("`{name}` is a property")).hint(format!("write it without parentheses: .{name}")),
        );
    }
    if own.iter().any(|n| n == name) {
        let wrong = explain_script_call("", name, given, &script.own);
        return Some(match call.is_method && script.own.iter().any(|(n, params)| n == name && *params == passed) {
            true => {
                wrong.hint(format!("write {name}(x, …): only a function that uses `this` is called as x.{name}(…)"))
            }
            false => wrong,
        });
    }
    if !signatures.is_empty() {
        return Some(wrong_count(name, given, signatures));
    }
    let builtin: Vec<String> = reference.builtin.iter().filter(|f| f.name == name).map(Builtin::signature).collect();
    if !builtin.is_empty() {
        let wrong = wrong_count(name, given, builtin);
        let habit = habits::of_function(name).map(String::from);
        return Some(Diagnostic { hint: habit.or(wrong.hint.clone()), ..wrong });
    }
    let unknown = reference.unknown_function(None, name, &own, None);
    if !call.is_method && error::declared_names(&script.text).iter().any(|n| n == name) {
        let hint = habits::call_of_variable(name, call.position, &script.text);
        return Some(Diagnostic::new(format!("unknown function `{name}`")).hint(hint));
    }
    Some(unknown)
}

/// What is wrong with a call of a module's function.
fn judge_qualified(host: &Host, call: &Call, script: &Script) -> Option<Diagnostic> {
    let name = call.expression.name.as_str();
    let given = call.expression.args.len();
    let reference = host.reference();
    let root = call.expression.namespace.root();
    if let Some(modules) = script.modules.get(root) {
        let has = |module: &Imported| module.functions.iter().any(|(n, params)| n == name && *params == given);
        let fits = modules.iter().any(|module| module.file.is_none() || has(module));
        let all: Functions = modules.iter().flat_map(|module| module.functions.iter().cloned()).collect();
        return (!fits).then(|| explain_script_call(&format!("{root}::"), name, given, &all));
    }
    let named: Vec<_> =
        reference.functions.iter().filter(|f| f.qualified && f.group == root && f.name == name).collect();
    if named.iter().any(|f| f.takes(given)) {
        return None;
    }
    if named.is_empty() {
        return Some(reference.unknown_function(Some(root), name, &[], None));
    }
    Some(wrong_count(&format!("{root}::{name}"), given, named.iter().map(|f| f.signature()).collect()))
}

fn wrong_count(name: &str, given: usize, signatures: Vec<String>) -> Diagnostic {
    let wrong = Diagnostic::new(format!("no `{name}` takes {given} argument{}", if given == 1 { "" } else { "s" }));
    match signatures.is_empty() {
        true => wrong,
        false => wrong.hint(format!("it is called as: {}", signatures.join("  or  "))),
    }
}

fn explain_script_call(namespace: &str, name: &str, given: usize, functions: &Functions) -> Diagnostic {
    match functions.iter().find(|f| f.0 == name) {
        Some((_, params)) => {
            let s = if *params == 1 { "" } else { "s" };
            Diagnostic::new(format!("`{namespace}{name}` takes {params} argument{s}, found {given}"))
        }
        None => {
            let names: Vec<&str> = functions.iter().map(|f| f.0.as_str()).filter(|n| !n.starts_with("anon$")).collect();
            let near = did_you_mean(name, names.iter().copied());
            Diagnostic::new(format!("unknown function `{namespace}{name}`{near}"))
                .hint(format!("it has: {}", names.join(", ")))
        }
    }
}
