//! Sources of images, and how they become batches.

use super::batch::Batch;
use super::transform::steps;
use crate::data::batch::{self, BatchStep};
use crate::data::decode::{self, Picture};
use crate::data::image::Image;
use crate::data::imagenet;
use crate::data::loader::{self, LoaderOptions};
use crate::data::pipeline::Pipeline;
use crate::data::source::{self, Content, SourceRef, SyntheticOptions};
use crate::dist;
use crate::error::{Context as _, Result, bail, ensure};
use crate::functions;
use crate::random::{self, Key};
use crate::run::progress::{note_line, note_line_of_any};
use crate::script::docs::Reference;
use crate::script::error::{from_rhai, to_rhai};
use crate::script::registry::Group;
use crate::script::values::{Tensor, call, found, ints, number, ok, read_options};
use image::ExtendedColorType;
use image::ImageEncoder as _;
use image::codecs::png::PngEncoder;
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use serde_json::json;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone)]
struct Source(SourceRef);

/// A loader with what is done to its batches.
#[derive(Clone)]
struct Loader(Rc<LoaderParts>);

struct LoaderParts {
    loader: loader::Loader,
    batch_steps: Vec<BatchStep>,
    classes: usize,
    spare: RefCell<batch::Spare>,
    /// Broken images that the user was told of.
    told: Cell<usize>,
}

#[derive(Clone)]
struct Epoch(Rc<EpochParts>);

struct EpochParts {
    epoch: RefCell<loader::Epoch>,
    loader: Loader,
}

impl Drop for EpochParts {
    /// Also an epoch that was left early tells what was broken.
    fn drop(&mut self) {
        let _ = self.loader.0.tell_of_bad_items();
    }
}

/// An image by itself; one read from a file stays encoded until its pixels are asked for.
#[derive(Clone)]
enum Picked {
    File(Rc<Vec<u8>>),
    Pixels(Rc<Image>),
}

impl Picked {
    fn content(&self) -> Content<'_> {
        match self {
            Picked::File(bytes) => Content::Encoded(Cow::Borrowed(bytes)),
            Picked::Pixels(image) => Content::Pixels(image.as_ref().clone()),
        }
    }

    fn size(&self) -> Result<(usize, usize)> {
        Ok(Picture::open(&mut self.content(), false)?.size())
    }

    fn pixels(&self) -> Result<Image> {
        Picture::open(&mut self.content(), false)?.whole()
    }
}

/// The batches of an epoch for Rhai's `for`; after an error there are no more.
struct Batches(Epoch);

impl Iterator for Batches {
    type Item = Result<Dynamic, Box<rhai::EvalAltResult>>;

    fn next(&mut self) -> Option<Self::Item> {
        let parts = &self.0.0;
        let loader = &parts.loader.0;
        let (mut epoch, mut spare) = (parts.epoch.borrow_mut(), loader.spare.borrow_mut());
        match batch::next(&mut epoch, &mut spare, &loader.batch_steps, loader.classes) {
            Ok(None) => match loader.tell_of_bad_items() {
                Ok(()) => None,
                Err(e) => Some(Err(to_rhai(e, rhai::Position::NONE))),
            },
            Ok(Some(batch)) => Some(Ok(Dynamic::from(Batch::from(batch)))),
            Err(e) => Some(Err(to_rhai(e, rhai::Position::NONE))),
        }
    }
}

thread_local! {
    /// All broken images of the run, by source and name, with place and reason.
    static BAD: RefCell<BTreeMap<(String, String), (usize, String)>> = const { RefCell::new(BTreeMap::new()) };
}

impl LoaderParts {
    /// Lists broken images that were replaced in bad_items.txt, and says how many there are.
    fn tell_of_bad_items(&self) -> Result<()> {
        let bad = self.loader.bad_items();
        if bad.len() == self.told.get() {
            return Ok(());
        }
        self.told.set(bad.len());
        let source = self.loader.source().describe();
        if !dist::is_main() {
            // Process 0 keeps the list of its own.
            let list: Vec<String> = bad.values().map(|(name, reason)| format!("{name} ({reason})")).collect();
            note_line_of_any(&format!("warning: {source}: broken images were replaced by others: {}", list.join(", ")));
            return Ok(());
        }
        let count = bad.len();
        let lines = BAD.with_borrow_mut(|all| {
            all.extend(bad.into_iter().map(|(index, (name, reason))| ((source.clone(), name), (index, reason))));
            let line = |((source, name), (index, reason)): (&(String, String), &(usize, String))| {
                format!("{source}\t{index}\t{name}\t{reason}\n")
            };
            all.iter().map(line).collect::<String>()
        });
        let path = super::run::inside("bad_items.txt")?;
        crate::files::write_atomic(&path, lines.as_bytes())?;
        let plural = if count == 1 { " of its images was broken and" } else { " of its images were broken and" };
        note_line(&format!("warning: {source}: {count}{plural} replaced by others; see {}", path.display()));
        Ok(())
    }
}

