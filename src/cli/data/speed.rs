//! How many images a second the loader gives.

use super::{endless, loader};
use crate::data::batch::{self, Spare};
use crate::data::loader::LoaderOptions;
use crate::data::source::SourceRef;
use crate::error::{Context as _, Result};
use crate::script::Steps;
use crate::train::signals::Interrupt;
use std::time::{Duration, Instant};

/// How long each number of threads is measured.
const MEASURED: Duration = Duration::from_secs(3);
const BATCH: usize = 64;

pub fn measure(source: &SourceRef, steps: &Steps, threads: usize, interrupt: &Interrupt) -> Result<()> {
    let (many, classes) = (endless(source)?, source.class_names().len());
    let mut numbers: Vec<usize> = (0..).map(|i| 1 << i).take_while(|n| *n < threads).collect();
    numbers.push(threads);
    out!("\nimages/s of the loader, batches of {BATCH}, {} s each", MEASURED.as_secs());
    out!("  threads  images/s   to one thread");
    let mut one = None;
    for workers in numbers {
        let options = LoaderOptions { batch: BATCH, workers: Some(workers), drop_last: true, ..Default::default() };
        let loader = loader(many.clone(), steps, &options)?;
        let mut epoch = loader.epoch(0, 0)?;
        let mut spare = Spare::default();
        let mut next = || -> Result<()> {
            batch::next(&mut epoch, &mut spare, &steps.batch, classes)?.context("the epoch ended")?;
            Ok(())
        };
        for _ in 0..=2 * workers {
            next()?;
        }
        let (start, mut batches) = (Instant::now(), 0);
        while start.elapsed() < MEASURED && interrupt.exit_code().is_none() {
            next()?;
            batches += 1;
        }
        let rate = (batches * BATCH) as f64 / start.elapsed().as_secs_f64();
        let first = *one.get_or_insert(rate);
        out!("  {workers:>7}  {rate:>8.0}   {:.2}", rate / first);
        if interrupt.exit_code().is_some() {
            out!("interrupted");
            break;
        }
    }
    Ok(())
}
