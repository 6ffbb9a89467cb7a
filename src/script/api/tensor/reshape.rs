//! Other shapes, orders, dtypes and devices.

use super::arguments::{Dims, Repeats, kind_of};
use super::index::narrow;
use crate::error::{Result, bail};
use crate::script::values::Tensor;
use nepa_macros::functions;
use tch::Kind;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// All elements in another shape; one size may be −1.
    ///
    /// Example: `arange(6).reshape([2, -1]).shape == [2, 3]`
    pub fn reshape(input: &Tensor, shape: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_reshape(shape)?)
    }

    /// The same elements in the shape of another tensor.
    ///
    /// Example: `arange(6).reshape_as(ones([2, 3])).shape == [2, 3]`
    pub fn reshape_as(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_reshape(other.size())?)
    }

    /// The dimensions in a new order.
    ///
    /// Example: `ones([2, 3, 4]).permute([2, 0, 1]).shape == [4, 2, 3]`
    pub fn permute(input: &Tensor, dims: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_permute(dims)?)
    }

    /// Two dimensions swapped.
    ///
    /// Example: `ones([2, 3]).transpose(0, 1).shape == [3, 2]`
    pub fn transpose(input: &Tensor, dim0: i64, dim1: i64) -> Result<tch::Tensor> {
        Ok(input.f_transpose(dim0, dim1)?)
    }

    /// A matrix with rows and columns swapped; vectors stay as they are.
    ///
    /// Example: `ones([2, 3]).t().shape == [3, 2]`
    pub fn t(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_tr()?)
    }

    /// Dimensions moved to other places; the rest keep their order.
    ///
    /// Example: `ones([2, 3, 4]).movedim(-1, 0).shape == [4, 2, 3]`
    pub fn movedim(input: &Tensor, source: Dims, destination: Dims) -> Result<tch::Tensor> {
        Ok(input.f_movedim(source.0, destination.0)?)
    }

    /// Dimensions start_dim … end_dim (inclusive) merged into one.
    ///
    /// Example: `ones([2, 3, 4]).flatten(1).shape == [2, 12]`
    pub fn flatten(input: &Tensor, #[default(0)] start_dim: i64, #[default(-1)] end_dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_flatten(start_dim, end_dim)?)
    }

    /// One dimension split into several; one of the sizes may be −1.
    ///
    /// Example: `ones([2, 12]).unflatten(1, [3, -1]).shape == [2, 3, 4]`
    pub fn unflatten(input: &Tensor, dim: i64, sizes: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_unflatten(dim, sizes)?)
    }

    /// All elements in one dimension.
    ///
    /// Example: `ones([2, 3]).ravel().shape == [6]`
    pub fn ravel(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_ravel()?)
    }

    /// Inserts a dimension of size 1.
    ///
    /// Example: `ones([2]).unsqueeze(0).shape == [1, 2]`
    pub fn unsqueeze(input: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_unsqueeze(dim)?)
    }

    /// Removes all dimensions of size 1, or those of one place or an array of places that have size 1.
    ///
    /// Example: `ones([1, 2, 1]).squeeze().shape == [2]`
    pub fn squeeze(input: &Tensor, #[default(())] dim: Option<Dims>) -> Result<tch::Tensor> {
        match dim {
            None => Ok(input.f_squeeze()?),
            Some(dim) => Ok(input.f_squeeze_dims(dim.0)?),
        }
    }

    /// Expands dimensions of size 1 without copying; −1 keeps a size.
    ///
    /// Example: `ones([2, 1]).expand([-1, 3]).shape == [2, 3]`
    pub fn expand(input: &Tensor, sizes: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_expand(sizes, false)?)
    }

    /// Expanded to the shape of another tensor.
    ///
    /// Example: `ones([2, 1]).expand_as(ones([2, 3])).shape == [2, 3]`
    pub fn expand_as(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_expand_as(other)?)
    }

    /// Expanded to a shape by the rules of broadcasting.
    ///
    /// Example: `ones([3]).broadcast_to([2, 3]).shape == [2, 3]`
    pub fn broadcast_to(input: &Tensor, size: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_broadcast_to(size)?)
    }

    /// Repeated along each dimension, as a whole.
    ///
    /// Example: `tensor([1, 2]).repeat([2]).to_array() == [1, 2, 1, 2]`
    pub fn repeat(input: &Tensor, repeats: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_repeat(repeats)?)
    }

    /// Repeated along the last dimensions, as a whole.
    ///
    /// Example: `ones([2, 3]).tile([2]).shape == [2, 6]`
    pub fn tile(input: &Tensor, dims: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_tile(dims)?)
    }

    /// Each element or slice repeated, one number of times or each its own; without `dim` of the flattened tensor.
    ///
    /// Example: `tensor([1, 2]).repeat_interleave(2).to_array() == [1, 1, 2, 2]`
    pub fn repeat_interleave(input: &Tensor, repeats: Repeats, #[default(())] dim: Option<i64>) -> Result<tch::Tensor> {
        match repeats {
            Repeats::Same(n) => Ok(input.f_repeat_interleave_self_int(n, dim, None::<i64>)?),
            Repeats::Each(each) => {
                let each = tch::Tensor::f_from_slice(&each)?.f_to_device(input.device())?;
                Ok(input.f_repeat_interleave_self_tensor(&each, dim, None::<i64>)?)
            }
            Repeats::Tensor(each) => Ok(input.f_repeat_interleave_self_tensor(&each, dim, None::<i64>)?),
        }
    }

    /// Elements start … end − 1 of a dimension, or all from start on; negative places count from the end. nepa's own:
    /// PyTorch writes x[:, a:b], which is x[[(), a..b]] here.
    ///
    /// Example: `arange(5).slice(0, 1, 3).to_array() == [1, 2]`
    pub fn slice(input: &Tensor, dim: i64, start: i64, #[default(())] end: Option<i64>) -> Result<tch::Tensor> {
        narrow(input, dim, start, end.unwrap_or(i64::MAX))
    }

    /// `length` elements of a dimension, from `start`.
    ///
    /// Example: `arange(5).narrow(0, 1, 3).to_array() == [1, 2, 3]`
    #[script(name = "narrow")]
    pub fn narrow_(input: &Tensor, dim: i64, start: i64, length: i64) -> Result<tch::Tensor> {
        Ok(input.f_narrow(dim, start, length)?)
    }

    /// Element `index` of a dimension, which is removed.
    ///
    /// Example: `tensor([[1, 2], [3, 4]]).select(1, 0).to_array() == [1, 3]`
    pub fn select(input: &Tensor, dim: i64, index: i64) -> Result<tch::Tensor> {
        Ok(input.f_select(dim, index)?)
    }

    /// Reverses the order along one dimension or an array of them.
    ///
    /// Example: `arange(3).flip(0).to_array() == [2, 1, 0]`
    pub fn flip(input: &Tensor, dims: Dims) -> Result<tch::Tensor> {
        Ok(input.f_flip(dims.0)?)
    }

    /// Moves elements by `shifts` places along `dims`; what falls off the end comes in at the start. Without `dims`, of
    /// the flattened tensor.
    ///
    /// Example: `arange(4).roll(1).to_array() == [3, 0, 1, 2]`
    pub fn roll(input: &Tensor, shifts: Dims, #[default([])] dims: Dims) -> Result<tch::Tensor> {
        Ok(input.f_roll(shifts.0, dims.0)?)
    }

    /// Turned by 90° k times in the plane of two dimensions, from the first towards the second.
    ///
    /// Example: `tensor([[1, 2], [3, 4]]).rot90().to_array() == [2, 4, 1, 3]`
    pub fn rot90(input: &Tensor, #[default(1)] k: i64, #[default([0, 1])] dims: Vec<i64>) -> Result<tch::Tensor> {
        Ok(input.f_rot90(k, dims)?)
    }

    /// Splits a dimension into `chunks` parts of equal size, the last perhaps smaller, as an array.
    ///
    /// Example: `arange(5).chunk(2).len() == 2`
    pub fn chunk(input: &Tensor, chunks: i64, #[default(0)] dim: i64) -> Result<Vec<tch::Tensor>> {
        Ok(input.f_chunk(chunks, dim)?)
    }

    /// Splits a dimension into parts of a size, the last perhaps smaller, or of the sizes in an array; as an array.
    ///
    /// Example: `arange(5).split([2, 3])[1].to_array() == [2, 3, 4]`
    pub fn split(tensor: &Tensor, split_size_or_sections: Repeats, #[default(0)] dim: i64) -> Result<Vec<tch::Tensor>> {
        match split_size_or_sections {
            Repeats::Same(size) => Ok(tensor.f_split(size, dim)?),
            Repeats::Each(sizes) => Ok(tensor.f_split_with_sizes(sizes, dim)?),
            Repeats::Tensor(_) => bail!("split: expected a size or an array of sizes, found a tensor"),
        }
    }

    /// Splits a dimension into a number of parts, or before the indices in an array; as an array.
    ///
    /// Example: `arange(5).tensor_split([1, 4])[1].to_array() == [1, 2, 3]`
    pub fn tensor_split(
        input: &Tensor,
        indices_or_sections: Repeats,
        #[default(0)] dim: i64,
    ) -> Result<Vec<tch::Tensor>> {
        match indices_or_sections {
            Repeats::Same(parts) => Ok(input.f_tensor_split(parts, dim)?),
            Repeats::Each(indices) => Ok(input.f_tensor_split_indices(indices, dim)?),
            Repeats::Tensor(_) => bail!("tensor_split: expected a number or an array of indices, found a tensor"),
        }
    }

    /// The slices of a dimension, which is removed, as an array.
    ///
    /// Example: `tensor([[1, 2], [3, 4]]).unbind()[1].to_array() == [3, 4]`
    pub fn unbind(input: &Tensor, #[default(0)] dim: i64) -> Result<Vec<tch::Tensor>> {
        Ok(input.f_unbind(dim)?)
    }

    /// Windows of `size` elements along a dimension, `step` apart, as a new last dimension: Tensor.unfold.
    /// torch.nn.functional.unfold is `unfold(x, kernel_size, #{ stride: 2 })`, with its options by name.
    ///
    /// Example: `arange(5).unfold(0, 3, 2).shape == [2, 3]`
    #[script(name = "unfold")]
    pub fn unfold_dimension(input: &Tensor, dimension: i64, size: i64, step: i64) -> Result<tch::Tensor> {
        Ok(input.f_unfold(dimension, size, step)?)
    }

    /// Converts to another dtype ("float32", "int64", …) or moves to another device ("cpu", "cuda:0").
    ///
    /// Example: `tensor([1.7]).to("int64").item() == 1`
    pub fn to(input: &Tensor, dtype_or_device: &str) -> Result<tch::Tensor> {
        let name = dtype_or_device;
        match name == "cpu" || name.starts_with("cuda") {
            true => Ok(input.f_to_device(crate::device::parse(name)?)?),
            false => Ok(input.f_to_kind(kind_of(name)?)?),
        }
    }

    /// Converted to float32.
    ///
    /// Example: `tensor([1]).float().dtype == "float32"`
    pub fn float(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_to_kind(Kind::Float)?)
    }

    /// Converted to int64.
    ///
    /// Example: `tensor([1.5]).long().item() == 1`
    pub fn long(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_to_kind(Kind::Int64)?)
    }

    /// Converted to bool: whether elements are not 0.
    ///
    /// Example: `tensor([0, 2]).bool().to_array() == [false, true]`
    pub fn bool(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_to_kind(Kind::Bool)?)
    }

    /// Converted to the dtype of another tensor.
    ///
    /// Example: `tensor([1]).type_as(ones([1])).dtype == "float32"`
    pub fn type_as(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_to_kind(other.kind())?.f_to_device(other.device())?)
    }

    /// A tensor with the same values in contiguous memory.
    ///
    /// Example: `ones([2, 3]).transpose(0, 1).contiguous().shape == [3, 2]`
    pub fn contiguous(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_contiguous()?)
    }

    /// A copy of the values, detached from any graph.
    ///
    /// Example: `ones([2]).copy().shape == [2]`
    pub fn copy(input: &Tensor) -> Result<tch::Tensor> {
        crate::tensor::detached_copy(input)
    }

    /// A copy of the values through which gradients flow.
    ///
    /// Example: `let x = ones([2]).requires_grad(true); x.clone().sum().backward(); x.grad.to_array() == [1.0, 1.0]`
    pub fn clone(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_alias_copy()?)
    }
}
