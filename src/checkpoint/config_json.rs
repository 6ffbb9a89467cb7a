//! `config.json` of the reference's Hugging Face folders.

use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, did_you_mean};
use crate::nn::{Architecture, VitNepaConfig};
use crate::options::{self, Options};
use crate::tensor::dtype_name;
use crate::untrusted;
use serde_json::{Map, Value, json};
use std::path::Path;
use tch::Tensor;

/// Keys that Hugging Face writes into any configuration, and that say nothing about the network.
const GENERIC: &[&str] = &[
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

/// A configuration and the generic keys that came with it.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// The network.
    pub config: VitNepaConfig,
    /// Keys that say nothing about the network: class names, versions, …
    pub generic: Map<String, Value>,
}

impl ConfigFile {
    /// Reads and checks a `config.json`.
    pub fn read(path: &Path) -> Result<Self> {
        let Value::Object(map) = untrusted::read_json(path)? else {
            return Err(Diagnostic::new(format!("{} is not a JSON object", path.display())).into());
        };
        Self::from_map(&path.display().to_string(), map)
    }

    fn from_map(of: &str, map: Map<String, Value>) -> Result<Self> {
        if let Some(other) = map.get("model_type").filter(|t| *t != "vit_nepa") {
            bail_hint!(
                "{of}: model_type is {other}, expected \"vit_nepa\"";
                "only NEPA models can be loaded"
            );
        }
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
        let mut file = Self { config, generic };
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
        let architecture = if classifies { "ViTNepaForImageClassification" } else { "ViTNepaForPreTraining" };
        map.insert("architectures".into(), json!([architecture]));
        map.insert("model_type".into(), json!("vit_nepa"));
        for (key, only) in FIXED.iter().filter(|(key, _)| *key != "num_prompt_token") {
            map.insert(key.to_string(), json!(only));
        }
        let Ok(Value::Object(own)) = serde_json::to_value(&self.config) else {
            unreachable!("a configuration is a plain struct")
        };
        map.extend(own);
        map.insert("intermediate_size".into(), json!(self.config.mlp_size()));
        // Hugging Face derives the number of labels from id2label, and writes no key for it.
        map.remove("num_labels");
        // The reference has no such key, and no need of it where it is not used.
        if self.config.pos_embed_images_per_draw.is_none() {
            map.remove("pos_embed_images_per_draw");
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
