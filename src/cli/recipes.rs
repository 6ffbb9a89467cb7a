//! `nepa recipes`

use crate::bail_hint;
use crate::error::{Context as _, Result, did_you_mean};
use crate::output::out;
use crate::script::embedded;
use clap::{Args, Subcommand};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

#[derive(Args)]
pub struct RecipesArgs {
    #[command(subcommand)]
    command: Option<RecipesCommand>,
}

#[derive(Subcommand)]
enum RecipesCommand {
    /// Writes a recipe to a new file, to be edited and run.
    Copy {
        /// Which recipe, as `nepa recipes` lists them.
        name: String,
        /// The new file, or a folder for it [default: NAME.rhai].
        to: Option<PathBuf>,
    },
}

/// In the order in which a user meets them.
const RECIPES: &[(&str, &str)] = embedded!["recipes":
    "quickstart.rhai",
    "fashion_mnist.rhai",
    "cifar10.rhai",
    "continue_pretraining.rhai",
    "ablations.rhai",
    "pretrain_vits.rhai",
    "pretrain_vitb.rhai",
    "pretrain_vitl.rhai",
    "finetune_vitb.rhai",
    "finetune_vitl.rhai",
    "linear_probe.rhai",
    "knn.rhai",
    "retrieval.rhai",
    "embed.rhai",
    "eval_imagenet1k.rhai",
    "visualize.rhai",
];

/// A recipe's name, by its file or as it is.
fn name_of(file: &str) -> &str {
    file.strip_suffix(".rhai").unwrap_or(file)
}

/// The text of a recipe, by its file's name.
pub fn text(file: &str) -> &'static str {
    RECIPES.iter().find(|(name, _)| *name == file).map(|(_, text)| *text).expect("one of the recipes")
}

pub fn recipes(args: &RecipesArgs) -> Result<()> {
    match &args.command {
        None => list(),
        Some(RecipesCommand::Copy { name, to }) => copy(name, to.clone())?,
    }
    Ok(())
}

fn list() {
    for (file, text) in RECIPES {
        out!("{:<20}  {}", name_of(file), first_sentence(text));
    }
    out!("\nnepa recipes copy NAME     writes one to NAME.rhai, to be edited and run");
    out!("nepa run NAME.rhai --help  lists its parameters");
}

/// The first sentence of a recipe's header, without its full stop.
fn first_sentence(text: &str) -> String {
    let header = text.lines().map_while(|line| line.strip_prefix("//"));
    let words = header.map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let end = words.find(". ").unwrap_or(words.len());
    words[..end].trim_end_matches('.').to_string()
}

fn copy(name: &str, to: Option<PathBuf>) -> Result<()> {
    let name = name_of(name);
    let Some((file, text)) = RECIPES.iter().find(|(file, _)| name_of(file) == name) else {
        let near = did_you_mean(name, RECIPES.iter().map(|(file, _)| name_of(file)));
        bail_hint!("no recipe is called `{name}`{near}"; "`nepa recipes` lists them");
    };
    let path = match to {
        Some(folder) if folder.is_dir() => folder.join(file),
        Some(path) => path,
        None => file.into(),
    };
    let writing = || format!("cannot write {}", path.display());
    let mut new = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(new) => new,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            bail_hint!("{} exists, and is kept", path.display(); "name another file: nepa recipes copy {name} FILE.rhai")
        }
        Err(e) => return Err(e).with_context(writing),
    };
    new.write_all(text.as_bytes()).with_context(writing)?;
    out!("wrote {0}; run it with `nepa run {0}`", crate::text::shell_word(&path.display().to_string()));
    Ok(())
}
