//! LayerScale: a learned factor per channel on a residual branch (Touvron et al., arXiv 2103.17239).

use super::{Context, Module, ModuleVisitor, full};
use crate::error::Result;
use tch::Tensor;

/// x ⊙ `lambda1` [D].
pub struct LayerScale {
    pub(super) lambda1: Tensor,
}

impl LayerScale {
    /// `hidden_size` factors that start at `start`.
    pub fn new(hidden_size: i64, start: f64) -> Result<Self> {
        Ok(Self { lambda1: full(&[hidden_size], start)? })
    }
}

impl Module for LayerScale {
    fn describe(&self) -> String {
        format!("layer_scale({})", self.lambda1.size()[0])
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.parameter("lambda1", &self.lambda1);
    }

    fn flops(&self, _tokens: i64) -> Option<i64> {
        Some(0)
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        Ok(x.f_mul(&self.lambda1)?)
    }
}
