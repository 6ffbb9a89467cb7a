//! GIF, by the `gif` crate: the first frame, as Pillow shows it.

use super::{check_claim, most_packed_pixels};
use crate::data::image::Image;
use crate::error::{Diagnostic, Result, bail};
use std::borrow::Cow;
use std::io::{Cursor, Read as _};

/// Where the header, of this size, says whether a palette for all frames follows it.
const FLAGS: usize = 10;
const HEADER: usize = 13;

/// The whole image as RGB.
pub fn decode(bytes: &[u8]) -> Result<Image> {
    first_frame(bytes).map_err(|e| Diagnostic::new(format!("damaged GIF file: {e}")).into())
}

/// The first frame on a canvas that is large enough for it. Around it is the colour that stands for transparency, or
/// the palette's first; transparent pixels keep their palette's colour. Without any palette, pixels are shades of grey.
fn first_frame(bytes: &[u8]) -> Result<Image> {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::Indexed);
    // The end of the image and of the file may be missing if the image is whole.
    let mut decoder = options.read_info(Cursor::new(with_palette(bytes)).chain(&b"\0;"[..]))?;
    let canvas = (decoder.width() as usize, decoder.height() as usize);
    check_canvas(canvas, bytes.len())?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let Some(frame) = decoder.read_next_frame()? else { bail!("it has no frame") };
    let Some(palette) = frame.palette.clone().or(global) else { bail!("it has no palette") };
    let (left, top, columns) = (frame.left as usize, frame.top as usize, frame.width as usize);
    let (width, height) = (canvas.0.max(left + columns), canvas.1.max(top + frame.height as usize));
    check_claim(width, height, bytes.len(), most_packed_pixels)?;
    let colour = |index: usize| palette.get(3 * index..3 * index + 3).map_or([0; 3], |c| [c[0], c[1], c[2]]);
    let mut data = colour(frame.transparent.unwrap_or(0) as usize).repeat(width * height);
    for (y, row) in frame.buffer.chunks_exact(columns.max(1)).enumerate() {
        for (x, &index) in row.iter().enumerate() {
            let at = 3 * ((top + y) * width + left + x);
            data[at..at + 3].copy_from_slice(&colour(index as usize));
        }
    }
    Ok(Image::new(width, height, 3, data))
}

/// Refuses a canvas that is too large; one without pixels grows with its frame.
fn check_canvas((width, height): (usize, usize), file: usize) -> Result<()> {
    check_claim(width.max(1), height.max(1), file, most_packed_pixels)
}

/// The file, with a palette of grey for frames that have none.
fn with_palette(bytes: &[u8]) -> Cow<'_, [u8]> {
    match bytes.get(FLAGS) {
        Some(flags) if flags & 0x80 == 0 && bytes.len() >= HEADER => {
            let mut changed = bytes[..HEADER].to_vec();
            changed[FLAGS] = flags | 0x87;
            changed.extend((0..=255).flat_map(|v| [v; 3]));
            changed.extend_from_slice(&bytes[HEADER..]);
            Cow::Owned(changed)
        }
        _ => Cow::Borrowed(bytes),
    }
}
