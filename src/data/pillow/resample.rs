//! Resizing as Pillow does it: the filter is widened by the scale when the image gets smaller ("antialiased"), and what
//! lies between the passes over rows and columns is rounded to 8 bits (Pillow's Resample.c).
//!
//! `fast_image_resize` was tried first: it always resizes columns first and clips there, so that bicubic edges differ
//! from Pillow's by up to 20 of 255. Weights have 14 bits here, two of which the processor multiplies at once, and 22 in
//! Pillow: each pass differs by at most 1, so that results differ by at most 2. Where an image shrinks so much that weights
//! of 14 bits would round to 0, they have 22.

use super::simd_dispatch::simd_dispatch;
use crate::data::decode::{DecodedRegion, LazyImage};
use crate::data::image::{Image, Interpolation, Passes, Region, Resampling};
use crate::error::Result;

/// Bits after the point of a weight; a weight is less than 2.
const BITS: u32 = 14;
const HALF: i32 = 1 << (BITS - 1);

/// 1 as a weight of Pillow's.
const PILLOWS_ONE: f64 = (1 << 22) as f64;

/// A region of an image, cut out and then resized to `width` × `height`: pixels outside the region do not count
/// (torchvision's `resized_crop`).
pub fn resized_crop(
    image: LazyImage<'_>,
    region: Region,
    width: usize,
    height: usize,
    how: impl Into<Resampling>,
) -> Result<Image> {
    let how = how.into();
    let (image, by) = image.reduced(how.reduction((region.width, region.height), (width, height)));
    let across = Line::reduced(region.left, region.width, by);
    let down = Line::reduced(region.top, region.height, by);
    let rows_first = rows_first(how.passes, (across.pixels, down.pixels), (width, height));
    let region = Region { left: across.first, top: down.first, width: across.pixels, height: down.pixels };
    let part = image.decode_region(region)?;
    if across.shrinks_much(width) || down.shrinks_much(height) {
        let weights = |line: &Line, to: usize| Weights::new(line, to, 0..to, how.interpolation).in_22_bits();
        return Ok(resample_exactly(&part.crop(), &weights(&across, width), &weights(&down, height), rows_first));
    }
    let columns = Kernel::new(&across, width, 0..width, how.interpolation);
    let rows = Kernel::new(&down, height, 0..height, how.interpolation);
    Ok(resample(&part, &columns, &rows, rows_first))
}

/// [`resized_crop`] of an image of any kind.
pub fn resized(
    image: LazyImage<'_>,
    region: Region,
    width: usize,
    height: usize,
    how: impl Into<Resampling>,
) -> Result<LazyImage<'static>> {
    let how = how.into();
    match image {
        LazyImage::Floats(image) => {
            let columns = Weights::new(&Line::whole(region.width), width, 0..width, how.interpolation);
            let rows = Weights::new(&Line::whole(region.height), height, 0..height, how.interpolation);
            Ok(LazyImage::Floats(resample_floats(&image, region, &columns, &rows)))
        }
        image => Ok(LazyImage::Decoded(resized_crop(image, region, width, height, how)?)),
    }
}

/// The whole image resized to `width` × `height`, and of that the given region only: the pixels of resizing
/// everything and cutting then, but only what the region needs is decoded and computed.
pub fn resize_then_crop(
    image: LazyImage<'_>,
    width: usize,
    height: usize,
    crop: Region,
    how: impl Into<Resampling>,
) -> Result<Image> {
    let how = how.into();
    let (from_width, from_height) = image.size();
    if Line::whole(from_width).shrinks_much(width) || Line::whole(from_height).shrinks_much(height) {
        let all = Region { left: 0, top: 0, width: from_width, height: from_height };
        return Ok(resized_crop(image, all, width, height, how)?.crop(crop));
    }
    let (image, by) = image.reduced(how.reduction((from_width, from_height), (width, height)));
    let (across, down) = (Line::reduced(0, from_width, by), Line::reduced(0, from_height, by));
    let mut columns = Kernel::new(&across, width, crop.left..crop.left + crop.width, how.interpolation);
    let mut rows = Kernel::new(&down, height, crop.top..crop.top + crop.height, how.interpolation);
    let rows_first = rows_first(how.passes, (across.pixels, down.pixels), (width, height));
    let (left, width) = columns.narrow();
    let (top, height) = rows.narrow();
    Ok(resample(&image.decode_region(Region { left, top, width, height })?, &columns, &rows, rows_first))
}

