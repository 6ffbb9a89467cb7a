//! Rotation, shear and translation, value for value as Pillow's `Image.transform` (Geometry.c).
//!
//! Pillow interpolates in double precision and cuts the fraction off. Here the general case works in
//! single precision, four channels side by side, and repeats in double precision only what comes so
//! near to an integer that the two could differ.

use super::enhance::luma;
use super::wide::wide;
use crate::data::image::Image;
use std::ops::Range;

/// How values between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interpolation {
    /// The value of the pixel around the place.
    Nearest,
    /// Linear between 2 × 2 pixels.
    Bilinear,
    /// Cubic through 4 × 4 pixels, with Pillow's a = −1.
    Bicubic,
}

impl Interpolation {
    /// The names, as scripts write them.
    pub const NAMES: [&str; 3] = ["nearest", "bilinear", "bicubic"];

    /// The interpolation of the given name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Nearest, Self::Bilinear, Self::Bicubic];
        Self::NAMES.iter().position(|n| *n == name).map(|i| all[i])
    }
}

/// Turns counterclockwise around the centre (Pillow's `Image.rotate`); what comes from outside the
/// picture is `fill`.
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

/// Moves the picture to the left by `pixels` (timm's `translate_x_abs`; `translate_x_rel` takes a
/// fraction of the width).
pub fn translate_x(image: &Image, pixels: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
    affine(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0], fill, interpolation)
}

/// Moves the picture up by `pixels` (timm's `translate_y_abs`; `translate_y_rel` takes a fraction of
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

/// The picture whose pixel at (x, y) is found at (a x + b y + c, d x + e y + f) in `image`, with
/// pixel centres at halves (Pillow's `Image.transform` with `AFFINE`). The matrix is [a, b, c, d, e, f];
/// grey pictures are filled with the luminance of `fill`.
pub fn affine(image: &Image, matrix: [f64; 6], fill: [u8; 3], interpolation: Interpolation) -> Image {
    let (w, h, channels) = (image.width, image.height, image.channels);
    let fill = if channels == 3 { fill } else { [luma(fill[0], fill[1], fill[2]); 3] };
    let data: Vec<u8> = fill[..channels].iter().copied().cycle().take(image.data.len()).collect();
    let mut out = Image::new(w, h, channels, data);
    if w == 0 || h == 0 {
        return out;
    }
    if interpolation == Interpolation::Nearest {
        nearest(image, matrix, &mut out);
        return out;
    }
    let [a, _, c, d, e, f] = matrix;
    let source = Padded::new(image);
    let cubic = interpolation == Interpolation::Bicubic;
    for y in 0..h {
        let map = RowMap::new(matrix, y);
        let span = map.span(w, h);
        let row = &mut out.data[(y * w + span.start) * channels..(y * w + span.end) * channels];
        // Where a coordinate keeps to pixel centres, interpolation along it gives the pixels themselves.
        if d == 0.0 && e == 1.0 && f.fract() == 0.0 {
            along(&source, &map, span, false, cubic, row);
        } else if a == 1.0 && matrix[1] == 0.0 && c.fract() == 0.0 {
            along(&source, &map, span, true, cubic, row);
        } else if cubic {
            bicubic_row(&source, &map, span, row);
        } else {
            bilinear_row(&source, &map, span, row);
        }
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

    /// The place that pixel `x` comes from.
    #[inline(always)]
    fn at(&self, x: usize) -> (f64, f64) {
        let x = x as f64 + 0.5;
        (self.x[0] * x + self.x[1] + self.x[2], self.y[0] * x + self.y[1] + self.y[2])
    }

    /// Row and column of the pixel whose centre is before place `x`, and how far behind it that is.
    #[inline(always)]
    fn split(&self, x: usize) -> (i32, i32, f64, f64) {
        let (u, v) = self.at(x);
        let (ix, dx) = floor(u - 0.5);
        let (iy, dy) = floor(v - 0.5);
        (ix, iy, dx, dy)
    }

    /// The columns that come from inside a picture of the given size.
    fn span(&self, width: usize, height: usize) -> Range<usize> {
        let across = inside(self.x[0], |x| self.at(x).0, width, width);
        let down = inside(self.y[0], |x| self.at(x).1, width, height);
        let start = across.start.max(down.start);
        start..across.end.min(down.end).max(start)
    }
}

/// Where in 0..n the monotonous `place` is in [0, size).
fn inside(slope: f64, place: impl Fn(usize) -> f64, n: usize, size: usize) -> Range<usize> {
    let size = size as f64;
    let first = |holds: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0, n);
        while low < high {
            let middle = (low + high) / 2;
            if holds(place(middle)) { high = middle } else { low = middle + 1 }
        }
        low
    };
    if slope >= 0.0 { first(&|p| p >= 0.0)..first(&|p| p >= size) } else { first(&|p| p < size)..first(&|p| p < 0.0) }
}

