//! Other shapes, orders, dtypes and devices; picking and filling.

use super::index::narrow;
use super::kind_of;
use crate::error::Result;
use crate::script::values::Tensor;
use nepa_macros::functions;
use tch::Kind;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// All elements in another shape; one size may be −1.
    pub fn reshape(t: &Tensor, sizes: Vec<i64>) -> Result<tch::Tensor> {
        Ok(t.f_reshape(sizes)?)
    }

    /// The dimensions in a new order.
    pub fn permute(t: &Tensor, order: Vec<i64>) -> Result<tch::Tensor> {
        Ok(t.f_permute(order)?)
    }

    /// Two dimensions swapped.
    pub fn transpose(t: &Tensor, a: i64, b: i64) -> Result<tch::Tensor> {
        Ok(t.f_transpose(a, b)?)
    }

    /// Dimensions start … end (inclusive) merged into one.
    pub fn flatten(t: &Tensor, start: i64, end: i64) -> Result<tch::Tensor> {
        Ok(t.f_flatten(start, end)?)
    }

    /// Inserts a dimension of size 1.
    pub fn unsqueeze(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_unsqueeze(dim)?)
    }

    /// Removes a dimension of size 1.
    pub fn squeeze(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_squeeze_dim(dim)?)
    }

    /// Expands dimensions of size 1 without copying; −1 keeps a size.
    pub fn expand(t: &Tensor, sizes: Vec<i64>) -> Result<tch::Tensor> {
        Ok(t.f_expand(sizes, false)?)
    }

    /// Repeated along each dimension.
    pub fn repeat(t: &Tensor, times: Vec<i64>) -> Result<tch::Tensor> {
        Ok(t.f_repeat(times)?)
    }

    /// Elements start … end − 1 of a dimension; negative ends count from the end.
    pub fn slice(t: &Tensor, dim: i64, start: i64, end: i64) -> Result<tch::Tensor> {
        narrow(t, dim, start, end)
    }

    /// Element i of a dimension, which is removed.
    pub fn select(t: &Tensor, dim: i64, i: i64) -> Result<tch::Tensor> {
        Ok(t.f_select(dim, i)?)
    }

    /// Reverses the order along a dimension.
    pub fn flip(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_flip([dim])?)
    }

    /// Splits a dimension into `parts` chunks, as an array.
    pub fn chunk(t: &Tensor, parts: i64, dim: i64) -> Result<Vec<tch::Tensor>> {
        Ok(t.f_chunk(parts, dim)?)
    }

    /// Elements at int64 indices along a dimension: out[i][j] = t[i][index[i][j]] for dim 1.
    pub fn gather(t: &Tensor, dim: i64, index: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_gather(dim, index, false)?)
    }

    /// One-hot vectors (float32 [B, classes]) of class indices (int64 [B]).
    pub fn one_hot(t: &Tensor, classes: i64) -> Result<tch::Tensor> {
        Ok(t.f_one_hot(classes)?.f_to_kind(Kind::Float)?)
    }

    /// The lower triangle of the last two dimensions; the rest 0.
    pub fn tril(t: &Tensor, diagonal: i64) -> Result<tch::Tensor> {
        Ok(t.f_tril(diagonal)?)
    }

    /// The upper triangle of the last two dimensions; the rest 0.
    pub fn triu(t: &Tensor, diagonal: i64) -> Result<tch::Tensor> {
        Ok(t.f_triu(diagonal)?)
    }

    /// Replaces elements with `value` where the mask (bool) is true.
    pub fn masked_fill(t: &Tensor, mask: &Tensor, value: f64) -> Result<tch::Tensor> {
        Ok(t.f_masked_fill(mask, value)?)
    }

    /// Converts to another dtype ("float32", "int64", …) or moves to another device ("cpu", "cuda:0").
    pub fn to(t: &Tensor, dtype_or_device: &str) -> Result<tch::Tensor> {
        let name = dtype_or_device;
        match name == "cpu" || name.starts_with("cuda") {
            true => Ok(t.f_to_device(crate::device::parse(name)?)?),
            false => Ok(t.f_to_kind(kind_of(name)?)?),
        }
    }

    /// A tensor with the same values in contiguous memory.
    pub fn contiguous(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_contiguous()?)
    }

    /// A copy of the values, detached from any graph.
    pub fn copy(t: &Tensor) -> Result<tch::Tensor> {
        crate::tensor::detached_copy(t)
    }
}
