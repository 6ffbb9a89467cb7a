//! Modules: the built-in blocks, and those that a script defines.

mod define;
mod layers;
mod module;
mod more;

pub use module::{report_map, tensor_map};

use crate::error::Result;
use crate::nn;
use crate::options::{OptionDoc, Options as _, known_keys};
use crate::script::registry::Api;
use crate::script::types::{Argument, handles};
use crate::script::values::{self, Module, read_options};
use crate::types::{Type, Typed};
use define::ScriptModule;
use nepa_macros::functions;
use rhai::{FnPtr, Map};
use std::rc::Rc;

/// A rotary embedding by itself.
#[derive(Clone)]
struct Rotary(Rc<nn::RotaryEmbedding>);

handles! { "Rotary": Rotary; }

/// A ViT-NEPA's configuration, checked.
struct Config(nn::Architecture);

impl Typed for Config {
    fn script_type() -> Type {
        nn::VitNepaConfig::script_type()
    }
}

impl Argument for Config {
    type Raw = Map;
    fn read(raw: Map, of: &str) -> Result<Self> {
        Ok(Self(nn::Architecture::new(&read_options(of, &raw)?)?))
    }

    fn options() -> Vec<OptionDoc> {
        nn::VitNepaConfig::docs()
    }
}

pub fn register(api: &mut Api<'_>) {
    api.named_type::<Rotary>();
    api.namespace(
        "nn",
        "Building blocks. The parts of a ViT-NEPA take its configuration, a map with the keys of the reference's\n\
         config.json (listed under nn::vit_nepa), and read the keys that they need.",
        |nn| {
            functions::register(nn);
            more::register(nn);
            layers::register(nn);
        },
    );
    api.methods::<Module>(
        "Anything with parameters and a forward function. New modules are in training mode.",
        module::register,
    );
}

fn wrap(m: impl nn::Module + 'static) -> Result<Module> {
    Ok(Module(Rc::new(m)))
}

/// A part that the caller brings, by name.
fn part(parts: &Map, name: &str, of: &str) -> Result<Option<nn::ModuleRef>> {
    parts.get(name).map(|value| values::module(value, &format!("part `{name}` of {of}"))).transpose()
}

#[functions]
mod functions {
    use super::*;

    /// A complete ViT-NEPA (arXiv 2512.16922): patch embedding, class token, blocks, final norm, and a
    /// classification head if `num_labels` > 0. `forward(images [B, C, S, S])` returns the logits
    /// [B, num_labels], or without a head the final norm's output [B, N, D]; `encode` returns
    /// everything. Parameters are named as in the reference's checkpoints. The defaults are those of
    /// the published base model's pretraining.
    pub fn vit_nepa(config: Config) -> Result<Module> {
        wrap(nn::VitNepa::new(&config.0, nn::VitNepaOverrides::default())?)
    }

    /// A ViT-NEPA with your own modules in place of built-in ones: `patch_embeddings` (images ->
    /// tokens [B, T, D]) and `encoder` ([B, T + 1, D] -> [B, T + 1, D]).
    #[script(name = "vit_nepa")]
    pub fn vit_nepa_of_parts(config: Config, parts: Map) -> Result<Module> {
        known_keys("part", "nn::vit_nepa", parts.keys().map(|key| key.as_str()), &["patch_embeddings", "encoder"])?;
        let own = nn::VitNepaOverrides {
            patch_embeddings: part(&parts, "patch_embeddings", "nn::vit_nepa")?,
            encoder: part(&parts, "encoder", "nn::vit_nepa")?,
        };
        wrap(nn::VitNepa::new(&config.0, own)?)
    }

    /// Embeds images [B, C, S, S] as patch tokens [B, T, D] in raster order. Parameters: projection.
    pub fn patch_embed(config: Config) -> Result<Module> {
        wrap(nn::PatchEmbed::new(&config.0)?)
    }

    /// Prepends a learned token: [B, T, D] -> [B, T + 1, D]. Parameter: cls_token [1, 1, D].
    pub fn class_token(hidden_size: i64) -> Result<Module> {
        wrap(nn::ClassToken::new(hidden_size, 0.02)?)
    }

    /// Multi-head self-attention with QK-norm and rotary embedding, [B, N, D] -> [B, N, D].
    pub fn attention(config: Config) -> Result<Module> {
        wrap(nn::Attention::new(&config.0)?)
    }

    /// The feed-forward network of a block, plain or gated, [B, N, D] -> [B, N, D].
    pub fn mlp(config: Config) -> Result<Module> {
        wrap(nn::Mlp::new(&config.0)?)
    }

