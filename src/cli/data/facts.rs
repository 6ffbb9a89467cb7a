//! What the header of an image file tells.

use crate::data::decode::LazyImage;
use crate::data::image::Mode;
use crate::data::source::StoredImage;
use crate::error::Result;
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder as _, ImageFormat, ImageReader};
use std::io::Cursor;

/// Size and kind of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// "JPEG", "PNG", or "pixels" if nothing is encoded.
    pub format: String,
    /// What is special about it: "grey", "CMYK", "progressive".
    pub kinds: Vec<&'static str>,
    pub width: usize,
    pub height: usize,
    /// Bytes as stored.
    pub bytes: usize,
}

impl Facts {
    /// Reads the header only, if the format has one that gives the size.
    pub fn of(mut content: StoredImage<'_>, mode: Mode) -> Result<Self> {
        let bytes = match &content {
            StoredImage::Pixels(image) => {
                let kinds = if image.channels == 1 { vec!["grey"] } else { Vec::new() };
                let (width, height) = (image.width, image.height);
                return Ok(Self { format: "pixels".into(), kinds, width, height, bytes: image.data.len() });
            }
            StoredImage::Encoded(bytes) => bytes,
        };
        let (len, format) = (bytes.len(), image::guess_format(bytes).ok());
        let mut kinds = Vec::new();
        let size = match format {
            Some(ImageFormat::Jpeg) => {
                kinds = jpeg_kinds(bytes);
                None
            }
            Some(format) => {
                let decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().ok();
                kinds = decoder.as_ref().map_or(kinds, |decoder| kinds_of(decoder.color_type()));
                decoder.map(|decoder| decoder.dimensions())
            }
            None => None,
        };
        let format = format.map_or("unknown".to_string(), |f| format!("{f:?}").to_uppercase());
        let (width, height) = match size {
            Some((width, height)) => (width as usize, height as usize),
            // A JPEG's header is read by its decoder; of others, this tells what is wrong.
            None => {
                let image = LazyImage::open_as(&mut content, false, mode)?;
                if let LazyImage::Jpeg(jpeg) = &image
                    && let Some(turn) = jpeg.orientation()
                    && turn != Orientation::NoTransforms
                {
                    kinds.push("turned by Exif");
                }
                image.size()
            }
        };
        Ok(Self { format, kinds, width, height, bytes: len })
    }
}

/// What is beyond the 8-bit red, green and blue that images are read as.
fn kinds_of(color: ColorType) -> Vec<&'static str> {
    let is_wide = color.bytes_per_pixel() > color.channel_count();
    [("16-bit", is_wide), ("alpha", color.has_alpha())].into_iter().filter(|kind| kind.1).map(|kind| kind.0).collect()
}

/// What the frame header of a JPEG says of its colours and its coding.
pub fn jpeg_kinds(bytes: &[u8]) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xff => at += 1,
            // Frame headers, but not the tables that share their numbers.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                match bytes.get(at + 9) {
                    Some(1) => kinds.push("grey"),
                    Some(4) => kinds.push("CMYK"),
                    _ => (),
                }
                if [0xc2, 0xc6, 0xca, 0xce].contains(&marker) {
                    kinds.push("progressive");
                }
                break;
            }
            0xda => break,
            _ => at += 2 + u16::from_be_bytes([high, low]) as usize,
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn of(name: &str) -> Result<Facts> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images-odd/");
        Facts::of(StoredImage::Encoded(Cow::Owned(std::fs::read(format!("{dir}{name}")).unwrap())), Mode::Rgb)
    }

    #[test]
    fn headers_tell_size_and_kind() {
        for (name, format, size, kinds) in [
            ("baseline-444.jpg", "JPEG", (53, 37), &[][..]),
            ("grey.jpg", "JPEG", (53, 37), &["grey"]),
            ("cmyk.jpg", "JPEG", (53, 37), &["CMYK"]),
            ("progressive-420-75x51.jpg", "JPEG", (75, 51), &["progressive"]),
            ("orientation-1.jpg", "JPEG", (29, 19), &[]),
            ("orientation-6.jpg", "JPEG", (29, 19), &["turned by Exif"]),
            ("png-named.jpg", "PNG", (29, 19), &[]),
            ("gif-plain.gif", "GIF", (29, 19), &[]),
            ("webp-lossy.webp", "WEBP", (53, 37), &[]),
            ("tiff-rgb.tif", "TIFF", (29, 19), &[]),
        ] {
            let facts = of(name).unwrap();
            let expected = (format, size, kinds);
            assert_eq!((facts.format.as_str(), (facts.width, facts.height), &facts.kinds[..]), expected, "{name}");
        }
    }

    #[test]
    fn what_has_no_header_is_reported() {
        assert!(of("zero-bytes.jpg").unwrap_err().to_string().contains("empty"));
        assert!(of("text.jpg").unwrap_err().to_string().contains("not an image"));
        assert!(of("cut-in-header.jpg").is_err());
    }
}
