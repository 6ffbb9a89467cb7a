//! Random crops of padded images.

use super::draws::within;
use super::{Misfit, Shape, Transform, check_size, describe_call};
use crate::data::image::Image;
use crate::error::Result;
use crate::options;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

options! {
    /// Crops a random region after padding with zeros (torchvision's `RandomCrop`).
    pub struct RandomCropOptions {
        /// Zeros added on each side, in pixels; torchvision's default is 0.
        padding: usize = 4,
    }
}

/// Crops at random.
#[derive(Debug, Clone)]
pub struct RandomCrop {
    /// Height and width; nothing: the image's.
    size: Option<[usize; 2]>,
    options: RandomCropOptions,
}

impl RandomCrop {
    /// Checks the size, height and width, and the options.
    pub fn new(size: Option<[usize; 2]>, options: &RandomCropOptions) -> Result<Self> {
        if let Some([height, width]) = size {
            check_size("transform::random_crop", height, width)?;
        }
        within("transform::random_crop", "padding", options.padding as f64, 0.0, 16384.0)?;
        Ok(Self { size, options: options.clone() })
    }
}

impl Transform for RandomCrop {
    fn describe(&self) -> String {
        let size = self.size.map(|size| format!("{size:?}"));
        describe_call("random_crop", size.as_slice(), &self.options)
    }

    fn apply_to_image(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        self.cropped(image, rng)
    }

    fn apply_to_floats(&self, image: Image<f32>, rng: &mut ChaCha8Rng) -> Result<Image<f32>> {
        self.cropped(image, rng)
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { size: self.size.map(|[h, w]| (h, w)).or(before.size), ..before }
    }
}

impl RandomCrop {
    fn cropped<T: Copy + Default>(&self, image: Image<T>, rng: &mut ChaCha8Rng) -> Result<Image<T>> {
        let pad = self.options.padding;
        let [height, width] = self.size.unwrap_or([image.height, image.width]);
        let (down, across) = (image.height + 2 * pad, image.width + 2 * pad);
        if height > down || width > across {
            return Err(Misfit(format!(
                "transform::random_crop: expected an image of at least {height} x {width} pixels (height x width) with its \
                 padding, found {down} x {across}; transform::resize before it, or more padding, makes images large enough"
            ))
            .into());
        }
        let (top, left) = (rng.random_range(0..=down - height), rng.random_range(0..=across - width));
        Ok(padded_crop(&image, pad, top, left, height, width))
    }
}

/// The region of `image`, surrounded by `pad` zeros, whose upper left corner is at (`left`, `top`) of the padded
/// image.
pub fn padded_crop<T: Copy + Default>(
    image: &Image<T>,
    pad: usize,
    top: usize,
    left: usize,
    height: usize,
    width: usize,
) -> Image<T> {
    let c = image.channels;
    let mut out = Image::new(width, height, c, vec![T::default(); width * height * c]);
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
