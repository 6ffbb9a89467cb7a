//! Models of other projects: their tensors under the names of a ViT-NEPA, each accounted for, or why not.
//!
//! What a plain ViT-NEPA computes becomes one; position embeddings, registers and the like make a model of the script
//! `examples/models/vit.rhai`.

mod attention;
mod dialect;
mod huggingface;
mod network;
mod positions;
mod preparation;
mod timm;

pub use preparation::Preparation;

use super::config_json::Own;
use super::config_json::set_class_names;
use super::taken::Taken;
use super::weights::{all_tensors, prefixes_in_words, with_dot};
use super::{CONFIG_FILE, ConfigFile, StoredModel, origin};
use crate::bail_hint;
use crate::error::{Result, ensure};
use crate::nn::{Architecture, Definition};
use crate::provenance::ModelProvenance;
use crate::untrusted;
use dialect::Dialect;
use network::Network;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tch::Tensor;

/// The script of models that are no plain ViT-NEPA: its name and its text.
pub const SCRIPT: (&str, &str) = ("vit.rhai", include_str!("../../../examples/models/vit.rhai"));

/// What the source does not say.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// How the names of the model's tensors begin, in a file of several models.
    pub prefix: Option<String>,
    /// Attention heads.
    pub heads: Option<i64>,
    /// The image size to fit it to.
    pub image_size: Option<i64>,
    /// Whether attention is causal, of weights that do not say.
    pub is_causal: bool,
    /// Mean and standard deviation of pixels by channel, where no configuration says them.
    pub normalization: Option<(Vec<f64>, Vec<f64>)>,
}

/// A model that was read.
pub struct Imported {
    /// What it is, in words.
    pub name: String,
    /// Its configuration, and the script that builds it if it is no plain ViT-NEPA.
    pub config: ConfigFile,
    /// Its tensors, by the names that it has here.
    pub tensors: Vec<(String, Tensor)>,
    /// Where each of them comes from, in words.
    pub account: Vec<(String, String)>,
    /// Tensors of the source that are not taken, and why.
    pub unused: Vec<(String, String)>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// How images are prepared for it; none if nothing says it.
    pub preparation: Option<Preparation>,
    /// "raw" or "ema", if the source says which weights these are.
    pub weights: Option<&'static str>,
    /// What the source says of where its weights come from.
    pub origin: Map<String, Value>,
}

/// A network that was taken, with what is left.
struct Parts {
    name: String,
    taken: Taken,
    network: Network,
    dialect: &'static Dialect,
    notes: Vec<String>,
    /// Names of the classes of a head that was taken.
    class_names: Option<Vec<String>>,
    weights: Option<&'static str>,
    origin: Map<String, Value>,
}

/// Reads the model whose weights are in `file`, beside a `config.json` if there is one. `scripts` is the folder that holds
/// [`SCRIPT`].
pub fn import(file: &Path, options: &ImportOptions, scripts: &Path) -> Result<Imported> {
    let place = file.with_file_name(CONFIG_FILE);
    let of = place.display().to_string();
    let keys = match place.is_file() {
        true => match untrusted::read_json(&place)? {
            Value::Object(keys) => Some(keys),
            _ => bail_hint!("{of} is not a JSON object"; "expected the configuration of transformers or timm"),
        },
        false => None,
    };
    let model_type = keys.as_ref().and_then(|keys| keys.get("model_type")).map(|kind| kind.as_str().unwrap_or("?"));
    let is_timm = keys.as_ref().is_some_and(|keys| keys.contains_key("architecture"));
    if keys.is_some() && !is_timm && matches!(model_type, None | Some("vit_nepa" | "nepa_script" | "nepa_parts")) {
        return nepa(file, options);
    }
    let tensors: BTreeMap<String, Tensor> = all_tensors(file)?.into_iter().collect();
    let shown = file.display().to_string();
    let mut outside = Vec::new();
    let prefix = |dialect: &Dialect| prefix_of(&shown, &tensors, dialect, options);
    let is_stable_pretraining =
        keys.is_none() && timm::is_stable_pretraining(&tensors, &prefix(&dialect::TIMM).unwrap_or_default());
    let open = |dialect: &'static Dialect| {
        let prefix = prefix(dialect)?;
        let (mut left, mut others) = (BTreeMap::new(), Vec::new());
        for (name, tensor) in &tensors {
            match name.strip_prefix(&prefix) {
                Some(inner) => drop(left.insert(inner.to_string(), tensor.shallow_clone())),
                None => others.push(name.clone()),
            }
        }
        outside = without_crowds(&others, &prefix);
        Ok(Taken::new(shown.clone(), left))
    };
    let mut parts = match &keys {
        Some(keys) if !is_timm => huggingface::take(&of, keys, options, open)?,
        None if is_stable_pretraining => timm::take_stable_pretraining(options, open)?,
        keys => timm::take(&of, keys.as_ref(), options, open)?,
    };
    let mut notes = Vec::new();
    let preparation = preparation::read(file, keys.as_ref().filter(|_| is_timm), &mut notes)?;
    parts.notes.extend(notes);
    parts.weights = parts.weights.or(of_average(options));
    finish(parts, outside, preparation, options, scripts)
}

