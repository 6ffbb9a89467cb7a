//! Multi-head self-attention with QK-norm and rotary embedding.

use super::{
    Architecture, Context, LayerNorm, LayerNormOptions, Linear, LinearOptions, Module, ModuleVisitor, expect_tokens,
    rotary,
};
use crate::error::Result;
use tch::{Kind, Tensor};

/// softmax(q kᵀ / √d) v, then a linear map; q and k are normed over the head, then rotated.
pub struct Attention {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) q_norm: Option<LayerNorm>,
    pub(super) k_norm: Option<LayerNorm>,
    pub(super) output: Linear,
    pub(super) heads: i64,
    pub(super) is_causal: bool,
}

impl Attention {
    /// The attention of a configuration.
    pub fn new(architecture: &Architecture) -> Result<Self> {
        let (d, initializer_range) = (architecture.hidden_size, architecture.initializer_range);
        let qkv = LinearOptions { bias: architecture.qkv_bias, initializer_range };
        let norm = LayerNormOptions {
            eps: architecture.layer_norm_eps,
            affine: architecture.qk_norm_affine,
            bias: architecture.qk_norm_bias,
        };
        let qk_norm = || architecture.qk_norm.then(|| LayerNorm::new(architecture.head_size, &norm)).transpose();
        Ok(Self {
            query: Linear::new(d, d, &qkv)?,
            key: Linear::new(d, d, &qkv)?,
            value: Linear::new(d, d, &qkv)?,
            q_norm: qk_norm()?,
            k_norm: qk_norm()?,
            output: Linear::new(d, d, &LinearOptions { bias: true, initializer_range })?,
            heads: architecture.num_attention_heads,
            is_causal: architecture.is_causal,
        })
    }

    /// softmax(q kᵀ / √d) v of queries, keys and values [B, H, N, d].
    pub(super) fn mix(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, self.is_causal, None, false)?)
    }
}

impl Module for Attention {
    fn describe(&self) -> String {
        let causal = if self.is_causal { ", causal" } else { "" };
        format!("attention({}, {} heads{causal})", self.output.outputs(), self.heads)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.child("attention.query", &self.query);
        visitor.child("attention.key", &self.key);
        visitor.child("attention.value", &self.value);
        for (name, norm) in [("attention.q_norm", &self.q_norm), ("attention.k_norm", &self.k_norm)] {
            if let Some(norm) = norm {
                visitor.child(name, norm);
            }
        }
        visitor.child("output.dense", &self.output);
    }

    /// As if it were not causal.
    fn flops(&self, tokens: i64) -> Option<i64> {
        let width = self.output.outputs();
        Some(4 * 2 * tokens * width * width + 2 * 2 * tokens * tokens * width)
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        let width = self.output.outputs();
        expect_tokens(x, width, self)?;
        let size = x.size();
        let (batch, tokens, head) = (size[0], size[1], width / self.heads);
        let split = |t: Tensor| t.f_view([batch, tokens, self.heads, head])?.f_transpose(1, 2);
        let normed = |t: Tensor, norm: &Option<LayerNorm>| match norm {
            Some(norm) => norm.forward(&t, cx),
            None => Ok(t),
        };
        let mut q = normed(split(self.query.forward(x, cx)?)?, &self.q_norm)?;
        let mut k = normed(split(self.key.forward(x, cx)?)?, &self.k_norm)?;
        let v = split(self.value.forward(x, cx)?)?;
        if let Some(angles) = &cx.rotary {
            q = rotary::apply_rotary(&q, angles)?;
            k = rotary::apply_rotary(&k, angles)?;
        }
        let mixed = match cx.taps.as_ref().filter(|taps| taps.want_attentions) {
            // The fused kernel never holds the probabilities, so they are computed openly here.
            Some(taps) => {
                let mut scores = q.f_matmul(&k.f_transpose(-2, -1)?)?.f_mul_scalar((head as f64).powf(-0.5))?;
                if self.is_causal {
                    let future = Tensor::f_ones([tokens, tokens], (Kind::Bool, x.device()))?.f_triu(1)?;
                    scores = scores.f_masked_fill(&future, f64::NEG_INFINITY)?;
                }
                let probabilities = scores.f_softmax(-1, Kind::Float)?.f_to_kind(q.kind())?;
                taps.record_attention(&probabilities);
                probabilities.f_matmul(&v)?
            }
            None => self.mix(&q, &k, &v)?,
        };
        self.output.forward(&mixed.f_transpose(1, 2)?.f_reshape([batch, tokens, width])?, cx)
    }
}
