//! Crops from the middle.

use super::{Shape, Transform};
use crate::data::decode::LazyImage;
use crate::data::image::{Image, Region};
use crate::error::Result;
use rand_chacha::ChaCha8Rng;

/// torchvision's `CenterCrop`: an image that is too small gets a border of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CenterCrop {
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
}

impl CenterCrop {
    /// The middle of an image that is large enough; Python's rounding (half to even), as torchvision has it.
    pub(super) fn region(&self, (width, height): (usize, usize)) -> Option<Region> {
        if width < self.width || height < self.height {
            return None;
        }
        let half = |n: usize| (n as f64 / 2.0).round_ties_even() as usize;
        let (left, top) = (half(width - self.width), half(height - self.height));
        Some(Region { left, top, width: self.width, height: self.height })
    }

    /// The middle of an image that needs a border.
    fn of_small<T: Copy + Default>(&self, image: &Image<T>) -> Image<T> {
        let (width, height) = (image.width.max(self.width), image.height.max(self.height));
        let (left, top) = ((width - image.width) / 2, (height - image.height) / 2);
        let c = image.channels;
        let mut padded = Image::new(width, height, c, vec![T::default(); width * height * c]);
        for y in 0..image.height {
            let at = ((top + y) * width + left) * c;
            padded.data[at..at + image.width * c].copy_from_slice(image.row(y));
        }
        padded.crop(self.region((width, height)).expect("large enough now"))
    }
}

impl Transform for CenterCrop {
    fn describe(&self) -> String {
        format!("center_crop([{}, {}])", self.height, self.width)
    }

    fn apply_lazily<'a>(&self, image: LazyImage<'a>, _rng: &mut ChaCha8Rng) -> Result<LazyImage<'a>> {
        Ok(match (self.region(image.size()), image) {
            (Some(region), LazyImage::Floats(image)) => LazyImage::Floats(image.crop(region)),
            (Some(region), image) => LazyImage::Decoded(image.decode_region(region)?.crop()),
            (None, LazyImage::Floats(image)) => LazyImage::Floats(self.of_small(&image)),
            (None, image) => LazyImage::Decoded(self.of_small(&image.decode()?)),
        })
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
}
