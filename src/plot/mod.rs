//! Pictures of a run as PNG or SVG files: curves, bars with error bars, maps of features, and grids of images. The font
//! is in the binary, so that PNG files look the same everywhere.

mod bars;
pub mod contact_sheet;
mod curves;
mod images;
mod overlays;
mod panels;
mod points;
mod tsne;

pub use bars::{Bar, bars};
pub use curves::{Series, lines};
pub use images::images;
pub use overlays::{Frame, Overlay, OverlaysOptions, overlays};
pub use panels::{Curve, Key, Panel, Panels, key_colour, panel_svgs, panels};
pub use points::{Class, points};
pub use tsne::{TsneOptions, tsne};

use crate::error::{Context as _, Result, bail, ensure};
use crate::files::write_atomic;
use crate::options;
use crate::text::visible;
use image::RgbImage;
use image::codecs::png::PngEncoder;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;
use std::path::Path;
use std::sync::Once;

const FONT: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");
/// Colours that colour-blind readers can distinguish too (Okabe and Ito).
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

/// The greatest |value| that is drawn: with larger ones, differences and ratios of values would be infinite.
const MOST: f64 = 1e150;
/// The least value of a logarithmic axis, and the least of a constant curve that has an axis of its own size.
const LEAST: f64 = 1.0 / MOST;
/// The least width of an axis, as a fraction of its values: below, ticks could not be told apart.
const LEAST_WIDTH: f64 = 1e-12;

/// The point as it is drawn, with coordinates of at most [`MOST`]; none if it is not finite.
fn drawable((x, y): (f64, f64)) -> Option<(f64, f64)> {
    (x.is_finite() && y.is_finite()).then(|| (x.clamp(-MOST, MOST), y.clamp(-MOST, MOST)))
}

/// Least and greatest value, with room around them where they are too close.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for v in values {
        low = low.min(v);
        high = high.max(v);
    }
    let least = LEAST_WIDTH * low.abs().max(high.abs());
    match low <= high {
        false => (0.0, 1.0),
        true if low == high => {
            let room = if low.abs() > LEAST { 0.1 * low.abs() } else { 0.5 };
            (low - room, high + room)
        }
        true if high - low < least => (low - least, high + least),
        true => (low, high),
    }
}

fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let room = 0.04 * (high - low);
    (low - room, high + room)
}

/// The format of a picture, by its extension.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Pixels.
    Png,
    /// Lines and letters; text is in the viewer's font.
    Svg,
}

impl Format {
    /// The format that a path asks for.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "png" => Ok(Self::Png),
            "svg" => Ok(Self::Svg),
            _ => bail!("pictures of curves and bars are .png or .svg files, found {}", path.display()),
        }
    }
}

/// What plotters draws, on pixels and in vectors alike.
trait Drawing {
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, format: Format) -> Result<()>
    where
        DB::ErrorType: 'static;
}

/// Draws a picture in the format that its path asks for.
fn draw(path: &Path, options: &PlotOptions, drawing: &impl Drawing) -> Result<()> {
    fn on<DB: DrawingBackend>(backend: DB, drawing: &impl Drawing, format: Format) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        drawing.draw(&area, format)?;
        Ok(area.present()?)
    }
    let format = Format::of(path)?;
    draw_file(path, options, |size| match format {
        Format::Png => on_pixels(size, |backend| on(backend, drawing, format)),
        Format::Svg => {
            let mut text = String::new();
            on(SVGBackend::with_string(&mut text, size), drawing, format)?;
            Ok(visible(&text).into_owned().into_bytes())
        }
    })
}

/// Draws pixels, and gives the bytes of their PNG file.
fn on_pixels((width, height): (u32, u32), draw: impl FnOnce(BitMapBackend) -> Result<()>) -> Result<Vec<u8>> {
    let mut pixels = RgbImage::new(width, height);
    draw(BitMapBackend::with_buffer(&mut pixels, (width, height)))?;
    png(&pixels)
}

