//! Normalisation by mean and standard deviation.

use super::{BatchContext, Stage, Transform};
use crate::bail_hint;
use crate::data::batch::{Batch, Images};
use crate::device::upload;
use crate::error::{Result, bail, ensure};
use std::cell::RefCell;
use tch::{Device, Tensor};

/// (x − mean) / std, x in [0, 1], with a mean and a standard deviation for each channel or one for all.
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
        // They become float32.
        for (name, values) in [("mean", &mean), ("std", &std)] {
            ensure!(
                !values.is_empty() && values.iter().all(|v| (*v as f32).is_finite()),
                "normalize: expected {name} to be one finite number (of float32), or one for each channel, found {values:?}"
            );
        }
        if let Some(wrong) = std.iter().find(|s| **s <= 0.0 || !(**s as f32).is_normal()) {
            bail!("normalize: expected std to be positive (in float32, so at least 1.2e-38), found {wrong:?}");
        }
        Ok(Self { mean, std })
    }

    /// `x`, in [0, 1], of a channel: bit by bit what [`Normalize::of_images`] makes of it.
    pub fn of_value(&self, x: f32, channel: usize) -> f32 {
        let of_channel = |values: &[f64]| values[if values.len() == 1 { 0 } else { channel }] as f32;
        (x - of_channel(&self.mean)) / of_channel(&self.std)
    }

    /// Of images [B, C, H, W] in [0, 1].
    pub fn of_images(&self, images: &Tensor) -> Result<Tensor> {
        self.check(images.size()[1] as usize)?;
        let [mean, std] = self.columns(images.device())?;
        Ok(images.f_sub(&mean)?.f_div(&std)?)
    }

    /// Mean and standard deviation as float32 [1, C, 1, 1]. Those of the last call are kept: they never change in a run.
    fn columns(&self, device: Device) -> Result<[Tensor; 2]> {
        thread_local! {
            static LAST: RefCell<Option<(Normalize, Device, [Tensor; 2])>> = const { RefCell::new(None) };
        }
        LAST.with_borrow_mut(|last| {
            if let Some((of, on, columns)) = last
                && of == self
                && *on == device
            {
                return Ok(columns.each_ref().map(Tensor::shallow_clone));
            }
            let column = |values: &[f64]| -> Result<Tensor> {
                let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                upload(&Tensor::f_from_slice(&values)?.f_view([1, -1, 1, 1])?, device)
            };
            let columns = [column(&self.mean)?, column(&self.std)?];
            *last = Some((self.clone(), device, columns.each_ref().map(Tensor::shallow_clone)));
            Ok(columns)
        })
    }

    /// Refuses images of another number of channels.
    pub fn check(&self, channels: usize) -> Result<()> {
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

impl Normalize {
    /// Refuses what cannot be the statistics of values in [0, 1].
    pub fn check_for_bytes(&self) -> Result<()> {
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            if let Some(wrong) = values.iter().find(|v| **v > 1.0) {
                bail_hint!(
                    "normalize: expected the {name} of values in [0, 1], to which images of 8 bits are scaled, found {wrong}";
                    "divide it by 255 if it is that of values from 0 to 255: 127.5 / 255.0"
                );
            }
        }
        Ok(())
    }
}

impl Transform for Normalize {
    fn describe(&self) -> String {
        format!("normalize({:?}, {:?})", self.mean, self.std)
    }

    fn stage(&self) -> Stage {
        Stage::Batch
    }

    fn apply_to_batch(&self, batch: Batch, _context: &mut BatchContext) -> Result<Batch> {
        let images = Images::Numbers(self.of_images(&batch.images.numbers()?)?);
        Ok(Batch { images, ..batch })
    }
}
