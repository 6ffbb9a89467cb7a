//! A contact sheet: images before and after the transforms.

use super::{loader, normalization};
use crate::data::batch::{self, Spare};
use crate::data::decode::Picture;
use crate::data::image::{Image, Interpolation, Region};
use crate::data::loader::LoaderOptions;
use crate::data::resample::resized_crop;
use crate::data::source::{self, SourceRef};
use crate::error::{Context as _, Result};
use crate::random::Key;
use crate::script::Steps;
use crate::train::plot::{self, SheetRow};
use std::path::Path;
use tch::{Kind, Tensor};

/// Versions of each image.
const VERSIONS: u64 = 6;

pub fn draw(path: &Path, source: &SourceRef, steps: &Steps, samples: usize, seed: u64) -> Result<()> {
    let mut indices: Vec<usize> = spread(source, samples, seed);
    indices.sort_unstable();
    let chosen = source::subset(source, &indices)?;
    let options = LoaderOptions { batch: indices.len(), shuffle: false, seed: Some(seed), ..Default::default() };
    let loader = loader(chosen, steps, &options)?;
    let classes = source.class_names().len();
    let mut versions: Vec<Vec<Image>> = vec![Vec::new(); indices.len()];
    for epoch in 0..VERSIONS {
        let batch = batch::next(&mut loader.epoch(epoch, 0)?, &mut Spare::default(), &steps.batch, classes)?;
        let batch = batch.context("the loader gave no batch")?;
        for (i, images) in versions.iter_mut().enumerate() {
            images.push(visible(&batch.images.f_get(i as i64)?, steps)?);
        }
    }
    let rows = indices.iter().zip(versions).map(|(index, versions)| {
        let image = Picture::open(&mut source.read(*index)?, false)?.whole()?;
        let class = usize::try_from(source.label(*index)).ok().and_then(|l| source.class_names().get(l));
        let class = class.map_or("no label", String::as_str);
        let label = format!("{class}   {}   {} x {}", source.name(*index), image.width, image.height);
        let mut images = vec![image];
        images.extend(versions);
        Ok(SheetRow { label, images: images.into_iter().map(fitted).collect::<Result<_>>()? })
    });
    plot::sheet(path, &rows.collect::<Result<Vec<_>>>()?)?;
    out!("\ncontact sheet: {} (each row: the image, then {VERSIONS} of what the model sees)", path.display());
    Ok(())
}

/// Images of as many classes as there can be, chosen by the seed.
fn spread(source: &SourceRef, samples: usize, seed: u64) -> Vec<usize> {
    let order = Key::new(seed).permutation(source.len());
    let mut seen = std::collections::HashMap::new();
    let mut ranked: Vec<(usize, usize)> = Vec::new();
    // Far enough into a large source to meet many classes.
    for index in order.into_iter().take(100_000).map(|i| i as usize) {
        let count = seen.entry(source.label(index)).or_insert(0usize);
        ranked.push((*count, index));
        *count += 1;
    }
    ranked.sort_by_key(|(count, _)| *count);
    ranked.into_iter().take(samples).map(|(_, index)| index).collect()
}

/// A float image [C, H, W] as the eye sees it: normalisation undone.
fn visible(image: &Tensor, steps: &Steps) -> Result<Image> {
    let [c, h, w] = image.size()[..] else { unreachable!("an image of a batch") };
    let mut image = image.f_to_kind(Kind::Float)?;
    if let Some(n) = normalization(steps) {
        let column = |values: &[f64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_view([-1, 1, 1])?) };
        image = image.f_mul(&column(&n.std)?)?.f_add(&column(&n.mean)?)?.f_to_kind(Kind::Float)?;
    }
    let bytes = image.f_mul_scalar(255.0)?.f_round()?.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)?;
    let bytes = bytes.f_permute([1, 2, 0])?.f_contiguous()?;
    let mut data = vec![0u8; bytes.numel()];
    bytes.f_copy_data_u8(&mut data, bytes.numel())?;
    Ok(Image::new(w as usize, h as usize, c as usize, data))
}

/// The image in three channels, as large as a cell of the sheet takes it.
fn fitted(image: Image) -> Result<Image> {
    let scale = plot::SHEET_CELL as f64 / image.width.max(image.height) as f64;
    let side = |n: usize| ((n as f64 * scale).round() as usize).max(1);
    let (width, height) = (side(image.width), side(image.height));
    let region = Region { top: 0, left: 0, height: image.height, width: image.width };
    // Small pictures are enlarged as they are.
    let by = if scale > 1.5 { Interpolation::Nearest } else { Interpolation::Bilinear };
    let mut image = resized_crop(Picture::Whole(image), region, width, height, by)?;
    if image.channels == 1 {
        image = Image::new(width, height, 3, image.data.iter().flat_map(|&v| [v, v, v]).collect());
    }
    Ok(image)
}
