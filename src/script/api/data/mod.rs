//! Sources of images, and how they become batches.

mod image;
mod loader;
mod source;

use crate::data::imagenet;
use crate::data::loader::LoaderOptions;
use crate::data::source::{self as sources, SourceRef, SyntheticOptions};
use crate::dist;
use crate::error::{Context as _, Result};
use crate::script::registry::Api;
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
        "Labelled images in any layout, and how they become batches. Listings and indices that take long to make are \
         kept in the cache folder (NEPA_CACHE) and made again when the data changes.",
        functions::register,
    );
    api.methods::<Source>("A list of labelled images.", source::register);
    api.methods::<Image>("One image, of a source or from a file.", image::register);
    api.methods::<Loader>("Makes the batches of any epoch.", loader::register);
    api.methods::<Epoch>("The batches of one epoch, for a `for` loop.", loader::register_epoch);
}

/// A source whose listing is kept: of the processes of a machine one makes it.
fn opened(path: &str, split: Option<&str>) -> Result<Source> {
    let what = format!("the listing of {path}");
    Ok(Source(dist::local_rank0_first(&what, || sources::open(path, split))?))
}

#[functions]
mod functions {
    use super::*;

    /// Labelled images in whatever layout they lie: class folders, a `datasets` folder, parquet files, WebDataset
    /// tars, IDX. The split is needed where there are several; "validation" also finds val, valid, dev, and
    /// IDX's test.
    pub fn open(path: &str, split: &str) -> Result<Source> {
        opened(path, Some(split))
    }

    /// Labelled images in whatever layout they lie, where there is one split only.
    #[script(name = "open")]
    pub fn open_only_split(path: &str) -> Result<Source> {
        opened(path, None)
    }

    /// The names of the splits that a path holds, training first.
    pub fn splits(path: &str) -> Result<Vec<String>> {
        sources::splits(path)
    }

    /// A folder with a sub-folder for each class, as torchvision's ImageFolder reads it: classes and files in
    /// sorted order.
    pub fn image_folder(path: &Path) -> Result<Source> {
        Ok(Source(Arc::new(sources::ImageFolder::open(path, None)?)))
    }

    /// What `datasets.save_to_disk` wrote (Arrow), mapped into memory.
    pub fn hf_disk(path: &Path, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::HfDisk::open(path, Some(split))?)))
    }

    /// What `datasets.save_to_disk` wrote (Arrow), of a folder of one split.
    #[script(name = "hf_disk")]
    pub fn hf_disk_only_split(path: &Path) -> Result<Source> {
        Ok(Source(Arc::new(sources::HfDisk::open(path, None)?)))
    }

    /// Parquet files as on the Hugging Face Hub, by a folder or a pattern: "imagenet/train-*.parquet".
    pub fn parquet(files: &str, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::Parquet::open(files, Some(split))?)))
    }

    /// Parquet files of one split.
    #[script(name = "parquet")]
    pub fn parquet_only_split(files: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::Parquet::open(files, None)?)))
    }

    /// Uncompressed WebDataset tars, by a folder or a pattern: "shards/train-{0000..0146}.tar". Each is indexed
    /// once, so that shuffling is over all images.
    pub fn webdataset(files: &str, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::WebDataset::open(files, Some(split))?)))
    }

    /// Uncompressed WebDataset tars of one split.
    #[script(name = "webdataset")]
    pub fn webdataset_only_split(files: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::WebDataset::open(files, None)?)))
    }

    /// Images in the IDX format (MNIST, Fashion-MNIST), plain or gzipped: the folder and the split,
    /// "train" or "test". Class names are read from classes.txt, one a line, where it is there.
    pub fn idx(folder: &Path, split: &str) -> Result<Source> {
        Ok(Source(Arc::new(sources::Idx::open(folder, split)?)))
    }

    /// Made-up images that a model can learn to tell apart, for measuring and trying.
    pub fn synthetic(options: SyntheticOptions) -> Result<Source> {
        Ok(Source(Arc::new(sources::Synthetic::new(&options)?)))
    }

    /// The images of several sources with the same classes, one source after the other.
    pub fn concat(sources: Vec<SourceRef>) -> Result<Source> {
        Ok(Source(sources::concat(&sources)?))
    }

    /// The classes of ImageNet-1K, a map: `synsets` (WordNet ids) and `names` (words) by label, and the labels of the
    /// classes of ImageNet-A and ImageNet-R, `a` and `r`.
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

    /// Finds the classes of images among the `count` classes of a model, whose names are `names` (or ()). Gives a
    /// map: `labels`, the model's label for each of the source's, and `names`, the model's classes in words. A class is
    /// the one of the same name, where WordNet ids and names of ImageNet's classes count as the same; names that are
    /// numbers are labels. Without names, as many classes are the same ones, and a model of 1000 classes is one of
    /// ImageNet where the images' classes are WordNet ids or numbers. Classes that the model lacks are an error.
    pub fn match_classes(source: &Source, names: Dynamic, count: usize) -> Result<Map> {
        let names = names.read_lock::<Array>().map(|list| list.iter().map(|n| n.to_string()).collect());
        let matched = imagenet::match_classes(source.0.as_ref(), names, count)?;
        Ok(Map::from([
            ("labels".into(), matched.labels.into_iter().map(Dynamic::from_int).collect::<Array>().into()),
            ("names".into(), matched.names.into_iter().map(Dynamic::from).collect::<Array>().into()),
        ]))
    }

    /// An image file, whatever its kind, as 8-bit RGB.
    pub fn read_image(path: &Path) -> Result<Image> {
        let unreadable = || format!("cannot read {}", path.display());
        let image = Image::Encoded(Rc::new(std::fs::read(path).with_context(unreadable)?));
        image.size().with_context(unreadable)?;
        Ok(image)
    }

    /// Batches of a source, each image through a list of transforms, made ahead by worker threads. What they hold
    /// depends on the seed and the epoch alone, not on the number of workers, nor on that of the processes that
    /// train together: each of these gets its images of every global batch (`batch.samples`). All of them must make the
    /// loader.
    pub fn loader(source: &Source, transforms: Array, options: LoaderOptions) -> Result<Loader> {
        Loader::new(source, transforms, &options)
    }
}
