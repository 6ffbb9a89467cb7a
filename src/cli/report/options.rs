//! What a run depended on, of which parameters are only a part: every option in force, given or not, and its models.

use super::{pairs, words};
use crate::run::RunFile;
use crate::run::settings::FUNCTION;
use maud::{Markup, html};
use serde_json::{Map, Value};

/// The most options of a loop, and the most loops, that are shown.
const MOST: usize = 400;
/// The most letters of a value.
const MOST_LETTERS: usize = 2000;

/// Names and values of settings; what is in a map has the map's name before its own.
fn flat(of: &str, settings: &Map<String, Value>, all: &mut Vec<(String, String)>) {
    for (name, value) in settings {
        let name = format!("{of}{name}");
        match value {
            Value::Object(inner) if !inner.contains_key(FUNCTION) && !inner.is_empty() => {
                flat(&format!("{name}."), inner, all);
            }
            Value::Object(function) if function.contains_key(FUNCTION) => {
                all.push((name, function.get(FUNCTION).map(words).unwrap_or_default()));
            }
            value => all.push((name, words(value))),
        }
        if all.len() > MOST {
            return;
        }
    }
}

/// The options of each training loop.
pub fn options(settings: &Map<String, Value>) -> Markup {
    let of_loop = |(label, settings): (&String, &Value)| {
        let mut all = Vec::new();
        flat("", settings.as_object().unwrap_or(&Map::new()), &mut all);
        let left_out = all.len() > MOST;
        all.truncate(MOST);
        let short = |text: &String| match text.char_indices().nth(MOST_LETTERS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.clone(),
        };
        html! {
            details {
                summary { (label) ": " (all.len()) " options and settings of the model" }
                (pairs(all.iter().map(|(name, value)| (name.as_str(), html! { (short(value)) }))))
                @if left_out { p.note { "There are more." } }
            }
        }
    };
    html! {
        @if !settings.is_empty() {
            section {
                h2 { "Options in force" }
                @for one in settings.iter().take(MOST) { (of_loop(one)) }
            }
        }
    }
}

/// How large the models of the training loops are.
pub fn models(run: &RunFile) -> Markup {
    let millions = |n: u64| match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", n as f64 / 1e3),
        _ => format!("{:.2} million", n as f64 / 1e6),
    };
    html! {
        @if !run.models.is_empty() {
            section {
                h2 { "Models" }
                div.scroll { table {
                    thead { tr { th { "trained in" } th { "model" } th.number { "parameters" } th.number { "trained" } } }
                    @for (label, size) in run.models.iter().take(MOST) {
                        tr {
                            th scope="row" { (label) } td { (size.model) }
                            td.number { (millions(size.parameters)) } td.number { (millions(size.trained)) }
                        }
                    }
                } }
            }
        }
    }
}

/// What the recipe returned.
pub fn result(run: &RunFile) -> Markup {
    let mut all = Vec::new();
    flat("", &run.result, &mut all);
    html! {
        @if !all.is_empty() {
            section {
                h2 { "Result" }
                (pairs(all.iter().take(MOST).map(|(name, value)| (name.as_str(), html! { (value) }))))
            }
        }
    }
}
