//! Options read from a map of names to values: a script's `#{ … }` or a `config.json`.
//!
//! [`options!`] declares a struct with its defaults and documentation in one place: serde reads it, `nepa api` prints
//! it. [`read`] turns serde's errors into sentences that name the option, what was expected, what was found and the
//! nearest valid name.

use crate::error::{Diagnostic, did_you_mean, nearest};
use crate::types::{Type, Typed, unknown_choice};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// One documented option.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionDoc {
    /// As a script writes it.
    pub name: String,
    /// Which values it takes.
    pub of: Type,
    /// The default, as a script would write it; without one it must be given.
    pub default: Option<String>,
    /// What it means.
    pub doc: String,
}

/// A struct made by [`options!`].
pub trait Options: Typed + DeserializeOwned + serde::Serialize + Default {
    /// The options' names, in the order of their declaration.
    const NAMES: &'static [&'static str];

    /// The options with their documentation.
    fn docs() -> Vec<OptionDoc>;
}

/// Declares an options struct: `/// doc` `name: type = default,`.
#[macro_export]
macro_rules! options {
    ($(#[doc = $about:literal])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $field:ident : $ty:ty = $default:expr),* $(,)?
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])* pub $field: $ty),* }

        impl Default for $name {
            fn default() -> Self { Self { $($field: $default),* } }
        }

        impl $crate::types::Typed for $name {
            fn script_type() -> $crate::types::Type {
                $crate::types::Type::named("map")
            }
        }

        impl $crate::options::Options for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            fn docs() -> Vec<$crate::options::OptionDoc> {
                let defaults = serde_json::to_value(Self::default()).expect("options are plain values");
                vec![$($crate::options::OptionDoc {
                    name: stringify!($field).to_string(),
                    of: <$ty as $crate::types::Typed>::script_type(),
                    default: Some($crate::options::script_literal(&defaults[stringify!($field)])),
                    doc: [$($doc),*].map(str::trim).join(" "),
                }),*]
            }
        }
    };
}

/// Reads `map` into the options of `of` ("nn::blocks", "config.json"), rejecting what does not fit.
pub fn read<T: Options>(of: &str, map: Map<String, Value>) -> Result<T, Diagnostic> {
    known_keys("option", of, map.keys().map(String::as_str), T::NAMES)?;
    T::deserialize(Reader(Value::Object(map))).map_err(|e| e.diagnose(of))
}

/// Rejects keys that are not among `known`, all of them at once; `what` is what a key names: "option", "part".
pub fn known_keys<'a>(
    what: &str,
    of: &str,
    given: impl IntoIterator<Item = &'a str>,
    known: &[impl AsRef<str>],
) -> Result<(), Diagnostic> {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let unknown: Vec<&str> = given.into_iter().filter(|key| !known.contains(key)).collect();
    let message = match unknown.as_slice() {
        [] => return Ok(()),
        [key] => format!("unknown {what} `{key}` of {of}{}", did_you_mean(key, known.iter().copied())),
        keys => {
            let near =
                |key| nearest(key, known.iter().copied()).map_or(String::new(), |n| format!(" (did you mean `{n}`?)"));
            let list: Vec<String> = keys.iter().map(|key| format!("`{key}`{}", near(key))).collect();
            format!("unknown {what}s of {of}: {}", list.join(", "))
        }
    };
    Err(Diagnostic::new(message).hint(format!("the {what}s are: {}", known.join(", "))).at_key(unknown[0]))
}

/// A value as a script would write it.
pub fn script_literal(value: &Value) -> String {
    match value {
        Value::Null => "()".into(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(script_literal).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let fields: Vec<_> = map.iter().map(|(k, v)| format!("{k}: {}", script_literal(v))).collect();
            format!("#{{ {} }}", fields.join(", "))
        }
        Value::Number(n) if n.is_f64() => {
            let x = n.as_f64().unwrap_or_default();
            if x != 0.0 && (x.abs() < 1e-3 || x.abs() >= 1e7) { format!("{x:e}") } else { format!("{x:?}") }
        }
        other => other.to_string(),
    }
}

/// What serde found wrong, in parts, so that the message can be worded here.
#[derive(Debug)]
enum Fault {
    Unknown { field: String, known: &'static [&'static str] },
    Other(String),
}

#[derive(Debug)]
struct ReadError {
    /// Names from the outermost option inwards.
    path: Vec<String>,
    fault: Fault,
}

