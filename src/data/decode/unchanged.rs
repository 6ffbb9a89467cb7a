//! Image files as they are: all channels at full precision, as floats.

use super::floats::of_bytes;
use super::{Kind, LazyImage, Metadata, kind, other, png, tiff, turned};
use crate::data::image::Image;
use crate::error::{Result, ensure};

/// The whole image. Integers are divided by the greatest value of their type; formats of 8 bits alone, without alpha,
/// come out as red, green and blue. With `exif_orientation`, it is turned as its metadata say; a TIFF always is.
pub fn decode(bytes: &[u8], exif_orientation: bool) -> Result<Image<f32>> {
    let (image, metadata) = match kind::kind(bytes) {
        Ok(Kind::Png) => png::unchanged(bytes)?,
        Ok(Kind::Tiff) => (tiff::unchanged(bytes)?, Metadata::default()),
        Ok(kind @ (Kind::WebP | Kind::Bmp | Kind::Pnm)) => other::unchanged(bytes, kind)?,
        _ => {
            let (image, metadata) = LazyImage::open_encoded(bytes, exif_orientation)?;
            let Image { width, height, channels, data } = image.decode()?;
            (Image::new(width, height, channels, of_bytes(&data)), metadata)
        }
    };
    ensure!(image.data.iter().all(|value| value.is_finite()), "the image holds values that are not finite");
    match exif_orientation.then(|| metadata.turn()).flatten() {
        Some(turn) => Ok(turned(image, turn)),
        None => Ok(image),
    }
}
