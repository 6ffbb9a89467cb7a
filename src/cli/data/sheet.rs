//! Samples as they are, and as the model sees them.

use super::Split;
use crate::data::batch::Batch;
use crate::data::decode::LazyImage;
use crate::data::image::{AnyImage, Image, Interpolation, Region};
use crate::data::loader::{Loader, LoaderOptions};
use crate::data::pillow::resized_crop;
use crate::data::pipeline::{Pipeline, as_normalize};
use crate::data::source::{self, SourceRef};
use crate::error::{Context as _, Result, catch_panic, ensure};
use crate::plot::contact_sheet::{self, Cell, Row};
use crate::random::{Key, Permutation, Purpose};
use crate::tensor::shape_text;
use image::{RgbImage, imageops};
use std::collections::HashMap;
use std::path::Path;
use tch::{Kind, Tensor};

/// Versions of each sample, one per epoch.
const EPOCHS: u64 = 6;
/// Images are enlarged by a whole factor, up to this many pixels …
const SMALL: u32 = 160;
/// … and reduced to this many.
const LARGE: u32 = 256;

pub struct Samples {
    pub count: usize,
    pub seed: u64,
    pub threads: usize,
}

/// Draws the sheet. The versions come from the loader itself, each column a batch.
pub fn draw(file: &Path, title: &[String], split: &Split, pipeline: &Pipeline, samples: &Samples) -> Result<()> {
    let chosen = choose(&split.source, samples)?;
    let some = source::subset(&split.source, &chosen)?;
    let options = LoaderOptions {
        batch: chosen.len(),
        shuffle: false,
        workers: Some(samples.threads),
        prefetch: 1,
        seed: Some(samples.seed),
        ..Default::default()
    };
    let loader = Loader::new(some.clone(), pipeline.clone(), &options)?;
    let mut columns = Vec::new();
    for epoch in 0..EPOCHS {
        let mut epoch = loader.epoch(epoch, 0)?;
        let batch = epoch.next_batch()?.context("the loader made no batch")?;
        columns.push((images(&batch.images.numbers()?, pipeline)?, captions(&batch, &some)?));
    }
    let side = columns.iter().flat_map(|(images, _)| images).map(|p| p.width().max(p.height())).max().unwrap_or(1);
    let zoom = (SMALL / side).max(1);
    let tile = (side * zoom).clamp(SMALL, LARGE);
    let mut rows = Vec::new();
    for (i, &index) in chosen.iter().enumerate() {
        let original = whole(&split.source, index)?;
        let (width, height) = original.dimensions();
        let class = usize::try_from(some.label(i)).ok().and_then(|label| some.class_names().get(label));
        let class = class.map_or("no label".to_string(), |name| format!("class {} ({name})", some.label(i)));
        let title = format!("{class}, item {index}: {}, {width} × {height}", some.name(i));
        let own_zoom = (tile / width.max(height)).max(1);
        let mut cells = vec![Cell { picture: fitted(original, own_zoom, tile)?, caption: String::new() }];
        for (images, captions) in &columns {
            let picture = fitted(images[i].clone(), zoom, tile)?;
            cells.push(Cell { picture, caption: captions[i].clone() });
        }
        rows.push(Row { title, cells });
    }
    let mut headings = vec!["original".to_string()];
    headings.extend((0..EPOCHS).map(|e| format!("epoch {e}")));
    contact_sheet::draw(file, title, &headings, &rows, tile)
}

/// Indices of samples that decode, chosen by the seed alone from as many classes as possible, ordered by class.
fn choose(source: &SourceRef, samples: &Samples) -> Result<Vec<usize>> {
    let count = samples.count.min(source.len());
    let order = Permutation::new(Key::of(Purpose::Samples, samples.seed), source.len().max(1));
    let a_class = count.div_ceil(source.class_names().len().max(1));
    let (mut chosen, mut of_class): (Vec<usize>, HashMap<i64, usize>) = Default::default();
    // A second round takes any images if a class has too few.
    for most in [a_class, usize::MAX] {
        for index in (0..source.len()).map(|i| order.at(i)) {
            if chosen.len() == count {
                break;
            }
            let taken = of_class.entry(source.label(index)).or_default();
            if *taken < most && !chosen.contains(&index) && whole(source, index).is_ok() {
                *taken += 1;
                chosen.push(index);
            }
        }
    }
    ensure!(!chosen.is_empty(), "none of the images of {} can be read", source.describe());
    chosen.sort_by_key(|&index| (source.label(index), index));
    Ok(chosen)
}

