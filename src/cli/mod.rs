//! The command line, one file per command.

mod advice;
mod api;
mod before_main;
mod check;
mod completions;
mod data;
mod doctor;
mod embed;
mod export;
mod import;
mod inspect;
mod launcher;
mod plot;
mod recipes;
mod report;
mod resuming;
mod run;
mod sweep;
mod sync;
mod watch;

use crate::error::{Context as _, Result};
use crate::output::{answered, err, out, to_stderr};
use crate::run::signals::Interrupt;
use crate::script::{Host, Sources, error::ScriptError};
pub use before_main::before_main;
use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand};
use std::path::PathBuf;

/// How long processes wait for each other, in seconds, unless told otherwise.
const DIST_TIMEOUT: u64 = 600;

/// Exit code for a user's mistake: in the arguments, a recipe, a file.
const FAILED: u8 = 1;

/// Trains, fine-tunes and evaluates NEPA vision transformers, composed in Rhai scripts.
#[derive(Parser)]
#[command(name = "nepa", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Folder whose scripts replace those of the embedded standard library.
    #[arg(long, global = true, env = "NEPA_STDLIB", value_name = "DIR")]
    stdlib: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a recipe; with a recipe and --help, lists its parameters.
    #[command(disable_help_flag = true)]
    Run(RunArgs),
    /// Resolves every import and function of a recipe without running it.
    Check(CheckArgs),
    /// Prints the reference of everything that a script can call.
    Api(ApiArgs),
    /// Shows what a folder of images holds: layout, classes, sizes, broken files, transformed samples, images/s.
    Data(DataArgs),
    /// Shows a model (tensors, configuration, provenance), a checkpoint of a run, or a run directory.
    Inspect(InspectArgs),
    /// Writes the features of all images of a data set to a file, with names and labels.
    Embed(embed::EmbedArgs),
    /// Writes a model for other programs: Hugging Face, timm, ONNX, PyTorch.
    Export(export::ExportArgs),
    /// Takes a model of another project: NEPAs, DINOv2, DINOv3, MAE, and ViTs of timm and transformers.
    Import(import::ImportArgs),
    /// Draws the curves of one or more runs: loss, learning rate, gradients, collapse, throughput, accuracy.
    Plot(plot::PlotArgs),
    /// Hands runs to Weights & Biases, MLflow, Trackio or TensorBoard, by their own clients: metrics, parameters, pictures,
    /// tables.
    Sync(sync::SyncArgs),
    /// Runs a recipe with every combination of some values, a run for each, and compares what they come to.
    Sweep(sweep::SweepArgs),
    /// Checks what a run needs on this machine: processor, memory, libtorch, GPUs, JPEG decoder, disk, distributed environment.
    Doctor(DoctorArgs),
    /// Prints the completions of commands and options for a shell.
    #[command(after_help = completions::HELP)]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Writes man pages: nepa.1, and one for each command.
    Man {
        /// The folder that they are written to, such as ~/.local/share/man/man1.
        dir: PathBuf,
    },
    /// Lists the recipes that come with nepa, or copies one to edit it.
    Recipes(recipes::RecipesArgs),
    /// Writes a run directory as one HTML page: parameters, curves, evaluation, samples, pictures, checkpoints, recipe.
    Report(report::ReportArgs),
    /// Shows runs in a browser while they train: progress, curves, pictures, log, machine, checkpoints.
    Watch(watch::WatchArgs),
}

/// Where a recipe computes, and with how many processes.
#[derive(Args, Clone)]
struct ComputeArgs {
    /// Where to compute: cpu, cuda or cuda:N [default: cuda if available, else cpu].
    #[arg(long)]
    device: Option<String>,
    /// CPU threads of each process [default: the machine's cores divided by its processes].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Starts N processes on this machine that work together, one per GPU if there are GPUs. Omit it under torchrun or
    /// srun.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nproc: Option<u16>,
    /// How long processes wait for each other before they give up.
    #[arg(long, value_name = "SECONDS", default_value_t = DIST_TIMEOUT, env = "NEPA_DIST_TIMEOUT",
        value_parser = clap::value_parser!(u64).range(1..=604800))]
    dist_timeout: u64,
}