/// Whether rows are resized before columns.
fn rows_first(passes: Passes, (width, height): (usize, usize), (to_width, to_height): (usize, usize)) -> bool {
    let shrinks = |from: usize, to: usize| from as i64 - to as i64;
    let (across, down) = (shrinks(width, to_width), shrinks(height, to_height));
    match passes {
        // Image.resize of Pillow 12 turns to columns first where an image is very tall.
        Passes::Pillow12 => !(height > 100 * width && down > 0),
        Passes::Pillow13 => !(down > 0 && down > 2 * across),
    }
}

/// A line of pixels, or the part of it that is resized: from `start` on, `length` long.
struct Line {
    /// The place of its first pixel in the image.
    first: usize,
    pixels: usize,
    /// In pixels from the first one; less than 1.
    start: f64,
    length: f64,
}

impl Line {
    /// All of the pixels.
    fn whole(pixels: usize) -> Self {
        Self::reduced(0, pixels, 1)
    }

    /// `pixels` of an image from `first` on, in one that is smaller `by` so much.
    fn reduced(first: usize, pixels: usize, by: usize) -> Self {
        let (from, end) = (first / by, (first + pixels).div_ceil(by));
        let part = |n: usize| n as f64 / by as f64;
        Self { first: from, pixels: end - from, start: part(first) - from as f64, length: part(pixels) }
    }

    /// Whether weights of 14 bits would be too coarse for a line of `to` pixels: most are below 64 of 16384 then.
    fn shrinks_much(&self, to: usize) -> bool {
        self.length > 256.0 * to as f64
    }
}

/// What each pixel of a resized line is made of: source pixels and their weights, whose sum is 1.
struct Weights {
    /// The first source pixel of each.
    first: Vec<usize>,
    /// The end of each one's weights in `values`.
    ends: Vec<usize>,
    values: Vec<f64>,
}

impl Weights {
    /// The pixels `wanted` of a line resized to `to`.
    fn new(line: &Line, to: usize, wanted: std::ops::Range<usize>, by: Interpolation) -> Self {
        let (from, scale) = (line.pixels, line.length / to as f64);
        let mut weights = Self { first: Vec::with_capacity(wanted.len()), ends: Vec::new(), values: Vec::new() };
        let (support, filter): (f64, fn(f64) -> f64) = match by {
            Interpolation::Nearest => {
                // Added up as Pillow does it, which decides where a point lies on the border of two pixels.
                let points = std::iter::successors(Some(line.start + scale * 0.5), |at| Some(at + scale));
                let pixels = points.map(|at| (at as usize).min(from - 1));
                weights.first.extend(pixels.skip(wanted.start).take(wanted.len()));
                weights.ends = (1..=weights.first.len()).collect();
                weights.values = vec![1.0; weights.first.len()];
                return weights;
            }
            Interpolation::Bilinear => (1.0, triangle),
            Interpolation::Bicubic => (2.0, cubic),
        };
        let widened = scale.max(1.0);
        let support = support * widened;
        for x in wanted {
            let center = line.start + (x as f64 + 0.5) * scale;
            // As C does it: cut towards zero.
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let start = weights.values.len();
            weights.values.extend((first..end).map(|i| filter((i as f64 - center + 0.5) / widened)));
            let sum: f64 = weights.values[start..].iter().sum();
            weights.values[start..].iter_mut().for_each(|weight| *weight /= sum);
            weights.first.push(first);
            weights.ends.push(weights.values.len());
        }
        weights
    }

    /// Pillow's integers for bytes: multiples of 2⁻²² in units of that.
    fn in_22_bits(mut self) -> Self {
        self.values.iter_mut().for_each(|weight| *weight = (*weight * PILLOWS_ONE).round());
        self
    }

