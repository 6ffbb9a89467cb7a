//! Options of a script's function: each declared once, with its default, type and meaning.

use crate::error::{Context as _, Diagnostic, Result, bail};
use crate::options::{OptionDoc, known_keys};
use crate::script::registry::Api;
use crate::script::types::{self, fit, handles, type_of};
use crate::script::values::{found, literal};
use crate::types::{Type, unknown_choice};
use nepa_macros::functions;
use rhai::{Array, Dynamic, ImmutableString, Map};

/// One option of a script's function.
#[derive(Clone)]
pub struct Declaration {
    name: ImmutableString,
    default: Dynamic,
    of: Type,
    doc: ImmutableString,
    changeable: bool,
}

handles! { "Declaration": Declaration; }

impl Declaration {
    fn new(name: ImmutableString, default: Dynamic, of: Type, doc: ImmutableString) -> Result<Self> {
        let new = Self { name, default, of, doc, changeable: false };
        if new.must_be_given() {
            return Ok(new);
        }
        let default =
            new.value(new.default.clone()).with_context(|| format!("option: the default of `{}`", new.name))?;
        Ok(Self { default, ..new })
    }

    /// A default of `()` that the type does not have is none.
    fn must_be_given(&self) -> bool {
        self.default.is_unit() && fit(&self.of, &self.default).is_none()
    }

    /// A value of the option's type.
    fn value(&self, value: Dynamic) -> Result<Dynamic> {
        match (fit(&self.of, &value), &self.of) {
            (Some(value), _) => Ok(value),
            (None, Type::OneOf(names)) if value.is_string() => bail!(unknown_choice(&value.to_string(), names)),
            (None, of) => bail!("expected {}, found {}", of.expected(), found(&value)),
        }
    }

    /// What `nepa api` says of it.
    pub fn doc(&self) -> OptionDoc {
        OptionDoc {
            name: self.name.to_string(),
            of: self.of.clone(),
            default: (!self.must_be_given()).then(|| literal(&self.default)),
            doc: self.doc.to_string(),
        }
    }
}

/// The declarations that an array holds. One of a name that came before takes the earlier one's place, as in
/// `train::declared(#{}) + [option("lr", 5e-3, "…")]`.
pub fn declarations(list: &Array) -> Result<Vec<Declaration>> {
    let mut declared: Vec<Declaration> = Vec::new();
    for entry in list {
        let Some(declaration) = entry.read_lock::<Declaration>().map(|d| d.clone()) else {
            bail!("expected an array of declarations made by option(…), found {} in it", found(entry));
        };
        match declared.iter_mut().find(|earlier| earlier.name == declaration.name) {
            Some(earlier) => *earlier = declaration,
            None => declared.push(declaration),
        }
    }
    Ok(declared)
}

/// The type that a default is of; one of `()` takes anything.
fn type_of_default(default: &Dynamic) -> Type {
    if default.is_unit() { Type::named("any") } else { type_of(default) }
}

/// A type as a declaration writes it: a text, or an array of choices.
fn declared_type(of: &Dynamic) -> Result<Type> {
    if let Some(choices) = of.read_lock::<Array>() {
        let name = |choice: &Dynamic| match choice.clone().into_string() {
            Ok(name) => Ok(name.into()),
            Err(_) => bail!("expected an array of strings as choices, found {} in it", found(choice)),
        };
        return Ok(Type::OneOf(choices.iter().map(name).collect::<Result<_>>()?));
    }
    match of.clone().into_string() {
        Ok(text) => types::parse(&text),
        Err(_) => bail!("expected a type, such as \"int\", or an array of choices, found {}", found(of)),
    }
}

/// The options given to a function, checked against its declarations and completed by their defaults.
fn complete(of: &str, mut given: Map, declared: &[Declaration]) -> Result<Map> {
    let names: Vec<&str> = declared.iter().map(|d| d.name.as_str()).collect();
    known_keys("option", of, given.keys().map(|key| key.as_str()), &names).map_err(Diagnostic::blame_caller)?;
    let value = |d: &Declaration| match given.remove(d.name.as_str()) {
        Some(value) => match d.value(value) {
            Ok(value) => Ok((d.name.as_str().into(), value)),
            Err(e) => {
                let diagnostic = Diagnostic::new(format!("option `{}` of {of}: {e}", d.name));
                Err(diagnostic.blame_caller().at_key(&d.name).into())
            }
        },
        None if d.must_be_given() => {
            Err(Diagnostic::new(format!("the option `{}` of {of} must be given: {}", d.name, d.of.expected()))
                .hint(d.doc.to_string())
                .blame_caller()
                .into())
        }
        None => Ok((d.name.as_str().into(), d.default.clone())),
    };
    declared.iter().map(value).collect()
}

pub fn register(api: &mut Api<'_>) {
    api.globals(
        "options",
        "Options of a script's function, declared once for checking, defaults and `nepa api`. By convention, \
         `fit_options()` returns the declarations of a function `fit` in the same script.",
        functions::register,
    );
    api.methods::<Declaration>("The declaration of an option, made by option(…).", declaration::register);
}

#[functions]
mod functions {
    use super::*;

    /// Declares an option: its name, its default, which determines its type, and its meaning. With a default of `()`,
    /// it takes any value.
    ///
    /// Example: `fn fit_options() { [option("epochs", 10, "passes over the images"), option("lr", 1e-3, "peak rate")] }`
    pub fn option(name: ImmutableString, default: Dynamic, doc: ImmutableString) -> Result<Declaration> {
        let of = type_of_default(&default);
        Declaration::new(name, default, of, doc)
    }

    /// Declares an option with a type: "int", "float", "bool", "string", "array", "map", "function", "Tensor",
    /// "Module", "Source" or another type that `nepa api` shows, a combination ("int or ()", "array of float"), or an
    /// array of strings to choose from. If the default is `()` and the type does not include `()`, the option is
    /// required.
    ///
    /// Example: `option("dtype", "float32", ["float32", "bfloat16"], "dtype of matrix products")`
    #[script(name = "option")]
    pub fn option_of_type(
        name: ImmutableString,
        default: Dynamic,
        of: Dynamic,
        doc: ImmutableString,
    ) -> Result<Declaration> {
        let of = declared_type(&of).with_context(|| format!("option: the type of `{name}`"))?;
        Declaration::new(name, default, of, doc)
    }

    /// Checks the options given by a caller and fills in the declared defaults. Undeclared keys and values of the wrong
    /// type are errors at the caller's line, which name `of`. An int is accepted for a float.
    ///
    /// Example: `fn fit(model, data, given) { let o = options("fit", given, fit_options()); … }`
    pub fn options(of: &str, given: Map, declared: Array) -> Result<Map> {
        complete(of, given, &declarations(&declared).context("options")?)
    }

    /// The names of the declared options that may change when a run is resumed, for `saver.resume`.
    pub fn changeable(declared: Array) -> Result<Vec<String>> {
        let declared = declarations(&declared).context("changeable")?;
        Ok(declared.into_iter().filter(|d| d.changeable).map(|d| d.name.to_string()).collect())
    }
}

#[functions]
mod declaration {
    use super::*;

    /// Marks an option as one that may change when a run is resumed; returns the declaration.
    ///
    /// Example: `option("log_every", 10, "steps between lines in metrics.jsonl").changeable()`
    pub fn changeable(declaration: Declaration) -> Declaration {
        Declaration { changeable: true, ..declaration }
    }

    /// The declaration as text.
    pub fn to_string(declaration: &Declaration) -> String {
        format!("{}: {} = {}", declaration.name, declaration.of, literal(&declaration.default))
    }
}