#[derive(Args, Clone)]
struct RunArgs {
    /// The recipe, a .rhai file.
    recipe: Option<PathBuf>,
    /// Overrides a parameter of the recipe; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The run directory: new, empty, or that of an earlier run of this recipe, which is resumed from its last
    /// checkpoint [default: runs/RECIPE-DATE-TIME, created when first needed].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Resumes an interrupted run with its own parameters and seed: the run in DIR, else that in --out, else the newest
    /// run of the recipe in runs/. With DIR the recipe may be omitted.
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    resume: Option<Option<PathBuf>>,
    /// Resumes although this has changed since the run was last started: `recipe` (the recipe's text and that of the
    /// scripts that it imports, with all settings that follow from it), `std` (the standard library of another nepa),
    /// or the name of a setting or a parameter, such as lr. Several are separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allow_change: Vec<String>,
    /// Seed of all randomness [default: 0].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Sends the run to these clients while it runs, as `nepa sync --follow` does, by the Python that NEPA_PYTHON names
    /// [default: python3]. Several are separated by commas.
    #[arg(long, value_name = "CLIENT", value_delimiter = ',')]
    log: Vec<sync::To>,
    /// Lists the options, and the recipe's own parameters.
    #[arg(short, long)]
    help: bool,
}

#[derive(Args)]
struct CheckArgs {
    /// The recipe, a .rhai file.
    recipe: PathBuf,
}

#[derive(Args)]
struct ApiArgs {
    /// A namespace, type, function or std module [default: everything].
    name: Option<String>,
    /// Looks in names and texts instead; knows PyTorch's names, such as torch.nn.functional.layer_norm or nn.Linear.
    #[arg(long, value_name = "TEXT", conflicts_with = "name")]
    search: Option<String>,
    /// Writes definition files for editors' Rhai language servers into a folder beside your scripts
    /// instead (docs/editors.md)
    #[arg(long, value_name = "DIR")]
    definitions: Option<PathBuf>,
}

#[derive(Args)]
#[command(
    group(ArgGroup::new("transformed").args(["sheet", "speed"]).multiple(true)),
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "Exit code: 0 on success; 1 if --scan finds broken images or something else is wrong; 130 after Ctrl-C."
)]
struct DataArgs {
    #[command(subcommand)]
    command: Option<DataCommand>,
    /// Class folders or images without classes (perhaps below train/, val/), a folder saved by `datasets`, parquet or
    /// tar files or a pattern of them ("shards/train-{0000..0146}.tar"), MNIST's IDX files, or CIFAR-10 or CIFAR-100 as
    /// they are distributed.
    #[arg(required = true)]
    path: Option<String>,
    /// One split only, such as train or validation [default: the counts of all, and the first in detail].
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// What image files are read as: rgb (8-bit), or unchanged: all channels at full precision.
    #[arg(long, value_name = "MODE", default_value = "rgb", value_parser = ["rgb", "unchanged"])]
    mode: String,
    /// Reads and decodes every image, and lists the broken ones.
    #[arg(long)]
    scan: bool,
    /// The file in which --scan lists broken images. If there are none, it writes nothing; it never overwrites another
    /// kind of file.
    #[arg(long, value_name = "FILE", requires = "scan", default_value = "broken.txt")]
    list: PathBuf,
    /// Draws a contact sheet of samples: each as it is, and as the model sees it in six epochs.
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// Images on the contact sheet.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "sheet",
        value_parser = clap::value_parser!(u16).range(1..=24))]
    samples: u16,
    /// Measures the loader's images/s at 1, 2, 4, … threads.
    #[arg(long)]
    speed: bool,
    /// The transforms of --sheet and --speed, as a recipe lists them [default: the pretraining augmentation].
    #[arg(long, value_name = "LIST", requires = "transformed")]
    transforms: Option<String>,
    /// CPU threads [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of the samples and their transforms.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Writes the images once as shards that are quick to read: no larger than is needed, WebDataset or Parquet.
    Pack(data::pack::PackArgs),
}

