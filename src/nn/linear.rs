//! Affine map of the last dimension: y = x Wᵀ + b.

use super::{Context, Module, ModuleVisitor, expect_features, trunc_normal, zeros};
use crate::error::{Result, ensure};
use crate::options;
use tch::Tensor;

options! {
    /// How a linear layer is made.
    pub struct LinearOptions {
        /// Whether to add a bias.
        bias: bool = true,
        /// Standard deviation of the initial weights (truncated normal).
        initializer_range: f64 = 0.02,
    }
}

/// `weight` [out, in], `bias` [out].
pub struct Linear {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    /// A map from `inputs` to `outputs` features.
    pub fn new(inputs: i64, outputs: i64, options: &LinearOptions) -> Result<Self> {
        ensure!(inputs > 0 && outputs > 0, "a linear layer needs positive sizes, found {inputs} -> {outputs}");
        Ok(Self {
            weight: trunc_normal(&[outputs, inputs], options.initializer_range)?,
            bias: options.bias.then(|| zeros(&[outputs])).transpose()?,
        })
    }

    /// Output features.
    pub fn outputs(&self) -> i64 {
        self.weight.size()[0]
    }
}

impl Module for Linear {
    fn describe(&self) -> String {
        let size = self.weight.size();
        format!("linear({} -> {})", size[1], size[0])
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.parameter("weight", &self.weight);
        if let Some(bias) = &self.bias {
            visitor.parameter("bias", bias);
        }
    }

    fn flops(&self, tokens: i64) -> Option<i64> {
        let size = self.weight.size();
        Some(2 * tokens * size[0] * size[1])
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        expect_features(x, self.weight.size()[1], self)?;
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}
