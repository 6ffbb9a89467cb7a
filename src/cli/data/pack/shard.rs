//! A file of packed images that is being written.

use crate::error::Result;
use crate::files::Checksum;

/// An image to be written.
pub struct Entry<'a> {
    /// Its name where it comes from.
    pub name: &'a str,
    /// Its name in an archive, without the ending; no other of the shard has it.
    pub key: &'a str,
    pub ending: &'static str,
    /// None if no image of the data set has one.
    pub label: Option<i64>,
    pub bytes: &'a [u8],
}

/// An image in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    pub label: Option<i64>,
    pub content: Checksum,
}

/// What an image of these bytes is stored as.
pub fn stored(name: String, label: Option<i64>, bytes: &[u8]) -> Stored {
    Stored { name, label, content: Checksum { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) } }
}

/// A shard that is being written.
pub trait ShardWriter: Send {
    /// Adds an image, and says what is to be found there.
    fn add(&mut self, entry: &Entry<'_>) -> Result<Stored>;
    /// Ends the file, which then is on the disk.
    fn finish(self: Box<Self>) -> Result<Checksum>;
}
