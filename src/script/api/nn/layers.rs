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
    /// first dimension are samples: each draws by its position in the global batch. Where each has k rows, as in
    /// [B · k, ...], those of a sample lie side by side.
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

    /// Batch normalisation of [B, C, {L}] (batch_norm1d also of [B, C]): in training by the batch, in evaluation
    /// (`train(false)`) by the running statistics. Parameters: weight, bias [C]. Buffers: running_mean, running_var [C],
    /// num_batches_tracked. They are saved, loaded and averaged (EMA) with the parameters; with several processes each
    /// normalises by its own images, and the running statistics are averaged over the processes at each backward of a
    /// step. Each micro-batch counts as a batch. `momentum` () takes the mean of all batches.
    ///
    /// Example: `nn::batch_norm{D}d(3).forward(randn([4, 3, {4}])).mean().abs().item() < 1e-5`
    #[script(dims(1, 2, 3))]
    pub fn batch_norm<const D: usize>(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[default(0.1)] momentum: Option<f64>,
        #[default(true)] affine: bool,
        #[default(true)] track_running_stats: bool,
    ) -> Result<Module> {
        wrap(nn::BatchNorm::new(D, num_features, nn::BatchNormOptions { eps, momentum, affine, track_running_stats })?)
    }

    /// Normalises each channel of [B, C, {L}], sample by sample. Parameters, with `affine`: weight, bias [C]. It keeps no
    /// running statistics.
    ///
    /// Example: `nn::instance_norm{D}d(3).forward(randn([4, 3, {4}])).mean().abs().item() < 1e-5`
    #[script(dims(1, 2, 3))]
    pub fn instance_norm<const D: usize>(
        num_features: i64,
        #[default(1e-5)] eps: f64,
        #[keyword(false)] affine: bool,
    ) -> Result<Module> {
        let name = ["instance_norm1d", "instance_norm2d", "instance_norm3d"][D - 1];
        wrap(nn::GroupNorm::new(name, num_features, num_features, eps, affine)?)
    }

    /// Sets whole channels of [B, C, {L}] to 0 with probability p in training, from the run's generator.
    ///
    /// Example: `let d = nn::dropout{D}d(0.5); d.train(false); d.forward(ones([1, 2, {4}])).min().item() == 1.0`
    #[script(name = "dropout", dims(1, 2, 3))]
    pub fn dropout_channels<const D: usize>(#[default(0.5)] p: f64) -> Result<Module> {
        wrap(nn::Dropout::new(p, nn::Dropped::Channels, ["dropout1d", "dropout2d", "dropout3d"][D - 1])?)
    }

    /// Convolution of [B, C, {L}]. Sizes are one int, or one for each dimension; `padding` may not be a name here.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv{D}d(2, 5, 3, #{ padding: 1 }).forward(ones([1, 2, {4}])).shape == [1, 5, {4}]`
    #[script(dims(1, 3))]
    pub fn conv<const D: usize>(
        in_channels: i64,
        out_channels: i64,
        kernel_size: Dims,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
        #[default(true)] bias: bool,
    ) -> Result<Module> {
        let each = |sizes: &Dims| sizes.each(D, &format!("nn::conv{D}d"));
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: each(&kernel_size)?,
            stride: each(&stride)?,
            padding: each(&padding)?,
            output_padding: vec![0; D],
            dilation: each(&dilation)?,
            groups,
            bias,
            transposed: false,
        })?)
    }

    /// Transposed convolution of [B, C, {L}], which makes larger what a convolution of the same stride makes smaller.
    /// Parameters: weight, bias, which start uniform in ±1 / √fan_in, as PyTorch's.
    ///
    /// Example: `nn::conv_transpose{D}d(2, 5, 2, 2).forward(ones([1, 2, {4}])).shape == [1, 5, {8}]`
    #[script(dims(1, 2, 3))]
    pub fn conv_transpose<const D: usize>(
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
        let each = |sizes: &Dims| sizes.each(D, &format!("nn::conv_transpose{D}d"));
        wrap(nn::ConvNd::new(nn::ConvNdOptions {
            inputs: in_channels,
            outputs: out_channels,
            kernel_size: each(&kernel_size)?,
            stride: each(&stride)?,
            padding: each(&padding)?,
            output_padding: each(&output_padding)?,
            dilation: each(&dilation)?,
            groups,
            bias,
            transposed: true,
        })?)
    }
}
