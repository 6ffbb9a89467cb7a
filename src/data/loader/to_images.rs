//! Pixels to the images of a batch.

use crate::data::batch::Images;
use crate::data::transform::Normalize;
use crate::error::Result;
use crate::ffi;
use rayon::prelude::*;
use tch::{Kind, Tensor};

/// Memory of batches on the CPU, used again once nobody else holds it: getting that much from the system again for
/// every batch costs as much as filling it.
#[derive(Default)]
pub(super) struct BufferPool(Vec<Tensor>);

impl BufferPool {
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

/// uint8 or float32 [B, H, W, C] on the run's device to images, normalised if asked for.
pub(super) fn to_images(pixels: &Tensor, normalize: Option<&Normalize>, pool: &mut BufferPool) -> Result<Images> {
    let size = pixels.size();
    let [n, h, w, c] = size[..] else { unreachable!("pixels of images") };
    let channels = c as usize;
    if let Some(normalize) = normalize {
        normalize.check(channels)?;
    }
    if pixels.kind() == Kind::Float {
        let mut out = match pixels.device() {
            tch::Device::Cpu => pool.take(&[n, c, h, w])?,
            gpu => Tensor::f_empty([n, c, h, w], (Kind::Float, gpu))?,
        };
        out.f_copy_(&pixels.f_permute([0, 3, 1, 2])?)?;
        return Ok(Images::Numbers(match normalize {
            Some(normalize) => normalize.of_images(&out)?,
            None => out,
        }));
    }
    if pixels.device() != tch::Device::Cpu {
        return Ok(Images::Bytes { pixels: pixels.shallow_clone(), normalize: normalize.cloned() });
    }
    // 256 values stand for all: one pass over memory.
    let value = |value: u8, channel: usize| {
        let x = value as f32 / 255.0;
        match normalize {
            Some(n) => n.of_value(x, channel),
            None => x,
        }
    };
    let tables: Vec<[f32; 256]> = (0..channels).map(|c| std::array::from_fn(|v| value(v as u8, c))).collect();
    let out = pool.take(&[n, c, h, w])?;
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
    Ok(Images::Numbers(out))
}
