//! Modules: the built-in blocks, and those that a script defines.

use crate::bail_hint;
use crate::checkpoint::config_json::class_names_in;
use crate::checkpoint::{self, FillOptions};
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::functions;
use crate::nn::{self, Context, CostOptions, Parts, shape_words};
use crate::options;
use crate::script::api::core::precision;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Module, Tensor, call, found, from_json, module, modules, number, ok, read_options};
use crate::types::named;
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

options! {
    /// What else a forward pass should give.
    pub struct EncodeOptions {
        /// What the first block sees and each block's raw output.
        hidden_states: bool = false,
        /// Attention probabilities [B, H, N, N] of each block.
        attentions: bool = false,
        /// How many blocks are computed: the final norm is then that of block `blocks`, and there are no logits unless
        /// it is the last. () means all.
        blocks: Option<usize> = None,
        /// A bool tensor [B, T]: true where the blocks see zeros in place of a patch's embedding. The class token is
        /// always seen.
        input_mask: Option<Mask> = None,
    }
}

/// Holds the place of a tensor among plain options.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Mask;

named! { "Tensor": Mask; }

thread_local! {
    /// The contexts of the script modules whose forward functions are under way.
    static OUTER: RefCell<Vec<Context>> = const { RefCell::new(Vec::new()) };
}

/// Holds a context on [`OUTER`] for as long as it lives, also when the function fails.
struct Outer;

impl Outer {
    fn enter(cx: Context) -> Self {
        OUTER.with_borrow_mut(|outer| outer.push(cx));
        Outer
    }
}

impl Drop for Outer {
    fn drop(&mut self) {
        OUTER.with_borrow_mut(|outer| outer.pop());
    }
}

/// The context of the innermost script module under way, or a fresh one.
fn outer_context() -> Context {
    OUTER.with_borrow(|outer| outer.last().cloned()).unwrap_or_default()
}

/// A rotary embedding by itself.
#[derive(Clone)]
struct Rotary(Rc<nn::RotaryEmbedding>);

/// A module that a script defines: its parts and a forward function.
struct ScriptModule {
    parts: Vec<(String, Part)>,
    forward: FnPtr,
    training: Cell<bool>,
}

enum Part {
    Parameter(Tensor),
    Module(Module),
    /// An array of modules, named by their places.
    Modules(Vec<nn::ModuleRef>),
    /// Anything else that the forward function wants at hand.
    Value(Dynamic),
}

impl ScriptModule {
    fn new(parts: Map, forward: FnPtr) -> Result<Self> {
        let mut own = Vec::new();
        for (name, value) in parts {
            if ["training", "rotary"].contains(&name.as_str()) {
                bail!(
                    "nn::define: the part name `{name}` is taken: the forward function finds the mode or the angles there"
                );
            }
            let part = if let Some(t) = value.read_lock::<Tensor>() {
                if !matches!(t.kind(), tch::Kind::Float | tch::Kind::Double) {
                    bail_hint!(
                        "nn::define: the parameter `{name}` is {}, but parameters are floats", shape_words(&t);
                        "use .to(\"float32\")"
                    );
                }
                Part::Parameter(t.f_detach()?.f_set_requires_grad(true)?.into())
            } else if let Some(m) = value.read_lock::<Module>() {
                Part::Module(m.clone())
            } else if let Some(list) = value.read_lock::<Array>()
                && list.iter().any(|v| v.is::<Module>() || v.is::<Tensor>())
            {
                // Modules in an array are parts too; tensors there would be trained by nobody.
                Part::Modules(modules(&list, &format!("nn::define: the part `{name}`"))?)
            } else if let Some(map) = value.read_lock::<Map>()
                && map.values().any(|v| v.is::<Module>() || v.is::<Tensor>())
            {
                bail_hint!(
                    "nn::define: the part `{name}` is a map with modules or tensors in it, which nobody would train";
                    "put them among the parts themselves, or in an array"
                );
            } else {
                Part::Value(value.clone())
            };
            own.push((name.to_string(), part));
        }
        Ok(Self { parts: own, forward, training: Cell::new(true) })
    }
}

