//! `nepa data pack`: images in any layout, made smaller once and written as shards.

mod destination;
mod format;
mod image;
mod measure;
mod parquet;
mod shard;
mod webdataset;
mod work;

use super::{PRETRAINING, Split, TRANSFORMS, counted};
use crate::bail_hint;
use crate::data::decode::{self, Backend};
use crate::data::source::{self, OpenOptions, Place, SourceRef, sample_key};
use crate::device;
use crate::error::{Context as _, Result, bail, ensure};
use crate::files::{folder_of, free_bytes};
use crate::output::out;
use crate::run::progress::Progress;
use crate::run::signals::Interrupt;
use crate::script::{self, Host, ScriptError};
use crate::text::{bytes, shell_word};
use clap::{Args, ValueEnum};
use destination::{Destination, Found, Manifest, Settings, ShardRecord, SplitRecord};
use format::Format;
use serde_json::Map;
use std::path::{Path, PathBuf};
use work::{Keys, ShardPlan, Work};

/// Images that were left out and are shown.
const SHOWN: usize = 10;

const AFTER_HELP: &str = "\
Examples:
  nepa data pack /data/imagenet /data/imagenet-512
  nepa data pack /data/imagenet /scratch/imagenet-256 --shorter-side 256 --on-bad skip
  nepa run recipes/pretrain_vitb.rhai --set data=/data/imagenet-512

  $ nepa data pack /data/imagenet /scratch/imagenet-256 --shorter-side 256
  /data/imagenet: image folder: train 1281167 images, validation 50000 images
  about 34 GB (147 GB now) in 267 shards, by 200 images; 1.2 TB are free
  pack: image 40960/1331167, 812 images/s, ETA 26m29s
  …

What becomes of an image:
  a JPEG with a shorter side of at most N           copied byte for byte
  a larger JPEG                                     resized (bicubic) and encoded as JPEG (4:2:0)
  PNG, WebP, BMP, TIFF, PNM: 8-bit grey or RGB      encoded as JPEG, resized if it is larger
  alpha, 16 bits, CMYK, GIF, several pictures       copied byte for byte, whatever its size
  pixels of IDX and CIFAR files                     PNG, without loss; larger ones resized, JPEG

Grey images stay grey; pictures in files are opened as RGB, so that those of IDX files, which have one channel, come \
back with three equal ones (transform::rgb() gives three channels before and after). The orientation in Exif data stays \
there, beside the pixels as they are, so that the images are the same with exif_orientation: true and false; other \
metadata of encoded images are dropped. data::open(DEST) gives the images of SOURCE in their order, with their labels, \
class names, splits and names (but for endings, which tell what an image is now).

Every shard is read back and compared before it counts. A command that was interrupted, by whatever, goes on after the \
last whole shard when it is given again, and writes the same bytes; other options or images are refused. DEST is \
complete once its nepa-pack.json says so, with a checksum of each shard; data::open refuses it before.

A folder that is called pack is shown by nepa data ./pack.

Exit code: 0 on success; 1 if something is wrong; 130 after Ctrl-C, 143 after SIGTERM.";

