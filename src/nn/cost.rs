//! What a model costs to train, counted from its configuration.

use super::{Architecture, VitNepa, num_parameters};
use crate::device;
use crate::error::Result;
use crate::ffi;
use crate::options;
use serde::Serialize;
use tch::Device;

options! {
    /// How a model is trained.
    pub struct CostOptions {
        /// Images in a forward pass.
        batch: i64 = 256,
        /// Dtype of matrix products: "float32", or "bfloat16" for autocast.
        dtype: String = "float32".into(),
        /// Whether backward recomputes the blocks (activation checkpointing).
        recompute: bool = false,
    }
}

impl CostOptions {
    /// Operations of a training step: backward takes twice what forward does, and recomputed blocks once more.
    fn flops_per_step(&self, forward: i64, blocks: i64) -> i64 {
        self.batch * (3 * forward + if self.recompute { blocks } else { 0 })
    }
}

impl VitNepa {
    /// What training it costs, as [`Architecture::cost`] counts it. Parts that are not built-in ones say their operations;
    /// what they keep for backward is not known.
    pub fn cost(&self, options: &CostOptions) -> Result<Cost> {
        let plain = self.architecture().cost(options);
        if self.own_parts().is_empty() {
            return Ok(plain);
        }
        let (forward, blocks) = self.flops_per_image()?;
        let parameters = num_parameters(self);
        Ok(Cost {
            parameters,
            tokens: plain.tokens,
            flops_per_image: forward,
            flops_per_step: options.flops_per_step(forward, blocks),
            memory: Memory::of(parameters, None),
        })
    }
}

/// The cost of training a ViT-NEPA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Scalars in all parameters.
    pub parameters: i64,
    /// Tokens of an image, with the class token.
    pub tokens: i64,
    /// Floating-point operations of one image's forward pass.
    pub flops_per_image: i64,
    /// Floating-point operations of a training step.
    pub flops_per_step: i64,
    /// Bytes while training.
    pub memory: Memory,
}

/// Bytes that a training step holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Parameters, float32.
    pub weights: i64,
    /// Their gradients, float32.
    pub gradients: i64,
    /// AdamW's two moments, float32.
    pub optimizer: i64,
    /// The average of the weights, float32.
    pub ema: i64,
    /// What forward keeps for backward; `None` if parts of the model's own do not tell.
    pub activations: Option<i64>,
    /// All of it.
    pub total: Option<i64>,
}

impl Memory {
    /// That of so many parameters and what forward keeps.
    pub fn of(parameters: i64, activations: Option<i64>) -> Self {
        let state = 4 * parameters;
        let total = activations.map(|activations| 5 * state + activations);
        Self { weights: state, gradients: state, optimizer: 2 * state, ema: state, activations, total }
    }
}

impl Architecture {
    /// The number of scalars in all parameters.
    pub fn parameters(&self) -> i64 {
        let (d, m) = (self.hidden_size, self.mlp_size());
        let linear = |inputs: i64, outputs: i64, bias: bool| inputs * outputs + if bias { outputs } else { 0 };
        let qk_norm = match (self.qk_norm && self.qk_norm_affine, self.qk_norm_bias) {
            (false, _) => 0,
            (true, bias) => 2 * self.head_size * (1 + bias as i64),
        };
        let layer_scale = if self.layerscale_value.is_some() { 2 * d } else { 0 };
        let mlp = linear(d, m, true) * (1 + self.use_gated_mlp as i64) + linear(m, d, true);
        let block = 4 * d + 3 * linear(d, d, self.qkv_bias) + qk_norm + linear(d, d, true) + layer_scale + mlp;
        let patch = self.num_channels * self.patch_size * self.patch_size;
        let head = match self.num_labels {
            0 => 0,
            labels => linear(d, labels, true) + if self.add_pooling_layer { 2 * d } else { 0 },
        };
        linear(patch, d, true) + d + self.num_hidden_layers * block + 2 * d + head
    }

    /// What training costs. Only matrix products count as operations, a multiplication with its addition as two,
    /// attention as if it were not causal, and backward as twice forward. Memory counts neither the images nor what an
    /// operation needs while it runs.
    pub fn cost(&self, options: &CostOptions) -> Cost {
        let (d, m, n, layers) = (self.hidden_size, self.mlp_size(), self.tokens, self.num_hidden_layers);
        let patch = 2 * (n - 1) * d * self.num_channels * self.patch_size * self.patch_size;
        let (projections, attention) = (4 * 2 * n * d * d, 2 * 2 * n * n * d);
        let mlp = (2 + self.use_gated_mlp as i64) * 2 * n * d * m;
        let blocks = layers * (projections + attention + mlp);
        let forward = patch + blocks + 2 * d * self.num_labels;

        let parameters = self.parameters();
        Cost {
            parameters,
            tokens: n,
            flops_per_image: forward,
            flops_per_step: options.flops_per_step(forward, blocks),
            memory: Memory::of(parameters, Some(self.activations(options))),
        }
    }

    /// Bytes that forward keeps for backward, with the blocks' fused operations.
    fn activations(&self, options: &CostOptions) -> i64 {
        let narrow = options.dtype == "bfloat16";
        let (d, m) = (self.hidden_size, self.mlp_size());
        let width = if narrow { 2 } else { 4 };
        let of = |condition: bool, bytes: i64| if condition { bytes } else { 0 };
        let residual = 4 * d;
        // Two float32 numbers of each norm of a token, and one of a softmax.
        let (statistics, heads) = (8, d / self.head_size);
        // Kernels find a norm of q and k without weights in what came out of it.
        let found_again = !self.qk_norm_affine && device::current() == Device::Cpu && ffi::cpu_kernels().is_some();
        // The normed input of products, in bfloat16.
        let normed = of(narrow, width * d);
        let attention = residual
            + normed
            + statistics
            + of(self.qk_norm, 2 * statistics * heads)
            + of(self.qk_norm && !found_again, 2 * width * d)
            + 4 * width * d // q, k, v as they go into the attention, and what it gives
            + 4 * heads;
        let mlp = residual + normed + statistics + (1 + self.use_gated_mlp as i64) * width * m;
        let block = attention + mlp;
        let tokens = options.batch * self.tokens;
        let layers = self.num_hidden_layers;
        let blocks = if options.recompute { layers * residual + block } else { layers * block };
        // Class token and embeddings, the final norm's input, its output, and the loss's unit vectors of the targets.
        let ends = 4 * residual;
        // The weights in bfloat16, until they change.
        let weights = of(narrow, 2 * self.parameters());
        tokens * (blocks + ends) + weights
    }
}
