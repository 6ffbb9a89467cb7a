//! The formats of packed images: shards are begun in one of them, and read back.

use super::shard::{ShardWriter, Stored};
use super::{parquet, webdataset};
use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::files::{Checksum, checksum_of};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How packed images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Tar archives of images and of texts with their labels, as webdataset reads them.
    #[value(name = "webdataset")]
    WebDataset,
    /// Parquet files as on the Hugging Face Hub, as `datasets` reads them.
    Parquet,
}

impl Format {
    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Format::WebDataset => "tar",
            Format::Parquet => "parquet",
        }
    }
}

/// Begins a file, in place of one that may be there.
pub fn create(path: &Path, format: Format, class_names: &[String]) -> Result<Box<dyn ShardWriter>> {
    Ok(match format {
        Format::WebDataset => Box::new(webdataset::Writer::create(path)?),
        Format::Parquet => Box::new(parquet::Writer::create(path, class_names)?),
    })
}

/// Reads a shard and compares all that is in it, and the file itself, with what was written.
pub fn verify(path: &Path, format: Format, file: Checksum, written: &[Stored]) -> Result<()> {
    const HINT: &str = "the same command writes it again; if this comes again, the disk or the memory may be faulty";
    let found = checksum_of(path).with_context(|| format!("cannot read {}", path.display()))?;
    if found != file {
        bail_hint!("{} has other content than was written: {found:?}, expected {file:?}", path.display(); "{HINT}");
    }
    let read = match format {
        Format::WebDataset => webdataset::read(path),
        Format::Parquet => parquet::read(path),
    };
    let read = read.with_context(|| format!("cannot read {}", path.display()))?;
    if let Some((image, _)) = written.iter().zip(&read).find(|(written, read)| written != read) {
        bail_hint!("{}: {} is not read as it was written", path.display(), image.name; "{HINT}");
    }
    if read.len() != written.len() {
        bail_hint!("{} holds {} images, {} were written", path.display(), read.len(), written.len(); "{HINT}");
    }
    Ok(())
}
