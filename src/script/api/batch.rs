//! Batches, and the micro-batches that a step may be computed in.

use crate::data::batch::{self, Images};
use crate::error::{Result, catch_panic, ensure};
use crate::random::{self, State};
use crate::script::error::to_rhai;
use crate::script::registry::Api;
use crate::script::types::handles;
use crate::script::values::{Tensor, runs};
use nepa_macros::functions;
use rhai::{Dynamic, EvalAltResult};
use std::any::TypeId;
use std::cell::{Ref, RefCell};
use std::rc::Rc;

/// A batch as a script sees it; cloning it shares what a function among the transforms sets.
#[derive(Clone)]
pub struct Batch(Rc<RefCell<Content>>);

struct Content {
    batch: batch::Batch,
    /// Whether the step's gradients are complete after this one: a whole batch, or the last of its micro-batches.
    is_last: bool,
}

impl Batch {
    fn new(content: Content) -> Self {
        Self(Rc::new(RefCell::new(content)))
    }

    fn content(&self) -> Ref<'_, Content> {
        self.0.borrow()
    }

    fn len(&self) -> i64 {
        self.content().batch.labels.size()[0]
    }

    /// Replaces the images.
    pub fn set_images(&self, images: &Tensor) {
        self.0.borrow_mut().batch.images = Images::Numbers(images.shallow_clone());
    }

    /// The weight of these images' mean loss in the step's loss.
    pub fn loss_weight(&self) -> f64 {
        self.content().batch.loss_weight
    }

    /// Whether the step's gradients are complete after this one.
    pub fn is_last(&self) -> bool {
        self.content().is_last
    }

    /// Micro-batch number `i` of `count`; the first ones have one image more where `count` does not divide the batch.
    fn micro_batch(&self, i: i64, count: i64) -> Result<Batch> {
        let Content { batch: whole, is_last } = &*self.content();
        let n = whole.labels.size()[0];
        let (start, length) = (i * (n / count) + i.min(n % count), n / count + i64::from(i < n % count));
        let rows = |t: &tch::Tensor| t.f_narrow(0, start, length);
        let batch = batch::Batch {
            images: whole.images.part(start, length)?,
            labels: rows(&whole.labels)?,
            targets: rows(&whole.targets)?,
            indices: rows(&whole.indices)?,
            intact: rows(&whole.intact)?,
            all_intact: whole.all_intact,
            samples: whole.samples.part(start as usize, length as usize),
            loss_weight: whole.loss_weight * length as f64 / n as f64,
        };
        Ok(Batch::new(Content { batch, is_last: *is_last && i + 1 == count }))
    }
}

impl From<batch::Batch> for Batch {
    fn from(batch: batch::Batch) -> Self {
        Self::new(Content { batch, is_last: true })
    }
}

impl From<Batch> for batch::Batch {
    fn from(batch: Batch) -> Self {
        let b = &batch.content().batch;
        Self {
            images: b.images.shallow_clone(),
            labels: b.labels.shallow_clone(),
            targets: b.targets.shallow_clone(),
            indices: b.indices.shallow_clone(),
            intact: b.intact.shallow_clone(),
            ..*b
        }
    }
}

/// The micro-batches of a batch, for Rhai's `for`. All begin at one state of the run's generator, each with its own
/// samples, so that together they draw what the batch would have drawn at once; after the loop the generator has the
/// batch's samples again.
#[derive(Clone)]
struct MicroBatches {
    batch: Batch,
    count: i64,
    next: i64,
    start: State,
}

impl MicroBatches {
    fn of(batch: Batch, k: i64) -> Result<Self> {
        ensure!(k >= 1, "micro_batches: expected a number of at least 1, found {k}");
        Ok(Self { count: k.min(batch.len()), next: 0, start: random::state(), batch })
    }
}

impl Iterator for MicroBatches {
    type Item = Result<Dynamic, Box<EvalAltResult>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.count {
            return None;
        }
        let micro_batch = catch_panic(|| self.batch.micro_batch(self.next, self.count));
        self.next += 1;
        Some(match micro_batch {
            Ok(micro_batch) => {
                random::set_state(State { samples: micro_batch.content().batch.samples, ..self.start });
                Ok(Dynamic::from(micro_batch))
            }
            Err(e) => Err(to_rhai(e, rhai::Position::NONE)),
        })
    }
}

