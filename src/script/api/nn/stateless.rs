//! Layers without parameters: activations, pooling, other shapes. Names, order of arguments and defaults are PyTorch's.

use super::wrap;
use crate::error::{Result, bail};
use crate::nn::{Context, ModuleVisitor};
use crate::script::api::tensor::activation::{are_limits, functions as activation, knows_gelu};
use crate::script::api::tensor::arguments::Dims;
use crate::script::api::tensor::conv::functions as conv;
use crate::script::api::tensor::norms::functions as norms;
use crate::script::api::tensor::pool::functions as pool;
use crate::script::api::tensor::vision::functions as vision;
use crate::script::values::{Module, Tensor, found};
use nepa_macros::functions;
use rhai::Dynamic;

pub use functions::register;

/// A function of one tensor as a module.
struct Layer<F> {
    shown: String,
    apply: F,
}

impl<F: Fn(&Tensor) -> Result<tch::Tensor>> crate::nn::Module for Layer<F> {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    fn visit(&self, _visitor: &mut ModuleVisitor<'_>) {}

    fn forward(&self, x: &tch::Tensor, _cx: &Context) -> Result<tch::Tensor> {
        (self.apply)(&Tensor::from(x.shallow_clone()))
    }
}

fn layer(name: &str, arguments: &str, apply: impl Fn(&Tensor) -> Result<tch::Tensor> + 'static) -> Result<Module> {
    wrap(Layer { shown: format!("{name}({arguments})"), apply })
}

/// The tensor that a value is.
fn tensor_in(value: Dynamic) -> Result<tch::Tensor> {
    match value.read_lock::<Tensor>() {
        Some(t) => Ok(t.shallow_clone()),
        None => bail!("expected a tensor, found {}", found(&value)),
    }
}

#[functions]
mod functions {
    use super::*;

    /// Gives its input back.
    ///
    /// Example: `nn::identity().forward(ones([2])).shape == [2]`
    pub fn identity() -> Result<Module> {
        layer("identity", "", |x| Ok(x.shallow_clone()))
    }

    /// Hyperbolic tangent.
    ///
    /// Example: `nn::tanh().forward(zeros([2])).sum().item() == 0.0`
    pub fn tanh() -> Result<Module> {
        layer("tanh", "", |x| Ok(x.f_tanh()?))
    }

    /// 1 / (1 + e^−x).
    ///
    /// Example: `nn::sigmoid().forward(zeros([1])).item() == 0.5`
    pub fn sigmoid() -> Result<Module> {
        layer("sigmoid", "", |x| Ok(x.f_sigmoid()?))
    }

    /// max(x, 0).
    ///
    /// Example: `nn::relu().forward(zeros([2])).shape == [2]`
    pub fn relu() -> Result<Module> {
        layer("relu", "", activation::relu)
    }

    /// min(max(x, 0), 6).
    ///
    /// Example: `nn::relu6().forward(zeros([2])).shape == [2]`
    pub fn relu6() -> Result<Module> {
        layer("relu6", "", activation::relu6)
    }

    /// x · sigmoid(x).
    ///
    /// Example: `nn::silu().forward(zeros([2])).shape == [2]`
    pub fn silu() -> Result<Module> {
        layer("silu", "", activation::silu)
    }

    /// x · tanh(softplus(x)).
    ///
    /// Example: `nn::mish().forward(zeros([2])).shape == [2]`
    pub fn mish() -> Result<Module> {
        layer("mish", "", activation::mish)
    }

    /// The self-normalising ELU (arXiv 1706.02515).
    ///
    /// Example: `nn::selu().forward(zeros([2])).shape == [2]`
    pub fn selu() -> Result<Module> {
        layer("selu", "", activation::selu)
    }

    /// x · relu6(x + 3) / 6.
    ///
    /// Example: `nn::hardswish().forward(zeros([2])).shape == [2]`
    pub fn hardswish() -> Result<Module> {
        layer("hardswish", "", activation::hardswish)
    }

