//! Operations that map every value by itself, as Pillow's `ImageOps` and timm's `auto_augment` do.

use super::simd_dispatch::simd_dispatch;
use crate::data::image::Image;

/// Stretches each channel so that its least value becomes 0 and its greatest 255 (Pillow's
/// `ImageOps.autocontrast` without cutoff). A channel of one value stays.
pub fn autocontrast(image: &mut Image) {
    let tables: Vec<_> = extremes(image).into_iter().map(|(low, high)| stretch(low, high)).collect();
    map_channels(image, &tables);
}

/// Flattens the histogram of each channel (Pillow's `ImageOps.equalize`).
pub fn equalize(image: &mut Image) {
    let tables: Vec<_> = histograms(image).iter().map(flatten).collect();
    map_channels(image, &tables);
}

/// 255 − value (Pillow's `ImageOps.invert`).
pub fn invert(image: &mut Image) {
    invert_values(&mut image.data);
}

/// Keeps the `bits` highest bits of each value (timm's `posterize`): 8 and more change nothing, 0
/// and less leave black.
pub fn posterize(image: &mut Image, bits: i32) {
    if bits < 8 {
        mask_values(&mut image.data, !(0xffu32 >> bits.max(0)) as u8);
    }
}

/// Inverts the values that are not below `threshold` (Pillow's `ImageOps.solarize`); 256 changes
/// nothing.
pub fn solarize(image: &mut Image, threshold: f64) {
    // A fractional threshold divides the integers as the next integer does.
    match threshold.ceil() {
        t if t > 255.0 => {}
        t => solarize_values(&mut image.data, t.max(0.0) as u8),
    }
}

/// Adds `add` to the values below `threshold`, up to 255 (timm's `solarize_add`, where the threshold
/// is 128).
pub fn solarize_add(image: &mut Image, add: u8, threshold: f64) {
    match threshold.ceil() {
        t if t > 255.0 => add_values(&mut image.data, add),
        t => add_below(&mut image.data, add, t.max(0.0) as u8),
    }
}

simd_dispatch! {
    fn invert_values(data: &mut [u8]) {
        data.iter_mut().for_each(|v| *v = !*v);
    }
}

simd_dispatch! {
    fn mask_values(data: &mut [u8], mask: u8) {
        data.iter_mut().for_each(|v| *v &= mask);
    }
}

simd_dispatch! {
    fn solarize_values(data: &mut [u8], threshold: u8) {
        data.iter_mut().for_each(|v| *v = if *v < threshold { *v } else { !*v });
    }
}

simd_dispatch! {
    fn add_values(data: &mut [u8], add: u8) {
        data.iter_mut().for_each(|v| *v = v.saturating_add(add));
    }
}

simd_dispatch! {
    fn add_below(data: &mut [u8], add: u8, threshold: u8) {
        data.iter_mut().for_each(|v| *v = if *v < threshold { v.saturating_add(add) } else { *v });
    }
}

/// The table of [`autocontrast`].
fn stretch(low: u8, high: u8) -> [u8; 256] {
    if high <= low {
        return std::array::from_fn(|v| v as u8);
    }
    let scale = 255.0 / (f64::from(high) - f64::from(low));
    let offset = -f64::from(low) * scale;
    std::array::from_fn(|v| (v as f64 * scale + offset) as u8)
}

/// The table of [`equalize`]: a running sum, in steps of a 255th of all but the greatest value's pixels.
fn flatten(histogram: &[u32; 256]) -> [u8; 256] {
    let pixels: u32 = histogram.iter().sum();
    let last = histogram.iter().rfind(|n| **n > 0).copied().unwrap_or(0);
    let step = (pixels - last) / 255;
    if step == 0 {
        return std::array::from_fn(|v| v as u8);
    }
    let mut sum = step / 2;
    histogram.map(|n| {
        let value = (sum / step).min(255) as u8;
        sum += n;
        value
    })
}

/// Replaces each value of channel c by its entry in table c.
fn map_channels(image: &mut Image, tables: &[[u8; 256]]) {
    match tables {
        [r, g, b] => image.data.chunks_exact_mut(3).for_each(|p| {
            p[0] = r[p[0] as usize];
            p[1] = g[p[1] as usize];
            p[2] = b[p[2] as usize];
        }),
        _ => map_values(&mut image.data, &tables[0]),
    }
}

/// Replaces each value by its entry in `table`.
fn map_values(data: &mut [u8], table: &[u8; 256]) {
    data.iter_mut().for_each(|v| *v = table[*v as usize]);
}

/// Least and greatest value of each channel.
fn extremes(image: &Image) -> Vec<(u8, u8)> {
    let (low, high) = block_extremes(&image.data);
    let of = |c: usize| {
        let lanes = (c..BLOCK).step_by(image.channels);
        lanes.fold((255, 0), |(l, h): (u8, u8), i| (l.min(low[i]), h.max(high[i])))
    };
    (0..image.channels).map(of).collect()
}

/// A multiple of 3 values and of a register's width, so that an index in a block has one channel.
const BLOCK: usize = 96;

simd_dispatch! {
    /// Least and greatest values of each index in a block.
    fn block_extremes(data: &[u8]) -> ([u8; BLOCK], [u8; BLOCK]) {
        let (mut low, mut high) = ([255u8; BLOCK], [0u8; BLOCK]);
        let mut blocks = data.chunks_exact(BLOCK);
        for block in &mut blocks {
            for i in 0..BLOCK {
                low[i] = low[i].min(block[i]);
                high[i] = high[i].max(block[i]);
            }
        }
        for (i, &v) in blocks.remainder().iter().enumerate() {
            low[i] = low[i].min(v);
            high[i] = high[i].max(v);
        }
        (low, high)
    }
}

/// How often each value occurs in each channel.
fn histograms(image: &Image) -> Vec<[u32; 256]> {
    // Neighbours are often equal: counting them in two tables keeps them from waiting for each other.
    let mut counts = vec![[[0u32; 256]; 2]; image.channels];
    match &mut counts[..] {
        [r, g, b] => {
            let pairs = image.data.chunks_exact(6);
            if let [x, y, z] = pairs.remainder() {
                r[0][*x as usize] += 1;
                g[0][*y as usize] += 1;
                b[0][*z as usize] += 1;
            }
            for p in pairs {
                r[0][p[0] as usize] += 1;
                g[0][p[1] as usize] += 1;
                b[0][p[2] as usize] += 1;
                r[1][p[3] as usize] += 1;
                g[1][p[4] as usize] += 1;
                b[1][p[5] as usize] += 1;
            }
        }
        other => image.data.iter().enumerate().for_each(|(i, v)| other[0][i % 2][*v as usize] += 1),
    }
    counts.iter().map(|[a, b]| std::array::from_fn(|v| a[v] + b[v])).collect()
}
