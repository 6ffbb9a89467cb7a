//! Several charts over the same axis as one picture, with one legend for all.

use super::curves::{Axes, strokes, thin, x_ticks};
use super::{COLOURS, Drawing, Format, LEAST, PlotOptions, draw, drawable, fonts, padded, range, shorten};
use crate::error::{Result, ensure};
use crate::text::visible;
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// An entry of the legend: a colour and what it stands for.
pub struct Key {
    /// What it stands for.
    pub name: String,
    /// Which colour; as many as there are, then they repeat.
    pub hue: usize,
    /// 0 for the colour itself, then lighter and darker ones.
    pub shade: usize,
}

/// A curve of a panel.
pub struct Curve {
    /// Its entry in the legend.
    pub key: usize,
    /// Its points (x, y). Where x goes back a new piece begins, and where y is not finite or, logarithmically, not
    /// positive.
    pub points: Vec<(f64, f64)>,
    /// A band around it, in the order of x: (x, low, high); empty for none.
    pub band: Vec<(f64, f64, f64)>,
}

/// One chart.
pub struct Panel {
    /// What it shows, with its unit.
    pub title: String,
    /// Whether y is drawn logarithmically, if that spans more than two decades.
    pub log: bool,
    /// Its curves.
    pub curves: Vec<Curve>,
}

/// A picture of panels.
pub struct Panels {
    /// Lines above the panels; the first is larger.
    pub header: Vec<String>,
    /// Name and unit of the common axis.
    pub x: String,
    /// The legend; not drawn if it has one entry.
    pub keys: Vec<Key>,
    /// The charts.
    pub panels: Vec<Panel>,
    /// Points that a bold moving average is taken over, of curves with more than 40 points; 1 draws the curves alone.
    pub smooth: usize,
}

const PANEL: (u32, u32) = (560, 330);
const TITLE: u32 = 34;
const LINE: u32 = 22;
const MARGIN: u32 = 18;
/// The most entries of the legend that are drawn: more colours could not be distinguished.
const MAX_KEYS: usize = 28;
/// Length of a legend's line, and its distance from the text.
const SAMPLE: u32 = 26;
/// A curve of at most this many points shows evaluations: it is not averaged.
const FEW: usize = 40;
/// A curve that goes back more often is drawn as one piece.
const MOST_PIECES: usize = 1000;
/// The least that is left of the points of a curve.
pub const LEAST_POINTS: usize = 120;
/// A curve of at most this many points has them marked, if there are few curves.
const MARKED: (usize, usize) = (20, 8);

/// Draws panels side by side; the picture is as large as they need.
pub fn panels(path: &Path, picture: &Panels) -> Result<()> {
    ensure!(!picture.panels.is_empty(), "there is nothing to draw: no panels");
    let layout = Layout::of(picture);
    let size = PlotOptions { width: layout.width.into(), height: layout.height.into(), ..Default::default() };
    draw(path, &size, &Picture { picture, layout, most_points: usize::MAX })
}

/// Each panel as a separate SVG document, without header and legend. Its curves have together about `most_points`, but
/// each at least [`LEAST_POINTS`]; what is left of longer ones has their least and greatest values.
pub fn panel_svgs(picture: &Panels, most_points: usize) -> Result<Vec<String>> {
    fonts();
    let mut drawing = Picture { picture, layout: Layout::of(picture), most_points: usize::MAX };
    let mut svg = |panel: &Panel| {
        drawing.most_points = (most_points / panel.curves.len().max(1)).max(LEAST_POINTS);
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, PANEL).into_drawing_area();
            area.fill(&WHITE)?;
            drawing.panel(panel, &area, Format::Svg)?;
            area.present()?;
        }
        Ok(visible(&text).into_owned())
    };
    picture.panels.iter().map(&mut svg).collect()
}

/// The colour of an entry of the legend, as CSS writes it.
pub fn key_colour(key: &Key) -> String {
    let RGBColor(r, g, b) = colour(key);
    format!("#{r:02x}{g:02x}{b:02x}")
}

struct Picture<'a> {
    picture: &'a Panels,
    layout: Layout,
    /// Of a curve.
    most_points: usize,
}

/// The layout of the picture.
struct Layout {
    columns: u32,
    width: u32,
    height: u32,
    /// Columns of the legend, and its rows.
    keys: (u32, u32),
    key_width: u32,
    /// Above the panels: header and legend.
    top: u32,
}

