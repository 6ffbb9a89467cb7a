//! Random blurring.

use super::draws::{happens, range_within, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::data::pillow::gaussian_blur;
use crate::error::Result;
use crate::options;
use crate::random::uniform;
use rand_chacha::ChaCha8Rng;

options! {
    /// Random Gaussian blur (Pillow's), as in DINO and DeiT III.
    pub struct GaussianBlurOptions {
        /// Probability of changing an image.
        p: f64 = 0.5,
        /// Minimum and maximum standard deviation, in pixels.
        radius: [f64; 2] = [0.1, 2.0],
    }
}

/// Blurs some images.
#[derive(Debug, Clone)]
pub struct GaussianBlur(GaussianBlurOptions);

impl GaussianBlur {
    /// Checks the options.
    pub fn new(options: &GaussianBlurOptions) -> Result<Self> {
        within("transform::gaussian_blur", "p", options.p, 0.0, 1.0)?;
        range_within("transform::gaussian_blur", "radius", options.radius, 0.0, 1000.0)?;
        Ok(Self(options.clone()))
    }
}

impl Transform for GaussianBlur {
    fn describe(&self) -> String {
        describe_call("gaussian_blur", &[], &self.0)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if happens(self.0.p, rng) {
            let [low, high] = self.0.radius;
            gaussian_blur(&mut image, uniform(rng, low, high));
        }
        Ok(image)
    }
}
