//! Normalisation, without modules.

use super::arguments::inner;
use crate::error::{Result, ensure};
use crate::script::values::Tensor;
use crate::tensor::shape_text;
use nepa_macros::functions;

pub use functions::register;

#[functions]
pub mod functions {
    use super::*;

    /// Normalises the last dimensions, whose sizes are `normalized_shape`, to mean 0 and variance 1, then multiplies by
    /// weight and adds bias, both of that shape.
    ///
    /// Example: `layer_norm(tensor([1.0, 3.0]), [2]).allclose(tensor([-1.0, 1.0]), 1e-3)`
    pub fn layer_norm(
        input: &Tensor,
        normalized_shape: Vec<i64>,
        #[default(())] weight: Option<Tensor>,
        #[default(())] bias: Option<Tensor>,
        #[default(1e-5)] eps: f64,
    ) -> Result<tch::Tensor> {
        Ok(input.f_layer_norm(normalized_shape, inner(&weight), inner(&bias), eps, true)?)
    }

    /// Divides the last dimensions, whose sizes are `normalized_shape`, by the root of their mean square, then
    /// multiplies by weight. `eps` is the dtype's smallest step above 1 if ().
    ///
    /// Example: `rms_norm(tensor([3.0, 3.0]), [2]).allclose(ones([2]))`
    pub fn rms_norm(
        input: &Tensor,
        normalized_shape: Vec<i64>,
        #[default(())] weight: Option<Tensor>,
        #[default(())] eps: Option<f64>,
    ) -> Result<tch::Tensor> {
        Ok(input.f_rms_norm(normalized_shape, inner(&weight), eps)?)
    }

    /// Normalises groups of channels of [B, C, ...] to mean 0 and variance 1, sample by sample, then multiplies by
    /// weight and adds bias, both [C].
    ///
    /// Example: `group_norm(randn([2, 4, 3]), 2).shape == [2, 4, 3]`
    pub fn group_norm(
        input: &Tensor,
        num_groups: i64,
        #[default(())] weight: Option<Tensor>,
        #[default(())] bias: Option<Tensor>,
        #[default(1e-5)] eps: f64,
    ) -> Result<tch::Tensor> {
        Ok(input.f_group_norm(num_groups, inner(&weight), inner(&bias), eps, false)?)
    }

    /// Normalises the channels of [B, C, ...], sample by sample, or with `use_input_stats: false` by running statistics
    /// [C].
    ///
    /// Example: `instance_norm(randn([2, 4, 8])).mean().abs().item() < 1e-5`
    pub fn instance_norm(
        input: &Tensor,
        #[default(())] running_mean: Option<Tensor>,
        #[default(())] running_var: Option<Tensor>,
        #[default(())] weight: Option<Tensor>,
        #[default(())] bias: Option<Tensor>,
        #[default(true)] use_input_stats: bool,
        #[default(0.1)] momentum: f64,
        #[default(1e-5)] eps: f64,
    ) -> Result<tch::Tensor> {
        let (mean, var) = (inner(&running_mean), inner(&running_var));
        Ok(input.f_instance_norm(inner(&weight), inner(&bias), mean, var, use_input_stats, momentum, eps, false)?)
    }

    /// Normalises the channels of [B, C, ...]: in training by the batch, which moves the running statistics [C] by
    /// `momentum` in place, otherwise by them.
    ///
    /// Example: `batch_norm(randn([8, 4]), zeros([4]), ones([4]), #{ training: true }).mean().abs().item() < 1e-5`
    pub fn batch_norm(
        input: &Tensor,
        running_mean: Option<Tensor>,
        running_var: Option<Tensor>,
        #[default(())] weight: Option<Tensor>,
        #[default(())] bias: Option<Tensor>,
        #[default(false)] training: bool,
        #[default(0.1)] momentum: f64,
        #[default(1e-5)] eps: f64,
    ) -> Result<tch::Tensor> {
        let (mean, var) = (inner(&running_mean), inner(&running_var));
        ensure!(
            training || (mean.is_some() && var.is_some()),
            "batch_norm: expected running_mean and running_var, as it is not in training"
        );
        ensure!(
            !training || input.numel() as i64 > input.size().get(1).copied().unwrap_or(0),
            "batch_norm: expected more than one value for each channel in training, found {}",
            shape_text(input)
        );
        Ok(input.f_batch_norm(inner(&weight), inner(&bias), mean, var, training, momentum, eps, false)?)
    }

    /// Divides each element of [B, C, ...] by a power of the mean square over `size` channels around it
    /// (Krizhevsky et al. 2012).
    ///
    /// Example: `local_response_norm(zeros([1, 4, 3]), 2).sum().item() == 0.0`
    pub fn local_response_norm(
        input: &Tensor,
        size: i64,
        #[default(1e-4)] alpha: f64,
        #[default(0.75)] beta: f64,
        #[default(1.0)] k: f64,
    ) -> Result<tch::Tensor> {
        ensure!(
            input.dim() >= 3 && size > 0,
            "local_response_norm: expected [B, C, ...] and a size above 0, found {} and {size}",
            shape_text(input)
        );
        let squares = input.f_square()?.f_flatten(2, -1)?.f_unsqueeze(1)?;
        let padded = squares.f_pad([0, 0, size / 2, (size - 1) / 2], "constant", 0.0)?;
        let mean = padded.f_avg_pool2d([size, 1], [1, 1], [0, 0], false, true, None)?.f_squeeze_dim(1)?;
        let mean = mean.f_reshape(input.size())?;
        Ok(input.f_div(&mean.f_mul_scalar(alpha)?.f_add_scalar(k)?.f_pow_tensor_scalar(beta)?)?)
    }
}
