//! Convolutions, without modules.

use super::arguments::{Dims, Padding, inner};
use crate::error::Result;
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
pub mod functions {
    use super::*;

    /// Convolution of [B, C, {L}] with weight [O, C / groups, {k}] and bias [O]. Sizes are one int, or one for each
    /// dimension; `padding` may be "valid" (none) or "same" (an output as large as the input, for stride 1).
    ///
    /// Example: `conv{D}d(ones([1, 2, {8}]), ones([4, 2, {3}]), #{ stride: 2, padding: 1 }).shape == [1, 4, {4}]`
    #[script(dims(1, 2, 3))]
    pub fn conv<const D: usize>(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Padding,
        #[default(1)] dilation: Dims,
        #[default(1)] groups: i64,
    ) -> Result<tch::Tensor> {
        let each = |sizes: &Dims, name: &str| sizes.each(D, &format!("conv{D}d: `{name}`"));
        let (stride, dilation, bias) = (each(&stride, "stride")?, each(&dilation, "dilation")?, inner(&bias));
        Ok(match (padding, D) {
            (Padding::Named(name), 1) => input.f_conv1d_padding(weight, bias, stride, &name, dilation, groups)?,
            (Padding::Named(name), 2) => input.f_conv2d_padding(weight, bias, stride, &name, dilation, groups)?,
            (Padding::Named(name), _) => input.f_conv3d_padding(weight, bias, stride, &name, dilation, groups)?,
            (Padding::Sizes(padding), _) => {
                let padding = each(&padding, "padding")?;
                match D {
                    1 => input.f_conv1d(weight, bias, stride, padding, dilation, groups)?,
                    2 => input.f_conv2d(weight, bias, stride, padding, dilation, groups)?,
                    _ => input.f_conv3d(weight, bias, stride, padding, dilation, groups)?,
                }
            }
        })
    }

    /// Transposed convolution of [B, C, {L}] with weight [C, O / groups, {k}] and bias [O]: the gradient of a convolution.
    ///
    /// Example: `conv_transpose{D}d(ones([1, 2, {8}]), ones([2, 4, {2}]), #{ stride: 2 }).shape == [1, 4, {16}]`
    #[script(dims(1, 2, 3))]
    pub fn conv_transpose<const D: usize>(
        input: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
        #[default(1)] stride: Dims,
        #[default(0)] padding: Dims,
        #[default(0)] output_padding: Dims,
        #[default(1)] groups: i64,
        #[default(1)] dilation: Dims,
    ) -> Result<tch::Tensor> {
        let each = |sizes: &Dims| sizes.each(D, &format!("conv_transpose{D}d"));
        let (stride, padding, extra, dilation) =
            (each(&stride)?, each(&padding)?, each(&output_padding)?, each(&dilation)?);
        let bias = inner(&bias);
        Ok(match D {
            1 => input.f_conv_transpose1d(weight, bias, stride, padding, extra, groups, dilation)?,
            2 => input.f_conv_transpose2d(weight, bias, stride, padding, extra, groups, dilation)?,
            _ => input.f_conv_transpose3d(weight, bias, stride, padding, extra, groups, dilation)?,
        })
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
