//! One pre-norm transformer block:
//! x += drop_path(ls₁ ⊙ attention(LN(x))); x += drop_path(ls₂ ⊙ mlp(LN(x))).

use super::{
    Attention, Context, DropPath, LayerNorm, LayerScale, Mlp, Module, ModuleRef, ModuleVisitor, VitNepaConfig,
    expect_tokens,
};
use crate::error::{Context as _, Result};
use std::rc::Rc;
use tch::Tensor;

/// A caller's own modules in place of the built-in ones.
#[derive(Default)]
pub struct BlockOverrides {
    /// [B, N, D] -> [B, N, D], called with the rotary angles.
    pub attention: Option<ModuleRef>,
    /// [B, N, D] -> [B, N, D].
    pub mlp: Option<ModuleRef>,
}

/// [B, N, D] -> [B, N, D].
pub struct Block {
    layernorm_before: LayerNorm,
    attention: ModuleRef,
    layer_scale: Option<LayerScale>,
    layernorm_after: LayerNorm,
    /// The built-in mlp's names stand beside the block's own, as in the reference; another one's
    /// go under `mlp`.
    mlp: (&'static str, ModuleRef),
    output_layer_scale: Option<LayerScale>,
    drop_path: DropPath,
    width: i64,
}

impl Block {
    /// A block whose drop path rate is `drop_path`, whatever the configuration's last block has.
    pub fn new(config: &VitNepaConfig, drop_path: f64, parts: BlockOverrides) -> Result<Self> {
        config.validate()?;
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let layer_scale = || config.layerscale_value.map(|start| LayerScale::new(d, start)).transpose();
        Ok(Self {
            layernorm_before: LayerNorm::with_eps(d, eps)?,
            attention: match parts.attention {
                Some(own) => own,
                None => Rc::new(Attention::new(config)?),
            },
            layer_scale: layer_scale()?,
            layernorm_after: LayerNorm::with_eps(d, eps)?,
            mlp: match parts.mlp {
                Some(own) => ("mlp", own),
                None => ("", Rc::new(Mlp::new(config)?)),
            },
            output_layer_scale: layer_scale()?,
            drop_path: DropPath::new(drop_path)?,
            width: d,
        })
    }

    fn branch(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        inner: &dyn Module,
        scale: &Option<LayerScale>,
        cx: &Context,
    ) -> Result<Tensor> {
        let mut y = inner.forward(&norm.forward(x, cx)?, cx)?;
        if let Some(scale) = scale {
            y = scale.forward(&y, cx)?;
        }
        Ok(x.f_add(&self.drop_path.forward(&y, cx)?)?)
    }
}

impl Module for Block {
    fn describe(&self) -> String {
        format!("block({})", self.width)
    }

    fn visit(&self, parts: &mut ModuleVisitor<'_>) {
        parts.child("layernorm_before", &self.layernorm_before);
        parts.child("attention", self.attention.as_ref());
        if let Some(scale) = &self.layer_scale {
            parts.child("layer_scale", scale);
        }
        parts.child("layernorm_after", &self.layernorm_after);
        parts.child(self.mlp.0, self.mlp.1.as_ref());
        if let Some(scale) = &self.output_layer_scale {
            parts.child("output.layer_scale", scale);
        }
        parts.child("", &self.drop_path);
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        expect_tokens(x, self.width, self)?;
        let x = self
            .branch(x, &self.layernorm_before, self.attention.as_ref(), &self.layer_scale, cx)
            .context("in attention")?;
        self.branch(&x, &self.layernorm_after, self.mlp.1.as_ref(), &self.output_layer_scale, cx).context("in mlp")
    }
}
