//! `cargo xtask gpu-check`: what nepa does on a real GPU, found out within minutes and written down to be sent in.
//!
//! Each part runs nepa as a child with a deadline of its own (`process.rs`) and tells what it found in a section of the
//! report (`report.rs`), which is written again after each.

mod images;
mod parts;
mod process;
mod report;

use crate::{
    cargo::{self, project},
    commands::Usage,
    host,
    libtorch::{self, Want},
};
use anyhow::{Context, Result, bail};
use process::{Deadline, Ended, Runner};
use report::{Report, State, Trouble};
use std::{
    cell::OnceCell,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

pub const HELP: &str = "\
Usage: cargo xtask gpu-check [--out DIR] [--minutes N] [--nepa PATH] [--reference DIR --python PYTHON] [--rehearsal]

Finds out what nepa does on this machine's GPU, and writes it to DIR/report.md and DIR/report.json: the device; numbers
and training beside recorded ones; speed and memory of a step of the base and the large model; a killed and resumed run;
recipes beside the CPU; NCCL; the loader of images. docs/gpu.md says how to send in a report, and what is in it.

  --out DIR         where to write [gpu-check]; an earlier report there is replaced
  --minutes N       ends within so many minutes, whatever part hangs [10]; the report says what was not done
  --nepa PATH       checks this binary; unless given, nepa is built in release mode, as by `cargo xtask run`
  --reference DIR   times the PyTorch reference's step too, eager and compiled: a checkout of it, and
  --python PYTHON   a Python with what it needs (benches/train/README.md)
  --rehearsal       everything at a size that takes seconds: what is measured means nothing

With --nepa nothing is compiled. Then the folders examples, recipes and tests/fixtures of the repository are enough, in
or above the current one; `target/debug/xtask gpu-check …` is this command without cargo. A binary that does not find
libtorch, or finds one without CUDA, needs the torch/lib folder of a PyTorch 2.11 with CUDA in LD_LIBRARY_PATH.
CUDA_VISIBLE_DEVICES chooses the GPUs. TMPDIR needs room for 8 GB.

Exit code: 0 if every part is ok or was skipped, 1 if one failed or came too late.
";

/// What nepa says where there is no GPU.
const NO_GPU: &str = "device `cuda` was asked for";

struct Options {
    out: PathBuf,
    time: Duration,
    nepa: Option<PathBuf>,
    reference: Option<Reference>,
    rehearsal: bool,
}

/// The PyTorch reference.
pub struct Reference {
    pub checkout: PathBuf,
    pub python: PathBuf,
}

/// What the parts share.
pub struct Check {
    pub nepa: PathBuf,
    /// Where examples, recipes and tests/fixtures are.
    pub checkout: PathBuf,
    /// For files that nobody needs afterwards.
    pub work: PathBuf,
    pub reference: Option<Reference>,
    pub rehearsal: bool,
    pub runner: Runner,
    /// GPUs that libtorch sees.
    pub gpus: u64,
    /// What matrix products in bfloat16 reach, in FLOP/s.
    pub matmul_rate: Option<f64>,
    /// What the base model's step takes in.
    pub images_per_second: Option<f64>,
    images: OnceCell<images::Images>,
}

pub fn gpu_check(args: &[OsString]) -> Result<ExitCode> {
    let options = parse(args)?;
    let checkout = checkout()?;
    let nepa = match &options.nepa {
        Some(nepa) => nepa.clone(),
        None => {
            libtorch::ensure(&project(), Want::Linked)?;
            match cargo::build_nepa(&project())? {
                Ok(nepa) => nepa,
                Err(code) => return Ok(code),
            }
        }
    };
    let end = Deadline::after(options.time);
    let work =
        tempfile::Builder::new().prefix("nepa-gpu-check-").tempdir().context("cannot create a folder in TMPDIR")?;
    parts::write_scripts(work.path())?;
    let mut check = Check {
        nepa,
        checkout,
        work: work.path().to_path_buf(),
        reference: options.reference,
        rehearsal: options.rehearsal,
        runner: Runner::new(options.out.join("logs"))?,
        gpus: 0,
        matmul_rate: None,
        images_per_second: None,
        images: OnceCell::new(),
    };
    run_parts(&mut check, &options.out, end)
}

/// Runs all parts, and writes the report after each.
fn run_parts(check: &mut Check, out: &Path, end: Deadline) -> Result<ExitCode> {
    let parts = parts::all(check);
    let mut report = Report::new(out, check, &parts);
    let started = Instant::now();
    let progress = |text: String| eprintln!("[{:>4.0} s] {text}", started.elapsed().as_secs_f64());
    for (i, part) in parts.iter().enumerate() {
        let shares: f64 = parts[i..].iter().map(|part| part.share).sum();
        let deadline = if shares > 0. { end.within(end.left().mul_f64(part.share / shares)) } else { end };
        if let Some(why) = why_not_run(&report, check) {
            report.section(i).end(Err(Trouble::skipped(why)), Duration::ZERO);
            continue;
        }
        progress(format!("{}: at most {:.0} s", part.name, deadline.left().as_secs_f64()));
        report.section(i).state = State::Running;
        if i > 0 {
            report.write()?;
        }
        let began = Instant::now();
        let ended = (part.run)(check, deadline, report.section(i));
        report.section(i).end(ended, began.elapsed());
        let section = report.section(i);
        // Without a GPU there is nothing to report; what else is wrong with one is.
        if i == 0 && section.output.iter().any(|line| line.contains(NO_GPU)) {
            let said: Vec<_> = section.output.iter().map(|line| format!("\n  {line}")).collect();
            bail!("there is no GPU to check:{}", said.concat());
        }
        progress(format!("{} {}", part.name, section.in_a_line()));
        report.write()?;
    }
    report.write()?;
    eprintln!("{}\n{}", report.verdict(), report.file().display());
    Ok(match report.worst() {
        State::Interrupted => ExitCode::from(130),
        State::Ok => ExitCode::SUCCESS,
        _ => ExitCode::from(1),
    })
}

/// Why the parts that are left cannot say anything.
fn why_not_run(report: &Report, check: &Check) -> Option<&'static str> {
    if check.runner.is_interrupted() {
        return Some("the check was interrupted");
    }
    // A driver that does not answer would cost every part its time.
    (report.first().state == State::Late).then_some("the device does not answer")
}

