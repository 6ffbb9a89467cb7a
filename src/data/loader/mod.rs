//! Batches of transformed images, made ahead of the training step by worker threads.
//!
//! What a batch holds depends on (seed, epoch) alone, never on the number of workers, nor on that of the ranks that
//! divide its images among them. The workers fill the images of a few batches in order, each taking the next image as
//! soon as it is free, into buffers that are used again and again. Images of 8 bits stay so until they are on the device.

mod epoch;
mod to_images;

pub use epoch::Epoch;

use super::image::Mode;
use super::pipeline::{Pipeline, as_normalize};
use super::source::SourceRef;
use super::transform::Normalize;
use crate::error::{Diagnostic, Result, ensure};
use crate::{choices, options};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tch::Kind;
use to_images::BufferPool;

choices! {
    /// What is done about an image that cannot be read.
    pub enum OnBad {
        /// The run ends with an error that names it.
        Error = "error",
        /// Another image, drawn by (seed, epoch, position), replaces it; it is counted and listed.
        Skip = "skip",
    }
}

options! {
    /// How to make batches from a source.
    pub struct LoaderOptions {
        /// Images in the global batch: a multiple of the number of ranks, or of twice that number with mixup on several
        /// ranks.
        batch: usize = 128,
        /// Whether to shuffle the images in every epoch.
        shuffle: bool = true,
        /// Whether to drop a short last batch.
        drop_last: bool = false,
        /// What to do if an image cannot be read: "error" ends the run, "skip" replaces it with another image
        /// (`batch.intact` says where), counts it and lists it in bad_items.txt of the run directory.
        on_bad: OnBad = OnBad::Error,
        /// Whether to turn images as their Exif data says: the Hugging Face `datasets` library does, torchvision's own
        /// datasets do not.
        exif_orientation: bool = false,
        /// Number of worker threads; () means one per CPU thread of the run.
        workers: Option<usize> = None,
        /// Number of batches to prepare in advance, which bounds memory.
        prefetch: usize = 3,
        /// The rank whose part of each global batch to load; () means this process's rank.
        rank: Option<usize> = None,
        /// Number of ranks that share each global batch; () means all of the run. All take part in every step, and
        /// every image is used once. If a short last batch has no image for a rank, the rank gets the batch's first
        /// image with a `loss_weight` of 0.
        world_size: Option<usize> = None,
        /// Seed of the order and the augmentation; () means the run's. Loaders of one seed draw the same for each image,
        /// unless their `view` differs.
        seed: Option<u64> = None,
        /// Another number draws other augmentations of the same images in the same order: two loaders with views 0 and 1
        /// give two differently augmented views of each image, as SimCLR and its like need them.
        view: u64 = 0,
    }
}

/// A broken image: its name and what is wrong.
pub type BadItems = BTreeMap<usize, (String, String)>;

/// Makes the batches of any epoch.
pub struct Loader {
    shared: Arc<Shared>,
    batch: usize,
    drop_last: bool,
    workers: usize,
    prefetch: usize,
    pool: Arc<Mutex<BufferPool>>,
}

/// What the workers need to make any image.
struct Shared {
    source: SourceRef,
    pipeline: Pipeline,
    shape: [usize; 3],
    /// Of the pixels: uint8, or float32 where the source's files are read as they are.
    kind: Kind,
    shuffle: bool,
    on_bad: OnBad,
    seed: u64,
    view: u64,
    rank: usize,
    world_size: usize,
    bad: Mutex<BadItems>,
}

