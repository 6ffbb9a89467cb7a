//! Models on disk: folders in the reference's Hugging Face layout (`config.json`, `preprocessor_config.json` and
//! `model.safetensors`), with `provenance.json` beside them. Weights that `torch.save` wrote are read too, and those in
//! several files with an index.

mod channels;
pub mod config_json;
pub mod import;
pub mod manifest;
pub mod preprocessor;
mod scripts;
pub mod shards;
mod taken;
mod tensor_file;
pub mod tensors;
mod timm;
pub mod torch_file;
mod weights;

pub use channels::{Adapted, adapt_channels};
pub use config_json::{ConfigFile, Own};
pub use tensor_file::TensorFile;
pub use timm::{TimmModel, to_timm};
pub use weights::{nepa_weights, weights};

use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, ensure, nearest};
use crate::files::{Existing, beside, to_read, write_folder};
use crate::nn::{Architecture, Definition, InputNormalization, Module, VitNepa, VitNepaOverrides, named_state};
use crate::options;
use crate::provenance::{ModelProvenance, RunProvenance, timestamp};
use crate::tensor::dtype_name;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::Tensor;

/// The weights of a model folder.
pub const MODEL_FILE: &str = "model.safetensors";
/// The weights of a model folder that an older Hugging Face wrote; only read.
pub const TORCH_MODEL_FILE: &str = "pytorch_model.bin";
/// The configuration of a model folder.
pub const CONFIG_FILE: &str = "config.json";
/// Its weights in several files, by an index.
const INDEX_FILES: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];
/// Averaged weights beside the raw ones in the reference's folders; only read.
pub const TORCH_EMA_FILE: &str = "pytorch_model_ema.bin";
/// What a training checkpoint has beside its model folders: see `run::snapshot`.
pub const STATE_FILE: &str = "state.json";

/// What happened to each tensor when a module was filled.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Parameters that were filled.
    pub loaded: Vec<String>,
    /// Parameters that the source has no tensor for.
    pub missing: Vec<String>,
    /// Tensors that the module has no parameter for.
    pub unexpected: Vec<String>,
    /// Name, the module's shape, the source's shape.
    pub mismatched: Vec<(String, Vec<i64>, Vec<i64>)>,
}

impl Report {
    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }

    /// Strict loading: an error that names every tensor that does not fit.
    fn check(&self, of: &str, hint: &str) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        let mut lines = vec![format!("{of} does not fit the model:")];
        let mut list = |title: &str, items: Vec<String>| {
            if items.is_empty() {
                return;
            }
            lines.push(format!("  {title} ({}):", items.len()));
            lines.extend(items.iter().take(SHOWN).map(|item| format!("    {item}")));
            if items.len() > SHOWN {
                lines.push(format!("    … and {} more", items.len() - SHOWN));
            }
        };
        list(
            "missing",
            self.missing
                .iter()
                .enumerate()
                .map(|(i, name)| {
                    match nearest(name, self.unexpected.iter().map(String::as_str).filter(|_| i < SHOWN)) {
                        Some(near) => format!("{name} (it has {near})"),
                        None => name.clone(),
                    }
                })
                .collect(),
        );
        list("unexpected", self.unexpected.clone());
        list(
            "wrong shape",
            self.mismatched
                .iter()
                .map(|(name, expected, found)| format!("{name}: the model has {expected:?}, it has {found:?}"))
                .collect(),
        );
        Err(Diagnostic::new(lines.join("\n")).hint(hint).into())
    }
}

/// The most tensors of a kind that an error lists.
const SHOWN: usize = 12;

/// What to do about tensors that do not fit, where an option allows it.
pub const PASS_STRICT: &str =
    "to load what fits and keep the rest as it is, pass #{ strict: false } and look at the report";

