//! A recipe's parameters: `param("name", default, "doc")` declares one, `--set name=value`
//! overrides it.

use super::types;
use super::values::{found, from_json, literal, object, to_json};
use crate::bail_hint;
use crate::error::{Diagnostic, Result, did_you_mean};
use rhai::{ASTNode, Array, Dynamic, Expr, Map, Position, Stmt};
use serde_json::Value;
use std::collections::BTreeMap;

/// A `param(…)` found in a script without running it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The parameter's name.
    pub name: String,
    /// The default, if it is a literal.
    pub default: Option<Dynamic>,
    /// The default's text, as written.
    pub default_text: String,
    /// What it means.
    pub doc: String,
    /// The script that declares it.
    pub file: String,
    /// Where it does.
    pub position: Position,
}

impl Declared {
    /// The value that a text given with --set has: of the default's type, or the text itself where the default is
    /// computed.
    pub fn value(&self, text: &str) -> Result<Value> {
        self.default.as_ref().map_or_else(|| Ok(text.into()), |default| parse(&self.name, text, default))
    }

    /// The default as a value; none if it is computed, or if the parameter must be given.
    pub fn default_value(&self) -> Option<Value> {
        self.default.as_ref().filter(|default| !default.is_unit()).and_then(|default| to_json(default).ok())
    }
}

/// The parameters of one run.
#[derive(Default)]
pub struct Params {
    /// Those given with --set, as written.
    given: BTreeMap<String, String>,
}

/// The `param(…)` calls of a script.
pub fn scan(ast: &rhai::AST, file: &str, text: &str) -> Result<Vec<Declared>, (Diagnostic, Position)> {
    let mut found = Vec::new();
    let mut fault = None;
    ast.walk(&mut |path: &[ASTNode]| {
        let (call, position) = match path.last() {
            Some(ASTNode::Expr(Expr::FnCall(call, position))) => (call, *position),
            Some(ASTNode::Stmt(Stmt::FnCall(call, position))) => (call, *position),
            _ => return true,
        };
        if call.name != "param" || !call.namespace.is_empty() || !(2..=3).contains(&call.args.len()) {
            return true;
        }
        let Expr::StringConstant(name, _) = &call.args[0] else {
            fault = Some((Diagnostic::new("param: the name must be written as a string literal"), position));
            return false;
        };
        let doc = match call.args.get(2) {
            Some(Expr::StringConstant(doc, _)) => doc.to_string(),
            _ => String::new(),
        };
        found.push(Declared {
            name: name.to_string(),
            default: call.args[1].get_literal_value(None),
            default_text: argument_text(text, position).unwrap_or_default(),
            doc,
            file: file.to_string(),
            position,
        });
        true
    });
    match fault {
        Some(fault) => Err(fault),
        None => Ok(found),
    }
}

/// Makes each parameter known once. Where another declaration of its name has another default, that is a contradiction:
/// what to say, and the declaration.
pub fn contradictions(declared: &mut Vec<Declared>) -> Vec<(Diagnostic, Declared)> {
    let (mut kept, mut wrong): (Vec<Declared>, Vec<_>) = Default::default();
    for one in std::mem::take(declared) {
        let Some(first) = kept.iter().find(|first| first.name == one.name) else {
            kept.push(one);
            continue;
        };
        let value = |of: &Declared| of.default.as_ref().map(|of| (of.type_name(), literal(of)));
        if first.default_text != one.default_text && (value(first).is_none() || value(first) != value(&one)) {
            let place = first.position.line().map_or(first.file.clone(), |line| format!("{}:{line}", first.file));
            let said = format!("the parameter `{}` has another default here, {}", one.name, one.default_text);
            let hint = format!("in {place} it is {}: give one of them another name", first.default_text);
            wrong.push((Diagnostic::new(said).hint(hint), one));
        }
    }
    *declared = kept;
    wrong
}

