//! Random tensors, all from the run's generator: a run draws the same again from the same seed, and on a resume.

use super::arguments::{DType, Operand, Shape};
use super::create::here;
use crate::device::upload;
use crate::error::{Result, bail, ensure};
use crate::random::{self, Key};
use crate::script::types::Argument;
use crate::script::values::{Tensor, found};
use crate::tensor::{dtype_name, shape_text};
use nepa_macros::functions;
use rhai::Dynamic;
use tch::Kind;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Uniform values in [0, 1), from the run's generator. Every process and micro-batch draws the same: what belongs to
    /// the samples of a batch is drawn by rand_per_sample.
    ///
    /// Example: `rand([2, 3]).max().item() < 1.0`
    pub fn rand(size: Shape, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        below_one(of_kind(random::next_key().uniform(&size.0)?, dtype)?)
    }

    /// Uniform values in [0, 1), from the run's generator, with one row for each sample of the current batch (sizes[0]
    /// of them). A row depends on the sample's position in the global batch (`batch.samples`), so a sample draws the
    /// same in any process or micro-batch. Where each sample has k rows, sizes[0] = B · k, those of a sample lie side by
    /// side.
    ///
    /// Example: `let hidden = rand_per_sample([8, 16]) < 0.4; hidden.shape == [8, 16]`
    pub fn rand_per_sample(sizes: Shape) -> Result<tch::Tensor> {
        ensure!(!sizes.0.is_empty(), "rand_per_sample: expected the number of samples as the first size, found []");
        here(random::next_per_sample(&sizes.0, Key::uniform)?)
    }

    /// Standard normal values, from the run's generator, with one row for each sample of the current batch, as
    /// rand_per_sample draws them: noise for images, the same in any process or micro-batch.
    ///
    /// Example: `let noise = randn_per_sample([8, 3, 4, 4]); noise.shape == [8, 3, 4, 4]`
    pub fn randn_per_sample(sizes: Shape) -> Result<tch::Tensor> {
        ensure!(!sizes.0.is_empty(), "randn_per_sample: expected the number of samples as the first size, found []");
        here(random::next_per_sample(&sizes.0, Key::normal)?)
    }

    /// Standard normal values, from the run's generator. Every process and micro-batch draws the same: what belongs to the
    /// samples of a batch is drawn by randn_per_sample.
    ///
    /// Example: `randn([2, 3]).shape == [2, 3]`
    pub fn randn(size: Shape, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        of_kind(random::next_key().normal(&size.0)?, dtype)
    }

    /// Uniform int64 values in low … high − 1, from the run's generator; `randint(high, size)` starts from 0.
    ///
    /// Example: `randint(3, 5, [100]).min().item() >= 3`
    pub fn randint(low: i64, high: Dynamic, #[default(())] size: Option<Shape>) -> Result<tch::Tensor> {
        let (low, high, size) = match (high.as_int(), size) {
            (Ok(high), Some(size)) => (low, high, size),
            (Err(_), None) if high.is_array() => (0, low, Shape::read_value(&high, "randint: `size`")?),
            (Ok(_), None) => bail!("randint: `size` is missing: expected an array of ints"),
            (Err(_), _) => bail!("randint: `high`: expected an integer, found {}", found(&high)),
        };
        here(random::next_key().integers(low, high, &size.0)?)
    }

    /// 0 … n − 1 in random order, int64, from the run's generator.
    ///
    /// Example: `randperm(4).sort().values.to_array() == [0, 1, 2, 3]`
    pub fn randperm(n: i64) -> Result<tch::Tensor> {
        let Ok(count) = u32::try_from(n) else { bail!("randperm: expected n from 0 to {}, found {n}", u32::MAX) };
        crate::tensor::fits_memory(&[n], Kind::Int64)?;
        let order = random::next_key().permutation(count as usize)?.into_iter().map(i64::from).collect::<Vec<i64>>();
        here(tch::Tensor::f_from_slice(&order)?)
    }

    /// Uniform values in [0, 1) of another tensor's shape, dtype and device, from the run's generator. Every process and
    /// micro-batch draws the same: for the images of a batch there is rand_per_sample.
    ///
    /// Example: `rand_like(ones([2, 3])).shape == [2, 3]`
    pub fn rand_like(input: &Tensor) -> Result<tch::Tensor> {
        below_one(like(input, random::next_key().uniform(&input.size())?)?)
    }

    /// Standard normal values of another tensor's shape, dtype and device, from the run's generator. Every process and
    /// micro-batch draws the same: for the images of a batch there is randn_per_sample.
    ///
    /// Example: `randn_like(ones([2, 3])).shape == [2, 3]`
    pub fn randn_like(input: &Tensor) -> Result<tch::Tensor> {
        like(input, random::next_key().normal(&input.size())?)
    }

    /// Normal values of a mean and a standard deviation, numbers or tensors, from the run's generator. With two numbers
    /// the size is needed.
    ///
    /// Example: `normal(5.0, 0.0, [2]).to_array() == [5.0, 5.0]`
    pub fn normal(mean: Operand, std: Operand, #[default(())] size: Option<Shape>) -> Result<tch::Tensor> {
        let scalar = tch::Tensor::f_empty([0i64; 0], (Kind::Float, crate::device::current()))?;
        let (mean, std) = (mean.tensor(&scalar)?, std.tensor(&scalar)?);
        let shape = match size {
            Some(size) => size.0,
            None if mean.dim() + std.dim() > 0 => mean.f_add(&std)?.size(),
            None => bail!("normal: `size` is missing: expected an array of ints, as mean and std are numbers"),
        };
        Ok(here(random::next_key().normal(&shape)?)?.f_mul(&std)?.f_add(&mean)?)
    }

    /// 1 with the probability that each element is, in 0 … 1, or with probability p, otherwise 0, from the run's generator.
    ///
    /// Example: `bernoulli(tensor([0.0, 1.0])).to_array() == [0.0, 1.0]`
    pub fn bernoulli(input: &Tensor, #[default(())] p: Option<f64>) -> Result<tch::Tensor> {
        match p {
            Some(p) => ensure!((0.0..=1.0).contains(&p), "bernoulli: `p`: expected a probability in 0 to 1, found {p}"),
            None => {
                let fine = input.f_ge(0)?.f_logical_and(&input.f_le(1)?)?.f_all()?.f_int64_value(&[])? != 0;
                ensure!(fine, "bernoulli: expected probabilities in 0 to 1, found others among them");
            }
        }
        let drawn = upload(&random::next_key().uniform(&input.size())?, input.device())?;
        let ones = match p {
            Some(p) => drawn.f_lt(p)?,
            None => drawn.f_lt_tensor(input)?,
        };
        Ok(ones.f_to_kind(input.kind())?)
    }

    /// Indices drawn with probabilities in proportion to the weights, [N] or [B, N], int64 [num_samples] or
    /// [B, num_samples], from the run's generator; without replacement each at most once.
    ///
    /// Example: `multinomial(tensor([0.0, 1.0]), 1).item() == 1`
    pub fn multinomial(input: &Tensor, num_samples: i64, #[default(false)] replacement: bool) -> Result<tch::Tensor> {
        drawn_indices(input, num_samples, replacement)
    }
}

