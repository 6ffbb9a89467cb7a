//! What `nepa sweep --set KEY=VALUES` gives: one value, or several to try.

use crate::bail_hint;
use crate::error::Result;
use crate::script::Declared;
use serde_json::Value;

/// The parameter that repeats a run: results are averaged over it. A recipe that declares none of this name gets it as
/// the seed of all randomness.
pub const SEED: &str = "seed";
/// The most values that one parameter may have.
const MOST_VALUES: usize = 10_000;

/// A parameter, and the values to try.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// The parameter's name.
    pub name: String,
    /// Its values, each once.
    pub values: Vec<Value>,
    /// Whether they were written as a list or a range, and not as one value.
    pub is_list: bool,
}

/// One value as it was written.
struct Written {
    text: String,
    quoted: bool,
}

impl Axis {
    /// Reads the values of the parameter `name`, each as the type that the recipe declares. What is not declared is the
    /// seed.
    pub fn parse(name: &str, text: &str, declared: Option<&Declared>) -> Result<Self> {
        let kind = declared.map_or("i64", |d| d.default.as_ref().map_or("", |default| default.type_name()));
        let trimmed = text.trim();
        if trimmed.starts_with('[') && !trimmed.contains(']') {
            bail_hint!("--set {name}={trimmed}: a bracket of the list is not closed"; "write a list as [a, b]");
        }
        let elements = match trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if kind != "array" => split(name, trimmed, inner)?,
            // Brackets around lists: several values; around anything else: one.
            Some(inner) if !inner.trim().is_empty() => {
                split(name, trimmed, inner)?.filter(|elements| elements.iter().all(is_array))
            }
            _ => None,
        };
        // A text may look like a range.
        let range = |text: &str| if kind == "string" { Ok(None) } else { range(name, text) };
        let (texts, is_list) = match (elements, range(trimmed)?) {
            (Some(elements), _) => {
                let mut texts = Vec::new();
                for Written { text, quoted } in elements {
                    match if quoted { None } else { range(&text)? } {
                        Some(numbers) => texts.extend(numbers),
                        None => texts.push(text),
                    }
                }
                (texts, true)
            }
            (None, Some(numbers)) => (numbers, true),
            (None, None) => (vec![text.to_string()], false),
        };
        if texts.len() > MOST_VALUES {
            bail_hint!("--set {name}: {} values", texts.len(); "a parameter has at most {MOST_VALUES}");
        }
        let mut values: Vec<Value> = Vec::new();
        for text in &texts {
            let value = declared.map_or_else(|| seed(text), |d| d.value(text))?;
            if !values.contains(&value) {
                values.push(value);
            }
        }
        Ok(Self { name: name.to_string(), values, is_list })
    }
}

/// A seed, which the command line takes.
fn seed(text: &str) -> Result<Value> {
    match text.parse::<i64>() {
        Ok(seed) if seed >= 0 => Ok(seed.into()),
        _ => bail_hint!(
            "--set {SEED}: expected whole numbers from 0 on, found \"{text}\"";
            "the recipe has no parameter `{SEED}`, so each value becomes --seed N of a run"
        ),
    }
}

fn is_array(element: &Written) -> bool {
    let text = element.text.trim();
    text.starts_with('[') && text.ends_with(']')
}

/// The numbers of a range, as Rhai writes it: `0..3` without its end, `0..=3` with it.
fn range(name: &str, text: &str) -> Result<Option<Vec<String>>> {
    let Some((from, to)) = text.split_once("..") else { return Ok(None) };
    let (to, inclusive) = to.strip_prefix('=').map_or((to, false), |to| (to, true));
    let (Ok(from), Ok(to)) = (from.trim().parse::<i64>(), to.trim().parse::<i64>()) else { return Ok(None) };
    let end = if inclusive { to.saturating_add(1) } else { to };
    if end <= from {
        let hint = if inclusive { "write the smaller number first" } else { "0..3 is 0, 1, 2; 0..=3 has the 3 too" };
        bail_hint!("--set {name}: the range {text} is empty"; "{hint}");
    }
    if end.saturating_sub(from) > MOST_VALUES as i64 {
        bail_hint!("--set {name}: the range {text} is too long"; "a parameter has at most {MOST_VALUES} values");
    }
    Ok(Some((from..end).map(|n| n.to_string()).collect()))
}