/// An image as it is stored.
fn whole(source: &SourceRef, index: usize) -> Result<RgbImage> {
    catch_panic(|| match LazyImage::open_as(&mut source.read(index)?, false, source.mode())?.pixels()? {
        AnyImage::Bytes(image) => Ok(rgb(image)),
        AnyImage::Floats(image) => {
            let size = [1, image.channels, image.height, image.width].map(|n| n as i64);
            let image = shown(&Tensor::f_from_slice(&image.planar())?.f_view(size)?)?;
            bytes_of(&image)?.pop().context("one image")
        }
    })
}

/// The first channels of images [B, C, H, W] that have other than 1 or 3.
fn shown(images: &Tensor) -> Result<Tensor> {
    Ok(match images.size()[1] {
        2 => images.f_narrow(1, 0, 1)?,
        n if n > 3 => images.f_narrow(1, 0, 3)?,
        _ => images.shallow_clone(),
    })
}

fn rgb(image: Image) -> RgbImage {
    let Image { width, height, channels, data } = image;
    let data = if channels == 1 { data.into_iter().flat_map(|v| [v; 3]).collect() } else { data };
    RgbImage::from_raw(width as u32, height as u32, data).expect("three values a pixel")
}

/// An image that fits a tile: each pixel enlarged `zoom` times, or the whole reduced if it is larger.
fn fitted(image: RgbImage, zoom: u32, tile: u32) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    if zoom > 1 {
        return Ok(imageops::resize(&image, width * zoom, height * zoom, imageops::FilterType::Nearest));
    }
    let side = width.max(height);
    if side <= tile {
        return Ok(image);
    }
    let scaled = |n: u32| (n as f64 * tile as f64 / side as f64).round().max(1.0) as usize;
    let all = Region { left: 0, top: 0, width: width as usize, height: height as usize };
    let image = Image::new(all.width, all.height, 3, image.into_raw());
    let image = LazyImage::Decoded(image);
    Ok(rgb(resized_crop(image, all, scaled(width), scaled(height), Interpolation::Bicubic)?))
}

/// What the model gets, as images: normalisation is undone, everything else is left as it is. Of more than 3 channels, the
/// first 3 are shown as red, green and blue.
fn images(images: &Tensor, pipeline: &Pipeline) -> Result<Vec<RgbImage>> {
    let size = images.size();
    ensure!(size.len() == 4 && size[1] > 0, "the transforms give {}, expected images [B, C, H, W]", shape_text(images));
    let mut images = images.f_to_kind(Kind::Double)?;
    for n in pipeline.on_batch().iter().rev().filter_map(as_normalize) {
        let column = |values: &[f64]| Tensor::f_from_slice(values)?.f_view([1, -1, 1, 1]);
        images = images.f_mul(&column(&n.std)?)?.f_add(&column(&n.mean)?)?;
    }
    bytes_of(&shown(&images)?)
}

/// Pictures of images [B, 1 or 3, H, W] in [0, 1].
fn bytes_of(images: &Tensor) -> Result<Vec<RgbImage>> {
    let size = images.size();
    let [n, h, w] = [size[0], size[2], size[3]];
    let bytes = images
        .f_nan_to_num(0.0, 1.0, 0.0)?
        .f_mul_scalar(255.0)?
        .f_round()?
        .f_clamp(0.0, 255.0)?
        .f_to_kind(Kind::Uint8)?
        .f_expand([n, 3, h, w], false)?
        .f_permute([0, 2, 3, 1])?
        .f_contiguous()?;
    (0..n)
        .map(|i| {
            let mut pixels = vec![0; (3 * h * w) as usize];
            bytes.f_get(i)?.f_copy_data_u8(&mut pixels, (3 * h * w) as usize)?;
            Ok(RgbImage::from_raw(w as u32, h as u32, pixels).expect("three values a pixel"))
        })
        .collect()
}

/// The target of each image, if it is a mixture: "0.70 cat + 0.30 dog".
fn captions(batch: &Batch, source: &SourceRef) -> Result<Vec<String>> {
    let n = batch.labels.size()[0] as usize;
    let size = batch.targets.size();
    if batch.targets.kind() == Kind::Int64 || size.len() != 2 || size[1] as usize != source.class_names().len() {
        return Ok(vec![String::new(); n]);
    }
    let (weights, classes) = batch.targets.f_topk(size[1].min(2), 1, true, true)?;
    let one = |i: usize| -> Result<String> {
        let mut parts = Vec::new();
        for k in 0..classes.size()[1] {
            let at = [i as i64, k];
            let weight = weights.f_double_value(&at)?;
            if weight >= 0.05 || k == 0 {
                parts.push(format!("{weight:.2} {}", source.class_names()[classes.f_int64_value(&at)? as usize]));
            }
        }
        Ok(parts.join(" + "))
    };
    (0..n).map(one).collect()
}
