//! Activations, norms, convolution, pooling and attention, without parameters of their own.

use crate::error::{Result, bail};
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Softmax along a dimension: exponentials normalised to sum to 1.
    pub fn softmax(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_softmax(dim, None)?)
    }

    /// Logarithm of softmax.
    pub fn log_softmax(t: &Tensor, dim: i64) -> Result<tch::Tensor> {
        Ok(t.f_log_softmax(dim, None)?)
    }

    /// Exact GELU (erf), arXiv 1606.08415.
    pub fn gelu(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_gelu("none")?)
    }

    /// t · sigmoid(t).
    pub fn silu(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_silu()?)
    }

    /// max(t, 0).
    pub fn relu(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_relu()?)
    }

    /// Divides by the 2-norm over the last dimension (at least 1e-12), in float32.
    pub fn normalize(t: &Tensor) -> Result<tch::Tensor> {
        crate::loss::normalize(t, 1e-12)
    }

    /// Normalises to mean 0 and variance 1 over the last dimension, with eps 1e-12, without parameters.
    pub fn layer_norm(t: &Tensor) -> Result<tch::Tensor> {
        normed(t, None, None)
    }

    /// Normalises to mean 0 and variance 1 over the last dimension, with eps 1e-12, then multiplies by weight and adds
    /// bias, both of that dimension's size.
    #[script(name = "layer_norm")]
    pub fn layer_norm_affine(t: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<tch::Tensor> {
        normed(t, Some(weight), Some(bias))
    }

    /// Convolution of images [B, C, H, W] with weight [O, C, k, k], without bias.
    pub fn conv2d(t: &Tensor, weight: &Tensor, stride: i64, padding: i64) -> Result<tch::Tensor> {
        Ok(t.f_conv2d(weight, None::<tch::Tensor>, [stride; 2], [padding; 2], [1, 1], 1)?)
    }

    /// Convolution of images [B, C, H, W] with weight [O, C, k, k] and bias [O].
    #[script(name = "conv2d")]
    pub fn conv2d_with_bias(
        t: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        stride: i64,
        padding: i64,
    ) -> Result<tch::Tensor> {
        Ok(t.f_conv2d(weight, Some(&**bias), [stride; 2], [padding; 2], [1, 1], 1)?)
    }

    /// Resizes images [B, C, H, W] bilinearly to [height, width] (aligned pixel centres, no antialiasing).
    pub fn interpolate(t: &Tensor, size: Vec<i64>) -> Result<tch::Tensor> {
        Ok(t.f_upsample_bilinear2d(size, false, None, None)?)
    }

    /// Mean over k × k windows of images [B, C, H, W], with stride k.
    pub fn avg_pool2d(t: &Tensor, k: i64) -> Result<tch::Tensor> {
        Ok(t.f_avg_pool2d([k, k], [k, k], [0, 0], false, true, None)?)
    }

    /// softmax(q kᵀ / √d) v for [B, H, N, d], causal or not, by libtorch's fused kernel.
    pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, is_causal: bool) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_scaled_dot_product_attention(q, k, v, None::<tch::Tensor>, 0.0, is_causal, None, false)?)
    }
}

fn normed(t: &tch::Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<tch::Tensor> {
    let Some(&last) = t.size().last() else { bail!("layer_norm: expected at least one dimension, found a scalar") };
    Ok(t.f_layer_norm([last], weight.map(|w| &**w), bias.map(|b| &**b), 1e-12, true)?)
}
