//! TIFF, by the `tiff` crate: the first image, turned as its orientation tag says, as Pillow does on loading.

use super::floats::{of_bytes, of_words};
use super::{
    Metadata, PIXEL_BYTES, check_claim, check_values, cmyk_to_rgb, most_packed_pixels, most_pixels, orientation, turned,
};
use crate::bail_hint;
use crate::data::image::Image;
use crate::error::{Context as _, Diagnostic, Error, Result, bail, ensure};
use image::metadata::Orientation;
use std::borrow::Cow;
use std::io::Cursor;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

/// The packet with what Adobe's programs write about an image.
const XMP: Tag = Tag::Unknown(700);
/// Interpretations: how the values mean a colour.
const PALETTE: u16 = 3;
const GREY: u16 = 1;
const REVERSED_GREY: u16 = 0;
const RGB: u16 = 2;
const CMYK: u16 = 5;
/// What a page is: neither smaller than the image nor a mask of it.
const NO_FURTHER_IMAGE: u32 = 1 | 4;

const AS_IT_IS: &str = "data::open(path, split, #{ mode: \"unchanged\" })";

type Reader<'a> = Decoder<Cursor<Cow<'a, [u8]>>>;

/// The whole image as RGB.
pub fn decode(bytes: &[u8]) -> Result<(Image, Metadata)> {
    let Prepared { mut reader, size, palette, turn } = prepared(bytes, |interpretation, _| interpretation == PALETTE)?;
    let is_narrowed = reader.colortype().is_ok_and(|colour| colour.bit_depth() > 8);
    let image = Image::new(size.0, size.1, 3, rgb(&mut reader, size, palette)?);
    Ok((in_place(image, turn), Metadata { is_narrowed, ..Metadata::default() }))
}

/// The whole image with all of its channels; a palette is looked up.
pub fn unchanged(bytes: &[u8]) -> Result<Image<f32>> {
    // As many channels as there are samples, whatever they mean. The crate turns grey round that counts from white.
    let as_samples = |interpretation, samples| interpretation != REVERSED_GREY || samples > 1;
    let Prepared { mut reader, size, palette, turn } = prepared(bytes, as_samples)?;
    let samples = number(&mut reader, Tag::SamplesPerPixel)?.unwrap_or(1).into();
    let channels = if palette.is_some() { 3 } else { samples };
    check_values(size.0, size.1, channels, bytes.len())?;
    let image = Image::new(size.0, size.1, channels, floats(&mut reader, size, samples, palette)?);
    while reader.more_images() {
        reader.next_image().map_err(fault)?;
        let kind = reader.find_tag_unsigned::<u32>(Tag::NewSubfileType).map_err(fault)?.unwrap_or(0);
        if kind & NO_FURTHER_IMAGE == 0 {
            bail_hint!(
                "a TIFF file of several pages, of which only one would be read";
                "write them as the channels (samples) of one page, or as files of their own"
            );
        }
    }
    Ok(in_place(image, turn))
}

fn in_place<T: Copy>(image: Image<T>, turn: Option<Orientation>) -> Image<T> {
    match turn {
        Some(turn) => turned(image, turn),
        None => image,
    }
}

/// A file whose directory was read.
struct Prepared<'a> {
    reader: Reader<'a>,
    size: (usize, usize),
    palette: Option<Vec<u16>>,
    turn: Option<Orientation>,
}

fn number(reader: &mut Reader<'_>, tag: Tag) -> Result<Option<u16>> {
    reader.find_tag_unsigned::<u16>(tag).map_err(fault)
}

/// `as_grey` tells, by its interpretation and the number of samples, of which image the samples are read as they are.
fn prepared(bytes: &[u8], as_grey: impl Fn(u16, u16) -> bool) -> Result<Prepared<'_>> {
    let mut reader = open(Cow::Borrowed(bytes))?;
    let (width, height) = reader.dimensions().map_err(fault)?;
    check_claim(width as usize, height as usize, bytes.len(), most_packed_pixels)?;
    let interpretation = number(&mut reader, Tag::PhotometricInterpretation)?;
    let samples = number(&mut reader, Tag::SamplesPerPixel)?.unwrap_or(1);
    let is_palette = interpretation == Some(PALETTE);
    let is_known = matches!(interpretation, Some(REVERSED_GREY | GREY | RGB | PALETTE | CMYK));
    let is_grey = is_known && interpretation.is_some_and(|interpretation| as_grey(interpretation, samples));
    let is_reversed = number(&mut reader, Tag::FillOrder)? == Some(2);
    if is_grey || is_reversed {
        // What the crate does not know, it need not know.
        let mut changed = bytes.to_vec();
        if is_reversed {
            reverse_bits(&mut reader, &mut changed)?;
        }
        if is_grey {
            let at = value_of(bytes, Tag::PhotometricInterpretation.to_u16()).context("a damaged TIFF directory")?;
            let grey = if bytes.starts_with(b"MM") { GREY.to_be_bytes() } else { GREY.to_le_bytes() };
            changed[at..at + 2].copy_from_slice(&grey);
        }
        reader = open(Cow::Owned(changed))?;
    }
    let palette = is_palette.then(|| reader.get_tag_u16_vec(Tag::ColorMap)).transpose().map_err(fault)?;
    let turn = match number(&mut reader, Tag::Orientation)? {
        Some(turn) => Orientation::from_exif(turn.min(255) as u8),
        None => orientation(None, reader.get_tag_u8_vec(XMP).ok().as_deref()),
    };
    Ok(Prepared { reader, size: (width as usize, height as usize), palette, turn })
}

