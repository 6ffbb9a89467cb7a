//! The feed-forward part of a block, plain or gated (SwiGLU with "silu", arXiv 2002.05202).

use super::{Activation, Architecture, Context, Linear, LinearOptions, Module, ModuleVisitor, expect_tokens};
use crate::error::Result;
use tch::Tensor;

/// Plain: down(act(up(x))); gated: down(act(gate(x)) ⊙ up(x)).
pub struct Mlp {
    pub(super) up: Linear,
    pub(super) gate: Option<Linear>,
    pub(super) down: Linear,
    pub(super) act: Activation,
}

impl Mlp {
    /// The mlp of a configuration.
    pub fn new(architecture: &Architecture) -> Result<Self> {
        let (d, inner) = (architecture.hidden_size, architecture.mlp_size());
        let linear = LinearOptions { bias: true, initializer_range: architecture.initializer_range };
        Ok(Self {
            gate: architecture.use_gated_mlp.then(|| Linear::new(d, inner, &linear)).transpose()?,
            up: Linear::new(d, inner, &linear)?,
            down: Linear::new(inner, d, &linear)?,
            act: architecture.hidden_act,
        })
    }
}

impl Module for Mlp {
    fn describe(&self) -> String {
        let kind = if self.gate.is_some() { "gated " } else { "" };
        format!(
            "mlp({} -> {} -> {}, {kind}{:?})",
            self.down.outputs(),
            self.up.outputs(),
            self.down.outputs(),
            self.act
        )
        .to_lowercase()
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        if let Some(gate) = &self.gate {
            visitor.child("intermediate.gate_proj", gate);
        }
        visitor.child("intermediate.up_proj", &self.up);
        visitor.child("output.dense", &self.down);
    }

    fn flops(&self, tokens: i64) -> Option<i64> {
        let up = self.up.flops(tokens)?;
        let gate = self.gate.as_ref().map_or(Some(0), |gate| gate.flops(tokens))?;
        Some(up + gate + self.down.flops(tokens)?)
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        expect_tokens(x, self.down.outputs(), self)?;
        let up = self.up.forward(x, cx)?;
        let inner = match &self.gate {
            Some(gate) => self.act.apply(&gate.forward(x, cx)?)?.f_mul(&up)?,
            None => self.act.apply(&up)?,
        };
        self.down.forward(&inner, cx)
    }
}
