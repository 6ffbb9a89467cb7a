//! `nepa embed`: runs the recipe `embed` with options of its own.

use super::{ComputeArgs, RunArgs, key_value, recipes, run};
use crate::run::signals::Interrupt;
use crate::script::Host;
use clap::Args;
use std::path::Path;

/// The recipe, by the name under which errors show its lines.
const RECIPE: &str = "embed.rhai";

#[derive(Args)]
#[command(
    after_help = "Each file appears whole. Stopped, it goes on with the files that are missing when it is started again.\n\
    `nepa recipes copy embed` writes the recipe behind this command to a file, to be changed."
)]
pub struct EmbedArgs {
    /// The model: a run (its newest checkpoint), a checkpoint, a model folder or a file of weights.
    model: String,
    /// The images, in any layout that recipes read.
    data: String,
    /// The file to write, as .parquet (columns name, label, class_name, features), .npy (names and labels in a .csv
    /// beside it) or .safetensors. Many images go into several files, NAME-00000-of-00012.parquet.
    to: String,
    /// Which split of the images, if there are several.
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Which weights of a run or checkpoint: ema or raw.
    #[arg(long, value_name = "NAME")]
    weights: Option<String>,
    /// The block whose output is the feature: 0 (patch embedding) to the number of blocks, or last [default: last].
    #[arg(long, value_name = "B")]
    block: Option<String>,
    /// The token: mean (of the patch tokens), class, or last [default: mean].
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Images per step and process [default: 64].
    #[arg(long, value_name = "N")]
    batch: Option<String>,
    /// Dtype of the model's matrix products: float32 or bfloat16 [default: float32].
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    /// What to do about an image that cannot be read: error, or skip [default: error].
    #[arg(long, value_name = "WHAT")]
    on_bad: Option<String>,
    /// Images in a file [default: 65536].
    #[arg(long, value_name = "N")]
    shard: Option<String>,
    /// Another parameter of the recipe, such as resize, mean or is_causal; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    compute: ComputeArgs,
}

pub fn embed(args: EmbedArgs, host: impl FnOnce(Interrupt) -> Host) -> u8 {
    let given = [("model", args.model), ("data", args.data), ("to", args.to)];
    let options = [
        ("split", args.split),
        ("weights", args.weights),
        ("block", args.block),
        ("token", args.token),
        ("batch", args.batch),
        ("dtype", args.dtype),
        ("on_bad", args.on_bad),
        ("shard", args.shard),
    ];
    let options = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let all = given.into_iter().chain(options).map(|(name, value)| (name.to_string(), value));
    let run = RunArgs {
        recipe: Some(RECIPE.into()),
        set: all.chain(args.set).collect(),
        compute: args.compute,
        out: None,
        resume: None,
        allow_change: Vec::new(),
        seed: None,
        log: Vec::new(),
        help: false,
    };
    run::run(run, |interrupt| {
        let host = host(interrupt);
        host.sources.build_in(Path::new(RECIPE), recipes::text(RECIPE));
        host
    })
}