impl Layout {
    fn of(picture: &Panels) -> Self {
        let count = picture.panels.len() as u32;
        let columns = match count {
            1 => 1,
            2..=4 => 2,
            _ => 3,
        };
        let width = if count == 1 { 900 } else { columns * PANEL.0 };
        let shown = match picture.keys.len() {
            0 | 1 => 0,
            n => n.min(MAX_KEYS) as u32 + u32::from(n > MAX_KEYS),
        };
        let letters = picture.keys.iter().map(|k| k.name.chars().count()).max().unwrap_or(0) as u32;
        let key_width = (letters * 8 + SAMPLE + 32).min(width - 2 * MARGIN);
        let key_columns = ((width - 2 * MARGIN) / key_width).max(1);
        let keys = (key_columns, shown.div_ceil(key_columns));
        let header = picture.header.len().saturating_sub(1) as u32 * LINE;
        let top = MARGIN + TITLE + header + keys.1 * LINE + 14;
        let height = top + count.div_ceil(columns) * if count == 1 { 460 } else { PANEL.1 };
        Self { columns, width, height, keys, key_width, top }
    }
}

fn colour(key: &Key) -> RGBColor {
    let RGBColor(r, g, b) = COLOURS[key.hue % COLOURS.len()];
    // Fraction of white or black that is mixed in.
    let (share, other) = [(0.0, 0.0), (0.5, 255.0), (0.45, 0.0), (0.7, 255.0)][key.shade % 4];
    let [r, g, b] = [r, g, b].map(|c| (f64::from(c) * (1.0 - share) + other * share) as u8);
    RGBColor(r, g, b)
}

fn style(size: u32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(HPos::Left, VPos::Center))
}

impl Drawing for Picture<'_> {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, format: Format) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let Self { picture, layout, .. } = self;
        let text = |text: &str, size: u32, (x, y): (u32, u32), room: u32| -> Result<()> {
            let style = style(size);
            let fits = |text: &str| -> Result<bool> { Ok(area.estimate_text_size(text, &style)?.0 <= room) };
            Ok(area.draw_text(&shorten(text, fits)?, &style, (x as i32, y as i32))?)
        };
        let room = layout.width - 2 * MARGIN;
        let mut y = MARGIN + TITLE / 2;
        for (i, line) in picture.header.iter().enumerate() {
            text(line, if i == 0 { 22 } else { 15 }, (MARGIN, y), room)?;
            y += if i == 0 { TITLE / 2 + LINE / 2 } else { LINE };
        }
        let ((columns, rows), key_width) = (layout.keys, layout.key_width);
        for i in 0..(columns * rows).min(picture.keys.len() as u32) {
            // One column after the other.
            let (x, y) = (MARGIN + i / rows * key_width, y + i % rows * LINE + 2);
            if i as usize == MAX_KEYS {
                text(&format!("… and {} more", picture.keys.len() - MAX_KEYS), 15, (x, y), key_width)?;
                break;
            }
            let key = &picture.keys[i as usize];
            // The middle of small letters is above that of the line.
            let ends = [x, x + SAMPLE].map(|x| (x as i32, y as i32 - 2));
            area.draw(&PathElement::new(ends, colour(key).stroke_width(3)))?;
            text(&key.name, 15, (x + SAMPLE + 8, y), key_width - SAMPLE - 24)?;
        }
        let (_, below) = area.split_vertically(layout.top);
        let rows = (picture.panels.len() as u32).div_ceil(layout.columns);
        let cells = below.split_evenly((rows as usize, layout.columns as usize));
        picture.panels.iter().zip(&cells).try_for_each(|(panel, cell)| self.panel(panel, cell, format))
    }
}

impl<'a> Picture<'a> {
    fn panel<DB: DrawingBackend>(&self, panel: &'a Panel, area: &DrawingArea<DB, Shift>, format: Format) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let drawn = |panel: &'a Panel| panel.curves.iter().flat_map(|c| &c.points).copied().filter_map(drawable);
        let banded = panel.curves.iter().flat_map(|c| &c.band).flat_map(|(x, low, high)| [(*x, *low), (*x, *high)]);
        let points = || drawn(panel).chain(banded.clone().filter_map(drawable));
        // Every panel has the whole axis, so that they can be read across.
        let x = || self.picture.panels.iter().flat_map(drawn).map(|p| p.0);
        let (mut x0, x1) = range(x());
        if x0 > 0.0 && x0 < 0.1 * x1 {
            x0 = 0.0;
        }
        let (y0, y1) = range(points().map(|p| p.1));
        let (low, high) = range(points().map(|p| p.1).filter(|y| *y > LEAST));
        let log = panel.log && low > 0.0 && high > 100.0 * low;
        let (y0, y1) = padded((y0, y1));
        let axes = Axes {
            title: &panel.title,
            x: &self.picture.x,
            y: "",
            size: 17,
            ticks: (x_ticks(x(), x0..x1, 7), 6),
            y_ends: (!log).then_some((y0, y1)),
        };
        if log {
            let room = (high / low).powf(0.04);
            let mut chart = axes.draw(area, x0..x1, (low / room..high * room).log_scale())?;
            return self.curves(panel, &mut chart, true, format);
        }
        self.curves(panel, &mut axes.draw(area, x0..x1, y0..y1)?, false, format)
    }

