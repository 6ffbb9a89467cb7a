//! Rotation, shear and translation, value for value as Pillow's `Image.transform` (Geometry.c).
//!
//! Pillow interpolates in double precision and cuts the fraction off. Here the general case works in
//! single precision, four channels side by side, and repeats in double precision only what comes so
//! near to an integer that the two could differ.

use super::enhance::luma;
use super::simd_dispatch::simd_dispatch;
use crate::data::image::{Image, Interpolation};
use std::ops::Range;

/// Turns counterclockwise around the centre (Pillow's `Image.rotate`); what comes from outside the
/// image is `fill`.
pub fn rotate(image: &Image, degrees: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
    let angle = degrees.rem_euclid(360.0);
    let square = image.width == image.height;
    match angle {
        0.0 => return image.clone(),
        180.0 => return turned(image, |x, y, w, h| (w - 1 - x, h - 1 - y)),
        90.0 if square => return turned(image, |x, y, w, _| (w - 1 - y, x)),
        270.0 if square => return turned(image, |x, y, _, h| (y, h - 1 - x)),
        _ => {}
    }
    let radians = -angle.to_radians();
    let (sin, cos) = (to_15_decimals(radians.sin()), to_15_decimals(radians.cos()));
    let (cx, cy) = (image.width as f64 / 2.0, image.height as f64 / 2.0);
    let matrix = [cos, sin, cos * -cx + sin * -cy + cx, -sin, cos, -sin * -cx + cos * -cy + cy];
    affine(image, matrix, fill, interpolation)
}

/// Shifts each row by `factor` times its height below the top edge, to the left (timm's `shear_x`).
pub fn shear_x(image: &Image, factor: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
    affine(image, [1.0, factor, 0.0, 0.0, 1.0, 0.0], fill, interpolation)
}

/// Shifts each column by `factor` times its distance from the left edge, up (timm's `shear_y`).
pub fn shear_y(image: &Image, factor: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
    affine(image, [1.0, 0.0, 0.0, factor, 1.0, 0.0], fill, interpolation)
}

/// Moves the image to the left by `pixels` (timm's `translate_x_abs`; `translate_x_rel` takes a
/// fraction of the width).
pub fn translate_x(image: &Image, pixels: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
    affine(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0], fill, interpolation)
}

/// Moves the image up by `pixels` (timm's `translate_y_abs`; `translate_y_rel` takes a fraction of
/// the height).
pub fn translate_y(image: &Image, pixels: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
    affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels], fill, interpolation)
}

/// Pillow rounds the matrix of a rotation, so that right angles have whole numbers.
fn to_15_decimals(x: f64) -> f64 {
    format!("{x:.15}").parse().expect("a number")
}

/// The pixels in another order: `from` gives the column and row of a pixel's source.
fn turned(image: &Image, from: impl Fn(usize, usize, usize, usize) -> (usize, usize)) -> Image {
    let (w, h, c) = (image.width, image.height, image.channels);
    let mut data = Vec::with_capacity(image.data.len());
    for y in 0..h {
        for x in 0..w {
            let (x, y) = from(x, y, w, h);
            data.extend_from_slice(&image.data[(y * w + x) * c..][..c]);
        }
    }
    Image::new(w, h, c, data)
}

/// The image whose pixel at (x, y) is found at (a x + b y + c, d x + e y + f) in `image`, with
/// pixel centres at halves (Pillow's `Image.transform` with `AFFINE`). The matrix is [a, b, c, d, e, f];
/// grey images are filled with the luminance of `fill`.
pub fn affine(image: &Image, matrix: [f64; 6], fill: [u8; 3], interpolation: Interpolation) -> Image {
    let (w, h, channels) = (image.width, image.height, image.channels);
    let fill = if channels == 3 { fill } else { [luma(fill[0], fill[1], fill[2]); 3] };
    let mut out = Image::new(w, h, channels, fill[..channels].repeat(w * h));
    if w == 0 || h == 0 {
        return out;
    }
    if interpolation == Interpolation::Nearest {
        nearest(image, matrix, &mut out);
        return out;
    }
    let [a, b, c, d, e, f] = matrix;
    // If a coordinate keeps to pixel centres, interpolation along it gives the pixels themselves.
    // The cubic in double precision pays where single precision would often leave doubts: at coordinates
    // like halves and quarters.
    let cubic = interpolation == Interpolation::Bicubic;
    let simple = !cubic || (b == 0.0 && d == 0.0 && (c * 16.0).fract() == 0.0 && (f * 16.0).fract() == 0.0);
    let level = simple && d == 0.0 && e == 1.0 && f.fract() == 0.0;
    let upright = simple && a == 1.0 && b == 0.0 && c.fract() == 0.0;
    let source = Padded::new(image);
    let mut line = Line::new(w);
    for y in 0..h {
        let map = RowMap::new(matrix, y);
        let span = map.span(w, h);
        let pixels = &mut line.pixels[span.clone()];
        match (level || upright, cubic) {
            (true, true) => cubic_along(&source, &map, span.start, !level, pixels),
            (true, false) => linear_along(&source, &map, span.start, !level, pixels),
            _ => line.interpolate(&source, &map, span.clone(), cubic),
        }
        let row = (y * w + span.start) * channels..(y * w + span.end) * channels;
        narrow_row(&line.pixels[span], channels, &mut out.data[row]);
    }
    out
}

