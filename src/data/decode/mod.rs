//! Image files to pixels: a file's format is recognised by its content, never by its name.
//!
//! Everything comes out as 8-bit RGB, as Pillow's `convert("RGB")` gives it: alpha is dropped, palettes are looked up,
//! CMYK is taken as Adobe writes it, TIFFs are turned as their orientation says. 16-bit grey is scaled to 8 bits (where
//! Pillow clips it), which is said. In the mode "unchanged" all channels come out at full precision, as floats.
//!
//! JPEG, the hot path, is decoded by libjpeg-turbo if it is found (`turbo`), and then only the part of the image that
//! is wanted; else by zune-jpeg, in pure Rust.

mod floats;
mod gif;
mod kind;
mod other;
mod png;
mod tiff;
mod turbo;
mod unchanged;
mod zune;

pub use turbo::{Backend, backend};

use super::image::{AnyImage, Image, Mode, Region};
use super::source::StoredImage;
use crate::bail_hint;
use crate::dist;
use crate::error::{Diagnostic, Error, Result, bail, catch_damage, ensure};
use image::metadata::Orientation;
use kind::Kind;

/// More pixels than this are refused.
const MOST_PIXELS: usize = 1 << 28;
/// What decoding takes for each pixel at most: 4 channels of 16 bits.
const PIXEL_BYTES: usize = 8;

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
    /// Pixels of a file that is read as it is.
    Floats(Image<f32>),
}

impl<'a> LazyImage<'a> {
    /// Opens an item. With `exif_orientation`, images are turned as their Exif data says, or else their XMP data; TIFFs
    /// always are.
    pub fn open(content: &'a mut StoredImage<'_>, exif_orientation: bool) -> Result<Self> {
        let (image, turn, is_narrowed) = Self::open_with(content, exif_orientation)?;
        if is_narrowed {
            note_narrowed();
        }
        match turn {
            Orientation::NoTransforms => Ok(image),
            turn => Ok(LazyImage::Decoded(turned(image.decode()?, turn))),
        }
    }

    /// [`LazyImage::open`], in the mode of the item's source.
    pub fn open_as(content: &'a mut StoredImage<'_>, exif_orientation: bool, mode: Mode) -> Result<Self> {
        match (mode, &content) {
            (Mode::Unchanged, StoredImage::Encoded(bytes)) => {
                let decode = || unchanged::decode(bytes, exif_orientation);
                Ok(LazyImage::Floats(catch_damage("the image", decode)?))
            }
            _ => Self::open(content, exif_orientation),
        }
    }

    /// Opens an item as it is stored, and tells how its Exif data, or else its XMP data, turn it.
    pub fn open_unturned(content: &'a mut StoredImage<'_>) -> Result<(Self, Orientation)> {
        Self::open_with(content, true).map(|(image, turn, _)| (image, turn))
    }

    /// An item, how it is to be turned, which is looked for only if it matters, and whether it has lost bits.
    fn open_with(content: &'a mut StoredImage<'_>, orientation_matters: bool) -> Result<(Self, Orientation, bool)> {
        const NONE: Orientation = Orientation::NoTransforms;
        match content {
            StoredImage::Pixels(image) => Ok((LazyImage::Decoded(std::mem::take(image)), NONE, false)),
            StoredImage::Encoded(bytes) => {
                let (image, metadata) = catch_damage("the image", || Self::open_encoded(bytes, orientation_matters))?;
                let turn = orientation_matters.then(|| metadata.turn()).flatten().unwrap_or(NONE);
                Ok((image, turn, metadata.is_narrowed))
            }
        }
    }

