//! What is done to images on their way into a batch: the trait, and one file per transform.
//!
//! Transforms draw as torchvision's and timm's do. Each is made of its options with `new`, which checks them.

mod center_crop;
mod color_jitter;
mod draws;
mod gaussian_blur;
mod grayscale;
mod mixup;
mod normalize;
mod op;
mod rand_augment;
mod random_crop;
mod random_erasing;
mod random_grayscale;
mod random_horizontal_flip;
mod random_resized_crop;
mod random_solarize;
mod random_vertical_flip;
mod resize;
mod resized_crop;
mod rgb;
mod three_augment;

pub use center_crop::CenterCrop;
pub use color_jitter::{ColorJitter, ColorJitterOptions};
pub use gaussian_blur::{GaussianBlur, GaussianBlurOptions};
pub use grayscale::Grayscale;
pub use mixup::{Mix, Mixup, MixupMode, MixupOptions};
pub use normalize::Normalize;
pub use op::{FixedOp, Op, OpOptions, Reach, apply_op};
pub use rand_augment::{DrawnOp, RandAugment, RandAugmentOptions};
pub use random_crop::{RandomCrop, RandomCropOptions, padded_crop};
pub use random_erasing::{EraseMode, RandomErasing, RandomErasingOptions};
pub use random_grayscale::{RandomGrayscale, RandomGrayscaleOptions};
pub use random_horizontal_flip::{RandomHorizontalFlip, RandomHorizontalFlipOptions, horizontal_flip};
pub use random_resized_crop::{RandomResizedCrop, RandomResizedCropOptions, random_resized_crop_box};
pub use random_solarize::{RandomSolarize, RandomSolarizeOptions};
pub use random_vertical_flip::{RandomVerticalFlip, RandomVerticalFlipOptions};
pub use resize::{Resize, ResizeTo};
pub use resized_crop::ResizedCrop;
pub use rgb::Rgb;
pub use three_augment::{ThreeAugment, ThreeAugmentOptions};

use super::batch::Batch;
use super::decode::LazyImage;
use super::image::Image;
use crate::device::upload;
use crate::error::{Result, bail, ensure};
use crate::options::{self, Options};
use crate::positions::{Groups, Positions};
use crate::random::Key;
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::sync::Arc;
use tch::Tensor;

/// One entry of a list of transforms.
///
/// A transform of images implements [`apply_to_image`](Self::apply_to_image), or
/// [`apply_lazily`](Self::apply_lazily) if it can do with a part of the image; one of batches implements
/// [`stage`](Self::stage) and [`apply_to_batch`](Self::apply_to_batch), and
/// [`draw_for_batch`](Self::draw_for_batch) if its draws for each image take long.
pub trait Transform: Any + Send + Sync {
    /// As a script writes it: "resize(256, bicubic)".
    fn describe(&self) -> String;

    /// What it works on.
    fn stage(&self) -> Stage {
        Stage::Image
    }

    /// Changes one image, in a worker thread. What it draws depends on `rng` alone. Implemented, not called: callers
    /// use [`apply`](Self::apply) or [`apply_lazily`](Self::apply_lazily), which every transform of images follows.
    fn apply_to_image(&self, image: Image, _rng: &mut ChaCha8Rng) -> Result<Image> {
        Ok(image)
    }

    /// [`apply_to_image`](Self::apply_to_image) for an image of floats of any number of channels, which is refused where
    /// the change is one of 8-bit colours.
    fn apply_to_floats(&self, image: Image<f32>, _rng: &mut ChaCha8Rng) -> Result<Image<f32>> {
        Err(Misfit(format!(
            "transform::{} works on grey and RGB images of 8 bits, and this one has {} of floats (mode \"unchanged\"); what works \
             on any: {FOR_ALL}, and functions of your own, |batch| …",
            self.describe(),
            if image.channels == 1 { "1 channel".to_string() } else { format!("{} channels", image.channels) }
        ))
        .into())
    }

    /// Changes an image that is perhaps still encoded: a crop decodes only what it keeps.
    fn apply_lazily<'a>(&self, image: LazyImage<'a>, rng: &mut ChaCha8Rng) -> Result<LazyImage<'a>> {
        Ok(match image {
            LazyImage::Floats(image) => LazyImage::Floats(self.apply_to_floats(image, rng)?),
            image => LazyImage::Decoded(self.apply_to_image(image.decode()?, rng)?),
        })
    }

    /// [`apply_lazily`](Self::apply_lazily) to pixels; not to be implemented.
    fn apply(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        self.apply_lazily(LazyImage::Decoded(image), rng)?.decode()
    }

    /// What is known of an image after it, given what is known before.
    fn shape(&self, before: Shape) -> Shape {
        before
    }

    /// The transform that does this one and the next at once, if that is cheaper.
    fn merge(&self, _next: &dyn Transform) -> Option<Arc<dyn Transform>> {
        None
    }

    /// What a transform of batches needs for one image of the given channels, height and width, drawn in the worker
    /// thread that made the image: [`prepare`](Self::prepare), for which the step waits, finds it in
    /// [`BatchContext::drawn`].
    fn draw_for_batch(&self, _shape: [usize; 3], _rng: &mut ChaCha8Rng) -> Option<Drawn> {
        None
    }

    /// What it draws for a batch of images of the given channels, height and width.
    fn prepare(&self, _context: &BatchContext, _shape: [usize; 3]) -> Result<Option<Prepared>> {
        Ok(None)
    }

    /// Changes a whole batch, on the run's device and in its thread.
    fn apply_to_batch(&self, batch: Batch, _context: &mut BatchContext) -> Result<Batch> {
        Ok(batch)
    }

    /// Which images of the global batch it mixes with each other, so that partners must be on one rank.
    fn mixed(&self) -> Option<Groups> {
        None
    }
}

