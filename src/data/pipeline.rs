//! A list of transforms, as the loader applies it: those of images in worker threads, then those of the batch.

use super::batch::Batch;
use super::decode::LazyImage;
use super::image::{AnyImage, Mode};
use super::source::{Source, StoredImage};
use super::transform::{
    BatchContext, Drawn, Misfit, Mixup, Normalize, Prepared, RandomErasing, Shape, Stage, Transform,
};
use crate::error::{Diagnostic, Error, Result, bail, catch_panic, ensure, hint_of, one_line};
use crate::positions::Groups;
use crate::random::Key;
use rand_chacha::ChaCha8Rng;
use std::any::Any;
use std::sync::Arc;

/// Broken images at the start of a source before giving up on it.
const MOST_BAD: usize = 100;

/// A list of transforms, applied in order.
#[derive(Clone)]
pub struct Pipeline {
    on_images: Vec<Arc<dyn Transform>>,
    on_batch: Vec<Arc<dyn Transform>>,
    /// Whether images are turned as their Exif data says.
    exif_orientation: bool,
}

impl Pipeline {
    /// A pipeline of these transforms, those of images first; errors name `of`, the function that got them.
    pub fn new(of: &str, transforms: &[Arc<dyn Transform>], exif_orientation: bool) -> Result<Self> {
        let mut on_images: Vec<Arc<dyn Transform>> = Vec::new();
        let mut on_batch: Vec<Arc<dyn Transform>> = Vec::new();
        for transform in transforms {
            match (transform.stage(), on_batch.first()) {
                (Stage::Image, None) => match on_images.last().and_then(|last| last.merge(transform.as_ref())) {
                    Some(both) => *on_images.last_mut().expect("there is a last one") = both,
                    None => on_images.push(transform.clone()),
                },
                (Stage::Image, Some(first)) => bail!(
                    "{of}: {} works on single images, so it must come before transforms of the batch ({})",
                    transform.describe(),
                    first.describe()
                ),
                (Stage::Batch, _) => {
                    if is::<RandomErasing>(transform) && on_batch.iter().any(is::<RandomErasing>) {
                        bail!("{of}: random_erasing is listed twice; max_count erases several regions");
                    }
                    on_batch.push(transform.clone());
                }
            }
        }
        Ok(Self { on_images, on_batch, exif_orientation })
    }

    /// The transforms of the batch.
    pub fn on_batch(&self) -> &[Arc<dyn Transform>] {
        &self.on_batch
    }

    /// Which images of the global batch a transform mixes with each other, see [`Transform::mixed`].
    pub fn mixed(&self) -> Option<Groups> {
        self.on_batch.iter().find_map(|transform| transform.mixed())
    }

    /// One image, of a source of that mode, through the transforms of images.
    pub fn apply(&self, mut stored: StoredImage<'_>, mode: Mode, rng: &mut ChaCha8Rng) -> Result<AnyImage> {
        self.apply_to(LazyImage::open_as(&mut stored, self.exif_orientation, mode)?, rng)
    }

    /// One image through the transforms of images.
    pub fn apply_to(&self, mut image: LazyImage<'_>, rng: &mut ChaCha8Rng) -> Result<AnyImage> {
        for transform in &self.on_images {
            image = transform.apply_lazily(image, rng)?;
        }
        image.pixels()
    }

    /// The normalisation that the transforms of the batch begin with, to be done while pixels become numbers.
    pub fn first_normalization(&self) -> Option<&Normalize> {
        self.on_batch.first().and_then(as_normalize)
    }

    /// The normalisation that gets values as they come from images, perhaps erased or mixed: no other one and no function
    /// of a script's is before it.
    pub fn normalization_of_images(&self) -> Option<&Normalize> {
        let leaves_scale = |t: &&Arc<dyn Transform>| is::<RandomErasing>(t) || is::<Mixup>(t);
        self.on_batch.iter().find(|t| !leaves_scale(t)).and_then(as_normalize)
    }

