//! Modules: the built-in blocks, and those that a script defines.

mod build;
mod define;
mod layers;
mod module;
mod stateless;

pub use build::{ModelScript, built, config_of, model_of};
pub use module::{report_map, tensor_map};

use crate::error::{Result, bail, ensure};
use crate::nn;
use crate::options::{OptionDoc, Options as _, known_keys};
use crate::script::registry::Api;
use crate::script::types::{Argument, handles};
use crate::script::values::{self, Module, Tensor, read_options};
use crate::types::{Type, Typed};
use crate::{device, ffi};
use build::Builder;
use define::{DefineOptions, ScriptModule, outer_context};
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
    api.named_type::<ModelScript>();
    api.namespace(
        "nn",
        "Building blocks. The parts of a ViT-NEPA take its configuration, a map with the keys of the reference's\n\
         config.json (listed under nn::vit_nepa), and read the keys that they need.",
        |nn| {
            functions::register(nn);
            layers::register(nn);
            stateless::register(nn);
        },
    );
    api.methods::<Module>(
        "Anything with parameters and a forward function. New modules are in training mode.",
        module::register,
    );
}

/// A plain ViT-NEPA of a configuration.
fn plain(config: Map) -> Result<Module> {
    let config = Config::read(config, "nn::build")?;
    wrap(nn::VitNepa::new(&config.0, nn::VitNepaOverrides::default())?)
}

fn wrap(m: impl nn::Module + 'static) -> Result<Module> {
    Ok(Module(Rc::new(m)))
}

/// A part that the caller brings, by name.
fn part(parts: &Map, name: &str, of: &str) -> Result<Option<nn::ModuleRef>> {
    parts.get(name).map(|value| values::module(value, &format!("part `{name}` of {of}"))).transpose()
}

/// The blocks that the caller brings, as many as the configuration says.
fn layers(parts: &Map, wanted: i64, of: &str) -> Result<Option<Vec<nn::ModuleRef>>> {
    let Some(value) = parts.get("layer") else { return Ok(None) };
    match value.read_lock::<rhai::Array>() {
        Some(list) => {
            let found = list.len() as i64;
            ensure!(
                found == wanted,
                "part `layer` of {of}: expected {wanted} blocks, num_hidden_layers, found {found}"
            );
            Ok(Some(values::modules(&list, &format!("part `layer` of {of}"))?))
        }
        None => bail!("part `layer` of {of}: expected an array of modules, found {}", values::found(value)),
    }
}

#[functions]
mod functions {
    use super::*;

    /// A complete ViT-NEPA (arXiv 2512.16922): patch embedding, class token, blocks, final norm, and a
    /// classification head if `num_labels` > 0. `forward(images [B, C, S, S])` returns the logits
    /// [B, num_labels], or without a head the final norm's output [B, N, D]; `encode` returns
    /// everything. Parameters are named as in the reference's checkpoints. The defaults are those of
    /// the published base model's pretraining, but for `qk_norm_affine`, false there, and `pos_embed_rescale`, 2.0 there.
    pub fn vit_nepa(config: Config) -> Result<Module> {
        wrap(nn::VitNepa::new(&config.0, nn::VitNepaOverrides::default())?)
    }

    /// A ViT-NEPA with your own modules in place of built-in ones:
    ///   patch_embeddings  images, or whatever it takes -> tokens [B, T, D]: a square number of square images, or give rotary
    ///   class_token       tokens [B, T, D] -> [B, T + 1, D], or [B, T, D] for a model without class token; what it adds
    ///                     stands before the patches
    ///   rotary            images -> cosines and sines [2, T, d] of the head width d, or [2, B, 1, T, d]
    ///   layer             an array of num_hidden_layers blocks, each [B, T + 1, D] -> [B, T + 1, D]
    ///   encoder           the same as a whole, in place of `layer`
    ///   layernorm         the final norm, [B, T + 1, D] -> [B, T + 1, D]
    ///   classifier        tokens [B, T + 1, D] -> logits [B, num_labels]
    /// A script that builds such a model is kept with its weights if nn::build called it.
    ///
    /// Example: `nn::vit_nepa(#{ image_size: 8, patch_size: 4, hidden_size: 8, num_attention_heads: 2 }, #{ layernorm: nn::layer_norm(8) });`
    #[script(name = "vit_nepa")]
    pub fn vit_nepa_of_parts(config: Config, parts: Map) -> Result<Module> {
        const OF: &str = "nn::vit_nepa";
        let names = ["patch_embeddings", "class_token", "rotary", "layer", "encoder", "layernorm", "classifier"];
        known_keys("part", OF, parts.keys().map(|key| key.as_str()), &names)?;
        let layer = layers(&parts, config.0.num_hidden_layers, OF)?;
        let encoder = match (part(&parts, "encoder", OF)?, layer) {
            (Some(_), Some(_)) => bail!("{OF}: expected the part `layer` or the part `encoder`, found both"),
            (encoder, None) => encoder,
            (None, own) => Some(Rc::new(nn::Blocks::new(&config.0, own)?) as nn::ModuleRef),
        };
        let own = nn::VitNepaOverrides {
            patch_embeddings: part(&parts, "patch_embeddings", OF)?,
            class_token: part(&parts, "class_token", OF)?,
            rotary: part(&parts, "rotary", OF)?,
            encoder,
            layernorm: part(&parts, "layernorm", OF)?,
            classifier: part(&parts, "classifier", OF)?,
        };
        wrap(nn::VitNepa::new(&config.0, own)?)
    }

