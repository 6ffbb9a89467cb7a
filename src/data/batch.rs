//! What happens to a whole batch, on the run's device: normalisation, erasing, mixing.

use super::loader::Epoch;
use super::transform::{EraseMode, Mix, Mixing, RandomErasing};
use crate::device;
use crate::error::{Diagnostic, Result, bail, ensure};
use crate::ffi;
use crate::positions::Positions;
use crate::random;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Images with their labels, on the run's device.
#[derive(Debug)]
pub struct Batch {
    /// float32 [B, C, H, W].
    pub images: Tensor,
    /// int64 [B].
    pub labels: Tensor,
    /// What to learn: the labels, or after mixing float32 [B, classes].
    pub targets: Tensor,
    /// int64 [B]: the places of the images in the source.
    pub indices: Tensor,
    /// The places of the images in the batch that all processes compute together.
    pub samples: Positions,
    /// How much the mean over these images counts where the processes' gradients are averaged.
    pub share: f64,
}

/// A step from batch to batch.
#[derive(Clone)]
pub enum BatchStep {
    /// (x − mean) / std of each channel, x in [0, 1].
    Normalize(Normalize),
    /// Random erasing.
    Erase(RandomErasing),
    /// Mixup and CutMix.
    Mix(Rc<Mixing>),
    /// A function of the user's.
    Call(Rc<dyn Fn(Batch) -> Result<Batch>>),
}

/// Mean and standard deviation of each channel, or one for all.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalize {
    /// Subtracted from values in [0, 1].
    pub mean: Vec<f64>,
    /// What the result is divided by.
    pub std: Vec<f64>,
}

impl Normalize {
    /// Checks the values.
    pub fn new(mean: Vec<f64>, std: Vec<f64>) -> Result<Self> {
        for (name, values) in [("mean", &mean), ("std", &std)] {
            ensure!(
                [1, 3].contains(&values.len()) && values.iter().all(|v| v.is_finite()),
                "normalize: expected {name} to be one number or three, found {values:?}"
            );
        }
        if let Some(wrong) = std.iter().find(|s| **s <= 0.0) {
            bail!("normalize: expected std to be positive, found {wrong}");
        }
        Ok(Self { mean, std })
    }

    fn of_channel(values: &[f64], channel: usize) -> f32 {
        values[if values.len() == 1 { 0 } else { channel }] as f32
    }

    /// Of images [B, C, H, W] in [0, 1].
    fn apply(&self, images: &Tensor) -> Result<Tensor> {
        self.check(images.size()[1] as usize)?;
        let column = |values: &[f64]| -> Result<Tensor> {
            let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            Ok(Tensor::f_from_slice(&values)?.f_view([1, -1, 1, 1])?.f_to_device(images.device())?)
        };
        Ok(images.f_sub(&column(&self.mean)?)?.f_div(&column(&self.std)?)?)
    }

    fn check(&self, channels: usize) -> Result<()> {
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            ensure!(
                values.len() == 1 || values.len() == channels,
                "normalize: {name} has {} values, but the images have {channels} channel(s)",
                values.len()
            );
        }
        Ok(())
    }
}

