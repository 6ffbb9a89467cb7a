//! PNG, by the `png` crate, as Pillow reads it: the end of a file may be missing if its image is whole, the checksum of
//! the compressed image counts and those of its chunks do not, and chunks that are not known are passed over.

use super::floats::{of_bytes, of_words};
use super::{Metadata, PIXEL_BYTES, check_claim, check_values, most_packed_pixels, most_pixels};
use crate::data::image::Image;
use crate::error::{Diagnostic, Result, bail, ensure};
use png::{BitDepth, ColorType, OutputInfo, Transformations};
use std::io::Cursor;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The whole image as RGB: alpha dropped, the upper byte of 16 bits.
pub fn decode(bytes: &[u8]) -> Result<(Image, Metadata)> {
    let (data, info, metadata) = read(bytes, Transformations::EXPAND | Transformations::STRIP_16)?;
    let first = |data: Vec<u8>, n: usize| data.chunks_exact(n).flat_map(|p| [p[0]; 3]).collect();
    let rgb = match info.color_type {
        ColorType::Rgb => data,
        ColorType::Rgba => data.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ColorType::Grayscale => first(data, 1),
        ColorType::GrayscaleAlpha => first(data, 2),
        ColorType::Indexed => bail!("internal: a palette that was not looked up"),
    };
    Ok((Image::new(info.width as usize, info.height as usize, 3, rgb), metadata))
}

/// The whole image with its 1 to 4 channels; a palette is looked up.
pub fn unchanged(bytes: &[u8]) -> Result<(Image<f32>, Metadata)> {
    let (data, info, metadata) = read(bytes, Transformations::EXPAND)?;
    let (width, height, channels) = (info.width as usize, info.height as usize, info.color_type.samples());
    check_values(width, height, channels, bytes.len())?;
    let values = match info.bit_depth {
        BitDepth::Sixteen => of_words(data.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair))),
        _ => of_bytes(&data),
    };
    Ok((Image::new(width, height, channels, values), metadata))
}

/// The values of the image.
fn read(bytes: &[u8], transformations: Transformations) -> Result<(Vec<u8>, OutputInfo, Metadata)> {
    let damaged = |e: png::DecodingError| Diagnostic::new(format!("damaged PNG file: {e}"));
    let (content, mut metadata) = essentials(bytes)?;
    let mut options = png::DecodeOptions::default();
    options.set_ignore_crc(true);
    options.set_ignore_adler32(false);
    let mut decoder = png::Decoder::new_with_options(Cursor::new(content), options);
    decoder.set_limits(png::Limits { bytes: most_pixels(bytes.len()) * PIXEL_BYTES });
    decoder.set_transformations(transformations);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    check_claim(width, height, bytes.len(), most_packed_pixels)?;
    let Some(size) = reader.output_buffer_size() else { bail!("the image is too large: {width} x {height}") };
    metadata.is_narrowed = reader.info().bit_depth == BitDepth::Sixteen;
    let mut data = vec![0; size];
    let info = reader.next_frame(&mut data).map_err(damaged)?;
    Ok((data, info, metadata))
}

/// The chunks that the pixels depend on, and an end; and what else is of interest.
fn essentials(bytes: &[u8]) -> Result<(Vec<u8>, Metadata)> {
    let (mut content, mut metadata) = (SIGNATURE.to_vec(), Metadata::default());
    let mut put = |kind: &[u8], body: &[u8]| {
        content.extend_from_slice(&(body.len() as u32).to_be_bytes());
        content.extend_from_slice(kind);
        content.extend_from_slice(body);
        // Its checksum, which is not looked at.
        content.extend_from_slice(&[0; 4]);
    };
    let (mut at, mut images, mut last_was_image) = (SIGNATURE.len(), 0, false);
    while let Some(head) = bytes.get(at..at + 8) {
        let (length, kind) = (u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize, &head[4..]);
        let (start, end) = (at + 8, (at + 8).saturating_add(length));
        let is_image = kind == b"IDAT";
        let body = &bytes[start..end.min(bytes.len())];
        let sum = bytes.get(end..end.saturating_add(4));
        let mut hasher = crc32fast::Hasher::new();
        if !is_image {
            hasher.update(kind);
            hasher.update(body);
        }
        let is_whole = sum.is_some_and(|sum| *sum == hasher.finalize().to_be_bytes());
        if !is_image && !is_whole {
            // Behind the image, nothing is needed any more.
            ensure!(images > 0, "damaged PNG file: its chunk {} is cut short or changed", kind.escape_ascii());
            break;
        }
        match kind {
            b"eXIf" => metadata.exif = Some(body.to_vec()),
            b"iTXt" if body.starts_with(b"XML:com.adobe.xmp") => metadata.xmp = Some(body.to_vec()),
            b"IEND" => break,
            _ => {}
        }
        // The image's chunks follow each other; others of their name do not belong to it.
        if is_image && (images == 0 || last_was_image) || [b"IHDR", b"PLTE", b"tRNS"].iter().any(|k| *k == kind) {
            put(kind, body);
            images += usize::from(is_image);
        }
        last_was_image = is_image;
        at = end.saturating_add(4);
    }
    put(b"IEND", b"");
    Ok((content, metadata))
}