    /// Whether blocks are computed by fused operations where these fit: float32 weights, the built-in attention and mlp.
    /// They give the same numbers but for rounding, faster and with less memory. On from the beginning; without them each
    /// module of a block is computed by itself.
    ///
    /// Example: `nn::fused(false);`
    pub fn fused(on: bool) {
        nn::set_fused(on);
    }

    /// How a model's blocks are computed: "fused", with the instruction set of the kernels on a CPU; for some of them; or
    /// module by module. A dtype of weights other than float32 is always computed module by module.
    ///
    /// Example: `nn::fused_path(nn::vit_nepa(#{ hidden_size: 32, num_attention_heads: 2 }))`
    pub fn fused_path(m: &Module) -> String {
        let (all, fused) = nn::fused_branches(m.0.as_ref());
        let kernels = ffi::cpu_kernels().filter(|_| !device::current().is_cuda());
        let by = kernels.map_or(String::new(), |kernels| format!(" ({kernels})"));
        match fused {
            0 => "module by module".into(),
            _ if fused == all => format!("blocks fused{by}"),
            _ => format!("{fused} of the {all} branches of its blocks fused{by}"),
        }
    }

    /// Builds a model that a script defines: one with `fn build(config)`, which gets the map of the configuration and
    /// returns what nn::vit_nepa gives. Keys of nn::vit_nepa that `config` lacks have their defaults. The script and what it imports are saved with the model, with which
    /// checkpoint::load and everything else builds it again. It may use tensors, nn and loss, and nothing that reads,
    /// writes or belongs to a run. `script` is its path, or a model's `script`; () and "" mean a plain ViT-NEPA. Keys that
    /// nn::vit_nepa does not know are the script's own: `config.remove("registers")` takes one out.
    pub fn build(script: Builder, config: Map) -> Result<Module> {
        build::build(script, config)
    }

    /// The drop path rate of block `index`, from 0: `drop_path_prob` for the last one, and less, evenly, before it.
    pub fn drop_path_rate(config: Config, index: i64) -> Result<f64> {
        ensure!(index >= 0, "index must not be negative, found {index}");
        Ok(config.0.drop_path_of(index as usize))
    }

    /// Keeps the probabilities [B, H, N, N] of an attention of your own, for `encode` with `attentions`. To be called in a
    /// module's forward function; it does nothing where nobody asks for them.
    pub fn record_attention(probabilities: &Tensor) {
        if let Some(taps) = outer_context().taps.filter(|taps| taps.want_attentions) {
            taps.record_attention(probabilities);
        }
    }

    /// Keeps tokens [B, N, D] for `encode` with `hidden_states`: what the first block of an encoder of your own gets, and
    /// what each gives. nn::blocks does so itself. Tokens that the encoder puts between the class token and the patches
    /// (registers) may be among them; `encode` leaves them out.
    pub fn record_hidden_state(x: &Tensor) {
        if let Some(taps) = outer_context().taps {
            taps.record_hidden_state(x);
        }
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

    /// Stochastic depth per sample (arXiv 1603.09382), active only in training mode. Rows of the first dimension draw by
    /// their sample's position in the global batch, the same in any process or micro-batch. Where each sample has k rows,
    /// as windows [B · k, N, D], those of a sample lie side by side, and each row is dropped by itself.
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

    /// The stack of `num_hidden_layers` blocks, [B, N, D] -> [B, N, D], without a final norm: nn::vit_nepa has one. Uses
    /// the rotary angles of the model that it is part of, or its own, for a patch grid inferred from N: a square, with or
    /// without a class token. Parameters: layer.I.
    pub fn blocks(config: Config) -> Result<Module> {
        wrap(nn::Blocks::new(&config.0, None)?)
    }

    /// A stack of your own blocks, with its rotary embedding.
    #[script(name = "blocks")]
    pub fn blocks_of_layers(config: Config, layers: Vec<nn::ModuleRef>) -> Result<Module> {
        wrap(nn::Blocks::new(&config.0, Some(layers))?)
    }

    /// A rotary embedding alone: computes the angles that attention, block and blocks take.
    pub fn rotary_embedding(options: nn::RotaryOptions) -> Result<Rotary> {
        Ok(Rotary(Rc::new(nn::RotaryEmbedding::new(&options)?)))
    }

    /// Turns queries or keys [B, H, N, d] by rotary angles, as `forward` of a module gets them in `rotary`: [2, T, d] or
    /// [2, B, 1, T, d], for the last T of the N tokens. Those before them stay as they are.
    pub fn apply_rotary(x: &Tensor, rotary: &Tensor) -> Result<tch::Tensor> {
        nn::apply_rotary(x, rotary)
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
    /// returns a tensor. The map also holds `training` (bool), `rotary`, the angles [2, T, d] (or [2, B, 1, T, d],
    /// where images of the batch have draws of their own), or () if there are none, and `want_attentions`, whether the
    /// caller asked for attention maps: see nn::record_attention.
    ///
    /// Example: `let scale = nn::define(#{ s: ones([8]) }, |m, x| x * m.s);`
    pub fn define(parts: Map, forward: FnPtr) -> Result<Module> {
        wrap(ScriptModule::new(parts, forward, DefineOptions::default())?)
    }

    /// Defines a module of your own, and says what cannot be seen from outside.
    #[script(name = "define")]
    pub fn define_with(parts: Map, forward: FnPtr, options: DefineOptions) -> Result<Module> {
        wrap(ScriptModule::new(parts, forward, options)?)
    }
}