/// The bytes of a PNG file. In memory: what the crate writes to a file last it writes as it lets go of it, and then an
/// error is lost with the end of the picture.
fn png(pixels: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pixels.write_with_encoder(PngEncoder::new(&mut bytes))?;
    Ok(bytes)
}

/// Draws a picture of pixels to a PNG file; `draw` gets its size and gives its bytes.
fn draw_to(path: &Path, options: &PlotOptions, draw: impl FnOnce((u32, u32)) -> Result<Vec<u8>>) -> Result<()> {
    ensure!(
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")),
        "pictures of images are PNG files, found {}",
        path.display()
    );
    draw_file(path, options, draw)
}

/// Writes a picture whole or not at all, in its folder, which is created if needed.
fn draw_file(path: &Path, options: &PlotOptions, draw: impl FnOnce((u32, u32)) -> Result<Vec<u8>>) -> Result<()> {
    ensure!(
        (100..=8000).contains(&options.width) && (100..=8000).contains(&options.height),
        "a picture is 100 to 8000 pixels wide and high, found {} x {}",
        options.width,
        options.height
    );
    crate::dist::on_rank0(&format!("the drawing of {}", path.display()), || {
        fonts();
        let drawn = draw((options.width as u32, options.height as u32));
        write_atomic(path, &drawn.with_context(|| format!("cannot draw {}", path.display()))?)
    })
}

/// A number on an axis from `low` to `high`, whose numbers are all written in one way. It has the digits that tell it
/// apart from its neighbours: an axis has ten numbers at most, so that they are about a tenth of it apart, or more.
pub(crate) fn tick(value: f64, (low, high): (f64, f64)) -> String {
    number(value, low.abs().max(high.abs()), (high - low) / 10.0)
}

