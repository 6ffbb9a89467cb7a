//! Sources of images, and how they become batches.

mod features;
mod image;
mod loader;
mod source;

use crate::data::examples;
use crate::data::image::Mode;
use crate::data::imagenet;
use crate::data::loader::LoaderOptions;
use crate::data::source::{self as sources, OpenOptions, SourceRef, SyntheticOptions};
use crate::dist;
use crate::error::{Context as _, Result};
use crate::options;
use crate::script::registry::Api;
use crate::untrusted;
use features::FeaturesFile;
use image::Image;
use loader::{Epoch, Loader};
use nepa_macros::functions;
use rhai::{Array, Dynamic, Map};
use source::Source;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "data",
        "Labelled images in any layout, and loaders that turn them into batches. Listings and indices that take long \
         to build are cached (in NEPA_CACHE) and rebuilt when the data change.",
        functions::register,
    );
    api.methods::<FeaturesFile>("The files of a source's features, as they are being written.", features::register);
    api.methods::<Source>("A list of labelled images.", source::register);
    api.methods::<Image>("One image, of a source or from a file.", image::register);
    api.methods::<Loader>("Makes the batches of any epoch.", loader::register);
    api.methods::<Epoch>("The batches of one epoch, for a `for` loop.", loader::register_epoch);
}

/// The most bytes of an image file that are read.
const MOST_IMAGE: u64 = 1 << 30;

/// A source whose listing is kept: of the processes of a machine one makes it.
fn opened(path: &str, split: Option<&str>) -> Result<Source> {
    let what = format!("the listing of {path}");
    Ok(Source(dist::local_rank0_first(&what, || sources::open(path, split))?))
}

options! {
    /// How to read an image file.
    pub struct ReadOptions {
        /// What it is read as: "rgb" (8-bit), or "unchanged": float32 of all channels, as in data::open.
        mode: Mode = Mode::Rgb,
    }
}

fn read(path: &Path, mode: Mode) -> Result<Image> {
    let image = Image::Encoded(Rc::new(untrusted::read(path, MOST_IMAGE)?), mode);
    image.size().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(image)
}

#[functions]
mod functions {
    use super::*;

    /// Opens images in any supported layout: class folders, a `datasets` folder, parquet files, WebDataset tars, IDX,
    /// CIFAR-10 and CIFAR-100 as they are distributed (the binary and the Python version; the folder itself or the one
    /// into which it was unpacked), or a folder of images without classes. If there are several splits, name one; "" means the only one, or data
    /// without splits. "train" also finds training; "validation" also val, valid and dev, or else test, testing, eval
    /// and evaluation, which it says. Of several layouts in one folder it opens the one for which most speaks, and says
    /// what it passed over; if none stands out, that is an error. Hidden files and folders, and what systems leave
    /// (`__MACOSX`, `Thumbs.db`, `@eaDir`, `lost+found`), are never images, classes or shards. What `nepa data pack` has
    /// made of images is opened like these; one that it has not finished is refused.
    ///
    /// Labels in tables are whole numbers (also as floats), true and false (1 and 0), or texts: a text's label is its
    /// place among the split's texts in sorted order, by number if all of them are numbers.
    pub fn open(path: &str, split: &str) -> Result<Source> {
        opened(path, Some(split).filter(|split| !split.is_empty()))
    }

    /// Opens images in any supported layout, if there is only one split.
    #[script(name = "open")]
    pub fn open_only_split(path: &str) -> Result<Source> {
        opened(path, None)
    }

    /// Opens one split ("" for data without splits) with options. `image` and `label` are for parquet files or a `datasets`
    /// folder whose columns of images or labels have unusual names, or are several: `data::open("cifar100", "train",
    /// #{ label: "coarse_label" })`. CIFAR-100 as it is distributed has these two labels too. `mode: "unchanged"` is for
    /// images of other than 3 channels or more than 8 bits, such as those of satellites or in medicine: TIFF and PNG keep
    /// their channels and bits up to the model, whose `num_channels` they must have. `nepa data PATH --mode unchanged` prints
    /// the mean and standard deviation of each channel for transform::normalize; weights of RGB images are made to fit by
    /// checkpoint::adapt_channels.
    #[script(name = "open")]
    pub fn open_with(path: &str, split: &str, options: OpenOptions) -> Result<Source> {
        let what = format!("the listing of {path}");
        let split = Some(split).filter(|s| !s.is_empty());
        Ok(Source(dist::local_rank0_first(&what, || sources::open_with(path, split, &options))?))
    }

    /// Begins the files of the features of all images of a source, `width` numbers each, or goes on with them where they
    /// have been begun: .parquet (columns name, label, class_name, features), .npy (with the names in a .csv beside it) or
    /// .safetensors (features, labels; names in its metadata), as `path` ends. Each file holds `shard` images: if there
    /// are several, they are called NAME-00000-of-00012.parquet. `settings` says how the features are computed. A file of
    /// JSON beside them, `path` with .json, keeps all this, and files of other features are refused. std/embed uses it.
    /// All ranks call it.
    pub fn features_file(
        path: &Path,
        images: &Source,
        width: usize,
        shard: usize,
        settings: Map,
    ) -> Result<FeaturesFile> {
        FeaturesFile::open(path, images, width, shard, &settings)
    }

    /// The names of the splits in a path, training first.
    pub fn splits(path: &str) -> Result<Vec<String>> {
        sources::splits(path)
    }

    /// Opens a folder with a subfolder for each class, like torchvision's ImageFolder: classes and files in sorted
    /// order, but classes that are numbers in the order of numbers, and without hidden files and folders.
    pub fn image_folder(path: &Path) -> Result<Source> {
        Ok(Source(Arc::new(sources::ImageFolder::with_classes(path)?)))
    }