    /// A learned factor per channel (arXiv 2103.17239), starting at `start`. Parameter: lambda1 [D].
    pub fn layer_scale(hidden_size: i64, start: f64) -> Result<Module> {
        wrap(nn::LayerScale::new(hidden_size, start)?)
    }

    /// Stochastic depth per sample (arXiv 1603.09382), active only in training mode.
    pub fn drop_path(prob: f64) -> Result<Module> {
        wrap(nn::DropPath::new(prob)?)
    }

    /// One pre-norm transformer block, [B, N, D] -> [B, N, D], with the configuration's
    /// `drop_path_prob` as its drop path rate.
    pub fn block(config: Config) -> Result<Module> {
        wrap(nn::Block::new(&config.0, config.0.drop_path_prob, nn::BlockOverrides::default())?)
    }

    /// A block with your own `attention` or `mlp`, [B, N, D] -> [B, N, D].
    #[script(name = "block")]
    pub fn block_of_parts(config: Config, parts: Map) -> Result<Module> {
        known_keys("part", "nn::block", parts.keys().map(|key| key.as_str()), &["attention", "mlp"])?;
        let own = nn::BlockOverrides {
            attention: part(&parts, "attention", "nn::block")?,
            mlp: part(&parts, "mlp", "nn::block")?,
        };
        wrap(nn::Block::new(&config.0, config.0.drop_path_prob, own)?)
    }

    /// The stack of `num_hidden_layers` blocks with its rotary embedding and a final norm,
    /// [B, N, D] -> [B, N, D]. The patch grid is inferred from N: a square, with or without a class
    /// token. Parameters: layer.I, layernorm.
    pub fn blocks(config: Config) -> Result<Module> {
        wrap(nn::Blocks::new(&config.0, None, true)?)
    }

    /// A stack of your own blocks, with its rotary embedding and a final norm.
    #[script(name = "blocks")]
    pub fn blocks_of_layers(config: Config, layers: Vec<nn::ModuleRef>) -> Result<Module> {
        wrap(nn::Blocks::new(&config.0, Some(layers), true)?)
    }

    /// A rotary embedding alone: computes the angles that attention, block and blocks take.
    pub fn rotary_embedding(options: nn::RotaryOptions) -> Result<Rotary> {
        Ok(Rotary(Rc::new(nn::RotaryEmbedding::new(&options)?)))
    }

    /// The classification head of a configuration with `num_labels`: tokens [B, N, D] to logits
    /// [B, num_labels]. Parameters: fc_norm, classifier.
    pub fn classifier(config: Config) -> Result<Module> {
        wrap(nn::Classifier::new(&config.0)?)
    }

    /// LayerNorm over the last dimension. Parameters: weight, bias [size].
    pub fn layer_norm(size: i64) -> Result<Module> {
        wrap(nn::LayerNorm::new(size, &Default::default())?)
    }

    /// LayerNorm over the last dimension, with options.
    #[script(name = "layer_norm")]
    pub fn layer_norm_with(size: i64, options: nn::LayerNormOptions) -> Result<Module> {
        wrap(nn::LayerNorm::new(size, &options)?)
    }

    /// An affine map of the last dimension. Parameters: weight [outputs, inputs], bias [outputs].
    pub fn linear(inputs: i64, outputs: i64) -> Result<Module> {
        wrap(nn::Linear::new(inputs, outputs, &Default::default())?)
    }

    /// An affine map of the last dimension, with options.
    #[script(name = "linear")]
    pub fn linear_with(inputs: i64, outputs: i64, options: nn::LinearOptions) -> Result<Module> {
        wrap(nn::Linear::new(inputs, outputs, &options)?)
    }

    /// 2-D convolution of images [B, inputs, H, W]. Parameters: weight, bias.
    pub fn conv2d(inputs: i64, outputs: i64, options: nn::Conv2dOptions) -> Result<Module> {
        wrap(nn::Conv2d::new(inputs, outputs, &options)?)
    }

    /// Chains modules; their parameters are named 0.…, 1.…
    pub fn sequential(layers: Vec<nn::ModuleRef>) -> Result<Module> {
        wrap(nn::Sequential::new(layers))
    }

    /// Defines a module of your own. `parts` maps names to tensors (which become parameters), modules, arrays of
    /// modules (named by index) and other values. `forward` is called with a map of them and the input tensor, and
    /// returns a tensor. The map also holds `training` (bool) and `rotary`, the angles [2, T, d] (or [2, B, 1, T, d],
    /// where images of the batch have draws of their own), or () if none were passed.
    ///
    /// Example: `let scale = nn::define(#{ s: ones([8]) }, |m, x| x * m.s);`
    pub fn define(parts: Map, forward: FnPtr) -> Result<Module> {
        wrap(ScriptModule::new(parts, forward)?)
    }
}