/// All samples of the image, before it is turned.
fn floats(
    reader: &mut Reader<'_>,
    (width, height): (usize, usize),
    samples: usize,
    palette: Option<Vec<u16>>,
) -> Result<Vec<f32>> {
    let colour = reader.colortype().map_err(fault)?;
    let mut data = DecodingResult::U8(Vec::new());
    let layout = reader.read_image_to_buffer(&mut data).map_err(fault)?;
    let bits = colour.bit_depth();
    if let (DecodingResult::U8(packed), 1, Some(palette)) = (&data, samples, &palette) {
        let colours = palette.len() / 3;
        let part = |index: u8, c: usize| palette.get(c * colours + index as usize).copied().unwrap_or(0);
        let indices = unpacked(packed, width, bits);
        return Ok(of_words(indices.into_iter().flat_map(|i| [0, 1, 2].map(|c| part(i, c)))));
    }
    let known = matches!(colour, ColorType::Gray(_) | ColorType::Multiband { .. }) && palette.is_none();
    let (values, size) = match data {
        DecodingResult::U8(packed) if known && bits < 8 && samples == 1 => {
            let most = f32::from((1u8 << bits) - 1);
            (unpacked(&packed, width, bits).into_iter().map(|v| f32::from(v) / most).collect(), 1)
        }
        DecodingResult::U8(values) if known && bits == 8 => (of_bytes(&values), 1),
        DecodingResult::I8(values) if known => (values.iter().map(|v| f32::from(*v) / f32::from(i8::MAX)).collect(), 1),
        DecodingResult::U16(values) if known && bits == 16 => (of_words(values), 2),
        DecodingResult::I16(values) if known => {
            (values.iter().map(|v| f32::from(*v) / f32::from(i16::MAX)).collect(), 2)
        }
        DecodingResult::F16(values) if known => (values.into_iter().map(f32::from).collect(), 2),
        DecodingResult::F32(values) if known => (values, 4),
        _ => bail_hint!(
            "a TIFF file of an unsupported kind: its colours are {colour:?}, of values that float32 does not hold";
            "integers of 1 to 16 bits and floats of 16 or 32 bits are read, of grey, RGB, CMYK or many samples a pixel"
        ),
    };
    let values: Vec<f32> = values;
    let pixels = width * height;
    let plane = layout.plane_stride.map_or(0, |n| n.get()) / size;
    let is_planar = layout.planes > 1;
    let needed = if is_planar { plane * (samples - 1) + pixels } else { pixels * samples };
    ensure!(values.len() >= needed, "damaged TIFF file: {} values of {needed}", values.len());
    Ok(match is_planar {
        true => {
            (0..pixels).flat_map(|p| (0..samples).map(move |s| (p, s))).map(|(p, s)| values[s * plane + p]).collect()
        }
        false => values,
    })
}

fn open(bytes: Cow<'_, [u8]>) -> Result<Reader<'_>> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = most_pixels(bytes.len()) * PIXEL_BYTES;
    Ok(Decoder::new(Cursor::new(bytes)).map_err(fault)?.with_limits(limits))
}

fn fault(e: TiffError) -> Error {
    let words = match e {
        TiffError::UnsupportedError(e) => format!("a TIFF file of an unsupported kind: {e}"),
        e => format!("damaged TIFF file: {e}"),
    };
    Diagnostic::new(words).into()
}

/// Reverses the bits of every byte of the image, which begins at the lowest bit.
fn reverse_bits(reader: &mut Reader<'_>, bytes: &mut [u8]) -> Result<()> {
    let mut list = |tag| reader.find_tag_unsigned_vec::<u64>(tag).map_err(fault);
    let (offsets, sizes) = match list(Tag::StripOffsets)? {
        Some(offsets) => (offsets, list(Tag::StripByteCounts)?),
        None => (list(Tag::TileOffsets)?.unwrap_or_default(), list(Tag::TileByteCounts)?),
    };
    for (offset, size) in offsets.into_iter().zip(sizes.unwrap_or_default()) {
        let (start, end) = (offset as usize, offset.saturating_add(size) as usize);
        let Some(part) = bytes.get_mut(start..end) else { bail!("damaged TIFF file: it ends before its image") };
        part.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
    }
    Ok(())
}

