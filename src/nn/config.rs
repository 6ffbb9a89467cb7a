//! The model's configuration, with the keys of the reference's Hugging Face `config.json`.

use crate::device;
use crate::error::{Context as _, Result, ensure};
use crate::tensor::fits_memory;
use crate::{choices, options};
use std::ops::Deref;
use tch::{Device, Kind, Tensor};

choices! {
    /// The nonlinearity of the mlp.
    pub enum Activation {
        /// Exact GELU (erf), arXiv 1606.08415.
        Gelu = "gelu",
        /// x · sigmoid(x), also called swish.
        Silu = "silu",
    }
}

impl Activation {
    /// The nonlinearity of each element.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Gelu => x.f_gelu("none")?,
            Activation::Silu => x.f_silu()?,
        })
    }
}

options! {
    /// A ViT-NEPA. The defaults are those of the published base model's pretraining (ViT-B/14 at 224²), but for
    /// `qk_norm_affine`, false there, and `pos_embed_rescale`, 2.0 there.
    /// Every block takes the whole configuration and reads the keys that it needs.
    pub struct VitNepaConfig {
        /// Side of the square images, in pixels.
        image_size: i64 = 224,
        /// Side of a patch, in pixels; divides image_size.
        patch_size: i64 = 14,
        /// Channels of the images.
        num_channels: i64 = 3,
        /// Width D of a token; a multiple of num_attention_heads.
        hidden_size: i64 = 768,
        /// Number of blocks.
        num_hidden_layers: i64 = 12,
        /// Attention heads; the head width D / heads must be a multiple of 4 for rotary embedding.
        num_attention_heads: i64 = 12,
        /// Width of the mlp; () means 4 × hidden_size.
        intermediate_size: Option<i64> = None,
        /// Activation function of the mlp: "gelu" (exact) or "silu".
        hidden_act: Activation = Activation::Gelu,
        /// Whether the mlp is gated: down(act(gate(x)) ⊙ up(x)); with "silu" this is SwiGLU.
        use_gated_mlp: bool = false,
        /// Whether query, key and value have a bias.
        qkv_bias: bool = true,
        /// Whether queries and keys are layer-normed over the head width, before rotation.
        qk_norm: bool = true,
        /// Whether these norms (QK-norm) have a learned weight.
        qk_norm_affine: bool = true,
        /// Whether these norms (QK-norm) also have a learned bias.
        qk_norm_bias: bool = false,
        /// Initial value of LayerScale; () means no LayerScale.
        layerscale_value: Option<f64> = Some(1e-5),
        /// Added to the variance in every LayerNorm.
        layer_norm_eps: f64 = 1e-12,
        /// Base of the rotary frequencies; () switches rotary embedding off.
        rope_theta: Option<f64> = Some(100.0),
        /// In training, adds U(-s, s) to the patch coordinates, per axis; () means off.
        pos_embed_shift: Option<f64> = None,
        /// In training, multiplies the patch coordinates by exp(U(-ln r, ln r)), per axis.
        pos_embed_jitter: Option<f64> = None,
        /// In training, multiplies both axes by one exp(U(-ln r, ln r)).
        pos_embed_rescale: Option<f64> = None,
        /// Images of a step that share one draw of these three: neighbours in the global batch, however processes and
        /// micro-batches divide it; () means one draw for the whole step. The reference draws in every forward pass, the
        /// same on all GPUs: for the images of a GPU's micro-batch times the number of GPUs.
        pos_embed_images_per_draw: Option<i64> = None,
        /// Whether attention is causal: a token attends only to itself and earlier tokens.
        is_causal: bool = true,
        /// Drop path rate of the last block; rates grow linearly from 0 at the first block.
        drop_path_prob: f64 = 0.0,
        /// Standard deviation of the initial weights (truncated normal).
        initializer_range: f64 = 0.02,
        /// Whether pretraining adds the intermediate loss, over the outputs of blocks 1 … L-1: an idea of a fork
        /// (github.com/csiki/nepa), which neither the paper nor its authors' code has.
        use_intermediate_loss: bool = false,
        /// Number of classes of the classification head; 0 means no head (pretraining).
        num_labels: i64 = 0,
        /// Whether the head takes the mean of the patch tokens, with a norm of its own, or the last token.
        add_pooling_layer: bool = true,
    }
}

impl VitNepaConfig {
    /// Width of the mlp.
    pub fn mlp_size(&self) -> i64 {
        self.intermediate_size.unwrap_or(self.hidden_size.saturating_mul(4))
    }

