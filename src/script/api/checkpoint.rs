//! Models and tensors on disk.

use super::nn::{self, ModelScript, report_map, tensor_map};
use crate::bail_hint;
use crate::checkpoint::{self, CONFIG_FILE, FillOptions, Own, PASS_STRICT, SaveOptions, StoredModel};
use crate::dist;
use crate::error::Result;
use crate::nn::InputNormalization;
use crate::run::pretrained;
use crate::script::registry::Api;
use crate::script::session;
use crate::script::values::{Module, from_json, tensors_by_name};
use nepa_macros::functions;
use rhai::{Dynamic, Map};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "checkpoint",
        "Model folders in the reference's Hugging Face layout (config.json, model.safetensors), and files of tensors.",
        functions::register,
    );
}

#[functions]
mod functions {
    use super::*;

    /// Loads a model as a module in training mode. Every tensor must fit and be finite. The path is what checkpoint::open
    /// takes; if it holds raw and averaged weights, give the kind too.
    pub fn load(path: &Path) -> Result<Module> {
        loaded(path, "")
    }

    /// Loads a model with its "raw" or "ema" (averaged) weights, or "" for the only ones.
    #[script(name = "load")]
    pub fn load_weights(path: &Path, weights: &str) -> Result<Module> {
        loaded(path, weights)
    }

    /// Opens pretrained weights to start another model from: `weights` is "raw" or "ema" (averaged), or "" for the only
    /// ones. The path is a run directory (meaning its newest checkpoint), a training checkpoint
    /// (checkpoints/LABEL/step-N), a model folder, nepa's or Hugging Face's (with pytorch_model_ema.bin for "ema";
    /// weights may be in several files with an index), or a file of weights beside a config.json. A folder that records
    /// the other kind of weights is refused. Returns a map: `path` of the file, `weights`, `config` (with the keys of
    /// config.json) and `script`, both for nn::build, `class_names` (an array, or () without a head), `mean` and `std` (by
    /// channel: how images were normalised, as preprocessor_config.json says, or else 0.5), `image_mode` (the mode of
    /// data::open that they were read in), `tensors` by name, on the CPU.
    /// Weights with NaN or infinite values are refused.
    ///
    /// Example: `let pretrained = checkpoint::open("runs/vitb/checkpoints/pretrain/step-00499200", "ema");`
    pub fn open(path: &Path, weights: &str) -> Result<Map> {
        opened(path, weights)
    }

    /// Finds the models that a path stands for, as checkpoint::open takes it: a map of the weights' files by name, `raw`
    /// and `ema` where there are both kinds, otherwise `model`.
    pub fn files(path: &Path) -> Result<Map> {
        let kinds = pretrained::kinds(path)?;
        let one = |(kind, file): (Option<&'static str>, PathBuf)| {
            (kind.unwrap_or("model").into(), file.display().to_string().into())
        };
        Ok(kinds.into_iter().map(one).collect())
    }

    /// Loads the tensors of a folder or file (.safetensors, or .bin, .pt, .pth of torch.save) into a module's
    /// parameters; all must fit and be finite. If a file holds a `state_dict` among other things, its tensors are used.
    pub fn load_into(m: &Module, path: &str) -> Result<Map> {
        filled(m, path, &FillOptions::default())
    }

    /// Loads the tensors of a folder or file into a module's parameters; with `strict: false`, only those that fit.
    /// Returns a map of arrays of names: `loaded`, `missing`, `unexpected` and `mismatched`.
    #[script(name = "load_into")]
    pub fn load_into_with(m: &Module, path: &str, options: FillOptions) -> Result<Map> {
        filled(m, path, &options)
    }

    /// Saves a module as a folder: model.safetensors, provenance.json and, of a ViT-NEPA, config.json,
    /// the scripts that build it (model_script, if nn::build made it) and preprocessor_config.json, for Hugging Face's image processors: resized to the image size, and normalised as
    /// std/train or `set_normalization` said, or else the folder that it was loaded from, or else by 0.5 and 0.5.
    /// The folder is written atomically and replaces a model folder of that name. Rank 0 writes, and the other ranks
    /// wait for it.
    pub fn save(m: &Module, folder: &str) -> Result<()> {
        saved(m, folder, &SaveOptions::default())
    }

    /// Saves a module as a folder, with more information about it.
    #[script(name = "save")]
    pub fn save_with(m: &Module, folder: &str, options: SaveOptions) -> Result<()> {
        saved(m, folder, &options)
    }

    /// Reads the tensors of a folder or file (.safetensors, or .bin, .pt, .pth of torch.save) by name, on the CPU.
    /// No code in a file of torch.save is run. Names in nested dictionaries are joined with dots
    /// (`state_dict.head.weight`). Values that are not tensors are skipped, with a note.
    pub fn tensors(path: &str) -> Result<Map> {
        let file = checkpoint::read_tensors(&checkpoint::tensor_file(Path::new(path))?)?;
        if let Some(others) = file.left_out() {
            crate::output::err!("note: {path}: left out {others}");
        }
        Ok(tensors_by_name(file.tensors))
    }

