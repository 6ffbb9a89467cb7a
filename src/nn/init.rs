//! Initial values.

use crate::error::Result;
use crate::random::{self, Key};
use tch::Tensor;

/// A new parameter, normal with mean 0 and deviation `std`, without values beyond ±2, drawn from the run's generator: the
/// reference's initialisation (Hugging Face ViT, `initializer_range`; the cuts are those of PyTorch's trunc_normal_).
pub fn trunc_normal(shape: &[i64], std: f64) -> Result<Tensor> {
    let key = random::next_key();
    let values = key.normal(shape)?.f_mul_scalar(std)?;
    // Normal values that all lie inside are what the truncated distribution gives. With deviations of 0.02, where the cuts
    // lie 100 of them out, none is outside.
    let all_inside = values.f_abs()?.f_le(2.0)?.f_all()?.f_int64_value(&[])? != 0;
    let values = if all_inside { values } else { truncated_normal(key.fold(0), shape, 0.0, std, -2.0, 2.0)? };
    super::parameter(values)
}

/// Normal values cut off at `low` and `high`, by the inverse of the distribution function, as PyTorch draws them.
pub fn truncated_normal(key: Key, shape: &[i64], mean: f64, std: f64, low: f64, high: f64) -> Result<Tensor> {
    // Where the distribution function stands at a value, from −1 to 1.
    let place =
        |x: f64| -> Result<f64> { Ok(Tensor::from((x - mean) / std / 2f64.sqrt()).f_erf()?.f_double_value(&[])?) };
    let (from, to) = (place(low)?, place(high)?);
    // In the middle of the steps of float32, as an end of the range would be a cut itself, however far out it lies.
    let uniform = key.uniform(shape)?.f_to_kind(tch::Kind::Double)?.f_add_scalar(2f64.powi(-25))?;
    let values = uniform.f_mul_scalar(to - from)?.f_add_scalar(from)?.f_erfinv()?;
    let values = values.f_mul_scalar(std * 2f64.sqrt())?.f_add_scalar(mean)?.f_clamp(low, high)?;
    Ok(values.f_to_kind(tch::Kind::Float)?)
}
