//! Curves over a common axis.

use super::{COLOURS, Drawing, Format, PlotOptions, draw, drawable, padded, range, tick};
use crate::error::{Result, ensure};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

/// A named curve.
pub struct Series {
    /// The curve's name, shown in the legend.
    pub name: String,
    /// Its points (x, y); those that are not finite break the curve.
    pub points: Vec<(f64, f64)>,
}

/// Draws curves over a common axis.
pub fn lines(path: &Path, series: &[Series], options: &PlotOptions) -> Result<()> {
    ensure!(series.iter().any(|s| !s.points.is_empty()), "there is nothing to draw: every series is empty");
    let all = || series.iter().flat_map(|s| &s.points);
    ensure!(all().any(|p| drawable(*p).is_some()), "there is nothing to draw: no point of any series is finite");
    let curves = series.iter().map(|s| (s.name.as_str(), pieces(&s.points)));
    draw(path, options, &Lines { curves: curves.collect(), options })
}

/// Points that are joined.
type Piece = Vec<(f64, f64)>;

/// The pieces of a curve between points that are not finite.
fn pieces(points: &[(f64, f64)]) -> Vec<Piece> {
    let parts = points.split(|p| drawable(*p).is_none()).filter(|part| !part.is_empty());
    parts.map(|part| part.iter().copied().filter_map(drawable).collect()).collect()
}

struct Lines<'a> {
    /// Names, and the pieces that are drawn.
    curves: Vec<(&'a str, Vec<Piece>)>,
    options: &'a PlotOptions,
}

impl Drawing for Lines<'_> {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, format: Format) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let PlotOptions { title, x, y, .. } = self.options;
        let points = || self.curves.iter().flat_map(|c| &c.1).flatten();
        let (x0, x1) = range(points().map(|p| p.0));
        let (y0, y1) = padded(range(points().map(|p| p.1)));
        let axes = Axes {
            title,
            x,
            y,
            size: 22,
            ticks: (x_ticks(points().map(|p| p.0), x0..x1, 10), 10),
            y_ends: Some((y0, y1)),
        };
        let mut chart = axes.draw(area, x0..x1, y0..y1)?;
        let pixels = area.dim_in_pixel().0;
        for (i, (name, pieces)) in self.curves.iter().enumerate() {
            let style = COLOURS[i % COLOURS.len()].stroke_width(2);
            // A line of one point is none.
            let single = pieces.iter().filter(|piece| piece.len() == 1).map(|piece| piece[0]);
            chart.draw_series(single.map(|point| Circle::new(point, 3, style.filled())))?;
            chart
                .draw_series(pieces.iter().flat_map(|piece| strokes(thin(piece.clone(), pixels), style, format)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        if self.curves.len() > 1 {
            chart
                .configure_series_labels()
                .label_font(("sans-serif", 15))
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .position(SeriesLabelPosition::UpperRight)
                .margin(10)
                .draw()?;
        }
        Ok(())
    }
}

/// Title and axes of a chart.
pub(super) struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    /// Empty if the title says it.
    pub y: &'a str,
    /// Size of the title's letters.
    pub size: u32,
    /// About how many numbers stand on either.
    pub ticks: (usize, usize),
    /// Where the y axis begins and ends; none of a logarithmic one, whose numbers are told apart by their sizes.
    pub y_ends: Option<(f64, f64)>,
}

type Chart<'a, DB, Y> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, <Y as AsRangedCoord>::CoordDescType>>;

impl Axes<'_> {
    /// Draws them, and gives the chart to draw curves in.
    pub(super) fn draw<'a, DB, Y>(&self, area: &DrawingArea<DB, Shift>, x: Range<f64>, y: Y) -> Result<Chart<'a, DB, Y>>
    where
        DB: DrawingBackend + 'a,
        DB::ErrorType: 'static,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let x_ends = (x.start, x.end);
        let y_number = |y: f64| tick(y, self.y_ends.unwrap_or((0.0, y)));
        let letters = self.y_ends.map_or(0, |(low, high)| y_number(low).len().max(y_number(high).len()));
        // Six letters have room; up to twelve get it.
        let more_room = 8 * letters.clamp(6, 12) as u32 - 48;
        let mut chart = ChartBuilder::on(area)
            .caption(self.title, ("sans-serif", self.size))
            .margin(14)
            // The last number of the x axis stands half beyond it.
            .margin_right(34)
            .x_label_area_size(46)
            .y_label_area_size(more_room + if self.y.is_empty() { 58 } else { 74 })
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(self.ticks.0)
            .y_labels(self.ticks.1)
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 17))
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(BLACK.mix(0.12))
            .y_label_formatter(&|y| y_number(*y))
            .x_label_formatter(&|x| count(*x, x_ends))
            .draw()?;
        Ok(chart)
    }
}

