//! 3-Augment, as DeiT III has it.

use super::draws::{range_within, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::data::pillow::{gaussian_blur, grayscale, solarize};
use crate::error::Result;
use crate::options;
use crate::random::uniform;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

options! {
    /// 3-Augment (DeiT III, Touvron et al., 2022; timm's `3a`): greys, solarizes or blurs each image.
    pub struct ThreeAugmentOptions {
        /// Values from this threshold on are inverted, 0 to 256.
        threshold: f64 = 128.0,
        /// Minimum and maximum standard deviation of the blur, in pixels.
        radius: [f64; 2] = [0.1, 2.0],
    }
}

/// One of three operations.
#[derive(Debug, Clone)]
pub struct ThreeAugment {
    options: ThreeAugmentOptions,
}

impl ThreeAugment {
    /// Checks the options.
    pub fn new(options: &ThreeAugmentOptions) -> Result<Self> {
        within("transform::three_augment", "threshold", options.threshold, 0.0, 256.0)?;
        range_within("transform::three_augment", "radius", options.radius, 0.0, 1000.0)?;
        Ok(Self { options: options.clone() })
    }
}

impl Transform for ThreeAugment {
    fn describe(&self) -> String {
        describe_call("three_augment", &[], &self.options)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let [low, high] = self.options.radius;
        match rng.random_range(0..3) {
            0 => grayscale(&mut image),
            1 => solarize(&mut image, self.options.threshold),
            _ => gaussian_blur(&mut image, uniform(rng, low, high)),
        }
        Ok(image)
    }
}
