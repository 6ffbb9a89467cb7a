//! Single random transforms: colour jitter, greying, blurring, solarizing, mirroring, padded crops.

use super::ops::{happens, range_within, within};
use super::{brightness, color, contrast, gaussian_blur, grayscale, hue, solarize};
use crate::data::image::Image;
use crate::error::{Result, ensure};
use crate::options;
use crate::random::uniform;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

options! {
    /// Random changes of brightness, contrast, saturation and hue in random order (torchvision's
    /// `ColorJitter`).
    pub struct ColorJitterOptions {
        /// Brightness is multiplied by a factor between 1 − this, at least 0, and 1 + this.
        brightness: f64 = 0.0,
        /// The same for contrast.
        contrast: f64 = 0.0,
        /// The same for saturation.
        saturation: f64 = 0.0,
        /// The hue is turned by up to this part of a circle either way, 0 to 0.5.
        hue: f64 = 0.0,
        /// Probability of changing an image at all.
        p: f64 = 1.0,
    }
}

/// Random changes of colour.
#[derive(Debug, Clone)]
pub struct ColorJitter {
    options: ColorJitterOptions,
}

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
        Ok(Self { options: o.clone() })
    }

    /// Draws and applies.
    pub fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Image {
        let o = &self.options;
        if !happens(o.p, rng) {
            return image;
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
        image
    }
}

options! {
    /// Random greying (torchvision's `RandomGrayscale`).
    pub struct RandomGrayscaleOptions {
        /// Probability.
        p: f64 = 0.1,
    }
}

/// Greys some images.
#[derive(Debug, Clone)]
pub struct RandomGrayscale(f64);

impl RandomGrayscale {
    /// Checks the options.
    pub fn new(options: &RandomGrayscaleOptions) -> Result<Self> {
        within("transform::random_grayscale", "p", options.p, 0.0, 1.0)?;
        Ok(Self(options.p))
    }

    /// Draws and applies.
    pub fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Image {
        if happens(self.0, rng) {
            grayscale(&mut image);
        }
        image
    }
}

options! {
    /// Random blurring with Pillow's Gaussian blur, as in DINO and DeiT III.
    pub struct RandomBlurOptions {
        /// Probability.
        p: f64 = 0.5,
        /// Least and greatest standard deviation, in pixels.
        radius: [f64; 2] = [0.1, 2.0],
    }
}

/// Blurs some images.
#[derive(Debug, Clone)]
pub struct RandomBlur(RandomBlurOptions);

impl RandomBlur {
    /// Checks the options.
    pub fn new(options: &RandomBlurOptions) -> Result<Self> {
        within("transform::gaussian_blur", "p", options.p, 0.0, 1.0)?;
        range_within("transform::gaussian_blur", "radius", options.radius, 0.0, 1000.0)?;
        Ok(Self(options.clone()))
    }

    /// Draws and applies.
    pub fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Image {
        if happens(self.0.p, rng) {
            let [low, high] = self.0.radius;
            gaussian_blur(&mut image, uniform(rng, low, high));
        }
        image
    }
}

options! {
    /// Random solarizing (torchvision's `RandomSolarize`).
    pub struct RandomSolarizeOptions {
        /// Probability.
        p: f64 = 0.5,
        /// Values from here on are inverted, 0 to 256.
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

    /// Draws and applies.
    pub fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Image {
        if happens(self.0.p, rng) {
            solarize(&mut image, self.0.threshold);
        }
        image
    }
}

options! {
    /// Random mirroring, left to right (torchvision's `RandomHorizontalFlip`).
    pub struct HorizontalFlipOptions {
        /// Probability.
        p: f64 = 0.5,
    }
}

/// Mirrors some images.
#[derive(Debug, Clone)]
pub struct HorizontalFlip(f64);

impl HorizontalFlip {
    /// Checks the options.
    pub fn new(options: &HorizontalFlipOptions) -> Result<Self> {
        within("transform::random_horizontal_flip", "p", options.p, 0.0, 1.0)?;
        Ok(Self(options.p))
    }

    /// Draws and applies.
    pub fn apply(&self, mut image: Image, rng: &mut ChaCha8Rng) -> Image {
        if happens(self.0, rng) {
            horizontal_flip(&mut image);
        }
        image
    }
}

/// Mirrors left to right.
pub fn horizontal_flip(image: &mut Image) {
    let n = (image.width * image.channels).max(1);
    for row in image.data.chunks_exact_mut(n) {
        match image.channels {
            3 => row.as_chunks_mut::<3>().0.reverse(),
            _ => row.reverse(),
        }
    }
}

options! {
    /// A crop at random after padding with zeros (torchvision's `RandomCrop`).
    pub struct RandomCropOptions {
        /// Height and width in pixels; () means the image's.
        size: Option<[usize; 2]> = None,
        /// Zeros added on each side, in pixels.
        padding: usize = 4,
    }
}

/// Crops at random.
#[derive(Debug, Clone)]
pub struct RandomCrop(RandomCropOptions);

impl RandomCrop {
    /// The transform with its options, in words.
    pub fn describe(&self) -> String {
        format!("random_crop({})", serde_json::to_string(&self.0).expect("options are plain data"))
    }

    /// Checks the options.
    pub fn new(options: &RandomCropOptions) -> Result<Self> {
        if let Some([height, width]) = options.size {
            ensure!(
                (1..=1 << 14).contains(&height) && (1..=1 << 14).contains(&width),
                "option `size` of transform::random_crop: expected a height and a width of 1 to 16384, found [{height}, {width}]"
            );
        }
        within("transform::random_crop", "padding", options.padding as f64, 0.0, 16384.0)?;
        Ok(Self(options.clone()))
    }

    /// Height and width of the result, where they are not the image's.
    pub fn size(&self) -> Option<[usize; 2]> {
        self.0.size
    }

    /// Draws and applies; an error where the padded image is smaller than the crop.
    pub fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let pad = self.0.padding;
        let [height, width] = self.0.size.unwrap_or([image.height, image.width]);
        let (down, across) = (image.height + 2 * pad, image.width + 2 * pad);
        ensure!(
            height <= down && width <= across,
            "transform::random_crop: expected an image of at least {height} x {width} pixels with its padding, found {down} x {across}"
        );
        let (top, left) = (rng.random_range(0..=down - height), rng.random_range(0..=across - width));
        Ok(padded_crop(&image, pad, top, left, height, width))
    }
}

/// The part of `image`, surrounded by `pad` zeros, whose upper left corner is at (`left`, `top`) of
/// the padded picture.
pub fn padded_crop(image: &Image, pad: usize, top: usize, left: usize, height: usize, width: usize) -> Image {
    let c = image.channels;
    let mut out = Image::new(width, height, c, vec![0; width * height * c]);
    // The columns of the result that show the image.
    let first = pad.saturating_sub(left).min(width);
    let end = (pad + image.width).saturating_sub(left).clamp(first, width);
    for y in 0..height {
        if let Some(row) = (y + top).checked_sub(pad).filter(|r| *r < image.height) {
            let from = (first + left).saturating_sub(pad) * c;
            let n = (end - first) * c;
            out.data[(y * width + first) * c..][..n].copy_from_slice(&image.row(row)[from..from + n]);
        }
    }
    out
}
