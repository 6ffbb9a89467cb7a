//! A parameter against a result: a point for each run, a line through the means.

use crate::cli::sweep::table::number;
use crate::cli::sweep::values::text;
use crate::plot::tick;
use maud::{Markup, html};
use serde_json::Value;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 12.0;
const RIGHT: f64 = 288.0;
const BOTTOM: f64 = 158.0;
/// Numbers on the horizontal axis stand at least so far apart, in widths of a letter and in pixels.
const LETTER: f64 = 6.5;
/// A logarithmic axis begins here: the greatest value is so many times the least.
const DECADE: f64 = 10.0;

/// What is drawn.
pub struct Scatter<'a> {
    /// The parameter.
    pub param: &'a str,
    /// The result.
    pub result: &'a str,
    /// Of each run: the parameter's value, the result, the colour, and a name.
    pub points: Vec<(Value, f64, String, String)>,
}

/// The values of a parameter as numbers, which texts may be too; none if one is no number.
fn numbers(values: &[Value]) -> Option<Vec<f64>> {
    let number =
        |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|x: &f64| x.is_finite());
    values.iter().map(number).collect()
}

/// Where the values of a parameter stand on the axis, from 0 to 1: numbers by size, others one beside the other.
fn places(values: &[Value]) -> (Vec<f64>, bool) {
    let count = values.len().max(2) - 1;
    let Some(numbers) = numbers(values) else {
        return ((0..values.len()).map(|i| i as f64 / count as f64).collect(), false);
    };
    let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log = least > 0.0 && most >= DECADE * least;
    let scale = |x: f64| if log { x.ln() } else { x };
    let width = scale(most) - scale(least);
    let place = |x: &f64| if width > 0.0 { (scale(*x) - scale(least)) / width } else { 0.5 };
    (numbers.iter().map(place).collect(), log)
}

/// The values of a parameter, each once, in the order of the axis.
fn distinct(scatter: &Scatter<'_>) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for (value, ..) in &scatter.points {
        if !values.contains(value) {
            values.push(value.clone());
        }
    }
    let Some(numbers) = numbers(&values) else { return values };
    let mut sorted: Vec<(f64, Value)> = numbers.into_iter().zip(values).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    sorted.into_iter().map(|(_, value)| value).collect()
}

/// Round numbers from `low` to `high`.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= 0.99 * rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (0..8).map(|i| (first + i) as f64 * step).take_while(|tick| *tick <= high).collect()
}

/// The greatest |y| that is drawn.
const MOST: f64 = 1e150;

