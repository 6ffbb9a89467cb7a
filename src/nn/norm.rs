//! LayerNorm over the last dimension (Ba et al., arXiv 1607.06450).

use super::{Context, Module, ModuleVisitor, expect_features, full, zeros};
use crate::error::{Result, ensure};
use crate::options;
use tch::Tensor;

options! {
    /// How a LayerNorm is made.
    pub struct LayerNormOptions {
        /// Added to the variance.
        eps: f64 = 1e-12,
        /// Whether it has a learned weight.
        affine: bool = true,
        /// Whether it also has a learned bias (needs `affine`).
        bias: bool = true,
    }
}

/// `weight` [size] starting at 1, `bias` [size] starting at 0, each only where asked for.
pub struct LayerNorm {
    size: i64,
    pub(super) eps: f64,
    pub(super) weight: Option<Tensor>,
    pub(super) bias: Option<Tensor>,
}

impl LayerNorm {
    /// A norm over `size` features.
    pub fn new(size: i64, options: &LayerNormOptions) -> Result<Self> {
        ensure!(size > 0, "a layer norm needs a positive size, found {size}");
        Ok(Self {
            size,
            eps: options.eps,
            weight: options.affine.then(|| full(&[size], 1.0)).transpose()?,
            bias: (options.affine && options.bias).then(|| zeros(&[size])).transpose()?,
        })
    }

    /// An affine LayerNorm of the given eps.
    pub fn with_eps(size: i64, eps: f64) -> Result<Self> {
        Self::new(size, &LayerNormOptions { eps, ..Default::default() })
    }
}

impl Module for LayerNorm {
    fn describe(&self) -> String {
        format!("layer_norm({}, eps {:e})", self.size, self.eps)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        if let Some(weight) = &self.weight {
            visitor.parameter("weight", weight);
        }
        if let Some(bias) = &self.bias {
            visitor.parameter("bias", bias);
        }
    }

    fn flops(&self, _tokens: i64) -> Option<i64> {
        Some(0)
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        expect_features(x, self.size, self)?;
        Ok(x.f_layer_norm([self.size], self.weight.as_ref(), self.bias.as_ref(), self.eps, true)?)
    }
}
