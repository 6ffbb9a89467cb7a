//! Labelled images: where they come from ([`Source`]) and how they become batches ([`Loader`]).

mod idx;
pub mod image;
mod loader;
pub mod source;

pub use idx::Idx;
pub use loader::{Batch, Epoch, Loader, LoaderOptions};

use crate::error::{Result, ensure};
use crate::random::Key;
use std::sync::Arc;

/// A list of labelled images of one size, 8 bits a channel.
pub trait Source: Send + Sync {
    /// Where the images come from, in words.
    fn describe(&self) -> String;
    /// The number of images.
    fn len(&self) -> usize;
    /// Channels, height, width.
    fn shape(&self) -> [usize; 3];
    /// The names of the classes, by label.
    fn class_names(&self) -> &[String];
    /// Pixels of image `index`: channel by channel, row by row.
    fn pixels(&self, index: usize) -> &[u8];
    /// The class of image `index`, 0 … classes − 1.
    fn label(&self, index: usize) -> i64;

    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A shared handle to any source.
pub type SourceRef = Arc<dyn Source>;

/// Some items of a source, in a given order.
struct Subset {
    source: SourceRef,
    indices: Vec<u32>,
}

impl Source for Subset {
    fn describe(&self) -> String {
        format!("{} of {}", self.indices.len(), self.source.describe())
    }
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn shape(&self) -> [usize; 3] {
        self.source.shape()
    }
    fn class_names(&self) -> &[String] {
        self.source.class_names()
    }
    fn pixels(&self, index: usize) -> &[u8] {
        self.source.pixels(self.indices[index] as usize)
    }
    fn label(&self, index: usize) -> i64 {
        self.source.label(self.indices[index] as usize)
    }
}

/// The first `n` items.
pub fn take(source: &SourceRef, n: usize) -> Result<SourceRef> {
    ensure!(n >= 1 && n <= source.len(), "take: expected 1..={} items, found {n}", source.len());
    Ok(Arc::new(Subset { source: source.clone(), indices: (0..n as u32).collect() }))
}

/// `n` items of every class, chosen by `seed` alone, in the source's order.
pub fn per_class(source: &SourceRef, n: usize, seed: u64) -> Result<SourceRef> {
    ensure!(n >= 1, "per_class: expected at least 1 item a class, found {n}");
    let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); source.class_names().len()];
    for index in Key::new(seed).permutation(source.len()) {
        let of_class = &mut chosen[source.label(index as usize) as usize];
        if of_class.len() < n {
            of_class.push(index);
        }
    }
    if let Some((class, found)) = chosen.iter().enumerate().find(|(_, c)| c.len() < n) {
        let name = &source.class_names()[class];
        crate::error::bail!("per_class: {n} items of every class were asked for, but `{name}` has {}", found.len());
    }
    let mut indices = chosen.concat();
    indices.sort_unstable();
    Ok(Arc::new(Subset { source: source.clone(), indices }))
}

/// Two disjoint parts: a `fraction` of the items chosen by `seed` alone, and the rest.
pub fn split(source: &SourceRef, fraction: f64, seed: u64) -> Result<(SourceRef, SourceRef)> {
    let n = (fraction * source.len() as f64).round() as usize;
    ensure!(
        (0.0..=1.0).contains(&fraction) && n >= 1 && n < source.len(),
        "split: a fraction of {fraction} of {} items leaves one part empty",
        source.len()
    );
    let order = Key::new(seed).permutation(source.len());
    let part = |indices: &[u32]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        Arc::new(Subset { source: source.clone(), indices }) as SourceRef
    };
    Ok((part(&order[..n]), part(&order[n..])))
}
