//! Regions of random size, form and position, resized.

use super::{Shape, Transform, check_reducing_gap, check_size, describe_call};
use crate::data::decode::LazyImage;
use crate::data::image::{Interpolation, Passes, Region, Resampling};
use crate::data::pillow::resized;
use crate::error::{Result, ensure};
use crate::options;
use crate::random::uniform;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

/// torchvision's `RandomResizedCrop`.
#[derive(Debug, Clone)]
pub struct RandomResizedCrop {
    height: usize,
    width: usize,
    options: RandomResizedCropOptions,
}

options! {
    /// Crops a region of random size and aspect ratio, and resizes it.
    pub struct RandomResizedCropOptions {
        /// Minimum and maximum fraction of the image's area.
        scale: [f64; 2] = [0.08, 1.0],
        /// Minimum and maximum aspect ratio (width / height).
        ratio: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0],
        /// nearest, bilinear or bicubic, with antialiasing.
        interpolation: Interpolation = Interpolation::Bilinear,
        /// The order of the two passes of resizing, as in transform::resize.
        passes: Passes = Passes::Pillow13,
        /// Decodes JPEGs at 1/2, 1/4 or 1/8 where the crop then still has so many times the sides of the result, at
        /// least 1.0, as in transform::resize.
        reducing_gap: Option<f64> = None,
    }
}

impl RandomResizedCrop {
    /// Checks the options.
    pub fn new(height: usize, width: usize, options: &RandomResizedCropOptions) -> Result<Self> {
        const OF: &str = "transform::random_resized_crop";
        check_size(OF, height, width)?;
        let [low, high] = options.scale;
        ensure!(
            0.0 < low && low <= high && high <= 1.0,
            "option `scale` of {OF}: expected [least, greatest] within 0 to 1, found [{low}, {high}]"
        );
        let [low, high] = options.ratio;
        ensure!(
            0.0 < low && low <= high && high.is_finite(),
            "option `ratio` of {OF}: expected [least, greatest], both positive and finite, found [{low}, {high}]"
        );
        check_reducing_gap(OF, options.reducing_gap)?;
        Ok(Self { height, width, options: options.clone() })
    }

    fn how(&self) -> Resampling {
        let RandomResizedCropOptions { interpolation, passes, reducing_gap, .. } = self.options;
        Resampling { interpolation, passes, reducing_gap }
    }
}

impl Transform for RandomResizedCrop {
    fn describe(&self) -> String {
        let to = format!("[{}, {}]", self.height, self.width);
        describe_call("random_resized_crop", &[to], &self.options)
    }

    fn apply_lazily<'a>(&self, image: LazyImage<'a>, rng: &mut ChaCha8Rng) -> Result<LazyImage<'a>> {
        let (width, height) = image.size();
        let o = &self.options;
        let region = random_resized_crop_box(rng, width, height, o.scale, o.ratio);
        resized(image, region, self.width, self.height, self.how())
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
}

/// The region that torchvision's `RandomResizedCrop` would take of an image: its fraction of the area is uniform in
/// `scale`, the logarithm of its width over its height uniform in that of `ratio`. After ten attempts that do not fit,
/// the largest central region whose ratio is within `ratio`.
pub fn random_resized_crop_box(
    rng: &mut impl RngCore,
    width: usize,
    height: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
) -> Region {
    let area = (width * height) as f64;
    for _ in 0..10 {
        let target = area * uniform(rng, scale[0], scale[1]);
        let aspect = uniform(rng, ratio[0].ln(), ratio[1].ln()).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let (top, left) = (rng.random_range(0..=height - h), rng.random_range(0..=width - w));
            return Region { top, left, height: h, width: w };
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
    Region { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}
