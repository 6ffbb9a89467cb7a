//! 2-D convolution.

use super::{Context, Module, ModuleVisitor, trunc_normal, zeros};
use crate::error::{Result, ensure};
use crate::ffi;
use crate::options;
use crate::tensor::shape_text;
use tch::{Device, Tensor};

options! {
    /// How a convolution is made.
    pub struct Conv2dOptions {
        /// Side of the square kernel, in pixels.
        kernel_size: i64 = 3,
        /// Stride of the kernel, in pixels.
        stride: i64 = 1,
        /// Zero padding on each side, in pixels.
        padding: i64 = 0,
        /// Number of channel groups, which are convolved separately.
        groups: i64 = 1,
        /// Whether to add a bias.
        bias: bool = true,
        /// Standard deviation of the initial weights (truncated normal).
        initializer_range: f64 = 0.02,
    }
}

/// `weight` [out, in / groups, k, k], `bias` [out].
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    inputs: i64,
    options: Conv2dOptions,
}

impl Conv2d {
    /// A convolution from `inputs` to `outputs` channels.
    pub fn new(inputs: i64, outputs: i64, options: &Conv2dOptions) -> Result<Self> {
        let o = options;
        ensure!(inputs > 0 && outputs > 0, "a convolution needs positive sizes, found {inputs} -> {outputs}");
        ensure!(
            o.kernel_size > 0 && o.stride > 0 && o.padding >= 0,
            "a convolution needs kernel_size > 0, stride > 0 and padding >= 0, found {}, {} and {}",
            o.kernel_size,
            o.stride,
            o.padding
        );
        ensure!(
            o.groups > 0 && inputs % o.groups == 0 && outputs % o.groups == 0,
            "groups must divide both channel counts, found groups {} for {inputs} -> {outputs}",
            o.groups
        );
        let shape = [outputs, inputs / o.groups, o.kernel_size, o.kernel_size];
        Ok(Self {
            weight: trunc_normal(&shape, o.initializer_range)?,
            bias: o.bias.then(|| zeros(&[outputs])).transpose()?,
            inputs,
            options: o.clone(),
        })
    }

    /// Output channels.
    pub fn outputs(&self) -> i64 {
        self.weight.size()[0]
    }
}

impl Module for Conv2d {
    fn describe(&self) -> String {
        let o = &self.options;
        format!(
            "conv2d({} -> {}, kernel_size {}, stride {}, padding {})",
            self.inputs,
            self.outputs(),
            o.kernel_size,
            o.stride,
            o.padding
        )
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.parameter("weight", &self.weight);
        if let Some(bias) = &self.bias {
            visitor.parameter("bias", bias);
        }
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        ensure!(
            x.dim() == 4 && x.size()[1] == self.inputs && x.is_floating_point(),
            "{} expects images [B, {}, H, W] of floats, found {}",
            self.describe(),
            self.inputs,
            shape_text(x)
        );
        let o = &self.options;
        let (stride, padding) = ([o.stride; 2], [o.padding; 2]);
        let conv = |bias| x.f_conv2d(&self.weight, bias, stride, padding, [1, 1], o.groups);
        match &self.bias {
            // Rounded as on a GPU, on every processor: cuDNN knows no bias, so it is added afterwards. Backward is the same.
            Some(bias) if x.device() == Device::Cpu && ffi::cpu_kernels().is_none() => {
                let mut y = conv(Some(bias))?;
                let rounded = tch::no_grad(|| conv(None).and_then(|y| y.f_add(&bias.f_view([1, -1, 1, 1])?)))?;
                tch::no_grad(|| y.f_copy_(&rounded))?;
                Ok(y)
            }
            bias => Ok(conv(bias.as_ref())?),
        }
    }
}
