//! `config.json` of the reference's Hugging Face folders.

use super::scripts;
use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, did_you_mean};
use crate::files::folder_of;
use crate::nn::{Architecture, Definition, VitNepa, VitNepaConfig};
use crate::options::{self, Options};
use crate::tensor::dtype_name;
use crate::untrusted;
use serde_json::{Map, Value, json};
use std::path::Path;
use tch::Tensor;

/// Keys that Hugging Face writes into any configuration, and that say nothing about the network.
pub(super) const GENERIC: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "finetuning_task",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Keys that must have this value: nothing else is supported.
const FIXED: &[(&str, f64)] =
    &[("attention_probs_dropout_prob", 0.0), ("hidden_dropout_prob", 0.0), ("num_prompt_token", 0.0)];

/// Keys that a file may leave out.
const OPTIONAL: &[&str] =
    &["drop_path_prob", "initializer_range", "num_labels", "pos_embed_images_per_draw", "use_intermediate_loss"];

/// What a plain ViT-NEPA is called.
const PLAIN: &str = "vit_nepa";
/// A model that a script of its folder builds. The configuration stands under a key of its own: the reference, which
/// would only warn of another type, finds none of its keys.
const SCRIPTED: &str = "nepa_script";
/// A model with parts that a recipe made, which nothing can build again.
const COMPOSED: &str = "nepa_parts";

/// A configuration and the generic keys that came with it.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// The network.
    pub config: VitNepaConfig,
    /// Keys that say nothing about the network: class names, versions, …
    pub generic: Map<String, Value>,
    /// Whose model it is, if it is not a plain ViT-NEPA.
    pub own: Option<Own>,
}

/// A model that is not a plain ViT-NEPA.
#[derive(Debug, Clone, PartialEq)]
pub enum Own {
    /// A script builds it.
    Script(Definition),
    /// These parts are not built-in ones.
    Parts(Vec<String>),
}

impl ConfigFile {
    /// Reads and checks a `config.json`.
    pub fn read(path: &Path) -> Result<Self> {
        let Value::Object(map) = untrusted::read_json(path)? else {
            return Err(Diagnostic::new(format!("{} is not a JSON object", path.display())).into());
        };
        let of = path.display().to_string();
        match map.get("model_type").map(|kind| kind.as_str().unwrap_or_default()) {
            None | Some(PLAIN) => Self::plain(&of, map),
            Some(kind @ (SCRIPTED | COMPOSED)) => {
                let kind = kind.to_string();
                Self::own(&of, &kind, map, folder_of(path))
            }
            Some(_) => bail_hint!(
                "{of}: model_type is {}, expected \"{PLAIN}\"", map["model_type"]; "only NEPA models can be loaded"
            ),
        }
    }

    /// The configuration file of a model.
    pub fn of_model(model: &VitNepa) -> Self {
        let own = match (model.definition(), model.own_parts()) {
            (Some(definition), _) => Some(Own::Script(Definition::clone(&definition))),
            (None, []) => None,
            (None, parts) => Some(Own::Parts(parts.iter().map(|part| part.to_string()).collect())),
        };
        Self { config: VitNepaConfig::clone(model.architecture()), generic: model.generic(), own }
    }