/// "ema" if the model asked for is the average beside another one, by its name: `state_dict_ema`, `model_ema`.
fn of_average(options: &ImportOptions) -> Option<&'static str> {
    options.prefix.as_ref().is_some_and(|prefix| prefix.split(['.', '_']).any(|word| word == "ema")).then_some("ema")
}

/// Names outside of the model `prefix`, each with the reason, where those of a group such as `optimizer` are told by their
/// number.
fn without_crowds(names: &[String], prefix: &str) -> Vec<(String, String)> {
    /// A group of more names is told by their number: the decoder of MAE has about a hundred, an optimizer's state more.
    const FEW: usize = 200;
    let group = |name: &str| name.split_once('.').map(|(group, _)| format!("{group}."));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for group in names.iter().filter_map(|name| group(name)) {
        *counts.entry(group).or_default() += 1;
    }
    let crowds: BTreeMap<String, usize> =
        counts.into_iter().filter(|(group, count)| *count > FEW && !prefix.starts_with(group.as_str())).collect();
    let is_alone = |name: &&String| group(name).is_none_or(|group| !crowds.contains_key(&group));
    let why = format!("outside of the model, `{prefix}…`");
    let alone = names.iter().filter(is_alone).map(|name| (name.clone(), why.clone()));
    alone.chain(crowds.iter().map(|(group, count)| (format!("{group}…"), format!("{count} tensors {why}")))).collect()
}

/// How the names of a model's tensors begin: what stands before its patch embedding.
fn prefix_of(
    shown: &str,
    tensors: &BTreeMap<String, Tensor>,
    dialect: &Dialect,
    options: &ImportOptions,
) -> Result<String> {
    let weight = format!("{}.weight", dialect.patches);
    let found = tensors.keys().filter_map(|name| name.strip_suffix(&weight));
    let found: Vec<&str> = found.filter(|before| before.is_empty() || before.ends_with('.')).collect();
    match (&options.prefix, &found[..]) {
        (Some(given), found) => {
            let given = with_dot(given);
            if !found.contains(&given.as_str()) {
                bail_hint!(
                    "{shown}: --prefix {}: it has no tensor `{given}{weight}`", given.trim_end_matches('.');
                    "the models in it begin with: {}", prefixes_in_words(found)
                );
            }
            Ok(given)
        }
        (None, [only]) => Ok(only.to_string()),
        (None, []) => {
            let some: Vec<&str> = tensors.keys().take(4).map(String::as_str).collect();
            bail_hint!(
                "{shown} is not {}: it has no tensor `{weight}`; it holds {}{}", dialect.of,
                if some.is_empty() { "none".to_string() } else { some.join(", ") },
                if tensors.len() > 4 { ", …" } else { "" };
                "ViTs of timm, DINOv2, MAE and stable-pretraining are known by their tensors; those of transformers need the \
                 config.json beside them"
            )
        }
        (None, found) => bail_hint!(
            "{shown} holds several models, whose tensors begin with {}", prefixes_in_words(found);
            "--prefix says which, such as --prefix {}", found[0].trim_end_matches('.')
        ),
    }
}

