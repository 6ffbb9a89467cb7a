//! Colour images to grey.

use super::{Misfit, Shape, Transform};
use crate::data::image::Image;
use crate::data::pillow::luma;
use crate::error::Result;
use rand_chacha::ChaCha8Rng;

/// Red, green and blue to the one channel of their luminance (torchvision's `Grayscale`, Pillow's `convert("L")`); images
/// of one channel stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct Grayscale;

impl Transform for Grayscale {
    fn describe(&self) -> String {
        "grayscale".into()
    }

    fn apply_to_image(&self, image: Image, _rng: &mut ChaCha8Rng) -> Result<Image> {
        gray(image, luma)
    }

    fn apply_to_floats(&self, image: Image<f32>, _rng: &mut ChaCha8Rng) -> Result<Image<f32>> {
        let weighted = |r: f32, g: f32, b: f32| 0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b);
        gray(image, |r, g, b| weighted(r, g, b) as f32)
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { channels: Some(1), ..before }
    }
}

fn gray<T: Copy>(image: Image<T>, luma: impl Fn(T, T, T) -> T) -> Result<Image<T>> {
    match image.channels {
        1 => Ok(image),
        3 => {
            let data = image.data.as_chunks::<3>().0.iter().map(|&[r, g, b]| luma(r, g, b)).collect();
            Ok(Image::new(image.width, image.height, 1, data))
        }
        n => Err(Misfit(format!("transform::grayscale: expected an image of 1 or 3 channels, found {n}")).into()),
    }
}