    fn open_encoded(bytes: &'a [u8], wants_metadata: bool) -> Result<(Self, Metadata)> {
        if !bytes.starts_with(&[0xff, 0xd8, 0xff]) || bytes.get(3) == Some(&0xf7) {
            let (image, metadata) = decode_other(bytes)?;
            return Ok((LazyImage::Decoded(image), metadata));
        }
        match backend() {
            Backend::LibjpegTurbo(_) => {
                let jpeg = turbo::Jpeg::open(bytes)?;
                let metadata = if wants_metadata { jpeg.metadata() } else { Metadata::default() };
                let is_ended = jpeg.has_end()?;
                let mut image = LazyImage::Jpeg(jpeg);
                if !is_ended {
                    image = LazyImage::Decoded(image.decode().map_err(|_| truncated(bytes))?);
                }
                Ok((image, metadata))
            }
            Backend::ZuneJpeg => {
                let (image, metadata) = zune::decode(bytes)?;
                Ok((LazyImage::Decoded(image), metadata))
            }
        }
    }

    /// Width and height.
    pub fn size(&self) -> (usize, usize) {
        match self {
            LazyImage::Jpeg(jpeg) => jpeg.size(),
            LazyImage::Decoded(image) => (image.width, image.height),
            LazyImage::Floats(image) => (image.width, image.height),
        }
    }

    /// The image at 1/2, 1/4 or 1/8 of its size, as [`LazyImage::size`] then says, where it can be decoded so: with the
    /// reduction that was made.
    pub fn reduced(self, by: usize) -> (Self, usize) {
        match self {
            LazyImage::Jpeg(jpeg) => (LazyImage::Jpeg(jpeg.reduced(by)), by),
            image => (image, 1),
        }
    }

    /// The pixels of `region`, which lies inside the image; an error for floats.
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
            LazyImage::Floats(image) => {
                bail!("expected an image of 8 bits a channel, found one of {} channels of floats", image.channels)
            }
        }
    }

    /// All pixels, of either kind.
    pub fn pixels(self) -> Result<AnyImage> {
        match self {
            LazyImage::Floats(image) => Ok(AnyImage::Floats(image)),
            image => Ok(AnyImage::Bytes(image.decode()?)),
        }
    }

    /// All pixels; an error for floats.
    pub fn decode(self) -> Result<Image> {
        let (width, height) = self.size();
        Ok(self.decode_region(Region { left: 0, top: 0, width, height })?.image)
    }
}

/// What was wrong with a JPEG that could be decoded nevertheless, as for `nepa data --scan`: libjpeg fills what a
/// damaged part of a file leaves open with grey, and Pillow says nothing about it.
pub fn complaint(content: &mut StoredImage<'_>, mode: Mode) -> Result<Option<String>> {
    match LazyImage::open_as(content, false, mode)? {
        LazyImage::Jpeg(jpeg) => jpeg.complaint(),
        LazyImage::Decoded(_) | LazyImage::Floats(_) => Ok(None),
    }
}

