//! Points of the plane in the colours of their classes.

use super::{COLOURS, Drawing, Format, PlotOptions, draw, drawable, padded, range};
use crate::error::{Result, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Points of one class.
pub struct Class {
    /// Its name, shown in the legend.
    pub name: String,
    /// Its points (x, y); those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// The most classes that the legend names; with more, colours are only there to tell neighbours apart.
const NAMED: usize = 20;

/// Draws points without axes, whose numbers mean nothing in a map of features. Its options `x` and `y` are not drawn.
pub fn points(path: &Path, classes: &[Class], options: &PlotOptions) -> Result<()> {
    let all: Vec<_> =
        classes.iter().map(|c| c.points.iter().copied().filter_map(drawable).collect::<Vec<_>>()).collect();
    ensure!(all.iter().any(|points| !points.is_empty()), "there is nothing to draw: there are no points");
    draw(path, options, &Points { classes, all, options })
}

struct Points<'a> {
    classes: &'a [Class],
    /// What can be drawn of each class.
    all: Vec<Vec<(f64, f64)>>,
    options: &'a PlotOptions,
}

impl Points<'_> {
    /// The colour of class i of all: the usual ones, then others of evenly spread hues.
    fn colour(&self, i: usize) -> RGBColor {
        match self.classes.len() <= COLOURS.len() {
            true => COLOURS[i],
            false => {
                // Lightness tells classes apart where hues are close.
                let light = [0.42, 0.58, 0.30][i % 3];
                let (r, g, b) = HSLColor(i as f64 / self.classes.len() as f64, 0.65, light).rgb();
                RGBColor(r, g, b)
            }
        }
    }
}

impl Drawing for Points<'_> {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, _: Format) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let points = || self.all.iter().flatten();
        let (x0, x1) = padded(range(points().map(|p| p.0)));
        let (y0, y1) = padded(range(points().map(|p| p.1)));
        let named = self.classes.len() <= NAMED && self.classes.len() > 1;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.options.title, ("sans-serif", 22))
            .margin(14)
            .margin_right(if named { 190 } else { 14 })
            .build_cartesian_2d(x0..x1, y0..y1)?;
        let count = points().count();
        let radius = if count > 20_000 {
            1
        } else if count > 3_000 {
            2
        } else {
            3
        };
        for (i, (class, points)) in self.classes.iter().zip(&self.all).enumerate() {
            let style = self.colour(i).mix(0.75).filled();
            chart.draw_series(points.iter().map(|p| Circle::new(*p, radius, style)))?;
            if named {
                let (x, y) = (area.dim_in_pixel().0 as i32 - 180, 44 + 20 * i as i32);
                area.draw(&Circle::new((x, y), 5, self.colour(i).filled()))?;
                let beside =
                    ("sans-serif", 15).into_font().into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
                area.draw(&Text::new(class.name.clone(), (x + 14, y), beside))?;
            }
        }
        Ok(())
    }
}
