//! The types of script values: their names, and whether a value is of one.

use super::values::{Module, Tensor};
use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use crate::types::{Type, Typed, named};
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

named! {
    "any": Dynamic;
    "string": ImmutableString;
    "map": Map;
    "function": FnPtr;
    "range": Range<i64>, RangeInclusive<i64>;
    "Tensor": Tensor;
    "Module": Module;
}

/// Names of the types that values have without a host's help.
const PLAIN: [&str; 9] = ["any", "bool", "int", "float", "string", "array", "map", "function", "()"];

thread_local! {
    /// Names of the host's own types, in the order of registration.
    static REGISTERED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Makes a type known to the engine by the name that [`Typed`] gives it.
pub fn register<T: Typed + rhai::Variant + Clone>(engine: &mut Engine) {
    let name = T::script_type().to_string();
    engine.register_type_with_name::<T>(&name);
    REGISTERED.with_borrow_mut(|names| names.push(name));
}

/// The type that a text names: "int", "Tensor", "array of int", "string or ()". Letters' case doesn't matter.
pub fn parse(text: &str) -> Result<Type> {
    if let Some((first, rest)) = text.split_once(" or ") {
        return Ok(Type::Either(vec![parse(first)?, parse(rest)?]));
    }
    if let Some(inner) = text.strip_prefix("array of ") {
        return Ok(Type::ArrayOf(Box::new(parse(inner)?)));
    }
    let known: Vec<String> =
        REGISTERED.with_borrow(|names| PLAIN.iter().map(|n| n.to_string()).chain(names.iter().cloned()).collect());
    match known.iter().find(|name| name.eq_ignore_ascii_case(text.trim())) {
        Some(name) => Ok(Type::Named(name.clone().into())),
        None => {
            let near = did_you_mean(text, known.iter().map(String::as_str));
            bail_hint!("unknown type \"{text}\"{near}"; "the types are: {}", known.join(", "))
        }
    }
}

/// The type of a value.
pub fn type_of(value: &Dynamic) -> Type {
    let rust = value.type_name();
    let name = match rust {
        "i64" => "int".to_string(),
        "f64" => "float".to_string(),
        "Fn" => "function".to_string(),
        other => super::with_engine(|engine| engine.map_type_name(other).to_string()),
    };
    Type::Named(name.into())
}

/// The value as one of the type `of`, an int becoming a float where that is expected; nothing where it is of another.
pub fn fit(of: &Type, value: &Dynamic) -> Option<Dynamic> {
    match of {
        Type::Named(name) if name == "any" => Some(value.clone()),
        Type::Named(name) if name == "float" => {
            value.as_float().ok().or(value.as_int().ok().map(|n| n as f64)).map(Dynamic::from_float)
        }
        Type::Named(_) => (type_of(value) == *of).then(|| value.clone()),
        Type::OneOf(names) => {
            let text = value.clone().into_immutable_string().ok()?;
            names.iter().any(|name| name == text.as_str()).then(|| text.into())
        }
        Type::ArrayOf(inner) => {
            let list = value.read_lock::<Array>()?;
            list.iter().map(|item| fit(inner, item)).collect::<Option<Array>>().map(Dynamic::from_array)
        }
        Type::ArrayOfLength(n, inner) => {
            let length = value.read_lock::<Array>()?.len();
            (length == *n).then(|| fit(&Type::ArrayOf(inner.clone()), value)).flatten()
        }
        // A value of exactly one of the types stays as it is: 1 is an int where "float or int" are asked for.
        Type::Either(types) => match types.contains(&type_of(value)) {
            true => Some(value.clone()),
            false => types.iter().find_map(|of| fit(of, value)),
        },
    }
}
