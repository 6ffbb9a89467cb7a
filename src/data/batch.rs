//! A batch: what the loader makes of images and the transforms of a batch change.

use crate::positions::Positions;
use tch::Tensor;

/// Images with their labels, on the run's device.
#[derive(Debug)]
pub struct Batch {
    /// float32 [B, C, H, W].
    pub images: Tensor,
    /// int64 [B].
    pub labels: Tensor,
    /// What to learn: the labels, or after mixup float32 [B, classes].
    pub targets: Tensor,
    /// int64 [B]: the images' indices in the source.
    pub indices: Tensor,
    /// bool [B]: false where a broken image was replaced by another, as on_bad: "skip" does.
    pub intact: Tensor,
    /// The images' positions in the global batch, which all ranks compute together.
    pub samples: Positions,
    /// How much the mean over these images counts when the ranks' gradients are averaged: 1 if all ranks have as
    /// many images, 0 if a short last batch has none for this one.
    pub loss_weight: f64,
}
