//! Rows of labelled pictures as one PNG file.

use super::{PlotOptions, draw_to, png, shorten, wrap};
use crate::error::{Result, ensure};
use image::{Rgb, RgbImage, imageops};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Between pictures, and around everything.
const GAP: u32 = 6;
/// Height of a line of text.
const LINE: u32 = 20;
const TITLE_SIZE: f64 = 15.0;
const TEXT_SIZE: f64 = 14.0;
const CAPTION_SIZE: f64 = 12.0;

/// A picture with a line of text below.
pub struct Cell {
    /// At most as wide and high as a tile.
    pub picture: RgbImage,
    /// May be empty.
    pub caption: String,
}

/// A line of text with pictures below.
pub struct Row {
    /// What the pictures are of.
    pub title: String,
    /// Its pictures, as many as there are headings.
    pub cells: Vec<Cell>,
}

/// Draws rows of pictures in square tiles of `tile` pixels, below a title and a heading for each column.
pub fn draw(path: &Path, title: &[String], headings: &[String], rows: &[Row], tile: u32) -> Result<()> {
    ensure!(!rows.is_empty() && !headings.is_empty(), "there is nothing to draw: no pictures");
    let captions = rows.iter().flat_map(|r| &r.cells).any(|c| !c.caption.is_empty());
    let caption = if captions { LINE } else { 0 };
    let width = GAP + headings.len() as u32 * (tile + GAP);
    let letters = ((width - 2 * GAP) as f64 / (TITLE_SIZE * 0.56)) as usize;
    let titles: Vec<String> = title.iter().flat_map(|line| wrap(line, letters)).collect();
    let top = GAP + LINE * titles.len() as u32 + LINE;
    let row_height = LINE + tile + caption + GAP;
    let height = top + rows.len() as u32 * row_height + GAP;
    let column = |i: usize| GAP + i as u32 * (tile + GAP);

    let mut page = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let mut texts = Vec::new();
    for (i, line) in titles.iter().enumerate() {
        texts.push((line.clone(), GAP, GAP + LINE * i as u32, TITLE_SIZE, width - 2 * GAP));
    }
    for (i, heading) in headings.iter().enumerate() {
        texts.push((heading.clone(), column(i), top - LINE, CAPTION_SIZE, tile));
    }
    for (r, row) in rows.iter().enumerate() {
        let y = top + r as u32 * row_height;
        texts.push((row.title.clone(), GAP, y, TEXT_SIZE, width - 2 * GAP));
        for (i, cell) in row.cells.iter().enumerate() {
            let (w, h) = cell.picture.dimensions();
            ensure!(w <= tile && h <= tile, "a picture of {w} x {h} does not fit a tile of {tile}");
            let (left, above) = (column(i) + (tile - w) / 2, y + LINE + (tile - h) / 2);
            imageops::replace(&mut page, &cell.picture, left.into(), above.into());
            texts.push((cell.caption.clone(), column(i), y + LINE + tile, CAPTION_SIZE, tile));
        }
    }
    let size = PlotOptions { width: width.into(), height: height.into(), ..Default::default() };
    draw_to(path, &size, |size| {
        {
            let root = BitMapBackend::with_buffer(&mut page, size).into_drawing_area();
            for (text, x, y, size, room) in texts.iter().filter(|t| !t.0.is_empty()) {
                let style = style(*size);
                let fits = |text: &str| -> Result<bool> { Ok(root.estimate_text_size(text, &style)?.0 <= *room) };
                root.draw_text(&shorten(text, fits)?, &style, (*x as i32, (*y + LINE / 2) as i32))?;
            }
            root.present()?;
        }
        png(&page)
    })
}

fn style(size: f64) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).pos(Pos::new(HPos::Left, VPos::Center))
}
