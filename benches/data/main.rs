//! Images per second from picture files to normalised batches, beside torchvision's and timm's.
//!
//!     cargo xtask bench data --images DIR… [--python VENV/bin/python] [--seconds 4] [--rounds 3]
//!
//! Each DIR has pictures, of any sizes and in any folders, such as those that make_images.py writes; README.md in this
//! folder has the commands for it and for the Python environment. Each measurement is a separate process, bound to its
//! cores, ours and the peer's in turns; the median of the rounds counts. Without --python only ours is measured.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/pictures.rs"]
mod pictures;
#[path = "../common/process.rs"]
mod process;
mod shards;
mod stages;

use clap::{Parser, Subcommand, ValueEnum};
use figures::{load, median};
use nepa::data::decode::backend;
use nepa::data::image::{Interpolation, Resampling};
use nepa::data::loader::{Loader, LoaderOptions};
use nepa::data::pipeline::Pipeline;
use nepa::data::source::{self, SourceRef};
use nepa::data::transform::{
    CenterCrop, EraseMode, Normalize, RandAugment, RandAugmentOptions, RandomErasing, RandomErasingOptions,
    RandomHorizontalFlip, RandomHorizontalFlipOptions, RandomResizedCrop, RandomResizedCropOptions, Resize, ResizeTo,
    Transform,
};
use nepa::error::{Context as _, Result, bail};
use pictures::Pictures;
use process::processor_time;
use serde_json::{Value, json};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

/// Images a second from files to batches, beside torchvision and timm (benches/data/README.md)
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask bench data",
    override_usage = "cargo xtask bench data --images DIR… [OPTIONS]\n       cargo xtask bench data --shards DIR",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Options {
    /// Folders of pictures, in any folders, each measured by itself
    #[arg(long, value_name = "DIR", num_args = 1.., required_unless_present = "shards")]
    images: Vec<PathBuf>,
    /// The Python that runs the peer, to measure it too
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Images in a batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// How long a measurement takes
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    seconds: f64,
    /// How many measurements of each kind there are
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How many pictures of a folder are taken at most, chosen at random
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    most: u32,
    /// Our side resizes with this option, which decodes fewer pixels of large pictures
    #[arg(long, value_name = "GAP", value_parser = positive)]
    reducing_gap: Option<f64>,
    /// Instead: a folder of Parquet files as make_shards.py writes them, row by row
    #[arg(long, value_name = "DIR", conflicts_with = "images")]
    shards: Option<PathBuf>,
    #[command(subcommand)]
    own: Option<Own>,
}

/// What our own child processes do.
#[derive(Subcommand)]
enum Own {
    /// Prints the rate of a task on some cores.
    #[command(hide = true)]
    Measure { folder: PathBuf, task: Task, cores: String, batch: usize, seconds: f64, reducing_gap: Option<f64> },
    /// Prints the rates of a reader of a shard.
    #[command(hide = true)]
    Shard { reader: shards::Reader, file: PathBuf },
}

/// What is done to the images.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Task {
    A,
    B,
    C,
}

/// Their names, as the peer has them too, and in words.
const TASKS: [(&str, &str); 3] = [("a", "pretraining"), ("b", "evaluation"), ("c", "fine-tuning")];

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err("expected a positive number".into()),
    }
}

fn main() -> ExitCode {
    arguments::main(|options: Options| {
        match &options.own {
            Some(Own::Measure { folder, task, cores, batch, seconds, reducing_gap }) => {
                println!("{}", measure(folder, &transforms(*task, *reducing_gap)?, cores, *batch, *seconds)?);
                return Ok(());
            }
            Some(Own::Shard { reader, file }) => return shards::measure(*reader, file),
            None => {}
        }
        if let Some(folder) = &options.shards {
            return shards::compare(folder);
        }
        if let Some(python) = &options.python {
            run(Command::new(python).args(["-c", "print('{}')"]))?;
        }
        println!("JPEGs are decoded by {}", backend().describe());
        for folder in &options.images {
            println!();
            let pictures = Pictures::of(folder, options.most as usize)?;
            compare(&pictures, &options)?;
            stages::print(pictures.folder())?;
        }
        Ok(())
    })
}

/// Ours and the peer's rates, in turns.
fn compare(pictures: &Pictures, options: &Options) -> Result<()> {
    let folder = pictures.folder();
    println!("images/s, {} pictures in batches of {}; load {}", pictures.count, options.batch, load());
    println!("per core: by the processor time of one bound process");
    println!(
        "{:<14}{:>12}{:>12}{:>8}{:>14}{:>14}{:>8}{:>12}",
        "", "ours/core", "peer/core", "ratio", "ours 2 cores", "peer 2 cores", "ratio", "ours 2 : 1"
    );
    for (letter, name) in TASKS {
        let mut rates: [Vec<f64>; 5] = Default::default();
        let mut python = options.python.as_deref();
        let mut peer_rate = |workers: usize, key: &str| match python.map(|p| peer(p, folder, letter, workers, options))
        {
            Some(Ok(found)) => number(&found, key),
            Some(Err(error)) => {
                println!("({letter}) {name}: the peer is left out: {error}");
                python = None;
                f64::NAN
            }
            None => f64::NAN,
        };
        for _ in 0..options.rounds {
            let one = ours(folder, letter, "0", options)?;
            rates[0].push(number(&one, "images_per_cpu_s"));
            rates[4].push(number(&one, "images_per_s"));
            rates[1].push(peer_rate(0, "images_per_cpu_s"));
            rates[2].push(number(&ours(folder, letter, "0,1", options)?, "images_per_s"));
            rates[3].push(peer_rate(2, "images_per_s"));
        }
        let [one, peer_one, two, peer_two, one_wall] = rates.map(|rates| median(&rates));
        println!(
            "{:<14}{one:>12.0}{peer_one:>12.0}{:>8.2}{two:>14.0}{peer_two:>14.0}{:>8.2}{:>12.2}",
            format!("({letter}) {name}"),
            one / peer_one,
            two / peer_two,
            two / one_wall
        );
    }
    Ok(())
}

