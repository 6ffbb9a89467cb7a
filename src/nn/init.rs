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

/// Normal values cut off at `low` and `high`, by the inverse of the distribution function, as PyTorch draws them.
pub fn truncated_normal(shape: &[i64], mean: f64, std: f64, low: f64, high: f64) -> Result<Tensor> {
    // Where the distribution function stands at a value, from −1 to 1.
    let place =
        |x: f64| -> Result<f64> { Ok(Tensor::from((x - mean) / std / 2f64.sqrt()).f_erf()?.f_double_value(&[])?) };
    let (from, to) = (place(low)?, place(high)?);
    let uniform = random::next_key().uniform(shape)?.f_to_kind(tch::Kind::Double)?;
    let values = uniform.f_mul_scalar(to - from)?.f_add_scalar(from)?.f_erfinv()?;
    let values = values.f_mul_scalar(std * 2f64.sqrt())?.f_add_scalar(mean)?.f_clamp(low, high)?;
    Ok(values.f_to_kind(tch::Kind::Float)?)
}
