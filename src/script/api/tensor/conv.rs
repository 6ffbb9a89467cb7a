//! Convolutions, without modules.

use super::arguments::{Dims, Padding, inner};
use crate::error::Result;
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
pub mod functions {
    use super::*;

    /// Convolution of [B, C, L] with weight [O, C / groups, k] and bias [O]. Sizes are one int, or one for each dimension;
    /// `padding` may be "valid" (none) or "same" (an output as large as the input, for stride 1).
    ///
    /// Example: `conv1d(ones([1, 2, 8]), ones([4, 2, 3]), #{ stride: 2, padding: 1 }).shape == [1, 4, 4]`
    pub fn conv1d(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Padding,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
    ) -> Result<tch::Tensor> {
        let (stride, dilation) = (stride.each(1, "conv1d: `stride`")?, dilation.each(1, "conv1d: `dilation`")?);
        match padding {
            Padding::Named(name) => {
                Ok(input.f_conv1d_padding(weight, inner(&bias), stride, &name, dilation, groups)?)
            }
            Padding::Sizes(padding) => {
                let padding = padding.each(1, "conv1d: `padding`")?;
                Ok(input.f_conv1d(weight, inner(&bias), stride, padding, dilation, groups)?)
            }
        }
    }

    /// Transposed convolution of [B, C, L] with weight [C, O / groups, k] and bias [O]: the gradient of a convolution.
    ///
    /// Example: `conv_transpose1d(ones([1, 2, 8]), ones([2, 4, 2]), #{ stride: 2 }).shape == [1, 4, 16]`
    pub fn conv_transpose1d(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(1)] dilation: Dims,
    ) -> Result<tch::Tensor> {
        let of = "conv_transpose1d";
        let (stride, padding) = (stride.each(1, of)?, padding.each(1, of)?);
        let (output_padding, dilation) = (output_padding.each(1, of)?, dilation.each(1, of)?);
        let bias = inner(&bias);
        Ok(input.f_conv_transpose1d(weight, bias, stride, padding, output_padding, groups, dilation)?)
    }

    /// Convolution of [B, C, H, W] with weight [O, C / groups, k, k] and bias [O]. Sizes are one int, or one for each dimension;
    /// `padding` may be "valid" (none) or "same" (an output as large as the input, for stride 1).
    ///
    /// Example: `conv2d(ones([1, 2, 8, 8]), ones([4, 2, 3, 3]), #{ stride: 2, padding: 1 }).shape == [1, 4, 4, 4]`
    pub fn conv2d(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Padding,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
    ) -> Result<tch::Tensor> {
        let (stride, dilation) = (stride.each(2, "conv2d: `stride`")?, dilation.each(2, "conv2d: `dilation`")?);
        match padding {
            Padding::Named(name) => {
                Ok(input.f_conv2d_padding(weight, inner(&bias), stride, &name, dilation, groups)?)
            }
            Padding::Sizes(padding) => {
                let padding = padding.each(2, "conv2d: `padding`")?;
                Ok(input.f_conv2d(weight, inner(&bias), stride, padding, dilation, groups)?)
            }
        }
    }

    /// Transposed convolution of [B, C, H, W] with weight [C, O / groups, k, k] and bias [O]: the gradient of a convolution.
    ///
    /// Example: `conv_transpose2d(ones([1, 2, 8, 8]), ones([2, 4, 2, 2]), #{ stride: 2 }).shape == [1, 4, 16, 16]`
    pub fn conv_transpose2d(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(1)] dilation: Dims,
    ) -> Result<tch::Tensor> {
        let of = "conv_transpose2d";
        let (stride, padding) = (stride.each(2, of)?, padding.each(2, of)?);
        let (output_padding, dilation) = (output_padding.each(2, of)?, dilation.each(2, of)?);
        let bias = inner(&bias);
        Ok(input.f_conv_transpose2d(weight, bias, stride, padding, output_padding, groups, dilation)?)
    }

    /// Convolution of [B, C, D, H, W] with weight [O, C / groups, k, k, k] and bias [O]. Sizes are one int, or one for each dimension;
    /// `padding` may be "valid" (none) or "same" (an output as large as the input, for stride 1).
    ///
    /// Example: `conv3d(ones([1, 2, 8, 8, 8]), ones([4, 2, 3, 3, 3]), #{ stride: 2, padding: 1 }).shape == [1, 4, 4, 4, 4]`
    pub fn conv3d(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Padding,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
    ) -> Result<tch::Tensor> {
        let (stride, dilation) = (stride.each(3, "conv3d: `stride`")?, dilation.each(3, "conv3d: `dilation`")?);
        match padding {
            Padding::Named(name) => {
                Ok(input.f_conv3d_padding(weight, inner(&bias), stride, &name, dilation, groups)?)
            }
            Padding::Sizes(padding) => {
                let padding = padding.each(3, "conv3d: `padding`")?;
                Ok(input.f_conv3d(weight, inner(&bias), stride, padding, dilation, groups)?)
            }
        }
    }

    /// Transposed convolution of [B, C, D, H, W] with weight [C, O / groups, k, k, k] and bias [O]: the gradient of a convolution.
    ///
    /// Example: `conv_transpose3d(ones([1, 2, 8, 8, 8]), ones([2, 4, 2, 2, 2]), #{ stride: 2 }).shape == [1, 4, 16, 16, 16]`
    pub fn conv_transpose3d(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(1)] dilation: Dims,
    ) -> Result<tch::Tensor> {
        let of = "conv_transpose3d";
        let (stride, padding) = (stride.each(3, of)?, padding.each(3, of)?);
        let (output_padding, dilation) = (output_padding.each(3, of)?, dilation.each(3, of)?);
        let bias = inner(&bias);
        Ok(input.f_conv_transpose3d(weight, bias, stride, padding, output_padding, groups, dilation)?)
    }

    /// The patches that a convolution's kernel sees of images [B, C, H, W], as columns [B, C · k · k, patches]:
    /// torch.nn.functional.unfold. `dilation`, `padding` and `stride` are given by name, as `unfold(x, 1, 2, 2)` is
    /// Tensor.unfold.
    ///
    /// Example: `unfold(ones([1, 3, 8, 8]), 2, #{ stride: 2 }).shape == [1, 12, 16]`
    pub fn unfold(
        input: &Tensor,
        kernel_size: Dims,
        #[keyword(1)] dilation: Dims,
        #[keyword(0)] padding: Dims,
        #[keyword(1)] stride: Dims,
    ) -> Result<tch::Tensor> {
        let each = |sizes: &Dims| sizes.each(2, "unfold");
        Ok(input.f_im2col(each(&kernel_size)?, each(&dilation)?, each(&padding)?, each(&stride)?)?)
    }

    /// Images [B, C, H, W] of columns [B, C · k · k, patches] that unfold gave; where patches overlap, their sum.
    ///
    /// Example: `fold(ones([1, 12, 16]), [8, 8], 2, #{ stride: 2 }).shape == [1, 3, 8, 8]`
    pub fn fold(
        input: &Tensor,
        output_size: Dims,
        kernel_size: Dims,
        #[default(1)] dilation: Dims,
        #[default(0)] padding: Dims,
        #[default(1)] stride: Dims,
    ) -> Result<tch::Tensor> {
        let each = |sizes: &Dims| sizes.each(2, "fold");
        let (size, kernel) = (each(&output_size)?, each(&kernel_size)?);
        Ok(input.f_col2im(size, kernel, each(&dilation)?, each(&padding)?, each(&stride)?)?)
    }
}
