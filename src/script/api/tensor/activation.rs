//! Activations, softmax, dropout and attention, without parameters of their own.

use super::arguments::{DType, Dims, Number, inner};
use crate::device::upload;
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::ffi::{self, operator};
use crate::nn::{Dropped, drawn_for, dropped};
use crate::script::values::Tensor;
use crate::tensor::shape_text;
use nepa_macros::functions;

pub use functions::register;

#[functions]
pub mod functions {
    use super::*;

    /// Softmax along a dimension: exponentials normalised to sum to 1.
    ///
    /// Example: `zeros([2]).softmax(0).to_array() == [0.5, 0.5]`
    pub fn softmax(input: &Tensor, dim: i64, #[default(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(input.f_softmax(dim, dtype.map(|dtype| dtype.0))?)
    }

    /// Logarithm of softmax, computed without overflow.
    ///
    /// Example: `zeros([2]).log_softmax(0).exp().allclose(tensor([0.5, 0.5]))`
    pub fn log_softmax(input: &Tensor, dim: i64, #[default(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(input.f_log_softmax(dim, dtype.map(|dtype| dtype.0))?)
    }

    /// Softmax of the negated elements.
    ///
    /// Example: `zeros([2]).softmin(0).to_array() == [0.5, 0.5]`
    pub fn softmin(input: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_neg()?.f_softmax(dim, None)?)
    }

    /// Samples of a categorical distribution that gradients flow through (arXiv 1611.01144), from logits [B, ...] and the
    /// run's generator, drawn by the samples' positions as dropout draws; with `hard`, one-hot ones whose gradient is the
    /// soft one's.
    ///
    /// Example: `gumbel_softmax(zeros([4, 3]), #{ hard: true }).sum().item() == 4.0`
    pub fn gumbel_softmax(
        logits: &Tensor,
        #[default(1.0)] tau: f64,
        #[default(false)] hard: bool,
        #[keyword(-1)] dim: i64,
    ) -> Result<tch::Tensor> {
        let uniform = upload(&drawn_for(&logits.size())?, logits.device())?;
        let noise = uniform.f_clamp_min(1e-20)?.f_log()?.f_neg()?.f_log()?.f_neg()?.f_to_kind(logits.kind())?;
        let soft = logits.f_add(&noise)?.f_div_scalar(tau)?.f_softmax(dim, None)?;
        if !hard {
            return Ok(soft);
        }
        let ones = soft.f_zeros_like()?.f_scatter_value(dim, &soft.f_argmax(dim, true)?, 1.0)?;
        Ok(ones.f_sub(&soft.f_detach()?)?.f_add(&soft)?)
    }

    /// GELU (arXiv 1606.08415), exact (erf) or with approximate "tanh".
    ///
    /// Example: `tensor([0.0]).gelu(#{ approximate: "tanh" }).item() == 0.0`
    pub fn gelu(input: &Tensor, #[keyword("none")] approximate: &str) -> Result<tch::Tensor> {
        knows_gelu(approximate)?;
        Ok(input.f_gelu(approximate)?)
    }

    /// max(x, 0).
    ///
    /// Example: `tensor([-1.0, 2.0]).relu().to_array() == [0.0, 2.0]`
    pub fn relu(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_relu()?)
    }

    /// min(max(x, 0), 6).
    ///
    /// Example: `tensor([-1.0, 9.0]).relu6().to_array() == [0.0, 6.0]`
    pub fn relu6(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_relu6()?)
    }

    /// x · sigmoid(x), also called swish.
    ///
    /// Example: `tensor([0.0]).silu().item() == 0.0`
    pub fn silu(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_silu()?)
    }

    /// x · tanh(softplus(x)).
    ///
    /// Example: `tensor([0.0]).mish().item() == 0.0`
    pub fn mish(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_mish()?)
    }

    /// x, or negative_slope · x where it is negative.
    ///
    /// Example: `tensor([-1.0, 2.0]).leaky_relu(0.5).to_array() == [-0.5, 2.0]`
    pub fn leaky_relu(input: &Tensor, #[default(0.01)] negative_slope: f64) -> Result<tch::Tensor> {
        of_numbers("leaky_relu", input, &[negative_slope])
    }

    /// x, or weight · x where it is negative; one weight, or one for each channel of dimension 1.
    ///
    /// Example: `prelu(tensor([-1.0, 2.0]), tensor([0.5])).to_array() == [-0.5, 2.0]`
    pub fn prelu(input: &Tensor, weight: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_prelu(weight)?)
    }

    /// x, or alpha · (eˣ − 1) where it is negative.
    ///
    /// Example: `tensor([0.0, 2.0]).elu().to_array() == [0.0, 2.0]`
    pub fn elu(input: &Tensor, #[default(1.0)] alpha: f64) -> Result<tch::Tensor> {
        of_numbers("elu", input, &[alpha, 1.0, 1.0])
    }

    /// elu of alpha 1.67326…, times 1.0507… (arXiv 1706.02515).
    ///
    /// Example: `tensor([0.0]).selu().item() == 0.0`
    pub fn selu(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_selu()?)
    }

    /// max(x, 0) + min(0, alpha · (e^(x / alpha) − 1)).
    ///
    /// Example: `tensor([0.0]).celu().item() == 0.0`
    pub fn celu(input: &Tensor, #[default(1.0)] alpha: f64) -> Result<tch::Tensor> {
        ensure!(alpha != 0.0, "celu: `alpha`: expected a number other than 0, found {alpha}");
        of_numbers("celu", input, &[alpha])
    }

    /// x · relu6(x + 3) / 6.
    ///
    /// Example: `tensor([3.0]).hardswish().item() == 3.0`
    pub fn hardswish(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_hardswish()?)
    }

    /// relu6(x + 3) / 6.
    ///
    /// Example: `tensor([3.0]).hardsigmoid().item() == 1.0`
    pub fn hardsigmoid(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_hardsigmoid()?)
    }

    /// Limits values to min_val … max_val.
    ///
    /// Example: `tensor([-3.0, 3.0]).hardtanh().to_array() == [-1.0, 1.0]`
    pub fn hardtanh(
        input: &Tensor,
        #[default(-1.0)] min_val: f64,
        #[default(1.0)] max_val: f64,
    ) -> Result<tch::Tensor> {
        are_limits(min_val, max_val)?;
        of_numbers("hardtanh", input, &[min_val, max_val])
    }

    /// ln(1 + e^(beta · x)) / beta; x itself where beta · x is above the threshold.
    ///
    /// Example: `tensor([0.0]).softplus().exp().allclose(tensor([2.0]))`
    pub fn softplus(input: &Tensor, #[default(1.0)] beta: f64, #[default(20.0)] threshold: f64) -> Result<tch::Tensor> {
        of_numbers("softplus", input, &[beta, threshold])
    }

    /// x / (1 + |x|).
    ///
    /// Example: `tensor([1.0]).softsign().item() == 0.5`
    pub fn softsign(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_div(&input.f_abs()?.f_add_scalar(1)?)?)
    }

    /// ln(sigmoid(x)), without overflow.
    ///
    /// Example: `tensor([0.0]).logsigmoid().exp().allclose(tensor([0.5]))`
    pub fn logsigmoid(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_log_sigmoid()?)
    }

    /// x − tanh(x).
    ///
    /// Example: `tensor([0.0]).tanhshrink().item() == 0.0`
    pub fn tanhshrink(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_sub(&input.f_tanh()?)?)
    }

    /// x moved towards 0 by lambd, 0 within it.
    ///
    /// Example: `tensor([-1.0, 0.25]).softshrink().to_array() == [-0.5, 0.0]`
    pub fn softshrink(input: &Tensor, #[default(0.5)] lambd: f64) -> Result<tch::Tensor> {
        ensure!(lambd >= 0.0, "softshrink: `lambd`: expected a number of at least 0, found {lambd}");
        of_numbers("softshrink", input, &[lambd])
    }

    /// x, 0 where |x| is at most lambd.
    ///
    /// Example: `tensor([-1.0, 0.25]).hardshrink().to_array() == [-1.0, 0.0]`
    pub fn hardshrink(input: &Tensor, #[default(0.5)] lambd: f64) -> Result<tch::Tensor> {
        of_numbers("hardshrink", input, &[lambd])
    }

    /// x where it is above the threshold, otherwise the value.
    ///
    /// Example: `tensor([1.0, 3.0]).threshold(2.0, 7.0).to_array() == [7.0, 3.0]`
    pub fn threshold(input: &Tensor, threshold: Number, value: Number) -> Result<tch::Tensor> {
        Ok(input.f_threshold(threshold.scalar(), value.scalar())?)
    }

    /// a · sigmoid(b) for the two halves a and b of a dimension.
    ///
    /// Example: `tensor([4.0, 0.0]).glu().item() == 2.0`
    pub fn glu(input: &Tensor, #[default(-1)] dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_glu(dim)?)
    }

    /// Sets elements to 0 with probability p and divides the others by 1 − p, from the run's generator; nothing with
    /// `training: false`. In nn::define pass m.training. The first dimension are samples: each draws by its position in
    /// the global batch, the same in any process or micro-batch. Where each has k rows, as in x [B · k, ...], those of a
    /// sample lie side by side.
    ///
    /// Example: `dropout(ones([4, 5]), 0.5, false).sum().item() == 20.0`
    pub fn dropout(input: &Tensor, #[default(0.5)] p: f64, #[default(true)] training: bool) -> Result<tch::Tensor> {
        dropped(input, p, training, Dropped::Elements)
    }

    /// Sets whole channels of [B, C, L] to 0 with probability p, as dropout does elements.
    ///
    /// Example: `dropout1d(ones([2, 3, 4]), 0.5, false).sum().item() == 24.0`
    pub fn dropout1d(input: &Tensor, #[default(0.5)] p: f64, #[default(true)] training: bool) -> Result<tch::Tensor> {
        dropped(input, p, training, Dropped::Channels)
    }

    /// Sets whole channels of [B, C, H, W] to 0 with probability p, as dropout does elements.
    ///
    /// Example: `dropout2d(ones([2, 3, 4, 4]), 0.5, false).sum().item() == 96.0`
    pub fn dropout2d(input: &Tensor, #[default(0.5)] p: f64, #[default(true)] training: bool) -> Result<tch::Tensor> {
        dropped(input, p, training, Dropped::Channels)
    }

    /// Sets whole channels of [B, C, D, H, W] to 0 with probability p, as dropout does elements.
    ///
    /// Example: `dropout3d(ones([2, 3, 2, 2, 2]), 0.5, false).sum().item() == 48.0`
    pub fn dropout3d(input: &Tensor, #[default(0.5)] p: f64, #[default(true)] training: bool) -> Result<tch::Tensor> {
        dropped(input, p, training, Dropped::Channels)
    }

    /// softmax(q kᵀ · scale + mask) v for [..., N, d], by libtorch's fused kernel where nothing is dropped. `attn_mask`
    /// is bool (true where attention is allowed) or floats that are added; `scale` is 1 / √d if (); `dropout_p` drops
    /// attention weights, also in evaluation: pass 0 there. A query that may attend to nothing gives 0.
    ///
    /// Example: `let x = ones([1, 2, 3, 4]); scaled_dot_product_attention(x, x, x, #{ is_causal: true }).allclose(x)`
    pub fn scaled_dot_product_attention(
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        #[default(())] attn_mask: Option<Tensor>,
        #[default(0.0)] dropout_p: f64,
        #[default(false)] is_causal: bool,
        #[keyword(())] scale: Option<f64>,
        #[keyword(false)] enable_gqa: bool,
    ) -> Result<tch::Tensor> {
        if dropout_p > 0.0 {
            ensure!(!enable_gqa, "scaled_dot_product_attention: expected dropout_p or enable_gqa, found both");
            return attention_with_dropout(query, key, value, attn_mask, dropout_p, is_causal, scale);
        }
        let mask = inner(&attn_mask);
        Ok(tch::Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale, enable_gqa)?)
    }

    /// softmax(q kᵀ / √d) v for [B, H, N, d], causal or not: a short name of scaled_dot_product_attention.
    ///
    /// Example: `let x = ones([1, 2, 3, 4]); attention(x, x, x, true).allclose(x)`
    pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, is_causal: bool) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_scaled_dot_product_attention(q, k, v, None::<tch::Tensor>, 0.0, is_causal, None, false)?)
    }

    /// Divides by the p-norm along a dimension or an array of them, which is taken to be at least eps. The dimension is
    /// 1 unless another is given, as in PyTorch: for tokens [B, N, D] pass -1.
    ///
    /// Example: `normalize(tensor([[3.0, 4.0]])).allclose(tensor([[0.6, 0.8]]))`
    pub fn normalize(
        input: &Tensor,
        #[default(2.0)] p: f64,
        #[default(1)] dim: Dims,
        #[default(1e-12)] eps: f64,
    ) -> Result<tch::Tensor> {
        let norm = input.f_norm_scalaropt_dim(p, dim.0, true)?;
        Ok(input.f_div(&norm.f_clamp_min(eps)?)?)
    }
}

