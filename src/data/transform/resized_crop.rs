//! A given region, resized.

use super::{Shape, Transform};
use crate::data::decode::LazyImage;
use crate::data::image::{Region, Resampling};
use crate::data::pillow;
use crate::error::{Result, ensure};
use rand_chacha::ChaCha8Rng;

/// A given region, resized (torchvision's `resized_crop`).
#[derive(Debug, Clone)]
pub struct ResizedCrop {
    /// The region.
    pub region: Region,
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
    /// The filter, and the order of its passes.
    pub how: Resampling,
}

impl Transform for ResizedCrop {
    fn describe(&self) -> String {
        let Region { top, left, height, width } = self.region;
        let to = format!("[{}, {}]", self.height, self.width);
        format!("resized_crop({top}, {left}, {height}, {width}, {to}, {})", self.how)
    }

    fn apply_lazily<'a>(&self, image: LazyImage<'a>, _rng: &mut ChaCha8Rng) -> Result<LazyImage<'a>> {
        let (width, height) = image.size();
        let r = self.region;
        ensure!(
            r.left.saturating_add(r.width) <= width && r.top.saturating_add(r.height) <= height,
            "resized_crop: the region from ({}, {}) of {} x {} pixels reaches beyond the image of {width} x {height}",
            r.left,
            r.top,
            r.width,
            r.height
        );
        pillow::resized(image, r, self.width, self.height, self.how)
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
}