fn number(result: &Value, key: &str) -> f64 {
    result[key].as_f64().unwrap_or(f64::NAN)
}

fn ours(folder: &Path, task: &str, cores: &str, options: &Options) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("measure").arg(folder).args([task, cores]);
    command.args([options.batch.to_string(), options.seconds.to_string()]);
    run(command.args(options.reducing_gap.map(|gap| gap.to_string())))
}

fn peer(python: &Path, folder: &Path, task: &str, workers: usize, options: &Options) -> Result<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/data/peer.py");
    let cores = if workers == 0 { "0" } else { "0,1" };
    let mut command = Command::new(python);
    command.args([script, "--task", task, "--cores", cores]).arg("--data").arg(folder);
    command.args(["--batch", &options.batch.to_string(), "--workers", &workers.to_string()]);
    run(command.args(["--seconds", &options.seconds.to_string()]))
}

/// The JSON that a command prints last.
fn run(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{:?} failed: {}", command.get_program(), errors.trim().lines().last().unwrap_or("it says nothing"));
    }
    Ok(serde_json::from_str(text.trim().lines().last().unwrap_or_default())?)
}

/// What a task does to images and to batches.
fn transforms(task: Task, reducing_gap: Option<f64>) -> Result<Vec<Arc<dyn Transform>>> {
    let crop = |interpolation| {
        let options = RandomResizedCropOptions { interpolation, reducing_gap, ..Default::default() };
        RandomResizedCrop::new(224, 224, &options)
    };
    let flip = RandomHorizontalFlip::new(&RandomHorizontalFlipOptions::default())?;
    let normalize = Arc::new(Normalize::new(vec![0.5], vec![0.5])?);
    Ok(match task {
        Task::A => vec![Arc::new(crop(Interpolation::Bilinear)?), Arc::new(flip), normalize],
        Task::B => {
            let how = Resampling { reducing_gap, ..Interpolation::Bicubic.into() };
            let resize = Resize { to: ResizeTo::Shorter(256), how };
            vec![Arc::new(resize), Arc::new(CenterCrop { height: 224, width: 224 }), normalize]
        }
        Task::C => {
            let augment = RandAugment::new("rand-m9-mstd0.5-inc1", &RandAugmentOptions::default())?;
            let options = RandomErasingOptions { p: 0.25, mode: EraseMode::Pixel, ..Default::default() };
            let erasing = RandomErasing::new(&options)?;
            let crop = crop(Interpolation::Bicubic)?;
            vec![Arc::new(crop), Arc::new(flip), Arc::new(augment), normalize, Arc::new(erasing)]
        }
    })
}

/// The rate of one task on some cores.
fn measure(folder: &Path, transforms: &[Arc<dyn Transform>], cores: &str, batch: usize, seconds: f64) -> Result<Value> {
    let cores: Vec<usize> = cores.split(',').map(str::parse).collect::<Result<_, _>>()?;
    bind(&cores)?;
    nepa::device::set(tch::Device::Cpu, cores.len())?;
    let images = source::open(folder.to_str().context("a temporary folder has a plain name")?, None)?;
    let pipeline = Pipeline::new("bench", transforms, false)?;
    let options = LoaderOptions { batch, drop_last: true, workers: Some(cores.len()), ..Default::default() };
    // Repeated, so that no epoch ends while we measure.
    let many: SourceRef = source::concat(&vec![images; 1000])?;
    let loader = Loader::new(many, pipeline, &options)?;
    let mut epoch = loader.epoch(0, 0)?;
    let mut next = || -> Result<usize> {
        let batch = epoch.next_batch()?.context("the epoch ended")?;
        Ok(black_box(batch).labels.size()[0] as usize)
    };
    for _ in 0..2 + 4 * cores.len() {
        next()?;
    }
    let (mut count, start, cpu) = (0, Instant::now(), processor_time());
    while start.elapsed().as_secs_f64() < seconds {
        count += next()?;
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), processor_time() - cpu);
    Ok(json!({ "images_per_s": count as f64 / elapsed, "images_per_cpu_s": count as f64 / cpu }))
}

fn bind(cores: &[usize]) -> Result<()> {
    // SAFETY: plain system calls on a set of our own.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for core in cores {
            libc::CPU_SET(*core, &mut set);
        }
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot bind to cores");
        }
    }
    Ok(())
}
