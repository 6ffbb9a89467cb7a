//! Where the time goes: single steps on one thread, in processor time.

use crate::process::processor_time;
use nepa::data::decode::LazyImage;
use nepa::data::image::{Image, Interpolation, Region};
use nepa::data::pillow::{resize_then_crop, resized_crop};
use nepa::data::source::{self, StoredImage};
use nepa::data::transform::{RandAugment, RandAugmentOptions, Transform as _};
use nepa::error::{Context as _, Result, bail};
use std::borrow::Cow;
use std::hint::black_box;
use std::path::Path;

/// How many pictures are taken: large ones fill the memory.
const MOST: usize = 224;
/// The side that a random resized crop has on average, of the image's: it takes 54 % of the area.
const SHARE: f64 = 0.734;

/// The region of a random resized crop of average area, in the middle.
fn part(width: usize, height: usize) -> Region {
    let [w, h] = [width, height].map(|side| ((side as f64 * SHARE) as usize).max(1));
    Region { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// Prints the time of each step, over the pictures of a folder.
pub fn print(folder: &Path) -> Result<()> {
    let images = source::open(folder.to_str().context("a temporary folder has a plain name")?, None)?;
    let files: Vec<Vec<u8>> = (0..images.len().min(MOST))
        .map(|i| match images.read(i)? {
            StoredImage::Encoded(bytes) => Ok(bytes.into_owned()),
            StoredImage::Pixels(_) => bail!("files were expected"),
        })
        .collect::<Result<_>>()?;
    let with = |file: &Vec<u8>, f: &dyn Fn(LazyImage<'_>) -> Result<Image>| {
        f(LazyImage::open(&mut StoredImage::Encoded(Cow::Borrowed(file)), false)?)
    };
    let decode = |p: LazyImage<'_>| p.decode();
    let decode_part = |p: LazyImage<'_>| {
        let (width, height) = p.size();
        Ok(p.decode_region(part(width, height))?.image)
    };
    let evaluate = |p: LazyImage<'_>| {
        let (width, height) = p.size();
        let shorter = width.min(height);
        let [w, h] = [width, height].map(|side| 256 * side / shorter);
        let centre = Region { left: (w - 224) / 2, top: (h - 224) / 2, width: 224, height: 224 };
        resize_then_crop(p, w, h, centre, Interpolation::Bicubic)
    };
    // Steps that do not decode take one picture: the first.
    let whole = with(&files[0], &decode)?;
    let region = part(whole.width, whole.height);
    let small = resized_crop(LazyImage::Decoded(whole.clone()), region, 224, 224, Interpolation::Bilinear)?;
    // Without the copy of the image that each call takes.
    let copy = time(&files, |_| Ok(whole.clone()))?;
    let resize = |by| -> Result<f64> {
        Ok(time(&files, |_| resized_crop(LazyImage::Decoded(whole.clone()), region, 224, 224, by))? - copy)
    };
    let augment = RandAugment::new("rand-m9-mstd0.5-inc1", &RandAugmentOptions::default())?;
    let mut rng = nepa::random::Key::new(1).rng();
    let size = format!("{} x {}", region.width, region.height);
    let rows: Vec<(String, f64)> = vec![
        ("decode the whole image (the limit of full decoding)".into(), time(&files, |f| with(f, &decode))?),
        ("decode 54 % of it, as a random crop needs".into(), time(&files, |f| with(f, &decode_part))?),
        ("decode and resize for evaluation".into(), time(&files, |f| with(f, &evaluate))?),
        (format!("resize {size} to 224, bilinear"), resize(Interpolation::Bilinear)?),
        (format!("resize {size} to 224, bicubic"), resize(Interpolation::Bicubic)?),
        ("RandAugment, 224".into(), time(&files, |_| augment.apply(small.clone(), &mut rng))?),
    ];
    println!("one core, alone, the first {} pictures:", files.len());
    for (name, seconds) in rows {
        println!("  {name:<56}{:>8.0} µs {:>8.0} images/s", seconds * 1e6, 1.0 / seconds);
    }
    Ok(())
}

/// Seconds of processor time for one file: the least of some rounds.
fn time<R>(files: &[Vec<u8>], mut f: impl FnMut(&Vec<u8>) -> Result<R>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = processor_time();
        for file in files {
            black_box(f(file)?);
        }
        best = best.min((processor_time() - start) / files.len() as f64);
    }
    Ok(best)
}
