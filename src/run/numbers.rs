//! Numbers as a run writes them to its metrics and results.

use serde_json::Value;

/// A number of JSON, which has none that are not finite: these are strings.
pub fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) if matches!(text.as_str(), "NaN" | "inf" | "-inf") => text.parse().ok(),
        _ => None,
    }
}
