//! Pictures embedded in the page: small ones as they are, larger ones as thumbnails.

use crate::data::decode::LazyImage;
use crate::data::image::{Image, Interpolation, Region};
use crate::data::pillow::resized_crop;
use crate::data::source::StoredImage;
use crate::error::{Result, catch_panic};
use crate::run::inside;
use crate::text;
use crate::untrusted;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jpeg_encoder::{ColorType, Encoder};
use maud::{Markup, html};
use std::borrow::Cow;
use std::path::Path;

/// Bytes of all embedded pictures: a page should open on a phone, and go through mail.
const MOST: u64 = 3 << 20;
/// Bytes of a picture's file; larger ones are not opened.
const MOST_FILE: u64 = 64 << 20;
/// Quality of thumbnails, of 100.
const QUALITY: u8 = 82;

/// How large a picture may be in the page.
#[derive(Clone, Copy)]
pub struct Size {
    /// Pixels of its longer side.
    side: usize,
    /// Bytes of a file that is embedded as it is.
    as_it_is: u64,
}

/// A picture with text in it, such as curves.
pub const PICTURE: Size = Size { side: 1000, as_it_is: 128 << 10 };
/// One of many samples.
pub const SAMPLE: Size = Size { side: 192, as_it_is: 12 << 10 };

/// Bytes of the pictures embedded so far.
#[derive(Default)]
pub struct Budget {
    spent: u64,
}

/// A picture as it is embedded.
struct Embedded {
    uri: String,
    /// The size of the original in pixels, where this is a thumbnail.
    original: Option<(usize, usize)>,
}

impl Budget {
    /// A picture of the run, embedded; or in words why it is not.
    pub fn picture(&mut self, dir: &Path, name: &str, alt: &str, size: Size) -> Markup {
        match self.embed(dir, name, size) {
            Ok(Embedded { uri, original: None }) => html! { img src=(uri) alt=(alt); },
            Ok(Embedded { uri, original: Some((width, height)) }) => html! {
                img src=(uri) alt=(alt) title={ "reduced; " (name) " has " (width) " x " (height) " pixels" };
            },
            Err(why) => html! { p.note { (name) ": " (why) } },
        }
    }

    fn embed(&mut self, dir: &Path, name: &str, size: Size) -> Result<Embedded, String> {
        // A page must not carry files from elsewhere, whatever evaluation.json says and wherever links lead.
        let Ok(file) = inside::path_in(dir, Path::new(name)) else {
            return Err("not shown: it is outside the run directory".into());
        };
        let bytes = std::fs::metadata(&file).map_err(|e| format!("not shown: {e}"))?.len();
        if bytes > MOST_FILE {
            return Err(format!(
                "not shown: its size is {}, more than {}",
                text::bytes(bytes as f64),
                text::bytes(MOST_FILE as f64)
            ));
        }
        if self.spent >= MOST {
            return Err(format!(
                "not shown: the pictures before it take up {} already",
                text::bytes(self.spent as f64)
            ));
        }
        let content = untrusted::read(&file, MOST_FILE).map_err(|e| format!("not shown: {e:#}"))?;
        let Some(kind) = kind_of(&content) else {
            return Err("not shown: it is not a PNG, JPEG or WebP file".into());
        };
        let (kind, content, original) = match bytes <= size.as_it_is {
            true => (kind, content, None),
            false => thumbnail(content, size.side).map_err(|e| format!("not shown: {e:#}"))?,
        };
        self.spent += content.len() as u64;
        Ok(Embedded { uri: format!("data:{kind};base64,{}", STANDARD.encode(content)), original })
    }
}

/// A picture to embed: its type, its bytes, and its size before it was reduced.
type Thumbnail = (&'static str, Vec<u8>, Option<(usize, usize)>);

/// The picture as a JPEG file; reduced if it is larger than `side`.
fn thumbnail(content: Vec<u8>, side: usize) -> Result<Thumbnail> {
    let mut stored = StoredImage::Encoded(Cow::Owned(content));
    let (small, (width, height)) = catch_panic(|| {
        let image = LazyImage::open(&mut stored, true)?;
        let (width, height) = image.size();
        let longest = width.max(height);
        if longest <= side {
            return Ok((image.decode()?, (width, height)));
        }
        let scaled = |n: usize| (n as f64 * side as f64 / longest as f64).round().max(1.0) as usize;
        let all = Region { left: 0, top: 0, width, height };
        let small = resized_crop(image, all, scaled(width), scaled(height), Interpolation::Bilinear)?;
        Ok((small, (width, height)))
    })?;
    let Image { width: w, height: h, channels, data } = small;
    let mut out = Vec::new();
    let colours = if channels == 1 { ColorType::Luma } else { ColorType::Rgb };
    // Not larger than a side: 16 bits hold it.
    Encoder::new(&mut out, QUALITY).encode(&data, w as u16, h as u16, colours)?;
    Ok(("image/jpeg", out, (width.max(height) > side).then_some((width, height))))
}

/// The type of a picture, by its content. None of these can hold a script, as SVG can.
pub fn kind_of(content: &[u8]) -> Option<&'static str> {
    match content {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
