//! Modules that a script defines.

use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean};
use crate::nn::{self, Context, ModuleVisitor};
use crate::options;
use crate::script::confined;
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

options! {
    /// What a module of a script says of itself.
    pub struct DefineOptions {
        /// The name of the part, an array of modules, that are its blocks: its forward function applies them one after
        /// the other. Their parameters then have the learning rates of their layers, and an encoder has this depth.
        blocks: Option<String> = None,
        /// Floating-point operations of one image's forward pass: of matrix products, a multiplication with its addition
        /// as two. () means unknown.
        flops: Option<i64> = None,
    }
}

/// A module that a script defines: its parts and a forward function.
pub struct ScriptModule {
    parts: Vec<(String, Member)>,
    forward: FnPtr,
    options: DefineOptions,
    training: Cell<bool>,
    /// Whether a model's script has made it.
    confined: bool,
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
    pub fn new(parts: Map, forward: FnPtr, options: DefineOptions) -> Result<Self> {
        let mut own = Vec::new();
        for (name, value) in parts {
            if RESERVED.contains(&name.as_str()) {
                bail!(
                    "nn::define: the part name `{name}` is reserved: the forward function gets the mode, the angles or \
                     what is wanted under it"
                );
            }
            let part = if let Some(t) = value.read_lock::<Tensor>() {
                if !matches!(t.kind(), tch::Kind::Float | tch::Kind::Double) {
                    bail_hint!(
                        "nn::define: the parameter `{name}` is {}, but parameters are floats", shape_text(&t);
                        "use .to(\"float32\")"
                    );
                }
                // Optimizers and averages take its values in the order of memory: a view gets memory of its own.
                Member::Parameter(t.f_detach()?.f_contiguous()?.f_set_requires_grad(true)?.into())
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
        if let Some(blocks) = &options.blocks
            && !own.iter().any(|(name, part)| name == blocks && matches!(part, Member::Modules(_)))
        {
            let arrays =
                own.iter().filter(|(_, part)| matches!(part, Member::Modules(_))).map(|(name, _)| name.as_str());
            bail!("nn::define: blocks: no part `{blocks}` is an array of modules{}", did_you_mean(blocks, arrays));
        }
        Ok(Self { parts: own, forward, options, training: Cell::new(true), confined: confined::is_inside() })
    }

    /// The parts by name, as the forward function gets them.
    pub fn parts(&self) -> Map {
        let value = |part: &Member| match part {
            Member::Parameter(t) => Dynamic::from(t.clone()),
            Member::Module(m) => Dynamic::from(m.clone()),
            Member::Modules(list) => list.iter().map(|m| Dynamic::from(Module(m.clone()))).collect::<Array>().into(),
            Member::Value(v) => v.clone(),
        };
        self.parts.iter().map(|(name, part)| (name.as_str().into(), value(part))).collect()
    }

    fn is_blocks(&self, name: &str) -> bool {
        self.options.blocks.as_deref() == Some(name)
    }
}

/// What the forward function gets beside the parts.
const RESERVED: [&str; 3] = ["training", "rotary", "want_attentions"];

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
                        match self.is_blocks(name) {
                            true => parts.block(&format!("{name}.{i}"), m.as_ref()),
                            false => parts.child(&format!("{name}.{i}"), m.as_ref()),
                        }
                    }
                }
                Member::Value(_) => {}
            }
        }
    }

    /// That of its blocks, or else of the stack that is one of its parts.
    fn depth(&self) -> Option<i64> {
        let of = |(name, part): &(String, Member)| match part {
            Member::Modules(list) if self.is_blocks(name) => Some(list.len() as i64),
            Member::Module(m) if self.options.blocks.is_none() => m.0.depth(),
            _ => None,
        };
        self.parts.iter().filter_map(of).reduce(|a, b| a + b)
    }

    fn flops(&self, _tokens: i64) -> Option<i64> {
        self.options.flops
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn forward(&self, x: &tch::Tensor, cx: &Context) -> Result<tch::Tensor> {
        let mut own = self.parts();
        own.insert("training".into(), self.training.get().into());
        let rotary = cx.rotary.as_ref().map(|r| Dynamic::from(Tensor::from(r.shallow_clone())));
        own.insert("rotary".into(), rotary.unwrap_or(Dynamic::UNIT));
        let wants = cx.taps.as_ref().is_some_and(|taps| taps.want_attentions);
        own.insert("want_attentions".into(), wants.into());
        let x = Tensor::from(x.shallow_clone());
        // Blocks called in there see the same angles, grid and taps as they would in its place.
        let _outer = Outer::enter(cx.clone());
        let run = || call(&self.forward, (own, x));
        let result = if self.confined { confined::enter(run) } else { run() }?;
        let Some(t) = result.read_lock::<Tensor>() else {
            bail_hint!(
                "the forward function of {} must return a tensor, found {}", self.describe(), found(&result);
                "its last expression is its value"
            );
        };
        Ok(t.shallow_clone())
    }
}
