//! A source whose image files are read as they are.

use super::{Source, SourceRef, StoredImage};
use crate::data::image::Mode;
use crate::error::Result;

/// The same images, with all of their channels and bits.
pub(super) struct Unchanged(pub SourceRef);

impl Source for Unchanged {
    fn describe(&self) -> String {
        format!("{} as they are", self.0.describe())
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn class_names(&self) -> &[String] {
        self.0.class_names()
    }
    fn split(&self) -> Option<&str> {
        self.0.split()
    }
    fn label(&self, index: usize) -> i64 {
        self.0.label(index)
    }
    fn name(&self, index: usize) -> String {
        self.0.name(index)
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        self.0.read(index)
    }
    fn mode(&self) -> Mode {
        Mode::Unchanged
    }
}
