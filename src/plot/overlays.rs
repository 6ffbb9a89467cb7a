//! Maps over the patches of an image, drawn on the image.

use super::{PlotOptions, draw_to, fonts, on_pixels, shorten};
use crate::error::{Result, ensure};
use crate::options;
use crate::tensor::shape_text;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::colors::colormaps::ViridisRGB;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;
use tch::{Device, Kind, Tensor};

options! {
    /// How to draw maps on an image.
    pub struct OverlaysOptions {
        /// Title above the picture.
        title: String = String::new(),
        /// A line below the title.
        subtitle: String = String::new(),
        /// Panels per row; 0 means up to 4.
        columns: u64 = 0,
        /// Pixels of a panel's longer side.
        size: u64 = 256,
        /// Opacity of the map's colour over the image, 0 to 1.
        alpha: f64 = 0.6,
        /// Value drawn as black, for float images.
        low: f64 = 0.0,
        /// Value drawn as white, for float images.
        high: f64 = 1.0,
    }
}

/// One map over the image's patches, or the image alone.
pub struct Overlay {
    /// What it shows.
    pub title: String,
    /// Values [rows, columns]; `None` draws the image alone.
    pub map: Option<Tensor>,
    /// Contrast: the colour stands for ((value - least) / (greatest - least))^gamma.
    pub gamma: f64,
    /// Patches with a frame around them.
    pub frames: Vec<Frame>,
    /// Rows and columns of patches, if there is no map.
    pub grid: Option<(usize, usize)>,
}

/// A patch that is marked.
pub struct Frame {
    /// Its row, from the top.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// What it is; each name has a colour, in the legend.
    pub name: String,
}

const MARGIN: i32 = 16;
const LINE: i32 = 20;
/// Between an image and its colour bar, and the bar's width.
const BAR: (i32, i32) = (6, 11);
/// Room for the numbers beside a colour bar.
const NUMBERS: i32 = 62;
/// Colours of frames, which viridis (from violet over green to yellow) does not have.
const FRAMES: [RGBColor; 3] = [RGBColor(230, 30, 40), RGBColor(255, 255, 255), RGBColor(255, 140, 0)];
/// How much lighter an image is where nothing is seen.
const FADED: f64 = 0.62;

/// The most panels of a picture, which is at most 8000 pixels wide and high.
const MOST_PANELS: usize = 10_000;

/// Draws maps over the patches of an image [1 or 3, H, W] (uint8, or floats in low..=high) as one PNG file. Patches
/// whose value is exactly 0, as attention gives to those that are not seen, are faded instead of coloured.
pub fn overlays(path: &Path, image: &Tensor, panels: &[Overlay], o: &OverlaysOptions) -> Result<()> {
    ensure!(!panels.is_empty(), "there is nothing to draw: no panels");
    ensure!(panels.len() <= MOST_PANELS, "at most {MOST_PANELS} panels are drawn, found {}", panels.len());
    ensure!((0.0..=1.0).contains(&o.alpha), "alpha: expected 0 to 1, found {}", o.alpha);
    ensure!((64..=1024).contains(&o.size), "size: expected 64 to 1024, found {}", o.size);
    let extent = o.high - o.low;
    ensure!(extent > 0.0 && extent.is_finite(), "expected finite low < high, found {} and {}", o.low, o.high);
    let maps = panels.iter().map(read_map).collect::<Result<Vec<_>>>()?;
    let picture = Picture::new(image, panels, maps, o)?;
    let size = PlotOptions { width: picture.width as u64, height: picture.height as u64, ..Default::default() };
    ensure!(
        size.width <= 8000 && size.height <= 8000,
        "{} panels of {} pixels make a picture of {} x {}, more than 8000: draw fewer, smaller or in other columns",
        panels.len(),
        o.size,
        size.width,
        size.height
    );
    draw_to(path, &size, |size| {
        on_pixels(size, |backend| {
            let area = backend.into_drawing_area();
            area.fill(&WHITE)?;
            picture.draw(&area)?;
            Ok(area.present()?)
        })
    })
}

/// A map's rows, columns and values, row by row.
struct Grid {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    /// Least and greatest of those that are not exactly 0.
    range: (f32, f32),
}

