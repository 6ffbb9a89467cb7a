//! Reductions over all elements or some dimensions.

use super::Dims;
use crate::error::{Result, ensure};
use crate::script::values::Tensor;
use crate::tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// The sum of all elements.
    pub fn sum(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_sum(None)?)
    }

    /// The sum over one dimension or an array of them, which are removed.
    #[script(name = "sum")]
    pub fn sum_over(t: &Tensor, dim: Dims) -> Result<tch::Tensor> {
        Ok(t.f_sum_dim_intlist(dim.0, false, None)?)
    }

    /// The sum over dimensions, kept with size 1 if keepdim is true.
    #[script(name = "sum")]
    pub fn sum_keepdim(t: &Tensor, dim: Dims, keepdim: bool) -> Result<tch::Tensor> {
        Ok(t.f_sum_dim_intlist(dim.0, keepdim, None)?)
    }

    /// The mean of all elements.
    pub fn mean(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_mean(None)?)
    }

    /// The mean over one dimension or an array of them, which are removed.
    #[script(name = "mean")]
    pub fn mean_over(t: &Tensor, dim: Dims) -> Result<tch::Tensor> {
        Ok(t.f_mean_dim(dim.0, false, None)?)
    }

    /// The mean over dimensions, kept with size 1 if keepdim is true.
    #[script(name = "mean")]
    pub fn mean_keepdim(t: &Tensor, dim: Dims, keepdim: bool) -> Result<tch::Tensor> {
        Ok(t.f_mean_dim(dim.0, keepdim, None)?)
    }

    /// The standard deviation of all elements (n − 1).
    pub fn std(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_std(true)?)
    }

    /// The standard deviation over one dimension or an array of them (n − 1).
    #[script(name = "std")]
    pub fn std_over(t: &Tensor, dim: Dims) -> Result<tch::Tensor> {
        Ok(t.f_std_dim(dim.0, true, false)?)
    }

    /// The variance of all elements (n − 1).
    pub fn var(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_var(true)?)
    }

    /// The variance over one dimension or an array of them (n − 1).
    #[script(name = "var")]
    pub fn var_over(t: &Tensor, dim: Dims) -> Result<tch::Tensor> {
        Ok(t.f_var_dim(dim.0, true, false)?)
    }

    /// The 2-norm of all elements.
    pub fn norm(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_norm()?)
    }

    /// The 2-norm over one dimension or an array of them.
    #[script(name = "norm")]
    pub fn norm_over(t: &Tensor, dim: Dims) -> Result<tch::Tensor> {
        Ok(t.f_norm_scalaropt_dim(2.0, dim.0, false)?)
    }

    /// The 2-norm over dimensions, kept with size 1 if keepdim is true.
    #[script(name = "norm")]
    pub fn norm_keepdim(t: &Tensor, dim: Dims, keepdim: bool) -> Result<tch::Tensor> {
        Ok(t.f_norm_scalaropt_dim(2.0, dim.0, keepdim)?)
    }

    /// The largest element.
    pub fn max(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_max()?)
    }

    /// The largest elements along one dimension.
    #[script(name = "max")]
    pub fn max_over(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_amax([dim], false)?)
    }

    /// The smallest element.
    pub fn min(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_min()?)
    }

    /// The smallest elements along one dimension.
    #[script(name = "min")]
    pub fn min_over(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_amin([dim], false)?)
    }

    /// Indices of the largest elements along a dimension, int64.
    pub fn argmax(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_argmax(dim, false)?)
    }

    /// Indices of the smallest elements along a dimension, int64.
    pub fn argmin(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_argmin(dim, false)?)
    }

    /// Whether any element is true or not 0.
    pub fn any(t: &Tensor) -> Result<bool> {
        Ok(t.f_any()?.f_int64_value(&[])? != 0)
    }

    /// Whether all elements are true or not 0.
    pub fn all(t: &Tensor) -> Result<bool> {
        Ok(t.f_all()?.f_int64_value(&[])? != 0)
    }

    /// The k largest elements along the last dimension, in descending order: an array of the values
    /// and their int64 indices. Equal elements come in the order of their indices, the lowest first.
    pub fn topk(t: &Tensor, k: i64) -> Result<Vec<tch::Tensor>> {
        let (values, indices) = tensor::topk(t, k)?;
        Ok(vec![values, indices])
    }

    /// Cumulative sum along a dimension.
    pub fn cumsum(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_cumsum(dim, None)?)
    }

    /// How often each of the numbers 0 to n − 1 occurs in an int64 tensor [N].
    pub fn bincount(t: &Tensor, n: i64) -> Result<tch::Tensor> {
        counts(t, n, None)
    }

    /// The sum of the weights [N] of each of the numbers 0 to n − 1 in an int64 tensor [N].
    #[script(name = "bincount")]
    pub fn bincount_weighted(t: &Tensor, n: i64, weights: &Tensor) -> Result<tch::Tensor> {
        counts(t, n, Some(weights))
    }
}

fn counts(t: &tch::Tensor, n: i64, weights: Option<&tch::Tensor>) -> Result<tch::Tensor> {
    let counts = t.f_bincount(weights, n)?;
    ensure!(counts.numel() as i64 <= n, "bincount: expected numbers from 0 to {}, found {}", n - 1, counts.numel() - 1);
    Ok(counts)
}
