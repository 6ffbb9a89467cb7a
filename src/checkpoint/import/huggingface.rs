//! Models of Hugging Face's transformers, by their `config.json`.

use super::super::config_json::GENERIC;
use super::super::taken::Taken;
use super::dialect::{DINOV2, DINOV3, Dialect, VIT};
use super::network::{self, Biases, Facts, Network};
use super::positions::Resampling;
use super::{ImportOptions, Parts};
use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use crate::nn::Activation;
use serde_json::{Map, Value};

/// A kind of model by its `model_type`.
struct Kind {
    model_type: &'static str,
    name: &'static str,
    dialect: &'static Dialect,
    resampling: Resampling,
}

const KINDS: [Kind; 5] = [
    Kind { model_type: "dinov2", name: "DINOv2", dialect: &DINOV2, resampling: Resampling::Bicubic },
    Kind {
        model_type: "dinov2_with_registers",
        name: "DINOv2 with registers",
        dialect: &DINOV2,
        resampling: Resampling::Antialiased,
    },
    Kind { model_type: "dinov3_vit", name: "DINOv3", dialect: &DINOV3, resampling: Resampling::Bicubic },
    Kind { model_type: "vit", name: "ViT", dialect: &VIT, resampling: Resampling::Bicubic },
    Kind { model_type: "vit_mae", name: "MAE", dialect: &VIT, resampling: Resampling::Bicubic },
];

/// Why models of other types are refused, by how the type begins.
const OTHERS: [(&str, &str); 9] = [
    ("clip", "CLIP norms before its blocks, and its GELU is approximate"),
    ("siglip", "SigLIP pools by attention, and its GELU is approximate"),
    ("beit", "BEiT has relative positions"),
    ("data2vec", "data2vec has relative positions"),
    ("deit", "transformers' DeiT has a distillation token"),
    ("dinov3_convnext", "it is a convolutional network"),
    ("swin", "its tokens are merged from stage to stage"),
    ("ijepa", "I-JEPA is not among the models that are read"),
    ("vjepa", "V-JEPA is a model of video"),
];

/// Keys that say nothing about features: those of training, of heads, and how outputs are given.
const NO_PART: &[&str] = &[
    "apply_layernorm",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "decoder_hidden_size",
    "decoder_intermediate_size",
    "decoder_num_attention_heads",
    "decoder_num_hidden_layers",
    "drop_path_rate",
    "encoder_stride",
    "hidden_dropout_prob",
    "initializer_range",
    "layerscale_value",
    "mask_ratio",
    "model_type",
    "norm_pix_loss",
    "num_labels",
    "out_features",
    "out_indices",
    "pooler_act",
    "pooler_output_size",
    "pos_embed_jitter",
    "pos_embed_rescale",
    "pos_embed_shift",
    "reshape_hidden_states",
    "return_class_token",
    "stage_names",
    "use_mask_token",
];

/// Keys that say what the network is.
const NETWORK: &[&str] = &[
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "key_bias",
    "layer_norm_eps",
    "mlp_bias",
    "mlp_ratio",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "num_register_tokens",
    "patch_size",
    "proj_bias",
    "qkv_bias",
    "query_bias",
    "rope_theta",
    "use_gated_mlp",
    "use_swiglu_ffn",
    "value_bias",
];

/// A configuration, and where it stands.
struct Config<'a> {
    of: &'a str,
    keys: &'a Map<String, Value>,
}

impl Config<'_> {
    fn find<T>(&self, key: &str, what: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.keys.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => bail_hint!("{}: `{key}` is {value}, expected {what}", self.of; "transformers writes it so"),
        }
    }

    fn int(&self, key: &str) -> Result<i64> {
        // A square as [side, side], too.
        let side = |value: &Value| match value.as_array() {
            Some(pair) => pair.iter().all(|one| *one == pair[0]).then(|| pair.first()?.as_i64())?,
            None => value.as_i64(),
        };
        match self.find(key, "a whole number", side)? {
            Some(value) => Ok(value),
            None => bail_hint!(
                "{}: the key `{key}` is missing", self.of;
                "save_pretrained writes every key of the network; a guess could change it silently"
            ),
        }
    }

    fn float(&self, key: &str) -> Result<f64> {
        match self.find(key, "a number", Value::as_f64)? {
            Some(value) => Ok(value),
            None => bail_hint!(
                "{}: the key `{key}` is missing", self.of;
                "save_pretrained writes every key of the network; a guess could change it silently"
            ),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.find(key, "true or false", Value::as_bool)
    }

    /// That it holds nothing that is not known.
    fn check_keys(&self) -> Result<()> {
        for (key, value) in self.keys {
            let known = [NETWORK, NO_PART, GENERIC].iter().any(|list| list.contains(&key.as_str()));
            if key == "quantization_config" {
                bail_hint!(
                    "{}: these weights were quantised ({key})", self.of;
                    "import the model as it was before, in float32, bfloat16 or float16"
                );
            }
            if !known && !value.is_null() {
                bail_hint!(
                    "{}: unknown key `{key}` ({value}){}", self.of, did_you_mean(key, NETWORK.iter().copied());
                    "it could change what the network computes; if it does not, remove it from a copy of the file"
                );
            }
        }
        Ok(())
    }

    fn act(&self) -> Result<Option<Activation>> {
        let act = self.find("hidden_act", "a text", |value| value.as_str().map(str::to_string))?;
        match act.as_deref() {
            None => Ok(None),
            Some("gelu") => Ok(Some(Activation::Gelu)),
            Some("silu" | "swish") => Ok(Some(Activation::Silu)),
            Some(other) => bail_hint!(
                "{}: hidden_act is \"{other}\", expected \"gelu\" (exact) or \"silu\"", self.of;
                "another activation would change the features"
            ),
        }
    }
}