    /// The first source pixel of each pixel, and the weights from there on.
    fn iter(&self) -> impl Iterator<Item = (usize, &[f64])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        self.first.iter().zip(starts.zip(&self.ends)).map(|(first, (start, end))| (*first, &self.values[start..*end]))
    }
}

/// What each pixel of a resized line of bytes is made of.
struct Kernel {
    /// The first source pixel of each.
    first: Vec<usize>,
    /// Source pixels of each; an even number.
    taps: usize,
    /// `taps` weights for each; unused ones are 0.
    weights: Vec<i16>,
    /// Source pixels that the line has.
    length: usize,
}

impl Kernel {
    /// The pixels `wanted` of a line resized to `to`.
    fn new(line: &Line, to: usize, wanted: std::ops::Range<usize>, by: Interpolation) -> Self {
        let exact = Weights::new(line, to, wanted, by);
        let taps = exact.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1).next_multiple_of(2);
        let mut weights = vec![0; exact.first.len() * taps];
        for ((_, line), out) in exact.iter().zip(weights.chunks_exact_mut(taps)) {
            // A plain area stays what it is: rounding must not change the sum.
            let (mut left, mut largest) = (1 << BITS, 0);
            for (k, weight) in line.iter().enumerate() {
                out[k] = (weight * (1 << BITS) as f64).round() as i16;
                left -= out[k] as i32;
                if out[k] > out[largest] {
                    largest = k;
                }
            }
            out[largest] += left as i16;
        }
        Self { first: exact.first, taps, weights, length: line.pixels }
    }

    /// Row `y` of a result of whose columns these are the kernels, from rows that begin `pitch` bytes apart.
    fn blend(&self, y: usize, rows: &[u8], pitch: usize, out: &mut [u8]) {
        let taps = self.taps.min(self.length - self.first[y]);
        blend_rows(&rows[self.first[y] * pitch..], pitch, &self.weights[y * self.taps..][..taps], out);
    }

    /// Leaves out source pixels that nothing is made of: (those before the first needed one, those needed).
    fn narrow(&mut self) -> (usize, usize) {
        let start = self.first.iter().copied().min().unwrap_or(0);
        let used = |i: usize| {
            let weights = &self.weights[i * self.taps..(i + 1) * self.taps];
            self.first[i] + weights.iter().rposition(|w| *w != 0).map_or(1, |last| last + 1)
        };
        let end = (0..self.first.len()).map(used).max().unwrap_or(self.length);
        self.first.iter_mut().for_each(|first| *first -= start);
        self.length = end - start;
        (start, self.length)
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Catmull and Rom's cubic, a = −½.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn resample(part: &DecodedRegion, columns: &Kernel, rows: &Kernel, rows_first: bool) -> Image {
    let channels = part.image.channels;
    let (width, height) = (columns.first.len(), rows.first.len());
    let pitch = part.image.width * channels;
    let source = &part.image.data[part.region.top * pitch + part.region.left * channels..];
    let mut out = Image::new(width, height, channels, vec![0; width * height * channels]);
    let line = width * channels;
    if rows_first {
        let between = resize_rows(source, pitch, rows.length, columns, channels);
        for (y, out) in out.data.chunks_exact_mut(line.max(1)).enumerate() {
            rows.blend(y, &between, line, out);
        }
    } else {
        let long = columns.length * channels;
        let mut between = vec![0; long * height];
        for (y, out) in between.chunks_exact_mut(long).enumerate() {
            rows.blend(y, source, pitch, out);
        }
        out.data = resize_rows(&between, long, height, columns, channels);
        out.data.truncate(line * height);
    }
    out
}

/// [`resample`] with weights [`Weights::in_22_bits`], slowly.
fn resample_exactly(image: &Image, columns: &Weights, rows: &Weights, rows_first: bool) -> Image {
    match rows_first {
        true => blend_down(&blend_across(image, columns), rows),
        false => blend_across(&blend_down(image, rows), columns),
    }
}

