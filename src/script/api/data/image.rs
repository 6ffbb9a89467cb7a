//! Single images.

use crate::data::decode::LazyImage;
use crate::data::image::{AnyImage, Mode};
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
    Encoded(Rc<Vec<u8>>, Mode),
    Decoded(Rc<AnyImage>),
}

impl Image {
    /// What `f` makes of it.
    fn with<T>(&self, f: impl FnOnce(LazyImage<'_>) -> Result<T>) -> Result<T> {
        match self {
            Image::Encoded(bytes, mode) => {
                let mut content = StoredImage::Encoded(Cow::Borrowed(bytes));
                f(LazyImage::open_as(&mut content, false, *mode)?)
            }
            Image::Decoded(image) => f(match image.as_ref() {
                AnyImage::Bytes(image) => LazyImage::Decoded(image.clone()),
                AnyImage::Floats(image) => LazyImage::Floats(image.clone()),
            }),
        }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> Result<(usize, usize)> {
        self.with(|image| Ok(image.size()))
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

    /// The pixels [channels, height, width] on the CPU: uint8, or in the mode "unchanged" float32.
    pub fn tensor(image: &Image) -> Result<tch::Tensor> {
        let image = image.with(|image| image.pixels())?;
        let size = image.shape().map(|n| n as i64);
        Ok(match image {
            AnyImage::Bytes(image) => tch::Tensor::f_from_slice(&image.planar())?,
            AnyImage::Floats(image) => tch::Tensor::f_from_slice(&image.planar())?,
        }
        .f_view(size)?)
    }

    /// Writes an image of 8 bits as a PNG file.
    pub fn save(image: &Image, path: &Path) -> Result<()> {
        let image = image.with(|image| image.decode())?;
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
        let mut rng = Key::of(Purpose::Image, seed as u64).rng();
        Ok(Image::Decoded(Rc::new(image.with(|image| pipeline.apply_to(image, &mut rng))?)))
    }
}
