//! Script values: handles to Rust objects, and conversions that say what they expected.

use crate::error::{Diagnostic, Result, bail, ensure, one_line};
use crate::nn::ModuleRef;
use crate::options::{self, Options};
use crate::positions::Positions;
use crate::tensor::{is_complex, shape_text};
use rhai::{Array, Dynamic, FnPtr, Map};
use serde_json::{Number, Value};
use std::cell::Cell;
use std::rc::Rc;

/// A tensor in a script; cloning it shares the data.
#[derive(Clone)]
pub struct Tensor(pub Rc<tch::Tensor>);

impl std::ops::Deref for Tensor {
    type Target = tch::Tensor;
    fn deref(&self) -> &tch::Tensor {
        &self.0
    }
}

impl From<tch::Tensor> for Tensor {
    fn from(t: tch::Tensor) -> Self {
        Tensor(Rc::new(t))
    }
}

/// A module in a script; cloning it shares the parameters.
#[derive(Clone)]
pub struct Module(pub ModuleRef);

/// "integer 3", "tensor [2, 3] float32": a value in an error message.
pub fn found(value: &Dynamic) -> String {
    if let Some(t) = value.read_lock::<Tensor>() {
        return format!("a tensor {}", shape_text(&t));
    }
    if let Some(m) = value.read_lock::<Module>() {
        return format!("the module {}", m.0.describe());
    }
    match value.type_name() {
        "i64" => format!("the integer {value}"),
        "f64" => format!("the float {value}"),
        "bool" => format!("{value}"),
        "()" => "()".into(),
        "string" => format!("the string {:?}", value.to_string()),
        "map" => "a map".into(),
        "array" => "an array".into(),
        "Fn" => "a function".into(),
        other => format!("a value of type {}", other.rsplit("::").next().unwrap_or(other)),
    }
}

/// A number given as int or float.
pub fn number(value: &Dynamic, what: &str) -> Result<f64> {
    if let Ok(x) = value.as_float() {
        return Ok(x);
    }
    match value.as_int() {
        Ok(x) => Ok(x as f64),
        Err(_) => bail!("{what}: expected a number, found {}", found(value)),
    }
}

/// A list of integers, such as a shape or dimensions.
pub fn ints(values: &Array, what: &str) -> Result<Vec<i64>> {
    values
        .iter()
        .map(|v| match v.as_int() {
            Ok(n) => Ok(n),
            Err(_) => bail!("{what}: expected an array of integers, found {} in it", found(v)),
        })
        .collect()
}

/// A shape: non-negative sizes.
pub fn shape(values: &Array) -> Result<Vec<i64>> {
    let sizes = ints(values, "shape")?;
    if let Some(negative) = sizes.iter().find(|n| **n < 0) {
        bail!("shape: sizes must not be negative, found {negative} in {sizes:?}");
    }
    if sizes.iter().try_fold(1i64, |n, size| n.checked_mul(*size)).is_none() {
        bail!("shape: {sizes:?} has more elements than can be counted");
    }
    Ok(sizes)
}

/// A list of tensors.
pub fn tensors(values: &Array, what: &str) -> Result<Vec<tch::Tensor>> {
    values
        .iter()
        .map(|v| match v.read_lock::<Tensor>() {
            Some(t) => Ok(t.shallow_clone()),
            None => bail!("{what}: expected an array of tensors, found {} in it", found(v)),
        })
        .collect()
}

/// Tensors by name, as a script's map.
pub fn tensors_by_name(tensors: impl IntoIterator<Item = (String, tch::Tensor)>) -> Map {
    tensors.into_iter().map(|(name, t)| (name.into(), Dynamic::from(Tensor::from(t)))).collect()
}

/// A struct of plain data, as a script's map.
pub fn plain_map(value: &impl serde::Serialize) -> Result<Map> {
    match from_json(&serde_json::to_value(value)?).try_cast::<Map>() {
        Some(map) => Ok(map),
        None => unreachable!("a struct is a map"),
    }
}

/// A list of modules.
pub fn modules(values: &Array, what: &str) -> Result<Vec<ModuleRef>> {
    values.iter().map(|v| module(v, what)).collect()
}

/// A module given as such.
pub fn module(value: &Dynamic, what: &str) -> Result<ModuleRef> {
    match value.read_lock::<Module>() {
        Some(m) => Ok(m.0.clone()),
        None => bail!("{what}: expected a module, found {}", found(value)),
    }
}

/// How deep arrays and maps of plain data may be nested: what reads JSON back follows to 128.
const MOST_NESTED: usize = 100;

/// The value of a tensor with one element, as float, int or bool.
pub fn item(t: &tch::Tensor) -> Result<Dynamic> {
    ensure!(t.numel() == 1, "item: expected a tensor of one element, found {}", shape_text(t));
    ensure!(!is_complex(t), "item: expected a real number, found {}; read .real and .imag", shape_text(t));
    let flat = t.f_reshape([1])?;
    Ok(match t.kind() {
        tch::Kind::Bool => Dynamic::from_bool(flat.f_int64_value(&[0])? != 0),
        _ if t.is_floating_point() => Dynamic::from_float(flat.f_double_value(&[0])?),
        _ => Dynamic::from_int(flat.f_int64_value(&[0])?),
    })
}

/// A script's plain data as JSON.
pub fn to_json(value: &Dynamic) -> Result<Value> {
    to_json_within(value, MOST_NESTED)
}

