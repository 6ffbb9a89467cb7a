//! Layers with parameters, buffers or a training mode, as torch.nn has them.

use super::wrap;
use crate::error::Result;
use crate::nn;
use crate::script::api::tensor::arguments::Dims;
use crate::script::values::Module;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Sets elements to 0 with probability p in training and divides the others by 1 − p, from the run's generator. The
    /// first dimension are samples: each draws by its position in the global batch.
    ///
    /// Example: `let d = nn::dropout(0.1); d.train(false); d.forward(ones([3])).sum().item() == 3.0`
    pub fn dropout(#[default(0.5)] p: f64) -> Result<Module> {
        wrap(nn::Dropout::new(p, nn::Dropped::Elements, "dropout")?)
    }

    /// A table of learned vectors: int64 indices [...] to [..., embedding_dim]. Row `padding_idx` starts at zero and
    /// gets no gradient. Parameter: weight [num_embeddings, embedding_dim], which starts standard normal.
    ///
    /// Example: `nn::embedding(10, 4).forward(tensor([[1, 2, 3]])).shape == [1, 3, 4]`
    pub fn embedding(
        num_embeddings: i64,
        embedding_dim: i64,
        #[default(())] padding_idx: Option<i64>,
    ) -> Result<Module> {
        wrap(nn::Embedding::new(num_embeddings, embedding_dim, padding_idx)?)
    }

    /// Normalises groups of channels of [B, C, ...], sample by sample. Parameters: weight, bias [C].
    ///
    /// Example: `nn::group_norm(2, 4).forward(randn([3, 4, 8])).mean().abs().item() < 1e-5`
    pub fn group_norm(
        num_groups: i64,
        num_channels: i64,
        #[default(1e-5)] eps: f64,
        #[default(true)] affine: bool,
    ) -> Result<Module> {
        wrap(nn::GroupNorm::new("group_norm", num_groups, num_channels, eps, affine)?)
    }

    /// Divides the last dimensions, of the sizes `normalized_shape` (an int or an array), by the root of their mean
    /// square. `eps` is the dtype's smallest step above 1 if (). Parameter: weight of that shape.
    ///
    /// Example: `nn::rms_norm(2).forward(tensor([[3.0, 3.0]])).allclose(ones([1, 2]))`
    pub fn rms_norm(
        normalized_shape: Dims,
        #[default(())] eps: Option<f64>,
        #[default(true)] elementwise_affine: bool,
    ) -> Result<Module> {
        wrap(nn::RmsNorm::new(normalized_shape.0, eps, elementwise_affine)?)
    }

    /// x, or a learned slope times x where it is negative. Parameter: weight [num_parameters], one slope for all or one
    /// for each channel.
    ///
    /// Example: `nn::prelu().forward(tensor([-1.0])).item() == -0.25`
    pub fn prelu(#[default(1)] num_parameters: i64, #[default(0.25)] init: f64) -> Result<Module> {
        wrap(nn::Prelu::new(num_parameters, init)?)
    }

    /// Batch normalisation of [B, C] or [B, C, L]: in training by the batch, in evaluation (`train(false)`) by the running
    /// statistics. Parameters: weight, bias [C]. Buffers: running_mean, running_var [C], num_batches_tracked. They are
    /// saved, loaded and averaged (EMA) with the parameters; with several processes each normalises by its own images,
    /// and the running statistics are averaged over the processes at each backward of a step. Each micro-batch counts
    /// as a batch. `momentum` () takes the mean of all batches.
    ///
    /// Example: `nn::batch_norm1d(3).forward(randn([4, 3, 8])).mean().abs().item() < 1e-5`
    pub fn batch_norm1d(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[default(0.1)] momentum: Option<f64>,
        #[default(true)] affine: bool,
        #[default(true)] track_running_stats: bool,
    ) -> Result<Module> {
        wrap(nn::BatchNorm::new(1, num_features, nn::BatchNormOptions { eps, momentum, affine, track_running_stats })?)
    }

    /// Normalises each channel of [B, C, L], sample by sample. Parameters, with `affine`: weight, bias [C]. It keeps no
    /// running statistics.
    ///
    /// Example: `nn::instance_norm1d(3).forward(randn([4, 3, 8])).mean().abs().item() < 1e-5`
    pub fn instance_norm1d(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[keyword(false)] affine: bool,
    ) -> Result<Module> {
        wrap(nn::GroupNorm::new("instance_norm1d", num_features, num_features, eps, affine)?)
    }

    /// Sets whole channels of [B, C, L] to 0 with probability p in training, from the run's generator.
    ///
    /// Example: `let d = nn::dropout1d(0.5); d.train(false); d.forward(ones([1, 2, 8])).min().item() == 1.0`
    pub fn dropout1d(#[default(0.5)] p: f64) -> Result<Module> {
        wrap(nn::Dropout::new(p, nn::Dropped::Channels, "dropout1d")?)
    }

    /// Convolution of [B, C, L]. Sizes are one int, or one for each dimension; `padding` may not be a name here.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv1d(2, 5, 3, #{ padding: 1 }).forward(ones([1, 2, 8])).shape == [1, 5, 8]`
    pub fn conv1d(
        in_channels: i64,
        out_channels: i64,
        kernel_size: Dims,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
        #[default(true)] bias: bool,
    ) -> Result<Module> {
        let of = "nn::conv1d";
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: kernel_size.each(1, of)?,
            stride: stride.each(1, of)?,
            padding: padding.each(1, of)?,
            output_padding: vec![0; 1],
            dilation: dilation.each(1, of)?,
            groups,
            bias,
            transposed: false,
        })?)
    }

    /// Transposed convolution of [B, C, L], which makes larger what a convolution of the same stride makes smaller.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv_transpose1d(2, 5, 2, 2).forward(ones([1, 2, 8])).shape == [1, 5, 16]`
    pub fn conv_transpose1d(
        in_channels: i64,
        out_channels: i64,
        kernel_size: Dims,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(true)] bias: bool,
        #[default(1)] dilation: Dims,
    ) -> Result<Module> {
        let of = "nn::conv_transpose1d";
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: kernel_size.each(1, of)?,
            stride: stride.each(1, of)?,
            padding: padding.each(1, of)?,
            output_padding: output_padding.each(1, of)?,
            dilation: dilation.each(1, of)?,
            groups,
            bias,
            transposed: true,
        })?)
    }

    /// Batch normalisation of [B, C, H, W]: in training by the batch, in evaluation (`train(false)`) by the running
    /// statistics. Parameters: weight, bias [C]. Buffers: running_mean, running_var [C], num_batches_tracked. They are
    /// saved, loaded and averaged (EMA) with the parameters; with several processes each normalises by its own images,
    /// and the running statistics are averaged over the processes at each backward of a step. Each micro-batch counts
    /// as a batch. `momentum` () takes the mean of all batches.
    ///
    /// Example: `nn::batch_norm2d(3).forward(randn([4, 3, 8, 8])).mean().abs().item() < 1e-5`
    pub fn batch_norm2d(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[default(0.1)] momentum: Option<f64>,
        #[default(true)] affine: bool,
        #[default(true)] track_running_stats: bool,
    ) -> Result<Module> {
        wrap(nn::BatchNorm::new(2, num_features, nn::BatchNormOptions { eps, momentum, affine, track_running_stats })?)
    }

    /// Normalises each channel of [B, C, H, W], sample by sample. Parameters, with `affine`: weight, bias [C]. It keeps no
    /// running statistics.
    ///
    /// Example: `nn::instance_norm2d(3).forward(randn([4, 3, 8, 8])).mean().abs().item() < 1e-5`
    pub fn instance_norm2d(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[keyword(false)] affine: bool,
    ) -> Result<Module> {
        wrap(nn::GroupNorm::new("instance_norm2d", num_features, num_features, eps, affine)?)
    }

    /// Sets whole channels of [B, C, H, W] to 0 with probability p in training, from the run's generator.
    ///
    /// Example: `let d = nn::dropout2d(0.5); d.train(false); d.forward(ones([1, 2, 8, 8])).min().item() == 1.0`
    pub fn dropout2d(#[default(0.5)] p: f64) -> Result<Module> {
        wrap(nn::Dropout::new(p, nn::Dropped::Channels, "dropout2d")?)
    }

    /// Transposed convolution of [B, C, H, W], which makes larger what a convolution of the same stride makes smaller.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv_transpose2d(2, 5, 2, 2).forward(ones([1, 2, 8, 8])).shape == [1, 5, 16, 16]`
    pub fn conv_transpose2d(
        in_channels: i64,
        out_channels: i64,
        kernel_size: Dims,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(true)] bias: bool,
        #[default(1)] dilation: Dims,
    ) -> Result<Module> {
        let of = "nn::conv_transpose2d";
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: kernel_size.each(2, of)?,
            stride: stride.each(2, of)?,
            padding: padding.each(2, of)?,
            output_padding: output_padding.each(2, of)?,
            dilation: dilation.each(2, of)?,
            groups,
            bias,
            transposed: true,
        })?)
    }

    /// Batch normalisation of [B, C, D, H, W]: in training by the batch, in evaluation (`train(false)`) by the running
    /// statistics. Parameters: weight, bias [C]. Buffers: running_mean, running_var [C], num_batches_tracked. They are
    /// saved, loaded and averaged (EMA) with the parameters; with several processes each normalises by its own images,
    /// and the running statistics are averaged over the processes at each backward of a step. Each micro-batch counts
    /// as a batch. `momentum` () takes the mean of all batches.
    ///
    /// Example: `nn::batch_norm3d(3).forward(randn([4, 3, 4, 4, 4])).mean().abs().item() < 1e-5`
    pub fn batch_norm3d(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[default(0.1)] momentum: Option<f64>,
        #[default(true)] affine: bool,
        #[default(true)] track_running_stats: bool,
    ) -> Result<Module> {
        wrap(nn::BatchNorm::new(3, num_features, nn::BatchNormOptions { eps, momentum, affine, track_running_stats })?)
    }

    /// Normalises each channel of [B, C, D, H, W], sample by sample. Parameters, with `affine`: weight, bias [C]. It keeps no
    /// running statistics.
    ///
    /// Example: `nn::instance_norm3d(3).forward(randn([4, 3, 4, 4, 4])).mean().abs().item() < 1e-5`
    pub fn instance_norm3d(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[keyword(false)] affine: bool,
    ) -> Result<Module> {
        wrap(nn::GroupNorm::new("instance_norm3d", num_features, num_features, eps, affine)?)
    }

    /// Sets whole channels of [B, C, D, H, W] to 0 with probability p in training, from the run's generator.
    ///
    /// Example: `let d = nn::dropout3d(0.5); d.train(false); d.forward(ones([1, 2, 4, 4, 4])).min().item() == 1.0`
    pub fn dropout3d(#[default(0.5)] p: f64) -> Result<Module> {
        wrap(nn::Dropout::new(p, nn::Dropped::Channels, "dropout3d")?)
    }

    /// Convolution of [B, C, D, H, W]. Sizes are one int, or one for each dimension; `padding` may not be a name here.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv3d(2, 5, 3, #{ padding: 1 }).forward(ones([1, 2, 4, 4, 4])).shape == [1, 5, 4, 4, 4]`
    pub fn conv3d(
        in_channels: i64,
        out_channels: i64,
        kernel_size: Dims,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
        #[default(true)] bias: bool,
    ) -> Result<Module> {
        let of = "nn::conv3d";
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: kernel_size.each(3, of)?,
            stride: stride.each(3, of)?,
            padding: padding.each(3, of)?,
            output_padding: vec![0; 3],
            dilation: dilation.each(3, of)?,
            groups,
            bias,
            transposed: false,
        })?)
    }

    /// Transposed convolution of [B, C, D, H, W], which makes larger what a convolution of the same stride makes smaller.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv_transpose3d(2, 5, 2, 2).forward(ones([1, 2, 4, 4, 4])).shape == [1, 5, 8, 8, 8]`
    pub fn conv_transpose3d(
        in_channels: i64,
        out_channels: i64,
        kernel_size: Dims,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(true)] bias: bool,
        #[default(1)] dilation: Dims,
    ) -> Result<Module> {
        let of = "nn::conv_transpose3d";
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: kernel_size.each(3, of)?,
            stride: stride.each(3, of)?,
            padding: padding.each(3, of)?,
            output_padding: output_padding.each(3, of)?,
            dilation: dilation.each(3, of)?,
            groups,
            bias,
            transposed: true,
        })?)
    }
}
