//! Blends of an image with a duller one, as Pillow's `ImageEnhance` makes them: 0 gives the duller
//! image, 1 the image itself, more than 1 moves further away.

use super::simd_dispatch::simd_dispatch;
use crate::data::image::Image;

/// Colourfulness: a blend with the grey image (Pillow's `ImageEnhance.Color`; torchvision's
/// saturation). Grey images stay.
pub fn color(image: &mut Image, factor: f64) {
    if image.channels == 3 {
        let n = image.width * 3;
        let mut grey = vec![0; n];
        for row in image.data.chunks_exact_mut(n.max(1)) {
            grey_row(row, &mut grey);
            blend(&grey, row, factor as f32);
        }
    }
}

/// A blend with the image's mean grey (Pillow's `ImageEnhance.Contrast`).
pub fn contrast(image: &mut Image, factor: f64) {
    let pixels = (image.width * image.height).max(1) as f64;
    let sum = match image.channels {
        3 => image.data.chunks(3 * SUMMED).map(grey_sum).sum::<u64>(),
        _ => image.data.iter().map(|v| u64::from(*v)).sum(),
    };
    blend_constant((sum as f64 / pixels + 0.5) as u8, &mut image.data, factor as f32);
}

/// A blend with black (Pillow's `ImageEnhance.Brightness`).
pub fn brightness(image: &mut Image, factor: f64) {
    blend_constant(0, &mut image.data, factor as f32);
}

/// A blend with the smoothed image (Pillow's `ImageEnhance.Sharpness`, `ImageFilter.SMOOTH`). The
/// outermost pixels stay.
pub fn sharpness(image: &mut Image, factor: f64) {
    let (n, c) = (image.width * image.channels, image.channels);
    if image.width < 3 || image.height < 3 {
        return;
    }
    let (mut smooth, mut columns) = (vec![0; n - 2 * c], vec![0; n]);
    // The row above as it was before it was sharpened.
    let mut above = image.row(0).to_vec();
    let mut old = vec![0; n];
    for y in 1..image.height - 1 {
        let (upper, lower) = image.data.split_at_mut((y + 1) * n);
        let row = &mut upper[y * n..];
        old.copy_from_slice(row);
        smooth_row([&above, &old, &lower[..n]], c, &mut columns, &mut smooth);
        blend(&smooth, &mut row[c..n - c], factor as f32);
        std::mem::swap(&mut above, &mut old);
    }
}

/// The grey image with as many channels as before (torchvision's `RandomGrayscale`).
pub fn grayscale(image: &mut Image) {
    if image.channels == 3 {
        let n = image.width * 3;
        let mut grey = vec![0; n];
        for row in image.data.chunks_exact_mut(n.max(1)) {
            grey_row(row, &mut grey);
            row.copy_from_slice(&grey);
        }
    }
}

/// The luminance of a pixel (Pillow's `convert("L")`: ITU-R 601-2 in 16-bit fixed point).
#[inline(always)]
pub fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

simd_dispatch! {
    /// Each pixel's luminance, three times.
    fn grey_row(row: &[u8], out: &mut [u8]) {
        for (p, o) in row.chunks_exact(3).zip(out.chunks_exact_mut(3)) {
            let v = luma(p[0], p[1], p[2]);
            o[0] = v;
            o[1] = v;
            o[2] = v;
        }
    }
}

/// Pixels whose luminances a 32-bit sum holds.
const SUMMED: usize = 1 << 16;

simd_dispatch! {
    /// The sum of the luminances of at most [`SUMMED`] pixels.
    fn grey_sum(data: &[u8]) -> u64 {
        u64::from(data.chunks_exact(3).map(|p| u32::from(luma(p[0], p[1], p[2]))).sum::<u32>())
    }
}

/// One value of Pillow's `Image.blend`: single precision, cut off to 0–255 and truncated.
#[inline(always)]
fn mixed(dull: u8, value: u8, factor: f32) -> u8 {
    let dull = i32::from(dull);
    let mixed = dull as f32 + factor * (i32::from(value) - dull) as f32;
    let mixed = if mixed > 0.0 { mixed } else { 0.0 };
    let mixed = if mixed < 255.0 { mixed } else { 255.0 };
    // SAFETY: a number between 0 and 255; NaN became 0.
    unsafe { mixed.to_int_unchecked::<i32>() as u8 }
}

simd_dispatch! {
    /// `values` blended with `dull`.
    fn blend(dull: &[u8], values: &mut [u8], factor: f32) {
        for (v, d) in values.iter_mut().zip(dull) {
            *v = mixed(*d, *v, factor);
        }
    }
}

simd_dispatch! {
    /// `values` blended with an image of one value.
    fn blend_constant(dull: u8, values: &mut [u8], factor: f32) {
        values.iter_mut().for_each(|v| *v = mixed(dull, *v, factor));
    }
}

simd_dispatch! {
    /// Means of 3 × 3 pixels, the middle one counted five times, for all but the first and last pixel.
    /// Pillow adds up thirteenths in floating point; no sum of integers comes so near to a half that
    /// its rounding shows.
    fn smooth_row(rows: [&[u8]; 3], channels: usize, columns: &mut [u16], out: &mut [u8]) {
        let [above, row, below] = rows;
        for (((sum, a), r), b) in columns.iter_mut().zip(above).zip(row).zip(below) {
            *sum = u16::from(*a) + u16::from(*r) + u16::from(*b);
        }
        let (left, middle, right) = (&columns[..], &columns[channels..], &columns[2 * channels..]);
        for ((((o, l), m), r), v) in out.iter_mut().zip(left).zip(middle).zip(right).zip(&row[channels..]) {
            let sum = l + m + r + 4 * u16::from(*v);
            // A thirteenth, rounded: exact for all sums.
            *o = ((u32::from(sum + 6) * 5042) >> 16) as u8;
        }
    }
}
