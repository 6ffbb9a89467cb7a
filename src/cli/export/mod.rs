//! `nepa export`: a model for programs that know nothing of nepa.

mod card;
mod python;

use crate::bail_hint;
use crate::checkpoint::config_json::class_names_in;
use crate::checkpoint::{
    self, CONFIG_FILE, MODEL_FILE, ModelFolder, Own, SaveOptions, StoredModel, origin, preprocessor, tensors, to_timm,
};
use crate::error::{Result, ensure};
use crate::files::{Existing, exists, write_folder};
use crate::nn::{Architecture, VitNepa, VitNepaOverrides, named_state};
use crate::output::out;
use crate::provenance::ModelProvenance;
use crate::run::pretrained;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Tensor;

#[derive(Args)]
#[command(
    after_help = "hf and timm write a folder, onnx and torch a file. onnx and torch need a Python with PyTorch, and compare what \
    they have written with the model before it gets its name (onnx by onnxruntime, where that is installed)."
)]
pub struct ExportArgs {
    /// The model: a run (its newest checkpoint), a checkpoint, a model folder or a file of weights.
    model: PathBuf,
    /// The folder (hf, timm) or file (.onnx, .pt2) to write.
    dest: PathBuf,
    /// For which program.
    #[arg(long, value_enum)]
    to: To,
    /// What of a classifier to export: all of it, or only its encoder [default: all that the model has].
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Which weights of a run or checkpoint: ema or raw.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    weights: String,
    /// Dtype of the weights and the computation (onnx, torch): float32 or float16 [default: float32].
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    /// Whether the program takes uint8 images and normalises them itself (onnx, torch).
    #[arg(long)]
    preprocess: bool,
    /// The Python to use (onnx, torch) [default: that of the environment that nepa is installed in, else python3].
    #[arg(long, value_name = "PROGRAM", env = "NEPA_PYTHON")]
    python: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum To {
    /// A Hugging Face folder: config.json, weights, preprocessor_config.json and a model card.
    Hf,
    /// Weights by the names of timm's Eva, with its arguments in config.json.
    Timm,
    /// An ONNX file, for batches of any size.
    Onnx,
    /// A program of torch.export, which PyTorch runs without nepa.
    Torch,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// The network without its head.
    Encoder,
    /// The network with its head.
    Classifier,
}

pub fn export(args: &ExportArgs) -> Result<()> {
    let own = match args.to {
        To::Onnx | To::Torch => "hf or timm: only onnx and torch compute",
        To::Hf | To::Timm => "onnx or torch: a folder holds what the model has",
    };
    if let To::Hf | To::Timm = args.to
        && (args.dtype.is_some() || args.preprocess)
    {
        let option = if args.preprocess { "--preprocess" } else { "--dtype" };
        bail_hint!("{option} is for --to {own}"; "leave it out");
    }
    if exists(&args.dest)? {
        bail_hint!("{} exists, and is kept", args.dest.display(); "name another folder or file, or remove it");
    }
    match args.to {
        To::Hf | To::Timm => folder(args),
        To::Onnx => python::export(args, "onnx"),
        To::Torch => python::export(args, "torch"),
    }
}

/// A model that was read, with what its folder says about it.
struct Model {
    built: VitNepa,
    weights: &'static str,
    /// provenance.json, if there is one.
    provenance: Map<String, Value>,
    /// How its images are prepared: preprocessor_config.json.
    preprocessor: Map<String, Value>,
}

impl Model {
    fn read(args: &ExportArgs) -> Result<Self> {
        let (kind, file) = pretrained::find(&args.model, &args.weights)?;
        let stored = StoredModel::read(&file)?;
        if let Some(Own::Script(_)) = stored.config.own {
            bail_hint!(
                "{}: this model is built by a script of its own, which no other program can run", file.display();
                "its folder is read by nepa alone"
            );
        }
        let path = file.with_file_name(ModelProvenance::FILE);
        let provenance = if exists(&path)? { crate::files::read_json(&path)? } else { Map::new() };
        let whole = stored.build()?;
        let labels = whole.architecture().num_labels;
        let built = match args.part {
            Some(Part::Classifier) if labels == 0 => {
                bail_hint!("{} has no classification head", args.model.display(); "--part encoder, or leave it out")
            }
            Some(Part::Encoder) if labels > 0 => encoder(&whole)?,
            _ => whole,
        };
        let preprocessor = match preprocessor::read(&file.with_file_name(preprocessor::FILE))? {
            Some(content) => content,
            None => preprocessor::to_json(&built),
        };
        Ok(Self { built, weights: kind.unwrap_or("raw"), provenance, preprocessor })
    }

