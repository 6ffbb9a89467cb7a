//! Where labelled images come from: one interface for every layout.
//!
//! [`open`] weighs which layout a path has; [`take`], [`subset`], [`split`], [`per_class`], [`filter`] and [`concat`]
//! make sources of sources.

pub mod cifar;
mod columns;
mod hf_disk;
mod idx;
mod image_folder;
mod labels;
mod listing;
mod names;
mod open;
mod packed;
mod parquet;
mod paths;
mod samples;
mod shard_name;
mod shards;
mod split_names;
mod subset;
mod survey;
mod synthetic;
mod tar;
#[cfg(test)]
mod tests;
mod unchanged;
mod webdataset;

pub use cifar::Cifar;
pub use columns::OpenOptions;
pub use hf_disk::HfDisk;
pub use idx::Idx;
pub use image_folder::ImageFolder;
pub use open::{Layout, Place, open, open_with, splits};
pub use packed::{PACK_FILE, sample_key};
pub use parquet::Parquet;
pub use subset::{concat, filter, per_class, split, subset, take};
pub use synthetic::{Synthetic, SyntheticOptions};
pub use webdataset::WebDataset;

use crate::data::image::{Image, Mode};
use crate::error::Result;
use std::borrow::Cow;
use std::sync::Arc;

/// Which of several lists, one after the other, holds item `index`, and its index there. `ends` are the indices after
/// each list's last item.
fn locate(ends: &[usize], index: usize) -> (usize, usize) {
    let list = ends.partition_point(|end| *end <= index);
    (list, index - if list == 0 { 0 } else { ends[list - 1] })
}

/// The indices after each list's last item, of lists that stand one after the other.
fn ends(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let sum = |end: &mut usize, length| {
        *end += length;
        Some(*end)
    };
    lengths.scan(0, sum).collect()
}

/// How many images each class has, by label, and how many have none.
pub fn class_counts(source: &dyn Source) -> (Vec<usize>, usize) {
    let (mut counts, mut unlabelled) = (vec![0; source.class_names().len()], 0);
    for i in 0..source.len() {
        match usize::try_from(source.label(i)).ok().and_then(|label| counts.get_mut(label)) {
            Some(count) => *count += 1,
            None => unlabelled += 1,
        }
    }
    (counts, unlabelled)
}

/// "1281167 images, 1000 classes, 9c2f07ab": a text that differs if the images do, wherever they are stored.
///
/// The checksum is over the classes, the names and labels of up to 1000 images, and the content of up to 5 of them.
pub fn fingerprint(source: &dyn Source) -> Result<String> {
    let mut hasher = crc32fast::Hasher::new();
    let spread = |most: usize| (0..most.min(source.len())).map(move |k| k * source.len() / most.min(source.len()));
    for name in source.class_names() {
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
    }
    for i in spread(1000) {
        hasher.update(source.name(i).as_bytes());
        hasher.update(&source.label(i).to_le_bytes());
    }
    for i in spread(5) {
        match source.read(i) {
            Ok(StoredImage::Encoded(bytes)) => hasher.update(&bytes),
            Ok(StoredImage::Pixels(image)) => hasher.update(&image.data),
            // The loader reports broken images.
            Err(_) => hasher.update(b"unreadable"),
        }
    }
    Ok(format!("{} images, {} classes, {:08x}", source.len(), source.class_names().len(), hasher.finalize()))
}

/// A shared handle to any source.
pub type SourceRef = Arc<dyn Source>;

/// What a source holds for one item.
pub enum StoredImage<'a> {
    /// The bytes of an image file (JPEG, PNG, …), recognised by their content.
    Encoded(Cow<'a, [u8]>),
    /// Pixels as they are.
    Pixels(Image),
}

/// A list of labelled images. Shared by the loader's threads: every method may be called by many at once.
pub trait Source: Send + Sync {
    /// Where the images come from, in words, for messages: "DIR (image folder, train)".
    fn describe(&self) -> String;
    /// The number of images.
    fn len(&self) -> usize;
    /// The names of the classes, by label.
    fn class_names(&self) -> &[String];
    /// The split that the images are of, if the layout has splits: "train".
    fn split(&self) -> Option<&str>;
    /// The class of image `index`, 0 … classes − 1; −1 if the layout says that it has none. Cheap.
    fn label(&self, index: usize) -> i64;
    /// A name that identifies image `index` within the source and stays the same: "n01440764/n01440764_10026.JPEG".
    fn name(&self, index: usize) -> String;
    /// Image `index`. An error does not name the item: the caller does.
    fn read(&self, index: usize) -> Result<StoredImage<'_>>;
    /// Channels, height and width, if all images are known to have the same ones: pixels of 8 bits are stored.
    fn shape(&self) -> Option<[usize; 3]> {
        None
    }
    /// What the files of images are read as.
    fn mode(&self) -> Mode {
        Mode::Rgb
    }
    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
