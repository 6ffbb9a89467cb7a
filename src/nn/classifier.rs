//! The classification head: tokens to logits.

use super::{Architecture, Context, LayerNorm, Linear, LinearOptions, Module, ModuleVisitor, expect_tokens};
use crate::error::{Result, ensure};
use crate::tensor::shape_text;
use tch::Tensor;

/// [B, N, D] -> [B, num_labels]. With `add_pooling_layer` the mean over the patch tokens (where the model does not tell
/// which they are, all but the first) goes through `fc_norm`, else the last token is taken as it is; then a linear map.
pub struct Classifier {
    fc_norm: Option<LayerNorm>,
    classifier: Linear,
    width: i64,
}

impl Classifier {
    /// The head of a configuration whose `num_labels` is not 0.
    pub fn new(architecture: &Architecture) -> Result<Self> {
        ensure!(architecture.num_labels > 0, "a classifier needs num_labels > 0, found {}", architecture.num_labels);
        let linear = LinearOptions { bias: true, initializer_range: architecture.initializer_range };
        Ok(Self {
            fc_norm: architecture
                .add_pooling_layer
                .then(|| LayerNorm::with_eps(architecture.hidden_size, architecture.layer_norm_eps))
                .transpose()?,
            classifier: Linear::new(architecture.hidden_size, architecture.num_labels, &linear)?,
            width: architecture.hidden_size,
        })
    }
}

impl Module for Classifier {
    fn describe(&self) -> String {
        let pooled = if self.fc_norm.is_some() { ", pooled" } else { "" };
        format!("classifier({} -> {}{pooled})", self.width, self.classifier.outputs())
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        if let Some(norm) = &self.fc_norm {
            visitor.child("fc_norm", norm);
        }
        visitor.child("classifier", &self.classifier);
    }

    fn flops(&self, _tokens: i64) -> Option<i64> {
        self.classifier.flops(1)
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        expect_tokens(x, self.width, self)?;
        let tokens = x.size()[1];
        let before = cx.num_prefix_tokens.unwrap_or(1);
        ensure!(
            tokens > before || self.fc_norm.is_none(),
            "{} averages the patch tokens, but {} has none after the class token",
            self.describe(),
            shape_text(x)
        );
        let features = match &self.fc_norm {
            Some(norm) => norm.forward(&x.f_narrow(1, before, tokens - before)?.f_mean_dim(1, false, x.kind())?, cx)?,
            None => x.f_select(1, tokens - 1)?,
        };
        self.classifier.forward(&features, cx)
    }
}
