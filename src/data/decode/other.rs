//! Every format but JPEG, by the `image` crate.

use super::check_size;
use crate::bail_hint;
use crate::data::image::Image;
use crate::error::{Diagnostic, Result, bail};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// The whole image as RGB.
pub fn decode(bytes: &[u8]) -> Result<Image> {
    if bytes.is_empty() {
        bail!("the file is empty");
    }
    let Ok(format) = image::guess_format(bytes) else {
        bail_hint!(
            "it is not an image of a known format: it begins with {}", beginning(bytes);
            "JPEG, PNG, WebP, BMP, GIF, TIFF and PNM are read, by their content"
        );
    };
    let damaged = |e: &dyn std::fmt::Display| Diagnostic::new(format!("damaged {format:?} file: {e}"));
    if format == ImageFormat::Gif {
        return gif(bytes).map_err(|e| damaged(&e).into());
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 << 30);
    reader.limits(limits);
    let decoded = match reader.into_decoder() {
        Ok(decoder) => {
            // Before anything of that size is made.
            let (width, height) = decoder.dimensions();
            check_size(width as usize, height as usize)?;
            DynamicImage::from_decoder(decoder)
        }
        Err(e) => Err(e),
    };
    let image = match decoded {
        Ok(image) => image,
        Err(image::ImageError::Unsupported(e)) => bail!("a {format:?} file of an unsupported kind: {e}"),
        Err(e) => return Err(damaged(&e).into()),
    };
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Image::new(width, height, 3, rgb(image)))
}

/// What the Exif data of a PNG or WebP says about how the image is turned. (That of a TIFF is part of the format.)
pub fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let format = image::guess_format(bytes).ok().filter(|f| matches!(f, ImageFormat::Png | ImageFormat::WebP))?;
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().ok()?;
    let exif = decoder.exif_metadata().ok().flatten()?;
    Orientation::from_exif_chunk(&exif)
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
        DynamicImage::ImageLumaA8(p) => grey(p.pixels().map(|p| p[0])),
        DynamicImage::ImageRgba8(p) => p.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma16(p) => grey(p.as_raw().iter().map(upper)),
        DynamicImage::ImageLumaA16(p) => grey(p.pixels().map(|p| upper(&p[0]))),
        DynamicImage::ImageRgb16(p) => p.as_raw().iter().map(upper).collect(),
        DynamicImage::ImageRgba16(p) => p.pixels().flat_map(|p| [p[0], p[1], p[2]].map(|v| upper(&v))).collect(),
        other => other.into_rgb8().into_raw(),
    }
}

/// The first frame on the background of the whole image. Transparent pixels keep their palette's colour, as in
/// Pillow.
fn gif(bytes: &[u8]) -> Result<Image> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    let mut decoder = options.read_info(Cursor::new(bytes))?;
    let (width, height) = (decoder.width() as usize, decoder.height() as usize);
    check_size(width, height)?;
    let background = decoder.bg_color().unwrap_or(0);
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let Some(frame) = decoder.read_next_frame()? else { bail!("it has no frame") };
    let Some(palette) = frame.palette.clone().or(global) else { bail!("it has no palette") };
    let colour = |index: usize| palette.get(3 * index..3 * index + 3).map_or([0; 3], |c| [c[0], c[1], c[2]]);
    let around = frame.transparent.map_or(background, usize::from);
    let mut data: Vec<u8> = (0..width * height).flat_map(|_| colour(around)).collect();
    let (left, top) = (frame.left as usize, frame.top as usize);
    for (y, row) in frame.buffer.chunks_exact(frame.width.max(1) as usize).enumerate() {
        for (x, &index) in row.iter().enumerate() {
            if left + x < width && top + y < height {
                let at = 3 * ((top + y) * width + left + x);
                data[at..at + 3].copy_from_slice(&colour(index as usize));
            }
        }
    }
    Ok(Image::new(width, height, 3, data))
}

/// The first bytes, as text if they are text.
fn beginning(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(24)];
    match std::str::from_utf8(start) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => format!("the text {text:?}"),
        _ => start.iter().take(8).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "),
    }
}