/// A number with the digits that tell it apart from others of about the size `size`, if they are at least `apart`.
fn number(value: f64, size: f64, apart: f64) -> String {
    // What rounding leaves of 0.
    if value.abs() < 1e-5 * apart {
        return "0".into();
    }
    // The place of the last digit, as a power of 10.
    let last = apart.log10().floor();
    let decimals = |first: f64| (first - last).clamp(0.0, 15.0) as usize;
    let text = match (1e-2..1e5).contains(&size) {
        true => format!("{value:.*}", decimals(0.0)),
        false => format!("{value:.*e}", decimals(value.abs().log10().floor())),
    };
    let (digits, exponent) = text.split_at(text.find('e').unwrap_or(text.len()));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    format!("{digits}{exponent}")
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

/// The most letters of a line: no picture is wide enough for more.
const MOST_LETTERS: usize = 2000;

/// The text, or as much of its beginning as fits, with an ellipsis.
pub(super) fn shorten(text: &str, fits: impl Fn(&str) -> Result<bool>) -> Result<String> {
    let text = visible(text);
    let letters: Vec<char> = text.chars().take(MOST_LETTERS).collect();
    if letters.len() < MOST_LETTERS && fits(&text)? {
        return Ok(text.into_owned());
    }
    let short = |n: usize| format!("{}…", letters[..n].iter().collect::<String>().trim_end());
    // The longest that fits lies between these numbers of letters.
    let (mut fitting, mut too_many) = (0, letters.len());
    if !fits(&short(0))? {
        return Ok(String::new());
    }
    while fitting + 1 < too_many {
        let middle = fitting.midpoint(too_many);
        if fits(&short(middle))? { fitting = middle } else { too_many = middle }
    }
    Ok(short(fitting))
}

#[cfg(test)]
mod tests {
    use super::{Curve, Key, Panel, Panels, number, panel_svgs, range, shorten, tick};

    #[test]
    fn an_axis_is_never_too_narrow_or_endless() {
        for (values, axis) in [
            (&[][..], (0.0, 1.0)),
            (&[2.0, 1.0], (1.0, 2.0)),
            (&[-10.0], (-11.0, -9.0)),
            (&[1e20, 1e20], (9e19, 1.1e20)),
            (&[1e-3], (9e-4, 1.1e-3)),
            (&[0.0, 0.0], (-0.5, 0.5)),
            (&[5e-324], (-0.5, 0.5)),
        ] {
            assert_eq!(range(values.iter().copied()), axis);
        }
        let step = 2f64.powi(53);
        let (low, high) = range([step, step + 2.0].into_iter());
        assert!(high - low > 1e4 && high - low < 1e5, "{low} … {high}");
    }

    #[test]
    fn numbers_have_the_digits_that_tell_them_apart() {
        let shown = |values: &[f64], axis: (f64, f64)| values.iter().map(|v| tick(*v, axis)).collect::<Vec<_>>();
        assert_eq!(shown(&[0.9992, 0.9994, 0.9998], (0.9991, 0.9999)), ["0.9992", "0.9994", "0.9998"]);
        assert_eq!(shown(&[9e-4, 9.5e-4, 1e-3, 1.05e-3], (8.9e-4, 1.11e-3)), ["9e-4", "9.5e-4", "1e-3", "1.05e-3"]);
        assert_eq!(shown(&[-1.0, 1e-17, 0.1 + 0.2, 1.0], (-1.1, 1.1)), ["-1", "0", "0.3", "1"]);
        assert_eq!(shown(&[0.0, 50.0, 100.0], (-4.0, 104.0)), ["0", "50", "100"]);
        assert_eq!(shown(&[0.0, 1e5, 150_020.0], (0.0, 2e5)), ["0", "1e5", "1.5e5"]);
        assert_eq!(shown(&[150_000.0, 150_020.0], (150_000.0, 150_100.0)), ["1.5e5", "1.5002e5"]);
        assert_eq!(shown(&[1e-20, -2e-20], (-2e-20, 2e-20)), ["1e-20", "-2e-20"]);
        assert_eq!((number(0.812_34, 1.0, 2e-4), number(0.0, 1.0, 1.0)), ("0.8123".into(), "0".into()));
    }

    /// Through the drawing itself, which chooses where the numbers stand.
    #[test]
    fn no_number_stands_on_an_axis_twice() {
        for values in [&[0.9991, 0.9999][..], &[1e-3], &[64.7312, 64.7321], &[1e5, 100_007.0], &[-2.5e-7, 3e-7]] {
            let points = values.iter().enumerate().map(|(i, y)| (i as f64 + 1.0, *y)).collect();
            let curves = vec![Curve { key: 0, points, band: Vec::new() }];
            let panels = vec![Panel { title: "values".into(), log: false, curves }];
            let keys = vec![Key { name: "a".into(), hue: 0, shade: 0 }];
            let picture = Panels { header: Vec::new(), x: "step".into(), keys, panels, smooth: 1 };
            let svg = panel_svgs(&picture, 100).unwrap().remove(0);
            // Numbers of the vertical axis end at it.
            let shown: Vec<f64> = svg
                .split("<text ")
                .filter(|text| text.contains("text-anchor=\"end\""))
                .map(|text| text.split_once('>').unwrap().1.split('<').next().unwrap().trim().parse().unwrap())
                .collect();
            assert!(shown.len() > 2 && shown.windows(2).all(|pair| pair[0] != pair[1]), "{values:?}: {shown:?}");
        }
    }

    #[test]
    fn text_that_is_too_long_is_cut_where_it_fits() {
        let fits = |n: usize| move |text: &str| Ok(text.chars().count() <= n);
        assert_eq!(shorten("abc def", fits(7)).unwrap(), "abc def");
        assert_eq!(shorten("abc def", fits(6)).unwrap(), "abc d…");
        assert_eq!(shorten("abc def", fits(5)).unwrap(), "abc…");
        assert_eq!(shorten("abc", fits(0)).unwrap(), "");
        assert_eq!(shorten("a\x1b[m", fits(9)).unwrap(), "a\\x1b[m");
        // A megabyte is cut, not measured letter by letter.
        assert_eq!(shorten(&"x".repeat(1 << 20), fits(100)).unwrap().chars().count(), 100);
    }
}