/// What to do with broken images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnBad {
    /// Stop with an error that names it.
    Error,
    /// Leave it out, and list it.
    Skip,
}

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct PackArgs {
    /// The images: whatever `nepa data` shows and data::open opens.
    source: String,
    /// The folder for the shards: new, empty, or one that this command has begun.
    dest: PathBuf,
    /// Packs one split only, such as train [default: all].
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Pixels of the shorter side at most. Smaller ones decode faster: 256 is what is usual where images are evaluated at
    /// 224; 512 keeps nearly all that random crops of 224 can show.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=16384))]
    shorter_side: u16,
    /// JPEG quality of images that are encoded anew.
    #[arg(long, value_name = "Q", default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// How the shards are stored: as parquet also where `datasets` is to read images that are kept as they are, since of
    /// archives it expects images of one kind.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "webdataset")]
    format: Format,
    /// Images in a shard: 5000 take about 500 MB at the defaults.
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    images_per_shard: u32,
    /// What to do with images that cannot be decoded.
    #[arg(long, value_name = "WHAT", value_enum, default_value = "error")]
    on_bad: OnBad,
    /// CPU threads; the shards are the same for any number [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl PackArgs {
    fn settings(&self) -> Settings {
        let jpeg_decoder = match decode::backend() {
            Backend::LibjpegTurbo(_) => "libjpeg-turbo",
            Backend::ZuneJpeg => "zune-jpeg",
        };
        Settings {
            format: self.format,
            shorter_side: self.shorter_side.into(),
            quality: self.quality,
            images_per_shard: self.images_per_shard as usize,
            jpeg_decoder: jpeg_decoder.into(),
        }
    }

    /// The command that goes on with the same shards.
    fn command(&self) -> String {
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map_or(String::new(), |value| value.get_name().to_string())
        };
        let (source, dest) = (shell_word(&self.source), self.dest.to_string_lossy());
        let mut words = vec![format!("nepa data pack {source} {}", shell_word(&dest))];
        words.extend(self.split.iter().map(|split| format!("--split {}", shell_word(split))));
        words.push(format!("--shorter-side {} --quality {}", self.shorter_side, self.quality));
        words.push(format!("--format {}", name(&|| self.format.to_possible_value())));
        words.push(format!("--images-per-shard {}", self.images_per_shard));
        words.push(format!("--on-bad {}", name(&|| self.on_bad.to_possible_value())));
        words.join(" ")
    }
}

/// What is packed, in which files.
struct Plan {
    splits: Vec<Split>,
    /// The names of the classes, of all splits that have any.
    class_names: Vec<String>,
    /// How the names of each split's shards begin.
    prefixes: Vec<String>,
    shards: Vec<ShardPlan>,
}

pub fn run(args: &PackArgs, host: &Host) -> Result<u8, ScriptError> {
    let threads =
        args.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()), |n| n as usize);
    device::set(tch::Device::Cpu, threads)?;
    ensure_apart(&args.source, &args.dest)?;
    let place = Place::find(&args.source)?;
    let plan = Plan::of(super::open(&place, args.split.as_deref(), &OpenOptions::default())?, args)?;
    let mut manifest = plan.manifest(args)?;
    let counts = plan.splits.iter().map(|s| format!("{} {}", s.name(), counted(s.source.len(), "image", "images")));
    out!("{}: {}: {}", args.source, place.layout, counts.collect::<Vec<_>>().join(", "));
    match destination::look(&args.dest, &manifest)? {
        Found::Complete(found) => {
            destination::tidy(&args.dest);
            out!("{} is complete already", args.dest.display());
            summarize(args, &found.shards);
            return Ok(0);
        }
        Found::Begun => {}
        Found::Nothing => ensure_room(args, &plan, &manifest.settings, plan.images())?,
    }
    let interrupt = Interrupt::default();
    interrupt.listen()?;
    let destination = Destination::begin(&args.dest, &manifest, plan.classes_file(args.format)?.as_deref())?;
    let Some(records) = write(args, &plan, &manifest.settings, &destination, threads, &interrupt)? else {
        return Ok(interrupt.exit_code().unwrap_or(130) as u8);
    };
    let packed = plan.reopen(args, &records)?;
    (manifest.complete, manifest.shards) = (true, records);
    destination.finish(&manifest)?;
    out!("{} is complete", args.dest.display());
    summarize(args, &manifest.shards);
    let pipeline = host.evaluate(TRANSFORMS, PRETRAINING, |value| script::pipeline(TRANSFORMS, value, false))?;
    let of_source = |split: usize, index: usize| plan.index_before(split, index, &manifest.shards);
    measure_speed(args, &plan.splits, &packed, of_source, &pipeline, threads, &interrupt)?;
    Ok(interrupt.exit_code().map_or(0, |code| code as u8))
}

