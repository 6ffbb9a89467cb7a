//! What becomes of one image: copied byte for byte, or decoded, made smaller and encoded as JPEG.

use crate::cli::data::facts::jpeg_kinds;
use crate::data::decode::LazyImage;
use crate::data::image::{Image, Interpolation};
use crate::data::source::StoredImage;
use crate::data::transform::{Resize, ResizeTo, Transform as _};
use crate::error::{Context as _, Result, ensure};
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
    /// Bytes before, as stored.
    pub stored: u64,
}

/// What decides how an image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JPEG of one or three colours.
    Jpeg,
    /// Another file of 8-bit grey or RGB pixels and nothing else.
    Plain,
    /// Pixels that were never in a file.
    Pixels,
    /// A file with more than that: alpha, 16 bits, other colours, several pictures.
    Other,
}

/// What an image is as it is stored.
struct Before {
    form: Form,
    is_grey: bool,
    /// The usual ending of such a file's name.
    ending: &'static str,
    bytes: u64,
}

/// Packs an image whose shorter side is to have at most `shorter_side` pixels. An error says that it is broken.
///
/// The orientation that Exif data give stays beside the pixels, in the Exif data of the new file, so that the image is
/// the same with and without the loader's `exif_orientation`. Other metadata are dropped.
pub fn pack(mut content: StoredImage<'_>, shorter_side: usize, quality: u8) -> Result<Packed> {
    let before = Before::of(&content);
    let stored = before.bytes;
    let (image, turn) = LazyImage::open_unturned(&mut content)?;
    let (width, height) = image.size();
    let (shorter, longer) = (width.min(height), width.max(height));
    let is_small = shorter <= shorter_side;
    if before.form == Form::Other || before.form == Form::Jpeg && is_small {
        // Broken ones are found here.
        image.decode()?;
        let StoredImage::Encoded(bytes) = content else { unreachable!("pixels have a form of their own") };
        let how = if before.form == Form::Jpeg { How::Copied } else { How::Kept };
        return Ok(Packed { bytes: bytes.into_owned(), ending: before.ending, how, stored });
    }
    if before.form == Form::Pixels && is_small {
        return Ok(Packed { bytes: png(&image.decode()?)?, ending: "png", how: How::Kept, stored });
    }
    let longer_side = if is_small { longer } else { longer * shorter_side / shorter };
    ensure!(longer_side <= LONGEST_SIDE, "{width} x {height} pixels: a JPEG has at most {LONGEST_SIDE} on a side");
    let (image, how) = match is_small {
        true => (image, How::Encoded),
        false => {
            let resize = Resize { to: ResizeTo::Shorter(shorter_side), how: Interpolation::Bicubic.into() };
            (resize.apply_lazily(image, &mut Key::new(0).rng())?, How::Resized)
        }
    };
    let bytes = jpeg(image.decode()?, before.is_grey, quality, turn)?;
    Ok(Packed { bytes, ending: "jpg", how, stored })
}

impl Before {
    fn of(content: &StoredImage<'_>) -> Self {
        let bytes = match content {
            StoredImage::Encoded(bytes) => bytes,
            StoredImage::Pixels(image) => {
                let (is_grey, bytes) = (image.channels == 1, image.data.len() as u64);
                return Self { form: Form::Pixels, is_grey, ending: "png", bytes };
            }
        };
        let format = image::guess_format(bytes).ok();
        let ending = match format {
            Some(ImageFormat::Jpeg) => "jpg",
            Some(ImageFormat::Png) => "png",
            Some(ImageFormat::WebP) => "webp",
            Some(ImageFormat::Gif) => "gif",
            Some(ImageFormat::Bmp) => "bmp",
            Some(ImageFormat::Pnm) => "ppm",
            // Also of more than 4 GiB, which the crate does not recognise.
            _ => "tif",
        };
        let (form, is_grey) = match format {
            Some(ImageFormat::Jpeg) => {
                let kinds = jpeg_kinds(bytes);
                let form = if kinds.contains(&"CMYK") { Form::Other } else { Form::Jpeg };
                (form, kinds.contains(&"grey"))
            }
            _ => match if ending == "tif" { colors_of_tiff(bytes) } else { format.and_then(|f| colors(f, bytes)) } {
                Some(ColorType::L8) => (Form::Plain, true),
                Some(ColorType::Rgb8) => (Form::Plain, false),
                _ => (Form::Other, false),
            },
        };
        Self { form, is_grey, ending, bytes: bytes.len() as u64 }
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

fn jpeg(image: Image, is_grey: bool, quality: u8, turn: Orientation) -> Result<Vec<u8>> {
    let image = if is_grey { grey(image) } else { image };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    // As libjpeg does it, and with it nearly all files that are about.
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.set_optimized_huffman_tables(true);
    if turn != Orientation::NoTransforms {
        encoder.add_exif_metadata(&exif(turn))?;
    }
    let colors = if is_grey { jpeg_encoder::ColorType::Luma } else { jpeg_encoder::ColorType::Rgb };
    encoder.encode(&image.data, image.width as u16, image.height as u16, colors)?;
    let mut written = StoredImage::Encoded(Cow::Borrowed(&bytes));
    let size = LazyImage::open(&mut written, false).context("internal: the JPEG that was written is not read")?.size();
    ensure!(size == (image.width, image.height), "internal: a JPEG of another size was written");
    Ok(bytes)
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
