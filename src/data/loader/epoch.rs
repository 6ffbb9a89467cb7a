//! One epoch: the worker threads that make its images, and the consumer that takes its batches.

use super::to_images::{BufferPool, to_images};
use super::{Loader, OnBad, Shared, lock};
use crate::data::batch::{Batch, Images};
use crate::data::image::AnyImage;
use crate::data::pipeline::{broken, is_misfit};
use crate::data::transform::{BatchContext, Drawn, Misfit};
use crate::device::{self, Packing};
use crate::error::{Context as _, Diagnostic, Result, bail, catch_panic, is_storage_failure, one_line};
use crate::ffi;
use crate::positions::Positions;
use crate::random::{self, Key, Permutation, Purpose};
use rand::Rng;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

/// One epoch's work, shared by its workers and the consumer of its batches.
struct Work {
    shared: Arc<Shared>,
    /// What the order and replacements of broken images are drawn from.
    key: Key,
    /// What the transforms draw from: `key`, or a key below it for each other view.
    draws: Key,
    order: Permutation,
    /// Images of the epoch, over all ranks, before the first one here.
    first: usize,
    /// Images after those, over all ranks, that become batches.
    left: usize,
    /// Images in the global batch.
    batch: usize,
    /// This rank's next image to make.
    next: AtomicUsize,
    consumed: Mutex<Consumed>,
    changed: Condvar,
    /// Batch b is made in slot b mod their number, when batch b minus their number was taken.
    slots: Vec<Slot>,
}

/// How far the consumer is.
struct Consumed {
    batches: usize,
    /// The consumer is gone.
    stopped: bool,
}

/// Room for one batch.
struct Slot {
    /// The bytes of uint8 or float32 pixels [B, H, W, C], on the CPU; pinned if a GPU is used, and with room for numbers that
    /// go there with them.
    memory: Mutex<Tensor>,
    /// [H, W, C] and dtype.
    image: ([i64; 3], Kind),
    /// The pixels' address: every worker writes only to its own images.
    address: AtomicPtr<u8>,
    /// Images made so far.
    made: AtomicUsize,
    items: Mutex<Vec<Item>>,
}

/// The result of one image besides its pixels.
struct Item {
    /// Its number among this rank's images of the batch.
    number: usize,
    index: usize,
    label: i64,
    /// Whether it stands where a broken one would.
    replaced: bool,
    /// For each transform of the batch.
    drawn: Vec<Option<Drawn>>,
    error: Option<anyhow::Error>,
}

impl Slot {
    fn new(batch: usize, shape: [usize; 3], kind: Kind) -> Result<Self> {
        let [c, h, w] = shape.map(|n| n as i64);
        let bytes = (batch * shape.iter().product::<usize>() * kind.elt_size_in_bytes()) as i64;
        let cpu = (Kind::Uint8, tch::Device::Cpu);
        let memory = match device::current() {
            tch::Device::Cpu => Tensor::f_empty([bytes], cpu)?,
            _ => ffi::pinned_like(&Tensor::f_empty([bytes + NUMBERS], cpu)?)?,
        };
        let address = AtomicPtr::new(memory.data_ptr().cast());
        let memory = Mutex::new(memory);
        Ok(Self { memory, image: ([h, w, c], kind), address, made: AtomicUsize::new(0), items: Mutex::default() })
    }

    /// The pixels of `count` images and some numbers, all on the run's device, and room for the next batch. A GPU gets them
    /// by one copy, or several where the numbers are many, and may make it later: that memory is left to it.
    fn take(&self, count: usize, numbers: Vec<Tensor>) -> Result<(Tensor, Vec<Tensor>)> {
        let mut memory = lock(&self.memory);
        let ([h, w, c], kind) = self.image;
        let size = [count as i64, h, w, c];
        let bytes = size.iter().product::<i64>() * kind.elt_size_in_bytes() as i64;
        let pixels_in =
            |memory: &Tensor| -> Result<Tensor> { Ok(memory.f_narrow(0, 0, bytes)?.f_view_dtype(kind)?.f_view(size)?) };
        let device = device::current();
        if device == tch::Device::Cpu {
            return Ok((pixels_in(&memory)?, numbers));
        }
        let packing = Packing::after(bytes, &numbers);
        let found = if packing.bytes <= memory.size()[0] {
            packing.write(&numbers, &memory)?;
            let there = device::upload(&memory.f_narrow(0, 0, packing.bytes)?, device)?;
            (pixels_in(&there)?, packing.read(&there)?)
        } else {
            let there = device::upload(&memory.f_narrow(0, 0, bytes)?, device)?;
            let numbers = numbers.iter().map(|numbers| device::upload(numbers, device));
            (pixels_in(&there)?, numbers.collect::<Result<_>>()?)
        };
        *memory = ffi::pinned_like(&memory)?;
        self.address.store(memory.data_ptr().cast(), Ordering::Release);
        Ok(found)
    }
}

