//! The classification head: tokens to logits.

use super::{Context, LayerNorm, Linear, LinearOptions, Module, ModuleVisitor, VitNepaConfig, expect_tokens};
use crate::error::{Result, ensure};
use crate::tensor::shape_text;
use tch::Tensor;

/// [B, N, D] -> [B, num_labels]. With `add_pooling_layer` the mean over the patch tokens (all but
/// the first) goes through `fc_norm`, else the last token is taken as it is; then a linear map.
pub struct Classifier {
    fc_norm: Option<LayerNorm>,
    classifier: Linear,
    width: i64,
}

impl Classifier {
    /// The head of a configuration whose `num_labels` is not 0.
    pub fn new(config: &VitNepaConfig) -> Result<Self> {
        config.validate()?;
        ensure!(config.num_labels > 0, "a classifier needs num_labels > 0, found {}", config.num_labels);
        let linear = LinearOptions { bias: true, initializer_range: config.initializer_range };
        Ok(Self {
            fc_norm: config
                .add_pooling_layer
                .then(|| LayerNorm::with_eps(config.hidden_size, config.layer_norm_eps))
                .transpose()?,
            classifier: Linear::new(config.hidden_size, config.num_labels, &linear)?,
            width: config.hidden_size,
        })
    }
}

impl Module for Classifier {
    fn describe(&self) -> String {
        let pooled = if self.fc_norm.is_some() { ", pooled" } else { "" };
        format!("classifier({} -> {}{pooled})", self.width, self.classifier.outputs())
    }

    fn visit(&self, parts: &mut ModuleVisitor<'_>) {
        if let Some(norm) = &self.fc_norm {
            parts.child("fc_norm", norm);
        }
        parts.child("classifier", &self.classifier);
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        expect_tokens(x, self.width, self)?;
        let tokens = x.size()[1];
        ensure!(
            tokens > 1 || self.fc_norm.is_none(),
            "{} takes the mean of the patch tokens, but {} has none behind the class token",
            self.describe(),
            shape_text(x)
        );
        let features = match &self.fc_norm {
            Some(norm) => norm.forward(&x.f_narrow(1, 1, tokens - 1)?.f_mean_dim(1, false, x.kind())?, cx)?,
            None => x.f_select(1, tokens - 1)?,
        };
        self.classifier.forward(&features, cx)
    }
}
