//! A batch: what the loader makes of images and the transforms of a batch change.

use super::transform::Normalize;
use crate::error::Result;
use crate::positions::Positions;
use tch::{Kind, Tensor};

/// Images on the run's device: as numbers, float32 [B, C, H, W], or as bytes that become numbers when they are asked for. A
/// GPU gets bytes, and a batch in many micro-batches is never whole as numbers, which take four times as much.
#[derive(Debug)]
pub enum Images {
    /// What a model gets.
    Numbers(Tensor),
    /// What it is made from.
    Bytes {
        /// uint8 [B, H, W, C].
        pixels: Tensor,
        /// How values in [0, 1] are normalised.
        normalize: Option<Normalize>,
    },
}

impl Images {
    /// As numbers, float32 [B, C, H, W].
    pub fn numbers(&self) -> Result<Tensor> {
        match self {
            Images::Numbers(images) => Ok(images.shallow_clone()),
            Images::Bytes { pixels, normalize } => {
                let images = pixels.f_permute([0, 3, 1, 2])?.f_to_kind(Kind::Float)?.f_contiguous()?;
                let images = images.f_div_scalar(255.0)?;
                match normalize {
                    Some(normalize) => normalize.of_images(&images),
                    None => Ok(images),
                }
            }
        }
    }

    /// `length` of them from `start` on.
    pub fn part(&self, start: i64, length: i64) -> Result<Self> {
        self.map(|images| Ok(images.f_narrow(0, start, length)?))
    }

    /// Others that share their memory.
    pub fn shallow_clone(&self) -> Self {
        self.map(|images| Ok(images.shallow_clone())).expect("a clone of a handle")
    }

    fn map(&self, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(match self {
            Images::Numbers(images) => Images::Numbers(f(images)?),
            Images::Bytes { pixels, normalize } => Images::Bytes { pixels: f(pixels)?, normalize: normalize.clone() },
        })
    }
}

/// Images with their labels, on the run's device.
#[derive(Debug)]
pub struct Batch {
    /// The images, normalised if the transforms do so.
    pub images: Images,
    /// int64 [B].
    pub labels: Tensor,
    /// What to learn: the labels, or after mixup float32 [B, classes].
    pub targets: Tensor,
    /// int64 [B]: the images' indices in the source.
    pub indices: Tensor,
    /// bool [B]: false where a broken image was replaced by another, as on_bad: "skip" does.
    pub intact: Tensor,
    /// Whether none was replaced, in this batch or the one that it is a part of.
    pub all_intact: bool,
    /// The images' positions in the global batch, which all ranks compute together.
    pub samples: Positions,
    /// How much the mean over these images counts when the ranks' gradients are averaged: 1 if all ranks have as
    /// many images, 0 if a short last batch has none for this one.
    pub loss_weight: f64,
}