/// The next batch of an epoch with `steps` done to it, or `None` after the last. The samples that the run's generator
/// draws for are those of the batch from here on; after the last, what they were before the epoch.
pub fn next(epoch: &mut Epoch, spare: &mut Spare, steps: &[BatchStep], classes: usize) -> Result<Option<Batch>> {
    let (first, rest) = match steps.split_first() {
        Some((BatchStep::Normalize(normalize), rest)) => (Some(normalize), rest),
        _ => (None, steps),
    };
    let Some(raw) = epoch.next_batch(|pixels| to_float(pixels, first, spare))? else {
        random::set_samples(epoch.around());
        return Ok(None);
    };
    random::set_samples(raw.samples);
    let device = device::current();
    let labels = Tensor::f_from_slice(&raw.labels)?.f_to_device(device)?;
    let indices = Tensor::f_from_slice(&raw.indices)?.f_to_device(device)?;
    let targets = labels.shallow_clone();
    let mut batch = Batch { images: raw.images, targets, labels, indices, samples: raw.samples, share: raw.share };
    for step in rest {
        batch = match step {
            BatchStep::Normalize(normalize) => {
                let images = normalize.apply(&batch.images)?;
                Batch { images, ..batch }
            }
            BatchStep::Erase(_) => {
                erase(&batch.images, &raw.erased)?;
                batch
            }
            BatchStep::Mix(mixing) => {
                let mut rng = raw.key.rng();
                let size = batch.images.size();
                // Of the whole batch, whichever process draws them.
                let whole = mixing.draw_batch(raw.whole, size[2] as usize, size[3] as usize, &mut rng);
                let mixes: Vec<Mix> = (0..raw.samples.len()).map(|i| whole[raw.samples.at(i)]).collect();
                mix(batch, &mixes, mixing.label_smoothing(), classes)?
            }
            BatchStep::Call(function) => {
                let batch = function(batch)?;
                let (size, labels) = (batch.images.size(), batch.labels.size()[0]);
                ensure!(
                    size.len() == 4 && size[0] == labels,
                    "a function among the transforms: expected images [{labels}, C, H, W], found {size:?}"
                );
                batch
            }
        };
    }
    Ok(Some(batch))
}

/// Memory of batches on the CPU that nobody holds any more, used again: getting so much anew from the system for
/// every batch costs as much as filling it.
#[derive(Default)]
pub struct Spare(Vec<Tensor>);

impl Spare {
    /// As many as a script holds at a time: the last batch and this one.
    const MOST: usize = 3;

    fn take(&mut self, size: &[i64]) -> Result<Tensor> {
        for tensor in &self.0 {
            if tensor.size() == size && ffi::is_unshared(tensor) {
                return Ok(tensor.f_detach()?);
            }
        }
        let new = Tensor::f_empty(size, (Kind::Float, tch::Device::Cpu))?;
        if self.0.len() == Self::MOST {
            drop(self.0.remove(0));
        }
        self.0.push(new);
        // A tensor of its own over the same memory: what a script does to it (requires_grad) ends with it.
        Ok(self.0[self.0.len() - 1].f_detach()?)
    }
}

/// uint8 [B, H, W, C] on the CPU to float32 [B, C, H, W] in [0, 1] on the run's device, normalised where that is asked
/// for.
fn to_float(pixels: &Tensor, normalize: Option<&Normalize>, spare: &mut Spare) -> Result<Tensor> {
    let size = pixels.size();
    let [n, h, w, c] = size[..] else { unreachable!("pixels of images") };
    let channels = c as usize;
    if device::current() != tch::Device::Cpu {
        let images = pixels.f_to_device(device::current())?.f_permute([0, 3, 1, 2])?;
        let images = images.f_to_kind(Kind::Float)?.f_contiguous()?.f_div_scalar_(255.0)?;
        return normalize.map_or(Ok(images.shallow_clone()), |n| n.apply(&images));
    }
    if let Some(normalize) = normalize {
        normalize.check(channels)?;
    }
    // 256 values stand for all: one pass over memory.
    let value = |value: u8, channel: usize| {
        let x = value as f32 / 255.0;
        match normalize {
            Some(n) => (x - Normalize::of_channel(&n.mean, channel)) / Normalize::of_channel(&n.std, channel),
            None => x,
        }
    };
    let tables: Vec<[f32; 256]> = (0..channels).map(|c| std::array::from_fn(|v| value(v as u8, c))).collect();
    let out = spare.take(&[n, c, h, w])?;
    let (plane, count) = ((h * w) as usize, pixels.numel());
    // SAFETY: both are contiguous tensors of as many elements, the second held by nobody else.
    let (from, to) = unsafe {
        (
            std::slice::from_raw_parts(pixels.data_ptr() as *const u8, count),
            std::slice::from_raw_parts_mut(out.data_ptr() as *mut f32, count),
        )
    };
    let images = from.par_chunks_exact(plane * channels).zip(to.par_chunks_exact_mut(plane * channels));
    images.for_each(|(from, to)| match &tables[..] {
        [red, green, blue] => {
            let (r, rest) = to.split_at_mut(plane);
            let (g, b) = rest.split_at_mut(plane);
            for (((pixel, r), g), b) in from.as_chunks::<3>().0.iter().zip(r).zip(g).zip(b) {
                *r = red[pixel[0] as usize];
                *g = green[pixel[1] as usize];
                *b = blue[pixel[2] as usize];
            }
        }
        _ => {
            for (c, table) in tables.iter().enumerate() {
                for (value, to) in from[c..].iter().step_by(channels).zip(&mut to[c * plane..(c + 1) * plane]) {
                    *to = table[*value as usize];
                }
            }
        }
    });
    Ok(out)
}

