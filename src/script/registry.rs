//! Registering functions: one macro gives each its name, parameters, documentation and body, so
//! that none can be without.

use super::docs::{FnDoc, Reference};
use super::error::to_rhai;
use super::values::Tensor;
use crate::error::{Diagnostic, Result, TorchFault, one_line};
use crate::options::Options;
use crate::tensor::shape_text;
use rhai::{Engine, EvalAltResult, Module, Position};
use std::any::Any;

/// Functions on their way into the engine: one namespace, or the global functions and methods.
pub struct Group<'a> {
    pub module: Module,
    pub reference: &'a mut Reference,
    pub name: &'static str,
    pub qualified: bool,
}

impl<'a> Group<'a> {
    /// Functions written `name::function(…)`.
    pub fn namespace(reference: &'a mut Reference, name: &'static str, about: &'static str) -> Self {
        reference.groups.push((name, about));
        Self { module: Module::new(), reference, name, qualified: true }
    }

    /// Global functions, or the methods of the type `name`.
    pub fn global(reference: &'a mut Reference, name: &'static str, about: &'static str) -> Self {
        reference.groups.push((name, about));
        Self { module: Module::new(), reference, name, qualified: false }
    }

    /// Documents the options that a function of this group takes.
    pub fn options<T: Options>(&mut self, function: &'static str) {
        self.reference.options.insert(function, T::docs());
    }

    pub fn register(self, engine: &mut Engine) {
        match self.qualified {
            true => engine.register_static_module(self.name, self.module.into()),
            false => engine.register_global_module(self.module.into()),
        };
    }

    pub fn document(
        &mut self,
        name: &'static str,
        params: &[(&'static str, &str)],
        returns: &str,
        doc: &'static [&'static str],
    ) {
        use super::docs::rust_type_words;
        self.reference.functions.push(FnDoc {
            group: self.name,
            qualified: self.qualified,
            name,
            params: params.iter().map(|(n, t)| (*n, rust_type_words(t))).collect(),
            returns: rust_type_words(returns),
            doc: doc.to_vec(),
        });
    }
}

/// The tensor that an argument is, to be told in an error.
pub fn tensor_of(argument: &dyn Any) -> Option<Tensor> {
    argument.downcast_ref::<Tensor>().cloned()
}

/// Runs a function's body. libtorch's complaints get the shapes and dtypes of what was given; a
/// panic, in tch or in our own code, becomes an error too, since Rhai cannot be unwound through.
pub fn call_guarded<R>(
    body: impl FnOnce() -> Result<R>,
    given: &[Option<Tensor>],
    position: Position,
) -> std::result::Result<R, Box<EvalAltResult>> {
    let result = crate::error::catch_panic(body);
    result.map_err(|error| {
        let from_torch = error.chain().any(|cause| cause.is::<tch::TchError>() || cause.is::<TorchFault>());
        let shapes: Vec<String> = given.iter().flatten().map(|t| shape_text(t)).collect();
        let error = match from_torch && !shapes.is_empty() {
            true => Diagnostic::new(format!("{} (given {})", one_line(&error), shapes.join(" and "))).into(),
            false => error,
        };
        to_rhai(error, position)
    })
}

/// Registers functions in a [`Group`]:
///
/// ```ignore
/// functions! { group;
///     /// What it does, shapes, dtypes, defaults.
///     "matmul" (a: Tensor, b: Tensor) -> Tensor { ok(a.f_matmul(&b)?) }
/// }
/// ```
///
/// The body is a block of type `Result<return type>`.
#[macro_export]
macro_rules! functions {
    ($group:expr; $( $(#[doc = $doc:literal])+ $name:literal ( $($arg:ident : $ty:ty),* $(,)? ) -> $ret:ty $body:block )*) => {
        $({
            const DOC: &[&str] = &[$($doc),+];
            $group.document($name, &[$((stringify!($arg), stringify!($ty))),*], stringify!($ret), DOC);
            let comments = DOC.iter().map(|line| format!("///{line}"));
            let params = [$(format!("{}: {}", stringify!($arg), $crate::script::docs::rust_type_words(stringify!($ty))),)*
                $crate::script::docs::rust_type_words(stringify!($ret))];
            rhai::FuncRegistration::new($name)
                .with_comments(comments)
                .with_params_info(params)
                .with_volatility(true)
                .set_into_module(
                    &mut $group.module,
                    move |cx: rhai::NativeCallContext<'_>, $($arg: $ty),*|
                        -> ::std::result::Result<$ret, Box<rhai::EvalAltResult>> {
                        let given = [$($crate::script::registry::tensor_of(&$arg)),*];
                        let body = move || -> $crate::error::Result<$ret> { $body };
                        $crate::script::registry::call_guarded(body, &given, cx.call_position())
                    },
                );
        })*
    };
}
