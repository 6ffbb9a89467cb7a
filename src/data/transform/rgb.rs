//! Grey images to colour.

use super::{Misfit, Shape, Transform};
use crate::data::image::Image;
use crate::error::Result;
use rand_chacha::ChaCha8Rng;

/// Grey to red, green and blue of one value; images of three channels stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct Rgb;

impl Transform for Rgb {
    fn describe(&self) -> String {
        "rgb".into()
    }

    fn apply_to_image(&self, image: Image, _rng: &mut ChaCha8Rng) -> Result<Image> {
        rgb(image)
    }

    fn apply_to_floats(&self, image: Image<f32>, _rng: &mut ChaCha8Rng) -> Result<Image<f32>> {
        rgb(image)
    }

    fn shape(&self, before: Shape) -> Shape {
        Shape { channels: Some(3), ..before }
    }
}

fn rgb<T: Copy>(image: Image<T>) -> Result<Image<T>> {
    match image.channels {
        3 => Ok(image),
        1 => {
            let data = image.data.iter().flat_map(|&v| [v, v, v]).collect();
            Ok(Image::new(image.width, image.height, 3, data))
        }
        n => Err(Misfit(format!("transform::rgb: expected an image of 1 or 3 channels, found {n}")).into()),
    }
}