    /// relu6(x + 3) / 6.
    ///
    /// Example: `nn::hardsigmoid().forward(zeros([2])).shape == [2]`
    pub fn hardsigmoid() -> Result<Module> {
        layer("hardsigmoid", "", activation::hardsigmoid)
    }

    /// x / (1 + |x|).
    ///
    /// Example: `nn::softsign().forward(zeros([2])).shape == [2]`
    pub fn softsign() -> Result<Module> {
        layer("softsign", "", activation::softsign)
    }

    /// ln(sigmoid(x)).
    ///
    /// Example: `nn::logsigmoid().forward(zeros([2])).shape == [2]`
    pub fn logsigmoid() -> Result<Module> {
        layer("logsigmoid", "", activation::logsigmoid)
    }

    /// GELU (arXiv 1606.08415), exact or with approximate "tanh".
    ///
    /// Example: `nn::gelu().forward(zeros([2])).sum().item() == 0.0`
    pub fn gelu(#[default("none")] approximate: String) -> Result<Module> {
        knows_gelu(&approximate)?;
        layer("gelu", &approximate.clone(), move |x| activation::gelu(x, &approximate))
    }

    /// x, or negative_slope · x where it is negative.
    ///
    /// Example: `nn::leaky_relu(0.5).forward(tensor([-1.0])).item() == -0.5`
    pub fn leaky_relu(#[default(0.01)] negative_slope: f64) -> Result<Module> {
        layer("leaky_relu", &format!("{negative_slope}"), move |x| activation::leaky_relu(x, negative_slope))
    }

    /// x, or alpha · (eˣ − 1) where it is negative.
    ///
    /// Example: `nn::elu().forward(zeros([1])).item() == 0.0`
    pub fn elu(#[default(1.0)] alpha: f64) -> Result<Module> {
        layer("elu", &format!("{alpha}"), move |x| activation::elu(x, alpha))
    }

    /// Limits values to min_val … max_val.
    ///
    /// Example: `nn::hardtanh().forward(tensor([3.0])).item() == 1.0`
    pub fn hardtanh(#[default(-1.0)] min_val: f64, #[default(1.0)] max_val: f64) -> Result<Module> {
        are_limits(min_val, max_val)?;
        layer("hardtanh", &format!("{min_val}, {max_val}"), move |x| activation::hardtanh(x, min_val, max_val))
    }

    /// ln(1 + e^(beta · x)) / beta; x itself where beta · x is above the threshold.
    ///
    /// Example: `nn::softplus().forward(zeros([1])).item() > 0.69`
    pub fn softplus(#[default(1.0)] beta: f64, #[default(20.0)] threshold: f64) -> Result<Module> {
        layer("softplus", &format!("{beta}, {threshold}"), move |x| activation::softplus(x, beta, threshold))
    }

    /// Softmax along a dimension.
    ///
    /// Example: `nn::softmax(-1).forward(zeros([2])).to_array() == [0.5, 0.5]`
    pub fn softmax(dim: i64) -> Result<Module> {
        layer("softmax", &format!("{dim}"), move |x| activation::softmax(x, dim, None))
    }

    /// Logarithm of softmax along a dimension.
    ///
    /// Example: `nn::log_softmax(-1).forward(zeros([2])).exp().allclose(tensor([0.5, 0.5]))`
    pub fn log_softmax(dim: i64) -> Result<Module> {
        layer("log_softmax", &format!("{dim}"), move |x| activation::log_softmax(x, dim, None))
    }

    /// a · sigmoid(b) for the two halves a and b of a dimension.
    ///
    /// Example: `nn::glu().forward(tensor([4.0, 0.0])).item() == 2.0`
    pub fn glu(#[default(-1)] dim: i64) -> Result<Module> {
        layer("glu", &format!("{dim}"), move |x| activation::glu(x, dim))
    }

