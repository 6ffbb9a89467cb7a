//! Stochastic depth per sample (Huang et al., arXiv 1603.09382): in training a residual branch is
//! dropped with the given probability, and kept branches are divided by the keep probability.

use super::{Context, Module, ModuleVisitor};
use crate::device::upload;
use crate::error::{Context as _, Result, ensure};
use crate::random::{self, Key};
use std::cell::Cell;
use tch::{Kind, Tensor};

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

    /// What `n` samples, or rows of samples, are multiplied with: 0, or 1 / keep, float32 [n] on the CPU. `None` where nothing
    /// is dropped.
    fn draw(&self, n: i64) -> Result<Option<Tensor>> {
        if self.prob == 0.0 || !self.training.get() {
            return Ok(None);
        }
        let keep = 1.0 - self.prob;
        let mask = random::next_per_sample(&[n], Key::uniform)?.f_lt(keep)?.f_to_kind(Kind::Float)?;
        Ok(Some(mask.f_mul_scalar(1.0 / keep)?))
    }

    /// What the samples of `x` [B, …] are multiplied with, [B, 1, …] in its dtype and on its device: the mask that was drawn
    /// for a stack of blocks, or one that is drawn now. `None` where nothing is dropped.
    pub(super) fn mask(&self, x: &Tensor, drawn: Option<&Tensor>) -> Result<Option<Tensor>> {
        let n = samples_of(x)?;
        let mask = match drawn {
            Some(mask) => Some(mask.shallow_clone()),
            None => self.draw(n)?.map(|mask| upload(&mask, x.device())).transpose()?,
        };
        let mut shape = vec![1; x.dim()];
        shape[0] = n;
        mask.map(|mask| Ok(mask.f_view(shape.as_slice())?.f_to_kind(x.kind())?)).transpose()
    }

    /// `x` [B, …] times its mask, as [`DropPath::mask`] takes it.
    pub(super) fn apply(&self, x: &Tensor, drawn: Option<&Tensor>) -> Result<Tensor> {
        Ok(match self.mask(x, drawn)? {
            Some(mask) => x.f_mul(&mask)?,
            None => x.shallow_clone(),
        })
    }
}

/// The masks of a block's two branches, [B]; `None` where nothing is dropped.
pub(super) type BranchMasks = Option<[Tensor; 2]>;

/// The masks of a stack of blocks for the samples of `x` [B, …], of which those that have no drop path of their own are
/// `None`. They go to the device in one upload.
pub(super) fn masks_of_stack(paths: &[Option<&DropPath>], x: &Tensor) -> Result<Vec<BranchMasks>> {
    let n = samples_of(x)?;
    let mut drawn = Vec::new();
    let mut has_masks = Vec::with_capacity(paths.len());
    for path in paths {
        let before = drawn.len();
        for _branch in 0..2 {
            drawn.extend(path.map(|path| path.draw(n)).transpose()?.flatten());
        }
        has_masks.push(drawn.len() > before);
    }
    if drawn.is_empty() {
        return Ok(has_masks.iter().map(|_| None).collect());
    }
    let mut masks = upload(&Tensor::f_stack(&drawn, 0)?, x.device())?.f_unbind(0)?.into_iter();
    let mut next = || masks.next().expect("two for each block that has masks");
    Ok(has_masks.into_iter().map(|has| has.then(|| [next(), next()])).collect())
}

fn samples_of(x: &Tensor) -> Result<i64> {
    x.size().first().copied().context("drop_path drops samples: expected a tensor [B, …], found a scalar")
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
        self.apply(x, None)
    }
}
