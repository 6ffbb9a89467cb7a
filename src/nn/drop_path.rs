//! Stochastic depth per sample (Huang et al., arXiv 1603.09382): in training a residual branch is
//! dropped with the given probability, and kept branches are divided by the keep probability.

use super::{Context, Module, ModuleVisitor};
use crate::device::upload;
use crate::error::{Result, ensure};
use crate::random;
use std::cell::Cell;
use tch::Tensor;

/// [B, …] -> [B, …]; no parameters.
pub struct DropPath {
    prob: f64,
    training: Cell<bool>,
}

impl DropPath {
    /// A drop path of probability `prob`, in [0, 1).
    pub fn new(prob: f64) -> Result<Self> {
        ensure!((0.0..1.0).contains(&prob), "a drop_path probability must lie in [0, 1), found {prob}");
        Ok(Self { prob, training: Cell::new(true) })
    }
}

impl Module for DropPath {
    fn describe(&self) -> String {
        format!("drop_path({})", self.prob)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.training(&self.training);
    }

    fn flops(&self, _tokens: i64) -> Option<i64> {
        Some(0)
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        if self.prob == 0.0 || !self.training.get() {
            return Ok(x.shallow_clone());
        }
        let keep = 1.0 - self.prob;
        let mut shape = vec![1; x.dim()];
        shape[0] = x.size()[0];
        let mask = random::next_per_sample(&shape)?.f_lt(keep)?.f_to_kind(x.kind())?;
        Ok(x.f_mul(&upload(&mask.f_mul_scalar(1.0 / keep)?, x.device())?)?)
    }
}