impl nn::Module for ScriptModule {
    fn describe(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|p| p.0.as_str()).collect();
        format!("module({})", names.join(", "))
    }

    fn visit(&self, parts: &mut Parts<'_>) {
        parts.training(&self.training);
        for (name, part) in &self.parts {
            match part {
                Part::Parameter(t) => parts.parameter(name, t),
                Part::Module(m) => parts.child(name, m.0.as_ref()),
                Part::Modules(list) => {
                    for (i, m) in list.iter().enumerate() {
                        parts.child(&format!("{name}.{i}"), m.as_ref());
                    }
                }
                Part::Value(_) => {}
            }
        }
    }

    fn forward(&self, x: &tch::Tensor, cx: &Context) -> Result<tch::Tensor> {
        let mut own = Map::new();
        for (name, part) in &self.parts {
            let value = match part {
                Part::Parameter(t) => Dynamic::from(t.clone()),
                Part::Module(m) => Dynamic::from(m.clone()),
                Part::Modules(list) => list.iter().map(|m| Dynamic::from(Module(m.clone()))).collect::<Array>().into(),
                Part::Value(v) => v.clone(),
            };
            own.insert(name.as_str().into(), value);
        }
        own.insert("training".into(), self.training.get().into());
        let rotary = cx.rotary.as_ref().map(|r| Dynamic::from(Tensor::from(r.shallow_clone())));
        own.insert("rotary".into(), rotary.unwrap_or(Dynamic::UNIT));
        let x = Tensor::from(x.shallow_clone());
        // Blocks called in there see the same angles, grid and taps as they would in its place.
        let _outer = Outer::enter(cx.clone());
        let result = call(&self.forward, (own, x))?;
        let Some(t) = result.read_lock::<Tensor>() else {
            bail_hint!(
                "the forward function of {} must give a tensor, found {}", self.describe(), found(&result);
                "its last expression is its value"
            );
        };
        Ok(t.shallow_clone())
    }
}

fn vit(m: &Module, what: &str) -> Result<Rc<dyn nn::Module>> {
    if m.0.vit_nepa().is_none() {
        bail_hint!(
            "{what}: expected a model made by nn::vit_nepa, found {}", m.0.describe();
            "compose the parts yourself: embeddings, blocks, forward"
        );
    }
    Ok(m.0.clone())
}

fn wrap(m: impl nn::Module + 'static) -> Result<Module> {
    Ok(Module(Rc::new(m)))
}

fn config_of(of: &str, map: &Map) -> Result<nn::VitNepaConfig> {
    let config: nn::VitNepaConfig = read_options(of, map)?;
    config.validate()?;
    Ok(config)
}

/// A part that the caller brings, by name.
fn part(parts: &Map, name: &str, of: &str) -> Result<Option<nn::ModuleRef>> {
    parts.get(name).map(|value| module(value, &format!("part `{name}` of {of}"))).transpose()
}

fn known_parts(parts: &Map, known: &[&str], of: &str) -> Result<()> {
    match parts.keys().find(|k| !known.contains(&k.as_str())) {
        None => Ok(()),
        Some(other) => {
            let near = did_you_mean(other, known.iter().copied());
            bail_hint!("unknown part `{other}` of {of}{near}"; "the parts are: {}", known.join(", "))
        }
    }
}

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Module>("Module").register_type_with_name::<Rotary>("Rotary");
    blocks(engine, reference);
    methods(engine, reference);
}

