//! Pictures.

use crate::error::{Result, bail, ensure};
use crate::options;
use crate::options::known_keys;
use crate::plot::{self, Bar, Class, Frame, Overlay, OverlaysOptions, PlotOptions, Series, TsneOptions};
use crate::run::progress::Progress;
use crate::script::registry::Api;
use crate::script::values::{Tensor, found, number};
use crate::tensor::shape_text;
use nepa_macros::functions;
use rhai::{Array, Dynamic, Map};
use std::path::Path;
use tch::Kind;

options! {
    /// How a grid of images is laid out.
    pub struct ImagesOptions {
        /// Images per row.
        columns: u64 = 16,
        /// Screen pixels for each image pixel.
        zoom: u64 = 3,
        /// Value drawn as black, for float images.
        low: f64 = -1.0,
        /// Value drawn as white, for float images.
        high: f64 = 1.0,
    }
}

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "plot",
        "Pictures as PNG files; curves and bars also as SVG, depending on the file name.",
        functions::register,
    );
}

#[functions]
mod functions {
    use super::*;

    /// Draws curves over a common axis, given as a map from names to arrays of [x, y], to a .png or .svg file.
    ///
    /// Example: `plot::lines(run::path("loss.png"), #{ loss: [[0, 2.3], [1, 1.9]] }, #{ x: "step" });`
    pub fn lines(path: &Path, series: Map, options: PlotOptions) -> Result<()> {
        let series: Vec<Series> = series.iter().map(|(name, points)| curve(name, points)).collect::<Result<_>>()?;
        plot::lines(path, &series, &options)
    }

    /// Draws bars with error bars, given as an array of [name, value, deviation], to a .png or .svg file.
    pub fn bars(path: &Path, bars: Array, options: PlotOptions) -> Result<()> {
        let bars: Vec<Bar> = bars.iter().map(bar).collect::<Result<_>>()?;
        plot::bars(path, &bars, &options)
    }

    /// Lays features [n, D] out in the plane, neighbours beside each other: t-SNE (van der Maaten and Hinton 2008) of their
    /// Euclidean distances, by Barnes and Hut's approximation, from the first two principal components, so that nothing
    /// is random. Returns points [n, 2] on the CPU. Needs more than 3 x perplexity + 1 features. Distances between groups
    /// and their sizes mean little.
    ///
    /// Example: `plot::points("map.png", plot::tsne(found.features, #{}), found.labels, images.class_names, #{});`
    pub fn tsne(features: &Tensor, options: TsneOptions) -> Result<tch::Tensor> {
        let mut progress = Progress::new("t-SNE", options.epochs);
        let none = serde_json::Map::new();
        let points = plot::tsne(features, &options, || progress.step(0, &none))?;
        progress.finish(&none);
        Ok(points)
    }

    /// Draws points [n, 2], each in the colour of its class, to a .png or .svg file. `labels` [n] are places in
    /// `class_names`, or -1 for none. Up to 20 classes are named in a legend.
    pub fn points(
        path: &Path,
        points: &Tensor,
        labels: &Tensor,
        class_names: Array,
        options: PlotOptions,
    ) -> Result<()> {
        let names = class_names.iter().map(Dynamic::to_string).collect();
        plot::points(path, &classes(points, labels, names)?, &options)
    }

    /// Draws a grid of images [B, 1 or 3, H, W], uint8 or float, to a .png file.
    pub fn images(path: &Path, batch: &Tensor, options: ImagesOptions) -> Result<()> {
        plot::images(path, batch, options.columns, options.zoom, (options.low, options.high))
    }