/// The transforms that images of any kind can have.
const FOR_ALL: &str = "resize, center_crop, random_crop, resized_crop, random_resized_crop, random_horizontal_flip, \
                       random_vertical_flip, rgb and grayscale (of 1 or 3 channels), normalize, random_erasing, mixup";

/// An image that is whole, but that the transforms do not fit.
#[derive(Debug)]
pub struct Misfit(pub String);

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misfit {}

/// What a transform works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Each image, in a worker thread.
    Image,
    /// The batch, on the run's device.
    Batch,
}

/// What is known of an image before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// 1 or 3; any number of floats.
    pub channels: Option<usize>,
    /// Height and width.
    pub size: Option<(usize, usize)>,
}

/// What [`Transform::draw_for_batch`] gives.
pub type Drawn = Box<dyn Any + Send>;

/// What [`Transform::prepare`] gives. The numbers of all transforms go to the run's device in one copy.
pub struct Prepared {
    /// What the host has to know.
    pub drawn: Drawn,
    /// float32 of one dimension: on the CPU at first, then on the run's device.
    pub numbers: Tensor,
}

/// What a transform of a batch may know besides the batch.
pub struct BatchContext {
    /// For draws that are made once for the global batch: every rank has the same key.
    pub key: Key,
    /// For draws of each image of the batch; not the stream that the transforms of images drew from.
    pub image_keys: Vec<Key>,
    /// What [`Transform::draw_for_batch`] gave for each image of the batch, from its key and for images of `drawn_for`.
    pub drawn: Vec<Option<Drawn>>,
    /// What [`Transform::prepare`] gave for images of `drawn_for`.
    pub prepared: Option<Prepared>,
    /// Channels, height and width as the loader made the images; a transform before this one may have changed them.
    pub drawn_for: [usize; 3],
    /// The images' positions in the global batch.
    pub samples: Positions,
    /// Images in the global batch.
    pub global_batch: usize,
    /// Classes of the source; 0 if an image of the batch has no label.
    pub classes: usize,
    /// Whether the images come from a script's function, which may have kept them: they must not be written to.
    pub images_are_the_scripts: bool,
}

impl BatchContext {
    /// What `transform` does with images [B, C, H, W]: what it has prepared for their size or, if a transform before it
    /// has changed that, prepares now.
    fn take_prepared(&mut self, transform: &impl Transform, images: &Tensor) -> Result<Option<Prepared>> {
        let [_, channels, height, width] = images.size()[..] else { bail!("images of a batch") };
        let shape = [channels, height, width].map(|n| n as usize);
        if shape == self.drawn_for {
            return Ok(self.prepared.take());
        }
        let prepared = transform.prepare(self, shape)?;
        prepared.map(|p| Ok(Prepared { numbers: upload(&p.numbers, images.device())?, ..p })).transpose()
    }
}

/// Checks a size in pixels that a script gave.
pub fn check_size(of: &str, height: usize, width: usize) -> Result<()> {
    const MOST: usize = 1 << 14;
    if height == 0 || width == 0 || height > MOST || width > MOST {
        bail!("{of}: expected a size of 1 to {MOST} pixels, found {height} x {width}");
    }
    Ok(())
}

/// Checks the option `reducing_gap` of a script's resizing.
pub fn check_reducing_gap(of: &str, gap: Option<f64>) -> Result<()> {
    let is_right = gap.is_none_or(|gap| gap >= 1.0 && gap.is_finite());
    ensure!(
        is_right,
        "option `reducing_gap` of {of}: expected a number from 1.0 on, found {}",
        gap.unwrap_or_default()
    );
    Ok(())
}

/// A transform with its arguments and those options that differ from their defaults, every number exactly: checkpoints
/// record it, and a run resumes only with equal transforms.
fn describe_call<T: Options>(name: &str, arguments: &[String], given: &T) -> String {
    let value = |o: &T| serde_json::to_value(o).unwrap_or_default();
    let (given, default) = (value(given), value(&T::default()));
    let changed = T::NAMES.iter().filter(|n| given[**n] != default[**n]);
    let changed = changed.map(|n| format!("{n}: {}", options::script_literal(&given[*n])));
    format!("{name}({})", arguments.iter().cloned().chain(changed).collect::<Vec<_>>().join(", "))
}