/// Where the pixels of one row come from.
#[derive(Clone, Copy)]
struct RowMap {
    /// By column: what x + ½ is multiplied with, and what is added, in this order.
    x: [f64; 3],
    y: [f64; 3],
}

impl RowMap {
    fn new([a, b, c, d, e, f]: [f64; 6], y: usize) -> Self {
        let y = y as f64 + 0.5;
        Self { x: [a, b * y, c], y: [d, e * y, f] }
    }

    /// The point that pixel `x` comes from.
    #[inline(always)]
    fn at(&self, x: usize) -> (f64, f64) {
        // Signed: the conversion of signed numbers is one instruction.
        let x = f64::from(x as i32) + 0.5;
        (self.x[0] * x + self.x[1] + self.x[2], self.y[0] * x + self.y[1] + self.y[2])
    }

    /// Row and column of the pixel whose centre is before the point that `x` comes from, and how far behind it that is.
    #[inline(always)]
    fn split(&self, x: usize) -> (i32, i32, f64, f64) {
        let (u, v) = self.at(x);
        let (ix, dx) = floor(u - 0.5);
        let (iy, dy) = floor(v - 0.5);
        (ix, iy, dx, dy)
    }

    /// The columns that come from inside an image of the given size.
    fn span(&self, width: usize, height: usize) -> Range<usize> {
        let across = inside(self.x[0], |x| self.at(x).0, width, width);
        let down = inside(self.y[0], |x| self.at(x).1, width, height);
        let start = across.start.max(down.start);
        start..across.end.min(down.end).max(start)
    }
}

/// Where in 0..n the monotonous `coordinate` is in [0, size).
fn inside(slope: f64, coordinate: impl Fn(usize) -> f64, n: usize, size: usize) -> Range<usize> {
    let size = size as f64;
    let first = |holds: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0, n);
        while low < high {
            let middle = (low + high) / 2;
            if holds(coordinate(middle)) { high = middle } else { low = middle + 1 }
        }
        low
    };
    if slope >= 0.0 { first(&|p| p >= 0.0)..first(&|p| p >= size) } else { first(&|p| p < size)..first(&|p| p < 0.0) }
}

/// The integer below and the rest.
#[inline(always)]
fn floor(v: f64) -> (i32, f64) {
    // SAFETY: coordinates inside an image are small numbers.
    let t: i32 = unsafe { v.to_int_unchecked() };
    let t = t - i32::from(f64::from(t) > v);
    (t, v - f64::from(t))
}

/// An image of four channels whose border pixels are repeated [`BORDER`] times outwards: what Pillow
/// does at the edges needs no tests then.
struct Padded {
    /// Values in a row.
    pitch: usize,
    data: Vec<u8>,
}

const BORDER: usize = 2;

impl Padded {
    fn new(image: &Image) -> Self {
        let (w, h, c) = (image.width, image.height, image.channels);
        let pitch = 4 * (w + 2 * BORDER);
        let mut data = vec![0; pitch * (h + 2 * BORDER)];
        for (y, out) in data.chunks_exact_mut(pitch).enumerate().skip(BORDER).take(h) {
            expand_row(image.row(y - BORDER), c, &mut out[4 * BORDER..]);
            for x in 0..BORDER {
                out.copy_within(4 * BORDER..4 * BORDER + 4, 4 * x);
                out.copy_within(pitch - 4 * BORDER - 4..pitch - 4 * BORDER, pitch - 4 * (x + 1));
            }
        }
        for y in 0..BORDER {
            data.copy_within(BORDER * pitch..(BORDER + 1) * pitch, y * pitch);
            data.copy_within((BORDER + h - 1) * pitch..(BORDER + h) * pitch, (BORDER + h + y) * pitch);
        }
        Self { pitch, data }
    }

