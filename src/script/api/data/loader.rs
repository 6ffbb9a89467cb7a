//! Loaders, and the epochs that they make.

use super::source::Source;
use crate::bail_hint;
use crate::data::image::Mode;
use crate::data::loader::{self, LoaderOptions};
use crate::data::{decode, source as sources};
use crate::dist;
use crate::error::{Result, catch_panic, one_line};
use crate::random;
use crate::run::progress::{note_line, note_line_of_any};
use crate::script::api::batch::Batch;
use crate::script::api::transform;
use crate::script::error::to_rhai;
use crate::script::registry::Namespace;
use crate::script::session::with_session;
use crate::script::types::handles;
use nepa_macros::functions;
use rhai::{Array, Dynamic, EvalAltResult, Map, Position};
use serde_json::json;
use std::any::TypeId;
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

pub use functions::register;

handles! {
    "Loader": Loader;
    "Epoch": Epoch;
}

/// Registers the methods of an epoch, and the loop over it.
pub fn register_epoch(namespace: &mut Namespace<'_>) {
    epoch::register(namespace);
    namespace.module.set_iter_result(TypeId::of::<Epoch>(), |value| Box::new(Batches(Some(value.cast()))));
}

/// A loader with what is done to its batches.
#[derive(Clone)]
pub struct Loader(Rc<LoaderParts>);

struct LoaderParts {
    loader: loader::Loader,
    /// Broken images that the user was told of.
    reported: Cell<usize>,
    /// Whether a batch is being made, and with it a function among the transforms may be under way.
    making: Cell<bool>,
}

/// A batch that is being made, until it is dropped.
struct Making<'a>(&'a Cell<bool>);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// One pass over a loader's images in a script.
#[derive(Clone)]
pub struct Epoch(Rc<EpochParts>);

struct EpochParts {
    epoch: RefCell<loader::Epoch>,
    loader: Loader,
}

impl Drop for EpochParts {
    /// Also an epoch that was left early tells what was broken.
    fn drop(&mut self) {
        self.loader.0.tell_of_bad_items();
    }
}

impl Loader {
    /// Batches of a source, each image through a script's list of transforms.
    pub fn new(source: &Source, transforms: Array, options: &LoaderOptions) -> Result<Self> {
        let pipeline = transform::pipeline("data::loader", &transforms.into(), options.exif_orientation)?;
        if source.0.shape().is_none() {
            // Says once what decodes the files.
            static ONCE: std::sync::Once = std::sync::Once::new();
            ONCE.call_once(|| note_line(&format!("JPEGs are decoded by {}", decode::backend().describe())));
        }
        if dist::world_size() > 1 && options.world_size.is_none() {
            let facts = json!({
                "images": sources::fingerprint(source.0.as_ref())?,
                "batch": options.batch,
                "shuffle": options.shuffle,
                "drop_last": options.drop_last,
                "seed": options.seed.unwrap_or_else(random::seed),
                "view": options.view,
            });
            dist::ensure_same_on_all_ranks("the data", &facts)?;
        }
        let loader = loader::Loader::new(source.0.clone(), pipeline, options)?;
        Ok(Self(Rc::new(LoaderParts { loader, reported: Cell::new(0), making: Cell::new(false) })))
    }

    /// Checks that it is not used by a function among its own transforms.
    fn is_free(&self) -> Result<()> {
        if self.0.making.get() {
            bail_hint!(
                "a loader cannot be used by a function among its own transforms";
                "take what it needs from the batch that it gets, or from another loader"
            );
        }
        Ok(())
    }

    fn start(&self, epoch: usize, done: usize) -> Result<Epoch> {
        self.is_free()?;
        let started = self.0.loader.epoch(epoch as u64, done)?;
        Ok(Epoch(Rc::new(EpochParts { epoch: RefCell::new(started), loader: self.clone() })))
    }
}

impl Epoch {
    fn content(&self) -> Result<Ref<'_, loader::Epoch>> {
        self.0.loader.is_free()?;
        Ok(self.0.epoch.borrow())
    }

    /// The next batch; after the last one, broken images that were replaced are told.
    fn next_batch(&self) -> Result<Option<Batch>> {
        self.0.loader.is_free()?;
        self.0.loader.0.making.set(true);
        let making = Making(&self.0.loader.0.making);
        let batch = self.0.epoch.borrow_mut().next_batch()?;
        drop(making);
        if batch.is_none() {
            self.0.loader.0.tell_of_bad_items();
        }
        Ok(batch.map(Batch::from))
    }
}

/// The batches of an epoch for Rhai's `for`; after an error there are no more.
struct Batches(Option<Epoch>);

impl Iterator for Batches {
    type Item = Result<Dynamic, Box<EvalAltResult>>;

    fn next(&mut self) -> Option<Self::Item> {
        let epoch = self.0.as_ref()?;
        let batch = catch_panic(|| epoch.next_batch()).map_err(|e| to_rhai(e, Position::NONE)).transpose()?;
        if batch.is_err() {
            self.0 = None;
        }
        Some(batch.map(Dynamic::from))
    }
}

