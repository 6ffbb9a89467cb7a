//! Batches of transformed images, made ahead of the training step by worker threads.
//!
//! What a batch holds depends on (seed, epoch) alone, never on the number of workers, nor on that of the processes that
//! divide its images among them. The workers fill the images of a few batches in order, each taking the next image as
//! soon as it is free, into buffers that are used again and again. Images stay 8-bit until they are on the device.

use super::batch::{BatchStep, Erased};
use super::image::Image;
use super::pipeline::Pipeline;
use super::source::SourceRef;
use super::transform::RandomErasing;
use crate::device;
use crate::error::{Diagnostic, Result, catch_panic, ensure, one_line};
use crate::positions::Positions;
use crate::random::{Key, Permutation};
use crate::{choices, options};
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

choices! {
    /// What is done about an image that cannot be read.
    pub enum OnBad {
        /// The run ends with an error that names it.
        Error = "error",
        /// Another image, drawn by (seed, epoch, place), takes its place; it is counted and listed.
        Skip = "skip",
    }
}

options! {
    /// How a source becomes batches.
    pub struct LoaderOptions {
        /// Images in a batch, over all processes together: a multiple of their number, with mixup of twice their number
        /// where there are several.
        batch: usize = 128,
        /// Whether each epoch has an order of its own.
        shuffle: bool = true,
        /// Whether a short last batch is left out.
        drop_last: bool = false,
        /// What is done about an image that cannot be read: "error" ends the run, "skip" takes another image instead,
        /// counts it and lists it in bad_items.txt of the run directory.
        on_bad: OnBad = OnBad::Error,
        /// Whether JPEGs are turned as their Exif data says; off in torchvision's loader.
        exif_orientation: bool = false,
        /// Worker threads; () means one a CPU thread of the run.
        workers: Option<usize> = None,
        /// Batches made ahead: what bounds the memory.
        prefetch: usize = 3,
        /// This process's number among those that divide each batch; () means the run's.
        rank: Option<usize> = None,
        /// Processes that divide each batch among them; () means the run's. All take part in every step, and every
        /// image is taken once. Where a short last batch has none left for a process, it gets the batch's first one,
        /// with a `share` of 0.
        world_size: Option<usize> = None,
        /// Seed of order and augmentation; () means the run's.
        seed: Option<u64> = None,
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
}

/// What the workers need to make any image.
struct Shared {
    source: SourceRef,
    pipeline: Pipeline,
    erasing: Option<RandomErasing>,
    shape: [usize; 3],
    shuffle: bool,
    on_bad: OnBad,
    seed: u64,
    rank: usize,
    world_size: usize,
    /// Whether images are mixed with the one opposite, so that both are to be on one process.
    mixed: bool,
    bad: Mutex<BadItems>,
}

/// This process's part of one batch, its images on the run's device.
pub struct RawBatch {
    /// What was made of the pixels.
    pub images: Tensor,
    /// int64 [B], on the CPU.
    pub labels: Vec<i64>,
    /// The places of the images in the source.
    pub indices: Vec<i64>,
    /// What is to be erased of each image, where that is asked for.
    pub erased: Vec<Option<Erased>>,
    /// Images in the whole batch, over all processes.
    pub whole: usize,
    /// Which of the whole batch's these are.
    pub samples: Positions,
    /// How much their mean counts where the processes' gradients are averaged: 1 where all have as many.
    pub share: f64,
    /// Of what is drawn once a batch.
    pub key: Key,
}

impl Loader {
    /// A loader of `source`, whose images go through `pipeline` and then, as batches, through `steps`
    /// ([`super::batch::next`]).
    pub fn new(source: SourceRef, pipeline: Pipeline, steps: &[BatchStep], options: &LoaderOptions) -> Result<Self> {
        let o = options;
        ensure!(o.batch >= 1, "batch must be at least 1, found {}", o.batch);
        ensure!(o.prefetch >= 1, "prefetch must be at least 1, found {}", o.prefetch);
        ensure!(o.workers != Some(0), "workers must be at least 1, found 0");
        let rank = o.rank.unwrap_or_else(crate::dist::rank);
        let world_size = o.world_size.unwrap_or_else(crate::dist::world_size);
        ensure!(rank < world_size, "rank must be less than world_size: found {rank} of {world_size}");
        let mixed = steps.iter().any(|step| matches!(step, BatchStep::Mix(_)));
        let pairs = mixed && world_size > 1;
        let unit = if pairs { 2 * world_size } else { world_size };
        if !o.batch.is_multiple_of(unit) {
            let lower = o.batch / unit * unit;
            let near = if lower == 0 { String::new() } else { format!("{lower} or ") };
            let how = if pairs { " in pairs, as mixup needs them" } else { "" };
            return Err(Diagnostic::new(format!("batch {} cannot be shared by {world_size} processes{how}", o.batch))
                .hint(format!("{near}{} can", lower + unit))
                .into());
        }
        ensure!(!source.is_empty(), "{} holds no images", source.describe());
        ensure!(
            !o.drop_last || o.batch <= source.len(),
            "batch {} with drop_last leaves nothing of {} images",
            o.batch,
            source.len()
        );
        let shape = pipeline.shape(source.as_ref(), o.on_bad == OnBad::Skip)?;
        let shared = Shared {
            source,
            pipeline,
            erasing: steps.iter().find_map(|step| match step {
                BatchStep::Erase(erasing) => Some(erasing.clone()),
                _ => None,
            }),
            shape,
            shuffle: o.shuffle,
            on_bad: o.on_bad,
            seed: o.seed.unwrap_or_else(crate::random::seed),
            rank,
            world_size,
            mixed,
            bad: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            batch: o.batch,
            drop_last: o.drop_last,
            workers: o.workers.unwrap_or_else(|| tch::get_num_threads().max(1) as usize),
            prefetch: o.prefetch,
        })
    }

    /// What the batches are made of.
    pub fn source(&self) -> &SourceRef {
        &self.shared.source
    }

    /// Channels, height and width of the images.
    pub fn shape(&self) -> [usize; 3] {
        self.shared.shape
    }

    /// Images in a batch, over all processes.
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

    /// The batches of epoch `epoch`, after the first `done` images of it (over all processes, of whatever number).
    pub fn epoch(&self, epoch: u64, done: usize) -> Result<Epoch> {
        let shared = &self.shared;
        let n = shared.source.len();
        ensure!(done <= n, "epoch {epoch} has {n} images; {done} cannot be done of them");
        let left = match self.drop_last {
            true => (n / self.batch * self.batch).saturating_sub(done) / self.batch * self.batch,
            false => n - done,
        };
        let key = Key::new(shared.seed).fold(epoch);
        let mut work = Work {
            shared: shared.clone(),
            key,
            order: Permutation::new(key, n),
            first: done,
            left,
            batch: self.batch,
            next: AtomicUsize::new(0),
            state: Mutex::new(State { taken: 0, stopped: false }),
            changed: Condvar::new(),
            slots: Vec::new(),
        };
        // No batch is larger than the first.
        let (slots, size) = match work.batches() {
            0 => (0, 0),
            batches => (self.prefetch.min(batches), work.part(0).0.len()),
        };
        work.slots = (0..slots).map(|_| Slot::new(size, shared.shape)).collect::<Result<_>>()?;
        // Made before its workers: should one not start, those before it end with it.
        let work = Arc::new(work);
        let around = crate::random::state().samples;
        let mut epoch = Epoch { work, workers: Vec::new(), waited: Duration::ZERO, failed: false, around };
        for i in 0..self.workers.min(epoch.work.images()) {
            let work = epoch.work.clone();
            let thread = std::thread::Builder::new().name(format!("nepa-data-{i}"));
            epoch.workers.push(thread.spawn(move || work.run())?);
        }
        Ok(epoch)
    }
}

