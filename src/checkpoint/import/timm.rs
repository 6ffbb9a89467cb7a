//! Models under timm's names: timm's own folders, files of weights that keep to its names, and stable-pretraining's NEPA.

use super::super::origin;
use super::super::taken::Taken;
use super::dialect::{Dialect, STABLE_PRETRAINING, TIMM};
use super::network::{self, Biases, Facts};
use super::positions::{Positions, Resampling};
use super::{ImportOptions, Parts};
use crate::bail_hint;
use crate::error::{Result, ensure};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tch::Tensor;

/// The heads of timm's models by their width: 64 channels each in most.
const HEADS: [(i64, i64); 16] = [
    (192, 3),
    (256, 4),
    (320, 5),
    (384, 6),
    (512, 8),
    (640, 10),
    (768, 12),
    (832, 13),
    (896, 14),
    (1024, 16),
    (1152, 16),
    (1280, 16),
    (1408, 16),
    (1536, 24),
    (1664, 16),
    (4096, 32),
];

/// What the names of timm's plain ViTs are made of, beside numbers.
const WORDS: &[&str] = &[
    "36x1", "7b", "base", "betwixt", "dinov2", "dinov3", "gap", "giant", "gigantic", "huge", "large", "little",
    "medium", "mediumd", "miil", "plus", "qkvb", "small", "so150m", "so150m2", "so400m", "tiny", "wee",
];

/// Why others of timm's are refused, by a word of their names.
const OTHERS: [(&str, &str); 16] = [
    ("clip", "CLIP norms before its blocks"),
    ("siglip", "SigLIP pools by attention, or its GELU is approximate"),
    ("relpos", "it has relative positions"),
    ("srelpos", "it has relative positions"),
    ("rpn", "it norms after its blocks' branches"),
    ("xp", "its attention and mlp are parallel"),
    ("18x2", "its blocks are parallel"),
    ("pwee", "its attention and mlp are parallel"),
    ("dpwee", "its attention and mlp are parallel"),
    ("dwee", "its attention is differential"),
    ("dlittle", "its attention is differential"),
    ("rope", "its rotary angles are not DINOv3's"),
    ("map", "it pools by attention"),
    ("distilled", "it has a distillation token"),
    ("radio", "it has several class tokens"),
    ("r50", "its patches come from a convolutional network"),
];

/// Arguments of timm's models that leave the network as it is, and those that are read or seen in the tensors.
const ARGUMENTS: &[&str] = &[
    "attn_drop_rate",
    "attn_type",
    "class_token",
    "depth",
    "drop_path_rate",
    "drop_rate",
    "dynamic_img_pad",
    "dynamic_img_size",
    "embed_dim",
    "fc_norm",
    "global_pool",
    "head_init_scale",
    "img_size",
    "in_chans",
    "init_values",
    "mlp_ratio",
    "no_embed_class",
    "num_classes",
    "num_heads",
    "num_reg_tokens",
    "patch_drop_rate",
    "patch_size",
    "pos_drop_rate",
    "proj_drop_rate",
    "qk_norm",
    "qkv_bias",
    "qkv_fused",
    "reg_tokens",
    "rope_temperature",
    "swiglu_align_to",
    "swiglu_mlp",
    "use_abs_pos_emb",
    "use_fc_norm",
    "use_post_transformer_norm",
    "use_rot_pos_emb",
    "weight_init",
];

/// Those that must have one value.
fn fixed() -> [(&'static str, Value); 7] {
    [
        ("rope_type", "dinov3".into()),
        ("rope_rotate_half", true.into()),
        ("rope_grid_offset", 0.0.into()),
        ("scale_mlp", false.into()),
        ("scale_attn_inner", false.into()),
        ("use_pre_transformer_norm", false.into()),
        ("pre_norm", false.into()),
    ]
}

/// A configuration of timm's.
struct Config<'a> {
    of: &'a str,
    architecture: &'a str,
    arguments: Map<String, Value>,
    /// What `nepa export --to timm` adds.
    own: Map<String, Value>,
}