    /// What each transform of the batch draws for one image of the given channels, height and width.
    pub fn draw_for_batch(&self, shape: [usize; 3], key: Key) -> Vec<Option<Drawn>> {
        self.on_batch.iter().map(|transform| transform.draw_for_batch(shape, &mut key.rng())).collect()
    }

    /// What each transform of the batch draws for the batch as a whole; `drawn` is what [`Pipeline::draw_for_batch`] gave
    /// for each image.
    pub fn prepare(
        &self,
        context: &mut BatchContext,
        mut drawn: Vec<Vec<Option<Drawn>>>,
    ) -> Result<Vec<Option<Prepared>>> {
        let prepare = |(number, transform): (usize, &Arc<dyn Transform>)| {
            context.drawn = drawn.iter_mut().map(|of_image| of_image[number].take()).collect();
            transform.prepare(context, context.drawn_for)
        };
        self.on_batch.iter().enumerate().map(prepare).collect()
    }

    /// A batch through the transforms of the batch, without [`Pipeline::first_normalization`]; `prepared` is what
    /// [`Pipeline::prepare`] gave, its numbers on the run's device.
    pub fn apply_to_batch(
        &self,
        mut batch: Batch,
        mut context: BatchContext,
        prepared: Vec<Option<Prepared>>,
    ) -> Result<Batch> {
        let done = usize::from(self.first_normalization().is_some());
        for (transform, prepared) in self.on_batch.iter().zip(prepared).skip(done) {
            context.prepared = prepared;
            batch = transform.apply_to_batch(batch, &mut context)?;
        }
        Ok(batch)
    }

    /// Channels, height and width of every result: known from the transforms, or from the source, or else those of the
    /// source's first image (with `skip_bad`, of the first that can be read).
    pub fn shape(&self, source: &dyn Source, skip_bad: bool) -> Result<[usize; 3]> {
        let before = match source.shape() {
            Some([c, h, w]) => Shape { channels: Some(c), size: Some((h, w)) },
            None => Shape { channels: (source.mode() == Mode::Rgb).then_some(3), size: None },
        };
        let shape = self.on_images.iter().fold(before, |shape, transform| transform.shape(shape));
        if let Shape { channels: Some(c), size: Some((h, w)) } = shape {
            return Ok([c, h, w]);
        }
        ensure!(!source.is_empty(), "{} holds no images", source.describe());
        let mut index = 0;
        loop {
            match catch_panic(|| self.apply(source.read(index)?, source.mode(), &mut Key::new(0).rng())) {
                Ok(first) => return Ok(first.shape()),
                Err(e) if is_misfit(&e) => {
                    return Err(e.context(format!("item {index} ({}) of {}", source.name(index), source.describe())));
                }
                Err(_) if skip_bad && index + 1 < source.len().min(MOST_BAD) => index += 1,
                Err(e) => {
                    let what = format!("cannot read item {index} ({}) of {}", source.name(index), source.describe());
                    return Err(broken(e, what));
                }
            }
        }
    }
}

/// Whether it is the transforms' fault and not the image's.
pub fn is_misfit(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<Misfit>())
}

/// An error about a broken image, with the advice to go on without it.
pub fn broken(error: Error, what: String) -> Error {
    let skip = "pass on_bad: \"skip\" to go on without broken images, which are listed in bad_items.txt";
    let hint = hint_of(&error).map_or(skip.to_string(), |hint| format!("{hint}; or {skip}"));
    Diagnostic::new(format!("{what}: {}", one_line(&error))).hint(hint).into()
}

/// `transform` as a normalisation, if it is one.
pub fn as_normalize(transform: &Arc<dyn Transform>) -> Option<&Normalize> {
    (transform.as_ref() as &dyn Any).downcast_ref()
}

fn is<T: Transform>(transform: &Arc<dyn Transform>) -> bool {
    (transform.as_ref() as &dyn Any).is::<T>()
}
