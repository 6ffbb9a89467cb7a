//! Registering functions: what `#[functions]` collects of plain Rust functions becomes known to the engine and to the
//! reference alike, so that everything that scripts can call is documented.

use super::docs::{FnDoc, Reference};
use super::error::to_rhai;
use super::types;
use super::values::Tensor;
use crate::error::{Diagnostic, Result, TorchFault, one_line};
use crate::options::OptionDoc;
use crate::tensor::shape_text;
use crate::types::{Type, Typed};
use rhai::{Engine, EvalAltResult, FuncRegistration, Module, Position, RhaiNativeFunc, Variant};
use std::any::Any;

/// The engine, and the reference of what it knows.
pub struct Api<'a> {
    pub engine: &'a mut Engine,
    pub reference: &'a mut Reference,
}

impl Api<'_> {
    /// Functions written `name::function(…)`.
    pub fn namespace(&mut self, name: &'static str, about: &'static str, functions: impl FnOnce(&mut Namespace<'_>)) {
        let module = self.register(name, true, about, functions);
        self.engine.register_static_module(name, module.into());
    }

    /// Functions written without a namespace, under a heading of the reference.
    pub fn globals(&mut self, heading: &'static str, about: &'static str, functions: impl FnOnce(&mut Namespace<'_>)) {
        let module = self.register(heading, false, about, functions);
        self.engine.register_global_module(module.into());
    }

    /// A type with its methods.
    pub fn methods<T: Typed + Variant + Clone>(
        &mut self,
        about: &'static str,
        functions: impl FnOnce(&mut Namespace<'_>),
    ) {
        let name = self.named_type::<T>();
        self.globals(name, about, functions);
    }

    /// A type whose functions stand under another heading; gives its name.
    pub fn named_type<T: Typed + Variant + Clone>(&mut self) -> &'static str {
        types::register::<T>(self.engine)
    }

    fn register(
        &mut self,
        name: &'static str,
        qualified: bool,
        about: &'static str,
        functions: impl FnOnce(&mut Namespace<'_>),
    ) -> Module {
        self.reference.groups.push((name, about));
        let mut namespace = Namespace { module: Module::new(), reference: self.reference, name, qualified };
        functions(&mut namespace);
        namespace.module
    }
}

/// Functions on their way into the engine, which stand together in the reference.
pub struct Namespace<'a> {
    /// What the engine gets.
    pub module: Module,
    pub(super) reference: &'a mut Reference,
    pub(super) name: &'static str,
    pub(super) qualified: bool,
}

/// The documentation of a function.
pub struct Signature {
    pub name: &'static str,
    pub doc: &'static [&'static str],
    pub params: Vec<(&'static str, Type)>,
    pub returns: Type,
    /// The options that each parameter takes as a map.
    pub options: Vec<Vec<OptionDoc>>,
}

impl Namespace<'_> {
    /// What an error calls a function: `nn::linear`, but `sum` for a method or a global function.
    pub fn error_name(&self, function: &str) -> String {
        match self.qualified {
            true => format!("{}::{function}", self.name),
            false => function.to_string(),
        }
    }

    /// Registers a function.
    pub fn add<A: 'static, const N: usize, const X: bool, R: Variant + Clone, const F: bool>(
        &mut self,
        signature: Signature,
        function: impl RhaiNativeFunc<A, N, X, R, F> + 'static,
    ) {
        let Signature { name, doc, params, returns, options } = signature;
        FuncRegistration::new(name).with_volatility(true).set_into_module(&mut self.module, function);
        let params = params.into_iter().map(|(name, of)| (name, of.to_string())).collect();
        let (group, qualified, returns) = (self.name, self.qualified, returns.to_string());
        let options_at = options.iter().position(|options| !options.is_empty());
        let (doc, options) = (doc.to_vec(), options.concat());
        self.reference.functions.push(FnDoc {
            group,
            qualified,
            name,
            params,
            returns,
            doc,
            options,
            options_at,
            optional: Vec::new(),
        });
    }
}

/// The tensor that an argument is, to be shown in an error.
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
