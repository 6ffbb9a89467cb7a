//! Models and tensors on disk.

use super::nn::{report_map, tensor_map};
use crate::checkpoint::{self, CONFIG_FILE, FillOptions, SaveOptions, TORCH_EMA_FILE};
use crate::dist;
use crate::error::Result;
use crate::functions;
use crate::run::{pretrained, snapshot};
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::session;
use crate::script::values::{Module, Tensor, from_json, read_options};
use rhai::{Dynamic, Engine, ImmutableString, Map};
use serde_json::Value;
use std::path::Path;
use std::rc::Rc;

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    let mut group = Group::namespace(
        reference,
        "checkpoint",
        "Model folders in the reference's Hugging Face layout (config.json, model.safetensors), and files of tensors.",
    );
    group.options::<FillOptions>("checkpoint::load_into");
    group.options::<SaveOptions>("checkpoint::save");
    functions! { group;
        /// The model that a folder describes, with its weights, in training mode; of a file of weights, the one that the
        /// config.json beside it describes. Every tensor must fit.
        "load" (folder: ImmutableString) -> Module {
            let model = checkpoint::load(Path::new(folder.as_str()))?;
            session::note_loaded(Path::new(folder.as_str()));
            Ok(Module(Rc::new(model)))
        }
        /// The weights that a path means, to start another model from: `weights` is "raw" or "ema" (their average). The
        /// path is that of a training checkpoint (checkpoints/LABEL/step-N), a run directory (its newest checkpoint), a
        /// model folder, ours or Hugging Face's (with pytorch_model_ema.bin for "ema"), or a file of weights beside a
        /// config.json. A folder that says that it holds the others is refused. Gives a map: `path` of the file, `weights`,
        /// `config` (with the keys of config.json), `class_names` (an array, or () without a head), `tensors` by name, on the CPU.
        ///
        /// Example: `let pretrained = checkpoint::open("runs/vitb/checkpoints/pretrain/step-00499200", "ema");`
        "open" (path: ImmutableString, weights: ImmutableString) -> Map { open(Path::new(path.as_str()), &weights) }
        /// The models in a folder, a map of paths by name: `raw` and `ema` of a checkpoint, or of a Hugging Face folder
        /// with pytorch_model_ema.bin; else the folder itself, as `model`.
        "folders" (folder: ImmutableString) -> Map {
            let dir = Path::new(folder.as_str());
            let parts = [("raw", snapshot::RAW_DIR), ("ema", snapshot::EMA_DIR)];
            let both = parts.map(|(name, part)| (name, dir.join(part))).into_iter();
            let mut found: Map =
                both.filter(|(_, p)| p.is_dir()).map(|(n, p)| (n.into(), p.display().to_string().into())).collect();
            if found.is_empty() {
                checkpoint::tensor_file(dir)?;
                let average = dir.join(TORCH_EMA_FILE);
                let own = if average.is_file() { "raw" } else { "model" };
                found.insert(own.into(), folder.into());
                if average.is_file() {
                    found.insert("ema".into(), average.display().to_string().into());
                }
            }
            Ok(found)
        }
        /// Puts the tensors of a folder or file (.safetensors, or .bin, .pt, .pth of torch.save) into a module's
        /// parameters; all must fit. Of a file with a `state_dict` among other things its tensors are meant.
        "load_into" (m: Module, path: ImmutableString) -> Map { load_into(&m, &path, &FillOptions::default()) }
        /// Loads with options: `strict: false` takes what fits. Gives arrays of names: `loaded`, `missing`, `unexpected`
        /// and `mismatched`.
        "load_into" (m: Module, path: ImmutableString, options: Map) -> Map {
            load_into(&m, &path, &read_options("checkpoint::load_into", &options)?)
        }
        /// Saves a module as a folder: config.json (of a ViT-NEPA), model.safetensors, provenance.json.
        /// The folder appears whole or not at all; a model folder of that name is replaced. Rank 0 writes, and the other
        /// ranks wait for it.
        "save" (m: Module, folder: ImmutableString) -> () { save(&m, &folder, &SaveOptions::default()) }
        /// Saves with options, which say more about the model.
        "save" (m: Module, folder: ImmutableString, options: Map) -> () {
            save(&m, &folder, &read_options("checkpoint::save", &options)?)
        }
        /// The tensors of a folder or file (.safetensors, or .bin, .pt, .pth of torch.save) by name, on the CPU.
        /// Nothing in a file of torch.save is run; nested dictionaries give names joined with dots
        /// (`state_dict.head.weight`), and what is no tensor is left out, with a note.
        "tensors" (path: ImmutableString) -> Map {
            let file = checkpoint::tensors::read(&checkpoint::tensor_file(Path::new(path.as_str()))?)?;
            if let Some(others) = file.left_out() {
                eprintln!("note: {path}: left out are {others}");
            }
            Ok(file.tensors.into_iter().map(|(n, t)| (n.into(), Dynamic::from(Tensor::from(t)))).collect())
        }
        /// Writes tensors by name to a safetensors file. Rank 0 writes, and the other ranks wait for it.
        "save_tensors" (tensors: Map, path: ImmutableString) -> () {
            let tensors = tensor_map(&tensors, "checkpoint::save_tensors")?;
            dist::on_rank0(&format!("the writing of {path}"), || {
                checkpoint::tensors::write(Path::new(path.as_str()), &tensors, &Default::default())
            })
        }
        /// The configuration of a model folder, checked, with the keys of config.json.
        "config" (folder: ImmutableString) -> Map {
            let file = checkpoint::ConfigFile::read(&Path::new(folder.as_str()).join(CONFIG_FILE))?;
            Ok(from_json(&serde_json::to_value(&file.config)?).cast::<Map>())
        }
    }
    group.register(engine);
}

fn open(path: &Path, weights: &str) -> Result<Map> {
    let file = pretrained::find(path, weights)?;
    let config = checkpoint::ConfigFile::read(&file.with_file_name(CONFIG_FILE))?;
    let tensors = checkpoint::weights(&file)?.tensors;
    session::note_loaded(&file);
    let names = config.class_names().map(|names| from_json(&Value::from(names))).unwrap_or(Dynamic::UNIT);
    Ok(Map::from([
        ("path".into(), file.display().to_string().into()),
        ("weights".into(), weights.into()),
        ("config".into(), from_json(&serde_json::to_value(&config.config)?)),
        ("class_names".into(), names),
        (
            "tensors".into(),
            tensors.into_iter().map(|(n, t)| (n.into(), Dynamic::from(Tensor::from(t)))).collect::<Map>().into(),
        ),
    ]))
}

fn load_into(m: &Module, path: &str, o: &FillOptions) -> Result<Map> {
    let file = checkpoint::tensor_file(Path::new(path))?;
    let source = checkpoint::weights(&file)?;
    let report = checkpoint::fill(m.0.as_ref(), &source.tensors, &file.display().to_string(), o.strict)?;
    session::note_loaded(Path::new(path));
    Ok(report_map(report))
}

fn save(m: &Module, folder: &str, o: &SaveOptions) -> Result<()> {
    dist::on_rank0(&format!("the writing of {folder}"), || {
        checkpoint::save(m.0.as_ref(), Path::new(folder), o, session::provenance())
    })
}