impl Loader {
    /// A loader of `source`, whose images and batches go through `pipeline`.
    pub fn new(source: SourceRef, pipeline: Pipeline, options: &LoaderOptions) -> Result<Self> {
        let o = options;
        ensure!(o.batch >= 1, "batch must be at least 1, found {}", o.batch);
        ensure!(o.prefetch >= 1, "prefetch must be at least 1, found {}", o.prefetch);
        ensure!(o.workers != Some(0), "workers must be at least 1, found 0");
        let rank = o.rank.unwrap_or_else(crate::dist::rank);
        let world_size = o.world_size.unwrap_or_else(crate::dist::world_size);
        ensure!(rank < world_size, "rank must be less than world_size: found {rank} of {world_size}");
        let pairs = pipeline.mixed().is_some() && world_size > 1;
        let unit = if pairs { 2 * world_size } else { world_size };
        if !o.batch.is_multiple_of(unit) {
            let lower = o.batch / unit * unit;
            let near = if lower == 0 { String::new() } else { format!("{lower} or ") };
            let how = if pairs { " in pairs, as mixup needs them" } else { "" };
            return Err(Diagnostic::new(format!("batch {} cannot be divided among {world_size} ranks{how}", o.batch))
                .hint(format!("{near}{} can", lower + unit))
                .into());
        }
        ensure!(!source.is_empty(), "{} holds no images", source.describe());
        ensure!(
            !o.drop_last || o.batch <= source.len(),
            "batch {} with drop_last leaves no batch of {} images",
            o.batch,
            source.len()
        );
        let shape = pipeline.shape(source.as_ref(), o.on_bad == OnBad::Skip)?;
        if let Some(normalize) = pipeline.first_normalization() {
            normalize.check(shape[0])?;
        }
        let kind = if source.mode() == Mode::Unchanged { Kind::Float } else { Kind::Uint8 };
        if let (Kind::Uint8, Some(normalize)) = (kind, pipeline.normalization_of_images()) {
            normalize.check_for_bytes()?;
        }
        let shared = Shared {
            source,
            pipeline,
            shape,
            kind,
            shuffle: o.shuffle,
            on_bad: o.on_bad,
            seed: o.seed.unwrap_or_else(crate::random::seed),
            view: o.view,
            rank,
            world_size,
            bad: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            batch: o.batch,
            drop_last: o.drop_last,
            workers: o.workers.unwrap_or_else(|| tch::get_num_threads().max(1) as usize),
            prefetch: o.prefetch,
            pool: Arc::default(),
        })
    }

    /// What the batches are made of.
    pub fn source(&self) -> &SourceRef {
        &self.shared.source
    }

    /// The normalisation among its transforms.
    pub fn normalization(&self) -> Option<&Normalize> {
        self.shared.pipeline.on_batch().iter().find_map(as_normalize)
    }

    /// Channels, height and width of the images.
    pub fn shape(&self) -> [usize; 3] {
        self.shared.shape
    }

    /// Images in the global batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        match self.drop_last {
            true => self.shared.source.len() / self.batch,
            false => self.shared.source.len().div_ceil(self.batch),
        }
    }

    /// Broken images that were replaced so far.
    pub fn bad_items(&self) -> BadItems {
        lock(&self.shared.bad).clone()
    }

    /// The batches of epoch `epoch`, after the first `done` images of it (over all ranks, however many they were).
    pub fn epoch(&self, epoch: u64, done: usize) -> Result<Epoch> {
        let n = self.shared.source.len();
        ensure!(done <= n, "epoch {epoch} has {n} images, fewer than the {done} already done");
        let left = match self.drop_last {
            true => (n / self.batch * self.batch).saturating_sub(done) / self.batch * self.batch,
            false => n - done,
        };
        Epoch::start(self, epoch, done, left)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that panics runs under these locks.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::Batch;
    use crate::data::image::Image;
    use crate::data::source::{Source, StoredImage};
    use crate::data::transform::*;
    use crate::error::one_line;
    use crate::random::{Key, Purpose};
    use rand_chacha::ChaCha8Rng;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Two classes of tiny images; something is wrong with some of them.
    struct Faulty {
        reads: AtomicUsize,
        bad: fn(usize) -> bool,
        in_label: bool,
    }

    impl Source for Faulty {
        fn describe(&self) -> String {
            "faulty".into()
        }
        fn len(&self) -> usize {
            100
        }
        fn class_names(&self) -> &[String] {
            &[]
        }
        fn split(&self) -> Option<&str> {
            None
        }
        fn label(&self, index: usize) -> i64 {
            assert!(!(self.in_label && (self.bad)(index)), "no label");
            0
        }
        fn name(&self, index: usize) -> String {
            format!("item-{index}")
        }
        fn read(&self, index: usize) -> Result<StoredImage<'_>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            assert!(self.in_label || !(self.bad)(index), "a fault in reading");
            Ok(StoredImage::Pixels(Image::new(2, 2, 1, vec![index as u8; 4])))
        }
        fn shape(&self) -> Option<[usize; 3]> {
            Some([1, 2, 2])
        }
    }

    fn loader(bad: fn(usize) -> bool, in_label: bool, options: &LoaderOptions) -> (Arc<Faulty>, Loader) {
        let source = Arc::new(Faulty { reads: AtomicUsize::new(0), bad, in_label });
        let loader = Loader::new(source.clone(), Pipeline::new("test", &[], false).unwrap(), options).unwrap();
        (source, loader)
    }

    #[test]
    fn a_panic_in_a_worker_is_an_error_and_no_hang() {
        for in_label in [false, true] {
            for workers in [1, 4] {
                let options = LoaderOptions { batch: 8, workers: Some(workers), ..Default::default() };
                let (_, loader) = loader(|i| i == 77, in_label, &options);
                let mut epoch = loader.epoch(0, 0).unwrap();
                let error = loop {
                    match epoch.next_batch() {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("the fault was not reported"),
                        Err(e) => break one_line(&e),
                    }
                };
                assert!(error.contains("fault"), "{error}");
                assert!(epoch.next_batch().unwrap().is_none(), "nothing after an error");
            }
        }
    }

    #[test]
    fn data_of_which_nothing_can_be_read_ends_also_when_skipping() {
        let options = LoaderOptions { batch: 8, on_bad: OnBad::Skip, ..Default::default() };
        let (_, loader) = loader(|_| true, false, &options);
        let error = loader.epoch(0, 0).unwrap().next_batch().err().unwrap();
        assert!(one_line(&error).contains("100 images in a row"), "{error}");
    }

    /// Draws the name of its thread, and expects it back with the batch.
    struct Probe;

    impl Transform for Probe {
        fn describe(&self) -> String {
            "probe".into()
        }
        fn stage(&self) -> Stage {
            Stage::Batch
        }
        fn draw_for_batch(&self, shape: [usize; 3], _rng: &mut ChaCha8Rng) -> Option<Drawn> {
            assert_eq!(shape, [1, 2, 2]);
            Some(Box::new(std::thread::current().name().unwrap_or_default().to_string()))
        }
        fn prepare(&self, context: &BatchContext, _shape: [usize; 3]) -> Result<Option<Prepared>> {
            assert_eq!(context.drawn.len(), context.samples.len());
            for drawn in &context.drawn {
                let thread = drawn.as_ref().and_then(|drawn| drawn.downcast_ref::<String>()).expect("a name");
                assert!(thread.starts_with("nepa-data-"), "{thread}");
            }
            Ok(None)
        }
    }

    #[test]
    fn transforms_of_the_batch_draw_in_the_workers_what_the_images_keys_give() {
        let options = RandomErasingOptions { p: 0.7, mode: EraseMode::Pixel, ..Default::default() };
        let erasing = Arc::new(RandomErasing::new(&options).unwrap());
        let source = Arc::new(Faulty { reads: AtomicUsize::new(0), bad: |_| false, in_label: false });
        let options = LoaderOptions { batch: 8, workers: Some(3), seed: Some(5), ..Default::default() };
        let loader = |transforms: &[Arc<dyn Transform>]| {
            Loader::new(source.clone(), Pipeline::new("test", transforms, false).unwrap(), &options).unwrap()
        };
        let (erased, plain) = (loader(&[erasing.clone(), Arc::new(Probe)]), loader(&[]));
        let (mut erased, mut plain) = (erased.epoch(2, 0).unwrap(), plain.epoch(2, 0).unwrap());
        let mut changed = 0;
        while let Some(batch) = plain.next_batch().unwrap() {
            let images = batch.images.numbers().unwrap().copy();
            let indices = Vec::<i64>::try_from(&batch.indices).unwrap();
            let mut context = BatchContext {
                key: Key::new(0),
                image_keys: indices
                    .iter()
                    .map(|i| Key::of(Purpose::Epochs, 5).fold(2).fold(1 + *i as u64).fold(1))
                    .collect(),
                drawn: Vec::new(),
                prepared: None,
                // None: it draws now.
                drawn_for: [0; 3],
                samples: batch.samples,
                global_batch: 8,
                classes: 0,
                images_are_the_scripts: false,
            };
            let expected = erasing.apply_to_batch(batch, &mut context).unwrap();
            let found = erased.next_batch().unwrap().unwrap();
            let [found, expected] = [found, expected].map(|batch| batch.images.numbers().unwrap());
            assert_eq!(found, expected);
            changed += usize::from(found != images);
        }
        assert!(changed > 8, "{changed} batches of 13 were erased from");
        assert!(erased.next_batch().unwrap().is_none());
    }

    #[test]
    fn resuming_reads_nothing_of_what_was_done_and_workers_read_no_further_than_allowed() {
        let options = LoaderOptions { batch: 10, workers: Some(3), prefetch: 2, ..Default::default() };
        let (source, loader) = loader(|_| false, false, &options);
        let mut epoch = loader.epoch(3, 60).unwrap();
        let first = epoch.next_batch().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        // One batch taken, two ahead.
        assert_eq!(source.reads.load(Ordering::Relaxed), 30);
        let indices = |batch: Batch| Vec::<i64>::try_from(&batch.indices).unwrap();
        let mut all = Vec::new();
        let mut whole = loader.epoch(3, 0).unwrap();
        while let Some(batch) = whole.next_batch().unwrap() {
            all.push(indices(batch));
        }
        assert_eq!(indices(first), all[6]);
        assert_eq!(all.concat().iter().collect::<std::collections::BTreeSet<_>>().len(), 100);
    }
}