fn read_map(panel: &Overlay) -> Result<Option<Grid>> {
    let of = &panel.title;
    ensure!(panel.gamma > 0.0 && panel.gamma.is_finite(), "{of}: gamma must be above 0, found {}", panel.gamma);
    let grid = match &panel.map {
        None => None,
        Some(map) => {
            ensure!(
                map.dim() == 2 && map.numel() > 0,
                "{of}: expected a map [rows, columns], found {}",
                shape_text(map)
            );
            let (rows, columns) = (map.size()[0] as usize, map.size()[1] as usize);
            let flat = map.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
            let mut values = vec![0f32; flat.numel()];
            flat.f_copy_data(&mut values, flat.numel())?;
            ensure!(values.iter().all(|v| v.is_finite()), "{of}: the map holds values that are not finite");
            let seen = || values.iter().copied().filter(|v| *v != 0.0);
            let range = (seen().fold(f32::INFINITY, f32::min), seen().fold(f32::NEG_INFINITY, f32::max));
            Some(Grid { rows, columns, values, range: if range.0 <= range.1 { range } else { (0.0, 0.0) } })
        }
    };
    let (rows, columns) = match (&grid, panel.grid) {
        (Some(g), _) => (g.rows, g.columns),
        (None, Some(grid)) => grid,
        (None, None) => {
            ensure!(panel.frames.is_empty(), "{of}: frames need a map, or `grid` with its rows and columns");
            (1, 1)
        }
    };
    ensure!(rows > 0 && columns > 0, "{of}: a grid has rows and columns, found {rows} x {columns}");
    for f in &panel.frames {
        ensure!(
            f.row < rows && f.column < columns,
            "{of}: the frame at row {}, column {} is outside the {rows} x {columns} patches",
            f.row,
            f.column
        );
    }
    Ok(grid)
}

struct Picture<'a> {
    panels: &'a [Overlay],
    maps: Vec<Option<Grid>>,
    options: &'a OverlaysOptions,
    /// Pixels of the image as floats in 0..=255, its width and height.
    pixels: Vec<[f64; 3]>,
    image: (usize, usize),
    /// A panel's image as drawn.
    shown: (i32, i32),
    columns: usize,
    width: i32,
    height: i32,
    top: i32,
    legend: Vec<&'a str>,
}

impl<'a> Picture<'a> {
    fn new(image: &Tensor, panels: &'a [Overlay], maps: Vec<Option<Grid>>, o: &'a OverlaysOptions) -> Result<Self> {
        let size = image.size();
        ensure!(
            size.len() == 3 && [1, 3].contains(&size[0]) && size[1] > 0 && size[2] > 0,
            "expected an image [1 or 3, H, W], found {}",
            shape_text(image)
        );
        let (h, w) = (size[1] as usize, size[2] as usize);
        let (low, high) = if image.kind() == Kind::Uint8 { (0.0, 255.0) } else { (o.low, o.high) };
        let floats = image.f_to_kind(Kind::Float)?.f_sub_scalar(low)?.f_mul_scalar(255.0 / (high - low))?;
        let floats = floats.f_clamp(0.0, 255.0)?.f_expand([3, size[1], size[2]], false)?;
        let floats = floats.f_permute([1, 2, 0])?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut flat = vec![0f32; floats.numel()];
        floats.f_copy_data(&mut flat, floats.numel())?;
        let pixels = flat.chunks_exact(3).map(|p| [p[0], p[1], p[2]].map(f64::from)).collect();

        let scale = o.size as f64 / h.max(w) as f64;
        let shown = [w, h].map(|n| ((n as f64 * scale).round() as i32).max(1));
        let columns = match o.columns {
            0 => panels.len().min(4),
            n => panels.len().min(n as usize),
        };
        let mut legend: Vec<&str> = Vec::new();
        for frame in panels.iter().flat_map(|p| &p.frames) {
            if !legend.contains(&frame.name.as_str()) {
                legend.push(&frame.name);
            }
        }
        ensure!(legend.len() <= FRAMES.len(), "frames have at most {} names, found {}", FRAMES.len(), legend.len());
        let head = [!o.title.is_empty(), !o.subtitle.is_empty(), !legend.is_empty()];
        let top = MARGIN + head.iter().filter(|shown| **shown).count() as i32 * (LINE + 4);
        let rows = panels.len().div_ceil(columns) as i32;
        let cell = (shown[0] + BAR.0 + BAR.1 + NUMBERS, shown[1] + LINE + 2 + MARGIN);
        Ok(Self {
            panels,
            maps,
            options: o,
            pixels,
            image: (w, h),
            shown: (shown[0], shown[1]),
            columns,
            width: 2 * MARGIN + columns as i32 * cell.0,
            height: top + rows * cell.1 + MARGIN / 2,
            top,
            legend,
        })
    }

