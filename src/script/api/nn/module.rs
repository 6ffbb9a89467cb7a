//! What any module can do, and what only a ViT-NEPA can.

use super::Rotary;
use super::build::{config_of, script_of};
use super::define::{ScriptModule, outer_context};
use crate::bail_hint;
use crate::checkpoint::config_json::class_names_in;
use crate::checkpoint::{self, ConfigFile, FillOptions, PASS_STRICT};
use crate::data::image::Mode;
use crate::error::{Context as _, Result, bail, ensure};
use crate::nn::{self, CostOptions, InputNormalization};
use crate::options;
use crate::options::OptionDoc;
use crate::options::Options as _;
use crate::script::api::core::precision;
use crate::script::types::Argument;
use crate::script::values::{Module, Tensor, found, from_json, plain_map, read_options, tensors_by_name};
use crate::tensor::{detached_copy, shape_text};
use crate::types::{Type, Typed, named};
use nepa_macros::functions;
use rhai::{Array, Dynamic, Map};
use serde_json::Value;
use std::rc::Rc;

pub use functions::register;

options! {
    /// What else a forward pass should return.
    pub struct EncodeOptions {
        /// The first block's input and each block's raw output.
        hidden_states: bool = false,
        /// Attention probabilities [B, H, N, N] of each block.
        attentions: bool = false,
        /// How many blocks to compute; () means all. The final norm is then applied to block `blocks`, and there are no
        /// logits unless it is the last one.
        blocks: Option<usize> = None,
        /// A bool tensor [B, T], true for patches whose embedding is hidden from the blocks (replaced with zeros). The
        /// class token is never hidden.
        input_mask: Option<Mask> = None,
    }
}

/// Holds the place of a tensor among plain options.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Mask;

named! { "Tensor": Mask; }

/// What a forward pass should give: the options, and the mask among them, which is no plain value.
#[derive(Default)]
struct Encoding {
    options: EncodeOptions,
    mask: Option<Tensor>,
}

impl Typed for Encoding {
    fn script_type() -> Type {
        EncodeOptions::script_type()
    }
}

impl Argument for Encoding {
    type Raw = Map;
    fn read(mut raw: Map, of: &str) -> Result<Self> {
        let mask = raw.remove("input_mask").unwrap_or(Dynamic::UNIT);
        let mask = match mask.read_lock::<Tensor>() {
            Some(mask) => Some(mask.clone()),
            None if mask.is_unit() => None,
            None => bail!("{of}: expected a bool tensor [B, T] as input_mask, found {}", found(&mask)),
        };
        Ok(Self { options: read_options(of, &raw)?, mask })
    }

    fn options() -> Vec<OptionDoc> {
        EncodeOptions::docs()
    }
}

#[functions]
mod functions {
    use super::*;

    /// Applies the module.
    pub fn forward(m: &Module, x: &Tensor) -> Result<tch::Tensor> {
        m.0.forward(x, &outer_context())
    }

    /// Applies the module (attention, block, blocks) with rotary angles [2, T, d] for the last T tokens; with
    /// [2, B, 1, T, d] each image has its own.
    #[script(name = "forward")]
    pub fn forward_with_rotary(m: &Module, x: &Tensor, rotary: &Tensor) -> Result<tch::Tensor> {
        let mut cx = outer_context();
        cx.rotary = Some(rotary.shallow_clone());
        m.0.forward(x, &cx)
    }

    /// A ViT-NEPA's forward pass on images [B, C, S, S]. Returns a map: `input_embedding` z and `last_hidden_state` h,
    /// both [B, N, D], `num_prefix_tokens`, how many of these tokens stand before the patches (1 with a class token), and
    /// `logits` [B, num_labels] if the model has a head.
    pub fn encode(m: &Module, images: &Tensor) -> Result<Map> {
        encoded(m, images, &Encoding::default())
    }

