//! `nepa import`: a model of another project as a model folder.

use crate::bail_hint;
use crate::checkpoint::import::{self, ImportOptions, Imported, SCRIPT};
use crate::checkpoint::{self, ModelFolder, Own, SaveOptions, tensors};
use crate::error::{Context as _, Result, ensure};
use crate::files::{Existing, exists, write_folder};
use crate::nn::ModuleRef;
use crate::output::out;
use crate::run::pretrained;
use crate::script::Host;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(
    after_help = "Prints where each tensor comes from, and why others are not taken. What is not known to give the same \
    features is refused. What a plain NEPA computes becomes one; other models carry the script that builds them, \
    model_script/vit.rhai. The recipes and commands that take a model folder take both.\n\
    docs/models.md lists what is read."
)]
pub struct ImportArgs {
    /// The model: a folder of transformers or timm (config.json and weights), or a file of weights (.safetensors, .bin,
    /// .pth, .ckpt).
    source: PathBuf,
    /// The model folder to write.
    dest: PathBuf,
    /// The image size to fit the model to: position embeddings are interpolated as its own library does [default: its own].
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<i64>,
    /// Of a folder with averaged weights beside the raw ones: ema or raw.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    weights: String,
    /// How the names of the model's tensors begin, in a file that holds several models, such as teacher or state_dict_ema.
    #[arg(long, value_name = "NAME")]
    prefix: Option<String>,
    /// Attention heads, where neither a configuration nor the width says how many.
    #[arg(long, value_name = "N")]
    heads: Option<i64>,
    /// Attention is causal: of a NEPA under timm's names, which do not say.
    #[arg(long)]
    causal: bool,
    /// Mean of pixels in 0 to 1, one number or one for each channel, where nothing beside the weights says it.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', requires = "std")]
    mean: Vec<f64>,
    /// Standard deviation of pixels, likewise.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', requires = "mean")]
    std: Vec<f64>,
}

pub fn import(args: &ImportArgs, host: &Host) -> Result<()> {
    if exists(&args.dest)? {
        bail_hint!("{} exists, and is kept", args.dest.display(); "name another folder, or remove it");
    }
    let numbers = args.mean.iter().chain(&args.std);
    ensure!(
        numbers.copied().all(f64::is_finite) && args.std.iter().all(|std| *std > 0.0),
        "--mean and --std: expected numbers, and deviations above 0"
    );
    let options = ImportOptions {
        prefix: args.prefix.clone(),
        heads: args.heads,
        image_size: args.image_size,
        is_causal: args.causal,
        normalization: (!args.mean.is_empty()).then(|| (args.mean.clone(), args.std.clone())),
    };
    // The host builds models from scripts that lie in a folder.
    let scripts = tempfile::tempdir().context("cannot create a temporary folder")?;
    std::fs::write(scripts.path().join(SCRIPT.0), SCRIPT.1).context("cannot write the model's script")?;
    let (kind, file) = pretrained::find(&args.source, &args.weights)?;
    let found = import::import(&file, &options, scripts.path())?;
    let model = filled(&found, &file, host)?;
    write(&found, &model, kind, args)?;
    tell(&found, &model, &args.dest);
    Ok(())
}

/// The model that was read, built and filled: so it fits.
fn filled(found: &Imported, file: &Path, host: &Host) -> Result<ModuleRef> {
    let model = host.model(&found.config)?;
    let hint = "its tensors are not those of the model that its configuration describes";
    checkpoint::fill(model.as_ref(), &found.tensors, &file.display().to_string(), Some(hint))?;
    tensors::ensure_finite(&found.tensors, &file.display().to_string())?;
    let vit = model.vit_nepa().context("the script builds no model")?;
    vit.set_generic(found.config.generic.clone());
    if let Some(preparation) = &found.preparation {
        vit.set_normalization(preparation.normalization.clone())?;
    }
    Ok(model)
}

fn write(found: &Imported, model: &ModuleRef, kind: Option<&'static str>, args: &ImportArgs) -> Result<()> {
    let absolute = std::path::absolute(&args.source).unwrap_or(args.source.clone());
    let mut provenance = found.origin.clone();
    provenance.insert("imported_from".into(), absolute.display().to_string().into());
    provenance.insert("imported_as".into(), found.name.clone().into());
    let weights = kind.or(found.weights).unwrap_or("raw");
    let save = SaveOptions { weights: weights.into(), class_names: None, provenance };
    let copies = found.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    let mut files = ModelFolder::new(model.as_ref(), copies, &save, None)?;
    if let Some(content) = found.preparation.as_ref().and_then(|preparation| preparation.file.as_ref()) {
        files = files.with_preprocessor(content);
    }
    write_folder(&args.dest, Existing::Refuse, |folder| files.write(|name, content| folder.file(name, content)))
}

/// The account, and what to know about the model.
fn tell(found: &Imported, model: &ModuleRef, dest: &Path) {
    let width = found.account.iter().chain(&found.unused).map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, from) in &found.account {
        out!("{name:<width$}  {from}");
    }
    if !found.unused.is_empty() {
        out!("\nnot taken:");
    }
    for (name, why) in &found.unused {
        out!("{name:<width$}  {why}");
    }
    out!();
    for note in &found.notes {
        out!("note: {note}");
    }
    let vit = model.vit_nepa().expect("checked");
    if let Some(preparation) = &found.preparation {
        let normalization = vit.normalization();
        let words = if preparation.words.is_empty() { String::new() } else { format!("{}; ", preparation.words) };
        out!("images: {words}mean {:?}, std {:?}", normalization.mean, normalization.std);
        let side = vit.architecture().image_size;
        if let Some(edge) = preparation.resize.filter(|edge| *edge != side * 8 / 7) {
            out!("recipes resize the shorter side to {}: --set resize={edge} is this model's own", side * 8 / 7);
        }
    }
    let attention = if vit.architecture().is_causal { "causal" } else { "in both directions" };
    let by = if matches!(found.config.own, Some(Own::Script(_))) { ", built by its model_script" } else { "" };
    out!("wrote {}: {}, attention {attention}{by}", dest.display(), found.name);
}
