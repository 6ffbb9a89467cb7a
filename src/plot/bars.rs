//! Bars with error bars.

use super::{COLOURS, Drawing, Format, MOST, PlotOptions, draw, number, tick, wrap};
use crate::error::{Result, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

/// A named bar with its deviation.
pub struct Bar {
    /// The name below the bar.
    pub name: String,
    /// Its height.
    pub value: f64,
    /// Half the length of its error bar; 0 draws none.
    pub deviation: f64,
}

/// The most bars of a picture, which is at most 8000 pixels wide.
const MOST_BARS: usize = 1000;

/// The least height of an axis from 0.
const LEAST_HEIGHT: f64 = 1e-150;

/// Draws bars from zero, each with its value and ± deviation.
pub fn bars(path: &Path, bars: &[Bar], options: &PlotOptions) -> Result<()> {
    ensure!(!bars.is_empty(), "there is nothing to draw: no bars");
    ensure!(bars.len() <= MOST_BARS, "at most {MOST_BARS} bars are drawn, found {}", bars.len());
    for bar in bars {
        let fits = |v: f64| v.abs() <= MOST;
        ensure!(
            fits(bar.value) && fits(bar.deviation),
            "bar `{}`: expected numbers from -{MOST:e} to {MOST:e}, found {:e} ± {:e}",
            bar.name,
            bar.value,
            bar.deviation
        );
    }
    draw(path, options, &Bars { bars, options })
}

struct Bars<'a> {
    bars: &'a [Bar],
    options: &'a PlotOptions,
}

impl Drawing for Bars<'_> {
    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>, _: Format) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let Self { bars, options } = self;
        let size = root.dim_in_pixel();
        // Names stand below their bars, wrapped to the room that each has.
        const LINE: i32 = 20;
        let letters = (size.0 as usize).saturating_sub(110) / bars.len() / 10;
        let names: Vec<Vec<String>> = bars.iter().map(|b| wrap(&b.name, letters)).collect();
        let most_lines = names.iter().map(Vec::len).max().unwrap_or(1);
        let high = bars.iter().map(|b| b.value + b.deviation).fold(0.0, f64::max);
        let low = bars.iter().map(|b| b.value - b.deviation).fold(0.0, f64::min);
        let top = if high - low >= LEAST_HEIGHT { high + 0.12 * (high - low) } else { 1.0 };
        let mut chart = ChartBuilder::on(root)
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
            .y_label_formatter(&|y| tick(*y, (low, top)))
            .draw()?;
        let centred = TextStyle::from(("sans-serif", 17).into_font()).pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Bottom,
        ));
        // Finer than those of the axis: bars of almost the same height are told apart.
        let shown = |v: f64| number(v, top.max(-low), (top - low) / 5000.0);
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
                true => format!("{} ± {}", shown(bar.value), shown(bar.deviation)),
                false => shown(bar.value),
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
        Ok(())
    }
}