/// Whether a `model_type` is read, or why not.
fn kind_of(of: &str, model_type: &str) -> Result<&'static Kind> {
    if let Some(kind) = KINDS.iter().find(|kind| kind.model_type == model_type) {
        return Ok(kind);
    }
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.model_type).collect();
    let why = OTHERS.iter().find(|(start, _)| model_type.starts_with(start));
    let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
    bail_hint!(
        "{of}: models of the type \"{}\" are not read{why}", crate::text::visible(model_type);
        "expected vit_nepa, or one of {}", names.join(", ")
    )
}

/// Takes the network that a configuration describes.
pub(super) fn take(
    of: &str,
    keys: &Map<String, Value>,
    options: &ImportOptions,
    open: impl FnOnce(&'static Dialect) -> Result<Taken>,
) -> Result<Parts> {
    let kind = kind_of(of, keys.get("model_type").and_then(Value::as_str).unwrap_or_default())?;
    let config = Config { of, keys };
    config.check_keys()?;
    for (option, given) in [("--heads", options.heads.is_some()), ("--causal", options.is_causal)] {
        if given {
            bail_hint!("{option}: {of} says what the network is, and it attends in both directions"; "leave it out");
        }
    }
    let is_dinov3 = kind.model_type == "dinov3_vit";
    let qkv = config.flag("qkv_bias")?;
    let own = |key: &str| config.flag(key);
    let swiglu = config.flag("use_swiglu_ffn")?.unwrap_or(false);
    let act = config.act()?;
    let facts = Facts {
        heads: config.int("num_attention_heads")?,
        eps: config.float("layer_norm_eps")?,
        rope_theta: if is_dinov3 { Some(config.float("rope_theta")?) } else { None },
        is_stable_pretraining: false,
        // The gate of DINOv2's is SiLU, whatever the key says.
        act: if swiglu { Some(Activation::Silu) } else { act },
        is_causal: false,
        image_size: Some(config.int("image_size")?),
        wanted_size: options.image_size,
        resampling: kind.resampling,
        positions: None,
        biases: match is_dinov3 {
            true => Biases {
                query_key_value: [own("query_bias")?, own("key_bias")?, own("value_bias")?],
                output: own("proj_bias")?,
                mlp: own("mlp_bias")?,
            },
            false => Biases { query_key_value: [qkv; 3], output: Some(true), mlp: Some(true) },
        },
    };
    let mut taken = open(kind.dialect)?;
    let network = network::take(&mut taken, kind.dialect, &facts)?;
    agrees(&config, &network, is_dinov3 || kind.model_type.starts_with("dinov2"))?;
    Ok(Parts {
        name: format!("{} of transformers", kind.name),
        taken,
        network,
        dialect: kind.dialect,
        notes: Vec::new(),
        class_names: None,
        weights: None,
        origin: Map::new(),
    })
}

/// That the tensors are as the configuration says.
fn agrees(config: &Config<'_>, network: &Network, is_scaled: bool) -> Result<()> {
    let found = &network.config;
    let mut said = vec![
        ("hidden_size", found.hidden_size),
        ("num_hidden_layers", found.num_hidden_layers),
        ("num_channels", found.num_channels),
        ("patch_size", found.patch_size),
    ];
    let registers = network.keys.get("registers").and_then(Value::as_i64).unwrap_or(0);
    let others = [("intermediate_size", found.mlp_size()), ("num_register_tokens", registers)];
    said.extend(others.into_iter().filter(|(key, _)| config.keys.contains_key(*key)));
    for (key, found) in said {
        let expected = config.int(key)?;
        if expected != found {
            bail_hint!(
                "{}: {key} is {expected}, but the weights have {found}", config.of;
                "the configuration and the weights belong to different models, or a file is not complete"
            );
        }
    }
    for key in ["use_swiglu_ffn", "use_gated_mlp"] {
        if let Some(gated) = config.flag(key)?.filter(|gated| *gated != found.use_gated_mlp) {
            bail_hint!(
                "{}: {key} is {gated}, but the mlps of the weights are {}", config.of,
                if found.use_gated_mlp { "gated" } else { "not gated" };
                "the configuration and the weights belong to different models"
            );
        }
    }
    if is_scaled && found.layerscale_value.is_none() {
        bail_hint!("{}: the weights lack LayerScale (lambda1), which such a model has", config.of; "the file is not complete");
    }
    Ok(())
}