    /// Writes tensors by name to a safetensors file. Rank 0 writes, and the other ranks wait for it.
    pub fn save_tensors(tensors: Map, path: &str) -> Result<()> {
        let tensors = tensor_map(&tensors, "checkpoint::save_tensors")?;
        dist::on_rank0(&format!("the writing of {path}"), || {
            checkpoint::tensors::write(Path::new(path), &tensors, &Default::default())
        })
    }

    /// Makes the tensors of a model of RGB images (by name, as checkpoint::open and state_dict give them) fit one of other
    /// `num_channels`, as timm's adapt_input_conv does. Of the weight of the patch embedding [D, 3, P, P],
    /// `embeddings.patch_embeddings.projection.weight`, 1 channel gets the sum over red, green and blue; n channels get
    /// the weights of red, green, blue, red, … times 3 / n. All other tensors, and weights that already have so many
    /// channels, stay. Weights for other than 3 channels are an error. Returns a map: `tensors`, and `adapted`, an array
    /// of the names of those that were changed.
    ///
    /// Example: `let fitting = checkpoint::adapt_channels(checkpoint::open("vitb", "").tensors, 5);`
    pub fn adapt_channels(tensors: Map, num_channels: i64) -> Result<Map> {
        let tensors = tensor_map(&tensors, "checkpoint::adapt_channels")?;
        let checkpoint::Adapted { tensors, adapted } = checkpoint::adapt_channels(tensors, num_channels)?;
        Ok(Map::from([
            ("tensors".into(), tensors_by_name(tensors).into()),
            ("adapted".into(), from_json(&Value::from(adapted))),
        ]))
    }

    /// Reads and checks the configuration of a model folder, with the keys of config.json.
    pub fn config(folder: &Path) -> Result<Map> {
        let file = checkpoint::ConfigFile::read(&folder.join(CONFIG_FILE))?;
        Ok(nn::config_of(&file))
    }
}

fn loaded(path: &Path, weights: &str) -> Result<Module> {
    let (_, file) = pretrained::find(path, weights)?;
    let stored = StoredModel::read(&file)?;
    let module = match &stored.config.own {
        Some(Own::Script(definition)) => {
            let module = nn::built(definition, nn::config_of(&stored.config))?;
            stored.fill(module.0.vit_nepa().expect("it builds nothing else"))?;
            module
        }
        _ => Module(Rc::new(stored.build()?)),
    };
    session::note_loaded(&file);
    Ok(module)
}

fn opened(path: &Path, weights: &str) -> Result<Map> {
    let (kind, file) = pretrained::find(path, weights)?;
    let config = checkpoint::ConfigFile::read(&file.with_file_name(CONFIG_FILE))?;
    let (_, tensors) = checkpoint::nepa_weights(&file, None)?;
    session::note_loaded(&file);
    let script = match &config.own {
        None => Dynamic::UNIT,
        Some(Own::Script(definition)) => Dynamic::from(ModelScript(Arc::new(definition.clone()))),
        Some(Own::Parts(parts)) => bail_hint!(
            "{}: this model has parts of its own ({}) that a recipe made, and no other can be built like it",
            file.display(), parts.join(", ");
            "build it with nn::build(SCRIPT, config), which keeps the script beside the weights"
        ),
    };
    let normalization = checkpoint::normalization(&file, config.config.num_channels)?;
    let mode = normalization.mode();
    let InputNormalization { mean, std, .. } = normalization;
    let names = config.class_names().map(|names| from_json(&Value::from(names))).unwrap_or(Dynamic::UNIT);
    Ok(Map::from([
        ("path".into(), file.display().to_string().into()),
        ("weights".into(), kind.map_or(Dynamic::UNIT, Dynamic::from)),
        ("config".into(), nn::config_of(&config).into()),
        ("script".into(), script),
        ("class_names".into(), names),
        ("mean".into(), mean.into()),
        ("std".into(), std.into()),
        ("image_mode".into(), mode.into()),
        ("tensors".into(), tensors_by_name(tensors).into()),
    ]))
}

fn filled(m: &Module, path: &str, o: &FillOptions) -> Result<Map> {
    let file = checkpoint::tensor_file(Path::new(path))?;
    let source = checkpoint::weights(&file)?;
    let report = checkpoint::fill(m.0.as_ref(), &source, &file.display().to_string(), o.strict.then_some(PASS_STRICT))?;
    session::note_loaded(Path::new(path));
    Ok(report_map(report))
}

fn saved(m: &Module, folder: &str, o: &SaveOptions) -> Result<()> {
    dist::on_rank0(&format!("the writing of {folder}"), || {
        checkpoint::save(m.0.as_ref(), Path::new(folder), o, session::provenance())
    })
}
