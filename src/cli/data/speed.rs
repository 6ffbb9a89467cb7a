//! Images per second of the loader.

use super::Split;
use crate::data::decode::LazyImage;
use crate::data::loader::{Loader, LoaderOptions, OnBad};
use crate::data::pipeline::Pipeline;
use crate::data::source::{self, SourceRef};
use crate::error::{Context as _, Result};
use crate::output::out;
use crate::random::{Key, Permutation, Purpose};
use crate::run::signals::Interrupt;
use std::hint::black_box;
use std::time::{Duration, Instant};

const BATCH: usize = 64;
/// How long each number of threads is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// Warm-up batches, for each thread.
const WARM_UP: usize = 2;
/// Small sources are repeated to this many images, so that epochs are long.
const LONG: usize = 1 << 20;

/// 1, 2, 4, … and the greatest number.
fn steps_to(threads: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (0..).map(|i| 1 << i).take_while(|n| *n < threads).collect();
    counts.push(threads);
    counts
}

pub fn measure(split: &Split, pipeline: &Pipeline, text: &str, threads: usize, interrupt: &Interrupt) -> Result<()> {
    let source = &split.source;
    out!("\nloader: batches of {BATCH} after {text}");
    let alone = decoding(source)?;
    out!("  reading and decoding whole images alone: {alone:.0} images/s on 1 thread");
    out!("  {:>7}  {:>9}  {:>11}", "threads", "images/s", "of 1 thread");
    let many = source::concat(&vec![source.clone(); LONG.div_ceil(source.len().max(1))])?;
    let mut one = None;
    for n in steps_to(threads) {
        let rate = rate(&many, pipeline, n, interrupt)?;
        if interrupt.exit_code().is_some() {
            out!("interrupted");
            break;
        }
        let ratio = rate / *one.get_or_insert(rate);
        out!("  {n:>7}  {rate:>9.0}  {ratio:>10.2}×");
    }
    Ok(())
}

/// Images per second of batches as training gets them, with this many loader threads.
fn rate(source: &SourceRef, pipeline: &Pipeline, threads: usize, interrupt: &Interrupt) -> Result<f64> {
    tch::set_num_threads(threads as i32);
    let options = LoaderOptions {
        batch: BATCH,
        workers: Some(threads),
        drop_last: true,
        on_bad: OnBad::Skip,
        ..Default::default()
    };
    let loader = Loader::new(source.clone(), pipeline.clone(), &options)?;
    let mut epoch = loader.epoch(0, 0)?;
    let mut next = || -> Result<()> {
        black_box(epoch.next_batch()?.context("the epoch ended")?);
        Ok(())
    };
    for _ in 0..WARM_UP * threads {
        next()?;
    }
    let (mut count, start) = (0, Instant::now());
    while start.elapsed() < MEASURED && interrupt.exit_code().is_none() {
        next()?;
        count += BATCH;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Images per second of reading and decoding alone, on this thread. Broken images count as read.
fn decoding(source: &SourceRef) -> Result<f64> {
    let order = Permutation::new(Key::of(Purpose::Samples, crate::random::seed()), source.len().max(1));
    let (mut count, start) = (0, Instant::now());
    while start.elapsed() < MEASURED / 3 {
        let mut content = source.read(order.at(count % source.len()))?;
        let _ = black_box(LazyImage::open_as(&mut content, false, source.mode()).and_then(LazyImage::pixels));
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