impl<'a> Config<'a> {
    fn read(of: &'a str, keys: &'a Map<String, Value>) -> Result<Self> {
        let architecture = keys.get("architecture").and_then(Value::as_str).unwrap_or_default();
        let map = |key: &str| keys.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let config = Self { of, architecture, arguments: map("model_args"), own: map("nepa") };
        config.check_name()?;
        config.check_arguments()?;
        Ok(config)
    }

    fn check_name(&self) -> Result<()> {
        let mut words = self.architecture.split('_');
        let is_vit = words.next().is_some_and(|first| ["vit", "deit", "deit3", "flexivit"].contains(&first));
        let number = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let numbered = |word: &str, start: &str| word.strip_prefix(start).is_some_and(number);
        let known =
            |word: &str| number(word) || numbered(word, "patch") || numbered(word, "reg") || WORDS.contains(&word);
        if is_vit && words.all(known) {
            return Ok(());
        }
        let mut words = self.architecture.split('_');
        let why = words.find_map(|word| OTHERS.iter().find(|(other, _)| *other == word));
        let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
        bail_hint!(
            "{}: timm's {} is not read{why}", self.of, crate::text::visible(self.architecture);
            "expected one of its plain ViTs, such as vit_base_patch16_224, deit3_small_patch16_224, \
             vit_small_patch14_reg4_dinov2 or vit_base_patch16_dinov3"
        )
    }

    fn check_arguments(&self) -> Result<()> {
        let fixed = fixed();
        for (key, value) in &self.arguments {
            let only = fixed.iter().find(|(name, _)| name == key).map(|(_, only)| only);
            let is_known = ARGUMENTS.contains(&key.as_str()) || only.is_some_and(|only| only == value);
            if !is_known && !value.is_null() {
                bail_hint!(
                    "{}: the argument {key} of timm's model is {value}, which is not read", self.of;
                    "it could change what the network computes"
                );
            }
        }
        Ok(())
    }

    /// An argument that is a whole number, or a pair of equal ones.
    fn int(&self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.arguments.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let side = match value.as_array().map(Vec::as_slice) {
            Some([a, b]) if a == b => a.as_i64(),
            Some(_) => None,
            None => value.as_i64(),
        };
        match side {
            Some(side) => Ok(Some(side)),
            None => bail_hint!(
                "{}: the argument {key} of timm's model is {value}, expected a whole number", self.of;
                "images and patches must be square"
            ),
        }
    }
}

/// What timm says of the weights; older folders have it beside the other keys.
pub(super) fn pretrained_cfg(keys: &Map<String, Value>) -> &Map<String, Value> {
    keys.get("pretrained_cfg").and_then(Value::as_object).unwrap_or(keys)
}

/// The image size that the weights are for.
fn pretrained_size(keys: &Map<String, Value>) -> Option<i64> {
    match &pretrained_cfg(keys).get("input_size")?.as_array()?[..] {
        [_, height, width] if height == width => height.as_i64(),
        _ => None,
    }
}

/// Heads by the width of the patch embedding, where they are not given.
fn heads(taken: &Taken, options: &ImportOptions, config: Option<&Config<'_>>, notes: &mut Vec<String>) -> Result<i64> {
    if let Some(heads) = options.heads {
        return Ok(heads);
    }
    if let Some(config) = config
        && let Some(heads) = config.int("num_heads")?
    {
        return Ok(heads);
    }
    let weight = taken.left.get(&format!("{}.weight", TIMM.patches));
    let width = weight.and_then(|weight| weight.size().first().copied()).unwrap_or(0);
    let is_dinov3 = taken.has("blocks.0.gamma_1");
    let name = config.map_or("", |config| config.architecture);
    // Two of timm's have others than models of their width have.
    let found = match (name, width) {
        ("vit_base_patch16_gap_224", 768) => Some(16),
        (_, 1280) if is_dinov3 => Some(20),
        _ => HEADS.iter().find(|(known, _)| *known == width).map(|(_, heads)| *heads),
    };
    match found {
        Some(heads) => {
            if config.is_none() {
                notes.push(format!(
                    "{heads} heads, as models {width} wide have: nothing says it here, so --heads would"
                ));
            }
            Ok(heads)
        }
        None => bail_hint!(
            "{}: nothing says how many attention heads there are", taken.of;
            "--heads says it; most models have a head for each 64 of their width, which is {width}"
        ),
    }
}

