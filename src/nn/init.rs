//! Initial values.

use crate::error::Result;
use crate::random;
use tch::Tensor;

/// A new parameter, normal with mean 0 and deviation `std`, cut off at ±2, drawn from the run's
/// generator: the reference's initialisation (Hugging Face ViT, `initializer_range`). With
/// deviations of 0.02 the cut lies 100 deviations out, so clamping equals redrawing.
pub fn trunc_normal(shape: &[i64], std: f64) -> Result<Tensor> {
    let values = random::next_key().normal(shape)?.f_mul_scalar(std)?.f_clamp(-2.0, 2.0)?;
    super::parameter(values)
}