/// Refuses a destination in the source, which would then hold other things than before.
fn ensure_apart(source: &str, dest: &Path) -> Result<()> {
    let Ok(source) = Path::new(source).canonicalize() else { return Ok(()) };
    let dest = std::path::absolute(dest)?;
    let there = dest.ancestors().find_map(|path| Some((path.canonicalize().ok()?, dest.strip_prefix(path).ok()?)));
    let inside = there.is_some_and(|(there, rest)| there.join(rest).starts_with(&source));
    if inside {
        let beside = folder_of(&source).join("packed");
        bail_hint!(
            "{} lies in the source, {}", dest.display(), source.display();
            "give a folder outside it, for example {}", beside.display()
        );
    }
    Ok(())
}

/// Refuses to begin what will not fit.
fn ensure_room(args: &PackArgs, plan: &Plan, settings: &Settings, images: usize) -> Result<()> {
    let free = free_bytes(&args.dest)? as f64;
    let Some(estimate) = measure::estimate(&plan.splits, settings) else { return Ok(()) };
    let (before, after) = (estimate.before * images as f64, estimate.after * images as f64);
    let (words, shards) = (bytes(after), counted(plan.shards.len(), "shard", "shards"));
    let free_words = bytes(free);
    if after > free {
        bail_hint!(
            "about {words} are needed for {}, by a sample of {}, but {free_words} are free", args.dest.display(),
            counted(estimate.images, "image", "images");
            "choose a folder on another file system, or a smaller --shorter-side or --quality"
        );
    }
    out!("about {words} ({} now) in {shards}, by {} images; {free_words} are free", bytes(before), estimate.images);
    Ok(())
}

