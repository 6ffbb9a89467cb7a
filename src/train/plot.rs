//! Pictures of a run as PNG files: curves, bars with error bars, and grids of images. The font is
//! in the binary, so that they look the same everywhere.

use crate::error::{Context as _, Result, ensure};
use crate::nn::shape_words;
use crate::options;
use image::{Rgb, RgbImage};
use plotters::prelude::*;
use plotters::style::register_font;
use std::path::Path;
use std::sync::Once;
use tch::{Device, Kind, Tensor};

const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");
/// Colours that are told apart with colour-blind eyes too (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

options! {
    /// Title and axes of a picture.
    pub struct PlotOptions {
        /// Title above the picture.
        title: String = String::new(),
        /// Name of the horizontal axis.
        x: String = String::new(),
        /// Name of the vertical axis.
        y: String = String::new(),
        /// Width in pixels.
        width: u64 = 900,
        /// Height in pixels.
        height: u64 = 560,
    }
}

fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = register_font("sans-serif", FontStyle::Normal, FONT);
    });
}

/// Least and greatest finite value, with room around them.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for v in values.filter(|v| v.is_finite()) {
        low = low.min(v);
        high = high.max(v);
    }
    match low <= high {
        false => (0.0, 1.0),
        true if low == high => (low - 0.5, high + 0.5),
        true => (low, high),
    }
}

fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let room = 0.04 * (high - low);
    (low - room, high + room)
}

/// Creates the folder of a picture; the drawing itself goes to a hidden file that is then renamed.
pub(super) fn draw_to(
    path: &Path,
    options: &PlotOptions,
    draw: impl FnOnce(&Path, (u32, u32)) -> Result<()>,
) -> Result<()> {
    ensure!(
        (100..=8000).contains(&options.width) && (100..=8000).contains(&options.height),
        "a picture is 100 to 8000 pixels wide and high, found {} x {}",
        options.width,
        options.height
    );
    ensure!(
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")),
        "pictures are PNG files, found {}",
        path.display()
    );
    fonts();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let staging = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent)?;
    let file = staging.path().join("picture.png");
    draw(&file, (options.width as u32, options.height as u32))
        .with_context(|| format!("cannot draw {}", path.display()))?;
    std::fs::rename(&file, path).with_context(|| format!("cannot write {}", path.display()))
}

/// A named curve.
pub struct Series {
    /// The curve's name, shown in the legend.
    pub name: String,
    /// Its points (x, y); those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// Draws curves over a common axis.
pub fn lines(path: &Path, series: &[Series], options: &PlotOptions) -> Result<()> {
    ensure!(series.iter().any(|s| !s.points.is_empty()), "there is nothing to draw: every series is empty");
    draw_to(path, options, |file, size| {
        let root = BitMapBackend::new(file, size).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || series.iter().flat_map(|s| &s.points);
        let (x0, x1) = range(points().map(|p| p.0));
        let (y0, y1) = padded(range(points().map(|p| p.1)));
        let mut chart = ChartBuilder::on(&root)
            .caption(&options.title, ("sans-serif", 22))
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(74)
            .build_cartesian_2d(x0..x1, y0..y1)?;
        chart
            .configure_mesh()
            .x_desc(&options.x)
            .y_desc(&options.y)
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 17))
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(BLACK.mix(0.12))
            .y_label_formatter(&|y| tick(*y))
            .x_label_formatter(&|x| tick(*x))
            .draw()?;
        for (i, s) in series.iter().enumerate() {
            let style = COLOURS[i % COLOURS.len()].stroke_width(2);
            let finite = s.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite());
            chart
                .draw_series(LineSeries::new(finite, style))?
                .label(&s.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        if series.len() > 1 {
            chart
                .configure_series_labels()
                .label_font(("sans-serif", 15))
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .position(SeriesLabelPosition::UpperRight)
                .margin(10)
                .draw()?;
        }
        root.present()?;
        Ok(())
    })
}

