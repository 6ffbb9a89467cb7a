//! Batches of augmented images, made ahead of the training step by a thread of their own.
//!
//! What a batch holds depends on (seed, epoch, sample) alone. Images stay 8-bit until they are on
//! the device, where they are normalised.

use super::{Source, SourceRef};
use crate::device;
use crate::error::{Result, bail, ensure};
use crate::options;
use crate::random::Key;
use rand::Rng;
use rayon::prelude::*;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

options! {
    /// How a source becomes batches.
    pub struct LoaderOptions {
        /// Images in a batch.
        batch: usize = 128,
        /// Whether each epoch has an order of its own.
        shuffle: bool = true,
        /// Whether a short last batch is left out.
        drop_last: bool = false,
        /// Whether an image is mirrored with probability ½.
        flip: bool = false,
        /// Pads with zeros by this many pixels on each side, then crops the original size at random.
        pad_crop: usize = 0,
        /// Subtracted from the values in [0, 1].
        mean: f64 = 0.5,
        /// What the result is divided by.
        std: f64 = 0.5,
        /// Seed of order and augmentation; () means the run's.
        seed: Option<u64> = None,
    }
}

/// Makes the batches of any epoch.
pub struct Loader {
    source: SourceRef,
    options: LoaderOptions,
    seed: u64,
}

/// One batch on the run's device.
pub struct Batch {
    /// float32 [B, C, H, W], normalised.
    pub images: Tensor,
    /// int64 [B].
    pub labels: Tensor,
    /// int64 [B]: the places of the images in the source.
    pub indices: Tensor,
}

/// What the worker hands over.
struct RawBatch {
    pixels: Vec<u8>,
    labels: Vec<i64>,
    indices: Vec<i64>,
}

/// The batches of one epoch, in order.
pub struct Epoch {
    batches: Receiver<RawBatch>,
    left: usize,
    shape: [usize; 3],
    mean: f64,
    std: f64,
    waited: Duration,
}

impl Loader {
    /// A loader of `source`; the seed is the options' or the run's.
    pub fn new(source: SourceRef, options: &LoaderOptions) -> Result<Self> {
        let o = options;
        ensure!(o.batch >= 1, "batch must be at least 1, found {}", o.batch);
        ensure!(o.std > 0.0, "std must be positive, found {}", o.std);
        ensure!(
            !o.drop_last || o.batch <= source.len(),
            "batch {} with drop_last leaves nothing of {} images",
            o.batch,
            source.len()
        );
        let [_, height, width] = source.shape();
        ensure!(
            o.pad_crop < height.min(width),
            "pad_crop must be smaller than the images of {height} x {width} pixels, found {}",
            o.pad_crop
        );
        let seed = o.seed.unwrap_or_else(crate::random::seed);
        Ok(Self { source, options: o.clone(), seed })
    }

    /// What the batches are made of.
    pub fn source(&self) -> &SourceRef {
        &self.source
    }

    /// Images in a batch.
    pub fn batch(&self) -> usize {
        self.options.batch
    }

    /// Batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        match self.options.drop_last {
            true => self.source.len() / self.options.batch,
            false => self.source.len().div_ceil(self.options.batch),
        }
    }

    /// The batches of epoch `epoch`.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        // Two batches ahead: enough to hide a step's jitter, little enough to bound memory.
        let (sender, batches) = sync_channel(2);
        let (source, options, key) = (self.source.clone(), self.options.clone(), Key::new(self.seed).fold(epoch));
        let steps = self.steps_per_epoch();
        std::thread::Builder::new()
            .name("nepa-loader".into())
            .spawn(move || {
                let order: Vec<u32> = match options.shuffle {
                    true => key.permutation(source.len()),
                    false => (0..source.len() as u32).collect(),
                };
                for indices in order.chunks(options.batch).take(steps) {
                    // The receiver is gone when the loop was left early.
                    if sender.send(fill(source.as_ref(), &options, key, indices)).is_err() {
                        return;
                    }
                }
            })
            .expect("the system starts threads");
        Epoch {
            batches,
            left: steps,
            shape: self.source.shape(),
            mean: self.options.mean,
            std: self.options.std,
            waited: Duration::ZERO,
        }
    }
}

