//! What evaluation.json holds, as sections of the page. Every key may be missing.

use super::embed::{Budget, SAMPLE};
use crate::error::Result;
use crate::files::{json_value, read_json};
use crate::run::schema::EVALUATION_FILE;
use maud::{Markup, html};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::path::Path;

/// Rows shown without unfolding: of classes, and of confused pairs.
const WORST: usize = 12;
/// The most that the page shows: of results and their numbers, of classes, and of samples.
const MOST_RESULTS: usize = 50;
const MOST_CLASSES: usize = 50_000;
const MOST_SAMPLES: usize = 1000;

/// What evaluation.json holds.
pub struct Evaluation {
    /// By the model's name.
    results: Vec<(String, ModelResult)>,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct EvaluationFile {
    #[serde(default)]
    samples: Vec<Sample>,
    /// Results by the model's name, and whatever else a script has put there.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// How one model did.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelResult {
    #[serde(deserialize_with = "finite")]
    top1_ci95: Option<[f64; 2]>,
    calibration: Vec<Bin>,
    per_class: Vec<Class>,
    confusions: Vec<Confusion>,
    /// Among other things, the numbers of the table of scores.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Predictions of about the same confidence; in percent.
#[derive(Deserialize)]
struct Bin {
    #[serde(default = "nan", deserialize_with = "number")]
    confidence: f64,
    #[serde(default = "nan", deserialize_with = "number")]
    accuracy: f64,
    #[serde(default, deserialize_with = "number")]
    count: f64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Class {
    label: Value,
    name: Value,
    images: Value,
    top1: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Confusion {
    label: Value,
    predicted: Value,
    count: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sample {
    item: Value,
    label: Value,
    predicted: Value,
    /// Whether the answer counted as right: an image may have several right labels.
    right: Option<bool>,
    #[serde(deserialize_with = "finite")]
    probability: Option<f64>,
    image: Option<String>,
}

/// A number; in JSON, those that are not finite are strings, which count as missing here.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_f64().unwrap_or(f64::NAN))
}

/// Numbers, unless one of them is not finite.
fn finite<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

fn nan() -> f64 {
    f64::NAN
}

impl Evaluation {
    /// Reads it from a run directory, if there is one.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(EVALUATION_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let EvaluationFile { samples, rest } = read_json(&path)?;
        let results = rest.into_iter().filter(|(_, value)| value.is_object()).take(MOST_RESULTS);
        let result = |(name, value)| {
            let result = json_value(&format!("{}, {name}", path.display()), value)?;
            Ok((name, result))
        };
        Ok(Some(Self { results: results.map(result).collect::<Result<_>>()?, samples }))
    }

    /// The sections of the page.
    pub fn sections(&self, dir: &Path, budget: &mut Budget) -> Markup {
        html! {
            @if !self.results.is_empty() {
                section { h2 { "Evaluation" } (scores(&self.results)) }
            }
            @for (name, result) in &self.results {
                @if !result.calibration.is_empty() {
                    section { h2 { "Calibration: " (name) } (calibration(&result.calibration)) }
                }
                @if !result.per_class.is_empty() {
                    section { h2 { "Classes: " (name) } (per_class(&result.per_class)) }
                }
                @if !result.confusions.is_empty() {
                    section { h2 { "Most confused: " (name) } (confusions(&result.confusions, &result.per_class)) }
                }
            }
            @if !self.samples.is_empty() {
                section {
                    h2 { "Sample predictions" }
                    (left_out(self.samples.len(), MOST_SAMPLES))
                    div.samples { @for s in self.samples.iter().take(MOST_SAMPLES) { (sample(s, dir, budget)) } }
                }
            }
        }
    }
}

/// A note that there are more than `most`.
fn left_out(n: usize, most: usize) -> Markup {
    html! { @if n > most { p.note { "The first " (most) " of " (n) "." } } }
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
fn scores(results: &[(String, ModelResult)]) -> Markup {
    let mut keys: Vec<&str> = Vec::new();
    for (key, value) in results.iter().flat_map(|(_, result)| result.rest.iter()) {
        if value.is_number() && keys.len() < MOST_RESULTS && !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let interval = |result: &ModelResult| {
        let [low, high] = result.top1_ci95?;
        Some(format!(" [{}, {}]", short(&low.into()), short(&high.into())))
    };
    let cell = |result: &ModelResult, key: &str| {
        let text = result.rest.get(key).map(short).unwrap_or_default();
        let ends = (key == "top1").then(|| interval(result)).flatten().unwrap_or_default();
        html! { td.number { (text) span.note { (ends) } } }
    };
    html! {
        div.scroll { table {
            thead { tr { th { "model" } @for key in &keys { th.number { (title(key)) } } } }
            @for (name, result) in results { tr { th scope="row" { (name) } @for key in &keys { (cell(result, key)) } } }
        } }
        @if results.iter().any(|(_, result)| result.top1_ci95.is_some()) {
            p.note { "In brackets: 95 % confidence interval of top-1." }
        }
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

/// Accuracy over confidence, both in percent; the opacity of a bar shows its fraction of the images.
fn calibration(bins: &[Bin]) -> Markup {
    const SIDE: f64 = 220.0;
    const LEFT: f64 = 40.0;
    const PERCENT: f64 = 100.0;
    let bins: Vec<(f64, f64, f64)> = bins
        .iter()
        .take(MOST_SAMPLES)
        .map(|bin| (bin.confidence, bin.accuracy, bin.count))
        .filter(|(x, y, count)| x.is_finite() && y.is_finite() && *count > 0.0)
        .collect();
    let most = bins.iter().map(|b| b.2).fold(1.0, f64::max);
    let width = (SIDE / bins.len().max(10) as f64) * 0.8;
    let at = |v: f64| format!("{v:.1}");
    html! {
        figure.calibration {
            svg viewBox="0 0 280 270" role="img" aria-label="accuracy over confidence" {
                line.ideal x1=(at(LEFT)) y1=(at(SIDE + 10.0)) x2=(at(LEFT + SIDE)) y2="10" {}
                @for (x, y, count) in &bins {
                    rect x=(at(LEFT + x / PERCENT * SIDE - width / 2.0)) y=(at(10.0 + SIDE * (1.0 - y / PERCENT)))
                        width=(at(width)) height=(at(SIDE * y / PERCENT)) opacity=(at(0.3 + 0.7 * (count / most).sqrt())) {
                        title { "confidence " (format!("{x:.3}")) ", accuracy " (format!("{y:.3}")) ", " (count) " images" }
                    }
                }
                path.axis d={ "M" (at(LEFT)) " 10V" (at(SIDE + 10.0)) "H" (at(LEFT + SIDE)) } {}
                @for tick in [0.0, 0.5, 1.0] {
                    text x=(at(LEFT + tick * SIDE)) y=(at(SIDE + 25.0)) text-anchor="middle" { (tick * PERCENT) }
                    text x=(at(LEFT - 6.0)) y=(at(14.0 + SIDE * (1.0 - tick))) text-anchor="end" { (tick * PERCENT) }
                }
                text x=(at(LEFT + SIDE / 2.0)) y=(at(SIDE + 43.0)) text-anchor="middle" { "confidence (%)" }
                text x="10" y=(at(10.0 + SIDE / 2.0)) text-anchor="middle" transform={ "rotate(-90 10 " (at(10.0 + SIDE / 2.0)) ")" } { "accuracy (%)" }
            }
            figcaption { "Dashed: perfectly calibrated. Fainter bars stand for fewer images." }
        }
    }
}

fn per_class(classes: &[Class]) -> Markup {
    let mut classes: Vec<&Class> = classes.iter().collect();
    let top1 = |class: &Class| class.top1.as_f64().unwrap_or(f64::NAN);
    classes.sort_by(|a, b| top1(a).total_cmp(&top1(b)));
    let rows = |classes: &[&Class]| {
        html! {
            div.scroll { table {
                thead { tr { th { "class" } th.number { "label" } th.number { "images" } th.number { "top-1 (%)" } } }
                @for c in classes {
                    tr {
                        th scope="row" { (words(&c.name)) }
                        td.number { (words(&c.label)) } td.number { (words(&c.images)) } td.number { (short(&c.top1)) }
                    }
                }
            } }
        }
    };
    html! {
        @if classes.len() > WORST {
            h3 { "The " (WORST) " worst of " (classes.len()) }
            (rows(&classes[..WORST]))
            details {
                summary { "All " (classes.len()) " classes, worst first" }
                (left_out(classes.len(), MOST_CLASSES))
                (rows(&classes[..classes.len().min(MOST_CLASSES)]))
            }
        } @else {
            p.note { "Worst first." }
            (rows(&classes))
        }
    }
}

/// A missing value leaves its cell empty.
fn words(value: &Value) -> String {
    if value.is_null() { String::new() } else { super::words(value) }
}

fn confusions(pairs: &[Confusion], classes: &[Class]) -> Markup {
    // Labels are given by name if the classes are known.
    let named = |label: &Value| {
        let class = classes.iter().find(|c| c.label == *label && !label.is_null());
        class.map(|c| words(&c.name)).filter(|name| !name.is_empty()).unwrap_or_else(|| words(label))
    };
    html! {
        div.scroll { table {
            thead { tr { th { "class" } th { "predicted as" } th.number { "images" } } }
            @for pair in pairs.iter().take(2 * WORST) {
                tr { td { (named(&pair.label)) } td { (named(&pair.predicted)) } td.number { (words(&pair.count)) } }
            }
        } }
    }
}

fn sample(s: &Sample, dir: &Path, budget: &mut Budget) -> Markup {
    // Older files do not say it; none of theirs was of several right labels.
    let right = s.right.unwrap_or(s.label == s.predicted);
    let (label, predicted) = (words(&s.label), words(&s.predicted));
    let alt = format!("{label}, predicted {predicted}");
    let probability = s.probability.map(|p| format!(" ({p:.2})")).unwrap_or_default();
    html! {
        figure {
            @if let Some(image) = &s.image { (budget.picture(dir, image, &alt, SAMPLE)) }
            figcaption {
                (label) br;
                @if right { span.right { "✓ " (predicted) (probability) } } @else { span.wrong { "✗ " (predicted) (probability) } }
                @if !s.item.is_null() { br; "item " (words(&s.item)) }
            }
        }
    }
}
