//! Lists of labelled images.

use super::image::Image;
use crate::data::decode::LazyImage;
use crate::data::image::AnyImage;
use crate::data::source::{self as sources, SourceRef, StoredImage};
use crate::error::{Context as _, Result, bail};
use crate::options;
use crate::script::types::{Argument, handles};
use crate::script::values::{call, found};
use crate::types::named;
use nepa_macros::functions;
use rhai::{Array, Dynamic, FnPtr, Map};
use std::rc::Rc;

pub use functions::register;

options! {
    /// How an image is read.
    pub struct ImageOptions {
        /// Whether to turn the image as its Exif data says, as in data::loader.
        exif_orientation: bool = false,
    }
}

/// A source in a script.
#[derive(Clone)]
pub struct Source(pub SourceRef);

handles! { "Source": Source; }
named! { "Source": SourceRef; }

impl Argument for Vec<SourceRef> {
    type Raw = Array;
    fn read(raw: Array, of: &str) -> Result<Self> {
        raw.iter()
            .map(|value| match value.read_lock::<Source>() {
                Some(source) => Ok(source.0.clone()),
                None => bail!("{of}: expected an array of sources, found {} in it", found(value)),
            })
            .collect()
    }
}

#[functions]
mod functions {
    use super::*;

    /// The number of images.
    #[script(get)]
    pub fn len(source: &Source) -> usize {
        source.0.len()
    }

    /// The size of the images, [channels, height, width], if all are known to have the same size; otherwise ().
    #[script(get)]
    pub fn shape(source: &Source) -> Option<Vec<usize>> {
        source.0.shape().map(Vec::from)
    }

    /// The names of the classes, by label.
    #[script(get)]
    pub fn class_names(source: &Source) -> Vec<String> {
        source.0.class_names().to_vec()
    }

    /// The number of images of each class, by label.
    #[script(get)]
    pub fn class_counts(source: &Source) -> Vec<usize> {
        sources::class_counts(source.0.as_ref()).0
    }

    /// The images' split, if the layout has splits; otherwise ().
    #[script(get, name = "split")]
    pub fn name_of_split(source: &Source) -> Option<String> {
        source.0.split().map(String::from)
    }

    /// The label of image i, or −1 if it has none.
    pub fn label(source: &Source, i: i64) -> Result<i64> {
        Ok(source.0.label(item(&source.0, i)?))
    }

    /// The permanent name of image i, such as "n01440764/n01440764_10026.JPEG".
    pub fn name(source: &Source, i: i64) -> Result<String> {
        Ok(source.0.name(item(&source.0, i)?))
    }

    /// Image i.
    pub fn image(source: &Source, i: i64) -> Result<Image> {
        read(source, i, &ImageOptions::default())
    }

    /// Image i, on request turned as its Exif data says.
    #[script(name = "image")]
    pub fn image_with(source: &Source, i: i64, options: ImageOptions) -> Result<Image> {
        read(source, i, &options)
    }

    /// A short text that identifies the images (their number, classes, names, and the content of some), independent of
    /// where they are stored: shows whether a run is resumed with the data that it was started with.
    #[script(get)]
    pub fn fingerprint(source: &Source) -> Result<String> {
        sources::fingerprint(source.0.as_ref())
    }

    /// The first n images.
    pub fn take(source: &Source, n: usize) -> Result<Source> {
        Ok(Source(sources::take(&source.0, n)?))
    }

    /// The images with the given indices, in that order.
    pub fn subset(source: &Source, indices: Vec<i64>) -> Result<Source> {
        let indices = indices.into_iter().map(|i| item(&source.0, i)).collect::<Result<Vec<_>>>()?;
        Ok(Source(sources::subset(&source.0, &indices)?))
    }

    /// The images for which a function |item| -> bool returns true; item is #{ index, label, name }.
    pub fn filter(source: &Source, keep: FnPtr) -> Result<Source> {
        Ok(Source(sources::filter(&source.0, |index, label, name| {
            let item = Map::from([
                ("index".into(), Dynamic::from_int(index as i64)),
                ("label".into(), Dynamic::from_int(label)),
                ("name".into(), name.to_string().into()),
            ]);
            let kept = call(&keep, (item,))?;
            match kept.as_bool() {
                Ok(kept) => Ok(kept),
                Err(_) => bail!("filter: expected true or false from the function, found {}", found(&kept)),
            }
        })?))
    }

    /// n images of every class, chosen by the seed.
    pub fn per_class(source: &Source, n: usize, seed: i64) -> Result<Source> {
        Ok(Source(sources::per_class(&source.0, n, seed as u64)?))
    }

    /// Two disjoint sources, chosen by the seed: a fraction of the images, and the rest.
    pub fn split(source: &Source, fraction: f64, seed: i64) -> Result<Vec<Source>> {
        let (a, b) = sources::split(&source.0, fraction, seed as u64)?;
        Ok(vec![Source(a), Source(b)])
    }

    /// The source as text.
    pub fn to_string(source: &Source) -> String {
        let s = &source.0;
        let shape = s.shape().map_or(String::new(), |[c, h, w]| format!(" {c} x {h} x {w}"));
        format!("{}: {} images{shape}, {} classes", s.describe(), s.len(), s.class_names().len())
    }
}

fn read(source: &Source, i: i64, options: &ImageOptions) -> Result<Image> {
    let i = item(&source.0, i)?;
    let read = || -> Result<Image> {
        let mut content = source.0.read(i)?;
        let mode = source.0.mode();
        if options.exif_orientation {
            return Ok(Image::Decoded(Rc::new(LazyImage::open_as(&mut content, true, mode)?.pixels()?)));
        }
        Ok(match content {
            StoredImage::Encoded(bytes) => Image::Encoded(Rc::new(bytes.into_owned()), mode),
            StoredImage::Pixels(image) => Image::Decoded(Rc::new(AnyImage::Bytes(image))),
        })
    };
    read().with_context(|| format!("cannot read item {i} ({})", source.0.name(i)))
}

fn item(source: &SourceRef, i: i64) -> Result<usize> {
    match usize::try_from(i) {
        Ok(i) if i < source.len() => Ok(i),
        _ => bail!("there is no item {i}: {} has {} items, counted from 0", source.describe(), source.len()),
    }
}