/// One epoch's work, shared by its workers and whoever takes the batches.
struct Work {
    shared: Arc<Shared>,
    key: Key,
    order: Permutation,
    /// Images of the epoch, over all processes, before the first one here.
    first: usize,
    /// Images after those, over all processes, that become batches.
    left: usize,
    /// Images in a batch, over all processes.
    batch: usize,
    /// The next image to make, of this process's.
    next: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    /// Batch b is made in slot b mod their number, when batch b minus their number was taken.
    slots: Vec<Slot>,
}

struct State {
    /// Batches taken.
    taken: usize,
    stopped: bool,
}

/// Room for one batch.
struct Slot {
    /// uint8 [B, H, W, C] on the CPU, pinned where a GPU is used.
    pixels: Tensor,
    /// The pixels' address: every worker writes to images of its own.
    address: *mut u8,
    /// Images that are made.
    made: AtomicUsize,
    items: Mutex<Vec<Item>>,
}

// SAFETY: `pixels` is used by whoever takes a whole batch only, and `address` for images that one worker owns.
unsafe impl Send for Slot {}
unsafe impl Sync for Slot {}

/// What came of one image besides its pixels.
struct Item {
    place: usize,
    index: usize,
    label: i64,
    erased: Option<Erased>,
    error: Option<anyhow::Error>,
}

