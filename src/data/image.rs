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
    /// What a file's image is read as.
    pub enum Mode {
        /// 8-bit red, green and blue.
        Rgb = "rgb",
        /// As it is: all channels at full precision, as floats.
        Unchanged = "unchanged",
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

/// Pixels, row by row, the channels of a pixel side by side: of 8 bits, or floats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image<T = u8> {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 (grey) or 3 (red, green, blue); of floats, any number.
    pub channels: usize,
    /// height × width × channels values.
    pub data: Vec<T>,
}

impl<T: Copy> Image<T> {
    /// An image of the given pixels.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<T>) -> Self {
        assert_eq!(data.len(), width * height * channels, "pixels of a {width} x {height} x {channels} image");
        Self { width, height, channels, data }
    }

    /// Row `y`.
    pub fn row(&self, y: usize) -> &[T] {
        let n = self.width * self.channels;
        &self.data[y * n..(y + 1) * n]
    }

    /// A region of it.
    pub fn crop(&self, region: Region) -> Self {
        let (at, n) = (region.left * self.channels, region.width * self.channels);
        let mut data = Vec::with_capacity(n * region.height);
        for y in region.top..region.top + region.height {
            data.extend_from_slice(&self.row(y)[at..at + n]);
        }
        Image::new(region.width, region.height, self.channels, data)
    }

    /// The values channel by channel.
    pub fn planar(&self) -> Vec<T> {
        (0..self.channels).flat_map(|c| self.data[c..].iter().step_by(self.channels).copied()).collect()
    }
}

/// An image of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyImage {
    /// Of 8 bits.
    Bytes(Image),
    /// Of floats.
    Floats(Image<f32>),
}

impl AnyImage {
    /// Channels, height and width.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            AnyImage::Bytes(image) => [image.channels, image.height, image.width],
            AnyImage::Floats(image) => [image.channels, image.height, image.width],
        }
    }
}
