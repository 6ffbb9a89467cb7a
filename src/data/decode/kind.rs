//! What a file is by its first bytes, to tell those apart that are read and to name those that are not.

use crate::bail_hint;
use crate::error::Result;

/// The formats that are read, JPEG aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Png,
    Gif,
    Tiff,
    WebP,
    Bmp,
    Pnm,
}

/// Beginnings of files, each with its offset, that are no image that is read, and what they are.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"\xff\xd8\xff\xf7", "a JPEG-LS image"),
    (4, b"jP  \r\n\x87\n", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftypheic", "a HEIC image"),
    (4, b"ftypheix", "a HEIC image"),
    (4, b"ftyphevc", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftypcrx ", "a camera's raw image"),
    (4, b"ftyp", "a video"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"#?RGBE", "a Radiance HDR image"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"qoif", "a QOI image"),
    (0, b"farbfeld", "a farbfeld image"),
    (0, b"\x01\xda", "an SGI image"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"DICM", "a DICOM file"),
    (128, b"DICM", "a DICOM file"),
    (0, b"\0\0\x01\0", "a Windows icon"),
    (0, b"\0\0\x02\0", "a Windows cursor or a TGA image"),
    (0, b"PF\n", "a PFM image"),
    (0, b"Pf\n", "a PFM image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x1aE\xdf\xa3", "a video"),
];

/// Recognises a file; an error names what it is instead.
pub fn kind(bytes: &[u8]) -> Result<Kind> {
    let has = |start: &[u8]| bytes.starts_with(start);
    let found = match bytes {
        [] => bail_hint!("the file is empty"; "fetch it again"),
        _ if has(b"\x89PNG\r\n\x1a\n") => Some(Kind::Png),
        _ if has(b"GIF87a") || has(b"GIF89a") => Some(Kind::Gif),
        _ if has(b"II*\0") || has(b"MM\0*") || has(b"II+\0") || has(b"MM\0+") => Some(Kind::Tiff),
        _ if has(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Some(Kind::WebP),
        _ if has(b"BM") => Some(Kind::Bmp),
        [b'P', b'1'..=b'7', space, ..] if space.is_ascii_whitespace() || *space == b'#' => Some(Kind::Pnm),
        _ => None,
    };
    if let Some(kind) = found {
        return Ok(kind);
    }
    let start = &bytes[..bytes.len().min(1024)];
    let text = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    if text.starts_with("version https://git-lfs") {
        bail_hint!("it is a Git LFS pointer, not the file that it stands for"; "run `git lfs pull` in its repository");
    }
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        bail_hint!("it is an HTML page, not an image"; "its download failed; fetch it again");
    }
    let other = OTHERS.iter().find(|(at, magic, _)| bytes.get(*at..at + magic.len()) == Some(magic));
    let svg = (text.starts_with('<') && text.contains("<svg")).then_some("an SVG drawing");
    if let Some(other) = other.map(|(_, _, name)| *name).or(svg) {
        bail_hint!("it is {other}, which is not read"; "convert it to one of those that are read: {READ}");
    }
    bail_hint!(
        "it is not an image of a known format: it begins with {}", beginning(bytes);
        "{READ} are read, by their content"
    )
}

const READ: &str = "JPEG, PNG, WebP, BMP, GIF, TIFF, PNM";

/// The first bytes, as text if they are text.
fn beginning(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(24)];
    match std::str::from_utf8(start) {
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => format!("the text {text:?}"),
        _ => start.iter().take(8).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "),
    }
}
