//! Random mirroring upside down.

use super::draws::{happens, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::error::Result;
use crate::options;
use rand_chacha::ChaCha8Rng;

options! {
    /// Mirrors random images upside down (torchvision's `RandomVerticalFlip`).
    pub struct RandomVerticalFlipOptions {
        /// Probability of changing an image.
        p: f64 = 0.5,
    }
}

/// Mirrors some images.
#[derive(Debug, Clone)]
pub struct RandomVerticalFlip(RandomVerticalFlipOptions);

impl RandomVerticalFlip {
    /// Checks the options.
    pub fn new(options: &RandomVerticalFlipOptions) -> Result<Self> {
        within("transform::random_vertical_flip", "p", options.p, 0.0, 1.0)?;
        Ok(Self(options.clone()))
    }
}

impl Transform for RandomVerticalFlip {
    fn describe(&self) -> String {
        describe_call("random_vertical_flip", &[], &self.0)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if happens(self.0.p, rng) {
            vertical_flip(&mut image);
        }
        Ok(image)
    }

    fn apply_to_floats(&self, mut image: Image<f32>, rng: &mut ChaCha8Rng) -> Result<Image<f32>> {
        if happens(self.0.p, rng) {
            vertical_flip(&mut image);
        }
        Ok(image)
    }
}

/// Turns the order of the rows around.
fn vertical_flip<T: Copy>(image: &mut Image<T>) {
    let n = image.width * image.channels;
    for y in 0..image.height / 2 {
        let (upper, lower) = image.data.split_at_mut((image.height - 1 - y) * n);
        upper[y * n..(y + 1) * n].swap_with_slice(&mut lower[..n]);
    }
}