fn blend_across(image: &Image, columns: &Weights) -> Image {
    let (c, width) = (image.channels, columns.first.len());
    let mut data = Vec::with_capacity(width * image.height * c);
    for row in (0..image.height).map(|y| image.row(y)) {
        for (first, weights) in columns.iter() {
            data.extend((0..c).map(|channel| blend(row[first * c + channel..].iter().step_by(c), weights)));
        }
    }
    Image::new(width, image.height, c, data)
}

fn blend_down(image: &Image, rows: &Weights) -> Image {
    let (line, height) = (image.width * image.channels, rows.first.len());
    let mut data = Vec::with_capacity(line * height);
    for (first, weights) in rows.iter() {
        data.extend((0..line).map(|i| blend(image.data[first * line + i..].iter().step_by(line), weights)));
    }
    Image::new(image.width, height, image.channels, data)
}

/// Sums of whole numbers, exact in f64.
fn blend<'a>(values: impl Iterator<Item = &'a u8>, weights: &[f64]) -> u8 {
    let sum: f64 = values.zip(weights).map(|(value, weight)| f64::from(*value) * weight).sum();
    (sum / PILLOWS_ONE + 0.5).floor().clamp(0.0, 255.0) as u8
}

/// Columns first and then rows, with float32 between them as Pillow has it for its mode F. The order makes no difference
/// beyond rounding, and values outside the image's own range, which bicubic gives at edges, stay.
fn resample_floats(image: &Image<f32>, region: Region, columns: &Weights, rows: &Weights) -> Image<f32> {
    let (c, width, height) = (image.channels, columns.first.len(), rows.first.len());
    let line = width * c;
    let mut sums = vec![0.0f64; line];
    let mut between = Vec::with_capacity(region.height * line);
    for y in region.top..region.top + region.height {
        let row = &image.row(y)[region.left * c..];
        sums.fill(0.0);
        for ((first, weights), sums) in columns.iter().zip(sums.chunks_exact_mut(c)) {
            for (pixel, weight) in row[first * c..].chunks_exact(c).zip(weights) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value) * weight);
            }
        }
        between.extend(sums.iter().map(|sum| *sum as f32));
    }
    let mut data = Vec::with_capacity(height * line);
    for (first, weights) in rows.iter() {
        sums.fill(0.0);
        for (row, weight) in between[first * line..].chunks_exact(line).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value) * weight);
        }
        data.extend(sums.iter().map(|sum| *sum as f32));
    }
    Image::new(width, height, c, data)
}

/// The first `count` rows of an image, `pitch` bytes apart, resized; with a byte of room behind the last.
fn resize_rows(source: &[u8], pitch: usize, count: usize, columns: &Kernel, channels: usize) -> Vec<u8> {
    let line = columns.first.len() * channels;
    let mut out = vec![0u8; line * count + 1];
    // How far a row is read, some bytes behind its end: behind every row but the last lies another one.
    let reach = (columns.length + columns.taps) * channels + 8;
    let whole = (0..count).take_while(|y| source.len() - y * pitch >= reach).count();
    let wide = wide_rows(source, pitch, whole, columns, channels, &mut out);
    let mut last = Vec::new();
    for y in wide..count {
        let mut row = &source[y * pitch..];
        if row.len() < reach {
            last.clear();
            last.extend_from_slice(&row[..columns.length * channels]);
            last.resize(reach, 0);
            row = &last;
        }
        resize_row(row, columns, channels, &mut out[y * line..(y + 1) * line]);
    }
    out
}

/// Resizes as many of the first `count` rows as there is a faster way for, and says how many.
fn wide_rows(source: &[u8], pitch: usize, count: usize, columns: &Kernel, channels: usize, out: &mut [u8]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if channels == 3 && std::is_x86_feature_detected!("avx2") {
        for pair in 0..count / 2 {
            let rows = &source[2 * pair * pitch..];
            let line = columns.first.len() * 3;
            // SAFETY: the processor has AVX2.
            unsafe { resize_two_rows_avx2(rows, pitch, columns, &mut out[2 * pair * line..]) };
        }
        return count / 2 * 2;
    }
    let _ = (source, pitch, columns, channels, out);
    0
}