    /// Where the pixel at column `x`, row `y` begins; both may be outside by [`BORDER`].
    #[inline(always)]
    fn index(&self, x: i32, y: i32) -> usize {
        (y + BORDER as i32) as usize * self.pitch + (x + BORDER as i32) as usize * 4
    }

    /// `N` values from `index` on.
    #[inline(always)]
    fn values<const N: usize>(&self, index: usize) -> &[u8; N] {
        self.data[index..index + N].try_into().expect("a slice of this length")
    }
}

simd_dispatch! {
    fn expand_row(row: &[u8], channels: usize, out: &mut [u8]) {
        if channels == 3 {
            for (p, o) in row.chunks_exact(3).zip(out.chunks_exact_mut(4)) {
                o.copy_from_slice(&[p[0], p[1], p[2], 0]);
            }
        } else {
            for (p, o) in row.iter().zip(out.chunks_exact_mut(4)) {
                o[0] = *p;
            }
        }
    }
}

/// A number for each channel.
type Pixel<T> = [T; 4];

/// The pixel `step` values after `index`, as integers.
#[inline(always)]
fn tap(source: &Padded, index: usize) -> Pixel<i32> {
    source.values::<4>(index).map(i32::from)
}

simd_dispatch! {
    /// The channels that the image has.
    fn narrow_row(row: &[Pixel<u8>], channels: usize, out: &mut [u8]) {
        if channels == 3 {
            out.as_chunks_mut::<3>().0.iter_mut().zip(row).for_each(|(o, p)| *o = [p[0], p[1], p[2]]);
        } else {
            out.iter_mut().zip(row).for_each(|(o, p)| *o = p[0]);
        }
    }
}

/// Cut off to 0–255 and truncated.
#[inline(always)]
fn clip(v: f64) -> u8 {
    let v = if v > 0.0 { v } else { 0.0 };
    let v = if v < 255.0 { v } else { 255.0 };
    // SAFETY: a number between 0 and 255; NaN became 0.
    unsafe { v.to_int_unchecked::<i32>() as u8 }
}

/// Pillow's cubic through four values, at `d` behind the second; exact up to the last three steps.
#[inline(always)]
fn cubic(v: [f64; 4], d: f64) -> f64 {
    let p2 = v[2] - v[0];
    let p3 = 2.0 * (v[0] - v[1]) + v[2] - v[3];
    let p4 = -v[0] + v[1] - v[2] + v[3];
    v[1] + d * (p2 + d * (p3 + d * p4))
}

simd_dispatch! {
    /// A row interpolated along one direction: down the columns, or along the row. The polynomial's
    /// coefficients are integers, so that Pillow's double precision costs little.
    fn cubic_along(source: &Padded, map: &RowMap, start: usize, down: bool, out: &mut [Pixel<u8>]) {
        let step = if down { source.pitch } else { 4 };
        for (i, out) in out.iter_mut().enumerate() {
            let (ix, iy, dx, dy) = map.split(start + i);
            let d = if down { dy } else { dx };
            let at = source.index(ix, iy);
            let [a, b] = [tap(source, at - step), tap(source, at)];
            let [c, e] = [tap(source, at + step), tap(source, at + 2 * step)];
            for k in 0..4 {
                let p2 = c[k] - a[k];
                let p3 = 2 * (a[k] - b[k]) + c[k] - e[k];
                let p4 = b[k] - a[k] - c[k] + e[k];
                out[k] = clip(f64::from(b[k]) + d * (f64::from(p2) + d * (f64::from(p3) + d * f64::from(p4))));
            }
        }
    }
}

simd_dispatch! {
    /// Linear interpolation along rows, or along columns with `down`.
    fn linear_along(source: &Padded, map: &RowMap, start: usize, down: bool, out: &mut [Pixel<u8>]) {
        let step = if down { source.pitch } else { 4 };
        for (i, out) in out.iter_mut().enumerate() {
            let (ix, iy, dx, dy) = map.split(start + i);
            let d = if down { dy } else { dx };
            let at = source.index(ix, iy);
            let (a, b) = (tap(source, at), tap(source, at + step));
            for k in 0..4 {
                out[k] = clip(f64::from(a[k]) + f64::from(b[k] - a[k]) * d);
            }
        }
    }
}