fn fill(source: &dyn Source, options: &LoaderOptions, key: Key, indices: &[u32]) -> RawBatch {
    let n = source.shape().iter().product::<usize>();
    let mut pixels = vec![0u8; n * indices.len()];
    pixels.par_chunks_exact_mut(n).zip(indices).for_each(|(out, &index)| {
        augment(source.pixels(index as usize), source.shape(), options, key.fold(1 + index as u64), out);
    });
    RawBatch {
        pixels,
        labels: indices.iter().map(|&i| source.label(i as usize)).collect(),
        indices: indices.iter().map(|&i| i as i64).collect(),
    }
}

/// Padded crop and flip of one image, drawn from the sample's own key.
fn augment(image: &[u8], [channels, height, width]: [usize; 3], options: &LoaderOptions, key: Key, out: &mut [u8]) {
    let pad = options.pad_crop;
    if pad == 0 && !options.flip {
        out.copy_from_slice(image);
        return;
    }
    let mut rng = key.rng();
    let (top, left) = (rng.random_range(0..=2 * pad), rng.random_range(0..=2 * pad));
    let mirror = options.flip && rng.random::<bool>();
    for c in 0..channels {
        for y in 0..height {
            // Row and column in the unpadded image; outside it lie zeros.
            let Some(row) = (y + top).checked_sub(pad).filter(|r| *r < height) else { continue };
            let source = &image[(c * height + row) * width..][..width];
            let target = &mut out[(c * height + y) * width..][..width];
            for x in 0..width {
                if let Some(column) = (x + left).checked_sub(pad).filter(|k| *k < width) {
                    target[if mirror { width - 1 - x } else { x }] = source[column];
                }
            }
        }
    }
}

impl Epoch {
    /// Time spent waiting for the loader so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Batches not yet taken.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The next batch on the run's device, or `None` after the last.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.left == 0 {
            return Ok(None);
        }
        let start = Instant::now();
        let Ok(raw) = self.batches.recv() else {
            bail!("the loader's thread ended with {} batches to go", self.left);
        };
        self.waited += start.elapsed();
        self.left -= 1;
        let [c, h, w] = self.shape.map(|n| n as i64);
        let size = [raw.labels.len() as i64, c, h, w];
        let device = device::current();
        let images = Tensor::f_from_data_size(&raw.pixels, &size, Kind::Uint8)?
            .f_to_device(device)?
            .f_to_kind(Kind::Float)?
            .f_div_scalar(255.0)?
            .f_sub_scalar(self.mean)?
            .f_div_scalar(self.std)?;
        Ok(Some(Batch {
            images,
            labels: Tensor::f_from_slice(&raw.labels)?.f_to_device(device)?,
            indices: Tensor::f_from_slice(&raw.indices)?.f_to_device(device)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        (0..20).collect()
    }

    #[test]
    fn crops_shift_by_at_most_the_padding_and_flips_mirror() {
        let options = LoaderOptions { pad_crop: 1, flip: true, ..Default::default() };
        let (mut seen, shape) = (std::collections::HashSet::new(), [1, 4, 5]);
        for sample in 0..400 {
            let mut out = vec![0; 20];
            augment(&image(), shape, &options, Key::new(1).fold(sample), &mut out);
            let fits = |dy: i64, dx: i64, mirror: bool| {
                (0..4i64).all(|y| {
                    (0..5i64).all(|x| {
                        let (row, column) = (y + dy, x + dx);
                        let inside = (0..4).contains(&row) && (0..5).contains(&column);
                        let expected = if inside { (row * 5 + column) as u8 } else { 0 };
                        out[(y * 5 + if mirror { 4 - x } else { x }) as usize] == expected
                    })
                })
            };
            let found = (-1..=1).flat_map(|dy| (-1..=1).flat_map(move |dx| [(dy, dx, false), (dy, dx, true)]));
            let found: Vec<_> = found.filter(|&(dy, dx, m)| fits(dy, dx, m)).collect();
            assert_eq!(found.len(), 1, "{out:?}");
            seen.insert(found[0]);
        }
        assert_eq!(seen.len(), 18, "every shift and both orientations occur");
    }
}
