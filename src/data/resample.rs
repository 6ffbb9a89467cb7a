//! Resizing as Pillow does it: the filter is widened by the scale when the picture gets smaller ("antialiased"), rows
//! before columns, 8 bits between the two.
//!
//! The filters' arithmetic is `fast_image_resize`'s; what is done here is to ask for no more pixels than a result needs.

use super::decode::{Part, Picture};
use super::image::{Image, Interpolation, Region};
use crate::error::Result;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use std::cell::RefCell;

/// Pixels that a filter reaches to each side, at scale 1.
fn support(by: Interpolation) -> f64 {
    match by {
        Interpolation::Nearest => 0.5,
        Interpolation::Bilinear => 1.0,
        Interpolation::Bicubic => 2.0,
    }
}

fn algorithm(by: Interpolation) -> ResizeAlg {
    match by {
        Interpolation::Nearest => ResizeAlg::Nearest,
        Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
    }
}

thread_local! {
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// A region of a picture, cut out and then resized to `width` × `height`: pixels outside the region do not count
/// (torchvision's `resized_crop`).
pub fn resized_crop(
    picture: Picture<'_>,
    region: Region,
    width: usize,
    height: usize,
    by: Interpolation,
) -> Result<Image> {
    let part = picture.part(region)?;
    Ok(resample(&part, region.width, region.height, None, width, height, by))
}

/// The whole picture resized to `width` × `height`, and of that the given region only. The same pixels as resizing
/// everything and cutting then, but only what the region needs is decoded and computed.
pub fn resize_then_crop(
    picture: Picture<'_>,
    width: usize,
    height: usize,
    crop: Region,
    by: Interpolation,
) -> Result<Image> {
    let (from_width, from_height) = picture.size();
    let x = Span::new(from_width, width, crop.left, crop.width, by);
    let y = Span::new(from_height, height, crop.top, crop.height, by);
    let region = Region { left: x.first, top: y.first, width: x.count, height: y.count };
    let part = picture.part(region)?;
    let view = (x.start, y.start, x.length, y.length);
    let out = resample(&part, region.width, region.height, Some(view), x.computed, y.computed, by);
    if (x.computed, y.computed) == (crop.width, crop.height) {
        return Ok(out);
    }
    Ok(out.crop(Region { left: x.skip, top: y.skip, width: crop.width, height: crop.height }))
}

/// One direction of a resize of which a part is wanted.
struct Span {
    /// First source pixel that is needed, and how many.
    first: usize,
    count: usize,
    /// Where the computed pixels begin in what is needed, in source pixels, and how far they go.
    start: f64,
    length: f64,
    /// Pixels computed, and those of them before the first that is wanted. Some more are computed than wanted, since
    /// the filter takes the ends of what it is given as the picture's.
    computed: usize,
    skip: usize,
}

impl Span {
    fn new(from: usize, to: usize, wanted: usize, count: usize, by: Interpolation) -> Self {
        let scale = from as f64 / to as f64;
        let reach = support(by) * scale.max(1.0) + 1.0;
        let margin = (reach / scale).ceil() as usize;
        let begin = wanted.saturating_sub(margin);
        let end = (wanted + count + margin).min(to);
        let (begin_at, end_at) = (begin as f64 * scale, (end as f64 * scale).min(from as f64));
        let first = (begin_at - reach).floor().max(0.0) as usize;
        let last = ((end_at + reach).ceil() as usize).min(from);
        Self {
            first,
            count: last - first,
            start: begin_at - first as f64,
            length: end_at - begin_at,
            computed: end - begin,
            skip: wanted - begin,
        }
    }
}

/// Resizes a part, or the box (left, top, width, height) of it, to `width` × `height`.
fn resample(
    part: &Part,
    part_width: usize,
    part_height: usize,
    view: Option<(f64, f64, f64, f64)>,
    width: usize,
    height: usize,
    by: Interpolation,
) -> Image {
    let mut options = ResizeOptions::new().resize_alg(algorithm(by));
    if let Some((left, top, w, h)) = view {
        options = options.crop(left, top, w, h);
    }
    let mut out = Image::new(width, height, part.image.channels, vec![0; width * height * part.image.channels]);
    match part.image.channels {
        1 => run::<U8>(part, part_width, part_height, &options, &mut out),
        _ => run::<U8x3>(part, part_width, part_height, &options, &mut out),
    }
    out
}

fn run<P: PixelTrait>(part: &Part, width: usize, height: usize, options: &ResizeOptions, out: &mut Image) {
    let image = &part.image;
    let source = TypedImageRef::<P>::from_buffer(image.width as u32, image.height as u32, &image.data)
        .expect("as many values as pixels");
    let source =
        TypedCroppedImage::new(source, part.left as u32, part.top as u32, width as u32, height as u32)
            .expect("the part holds its region");
    let mut target = TypedImage::<P>::from_buffer(out.width as u32, out.height as u32, &mut out.data)
        .expect("as many values as pixels");
    RESIZER.with_borrow_mut(|resizer| {
        resizer.resize_typed(&source, &mut target, options).expect("the box lies inside the region");
    });
}
