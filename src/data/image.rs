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
        /// Rows, unless the height shrinks and is more than 100 times the width.
        Pillow12 = "pillow12",
    }
}

/// How an image is resized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resampling {
    /// The filter.
    pub interpolation: Interpolation,
    /// The order.
    pub passes: Passes,
    /// A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, if what is resized then still has so many times the sides
    /// of the result; at least 1.
    pub reducing_gap: Option<f64>,
}

impl Resampling {
    /// The reduction, 1, 2, 4 or 8, with which a JPEG may be decoded whose `from` (width, height) are resized to `to`.
    pub fn reduction(&self, from: (usize, usize), to: (usize, usize)) -> usize {
        let Some(gap) = self.reducing_gap else { return 1 };
        let fits = |by: usize| {
            let enough = |from: usize, to: usize| (from / by) as f64 >= gap * to as f64;
            enough(from.0, to.0) && enough(from.1, to.1)
        };
        [8, 4, 2].into_iter().find(|by| fits(*by)).unwrap_or(1)
    }
}

impl From<Interpolation> for Resampling {
    fn from(interpolation: Interpolation) -> Self {
        Self { interpolation, passes: Passes::Pillow13, reducing_gap: None }
    }
}

impl std::fmt::Display for Resampling {
    /// As transforms describe themselves: "bicubic", or "bicubic, pillow12, reducing_gap 2".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let passes = if self.passes == Passes::Pillow13 { "" } else { ", pillow12" };
        let gap = self.reducing_gap.map_or(String::new(), |gap| format!(", reducing_gap {gap}"));
        write!(f, "{}{passes}{gap}", format!("{:?}", self.interpolation).to_lowercase())
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