/// What takes the place of parts of one image, drawn with the image.
#[derive(Debug, Clone)]
pub struct Erased {
    /// For each part: left, top, width, height.
    regions: Vec<super::image::Region>,
    /// The values of each part, channel by channel; one a channel, or one a pixel.
    values: Vec<Vec<f32>>,
}

impl Erased {
    /// Draws what `erasing` does to one image; `None` where it leaves it alone.
    pub fn draw(erasing: &RandomErasing, [channels, height, width]: [usize; 3], rng: &mut ChaCha8Rng) -> Option<Self> {
        let regions = erasing.draw(height, width, rng);
        if regions.is_empty() {
            return None;
        }
        let mut normal = |n: usize| (0..n).map(|_| StandardNormal.sample(rng)).collect();
        let values = regions.iter().map(|region| match erasing.mode() {
            EraseMode::Const => vec![0.0; channels],
            EraseMode::Rand => normal(channels),
            EraseMode::Pixel => normal(channels * region.area()),
        });
        let values = values.collect();
        Some(Self { regions, values })
    }
}

fn erase(images: &Tensor, erased: &[Option<Erased>]) -> Result<()> {
    let channels = images.size()[1];
    for (i, erased) in erased.iter().enumerate() {
        let Some(Erased { regions, values }) = erased else { continue };
        let image = images.f_get(i as i64)?;
        for (region, values) in regions.iter().zip(values) {
            let (h, w) = (region.height as i64, region.width as i64);
            let part = image.f_narrow(1, region.top as i64, h)?.f_narrow(2, region.left as i64, w)?;
            let values = Tensor::f_from_slice(values)?.f_to_device(images.device())?;
            let shape = if values.numel() as i64 == channels { [channels, 1, 1] } else { [channels, h, w] };
            part.shallow_clone().f_copy_(&values.f_view(shape)?)?;
        }
    }
    Ok(())
}

