//! Random greying.

use super::draws::{happens, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::data::pillow::grayscale;
use crate::error::Result;
use crate::options;
use rand_chacha::ChaCha8Rng;

options! {
    /// Turns random images grey (torchvision's `RandomGrayscale`).
    pub struct RandomGrayscaleOptions {
        /// Probability of changing an image.
        p: f64 = 0.1,
    }
}

/// Greys some images.
#[derive(Debug, Clone)]
pub struct RandomGrayscale(RandomGrayscaleOptions);

impl RandomGrayscale {
    /// Checks the options.
    pub fn new(options: &RandomGrayscaleOptions) -> Result<Self> {
        within("transform::random_grayscale", "p", options.p, 0.0, 1.0)?;
        Ok(Self(options.clone()))
    }
}

impl Transform for RandomGrayscale {
    fn describe(&self) -> String {
        describe_call("random_grayscale", &[], &self.0)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if happens(self.0.p, rng) {
            grayscale(&mut image);
        }
        Ok(image)
    }
}