    /// Merges dimensions start_dim … end_dim (inclusive) into one.
    ///
    /// Example: `nn::flatten().forward(ones([2, 3, 4])).shape == [2, 12]`
    pub fn flatten(#[default(1)] start_dim: i64, #[default(-1)] end_dim: i64) -> Result<Module> {
        layer("flatten", &format!("{start_dim}, {end_dim}"), move |x| Ok(x.f_flatten(start_dim, end_dim)?))
    }

    /// Splits a dimension into several.
    ///
    /// Example: `nn::unflatten(1, [3, 4]).forward(ones([2, 12])).shape == [2, 3, 4]`
    pub fn unflatten(dim: i64, unflattened_size: Vec<i64>) -> Result<Module> {
        layer("unflatten", &format!("{dim}, {unflattened_size:?}"), move |x| {
            Ok(x.f_unflatten(dim, unflattened_size.clone())?)
        })
    }

    /// Means over windows of [B, C, L]; `stride` is the kernel's size if ().
    ///
    /// Example: `nn::avg_pool1d(2).forward(ones([1, 2, 8])).shape == [1, 2, 4]`
    pub fn avg_pool1d(
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(true)] count_include_pad: bool,
    ) -> Result<Module> {
        layer("avg_pool1d", &format!("{:?}", kernel_size.0), move |x| {
            pool::avg_pool1d(x, kernel_size.clone(), stride.clone(), padding.clone(), ceil_mode, count_include_pad)
        })
    }

