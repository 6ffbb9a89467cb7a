//! The pictures that both sides read: of any labelled data, as files in class folders.

use image::{ExtendedColorType, ImageFormat};
use nepa::data::decode::LazyImage;
use nepa::data::source::{self, SourceRef};
use nepa::error::{Context as _, Result, ensure};
use nepa::random::{Key, Permutation};
use rayon::prelude::*;
use std::fs;
use std::path::Path;

/// Writes the training images of `data`, at most `most`, chosen at random, and the held-out ones as train/ and
/// validation/. Returns how many classes they have.
pub fn write(data: &str, held_out_split: &str, most: Option<usize>, to: &Path) -> Result<usize> {
    let train = source::open(data, Some("train"))?;
    let held_out = source::open(data, Some(held_out_split))?;
    ensure!(!train.class_names().is_empty(), "{}: expected labelled images", train.describe());
    println!(
        "{}: {} images, {}: {}",
        train.describe(),
        most.unwrap_or(usize::MAX).min(train.len()),
        held_out.describe(),
        held_out.len()
    );
    write_split(&train, most.unwrap_or(usize::MAX), &to.join("train"))?;
    write_split(&held_out, usize::MAX, &to.join("validation"))?;
    Ok(train.class_names().len())
}

fn write_split(images: &SourceRef, most: usize, to: &Path) -> Result<()> {
    for label in 0..images.class_names().len() {
        fs::create_dir_all(to.join(format!("{label:04}"))).with_context(|| format!("cannot make {}", to.display()))?;
    }
    let order = Permutation::new(Key::new(0), images.len());
    (0..images.len().min(most)).into_par_iter().try_for_each(|i| {
        let index = order.at(i);
        let label = images.label(index);
        ensure!(label >= 0, "{}: {} has no label", images.describe(), images.name(index));
        let file = to.join(format!("{label:04}/{index:06}.png"));
        if file.exists() {
            return Ok(());
        }
        let mut content = images.read(index)?;
        let image = LazyImage::open(&mut content, false)?.decode()?;
        let color = if image.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        let (width, height) = (image.width as u32, image.height as u32);
        image::save_buffer_with_format(&file, &image.data, width, height, color, ImageFormat::Png)
            .with_context(|| format!("cannot write {}", file.display()))
    })
}
