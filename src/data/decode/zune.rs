//! JPEG in pure Rust, where libjpeg-turbo is not at hand.

use super::{Metadata, check_claim, cmyk_to_rgb, has_end, most_pixels, truncated};
use crate::data::image::Image;
use crate::error::{Result, bail};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// The whole image as RGB. Unlike libjpeg, the decoder does not tell whether an image without an end marker is whole.
pub fn decode(bytes: &[u8]) -> Result<(Image, Metadata)> {
    let damaged = |e: zune_jpeg::errors::DecodeErrors| crate::error::Diagnostic::new(format!("damaged JPEG: {e:?}"));
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(1 << 16)
        .set_max_height(1 << 16);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let Some((width, height)) = decoder.dimensions() else { bail!("damaged JPEG: its header gives no size") };
    check_claim(width, height, bytes.len(), most_pixels)?;
    if !has_end(bytes, header_length(bytes))? {
        return Err(truncated(bytes));
    }
    let four = matches!(decoder.input_colorspace(), Some(ColorSpace::CMYK | ColorSpace::YCCK));
    if let Some(own) = decoder.input_colorspace().filter(|_| four) {
        decoder.set_options(options.jpeg_set_out_colorspace(own));
    }
    let mut data = decoder.decode().map_err(damaged)?;
    let metadata = Metadata { exif: decoder.exif().cloned(), xmp: decoder.xmp().cloned(), ..Metadata::default() };
    if decoder.input_colorspace() == Some(ColorSpace::YCCK) {
        data.as_chunks_mut::<4>().0.iter_mut().for_each(ycck_to_cmyk);
    }
    if four {
        data = cmyk_to_rgb(&data);
    }
    if data.len() != width * height * 3 {
        bail!("damaged JPEG: {width} x {height} pixels announced, {} values found", data.len());
    }
    Ok((Image::new(width, height, 3, data), metadata))
}

/// As libjpeg does it: the complement of the colour that Y, Cb and Cr mean.
fn ycck_to_cmyk(pixel: &mut [u8; 4]) {
    let [y, cb, cr] = [pixel[0] as f32, pixel[1] as f32 - 128.0, pixel[2] as f32 - 128.0];
    let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
    for (value, colour) in pixel.iter_mut().zip(rgb) {
        *value = 255 - colour.round() as u8;
    }
}

/// Where the coded image begins: after the first start-of-scan marker's segment.
fn header_length(bytes: &[u8]) -> usize {
    let mut at = 2;
    while at + 4 <= bytes.len() && bytes[at] == 0xff {
        let length = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]) as usize;
        if bytes[at + 1] == 0xda {
            return at + 2 + length;
        }
        at += 2 + length;
    }
    at
}
