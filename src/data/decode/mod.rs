//! Image files to pixels: a file's format is recognised by its content, never by its name.
//!
//! Everything comes out as 8-bit RGB, as Pillow's `convert("RGB")` gives it: alpha is dropped, palettes are looked up,
//! CMYK is taken as Adobe writes it. 16-bit grey is scaled to 8 bits (where Pillow clips it).
//!
//! JPEG, the hot path, is decoded by libjpeg-turbo if it is found (`turbo`), and then only the part of the image that
//! is wanted; else by zune-jpeg, in pure Rust.

mod other;
mod turbo;
mod zune;

pub use turbo::{Backend, backend};

use super::image::{Image, Region};
use super::source::StoredImage;
use crate::bail_hint;
use crate::error::{Result, ensure};
use image::metadata::Orientation;

/// More pixels than this are refused: a damaged header can claim any size.
const MOST_PIXELS: usize = 1 << 28;

/// The pixels of a region, perhaps within somewhat more.
pub struct DecodedRegion {
    /// What was decoded.
    pub image: Image,
    /// The region's position in `image`.
    pub region: Region,
}

impl DecodedRegion {
    /// The region alone.
    pub fn crop(&self) -> Image {
        self.image.crop(self.region)
    }
}

/// An image whose size is known and whose pixels are perhaps still to be decoded.
pub enum LazyImage<'a> {
    /// A JPEG of which a region can be decoded.
    Jpeg(turbo::Jpeg<'a>),
    /// Pixels.
    Decoded(Image),
}

impl<'a> LazyImage<'a> {
    /// Opens an item. With `exif_orientation`, it is turned as its Exif data says.
    pub fn open(content: &'a mut StoredImage<'_>, exif_orientation: bool) -> Result<Self> {
        match content {
            StoredImage::Pixels(image) => Ok(LazyImage::Decoded(std::mem::take(image))),
            StoredImage::Encoded(bytes) => Self::open_encoded(bytes, exif_orientation),
        }
    }

    fn open_encoded(bytes: &'a [u8], exif_orientation: bool) -> Result<Self> {
        if !bytes.starts_with(&[0xff, 0xd8, 0xff]) {
            let image = other::decode(bytes)?;
            return Ok(LazyImage::Decoded(match exif_orientation.then(|| other::orientation(bytes)).flatten() {
                Some(turn) => turned(image, turn),
                None => image,
            }));
        }
        let (image, exif) = match backend() {
            Backend::LibjpegTurbo(_) => {
                let jpeg = turbo::Jpeg::open(bytes)?;
                let exif = jpeg.exif().filter(|_| exif_orientation).map(<[u8]>::to_vec);
                (LazyImage::Jpeg(jpeg), exif)
            }
            Backend::ZuneJpeg => {
                let (image, exif) = zune::decode(bytes)?;
                (LazyImage::Decoded(image), exif)
            }
        };
        let turn = exif.filter(|_| exif_orientation).and_then(|e| Orientation::from_exif_chunk(&e));
        match turn {
            None | Some(Orientation::NoTransforms) => Ok(image),
            Some(turn) => Ok(LazyImage::Decoded(turned(image.decode()?, turn))),
        }
    }

    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        match self {
            LazyImage::Jpeg(jpeg) => jpeg.size(),
            LazyImage::Decoded(image) => (image.width, image.height),
        }
    }

    /// The pixels of `region`, which lies inside the image.
    pub fn decode_region(self, region: Region) -> Result<DecodedRegion> {
        let (width, height) = self.size();
        let Region { left, top, .. } = region;
        assert!(
            region.width > 0 && region.height > 0 && left + region.width <= width && top + region.height <= height,
            "{region:?} of an image of {width} x {height}"
        );
        match self {
            LazyImage::Jpeg(jpeg) => jpeg.read(region),
            LazyImage::Decoded(image) => Ok(DecodedRegion { image, region }),
        }
    }

    /// All pixels.
    pub fn decode(self) -> Result<Image> {
        let (width, height) = self.size();
        Ok(self.decode_region(Region { left: 0, top: 0, width, height })?.image)
    }
}

/// What was wrong with a JPEG that could be decoded nevertheless, as for `nepa data --scan`: libjpeg fills what a
/// damaged part of a file leaves open with grey, and Pillow says nothing about it.
pub fn complaint(content: &mut StoredImage<'_>) -> Result<Option<String>> {
    match LazyImage::open(content, false)? {
        LazyImage::Jpeg(jpeg) => jpeg.complaint(),
        LazyImage::Decoded(_) => Ok(None),
    }
}

/// Refuses a size that no image has.
pub fn check_size(width: usize, height: usize) -> Result<()> {
    ensure!(width > 0 && height > 0, "the image has no pixels: {width} x {height}");
    ensure!(
        width.saturating_mul(height) <= MOST_PIXELS,
        "the image claims {width} x {height} pixels, more than the {MOST_PIXELS} that are accepted"
    );
    Ok(())
}

/// A JPEG that was cut short has no end marker after its header. Trailing bytes are common and harmless.
fn check_end(bytes: &[u8], header_len: usize) -> Result<()> {
    let data = &bytes[header_len.min(bytes.len())..];
    if !data.windows(2).rev().any(|pair| pair == [0xff, 0xd9]) {
        bail_hint!(
            "the JPEG is truncated: {} bytes without an end marker", bytes.len();
            "fetch the file again"
        );
    }
    Ok(())
}

fn turned(image: Image, turn: Orientation) -> Image {
    let Image { width, height, channels, data } = image;
    assert_eq!(channels, 3, "files come out as RGB");
    let buffer = image::RgbImage::from_raw(width as u32, height as u32, data).expect("as many values as pixels");
    let mut turned = image::DynamicImage::ImageRgb8(buffer);
    turned.apply_orientation(turn);
    let (width, height) = (turned.width() as usize, turned.height() as usize);
    Image::new(width, height, 3, turned.into_rgb8().into_raw())
}

/// Pillow's conversion from CMYK, of which JPEGs hold the complement.
fn cmyk_to_rgb(inverted: &[u8]) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(inverted.len() / 4 * 3);
    for pixel in inverted.chunks_exact(4) {
        let white = pixel[3] as u32;
        for &value in &pixel[..3] {
            let product = (255 - value as u32) * white + 128;
            rgb.push((white - (((product >> 8) + product) >> 8).min(white)) as u8);
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;
    use rand::Rng;
    use std::borrow::Cow;

    fn file(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images/");
        std::fs::read(format!("{dir}{name}")).unwrap()
    }

    #[test]
    fn a_part_of_a_jpeg_equals_the_same_part_of_the_whole() {
        for name in ["source-420.jpg", "source-444.jpg", "source-gray.jpg", "source-progressive.jpg"] {
            let mut content = StoredImage::Encoded(Cow::Owned(file(name)));
            let whole = LazyImage::open(&mut content, false).unwrap().decode().unwrap();
            let mut rng = Key::new(1).rng();
            for _ in 0..200 {
                let (left, top) = (rng.random_range(0..whole.width), rng.random_range(0..whole.height));
                let width = rng.random_range(1..=whole.width - left);
                let height = rng.random_range(1..=whole.height - top);
                let region = Region { left, top, width, height };
                let part = LazyImage::open(&mut content, false).unwrap().decode_region(region).unwrap();
                assert_eq!(part.crop(), whole.crop(region), "{name} {region:?}");
            }
        }
    }
}