/// The integer below and the rest.
#[inline(always)]
fn floor(v: f64) -> (i32, f64) {
    // SAFETY: places inside a picture are small numbers.
    let t: i32 = unsafe { v.to_int_unchecked() };
    let t = t - i32::from(f64::from(t) > v);
    (t, v - f64::from(t))
}

/// A picture of four channels whose border pixels are repeated [`BORDER`] times outwards: what Pillow
/// does at the edges needs no tests then.
struct Padded {
    /// Values in a row.
    pitch: usize,
    channels: usize,
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
        Self { pitch, channels: c, data }
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

wide! {
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

#[inline(always)]
fn zip<T: Copy, U>(a: Pixel<T>, b: Pixel<T>, f: impl Fn(T, T) -> U) -> Pixel<U> {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// The pixel `step` values after `index`, as integers.
#[inline(always)]
fn tap(source: &Padded, index: usize) -> Pixel<i32> {
    source.values::<4>(index).map(i32::from)
}

/// Writes a pixel's first channels.
#[inline(always)]
fn write(out: &mut [u8], pixel: Pixel<u8>) {
    match out {
        [r, g, b] => (*r, *g, *b) = (pixel[0], pixel[1], pixel[2]),
        _ => out[0] = pixel[0],
    }
}

/// Cut off to 0–255 and truncated.
#[inline(always)]
fn clip(v: f64) -> u8 {
    // SAFETY: a number between 0 and 255; `max` turns NaN into 0.
    unsafe { v.max(0.0).min(255.0).to_int_unchecked::<i32>() as u8 }
}

/// Pillow's cubic through four values, at `d` behind the second; exact up to the last three steps.
#[inline(always)]
fn cubic(v: [f64; 4], d: f64) -> f64 {
    let p2 = v[2] - v[0];
    let p3 = 2.0 * (v[0] - v[1]) + v[2] - v[3];
    let p4 = -v[0] + v[1] - v[2] + v[3];
    v[1] + d * (p2 + d * (p3 + d * p4))
}

wide! {
    /// A row interpolated along one direction: down the columns, or along the row.
    fn along(source: &Padded, map: &RowMap, span: Range<usize>, down: bool, cubic: bool, out: &mut [u8]) {
        let step = if down { source.pitch } else { 4 };
        for (x, out) in span.zip(out.chunks_exact_mut(source.channels)) {
            let (ix, iy, dx, dy) = map.split(x);
            let d = if down { dy } else { dx };
            let at = source.index(ix, iy);
            let [b, c] = [tap(source, at), tap(source, at + step)];
            let pixel: Pixel<u8> = if cubic {
                let [a, e] = [tap(source, at - step), tap(source, at + 2 * step)];
                // The polynomial's coefficients are integers.
                std::array::from_fn(|k| {
                    let p2 = c[k] - a[k];
                    let p3 = 2 * (a[k] - b[k]) + c[k] - e[k];
                    let p4 = b[k] - a[k] - c[k] + e[k];
                    clip(f64::from(b[k]) + d * (f64::from(p2) + d * (f64::from(p3) + d * f64::from(p4))))
                })
            } else {
                std::array::from_fn(|k| clip(f64::from(b[k]) + f64::from(c[k] - b[k]) * d))
            };
            write(out, pixel);
        }
    }
}

/// More than single precision can be wrong by: a few dozen roundings of numbers below 2^11.
const DOUBT: f32 = 2e-3;

/// Truncated to 8 bits, and whether that is beyond doubt for the first channels.
#[inline(always)]
fn truncate(v: Pixel<f32>) -> (Pixel<u8>, bool) {
    // All up to ½ and all from 255½ are beyond doubt.
    let v = v.map(|v| v.max(0.5).min(255.5));
    // SAFETY: numbers between 0 and 256.
    let whole = v.map(|v| unsafe { v.to_int_unchecked::<i32>() });
    let sure = zip(v, whole.map(|w| w as f32), |v, w| ((v - w) - 0.5).abs() < 0.5 - DOUBT);
    (whole.map(|w| w as u8), sure[0] & sure[1] & sure[2])
}

#[inline(always)]
fn cubic_pixels(v: [Pixel<f32>; 4], d: f32) -> Pixel<f32> {
    std::array::from_fn(|k| {
        let [a, b, c, e] = [v[0][k], v[1][k], v[2][k], v[3][k]];
        let p3 = 2.0 * (a - b) + c - e;
        let p4 = b - a - c + e;
        b + d * (c - a + d * (p3 + d * p4))
    })
}

wide! {
    fn bicubic_row(source: &Padded, map: &RowMap, span: Range<usize>, out: &mut [u8]) {
        for (x, out) in span.zip(out.chunks_exact_mut(source.channels)) {
            let (ix, iy, dx, dy) = map.split(x);
            let at = source.index(ix - 1, iy - 1);
            let line = |j: usize| {
                let v: &[u8; 16] = source.values(at + j * source.pitch);
                let taps = std::array::from_fn(|i| std::array::from_fn(|k| f32::from(v[4 * i + k])));
                cubic_pixels(taps, dx as f32)
            };
            let (pixel, sure) = truncate(cubic_pixels([line(0), line(1), line(2), line(3)], dy as f32));
            write(out, if sure { pixel } else { bicubic_exact(source, at, dx, dy) });
        }
    }
}

/// One pixel in double precision.
#[cold]
fn bicubic_exact(source: &Padded, at: usize, dx: f64, dy: f64) -> Pixel<u8> {
    let lines: [&[u8; 16]; 4] = std::array::from_fn(|j| source.values(at + j * source.pitch));
    // Between equal pixels there is nothing to compute; flat parts of pictures come here throughout.
    if lines.iter().all(|l| *l == lines[0] && l[..12] == l[4..]) {
        return [lines[0][0], lines[0][1], lines[0][2], 0];
    }
    std::array::from_fn(|k| clip(cubic(lines.map(|l| cubic(std::array::from_fn(|i| f64::from(l[4 * i + k])), dx)), dy)))
}

wide! {
    fn bilinear_row(source: &Padded, map: &RowMap, span: Range<usize>, out: &mut [u8]) {
        for (x, out) in span.zip(out.chunks_exact_mut(source.channels)) {
            let (ix, iy, dx, dy) = map.split(x);
            let at = source.index(ix, iy);
            let line = |j: usize| -> Pixel<f32> {
                let v: &[u8; 8] = source.values(at + j * source.pitch);
                std::array::from_fn(|k| f32::from(v[k]) + (f32::from(v[4 + k]) - f32::from(v[k])) * dx as f32)
            };
            let (pixel, sure) = truncate(zip(line(0), line(1), |a, b| a + (b - a) * dy as f32));
            write(out, if sure { pixel } else { bilinear_exact(source, at, dx, dy) });
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
/// binary places (which holds pictures of less than 32768 pixels a side).
fn nearest(image: &Image, [a, b, c, d, e, f]: [f64; 6], out: &mut Image) {
    let (w, h, n) = (image.width, image.height, image.channels);
    if b == 0.0 && d == 0.0 {
        let places = |start: f64, step: f64, count: usize, size: usize| {
            let sums = std::iter::successors(Some(start + step * 0.5), move |p| Some(p + step));
            sums.take(count).map(move |p| (p >= 0.0 && p < size as f64).then_some(p as usize)).collect::<Vec<_>>()
        };
        let columns = places(c, a, w, w);
        for (y, from) in places(f, e, h, h).into_iter().enumerate() {
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
