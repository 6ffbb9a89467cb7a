//! The types of script values: their names, and whether a value is of one.

use super::values::{Module, Tensor, found, ints, modules, number, read_options, tensors};
use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean};
use crate::nn::ModuleRef;
use crate::options::{OptionDoc, Options};
use crate::types::{Type, Typed, named};
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

/// A Rust type that a registered function may take.
pub trait Argument: Typed + Sized {
    /// What Rhai hands over, by whose type it chooses among overloads.
    type Raw: rhai::Variant + Clone;

    /// The value; an error starts with the function's name, `of`.
    fn read(raw: Self::Raw, of: &str) -> Result<Self>;

    /// The value of any of a script's; an error starts with `of`.
    fn read_value(value: &Dynamic, of: &str) -> Result<Self> {
        match value.clone().try_cast::<Self::Raw>() {
            Some(raw) => Self::read(raw, of),
            None => bail!("{of}: expected {}, found {}", Self::script_type().expected(), found(value)),
        }
    }

    /// The options that it takes, if it is a map of such.
    fn options() -> Vec<OptionDoc> {
        Vec::new()
    }
}

/// A Rust type that a registered function may give.
pub trait Output: Typed {
    /// What Rhai gets.
    type Raw: rhai::Variant + Clone;

    /// The value as Rhai gets it.
    fn into_raw(self) -> Self::Raw;
}

/// Types that Rhai and the registered functions hand each other as they are.
macro_rules! as_is {
    ($($ty:ty),+ $(,)?) => {
        $(
            impl $crate::script::types::Argument for $ty {
                type Raw = Self;
                fn read(raw: Self, _: &str) -> $crate::error::Result<Self> {
                    Ok(raw)
                }
            }

            impl $crate::script::types::Output for $ty {
                type Raw = Self;
                fn into_raw(self) -> Self {
                    self
                }
            }
        )+
    };
}

/// The host's own types, by the names that their users know.
macro_rules! handles {
    ($($name:literal: $ty:ty;)+) => {
        $crate::types::named! { $($name: $ty;)+ }
        $crate::script::types::as_is! { $($ty),+ }
    };
}
/// Choices that functions take as strings.
macro_rules! choice_arguments {
    ($($ty:ty),+) => {
        $(impl $crate::script::types::Argument for $ty {
            type Raw = rhai::ImmutableString;
            fn read(raw: rhai::ImmutableString, of: &str) -> $crate::error::Result<Self> {
                $crate::error::Context::with_context(raw.parse::<Self>(), || of.to_string())
            }
        })+
    };
}
pub(crate) use {as_is, choice_arguments, handles};

named! {
    "any": Dynamic;
    "string": ImmutableString;
    "map": Map;
    "function": FnPtr;
    "range": Range<i64>, RangeInclusive<i64>;
    "Tensor": tch::Tensor;
    "Module": ModuleRef;
}
as_is! { (), bool, i64, Dynamic, ImmutableString, Map, FnPtr, Range<i64>, RangeInclusive<i64> }
handles! {
    "Tensor": Tensor;
    "Module": Module;
}

/// What may be left out may be given as `()`.
impl<T: Argument> Argument for Option<T> {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        if raw.is_unit() { Ok(None) } else { T::read_value(&raw, of).map(Some) }
    }
}

/// A float may be given as an int.
impl Argument for f64 {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        number(&raw, of)
    }
}

impl Argument for usize {
    type Raw = i64;
    fn read(raw: i64, of: &str) -> Result<Self> {
        match usize::try_from(raw) {
            Ok(n) => Ok(n),
            Err(_) => bail!("{of}: expected a number of at least 0, found {raw}"),
        }
    }
}

impl Argument for PathBuf {
    type Raw = ImmutableString;
    fn read(raw: ImmutableString, _: &str) -> Result<Self> {
        Ok(PathBuf::from(raw.as_str()))
    }
}

impl Argument for String {
    type Raw = ImmutableString;
    fn read(raw: ImmutableString, _: &str) -> Result<Self> {
        Ok(raw.into())
    }
}

impl Argument for Array {
    type Raw = Self;
    fn read(raw: Self, _: &str) -> Result<Self> {
        Ok(raw)
    }
}

impl Argument for Vec<i64> {
    type Raw = Array;
    fn read(raw: Array, of: &str) -> Result<Self> {
        ints(&raw, of)
    }
}

impl Argument for Vec<f64> {
    type Raw = Array;
    fn read(raw: Array, of: &str) -> Result<Self> {
        raw.iter().map(|value| number(value, of)).collect()
    }
}

impl Argument for Vec<tch::Tensor> {
    type Raw = Array;
    fn read(raw: Array, of: &str) -> Result<Self> {
        tensors(&raw, of)
    }
}

impl Argument for Vec<ModuleRef> {
    type Raw = Array;
    fn read(raw: Array, of: &str) -> Result<Self> {
        modules(&raw, of)
    }
}

impl<T: Options> Argument for T {
    type Raw = Map;
    fn read(raw: Map, of: &str) -> Result<Self> {
        read_options(of, &raw)
    }

    fn options() -> Vec<OptionDoc> {
        T::docs()
    }
}

impl Output for f64 {
    type Raw = Self;
    fn into_raw(self) -> Self {
        self
    }
}

impl Output for usize {
    type Raw = i64;
    fn into_raw(self) -> i64 {
        self as i64
    }
}

impl Output for String {
    type Raw = ImmutableString;
    fn into_raw(self) -> ImmutableString {
        self.into()
    }
}

impl Output for tch::Tensor {
    type Raw = Tensor;
    fn into_raw(self) -> Tensor {
        self.into()
    }
}

impl<T: Output> Output for Option<T> {
    type Raw = Dynamic;
    fn into_raw(self) -> Dynamic {
        self.map_or(Dynamic::UNIT, |value| Dynamic::from(value.into_raw()))
    }
}

impl<T: Output> Output for Vec<T> {
    type Raw = Array;
    fn into_raw(self) -> Array {
        self.into_iter().map(|value| Dynamic::from(value.into_raw())).collect()
    }
}

/// Names of the types that values have without a host's help.
const PLAIN: [&str; 9] = ["any", "bool", "int", "float", "string", "array", "map", "function", "()"];

thread_local! {
    /// Names of the host's own types, in the order of registration.
    static REGISTERED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Makes a type known to the engine by the name that [`Typed`] gives it, which it gives back.
pub fn register<T: Typed + rhai::Variant + Clone>(engine: &mut Engine) -> &'static str {
    let Type::Named(Cow::Borrowed(name)) = T::script_type() else { unreachable!("handles have a name") };
    engine.register_type_with_name::<T>(name);
    REGISTERED.with_borrow_mut(|names| names.push(name));
    name
}

/// The type that a text names: "int", "Tensor", "array of int", "string or ()". Letters' case doesn't matter.
pub fn parse(text: &str) -> Result<Type> {
    if let Some((first, rest)) = text.split_once(" or ") {
        return Ok(Type::Either(vec![parse(first)?, parse(rest)?]));
    }
    if let Some(inner) = text.strip_prefix("array of ") {
        return Ok(Type::ArrayOf(Box::new(parse(inner)?)));
    }
    let known: Vec<&'static str> = REGISTERED.with_borrow(|names| PLAIN.iter().chain(names).copied().collect());
    match known.iter().find(|name| name.eq_ignore_ascii_case(text.trim())) {
        Some(name) => Ok(Type::named(name)),
        None => {
            let near = did_you_mean(text, known.iter().copied());
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

/// The value as one of the type `of`, an int becoming a float if a float is expected; `None` if it is of another type.
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
