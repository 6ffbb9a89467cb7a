//! A picture in memory.

use super::decode::Region;

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
    /// A picture of the given pixels.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Self {
        assert_eq!(data.len(), width * height * channels, "pixels of a {width} x {height} x {channels} picture");
        Self { width, height, channels, data }
    }

    /// Row `y`.
    pub fn row(&self, y: usize) -> &[u8] {
        let n = self.width * self.channels;
        &self.data[y * n..(y + 1) * n]
    }

    /// A part of it.
    pub fn crop(&self, region: Region) -> Image {
        let (at, n) = (region.left * self.channels, region.width * self.channels);
        let mut data = Vec::with_capacity(n * region.height);
        for y in region.top..region.top + region.height {
            data.extend_from_slice(&self.row(y)[at..at + n]);
        }
        Image::new(region.width, region.height, self.channels, data)
    }
}