    /// A ViT-NEPA's forward pass that on request also returns `hidden_states` or `attentions` (arrays of tensors), or
    /// with `blocks` stops after a block. `input_mask` hides patches from the blocks, as in the paper's masking
    /// ablation; `input_embedding`, the targets, stays complete. The reference replaces hidden patches with a learned
    /// mask token that starts at zero, but its pretraining never creates one; here they are always zeros.
    #[script(name = "encode")]
    pub fn encode_with(m: &Module, images: &Tensor, options: Encoding) -> Result<Map> {
        encoded(m, images, &options)
    }

    /// A ViT-NEPA's configuration, with the keys of config.json, and those that its script alone knows.
    #[script(get)]
    pub fn config(m: &Module) -> Result<Map> {
        let model = vit(m, "config")?;
        Ok(config_of(&ConfigFile::of_model(model.vit_nepa().expect("checked"))))
    }

    /// The script that builds the model, for nn::build; () of a plain ViT-NEPA.
    ///
    /// Example: `nn::build(model.script, model.config + #{ num_labels: 10 });`
    #[script(get)]
    pub fn script(m: &Module) -> Result<Dynamic> {
        script_of(m)
    }

    /// The layer of each parameter, by its full name: 0 of the embeddings, I + 1 of block I, and that of the last block
    /// for what comes after them, as layer-wise learning rates count (BEiT, arXiv 2106.08254). Parameters of an encoder that
    /// does not say what its blocks are (nn::define's option `blocks`) count as those of the last block.
    pub fn layer_ids(m: &Module) -> Map {
        nn::layer_ids(m.0.as_ref()).into_iter().map(|(name, id)| (name.into(), id.into())).collect()
    }

    /// The names of a ViT-NEPA's classes, by label, if the folder that it was loaded from has them; otherwise ().
    #[script(get)]
    pub fn class_names(m: &Module) -> Option<Vec<String>> {
        m.0.vit_nepa().and_then(|model| class_names_in(&model.generic()))
    }

    /// Sets how a ViT-NEPA's images are normalised, which is saved with it in preprocessor_config.json: `mean` and `std`
    /// of pixels in [0, 1], one number or one for each channel. Numbers beyond 0 to 1 are taken for those of images read
    /// in the mode "unchanged". Other modules have no such property.
    pub fn set_normalization(m: &Module, mean: Vec<f64>, std: Vec<f64>) -> Result<()> {
        set_normalization_of(m, InputNormalization::judged(mean, std))
    }

    /// Sets how a ViT-NEPA's images are normalised, and the mode of data::open that they are read in, "rgb" or
    /// "unchanged". std/train sets it. Images of other than 1 or 3 channels are always "unchanged".
    #[script(name = "set_normalization")]
    pub fn set_normalization_in_mode(m: &Module, mean: Vec<f64>, std: Vec<f64>, mode: &str) -> Result<()> {
        let mode: Mode = mode.parse().context("set_normalization: mode")?;
        set_normalization_of(m, InputNormalization { mean, std, is_unchanged: mode == Mode::Unchanged })
    }

    /// The mode of data::open, "rgb" or "unchanged", that a ViT-NEPA's images are read in: as in its training, as
    /// preprocessor_config.json says or `set_normalization` has said.
    #[script(get)]
    pub fn image_mode(m: &Module) -> Result<String> {
        Ok(vit(m, "image_mode")?.vit_nepa().expect("checked").normalization().mode().to_string())
    }

    /// The mean of the pixels that a ViT-NEPA's images are normalised by, by channel, as preprocessor_config.json says or
    /// `set_normalization` has said, or else 0.5.
    ///
    /// Example: `transform::normalize(model.mean, model.std)`
    #[script(get)]
    pub fn mean(m: &Module) -> Result<Vec<f64>> {
        Ok(vit(m, "mean")?.vit_nepa().expect("checked").normalization().mean)
    }