/// The text of the second argument of the call that starts at `position`.
fn argument_text(text: &str, position: Position) -> Option<String> {
    let (line, column) = (position.line()?, position.position()?);
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest: String = text[start..].chars().skip(column - 1).collect();
    let (mut depth, mut commas, mut quote, mut argument) = (0, 0, None, String::new());
    let mut is_escaped = false;
    for c in rest[rest.find('(')?..].chars() {
        match (quote, c) {
            (Some(q), c) if c == q && !is_escaped => quote = None,
            (None, '"' | '`') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth -= 1,
            (None, ',') if depth == 1 => {
                commas += 1;
                if commas == 2 {
                    break;
                }
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if commas == 1 {
            argument.push(c);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    Some(argument.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Params {
    /// Checks `--set` values against what the recipe declares, before anything runs.
    pub fn new(set: &[(String, String)], declared: &[Declared]) -> Result<Self> {
        let names: Vec<&str> = declared.iter().map(|d| d.name.as_str()).collect();
        let mut given = BTreeMap::new();
        for (name, text) in set {
            let Some(d) = declared.iter().find(|d| d.name == *name) else {
                bail_hint!(
                    "--set {name}: the recipe has no parameter `{name}`{}", did_you_mean(name, names.iter().copied());
                    "{}", match names.is_empty() {
                        true => "it declares none with param(…)".to_string(),
                        false => format!("it declares: {}", names.join(", ")),
                    }
                );
            };
            d.value(text)?;
            given.insert(name.clone(), text.clone());
        }
        Ok(Self { given })
    }

    /// The value of a parameter, for the script and to be recorded: the one given, of the default's type, or the
    /// default.
    pub fn declare(&self, name: &str, default: &Dynamic) -> Result<(Dynamic, Value)> {
        let value = match self.given.get(name) {
            Some(text) => parse(name, text, default)?,
            None if default.is_unit() => {
                return Err(Diagnostic::new(format!(
                    "the parameter `{name}` has no default: give it with --set {name}=VALUE"
                ))
                .hint("`nepa run RECIPE --help` lists the recipe's parameters")
                .into());
            }
            None => return Ok((default.clone(), to_json(default)?)),
        };
        Ok((from_json(&value), value))
    }
}

/// The default's type, in words for `--help`.
pub fn type_of(default: &Dynamic) -> &'static str {
    match default.type_name() {
        "i64" => "int",
        "f64" => "float",
        "bool" => "bool",
        "string" => "string",
        "array" => "array",
        "map" => "map",
        "()" => "string",
        _ => "value",
    }
}

/// Reads a `--set` value as the type of the default.
fn parse(name: &str, text: &str, default: &Dynamic) -> Result<Value> {
    let expected = match default.type_name() {
        "()" | "string" => return Ok(Value::String(text.to_string())),
        "i64" => match text.replace('_', "").parse::<i64>() {
            Ok(n) => return Ok(n.into()),
            Err(_) => "an integer",
        },
        "f64" => match text.replace('_', "").parse::<f64>() {
            Ok(x) if x.is_finite() => return Ok(x.into()),
            _ => "a number",
        },
        "bool" => match text {
            "true" => return Ok(true.into()),
            "false" => return Ok(false.into()),
            _ => "true or false",
        },
        "array" => match serde_json::from_str(text) {
            Ok(given @ Value::Array(_)) => return complete(name, given, default),
            _ => "an array such as [1, 2]",
        },
        "map" => match serde_json::from_str(text) {
            Ok(given @ Value::Object(_)) => return complete(name, given, default),
            _ => "a JSON object such as {\"a\": 1}",
        },
        other => crate::error::bail!("param `{name}`: a default of type {other} cannot be overridden"),
    };
    bail_hint!(
        "--set {name}={text}: expected {expected}, found \"{text}\"";
        "the default is {default}"
    )
}

/// What is given for a parameter or a part of it, of the type that the default has there.
fn complete(what: &str, given: Value, default: &Dynamic) -> Result<Value> {
    match (given, default.type_name()) {
        // A float stays one, even if it is whole.
        (Value::Number(n), "f64") => Ok(n.as_f64().into()),
        (Value::Number(n), "i64") if n.is_i64() => Ok(n.into()),
        (given @ Value::Bool(_), "bool") | (given @ Value::String(_), "string") => Ok(given),
        (Value::Array(items), "array") => elements(what, items, &default.clone().cast()),
        (Value::Object(map), "map") => merged(what, map, &default.clone().cast()),
        (given, "i64" | "f64" | "bool" | "string" | "array" | "map") => bail_hint!(
            "--set {what}: expected {}, found {}", types::type_of(default).expected(), found(&from_json(&given));
            "the default is {}", literal(default)
        ),
        (given, _) => Ok(given),
    }
}

/// Elements of an array: of the type of the default's, if these are all of one type.
fn elements(what: &str, items: Vec<Value>, default: &Array) -> Result<Value> {
    let first = default.first().filter(|first| default.iter().all(|item| item.type_name() == first.type_name()));
    let Some(first) = first else { return Ok(Value::Array(items)) };
    let items = items.into_iter().enumerate();
    items.map(|(i, given)| complete(&format!("{what}[{i}]"), given, first)).collect::<Result<_>>().map(Value::Array)
}

/// A map with the default's keys, of which those that are not given keep their values; with any keys if the default has
/// none.
fn merged(what: &str, given: serde_json::Map<String, Value>, default: &Map) -> Result<Value> {
    if default.is_empty() {
        return Ok(Value::Object(given));
    }
    let mut all = object(default)?;
    for (key, value) in given {
        let Some(own) = default.get(key.as_str()) else {
            let names: Vec<&str> = default.keys().map(|key| key.as_str()).collect();
            bail_hint!(
                "--set {what}: unknown key `{key}`{}", did_you_mean(&key, names.iter().copied());
                "the keys are: {}", names.join(", ")
            );
        };
        let value = complete(&format!("{what}.{key}"), value, own)?;
        all.insert(key, value);
    }
    Ok(Value::Object(all))
}