impl ReadError {
    fn diagnose(self, of: &str) -> Diagnostic {
        let path = self.path.join(".");
        match self.fault {
            Fault::Unknown { field, known } => {
                let of = if path.is_empty() { of.to_string() } else { format!("`{path}` in {of}") };
                let near = did_you_mean(&field, known.iter().copied());
                Diagnostic::new(format!("unknown option `{field}` of {of}{near}"))
                    .hint(format!("the options are: {}", known.join(", ")))
                    .at_key(&field)
            }
            Fault::Other(text) => match self.path.last() {
                Some(key) => Diagnostic::new(format!("option `{path}` of {of}: {text}")).at_key(key),
                None => Diagnostic::new(format!("{of}: {text}")),
            },
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

impl std::error::Error for ReadError {}

/// serde's names of what it expects, in plain words.
struct Expecting<'a>(&'a dyn de::Expected);

impl fmt::Display for Expecting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(match text.as_str() {
            "i64" => "an integer",
            "f64" => "a number",
            "usize" | "u64" => "a non-negative integer",
            "a boolean" => "true or false",
            "a sequence" => "an array",
            other => other,
        })
    }
}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Self { path: Vec::new(), fault: Fault::Other(msg.to_string()) }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Unit => "()".to_string(),
            de::Unexpected::Float(x) => format!("the float {x:?}"),
            de::Unexpected::Signed(x) => format!("the integer {x}"),
            de::Unexpected::Unsigned(x) => format!("the integer {x}"),
            de::Unexpected::Str(text) => format!("the string {text:?}"),
            de::Unexpected::Seq => "an array".to_string(),
            other => other.to_string(),
        };
        Self::custom(format!("expected {}, found {found}", Expecting(expected)))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        Self::custom(unknown_choice(variant, known))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self { path: Vec::new(), fault: Fault::Unknown { field: field.to_string(), known } }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("the option `{field}` is missing"))
    }
}

/// A [`Value`] as a serde deserializer with [`ReadError`]s.
struct Reader(Value);

impl<'de> de::Deserializer<'de> for Reader {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => visitor.visit_i64(i),
                (None, Some(x)) => visitor.visit_f64(x),
                _ => visitor.visit_u64(n.as_u64().unwrap_or(u64::MAX)),
            },
            Value::String(s) => visitor.visit_string(s),
            Value::Array(items) => {
                let mut seq = de::value::SeqDeserializer::new(items.into_iter().map(Reader));
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Value::Object(map) => visitor.visit_map(MapReader { entries: map.into_iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::String(s) => visitor.visit_enum(s.into_deserializer()),
            other => Reader(other).deserialize_any(visitor).map_err(|e| {
                let Fault::Other(text) = &e.fault else { return e };
                let found = text.split(", found ").nth(1).unwrap_or("another type").to_string();
                de::Error::custom(format!("expected one of {}, found {found}", variants.join(", ")))
            }),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, ReadError> for Reader {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

struct MapReader {
    entries: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for MapReader {
    type Error = ReadError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        self.current = self.entries.next();
        match &self.current {
            Some((key, _)) => seed.deserialize(key.clone().into_deserializer()).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let (key, value) = self.current.take().expect("serde asks for a value after its key");
        seed.deserialize(Reader(value)).map_err(|mut e| {
            e.path.insert(0, key);
            e
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    options! {
        /// Test options.
        pub struct Sample {
            /// How many.
            depth: i64 = 4,
            /// How fast.
            lr: f64 = 1e-3,
            /// Maybe.
            clip: Option<f64> = None,
            /// Two of them.
            betas: [f64; 2] = [0.9, 0.95],
        }
    }

    fn read_sample(value: Value) -> Result<Sample, String> {
        let Value::Object(map) = value else { unreachable!() };
        read("nn::sample", map).map_err(|d| d.message)
    }

    #[test]
    fn reads_values_and_defaults() {
        let s = read_sample(json!({ "depth": 2, "lr": 1, "clip": null })).unwrap();
        assert_eq!(s, Sample { depth: 2, lr: 1.0, clip: None, betas: [0.9, 0.95] });
        assert_eq!(read_sample(json!({ "clip": 2 })).unwrap().clip, Some(2.0));
    }

    #[test]
    fn complaints_name_option_expected_and_found() {
        let e = |v| read_sample(v).unwrap_err();
        assert_eq!(e(json!({ "dpeth": 2 })), "unknown option `dpeth` of nn::sample; did you mean `depth`?");
        assert_eq!(
            e(json!({ "dpeth": 2, "speed": 1, "clip": 1 })),
            "unknown options of nn::sample: `dpeth` (did you mean `depth`?), `speed`"
        );
        assert_eq!(
            e(json!({ "depth": 1.5 })),
            "option `depth` of nn::sample: expected an integer, found the float 1.5"
        );
        assert_eq!(
            e(json!({ "lr": "fast" })),
            "option `lr` of nn::sample: expected a number, found the string \"fast\""
        );
        assert!(e(json!({ "betas": [0.9] })).contains("array of length 2"), "{}", e(json!({ "betas": [0.9] })));
    }

    #[test]
    fn documents_itself() {
        let docs = Sample::docs();
        assert_eq!((docs[1].name.as_str(), docs[1].default.as_deref()), ("lr", Some("0.001")));
        assert_eq!(docs[2].of.to_string(), "float or ()");
        assert_eq!(docs[0].doc, "How many.");
    }
}
