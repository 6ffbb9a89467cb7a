//! Images per second from JPEG files to normalised batches, beside torchvision's and timm's.
//!
//!     cargo xtask bench data --images DIR [--python VENV/bin/python] [--seconds 4] [--rounds 3]
//!
//! DIR is what make_images.py writes; README.md in this folder has the commands for it and for the Python environment.
//! Each measurement is a separate process, bound to its cores, ours and the peer's in turns; the median of the rounds
//! counts. Without --python only ours is measured.

mod shards;

use nepa::bail_hint;
use nepa::data::decode::{LazyImage, backend};
use nepa::data::image::{Image, Interpolation, Region};
use nepa::data::loader::{Loader, LoaderOptions};
use nepa::data::pillow::{resize_then_crop, resized_crop};
use nepa::data::pipeline::Pipeline;
use nepa::data::source::{self, SourceRef, StoredImage};
use nepa::data::transform::{
    CenterCrop, EraseMode, Normalize, RandAugment, RandAugmentOptions, RandomErasing, RandomErasingOptions,
    RandomHorizontalFlip, RandomHorizontalFlipOptions, RandomResizedCrop, RandomResizedCropOptions, Resize, ResizeTo,
    Transform,
};
use nepa::error::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 64;
const SETS: [&str; 2] = ["60kb", "110kb"];
const TASKS: [(&str, &str); 3] = [("a", "pretraining"), ("b", "evaluation"), ("c", "fine-tuning")];

struct Options {
    images: String,
    python: Option<String>,
    seconds: f64,
    rounds: usize,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [first, rest @ ..] = &args[..]
        && first == "--shards"
    {
        return shards::compare(rest);
    }
    if let [first, folder, task, cores, seconds] = &args[..]
        && first == "--measure"
    {
        println!("{}", measure(folder, task, cores, seconds.parse()?)?);
        return Ok(());
    }
    let options = parse(&args)?;
    println!("JPEGs are decoded by {}", backend().describe());
    for set in SETS {
        let folder = format!("{}/{set}", options.images);
        if !Path::new(&folder).is_dir() {
            bail_hint!("{folder} is missing"; "make it with make_images.py, see benches/data/README.md");
        }
        compare(set, &folder, &options)?;
        stages(&folder)?;
    }
    Ok(())
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { images: String::new(), python: None, seconds: 4.0, rounds: 3 };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let mut value = || args.next().with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            "--images" => options.images = value()?.clone(),
            "--python" => options.python = Some(value()?.clone()),
            "--seconds" => options.seconds = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            other => bail_hint!("unknown option {other}"; "--images DIR [--python PATH] [--seconds N] [--rounds N]"),
        }
    }
    if options.images.is_empty() {
        bail_hint!("--images DIR is missing"; "make the images with make_images.py, see benches/data/README.md");
    }
    Ok(options)
}

