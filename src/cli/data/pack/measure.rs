//! What packing takes and saves, measured on samples.

use super::destination::Settings;
use super::work::pack_image;
use crate::cli::data::Split;
use crate::data::pipeline::Pipeline;
use crate::data::source::SourceRef;
use crate::error::{Result, catch_panic};
use crate::random::{Key, Permutation, Purpose};
use crate::run::signals::Interrupt;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Images that are packed for an estimate.
const ESTIMATED: usize = 200;
/// Images whose decoding is measured: at most, and at least.
const MEASURED: (usize, usize) = (512, 32);
/// How long, at least.
const LENGTH: Duration = Duration::from_secs(1);
/// What an image takes beside its bytes in a tar archive: two headers, its label, what fills blocks.
const OVERHEAD: f64 = 1792.0;

/// Bytes of an image on average.
pub struct Estimate {
    pub images: usize,
    pub before: f64,
    pub after: f64,
}

/// Packs a few images; none if all of these are broken.
pub fn estimate(splits: &[Split], settings: &Settings) -> Option<Estimate> {
    let total: usize = splits.iter().map(|split| split.source.len()).sum();
    let ends: Vec<usize> = splits
        .iter()
        .scan(0, |end, split| {
            *end += split.source.len();
            Some(*end)
        })
        .collect();
    let order = Permutation::new(Key::of(Purpose::Samples, 0), total.max(1));
    let one = |i: usize| {
        let index = order.at(i);
        let split = ends.partition_point(|end| *end <= index);
        let source = &splits[split].source;
        let (packed, before) = pack_image(source, index + source.len() - ends[split], settings).ok()?;
        Some((before as f64, packed.bytes.len() as f64 + OVERHEAD))
    };
    let sizes: Vec<(f64, f64)> = (0..total.min(ESTIMATED)).into_par_iter().filter_map(one).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| sizes.iter().map(of).sum::<f64>() / sizes.len() as f64;
    (!sizes.is_empty()).then(|| Estimate { images: sizes.len(), before: mean(|s| s.0), after: mean(|s| s.1) })
}

/// Indices of the images to measure; none if there are too few.
pub fn sample(images: usize) -> Option<Vec<usize>> {
    let order = Permutation::new(Key::of(Purpose::Samples, 0), images.max(1));
    (images >= MEASURED.1).then(|| (0..images.min(MEASURED.0)).map(|i| order.at(i)).collect())
}

/// Images per second, read and put through the transforms on all threads. They are read once before, so that it is not
/// the disk that is measured.
pub fn rate(source: &SourceRef, images: &[usize], pipeline: &Pipeline, interrupt: &Interrupt) -> Result<f64> {
    let one = |(round, index): (u64, usize)| -> Result<()> {
        let mut rng = Key::new(round).fold(index as u64).rng();
        black_box(catch_panic(|| pipeline.apply(source.read(index)?, source.mode(), &mut rng))?);
        Ok(())
    };
    let mut start = Instant::now();
    let mut rounds = 0;
    while rounds < 2 || start.elapsed() < LENGTH && interrupt.exit_code().is_none() {
        if rounds == 1 {
            start = Instant::now();
        }
        images.par_iter().try_for_each(|index| one((rounds, *index)))?;
        rounds += 1;
    }
    Ok((rounds - 1) as f64 * images.len() as f64 / start.elapsed().as_secs_f64())
}