/// Says once that bits are lost.
fn note_narrowed() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if dist::rank() == 0 {
        ONCE.call_once(|| {
            crate::output::err!(
                "note: images of 16 bits a channel are read as 8-bit RGB; to keep their bits and channels: \
                 data::open(path, split, #{{ mode: \"unchanged\" }})"
            )
        });
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

/// How many pixels a JPEG file of so many bytes may claim: a damaged header can claim any size. One of a single colour
/// has 57 pixels a byte with the usual tables; more are believed of small images only.
fn most_pixels(file: usize) -> usize {
    const ALWAYS: usize = 1 << 26;
    file.saturating_mul(64).clamp(ALWAYS, MOST_PIXELS)
}

/// How many pixels a file of another kind may claim. Masks and scans of few colours pack far better.
fn most_packed_pixels(file: usize) -> usize {
    (2 * most_pixels(file)).min(MOST_PIXELS)
}

/// Refuses a size that is not believed of a file of so many bytes, of which the decoder has read no more than the header.
fn check_claim(width: usize, height: usize, file: usize, most: fn(usize) -> usize) -> Result<()> {
    check_size(width, height)?;
    ensure!(
        width * height <= most(file),
        "the image claims {width} x {height} pixels, more than are believed of a file of {file} bytes"
    );
    Ok(())
}

/// Refuses more values than are believed of a file of so many bytes, where each of them becomes a float.
fn check_values(width: usize, height: usize, channels: usize, file: usize) -> Result<()> {
    const ALWAYS: usize = 1 << 26;
    const MOST: usize = 1 << 29;
    let most = file.saturating_mul(64).clamp(ALWAYS, MOST);
    ensure!(
        channels > 0 && width.saturating_mul(height).saturating_mul(channels) <= most,
        "the image claims {width} x {height} pixels of {channels} channels, more than are believed of a file of {file} bytes"
    );
    Ok(())
}

/// What a file says about its image: where they begin with their own headers.
#[derive(Debug, Default)]
struct Metadata {
    exif: Option<Vec<u8>>,
    xmp: Option<Vec<u8>>,
    /// Whether the upper 8 of 16 bits were taken.
    is_narrowed: bool,
}

impl Metadata {
    fn turn(&self) -> Option<Orientation> {
        orientation(self.exif.as_deref(), self.xmp.as_deref())
    }
}

/// An image that is no JPEG.
fn decode_other(bytes: &[u8]) -> Result<(Image, Metadata)> {
    match kind::kind(bytes)? {
        Kind::Png => png::decode(bytes),
        Kind::Gif => Ok((gif::decode(bytes)?, Metadata::default())),
        Kind::Tiff => tiff::decode(bytes),
        kind => other::decode(bytes, kind),
    }
}

/// How Exif data turn an image or, where they say nothing, XMP data; as Pillow reads them.
fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    let in_exif = exif.and_then(|exif| Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)));
    in_exif.or_else(|| {
        let xmp = xmp?;
        let after = xmp.windows(KEY.len()).position(|part| part == KEY)? + KEY.len();
        let digit = match &xmp[after..] {
            [b'=', b'"', digit, ..] | [b'>', digit, ..] => digit,
            _ => return None,
        };
        Orientation::from_exif(digit.checked_sub(b'0')?)
    })
}

/// Whether the coded image of a JPEG, from `start` on, has its end marker. Trailing bytes are common and harmless.
fn has_end(bytes: &[u8], start: usize) -> Result<bool> {
    let mut at = start;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(0xff, rest)) {
        let marker = at + found + 1;
        at = match bytes.get(marker) {
            Some(0xd9) => return Ok(true),
            Some(0xd8) => bail_hint!(
                "damaged JPEG: another image begins at byte {}, before the end of its own", marker - 1;
                "fetch the file again"
            ),
            Some(0xff) => marker,
            // The tables of a further scan, and what may lie between them.
            Some(0xc4 | 0xda..=0xdd | 0xe0..=0xef | 0xfe) => {
                let length = bytes.get(marker + 1..marker + 3).map_or(0, |n| u16::from_be_bytes([n[0], n[1]]));
                marker + 1 + length as usize
            }
            // A byte of the image, or a marker that allows to start anew within it.
            Some(_) => marker + 1,
            None => break,
        };
    }
    Ok(false)
}

fn truncated(bytes: &[u8]) -> Error {
    let message = format!("the JPEG is truncated: {} bytes without an end marker", bytes.len());
    Diagnostic::new(message).hint("fetch the file again").into()
}

