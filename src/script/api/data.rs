//! Images and batches.

use crate::data::{self, LoaderOptions, SourceRef};
use crate::error::{Result, ensure};
use crate::functions;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Tensor, number, read_options};
use rhai::{Array, Dynamic, Engine, ImmutableString, Map};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone)]
struct Source(SourceRef);
#[derive(Clone)]
struct Loader(Rc<data::Loader>);
#[derive(Clone)]
struct Epoch(Rc<RefCell<data::Epoch>>);
#[derive(Clone)]
struct Batch {
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
}

/// The batches of an epoch for Rhai's `for`; after an error there are no more.
struct Batches(Epoch);

impl Iterator for Batches {
    type Item = Result<Dynamic, Box<rhai::EvalAltResult>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.0.borrow_mut().next_batch() {
            Ok(None) => None,
            Ok(Some(b)) => {
                let batch = Batch { images: b.images.into(), labels: b.labels.into(), indices: b.indices.into() };
                Some(Ok(Dynamic::from(batch)))
            }
            Err(e) => Some(Err(crate::script::error::to_rhai(e, rhai::Position::NONE))),
        }
    }
}

fn count(n: i64, what: &str) -> Result<usize> {
    ensure!(n >= 0, "{what}: expected a number of at least 0, found {n}");
    Ok(n as usize)
}

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine
        .register_type_with_name::<Source>("Source")
        .register_type_with_name::<Loader>("Loader")
        .register_type_with_name::<Epoch>("Epoch")
        .register_type_with_name::<Batch>("Batch");

    let mut group = Group::namespace(reference, "data", "Labelled images, and how they become batches.");
    group.options::<LoaderOptions>("data::loader");
    functions! { group;
        /// Images in the IDX format (MNIST, Fashion-MNIST), plain or gzipped: the folder and the split,
        /// "train" or "test". Class names are read from classes.txt, one a line, where it is there.
        "idx" (folder: ImmutableString, split: ImmutableString) -> Source {
            Ok(Source(Arc::new(data::Idx::open(Path::new(folder.as_str()), &split)?)))
        }
        /// Batches of a source, made ahead by a thread. What they hold depends on the seed, the epoch
        /// and the sample alone.
        "loader" (source: Source, options: Map) -> Loader {
            let o: LoaderOptions = read_options("data::loader", &options)?;
            Ok(Loader(Rc::new(data::Loader::new(source.0, &o)?)))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Source", "A list of labelled images of one size.");
    functions! { group;
        /// The number of images.
        "get$len" (source: Source) -> i64 { Ok(source.0.len() as i64) }
        /// The size of an image: [channels, height, width].
        "get$shape" (source: Source) -> Array { Ok(source.0.shape().map(|n| Dynamic::from_int(n as i64)).to_vec()) }
        /// The names of the classes, by label.
        "get$class_names" (source: Source) -> Array {
            Ok(source.0.class_names().iter().map(|n| n.clone().into()).collect())
        }
        /// The first n images.
        "take" (source: Source, n: i64) -> Source { Ok(Source(data::take(&source.0, count(n, "take")?)?)) }
        /// n images of every class, chosen by the seed alone.
        "per_class" (source: Source, n: i64, seed: i64) -> Source {
            Ok(Source(data::per_class(&source.0, count(n, "per_class")?, seed as u64)?))
        }
        /// Two disjoint parts chosen by the seed alone: a fraction of the images, and the rest.
        "split" (source: Source, fraction: Dynamic, seed: i64) -> Array {
            let (a, b) = data::split(&source.0, number(&fraction, "split")?, seed as u64)?;
            Ok(vec![Dynamic::from(Source(a)), Dynamic::from(Source(b))])
        }
        /// The source as text.
        "to_string" (source: Source) -> String {
            let [c, h, w] = source.0.shape();
            let classes = source.0.class_names().len();
            Ok(format!("{}: {} images {c} x {h} x {w}, {classes} classes", source.0.describe(), source.0.len()))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Loader", "Makes the batches of any epoch.");
    functions! { group;
        /// The batches of epoch e: `for batch in loader.epoch(0) { … }`.
        "epoch" (loader: Loader, e: i64) -> Epoch {
            Ok(Epoch(Rc::new(RefCell::new(loader.0.epoch(count(e, "epoch")? as u64)))))
        }
        /// Batches in an epoch.
        "get$steps_per_epoch" (loader: Loader) -> i64 { Ok(loader.0.steps_per_epoch() as i64) }
        /// Images in a batch.
        "get$batch" (loader: Loader) -> i64 { Ok(loader.0.batch() as i64) }
        /// Images in the source.
        "get$len" (loader: Loader) -> i64 { Ok(loader.0.source().len() as i64) }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Epoch", "The batches of one epoch, for a `for` loop.");
    functions! { group;
        /// Seconds that the loop has waited for data so far.
        "get$waited" (epoch: Epoch) -> f64 { Ok(epoch.0.borrow().waited().as_secs_f64()) }
        /// Batches not yet taken.
        "get$left" (epoch: Epoch) -> i64 { Ok(epoch.0.borrow().left() as i64) }
        /// The next batch, or () after the last.
        "next" (epoch: Epoch) -> Dynamic {
            match Batches(epoch.clone()).next() {
                None => Ok(Dynamic::UNIT),
                Some(batch) => batch.map_err(crate::script::error::from_rhai),
            }
        }
    }
    group.module.set_iter_result(std::any::TypeId::of::<Epoch>(), |value| Box::new(Batches(value.cast())));
    group.register(engine);

    let mut group = Group::global(reference, "Batch", "Images with their labels, on the run's device.");
    functions! { group;
        /// float32 [B, C, H, W], normalised.
        "get$images" (batch: Batch) -> Tensor { Ok(batch.images.clone()) }
        /// int64 [B].
        "get$labels" (batch: Batch) -> Tensor { Ok(batch.labels.clone()) }
        /// int64 [B]: the places of the images in the source.
        "get$indices" (batch: Batch) -> Tensor { Ok(batch.indices.clone()) }
        /// The number of images.
        "get$len" (batch: Batch) -> i64 { Ok(batch.images.size()[0]) }
    }
    group.register(engine);
}
