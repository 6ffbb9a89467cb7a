//! Which run `nepa run` starts or resumes, and the command that resumes it.

use super::{DIST_TIMEOUT, RunArgs, command_line};
use crate::bail_hint;
use crate::dist;
use crate::error::Result;
use crate::run::{RunFile, directory};
use crate::text::shell_word;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What rank 0 chooses for all: the run directory, and what a resumed run takes over from it.
#[derive(Serialize, Deserialize)]
struct Choices {
    set: Vec<(String, String)>,
    seed: Option<u64>,
    out: Option<PathBuf>,
}

/// Puts rank 0's choices into the arguments of all ranks.
pub fn adopt_choices(args: &mut RunArgs) -> Result<()> {
    let choices = dist::broadcast_from_rank0("the run to resume", || Ok(serde_json::to_value(choose(args)?)?))?;
    let Choices { set, seed, out } = serde_json::from_value(choices)?;
    (args.set, args.seed, args.out) = (set, seed, out);
    Ok(())
}

/// Finds the run that `--resume` means; the command line takes precedence over what that run was given.
fn choose(args: &RunArgs) -> Result<Choices> {
    if let Some(dir) = args.out.iter().chain(args.resume.iter().flatten()).find(|dir| dir.to_str().is_none()) {
        bail_hint!("the name of the run directory {} is not UTF-8", dir.display(); "choose another one");
    }
    let Some(resume) = args.resume.clone() else {
        if let (None, Some(name)) = (&args.out, args.allow_change.first()) {
            bail_hint!("--allow-change {name}: no run is resumed"; "give the run's directory with --resume or --out");
        }
        return Ok(Choices { set: args.set.clone(), seed: args.seed, out: args.out.clone() });
    };
    let dir = match (resume, &args.out, &args.recipe) {
        (Some(dir), Some(out), _) if dir != *out => bail_hint!(
            "--resume {} and --out {} name different directories", dir.display(), out.display();
            "a run is resumed in its own directory: give --resume alone"
        ),
        (Some(dir), ..) => dir,
        (None, Some(out), _) => out.clone(),
        (None, None, Some(recipe)) => directory::newest_run_of(recipe)?,
        (None, None, None) => unreachable!("checked by the caller"),
    };
    directory::ensure_is_run(&dir)?;
    let run = RunFile::read(&dir)?;
    if let Some(recipe) = &args.recipe {
        directory::ensure_same_recipe(&dir, &run, recipe)?;
    }
    let mut set = args.set.clone();
    set.extend(run.set.into_iter().filter(|(name, _)| !args.set.iter().any(|(given, _)| given == name)));
    Ok(Choices { set, seed: args.seed.or(Some(run.seed)), out: Some(dir) })
}

/// The command that resumes a run in the same way.
pub fn resuming_command(args: &RunArgs, stdlib: Option<&Path>, recipe: &Path, dir: &Path) -> String {
    let quoted = |word: String| shell_word(&word).into_owned();
    let mut words = vec!["nepa".to_string(), "run".into(), quoted(recipe.display().to_string())];
    words.extend(["--resume".into(), quoted(dir.display().to_string())]);
    // An attempt that did not come to a step has left no trace in the run, nor what was to be changed.
    let command = command_line();
    let knows = |run: RunFile| run.resumed.last().map_or(run.command == command, |last| last.command == command);
    if !RunFile::read(dir).is_ok_and(knows) {
        words.extend(args.set.iter().flat_map(|(name, value)| ["--set".into(), quoted(format!("{name}={value}"))]));
        words.extend(args.seed.iter().flat_map(|seed| ["--seed".into(), seed.to_string()]));
        words.extend(args.allow_change.iter().flat_map(|name| ["--allow-change".into(), quoted(name.clone())]));
    }
    if let Some(folder) = stdlib {
        words.extend(["--stdlib".into(), quoted(folder.display().to_string())]);
    }
    if let Some(device) = &args.compute.device {
        words.extend(["--device".into(), quoted(device.clone())]);
    }
    if let Some(threads) = args.compute.threads {
        words.extend(["--threads".into(), threads.to_string()]);
    }
    words.extend(args.log.iter().flat_map(|to| ["--log".into(), to.to_string()]));
    if std::env::var_os(dist::STORE_FD).is_some() {
        words.extend(["--nproc".into(), dist::world_size().to_string()]);
    }
    if dist::world_size() > 1 && args.compute.dist_timeout != DIST_TIMEOUT {
        words.extend(["--dist-timeout".into(), args.compute.dist_timeout.to_string()]);
    }
    words.join(" ")
}
