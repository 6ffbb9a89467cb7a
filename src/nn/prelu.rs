//! A ReLU with learned negative slopes (He et al., arXiv 1502.01852).

use super::{Context, Module, ModuleVisitor, full};
use crate::error::{Result, ensure};
use tch::Tensor;

/// `weight` [1] or [C], the slopes.
pub struct Prelu {
    weight: Tensor,
}

impl Prelu {
    /// One slope for all channels (`count` 1), or one for each.
    pub fn new(count: i64, start: f64) -> Result<Self> {
        ensure!(count > 0, "prelu needs a positive number of parameters, found {count}");
        Ok(Self { weight: full(&[count], start)? })
    }
}

impl Module for Prelu {
    fn describe(&self) -> String {
        format!("prelu({})", self.weight.size()[0])
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.parameter("weight", &self.weight);
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        Ok(x.f_prelu(&self.weight)?)
    }
}
