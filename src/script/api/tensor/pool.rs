//! Pooling, without modules.

use super::arguments::Dims;
use super::pairs::ValuesAndIndices;
use crate::error::Result;
use crate::script::values::Tensor;
use nepa_macros::functions;
use rhai::Dynamic;

pub use functions::register;

#[functions]
pub mod functions {
    use super::*;

    /// Mean over windows of [B, C, L]. `stride` is the kernel's size if (); with `ceil_mode` windows may reach over the end.
    ///
    /// Example: `avg_pool1d(ones([1, 2, 8]), 2).shape == [1, 2, 4]`
    pub fn avg_pool1d(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(true)] count_include_pad: bool,
    ) -> Result<tch::Tensor> {
        let Windows { kernel, stride, padding, .. } =
            Windows::new::<1>("avg_pool1d", &kernel_size, &stride, &padding, None)?;
        Ok(input.f_avg_pool1d(kernel, stride, padding, ceil_mode, count_include_pad)?)
    }

    /// Largest elements of windows of [B, C, L]; with `return_indices`, with their places in the flattened plane.
    ///
    /// Example: `max_pool1d(ones([1, 2, 8]), 2).shape == [1, 2, 4]`
    pub fn max_pool1d(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(false)] return_indices: bool,
    ) -> Result<Dynamic> {
        let w = Windows::new::<1>("max_pool1d", &kernel_size, &stride, &padding, Some(&dilation))?;
        if return_indices {
            let pair = input.f_max_pool1d_with_indices(w.kernel, w.stride, w.padding, w.dilation, ceil_mode)?;
            return Ok(Dynamic::from(ValuesAndIndices::from(pair)));
        }
        let t = input.f_max_pool1d(w.kernel, w.stride, w.padding, w.dilation, ceil_mode)?;
        Ok(Dynamic::from(Tensor::from(t)))
    }

    /// Means over as many windows of [B, C, L] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_avg_pool1d(ones([1, 2, 8]), 1).shape == [1, 2, 1]`
    pub fn adaptive_avg_pool1d(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        Ok(input.f_adaptive_avg_pool1d(output_size.each(1, "adaptive_avg_pool1d")?)?)
    }

    /// Largest elements of as many windows of [B, C, L] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_max_pool1d(ones([1, 2, 8]), 1).shape == [1, 2, 1]`
    pub fn adaptive_max_pool1d(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        Ok(input.f_adaptive_max_pool1d(output_size.each(1, "adaptive_max_pool1d")?)?.0)
    }

    /// Mean over windows of [B, C, H, W]. `stride` is the kernel's size if (); with `ceil_mode` windows may reach over the end.
    ///
    /// Example: `avg_pool2d(ones([1, 2, 8, 8]), 2).shape == [1, 2, 4, 4]`
    pub fn avg_pool2d(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(true)] count_include_pad: bool,
        #[default(())] divisor_override: Option<i64>,
    ) -> Result<tch::Tensor> {
        let Windows { kernel, stride, padding, .. } =
            Windows::new::<2>("avg_pool2d", &kernel_size, &stride, &padding, None)?;
        Ok(input.f_avg_pool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)?)
    }

    /// Largest elements of windows of [B, C, H, W]; with `return_indices`, with their places in the flattened plane.
    ///
    /// Example: `max_pool2d(ones([1, 2, 8, 8]), 2).shape == [1, 2, 4, 4]`
    pub fn max_pool2d(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(false)] return_indices: bool,
    ) -> Result<Dynamic> {
        let w = Windows::new::<2>("max_pool2d", &kernel_size, &stride, &padding, Some(&dilation))?;
        if return_indices {
            let pair = input.f_max_pool2d_with_indices(w.kernel, w.stride, w.padding, w.dilation, ceil_mode)?;
            return Ok(Dynamic::from(ValuesAndIndices::from(pair)));
        }
        let t = input.f_max_pool2d(w.kernel, w.stride, w.padding, w.dilation, ceil_mode)?;
        Ok(Dynamic::from(Tensor::from(t)))
    }

    /// Means over as many windows of [B, C, H, W] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_avg_pool2d(ones([1, 2, 8, 8]), 1).shape == [1, 2, 1, 1]`
    pub fn adaptive_avg_pool2d(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        Ok(input.f_adaptive_avg_pool2d(output_size.each(2, "adaptive_avg_pool2d")?)?)
    }

    /// Largest elements of as many windows of [B, C, H, W] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_max_pool2d(ones([1, 2, 8, 8]), 1).shape == [1, 2, 1, 1]`
    pub fn adaptive_max_pool2d(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        Ok(input.f_adaptive_max_pool2d(output_size.each(2, "adaptive_max_pool2d")?)?.0)
    }

    /// Mean over windows of [B, C, D, H, W]. `stride` is the kernel's size if (); with `ceil_mode` windows may reach over the end.
    ///
    /// Example: `avg_pool3d(ones([1, 2, 8, 8, 8]), 2).shape == [1, 2, 4, 4, 4]`
    pub fn avg_pool3d(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(true)] count_include_pad: bool,
        #[default(())] divisor_override: Option<i64>,
    ) -> Result<tch::Tensor> {
        let Windows { kernel, stride, padding, .. } =
            Windows::new::<3>("avg_pool3d", &kernel_size, &stride, &padding, None)?;
        Ok(input.f_avg_pool3d(kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)?)
    }

    /// Largest elements of windows of [B, C, D, H, W]; with `return_indices`, with their places in the flattened plane.
    ///
    /// Example: `max_pool3d(ones([1, 2, 8, 8, 8]), 2).shape == [1, 2, 4, 4, 4]`
    pub fn max_pool3d(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(false)] return_indices: bool,
    ) -> Result<Dynamic> {
        let w = Windows::new::<3>("max_pool3d", &kernel_size, &stride, &padding, Some(&dilation))?;
        if return_indices {
            let pair = input.f_max_pool3d_with_indices(w.kernel, w.stride, w.padding, w.dilation, ceil_mode)?;
            return Ok(Dynamic::from(ValuesAndIndices::from(pair)));
        }
        let t = input.f_max_pool3d(w.kernel, w.stride, w.padding, w.dilation, ceil_mode)?;
        Ok(Dynamic::from(Tensor::from(t)))
    }

    /// Means over as many windows of [B, C, D, H, W] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_avg_pool3d(ones([1, 2, 8, 8, 8]), 1).shape == [1, 2, 1, 1, 1]`
    pub fn adaptive_avg_pool3d(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        Ok(input.f_adaptive_avg_pool3d(output_size.each(3, "adaptive_avg_pool3d")?)?)
    }

    /// Largest elements of as many windows of [B, C, D, H, W] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_max_pool3d(ones([1, 2, 8, 8, 8]), 1).shape == [1, 2, 1, 1, 1]`
    pub fn adaptive_max_pool3d(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        Ok(input.f_adaptive_max_pool3d(output_size.each(3, "adaptive_max_pool3d")?)?.0)
    }
}

/// The windows of a pooling.
struct Windows {
    kernel: Vec<i64>,
    stride: Vec<i64>,
    padding: Vec<i64>,
    dilation: Vec<i64>,
}

impl Windows {
    fn new<const N: usize>(
        of: &str,
        kernel: &Dims,
        stride: &Option<Dims>,
        padding: &Dims,
        dilation: Option<&Dims>,
    ) -> Result<Self> {
        let each = |sizes: &Dims, name: &str| sizes.each(N, &format!("{of}: `{name}`"));
        Ok(Self {
            kernel: each(kernel, "kernel_size")?,
            stride: each(stride.as_ref().unwrap_or(kernel), "stride")?,
            padding: each(padding, "padding")?,
            dilation: dilation.map_or(Ok(vec![1; N]), |dilation| each(dilation, "dilation"))?,
        })
    }
}
