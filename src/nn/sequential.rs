//! Modules one after the other, named by their index: `0`, `1`, …

use super::{Context, Module, ModuleRef, ModuleVisitor};
use crate::error::{Context as _, Result};
use tch::Tensor;

/// Each module takes what the one before it gives.
pub struct Sequential {
    modules: Vec<ModuleRef>,
}

impl Sequential {
    /// The given modules in their order.
    pub fn new(modules: Vec<ModuleRef>) -> Self {
        Self { modules }
    }
}

impl Module for Sequential {
    fn describe(&self) -> String {
        format!("sequential({} modules)", self.modules.len())
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        for (i, module) in self.modules.iter().enumerate() {
            visitor.child(&i.to_string(), module.as_ref());
        }
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        let mut x = x.shallow_clone();
        for (i, module) in self.modules.iter().enumerate() {
            x = module.forward(&x, cx).with_context(|| format!("in sequential, module {i}"))?;
        }
        Ok(x)
    }

    fn depth(&self) -> Option<i64> {
        self.modules.iter().filter_map(|m| m.depth()).reduce(|a, b| a + b)
    }

    fn flops(&self, tokens: i64) -> Option<i64> {
        self.modules.iter().map(|m| m.flops(tokens)).sum()
    }

    fn grid(&self, images: &Tensor) -> Option<(i64, i64)> {
        self.modules.iter().find_map(|m| m.grid(images))
    }
}