/// timm's `Mixup`: every image with its partner, the one as far from the end of the batch as it is from the beginning.
/// Targets become float32 [B, classes], smoothed, in the images' shares.
fn mix(batch: Batch, mixes: &[Mix], label_smoothing: f64, classes: usize) -> Result<Batch> {
    if batch.targets.kind() != Kind::Int64 {
        bail!("mixup: the targets are mixed already; list it once");
    }
    if classes == 0 || batch.labels.f_lt(0)?.f_any()?.f_int64_value(&[])? != 0 {
        return Err(Diagnostic::new("mixup: the images have no labels to mix").into());
    }
    let device = batch.images.device();
    let column = |share: &dyn Fn(&Mix) -> f64| -> Result<Tensor> {
        let shares: Vec<f32> = mixes.iter().map(|mix| share(mix) as f32).collect();
        Ok(Tensor::f_from_slice(&shares)?.f_unsqueeze(1)?.f_to_device(device)?)
    };
    let (share, rest) = (column(&|mix| mix.share)?, column(&|mix| 1.0 - mix.share)?);
    let off = label_smoothing / classes as f64;
    let mut plain = Tensor::f_full([batch.labels.size()[0], classes as i64], off, (Kind::Float, device))?;
    let plain = plain.f_scatter_value_(1, &batch.labels.f_unsqueeze(1)?, 1.0 - label_smoothing + off)?;
    let targets = plain.f_mul(&share)?.f_add(&plain.f_flip([0])?.f_mul(&rest)?)?;

    let partner = batch.images.f_flip([0])?;
    let images = if mixes.iter().all(|mix| mix.region.is_none()) {
        let (share, rest) = (share.f_view([-1, 1, 1, 1])?, rest.f_view([-1, 1, 1, 1])?);
        batch.images.f_mul(&share)?.f_add_(&partner.f_mul(&rest)?)?
    } else {
        let images = batch.images;
        for (i, mix) in mixes.iter().enumerate() {
            let (mut image, partner) = (images.f_get(i as i64)?, partner.f_get(i as i64)?);
            match mix.region {
                Some(r) if r.area() == 0 => {}
                Some(r) => {
                    let cut = |t: &Tensor| -> Result<Tensor> {
                        let rows = t.f_narrow(1, r.top as i64, r.height as i64)?;
                        Ok(rows.f_narrow(2, r.left as i64, r.width as i64)?)
                    };
                    cut(&image)?.f_copy_(&cut(&partner)?)?;
                }
                None if mix.share < 1.0 => {
                    let _ = image.f_mul_scalar_(mix.share)?.f_add_(&partner.f_mul_scalar(1.0 - mix.share)?)?;
                }
                None => {}
            }
        }
        images
    };
    Ok(Batch { images, targets, ..batch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::image::Region;

    /// timm's own results (tests/fixtures/train/mixing.*).
    #[test]
    fn mixup_and_cutmix_give_timms_images_and_targets() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/train/mixing");
        let facts: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(format!("{dir}.json")).unwrap()).unwrap();
        let tensors: std::collections::HashMap<String, Tensor> =
            Tensor::read_safetensors(format!("{dir}.safetensors")).unwrap().into_iter().collect();
        let number = |v: &serde_json::Value| v.as_f64().unwrap();
        let cut = &facts["cutmix_box"];
        let side = |from: &str, to: &str| {
            let (from, to) = (number(&cut[from]) as usize, number(&cut[to]) as usize);
            (from, to - from)
        };
        let ((top, height), (left, width)) = (side("y0", "y1"), side("x0", "x1"));
        let mixup = Mix { share: number(&facts["lam"]), region: None };
        let region = Some(Region { top, left, height, width });
        let cutmix = Mix { share: number(&facts["cutmix_lam"]), region };
        let most = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        for (name, drawn) in [("mixup", mixup), ("cutmix", cutmix)] {
            let batch = Batch {
                images: tensors["images"].copy(),
                labels: tensors["labels"].copy(),
                targets: tensors["labels"].copy(),
                indices: tensors["labels"].copy(),
                samples: Positions::default(),
                share: 1.0,
            };
            let n = batch.labels.size()[0] as usize;
            let classes = tensors["logits"].size()[1] as usize;
            let mixed = mix(batch, &vec![drawn; n], number(&facts["label_smoothing"]), classes).unwrap();
            let off = (
                most(&mixed.images, &tensors[&format!("{name}.images")]),
                most(&mixed.targets, &tensors[&format!("{name}.targets")]),
            );
            assert!(off.0 < 1e-6 && off.1 < 1e-6, "{name}: {off:?}");
        }
        let loss =
            crate::loss::cross_entropy(&tensors["logits"], &tensors["mixup.targets"], &Default::default()).unwrap();
        assert!(most(&loss, &tensors["soft_target_cross_entropy"]) < 1e-6);
    }
}