    fn draw(&self, area: &DrawingArea<BitMapBackend, Shift>) -> Result<()> {
        fonts();
        let text = |text: &str, size: u32, (x, y): (i32, i32), v: VPos, room: i32| -> Result<()> {
            let style = TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(HPos::Left, v));
            let fits = |text: &str| -> Result<bool> { Ok(area.estimate_text_size(text, &style)?.0 as i32 <= room) };
            Ok(area.draw_text(&shorten(text, fits)?, &style, (x, y))?)
        };
        let room = self.width - 2 * MARGIN;
        let mut y = MARGIN;
        for (line, size) in [(&self.options.title, 19), (&self.options.subtitle, 14)] {
            if !line.is_empty() {
                text(line, size, (MARGIN, y), VPos::Top, room)?;
                y += LINE + 4;
            }
        }
        let mut x = MARGIN;
        for (i, name) in self.legend.iter().enumerate() {
            frame(area, (x + 2, y + 1), (x + 14, y + 13), FRAMES[i])?;
            text(name, 14, (x + 24, y), VPos::Top, self.width - x - 24)?;
            let style = TextStyle::from(("sans-serif", 14).into_font());
            x += 24 + area.estimate_text_size(name, &style)?.0 as i32 + 28;
        }
        let (w, h) = self.shown;
        for (i, (panel, map)) in self.panels.iter().zip(&self.maps).enumerate() {
            let (column, row) = ((i % self.columns) as i32, (i / self.columns) as i32);
            let left = MARGIN + column * (w + BAR.0 + BAR.1 + NUMBERS);
            let top = self.top + row * (h + LINE + 2 + MARGIN) + LINE + 2;
            text(&panel.title, 15, (left, top - 5), VPos::Bottom, w + BAR.0 + BAR.1 + NUMBERS - 10)?;
            for y in 0..h {
                for x in 0..w {
                    area.draw_pixel((left + x, top + y), &self.colour(panel, map.as_ref(), x, y))?;
                }
            }
            let (rows, columns) = match (map, panel.grid) {
                (Some(map), _) => (map.rows, map.columns),
                (None, grid) => grid.unwrap_or((1, 1)),
            };
            for f in &panel.frames {
                let pixel =
                    |n: usize, of: usize, length: i32| (n as f64 / of as f64 * f64::from(length)).round() as i32;
                let from = (left + pixel(f.column, columns, w), top + pixel(f.row, rows, h));
                let to = (left + pixel(f.column + 1, columns, w) - 1, top + pixel(f.row + 1, rows, h) - 1);
                let which = self.legend.iter().position(|n| *n == f.name).expect("collected from the frames");
                frame(area, from, to, FRAMES[which])?;
            }
            let Some(map) = map else { continue };
            let bar = left + w + BAR.0;
            for y in 0..h {
                let level = 1.0 - f64::from(y) / f64::from((h - 1).max(1));
                let RGBColor(r, g, b) = ViridisRGB::get_color(level.powf(panel.gamma));
                for x in 0..BAR.1 {
                    area.draw_pixel((bar + x, top + y), &RGBColor(r, g, b))?;
                }
            }
            let number = bar + BAR.1 + 5;
            text(&short(map.range.1), 13, (number, top - 2), VPos::Top, NUMBERS)?;
            text(&short(map.range.0), 13, (number, top + h), VPos::Bottom, NUMBERS)?;
        }
        Ok(())
    }

    /// A pixel of a panel.
    fn colour(&self, panel: &Overlay, map: Option<&Grid>, x: i32, y: i32) -> RGBColor {
        let index = |n: i32, of: i32, into: usize| ((n as usize * into) / of as usize).min(into - 1);
        let (px, py) = (index(x, self.shown.0, self.image.0), index(y, self.shown.1, self.image.1));
        let pixel = self.pixels[py * self.image.0 + px];
        let Some(map) = map else { return mix(pixel, pixel, 0.0) };
        let value = map.values[index(y, self.shown.1, map.rows) * map.columns + index(x, self.shown.0, map.columns)];
        if value == 0.0 {
            return mix(pixel, [255.0; 3], FADED);
        }
        let [low, high, value] = [map.range.0, map.range.1, value].map(f64::from);
        let level = if high > low { (value - low) / (high - low) } else { 1.0 };
        let RGBColor(r, g, b) = ViridisRGB::get_color(level.clamp(0.0, 1.0).powf(panel.gamma));
        // The image in grey below the colours, neither black nor white, or they would be taken for other values.
        let grey = 70.0 + 0.6 * (0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]);
        mix([grey; 3], [r, g, b].map(f64::from), self.options.alpha)
    }
}

fn mix(a: [f64; 3], b: [f64; 3], weight: f64) -> RGBColor {
    let [r, g, b] = [0, 1, 2].map(|i| ((1.0 - weight) * a[i] + weight * b[i]).round() as u8);
    RGBColor(r, g, b)
}

/// A frame of colour between two black lines, which is seen on every background.
fn frame(area: &DrawingArea<BitMapBackend, Shift>, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Result<()> {
    for (out, colour) in [(-2, BLACK), (-1, colour), (0, colour), (1, BLACK)] {
        let corners = [(from.0 + out, from.1 + out), (to.0 - out, to.1 - out)];
        area.draw(&Rectangle::new(corners, colour.stroke_width(1)))?;
    }
    Ok(())
}

/// A number in three significant digits.
fn short(value: f32) -> String {
    // Its power of ten after rounding: 0.09999 has three digits as 0.100.
    let power: i32 = format!("{value:.2e}").split('e').nth(1).and_then(|power| power.parse().ok()).unwrap_or(0);
    match power {
        _ if value == 0.0 => "0".into(),
        -3..=3 => format!("{value:.*}", (2 - power).max(0) as usize),
        _ => format!("{value:.1e}"),
    }
}