impl Work {
    fn batches(&self) -> usize {
        self.left.div_ceil(self.batch)
    }

    /// Images in a global batch.
    fn global_len(&self, batch: usize) -> usize {
        self.batch.min(self.left - batch * self.batch)
    }

    /// The positions of this rank's images in a global batch, and their weight in the mean over ranks.
    fn positions(&self, batch: usize) -> (Positions, f64) {
        let Shared { rank, world_size, .. } = *self.shared;
        let size = self.global_len(batch);
        let own = Positions::of_process(size, rank, world_size, self.shared.pipeline.mixed());
        match own.is_empty() {
            // It still takes part in the step.
            true => (Positions::run(0, 1), 0.0),
            false => (own, (world_size * own.len()) as f64 / size as f64),
        }
    }

    /// This rank's images in each batch but a short last one.
    fn own(&self) -> usize {
        self.batch / self.shared.world_size
    }

    /// Images that this rank makes.
    fn images(&self) -> usize {
        self.batches().checked_sub(1).map_or(0, |last| last * self.own() + self.positions(last).0.len())
    }

    /// What the transforms of images draw from for image `index` of the source.
    fn image_key(&self, index: usize) -> Key {
        self.draws.fold(1 + index as u64)
    }

    /// The body of a worker thread.
    fn run(&self) {
        let images = self.images();
        loop {
            let k = self.next.fetch_add(1, Ordering::Relaxed);
            if k >= images {
                return;
            }
            let (batch, number) = (k / self.own(), k % self.own());
            let mut consumed = lock(&self.consumed);
            while !consumed.stopped && batch >= consumed.batches + self.slots.len() {
                consumed = self.changed.wait(consumed).unwrap_or_else(|e| e.into_inner());
            }
            if consumed.stopped {
                return;
            }
            drop(consumed);
            let slot = &self.slots[batch % self.slots.len()];
            let n = self.shared.shape.iter().product::<usize>() * self.shared.kind.elt_size_in_bytes();
            // SAFETY: image `number` of the slot is this worker's until the batch is whole, and the slot is free.
            let out =
                unsafe { std::slice::from_raw_parts_mut(slot.address.load(Ordering::Acquire).add(number * n), n) };
            // Whatever goes wrong, the image counts as made: the consumer is told, and never waits in vain.
            let item = catch_panic(|| Ok(self.make(batch, number, out))).unwrap_or_else(|e| Item {
                number,
                index: 0,
                label: -1,
                replaced: false,
                drawn: Vec::new(),
                error: Some(e),
            });
            lock(&slot.items).push(item);
            if slot.made.fetch_add(1, Ordering::AcqRel) + 1 == self.positions(batch).0.len() {
                // Under the lock, so that nobody goes to sleep between looking and waiting.
                let _consumed = lock(&self.consumed);
                self.changed.notify_all();
            }
        }
    }

    /// Makes this rank's image `number` of a batch.
    fn make(&self, batch: usize, number: usize, out: &mut [u8]) -> Item {
        let shared = &self.shared;
        let n = shared.source.len();
        // In the epoch's order, which all ranks go through together.
        let position = self.first + batch * self.batch + self.positions(batch).0.at(number);
        let mut index = if shared.shuffle { self.order.at(position) } else { position };
        let mut replacements = None;
        for _ in 0..MOST_REPLACEMENTS {
            match self.read(index, out) {
                Ok(drawn) => {
                    let (label, replaced) = (shared.source.label(index), replacements.is_some());
                    return Item { number, index, label, replaced, drawn, error: None };
                }
                Err(e) => {
                    let name = shared.source.name(index);
                    // A wrong list of transforms is not a broken image.
                    let misfit = is_misfit(&e);
                    if shared.on_bad == OnBad::Error || misfit {
                        let what = format!("cannot read item {index} ({name}) of {}", shared.source.describe());
                        let error = if misfit { e.context(what) } else { broken(e, what) };
                        return failed(number, index, error);
                    }
                    lock(&shared.bad).insert(index, (name, one_line(&e)));
                    let rng = replacements.get_or_insert_with(|| self.key.fold(0).fold(1 + position as u64).rng());
                    index = rng.random_range(0..n);
                }
            }
        }
        let error = Diagnostic::new(format!(
            "{MOST_REPLACEMENTS} images in a row of {} cannot be read",
            shared.source.describe()
        ));
        failed(number, index, error.into())
    }
}