/// Writes all shards that are not there yet; none if a signal came in between.
fn write(
    args: &PackArgs,
    plan: &Plan,
    settings: &Settings,
    destination: &Destination,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<Option<Vec<ShardRecord>>> {
    let class_names = &plan.class_names;
    let work = Work { settings, class_names, skips_bad: args.on_bad == OnBad::Skip, threads, interrupt };
    let there: Vec<Option<ShardRecord>> =
        plan.shards.iter().map(|shard| destination.record(&shard.file)).collect::<Result<_>>()?;
    let whole = there.iter().flatten().count();
    if whole > 0 {
        out!("{whole} of {} are there: going on", counted(plan.shards.len(), "shard", "shards"));
    }
    let shards = || plan.shards.iter().zip(&there);
    let done: usize = shards().filter(|(_, record)| record.is_some()).map(|(shard, _)| shard.images.len()).sum();
    let mut progress = Progress::of_images("pack", plan.images() as u64).resumed_after(done as u64);
    let mut records = Vec::new();
    for (shard, record) in shards() {
        if let Some(record) = record {
            records.push(record.clone());
            continue;
        }
        let staged = destination.staged(&shard.file);
        let written = work.write(&plan.splits[shard.split].source, shard, &staged, &mut progress);
        let Ok(Some(record)) = &written else {
            // It is written anew next time.
            let _ = std::fs::remove_file(&staged);
            progress.interrupted();
            written?;
            let (done, all) = (records.len(), counted(plan.shards.len(), "shard", "shards"));
            out!("interrupted: {done} of {all} are whole; the same command goes on from there");
            return Ok(None);
        };
        destination.keep(record)?;
        records.push(record.clone());
    }
    progress.finish(&Map::new());
    Ok(Some(records))
}

impl Plan {
    fn of(splits: Vec<Split>, args: &PackArgs) -> Result<Self> {
        let mut class_names: Vec<String> = Vec::new();
        for split in &splits {
            ensure!(!split.source.is_empty(), "{} holds no images", split.source.describe());
            let own = split.source.class_names();
            if !class_names.is_empty() && !own.is_empty() && own != class_names {
                bail_hint!(
                    "{}: the classes of {} are not those of {}", args.source, split.name(), splits[0].name();
                    "pack each split alone (--split {}), into a folder of its own", split.name()
                );
            }
            if class_names.is_empty() {
                class_names = own.to_vec();
            }
        }
        let prefixes: Vec<String> = splits.iter().map(|split| prefix(split.name.as_deref())).collect();
        let mut shards = Vec::new();
        for (split, (of, prefix)) in splits.iter().zip(&prefixes).enumerate() {
            let (images, size) = (of.source.len(), args.images_per_shard as usize);
            let count = images.div_ceil(size);
            if prefixes[..split].contains(prefix) {
                bail_hint!("{}: two splits would both be called {prefix}", args.source; "pack each split alone, with --split");
            }
            shards.extend((0..count).map(|number| ShardPlan {
                file: format!("{prefix}-{number:05}-of-{count:05}.{}", args.format.ending()),
                split,
                images: number * size..images.min((number + 1) * size),
            }));
        }
        Ok(Self { splits, class_names, prefixes, shards })
    }

    fn images(&self) -> usize {
        self.splits.iter().map(|split| split.source.len()).sum()
    }

    fn manifest(&self, args: &PackArgs) -> Result<Manifest> {
        let split = |(split, prefix): (&Split, &String)| -> Result<SplitRecord> {
            let (name, fingerprint) = (split.name.clone(), source::fingerprint(split.source.as_ref())?);
            Ok(SplitRecord { name, prefix: prefix.clone(), images: split.source.len(), fingerprint })
        };
        Ok(Manifest {
            complete: false,
            nepa: env!("CARGO_PKG_VERSION").into(),
            command: args.command(),
            source: args.source.clone(),
            settings: args.settings(),
            splits: self.splits.iter().zip(&self.prefixes).map(split).collect::<Result<_>>()?,
            shards: Vec::new(),
        })
    }

    /// The content of `classes.txt`, in which archives have the names of their classes.
    fn classes_file(&self, format: Format) -> Result<Option<String>> {
        if format != Format::WebDataset || self.class_names.is_empty() {
            return Ok(None);
        }
        let is_line = |name: &&String| !name.is_empty() && name.trim() == *name && name.lines().count() == 1;
        if let Some(name) = self.class_names.iter().find(|name| !is_line(name)) {
            bail_hint!(
                "the class \"{}\" cannot be named in a line of classes.txt", name.escape_debug();
                "rename it: a class's name has no line ends, and no blanks around it"
            );
        }
        Ok(Some(self.class_names.iter().map(|name| format!("{name}\n")).collect()))
    }

    /// The packed splits, opened as anybody opens them and compared with the source.
    fn reopen(&self, args: &PackArgs, records: &[ShardRecord]) -> Result<Vec<SourceRef>> {
        let open = |split: usize| -> Result<SourceRef> {
            if self.of_split(split, records).all(|(_, record)| record.images == 0) {
                bail!("none of the images of {} can be decoded", self.splits[split].source.describe());
            }
            let pattern = format!("{}-*-of-*.{}", self.prefixes[split], args.format.ending());
            let place = Place::find(&args.dest.join(pattern).to_string_lossy())?;
            let packed = place.open(None, &OpenOptions::default())?;
            self.compare(args, split, &packed, records)
                .with_context(|| format!("what was written is not what is read from {}", args.dest.display()))?;
            Ok(packed)
        };
        (0..self.splits.len()).map(open).collect()
    }

    fn compare(&self, args: &PackArgs, split: usize, packed: &SourceRef, records: &[ShardRecord]) -> Result<()> {
        let source = &self.splits[split].source;
        let expected: usize = self.of_split(split, records).map(|(_, record)| record.images).sum();
        let name = self.splits[split].name.as_deref();
        ensure!(packed.split() == name, "the split {:?}, expected {name:?}", packed.split());
        ensure!(packed.len() == expected, "{} images, expected {expected}", packed.len());
        ensure!(packed.class_names() == self.class_names, "the names of the classes differ");
        let mut index = 0;
        for (shard, record) in self.of_split(split, records) {
            let mut keys = Keys::default();
            for before in shard.images.clone().filter(|i| !record.left_out.iter().any(|bad| bad.index == *i)) {
                let (name, label, was) = (packed.name(index), packed.label(index), source.name(before));
                let (found, expected) = match args.format {
                    Format::WebDataset => (sample_key(&name), keys.next(&was)),
                    Format::Parquet => (name, was),
                };
                ensure!(
                    found == expected && label == source.label(before),
                    "item {index} is {found} with the label {label}, expected {expected} with {}",
                    source.label(before)
                );
                index += 1;
            }
        }
        Ok(())
    }

    fn of_split<'a>(
        &'a self,
        split: usize,
        records: &'a [ShardRecord],
    ) -> impl Iterator<Item = (&'a ShardPlan, &'a ShardRecord)> {
        self.shards.iter().zip(records).filter(move |(shard, _)| shard.split == split)
    }

    /// Which image of the source a packed one was.
    fn index_before(&self, split: usize, index: usize, records: &[ShardRecord]) -> usize {
        let mut bad: Vec<usize> =
            self.of_split(split, records).flat_map(|(_, record)| record.left_out.iter().map(|bad| bad.index)).collect();
        bad.sort_unstable();
        bad.into_iter().fold(index, |index, bad| index + usize::from(bad <= index))
    }
}

