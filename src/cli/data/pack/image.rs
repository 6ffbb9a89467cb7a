//! What becomes of one image: copied byte for byte, or decoded, made smaller and encoded as JPEG.

use crate::cli::data::facts::jpeg_kinds;
use crate::data::decode::LazyImage;
use crate::data::image::{Image, Interpolation};
use crate::data::source::StoredImage;
use crate::data::transform::{Resize, ResizeTo, Transform as _};
use crate::error::{Context as _, Result, catch_damage, ensure};
use crate::random::Key;
use image::codecs::{bmp::BmpDecoder, png::PngDecoder, pnm::PnmDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat};
use jpeg_encoder::{ChromaSubsamplingMethod, Encoder, SamplingFactor};
use std::borrow::Cow;
use std::io::Cursor;

/// A JPEG has at most so many rows and columns.
const LONGEST_SIDE: usize = u16::MAX as usize;

/// What was done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A JPEG that is small enough: the same bytes.
    Copied,
    /// Made smaller, as JPEG.
    Resized,
    /// Small enough, but no JPEG: encoded as one.
    Encoded,
    /// Something that a JPEG cannot hold, such as alpha or 16 bits: the same bytes, or pixels as PNG.
    Kept,
}

/// An image as it is packed.
pub struct Packed {
    pub bytes: Vec<u8>,
    /// The ending of its name, by its content.
    pub ending: &'static str,
    pub how: How,
}

/// Packs an image whose shorter side is to have at most `shorter_side` pixels. An error says that it is broken.
///
/// The orientation that Exif data give stays beside the pixels, in the Exif data of the new file, so that the image is
/// the same with and without the loader's `exif_orientation`. Other metadata are dropped.
pub fn pack(mut content: StoredImage<'_>, shorter_side: usize, quality: u8) -> Result<Packed> {
    let jpeg = match &content {
        StoredImage::Encoded(bytes) if image::guess_format(bytes).ok() == Some(ImageFormat::Jpeg) => {
            Some(jpeg_kinds(bytes))
        }
        _ => None,
    };
    let (image, turn) = LazyImage::open_unturned(&mut content)?;
    let (width, height) = image.size();
    let is_small = width.min(height) <= shorter_side;
    let encoding = Encoding { shorter_side, quality, turn };
    if let Some(kinds) = jpeg {
        let is_cmyk = kinds.contains(&"CMYK");
        if is_small || is_cmyk {
            // Broken ones are found here.
            image.decode()?;
            return Ok(unchanged(content, "jpg", if is_cmyk { How::Kept } else { How::Copied }));
        }
        let bytes = encoding.apply(image, kinds.contains(&"grey"))?;
        return Ok(Packed { bytes, ending: "jpg", how: How::Resized });
    }
    let image = image.decode()?;
    let is_grey = match &content {
        StoredImage::Pixels(_) if is_small => {
            return Ok(Packed { bytes: png(&image)?, ending: "png", how: How::Kept });
        }
        StoredImage::Pixels(_) => image.channels == 1,
        StoredImage::Encoded(bytes) => {
            let (ending, colors) = catch_damage("the image", || Ok(kind_of(bytes)))?;
            match colors {
                Some(ColorType::L8) => true,
                Some(ColorType::Rgb8) => false,
                _ => return Ok(unchanged(content, ending, How::Kept)),
            }
        }
    };
    let bytes = encoding.apply(LazyImage::Decoded(image), is_grey)?;
    Ok(Packed { bytes, ending: "jpg", how: if is_small { How::Encoded } else { How::Resized } })
}

/// The file as it is.
fn unchanged(content: StoredImage<'_>, ending: &'static str, how: How) -> Packed {
    let StoredImage::Encoded(bytes) = content else { unreachable!("pixels are always encoded") };
    Packed { bytes: bytes.into_owned(), ending, how }
}

/// The usual ending of a file that is no JPEG, and what its pixels are.
fn kind_of(bytes: &[u8]) -> (&'static str, Option<ColorType>) {
    let Some(format) = image::guess_format(bytes).ok() else {
        // BigTIFF, which the crate does not recognise.
        return ("tif", colors_of_tiff(bytes));
    };
    match format {
        ImageFormat::Png => ("png", colors(format, bytes)),
        ImageFormat::WebP => ("webp", colors(format, bytes)),
        ImageFormat::Bmp => ("bmp", colors(format, bytes)),
        ImageFormat::Pnm => ("ppm", colors(format, bytes)),
        ImageFormat::Gif => ("gif", None),
        _ => ("tif", colors_of_tiff(bytes)),
    }
}