/// One row.
fn resize_row(source: &[u8], columns: &Kernel, channels: usize, out: &mut [u8]) {
    let kernels = columns.first.iter().zip(columns.weights.chunks_exact(columns.taps));
    for ((first, weights), out) in kernels.zip(out.chunks_exact_mut(channels)) {
        for (c, out) in out.iter_mut().enumerate() {
            let values = source[first * channels + c..].iter().step_by(channels);
            let sum: i32 = values.zip(weights).map(|(v, w)| *v as i32 * *w as i32).sum();
            *out = ((sum + HALF) >> BITS).clamp(0, 255) as u8;
        }
    }
}

/// Two rows of three channels, `pitch` bytes apart, two source pixels of each at a time. `source` reaches at least
/// 8 bytes beyond what the kernels touch in the second row; `out` has the two rows and a byte more, which may be
/// written to.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn resize_two_rows_avx2(source: &[u8], pitch: usize, columns: &Kernel, out: &mut [u8]) {
    use std::arch::x86_64::*;
    // Six bytes r g b r g b become the 16-bit pairs r r, g g, b b.
    let pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    let (taps, line) = (columns.taps, columns.first.len() * 3);
    let reach = pitch + columns.first.iter().max().map_or(0, |first| (first + taps) * 3 + 2);
    assert!(source.len() >= reach && out.len() > 2 * line && taps.is_multiple_of(2));
    let half = _mm256_set1_epi32(HALF);
    for (x, first) in columns.first.iter().enumerate() {
        // SAFETY: reads of 8 bytes at first + 2 i end at most 2 bytes behind the taps, and writes of 4 bytes one byte
        // behind the pixel: both were checked above.
        unsafe {
            let from = source.as_ptr().add(first * 3);
            let weights = columns.weights.as_ptr().add(x * taps).cast::<i32>();
            let mut sum = half;
            for i in 0..taps / 2 {
                let upper = _mm_loadl_epi64(from.add(6 * i).cast());
                let lower = _mm_loadl_epi64(from.add(pitch + 6 * i).cast());
                let pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(upper), lower, 1);
                let weights = _mm256_set1_epi32(weights.add(i).read_unaligned());
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, pairs), weights));
            }
            let sum = _mm256_srai_epi32(sum, BITS as i32);
            let words = _mm256_packs_epi32(sum, sum);
            let bytes = _mm256_packus_epi16(words, words);
            let out = out.as_mut_ptr().add(x * 3);
            let upper = _mm256_castsi256_si128(bytes);
            let lower = _mm256_extracti128_si256(bytes, 1);
            // The first row's last pixel must not write into the second row, whose first pixel is written already.
            let upper = _mm_cvtsi128_si32(upper).to_le_bytes();
            out.cast::<[u8; 3]>().write_unaligned([upper[0], upper[1], upper[2]]);
            out.add(line).cast::<i32>().write_unaligned(_mm_cvtsi128_si32(lower));
        }
    }
}

