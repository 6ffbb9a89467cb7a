//! Reductions over all elements or some dimensions.

use super::arguments::{DType, Dims, Operand};
use super::pairs::ValuesAndIndices;
use crate::error::{Result, bail, ensure};
use crate::ffi::{Argument, operator};
use crate::script::values::{Tensor, found};
use nepa_macros::functions;
use rhai::{Dynamic, Map};
use tch::Kind;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// The sum of all elements, or over one dimension or an array of them, which are removed or with `keepdim` kept
    /// with size 1. Ints and bools sum to int64.
    ///
    /// Example: `ones([2, 3]).sum(1, true).shape == [2, 1]`
    pub fn sum(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        Ok(input.f_sum_dim_intlist(dims(&dim), keepdim, kind(dtype))?)
    }

    /// The mean of all elements, or over one dimension or an array of them.
    ///
    /// Example: `tensor([1.0, 3.0]).mean().item() == 2.0`
    pub fn mean(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        Ok(input.f_mean_dim(dims(&dim), keepdim, kind(dtype))?)
    }

    /// The product of all elements, or over one dimension.
    ///
    /// Example: `tensor([2, 3, 4]).prod().item() == 24`
    pub fn prod(
        input: &Tensor,
        #[default(())] dim: Option<i64>,
        #[default(false)] keepdim: bool,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        match dim {
            Some(dim) => Ok(input.f_prod_dim_int(dim, keepdim, kind(dtype))?),
            None => Ok(input.f_prod(kind(dtype))?),
        }
    }

    /// The standard deviation of all elements, or over one dimension or an array of them; the squares are divided by
    /// n − correction, where `unbiased: false` is the same as `correction: 0`.
    ///
    /// Example: `tensor([1.0, 3.0]).std(#{ correction: 0 }).item() == 1.0`
    pub fn std(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(())] unbiased: Option<bool>,
        #[default(false)] keepdim: bool,
        #[keyword(())] correction: Option<i64>,
    ) -> Result<tch::Tensor> {
        Ok(input.f_std_correction(dims(&dim), correction_of(unbiased, correction)?, keepdim)?)
    }

    /// The variance of all elements, or over one dimension or an array of them, divided as that of std: torch.var, whose
    /// name is a reserved word here.
    ///
    /// Example: `tensor([1.0, 3.0]).variance().item() == 2.0`
    pub fn variance(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(())] unbiased: Option<bool>,
        #[default(false)] keepdim: bool,
        #[keyword(())] correction: Option<i64>,
    ) -> Result<tch::Tensor> {
        Ok(input.f_var_correction(dims(&dim), correction_of(unbiased, correction)?, keepdim)?)
    }

    /// The standard deviation and the mean, as an array of two tensors.
    ///
    /// Example: `std_mean(tensor([1.0, 1.0]))[1].item() == 1.0`
    pub fn std_mean(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(())] unbiased: Option<bool>,
        #[default(false)] keepdim: bool,
        #[keyword(())] correction: Option<i64>,
    ) -> Result<Vec<tch::Tensor>> {
        let (std, mean) = input.f_std_mean_correction(dims(&dim), correction_of(unbiased, correction)?, keepdim)?;
        Ok(vec![std, mean])
    }

    /// The variance and the mean, as an array of two tensors.
    ///
    /// Example: `var_mean(tensor([1.0, 1.0]))[0].item() == 0.0`
    pub fn var_mean(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(())] unbiased: Option<bool>,
        #[default(false)] keepdim: bool,
        #[keyword(())] correction: Option<i64>,
    ) -> Result<Vec<tch::Tensor>> {
        let (var, mean) = input.f_var_mean_correction(dims(&dim), correction_of(unbiased, correction)?, keepdim)?;
        Ok(vec![var, mean])
    }

    /// The p-norm of all elements, or over one dimension or an array of them; "fro" is the 2-norm, "nuc" the sum of a
    /// matrix's singular values. The norm over the last dimension alone is `x.norm(#{ dim: -1 })`.
    ///
    /// Example: `tensor([3.0, 4.0]).norm().item() == 5.0`
    pub fn norm(
        input: &Tensor,
        #[default("fro")] p: Dynamic,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        let input = match dtype {
            Some(dtype) => input.f_to_kind(dtype.0)?,
            None => input.shallow_clone(),
        };
        match (p.clone().into_immutable_string(), p.as_float().or(p.as_int().map(|p| p as f64))) {
            (Ok(p), _) if p == "nuc" => Ok(input.f_linalg_norm_ord_str("nuc", dims(&dim), keepdim, None)?),
            (Ok(p), _) if p == "fro" => Ok(input.f_norm_scalaropt_dim(2.0, all_or(&dim), keepdim)?),
            (_, Ok(p)) => Ok(input.f_norm_scalaropt_dim(p, all_or(&dim), keepdim)?),
            _ => bail!("norm: `p`: expected a number, \"fro\" or \"nuc\", found {}", found(&p)),
        }
    }

    /// The largest element; with a dimension the largest along it, as values and indices; with another tensor the larger
    /// elements of the two. amax gives the values alone, over several dimensions, too.
    ///
    /// Example: `tensor([[1, 5], [7, 3]]).max(1).indices.to_array() == [1, 0]`
    pub fn max(input: &Tensor, #[default(())] dim: Dynamic, #[default(false)] keepdim: bool) -> Result<Dynamic> {
        match which("max", &dim)? {
            Over::All => tensor(input.f_max()?),
            Over::Dim(dim) => pair(input.f_max_dim(dim, keepdim)?),
            Over::Other(other) => tensor(input.f_maximum(&other)?),
        }
    }

    /// The smallest element; with a dimension the smallest along it, as values and indices; with another tensor the
    /// smaller elements of the two. amin gives the values alone, over several dimensions, too.
    ///
    /// Example: `tensor([[1, 5], [7, 3]]).min(1).values.to_array() == [1, 3]`
    pub fn min(input: &Tensor, #[default(())] dim: Dynamic, #[default(false)] keepdim: bool) -> Result<Dynamic> {
        match which("min", &dim)? {
            Over::All => tensor(input.f_min()?),
            Over::Dim(dim) => pair(input.f_min_dim(dim, keepdim)?),
            Over::Other(other) => tensor(input.f_minimum(&other)?),
        }
    }

    /// The largest elements of all, or over one dimension or an array of them.
    ///
    /// Example: `tensor([[1, 5], [7, 3]]).amax(1).to_array() == [5, 7]`
    pub fn amax(input: &Tensor, #[default([])] dim: Dims, #[default(false)] keepdim: bool) -> Result<tch::Tensor> {
        Ok(input.f_amax(dim.0, keepdim)?)
    }

    /// The smallest elements of all, or over one dimension or an array of them.
    ///
    /// Example: `tensor([[1, 5], [7, 3]]).amin(1).to_array() == [1, 3]`
    pub fn amin(input: &Tensor, #[default([])] dim: Dims, #[default(false)] keepdim: bool) -> Result<tch::Tensor> {
        Ok(input.f_amin(dim.0, keepdim)?)
    }

    /// The smallest and the largest elements, as a map of `min` and `max`.
    ///
    /// Example: `aminmax(tensor([1, 5])).max.item() == 5`
    pub fn aminmax(input: &Tensor, #[keyword(())] dim: Option<i64>, #[keyword(false)] keepdim: bool) -> Result<Map> {
        let dims = dim.as_slice();
        let (min, max) = (input.f_amin(dims, keepdim)?, input.f_amax(dims, keepdim)?);
        Ok(Map::from([("min".into(), tensor(min)?), ("max".into(), tensor(max)?)]))
    }

    /// Indices of the largest elements, int64: along a dimension, or in the flattened tensor.
    ///
    /// Example: `tensor([1, 5, 3]).argmax().item() == 1`
    pub fn argmax(
        input: &Tensor,
        #[default(())] dim: Option<i64>,
        #[default(false)] keepdim: bool,
    ) -> Result<tch::Tensor> {
        Ok(input.f_argmax(dim, keepdim)?)
    }

    /// Indices of the smallest elements, int64: along a dimension, or in the flattened tensor.
    ///
    /// Example: `tensor([4, 5, 3]).argmin().item() == 2`
    pub fn argmin(
        input: &Tensor,
        #[default(())] dim: Option<i64>,
        #[default(false)] keepdim: bool,
    ) -> Result<tch::Tensor> {
        Ok(input.f_argmin(dim, keepdim)?)
    }

    /// Whether any element is true or not 0: a bool, or over one dimension or an array of them a bool tensor.
    ///
    /// Example: `tensor([0, 1]).any()`
    pub fn any(input: &Tensor, #[default(())] dim: Option<Dims>, #[default(false)] keepdim: bool) -> Result<Dynamic> {
        match dim {
            None => Ok((input.f_any()?.f_int64_value(&[])? != 0).into()),
            Some(dim) => tensor(input.f_any_dims(dim.0, keepdim)?),
        }
    }

    /// Whether all elements are true or not 0: a bool, or over one dimension or an array of them a bool tensor.
    ///
    /// Example: `tensor([2, 1]).all()`
    pub fn all(input: &Tensor, #[default(())] dim: Option<Dims>, #[default(false)] keepdim: bool) -> Result<Dynamic> {
        match dim {
            None => Ok((input.f_all()?.f_int64_value(&[])? != 0).into()),
            Some(dim) => tensor(input.f_all_dims(dim.0, keepdim)?),
        }
    }

    /// log Σ eˣ over one dimension or an array of them, without overflow.
    ///
    /// Example: `zeros([4]).logsumexp(0).exp().allclose(tensor(4.0))`
    pub fn logsumexp(input: &Tensor, dim: Dims, #[default(false)] keepdim: bool) -> Result<tch::Tensor> {
        Ok(input.f_logsumexp(dim.0, keepdim)?)
    }

    /// The sum without NaN elements.
    ///
    /// Example: `tensor([1.0, 2.0]).nansum().item() == 3.0`
    pub fn nansum(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
    ) -> Result<tch::Tensor> {
        Ok(input.f_nansum(dims(&dim), keepdim, None)?)
    }

    /// The mean without NaN elements.
    ///
    /// Example: `tensor([1.0, 3.0]).nanmean().item() == 2.0`
    pub fn nanmean(
        input: &Tensor,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
    ) -> Result<tch::Tensor> {
        Ok(input.f_nanmean(dims(&dim), keepdim, None)?)
    }

    /// How many elements are not 0.
    ///
    /// Example: `tensor([0, 2, 3]).count_nonzero().item() == 2`
    pub fn count_nonzero(input: &Tensor, #[default(())] dim: Option<Dims>) -> Result<tch::Tensor> {
        match dim {
            None => Ok(input.f_count_nonzero(None::<i64>)?),
            Some(dim) => Ok(input.f_count_nonzero_dim_intlist(dim.0)?),
        }
    }

    /// The middle element; with a dimension the middle ones along it, as values and indices. Of an even number, the
    /// lower of the two in the middle.
    ///
    /// Example: `tensor([3, 1, 2]).median().item() == 2`
    pub fn median(input: &Tensor, #[default(())] dim: Option<i64>, #[default(false)] keepdim: bool) -> Result<Dynamic> {
        match dim {
            None => tensor(input.f_median()?),
            Some(dim) => pair(input.f_median_dim(dim, keepdim)?),
        }
    }

    /// Quantiles of all elements, or along a dimension; q is a number or a tensor [Q] in 0 … 1. `interpolation` is
    /// "linear", "lower", "higher", "midpoint" or "nearest".
    ///
    /// Example: `tensor([0.0, 1.0, 2.0]).quantile(0.25).item() == 0.5`
    pub fn quantile(
        input: &Tensor,
        q: Operand,
        #[default(())] dim: Option<i64>,
        #[default(false)] keepdim: bool,
        #[keyword("linear")] interpolation: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_quantile(&q.tensor(input)?, dim, keepdim, interpolation)?)
    }

    /// How often each number from 0 occurs in an int64 tensor [N], or the sums of weights [N] of each; at least
    /// `minlength` of them.
    ///
    /// Example: `tensor([0, 2, 2]).bincount().to_array() == [1, 0, 2]`
    pub fn bincount(
        input: &Tensor,
        #[default(())] weights: Option<Tensor>,
        #[default(0)] minlength: i64,
    ) -> Result<tch::Tensor> {
        Ok(input.f_bincount(weights.as_deref(), minlength)?)
    }

    /// Counts of the elements in bins of equal width from min to max; where these are equal, from the smallest element to
    /// the largest. Elements outside do not count.
    ///
    /// Example: `tensor([1.0, 2.0, 1.0]).histc(2, 0, 2).to_array() == [0.0, 3.0]`
    pub fn histc(
        input: &Tensor,
        #[default(100)] bins: i64,
        #[default(0.0)] min: f64,
        #[default(0.0)] max: f64,
    ) -> Result<tch::Tensor> {
        ensure!(
            bins > 0 && min <= max,
            "histc: expected at least 1 bin and min <= max, found {bins} bins from {min} to {max}"
        );
        // A CPU counts floats alone.
        let x = if input.is_floating_point() { input.shallow_clone() } else { input.f_to_kind(Kind::Double)? };
        let range = [Argument::Int(bins), Argument::Float(min), Argument::Float(max)];
        let counts = operator("histc", "", &[&[Argument::Tensor(&x)][..], &range].concat())?;
        Ok(counts.f_to_kind(input.kind())?)
    }
}

