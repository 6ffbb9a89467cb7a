//! Dropout (Srivastava et al. 2014): in training elements, or whole channels, are set to 0 with the given probability,
//! and the others are divided by the probability to be kept.

use super::{Context, Module, ModuleVisitor};
use crate::device::upload;
use crate::error::{Result, ensure};
use crate::random::{self, Key};
use crate::tensor::shape_text;
use std::cell::Cell;
use tch::Tensor;

/// What is dropped as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Each element by itself.
    Elements,
    /// Whole channels of [B, C, …].
    Channels,
}

/// `x` with some of it dropped, if `training`. Samples, the first dimension, draw by their positions in the global
/// batch, also where each has several rows.
pub fn dropped(x: &Tensor, p: f64, training: bool, what: Dropped) -> Result<Tensor> {
    ensure!((0.0..=1.0).contains(&p), "dropout: expected a probability in 0 to 1, found {p}");
    if p == 0.0 || !training {
        return Ok(x.shallow_clone());
    }
    let mut shape = x.size();
    if what == Dropped::Channels {
        ensure!(x.dim() >= 2, "dropout of channels: expected [B, C, ...], found {}", shape_text(x));
        shape[2..].fill(1);
    }
    let keep = 1.0 - p;
    let mask = upload(&drawn_for(&shape)?, x.device())?.f_lt(keep)?.f_to_kind(x.kind())?;
    let factor = if keep > 0.0 { 1.0 / keep } else { 0.0 };
    Ok(x.f_mul(&mask.f_mul_scalar(factor)?)?)
}

/// Uniform float32 values in [0, 1) of a shape whose first dimension, if it has any, are samples.
pub fn drawn_for(shape: &[i64]) -> Result<Tensor> {
    match shape.is_empty() {
        true => random::next_key().uniform(shape),
        false => random::next_per_sample(shape, Key::uniform),
    }
}

/// [B, …] -> [B, …]; no parameters.
pub struct Dropout {
    p: f64,
    what: Dropped,
    name: &'static str,
    training: Cell<bool>,
}

impl Dropout {
    /// Dropout of probability `p`, in 0 to 1; `name` is what it is called in a printed model.
    pub fn new(p: f64, what: Dropped, name: &'static str) -> Result<Self> {
        ensure!((0.0..=1.0).contains(&p), "{name}: expected a probability in 0 to 1, found {p}");
        Ok(Self { p, what, name, training: Cell::new(true) })
    }
}

impl Module for Dropout {
    fn describe(&self) -> String {
        format!("{}({})", self.name, self.p)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.training(&self.training);
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        dropped(x, self.p, self.training.get(), self.what)
    }
}