fn count(n: i64, what: &str) -> Result<usize> {
    ensure!(n >= 0, "{what}: expected a number of at least 0, found {n}");
    Ok(n as usize)
}

fn item(source: &SourceRef, i: i64) -> Result<usize> {
    match usize::try_from(i) {
        Ok(i) if i < source.len() => Ok(i),
        _ => bail!("there is no item {i}: the {} items are 0..={}", source.len(), source.len().saturating_sub(1)),
    }
}

fn start_epoch(loader: Loader, epoch: i64, done: i64) -> Result<Epoch> {
    let started = loader.0.loader.epoch(count(epoch, "epoch")? as u64, count(done, "epoch")?)?;
    Ok(Epoch(Rc::new(EpochParts { epoch: RefCell::new(started), loader })))
}

/// A source whose listing is kept: of the processes of a machine one makes it.
fn open(path: &str, split: Option<&str>) -> Result<Source> {
    let what = format!("the listing of {path}");
    Ok(Source(dist::first_of_machine(&what, || source::open(path, split))?))
}

fn make_loader(source: Source, transforms: &Array, options: &Map) -> Result<Loader> {
    let options: LoaderOptions = read_options("data::loader", options)?;
    let steps = steps("data::loader", transforms)?;
    let pipeline = Pipeline::new(&steps.image, options.exif_orientation);
    let classes = source.0.class_names().len();
    if source.0.shape().is_none() {
        // Files are decoded: by what, is told once.
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| note_line(&format!("JPEGs are decoded by {}", decode::backend().describe())));
    }
    if dist::world_size() > 1 && options.world_size.is_none() {
        let facts = json!({
            "images": source::fingerprint(source.0.as_ref())?,
            "batch": options.batch,
            "shuffle": options.shuffle,
            "drop_last": options.drop_last,
            "seed": options.seed.unwrap_or_else(random::seed),
        });
        dist::agree("the data", &facts)?;
    }
    let loader = loader::Loader::new(source.0, pipeline, &steps.batch, &options)?;
    Ok(Loader(Rc::new(LoaderParts {
        loader,
        batch_steps: steps.batch,
        classes,
        spare: RefCell::default(),
        told: Cell::new(0),
    })))
}