    /// Where its weights come from, for a new provenance.json.
    fn origin(&self, from: &Path) -> Map<String, Value> {
        let mut origin = origin(&self.provenance);
        let absolute = std::path::absolute(from).unwrap_or(from.to_path_buf());
        origin.insert("exported_from".into(), absolute.display().to_string().into());
        origin
    }
}

/// The network of a classifier without its head.
fn encoder(whole: &VitNepa) -> Result<VitNepa> {
    let mut config = crate::nn::VitNepaConfig::clone(whole.architecture());
    config.num_labels = 0;
    let encoder = VitNepa::new(&Architecture::new(&config)?, VitNepaOverrides::default())?;
    let body: Vec<(String, Tensor)> = named_state(whole)
        .into_iter()
        .filter(|(name, _)| !name.starts_with("classifier.") && !name.starts_with("fc_norm."))
        .collect();
    checkpoint::fill(&encoder, &body, "the classifier", Some("this is a fault of nepa"))?;
    encoder.set_normalization(whole.normalization())?;
    let mut generic = whole.generic();
    ["id2label", "label2id", "problem_type"].iter().for_each(|key| drop(generic.remove(*key)));
    encoder.set_generic(generic);
    Ok(encoder)
}

fn folder(args: &ExportArgs) -> Result<()> {
    let model = Model::read(args)?;
    let all = named_state(&model.built);
    tensors::ensure_finite(&all, model.weights)?;
    let text = |text: String| move |out: &mut dyn Write| Ok(out.write_all(text.as_bytes())?);
    if args.to == To::Hf {
        let provenance = model.origin(&args.model);
        let options = SaveOptions { weights: model.weights.into(), class_names: None, provenance };
        let files = ModelFolder::new(&model.built, all, &options, None)?.with_preprocessor(&model.preprocessor);
        write_folder(&args.dest, Existing::Refuse, |folder| {
            files.write(|name, content| folder.file(name, content))?;
            folder.file("README.md", text(card::card(&model)))
        })?;
    } else {
        let timm = to_timm(model.built.architecture(), all)?;
        let config = timm_config(&model, &timm.args, model.origin(&args.model));
        let metadata = BTreeMap::from([("format", "pt".to_string())]);
        write_folder(&args.dest, Existing::Refuse, |folder| {
            folder.file(CONFIG_FILE, text(format!("{config:#}\n")))?;
            folder.file(MODEL_FILE, |out| tensors::write_to(out, &timm.tensors, &metadata))
        })?;
        let width = timm.account.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, from) in &timm.account {
            out!("{name:<width$}  {from}");
        }
        ensure!(!timm.account.is_empty(), "nothing was exported");
        tell_timm(&model, &args.dest);
    }
    out!("wrote {}", args.dest.display());
    Ok(())
}

/// timm's config.json for a model of these arguments.
fn timm_config(model: &Model, args: &Map<String, Value>, origin: Map<String, Value>) -> Value {
    let architecture = model.built.architecture();
    let side = architecture.image_size;
    // timm's loader divides pixels by 255 before this.
    let normalization = model.built.normalization();
    let unit = if normalization.is_unchanged { 255.0 } else { 1.0 };
    let [mean, std] =
        [normalization.mean, normalization.std].map(|all| all.iter().map(|x| x / unit).collect::<Vec<f64>>());
    let fit = preprocessor::Fit::of(&model.preprocessor);
    let scale = side as f64 / fit.crop.unwrap_or(side).max(1) as f64;
    let edge = (fit.edge.unwrap_or(side).max(1) as f64 * scale).round();
    // timm takes the floor of side / crop_pct, which rounding may make one less.
    let share = side as f64 / edge;
    let share = if (side as f64 / share).floor() < edge { side as f64 / (edge + 1e-6) } else { share };
    let mut config = json!({
        // Any of Eva's: the arguments replace all of its own.
        "architecture": "vit_small_patch16_dinov3",
        "num_classes": args["num_classes"], "num_features": args["embed_dim"],
        "model_args": args,
        // What timm has no key for; `nepa import` reads it.
        "nepa": {
            "is_causal": architecture.is_causal,
            "layer_norm_eps": architecture.layer_norm_eps,
            "preprocessor": model.preprocessor,
            "weights": model.weights,
            "origin": origin,
        },
        "pretrained_cfg": {
            "input_size": [args["in_chans"], side, side], "mean": mean, "std": std,
            "interpolation": fit.interpolation.unwrap_or("bilinear"),
            "crop_mode": if fit.squashes { "squash" } else { "center" }, "crop_pct": share,
            "num_classes": args["num_classes"], "first_conv": "patch_embed.proj", "classifier": "head",
        },
    });
    if let Some(names) = class_names_in(&model.built.generic()) {
        config["label_names"] = names.into();
    }
    config
}

/// What timm has to be told.
fn tell_timm(model: &Model, dest: &Path) {
    let config = model.built.architecture();
    out!("\nmodel = timm.create_model(\"local-dir:{}\", pretrained=True,", dest.display());
    out!("    norm_layer=partial(timm.layers.LayerNorm, eps={:e}))", config.layer_norm_eps);
    if config.is_causal {
        out!("attention is causal: model(images, is_causal=True); without, timm attends in both directions");
    }
}