    /// Means over windows of [B, C, {L}]; `stride` is the kernel's size if ().
    ///
    /// Example: `nn::avg_pool{D}d(2).forward(ones([1, 2, {8}])).shape == [1, 2, {4}]`
    #[script(dims(2, 3))]
    pub fn avg_pool<const D: usize>(
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(true)] count_include_pad: bool,
    ) -> Result<Module> {
        layer(&format!("avg_pool{D}d"), &format!("{:?}", kernel_size.0), move |x| {
            let (kernel_size, stride, padding) = (kernel_size.clone(), stride.clone(), padding.clone());
            pool::avg_pool::<D>(x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)
        })
    }

    /// Largest elements of windows of [B, C, {L}]; `stride` is the kernel's size if ().
    ///
    /// Example: `nn::max_pool{D}d(2).forward(ones([1, 2, {8}])).shape == [1, 2, {4}]`
    #[script(dims(1, 2, 3))]
    pub fn max_pool<const D: usize>(
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[keyword(false)] ceil_mode: bool,
    ) -> Result<Module> {
        layer(&format!("max_pool{D}d"), &format!("{:?}", kernel_size.0), move |x| {
            let (kernel_size, stride) = (kernel_size.clone(), stride.clone());
            let (padding, dilation) = (padding.clone(), dilation.clone());
            tensor_in(pool::max_pool::<D>(x, kernel_size, stride, padding, dilation, ceil_mode, false)?)
        })
    }

    /// Means over as many windows of [B, C, {L}] as `output_size` says.
    ///
    /// Example: `nn::adaptive_avg_pool{D}d(1).forward(ones([1, 2, {8}])).shape == [1, 2, {1}]`
    #[script(dims(1, 2, 3))]
    pub fn adaptive_avg_pool<const D: usize>(output_size: Dims) -> Result<Module> {
        layer(&format!("adaptive_avg_pool{D}d"), &format!("{:?}", output_size.0), move |x| {
            pool::adaptive_avg_pool::<D>(x, output_size.clone())
        })
    }

    /// Largest elements of as many windows of [B, C, {L}] as `output_size` says.
    ///
    /// Example: `nn::adaptive_max_pool{D}d(1).forward(ones([1, 2, {8}])).shape == [1, 2, {1}]`
    #[script(dims(1, 2, 3))]
    pub fn adaptive_max_pool<const D: usize>(output_size: Dims) -> Result<Module> {
        layer(&format!("adaptive_max_pool{D}d"), &format!("{:?}", output_size.0), move |x| {
            pool::adaptive_max_pool::<D>(x, output_size.clone())
        })
    }

    /// Resizes images [B, C, H, W], or 1 or 3 dimensions, to a `size` or by a `scale_factor`, as interpolate.
    ///
    /// Example: `nn::upsample(#{ scale_factor: 2 }).forward(ones([1, 2, 4, 4])).shape == [1, 2, 8, 8]`
    pub fn upsample(
        #[default(())] size: Option<Dims>,
        #[default(())] scale_factor: Dynamic,
        #[default("nearest")] mode: String,
        #[default(())] align_corners: Option<bool>,
    ) -> Result<Module> {
        layer("upsample", &mode.clone(), move |x| {
            vision::interpolate(x, size.clone(), scale_factor.clone(), &mode, align_corners, None, false)
        })
    }

    /// [B, C · r², H, W] to [B, C, H · r, W · r].
    ///
    /// Example: `nn::pixel_shuffle(2).forward(ones([1, 4, 2, 2])).shape == [1, 1, 4, 4]`
    pub fn pixel_shuffle(upscale_factor: i64) -> Result<Module> {
        layer("pixel_shuffle", &format!("{upscale_factor}"), move |x| vision::pixel_shuffle(x, upscale_factor))
    }

    /// [B, C, H · r, W · r] to [B, C · r², H, W].
    ///
    /// Example: `nn::pixel_unshuffle(2).forward(ones([1, 1, 4, 4])).shape == [1, 4, 2, 2]`
    pub fn pixel_unshuffle(downscale_factor: i64) -> Result<Module> {
        layer("pixel_unshuffle", &format!("{downscale_factor}"), move |x| vision::pixel_unshuffle(x, downscale_factor))
    }

    /// Zeros around images [B, C, H, W]: one size, or those left, right, above and below.
    ///
    /// Example: `nn::zero_pad2d([1, 1, 2, 0]).forward(ones([1, 1, 2, 2])).shape == [1, 1, 4, 4]`
    pub fn zero_pad2d(padding: Dims) -> Result<Module> {
        layer("zero_pad2d", &format!("{:?}", padding.0), move |x| {
            vision::pad(x, padding.each(4, "nn::zero_pad2d")?, "constant", None)
        })
    }

    /// The patches that a convolution's kernel sees, as columns [B, C · k · k, patches].
    ///
    /// Example: `nn::unfold(2, #{ stride: 2 }).forward(ones([1, 3, 8, 8])).shape == [1, 12, 16]`
    pub fn unfold(
        kernel_size: Dims,
        #[default(1)] dilation: Dims,
        #[default(0)] padding: Dims,
        #[default(1)] stride: Dims,
    ) -> Result<Module> {
        layer("unfold", &format!("{:?}", kernel_size.0), move |x| {
            conv::unfold(x, kernel_size.clone(), dilation.clone(), padding.clone(), stride.clone())
        })
    }

    /// Images of columns that unfold gave; where patches overlap, their sum.
    ///
    /// Example: `nn::fold([8, 8], 2, #{ stride: 2 }).forward(ones([1, 12, 16])).shape == [1, 3, 8, 8]`
    pub fn fold(
        output_size: Dims,
        kernel_size: Dims,
        #[default(1)] dilation: Dims,
        #[default(0)] padding: Dims,
        #[default(1)] stride: Dims,
    ) -> Result<Module> {
        layer("fold", &format!("{:?}, {:?}", output_size.0, kernel_size.0), move |x| {
            conv::fold(x, output_size.clone(), kernel_size.clone(), dilation.clone(), padding.clone(), stride.clone())
        })
    }

    /// Divides each element by a power of the mean square over `size` channels around it.
    ///
    /// Example: `nn::local_response_norm(2).forward(ones([1, 4, 3])).shape == [1, 4, 3]`
    pub fn local_response_norm(
        size: i64,
        #[default(1e-4)] alpha: f64,
        #[default(0.75)] beta: f64,
        #[default(1.0)] k: f64,
    ) -> Result<Module> {
        layer("local_response_norm", &format!("{size}"), move |x| norms::local_response_norm(x, size, alpha, beta, k))
    }
}