fn blocks(engine: &mut Engine, reference: &mut Reference) {
    let mut group = Group::namespace(
        reference,
        "nn",
        "Building blocks. Those that belong to a ViT-NEPA take its configuration, a map with the keys of the\n\
         reference's config.json (listed under nn::vit_nepa), and read what concerns them.",
    );
    group.options::<nn::VitNepaConfig>("nn::vit_nepa");
    group.options::<nn::LinearOptions>("nn::linear");
    group.options::<nn::LayerNormOptions>("nn::layer_norm");
    group.options::<nn::Conv2dOptions>("nn::conv2d");
    group.options::<nn::RotaryOptions>("nn::rotary_embedding");
    functions! { group;
        /// A whole ViT-NEPA (arXiv 2512.16922): patch embedding, class token, blocks, final norm, and a
        /// classification head where `num_labels` > 0. `forward(images [B, C, S, S])` gives the logits
        /// [B, num_labels], or without a head the final norm's output [B, N, D]; `encode` gives
        /// everything. Parameters are named as in the reference's checkpoints. Defaults: the published
        /// base model's pretraining.
        "vit_nepa" (config: Map) -> Module {
            wrap(nn::VitNepa::new(&config_of("nn::vit_nepa", &config)?, nn::VitNepaParts::default())?)
        }
        /// The same with a script's own modules in place of built-in ones: `patch_embeddings` (images ->
        /// tokens [B, T, D]) and `encoder` ([B, T + 1, D] -> the same).
        "vit_nepa" (config: Map, parts: Map) -> Module {
            known_parts(&parts, &["patch_embeddings", "encoder"], "nn::vit_nepa")?;
            let own = nn::VitNepaParts {
                patch_embeddings: part(&parts, "patch_embeddings", "nn::vit_nepa")?,
                encoder: part(&parts, "encoder", "nn::vit_nepa")?,
            };
            wrap(nn::VitNepa::new(&config_of("nn::vit_nepa", &config)?, own)?)
        }
        /// Images [B, C, S, S] to patch tokens [B, T, D] in raster order. Parameters: projection.
        "patch_embed" (config: Map) -> Module { wrap(nn::PatchEmbed::new(&config_of("nn::patch_embed", &config)?)?) }
        /// Puts one learned token in front: [B, T, D] -> [B, T + 1, D]. Parameter: cls_token [1, 1, D].
        "class_token" (hidden_size: i64) -> Module { wrap(nn::ClassToken::new(hidden_size, 0.02)?) }
        /// Multi-head self-attention with QK-norm and rotary embedding, [B, N, D] -> [B, N, D].
        "attention" (config: Map) -> Module { wrap(nn::Attention::new(&config_of("nn::attention", &config)?)?) }
        /// The feed-forward part of a block, plain or gated, [B, N, D] -> [B, N, D].
        "mlp" (config: Map) -> Module { wrap(nn::Mlp::new(&config_of("nn::mlp", &config)?)?) }
        /// A learned factor per channel (arXiv 2103.17239), starting at `start`. Parameter: lambda1 [D].
        "layer_scale" (hidden_size: i64, start: Dynamic) -> Module {
            wrap(nn::LayerScale::new(hidden_size, number(&start, "nn::layer_scale")?)?)
        }
        /// Stochastic depth per sample (arXiv 1603.09382), in training only.
        "drop_path" (prob: Dynamic) -> Module { wrap(nn::DropPath::new(number(&prob, "nn::drop_path")?)?) }
        /// One pre-norm transformer block, [B, N, D] -> [B, N, D]; its drop path rate is the
        /// configuration's `drop_path_prob` itself.
        "block" (config: Map) -> Module {
            let config = config_of("nn::block", &config)?;
            wrap(nn::Block::new(&config, config.drop_path_prob, nn::BlockParts::default())?)
        }
        /// The same with a script's own `attention` or `mlp`, [B, N, D] -> [B, N, D].
        "block" (config: Map, parts: Map) -> Module {
            known_parts(&parts, &["attention", "mlp"], "nn::block")?;
            let own = nn::BlockParts {
                attention: part(&parts, "attention", "nn::block")?,
                mlp: part(&parts, "mlp", "nn::block")?,
            };
            let config = config_of("nn::block", &config)?;
            wrap(nn::Block::new(&config, config.drop_path_prob, own)?)
        }
        /// The stack of `num_hidden_layers` blocks with its rotary embedding and a final norm,
        /// [B, N, D] -> [B, N, D]. The patch grid is the square one that N fits, with or without a class
        /// token. Parameters: layer.I, layernorm.
        "blocks" (config: Map) -> Module { wrap(nn::Blocks::new(&config_of("nn::blocks", &config)?, None, true)?) }
        /// The same around a script's own blocks.
        "blocks" (config: Map, layers: Array) -> Module {
            let own = modules(&layers, "nn::blocks")?;
            wrap(nn::Blocks::new(&config_of("nn::blocks", &config)?, Some(own), true)?)
        }
        /// Rotary embedding by itself: makes the angles that attention, block and blocks take.
        "rotary_embedding" (options: Map) -> Rotary {
            let o = read_options("nn::rotary_embedding", &options)?;
            Ok(Rotary(Rc::new(nn::RotaryEmbedding::new(&o)?)))
        }
        /// The classification head of a configuration with `num_labels`: tokens [B, N, D] to logits
        /// [B, num_labels]. Parameters: fc_norm, classifier.
        "classifier" (config: Map) -> Module { wrap(nn::Classifier::new(&config_of("nn::classifier", &config)?)?) }
        /// LayerNorm over the last dimension. Parameters: weight, bias [size].
        "layer_norm" (size: i64) -> Module { wrap(nn::LayerNorm::new(size, &Default::default())?) }
        /// The same with options.
        "layer_norm" (size: i64, options: Map) -> Module {
            wrap(nn::LayerNorm::new(size, &read_options("nn::layer_norm", &options)?)?)
        }
        /// An affine map of the last dimension. Parameters: weight [outputs, inputs], bias [outputs].
        "linear" (inputs: i64, outputs: i64) -> Module { wrap(nn::Linear::new(inputs, outputs, &Default::default())?) }
        /// The same with options.
        "linear" (inputs: i64, outputs: i64, options: Map) -> Module {
            wrap(nn::Linear::new(inputs, outputs, &read_options("nn::linear", &options)?)?)
        }
        /// 2-D convolution of images [B, inputs, H, W]. Parameters: weight, bias.
        "conv2d" (inputs: i64, outputs: i64, options: Map) -> Module {
            wrap(nn::Conv2d::new(inputs, outputs, &read_options("nn::conv2d", &options)?)?)
        }
        /// Modules one after the other; parameters are named 0.…, 1.…
        "sequential" (layers: Array) -> Module { wrap(nn::Sequential::new(modules(&layers, "nn::sequential")?)) }
        /// A script's own module. `parts` maps names to tensors (which become parameters), modules,
        /// arrays of modules (named by their places) and other values; `forward` is called with a map of them and the input tensor, and gives a tensor.
        /// The map also holds `training` (bool) and `rotary`: the angles [2, T, d], or () where none are
        /// passed on.
        ///
        /// Example: `let scale = nn::define(#{ s: ones([8]) }, |m, x| x * m.s);`
        "define" (parts: Map, forward: FnPtr) -> Module { wrap(ScriptModule::new(parts, forward)?) }
    }
    group.register(engine);
}