/// How the names of a split's shards begin: "train" of train-00000-of-00010, which is also where `datasets` looks for
/// images that have no split.
fn prefix(split: Option<&str>) -> String {
    let word = |c: char| if c.is_alphanumeric() { c } else { '_' };
    split.map_or("train".to_string(), |split| split.chars().map(word).collect())
}

/// Prints what became of the images.
fn summarize(args: &PackArgs, shards: &[ShardRecord]) {
    let sum = |of: fn(&ShardRecord) -> usize| shards.iter().map(of).sum::<usize>();
    let size = |of: fn(&ShardRecord) -> u64| bytes(shards.iter().map(of).sum::<u64>() as f64);
    let (images, files) = (counted(sum(|s| s.images), "image", "images"), counted(shards.len(), "shard", "shards"));
    out!("  {images} in {files}, {}; {} before", size(|s| s.bytes), size(|s| s.source_bytes));
    let side = args.shorter_side;
    for (count, words) in [
        (sum(|s| s.copied), format!("JPEG with a shorter side of at most {side}: copied byte for byte")),
        (sum(|s| s.resized), format!("resized to a shorter side of {side}, JPEG quality {}", args.quality)),
        (sum(|s| s.encoded), format!("of another kind: encoded as JPEG, quality {}", args.quality)),
        (sum(|s| s.kept), "kept without loss: alpha, 16 bits, CMYK, GIF, small pixels".to_string()),
        (sum(|s| s.left_out.len()), "broken: left out".to_string()),
    ] {
        if count > 0 {
            out!("  {count:>9}  {words}");
        }
    }
    let left_out: Vec<_> = shards.iter().flat_map(|shard| &shard.left_out).collect();
    for bad in left_out.iter().take(SHOWN) {
        out!("             item {} ({}): {}", bad.index, bad.name, bad.reason);
    }
    if left_out.len() > SHOWN {
        out!(
            "             … and {} more, listed in {}",
            left_out.len() - SHOWN,
            args.dest.join(source::PACK_FILE).display()
        );
    }
}

/// Measures and prints how fast images are read and augmented, from where they were and from where they are now.
fn measure_speed(
    args: &PackArgs,
    splits: &[Split],
    packed: &[SourceRef],
    index_before: impl Fn(usize, usize) -> usize,
    pipeline: &crate::data::pipeline::Pipeline,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let Some(after) = measure::sample(packed[0].len()) else {
        out!("too few images to measure how fast they decode");
        return Ok(());
    };
    let before: Vec<usize> = after.iter().map(|index| index_before(0, *index)).collect();
    let (count, threads) = (counted(after.len(), "image", "images"), counted(threads, "thread", "threads"));
    out!("read and augmented for pretraining (random_resized_crop(224)), {count}, {threads}, from memory:");
    let slow = measure::rate(&splits[0].source, &before, pipeline, interrupt)?;
    out!("  {:>8.0} images/s from {}", slow, args.source);
    let fast = measure::rate(&packed[0], &after, pipeline, interrupt)?;
    out!("  {:>8.0} images/s from {}: {:.2} times as fast", fast, args.dest.display(), fast / slow);
    Ok(())
}