/// More than single precision can be wrong by: a few dozen roundings of numbers below 2^11.
const DOUBT: f32 = 2e-3;

/// A row in the making, step by step for all its pixels: each step keeps wide registers busy.
struct Line {
    /// Where each pixel's neighbour above and to the left begins, and how far behind it the point is.
    at: Vec<u32>,
    dx: Vec<f32>,
    dy: Vec<f32>,
    values: Vec<Pixel<f32>>,
    pixels: Vec<Pixel<u8>>,
    /// Not 0 where single precision does not settle the result.
    doubt: Vec<Pixel<u8>>,
}

impl Line {
    fn new(n: usize) -> Self {
        let (values, pixels) = (vec![[0.0; 4]; n], vec![[0; 4]; n]);
        Self { at: vec![0; n], dx: vec![0.0; n], dy: vec![0.0; n], values, doubt: pixels.clone(), pixels }
    }

    /// Fills `pixels` in the span.
    fn interpolate(&mut self, source: &Padded, map: &RowMap, span: Range<usize>, cubic: bool) {
        let at = &mut self.at[span.clone()];
        let (dx, dy) = (&mut self.dx[span.clone()], &mut self.dy[span.clone()]);
        sources(map, span.start, source.pitch as u32, at, dx, dy);
        let values = &mut self.values[span.clone()];
        if cubic {
            bicubic(source, at, dx, dy, values)
        } else {
            bilinear(source, at, dx, dy, values)
        }
        let (pixels, doubt) = (&mut self.pixels[span.clone()], &mut self.doubt[span.clone()]);
        truncate(values.as_flattened(), pixels.as_flattened_mut(), doubt.as_flattened_mut());
        for (i, doubt) in doubt.iter().enumerate() {
            if *doubt != [0; 4] {
                let (_, _, dx, dy) = map.split(span.start + i);
                let at = at[i] as usize;
                pixels[i] = if cubic { bicubic_exact(source, at, dx, dy) } else { bilinear_exact(source, at, dx, dy) };
            }
        }
    }
}

simd_dispatch! {
    fn sources(map: &RowMap, start: usize, pitch: u32, at: &mut [u32], dx: &mut [f32], dy: &mut [f32]) {
        for (i, ((at, dx), dy)) in at.iter_mut().zip(dx).zip(dy).enumerate() {
            let (x, y, u, v) = map.split((start as i32 + i as i32) as usize);
            *at = (y + BORDER as i32) as u32 * pitch + (x + BORDER as i32) as u32 * 4;
            *dx = u as f32;
            *dy = v as f32;
        }
    }
}

simd_dispatch! {
    /// Values truncated to 8 bits.
    fn truncate(values: &[f32], out: &mut [u8], doubt: &mut [u8]) {
        for ((v, out), doubt) in values.iter().zip(out).zip(doubt) {
            // All up to ½ and all from 255½ are certain.
            let v = if *v > 0.5 { *v } else { 0.5 };
            let v = if v < 255.5 { v } else { 255.5 };
            // SAFETY: a number between 0 and 256.
            let whole: i32 = unsafe { v.to_int_unchecked() };
            *out = whole as u8;
            *doubt = u8::from(((v - whole as f32) - 0.5).abs() > 0.5 - DOUBT);
        }
    }
}

/// What Pillow's cubic at `d` gives to each of four values.
#[inline(always)]
fn cubic_weights(d: f32) -> [f32; 4] {
    [((2.0 - d) * d - 1.0) * d, (d - 2.0) * d * d + 1.0, ((1.0 - d) * d + 1.0) * d, (d - 1.0) * d * d]
}

simd_dispatch! {
    fn bicubic(source: &Padded, at: &[u32], dx: &[f32], dy: &[f32], out: &mut [Pixel<f32>]) {
        for (((out, at), dx), dy) in out.iter_mut().zip(at).zip(dx).zip(dy) {
            let at = *at as usize - source.pitch - 4;
            // Down the columns first, with all channels of four pixels side by side.
            let weights = cubic_weights(*dy);
            let lines: [&[u8; 16]; 4] = [
                source.values(at),
                source.values(at + source.pitch),
                source.values(at + 2 * source.pitch),
                source.values(at + 3 * source.pitch),
            ];
            let mut down = [0.0f32; 16];
            for (k, v) in down.iter_mut().enumerate() {
                *v = weights[0] * f32::from(lines[0][k])
                    + weights[1] * f32::from(lines[1][k])
                    + weights[2] * f32::from(lines[2][k])
                    + weights[3] * f32::from(lines[3][k]);
            }
            let weights = cubic_weights(*dx);
            for (k, v) in out.iter_mut().enumerate() {
                *v = weights[0] * down[k] + weights[1] * down[4 + k] + weights[2] * down[8 + k] + weights[3] * down[12 + k];
            }
        }
    }
}