fn methods(engine: &mut Engine, reference: &mut Reference) {
    let mut group = Group::global(
        reference,
        "Module",
        "Anything with parameters and a forward function. New modules are in training mode.",
    );
    group.options::<EncodeOptions>("Module.encode");
    group.options::<CostOptions>("Module.cost");
    group.options::<FillOptions>("Module.load_state_dict");
    functions! { group;
        /// Applies the module.
        "forward" (m: Module, x: Tensor) -> Tensor { ok(m.0.forward(&x, &outer_context())?) }
        /// The same with rotary angles [2, T, d] for the last T tokens (attention, block, blocks).
        "forward" (m: Module, x: Tensor, rotary: Tensor) -> Tensor {
            let cx = Context { rotary: Some(rotary.shallow_clone()), ..outer_context() };
            ok(m.0.forward(&x, &cx)?)
        }
        /// A ViT-NEPA's forward pass of images [B, C, S, S] with what it gives: `input_embedding` z and
        /// `last_hidden_state` h, both [B, N, D], and `logits` [B, num_labels] of a model with a head.
        "encode" (m: Module, images: Tensor) -> Map { encode(&m, &images, None, &EncodeOptions::default()) }
        /// The same, with `hidden_states` or `attentions` (arrays of tensors) where asked for, and with `blocks` no
        /// further than a block whose output is all that is needed. With `input_mask` some
        /// patches are hidden from the blocks, as in the paper's ablation of masking, while `input_embedding`, the
        /// targets, stays whole. The reference puts a learned mask token in the place of hidden patches, which starts
        /// at zero, but its pretraining never makes one; here it is zeros throughout.
        "encode" (m: Module, images: Tensor, options: Map) -> Map {
            let mut options = options;
            let mask = options.remove("input_mask").unwrap_or(Dynamic::UNIT);
            let mask = match mask.read_lock::<Tensor>() {
                Some(mask) => Some(mask.clone()),
                None if mask.is_unit() => None,
                None => bail!("encode: expected a bool tensor [B, T] as input_mask, found {}", found(&mask)),
            };
            encode(&m, &images, mask.as_deref(), &read_options("encode", &options)?)
        }
        /// A ViT-NEPA's configuration, with the keys of config.json.
        "get$config" (m: Module) -> Map {
            let model = vit(&m, "config")?;
            let config = model.vit_nepa().expect("checked").config();
            match from_json(&serde_json::to_value(config)?).try_cast::<Map>() {
                Some(map) => Ok(map),
                None => unreachable!("a configuration is a map"),
            }
        }
        /// The names of a ViT-NEPA's classes, by label, where the folder that it was loaded from has some; else ().
        "get$class_names" (m: Module) -> Dynamic {
            let names = m.0.vit_nepa().and_then(|model| class_names_in(model.generic()));
            Ok(names.map_or(Dynamic::UNIT, |n| n.into_iter().map(Dynamic::from).collect::<Array>().into()))
        }
        /// All parameters by full name.
        "named_parameters" (m: Module) -> Map {
            let all = nn::named_parameters(m.0.as_ref());
            Ok(all.into_iter().map(|(n, t)| (n.into(), Dynamic::from(Tensor::from(t)))).collect())
        }
        /// The number of scalars in all parameters.
        "num_parameters" (m: Module) -> i64 { Ok(nn::num_parameters(m.0.as_ref())) }
        /// What it costs to train a ViT-NEPA on the run's device, counted from its configuration. A map: `parameters`;
        /// `tokens` of an image; `flops_per_image`, the floating-point operations of one image's forward pass
        /// (its matrix products, attention counted as if it were not causal); `flops_per_step` of a training step (three
        /// times as many for each image, and the blocks' once more where they are computed again);
        /// `memory`, in bytes: `weights`, `gradients`, `optimizer` (AdamW), `ema`, `activations` (what forward keeps for
        /// backward) and `total`, without what an operation needs while it runs.
        ///
        /// Example: `let flops = model.cost(#{ batch: 256, dtype: "bfloat16" }).flops_per_step;`
        "cost" (m: Module, options: Map) -> Map { cost(&m, &read_options("cost", &options)?) }
        /// Whether the module is in training mode: whether any part of it is that behaves differently.
        "get$training" (m: Module) -> bool { Ok(nn::is_training(m.0.as_ref())) }
        /// Training mode (true: drop path and position augmentation are on) or evaluation mode (false:
        /// nothing is random), as PyTorch's `train(mode)`.
        "train" (m: Module, mode: bool) -> () { nn::set_training(m.0.as_ref(), mode); Ok(()) }
        /// Whether each block of a ViT-NEPA or of nn::blocks keeps only its input in training, and is computed again
        /// when backward comes to it (arXiv 1604.06174): the same result for a third more computation and the memory
        /// of one block's inner values in place of all. Off in a new model.
        ///
        /// Example: `model.recompute(true);`
        "recompute" (m: Module, on: bool) -> () { nn::set_recompute(m.0.as_ref(), on) }
        /// Stops training the parameters whose full name matches the pattern, `*` standing for any
        /// characters; gives their number. No match is an error.
        "freeze" (m: Module, pattern: ImmutableString) -> i64 {
            Ok(nn::set_trainable(m.0.as_ref(), &pattern, false)? as i64)
        }
        /// Trains them again.
        "unfreeze" (m: Module, pattern: ImmutableString) -> i64 {
            Ok(nn::set_trainable(m.0.as_ref(), &pattern, true)? as i64)
        }
        /// Drops all gradients. An optimizer's step does so by itself.
        "zero_grad" (m: Module) -> () { crate::optim::zero_grad(m.0.as_ref()) }
        /// Copies of all parameters by full name.
        "state_dict" (m: Module) -> Map {
            let all = nn::named_parameters(m.0.as_ref());
            all.into_iter().map(|(n, t)| Ok((n.into(), Dynamic::from(Tensor::from(nn::copy_of(&t)?))))).collect()
        }
        /// Puts tensors into the parameters of the same name; all must fit.
        "load_state_dict" (m: Module, tensors: Map) -> Map { load_state_dict(&m, &tensors, &FillOptions::default()) }
        /// The same; with `strict: false` what fits is taken. Gives the account: arrays `loaded`,
        /// `missing`, `unexpected` and `mismatched` of names.
        "load_state_dict" (m: Module, tensors: Map, options: Map) -> Map {
            load_state_dict(&m, &tensors, &read_options("load_state_dict", &options)?)
        }
        /// The module in a few words, such as "vit_nepa(224² / 14, 12 x 768, 12 heads)".
        "describe" (m: Module) -> String { Ok(m.0.describe()) }
        /// The module and its parameters, as text.
        "to_string" (m: Module) -> String { Ok(tree(&m)) }
        /// The same.
        "to_debug" (m: Module) -> String { Ok(tree(&m)) }
        /// Cosines and sines of a patch grid, [2, rows · columns, head_size], float32.
        "angles" (rotary: Rotary, rows: i64, columns: i64) -> Tensor { ok(rotary.0.angles((rows, columns))?) }
        /// Training mode (position augmentation is on) or evaluation mode (the same angles every time).
        "train" (rotary: Rotary, mode: bool) -> () { rotary.0.set_training(mode); Ok(()) }
        /// The rotary embedding as text.
        "to_string" (rotary: Rotary) -> String { Ok(rotary.0.describe()) }
    }
    group.register(engine);
}

