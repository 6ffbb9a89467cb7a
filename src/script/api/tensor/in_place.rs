//! Changing tensors in place; all of these give the tensor back. As in PyTorch, a parameter is changed inside no_grad.

use super::arguments::{Number, Operand};
use crate::error::Result;
use crate::random;
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Adds alpha · other in place.
    ///
    /// Example: `ones([2]).add_(1).to_array() == [2.0, 2.0]`
    pub fn add_(input: &Tensor, other: Operand, #[keyword(1)] alpha: Number) -> Result<tch::Tensor> {
        other.operate("add_", input, &[alpha.argument()])
    }

    /// Subtracts alpha · other in place.
    ///
    /// Example: `ones([2]).sub_(1).to_array() == [0.0, 0.0]`
    pub fn sub_(input: &Tensor, other: Operand, #[keyword(1)] alpha: Number) -> Result<tch::Tensor> {
        other.operate("sub_", input, &[alpha.argument()])
    }

    /// Multiplies in place.
    ///
    /// Example: `ones([2]).mul_(3).to_array() == [3.0, 3.0]`
    pub fn mul_(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("mul_", input, &[])
    }

    /// Divides in place.
    ///
    /// Example: `ones([2]).div_(2).to_array() == [0.5, 0.5]`
    pub fn div_(input: &Tensor, other: Operand) -> Result<tch::Tensor> {
        other.operate("div_", input, &[])
    }

    /// Limits values to min … max in place.
    ///
    /// Example: `tensor([-2.0, 2.0]).clamp_(-1, 1).to_array() == [-1.0, 1.0]`
    pub fn clamp_(input: &Tensor, min: Number, max: Number) -> Result<tch::Tensor> {
        Ok(input.shallow_clone().f_clamp_(min.scalar(), max.scalar())?)
    }

    /// Moves towards another tensor in place: input + weight · (end − input).
    ///
    /// Example: `zeros([1]).lerp_(ones([1]), 0.25).item() == 0.25`
    pub fn lerp_(input: &Tensor, end: &Tensor, weight: f64) -> Result<tch::Tensor> {
        Ok(input.shallow_clone().f_lerp_(end, weight)?)
    }

    /// Fills with a number in place.
    ///
    /// Example: `zeros([2]).fill_(3).to_array() == [3.0, 3.0]`
    pub fn fill_(input: &Tensor, value: Number) -> Result<tch::Tensor> {
        Ok(input.shallow_clone().f_fill_(value.scalar())?)
    }

    /// Fills with zeros in place.
    ///
    /// Example: `ones([2]).zero_().to_array() == [0.0, 0.0]`
    pub fn zero_(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.shallow_clone().f_zero_()?)
    }

    /// Replaces elements with `value` where the mask (bool) is true, in place.
    ///
    /// Example: `ones([2]).masked_fill_(tensor([true, false]), 0).to_array() == [0.0, 1.0]`
    pub fn masked_fill_(input: &Tensor, mask: &Tensor, value: Number) -> Result<tch::Tensor> {
        Ok(input.shallow_clone().f_masked_fill_(mask, value.scalar())?)
    }

    /// Writes the elements of src, or a number, to int64 indices along a dimension, in place.
    ///
    /// Example: `zeros([3]).scatter_(0, tensor([2]), 5.0).to_array() == [0.0, 0.0, 5.0]`
    pub fn scatter_(input: &Tensor, dim: i64, index: &Tensor, src: Operand) -> Result<tch::Tensor> {
        match src {
            Operand::Tensor(src) => Ok(input.shallow_clone().f_scatter_(dim, index, &src)?),
            Operand::Number(value) => Ok(input.shallow_clone().f_scatter_value_(dim, index, value.scalar())?),
        }
    }

    /// Fills with normal values in place, from the run's generator.
    ///
    /// Example: `zeros([4]).normal_(7.0, 0.0).to_array() == [7.0, 7.0, 7.0, 7.0]`
    pub fn normal_(input: &Tensor, #[default(0.0)] mean: f64, #[default(1.0)] std: f64) -> Result<tch::Tensor> {
        let drawn = random::next_key().normal(&input.size())?.f_mul_scalar(std)?.f_add_scalar(mean)?;
        Ok(input.shallow_clone().f_copy_(&drawn).map(|()| input.shallow_clone())?)
    }

    /// Fills with uniform values in [from, to) in place, from the run's generator.
    ///
    /// Example: `zeros([4]).uniform_(2.0, 3.0).min().item() >= 2.0`
    pub fn uniform_(input: &Tensor, #[default(0.0)] from: f64, #[default(1.0)] to: f64) -> Result<tch::Tensor> {
        let drawn = random::next_key().uniform(&input.size())?.f_mul_scalar(to - from)?.f_add_scalar(from)?;
        Ok(input.shallow_clone().f_copy_(&drawn).map(|()| input.shallow_clone())?)
    }

    /// Turns the recording of gradients on or off; the same as requires_grad(true).
    ///
    /// Example: `ones([2]).requires_grad_().requires_grad`
    pub fn requires_grad_(input: &Tensor, #[default(true)] requires_grad: bool) -> Result<tch::Tensor> {
        Ok(input.f_set_requires_grad(requires_grad)?)
    }
}
