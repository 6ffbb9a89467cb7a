//! Grids of images.

use super::{PlotOptions, draw_to, png};
use crate::bail_hint;
use crate::error::{Result, ensure};
use crate::tensor::shape_text;
use image::{Rgb, RgbImage};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Pixels between images.
const GAP: u64 = 2;
/// The longest side of a picture, and its most pixels.
const MOST_SIDE: u64 = 1 << 16;
const MOST_PIXELS: u64 = 1 << 28;

/// Saves a batch of images [B, C, H, W] (C 1 or 3; uint8, or floats in `low..=high`) as one grid,
/// each pixel enlarged `zoom` times.
pub fn images(path: &Path, batch: &Tensor, columns: u64, zoom: u64, (low, high): (f64, f64)) -> Result<()> {
    let size = batch.size();
    if size.len() != 4 || ![1, 3].contains(&size[1]) || size[0] == 0 {
        bail_hint!(
            "expected images [B, 1 or 3, H, W], found {}", shape_text(batch);
            "choose what to show as red, green and blue, such as images.index_select(1, tensor([3, 2, 1])), or one channel: \
             images.narrow(1, 0, 1)"
        );
    }
    ensure!(columns >= 1 && (1..=32).contains(&zoom), "columns must be at least 1 and zoom 1 to 32");
    ensure!(high > low && (high - low).is_finite(), "expected finite low < high, found {low} and {high}");
    let (wide, tall) = {
        let [n, h, w] = [size[0], size[2], size[3]].map(i64::unsigned_abs);
        let columns = columns.min(n);
        let side =
            |images: u64, pixels: u64| images.saturating_mul(pixels.saturating_mul(zoom).saturating_add(GAP)) + GAP;
        (side(columns, w), side(n.div_ceil(columns), h))
    };
    ensure!(
        wide <= MOST_SIDE && tall <= MOST_SIDE && wide * tall <= MOST_PIXELS,
        "{} images of {} x {} pixels, enlarged {zoom} times, make a picture of {wide} x {tall} pixels, more than \
         {MOST_SIDE} a side or {MOST_PIXELS} in all: draw fewer, smaller, or in other columns",
        size[0],
        size[3],
        size[2]
    );
    let bytes = match batch.kind() {
        Kind::Uint8 => batch.shallow_clone(),
        _ => batch
            .f_to_kind(Kind::Float)?
            .f_sub_scalar(low)?
            .f_mul_scalar(255.0 / (high - low))?
            .f_round()?
            .f_clamp(0.0, 255.0)?
            .f_to_kind(Kind::Uint8)?,
    };
    let bytes = bytes.f_expand([size[0], 3, size[2], size[3]], false)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut pixels = vec![0u8; bytes.numel()];
    bytes.f_copy_data_u8(&mut pixels, bytes.numel())?;

    let [n, h, w] = [size[0], size[2], size[3]].map(|v| v as u32);
    let (columns, zoom, gap) = (columns.min(n.into()) as u32, zoom as u32, GAP as u32);
    let (cell_w, cell_h) = (w * zoom + gap, h * zoom + gap);
    let mut grid = RgbImage::from_pixel(wide as u32, tall as u32, Rgb([255; 3]));
    for i in 0..n {
        let (left, top) = (gap + i % columns * cell_w, gap + i / columns * cell_h);
        for y in 0..h * zoom {
            for x in 0..w * zoom {
                let at = |c: u32| pixels[(((i * 3 + c) * h + y / zoom) * w + x / zoom) as usize];
                grid.put_pixel(left + x, top + y, Rgb([at(0), at(1), at(2)]));
            }
        }
    }
    let size = PlotOptions { width: 100, height: 100, ..Default::default() };
    draw_to(path, &size, |_| png(&grid))
}
