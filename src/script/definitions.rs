//! Definition files for editors: what a Rhai language server knows of everything that a script can call.
//!
//! The syntax is that of github.com/rhaiscript/lsp. Rhai writes the definitions of its own functions; those of nepa come
//! from the reference, with options and the standard library, which Rhai cannot know.

use super::docs::{FnDoc, Reference, ScriptModuleDoc};
use crate::options::OptionDoc;
use rhai::Engine;
use std::fmt::Write;

/// Names and texts of the files. They belong in a folder beside the scripts that are edited: `std/…` is defined for
/// scripts in the folder above.
pub fn files(reference: &Reference) -> Vec<(String, String)> {
    let rhai = Engine::new();
    let mut files: Vec<(String, String)> =
        rhai.definitions().with_headers(true).iter_files().map(|(name, text)| (format!("rhai{name}"), text)).collect();

    let globals = reference.functions.iter().filter(|f| !f.qualified);
    files.push(("nepa.d.rhai".into(), with_functions("module static;\n", globals)));
    for name in reference.module_names() {
        let about = reference.groups.iter().find(|(group, _)| *group == name).map_or("", |(_, about)| about);
        let head = format!("{}module {name};\n", comment(about, ""));
        let functions = reference.functions.iter().filter(|f| f.qualified && f.group == name);
        files.push((format!("{name}.d.rhai"), with_functions(&head, functions)));
    }
    for module in &reference.stdlib {
        files.push((format!("{}.d.rhai", module.path.replace('/', "-")), of_script(module)));
    }
    files
}

fn with_functions<'a>(head: &str, functions: impl Iterator<Item = &'a FnDoc>) -> String {
    let mut text = head.to_string();
    for f in functions {
        let doc = comment(&f.text(), &options_text(&f.options));
        for declaration in declarations(f) {
            let _ = write!(text, "\n{doc}{declaration};\n");
        }
    }
    text
}

/// A function as the language server writes it: one declaration for each number of arguments in order, and one for those
/// that are given by name.
fn declarations(f: &FnDoc) -> Vec<String> {
    let returns = format!(" -> {}", type_text(&f.returns));
    let typed = |(name, of): &(&str, String)| format!("{}: {}", parameter(name), type_text(of));
    let all = || f.params.iter().map(typed).collect::<Vec<_>>().join(", ");
    if let Some(property) = f.name.strip_prefix("get$") {
        return vec![format!("fn get {property}({}){returns}", all())];
    }
    if let Some(property) = f.name.strip_prefix("set$") {
        return vec![format!("fn set {property}({})", all())];
    }
    // There is no syntax for indexing.
    if f.name.contains('$') {
        return Vec::new();
    }
    if !f.name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        let types: Vec<String> = f.params.iter().map(|(_, of)| type_text(of)).collect();
        return vec![format!("op {}({}){returns}", f.name, types.join(", "))];
    }
    if f.optional.is_empty() {
        return vec![format!("fn {}({}){returns}", f.name, all())];
    }
    let by_name = |name: &str| f.optional.iter().any(|o| o.option.name == name && o.by_name);
    let in_order: Vec<String> = f.params.iter().filter(|(name, _)| !by_name(name)).map(typed).collect();
    let least = f.least();
    let mut all: Vec<String> =
        (least..=in_order.len()).map(|n| format!("fn {}({}){returns}", f.name, in_order[..n].join(", "))).collect();
    let named: Vec<String> = in_order[..least].iter().cloned().chain(["options: map".into()]).collect();
    all.push(format!("fn {}({}){returns}", f.name, named.join(", ")));
    all
}

fn of_script(module: &ScriptModuleDoc) -> String {
    let mut text = format!("{}module \"../{}\";\n", comment(&module.about, ""), module.path);
    for f in &module.functions {
        let params: Vec<String> = f.params.iter().map(|name| format!("{}: ?", parameter(name))).collect();
        let doc = comment(&f.doc, &options_text(&f.options));
        let _ = write!(text, "\n{doc}fn {}({}) -> ?;\n", f.name, params.join(", "));
    }
    text
}

/// The name of a parameter, which the server does not read if it is a word that Rhai keeps for later.
fn parameter(name: &str) -> String {
    match ["default", "var"].contains(&name) {
        true => format!("{name}_"),
        false => name.to_string(),
    }
}

fn options_text(options: &[OptionDoc]) -> String {
    let mut text = String::new();
    for OptionDoc { name, of, default, doc } in options {
        let default = default.as_ref().map_or(String::new(), |default| format!(" = {default}"));
        let _ = writeln!(text, "- `{name}: {of}{default}`: {doc}");
    }
    text
}

/// A documentation comment, which a server shows as Markdown.
fn comment(doc: &str, options: &str) -> String {
    let separator = if options.is_empty() { "" } else { "\n\nOptions:\n" };
    let text = format!("{doc}{separator}{options}");
    text.trim_end().lines().fold(String::new(), |all, line| all + format!("/// {line}").trim_end() + "\n")
}

/// A type in the server's words: `array of int or ()` is `array | ()`.
fn type_text(words: &str) -> String {
    let one = |word: &str| match word.split(" of ").next().unwrap_or(word) {
        "function" => "Fn".to_string(),
        word if word.starts_with('"') => "string".into(),
        word if word == "()" || word.chars().all(|c| c.is_alphanumeric() || c == '_') && word != "any" => word.into(),
        _ => "?".into(),
    };
    let mut kinds: Vec<String> = words.split(" or ").flat_map(|part| part.split(" | ")).map(one).collect();
    kinds.dedup();
    match kinds.iter().any(|kind| kind == "?") {
        true => "?".into(),
        false => kinds.join(" | "),
    }
}