/// The chart; none if there is nothing to compare.
pub fn scatter(scatter: &Scatter<'_>) -> Option<Markup> {
    let values = distinct(scatter);
    let ys = || scatter.points.iter().map(|(_, y, ..)| y.clamp(-MOST, MOST));
    if values.len() < 2 || scatter.points.is_empty() {
        return None;
    }
    let (mut low, mut high) = (ys().fold(f64::INFINITY, f64::min), ys().fold(f64::NEG_INFINITY, f64::max));
    let room = if high > low { 0.08 * (high - low) } else { low.abs().max(1.0) * 0.1 };
    (low, high) = (low - room, high + room);
    let (places, log) = places(&values);
    let x = |i: usize| LEFT + 14.0 + places[i] * (RIGHT - LEFT - 28.0);
    let y = |value: f64| BOTTOM - (value.clamp(-MOST, MOST) - low) / (high - low) * (BOTTOM - TOP);
    let place = |value: &Value| values.iter().position(|known| known == value).unwrap_or(0);
    let means: Vec<(usize, f64)> = (0..values.len())
        .map(|i| {
            let of: Vec<f64> = scatter.points.iter().filter(|p| p.0 == values[i]).map(|p| p.1).collect();
            (i, of.iter().sum::<f64>() / of.len() as f64)
        })
        .collect();
    let line: Vec<String> = means.iter().map(|(i, mean)| format!("{:.1},{:.1}", x(*i), y(*mean))).collect();
    let at = |v: f64| format!("{v:.1}");
    let title = format!("{} by {}", scatter.result, scatter.param);
    Some(html! {
        figure.scatter {
            figcaption { (title) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(title) {
                @for at_y in ticks(low, high) {
                    line.mesh x1=(at(LEFT)) x2=(at(RIGHT)) y1=(at(y(at_y))) y2=(at(y(at_y))) {}
                    text x=(at(LEFT - 6.0)) y=(at(y(at_y) + 4.0)) text-anchor="end" { (tick(at_y, (low, high))) }
                }
                path.axis d={ "M" (at(LEFT)) " " (at(TOP)) "V" (at(BOTTOM)) "H" (at(RIGHT)) } {}
                @for (i, label) in labels(&values, x) {
                    text x=(at(x(i))) y=(at(BOTTOM + 16.0)) text-anchor="middle" { (label) }
                }
                polyline.mean points=(line.join(" ")) {}
                @for (value, result, colour, name) in &scatter.points {
                    circle cx=(at(x(place(value)))) cy=(at(y(*result))) r="4" fill=(colour) {
                        title { (name) ": " (number(*result)) }
                    }
                }
                text x=(at((LEFT + RIGHT) / 2.0)) y=(at(HEIGHT - 12.0)) text-anchor="middle" {
                    (scatter.param) @if log { " (logarithmic)" }
                }
            }
        }
    })
}

/// The values that have room on the horizontal axis, shortened.
fn labels(values: &[Value], x: impl Fn(usize) -> f64) -> Vec<(usize, String)> {
    let mut kept: Vec<(usize, String)> = Vec::new();
    let most = ((RIGHT - LEFT) / values.len() as f64 / LETTER).max(8.0) as usize;
    let half = |label: &str| label.chars().count() as f64 * LETTER / 2.0;
    for (i, value) in values.iter().enumerate() {
        let mut label = text(value);
        if label.chars().count() > most {
            label = label.chars().take(most - 1).chain(['…']).collect();
        }
        let free = kept.last().is_none_or(|(before, text)| x(i) - x(*before) > half(text) + half(&label) + 4.0);
        if free {
            kept.push((i, label));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_over_decades_stand_on_a_logarithmic_axis() {
        let rounded = |values: &[Value]| {
            let (places, log) = places(values);
            (places.iter().map(|place| (place * 100.0).round()).collect::<Vec<_>>(), log)
        };
        assert_eq!(rounded(&[json!(1e-4), json!(1e-3), json!(1e-2)]), (vec![0.0, 50.0, 100.0], true));
        assert_eq!(rounded(&[json!(1), json!(2), json!(5)]), (vec![0.0, 25.0, 100.0], false));
        assert_eq!(rounded(&[json!(0), json!(100)]), (vec![0.0, 100.0], false));
        assert_eq!(rounded(&[json!("a"), json!("b"), json!("c")]), (vec![0.0, 50.0, 100.0], false));
        assert_eq!(rounded(&[json!("4"), json!("8"), json!("12")]), (vec![0.0, 50.0, 100.0], false));
    }

    #[test]
    fn values_stand_in_the_order_of_their_size_as_texts_too() {
        let order = |values: &[Value]| {
            let points = values.iter().map(|value| (value.clone(), 1.0, String::new(), String::new())).collect();
            json!(distinct(&Scatter { param: "p", result: "r", points }))
        };
        assert_eq!(order(&[json!("12"), json!("4"), json!("8"), json!("4")]), json!(["4", "8", "12"]));
        assert_eq!(order(&[json!(1e-3), json!(3), json!("1")]), json!([1e-3, "1", 3]));
        assert_eq!(order(&[json!("12"), json!("4"), json!("auto")]), json!(["12", "4", "auto"]));
    }

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let shown = |low: f64, high: f64| ticks(low, high).iter().map(|at| tick(*at, (low, high))).collect::<Vec<_>>();
        assert_eq!(shown(0.47, 0.93), ["0.6", "0.8"]);
        assert_eq!(shown(-3.0, 17.0), ["0", "5", "10", "15"]);
        assert_eq!(shown(64.71, 64.79), ["64.72", "64.74", "64.76", "64.78"]);
    }
}
