//! Pictures.

use crate::error::{Result, bail, ensure};
use crate::functions;
use crate::options;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Tensor, found, number, read_options};
use crate::train::plot::{self, Bar, PlotOptions, Series};
use rhai::{Array, Dynamic, Engine, ImmutableString, Map};
use std::path::Path;

options! {
    /// How a grid of images is laid out.
    pub struct ImagesOptions {
        /// Images in a row.
        columns: u64 = 16,
        /// Screen pixels for each image pixel.
        zoom: u64 = 3,
        /// The value that is black, of float images.
        low: f64 = -1.0,
        /// The value that is white, of float images.
        high: f64 = 1.0,
    }
}

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    let mut group =
        Group::namespace(reference, "plot", "Pictures as PNG files; curves and bars as SVG too, by the file's name.");
    group.options::<PlotOptions>("plot::lines");
    group.options::<PlotOptions>("plot::bars");
    group.options::<ImagesOptions>("plot::images");
    functions! { group;
        /// Curves over a common axis: a map from names to arrays of [x, y]. A .png or .svg file.
        ///
        /// Example: `plot::lines(run::path("loss.png"), #{ loss: [[0, 2.3], [1, 1.9]] }, #{ x: "step" });`
        "lines" (path: ImmutableString, series: Map, options: Map) -> () {
            let series: Vec<Series> = series.iter().map(|(name, points)| curve(name, points)).collect::<Result<_>>()?;
            plot::lines(Path::new(path.as_str()), &series, &read_options("plot::lines", &options)?)
        }
        /// Bars with error bars: an array of [name, value, deviation]. A .png or .svg file.
        "bars" (path: ImmutableString, bars: Array, options: Map) -> () {
            let bars: Vec<Bar> = bars.iter().map(bar).collect::<Result<_>>()?;
            plot::bars(Path::new(path.as_str()), &bars, &read_options("plot::bars", &options)?)
        }
        /// A grid of images [B, 1 or 3, H, W], uint8 or float. A .png file.
        "images" (path: ImmutableString, batch: Tensor, options: Map) -> () {
            let o: ImagesOptions = read_options("plot::images", &options)?;
            plot::images(Path::new(path.as_str()), &batch, o.columns, o.zoom, (o.low, o.high))
        }
    }
    group.register(engine);
}

fn curve(name: &str, points: &Dynamic) -> Result<Series> {
    let Some(points) = points.read_lock::<Array>() else {
        bail!("plot::lines: series `{name}`: expected an array of [x, y], found {}", found(points));
    };
    let point = |p: &Dynamic| match p.read_lock::<Array>() {
        Some(xy) if xy.len() == 2 => Ok((number(&xy[0], "plot::lines: x")?, number(&xy[1], "plot::lines: y")?)),
        _ => bail!("plot::lines: series `{name}`: expected [x, y], found {}", found(p)),
    };
    Ok(Series { name: name.to_string(), points: points.iter().map(point).collect::<Result<_>>()? })
}

fn bar(value: &Dynamic) -> Result<Bar> {
    let Some(parts) = value.read_lock::<Array>() else {
        bail!("plot::bars: expected [name, value, deviation], found {}", found(value));
    };
    ensure!(parts.len() == 3, "plot::bars: expected [name, value, deviation], found {} parts", parts.len());
    Ok(Bar {
        name: parts[0].to_string(),
        value: number(&parts[1], "plot::bars: value")?,
        deviation: number(&parts[2], "plot::bars: deviation")?,
    })
}