/// Of a value that holds others at most `deep` times in each other.
fn to_json_within(value: &Dynamic, deep: usize) -> Result<Value> {
    let inner = |value: &Dynamic| match deep {
        0 => bail!("expected plain data, found arrays or maps nested more than {MOST_NESTED} deep"),
        _ => to_json_within(value, deep - 1),
    };
    if let Some(array) = value.read_lock::<Array>() {
        return array.iter().map(inner).collect::<Result<_>>().map(Value::Array);
    }
    if let Some(map) = value.read_lock::<Map>() {
        return map.iter().map(|(k, v)| Ok((k.to_string(), inner(v)?))).collect::<Result<_>>().map(Value::Object);
    }
    Ok(match value.type_name() {
        "()" => Value::Null,
        "bool" => Value::Bool(value.as_bool().expect("checked")),
        "i64" => value.as_int().expect("checked").into(),
        "f64" => {
            let x = value.as_float().expect("checked");
            // JSON has no infinities; they are written as strings rather than lost.
            Number::from_f64(x).map_or_else(|| Value::String(x.to_string()), Value::Number)
        }
        "string" => Value::String(value.to_string()),
        "char" => Value::String(value.to_string()),
        _ => match value.read_lock::<Tensor>() {
            Some(t) if t.numel() == 1 => to_json(&item(&t)?)?,
            _ => bail!("expected plain data (numbers, strings, arrays, maps), found {}", found(value)),
        },
    })
}

/// A value as a script writes it; what no text makes, as the text that it shows itself with.
pub fn literal(value: &Dynamic) -> String {
    literal_within(value, MOST_NESTED)
}

fn literal_within(value: &Dynamic, deep: usize) -> String {
    if deep == 0 {
        return "…".into();
    }
    let inner = |value: &Dynamic| literal_within(value, deep - 1);
    if let Some(list) = value.read_lock::<Array>() {
        return format!("[{}]", list.iter().map(inner).collect::<Vec<_>>().join(", "));
    }
    if let Some(map) = value.read_lock::<Map>() {
        let fields: Vec<String> = map.iter().map(|(name, value)| format!("{name}: {}", inner(value))).collect();
        return format!("#{{ {} }}", fields.join(", "));
    }
    if value.is_fnptr() {
        return "a function".into();
    }
    match to_json(value) {
        Ok(plain) => options::script_literal(&plain),
        Err(_) => FnPtr::new("to_string")
            .and_then(|shown| super::with_engine(|engine| shown.call(engine, &rhai::AST::empty(), (value.clone(),))))
            .unwrap_or_else(|_| value.type_name().to_string()),
    }
}

/// JSON as a script's plain data.
pub fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(i) => i.into(),
            None => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(s) => s.clone().into(),
        Value::Array(items) => items.iter().map(from_json).collect::<Array>().into(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.as_str().into(), from_json(v))).collect::<Map>().into(),
    }
}

/// A script's map as a JSON object.
pub fn object(map: &Map) -> Result<serde_json::Map<String, Value>> {
    match to_json(&Dynamic::from_map(map.clone()))? {
        Value::Object(map) => Ok(map),
        _ => unreachable!("a map is an object"),
    }
}

/// Positions of a batch as a script's runs, each [first, length].
pub fn runs(positions: Positions) -> Array {
    let int = |n: usize| Dynamic::from_int(n as i64);
    positions.runs().map(|(first, length)| Dynamic::from_array(vec![int(first), int(length)])).collect()
}

/// Reads a map of options of the function `of`.
pub fn read_options<T: Options>(of: &str, map: &Map) -> Result<T> {
    let mut plain = serde_json::Map::new();
    for (name, value) in map {
        let known = T::NAMES.contains(&name.as_str());
        if known && value.as_float().is_ok_and(|x| !x.is_finite()) {
            let message = format!("option `{name}` of {of}: expected a finite number, found {}", found(value));
            return Err(Diagnostic::new(message).at_key(name).into());
        }
        match to_json(value) {
            Ok(json) => plain.insert(name.to_string(), json),
            // Unknown names are reported first, whatever their values.
            Err(_) if !known => plain.insert(name.to_string(), Value::Null),
            Err(e) => {
                let message = format!("option `{name}` of {of}: {}", one_line(&e));
                return Err(Diagnostic::new(message).at_key(name).into());
            }
        };
    }
    Ok(options::read(of, plain)?)
}

thread_local! {
    static CALLBACKS: Cell<usize> = const { Cell::new(0) };
}

/// How deep scripts and Rust may call each other in turns: Rhai counts its own calls only.
const MOST_CALLBACKS: usize = 64;

/// Calls a script's function from Rust.
pub fn call(function: &FnPtr, arguments: impl rhai::FuncArgs) -> Result<Dynamic> {
    struct Depth;
    impl Drop for Depth {
        fn drop(&mut self) {
            CALLBACKS.set(CALLBACKS.get() - 1);
        }
    }
    CALLBACKS.set(CALLBACKS.get() + 1);
    let _depth = Depth;
    if CALLBACKS.get() > MOST_CALLBACKS {
        bail!("stack overflow: functions given to functions are nested more than {MOST_CALLBACKS} deep");
    }
    super::with_engine(|engine| function.call(engine, &rhai::AST::empty(), arguments)).map_err(super::error::from_rhai)
}
