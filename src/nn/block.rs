//! One pre-norm transformer block:
//! x += drop_path(ls₁ ⊙ attention(LN(x))); x += drop_path(ls₂ ⊙ mlp(LN(x))).

use super::fused::Branch;
use super::{
    Architecture, Attention, Context, DropPath, LayerNorm, LayerScale, Mlp, Module, ModuleRef, ModuleVisitor,
    expect_tokens,
};
use crate::error::{Context as _, Result};
use std::rc::Rc;
use tch::Tensor;

/// A caller's own modules in place of built-in ones.
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
    /// The built-in mlp's parameters are named beside the block's own, as in the reference; those of another one go
    /// under `mlp`.
    mlp: (&'static str, ModuleRef),
    output_layer_scale: Option<LayerScale>,
    pub(super) drop_path: DropPath,
    width: i64,
}

impl Block {
    /// A block with the drop path rate `drop_path`; `own` modules stand in for built-in ones.
    pub fn new(architecture: &Architecture, drop_path: f64, own: BlockOverrides) -> Result<Self> {
        let (d, eps) = (architecture.hidden_size, architecture.layer_norm_eps);
        let layer_scale = || architecture.layerscale_value.map(|start| LayerScale::new(d, start)).transpose();
        Ok(Self {
            layernorm_before: LayerNorm::with_eps(d, eps)?,
            attention: match own.attention {
                Some(module) => module,
                None => Rc::new(Attention::new(architecture)?),
            },
            layer_scale: layer_scale()?,
            layernorm_after: LayerNorm::with_eps(d, eps)?,
            mlp: match own.mlp {
                Some(module) => ("mlp", module),
                None => ("", Rc::new(Mlp::new(architecture)?)),
            },
            output_layer_scale: layer_scale()?,
            drop_path: DropPath::new(drop_path)?,
            width: d,
        })
    }

    /// x + drop_path(scale ⊙ inner(norm(x))), by fused operations where they fit.
    fn branch(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        inner: &dyn Module,
        scale: &Option<LayerScale>,
        mask: Option<&Tensor>,
        cx: &Context,
    ) -> Result<Tensor> {
        let fused = Branch { norm, scale: scale.as_ref(), drop_path: (&self.drop_path, mask) }.forward(inner, x, cx)?;
        if let Some(y) = fused {
            return Ok(y);
        }
        let mut y = inner.forward(&norm.forward(x, cx)?, cx)?;
        if let Some(scale) = scale {
            y = scale.forward(&y, cx)?;
        }
        Ok(x.f_add(&self.drop_path.apply(&y, mask)?)?)
    }
}

impl Module for Block {
    fn describe(&self) -> String {
        format!("block({})", self.width)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.child("layernorm_before", &self.layernorm_before);
        visitor.child("attention", self.attention.as_ref());
        if let Some(scale) = &self.layer_scale {
            visitor.child("layer_scale", scale);
        }
        visitor.child("layernorm_after", &self.layernorm_after);
        visitor.child(self.mlp.0, self.mlp.1.as_ref());
        if let Some(scale) = &self.output_layer_scale {
            visitor.child("output.layer_scale", scale);
        }
        visitor.child("", &self.drop_path);
        visitor.branch(self.attention.as_ref());
        visitor.branch(self.mlp.1.as_ref());
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn flops(&self, tokens: i64) -> Option<i64> {
        Some(self.attention.flops(tokens)? + self.mlp.1.flops(tokens)?)
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        expect_tokens(x, self.width, self)?;
        // They are this block's alone, not those of blocks inside it.
        let mut cx = cx.clone();
        let masks = cx.drop_path.take();
        let [mask, mlp_mask] = masks.as_ref().map_or([None; 2], |masks| masks.each_ref().map(Some));
        let x = self
            .branch(x, &self.layernorm_before, self.attention.as_ref(), &self.layer_scale, mask, &cx)
            .context("in attention")?;
        self.branch(&x, &self.layernorm_after, self.mlp.1.as_ref(), &self.output_layer_scale, mlp_mask, &cx)
            .context("in mlp")
    }
}
