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
            Windows::new::<1>("avg_pool", &kernel_size, &stride, &padding, None)?;
        Ok(input.f_avg_pool1d(kernel, stride, padding, ceil_mode, count_include_pad)?)
    }

    /// Mean over windows of [B, C, {L}]. `stride` is the kernel's size if (); with `ceil_mode` windows may reach over the
    /// end.
    ///
    /// Example: `avg_pool{D}d(ones([1, 2, {8}]), 2).shape == [1, 2, {4}]`
    #[script(dims(2, 3))]
    pub fn avg_pool<const D: usize>(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(true)] count_include_pad: bool,
        #[default(())] divisor_override: Option<i64>,
    ) -> Result<tch::Tensor> {
        let Windows { kernel, stride, padding, .. } =
            Windows::new::<D>("avg_pool", &kernel_size, &stride, &padding, None)?;
        Ok(match D {
            2 => input.f_avg_pool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)?,
            _ => input.f_avg_pool3d(kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)?,
        })
    }

    /// Largest elements of windows of [B, C, {L}]; with `return_indices`, with their places in the flattened plane.
    ///
    /// Example: `max_pool{D}d(ones([1, 2, {8}]), 2).shape == [1, 2, {4}]`
    #[script(dims(1, 2, 3))]
    pub fn max_pool<const D: usize>(
        input: &Tensor,
        kernel_size: Dims,
        #[default(())] stride: Option<Dims>,
        #[default(0)] padding: Dims,
        #[default(1)] dilation: Dims,
        #[default(false)] ceil_mode: bool,
        #[default(false)] return_indices: bool,
    ) -> Result<Dynamic> {
        let Windows { kernel, stride, padding, dilation } =
            Windows::new::<D>("max_pool", &kernel_size, &stride, &padding, Some(&dilation))?;
        if return_indices {
            let pair = match D {
                1 => input.f_max_pool1d_with_indices(kernel, stride, padding, dilation, ceil_mode)?,
                2 => input.f_max_pool2d_with_indices(kernel, stride, padding, dilation, ceil_mode)?,
                _ => input.f_max_pool3d_with_indices(kernel, stride, padding, dilation, ceil_mode)?,
            };
            return Ok(Dynamic::from(ValuesAndIndices::from(pair)));
        }
        let t = match D {
            1 => input.f_max_pool1d(kernel, stride, padding, dilation, ceil_mode)?,
            2 => input.f_max_pool2d(kernel, stride, padding, dilation, ceil_mode)?,
            _ => input.f_max_pool3d(kernel, stride, padding, dilation, ceil_mode)?,
        };
        Ok(Dynamic::from(Tensor::from(t)))
    }

    /// Means over as many windows of [B, C, {L}] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_avg_pool{D}d(ones([1, 2, {8}]), 1).shape == [1, 2, {1}]`
    #[script(dims(1, 2, 3))]
    pub fn adaptive_avg_pool<const D: usize>(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        let size = output_size.each(D, &format!("adaptive_avg_pool{D}d"))?;
        Ok(match D {
            1 => input.f_adaptive_avg_pool1d(size)?,
            2 => input.f_adaptive_avg_pool2d(size)?,
            _ => input.f_adaptive_avg_pool3d(size)?,
        })
    }

    /// Largest elements of as many windows of [B, C, {L}] as `output_size` says, which share the input evenly.
    ///
    /// Example: `adaptive_max_pool{D}d(ones([1, 2, {8}]), 1).shape == [1, 2, {1}]`
    #[script(dims(1, 2, 3))]
    pub fn adaptive_max_pool<const D: usize>(input: &Tensor, output_size: Dims) -> Result<tch::Tensor> {
        let size = output_size.each(D, &format!("adaptive_max_pool{D}d"))?;
        let (largest, _) = match D {
            1 => input.f_adaptive_max_pool1d(size)?,
            2 => input.f_adaptive_max_pool2d(size)?,
            _ => input.f_adaptive_max_pool3d(size)?,
        };
        Ok(largest)
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
        let each = |sizes: &Dims, name: &str| sizes.each(N, &format!("{of}{N}d: `{name}`"));
        Ok(Self {
            kernel: each(kernel, "kernel_size")?,
            stride: each(stride.as_ref().unwrap_or(kernel), "stride")?,
            padding: each(padding, "padding")?,
            dilation: dilation.map_or(Ok(vec![1; N]), |dilation| each(dilation, "dilation"))?,
        })
    }
}
