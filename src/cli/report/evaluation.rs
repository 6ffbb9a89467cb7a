//! What evaluation.json holds, as sections of the page. Every key may be missing.

use super::embed::Budget;
use maud::{Markup, html};
use serde_json::{Map, Value};
use std::path::Path;

/// Rows that stand open: classes, and pairs that are confused.
const WORST: usize = 12;
/// Keys of a result that have a place of their own.
const TABLES: [&str; 4] = ["top1_ci95", "calibration", "per_class", "confusions"];

pub fn sections(evaluation: &Value, dir: &Path, budget: &mut Budget) -> Markup {
    let results: Vec<(&String, &Map<String, Value>)> = evaluation
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_object()?)))
        .collect();
    let samples = evaluation["samples"].as_array().filter(|list| !list.is_empty());
    html! {
        @if !results.is_empty() {
            section { h2 { "Evaluation" } (scores(&results)) }
        }
        @for (name, result) in &results {
            @if let Some(bins) = list(result, "calibration") {
                section { h2 { "Calibration: " (name) } (calibration(bins)) }
            }
            @if let Some(classes) = list(result, "per_class") {
                section { h2 { "Classes: " (name) } (per_class(classes)) }
            }
            @if let Some(pairs) = list(result, "confusions") {
                section { h2 { "Most confused: " (name) } (confusions(pairs, list(result, "per_class"))) }
            }
        }
        @if let Some(samples) = samples {
            section { h2 { "Sample predictions" } div.samples { @for s in samples { (sample(s, dir, budget)) } } }
        }
    }
}

fn list<'a>(result: &'a Map<String, Value>, key: &str) -> Option<&'a Vec<Value>> {
    result.get(key)?.as_array().filter(|list| !list.is_empty())
}

/// A number in few digits, text without quotes.
pub fn short(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => {
            let n = n.as_f64().unwrap_or(f64::NAN);
            match n.abs() {
                0.0 => "0".into(),
                v if !(1e-3..1e6).contains(&v) => format!("{n:.3e}"),
                v => format!("{n:.*}", (3 - v.log10().floor() as i32).clamp(0, 5) as usize),
            }
        }
        other => super::words(other),
    }
}

