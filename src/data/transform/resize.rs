//! Resizing, alone and with the crop from the middle that often follows.

use super::{CenterCrop, Misfit, Shape, Transform};
use crate::data::decode::{self, LazyImage};
use crate::data::image::{Region, Resampling};
use crate::data::pillow::{resize_then_crop, resized};
use crate::error::Result;
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::sync::Arc;

/// torchvision's `Resize`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resize {
    /// The shorter side, or height and width.
    pub to: ResizeTo,
    /// The filter, and the order of its passes.
    pub how: Resampling,
}

/// What an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeTo {
    /// The shorter side gets this many pixels, the longer in proportion, cut to an integer.
    Shorter(usize),
    /// Height and width.
    Exactly(usize, usize),
}

impl Resize {
    /// Width and height after resizing an image of the given ones.
    fn target(&self, (width, height): (usize, usize)) -> (usize, usize) {
        match self.to {
            ResizeTo::Exactly(h, w) => (w, h),
            ResizeTo::Shorter(n) if width <= height => (n, (n as f64 * height as f64 / width as f64) as usize),
            ResizeTo::Shorter(n) => ((n as f64 * width as f64 / height as f64) as usize, n),
        }
    }
}

impl Transform for Resize {
    fn describe(&self) -> String {
        let to = match self.to {
            ResizeTo::Shorter(n) => n.to_string(),
            ResizeTo::Exactly(h, w) => format!("[{h}, {w}]"),
        };
        format!("resize({to}, {})", self.how)
    }

    fn apply_lazily<'a>(&self, image: LazyImage<'a>, _rng: &mut ChaCha8Rng) -> Result<LazyImage<'a>> {
        let (width, height) = image.size();
        let (to_width, to_height) = self.target((width, height));
        if decode::check_size(to_width, to_height).is_err() {
            return Err(Misfit(format!(
                "transform::resize would make {to_height} x {to_width} pixels (height x width) of an image of {height} x {width}, \
                 more than are accepted; transform::resize([height, width]) gives it a given size"
            ))
            .into());
        }
        let all = Region { left: 0, top: 0, width, height };
        resized(image, all, to_width, to_height, self.how)
    }

    fn shape(&self, before: Shape) -> Shape {
        let size = match (self.to, before.size) {
            (ResizeTo::Exactly(h, w), _) => Some((h, w)),
            (_, Some((h, w))) => Some(self.target((w, h))).map(|(w, h)| (h, w)),
            (_, None) => None,
        };
        Shape { size, ..before }
    }

    fn merge(&self, next: &dyn Transform) -> Option<Arc<dyn Transform>> {
        let crop = (next as &dyn Any).downcast_ref::<CenterCrop>()?;
        Some(Arc::new(ResizeCenterCrop { resize: *self, crop: *crop }))
    }
}

/// [`Resize`] and [`CenterCrop`] in one: no more is decoded and resized than is kept.
struct ResizeCenterCrop {
    resize: Resize,
    crop: CenterCrop,
}

impl Transform for ResizeCenterCrop {
    fn describe(&self) -> String {
        format!("{}, {}", self.resize.describe(), self.crop.describe())
    }

    fn apply_lazily<'a>(&self, image: LazyImage<'a>, rng: &mut ChaCha8Rng) -> Result<LazyImage<'a>> {
        let (width, height) = self.resize.target(image.size());
        match self.crop.region((width, height)) {
            Some(region) if !matches!(image, LazyImage::Floats(_)) => {
                let image = resize_then_crop(image, width, height, region, self.resize.how)?;
                Ok(LazyImage::Decoded(image))
            }
            _ => self.crop.apply_lazily(self.resize.apply_lazily(image, rng)?, rng),
        }
    }

    fn shape(&self, before: Shape) -> Shape {
        self.crop.shape(self.resize.shape(before))
    }
}