/// Copies tensors into a module's parameters and buffers by name. With `strict`, the advice of the error about tensors that do not
/// fit, all must; nothing is changed if they do not.
pub fn fill(module: &dyn Module, source: &[(String, Tensor)], of: &str, strict: Option<&str>) -> Result<Report> {
    let by_name: BTreeMap<&str, &Tensor> = source.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let parameters = named_state(module);
    let mut report = Report::default();
    for (name, parameter) in &parameters {
        match by_name.get(name.as_str()) {
            None => report.missing.push(name.clone()),
            Some(t) if t.size() != parameter.size() => {
                report.mismatched.push((name.clone(), parameter.size(), t.size()));
            }
            Some(_) => report.loaded.push(name.clone()),
        }
    }
    let known: std::collections::HashSet<&str> = parameters.iter().map(|(n, _)| n.as_str()).collect();
    report.unexpected = source.iter().map(|(n, _)| n).filter(|n| !known.contains(n.as_str())).cloned().collect();
    if let Some(hint) = strict {
        report.check(of, hint)?;
    }
    for (name, parameter) in &parameters {
        if let Some(t) = by_name.get(name.as_str()).filter(|t| t.is_floating_point() != parameter.is_floating_point()) {
            bail_hint!(
                "{of}: the tensor `{name}` is {}, but the model's is {}", dtype_name(t.kind()), dtype_name(parameter.kind());
                "weights are float32, bfloat16 or float16; quantised ones are not read"
            );
        }
    }
    tch::no_grad(|| -> Result<()> {
        for (name, parameter) in &parameters {
            if let Some(t) = by_name.get(name.as_str()).filter(|t| t.size() == parameter.size()) {
                parameter.shallow_clone().f_copy_(t)?;
            }
        }
        Ok(())
    })?;
    Ok(report)
}

/// The weights of a model folder, where `path` is one: a file of tensors, or the index of several.
pub fn model_file(path: &Path) -> Option<PathBuf> {
    let names = [MODEL_FILE, INDEX_FILES[0], TORCH_MODEL_FILE, INDEX_FILES[1]];
    names.map(|name| path.join(name)).into_iter().find(|file| file.is_file())
}

/// The file of tensors meant by `path`: the file itself, or the weights of a folder, perhaps the index of several.
pub fn tensor_file(path: &Path) -> Result<PathBuf> {
    let path = &to_read(path)?;
    if path.is_dir() {
        let Some(file) = model_file(path) else {
            if let Some(shard) = shards::without_index(path) {
                bail_hint!(
                    "{} has {shard}, one of several files of weights, but not their index ({})", path.display(),
                    INDEX_FILES.join(" or ");
                    "copy the index too: it says which file holds which tensor"
                );
            }
            bail_hint!(
                "{} has no {MODEL_FILE}, and no {TORCH_MODEL_FILE}", path.display();
                "expected a model folder with {CONFIG_FILE} and {MODEL_FILE}{}", beside(path)
            );
        };
        return Ok(file);
    }
    if !path.exists() {
        bail_hint!(
            "{} does not exist", path.display();
            "expected a model folder or a .safetensors, .bin, .pt or .pth file{}", beside(path)
        );
    }
    Ok(path.to_path_buf())
}

/// Every tensor of a file, or of all files that an index names, on the CPU.
pub fn read_tensors(path: &Path) -> Result<TensorFile> {
    match shards::is_index(path) {
        true => shards::read(path),
        false => tensors::read(path),
    }
}

options! {
    /// How to load tensors into a module.
    pub struct FillOptions {
        /// Whether a missing or unexpected tensor, or one of another shape, is an error.
        strict: bool = true,
    }
}

/// A model on disk that has been read, but not built.
pub struct StoredModel {
    /// Its configuration, with the number of labels that its weights have.
    pub config: ConfigFile,
    file: PathBuf,
    /// What stands before the names of its tensors in the file.
    prefix: String,
    tensors: Vec<(String, Tensor)>,
}

impl StoredModel {
    /// Reads a folder, or a file of weights and the configuration beside it. The number of labels is that of the
    /// classifier's weight, since a plain configuration need not name it.
    pub fn read(dir: &Path) -> Result<Self> {
        Self::read_one(dir, None)
    }

