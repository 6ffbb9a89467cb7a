//! Shards as webdataset's: tar archives in which `KEY.cls` holds the label of the image `KEY.jpg`.

use super::shard::{Entry, ShardWriter, Stored, stored};
use crate::error::{Context as _, Result, bail};
use crate::files::{Checksum, ChecksumWriter};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _};
use std::path::Path;
use tar::{Archive, Builder, Header};

const BUFFER: usize = 1 << 20;
/// The ending of a label.
const LABEL: &str = ".cls";

pub struct Writer {
    archive: Builder<ChecksumWriter<BufWriter<File>>>,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(BUFFER, File::create(path)?);
        Ok(Self { archive: Builder::new(ChecksumWriter::new(file)) })
    }

    /// The same bytes on every machine and at any time: no owner, no date.
    fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        Ok(self.archive.append_data(&mut header, name, content)?)
    }
}

impl ShardWriter for Writer {
    fn add(&mut self, entry: &Entry<'_>) -> Result<Stored> {
        if let Some(label) = entry.label {
            self.file(&format!("{}{LABEL}", entry.key), label.to_string().as_bytes())?;
        }
        let name = format!("{}.{}", entry.key, entry.ending);
        self.file(&name, entry.bytes)?;
        Ok(stored(name, entry.label, entry.bytes))
    }

    fn finish(self: Box<Self>) -> Result<Checksum> {
        let out = self.archive.into_inner()?;
        let checksum = out.checksum();
        out.into_inner().into_inner().map_err(|e| e.into_error())?.sync_all()?;
        Ok(checksum)
    }
}

/// The images of an archive, in its order.
pub fn read(path: &Path) -> Result<Vec<Stored>> {
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, File::open(path)?));
    let (mut images, mut label) = (Vec::new(), None);
    let mut content = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8(entry.path_bytes().into_owned())?;
        content.clear();
        entry.read_to_end(&mut content)?;
        match name.strip_suffix(LABEL) {
            Some(key) => label = Some((key.to_string(), std::str::from_utf8(&content)?.parse()?)),
            None => {
                let of_image = match label.take() {
                    Some((key, label)) if name.rsplit_once('.').is_some_and(|(own, _)| own == key) => Some(label),
                    None => None,
                    Some((key, _)) => bail!("the label of {key} stands before {name}"),
                };
                images.push(stored(name, of_image, &content));
            }
        }
    }
    label.map_or(Ok(images), |(key, _)| None.with_context(|| format!("there is a label of {key}, but no image")))
}