fn of_kind(t: tch::Tensor, dtype: Option<DType>) -> Result<tch::Tensor> {
    let t = dtype.map_or(Ok(t.shallow_clone()), |dtype| t.f_to_kind(dtype.0))?;
    ensure!(t.is_floating_point(), "expected a dtype of floats, found {}", dtype_name(t.kind()));
    here(t)
}

/// Uniform values in [0, 1) of any dtype of floats: what its rounding made 1 is the largest number below it.
fn below_one(t: tch::Tensor) -> Result<tch::Tensor> {
    Ok(match t.kind() {
        Kind::Half => t.f_clamp_max(1.0 - 2f64.powi(-11))?,
        Kind::BFloat16 => t.f_clamp_max(1.0 - 2f64.powi(-8))?,
        _ => t,
    })
}

fn like(input: &Tensor, drawn: tch::Tensor) -> Result<tch::Tensor> {
    ensure!(input.is_floating_point(), "expected a tensor of floats, found {}", shape_text(input));
    Ok(upload(&drawn, input.device())?.f_to_kind(input.kind())?)
}

fn drawn_indices(weights: &Tensor, count: i64, replacement: bool) -> Result<tch::Tensor> {
    ensure!(
        weights.is_floating_point() && (1..=2).contains(&weights.dim()) && weights.numel() > 0,
        "multinomial: expected weights [N] or [B, N] of floats, found {}",
        shape_text(weights)
    );
    let weights = tch::no_grad(|| weights.f_to_kind(Kind::Double))?;
    let fine = weights.f_ge(0.0)?.f_logical_and(&weights.f_isfinite()?)?.f_all()?.f_int64_value(&[])? != 0;
    let least = weights.f_gt(0.0)?.f_sum_dim_intlist(-1, false, Kind::Int64)?.f_min()?.f_int64_value(&[])?;
    ensure!(fine, "multinomial: expected finite weights of at least 0");
    ensure!(
        count > 0 && least >= if replacement { 1 } else { count },
        "multinomial: {count} samples cannot be drawn from {least} weights above 0{}",
        if replacement { "" } else { " without replacement" }
    );
    if !replacement {
        // The first arrivals of a race of exponential clocks.
        let uniform = upload(&random::next_key().uniform(&weights.size())?, weights.device())?;
        let waiting = uniform.f_to_kind(Kind::Double)?.f_neg()?.f_log1p()?.f_neg()?.f_clamp_min(f64::MIN_POSITIVE)?;
        return Ok(weights.f_div(&waiting)?.f_topk(count, -1, true, true)?.1);
    }
    let mut shape = weights.size();
    shape.pop();
    shape.push(count);
    let uniform = upload(&random::next_key().uniform(&shape)?, weights.device())?.f_to_kind(Kind::Double)?;
    let ends = weights.f_cumsum(-1, None::<Kind>)?;
    let total = ends.f_narrow(-1, ends.size()[ends.dim() - 1] - 1, 1)?;
    let place = uniform.f_mul(&total)?;
    Ok(place.f_contiguous()?.f_searchsorted(&ends.f_contiguous()?, false, true, "right", None::<tch::Tensor>)?)
}
