//! Orders: sorting, ranks, distinct values, running sums and extremes.

use super::arguments::{DType, Operand};
use super::pairs::ValuesAndIndices;
use crate::error::Result;
use crate::script::values::Tensor;
use crate::tensor;
use nepa_macros::functions;
use rhai::Dynamic;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Sorted along a dimension, with indices. Always stable: equal elements keep their order.
    ///
    /// Example: `sort(tensor([2, 3, 1]), #{ descending: true }).values.to_array() == [3, 2, 1]`
    pub fn sort(
        input: &Tensor,
        #[default(-1)] dim: i64,
        #[default(false)] descending: bool,
        #[default(false)] stable: bool,
    ) -> Result<ValuesAndIndices> {
        let _ = stable;
        Ok(input.f_sort_stable(true, dim, descending)?.into())
    }

    /// The indices that sort along a dimension, int64. Always stable.
    ///
    /// Example: `argsort(tensor([2, 3, 1])).to_array() == [2, 0, 1]`
    pub fn argsort(
        input: &Tensor,
        #[default(-1)] dim: i64,
        #[default(false)] descending: bool,
        #[default(false)] stable: bool,
    ) -> Result<tch::Tensor> {
        let _ = stable;
        Ok(input.f_argsort_stable(true, dim, descending)?)
    }

    /// The k largest elements along a dimension in descending order, or with `largest: false` the smallest in ascending
    /// order, and their int64 indices. Equal elements come in the order of their indices, the lowest first. They are
    /// sorted even with `sorted: false`.
    ///
    /// Example: `tensor([1, 4, 2]).topk(2).values.to_array() == [4, 2]`
    pub fn topk(
        input: &Tensor,
        k: i64,
        #[default(-1)] dim: i64,
        #[default(true)] largest: bool,
        #[default(true)] sorted: bool,
    ) -> Result<ValuesAndIndices> {
        let _ = sorted;
        if !largest {
            let (values, indices) = input.f_sort_stable(true, dim, false)?;
            return Ok((values.f_narrow(dim, 0, k)?, indices.f_narrow(dim, 0, k)?).into());
        }
        if dim == -1 || dim == input.dim() as i64 - 1 {
            return Ok(tensor::topk(input, k)?.into());
        }
        let (values, indices) = tensor::topk(&input.f_transpose(dim, -1)?, k)?;
        Ok((values.f_transpose(dim, -1)?, indices.f_transpose(dim, -1)?).into())
    }

    /// The k-th smallest elements along a dimension, with indices; k counts from 1.
    ///
    /// Example: `tensor([5, 1, 3]).kthvalue(2).values.item() == 3`
    pub fn kthvalue(
        input: &Tensor,
        k: i64,
        #[default(-1)] dim: i64,
        #[default(false)] keepdim: bool,
    ) -> Result<ValuesAndIndices> {
        Ok(input.f_kthvalue(k, dim, keepdim)?.into())
    }

    /// The most frequent elements along a dimension, with indices; of equally frequent ones the smallest.
    ///
    /// Example: `tensor([1, 2, 2]).mode().values.item() == 2`
    pub fn mode(input: &Tensor, #[default(-1)] dim: i64, #[default(false)] keepdim: bool) -> Result<ValuesAndIndices> {
        Ok(input.f_mode(dim, keepdim)?.into())
    }

    /// Cumulative sum along a dimension.
    ///
    /// Example: `tensor([1, 2, 3]).cumsum(0).to_array() == [1, 3, 6]`
    pub fn cumsum(input: &Tensor, dim: i64, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(input.f_cumsum(dim, dtype.map(|dtype| dtype.0))?)
    }

    /// Cumulative product along a dimension.
    ///
    /// Example: `tensor([1, 2, 3]).cumprod(0).to_array() == [1, 2, 6]`
    pub fn cumprod(input: &Tensor, dim: i64, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(input.f_cumprod(dim, dtype.map(|dtype| dtype.0))?)
    }

    /// The largest elements so far along a dimension, with indices.
    ///
    /// Example: `tensor([1, 3, 2]).cummax(0).values.to_array() == [1, 3, 3]`
    pub fn cummax(input: &Tensor, dim: i64) -> Result<ValuesAndIndices> {
        Ok(input.f_cummax(dim)?.into())
    }

    /// The smallest elements so far along a dimension, with indices.
    ///
    /// Example: `tensor([3, 1, 2]).cummin(0).values.to_array() == [3, 1, 1]`
    pub fn cummin(input: &Tensor, dim: i64) -> Result<ValuesAndIndices> {
        Ok(input.f_cummin(dim)?.into())
    }

    /// log Σ eˣ of the elements so far along a dimension.
    ///
    /// Example: `zeros([2]).logcumsumexp(0)[0].item() == 0.0`
    pub fn logcumsumexp(input: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_logcumsumexp(dim)?)
    }

    /// Differences of neighbours along a dimension, n times over.
    ///
    /// Example: `tensor([1, 4, 9]).diff().to_array() == [3, 5]`
    pub fn diff(input: &Tensor, #[default(1)] n: i64, #[default(-1)] dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_diff(n, dim, None::<tch::Tensor>, None::<tch::Tensor>)?)
    }

    /// The area below y along a dimension by the trapezoidal rule: with points x, or `dx` apart.
    ///
    /// Example: `trapezoid(tensor([0.0, 1.0, 2.0])).item() == 2.0`
    pub fn trapezoid(
        y: &Tensor,
        #[default(())] x: Option<Tensor>,
        #[keyword(1.0)] dx: f64,
        #[keyword(-1)] dim: i64,
    ) -> Result<tch::Tensor> {
        match x {
            Some(x) => Ok(tch::Tensor::f_trapezoid_x(y, &x, dim)?),
            None => Ok(tch::Tensor::f_trapz_dx(y, dx, dim)?),
        }
    }

    /// The distinct elements in ascending order, or with `dim` the distinct slices. With `return_inverse` or
    /// `return_counts` an array of them, the places of the elements among them (int64), and how often each occurs.
    ///
    /// Example: `tensor([3, 1, 3]).unique().to_array() == [1, 3]`
    pub fn unique(
        input: &Tensor,
        #[default(true)] sorted: bool,
        #[default(false)] return_inverse: bool,
        #[default(false)] return_counts: bool,
        #[default(())] dim: Option<i64>,
    ) -> Result<Dynamic> {
        let all = match dim {
            Some(dim) => input.f_unique_dim(dim, sorted, return_inverse, return_counts)?,
            None => tch::Tensor::f_internal_unique2(input, sorted, return_inverse, return_counts)?,
        };
        Ok(wanted(all, return_inverse, return_counts))
    }

    /// The elements without those equal to the one before, or with `dim` the slices.
    ///
    /// Example: `tensor([1, 1, 2, 1]).unique_consecutive().to_array() == [1, 2, 1]`
    pub fn unique_consecutive(
        input: &Tensor,
        #[default(false)] return_inverse: bool,
        #[default(false)] return_counts: bool,
        #[default(())] dim: Option<i64>,
    ) -> Result<Dynamic> {
        let all = input.f_unique_consecutive(return_inverse, return_counts, dim)?;
        Ok(wanted(all, return_inverse, return_counts))
    }

    /// Where the values would be inserted into a sorted sequence to keep it sorted, int64; with `right`, after equal
    /// elements.
    ///
    /// Example: `searchsorted(tensor([1, 3, 5]), tensor([3, 4])).to_array() == [1, 2]`
    pub fn searchsorted(
        sorted_sequence: &Tensor,
        input: Operand,
        #[keyword(false)] right: bool,
    ) -> Result<tch::Tensor> {
        let side = if right { "right" } else { "left" };
        let sorter = None::<tch::Tensor>;
        Ok(match input {
            Operand::Tensor(input) => input.f_searchsorted(sorted_sequence, false, right, side, sorter)?,
            Operand::Number(input) => {
                tch::Tensor::f_searchsorted_scalar(sorted_sequence, input.scalar(), false, right, side, sorter)?
            }
        })
    }

    /// The bins that the elements fall into, int64, between boundaries in ascending order.
    ///
    /// Example: `bucketize(tensor([0, 2, 9]), tensor([1, 5])).to_array() == [0, 1, 2]`
    pub fn bucketize(input: &Tensor, boundaries: &Tensor, #[keyword(false)] right: bool) -> Result<tch::Tensor> {
        Ok(input.f_bucketize(boundaries, false, right)?)
    }

    /// Whether elements are among those of another tensor, as a bool tensor.
    ///
    /// Example: `isin(tensor([1, 2]), tensor([2, 4])).to_array() == [false, true]`
    pub fn isin(elements: &Tensor, test_elements: &Tensor, #[keyword(false)] invert: bool) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_isin(elements, test_elements, false, invert)?)
    }
}

/// The distinct values alone, or with what else was asked for.
fn wanted(all: (tch::Tensor, tch::Tensor, tch::Tensor), inverse: bool, counts: bool) -> Dynamic {
    let (values, inverses, count) = all;
    let value = |t: tch::Tensor| Dynamic::from(Tensor::from(t));
    if !inverse && !counts {
        return value(values);
    }
    let rest = [(inverse, inverses), (counts, count)];
    std::iter::once(value(values))
        .chain(rest.into_iter().filter(|(kept, _)| *kept).map(|(_, t)| value(t)))
        .collect::<Vec<_>>()
        .into()
}