/// The base of DINOv3's rotary angles, if the model has them.
fn rope_theta(config: Option<&Config<'_>>, taken: &Taken) -> Option<f64> {
    let Some(config) = config else { return (!taken.has(TIMM.positions)).then_some(100.0) };
    let argument = |key: &str| config.arguments.get(key);
    let is_dinov3 = config.architecture.contains("dinov3");
    argument("use_rot_pos_emb")
        .and_then(Value::as_bool)
        .unwrap_or(is_dinov3)
        .then(|| argument("rope_temperature").and_then(Value::as_f64).unwrap_or(100.0))
}

/// The names of a head's classes, if the configuration has them: a list, or a map from labels.
fn label_names(of: &str, keys: &Map<String, Value>, count: i64) -> Result<Option<Vec<String>>> {
    let found = keys.get("label_names").or_else(|| pretrained_cfg(keys).get("label_names"));
    let name = |value: &Value| value.as_str().map(str::to_string);
    let names: Option<Vec<String>> = match found {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(names)) => names.iter().map(name).collect(),
        Some(Value::Object(names)) => (0..names.len()).map(|i| names.get(&i.to_string()).and_then(name)).collect(),
        Some(_) => None,
    };
    match names.filter(|names| names.len() as i64 == count) {
        Some(names) => Ok(Some(names)),
        None => bail_hint!(
            "{of}: label_names are not the names of {count} classes, of which head.weight has a row each";
            "the configuration and the weights belong to different models, or correct it"
        ),
    }
}

