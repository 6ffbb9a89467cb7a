//! A given region, resized.

use super::{Misfit, Shape, Transform};
use crate::data::decode::LazyImage;
use crate::data::image::{Region, Resampling};
use crate::data::pillow;
use crate::error::Result;
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
        if r.left.saturating_add(r.width) > width || r.top.saturating_add(r.height) > height {
            return Err(Misfit(format!(
                "transform::resized_crop: the region from row {} and column {} on, {} x {} pixels (height x width), \
                 reaches beyond the image of {height} x {width}; transform::resize before it gives images a size",
                r.top, r.left, r.height, r.width
            ))
            .into());
        }
        pillow::resized(image, r, self.width, self.height, self.how)
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
}
