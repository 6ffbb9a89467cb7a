//! Random solarizing.

use super::draws::{happens, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::data::pillow::solarize;
use crate::error::Result;
use crate::options;
use rand_chacha::ChaCha8Rng;

options! {
    /// Random solarizing (torchvision's `RandomSolarize`).
    pub struct RandomSolarizeOptions {
        /// Probability of changing an image.
        p: f64 = 0.5,
        /// Values from this threshold on are inverted, 0 to 256.
        threshold: f64 = 128.0,
    }
}

/// Solarizes some images.
#[derive(Debug, Clone)]
pub struct RandomSolarize(RandomSolarizeOptions);

impl RandomSolarize {
    /// Checks the options.
    pub fn new(options: &RandomSolarizeOptions) -> Result<Self> {
        within("transform::random_solarize", "p", options.p, 0.0, 1.0)?;
        within("transform::random_solarize", "threshold", options.threshold, 0.0, 256.0)?;
        Ok(Self(options.clone()))
    }
}

impl Transform for RandomSolarize {
    fn describe(&self) -> String {
        describe_call("random_solarize", &[], &self.0)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        if happens(self.0.p, rng) {
            solarize(&mut image, self.0.threshold);
        }
        Ok(image)
    }
}
