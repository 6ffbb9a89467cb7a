//! WebP, BMP and PNM, by the `image` crate.

use super::floats::{of_bytes, of_words};
use super::kind::Kind;
use super::{Metadata, PIXEL_BYTES, check_claim, most_packed_pixels, most_pixels};
use crate::data::image::Image;
use crate::error::{Diagnostic, Result, bail};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// The whole image as RGB.
pub fn decode(bytes: &[u8], kind: Kind) -> Result<(Image, Metadata)> {
    let (image, mut metadata) = read(bytes, kind)?;
    metadata.is_narrowed = image.color().bytes_per_pixel() > image.color().channel_count();
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut rgb = rgb(image);
    if kind == Kind::Bmp {
        narrow_steps(bytes, &mut rgb);
    }
    Ok((Image::new(width, height, 3, rgb), metadata))
}

/// The whole image with its 1 to 4 channels.
pub fn unchanged(bytes: &[u8], kind: Kind) -> Result<(Image<f32>, Metadata)> {
    let (image, metadata) = read(bytes, kind)?;
    let (width, height, channels) = (image.width() as usize, image.height() as usize, image.color().channel_count());
    let values = match image {
        DynamicImage::ImageLuma16(p) => of_words(p.into_raw()),
        DynamicImage::ImageLumaA16(p) => of_words(p.into_raw()),
        DynamicImage::ImageRgb16(p) => of_words(p.into_raw()),
        DynamicImage::ImageRgba16(p) => of_words(p.into_raw()),
        image if image.color().bytes_per_pixel() == channels => of_bytes(image.as_bytes()),
        other => bail!("values of the kind {:?}, which are not read", other.color()),
    };
    Ok((Image::new(width, height, channels.into(), values), metadata))
}

fn read(bytes: &[u8], kind: Kind) -> Result<(DynamicImage, Metadata)> {
    let (format, name) = match kind {
        Kind::WebP => (ImageFormat::WebP, "WebP"),
        Kind::Bmp => (ImageFormat::Bmp, "BMP"),
        _ => (ImageFormat::Pnm, "PNM"),
    };
    if kind == Kind::WebP {
        check_chunks(bytes)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some((most_pixels(bytes.len()) * PIXEL_BYTES) as u64);
    reader.limits(limits);
    let mut metadata = Metadata::default();
    let decoded = match reader.into_decoder() {
        Ok(mut decoder) => {
            // Before anything of that size is made.
            let (width, height) = decoder.dimensions();
            check_claim(width as usize, height as usize, bytes.len(), most_packed_pixels)?;
            metadata.exif = decoder.exif_metadata().ok().flatten();
            metadata.xmp = decoder.xmp_metadata().ok().flatten();
            DynamicImage::from_decoder(decoder)
        }
        Err(e) => Err(e),
    };
    match decoded {
        Ok(image) => Ok((image, metadata)),
        Err(image::ImageError::Unsupported(e)) => bail!("a {name} file of an unsupported kind: {e}"),
        Err(e) => Err(Diagnostic::new(format!("damaged {name} file: {e}")).into()),
    }
}

/// Refuses a WebP whose chunks of metadata do not lie within it: the crate makes room for all that they claim.
fn check_chunks(bytes: &[u8]) -> Result<()> {
    const FIRST: usize = 12;
    const HEAD: usize = 8;
    let mut at = FIRST;
    while let Some(head) = bytes.get(at..at + HEAD) {
        let (name, size) = head.split_at(4);
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        at += HEAD + size.next_multiple_of(2);
        if matches!(name, b"EXIF" | b"XMP " | b"ICCP") && at > bytes.len().next_multiple_of(2) {
            bail!("damaged WebP file: its chunk {} is cut short", name.escape_ascii());
        }
    }
    Ok(())
}

/// As Pillow's `convert("RGB")`: alpha dropped, the upper byte of 16 bits.
fn rgb(image: DynamicImage) -> Vec<u8> {
    fn grey(values: impl Iterator<Item = u8>) -> Vec<u8> {
        values.flat_map(|v| [v, v, v]).collect()
    }
    let upper = |v: &u16| (v >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageLuma8(p) => grey(p.into_raw().into_iter()),
        DynamicImage::ImageRgba8(p) => p.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma16(p) => grey(p.as_raw().iter().map(upper)),
        DynamicImage::ImageRgb16(p) => p.as_raw().iter().map(upper).collect(),
        other => other.into_rgb8().into_raw(),
    }
}

/// Of a BMP with 5 or 6 bits a channel, Pillow drops what is left of a step, where the crate rounds it.
fn narrow_steps(bytes: &[u8], rgb: &mut [u8]) {
    const BITS: std::ops::Range<usize> = 28..30;
    const GREEN_MASK: std::ops::Range<usize> = 58..62;
    let is_modern = bytes.get(14..18).is_some_and(|size| *size != [12, 0, 0, 0]);
    if !is_modern || bytes.get(BITS) != Some(&[16, 0]) {
        return;
    }
    let has_masks = bytes.get(30) == Some(&3);
    let six = has_masks && bytes.get(GREEN_MASK) == Some(&[0xe0, 7, 0, 0]);
    let step = |value: u8, bits: u32| ((value >> (8 - bits)) as u32 * 255 / ((1 << bits) - 1)) as u8;
    for pixel in rgb.as_chunks_mut::<3>().0 {
        let [r, g, b] = *pixel;
        *pixel = [step(r, 5), step(g, if six { 6 } else { 5 }), step(b, 5)];
    }
}
