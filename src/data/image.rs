//! An image in memory.

use crate::choices;

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// Rows above it.
    pub top: usize,
    /// Columns to its left.
    pub left: usize,
    /// Its rows.
    pub height: usize,
    /// Its columns.
    pub width: usize,
}

impl Region {
    /// Its pixels.
    pub fn area(&self) -> usize {
        self.height * self.width
    }
}

choices! {
    /// How values between pixels are found.
    pub enum Interpolation {
        /// The value of the pixel that contains the point.
        Nearest = "nearest",
        /// Linear between 2 × 2 pixels.
        Bilinear = "bilinear",
        /// Cubic through 4 × 4 pixels, with Pillow's a: −½ in resizing, −1 where pixels are moved.
        Bicubic = "bicubic",
    }
}

choices! {
    /// Which lines are resized first, rows or columns: between the two, values are rounded to 8 bits.
    pub enum Passes {
        /// Rows, unless the height shrinks by more than twice as many pixels as the width.
        Pillow13 = "pillow13",
        /// Rows.
        Pillow12 = "pillow12",
    }
}

/// How an image is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// The filter.
    pub interpolation: Interpolation,
    /// The order.
    pub passes: Passes,
}

impl From<Interpolation> for Resampling {
    fn from(interpolation: Interpolation) -> Self {
        Self { interpolation, passes: Passes::Pillow13 }
    }
}

impl std::fmt::Display for Resampling {
    /// As transforms describe themselves: "bicubic", or "bicubic, pillow12".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passes = if self.passes == Passes::Pillow13 { "" } else { ", pillow12" };
        write!(f, "{}{passes}", format!("{:?}", self.interpolation).to_lowercase())
    }
}

/// 8-bit pixels, row by row, the channels of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// height × width × channels values.
    pub data: Vec<u8>,
}

impl Image {
    /// An image of the given pixels.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), width * height * channels, "pixels of a {width} x {height} x {channels} image");
        Self { width, height, channels, data }
    }

    /// Row `y`.
    pub fn row(&self, y: usize) -> &[u8] {
        let n = self.width * self.channels;
        &self.data[y * n..(y + 1) * n]
    }

    /// A region of it.
    pub fn crop(&self, region: Region) -> Image {
        let (at, n) = (region.left * self.channels, region.width * self.channels);
        let mut data = Vec::with_capacity(n * region.height);
        for y in region.top..region.top + region.height {
            data.extend_from_slice(&self.row(y)[at..at + n]);
        }
        Image::new(region.width, region.height, self.channels, data)
    }

    /// Writes the values channel by channel into `out`, which has as many.
    pub fn write_planar(&self, out: &mut [u8]) {
        if self.channels == 1 {
            return out.copy_from_slice(&self.data);
        }
        let (red, rest) = out.split_at_mut(self.width * self.height);
        let (green, blue) = rest.split_at_mut(self.width * self.height);
        let pixels = self.data.as_chunks::<3>().0;
        for (((pixel, r), g), b) in pixels.iter().zip(red).zip(green).zip(blue) {
            [*r, *g, *b] = *pixel;
        }
    }
}