crate::script::types::handles! { "Source": Source; "Loader": Loader; "Epoch": Epoch; "Image": Picked; }

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    crate::script::types::register::<Source>(engine);
    crate::script::types::register::<Loader>(engine);
    crate::script::types::register::<Epoch>(engine);
    crate::script::types::register::<Picked>(engine);

    let mut group = Group::namespace(
        reference,
        "data",
        "Labelled images in any layout, and how they become batches. Listings and indices that take long to make are \
         kept in the cache folder (NEPA_CACHE) and made anew when the data changed.",
    );
    group.options::<SyntheticOptions>("data::synthetic");
    group.options::<LoaderOptions>("data::loader");
    functions! { group;
        /// Labelled images in whatever layout they lie: class folders, a `datasets` folder, parquet files, WebDataset
        /// tars, IDX. The split is needed where there are several; "validation" also finds val, valid, dev, and
        /// IDX's test.
        "open" (path: ImmutableString, split: ImmutableString) -> Source {
            open(&path, Some(&split))
        }
        /// The same where there is one split only.
        "open" (path: ImmutableString) -> Source { open(&path, None) }
        /// The names of the splits that a path holds, training first.
        "splits" (path: ImmutableString) -> Array {
            Ok(source::splits(&path)?.into_iter().map(Into::into).collect())
        }
        /// A folder with a sub-folder for each class, as torchvision's ImageFolder reads it: classes and files in
        /// sorted order.
        "image_folder" (path: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::ImageFolder::open(Path::new(path.as_str()), None)?)))
        }
        /// What `datasets.save_to_disk` wrote (Arrow), mapped into memory.
        "hf_disk" (path: ImmutableString, split: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::HfDisk::open(Path::new(path.as_str()), Some(&split))?)))
        }
        /// The same for a folder of one split.
        "hf_disk" (path: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::HfDisk::open(Path::new(path.as_str()), None)?)))
        }
        /// Parquet files as on the Hugging Face Hub, by a folder or a pattern: "imagenet/train-*.parquet".
        "parquet" (files: ImmutableString, split: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::Parquet::open(&files, Some(&split))?)))
        }
        /// The same for files of one split.
        "parquet" (files: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::Parquet::open(&files, None)?)))
        }
        /// Uncompressed WebDataset tars, by a folder or a pattern: "shards/train-{0000..0146}.tar". Each is indexed
        /// once, so that shuffling is over all images.
        "webdataset" (files: ImmutableString, split: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::WebDataset::open(&files, Some(&split))?)))
        }
        /// The same for tars of one split.
        "webdataset" (files: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::WebDataset::open(&files, None)?)))
        }
        /// Images in the IDX format (MNIST, Fashion-MNIST), plain or gzipped: the folder and the split,
        /// "train" or "test". Class names are read from classes.txt, one a line, where it is there.
        "idx" (folder: ImmutableString, split: ImmutableString) -> Source {
            Ok(Source(Arc::new(source::Idx::open(Path::new(folder.as_str()), &split)?)))
        }
        /// Made-up images that a model can learn to tell apart, for measuring and trying.
        "synthetic" (options: Map) -> Source {
            let o: SyntheticOptions = read_options("data::synthetic", &options)?;
            Ok(Source(Arc::new(source::Synthetic::new(&o)?)))
        }
        /// The images of several sources with the same classes, one source after the other.
        "concat" (sources: Array) -> Source {
            let parts = sources.iter().map(|s| match s.read_lock::<Source>() {
                Some(s) => Ok(s.0.clone()),
                None => bail!("data::concat: expected an array of sources, found {} in it", found(s)),
            });
            Ok(Source(source::concat(&parts.collect::<Result<Vec<_>>>()?)?))
        }
        /// The classes of ImageNet-1K, a map: `synsets` (WordNet ids) and `names` (words) by label, and the labels of the
        /// classes of ImageNet-A and ImageNet-R, `a` and `r`.
        "imagenet_classes" () -> Map {
            let known = imagenet::classes();
            let words = |list: &[&str]| list.iter().map(|s| Dynamic::from(s.to_string())).collect::<Array>();
            let labels = |list: &[i64]| list.iter().map(|i| Dynamic::from_int(*i)).collect::<Array>();
            Ok(Map::from([
                ("synsets".into(), words(&known.synsets).into()),
                ("names".into(), words(&known.names).into()),
                ("a".into(), labels(&known.a).into()),
                ("r".into(), labels(&known.r).into()),
            ]))
        }
        /// Finds the classes of images among the `count` classes of a model, whose names are `names` (or ()). Gives a
        /// map: `labels`, the model's label for each of the source's, and `names`, the model's classes in words. A class is
        /// the one of the same name, where WordNet ids and names of ImageNet's classes count as the same; names that are
        /// numbers are labels. Without names, as many classes are the same ones, and a model of 1000 classes is one of
        /// ImageNet where the images' classes are WordNet ids or numbers. Classes that the model lacks are an error.
        "match_classes" (source: Source, names: Dynamic, count: i64) -> Map {
            let names = names.read_lock::<Array>().map(|list| list.iter().map(|n| n.to_string()).collect());
            let matched = imagenet::match_classes(source.0.as_ref(), names, self::count(count, "match_classes")?)?;
            Ok(Map::from([
                ("labels".into(), matched.labels.into_iter().map(Dynamic::from_int).collect::<Array>().into()),
                ("names".into(), matched.names.into_iter().map(Dynamic::from).collect::<Array>().into()),
            ]))
        }
        /// An image file, whatever its kind, as 8-bit RGB.
        "read_image" (path: ImmutableString) -> Picked {
            let bytes = std::fs::read(path.as_str()).with_context(|| format!("cannot read {path}"))?;
            let image = Picked::File(Rc::new(bytes));
            image.size().with_context(|| format!("cannot read {path}"))?;
            Ok(image)
        }
        /// Batches of a source, each image through a list of transforms, made ahead by worker threads. What they hold
        /// depends on the seed and the epoch alone, not on the number of workers, nor on that of the processes that
        /// train together: each of these gets a part of every batch (`batch.samples`). All of them must make the loader.
        "loader" (source: Source, transforms: Array, options: Map) -> Loader {
            make_loader(source, &transforms, &options)
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Source", "A list of labelled images.");
    functions! { group;
        /// The number of images.
        "get$len" (source: Source) -> i64 { Ok(source.0.len() as i64) }
        /// The size of an image, [channels, height, width], where all are known to have the same; else ().
        "get$shape" (source: Source) -> Dynamic {
            Ok(match source.0.shape() {
                Some(shape) => shape.map(|n| Dynamic::from_int(n as i64)).to_vec().into(),
                None => Dynamic::UNIT,
            })
        }
        /// The names of the classes, by label.
        "get$class_names" (source: Source) -> Array {
            Ok(source.0.class_names().iter().map(|n| n.clone().into()).collect())
        }
        /// The number of images of each class, by label.
        "get$class_counts" (source: Source) -> Array {
            Ok(source::class_counts(source.0.as_ref()).0.into_iter().map(|n| Dynamic::from_int(n as i64)).collect())
        }
        /// The split that the images are of, where the layout has splits; else ().
        "get$split" (source: Source) -> Dynamic {
            Ok(source.0.split().map_or(Dynamic::UNIT, |split| split.to_string().into()))
        }
        /// The class of image i; −1 where it has none.
        "label" (source: Source, i: i64) -> i64 { Ok(source.0.label(item(&source.0, i)?)) }
        /// The name of image i, which stays the same: "n01440764/n01440764_10026.JPEG".
        "name" (source: Source, i: i64) -> String { Ok(source.0.name(item(&source.0, i)?)) }
        /// Image i.
        "image" (source: Source, i: i64) -> Picked {
            let i = item(&source.0, i)?;
            let content = source.0.read(i).with_context(|| format!("cannot read item {i} ({})", source.0.name(i)))?;
            Ok(match content {
                Content::Encoded(bytes) => Picked::File(Rc::new(bytes.into_owned())),
                Content::Pixels(image) => Picked::Pixels(Rc::new(image)),
            })
        }
        /// A short text that differs where the images do (their number, classes, names, and the content of some), wherever
        /// they lie: to tell whether a run goes on with the data that it began with.
        "get$fingerprint" (source: Source) -> String { source::fingerprint(source.0.as_ref()) }
        /// The first n images.
        "take" (source: Source, n: i64) -> Source { Ok(Source(source::take(&source.0, count(n, "take")?)?)) }
        /// The images at the given places, in that order.
        "subset" (source: Source, indices: Array) -> Source {
            let indices = ints(&indices, "subset")?;
            let indices = indices.into_iter().map(|i| item(&source.0, i)).collect::<Result<Vec<_>>>()?;
            Ok(Source(source::subset(&source.0, &indices)?))
        }
        /// The images for which a function holds: |item| -> bool, item being #{ index, label, name }.
        "filter" (source: Source, keep: FnPtr) -> Source {
            Ok(Source(source::filter(&source.0, |index, label, name| {
                let item = Map::from([
                    ("index".into(), Dynamic::from_int(index as i64)),
                    ("label".into(), Dynamic::from_int(label)),
                    ("name".into(), name.to_string().into()),
                ]);
                let kept = call(&keep, (item,))?;
                match kept.as_bool() {
                    Ok(kept) => Ok(kept),
                    Err(_) => bail!("filter: expected the function to give true or false, found {}", found(&kept)),
                }
            })?))
        }
        /// n images of every class, chosen by the seed alone.
        "per_class" (source: Source, n: i64, seed: i64) -> Source {
            Ok(Source(source::per_class(&source.0, count(n, "per_class")?, seed as u64)?))
        }
        /// Two disjoint parts chosen by the seed alone: a fraction of the images, and the rest.
        "split" (source: Source, fraction: Dynamic, seed: i64) -> Array {
            let (a, b) = source::split(&source.0, number(&fraction, "split")?, seed as u64)?;
            Ok(vec![Dynamic::from(Source(a)), Dynamic::from(Source(b))])
        }
        /// The source as text.
        "to_string" (source: Source) -> String {
            let s = &source.0;
            let shape = s.shape().map_or(String::new(), |[c, h, w]| format!(" {c} x {h} x {w}"));
            Ok(format!("{}: {} images{shape}, {} classes", s.describe(), s.len(), s.class_names().len()))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Image", "One image, of a source or from a file.");
    functions! { group;
        /// Columns of pixels.
        "get$width" (image: Picked) -> i64 { Ok(image.size()?.0 as i64) }
        /// Rows of pixels.
        "get$height" (image: Picked) -> i64 { Ok(image.size()?.1 as i64) }
        /// uint8 [channels, height, width] on the CPU.
        "tensor" (image: Picked) -> Tensor {
            let image = image.pixels()?;
            let mut planes = vec![0; image.data.len()];
            image.write_planar(&mut planes);
            let size = [image.channels as i64, image.height as i64, image.width as i64];
            ok(tch::Tensor::f_from_data_size(&planes, &size, tch::Kind::Uint8)?)
        }
        /// Writes the image as a PNG file.
        "save" (image: Picked, path: ImmutableString) -> () {
            let image = image.pixels()?;
            let colour = match image.channels {
                1 => ExtendedColorType::L8,
                _ => ExtendedColorType::Rgb8,
            };
            let mut bytes = Vec::new();
            let png = PngEncoder::new(&mut bytes);
            png.write_image(&image.data, image.width as u32, image.height as u32, colour)?;
            crate::files::write_atomic(Path::new(path.as_str()), &bytes)
        }
        /// The image after a list of transforms (of those that work on one image), with what they draw given by a seed.
        "apply" (image: Picked, transforms: Array, seed: i64) -> Picked {
            let steps = steps("apply", &transforms)?;
            if !steps.batch.is_empty() {
                bail!("apply: transforms of a batch (normalize, random_erasing, mixup, functions) need data::loader");
            }
            let pipeline = Pipeline::new(&steps.image, false);
            Ok(Picked::Pixels(Rc::new(pipeline.run(image.content(), &mut Key::new(seed as u64).rng())?)))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Loader", "Makes the batches of any epoch.");
    functions! { group;
        /// The batches of epoch e: `for batch in loader.epoch(0) { … }`.
        "epoch" (loader: Loader, e: i64) -> Epoch { start_epoch(loader, e, 0) }
        /// The batches of epoch e after its first `done` images (over all processes), at once and exactly as if they
        /// had been gone through.
        "epoch" (loader: Loader, e: i64, done: i64) -> Epoch { start_epoch(loader, e, done) }
        /// Batches in an epoch.
        "get$steps_per_epoch" (loader: Loader) -> i64 { Ok(loader.0.loader.steps_per_epoch() as i64) }
        /// Images in a batch, over all processes.
        "get$batch" (loader: Loader) -> i64 { Ok(loader.0.loader.batch() as i64) }
        /// Images in the source.
        "get$len" (loader: Loader) -> i64 { Ok(loader.0.loader.source().len() as i64) }
        /// The size of the images: [channels, height, width].
        "get$shape" (loader: Loader) -> Array {
            Ok(loader.0.loader.shape().map(|n| Dynamic::from_int(n as i64)).to_vec())
        }
        /// Broken images that were replaced so far (on_bad: "skip"): maps with index, name, reason.
        "get$bad_items" (loader: Loader) -> Array {
            let bad = loader.0.loader.bad_items();
            let item = |(index, (name, reason)): (usize, (String, String))| {
                Dynamic::from_map(Map::from([
                    ("index".into(), Dynamic::from_int(index as i64)),
                    ("name".into(), name.into()),
                    ("reason".into(), reason.into()),
                ]))
            };
            Ok(bad.into_iter().map(item).collect())
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Epoch", "The batches of one epoch, for a `for` loop.");
    functions! { group;
        /// Seconds that the loop has waited for data so far.
        "get$waited" (epoch: Epoch) -> f64 { Ok(epoch.0.epoch.borrow().waited().as_secs_f64()) }
        /// Batches not yet taken.
        "get$left" (epoch: Epoch) -> i64 { Ok(epoch.0.epoch.borrow().left() as i64) }
        /// Images of the epoch that were taken, over all processes: what `loader.epoch(e, done)` goes on from.
        "get$done" (epoch: Epoch) -> i64 { Ok(epoch.0.epoch.borrow().done() as i64) }
        /// The next batch, or () after the last.
        "next" (epoch: Epoch) -> Dynamic {
            match Batches(epoch.clone()).next() {
                None => Ok(Dynamic::UNIT),
                Some(batch) => batch.map_err(from_rhai),
            }
        }
    }
    group.module.set_iter_result(std::any::TypeId::of::<Epoch>(), |value| Box::new(Batches(value.cast())));
    group.register(engine);
}