/// About how many numbers stand on an axis from `axis.start` to `axis.end`, `most` or fewer: none between the whole numbers
/// that blocks and epochs are.
pub(super) fn x_ticks(mut x: impl Iterator<Item = f64>, axis: Range<f64>, most: usize) -> usize {
    match x.all(|x| x.fract() == 0.0) {
        true => most.min(((axis.end - axis.start) as usize).saturating_add(1)),
        false => most,
    }
}

/// A curve as what is drawn of it. On pixels plotters joins thick lines by prolonging their edges until
/// they meet, far beyond the point where a curve turns sharply; there each line is drawn alone.
pub(super) fn strokes(points: Vec<(f64, f64)>, style: ShapeStyle, format: Format) -> Vec<PathElement<(f64, f64)>> {
    match format {
        Format::Png if style.stroke_width > 1 => {
            points.windows(2).map(|ends| PathElement::new(ends.to_vec(), style)).collect()
        }
        _ => vec![PathElement::new(points, style)],
    }
}

/// A number of an x axis with these ends, which mostly counts steps.
fn count(value: f64, ends: (f64, f64)) -> String {
    match value.abs() {
        v if v >= 1e6 && v % 1e5 == 0.0 => format!("{}M", value / 1e6),
        v if v >= 1e4 && v % 1e2 == 0.0 => format!("{}k", value / 1e3),
        v if (1.0..1e9).contains(&v) && v.fract() == 0.0 => value.to_string(),
        _ => tick(value, ends),
    }
}

/// Thins a curve to at most four points for each of `pixels` columns: the first, the smallest, the
/// largest and the last, which cover the same pixels.
pub(super) fn thin(points: Vec<(f64, f64)>, pixels: u32) -> Vec<(f64, f64)> {
    if points.len() <= 4 * pixels as usize {
        return points;
    }
    let (x0, x1) = range(points.iter().map(|p| p.0));
    let column = |p: &(f64, f64)| ((p.0 - x0) / (x1 - x0) * f64::from(pixels)) as i64;
    let mut kept = Vec::with_capacity(4 * pixels as usize);
    for bucket in points.chunk_by(|a, b| column(a) == column(b)) {
        let order = |a: &usize, b: &usize| bucket[*a].1.total_cmp(&bucket[*b].1);
        let all = || 0..bucket.len();
        let mut indices = vec![0, all().min_by(order).unwrap_or(0), all().max_by(order).unwrap_or(0), bucket.len() - 1];
        indices.sort_unstable();
        indices.dedup();
        kept.extend(indices.into_iter().map(|i| bucket[i]));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{count, thin, x_ticks};

    #[test]
    fn steps_are_counted_in_thousands_and_millions() {
        let steps = [0.0, 0.25, 8000.0, 10_000.0, 12_500.0, 123_450.0, 500_000.0, 2_500_000.0];
        let written = steps.map(|step| count(step, (0.0, 0.5)));
        assert_eq!(written, ["0", "0.25", "8000", "10k", "12.5k", "123450", "500k", "2.5M"]);
    }

    #[test]
    fn whole_numbers_have_none_between_them() {
        assert_eq!(x_ticks([0.0, 4.0, 2.0].into_iter(), 0.0..4.0, 10), 5);
        assert_eq!(x_ticks([0.0, 4.0, 2.5].into_iter(), 0.0..4.0, 10), 10);
        assert_eq!(x_ticks([1.0, 500.0].into_iter(), 1.0..500.0, 10), 10);
    }

    #[test]
    fn a_thinned_curve_keeps_its_ends_and_its_extremes_in_order() {
        let spike = |i: usize| if i == 31_415 { 100.0 } else { (i as f64 / 50.0).sin() };
        let points: Vec<(f64, f64)> = (0..50_000).map(|i| (i as f64, spike(i))).collect();
        let thinned = thin(points.clone(), 500);
        assert!(thinned.len() <= 2004, "{}", thinned.len());
        assert_eq!((thinned.first(), thinned.last()), (points.first(), points.last()));
        assert!(thinned.contains(&(31_415.0, 100.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(thin(points[..2000].to_vec(), 500), points[..2000]);
    }
}