/// What max and min are asked for.
enum Over {
    All,
    Dim(i64),
    Other(Tensor),
}

fn which(of: &str, dim: &Dynamic) -> Result<Over> {
    if let Some(other) = dim.read_lock::<Tensor>() {
        return Ok(Over::Other(other.clone()));
    }
    match dim.as_int() {
        Ok(dim) => Ok(Over::Dim(dim)),
        Err(_) if dim.is_unit() => Ok(Over::All),
        Err(_) => bail!("{of}: expected a dimension or another tensor, found {}", found(dim)),
    }
}

fn tensor(t: tch::Tensor) -> Result<Dynamic> {
    Ok(Dynamic::from(Tensor::from(t)))
}

fn pair(pair: (tch::Tensor, tch::Tensor)) -> Result<Dynamic> {
    Ok(Dynamic::from(ValuesAndIndices::from(pair)))
}

/// The dimensions for tch, `None` for all.
fn dims(dim: &Option<Dims>) -> Option<&[i64]> {
    dim.as_ref().map(|dim| dim.0.as_slice())
}

/// The dimensions for tch, none for all.
fn all_or(dim: &Option<Dims>) -> &[i64] {
    dims(dim).unwrap_or(&[])
}

fn kind(dtype: Option<DType>) -> Option<Kind> {
    dtype.map(|dtype| dtype.0)
}

fn correction_of(unbiased: Option<bool>, correction: Option<i64>) -> Result<i64> {
    match (unbiased, correction) {
        (Some(_), Some(_)) => bail!("expected `unbiased` or `correction`, found both"),
        (Some(unbiased), None) => Ok(i64::from(unbiased)),
        (None, correction) => Ok(correction.unwrap_or(1)),
    }
}
