//! Functions some of whose arguments may be left out, or be given by name: `pad(x, [1, 1], #{ mode: "reflect" })`.

use super::confined;
use super::docs::{FnDoc, Optional};
use super::registry::{Namespace, call_guarded, tensor_of};
use super::types::Argument;
use super::values::{Tensor, literal};
use crate::bail_hint;
use crate::error::{Result, bail};
use crate::options::{OptionDoc, known_keys};
use crate::types::Type;
use rhai::{Dynamic, FuncRegistration, Map, Module, NativeCallContext, RhaiFunc};
use std::any::TypeId;
use std::rc::Rc;

/// What `#[functions]` makes of a function with defaults.
pub type Native = fn(&Arguments<'_>) -> Result<Dynamic>;

/// A function with defaults, as it is declared.
pub struct Declared {
    /// The name that scripts know.
    pub name: &'static str,
    /// Its documentation, line by line.
    pub doc: &'static [&'static str],
    /// Its parameters.
    pub params: Vec<Param>,
    /// The type of its value.
    pub returns: Type,
}

/// A parameter of such a function.
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// The type that its users know.
    pub of: Type,
    /// The type by which Rhai chooses among functions of one name; used of the first parameter.
    pub raw: TypeId,
    /// The value that it has where it is left out.
    pub default: Option<Dynamic>,
    /// Whether it is given by name alone.
    pub by_name: bool,
}

/// The arguments of a call, one for each parameter.
pub struct Arguments<'a> {
    of: &'a str,
    params: &'a [Param],
    values: Vec<Dynamic>,
}

impl Arguments<'_> {
    /// The argument at a place.
    pub fn read<T: Argument>(&self, place: usize) -> Result<T> {
        T::read_value(&self.values[place], &format!("{}: `{}`", self.of, self.params[place].name))
    }
}

impl Namespace<'_> {
    /// Registers a function some of whose arguments may be left out, or be given by name in a map that comes last.
    pub fn add_with_defaults(&mut self, declared: Declared, function: Native) {
        let called = self.error_name(declared.name);
        self.reference.functions.push(declared.documentation(self.name, self.qualified));
        declared.register(&mut self.module, called, function);
    }
}

impl Declared {
    /// A function without parameters so far.
    #[inline(never)]
    pub fn new(name: &'static str, doc: &'static [&'static str], returns: Type) -> Self {
        Self { name, doc, params: Vec::new(), returns }
    }

    /// Declares the next parameter.
    #[inline(never)]
    pub fn add<T: Argument>(&mut self, name: &'static str, default: Option<Dynamic>, by_name: bool) {
        let (of, raw) = (T::script_type(), TypeId::of::<T::Raw>());
        self.params.push(Param { name, of, raw, default, by_name });
    }

    /// What the reference says of the function.
    pub fn documentation(&self, group: &'static str, qualified: bool) -> FnDoc {
        let optional = |param: &Param| Optional {
            option: OptionDoc {
                name: param.name.to_string(),
                of: param.of.clone(),
                default: param.default.as_ref().map(literal),
                doc: format!("the argument `{}`", param.name),
            },
            by_name: param.by_name,
        };
        FnDoc {
            group,
            qualified,
            name: self.name,
            params: self.params.iter().map(|param| (param.name, param.of.to_string())).collect(),
            returns: self.returns.to_string(),
            doc: self.doc.to_vec(),
            options: Vec::new(),
            options_at: None,
            optional: self.params.iter().map(optional).collect(),
        }
    }

    /// Makes the function known to the engine, once for each number of arguments; errors call it `called`.
    pub fn register(self, module: &mut Module, called: String, function: Native) {
        let by_place = self.params.iter().filter(|param| !param.by_name).count();
        let declared = Rc::new(self);
        // The first argument's type tells functions of one name apart, unless it may be left out.
        let needed = usize::from(declared.params[0].default.is_none());
        for count in needed..=by_place + 1 {
            let (of, called) = (declared.clone(), called.clone());
            let mut types = vec![TypeId::of::<Dynamic>(); count];
            if let Some(first) = types.first_mut().filter(|_| needed == 1) {
                *first = declared.params[0].raw;
            }
            let run = move |context: Option<NativeCallContext<'_>>, given: &mut [&mut Dynamic]| {
                let given: Vec<Dynamic> = given.iter().map(|value| value.flatten_clone()).collect();
                let tensors: Vec<Option<Tensor>> =
                    given.iter().map(|value| value.read_lock::<Tensor>().and_then(|t| tensor_of(&*t))).collect();
                let position = context.map_or(rhai::Position::NONE, |context| context.call_position());
                let body = || {
                    confined::check(&called)?;
                    function(&Arguments { of: &called, params: &of.params, values: of.complete(&called, given)? })
                };
                call_guarded(body, &tensors, position)
            };
            FuncRegistration::new(declared.name).set_into_module_raw(
                module,
                types,
                RhaiFunc::Method { func: Rc::new(run), has_context: true, is_pure: true, is_volatile: true },
            );
        }
    }

    /// A value for each parameter, of those given by place and then by name in a map.
    fn complete(&self, called: &str, mut given: Vec<Dynamic>) -> Result<Vec<Dynamic>> {
        let by_place = self.params.iter().filter(|param| !param.by_name).count();
        let named = match given.last().is_some_and(|last| last.is_map()) {
            true => given.pop().and_then(|last| last.try_cast::<Map>()).unwrap_or_default(),
            false => Map::new(),
        };
        if given.len() > by_place {
            bail_hint!(
                "{called}: expected at most {by_place} arguments and a map, found {}", given.len();
                "the last argument may be a map of arguments by name: {called}(…, #{{ {}: … }})",
                self.params.last().map_or("", |param| param.name)
            );
        }
        if let Some(twice) = self.params[..given.len()].iter().find(|param| named.contains_key(param.name)) {
            bail!("{called}: `{}` is given twice, by its place and by its name", twice.name);
        }
        let open: Vec<&str> = self.params[given.len()..].iter().map(|param| param.name).collect();
        known_keys("option", called, named.keys().map(|key| key.as_str()), &open)?;
        let count = given.len();
        let rest = self.params[count..].iter().map(|param| match (named.get(param.name), &param.default) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => bail!("{called}: `{}` is missing: expected {}", param.name, param.of.expected()),
        });
        let rest: Vec<Dynamic> = rest.collect::<Result<_>>()?;
        given.extend(rest);
        Ok(given)
    }
}