impl Drop for MicroBatches {
    /// However the loop ends, also by `break`.
    fn drop(&mut self) {
        if self.next > 0 {
            random::set_samples(self.batch.content().batch.samples);
        }
    }
}

handles! {
    "Batch": Batch;
    "MicroBatches": MicroBatches;
}

pub fn register(api: &mut Api<'_>) {
    api.named_type::<MicroBatches>();
    api.methods::<Batch>("Images with their labels, on the run's device.", |batch| {
        functions::register(batch);
        batch.module.set_iter_result(TypeId::of::<MicroBatches>(), |value| Box::new(value.cast::<MicroBatches>()));
    });
}

#[functions]
mod functions {
    use super::*;

    /// The images, float32 [B, C, H, W], normalised if the transforms do so.
    #[script(get)]
    pub fn images(batch: &Batch) -> Result<tch::Tensor> {
        // From now on numbers: what a script changes in them in place stays.
        let images = batch.content().batch.images.numbers()?;
        batch.0.borrow_mut().batch.images = Images::Numbers(images.shallow_clone());
        Ok(images)
    }

    /// Replaces the images, for functions among the transforms.
    #[script(set, name = "images")]
    pub fn set_images(batch: &Batch, images: &Tensor) {
        batch.set_images(images);
    }

    /// The labels, int64 [B].
    #[script(get)]
    pub fn labels(batch: &Batch) -> tch::Tensor {
        batch.content().batch.labels.shallow_clone()
    }

    /// What to learn, for loss::cross_entropy: the labels, or after mixup float32 [B, classes].
    #[script(get)]
    pub fn targets(batch: &Batch) -> tch::Tensor {
        batch.content().batch.targets.shallow_clone()
    }

    /// Replaces the targets.
    #[script(set, name = "targets")]
    pub fn set_targets(batch: &Batch, targets: &Tensor) {
        batch.0.borrow_mut().batch.targets = targets.shallow_clone();
    }

    /// The images' indices in the source, int64 [B].
    #[script(get)]
    pub fn indices(batch: &Batch) -> tch::Tensor {
        batch.content().batch.indices.shallow_clone()
    }

    /// Which images are those at their places in the source's order, bool [B]: false where on_bad: "skip" replaced a
    /// broken image by another. An evaluation leaves these out.
    #[script(get)]
    pub fn intact(batch: &Batch) -> tch::Tensor {
        batch.content().batch.intact.shallow_clone()
    }

    /// Whether no image was replaced: then `intact` is true everywhere, and nobody has to wait for a GPU to tell. For a
    /// micro-batch, whether none was in the whole batch.
    #[script(get)]
    pub fn all_intact(batch: &Batch) -> bool {
        batch.content().batch.all_intact
    }

    /// Splits the batch into k micro-batches, to accumulate gradients with less memory. If k does not divide the batch,
    /// the first ones have one image more; if the batch has fewer than k images, each has one image. Every micro-batch
    /// is a batch itself. Taking it sets the run's generator so that drop path, dropout, `rand_per_sample` and
    /// `randn_per_sample` draw for its images what they would draw in the whole batch; `rand` and `randn` draw the same
    /// numbers in each. Take them all: `gradients.backward` exchanges gradients with the last one.
    ///
    /// Example: `for b in batch.micro_batches(4) { (my_loss(model, b.images) * b.loss_weight).backward(); }`
    pub fn micro_batches(batch: &Batch, k: i64) -> Result<MicroBatches> {
        MicroBatches::of(batch.clone(), k)
    }

    /// Sample positions of the images in the global batch, as at most three runs [first, length]. Random draws for an
    /// image (drop path, dropout, rand_per_sample, randn_per_sample) depend on its position, not on the process or
    /// micro-batch that computes it.
    #[script(get)]
    pub fn samples(batch: &Batch) -> Vec<Dynamic> {
        runs(batch.content().batch.samples)
    }

    /// The weight of these images' mean loss in the step's loss, which is the sum over a process's micro-batches,
    /// averaged over the processes. `gradients.backward(loss, batch)` applies it. 1.0 for a whole batch in a run of one
    /// process. 0.0 if a short last batch has no image for this process, which then gets the batch's first image to
    /// take part in the step.
    #[script(get)]
    pub fn loss_weight(batch: &Batch) -> f64 {
        batch.loss_weight()
    }

    /// The number of images.
    #[script(get)]
    pub fn len(batch: &Batch) -> i64 {
        batch.len()
    }
}