/// Takes a model of timm's, or one of its names of which there is no configuration.
pub(super) fn take(
    of: &str,
    keys: Option<&Map<String, Value>>,
    options: &ImportOptions,
    open: impl FnOnce(&'static Dialect) -> Result<Taken>,
) -> Result<Parts> {
    let config = keys.map(|keys| Config::read(of, keys)).transpose()?;
    let mut taken = open(&TIMM)?;
    // Before anything is asked about it.
    network::count_blocks(&taken, &TIMM)?;
    let mut notes = Vec::new();
    let own = |key: &str| config.as_ref().and_then(|config| config.own.get(key));
    let rope_theta = rope_theta(config.as_ref(), &taken);
    let eps = own("layer_norm_eps").and_then(Value::as_f64).unwrap_or(if rope_theta.is_some() { 1e-5 } else { 1e-6 });
    let is_causal = own("is_causal").and_then(Value::as_bool).unwrap_or(options.is_causal);
    if config.is_none() {
        let rotary = if rope_theta.is_some() { ", rotary angles as in DINOv3" } else { "" };
        notes.push(format!(
            "without a configuration: GELU or SwiGLU, norms' epsilon {eps:e}{rotary}, as such models have"
        ));
    }
    let size = match &config {
        Some(config) => config.int("img_size")?,
        None => None,
    };
    // Position embeddings tell it more surely than the configuration of other weights that these may come from.
    let size = size.or_else(|| keys.filter(|_| !taken.has(TIMM.positions)).and_then(pretrained_size));
    let argument = |key: &str| config.as_ref().and_then(|config| config.arguments.get(key)).and_then(Value::as_bool);
    let facts = Facts {
        heads: heads(&taken, options, config.as_ref(), &mut notes)?,
        eps,
        rope_theta,
        is_stable_pretraining: false,
        act: None,
        is_causal,
        image_size: size,
        wanted_size: options.image_size,
        resampling: Resampling::Antialiased,
        positions: argument("no_embed_class").map(|only| if only { Positions::OfPatches } else { Positions::OfAll }),
        biases: Biases { output: Some(true), mlp: Some(true), ..Biases::default() },
    };
    let mut network = network::take(&mut taken, &TIMM, &facts)?;
    // A fine-tuned NEPA's: a norm and a layer on the mean of the patches.
    if network.keys.is_empty() && taken.has("fc_norm.weight") && taken.has("head.weight") {
        let rows = taken.left.get("head.weight").and_then(|weight| weight.size().first().copied()).unwrap_or(0);
        ensure!(rows > 0, "{}: head.weight has no rows", taken.of);
        taken.layer("fc_norm", "fc_norm")?;
        taken.layer("head", "classifier")?;
        (network.config.num_labels, network.config.add_pooling_layer) = (rows, true);
    }
    let name = match &config {
        Some(config) => format!("timm's {}", config.architecture),
        None => "a ViT of timm's names".to_string(),
    };
    let class_names = match keys.filter(|_| network.config.num_labels > 0) {
        Some(keys) => label_names(of, keys, network.config.num_labels)?,
        None => None,
    };
    let weights = ["raw", "ema"].into_iter().find(|kind| own("weights").is_some_and(|weights| weights == kind));
    let origin = own("origin").and_then(Value::as_object).map(origin).unwrap_or_default();
    Ok(Parts { name, taken, network, dialect: &TIMM, notes, class_names, weights, origin })
}

/// Whether tensors are those of stable-pretraining's NEPA, by the names of its layers.
pub(super) fn is_stable_pretraining(tensors: &BTreeMap<String, Tensor>, prefix: &str) -> bool {
    ["mlp.w1.weight", "attn.rope.inv_freq"].iter().any(|name| tensors.contains_key(&format!("{prefix}blocks.0.{name}")))
}

/// Takes stable-pretraining's NEPA.
pub(super) fn take_stable_pretraining(
    options: &ImportOptions,
    open: impl FnOnce(&'static Dialect) -> Result<Taken>,
) -> Result<Parts> {
    /// Of its rotary embedding.
    const BASE: f64 = 10000.0;
    let mut taken = open(&STABLE_PRETRAINING)?;
    let mut notes = vec![
        "its configuration is not in the file: QK-norm as by default, norms' epsilon 1e-5".to_string(),
        "it was trained with causal attention, and its own evaluation attends in both directions: is_causal=false"
            .into(),
    ];
    let heads = heads(&taken, options, None, &mut notes)?;
    let mut rope_theta = None;
    for i in 0.. {
        let name = format!("blocks.{i}.attn.rope.inv_freq");
        if !taken.has(&name) {
            break;
        }
        let found = taken.take(&name)?;
        let width = taken.left.get("patch_embed.proj.weight").map_or(0, |weight| weight.size()[0]);
        let quarter = width / heads.max(1) / 4;
        let expected: Vec<f32> = (0..quarter).map(|j| BASE.powf(-(j as f64) / quarter as f64) as f32).collect();
        let same =
            found.size() == [quarter] && found.f_allclose(&Tensor::f_from_slice(&expected)?, 1e-4, 1e-7, false)?;
        if !same {
            bail_hint!(
                "{}: `{name}` is not what {heads} heads and a base of {BASE} give", taken.of;
                "--heads says how many heads there are; a model of video or of another base is not read"
            );
        }
        rope_theta = Some(BASE);
    }
    let facts = Facts {
        heads,
        eps: 1e-5,
        rope_theta,
        is_stable_pretraining: true,
        act: None,
        is_causal: true,
        image_size: None,
        wanted_size: options.image_size,
        resampling: Resampling::Antialiased,
        positions: None,
        biases: Biases { query_key_value: [Some(true); 3], output: Some(true), mlp: None },
    };
    let network = network::take(&mut taken, &STABLE_PRETRAINING, &facts)?;
    Ok(Parts {
        name: "NEPA of stable-pretraining".into(),
        taken,
        network,
        dialect: &STABLE_PRETRAINING,
        notes,
        class_names: None,
        weights: None,
        origin: Map::new(),
    })
}