fn parse(args: &[OsString]) -> Result<Options> {
    let (mut out, mut time) = (PathBuf::from("gpu-check"), Duration::from_secs(600));
    let (mut nepa, mut reference, mut python, mut rehearsal) = (None, None, None, false);
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let name = name.to_string_lossy();
        let mut value = || match args.next() {
            Some(value) if !value.is_empty() => Ok(value.clone()),
            _ => Err(Usage(format!("{name} needs a value; see `cargo xtask gpu-check --help`"))),
        };
        match name.as_ref() {
            "--out" => out = value()?.into(),
            "--nepa" => nepa = Some(file(&name, &value()?)?),
            "--reference" => reference = Some(std::path::absolute(value()?)?),
            // Not absolute: a name that PATH finds is one too.
            "--python" => python = Some(value()?.into()),
            "--rehearsal" => rehearsal = true,
            "--minutes" => {
                let text = value()?;
                let minutes = text.to_str().and_then(|text| text.parse::<f64>().ok());
                let minutes = minutes.filter(|minutes| (0.01..=1e5).contains(minutes));
                let Some(minutes) = minutes else {
                    bail!(Usage(format!("--minutes: expected a number from 0.01, found \"{}\"", text.display())));
                };
                time = Duration::from_secs_f64(60. * minutes);
            }
            _ => bail!(crate::commands::unknown("argument", &name, &OPTIONS, "cargo xtask gpu-check --help")),
        }
    }
    let reference = match (reference, python) {
        (Some(checkout), Some(python)) => Some(Reference { checkout, python }),
        (None, None) => None,
        _ => bail!(Usage("--reference and --python go together; see benches/train/README.md".into())),
    };
    Ok(Options { out: std::path::absolute(out)?, time, nepa, reference, rehearsal })
}

const OPTIONS: [&str; 7] = ["--out", "--minutes", "--nepa", "--reference", "--python", "--rehearsal", "--help"];

/// The file that an option names.
fn file(option: &str, path: &OsString) -> Result<PathBuf> {
    let path = std::path::absolute(path)?;
    if !path.is_file() {
        bail!(Usage(format!("{option}: expected a file, and {} is none", path.display())));
    }
    Ok(path)
}

/// Where the files are that the parts use: above the current folder, which may be a copy of some folders, else the
/// checkout.
fn checkout() -> Result<PathBuf> {
    let has_files = |dir: &&Path| dir.join("tests/fixtures/model").is_dir() && dir.join("recipes").is_dir();
    let here = env::current_dir()?;
    let found = here.ancestors().find(has_files).map(Path::to_path_buf).unwrap_or_else(project);
    if !has_files(&found.as_path()) {
        bail!(
            "there is no tests/fixtures/model with recipes beside it in or above {}: run gpu-check in a copy of the \
               repository, of which examples, recipes and tests/fixtures are enough",
            here.display()
        );
    }
    Ok(found)
}

impl Check {
    /// nepa, to be given arguments.
    fn nepa(&self) -> Command {
        let mut command = self.program(&self.nepa);
        // Listings of the images here are of no use later.
        command.env("NEPA_CACHE", self.work.join("cache"));
        command
    }

    /// A program, to be started in the folder for files that nobody needs afterwards.
    fn program(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        host::clean_env(&mut command, &self.checkout);
        command.current_dir(&self.work).stdin(Stdio::null());
        command
    }

    /// Runs a recipe on a device, and waits for its success. `what` names the run in messages and in logs/.
    fn run(
        &self,
        what: &str,
        recipe: &Path,
        device: &str,
        more: &[String],
        deadline: Deadline,
    ) -> Result<Ended, Trouble> {
        let mut command = self.nepa();
        self.recipe(&mut command, recipe, device).args(more);
        self.runner.run(what, &mut command, deadline, &mut || None)?.succeeded()
    }

    /// The arguments of a run of a recipe.
    fn recipe<'c>(&self, command: &'c mut Command, recipe: &Path, device: &str) -> &'c mut Command {
        command.arg("run").arg(recipe).args(["--device", device]);
        // What is rehearsed is little, and other work may go on beside it.
        if self.rehearsal { command.args(["--threads", "1"]) } else { command }
    }

    /// A script of this folder.
    fn script(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// Synthetic images as files, made when first asked for.
    fn images(&self) -> Result<&images::Images> {
        if self.images.get().is_none() {
            let made = images::make(&self.work.join("images"), self.rehearsal)?;
            let _ = self.images.set(made);
        }
        Ok(self.images.get().expect("made above"))
    }
}

/// Options `--set name=value`.
fn sets(values: &[(&str, String)]) -> Vec<String> {
    values.iter().flat_map(|(name, value)| ["--set".to_string(), format!("{name}={value}")]).collect()
}

/// Writes a file as a whole: a reader finds the old or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
