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

    /// What the samples of `x` [B, …] are multiplied with, [B, 1, …] in its dtype and on its device: 0, or 1 / keep.
    /// `None` where nothing is dropped.
    pub(super) fn mask(&self, x: &Tensor) -> Result<Option<Tensor>> {
        if self.prob == 0.0 || !self.training.get() {
            return Ok(None);
        }
        let keep = 1.0 - self.prob;
        let mut shape = vec![1; x.dim()];
        shape[0] = x.size()[0];
        let mask = random::next_per_sample(&shape)?.f_lt(keep)?.f_to_kind(x.kind())?;
        Ok(Some(upload(&mask.f_mul_scalar(1.0 / keep)?, x.device())?))
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
        Ok(match self.mask(x)? {
            Some(mask) => x.f_mul(&mask)?,
            None => x.shallow_clone(),
        })
    }
}
