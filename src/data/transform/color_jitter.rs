//! Random changes of colour.

use super::draws::{happens, within};
use super::{Transform, describe_call};
use crate::data::image::Image;
use crate::data::pillow::{brightness, color, contrast, hue};
use crate::error::Result;
use crate::options;
use crate::random::uniform;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

options! {
    /// Random changes of brightness, contrast, saturation and hue in random order (torchvision's
    /// `ColorJitter`).
    pub struct ColorJitterOptions {
        /// Range x of the brightness factor: from 1 − x (at least 0) to 1 + x.
        brightness: f64 = 0.0,
        /// Range x of the contrast factor: from 1 − x (at least 0) to 1 + x.
        contrast: f64 = 0.0,
        /// Range x of the saturation factor: from 1 − x (at least 0) to 1 + x.
        saturation: f64 = 0.0,
        /// Maximum rotation of the hue in either direction, as a fraction of a circle, 0 to 0.5.
        hue: f64 = 0.0,
        /// Probability of changing an image at all.
        p: f64 = 1.0,
    }
}

/// Random changes of colour.
#[derive(Debug, Clone)]
pub struct ColorJitter(ColorJitterOptions);

impl ColorJitter {
    /// Checks the options.
    pub fn new(options: &ColorJitterOptions) -> Result<Self> {
        const OF: &str = "transform::color_jitter";
        let o = options;
        for (name, value) in [("brightness", o.brightness), ("contrast", o.contrast), ("saturation", o.saturation)] {
            within(OF, name, value, 0.0, f64::INFINITY)?;
        }
        within(OF, "hue", o.hue, 0.0, 0.5)?;
        within(OF, "p", o.p, 0.0, 1.0)?;
        Ok(Self(o.clone()))
    }
}

impl Transform for ColorJitter {
    fn describe(&self) -> String {
        describe_call("color_jitter", &[], &self.0)
    }

    fn apply_to_image(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let o = &self.0;
        if !happens(o.p, rng) {
            return Ok(image);
        }
        let mut order = [0, 1, 2, 3];
        order.shuffle(rng);
        let factors = [o.brightness, o.contrast, o.saturation].map(|x| uniform(rng, (1.0 - x).max(0.0), 1.0 + x));
        let turn = uniform(rng, -o.hue, o.hue);
        for change in order {
            match change {
                0 if o.brightness > 0.0 => brightness(&mut image, factors[0]),
                1 if o.contrast > 0.0 => contrast(&mut image, factors[1]),
                2 if o.saturation > 0.0 => color(&mut image, factors[2]),
                3 if o.hue > 0.0 => hue(&mut image, turn),
                _ => {}
            }
        }
        Ok(image)
    }
}