thread_local! {
    /// All broken images of the run, by source and name, with place and reason.
    static BAD: RefCell<BTreeMap<(String, String), (usize, String)>> = const { RefCell::new(BTreeMap::new()) };
}

impl LoaderParts {
    /// Lists broken images that were replaced in bad_items.txt, and says how many there are.
    fn tell_of_bad_items(&self) {
        let bad = self.loader.bad_items();
        if bad.len() == self.reported.get() {
            return;
        }
        self.reported.set(bad.len());
        let source = self.loader.source().describe();
        if !dist::is_rank0() {
            // Rank 0 keeps its own list.
            let list: Vec<String> = bad.values().map(|(name, reason)| format!("{name} ({reason})")).collect();
            note_line_of_any(&format!("warning: {source}: skipped broken images: {}", list.join(", ")));
            return;
        }
        let count = bad.len();
        let lines = BAD.with_borrow_mut(|all| {
            all.extend(bad.into_iter().map(|(index, (name, reason))| ((source.clone(), name), (index, reason))));
            let line = |((source, name), (index, reason)): (&(String, String), &(usize, String))| {
                format!("{source}\t{index}\t{name}\t{reason}\n")
            };
            all.iter().map(line).collect::<String>()
        });
        let written = with_session(|session| {
            session.write("bad_items.txt", lines.as_bytes())?;
            session.path("bad_items.txt")
        });
        // No reason to end the run: rank 0 is alone here, and the others could not end with it.
        let place = match written {
            Ok(path) => format!("see {}", path.display()),
            Err(e) => format!("cannot list them: {}", one_line(&e)),
        };
        let plural = if count == 1 { "image" } else { "images" };
        note_line(&format!("warning: {source}: skipped {count} broken {plural}; {place}"));
    }
}

#[functions]
mod functions {
    use super::*;

    /// The batches of epoch e: `for batch in loader.epoch(0) { … }`.
    pub fn epoch(loader: &Loader, e: usize) -> Result<Epoch> {
        loader.start(e, 0)
    }

    /// The batches of epoch e after its first `done` images (over all processes), exactly as if those had been taken;
    /// skipping them takes no time.
    #[script(name = "epoch")]
    pub fn epoch_from(loader: &Loader, e: usize, done: usize) -> Result<Epoch> {
        loader.start(e, done)
    }

    /// Batches per epoch.
    #[script(get)]
    pub fn steps_per_epoch(loader: &Loader) -> usize {
        loader.0.loader.steps_per_epoch()
    }

    /// Images in a global batch, over all processes.
    #[script(get)]
    pub fn batch(loader: &Loader) -> usize {
        loader.0.loader.batch()
    }

    /// Images in the source.
    #[script(get)]
    pub fn len(loader: &Loader) -> usize {
        loader.0.loader.source().len()
    }

    /// The mean that the images are normalised by, an array of one number or one for each channel; [0] if they are not.
    #[script(get)]
    pub fn mean(loader: &Loader) -> Vec<f64> {
        loader.0.loader.normalization().map_or(vec![0.0], |n| n.mean.clone())
    }

    /// The standard deviation that the images are normalised by; [1] if they are not.
    #[script(get)]
    pub fn std(loader: &Loader) -> Vec<f64> {
        loader.0.loader.normalization().map_or(vec![1.0], |n| n.std.clone())
    }

    /// The mode of data::open that the images are read in, "rgb" or "unchanged".
    #[script(get)]
    pub fn image_mode(loader: &Loader) -> String {
        Mode::NAMES[loader.0.loader.source().mode() as usize].into()
    }

    /// The size of the images: [channels, height, width].
    #[script(get)]
    pub fn shape(loader: &Loader) -> Vec<usize> {
        loader.0.loader.shape().to_vec()
    }

    /// Broken images skipped so far (on_bad: "skip"): an array of maps with index, name, reason.
    #[script(get)]
    pub fn bad_items(loader: &Loader) -> Vec<Map> {
        let bad = loader.0.loader.bad_items();
        let item = |(index, (name, reason)): (usize, (String, String))| {
            Map::from([
                ("index".into(), Dynamic::from_int(index as i64)),
                ("name".into(), name.into()),
                ("reason".into(), reason.into()),
            ])
        };
        bad.into_iter().map(item).collect()
    }
}

#[functions]
mod epoch {
    use super::*;

    /// Seconds spent waiting for data so far.
    #[script(get)]
    pub fn waited(epoch: &Epoch) -> Result<f64> {
        Ok(epoch.content()?.waited().as_secs_f64())
    }

    /// Batches not yet taken.
    #[script(get)]
    pub fn left(epoch: &Epoch) -> Result<usize> {
        Ok(epoch.content()?.left())
    }

    /// Images of the epoch taken so far, over all processes; `loader.epoch(e, done)` continues after them.
    #[script(get)]
    pub fn done(epoch: &Epoch) -> Result<usize> {
        Ok(epoch.content()?.done())
    }

    /// The next batch, or () after the last.
    pub fn next(epoch: &Epoch) -> Result<Option<Batch>> {
        epoch.next_batch()
    }
}