    /// The standard deviation that a ViT-NEPA's images are normalised by: see `mean`.
    #[script(get)]
    pub fn std(m: &Module) -> Result<Vec<f64>> {
        Ok(vit(m, "std")?.vit_nepa().expect("checked").normalization().std)
    }

    /// Applies a ViT-NEPA's final norm to tokens [B, N, D], such as hidden states.
    pub fn final_norm(m: &Module, x: &Tensor) -> Result<tch::Tensor> {
        vit(m, "final_norm")?.vit_nepa().expect("checked").final_norm(x)
    }

    /// Floating-point operations of one image's forward pass with so many tokens: of matrix products, a multiplication with
    /// its addition as two. An error if the module does not say.
    pub fn flops(m: &Module, tokens: i64) -> Result<i64> {
        match m.0.flops(tokens) {
            Some(flops) => Ok(flops),
            None => bail_hint!(
                "flops: {} does not say how many operations it takes", m.0.describe();
                "nn::define(parts, forward, #{{ flops: N }}) says it"
            ),
        }
    }

    /// The parts by name of a module that nn::define made.
    ///
    /// Example: `nn::define(#{ head: nn::linear(4, 2) }, |m, x| m.head.forward(x)).parts.keys() == ["head"]`
    #[script(get)]
    pub fn parts(m: &Module) -> Result<Map> {
        match m.0.as_any().and_then(|module| module.downcast_ref::<ScriptModule>()) {
            Some(module) => Ok(module.parts()),
            None => bail_hint!(
                "{} has no parts: only modules that nn::define made have them", m.0.describe();
                "m.named_parameters() gives all parameters by name"
            ),
        }
    }

    /// All parameters by full name.
    pub fn named_parameters(m: &Module) -> Map {
        tensors_by_name(nn::named_parameters(m.0.as_ref()))
    }

    /// All buffers by full name: what is saved beside the parameters, such as the running statistics of batch norms.
    ///
    /// Example: `nn::batch_norm2d(3).named_buffers().running_var.shape == [3]`
    pub fn named_buffers(m: &Module) -> Map {
        tensors_by_name(nn::named_buffers(m.0.as_ref()))
    }

    /// The number of scalars in all parameters.
    pub fn num_parameters(m: &Module) -> i64 {
        nn::num_parameters(m.0.as_ref())
    }

    /// The cost of training a ViT-NEPA on the run's device, counted from its configuration. Returns a map:
    /// `parameters`; `tokens` per image; `flops_per_image`, the floating-point operations of one image's forward pass
    /// (matrix products, with attention counted as if it were not causal); `flops_per_step` of a training step (three
    /// times as many for each image, plus the blocks' once more if they are recomputed); `memory`, in bytes: `weights`,
    /// `gradients`, `optimizer` (AdamW), `ema`, `activations` (kept by forward for backward) and `total`, without the
    /// temporary memory of single operations. Of a model with parts of its own, they say their operations (see
    /// nn::define), and `activations` and `total` are ().
    ///
    /// Example: `let flops = model.cost(#{ batch: 256, dtype: "bfloat16" }).flops_per_step;`
    pub fn cost(m: &Module, options: CostOptions) -> Result<Map> {
        counted(m, &options)
    }

    /// Whether any part of the module that behaves differently in training is in training mode.
    #[script(get)]
    pub fn training(m: &Module) -> bool {
        nn::is_training(m.0.as_ref())
    }

    /// Switches to training mode (true: drop path and position augmentation are on) or evaluation mode
    /// (false: nothing is random), like PyTorch's `train(mode)`.
    pub fn train(m: &Module, mode: bool) {
        nn::set_training(m.0.as_ref(), mode);
    }

    /// Turns recomputation (activation checkpointing, arXiv 1604.06174) of the blocks of a ViT-NEPA or of nn::blocks on
    /// or off. Each block then keeps only its input in training and is recomputed during backward: a third more
    /// computation, and activation memory of one block instead of all, with the same result. Off in a new model.
    ///
    /// Example: `model.recompute(true);`
    pub fn recompute(m: &Module, on: bool) -> Result<()> {
        nn::set_recompute(m.0.as_ref(), on)
    }

