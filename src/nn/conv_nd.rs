//! Convolutions over 1 to 3 dimensions, and transposed ones, made and started as PyTorch does.

use super::{Context, Module, ModuleVisitor, parameter};
use crate::error::{Result, ensure};
use crate::random;
use crate::tensor::shape_text;
use tch::Tensor;

/// How such a convolution is made; sizes are one for each dimension.
pub struct ConvNdOptions {
    /// Input channels.
    pub inputs: i64,
    /// Output channels.
    pub outputs: i64,
    /// Size of the kernel.
    pub kernel_size: Vec<i64>,
    /// Stride of the kernel.
    pub stride: Vec<i64>,
    /// Zero padding on each side.
    pub padding: Vec<i64>,
    /// Rows and columns added at the end of a transposed convolution's output.
    pub output_padding: Vec<i64>,
    /// Distance of the kernel's elements.
    pub dilation: Vec<i64>,
    /// Number of channel groups, which are convolved separately.
    pub groups: i64,
    /// Whether to add a bias.
    pub bias: bool,
    /// Whether it is transposed.
    pub transposed: bool,
}

/// `weight` [out, in / groups, k…], transposed [in, out / groups, k…]; `bias` [out].
pub struct ConvNd {
    weight: Tensor,
    bias: Option<Tensor>,
    options: ConvNdOptions,
}

impl ConvNd {
    /// A convolution over as many dimensions as the kernel has sizes. Weights and bias start uniform in ±1 / √fan_in.
    pub fn new(o: ConvNdOptions) -> Result<Self> {
        ensure!(
            o.inputs > 0 && o.outputs > 0,
            "a convolution needs positive sizes, found {} -> {}",
            o.inputs,
            o.outputs
        );
        let positive = [&o.kernel_size, &o.stride, &o.dilation].iter().all(|sizes| sizes.iter().all(|n| *n > 0));
        ensure!(
            positive && o.padding.iter().all(|n| *n >= 0),
            "a convolution needs kernel_size, stride and dilation > 0 and padding >= 0, found {:?}, {:?}, {:?} and {:?}",
            o.kernel_size,
            o.stride,
            o.dilation,
            o.padding
        );
        ensure!(
            o.groups > 0 && o.inputs % o.groups == 0 && o.outputs % o.groups == 0,
            "groups must divide both channel counts, found groups {} for {} -> {}",
            o.groups,
            o.inputs,
            o.outputs
        );
        let (first, second) = if o.transposed { (o.inputs, o.outputs) } else { (o.outputs, o.inputs) };
        let shape = [&[first, second / o.groups], o.kernel_size.as_slice()].concat();
        let bound = 1.0 / (shape[1..].iter().product::<i64>() as f64).sqrt();
        let start = |shape: &[i64]| -> Result<Tensor> {
            parameter(random::next_key().uniform(shape)?.f_mul_scalar(2.0 * bound)?.f_sub_scalar(bound)?)
        };
        Ok(Self { weight: start(&shape)?, bias: o.bias.then(|| start(&[o.outputs])).transpose()?, options: o })
    }
}

impl Module for ConvNd {
    fn describe(&self) -> String {
        let o = &self.options;
        format!(
            "conv{}{}d({} -> {}, kernel_size {:?}, stride {:?}, padding {:?})",
            if o.transposed { "_transpose" } else { "" },
            o.kernel_size.len(),
            o.inputs,
            o.outputs,
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
        let o = &self.options;
        ensure!(
            x.dim() == o.kernel_size.len() + 2 && x.size()[1] == o.inputs && x.is_floating_point(),
            "{} expects floats [B, {}, {} sizes], found {}",
            self.describe(),
            o.inputs,
            o.kernel_size.len(),
            shape_text(x)
        );
        let (weight, bias) = (&self.weight, self.bias.as_ref());
        let (stride, padding, dilation) = (o.stride.as_slice(), o.padding.as_slice(), o.dilation.as_slice());
        let extra = o.output_padding.as_slice();
        Ok(x.f_convolution(weight, bias, stride, padding, dilation, o.transposed, extra, o.groups)?)
    }
}
