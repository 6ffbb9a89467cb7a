//! Single images.

use crate::data::decode::LazyImage;
use crate::data::image::Image as Pixels;
use crate::data::source::StoredImage;
use crate::dist;
use crate::error::{Result, bail};
use crate::random::{Key, Purpose};
use crate::script::api::transform;
use crate::script::types::handles;
use image::ExtendedColorType;
use image::ImageEncoder as _;
use image::codecs::png::PngEncoder;
use nepa_macros::functions;
use rhai::Array;
use std::borrow::Cow;
use std::path::Path;
use std::rc::Rc;

pub use functions::register;

handles! { "Image": Image; }

/// An image by itself; one read from a file stays encoded until its pixels are asked for.
#[derive(Clone)]
pub enum Image {
    Encoded(Rc<Vec<u8>>),
    Decoded(Rc<Pixels>),
}

impl Image {
    fn content(&self) -> StoredImage<'_> {
        match self {
            Image::Encoded(bytes) => StoredImage::Encoded(Cow::Borrowed(bytes)),
            Image::Decoded(image) => StoredImage::Pixels(image.as_ref().clone()),
        }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Result<(usize, usize)> {
        Ok(LazyImage::open(&mut self.content(), false)?.size())
    }

    fn pixels(&self) -> Result<Pixels> {
        LazyImage::open(&mut self.content(), false)?.decode()
    }
}

#[functions]
mod functions {
    use super::*;

    /// Width in pixels.
    #[script(get)]
    pub fn width(image: &Image) -> Result<usize> {
        Ok(image.size()?.0)
    }

    /// Height in pixels.
    #[script(get)]
    pub fn height(image: &Image) -> Result<usize> {
        Ok(image.size()?.1)
    }

    /// The pixels: uint8 [channels, height, width] on the CPU.
    pub fn tensor(image: &Image) -> Result<tch::Tensor> {
        let image = image.pixels()?;
        let mut planes = vec![0; image.data.len()];
        image.write_planar(&mut planes);
        let size = [image.channels as i64, image.height as i64, image.width as i64];
        Ok(tch::Tensor::f_from_data_size(&planes, &size, tch::Kind::Uint8)?)
    }

    /// Writes the image as a PNG file.
    pub fn save(image: &Image, path: &Path) -> Result<()> {
        let image = image.pixels()?;
        let colour = match image.channels {
            1 => ExtendedColorType::L8,
            _ => ExtendedColorType::Rgb8,
        };
        let mut bytes = Vec::new();
        let png = PngEncoder::new(&mut bytes);
        png.write_image(&image.data, image.width as u32, image.height as u32, colour)?;
        dist::on_rank0(&format!("the writing of {}", path.display()), || crate::files::write_atomic(path, &bytes))
    }

    /// Applies a list of transforms of single images, with random draws determined by a seed.
    pub fn apply(image: &Image, transforms: Array, seed: i64) -> Result<Image> {
        let pipeline = transform::pipeline("apply", &transforms.into(), false)?;
        if !pipeline.on_batch().is_empty() {
            bail!("apply: transforms of a batch (normalize, random_erasing, mixup, functions) need data::loader");
        }
        Ok(Image::Decoded(Rc::new(pipeline.apply(image.content(), &mut Key::of(Purpose::Image, seed as u64).rng())?)))
    }
}