simd_dispatch! {
    /// A row of the result from rows that begin `pitch` bytes apart.
    fn blend_rows(rows: &[u8], pitch: usize, weights: &[i16], out: &mut [u8]) {
        const CHUNK: usize = 64;
        let (chunks, rest) = out.as_chunks_mut::<CHUNK>();
        for (i, out) in chunks.iter_mut().enumerate() {
            let mut sums = [HALF; CHUNK];
            for (k, &weight) in weights.iter().enumerate() {
                let row: &[u8; CHUNK] = rows[k * pitch + i * CHUNK..][..CHUNK].try_into().expect("as long");
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += *value as i32 * weight as i32;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = (sum >> BITS).clamp(0, 255) as u8;
            }
        }
        let at = chunks.len() * CHUNK;
        for (i, out) in rest.iter_mut().enumerate() {
            let values = weights.iter().enumerate().map(|(k, w)| rows[k * pitch + at + i] as i32 * *w as i32);
            *out = ((values.sum::<i32>() + HALF) >> BITS).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;
    use rand::Rng;

    fn noise(width: usize, height: usize, channels: usize, seed: u64) -> Image {
        let mut rng = Key::new(seed).rng();
        Image::new(width, height, channels, (0..width * height * channels).map(|_| rng.random()).collect())
    }

    fn transposed(image: &Image) -> Image {
        let (w, h, c) = (image.width, image.height, image.channels);
        let value = |i: usize| image.data[((i / c % h) * w + i / c / h) * c + i % c];
        Image::new(h, w, c, (0..w * h * c).map(value).collect())
    }

    /// Pillow's arithmetic, slowly: weights of 22 bits, 8 bits between the passes.
    fn slowly(image: &Image, width: usize, height: usize, by: Interpolation) -> Image {
        let (across, down) = (image.width as i64 - width as i64, image.height as i64 - height as i64);
        match down > 0 && down > 2 * across {
            true => transposed(&rows_then_columns(&transposed(image), height, width, by)),
            false => rows_then_columns(image, width, height, by),
        }
    }

    fn rows_then_columns(image: &Image, width: usize, height: usize, by: Interpolation) -> Image {
        let (support, filter): (f64, fn(f64) -> f64) = match by {
            Interpolation::Bilinear => (1.0, triangle),
            _ => (2.0, cubic),
        };
        let line = |from: usize, to: usize, x: usize| -> Vec<(usize, i64)> {
            let scale = from as f64 / to as f64;
            let (center, wide) = ((x as f64 + 0.5) * scale, scale.max(1.0));
            let first = (center - support * wide + 0.5).max(0.0) as usize;
            let end = ((center + support * wide + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end).map(|i| filter((i as f64 - center + 0.5) / wide)).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter().enumerate().map(|(i, w)| (first + i, (w / sum * (1 << 22) as f64).round() as i64)).collect()
        };
        let c = image.channels;
        let clip = |v: i64| ((v + (1 << 21)) >> 22).clamp(0, 255) as u8;
        let mut between = Image::new(width, image.height, c, vec![0; width * image.height * c]);
        for y in 0..image.height {
            for x in 0..width {
                for k in 0..c {
                    let taps = line(image.width, width, x);
                    let sum = taps.iter().map(|(i, w)| w * image.data[(y * image.width + i) * c + k] as i64).sum();
                    between.data[(y * width + x) * c + k] = clip(sum);
                }
            }
        }
        let mut out = Image::new(width, height, c, vec![0; width * height * c]);
        for y in 0..height {
            for i in 0..width * c {
                let taps = line(image.height, height, y);
                out.data[y * width * c + i] =
                    clip(taps.iter().map(|(r, w)| w * between.data[r * width * c + i] as i64).sum());
            }
        }
        out
    }

    fn whole(image: &Image) -> (LazyImage<'static>, Region) {
        let region = Region { left: 0, top: 0, width: image.width, height: image.height };
        (LazyImage::Decoded(image.clone()), region)
    }

    #[test]
    fn resizing_noise_differs_from_pillows_arithmetic_by_at_most_one() {
        for (from, to) in
            [((31, 17), (12, 20)), ((5, 9), (33, 2)), ((64, 3), (64, 40)), ((1, 1), (7, 5)), ((200, 90), (3, 3))]
        {
            for channels in [1, 3] {
                for by in [Interpolation::Bilinear, Interpolation::Bicubic] {
                    let image = noise(from.0, from.1, channels, 7);
                    let (lazy, region) = whole(&image);
                    let found = resized_crop(lazy, region, to.0, to.1, by).unwrap();
                    let expected = slowly(&image, to.0, to.1, by);
                    let most = found.data.iter().zip(&expected.data).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                    assert!(most <= 1, "{from:?} -> {to:?} {channels} {by:?}: {most}");
                }
            }
        }
    }

    fn most(image: &Image, expected: &[u8]) -> u8 {
        assert_eq!(image.data.len(), expected.len());
        image.data.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    /// Pillow 12.3's `resize((5, 120), BICUBIC)`: its first rows, which differ by up to 12 where rows come first.
    #[test]
    fn very_tall_images_are_resized_as_by_pillow_12() {
        let image = Image::new(2, 205, 1, (0..410).map(|i| if i * i / 7 % 4 >= 2 { 255 } else { 0 }).collect());
        let how = |passes| Resampling { interpolation: Interpolation::Bicubic, passes, reducing_gap: None };
        let (lazy, region) = whole(&image);
        let found = resized_crop(lazy, region, 5, 120, how(Passes::Pillow12)).unwrap();
        #[rustfmt::skip]
        let expected = [
            3, 3, 2, 0, 0, 135, 147, 177, 206, 218, 17, 50, 136, 221, 254,
            138, 118, 66, 13, 0, 0, 0, 0, 0, 0, 141, 148, 168, 187, 194,
        ];
        let top = found.crop(Region { left: 0, top: 0, width: 5, height: 6 });
        assert!(most(&top, &expected) <= 2, "{top:?}");
        // A hundred times as tall as wide, and no more.
        assert!(rows_first(Passes::Pillow12, (2, 200), (5, 120)) && !rows_first(Passes::Pillow12, (2, 201), (5, 120)));
        assert!(rows_first(Passes::Pillow12, (2, 201), (5, 201)));
    }

    /// What Pillow 12.3 makes of 70,000 x 2 pixels, and of 2 x 70,000: exactly.
    #[test]
    fn thousands_of_pixels_become_one_as_by_pillow() {
        let row = (0..70000usize).map(|x| (x * x / 977 % 256) as u8);
        let values: Vec<u8> = row.chain((0..30000usize).map(|x| x as u8)).chain([0; 40000]).collect();
        let wide = Image::new(70000, 2, 1, values);
        let tall = transposed(&wide);
        for (by, of_wide, of_tall) in [
            (
                Interpolation::Bilinear,
                [127, 127, 127, 127, 127, 108, 65, 64, 127, 88, 3, 0],
                [127, 127, 127, 127, 108, 88, 127, 65, 3, 127, 64, 0],
            ),
            (
                Interpolation::Bicubic,
                [127, 130, 136, 135, 130, 110, 64, 64, 132, 89, 0, 0],
                [127, 130, 132, 130, 110, 89, 136, 64, 0, 135, 64, 0],
            ),
            (
                Interpolation::Nearest,
                [28, 4, 210, 135, 46, 138, 0, 0, 46, 138, 0, 0],
                [28, 46, 46, 4, 138, 138, 210, 0, 0, 135, 0, 0],
            ),
        ] {
            for (image, (width, height), expected) in [(&wide, (4, 3), of_wide), (&tall, (3, 4), of_tall)] {
                let (lazy, region) = whole(image);
                let found = resized_crop(lazy, region, width, height, by).unwrap();
                assert_eq!(found.data, expected, "{by:?} to {width} x {height}");
                let crop = Region { left: 1, top: 2, width: 2, height: 1 };
                let (lazy, _) = whole(image);
                assert_eq!(resize_then_crop(lazy, width, height, crop, by).unwrap(), found.crop(crop));
            }
        }
    }

    #[test]
    fn resizing_and_cutting_at_once_equals_one_after_the_other() {
        let mut rng = Key::new(3).rng();
        for by in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            for _ in 0..60 {
                let image = noise(rng.random_range(1..70), rng.random_range(1..70), 3, rng.random());
                let (width, height) = (rng.random_range(1..90), rng.random_range(1..90));
                let (left, top) = (rng.random_range(0..width), rng.random_range(0..height));
                let crop = Region {
                    left,
                    top,
                    width: rng.random_range(1..=width - left),
                    height: rng.random_range(1..=height - top),
                };
                let (lazy, region) = whole(&image);
                let expected = resized_crop(lazy, region, width, height, by).unwrap().crop(crop);
                let found = resize_then_crop(LazyImage::Decoded(image.clone()), width, height, crop, by).unwrap();
                assert_eq!(found, expected, "{width} x {height}, {crop:?}, {by:?}");
            }
        }
    }

    #[test]
    fn a_plain_picture_stays_plain() {
        let image = Image::new(50, 40, 3, vec![201; 50 * 40 * 3]);
        for by in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            let (lazy, region) = whole(&image);
            let found = resized_crop(lazy, region, 23, 61, by).unwrap();
            assert!(found.data.iter().all(|v| *v == 201), "{by:?}");
        }
    }
}