#[derive(Args)]
struct InspectArgs {
    /// A model folder, a file of tensors (.safetensors; .bin, .pt, .pth of torch.save), a run directory, or one of its
    /// checkpoints.
    path: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Exit code: 0 if everything that a run needs works, else 1.")]
struct DoctorArgs {
    /// The folder that runs are to be written to.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    out: PathBuf,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_string(), value.to_string())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

/// The words of the command line, of which the first is the program's name. What is no UTF-8 is replaced.
fn command_line() -> Vec<String> {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if words.is_empty() { vec!["nepa".into()] } else { words }
}

/// Runs the command line given to the process.
pub fn main() -> ! {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if let Some((message, hint)) = advice::of(&error, &command_line()[1..]) {
            err!("error: {message}\nhint: {hint}");
            std::process::exit(2);
        }
        error.exit()
    });
    crate::error::install_panic_hook();
    crate::ffi::on_uncaught(run::end_uncaught);
    // Scripts nest: the interpreter's limit on nested calls must be reached before the stack overflows.
    let worker = std::thread::Builder::new().name("nepa".into()).stack_size(512 << 20).spawn(move || dispatch(cli));
    let code = match worker.map(|w| w.join()) {
        Ok(Ok(code)) => code,
        Ok(Err(_)) => 70,
        Err(e) => {
            err!("error: cannot start a thread: {e}");
            70
        }
    };
    crate::ffi::exit(code)
}

/// The result of a command whose answer is what it prints: half of it is none.
fn answer(result: Result<()>) -> Result<()> {
    result.and_then(|()| answered().context("cannot write to stdout"))
}

fn dispatch(cli: Cli) -> u8 {
    if let Some(dir) = cli.stdlib.as_ref().filter(|dir| !dir.is_dir()) {
        err!("error: the standard library's folder {} (--stdlib, NEPA_STDLIB) does not exist", dir.display());
        return FAILED;
    }
    let host = |interrupt| Host::new(cli.stdlib.clone(), interrupt);
    let result = match cli.command {
        Command::Run(args) if args.recipe.is_none() && !matches!(args.resume, Some(Some(_))) => {
            let mut command = Cli::command();
            let run = command.find_subcommand_mut("run").expect("declared above");
            if args.help {
                out!("{}", run.clone().bin_name("nepa run").render_long_help());
                return 0;
            }
            err!("error: no recipe given\n\n{}", run.clone().bin_name("nepa run").render_usage());
            return 2;
        }
        Command::Run(args) => return run::run(args, host),
        Command::Check(args) => return check::check(&args, &host(Interrupt::default())),
        Command::Api(args) => answer(api::api(&args, &host(Interrupt::default()))),
        Command::Completions { shell } => answer(completions::completions(shell, Cli::command())),
        Command::Man { dir } => answer(completions::man(&dir, Cli::command())),
        Command::Data(args) => match data::data(&args, &host(Interrupt::default())) {
            0 => answer(Ok(())),
            code => return code,
        },
        Command::Doctor(args) => match doctor::doctor(&args) {
            true => answer(Ok(())),
            false => return FAILED,
        },
        Command::Embed(args) => return embed::embed(args, host),
        Command::Export(args) => answer(export::export(&args)),
        Command::Import(args) => answer(import::import(&args, &host(Interrupt::default()))),
        Command::Inspect(args) => answer(inspect::inspect(&args.path, cli.stdlib.as_deref())),
        Command::Plot(args) => plot::plot(&args),
        Command::Recipes(args) => answer(recipes::recipes(&args)),
        Command::Report(args) => report::report(&args),
        Command::Sweep(args) => match sweep::sweep(&args, host) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Sync(args) => match sync::sync(&args) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Watch(args) => match watch::watch(&args) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
    };
    match result {
        Ok(()) => 0,
        Err(e) => {
            to_stderr(&ScriptError::of_rust(&e).render(&Sources::new(None)));
            FAILED
        }
    }
}