    /// Draws maps over the patches of one image [1 or 3, H, W] (uint8 or float), one per panel, to a .png file.
    /// `panels` is an array of #{ title, map (a tensor [rows, columns]; without it, the panel shows the image alone),
    /// gamma, frames (an array of [row, column, name]), grid ([rows, columns], for frames without a map) }. Colours are
    /// viridis, from the map's minimum to its maximum, as ((value - min) / (max - min))^gamma; the colour bar has the
    /// same gamma. Patches with a value of exactly 0 are faded and ignored in the range.
    pub fn overlays(path: &Path, image: &Tensor, panels: Array, options: OverlaysOptions) -> Result<()> {
        let panels: Vec<Overlay> = panels.iter().map(overlay).collect::<Result<_>>()?;
        plot::overlays(path, image, &panels, &options)
    }
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

/// Points by class, without classes that have none; those without a class are the last.
fn classes(points: &Tensor, labels: &Tensor, class_names: Vec<String>) -> Result<Vec<Class>> {
    let n = labels.numel();
    ensure!(
        points.size() == [n as i64, 2] && labels.dim() == 1,
        "plot::points: expected points [n, 2] and labels [n], found {} and {}",
        shape_text(points),
        shape_text(labels)
    );
    let xy: Vec<f64> = Vec::try_from(&points.f_to_kind(Kind::Double)?.f_contiguous()?.f_view(-1)?)?;
    let labels: Vec<i64> = Vec::try_from(&labels.f_to_kind(Kind::Int64)?)?;
    let named = class_names.len();
    let mut all: Vec<Class> = class_names.into_iter().map(|name| Class { name, points: Vec::new() }).collect();
    all.push(Class { name: "no label".into(), points: Vec::new() });
    for (label, p) in labels.into_iter().zip(xy.chunks(2)) {
        let class = match label {
            -1 => named,
            label => match usize::try_from(label).ok().filter(|i| *i < named) {
                Some(i) => i,
                None => bail!("plot::points: expected labels of {named} classes, found {label}"),
            },
        };
        all[class].points.push((p[0], p[1]));
    }
    all.retain(|class| !class.points.is_empty());
    Ok(all)
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

fn overlay(value: &Dynamic) -> Result<Overlay> {
    const KEYS: [&str; 5] = ["title", "map", "gamma", "frames", "grid"];
    let Some(map) = value.read_lock::<Map>() else {
        bail!("plot::overlays: expected a map as panel, found {}", found(value));
    };
    known_keys("key", "a panel of plot::overlays", map.keys().map(|key| key.as_str()), &KEYS)?;
    let count = |value: &Dynamic, what: &str| match value.as_int() {
        Ok(n) if n >= 0 => Ok(n as usize),
        _ => bail!("plot::overlays: {what}: expected a non-negative integer, found {}", found(value)),
    };
    let parts = |value: &Dynamic, n: usize, expected: &str| match value.read_lock::<Array>() {
        Some(list) if list.len() == n => Ok(list.clone()),
        _ => bail!("plot::overlays: expected {expected}, found {}", found(value)),
    };
    let frame = |value: &Dynamic| -> Result<Frame> {
        let list = parts(value, 3, "[row, column, name] as frame")?;
        let (row, column) = (count(&list[0], "row of a frame")?, count(&list[1], "column of a frame")?);
        Ok(Frame { row, column, name: list[2].to_string() })
    };
    let grid = |value: &Dynamic| -> Result<(usize, usize)> {
        let list = parts(value, 2, "[rows, columns] as grid")?;
        Ok((count(&list[0], "rows of a grid")?, count(&list[1], "columns of a grid")?))
    };
    let tensor = |value: &Dynamic| match value.read_lock::<Tensor>() {
        Some(tensor) => Ok(tensor.shallow_clone()),
        None => bail!("plot::overlays: expected a tensor [rows, columns] as map, found {}", found(value)),
    };
    let frames = match map.get("frames") {
        None => Vec::new(),
        Some(value) => match value.read_lock::<Array>() {
            Some(list) => list.iter().map(frame).collect::<Result<_>>()?,
            None => bail!("plot::overlays: expected an array of frames, found {}", found(value)),
        },
    };
    Ok(Overlay {
        title: map.get("title").map(Dynamic::to_string).unwrap_or_default(),
        map: map.get("map").map(tensor).transpose()?,
        gamma: map.get("gamma").map_or(Ok(1.0), |gamma| number(gamma, "plot::overlays: gamma"))?,
        frames,
        grid: map.get("grid").map(grid).transpose()?,
    })
}
