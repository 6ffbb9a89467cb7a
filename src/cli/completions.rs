//! `nepa completions` and `nepa man`

use crate::error::{Context as _, Result};
use crate::output::{out, to_stdout};
use clap::Command;
use clap_complete::Shell;
use std::path::Path;

pub const HELP: &str = "\
To use them:
  bash  nepa completions bash > ~/.local/share/bash-completion/completions/nepa
  zsh   nepa completions zsh > DIR/_nepa, where DIR is a folder of $fpath
  fish  nepa completions fish > ~/.config/fish/completions/nepa.fish";

pub fn completions(shell: Shell, mut command: Command) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "nepa", &mut text);
    to_stdout(&String::from_utf8(text).context("completions are text")?);
    Ok(())
}

pub fn man(dir: &Path, command: Command) -> Result<()> {
    let writing = || format!("cannot write man pages to {}", dir.display());
    std::fs::create_dir_all(dir).with_context(writing)?;
    clap_mangen::generate_to(command.disable_help_subcommand(true), dir).with_context(writing)?;
    out!("wrote nepa.1 and a page for each command to {}", dir.display());
    Ok(())
}