/// Ours and the peer's rates, in turns.
fn compare(set: &str, folder: &str, options: &Options) -> Result<()> {
    println!("\n{set}: images/s, batches of {BATCH}; per core: by the processor time of one bound process");
    println!(
        "{:<14}{:>12}{:>12}{:>8}{:>14}{:>14}{:>8}{:>12}",
        "", "ours/core", "peer/core", "ratio", "ours 2 cores", "peer 2 cores", "ratio", "ours 2 : 1"
    );
    for (task, name) in TASKS {
        let mut rates: [Vec<f64>; 5] = Default::default();
        for _ in 0..options.rounds {
            let one = ours(folder, task, "0", options.seconds)?;
            rates[0].push(number(&one, "images_per_cpu_s"));
            rates[4].push(number(&one, "images_per_s"));
            rates[1].push(number(&peer(folder, task, 0, options)?, "images_per_cpu_s"));
            rates[2].push(number(&ours(folder, task, "0,1", options.seconds)?, "images_per_s"));
            rates[3].push(number(&peer(folder, task, 2, options)?, "images_per_s"));
        }
        let [one, peer_one, two, peer_two, one_wall] = rates.map(median);
        println!(
            "{:<14}{one:>12.0}{peer_one:>12.0}{:>8.2}{two:>14.0}{peer_two:>14.0}{:>8.2}{:>12.2}",
            format!("({task}) {name}"),
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ours(folder: &str, task: &str, cores: &str, seconds: f64) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    run(command.args(["--measure", folder, task, cores, &seconds.to_string()]))
}

fn peer(folder: &str, task: &str, workers: usize, options: &Options) -> Result<Value> {
    let Some(python) = &options.python else { return Ok(Value::Null) };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/data/peer.py");
    let cores = if workers == 0 { "0" } else { "0,1" };
    let mut command = Command::new(python);
    command.args([script, "--data", folder, "--task", task, "--cores", cores]);
    run(command.args(["--workers", &workers.to_string(), "--seconds", &options.seconds.to_string()]))
}

/// The JSON that a command prints last.
fn run(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_str(text.trim().lines().last().unwrap_or_default())?)
}

/// What a task does to images and to batches.
fn transforms(task: &str) -> Result<Vec<Arc<dyn Transform>>> {
    let crop = |interpolation| {
        let options = RandomResizedCropOptions { interpolation, ..Default::default() };
        RandomResizedCrop::new(224, 224, &options)
    };
    let flip = RandomHorizontalFlip::new(&RandomHorizontalFlipOptions::default())?;
    let normalize = Arc::new(Normalize::new(vec![0.5], vec![0.5])?);
    Ok(match task {
        "a" => vec![Arc::new(crop(Interpolation::Bilinear)?), Arc::new(flip), normalize],
        "b" => {
            let resize = Resize { to: ResizeTo::Shorter(256), how: Interpolation::Bicubic.into() };
            vec![Arc::new(resize), Arc::new(CenterCrop { height: 224, width: 224 }), normalize]
        }
        "c" => {
            let augment = RandAugment::new(&RandAugmentOptions::default())?;
            let options = RandomErasingOptions { p: 0.25, mode: EraseMode::Pixel, ..Default::default() };
            let erasing = RandomErasing::new(&options)?;
            let crop = crop(Interpolation::Bicubic)?;
            vec![Arc::new(crop), Arc::new(flip), Arc::new(augment), normalize, Arc::new(erasing)]
        }
        other => bail!("unknown task {other}"),
    })
}

/// The rate of one task on some cores.
fn measure(folder: &str, task: &str, cores: &str, seconds: f64) -> Result<Value> {
    let cores: Vec<usize> = cores.split(',').map(str::parse).collect::<Result<_, _>>()?;
    bind(&cores)?;
    nepa::device::set(tch::Device::Cpu, cores.len())?;
    let images = source::open(folder, None)?;
    let pipeline = Pipeline::new("bench", &transforms(task)?, false)?;
    let options = LoaderOptions { batch: BATCH, drop_last: true, workers: Some(cores.len()), ..Default::default() };
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
    Ok(json!({ "task": task, "images_per_s": count as f64 / elapsed, "images_per_cpu_s": count as f64 / cpu }))
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

/// CPU time of the process in seconds, all threads together.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a plain system call into a struct of our own.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Where the time goes: single steps on one thread, in processor time.
fn stages(folder: &str) -> Result<()> {
    let images = source::open(folder, None)?;
    let files: Vec<Vec<u8>> = (0..images.len())
        .map(|i| match images.read(i)? {
            StoredImage::Encoded(bytes) => Ok(bytes.into_owned()),
            StoredImage::Pixels(_) => bail!("files were expected"),
        })
        .collect::<Result<_>>()?;
    // The mean area of a random resized crop of 500 x 375.
    let part = Region { left: 80, top: 60, width: 367, height: 275 };
    let centre = Region { left: 58, top: 16, width: 224, height: 224 };
    let with = |file: &Vec<u8>, f: &dyn Fn(LazyImage<'_>) -> Result<Image>| {
        f(LazyImage::open(&mut StoredImage::Encoded(Cow::Borrowed(file)), false)?)
    };
    let small = with(&files[0], &|p| resized_crop(p, part, 224, 224, Interpolation::Bilinear))?;
    let whole = with(&files[0], &|p| p.decode())?;
    // Without the copy of the image that each call takes.
    let copy = time(&files, |_| Ok(whole.clone()))?;
    let resize = |by| -> Result<f64> {
        Ok(time(&files, |_| resized_crop(LazyImage::Decoded(whole.clone()), part, 224, 224, by))? - copy)
    };
    let augment = RandAugment::new(&RandAugmentOptions::default())?;
    let mut rng = nepa::random::Key::new(1).rng();
    let rows: Vec<(&str, f64)> = vec![
        ("decode the whole image (the limit of full decoding)", time(&files, |f| with(f, &|p| p.decode()))?),
        (
            "decode 54 % of it, as a random crop needs",
            time(&files, |f| with(f, &|p| Ok(p.decode_region(part)?.image)))?,
        ),
        (
            "decode and resize for evaluation",
            time(&files, |f| with(f, &|p| resize_then_crop(p, 341, 256, centre, Interpolation::Bicubic)))?,
        ),
        ("resize 367 x 275 to 224, bilinear", resize(Interpolation::Bilinear)?),
        ("resize 367 x 275 to 224, bicubic", resize(Interpolation::Bicubic)?),
        ("RandAugment, 224", time(&files, |_| augment.apply(small.clone(), &mut rng))?),
    ];
    println!("one core, alone:");
    for (name, seconds) in rows {
        println!("  {name:<56}{:>8.0} µs {:>8.0} images/s", seconds * 1e6, 1.0 / seconds);
    }
    Ok(())
}

/// Seconds of processor time for one file: the least of some rounds.
fn time<R>(files: &[Vec<u8>], mut f: impl FnMut(&Vec<u8>) -> Result<R>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = processor_time();
        for file in files {
            black_box(f(file)?);
        }
        best = best.min((processor_time() - start) / files.len() as f64);
    }
    Ok(best)
}