fn cost(m: &Module, o: &CostOptions) -> Result<Map> {
    let model = vit(m, "cost")?;
    let config = model.vit_nepa().expect("checked").config();
    ensure!(o.batch > 0, "cost: batch must be positive, found {}", o.batch);
    precision("cost", &o.dtype)?;
    let (counted, there) = (config.parameters(), nn::num_parameters(model.as_ref()));
    if counted != there {
        bail_hint!(
            "cost: this model has {there} parameters, but its configuration makes {counted}";
            "only models of the built-in parts can be counted"
        );
    }
    let on_cuda = matches!(crate::device::current(), tch::Device::Cuda(_));
    match from_json(&serde_json::to_value(config.cost(o, on_cuda))?).try_cast::<Map>() {
        Some(map) => Ok(map),
        None => unreachable!("a cost is a map"),
    }
}

fn encode(m: &Module, images: &Tensor, input_mask: Option<&tch::Tensor>, o: &EncodeOptions) -> Result<Map> {
    let model = vit(m, "encode")?;
    let wanted = nn::Wanted { hidden_states: o.hidden_states, attentions: o.attentions, blocks: o.blocks };
    let output = model.vit_nepa().expect("checked").encode(images, input_mask, &wanted)?;
    let array = |list: Vec<tch::Tensor>| -> Dynamic {
        list.into_iter().map(|t| Dynamic::from(Tensor::from(t))).collect::<Array>().into()
    };
    let mut map = Map::from([
        ("input_embedding".into(), Dynamic::from(Tensor::from(output.input_embedding))),
        ("last_hidden_state".into(), Dynamic::from(Tensor::from(output.last_hidden_state))),
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

fn load_state_dict(m: &Module, tensors: &Map, o: &FillOptions) -> Result<Map> {
    let source = tensor_map(tensors, "load_state_dict")?;
    Ok(report_map(checkpoint::fill(m.0.as_ref(), &source, "the state dict", o.strict)?))
}

fn tree(m: &Module) -> String {
    let all = nn::named_parameters(m.0.as_ref());
    let width = all.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
    let mut out = format!("{}: {} parameters", m.0.describe(), nn::num_parameters(m.0.as_ref()));
    for (name, t) in &all {
        let frozen = if t.requires_grad() { "" } else { " frozen" };
        out += &format!("\n  {name:<width$}  {}{frozen}", shape_words(t));
    }
    out
}