    fn curves<DB, Y>(
        &self,
        panel: &Panel,
        chart: &mut ChartContext<'_, DB, Cartesian2d<RangedCoordf64, Y>>,
        log: bool,
        format: Format,
    ) -> Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
        Y: Ranged<ValueType = f64>,
    {
        let few_curves = self.picture.keys.len() <= MARKED.1;
        let shown = |p: (f64, f64)| drawable(p).filter(|p| !log || p.1 > LEAST);
        let most = u32::try_from(self.most_points / 4).unwrap_or(u32::MAX);
        let pixels = chart.plotting_area().dim_in_pixel().0.min(most);
        let mut smoothed = Vec::new();
        for curve in panel.curves.iter().filter(|curve| !curve.band.is_empty()) {
            let colour = colour(&self.picture.keys[curve.key]).mix(0.18);
            let edge = |y: fn(&(f64, f64, f64)) -> f64| {
                let points = curve.band.iter().map(|point| (point.0, y(point))).filter_map(shown).collect();
                thin(points, pixels)
            };
            let (mut outline, high) = (edge(|point| point.1), edge(|point| point.2));
            outline.extend(high.into_iter().rev());
            chart.draw_series(std::iter::once(Polygon::new(outline, colour.filled())))?;
        }
        for curve in &panel.curves {
            let colour = colour(&self.picture.keys[curve.key]);
            // What cannot be drawn breaks the curve.
            let parts = curve.points.split(|p| shown(*p).is_none());
            let parts = parts.map(|part| in_pieces(part.iter().copied().filter_map(shown).collect()));
            let parts: Vec<Vec<(f64, f64)>> = parts.collect();
            for piece in parts.iter().flat_map(|part| part.chunk_by(|a, b| a.0 <= b.0)) {
                let averaged = self.picture.smooth > 1 && piece.len() > FEW;
                let bold = colour.stroke_width(2);
                let raw = if averaged { colour.mix(0.3).stroke_width(1) } else { bold };
                chart.draw_series(strokes(thin(piece.to_vec(), pixels), raw, format))?;
                if piece.len() == 1 || (piece.len() <= MARKED.0 && few_curves) {
                    chart.draw_series(piece.iter().map(|p| Circle::new(*p, 3, raw.filled())))?;
                }
                if averaged {
                    smoothed.push((thin(average(piece, self.picture.smooth, log), pixels), bold));
                }
            }
        }
        // Above every raw curve.
        for (points, style) in smoothed {
            chart.draw_series(strokes(points, style, format))?;
        }
        Ok(())
    }
}

/// The points, in the order of x where they go back more often than any run was resumed.
fn in_pieces(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.windows(2).filter(|ends| ends[1].0 < ends[0].0).count() >= MOST_PIECES {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    points
}

/// The moving average, of the logarithms if these are drawn.
fn average(points: &[(f64, f64)], n: usize, log: bool) -> Vec<(f64, f64)> {
    if !log {
        return moving_average(points, n);
    }
    let logs: Vec<(f64, f64)> = points.iter().map(|p| (p.0, p.1.ln())).collect();
    moving_average(&logs, n).into_iter().map(|p| (p.0, p.1.exp())).collect()
}

/// Each y as the mean of the `n` around it, of those there are at the ends.
fn moving_average(points: &[(f64, f64)], n: usize) -> Vec<(f64, f64)> {
    let mut sums = vec![0.0];
    for (i, p) in points.iter().enumerate() {
        sums.push(sums[i] + p.1);
    }
    let mean = |i: usize| {
        let (from, to) = (i.saturating_sub((n - 1) / 2), (i + n / 2 + 1).min(points.len()));
        (sums[to] - sums[from]) / (to - from) as f64
    };
    points.iter().enumerate().map(|(i, p)| (p.0, mean(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::moving_average;

    #[test]
    fn a_moving_average_is_centred_and_shrinks_at_the_ends() {
        let points = [(0.0, 0.0), (1.0, 3.0), (2.0, 6.0), (3.0, 0.0)];
        assert_eq!(moving_average(&points, 3), [(0.0, 1.5), (1.0, 3.0), (2.0, 3.0), (3.0, 3.0)]);
        assert_eq!(moving_average(&points, 1), points);
        assert_eq!(moving_average(&points, 100), [(0.0, 2.25), (1.0, 2.25), (2.0, 2.25), (3.0, 2.25)]);
        assert_eq!(moving_average(&[], 5), []);
    }
}
