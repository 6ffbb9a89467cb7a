//! The feed-forward part of a block, plain or gated (SwiGLU with "silu", arXiv 2002.05202).

use super::{Activation, Context, Linear, LinearOptions, Module, ModuleVisitor, VitNepaConfig, expect_tokens};
use crate::error::Result;
use tch::Tensor;

/// Plain: down(act(up(x))); gated: down(act(gate(x)) ⊙ up(x)).
pub struct Mlp {
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
    act: Activation,
}

impl Mlp {
    /// The mlp of a configuration.
    pub fn new(config: &VitNepaConfig) -> Result<Self> {
        config.validate()?;
        let (d, inner) = (config.hidden_size, config.mlp_size());
        let linear = LinearOptions { bias: true, initializer_range: config.initializer_range };
        Ok(Self {
            gate: config.use_gated_mlp.then(|| Linear::new(d, inner, &linear)).transpose()?,
            up: Linear::new(d, inner, &linear)?,
            down: Linear::new(inner, d, &linear)?,
            act: config.hidden_act,
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

    fn visit(&self, parts: &mut ModuleVisitor<'_>) {
        if let Some(gate) = &self.gate {
            parts.child("intermediate.gate_proj", gate);
        }
        parts.child("intermediate.up_proj", &self.up);
        parts.child("output.dense", &self.down);
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