    /// Reads one of several models in a file, whose tensors' names begin with `prefix`.
    fn read_one(dir: &Path, prefix: Option<&str>) -> Result<Self> {
        let file = tensor_file(dir)?;
        let mut config = ConfigFile::read(&file.with_file_name(CONFIG_FILE))?;
        let (prefix, tensors) = nepa_weights(&file, prefix)?;
        if config.own.is_none() {
            let head = tensors.iter().find(|(name, _)| name == "classifier.weight");
            let rows = head.map_or(0, |(_, weight)| weight.size().first().copied().unwrap_or(0));
            if head.is_some()
                && let Some(names) = config.class_names().map(|n| n.len() as i64).filter(|n| *n != rows)
            {
                bail_hint!(
                    "{}: id2label names {names} classes, but classifier.weight has {rows} rows", dir.display();
                    "the configuration and the weights belong to different models"
                );
            }
            config.config.num_labels = rows;
        }
        Ok(Self { config, file, prefix, tensors })
    }

    /// The plain ViT-NEPA of the configuration, filled.
    pub fn build(self) -> Result<VitNepa> {
        if let Some(Own::Parts(parts)) = &self.config.own {
            bail_hint!(
                "{}: this model has parts of its own ({}) that a recipe made, and cannot be built again",
                self.file.display(), parts.join(", ");
                "build it with nn::build(SCRIPT, config), which keeps the script beside the weights; or compose it as that \
                 recipe did, and fill it with checkpoint::load_into(model, FOLDER)"
            );
        }
        let model = VitNepa::new(&Architecture::new(&self.config.config)?, VitNepaOverrides::default())?;
        self.fill(&model)?;
        Ok(model)
    }

    /// Fills a model that was built as the configuration says. Every tensor must fit.
    pub fn fill(self, model: &VitNepa) -> Result<()> {
        let hint = "to load what fits, fill a model of your own: \
                    checkpoint::load_into(nn::vit_nepa(checkpoint::config(FOLDER)), FOLDER, #{ strict: false })";
        fill(model, &self.tensors, &self.file.display().to_string(), Some(hint))?;
        model.set_generic(self.config.generic);
        model.set_normalization(normalization(&self.file, model.architecture().num_channels)?)
    }
}

/// How images of so many channels were normalised for the weights in a file: as preprocessor_config.json beside it says,
/// or else by 0.5 and 0.5, as in the reference.
pub fn normalization(file: &Path, channels: i64) -> Result<InputNormalization> {
    let place = file.with_file_name(preprocessor::FILE);
    let shown = place.display().to_string();
    let content = preprocessor::read(&place)?;
    match content.map(|content| preprocessor::normalization(&content, &shown)).transpose()?.flatten() {
        Some(found) => found.of_channels(channels as usize).with_context(|| shown),
        None => Ok(InputNormalization::usual(channels as usize)),
    }
}