impl Work {
    /// Image `index`, read again where a disk or a network failed and not the image: that may pass.
    fn read(&self, index: usize, out: &mut [u8]) -> Result<Vec<Option<Drawn>>> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let result = catch_panic(|| self.shared.image(index, self.image_key(index), out));
            match (&result, pauses.next()) {
                (Err(e), Some(pause)) if is_storage_failure(e) => std::thread::sleep(pause),
                _ => return result,
            }
        }
    }
}

fn failed(number: usize, index: usize, error: anyhow::Error) -> Item {
    Item { number, index, label: -1, replaced: false, drawn: Vec::new(), error: Some(error) }
}

/// What the transforms of the batch draw from for an image, by the key of those of images.
fn batch_key(image_key: Key) -> Key {
    image_key.fold(1)
}

/// Room in a batch's memory for the numbers that go to a GPU with its pixels: as many as random erasing draws for some
/// hundreds of images.
const NUMBERS: i64 = 16 << 20;

/// Before each further attempt to read from a disk or a network that fails.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// Images tried in place of a broken one before giving up.
const MOST_REPLACEMENTS: usize = 100;

impl Shared {
    /// Image `index` after the transforms of images, and what those of the batch draw for it.
    fn image(&self, index: usize, key: Key, out: &mut [u8]) -> Result<Vec<Option<Drawn>>> {
        let image = self.pipeline.apply(self.source.read(index)?, self.source.mode(), &mut key.rng())?;
        let [c, h, w] = self.shape;
        let [channels, height, width] = image.shape();
        if [channels, height, width] != self.shape {
            return Err(Misfit(format!(
                "it comes out as {channels} x {height} x {width} (channels, height, width), where {c} x {h} x {w} are \
                 expected; end the transforms with one that gives every image one size, such as transform::center_crop"
            ))
            .into());
        }
        match (image, self.kind) {
            (AnyImage::Bytes(image), Kind::Uint8) => out.copy_from_slice(&image.data),
            (AnyImage::Floats(image), Kind::Float) => {
                let places = out.as_chunks_mut::<4>().0.iter_mut();
                places.zip(image.data).for_each(|(place, value)| *place = value.to_ne_bytes());
            }
            (_, kind) => bail!("internal: pixels other than {kind:?}"),
        }
        Ok(self.pipeline.draw_for_batch(self.shape, batch_key(key)))
    }
}

/// The batches of one epoch, in order.
pub struct Epoch {
    work: Arc<Work>,
    workers: Vec<std::thread::JoinHandle<()>>,
    pool: Arc<Mutex<BufferPool>>,
    waited: Duration,
    failed: bool,
    /// The sample positions that the run's generator draws for outside of the epoch.
    samples_outside: Positions,
}

impl Epoch {
    /// Epoch `epoch` of a loader from image `first` on; `left` images become batches.
    pub(super) fn start(loader: &Loader, epoch: u64, first: usize, left: usize) -> Result<Self> {
        let shared = &loader.shared;
        let key = Key::of(Purpose::Epochs, shared.seed).fold(epoch);
        // No image has the greatest number.
        let draws = if shared.view == 0 { key } else { key.fold(u64::MAX).fold(shared.view) };
        let mut work = Work {
            shared: shared.clone(),
            key,
            draws,
            order: Permutation::new(key, shared.source.len()),
            first,
            left,
            batch: loader.batch,
            next: AtomicUsize::new(0),
            consumed: Mutex::new(Consumed { batches: 0, stopped: false }),
            changed: Condvar::new(),
            slots: Vec::new(),
        };
        // No batch is larger than the first.
        let (slots, size) = match work.batches() {
            0 => (0, 0),
            batches => (loader.prefetch.min(batches), work.positions(0).0.len()),
        };
        work.slots = (0..slots).map(|_| Slot::new(size, shared.shape, shared.kind)).collect::<Result<_>>()?;
        // Made before its workers: should one not start, those before it end with it.
        let mut epoch = Epoch {
            work: Arc::new(work),
            workers: Vec::new(),
            pool: loader.pool.clone(),
            waited: Duration::ZERO,
            failed: false,
            samples_outside: random::state().samples,
        };
        for i in 0..loader.workers.min(epoch.work.images()) {
            let work = epoch.work.clone();
            let thread = std::thread::Builder::new().name(format!("nepa-data-{i}"));
            epoch.workers.push(thread.spawn(move || work.run())?);
        }
        Ok(epoch)
    }

    /// Time spent waiting for the workers so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Batches not yet taken.
    pub fn left(&self) -> usize {
        if self.failed { 0 } else { self.work.batches() - lock(&self.work.consumed).batches }
    }

