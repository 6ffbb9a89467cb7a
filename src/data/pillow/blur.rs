//! Pillow's Gaussian blur: three box blurs in each direction, with boxes of fractional width
//! (P. Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering").

use super::simd_dispatch::simd_dispatch;
use crate::data::image::Image;

/// Pillow's number of box blurs.
const PASSES: usize = 3;

/// Blurs with a Gaussian of standard deviation `radius` pixels (Pillow's `ImageFilter.GaussianBlur`),
/// repeating the pixels at the border.
pub fn gaussian_blur(image: &mut Image, radius: f64) {
    let radius = box_radius(radius as f32);
    if radius == 0.0 || image.data.is_empty() {
        return;
    }
    // Weights of whole and of partly covered pixels, in 2^-24.
    let whole = ((1 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
    let reach = radius as usize;
    let part = ((1u32 << 24).wrapping_sub((reach as u32 * 2 + 1).wrapping_mul(whole))) / 2;
    let (n, c, height) = (image.width * image.channels, image.channels, image.height);
    let mut sums = vec![0u32; n];

    // Along the rows: a row between copies of its first and last pixels.
    let border = (reach + 1) * c;
    let mut line = vec![0u8; n + 2 * border];
    for row in image.data.chunks_exact_mut(n) {
        for _ in 0..PASSES {
            line[border..border + n].copy_from_slice(row);
            for i in 0..border {
                line[i] = row[i % c];
                line[border + n + i] = row[n - c + i % c];
            }
            sums.fill(0);
            for k in 1..2 * reach + 2 {
                add(&mut sums, &line[k * c..k * c + n]);
            }
            finish(&sums, &line[..n], &line[2 * border..], whole, part, row);
        }
    }

    // Across the rows: the sums of the column above each value move down.
    let mut source = image.data.clone();
    for _ in 0..PASSES {
        source.copy_from_slice(&image.data);
        let row = |y: isize| {
            let y = y.clamp(0, height as isize - 1) as usize;
            &source[y * n..(y + 1) * n]
        };
        let r = reach as isize;
        sums.fill(0);
        (-r - 1..r).for_each(|y| add(&mut sums, row(y)));
        for (y, out) in image.data.chunks_exact_mut(n).enumerate() {
            let y = y as isize;
            advance(&mut sums, row(y - r - 1), row(y + r));
            finish(&sums, row(y - r - 1), row(y + r + 1), whole, part, out);
        }
    }
}

/// Half the width of the box that, used three times, blurs as a Gaussian of `radius` does.
fn box_radius(radius: f32) -> f32 {
    let variance = radius * radius / PASSES as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    whole + part / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)))
}

simd_dispatch! {
    fn add(sums: &mut [u32], row: &[u8]) {
        sums.iter_mut().zip(row).for_each(|(s, v)| *s += u32::from(*v));
    }
}

simd_dispatch! {
    fn advance(sums: &mut [u32], leaving: &[u8], entering: &[u8]) {
        for ((s, l), e) in sums.iter_mut().zip(leaving).zip(entering) {
            *s = s.wrapping_add(u32::from(*e)).wrapping_sub(u32::from(*l));
        }
    }
}

simd_dispatch! {
    /// Rounded means of boxes: whole pixels and the parts of those at both ends.
    fn finish(sums: &[u32], before: &[u8], after: &[u8], whole: u32, part: u32, out: &mut [u8]) {
        for (((o, s), b), a) in out.iter_mut().zip(sums).zip(before).zip(after) {
            let ends = u32::from(*b) + u32::from(*a);
            *o = (s.wrapping_mul(whole).wrapping_add(ends.wrapping_mul(part)).wrapping_add(1 << 23) >> 24) as u8;
        }
    }
}
