//! Functions of the elements of two tensors, or of a tensor and a number.

use super::arguments::{Number, Operand};
use crate::error::{Result, bail};
use crate::ffi::{Argument, operator};
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// input + alpha · other; shapes broadcast.
    ///
    /// Example: `tensor([1.0]).add(tensor([2.0]), #{ alpha: 3 }).item() == 7.0`
    pub fn add(input: &Tensor, other: Operand, #[keyword(1)] alpha: Number) -> Result<tch::Tensor> {
        other.operate("add", input, &[alpha.argument()])
    }

    /// input − alpha · other; shapes broadcast.
    ///
    /// Example: `tensor([1.0]).sub(2.0).item() == -1.0`
    pub fn sub(input: &Tensor, other: Operand, #[keyword(1)] alpha: Number) -> Result<tch::Tensor> {
        other.operate("sub", input, &[alpha.argument()])
    }

    /// input · other; shapes broadcast.
    ///
    /// Example: `tensor([3.0]).mul(2).item() == 6.0`
    pub fn mul(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("mul", input, &[])
    }

    /// input / other; shapes broadcast. `rounding_mode` is "trunc", "floor" or (), which divides ints to floats.
    ///
    /// Example: `tensor([-7]).div(2, #{ rounding_mode: "floor" }).item() == -4`
    pub fn div(input: &Tensor, other: Operand, #[keyword(())] rounding_mode: Option<String>) -> Result<tch::Tensor> {
        match (rounding_mode.as_deref(), &other) {
            (None, _) => other.operate("div", input, &[]),
            (Some(mode @ ("trunc" | "floor")), Operand::Tensor(other)) => Ok(input.f_div_tensor_mode(other, mode)?),
            (Some(mode @ ("trunc" | "floor")), Operand::Number(other)) => {
                Ok(input.f_div_scalar_mode(other.scalar(), mode)?)
            }
            (Some(mode), _) => bail!("div: unknown rounding_mode \"{mode}\" (one of: trunc, floor)"),
        }
    }

    /// The largest integer not above input / other.
    ///
    /// Example: `tensor([-7]).floor_divide(2).item() == -4`
    pub fn floor_divide(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        match other {
            Operand::Tensor(other) => Ok(input.f_floor_divide(&other)?),
            Operand::Number(other) => Ok(input.f_floor_divide_scalar(other.scalar())?),
        }
    }

    /// The remainder of a division, with the divisor's sign, as Python's %.
    ///
    /// Example: `tensor([-7]).remainder(3).item() == 2`
    pub fn remainder(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("remainder", input, &[])
    }

    /// The remainder of a division, with the dividend's sign, as C's fmod.
    ///
    /// Example: `tensor([-7]).fmod(3).item() == -1`
    pub fn fmod(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("fmod", input, &[])
    }

    /// Each element raised to a power, a number or a tensor of them; shapes broadcast.
    ///
    /// Example: `tensor([3.0]).pow(2).item() == 9.0`
    pub fn pow(input: &Tensor, exponent: Operand) -> Result<tch::Tensor> {
        match exponent {
            Operand::Tensor(exponent) => Ok(input.f_pow(&exponent)?),
            Operand::Number(exponent) => Ok(input.f_pow_tensor_scalar(exponent.scalar())?),
        }
    }

    /// A number raised to each element.
    ///
    /// Example: `pow(2, tensor([3.0])).item() == 8.0`
    #[script(name = "pow")]
    pub fn pow_of_int(base: i64, exponent: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_pow_scalar(base, exponent)?)
    }

    /// A number raised to each element.
    ///
    /// Example: `pow(0.5, tensor([2.0])).item() == 0.25`
    #[script(name = "pow")]
    pub fn pow_of_float(base: f64, exponent: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_pow_scalar(base, exponent)?)
    }

    /// The larger of two tensors, element by element; shapes broadcast.
    ///
    /// Example: `maximum(tensor([1, 5]), tensor([3, 3])).to_array() == [3, 5]`
    pub fn maximum(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_maximum(other)?)
    }

    /// The smaller of two tensors, element by element; shapes broadcast.
    ///
    /// Example: `minimum(tensor([1, 5]), tensor([3, 3])).to_array() == [1, 3]`
    pub fn minimum(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_minimum(other)?)
    }

    /// Limits values to min … max, numbers or tensors; () sets no limit.
    ///
    /// Example: `tensor([-2, 0, 2]).clamp(-1, 1).to_array() == [-1, 0, 1]`
    pub fn clamp(
        input: &Tensor,
        #[default(())] min: Option<Operand>,
        #[default(())] max: Option<Operand>,
    ) -> Result<tch::Tensor> {
        limited(input, min, max)
    }

    /// The same as clamp.
    ///
    /// Example: `tensor([-2, 0, 2]).clip(-1, 1).to_array() == [-1, 0, 1]`
    pub fn clip(
        input: &Tensor,
        #[default(())] min: Option<Operand>,
        #[default(())] max: Option<Operand>,
    ) -> Result<tch::Tensor> {
        limited(input, min, max)
    }

    /// Raises smaller values to min.
    ///
    /// Example: `tensor([-2, 2]).clamp_min(0).to_array() == [0, 2]`
    pub fn clamp_min(input: &Tensor, min: Number) -> Result<tch::Tensor> {
        Ok(input.f_clamp_min(min.scalar())?)
    }

    /// Lowers larger values to max.
    ///
    /// Example: `tensor([-2, 2]).clamp_max(0).to_array() == [-2, 0]`
    pub fn clamp_max(input: &Tensor, max: Number) -> Result<tch::Tensor> {
        Ok(input.f_clamp_max(max.scalar())?)
    }

    /// The nearest number with `decimals` digits behind the point, with halves rounded to even.
    ///
    /// Example: `tensor([0.5, 1.5]).round().to_array() == [0.0, 2.0]`
    pub fn round(input: &Tensor, #[keyword(0)] decimals: i64) -> Result<tch::Tensor> {
        if decimals == 0 { Ok(input.f_round()?) } else { Ok(input.f_round_decimals(decimals)?) }
    }

    /// The angle of the point (x = other, y = input), in −π … π.
    ///
    /// Example: `atan2(tensor([0.0]), tensor([1.0])).item() == 0.0`
    pub fn atan2(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_atan2(other)?)
    }

    /// √(input² + other²).
    ///
    /// Example: `hypot(tensor([3.0]), tensor([4.0])).item() == 5.0`
    pub fn hypot(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_hypot(other)?)
    }

    /// log(eᵃ + eᵇ), without overflow.
    ///
    /// Example: `logaddexp(tensor([0.0]), tensor([0.0])).exp().allclose(tensor([2.0]))`
    pub fn logaddexp(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_logaddexp(other)?)
    }

    /// input + weight · (end − input); the weight is a number or a tensor.
    ///
    /// Example: `lerp(tensor([0.0]), tensor([10.0]), 0.25).item() == 2.5`
    pub fn lerp(input: &Tensor, end: &Tensor, weight: Operand) -> Result<tch::Tensor> {
        match weight {
            Operand::Tensor(weight) => Ok(input.f_lerp_tensor(end, &weight)?),
            Operand::Number(weight) => Ok(input.f_lerp(end, weight.scalar())?),
        }
    }

    /// input + value · tensor1 · tensor2.
    ///
    /// Example: `addcmul(tensor([1.0]), tensor([2.0]), tensor([3.0]), #{ value: 10 }).item() == 61.0`
    pub fn addcmul(
        input: &Tensor,
        tensor1: &Tensor,
        tensor2: &Tensor,
        #[keyword(1)] value: Number,
    ) -> Result<tch::Tensor> {
        multiplied("addcmul", [input, tensor1, tensor2], &[value])
    }

    /// input + value · tensor1 / tensor2.
    ///
    /// Example: `addcdiv(tensor([1.0]), tensor([6.0]), tensor([3.0])).item() == 3.0`
    pub fn addcdiv(
        input: &Tensor,
        tensor1: &Tensor,
        tensor2: &Tensor,
        #[keyword(1)] value: Number,
    ) -> Result<tch::Tensor> {
        multiplied("addcdiv", [input, tensor1, tensor2], &[value])
    }

    /// ln(p / (1 − p)); with `eps`, after limiting p to eps … 1 − eps.
    ///
    /// Example: `tensor([0.5]).logit().item() == 0.0`
    pub fn logit(input: &Tensor, #[default(())] eps: Option<f64>) -> Result<tch::Tensor> {
        Ok(input.f_logit(eps)?)
    }

    /// input · ln(other), 0 where input is 0.
    ///
    /// Example: `xlogy(tensor([0.0]), tensor([0.0])).item() == 0.0`
    pub fn xlogy(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_xlogy(other)?)
    }

    /// Replaces NaN and infinities; infinities by default with the largest and smallest finite values.
    ///
    /// Example: `(tensor([0.0]) / 0.0).nan_to_num(7.0).item() == 7.0`
    pub fn nan_to_num(
        input: &Tensor,
        #[default(0.0)] nan: f64,
        #[default(())] posinf: Option<f64>,
        #[default(())] neginf: Option<f64>,
    ) -> Result<tch::Tensor> {
        Ok(input.f_nan_to_num(nan, posinf, neginf)?)
    }

    /// Whether elements are near each other, |input − other| ≤ atol + rtol · |other|, as a bool tensor.
    ///
    /// Example: `isclose(tensor([1.0]), tensor([1.000001])).to_array() == [true]`
    pub fn isclose(
        input: &Tensor,
        other: &Tensor,
        #[default(1e-5)] rtol: f64,
        #[default(1e-8)] atol: f64,
        #[default(false)] equal_nan: bool,
    ) -> Result<tch::Tensor> {
        Ok(input.f_isclose(other, rtol, atol, equal_nan)?)
    }

    /// Whether all elements are near each other, as isclose measures it.
    ///
    /// Example: `allclose(tensor([1.0]), tensor([1.000001]))`
    pub fn allclose(
        input: &Tensor,
        other: &Tensor,
        #[default(1e-5)] rtol: f64,
        #[default(1e-8)] atol: f64,
        #[default(false)] equal_nan: bool,
    ) -> Result<bool> {
        Ok(input.f_allclose(other, rtol, atol, equal_nan)?)
    }

    /// Whether both are true or not 0, as a bool tensor.
    ///
    /// Example: `logical_and(tensor([1, 1]), tensor([1, 0])).to_array() == [true, false]`
    pub fn logical_and(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_logical_and(other)?)
    }

    /// Whether either is true or not 0, as a bool tensor.
    ///
    /// Example: `logical_or(tensor([0, 1]), tensor([0, 0])).to_array() == [false, true]`
    pub fn logical_or(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_logical_or(other)?)
    }

    /// Whether exactly one is true or not 0, as a bool tensor.
    ///
    /// Example: `logical_xor(tensor([1, 1]), tensor([1, 0])).to_array() == [false, true]`
    pub fn logical_xor(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_logical_xor(other)?)
    }

    /// Whether elements are equal, as a bool tensor; `equal` tells of all at once. The operator is ==.
    ///
    /// Example: `tensor([1, 2]).eq(2).to_array() == [false, true]`
    pub fn eq(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("eq", input, &[])
    }

    /// Whether elements differ, as a bool tensor.
    ///
    /// Example: `tensor([1, 2]).ne(2).to_array() == [true, false]`
    pub fn ne(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("ne", input, &[])
    }

    /// Whether elements are less, as a bool tensor.
    ///
    /// Example: `tensor([1, 2]).lt(2).to_array() == [true, false]`
    pub fn lt(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("lt", input, &[])
    }

    /// Whether elements are less or equal, as a bool tensor.
    ///
    /// Example: `tensor([1, 3]).le(2).to_array() == [true, false]`
    pub fn le(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("le", input, &[])
    }

    /// Whether elements are greater, as a bool tensor.
    ///
    /// Example: `tensor([1, 3]).gt(2).to_array() == [false, true]`
    pub fn gt(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("gt", input, &[])
    }

    /// Whether elements are greater or equal, as a bool tensor.
    ///
    /// Example: `tensor([1, 2]).ge(2).to_array() == [false, true]`
    pub fn ge(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("ge", input, &[])
    }

    /// Complex numbers of real and imaginary parts, float32 or float64.
    ///
    /// Example: `complex(tensor([3.0]), tensor([4.0])).abs().item() == 5.0`
    pub fn complex(real: &Tensor, imag: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_complex(real, imag)?)
    }

    /// The real part.
    ///
    /// Example: `complex(tensor([3.0]), tensor([4.0])).real.item() == 3.0`
    #[script(get)]
    pub fn real(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_real()?)
    }

    /// The imaginary part of a complex tensor.
    ///
    /// Example: `complex(tensor([3.0]), tensor([4.0])).imag.item() == 4.0`
    #[script(get)]
    pub fn imag(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_imag()?)
    }
}

/// An operator of three tensors and the numbers that some of them are multiplied with.
pub fn multiplied(name: &str, tensors: [&Tensor; 3], factors: &[Number]) -> Result<tch::Tensor> {
    let tensors = tensors.into_iter().map(|t| Argument::Tensor(t));
    operator(name, "", &tensors.chain(factors.iter().map(|factor| factor.argument())).collect::<Vec<_>>())
}

fn limited(input: &Tensor, min: Option<Operand>, max: Option<Operand>) -> Result<tch::Tensor> {
    let limit = |limit: Option<Operand>| limit.map(|limit| limit.tensor(input)).transpose();
    match (min, max) {
        (None, None) => bail!("clamp: expected a lower limit, an upper one, or both, found neither"),
        (Some(Operand::Number(min)), Some(Operand::Number(max))) => Ok(input.f_clamp(min.scalar(), max.scalar())?),
        (Some(Operand::Number(min)), None) => Ok(input.f_clamp_min(min.scalar())?),
        (None, Some(Operand::Number(max))) => Ok(input.f_clamp_max(max.scalar())?),
        (min, max) => Ok(input.f_clamp_tensor(limit(min)?, limit(max)?)?),
    }
}