    /// Images of the epoch that were taken, over all ranks: where [`Loader::epoch`] can continue.
    pub fn done(&self) -> usize {
        let taken = lock(&self.work.consumed).batches * self.work.batch;
        self.work.first + taken.min(self.work.left)
    }

    /// The next batch after all transforms, or `None` after the last or after an error of the workers. The samples that
    /// the run's generator draws for are those of the batch from here on; after the last, what they were before the
    /// epoch.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let count = self.left();
        if count == 0 {
            random::set_samples(self.samples_outside);
            return Ok(None);
        }
        let batch = self.work.batches() - count;
        let (samples, loss_weight) = self.work.positions(batch);
        let items = self.items(batch, samples.len())?;
        random::set_samples(samples);
        let work = &self.work;
        let labelled = items.iter().all(|item| item.label >= 0);
        let mut context = BatchContext {
            key: work.draws.fold(0).fold(u64::MAX - (work.first + batch * work.batch) as u64),
            image_keys: items.iter().map(|item| batch_key(work.image_key(item.index))).collect(),
            drawn: Vec::new(),
            prepared: None,
            drawn_for: work.shared.shape,
            samples,
            global_batch: work.global_len(batch),
            classes: if labelled { work.shared.source.class_names().len() } else { 0 },
            images_are_the_scripts: false,
        };
        let of_items = |value: fn(&Item) -> i64| items.iter().map(value);
        let rows: Vec<i64> = of_items(|item| item.label)
            .chain(of_items(|item| item.index as i64))
            .chain(of_items(|item| i64::from(!item.replaced)))
            .collect();
        let all_intact = items.iter().all(|item| !item.replaced);
        let pipeline = &work.shared.pipeline;
        let mut prepared = pipeline.prepare(&mut context, items.into_iter().map(|item| item.drawn).collect())?;
        let mut numbers = vec![Tensor::f_from_slice(&rows)?.f_view([3, -1])?];
        numbers.extend(prepared.iter().flatten().map(|prepared| prepared.numbers.shallow_clone()));
        let (images, numbers) = self.images(batch, numbers)?;
        let mut numbers = numbers.into_iter();
        let rows = numbers.next().context("internal: nothing came of an upload")?;
        for (prepared, numbers) in prepared.iter_mut().flatten().zip(numbers) {
            prepared.numbers = numbers;
        }
        let (labels, indices, intact) = (rows.f_get(0)?, rows.f_get(1)?, rows.f_get(2)?.f_ne(0)?);
        let targets = labels.shallow_clone();
        let batch = Batch { images, targets, labels, indices, intact, all_intact, samples, loss_weight };
        self.work.shared.pipeline.apply_to_batch(batch, context, prepared).map(Some)
    }

    /// Waits for batch `batch` of `count` images: what is known of each besides its pixels.
    fn items(&mut self, batch: usize, count: usize) -> Result<Vec<Item>> {
        let work = &self.work;
        let slot = &work.slots[batch % work.slots.len()];
        let start = Instant::now();
        let mut consumed = lock(&work.consumed);
        while slot.made.load(Ordering::Acquire) < count {
            consumed = work.changed.wait(consumed).unwrap_or_else(|e| e.into_inner());
        }
        drop(consumed);
        self.waited += start.elapsed();

        let mut items = std::mem::take(&mut *lock(&slot.items));
        items.sort_unstable_by_key(|item| item.number);
        // Without its images the batch is lost, and with it the epoch.
        self.failed = true;
        match items.iter_mut().find_map(|item| item.error.take()) {
            Some(error) => Err(error),
            None => Ok(items),
        }
    }

    /// The images of batch `batch` and some numbers on the run's device; frees its slot.
    fn images(&mut self, batch: usize, numbers: Vec<Tensor>) -> Result<(Images, Vec<Tensor>)> {
        let work = &self.work;
        let slot = &work.slots[batch % work.slots.len()];
        let (pixels, numbers) = slot.take(work.positions(batch).0.len(), numbers)?;
        let normalize = work.shared.pipeline.first_normalization();
        let images = to_images(&pixels, normalize, &mut lock(&self.pool))?;
        self.failed = false;
        slot.made.store(0, Ordering::Release);
        lock(&work.consumed).batches += 1;
        work.changed.notify_all();
        Ok((images, numbers))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        lock(&self.work.consumed).stopped = true;
        self.work.changed.notify_all();
        for worker in self.workers.drain(..) {
            // Each ends after the image that it is at; panics inside of it are caught.
            let _ = worker.join();
        }
    }
}
