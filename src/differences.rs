//! Where two JSON values differ.

use serde_json::Value;

/// Where two values differ, with both values (null if there is none): descends into maps, and joins names with dots.
pub fn differences(a: &Value, b: &Value) -> Vec<(String, Value, Value)> {
    fn walk(name: &str, a: &Value, b: &Value, out: &mut Vec<(String, Value, Value)>) {
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => {
                for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    walk(&name, x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), out);
                }
            }
            // An int and a float of one value are one number.
            (Value::Number(x), Value::Number(y)) if x == y || x.as_f64() == y.as_f64() => {}
            _ if a == b => {}
            _ => out.push((name.to_string(), a.clone(), b.clone())),
        }
    }
    let mut out = Vec::new();
    walk("", a, b, &mut out);
    out
}
