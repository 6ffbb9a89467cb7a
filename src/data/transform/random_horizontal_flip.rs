//! Random mirroring.

use super::draws::{happens, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::error::Result;
use crate::options;
use rand_chacha::ChaCha8Rng;

options! {
    /// Mirrors random images left to right (torchvision's `RandomHorizontalFlip`).
    pub struct RandomHorizontalFlipOptions {
        /// Probability of changing an image.
        p: f64 = 0.5,
    }
}

/// Mirrors some images.
#[derive(Debug, Clone)]
pub struct RandomHorizontalFlip(RandomHorizontalFlipOptions);

impl RandomHorizontalFlip {
    /// Checks the options.
    pub fn new(options: &RandomHorizontalFlipOptions) -> Result<Self> {
        within("transform::random_horizontal_flip", "p", options.p, 0.0, 1.0)?;
        Ok(Self(options.clone()))
    }
}

impl Transform for RandomHorizontalFlip {
    fn describe(&self) -> String {
        describe_call("random_horizontal_flip", &[], &self.0)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if happens(self.0.p, rng) {
            horizontal_flip(&mut image);
        }
        Ok(image)
    }

    fn apply_to_floats(&self, mut image: Image<f32>, rng: &mut ChaCha8Rng) -> Result<Image<f32>> {
        if happens(self.0.p, rng) {
            horizontal_flip(&mut image);
        }
        Ok(image)
    }
}

/// Mirrors left to right.
pub fn horizontal_flip<T: Copy>(image: &mut Image<T>) {
    let c = image.channels.max(1);
    for row in image.data.chunks_exact_mut((image.width * c).max(1)) {
        match c {
            1 => row.reverse(),
            3 => row.as_chunks_mut::<3>().0.reverse(),
            _ => {
                row.reverse();
                row.chunks_exact_mut(c).for_each(<[T]>::reverse);
            }
        }
    }
}