    /// Opens one split of a folder written by `datasets.save_to_disk` (Arrow), mapped into memory.
    pub fn hf_disk(path: &Path, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::HfDisk::open(path, Some(split), &OpenOptions::default())?)))
    }

    /// Opens a folder written by `datasets.save_to_disk` (Arrow) with a single split.
    #[script(name = "hf_disk")]
    pub fn hf_disk_only_split(path: &Path) -> Result<Source> {
        Ok(Source(Arc::new(sources::HfDisk::open(path, None, &OpenOptions::default())?)))
    }

    /// Opens parquet files as on the Hugging Face Hub, given a folder or a pattern: "imagenet/train-*.parquet". Their
    /// splits are told by their names and folders, as in `datasets`; a set with missing files is an error.
    pub fn parquet(files: &str, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::Parquet::open(files, Some(split), &OpenOptions::default())?)))
    }

    /// Opens one split of parquet files.
    #[script(name = "parquet")]
    pub fn parquet_only_split(files: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::Parquet::open(files, None, &OpenOptions::default())?)))
    }

    /// Opens uncompressed WebDataset tars, given a folder or a pattern: "shards/train-{0000..0146}.tar". Each is
    /// indexed once, so that images are shuffled across all shards. The files of a sample share their name up to its
    /// first dot and may lie anywhere in the archive; images without a label among labelled ones are an error.
    pub fn webdataset(files: &str, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::WebDataset::open(files, Some(split))?)))
    }

    /// Opens one split of uncompressed WebDataset tars.
    #[script(name = "webdataset")]
    pub fn webdataset_only_split(files: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::WebDataset::open(files, None)?)))
    }

    /// The folder of example images that come with nepa: "fashion-mnist", 12,000 images of Fashion-MNIST for training and
    /// 2,000 for testing, chosen at random from all 70,000 (28 x 28, one channel, 10 classes; MIT licence).
    ///
    /// Example: `let images = data::open(data::example("fashion-mnist"), "train");`
    pub fn example(name: &str) -> Result<String> {
        Ok(examples::folder(name)?.display().to_string())
    }

    /// Opens images in the IDX format (MNIST, Fashion-MNIST), plain or gzipped, given the folder and the
    /// split, "train" or "test". Reads class names from classes.txt, one per line, if it exists.
    pub fn idx(folder: &Path, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::Idx::open(folder, split)?)))
    }

    /// Generates images that a model can learn to classify, for tests and measurements.
    pub fn synthetic(options: SyntheticOptions) -> Result<Source> {
        Ok(Source(Arc::new(sources::Synthetic::new(&options)?)))
    }

    /// Concatenates several sources with the same classes.
    pub fn concat(sources: Vec<SourceRef>) -> Result<Source> {
        Ok(Source(sources::concat(&sources)?))
    }

    /// The classes of ImageNet-1K, as a map: `synsets` (WordNet ids) and `names` (words) by label, and `a` and `r`, the
    /// labels in ImageNet-A and ImageNet-R.
    pub fn imagenet_classes() -> Map {
        let known = imagenet::classes();
        let words = |list: &[&str]| list.iter().map(|s| Dynamic::from(s.to_string())).collect::<Array>();
        let labels = |list: &[i64]| list.iter().map(|i| Dynamic::from_int(*i)).collect::<Array>();
        Map::from([
            ("synsets".into(), words(&known.synsets).into()),
            ("names".into(), words(&known.names).into()),
            ("a".into(), labels(&known.a).into()),
            ("r".into(), labels(&known.r).into()),
        ])
    }

    /// Maps the classes of a source to the `count` classes of a model, whose names are `names` (or ()). Returns a map:
    /// `labels`, the model's label for each of the source's; `names`, the model's classes in words; `assumed`, in words
    /// what had to be assumed because the model has no names, or (). Classes match by name; WordNet ids match the names
    /// of ImageNet's classes, and names that are numbers are labels, unless the model's names are numbers too. Without
    /// names, numbers are labels as well, other sources with as many classes as the model match label by label, and a
    /// model of 1000 classes is taken for ImageNet's if the source's classes are WordNet ids or numbers. Classes that
    /// the model lacks are an error, and so are, without names, numbers that are all of the model's labels in another
    /// order.
    pub fn match_classes(source: &Source, names: Dynamic, count: usize) -> Result<Map> {
        let names = names.read_lock::<Array>().map(|list| list.iter().map(|n| n.to_string()).collect());
        let matched = imagenet::match_classes(source.0.as_ref(), names, count)?;
        Ok(Map::from([
            ("labels".into(), matched.labels.into_iter().map(Dynamic::from_int).collect::<Array>().into()),
            ("names".into(), matched.names.into_iter().map(Dynamic::from).collect::<Array>().into()),
            ("assumed".into(), matched.assumed.map_or(Dynamic::UNIT, Dynamic::from)),
        ]))
    }

    /// Reads an image file of any supported format, as 8-bit RGB.
    pub fn read_image(path: &Path) -> Result<Image> {
        read(path, Mode::Rgb)
    }

    /// Reads an image file of any supported format in a mode, "rgb" or "unchanged", as data::open describes them.
    #[script(name = "read_image")]
    pub fn read_image_as(path: &Path, options: ReadOptions) -> Result<Image> {
        read(path, options.mode)
    }

    /// Makes a loader: batches of a source, with a list of transforms applied to each image, prepared in advance by
    /// worker threads. Their content depends only on the seed and the epoch, not on the number of workers or processes.
    /// In a distributed run, each process gets its part of every global batch (`batch.samples`), and all must make the
    /// loader.
    pub fn loader(source: &Source, transforms: Array, options: LoaderOptions) -> Result<Loader> {
        Loader::new(source, transforms, &options)
    }
}