/// What the pixels of a single picture are; none if there are several, or its header is not understood.
fn colors(format: ImageFormat, bytes: &[u8]) -> Option<ColorType> {
    let bytes = Cursor::new(bytes);
    match format {
        ImageFormat::Png => {
            let png = PngDecoder::new(bytes).ok()?;
            (!png.is_apng().ok()?).then(|| png.color_type())
        }
        ImageFormat::WebP => {
            let webp = WebPDecoder::new(bytes).ok()?;
            (!webp.has_animation()).then(|| webp.color_type())
        }
        ImageFormat::Bmp => Some(BmpDecoder::new(bytes).ok()?.color_type()),
        ImageFormat::Pnm => Some(PnmDecoder::new(bytes).ok()?.color_type()),
        _ => None,
    }
}

fn colors_of_tiff(bytes: &[u8]) -> Option<ColorType> {
    let mut tiff = tiff::decoder::Decoder::new(Cursor::new(bytes)).ok()?;
    match tiff.colortype().ok()? {
        _ if tiff.more_images() => None,
        tiff::ColorType::Gray(8) => Some(ColorType::L8),
        tiff::ColorType::RGB(8) => Some(ColorType::Rgb8),
        _ => None,
    }
}

/// The first of three equal channels.
fn grey(image: Image) -> Image {
    let Image { width, height, channels, data } = image;
    Image::new(width, height, 1, data.into_iter().step_by(channels).collect())
}

/// How images become JPEGs.
struct Encoding {
    shorter_side: usize,
    quality: u8,
    turn: Orientation,
}

impl Encoding {
    /// Makes an image smaller if its shorter side is longer than wanted, and encodes it.
    fn apply(&self, image: LazyImage<'_>, is_grey: bool) -> Result<Vec<u8>> {
        let (width, height) = image.size();
        let (shorter, longer) = (width.min(height), width.max(height));
        let is_small = shorter <= self.shorter_side;
        let longer = if is_small { longer } else { longer * self.shorter_side / shorter };
        ensure!(longer <= LONGEST_SIDE, "{width} x {height} pixels: a JPEG has at most {LONGEST_SIDE} on a side");
        let resize = Resize { to: ResizeTo::Shorter(self.shorter_side), how: Interpolation::Bicubic.into() };
        let image = if is_small { image } else { resize.apply_lazily(image, &mut Key::new(0).rng())? };
        let image = if is_grey { grey(image.decode()?) } else { image.decode()? };
        self.jpeg(&image)
    }

    fn jpeg(&self, image: &Image) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.quality);
        // As libjpeg does it, and with it nearly all files that are about.
        encoder.set_sampling_factor(SamplingFactor::F_2_2);
        encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
        encoder.set_optimized_huffman_tables(true);
        if self.turn != Orientation::NoTransforms {
            encoder.add_exif_metadata(&exif(self.turn))?;
        }
        let colors = if image.channels == 1 { jpeg_encoder::ColorType::Luma } else { jpeg_encoder::ColorType::Rgb };
        encoder.encode(&image.data, image.width as u16, image.height as u16, colors)?;
        let mut written = StoredImage::Encoded(Cow::Borrowed(&bytes));
        let read = LazyImage::open(&mut written, false).map(|read| read.size());
        let size = read.context("internal: the JPEG that was written is not read")?;
        ensure!(size == (image.width, image.height), "internal: a JPEG of another size was written");
        Ok(bytes)
    }
}

/// Exif data with the orientation alone: a directory of one entry.
fn exif(turn: Orientation) -> Vec<u8> {
    const ORIENTATION: [u8; 8] = [0x12, 0x01, 3, 0, 1, 0, 0, 0];
    let (head, value) = (*b"II*\0\x08\0\0\0\x01\0", [turn.to_exif(), 0, 0, 0]);
    [&head[..], &ORIENTATION, &value, &[0; 4]].concat()
}

fn png(image: &Image) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let colors = if image.channels == 1 { ColorType::L8 } else { ColorType::Rgb8 };
    let (width, height) = (image.width as u32, image.height as u32);
    image::write_buffer_with_format(
        &mut Cursor::new(&mut bytes),
        &image.data,
        width,
        height,
        colors,
        ImageFormat::Png,
    )?;
    Ok(bytes)
}
