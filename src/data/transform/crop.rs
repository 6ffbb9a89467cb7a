//! Where random resized crops and random erasing strike: draws only, no pixels.

use super::ops::{happens, range_within, within};
use crate::data::image::Region;
use crate::error::{Result, ensure};
use crate::options;
use crate::random::uniform;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

/// The part that torchvision's `RandomResizedCrop` would take of a picture: its share of the area is
/// uniform in `scale`, the logarithm of its width over its height uniform in that of `ratio`. After
/// ten attempts that do not fit, the largest central part whose ratio is within `ratio`.
///
/// Returns (top, left, height, width). Usual are a scale of 0.08 to 1 and a ratio of 3/4 to 4/3.
pub fn random_resized_crop_box(
    rng: &mut impl RngCore,
    width: usize,
    height: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
) -> (usize, usize, usize, usize) {
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * uniform(rng, scale[0], scale[1]);
        let aspect = uniform(rng, ratio[0].ln(), ratio[1].ln()).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return (rng.random_range(0..=height - h), rng.random_range(0..=width - w), h, w);
        }
    }
    let found = width as f64 / height as f64;
    let (w, h) = if found < ratio[0] {
        (width, (width as f64 / ratio[0]).round_ties_even() as usize)
    } else if found > ratio[1] {
        ((height as f64 * ratio[1]).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.max(1), h.max(1));
    ((height - h) / 2, (width - w) / 2, h, w)
}

options! {
    /// Random erasing (Zhong et al., 2017) as timm does it, on normalised images.
    pub struct RandomErasingOptions {
        /// Probability that an image has anything erased.
        p: f64 = 0.5,
        /// Least share of the image that is erased.
        min_area: f64 = 0.02,
        /// Greatest share.
        max_area: f64 = 1.0 / 3.0,
        /// Least height over width of an erased part.
        min_aspect: f64 = 0.3,
        /// Greatest; () means 1 over the least.
        max_aspect: Option<f64> = None,
        /// What is put in: const (0), rand (a normal colour for each part), pixel (normal values).
        mode: String = "const".into(),
        /// Least number of parts of an image; they share the area.
        min_count: usize = 1,
        /// Greatest number of parts; () means the least.
        max_count: Option<usize> = None,
    }
}

/// What takes the place of an erased part, in normalised values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseMode {
    /// 0.
    Const,
    /// One standard normal number per channel.
    Rand,
    /// A standard normal number per value.
    Pixel,
}

/// Chooses what to erase.
#[derive(Debug, Clone)]
pub struct RandomErasing {
    options: RandomErasingOptions,
    mode: EraseMode,
    /// Logarithms.
    aspect: [f64; 2],
    max_count: usize,
}

impl RandomErasing {
    /// The transform with its options, in words.
    pub fn describe(&self) -> String {
        format!("random_erasing({})", serde_json::to_string(&self.options).expect("options are plain data"))
    }

    /// Checks the options.
    pub fn new(options: &RandomErasingOptions) -> Result<Self> {
        const OF: &str = "transform::random_erasing";
        let o = options;
        within(OF, "p", o.p, 0.0, 1.0)?;
        range_within(OF, "max_area", [o.min_area, o.max_area], 0.0, 1.0)?;
        ensure!(o.min_aspect > 0.0, "option `min_aspect` of {OF}: expected a positive number, found {}", o.min_aspect);
        let max_aspect = o.max_aspect.unwrap_or(1.0 / o.min_aspect);
        range_within(OF, "max_aspect", [o.min_aspect, max_aspect], 0.0, f64::MAX)?;
        let mode = match o.mode.as_str() {
            "const" => EraseMode::Const,
            "rand" => EraseMode::Rand,
            "pixel" => EraseMode::Pixel,
            other => {
                let near = crate::error::did_you_mean(other, ["const", "rand", "pixel"]);
                crate::error::bail!("option `mode` of {OF}: expected const, rand or pixel, found {other:?}{near}")
            }
        };
        let max_count = o.max_count.unwrap_or(o.min_count);
        ensure!(
            o.min_count >= 1 && max_count >= o.min_count,
            "option `max_count` of {OF}: expected at least min_count, which is at least 1, found {max_count} and {}",
            o.min_count
        );
        Ok(Self { options: o.clone(), mode, aspect: [o.min_aspect.ln(), max_aspect.ln()], max_count })
    }

    /// What takes the place of the erased parts.
    pub fn mode(&self) -> EraseMode {
        self.mode
    }

    /// The parts of one image to erase, in this order. A part that fits in none of ten attempts is
    /// left out.
    pub fn draw(&self, height: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<Region> {
        let o = &self.options;
        if !happens(o.p, rng) {
            return Vec::new();
        }
        let area = (height * width) as f64;
        let count = rng.random_range(o.min_count..=self.max_count);
        let mut part = || {
            let target = uniform(rng, o.min_area, o.max_area) * area / count as f64;
            let aspect = uniform(rng, self.aspect[0], self.aspect[1]).exp();
            let h = (target * aspect).sqrt().round_ties_even() as usize;
            let w = (target / aspect).sqrt().round_ties_even() as usize;
            (w < width && h < height).then(|| Region {
                top: rng.random_range(0..=height - h),
                left: rng.random_range(0..=width - w),
                height: h,
                width: w,
            })
        };
        (0..count).filter_map(|_| (0..10).find_map(|_| part())).collect()
    }
}