/// A NEPA under its own names: of the authors, or of transformers' pull request.
fn nepa(file: &Path, options: &ImportOptions) -> Result<Imported> {
    let given = [
        ("--heads", options.heads.is_some()),
        ("--image-size", options.image_size.is_some()),
        ("--causal", options.is_causal),
        ("--mean and --std", options.normalization.is_some()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
        bail_hint!(
            "{option}: the configuration of {} says it", file.display();
            "leave it out; a recipe changes a NEPA's image size and attention by its parameters"
        );
    }
    let StoredModel { config, prefix, tensors, .. } = StoredModel::read_one(file, options.prefix.as_deref())?;
    if let Some(Own::Script(_) | Own::Parts(_)) = config.own {
        bail_hint!("{} is a model of nepa's own", file.display(); "every recipe takes it as it is");
    }
    let mut notes = vec!["every recipe takes the source as it is, too".to_string()];
    let version = config.generic.get("transformers_version").and_then(Value::as_str).unwrap_or_default();
    if version.starts_with('5') && !config.config.qk_norm {
        notes.push(
            "qk_norm is false, so that queries and keys are not normed; some states of transformers' pull request 42978 \
             norm them nevertheless: compare outputs"
                .into(),
        );
    }
    let place = file.with_file_name(ModelProvenance::FILE);
    let origin = match place.is_file().then(|| untrusted::read_json(&place)).transpose()? {
        Some(Value::Object(provenance)) => origin(&provenance),
        _ => Map::new(),
    };
    let whole =
        |name: &str| name.starts_with("vit_nepa.") || name.starts_with("classifier.") || name.starts_with("fc_norm.");
    // A backbone that was saved by itself.
    let named =
        |(name, t): (String, Tensor)| (if whole(&name) { name.clone() } else { format!("vit_nepa.{name}") }, name, t);
    let named: Vec<(String, String, Tensor)> = tensors.into_iter().map(named).collect();
    Ok(Imported {
        name: "NEPA".into(),
        account: named.iter().map(|(to, from, _)| (to.clone(), format!("{prefix}{from}"))).collect(),
        tensors: named.into_iter().map(|(to, _, tensor)| (to, tensor)).collect(),
        config,
        unused: Vec::new(),
        preparation: preparation::read(file, None, &mut notes)?,
        notes,
        weights: of_average(options),
        origin,
    })
}

/// Why a tensor has no place, by what its name contains.
const REASONS: [(&str, &str); 14] = [
    ("expert", "of a mixture of experts"),
    ("router", "of a mixture of experts"),
    ("norm_pre", "a norm before the blocks, as CLIP has"),
    ("pre_layrnorm", "a norm before the blocks, as CLIP has"),
    ("relative_position", "relative positions"),
    ("rel_pos", "relative positions"),
    ("attn_pool", "pooling by attention"),
    ("dist_token", "a distillation token"),
    ("lora", "an adapter, to be merged into the weights first"),
    ("absmax", "of quantised weights"),
    ("quant", "of quantised weights"),
    ("weight_scale", "of quantised weights"),
    ("qweight", "of quantised weights"),
    ("SCB", "of quantised weights"),
];

/// Tensors that features do not need, and why; any other that is left is an error.
fn left_over(taken: &Taken, dialect: &Dialect) -> Result<Vec<(String, String)>> {
    let mut unused = Vec::new();
    let mut homeless = Vec::new();
    for left in taken.left.keys() {
        match dialect.unused.iter().find(|(start, _)| left.starts_with(start)) {
            Some((_, why)) => unused.push((left.clone(), why.to_string())),
            None => homeless.push(left),
        }
    }
    if !homeless.is_empty() {
        let told = |name: &&String| match REASONS.iter().find(|(part, _)| name.contains(part)) {
            Some((_, why)) => format!("`{name}` ({why})"),
            None => format!("`{name}`"),
        };
        let shown: Vec<String> = homeless.iter().take(6).map(told).collect();
        let more = if homeless.len() > 6 { format!(" and {} more", homeless.len() - 6) } else { String::new() };
        bail_hint!(
            "{} holds tensors that {} has no place for: {}{more}", taken.of, dialect.of, shown.join(", ");
            "without them it would compute something else; docs/models.md lists what is read"
        );
    }
    Ok(unused)
}

fn finish(
    parts: Parts,
    outside: Vec<(String, String)>,
    preparation: Option<Preparation>,
    options: &ImportOptions,
    scripts: &Path,
) -> Result<Imported> {
    let Parts { name, taken, network, dialect, mut notes, class_names, weights, origin } = parts;
    let mut unused = outside;
    unused.extend(left_over(&taken, dialect)?);
    let Network { config, keys, image_size } = network;
    if keys.contains_key("final_norm") {
        notes.push("its norm comes after pooling, with the head: features have none, whatever final_norm says".into());
    }
    let preparation = match (preparation, &options.normalization) {
        (Some(found), None) => Some(found),
        (None, Some((mean, std))) => Some(Preparation::of_normalization(mean, std)),
        (Some(_), Some(_)) => bail_hint!(
            "--mean and --std: the source says how its images are normalised"; "leave them out"
        ),
        (None, None) => bail_hint!(
            "{}: nothing beside it says how images are normalised", taken.of;
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 is ImageNet's, which MAE and DINO have; --mean 0.5 --std 0.5 \
             is NEPA's and that of many of timm's ViTs"
        ),
    };
    let preparation = preparation.map(|found| found.at(config.image_size, options.image_size.is_some(), &mut notes));
    if let Some(size) = options.image_size {
        ensure!(
            size > 0 && size % config.patch_size == 0,
            "--image-size {size}: expected a multiple of the patch size, {}",
            config.patch_size
        );
    }
    if image_size != config.image_size && config.rope_theta.is_some() {
        notes.push(format!(
            "from {image_size} to {} pixels: positions are rotary, so nothing changes",
            config.image_size
        ));
    }
    Architecture::new(&config)?;
    let own = (!keys.is_empty()).then(|| {
        let (script, text) = SCRIPT;
        let scripts_of = BTreeMap::from([(script.to_string(), text.to_string())]);
        Own::Script(Definition {
            folder: scripts.to_path_buf(),
            script: script.into(),
            scripts: scripts_of,
            config: keys,
        })
    });
    let Taken { tensors, account, .. } = taken;
    let mut generic = Map::new();
    if let Some(names) = class_names {
        set_class_names(&mut generic, &names);
    }
    Ok(Imported {
        name,
        config: ConfigFile { config, generic, own },
        tensors,
        account,
        unused,
        notes,
        preparation,
        weights,
        origin,
    })
}
