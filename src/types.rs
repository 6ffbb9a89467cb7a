//! Types as the users of scripts know them: what `nepa api` prints, what errors say was expected, what an option
//! declared in a script is checked against.

use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

/// The type of an option, a parameter or a function's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// A type with a name of its own: "int", "map", "Tensor"; "any" is every value.
    Named(Cow<'static, str>),
    /// One of a few strings.
    OneOf(Vec<Cow<'static, str>>),
    /// An array of any length.
    ArrayOf(Box<Type>),
    /// An array of a fixed length.
    ArrayOfLength(usize, Box<Type>),
    /// A value of any of several types.
    Either(Vec<Type>),
}

impl Type {
    /// Whether values of the type called `name` are among its values.
    pub fn takes(&self, name: &str) -> bool {
        match self {
            Type::Named(own) => own == name,
            Type::Either(types) => types.iter().any(|of| of.takes(name)),
            _ => false,
        }
    }

    /// The type of this name.
    pub const fn named(name: &'static str) -> Self {
        Type::Named(Cow::Borrowed(name))
    }

    /// This type, or `()`.
    pub fn or_unit(self) -> Self {
        Type::Either(vec![self, Type::named("()")])
    }

    /// What an error says was expected: "an integer", "true or false", "a string or ()".
    pub fn expected(&self) -> String {
        match self {
            Type::Named(name) => match name.as_ref() {
                "int" => "an integer".into(),
                "float" => "a number".into(),
                "bool" => "true or false".into(),
                "()" | "any" => name.to_string(),
                "array" => "an array".into(),
                other => {
                    let article = if other.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
                    format!("{article} {}", other.to_lowercase())
                }
            },
            Type::OneOf(names) => format!("one of {}", names.join(", ")),
            Type::ArrayOf(_) | Type::ArrayOfLength(..) => format!("an {self}"),
            Type::Either(types) => types.iter().map(Type::expected).collect::<Vec<_>>().join(" or "),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Named(name) => f.write_str(name),
            Type::OneOf(names) => {
                let quoted: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
                f.write_str(&quoted.join(" | "))
            }
            Type::ArrayOf(inner) => write!(f, "array of {inner}"),
            Type::ArrayOfLength(n, inner) => write!(f, "array of {n} {inner}s"),
            Type::Either(types) => {
                let words: Vec<String> = types.iter().map(Type::to_string).collect();
                f.write_str(&words.join(" or "))
            }
        }
    }
}

/// A Rust type that scripts have a name for.
pub trait Typed {
    /// What its users call it.
    fn script_type() -> Type;
}

/// Gives Rust types the name that scripts have for them.
macro_rules! named {
    ($($name:literal: $($ty:ty),+;)*) => {
        $($(impl $crate::types::Typed for $ty {
            fn script_type() -> $crate::types::Type {
                $crate::types::Type::named($name)
            }
        })+)*
    };
}
pub(crate) use named;

named! {
    "int": i64, u64, usize, u8;
    "float": f64;
    "bool": bool;
    "string": String, PathBuf;
    "map": Map<String, Value>;
    "()": ();
}

impl<T: Typed> Typed for Option<T> {
    fn script_type() -> Type {
        T::script_type().or_unit()
    }
}

impl<T: Typed> Typed for Vec<T> {
    fn script_type() -> Type {
        match T::script_type() {
            Type::Named(name) if name == "any" => Type::named("array"),
            inner => Type::ArrayOf(Box::new(inner)),
        }
    }
}

impl<T: Typed, const N: usize> Typed for [T; N] {
    fn script_type() -> Type {
        Type::ArrayOfLength(N, Box::new(T::script_type()))
    }
}

/// Declares an enum whose values scripts write as strings: `/// doc` `Variant = "name",`.
#[macro_export]
macro_rules! choices {
    ($(#[$about:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The names, as scripts write them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::Diagnostic;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::error::Diagnostic::new($crate::types::unknown_choice(name, Self::NAMES))),
                }
            }
        }

        impl $crate::types::Typed for $name {
            fn script_type() -> $crate::types::Type {
                $crate::types::Type::OneOf(Self::NAMES.iter().map(|name| (*name).into()).collect())
            }
        }
    };
}

/// The error for a string that is not one of the choices.
pub fn unknown_choice<'a>(found: &str, choices: &'a [impl AsRef<str> + 'a]) -> String {
    let names: Vec<&str> = choices.iter().map(AsRef::as_ref).collect();
    let near = crate::error::did_you_mean(found, names.iter().copied());
    format!("unknown value \"{found}\"{near} (one of: {})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    choices! {
        /// For the test.
        pub enum Colour {
            /// Like blood.
            Red = "red",
            /// Like grass.
            Green = "green",
        }
    }

    #[test]
    fn types_read_as_users_write_them() {
        let text = |t: Type| t.to_string();
        assert_eq!(text(<Option<f64>>::script_type()), "float or ()");
        assert_eq!(text(<Vec<String>>::script_type()), "array of string");
        assert_eq!(text(<[usize; 2]>::script_type()), "array of 2 ints");
        assert_eq!(text(Colour::script_type()), "\"red\" | \"green\"");
        assert_eq!(<Option<i64>>::script_type().expected(), "an integer or ()");
    }

    #[test]
    fn choices_are_listed_by_name() {
        assert_eq!("green".parse::<Colour>().unwrap(), Colour::Green);
        let error = "gren".parse::<Colour>().unwrap_err();
        assert_eq!(error.message, "unknown value \"gren\"; did you mean `green`? (one of: red, green)");
    }
}
