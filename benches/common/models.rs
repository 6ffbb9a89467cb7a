//! The models that benchmarks measure.

use clap::ValueEnum;
use nepa::nn::VitNepaConfig;

/// A model by its name.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Model {
    /// The published base model's pretraining: ViT-B/14 at 224², 86 M parameters
    Base,
    /// That of recipes/quickstart.rhai: 28² grey, patch 7, 4 blocks 64 wide, 0.2 M parameters
    Quickstart,
    /// 32², patch 4, 6 blocks 192 wide with 3 heads, 2.7 M parameters
    Cifar10,
}

impl Model {
    /// Its configuration for pretraining.
    pub fn config(self) -> VitNepaConfig {
        let config = match self {
            Model::Base => VitNepaConfig { qk_norm_affine: false, pos_embed_rescale: Some(2.0), ..Default::default() },
            Model::Quickstart => VitNepaConfig {
                image_size: 28,
                patch_size: 7,
                num_channels: 1,
                hidden_size: 64,
                num_hidden_layers: 4,
                num_attention_heads: 4,
                layerscale_value: Some(1.0),
                ..Default::default()
            },
            Model::Cifar10 => VitNepaConfig {
                image_size: 32,
                patch_size: 4,
                hidden_size: 192,
                num_hidden_layers: 6,
                num_attention_heads: 3,
                layerscale_value: Some(1.0),
                ..Default::default()
            },
        };
        // The reference's default is a number, whatever the width.
        VitNepaConfig { intermediate_size: Some(4 * config.hidden_size), ..config }
    }

    /// As it is written on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("no model is hidden").get_name().to_string()
    }
}