fn turned<T: Copy>(image: Image<T>, turn: Orientation) -> Image<T> {
    use Orientation::*;
    let (right, bottom, c) = (image.width - 1, image.height - 1, image.channels);
    let is_upright = matches!(turn, NoTransforms | FlipHorizontal | FlipVertical | Rotate180);
    let (width, height) = if is_upright { (image.width, image.height) } else { (image.height, image.width) };
    // The column and the row that come to (x, y).
    let from = |x: usize, y: usize| match turn {
        NoTransforms => (x, y),
        FlipHorizontal => (right - x, y),
        FlipVertical => (x, bottom - y),
        Rotate180 => (right - x, bottom - y),
        Rotate90 => (y, bottom - x),
        Rotate270 => (right - y, x),
        Rotate90FlipH => (y, x),
        Rotate270FlipH => (right - y, bottom - x),
    };
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..height {
        for (column, row) in (0..width).map(|x| from(x, y)) {
            data.extend_from_slice(&image.data[(row * image.width + column) * c..][..c]);
        }
    }
    Image::new(width, height, c, data)
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

    #[test]
    fn a_reduced_jpeg_is_that_of_pillows_draft_and_its_parts_are_those_of_the_whole() {
        // Pillow 12.3: image.draft("RGB", (width // by, height // by)), zlib.crc32(image.convert("RGB").tobytes())
        for (name, sums) in [
            ("source-420.jpg", [0xba3d_e8c7, 0x6d17_a01a, 0xfac9_ac8d]),
            ("source-444.jpg", [0x3791_452e, 0xd633_ab37, 0xec37_f4cb]),
            ("source-gray.jpg", [0x6a79_9bac, 0x4465_d459, 0xe0fd_fb02]),
            ("source-progressive.jpg", [0xda98_dbb5, 0x4ed8_e5e1, 0x8b4c_1779]),
        ] {
            for (by, sum) in [2, 4, 8].into_iter().zip(sums) {
                let bytes = file(name);
                let reduced = || LazyImage::open_encoded(&bytes, false).unwrap().0.reduced(by);
                let whole = reduced().0.decode().unwrap();
                assert_eq!((whole.width, whole.height), (333usize.div_ceil(by), 250usize.div_ceil(by)));
                assert_eq!(crc32fast::hash(&whole.data), sum, "{name} at 1/{by}");
                let mut rng = Key::new(by as u64).rng();
                for _ in 0..100 {
                    let (left, top) = (rng.random_range(0..whole.width), rng.random_range(0..whole.height));
                    let width = rng.random_range(1..=whole.width - left);
                    let height = rng.random_range(1..=whole.height - top);
                    let region = Region { left, top, width, height };
                    let part = reduced().0.decode_region(region).unwrap();
                    assert_eq!(part.crop(), whole.crop(region), "{name} at 1/{by}, {region:?}");
                }
            }
        }
        // Files of other kinds have no smaller form.
        let png = LazyImage::Decoded(Image::new(16, 16, 3, vec![0; 16 * 16 * 3]));
        assert_eq!(png.reduced(2).1, 1);
    }

    #[test]
    fn a_reducing_gap_hardly_changes_what_is_resized() {
        use crate::data::image::{Interpolation, Passes, Resampling};
        use crate::data::pillow::{resize_then_crop, resized_crop};
        let bytes = file("source-444.jpg");
        let open = || LazyImage::open_encoded(&bytes, false).unwrap().0;
        let distances = |reducing_gap: f64, shift: usize| {
            let how = |reducing_gap| Resampling {
                interpolation: Interpolation::Bicubic,
                passes: Passes::Pillow13,
                reducing_gap,
            };
            let how = [how(None), how(Some(reducing_gap))];
            let region = Region { left: 13 + shift, top: 7 + shift, width: 311, height: 231 };
            let crops = how.map(|how| resized_crop(open(), region, 50, 40, how).unwrap());
            let middle = Region { left: 9 + shift, top: 4, width: 32, height: 32 };
            let middles = how.map(|how| resize_then_crop(open(), 53, 40, middle, how).unwrap());
            [crops, middles].map(|[whole, reduced]| {
                let off = whole.data.iter().zip(&reduced.data).map(|(a, b)| a.abs_diff(*b) as f64);
                off.sum::<f64>() / whole.data.len() as f64
            })
        };
        // Reduced by 2, and by 4; the region begins between pixels of the smaller image, or does not.
        for (gap, most) in [(2.0, 0.45), (1.0, 1.5)] {
            for shift in [0, 1, 2, 3] {
                let found = distances(gap, shift);
                assert!(found.iter().all(|off| (1e-9..most).contains(off)), "gap {gap}, shift {shift}: {found:.3?}");
            }
        }
        assert_eq!(distances(7.0, 0), [0.0, 0.0], "too large a gap reduces nothing");
    }

    /// A picture of `images-kinds` as Pillow gives it: width, height and pixels in hexadecimal.
    fn pillows(value: &serde_json::Value) -> Image {
        let (size, hex) = ([0, 1].map(|i| value[i].as_u64().unwrap() as usize), value[2].as_str().unwrap());
        let data = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        Image::new(size[0], size[1], 3, data)
    }

    #[test]
    fn rare_kinds_and_files_without_an_end_are_read_or_refused_as_by_pillow() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images-kinds/");
        let read = |name: &str| std::fs::read(format!("{dir}{name}")).unwrap();
        let expected: serde_json::Map<_, _> = serde_json::from_slice(&read("expected.json")).unwrap();
        assert!(matches!(backend(), Backend::LibjpegTurbo(_)), "Pillow's pixels are libjpeg-turbo's");
        for (name, facts) in expected {
            let mut content = StoredImage::Encoded(Cow::Owned(read(&name)));
            let mut found = |turn| LazyImage::open(&mut content, turn).and_then(LazyImage::decode);
            match facts.get("rgb") {
                None => assert!(found(false).is_err(), "{name}: Pillow refuses it: {}", facts["error"]),
                Some(rgb) => {
                    assert!(found(false).unwrap_or_else(|e| panic!("{name}: {e}")) == pillows(rgb), "{name}");
                    assert!(found(true).unwrap() == pillows(facts.get("turned").unwrap_or(rgb)), "{name}, turned");
                }
            }
        }
    }

    fn unchanged(name: &str) -> Result<Image<f32>> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images-channels/");
        let mut content = StoredImage::Encoded(Cow::Owned(std::fs::read(format!("{dir}{name}")).unwrap()));
        match LazyImage::open_as(&mut content, false, Mode::Unchanged)?.pixels()? {
            AnyImage::Floats(image) => Ok(image),
            AnyImage::Bytes(_) => panic!("{name}: bytes"),
        }
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    fn expected_channels() -> serde_json::Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images-channels/expected.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The greatest distance, relative to values beyond 1.
    fn distance(found: &[f32], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
    }

    #[test]
    fn files_read_as_they_are_hold_the_arrays_that_they_were_made_of() {
        let files = expected_channels()["files"].clone();
        for (name, facts) in files.as_object().unwrap() {
            let image = unchanged(name).unwrap_or_else(|e| panic!("{name}: {}", crate::error::one_line(&e)));
            let shape = [image.channels, image.height, image.width].map(|n| n as f64);
            assert_eq!(shape[..], numbers(&facts["shape"]), "{name}");
            let off = distance(&image.planar(), &numbers(&facts["values"]));
            assert!(off < 1e-7, "{name}: {off}");
        }
        assert_eq!(files.as_object().unwrap().len(), 22);
    }

    #[test]
    fn floats_are_resized_as_by_pillows_mode_f() {
        let image = unchanged("bands5-f32.tif").unwrap();
        for case in expected_channels()["resized"].as_array().unwrap() {
            let [left, top, right, bottom] = numbers(&case["box"])[..] else { panic!() };
            let [left, top, right, bottom] = [left, top, right, bottom].map(|n| n as usize);
            let region = Region { left, top, width: right - left, height: bottom - top };
            let to: Vec<usize> = numbers(&case["to"]).into_iter().map(|n| n as usize).collect();
            let by: crate::data::image::Interpolation = case["by"].as_str().unwrap().parse().unwrap();
            let resized = crate::data::pillow::resized(LazyImage::Floats(image.clone()), region, to[0], to[1], by);
            let AnyImage::Floats(resized) = resized.unwrap().pixels().unwrap() else { panic!("bytes") };
            assert_eq!((resized.width, resized.height, resized.channels), (to[0], to[1], 5));
            let off = distance(&resized.planar(), &numbers(&case["values"]));
            assert!(off < 1e-6, "{case}: {off}");
        }
    }

    #[test]
    fn what_floats_cannot_hold_and_several_pages_are_told() {
        for (name, words) in [
            ("bands2-f64.tif", "values that float32 does not hold"),
            ("pages.tif", "several pages, of which only one would be read"),
            ("nan-f32.tif", "values that are not finite"),
        ] {
            let error = crate::error::one_line(&unchanged(name).unwrap_err());
            assert!(error.contains(words), "{name}: {error}");
        }
    }

    /// The complaint about bytes that are no image.
    fn complaint_of(bytes: Vec<u8>) -> String {
        let mut content = StoredImage::Encoded(Cow::Owned(bytes));
        match LazyImage::open(&mut content, false).and_then(LazyImage::decode) {
            Ok(_) => panic!("they are an image"),
            Err(error) => crate::error::one_line(&error),
        }
    }

    fn odd(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/fixtures/images-odd/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn a_size_that_does_not_fit_into_the_file_is_told() {
        const SIDE: u32 = 16000;
        let with = |name: &str, at: usize, numbers: &[u8]| {
            let mut bytes = odd(name);
            bytes[at..at + numbers.len()].copy_from_slice(numbers);
            bytes
        };
        let (be, le) =
            ([SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat(), [SIDE.to_le_bytes(), SIDE.to_le_bytes()].concat());
        let mut png = with("grey-8.png", 16, &be);
        let sum = crc32fast::hash(&png[12..29]);
        png[29..33].copy_from_slice(&sum.to_be_bytes());
        let jpeg = |name: &str| {
            let bytes = odd(name);
            let frame = bytes.windows(2).position(|pair| matches!(pair, [0xff, 0xc0 | 0xc2])).unwrap();
            with(name, frame + 5, &[&be[2..4], &be[2..4]].concat())
        };
        let gif = with("gif-plain.gif", 6, &[&le[..2], &le[..2]].concat());
        let pnm = format!("P6 {SIDE} {SIDE} 255\n").into_bytes();
        let (plain, progressive) = (jpeg("baseline-444.jpg"), jpeg("progressive-420-75x51.jpg"));
        for bytes in [png, plain, progressive, gif, pnm, with("bmp-24.bmp", 18, &le)] {
            let text = complaint_of(bytes);
            assert!(text.contains("claims 16000 x 16000 pixels, more than are believed of a file of"), "{text}");
        }
    }

    #[test]
    fn a_webp_whose_metadata_reach_beyond_it_is_told() {
        let whole =
            std::fs::read(format!("{}/tests/fixtures/images-kinds/exif.webp", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let at = whole.windows(4).position(|name| name == b"EXIF").unwrap() + 4;
        let changed = [&whole[..at], &2_880_110_618u32.to_le_bytes(), &whole[at + 4..]].concat();
        assert_eq!(complaint_of(changed), "damaged WebP file: its chunk EXIF is cut short");
        assert!(LazyImage::open(&mut StoredImage::Encoded(Cow::Owned(whole)), true).is_ok());
    }

    #[test]
    fn a_jpeg_with_scans_without_end_is_told() {
        let bytes = odd("progressive-420-75x51.jpg");
        let scan = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
        let (head, scan) = (&bytes[..scan], &bytes[scan..bytes.len() - 2]);
        let text = complaint_of([head, &scan.repeat(600), &[0xff, 0xd9]].concat());
        assert!(text.contains("too many scans"), "{text}");
    }

    #[test]
    fn what_is_not_read_is_named() {
        let cases: [(&[u8], &str); 12] = [
            (b"\0\0\0\x18ftypheic\0\0\0\0", "it is a HEIC image, which is not read"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "it is an AVIF image, which is not read"),
            (b"\0\0\0\x0cjP  \r\n\x87\n\0\0", "it is a JPEG 2000 image"),
            (b"\xff\x4f\xff\x51\0\x2f", "it is a JPEG 2000 image"),
            (b"\xff\x0a\0\0\0", "it is a JPEG XL image"),
            (b"\xff\xd8\xff\xf7\0\x0b", "it is a JPEG-LS image"),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns='x'/>", "it is an SVG drawing"),
            (b"8BPS\0\x01", "it is a Photoshop file"),
            (b"%PDF-1.7\n", "it is a PDF document"),
            (b"\n<!DOCTYPE html><html>not found", "it is an HTML page, not an image"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer"),
            (b"GIF is a format", "it begins with the text \"GIF is a format\""),
        ];
        for (bytes, words) in cases {
            let mut content = StoredImage::Encoded(Cow::Borrowed(bytes));
            let error = LazyImage::open(&mut content, false).err().unwrap();
            assert!(error.to_string().contains(words), "{error} without {words:?}");
            assert!(crate::error::hint_of(&error).is_some(), "{error}");
        }
    }
}