/// What a `provenance.json` says but for what every folder records of itself: where the weights come from.
pub fn origin(provenance: &Map<String, Value>) -> Map<String, Value> {
    let own = ["format", "weights", "nepa_version", "saved_at", "parameters"];
    provenance.iter().filter(|(key, _)| !own.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

options! {
    /// Information to save with a model.
    pub struct SaveOptions {
        /// Which weights these are, "raw" or "ema"; recorded in the files.
        weights: String = "raw".to_string(),
        /// Names of the classes, by label; () keeps those that the model was loaded with.
        class_names: Option<Vec<String>> = None,
        /// Anything else worth recording (a map), for example what it was started from; not what nepa itself records.
        provenance: Map<String, Value> = Map::new(),
    }
}

/// The files of a model folder, ready to be written.
pub struct ModelFolder {
    config: Option<String>,
    preprocessor: Option<String>,
    tensors: Vec<(String, Tensor)>,
    weights: String,
    provenance: String,
    /// The script that builds it, if one does.
    definition: Option<Arc<Definition>>,
}

impl ModelFolder {
    /// A folder of `tensors`, the parameters of `module` or an average of them; `run` says what wrote it.
    pub fn new(
        module: &dyn Module,
        tensors: Vec<(String, Tensor)>,
        options: &SaveOptions,
        run: Option<RunProvenance>,
    ) -> Result<Self> {
        if !["raw", "ema"].contains(&options.weights.as_str()) {
            bail_hint!("unknown weights \"{}\"", options.weights; "expected \"raw\" or \"ema\"");
        }
        let provenance = ModelProvenance {
            format: "nepa model folder".into(),
            weights: Some(options.weights.clone()),
            nepa_version: env!("CARGO_PKG_VERSION").into(),
            saved_at: Some(timestamp()),
            parameters: crate::nn::num_parameters(module),
            run,
        };
        let mut provenance: Map<String, Value> = serde_json::from_value(serde_json::to_value(&provenance)?)?;
        if let Some(taken) = options.provenance.keys().find(|key| provenance.contains_key(*key)) {
            let own: Vec<&str> = provenance.keys().map(String::as_str).collect();
            bail_hint!(
                "the option `provenance`: nepa itself records `{taken}` in {}", ModelProvenance::FILE;
                "choose another name; it records: {}", own.join(", ")
            );
        }
        provenance.extend(options.provenance.clone());

        let config = module.vit_nepa().map(|model| -> Result<String> {
            let mut config = ConfigFile::of_model(model);
            if let Some(names) = &options.class_names {
                ensure!(
                    names.len() as i64 == config.config.num_labels,
                    "class_names has {} names, but the model has {} labels",
                    names.len(),
                    config.config.num_labels
                );
                config_json::set_class_names(&mut config.generic, names);
            }
            config_json::set_dtype(&mut config.generic, &tensors);
            Ok(pretty(&config.to_json()))
        });
        let preprocessor = module.vit_nepa().map(|model| pretty(&Value::Object(preprocessor::to_json(model))));
        Ok(Self {
            config: config.transpose()?,
            preprocessor,
            tensors,
            weights: options.weights.clone(),
            provenance: pretty(&Value::Object(provenance)),
            definition: module.vit_nepa().and_then(|model| model.definition()),
        })
    }

    /// With another content of `preprocessor_config.json`.
    pub fn with_preprocessor(self, content: &Map<String, Value>) -> Self {
        Self { preprocessor: Some(pretty(&Value::Object(content.clone()))), ..self }
    }

    /// Gives each file's name and what writes its content to `put`.
    pub fn write(&self, mut put: impl FnMut(&str, &dyn Fn(&mut dyn Write) -> Result<()>) -> Result<()>) -> Result<()> {
        if let Some(config) = &self.config {
            put(CONFIG_FILE, &|out| Ok(out.write_all(config.as_bytes())?))?;
        }
        if let Some(preprocessor) = &self.preprocessor {
            put(preprocessor::FILE, &|out| Ok(out.write_all(preprocessor.as_bytes())?))?;
        }
        for (path, text) in self.definition.iter().flat_map(|definition| &definition.scripts) {
            put(&format!("{}/{path}", scripts::DIR), &|out| Ok(out.write_all(text.as_bytes())?))?;
        }
        let metadata = BTreeMap::from([("format", "pt".to_string()), ("nepa_weights", self.weights.clone())]);
        put(MODEL_FILE, &|out| tensors::write_to(out, &self.tensors, &metadata))?;
        put(ModelProvenance::FILE, &|out| Ok(out.write_all(self.provenance.as_bytes())?))
    }
}

/// Saves a module: its parameters, which must be finite, its configuration if it has one, and where it came from. The
/// folder appears whole or not at all. A model folder of the same name is replaced; one that holds anything else, too, is
/// an error.
pub fn save(module: &dyn Module, dir: &Path, options: &SaveOptions, run: Option<RunProvenance>) -> Result<()> {
    let saving = || format!("cannot save the model to {}", dir.display());
    let parameters = named_state(module);
    tensors::ensure_finite(&parameters, &options.weights).with_context(saving)?;
    let model = ModelFolder::new(module, parameters, options, run)?;
    let own = [CONFIG_FILE, preprocessor::FILE, MODEL_FILE, ModelProvenance::FILE, scripts::DIR];
    write_folder(dir, Existing::Replace(&own), |folder| model.write(|name, content| folder.file(name, content)))
        .with_context(saving)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