    /// The keys of the configuration, with those that a script of the model's own knows.
    pub fn all_keys(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut keys)) = serde_json::to_value(&self.config) else {
            unreachable!("a configuration is a plain struct")
        };
        if let Some(Own::Script(definition)) = &self.own {
            keys.extend(definition.config.clone());
        }
        keys
    }

    /// A model that is not a plain ViT-NEPA; its scripts lie in `folder`.
    fn own(of: &str, kind: &str, mut map: Map<String, Value>, folder: &Path) -> Result<Self> {
        let (mut config, mut own) = (Map::new(), Map::new());
        let Some(Value::Object(keys)) = map.remove("config") else {
            bail_hint!("{of}: the key `config` is missing or no object"; "a {kind} keeps its configuration there");
        };
        for (key, value) in keys {
            let place = if VitNepaConfig::NAMES.contains(&key.as_str()) { &mut config } else { &mut own };
            place.insert(key, value);
        }
        let said = map.remove(if kind == SCRIPTED { "script" } else { "parts" }).unwrap_or_default();
        let own = match said {
            Value::String(script) if kind == SCRIPTED => {
                let folder = folder.join(scripts::DIR);
                let scripts = scripts::read(&folder, &script)?;
                Own::Script(Definition { folder, script, scripts, config: own })
            }
            Value::Array(parts) if kind == COMPOSED => {
                Own::Parts(parts.iter().map(|part| part.as_str().unwrap_or_default().to_string()).collect())
            }
            _ => bail_hint!("{of}: it does not say how its model is built"; "a {kind} names its script or its parts"),
        };
        map.retain(|key, _| GENERIC.contains(&key.as_str()));
        let config: VitNepaConfig = options::read(&format!("{of}: config"), config)?;
        Architecture::new(&config).with_context(|| of.to_string())?;
        Ok(Self { config, generic: map, own: Some(own) })
    }

    fn plain(of: &str, map: Map<String, Value>) -> Result<Self> {
        let known = VitNepaConfig::NAMES;
        let (mut own, mut generic) = (Map::new(), Map::new());
        for (key, value) in map {
            if known.contains(&key.as_str()) {
                own.insert(key, value);
            } else if let Some((_, only)) = FIXED.iter().find(|(name, _)| *name == key) {
                if value.as_f64() != Some(*only) {
                    bail_hint!("{of}: `{key}` is {value}, but only {only} is supported"; "NEPA has no such part");
                }
            } else if GENERIC.contains(&key.as_str()) {
                generic.insert(key, value);
            } else if key != "model_type" {
                bail_hint!(
                    "{of}: unknown key `{key}`{}", did_you_mean(&key, known.iter().copied());
                    "the model's keys are: {}", known.join(", ")
                );
            }
        }
        let missing: Vec<&str> =
            known.iter().copied().filter(|k| !OPTIONAL.contains(k) && !own.contains_key(*k)).collect();
        if !missing.is_empty() {
            bail_hint!(
                "{of}: missing key{} {}", if missing.len() > 1 { "s" } else { "" },
                missing.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
                "Hugging Face's save_pretrained writes every key; a guess could change the network silently"
            );
        }
        let config: VitNepaConfig = options::read(of, own)?;
        let mut file = Self { config, generic, own: None };
        if let Some(names) = file.class_names() {
            // Hugging Face writes the classes, not their number.
            file.config.num_labels = names.len() as i64;
        }
        Architecture::new(&file.config).with_context(|| of.to_string())?;
        Ok(file)
    }

    /// Class names by index, if the file has `id2label`.
    pub fn class_names(&self) -> Option<Vec<String>> {
        names_in(&self.generic)
    }

    /// The file's content, as Hugging Face would read it.
    pub fn to_json(&self) -> Value {
        let mut map = self.generic.clone();
        let classifies = self.config.num_labels > 0;
        match &self.own {
            None => self.write_plain(&mut map),
            Some(own) => {
                let (kind, key, value) = match own {
                    Own::Script(definition) => (SCRIPTED, "script", json!(definition.script)),
                    Own::Parts(parts) => (COMPOSED, "parts", json!(parts)),
                };
                map.remove("architectures");
                map.insert("model_type".into(), json!(kind));
                map.insert(key.into(), value);
                map.insert("config".into(), Value::Object(self.all_keys()));
            }
        }
        let labels = map.get("id2label").and_then(Value::as_object).map(Map::len);
        if !classifies {
            map.remove("id2label");
            map.remove("label2id");
        } else if labels != Some(self.config.num_labels as usize) {
            let names = (0..self.config.num_labels).map(|i| format!("LABEL_{i}")).collect::<Vec<_>>();
            set_class_names(&mut map, &names);
        }
        let mut keys: Vec<_> = map.into_iter().collect();
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        Value::Object(keys.into_iter().collect())
    }
}

impl ConfigFile {
    /// Writes the keys of a plain ViT-NEPA, as the reference has them, and `use_intermediate_loss`, which it ignores.
    fn write_plain(&self, map: &mut Map<String, Value>) {
        let classifies = self.config.num_labels > 0;
        let architecture = if classifies { "ViTNepaForImageClassification" } else { "ViTNepaForPreTraining" };
        map.insert("architectures".into(), json!([architecture]));
        map.insert("model_type".into(), json!(PLAIN));
        for (key, only) in FIXED.iter().filter(|(key, _)| *key != "num_prompt_token") {
            map.insert(key.to_string(), json!(only));
        }
        map.extend(self.all_keys());
        map.insert("intermediate_size".into(), json!(self.config.mlp_size()));
        // Hugging Face derives the number of labels from id2label, and writes no key for it.
        map.remove("num_labels");
        // The reference has no such key, and no need of it where it is not used.
        if self.config.pos_embed_images_per_draw.is_none() {
            map.remove("pos_embed_images_per_draw");
        }
    }
}

/// Writes the dtype of the tensors that are saved, or none if they have several: by it, Hugging Face chooses what it
/// loads weights as.
pub fn set_dtype(map: &mut Map<String, Value>, tensors: &[(String, Tensor)]) {
    // What an older Hugging Face called it.
    map.remove("torch_dtype");
    map.remove("dtype");
    let mut kinds = tensors.iter().map(|(_, t)| t.kind());
    if let Some(first) = kinds.next()
        && kinds.all(|kind| kind == first)
    {
        map.insert("dtype".into(), json!(dtype_name(first)));
    }
}

/// Class names by index among generic keys; placeholders (LABEL_0, …) do not count.
pub fn class_names_in(generic: &Map<String, Value>) -> Option<Vec<String>> {
    let names = names_in(generic)?;
    let made_up = names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"));
    (!made_up).then_some(names)
}

fn names_in(generic: &Map<String, Value>) -> Option<Vec<String>> {
    let map = generic.get("id2label")?.as_object()?;
    (0..map.len()).map(|i| Some(map.get(&i.to_string())?.as_str()?.to_string())).collect()
}

/// Writes class names as Hugging Face's `id2label` and `label2id`.
pub fn set_class_names(map: &mut Map<String, Value>, names: &[String]) {
    let id2label: Map<String, Value> = names.iter().enumerate().map(|(i, n)| (i.to_string(), json!(n))).collect();
    let label2id: Map<String, Value> = names.iter().enumerate().map(|(i, n)| (n.clone(), json!(i))).collect();
    map.insert("id2label".into(), Value::Object(id2label));
    map.insert("label2id".into(), Value::Object(label2id));
}
