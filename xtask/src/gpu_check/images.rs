//! Synthetic JPEG files, about as large as ImageNet's.

use anyhow::{Context, Result};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

pub struct Images {
    /// Classes below train/.
    pub folder: PathBuf,
    /// Of a file on average.
    pub bytes: f64,
}

const CLASSES: usize = 8;

/// Makes some pictures, and many links to them: a loader decodes each as if it were another.
pub fn make(folder: &Path, few: bool) -> Result<Images> {
    let (pictures, files, [width, height]) = if few { (4, 64, [64, 48]) } else { (8, 4096, [500, 375]) };
    let classes: Vec<PathBuf> = (0..CLASSES).map(|i| folder.join(format!("train/class-{i}"))).collect();
    for class in &classes {
        fs::create_dir_all(class).with_context(|| format!("cannot create {}", class.display()))?;
    }
    let original = |i: usize| folder.join(format!("train/class-{}/{i}.jpg", i % CLASSES));
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let sizes = thread::scope(|scope| {
        let make =
            |first: usize| (first..pictures).step_by(cores).map(|i| write(&original(i), i, width, height)).collect();
        let threads: Vec<_> =
            (0..cores).map(|first| scope.spawn(move || -> Result<Vec<usize>> { make(first) })).collect();
        threads.into_iter().map(|thread| thread.join().expect("a picture is made")).collect::<Result<Vec<_>>>()
    })?;
    for i in pictures..files {
        let (from, to) = (original(i % pictures), classes[i % CLASSES].join(format!("{i}.jpg")));
        // Not every file system has links.
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    let bytes = sizes.concat().into_iter().sum::<usize>() as f64 / pictures as f64;
    Ok(Images { folder: folder.into(), bytes })
}

/// Writes a picture of waves with noise on them, whose strength makes the file's size; returns that.
fn write(path: &Path, seed: usize, width: u16, height: u16) -> Result<usize> {
    const NOISE: f64 = 80.;
    let mut state = seed as u32 + 1;
    let mut noise = || {
        // Numerical Recipes' generator: good enough to look at.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    let wave = |x: u16, y: u16, channel: usize| {
        let (slow, fast) = ((seed + 3 * channel) as f64, (seed % 7 + channel + 2) as f64);
        let (x, y) = (f64::from(x) / 60., f64::from(y) / 60.);
        128. + 60. * (x + slow).sin() * (y - slow).cos() + 30. * (fast * x + y).sin()
    };
    let mut pixels = Vec::with_capacity(usize::from(width) * usize::from(height) * 3);
    for y in 0..height {
        for x in 0..width {
            let grey = NOISE * noise();
            pixels.extend((0..3).map(|channel| (wave(x, y, channel) + grey) as u8));
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.encode(&pixels, width, height, ColorType::Rgb).context("cannot make a JPEG")?;
    fs::write(path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(bytes.len())
}