    /// Freezes the parameters whose full name matches a pattern, in which `*` stands for any characters.
    /// Returns their number. No match is an error.
    pub fn freeze(m: &Module, pattern: &str) -> Result<usize> {
        nn::set_trainable(m.0.as_ref(), pattern, false)
    }

    /// Unfreezes the parameters whose full name matches a pattern. Returns their number. No match is an error.
    pub fn unfreeze(m: &Module, pattern: &str) -> Result<usize> {
        nn::set_trainable(m.0.as_ref(), pattern, true)
    }

    /// Clears all gradients. An optimizer's step does so too.
    pub fn zero_grad(m: &Module) -> Result<()> {
        crate::optim::zero_grad(m.0.as_ref())
    }

    /// Copies of all parameters and buffers by full name.
    pub fn state_dict(m: &Module) -> Result<Map> {
        let all = nn::named_state(m.0.as_ref());
        let copies = all.into_iter().map(|(name, t)| Ok((name, detached_copy(&t)?))).collect::<Result<Vec<_>>>()?;
        Ok(tensors_by_name(copies))
    }

    /// The CRC-32 of all parameters and buffers with their names, dtypes and shapes, as 8 hexadecimal digits: whether two
    /// modules have the same weights. It is the same on any device.
    pub fn checksum(m: &Module) -> Result<String> {
        checkpoint::tensors::checksum_of_weights(m.0.as_ref())
    }

    /// Loads tensors into the parameters and buffers of the same names; all must fit.
    pub fn load_state_dict(m: &Module, tensors: Map) -> Result<Map> {
        filled(m, &tensors, &FillOptions::default())
    }

    /// Loads tensors into the parameters and buffers of the same names; with `strict: false`, only those that fit. Returns a map of
    /// arrays of names: `loaded`, `missing`, `unexpected` and `mismatched`.
    #[script(name = "load_state_dict")]
    pub fn load_state_dict_with(m: &Module, tensors: Map, options: FillOptions) -> Result<Map> {
        filled(m, &tensors, &options)
    }

    /// A short description of the module, such as "vit_nepa(224² / 14, 12 x 768, 12 heads)".
    pub fn describe(m: &Module) -> String {
        m.0.describe()
    }

    /// The module and its parameters, as text.
    pub fn to_string(m: &Module) -> String {
        tree(m)
    }

    /// The module and its parameters, as `to_string` gives them.
    pub fn to_debug(m: &Module) -> String {
        tree(m)
    }

    /// Cosines and sines of a patch grid, [2, rows · columns, head_size], float32.
    pub fn angles(rotary: &Rotary, rows: i64, columns: i64) -> Result<tch::Tensor> {
        rotary.0.angles((rows, columns))
    }

    /// Switches to training mode (position augmentation is on) or evaluation mode (the angles never vary).
    #[script(name = "train")]
    pub fn train_rotary(rotary: &Rotary, mode: bool) {
        rotary.0.set_training(mode);
    }

    /// The rotary embedding as text.
    #[script(name = "to_string")]
    pub fn rotary_to_string(rotary: &Rotary) -> String {
        rotary.0.describe()
    }
}

fn vit(m: &Module, what: &str) -> Result<Rc<dyn nn::Module>> {
    if m.0.vit_nepa().is_none() {
        bail_hint!(
            "{what}: expected a model made by nn::vit_nepa, found {}", m.0.describe();
            "call the parts yourself: embeddings, blocks, forward"
        );
    }
    Ok(m.0.clone())
}