/// A row for each result: every number it has.
fn scores(results: &[(&String, &Map<String, Value>)]) -> Markup {
    let mut keys: Vec<&str> = Vec::new();
    for (key, value) in results.iter().flat_map(|(_, result)| result.iter()) {
        if value.is_number() && !keys.contains(&key.as_str()) && !TABLES.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let interval = |result: &Map<String, Value>| {
        let ends = result.get("top1_ci95")?.as_array()?;
        Some(format!(" [{}, {}]", short(ends.first()?), short(ends.get(1)?)))
    };
    let cell = |result: &Map<String, Value>, key: &str| {
        let text = result.get(key).map(short).unwrap_or_default();
        let ends = (key == "top1").then(|| interval(result)).flatten().unwrap_or_default();
        html! { td.number { (text) span.note { (ends) } } }
    };
    html! {
        div.scroll { table {
            thead { tr { th { "model" } @for key in &keys { th.number { (title(key)) } } } }
            @for (name, result) in results { tr { th scope="row" { (name) } @for key in &keys { (cell(result, key)) } } }
        } }
        @if results.iter().any(|(_, r)| interval(r).is_some()) { p.note { "In brackets: 95 % confidence interval of top-1." } }
    }
}

fn title(key: &str) -> &str {
    match key {
        "top1" => "top-1 (%)",
        "top5" => "top-5 (%)",
        "ece" => "calibration error (ECE)",
        other => other,
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Accuracy over confidence; the share of images is the bar's strength.
fn calibration(bins: &[Value]) -> Markup {
    const SIDE: f64 = 220.0;
    const LEFT: f64 = 40.0;
    let bins: Vec<(f64, f64, f64)> = bins
        .iter()
        .map(|bin| (number(&bin["confidence"]), number(&bin["accuracy"]), number(&bin["count"])))
        .filter(|(x, y, count)| x.is_finite() && y.is_finite() && *count > 0.0)
        .collect();
    // Percent or shares of 1, by what is found.
    let unit = if bins.iter().any(|b| b.0 > 1.0 || b.1 > 1.0) { 100.0 } else { 1.0 };
    let most = bins.iter().map(|b| b.2).fold(1.0, f64::max);
    let width = (SIDE / bins.len().max(10) as f64) * 0.8;
    let at = |v: f64| format!("{v:.1}");
    html! {
        figure.calibration {
            svg viewBox="0 0 280 270" role="img" aria-label="accuracy over confidence" {
                line.ideal x1=(at(LEFT)) y1=(at(SIDE + 10.0)) x2=(at(LEFT + SIDE)) y2="10" {}
                @for (x, y, count) in &bins {
                    rect x=(at(LEFT + x / unit * SIDE - width / 2.0)) y=(at(10.0 + SIDE * (1.0 - y / unit)))
                        width=(at(width)) height=(at(SIDE * y / unit)) opacity=(at(0.3 + 0.7 * (count / most).sqrt())) {
                        title { "confidence " (format!("{x:.3}")) ", accuracy " (format!("{y:.3}")) ", " (count) " images" }
                    }
                }
                path.axis d={ "M" (at(LEFT)) " 10V" (at(SIDE + 10.0)) "H" (at(LEFT + SIDE)) } {}
                @for tick in [0.0, 0.5, 1.0] {
                    text x=(at(LEFT + tick * SIDE)) y=(at(SIDE + 25.0)) text-anchor="middle" { (tick * unit) }
                    text x=(at(LEFT - 6.0)) y=(at(14.0 + SIDE * (1.0 - tick))) text-anchor="end" { (tick * unit) }
                }
                text x=(at(LEFT + SIDE / 2.0)) y=(at(SIDE + 43.0)) text-anchor="middle" { "confidence" }
                text x="10" y=(at(10.0 + SIDE / 2.0)) text-anchor="middle" transform={ "rotate(-90 10 " (at(10.0 + SIDE / 2.0)) ")" } { "accuracy" }
            }
            figcaption { "Dashed: as confident as right. Fainter bars stand for fewer images." }
        }
    }
}

fn per_class(classes: &[Value]) -> Markup {
    let mut classes: Vec<&Value> = classes.iter().collect();
    classes.sort_by(|a, b| number(&a["top1"]).total_cmp(&number(&b["top1"])));
    let rows = |classes: &[&Value]| {
        html! {
            div.scroll { table {
                thead { tr { th { "class" } th.number { "label" } th.number { "images" } th.number { "top-1 (%)" } } }
                @for c in classes {
                    tr {
                        th scope="row" { (words(&c["name"])) }
                        td.number { (words(&c["label"])) } td.number { (words(&c["images"])) } td.number { (short(&c["top1"])) }
                    }
                }
            } }
        }
    };
    html! {
        @if classes.len() > WORST {
            h3 { "The " (WORST) " worst of " (classes.len()) }
            (rows(&classes[..WORST]))
            details { summary { "All " (classes.len()) " classes, worst first" } (rows(&classes)) }
        } @else {
            p.note { "Worst first." }
            (rows(&classes))
        }
    }
}

/// A missing value shows as nothing.
fn words(value: &Value) -> String {
    if value.is_null() { String::new() } else { super::words(value) }
}

fn confusions(pairs: &[Value], classes: Option<&Vec<Value>>) -> Markup {
    // Labels are given by name where the classes are known.
    let named = |label: &Value| {
        let class = classes.into_iter().flatten().find(|c| c["label"] == *label && !label.is_null());
        class.map(|c| words(&c["name"])).filter(|name| !name.is_empty()).unwrap_or_else(|| words(label))
    };
    html! {
        div.scroll { table {
            thead { tr { th { "class" } th { "taken for" } th.number { "images" } } }
            @for pair in pairs.iter().take(2 * WORST) {
                tr { td { (named(&pair["label"])) } td { (named(&pair["predicted"])) } td.number { (words(&pair["count"])) } }
            }
        } }
    }
}

fn sample(s: &Value, dir: &Path, budget: &mut Budget) -> Markup {
    let right = s["label"] == s["predicted"];
    let (label, predicted) = (words(&s["label"]), words(&s["predicted"]));
    let alt = format!("{label}, predicted {predicted}");
    let probability = s["probability"].as_f64().map(|p| format!(" ({p:.2})")).unwrap_or_default();
    html! {
        figure {
            @if let Some(image) = s["image"].as_str() { (budget.picture(dir, image, &alt)) }
            figcaption {
                (label) br;
                @if right { span.right { "✓ " (predicted) (probability) } } @else { span.wrong { "✗ " (predicted) (probability) } }
                @if !s["item"].is_null() { br; "item " (words(&s["item"])) }
            }
        }
    }
}