/// Where the first directory has the value of a tag.
fn value_of(bytes: &[u8], tag: u16) -> Option<usize> {
    let is_big_endian = bytes.starts_with(b"MM");
    let number = |at: usize, n: usize| -> Option<usize> {
        let bytes = bytes.get(at..at + n)?;
        let join = |value: usize, byte: &u8| value << 8 | *byte as usize;
        Some(if is_big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
    };
    // BigTIFF has wider numbers.
    let (first, count, entry) = if number(2, 2)? == 43 { ((8, 8), 8, (20, 12)) } else { ((4, 4), 2, (12, 8)) };
    let at = number(first.0, first.1)?;
    let entries = (0..number(at, count)?).map(|i| at + count + entry.0 * i);
    let found = entries.take_while(|at| *at < bytes.len()).find(|at| number(*at, 2) == Some(tag as usize))?;
    number(found + entry.1, 2).map(|_| found + entry.1)
}

/// The image's pixels, before it is turned.
fn rgb(reader: &mut Reader<'_>, (width, height): (usize, usize), palette: Option<Vec<u16>>) -> Result<Vec<u8>> {
    let colour = reader.colortype().map_err(fault)?;
    let extra = reader.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(fault)?.unwrap_or_default();
    let mut data = DecodingResult::U8(Vec::new());
    let layout = reader.read_image_to_buffer(&mut data).map_err(fault)?;
    let (values, size) = match data {
        DecodingResult::U8(values) => (values, 1),
        // The upper byte of 16 bits.
        DecodingResult::U16(values) => (values.into_iter().map(|v| (v >> 8) as u8).collect(), 2),
        _ => bail_hint!(
            "a TIFF file of an unsupported kind: its values are neither bytes nor 16-bit whole numbers";
            "save it with 8 bits a channel, or read it as it is: {AS_IT_IS}"
        ),
    };
    let samples = colour.num_samples() as usize;
    let planes = layout.planes.max(1);
    let plane = layout.plane_stride.map_or(0, |n| n.get()) / size;
    let at = |pixel: usize, sample: usize| match planes {
        1 => values[pixel * samples + sample],
        _ => values[sample * plane + pixel],
    };
    let pixels = 0..width * height;
    let grey = |values: Vec<u8>| values.into_iter().flat_map(|v| [v, v, v]).collect();
    // The colours were multiplied by the alpha beside them.
    let is_associated = extra.first() == Some(&1);
    let divided = |value: u8, alpha: u8| match alpha {
        0 => 0,
        alpha => (value as u32 * 255 / alpha as u32).min(255) as u8,
    };
    Ok(match (colour, palette) {
        (ColorType::Gray(bits @ (1 | 2 | 4 | 8)), Some(palette)) => {
            let colours = 1 << bits;
            let part = |index: u8, c: usize| palette.get(c * colours + index as usize).map_or(0, |v| (v >> 8) as u8);
            unpacked(&values, width, bits).into_iter().flat_map(|i| [0, 1, 2].map(|c| part(i, c))).collect()
        }
        (ColorType::Gray(bits @ (1 | 2 | 4)), None) => {
            let scale = 255 / ((1 << bits) - 1);
            grey(unpacked(&values, width, bits).into_iter().map(|v| v * scale).collect())
        }
        (ColorType::Gray(8 | 16), None) => grey(pixels.map(|p| at(p, 0)).collect()),
        (ColorType::Multiband { bit_depth: 8 | 16, num_samples: 2 }, None) => {
            grey(pixels.map(|p| if is_associated { divided(at(p, 0), at(p, 1)) } else { at(p, 0) }).collect())
        }
        (ColorType::RGBA(8 | 16), None) if is_associated => {
            pixels.flat_map(|p| [0, 1, 2].map(|c| divided(at(p, c), at(p, 3)))).collect()
        }
        (ColorType::RGB(8 | 16) | ColorType::RGBA(8 | 16), None) => {
            pixels.flat_map(|p| [0, 1, 2].map(|c| at(p, c))).collect()
        }
        (ColorType::CMYK(8 | 16) | ColorType::CMYKA(8 | 16), None) => {
            cmyk_to_rgb(&pixels.flat_map(|p| [0, 1, 2, 3].map(|c| 255 - at(p, c))).collect::<Vec<u8>>())
        }
        (other, _) => bail_hint!(
            "a TIFF file of an unsupported kind: its colours are {other:?}";
            "save it as RGB, grey or with a palette, with 8 bits a channel, or read it as it is: {AS_IT_IS}"
        ),
    })
}

/// Values of 1, 2, 4 or 8 bits, whose rows begin at a byte.
fn unpacked(bytes: &[u8], width: usize, bits: u8) -> Vec<u8> {
    let (bits, mask) = (bits as usize, ((1u16 << bits) - 1) as u8);
    let row = (width * bits).div_ceil(8);
    let value = |row: &[u8], x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask;
    bytes.chunks_exact(row).flat_map(|row| (0..width).map(move |x| value(row, x))).collect()
}