    /// That sizes and counts are positive, and so small that numbers of parameters are still numbers.
    fn check_sizes(&self) -> Result<()> {
        let positive = [
            ("image_size", self.image_size, 1 << 16),
            ("patch_size", self.patch_size, 1 << 16),
            ("num_channels", self.num_channels, 1 << 10),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("num_attention_heads", self.num_attention_heads, 1 << 20),
        ];
        for (name, value, most) in positive {
            ensure!(value > 0, "{name} must be positive, found {value}");
            ensure!(value <= most, "{name} must be at most {most}, found {value}");
        }
        let mlp_size = self.mlp_size();
        ensure!(mlp_size > 0, "intermediate_size must be positive, found {mlp_size}");
        ensure!(mlp_size <= 1 << 22, "intermediate_size must be at most {}, found {mlp_size}", 1 << 22);
        let counts = [("num_hidden_layers", self.num_hidden_layers, 1 << 16), ("num_labels", self.num_labels, 1 << 30)];
        for (name, value, most) in counts {
            ensure!(value >= 0, "{name} must not be negative, found {value}");
            ensure!(value <= most, "{name} must be at most {most}, found {value}");
        }
        Ok(())
    }
}

/// A configuration whose values fit together, with the sizes that follow from them. Every block is built from one, and
/// reads the options through it.
#[derive(Debug, Clone)]
pub struct Architecture {
    config: VitNepaConfig,
    /// Patches along one side of an image.
    pub grid: i64,
    /// Tokens of an image: the class token and grid² patches.
    pub tokens: i64,
    /// Width of one attention head.
    pub head_size: i64,
}

impl Deref for Architecture {
    type Target = VitNepaConfig;

    fn deref(&self) -> &VitNepaConfig {
        &self.config
    }
}

impl Architecture {
    /// Checks what the types of single options cannot; the error names the option at fault.
    pub fn new(config: &VitNepaConfig) -> Result<Self> {
        config.check_sizes()?;
        ensure!(
            config.image_size % config.patch_size == 0,
            "patch_size must divide image_size, found patch_size {} and image_size {}",
            config.patch_size,
            config.image_size
        );
        ensure!(
            config.hidden_size % config.num_attention_heads == 0,
            "num_attention_heads must divide hidden_size, found {} heads for {}",
            config.num_attention_heads,
            config.hidden_size
        );
        let head_size = config.hidden_size / config.num_attention_heads;
        ensure!(
            config.rope_theta.is_none() || head_size % 4 == 0,
            "rotary embedding needs a head width that is a multiple of 4, found hidden_size {} / {} heads = {}",
            config.hidden_size,
            config.num_attention_heads,
            head_size
        );
        ensure!(
            (0.0..1.0).contains(&config.drop_path_prob),
            "drop_path_prob must lie in [0, 1), found {}",
            config.drop_path_prob
        );
        for (name, value) in
            [("layer_norm_eps", config.layer_norm_eps), ("initializer_range", config.initializer_range)]
        {
            ensure!(value >= 0.0, "{name} must not be negative, found {value}");
        }
        if let Some(theta) = config.rope_theta {
            ensure!(theta > 0.0, "rope_theta must be positive, found {theta}");
        }
        if let Some(shift) = config.pos_embed_shift {
            ensure!(shift >= 0.0, "pos_embed_shift must not be negative, found {shift}");
        }
        for (name, value) in
            [("pos_embed_jitter", config.pos_embed_jitter), ("pos_embed_rescale", config.pos_embed_rescale)]
        {
            ensure!(value.is_none_or(|r| r >= 1.0), "{name} must be a ratio of at least 1, found {}", value.unwrap());
        }
        if let Some(n) = config.pos_embed_images_per_draw {
            ensure!(n >= 1, "pos_embed_images_per_draw must be positive, found {n}");
        }
        let grid = config.image_size / config.patch_size;
        ensure!(
            grid < 1 << 10,
            "image_size {} with patch_size {} gives {grid} x {grid} patches, more than the {m} x {m} that are accepted",
            config.image_size,
            config.patch_size,
            m = (1 << 10) - 1
        );
        let architecture = Self { config: config.clone(), grid, tokens: grid * grid + 1, head_size };
        if device::current() == Device::Cpu {
            let parameters = architecture.parameters();
            fits_memory(&[parameters], Kind::Float)
                .with_context(|| format!("a model of this configuration has {parameters} parameters"))?;
        }
        Ok(architecture)
    }

    /// Drop path rate of block `index`, from 0.
    pub fn drop_path_of(&self, index: usize) -> f64 {
        let last = (self.num_hidden_layers - 1).max(1) as f64;
        self.drop_path_prob * index as f64 / last
    }
}
