//! `cargo xtask fuzz`: the readers of files from elsewhere, given damaged ones for as long as is asked.

use crate::{
    cargo::project,
    commands::Usage,
    host,
    libtorch::{self, Want},
};
use anyhow::{Context, Result, bail};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

pub const HELP: &str = "\
Usage: cargo xtask fuzz [TARGET] [--seconds N]

Gives damaged files to a reader, or to all of them one after the other, for N seconds each (60). What it finds is
written to fuzz/artifacts/TARGET, what it learns is kept in fuzz/corpus/TARGET. fuzz/README.md says more.

Needs a nightly toolchain (`rustup toolchain install nightly`) and cargo-fuzz (`cargo install cargo-fuzz`).
";

/// No input takes longer, nor more memory; larger ones show nothing new.
const LIMITS: [&str; 3] = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=1000000"];

/// A line of fuzz/seeds.txt: a target, and patterns of the files that it begins with.
struct Target {
    name: String,
    seeds: Vec<PathBuf>,
}

pub fn fuzz(args: &[OsString]) -> Result<ExitCode> {
    let project = project();
    let all = targets(&project)?;
    let (mut chosen, mut seconds) = (None, "60".to_string());
    let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            seconds = args.next().unwrap_or_default();
            if seconds.parse::<u32>().is_err() {
                bail!(Usage(format!("--seconds is \"{seconds}\", expected a whole number")));
            }
        } else if all.iter().any(|target| target.name == arg) {
            chosen = Some(arg);
        } else {
            let names: Vec<&str> = all.iter().map(|target| target.name.as_str()).collect();
            bail!(Usage(format!("there is no target `{arg}`. Targets: {}", names.join(", "))));
        }
    }
    libtorch::ensure(&project, Want::Linked)?;
    need_tools(&project)?;
    let mut failed = Vec::new();
    for target in all.into_iter().filter(|target| chosen.as_ref().is_none_or(|name| *name == target.name)) {
        println!("==> {}", target.name);
        if !run(&project, &target, &seconds)? {
            failed.push(target.name);
        }
    }
    match failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => bail!("faults were found: {}; fuzz/README.md says what to do", failed.join(", ")),
    }
}

fn targets(project: &Path) -> Result<Vec<Target>> {
    let list = project.join("fuzz/seeds.txt");
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.split(' ').map(str::to_string);
            let name = words.next().unwrap_or_default();
            let mut seeds = Vec::new();
            for pattern in words.chain([format!("fuzz/seeds/{name}/*")]) {
                let pattern = project.join(pattern);
                seeds.extend(glob::glob(&pattern.to_string_lossy())?.collect::<Result<Vec<_>, _>>()?);
            }
            Ok(Target { name, seeds })
        })
        .collect()
}

/// Nightly's cargo, which rustup finds: the one that runs us is another toolchain's.
fn nightly(project: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly").current_dir(project);
    host::clean_env(&mut command, project);
    command
}

fn need_tools(project: &Path) -> Result<()> {
    let works = |args: &[&str]| {
        let status = nightly(project).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !works(&["--version"]) {
        bail!("there is no nightly toolchain; `rustup toolchain install nightly` installs it");
    }
    if !works(&["fuzz", "--version"]) {
        bail!("there is no cargo-fuzz; `cargo install cargo-fuzz` installs it");
    }
    Ok(())
}

/// Whether a target survives.
fn run(project: &Path, target: &Target, seconds: &str) -> Result<bool> {
    let folder = |kind: &str| project.join("fuzz").join(kind).join(&target.name);
    let (corpus, artifacts) = (folder("corpus"), folder("artifacts"));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    for seed in &target.seeds {
        let name = seed.strip_prefix(project).unwrap_or(seed).to_string_lossy().replace('/', "-");
        fs::copy(seed, corpus.join(name)).with_context(|| format!("cannot copy {}", seed.display()))?;
    }
    let libtorch = host::own_libtorch(project)?.unwrap_or_else(|| project.join(".libtorch"));
    let mut command = nightly(project);
    // Without AddressSanitizer, whose memory the limits would count: Rust's allocations are counted by the program.
    command.args(["fuzz", "run", "--sanitizer", "none", "readers"]).arg(&corpus).arg("--").args(LIMITS);
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.env("NEPA_FUZZ_TARGET", &target.name).env("LD_LIBRARY_PATH", libtorch.join("lib"));
    // The listings of its files are of no use to anyone.
    command.env("NEPA_CACHE", project.join("fuzz/target/cache"));
    Ok(command.status().context("cannot start cargo")?.success())
}
