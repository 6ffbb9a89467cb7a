//! Optimizers, learning-rate schedules, gradient clipping and weight averages.

mod algorithms;
mod ema;
mod finite;
mod optimizer;
mod schedule;

pub use algorithms::{
    AdamwOptions, LambOptions, LarsOptions, LionOptions, MuonOptions, OptimizerKind, OptimizerOptions,
    ParamGroupOptions, PatternGroup, SgdOptions,
};
pub use ema::{Ema, EmaOptions};
pub use finite::FiniteCheck;
pub use optimizer::{Optimizer, ParamGroup};
pub use schedule::{Schedule, ScheduleKind, ScheduleOptions};

use crate::error::{Result, ensure};
use crate::ffi;
use crate::nn::{Module, named_parameters};
use tch::Tensor;

/// The gradients that exist, of the parameters that are trained.
fn gradients(module: &dyn Module) -> Vec<Tensor> {
    let named = named_parameters(module);
    named.iter().filter(|(_, p)| p.requires_grad()).map(|(_, p)| p.grad()).filter(Tensor::defined).collect()
}

/// Scales all gradients so that their common 2-norm is at most `max_norm`; returns the norm before,
/// as PyTorch's `clip_grad_norm_` does.
pub fn clip_grad_norm(module: &dyn Module, max_norm: f64) -> Result<Tensor> {
    ensure!(max_norm > 0.0, "clip_grad_norm needs a positive limit, found {max_norm}");
    let grads = gradients(module);
    let norm = ffi::global_norm(&grads)?;
    let factor = norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(max_norm)?.f_clamp_max(1.0)?;
    ffi::scale(&grads, &factor)?;
    Ok(norm)
}

/// Clamps each element of all gradients to −`clip_value` to `clip_value`, as PyTorch's `clip_grad_value_` does.
pub fn clip_grad_value(module: &dyn Module, clip_value: f64) -> Result<()> {
    ensure!(clip_value > 0.0, "clip_grad_value needs a positive limit, found {clip_value}");
    for mut grad in gradients(module) {
        let _ = grad.f_clamp_(-clip_value, clip_value)?;
    }
    Ok(())
}

/// The common 2-norm of all gradients.
pub fn grad_norm(module: &dyn Module) -> Result<Tensor> {
    ffi::global_norm(&gradients(module))
}

/// Drops every gradient of the module.
pub fn zero_grad(module: &dyn Module) -> Result<()> {
    let parameters: Vec<Tensor> = named_parameters(module).into_iter().map(|(_, p)| p).collect();
    ffi::clear_grads(&parameters)
}