impl Slot {
    fn new(batch: usize, shape: [usize; 3]) -> Result<Self> {
        let [c, h, w] = shape.map(|n| n as i64);
        let mut pixels = Tensor::f_empty([batch as i64, h, w, c], (Kind::Uint8, tch::Device::Cpu))?;
        if device::current() != tch::Device::Cpu {
            pixels = pixels.f_pin_memory(device::current())?;
        }
        let address = pixels.data_ptr().cast();
        Ok(Self { pixels, address, made: AtomicUsize::new(0), items: Mutex::default() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that panics runs under these locks.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Work {
    fn batches(&self) -> usize {
        self.left.div_ceil(self.batch)
    }

    /// Images of a batch, over all processes.
    fn size(&self, batch: usize) -> usize {
        self.batch.min(self.left - batch * self.batch)
    }

    /// This process's places in a batch, and their share in the mean over processes.
    fn part(&self, batch: usize) -> (Positions, f64) {
        let Shared { rank, world_size, mixed, .. } = *self.shared;
        let size = self.size(batch);
        let own = Positions::of_process(size, rank, world_size, mixed);
        match own.is_empty() {
            // It takes part in the step all the same.
            true => (Positions::run(0, 1), 0.0),
            false => (own, (world_size * own.len()) as f64 / size as f64),
        }
    }

    /// This process's images in each batch but a short last one.
    fn own(&self) -> usize {
        self.batch / self.shared.world_size
    }

    /// Images that this process makes.
    fn images(&self) -> usize {
        self.batches().checked_sub(1).map_or(0, |last| last * self.own() + self.part(last).0.len())
    }

    /// A worker's life.
    fn run(&self) {
        let images = self.images();
        loop {
            let k = self.next.fetch_add(1, Ordering::Relaxed);
            if k >= images {
                return;
            }
            let (batch, place) = (k / self.own(), k % self.own());
            let mut state = lock(&self.state);
            while !state.stopped && batch >= state.taken + self.slots.len() {
                state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
            }
            if state.stopped {
                return;
            }
            drop(state);
            let slot = &self.slots[batch % self.slots.len()];
            let n = self.shared.shape.iter().product::<usize>();
            // SAFETY: image `place` of the slot is this worker's until the batch is whole, and the slot is free.
            let out = unsafe { std::slice::from_raw_parts_mut(slot.address.add(place * n), n) };
            // Whatever goes wrong, the image counts as made: whoever waits for it is told, and never waits in vain.
            let item = catch_panic(|| Ok(self.make(batch, place, out))).unwrap_or_else(|e| Item {
                place,
                index: 0,
                label: -1,
                erased: None,
                error: Some(e),
            });
            lock(&slot.items).push(item);
            if slot.made.fetch_add(1, Ordering::AcqRel) + 1 == self.part(batch).0.len() {
                // Under the lock, so that nobody goes to sleep between looking and waiting.
                let _state = lock(&self.state);
                self.changed.notify_all();
            }
        }
    }

    /// Makes image `place` of this process's part of a batch.
    fn make(&self, batch: usize, place: usize, out: &mut [u8]) -> Item {
        let shared = &self.shared;
        let n = shared.source.len();
        // In the epoch's order, which all processes go through together.
        let position = self.first + batch * self.batch + self.part(batch).0.at(place);
        let mut index = if shared.shuffle { self.order.at(position) } else { position };
        let mut spare = None;
        for _ in 0..MOST_REPLACEMENTS {
            let key = self.key.fold(1 + index as u64);
            match catch_panic(|| shared.image(index, key, out)) {
                Ok(erased) => {
                    return Item { place, index, label: shared.source.label(index), erased, error: None };
                }
                Err(e) => {
                    let name = shared.source.name(index);
                    // A wrong list of transforms is no broken image.
                    let misfit = e.chain().any(|cause| cause.is::<Misfit>());
                    if shared.on_bad == OnBad::Error || misfit {
                        let what = format!("cannot read item {index} ({name}) of {}", shared.source.describe());
                        return Item { place, index, label: -1, erased: None, error: Some(e.context(what)) };
                    }
                    lock(&shared.bad).insert(index, (name, one_line(&e)));
                    let rng = spare.get_or_insert_with(|| self.key.fold(0).fold(1 + position as u64).rng());
                    index = rng.random_range(0..n);
                }
            }
        }
        let error = Diagnostic::new(format!(
            "{MOST_REPLACEMENTS} images in a row of {} cannot be read",
            shared.source.describe()
        ));
        Item { place, index, label: -1, erased: None, error: Some(error.into()) }
    }
}

/// An image that is whole, but that the transforms do not fit.
#[derive(Debug)]
pub struct Misfit(pub String);

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misfit {}

/// Images tried in place of a broken one before the data is taken for lost.
const MOST_REPLACEMENTS: usize = 100;

impl Shared {
    /// Image `index`, and what is to be erased of it.
    fn image(&self, index: usize, key: Key, out: &mut [u8]) -> Result<Option<Erased>> {
        let image = self.pipeline.run(self.source.read(index)?, &mut key.rng())?;
        let [c, h, w] = self.shape;
        if [image.channels, image.height, image.width] != self.shape {
            let Image { channels, height, width, .. } = image;
            return Err(Misfit(format!(
                "it comes out as {channels} x {height} x {width} (channels, height, width), where {c} x {h} x {w} are \
                 expected; end the transforms with one that gives every image one size, such as transform::center_crop"
            ))
            .into());
        }
        out.copy_from_slice(&image.data);
        // A stream of its own, so that erasing does not move the other draws.
        Ok(self.erasing.as_ref().and_then(|erasing| Erased::draw(erasing, self.shape, &mut key.fold(1).rng())))
    }
}

/// The batches of one epoch, in order.
pub struct Epoch {
    work: Arc<Work>,
    workers: Vec<std::thread::JoinHandle<()>>,
    waited: Duration,
    failed: bool,
    /// The places of the generator's samples outside of it.
    around: Positions,
}

impl Epoch {
    /// The places that the generator's samples had when the epoch began, to be put back at its end.
    pub fn around(&self) -> Positions {
        self.around
    }

    /// Time spent waiting for the workers so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Batches not yet taken.
    pub fn left(&self) -> usize {
        if self.failed { 0 } else { self.work.batches() - lock(&self.work.state).taken }
    }

    /// Images of the epoch that were taken, over all processes: where to go on with [`Loader::epoch`].
    pub fn done(&self) -> usize {
        let taken = lock(&self.work.state).taken * self.work.batch;
        self.work.first + taken.min(self.work.left)
    }

    /// The next batch, or `None` after the last or after an error. `take` makes something of the pixels, uint8
    /// [B, H, W, C] on the CPU, which are gone after it.
    pub fn next_batch(&mut self, take: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Option<RawBatch>> {
        if self.left() == 0 {
            return Ok(None);
        }
        let work = &self.work;
        let mut state = lock(&work.state);
        let batch = state.taken;
        let (samples, share) = work.part(batch);
        let count = samples.len();
        let slot = &work.slots[batch % work.slots.len()];
        let start = Instant::now();
        while slot.made.load(Ordering::Acquire) < count {
            state = work.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        drop(state);
        self.waited += start.elapsed();

        let mut items = std::mem::take(&mut *lock(&slot.items));
        items.sort_unstable_by_key(|item| item.place);
        if let Some(item) = items.iter_mut().find(|item| item.error.is_some()) {
            self.failed = true;
            return Err(item.error.take().expect("found by it"));
        }
        // Without it the batch is lost, and with it the epoch.
        self.failed = true;
        let images = take(&slot.pixels.f_narrow(0, 0, count as i64)?)?;
        self.failed = false;
        slot.made.store(0, Ordering::Release);
        lock(&work.state).taken += 1;
        work.changed.notify_all();
        Ok(Some(RawBatch {
            images,
            labels: items.iter().map(|item| item.label).collect(),
            indices: items.iter().map(|item| item.index as i64).collect(),
            erased: items.into_iter().map(|item| item.erased).collect(),
            whole: work.size(batch),
            samples,
            share,
            key: work.key.fold(0).fold(u64::MAX - (work.first + batch * work.batch) as u64),
        }))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        lock(&self.work.state).stopped = true;
        self.work.changed.notify_all();
        for worker in self.workers.drain(..) {
            // Each ends after the image that it is at; panics inside of it are caught.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::{Content, Source};

    /// Two classes of tiny pictures; something is wrong with some of them.
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
        fn read(&self, index: usize) -> Result<Content<'_>> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            assert!(self.in_label || !(self.bad)(index), "a fault in reading");
            Ok(Content::Pixels(Image::new(2, 2, 1, vec![index as u8; 4])))
        }
        fn shape(&self) -> Option<[usize; 3]> {
            Some([1, 2, 2])
        }
    }

    fn copy(pixels: &Tensor) -> Result<Tensor> {
        Ok(pixels.copy())
    }

    fn loader(bad: fn(usize) -> bool, in_label: bool, options: &LoaderOptions) -> (Arc<Faulty>, Loader) {
        let source = Arc::new(Faulty { reads: AtomicUsize::new(0), bad, in_label });
        let loader = Loader::new(source.clone(), Pipeline::new(&[], false), &[], options).unwrap();
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
                    match epoch.next_batch(copy) {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("the fault was not told"),
                        Err(e) => break one_line(&e),
                    }
                };
                assert!(error.contains("fault"), "{error}");
                assert!(epoch.next_batch(copy).unwrap().is_none(), "nothing after an error");
            }
        }
    }

    #[test]
    fn data_of_which_nothing_can_be_read_ends_also_when_skipping() {
        let options = LoaderOptions { batch: 8, on_bad: OnBad::Skip, ..Default::default() };
        let (_, loader) = loader(|_| true, false, &options);
        let error = loader.epoch(0, 0).unwrap().next_batch(copy).err().unwrap();
        assert!(one_line(&error).contains("100 images in a row"), "{error}");
    }

    #[test]
    fn resuming_reads_nothing_of_what_was_done_and_workers_read_no_further_than_allowed() {
        let options = LoaderOptions { batch: 10, workers: Some(3), prefetch: 2, ..Default::default() };
        let (source, loader) = loader(|_| false, false, &options);
        let mut epoch = loader.epoch(3, 60).unwrap();
        let first = epoch.next_batch(copy).unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        // One batch taken, two ahead.
        assert_eq!(source.reads.load(Ordering::Relaxed), 30);
        let mut all = Vec::new();
        let mut whole = loader.epoch(3, 0).unwrap();
        while let Some(batch) = whole.next_batch(copy).unwrap() {
            all.push(batch.indices);
        }
        assert_eq!(first.indices, all[6]);
        assert_eq!(all.concat().iter().collect::<std::collections::BTreeSet<_>>().len(), 100);
    }
}