fn counted(m: &Module, o: &CostOptions) -> Result<Map> {
    let model = vit(m, "cost")?;
    let model = model.vit_nepa().expect("checked");
    ensure!(o.batch > 0, "cost: batch must be positive, found {}", o.batch);
    precision("cost", &o.dtype)?;
    let of_one = model.cost(&CostOptions { batch: 1, ..o.clone() }).context("cost")?;
    let most = of_one.flops_per_step.max(of_one.memory.total.unwrap_or(0));
    ensure!(
        most.checked_mul(o.batch).is_some(),
        "cost: a batch of {} has more operations than can be counted",
        o.batch
    );
    plain_map(&model.cost(o)?)
}

fn encoded(m: &Module, images: &Tensor, Encoding { options: o, mask }: &Encoding) -> Result<Map> {
    let model = vit(m, "encode")?;
    let wanted = nn::Wanted { hidden_states: o.hidden_states, attentions: o.attentions, blocks: o.blocks };
    let output = model.vit_nepa().expect("checked").encode(images, mask.as_deref(), &wanted)?;
    let array = |list: Vec<tch::Tensor>| -> Dynamic {
        list.into_iter().map(|t| Dynamic::from(Tensor::from(t))).collect::<Array>().into()
    };
    let mut map = Map::from([
        ("input_embedding".into(), Dynamic::from(Tensor::from(output.input_embedding))),
        ("last_hidden_state".into(), Dynamic::from(Tensor::from(output.last_hidden_state))),
        ("num_prefix_tokens".into(), output.num_prefix_tokens.into()),
    ]);
    if let Some(logits) = output.logits {
        map.insert("logits".into(), Dynamic::from(Tensor::from(logits)));
    }
    if o.hidden_states {
        map.insert("hidden_states".into(), array(output.hidden_states));
    }
    if o.attentions {
        map.insert("attentions".into(), array(output.attentions));
    }
    Ok(map)
}

fn set_normalization_of(m: &Module, normalization: InputNormalization) -> Result<()> {
    m.0.vit_nepa().map_or(Ok(()), |model| model.set_normalization(normalization))
}

/// Named tensors of a script's map.
pub fn tensor_map(map: &Map, what: &str) -> Result<Vec<(String, tch::Tensor)>> {
    map.iter()
        .map(|(name, value)| match value.read_lock::<Tensor>() {
            Some(t) => Ok((name.to_string(), t.shallow_clone())),
            None => bail!("{what}: expected a tensor under `{name}`, found {}", found(value)),
        })
        .collect()
}

/// A script's map of an account of filling.
pub fn report_map(report: checkpoint::Report) -> Map {
    let names = |list: Vec<String>| from_json(&Value::from(list));
    let mismatched: Vec<String> = report.mismatched.into_iter().map(|m| m.0).collect();
    Map::from([
        ("loaded".into(), names(report.loaded)),
        ("missing".into(), names(report.missing)),
        ("unexpected".into(), names(report.unexpected)),
        ("mismatched".into(), names(mismatched)),
    ])
}

fn filled(m: &Module, tensors: &Map, o: &FillOptions) -> Result<Map> {
    let source = tensor_map(tensors, "load_state_dict")?;
    Ok(report_map(checkpoint::fill(m.0.as_ref(), &source, "the state dict", o.strict.then_some(PASS_STRICT))?))
}

fn tree(m: &Module) -> String {
    let (all, buffers) = (nn::named_parameters(m.0.as_ref()), nn::named_buffers(m.0.as_ref()));
    let width = all.iter().chain(&buffers).map(|(n, _)| n.len()).max().unwrap_or(0);
    let mut out = format!("{}: {} parameters", m.0.describe(), nn::num_parameters(m.0.as_ref()));
    for (name, t) in &all {
        let frozen = if t.requires_grad() { "" } else { " frozen" };
        out += &format!("\n  {name:<width$}  {}{frozen}", shape_text(t));
    }
    for (name, t) in &buffers {
        out += &format!("\n  {name:<width$}  {} buffer", shape_text(t));
    }
    out
}
