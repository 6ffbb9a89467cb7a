//! Modules that a script defines.

use crate::bail_hint;
use crate::error::{Result, bail};
use crate::nn::{self, Context, ModuleVisitor};
use crate::script::values::{Module, Tensor, call, found, modules};
use crate::tensor::shape_text;
use rhai::{Array, Dynamic, FnPtr, Map};
use std::cell::{Cell, RefCell};

thread_local! {
    /// The contexts of the script modules whose forward functions are under way.
    static OUTER: RefCell<Vec<Context>> = const { RefCell::new(Vec::new()) };
}

/// Holds a context on [`OUTER`] for as long as it lives, also when the function fails.
struct Outer;

impl Outer {
    fn enter(cx: Context) -> Self {
        OUTER.with_borrow_mut(|outer| outer.push(cx));
        Outer
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        OUTER.with_borrow_mut(|outer| outer.pop());
    }
}

/// The context of the innermost script module under way, or a fresh one.
pub fn outer_context() -> Context {
    OUTER.with_borrow(|outer| outer.last().cloned()).unwrap_or_default()
}

/// A module that a script defines: its parts and a forward function.
pub struct ScriptModule {
    parts: Vec<(String, Member)>,
    forward: FnPtr,
    training: Cell<bool>,
}

/// What a script's module holds under a name.
enum Member {
    Parameter(Tensor),
    Module(Module),
    /// An array of modules, named by their places.
    Modules(Vec<nn::ModuleRef>),
    /// Anything else that the forward function wants at hand.
    Value(Dynamic),
}

impl ScriptModule {
    /// A module of the given parts, which `forward` gets as a map, beside the input.
    pub fn new(parts: Map, forward: FnPtr) -> Result<Self> {
        let mut own = Vec::new();
        for (name, value) in parts {
            if ["training", "rotary"].contains(&name.as_str()) {
                bail!(
                    "nn::define: the part name `{name}` is reserved: the forward function gets the mode or the \
                     angles under it"
                );
            }
            let part = if let Some(t) = value.read_lock::<Tensor>() {
                if !matches!(t.kind(), tch::Kind::Float | tch::Kind::Double) {
                    bail_hint!(
                        "nn::define: the parameter `{name}` is {}, but parameters are floats", shape_text(&t);
                        "use .to(\"float32\")"
                    );
                }
                Member::Parameter(t.f_detach()?.f_set_requires_grad(true)?.into())
            } else if let Some(m) = value.read_lock::<Module>() {
                Member::Module(m.clone())
            } else if let Some(list) = value.read_lock::<Array>()
                && list.iter().any(|v| v.is::<Module>() || v.is::<Tensor>())
            {
                // Modules in an array are parts too; tensors there would not be trained.
                Member::Modules(modules(&list, &format!("nn::define: the part `{name}`"))?)
            } else if let Some(map) = value.read_lock::<Map>()
                && map.values().any(|v| v.is::<Module>() || v.is::<Tensor>())
            {
                bail_hint!(
                    "nn::define: the part `{name}` is a map with modules or tensors in it, which would not be trained";
                    "make them parts themselves, or put modules in an array"
                );
            } else {
                Member::Value(value.clone())
            };
            own.push((name.to_string(), part));
        }
        Ok(Self { parts: own, forward, training: Cell::new(true) })
    }
}

impl nn::Module for ScriptModule {
    fn describe(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|p| p.0.as_str()).collect();
        format!("module({})", names.join(", "))
    }

    fn visit(&self, parts: &mut ModuleVisitor<'_>) {
        parts.training(&self.training);
        for (name, part) in &self.parts {
            match part {
                Member::Parameter(t) => parts.parameter(name, t),
                Member::Module(m) => parts.child(name, m.0.as_ref()),
                Member::Modules(list) => {
                    for (i, m) in list.iter().enumerate() {
                        parts.child(&format!("{name}.{i}"), m.as_ref());
                    }
                }
                Member::Value(_) => {}
            }
        }
    }

    fn forward(&self, x: &tch::Tensor, cx: &Context) -> Result<tch::Tensor> {
        let mut own = Map::new();
        for (name, part) in &self.parts {
            let value = match part {
                Member::Parameter(t) => Dynamic::from(t.clone()),
                Member::Module(m) => Dynamic::from(m.clone()),
                Member::Modules(list) => {
                    list.iter().map(|m| Dynamic::from(Module(m.clone()))).collect::<Array>().into()
                }
                Member::Value(v) => v.clone(),
            };
            own.insert(name.as_str().into(), value);
        }
        own.insert("training".into(), self.training.get().into());
        let rotary = cx.rotary.as_ref().map(|r| Dynamic::from(Tensor::from(r.shallow_clone())));
        own.insert("rotary".into(), rotary.unwrap_or(Dynamic::UNIT));
        let x = Tensor::from(x.shallow_clone());
        // Blocks called in there see the same angles, grid and taps as they would in its place.
        let _outer = Outer::enter(cx.clone());
        let result = call(&self.forward, (own, x))?;
        let Some(t) = result.read_lock::<Tensor>() else {
            bail_hint!(
                "the forward function of {} must return a tensor, found {}", self.describe(), found(&result);
                "its last expression is its value"
            );
        };
        Ok(t.shallow_clone())
    }
}