/// The elements of a list: texts between commas, but for those in quotes and brackets. Quotes around an element are
/// removed.
fn split(name: &str, whole: &str, inner: &str) -> Result<Option<Vec<Written>>> {
    let (mut elements, mut depth, mut quote, mut escaped) = (vec![String::new()], 0_i32, None, false);
    for c in inner.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{' | '(') => depth += 1,
            (None, ']' | '}' | ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                elements.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth < 0 {
            // Not a list: a pattern of files such as [ab]/x[12].
            return Ok(None);
        }
        elements.last_mut().expect("never empty").push(c);
    }
    if quote.is_some() || depth > 0 {
        bail_hint!("--set {name}={whole}: a quote or bracket in the list is not closed"; "write a list as [a, b]");
    }
    // A comma may stand at the end.
    if elements.len() > 1 && elements.last().is_some_and(|last| last.trim().is_empty()) {
        elements.pop();
    }
    if elements.iter().any(|element| element.trim().is_empty()) {
        bail_hint!("--set {name}={whole}: an element of the list is empty"; "write values as [a, b], an empty text as \"\"");
    }
    elements.iter().map(|element| unquoted(name, element.trim())).collect::<Result<_>>().map(Some)
}

fn unquoted(name: &str, text: &str) -> Result<Written> {
    let written = |text: &str, quoted| Written { text: text.to_string(), quoted };
    if let Some(inner) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Ok(written(inner, true));
    }
    if !text.starts_with('"') {
        return Ok(written(text, false));
    }
    match serde_json::from_str::<String>(text) {
        Ok(inner) => Ok(written(&inner, true)),
        Err(e) => {
            bail_hint!("--set {name}: {text} is no quoted text: {e}"; "write it as \"…\", with \\\" for a quote in it")
        }
    }
}

/// A value as `--set` takes it, and as names of folders and tables have it.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => float(n.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}

/// A number without needless digits: 0.001, 1e-5, 3.
fn float(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        v if (1e-4..1e6).contains(&v) => x.to_string(),
        _ => format!("{x:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhai::{Dynamic, Position};
    use serde_json::json;

    fn declared(default: Dynamic) -> Declared {
        let (name, file) = ("p".to_string(), String::new());
        Declared {
            name,
            default: Some(default),
            default_text: String::new(),
            doc: String::new(),
            file,
            position: Position::NONE,
        }
    }

    #[track_caller]
    fn reads(default: impl Into<Dynamic>, text: &str, expected: Value, is_list: bool) {
        let axis = Axis::parse("p", text, Some(&declared(default.into()))).unwrap();
        assert_eq!((Value::Array(axis.values), axis.is_list), (expected, is_list), "{text}");
    }

    #[test]
    fn lists_and_ranges_keep_the_types_of_the_recipe() {
        reads(0.5, "[1e-3, 3e-3,0.001]", json!([0.001, 0.003]), true);
        reads(0.5, "0..3", json!([0.0, 1.0, 2.0]), true);
        reads(1_i64, "[0..=2, 7]", json!([0, 1, 2, 7]), true);
        reads(1_i64, "5", json!([5]), false);
        reads(true, "[true,false]", json!([true, false]), true);
        reads("a", "[small, \"a, \\\"b\\\"\", 'c,d', 0..2]", json!(["small", "a, \"b\"", "c,d", "0..2"]), true);
        reads("a", "0..2", json!(["0..2"]), false);
        reads("a", "x[12]/[ab]", json!(["x[12]/[ab]"]), false);
        reads("a", "[ab]/x[12]", json!(["[ab]/x[12]"]), false);
    }

    #[test]
    fn a_list_is_a_value_where_the_parameter_is_one() {
        let array = || Dynamic::from_array(vec![]);
        reads(array(), "[0.9, 0.95]", json!([[0.9, 0.95]]), false);
        reads(array(), "[]", json!([[]]), false);
        reads(array(), "[[0.9, 0.95], \"[0.9, 0.999]\"]", json!([[0.9, 0.95], [0.9, 0.999]]), true);
        reads(Dynamic::from_map(rhai::Map::new()), "[{\"a\": [1, 2]}, {}]", json!([{ "a": [1, 2] }, {}]), true);
    }

    #[test]
    fn numbers_are_written_in_one_way() {
        let written = [json!(1e-3), json!(1e-5), json!(3.0), json!(2.5e7), json!(7), json!("x"), json!([1, 0.5])];
        assert_eq!(written.map(|value| text(&value)), ["0.001", "1e-5", "3", "2.5e7", "7", "x", "[1,0.5]"]);
    }
}