/// An operator of a tensor and numbers.
fn of_numbers(name: &str, input: &tch::Tensor, numbers: &[f64]) -> Result<tch::Tensor> {
    let numbers = numbers.iter().map(|x| ffi::Argument::Float(*x));
    operator(name, "", &std::iter::once(ffi::Argument::Tensor(input)).chain(numbers).collect::<Vec<_>>())
}

/// Checks how GELU is to be approximated.
pub fn knows_gelu(approximate: &str) -> Result<()> {
    const NAMES: [&str; 2] = ["none", "tanh"];
    ensure!(
        NAMES.contains(&approximate),
        "gelu: unknown approximation \"{approximate}\"{} (one of: {})",
        did_you_mean(approximate, NAMES),
        NAMES.join(", ")
    );
    Ok(())
}

/// Checks hardtanh's limits.
pub fn are_limits(min_val: f64, max_val: f64) -> Result<()> {
    ensure!(min_val <= max_val, "hardtanh: expected min_val of at most max_val, found {min_val} and {max_val}");
    Ok(())
}

fn attention_with_dropout(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<Tensor>,
    p: f64,
    is_causal: bool,
    scale: Option<f64>,
) -> Result<tch::Tensor> {
    let Some(width) = query.size().last().copied().filter(|_| query.dim() >= 2 && key.dim() >= 2) else {
        bail!("scaled_dot_product_attention: expected [..., N, d], found {}", shape_text(query));
    };
    let scale = scale.unwrap_or(1.0 / (width as f64).sqrt());
    let mut scores = query.f_mul_scalar(scale)?.f_matmul(&key.f_transpose(-2, -1)?)?;
    if is_causal {
        ensure!(mask.is_none(), "scaled_dot_product_attention: expected attn_mask or is_causal, found both");
        let ones = scores.f_ones_like()?.f_to_kind(tch::Kind::Bool)?;
        scores = scores.f_masked_fill(&ones.f_tril(0)?.f_logical_not()?, f64::NEG_INFINITY)?;
    }
    if let Some(mask) = mask {
        scores = match mask.kind() {
            tch::Kind::Bool => scores.f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?,
            _ => scores.f_add(&mask)?,
        };
    }
    // Where a mask leaves nothing, the weights are 0.
    let weights = dropped(&scores.f_internal_safe_softmax(-1, None)?, p, true, Dropped::Elements)?;
    Ok(weights.f_matmul(value)?)
}