/// One pixel in double precision.
#[cold]
fn bicubic_exact(source: &Padded, at: usize, dx: f64, dy: f64) -> Pixel<u8> {
    let at = at - source.pitch - 4;
    let lines: [&[u8; 16]; 4] = std::array::from_fn(|j| source.values(at + j * source.pitch));
    // Between equal pixels there is nothing to compute; flat parts of images come here throughout.
    if lines.iter().all(|l| *l == lines[0] && l[..12] == l[4..]) {
        return [lines[0][0], lines[0][1], lines[0][2], 0];
    }
    std::array::from_fn(|k| clip(cubic(lines.map(|l| cubic(std::array::from_fn(|i| f64::from(l[4 * i + k])), dx)), dy)))
}

simd_dispatch! {
    fn bilinear(source: &Padded, at: &[u32], dx: &[f32], dy: &[f32], out: &mut [Pixel<f32>]) {
        for (((out, at), dx), dy) in out.iter_mut().zip(at).zip(dx).zip(dy) {
            let at = *at as usize;
            let lines: [&[u8; 8]; 2] = [source.values(at), source.values(at + source.pitch)];
            let mut down = [0.0f32; 8];
            for (k, v) in down.iter_mut().enumerate() {
                let (a, b) = (f32::from(lines[0][k]), f32::from(lines[1][k]));
                *v = a + (b - a) * dy;
            }
            for (k, v) in out.iter_mut().enumerate() {
                *v = down[k] + (down[4 + k] - down[k]) * dx;
            }
        }
    }
}

/// One pixel in double precision.
#[cold]
fn bilinear_exact(source: &Padded, at: usize, dx: f64, dy: f64) -> Pixel<u8> {
    let lines: [&[u8; 8]; 2] = [source.values(at), source.values(at + source.pitch)];
    std::array::from_fn(|k| {
        let [a, b] = lines.map(|l| f64::from(l[k]) + (f64::from(l[4 + k]) - f64::from(l[k])) * dx);
        clip(a + (b - a) * dy)
    })
}

/// Pillow's nearest neighbours: running sums for translations and scalings, else fixed point with 16
/// binary digits (which holds images of less than 32768 pixels a side).
fn nearest(image: &Image, [a, b, c, d, e, f]: [f64; 6], out: &mut Image) {
    let (w, h, n) = (image.width, image.height, image.channels);
    if b == 0.0 && d == 0.0 {
        let sources = |start: f64, step: f64, count: usize, size: usize| {
            let sums = std::iter::successors(Some(start + step * 0.5), move |p| Some(p + step));
            sums.take(count).map(move |p| (p >= 0.0 && p < size as f64).then_some(p as usize)).collect::<Vec<_>>()
        };
        let columns = sources(c, a, w, w);
        for (y, from) in sources(f, e, h, h).into_iter().enumerate() {
            let Some(from) = from else { continue };
            for (x, column) in columns.iter().enumerate() {
                if let Some(column) = column {
                    out.data[(y * w + x) * n..][..n].copy_from_slice(&image.row(from)[column * n..][..n]);
                }
            }
        }
        return;
    }
    let fixed = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
    let (dx, dy) = (fixed(a), fixed(d));
    let (x0, y0) = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    let (down_x, down_y) = (fixed(b), fixed(e));
    for (y, row) in out.data.chunks_exact_mut(w * n).enumerate() {
        let (mut u, mut v) = (x0 + y as i64 * down_x, y0 + y as i64 * down_y);
        for pixel in row.chunks_exact_mut(n) {
            let (i, j) = (u >> 16, v >> 16);
            if (0..w as i64).contains(&i) && (0..h as i64).contains(&j) {
                pixel.copy_from_slice(&image.row(j as usize)[i as usize * n..][..n]);
            }
            u += dx;
            v += dy;
        }
    }
}