fn tick(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if !(1e-3..1e5).contains(&v) => format!("{value:.1e}"),
        _ => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

/// Text in lines of about `letters` letters, broken between words.
pub(super) fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// A named bar with its deviation.
pub struct Bar {
    /// The name below the bar.
    pub name: String,
    /// Its height.
    pub value: f64,
    /// Half the length of its error bar; 0 draws none.
    pub deviation: f64,
}

/// Draws bars from zero, each with its value and ± deviation.
pub fn bars(path: &Path, bars: &[Bar], options: &PlotOptions) -> Result<()> {
    ensure!(!bars.is_empty(), "there is nothing to draw: no bars");
    ensure!(bars.iter().all(|b| b.value.is_finite() && b.deviation.is_finite()), "bars must be finite");
    draw_to(path, options, |file, size| {
        let root = BitMapBackend::new(file, size).into_drawing_area();
        root.fill(&WHITE)?;
        // Names stand below their bars, wrapped to the room that each has.
        const LINE: i32 = 20;
        let letters = (size.0 as usize - 110) / bars.len() / 10;
        let names: Vec<Vec<String>> = bars.iter().map(|b| wrap(&b.name, letters)).collect();
        let most_lines = names.iter().map(Vec::len).max().unwrap_or(1);
        let high = bars.iter().map(|b| b.value + b.deviation).fold(0.0, f64::max);
        let low = bars.iter().map(|b| b.value - b.deviation).fold(0.0, f64::min);
        let top = if high > low { high + 0.12 * (high - low) } else { 1.0 };
        let mut chart = ChartBuilder::on(&root)
            .caption(&options.title, ("sans-serif", 22))
            .margin(14)
            .x_label_area_size(26 + LINE as u32 * most_lines as u32)
            .y_label_area_size(74)
            .build_cartesian_2d(0.0..bars.len() as f64, low..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_desc(&options.y)
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 17))
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(BLACK.mix(0.12))
            .y_label_formatter(&|y| tick(*y))
            .draw()?;
        let centred = TextStyle::from(("sans-serif", 17).into_font()).pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Bottom,
        ));
        for (i, bar) in bars.iter().enumerate() {
            let middle = i as f64 + 0.5;
            let colour = COLOURS[i % COLOURS.len()];
            chart.draw_series([Rectangle::new([(middle - 0.3, 0.0), (middle + 0.3, bar.value)], colour.filled())])?;
            if bar.deviation > 0.0 {
                let (bottom, top) = (bar.value - bar.deviation, bar.value + bar.deviation);
                let stroke = BLACK.stroke_width(2);
                chart.draw_series([
                    PathElement::new(vec![(middle, bottom), (middle, top)], stroke),
                    PathElement::new(vec![(middle - 0.05, bottom), (middle + 0.05, bottom)], stroke),
                    PathElement::new(vec![(middle - 0.05, top), (middle + 0.05, top)], stroke),
                ])?;
            }
            let text = match bar.deviation > 0.0 {
                true => format!("{} ± {}", tick(bar.value), tick(bar.deviation)),
                false => tick(bar.value),
            };
            chart.draw_series([Text::new(
                text,
                (middle, bar.value + bar.deviation + 0.01 * (top - low)),
                centred.clone(),
            )])?;
            let (x, _) = chart.backend_coord(&(middle, low));
            for (line, text) in names[i].iter().enumerate() {
                let y = size.1 as i32 - LINE * (most_lines - line) as i32;
                root.draw(&Text::new(text.clone(), (x, y), centred.clone()))?;
            }
        }
        root.present()?;
        Ok(())
    })
}

/// Saves a batch of images [B, C, H, W] (C 1 or 3; uint8, or floats in `low..=high`) as one grid,
/// each pixel enlarged `zoom` times.
pub fn images(path: &Path, batch: &Tensor, columns: u64, zoom: u64, (low, high): (f64, f64)) -> Result<()> {
    let size = batch.size();
    ensure!(
        size.len() == 4 && [1, 3].contains(&size[1]) && size[0] > 0,
        "expected images [B, 1 or 3, H, W], found {}",
        shape_words(batch)
    );
    ensure!(columns >= 1 && (1..=32).contains(&zoom), "columns must be at least 1 and zoom 1 to 32");
    ensure!(high > low, "expected low < high, found {low} and {high}");
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
    let (columns, zoom, gap) = ((columns as u32).min(n), zoom as u32, 2);
    let (cell_w, cell_h) = (w * zoom + gap, h * zoom + gap);
    let mut grid = RgbImage::from_pixel(columns * cell_w + gap, n.div_ceil(columns) * cell_h + gap, Rgb([255; 3]));
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
    draw_to(path, &size, |file, _| Ok(grid.save(file)?))
}
