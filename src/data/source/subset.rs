//! Sources made of sources: some of the items, or those of several.

use super::{Source, SourceRef, StoredImage, locate};
use crate::bail_hint;
use crate::data::image::Mode;
use crate::error::{Result, bail, ensure};
use crate::random::{Key, Purpose};
use std::sync::Arc;

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
    fn class_names(&self) -> &[String] {
        self.source.class_names()
    }
    fn split(&self) -> Option<&str> {
        self.source.split()
    }
    fn label(&self, index: usize) -> i64 {
        self.source.label(self.indices[index] as usize)
    }
    fn name(&self, index: usize) -> String {
        self.source.name(self.indices[index] as usize)
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        self.source.read(self.indices[index] as usize)
    }
    fn shape(&self) -> Option<[usize; 3]> {
        self.source.shape()
    }
    fn mode(&self) -> Mode {
        self.source.mode()
    }
}

fn some_of(source: &SourceRef, indices: Vec<u32>) -> SourceRef {
    Arc::new(Subset { source: source.clone(), indices })
}

/// Checks that the items of a source can be told apart by the numbers that a part of it keeps.
fn countable(of: &str, source: &SourceRef) -> Result<()> {
    let (most, found) = (u32::MAX, source.len());
    ensure!(found <= most as usize, "{of}: {} has {found} items, more than {most}", source.describe());
    Ok(())
}

/// The first `n` items.
pub fn take(source: &SourceRef, n: usize) -> Result<SourceRef> {
    ensure!(n >= 1 && n <= source.len(), "take: expected 1..={} items, found {n}", source.len());
    countable("take", source)?;
    Ok(some_of(source, (0..n as u32).collect()))
}

/// The items at the given indices, in that order; an index may come more than once.
pub fn subset(source: &SourceRef, indices: &[usize]) -> Result<SourceRef> {
    ensure!(!indices.is_empty(), "subset: expected at least 1 index, found none");
    countable("subset", source)?;
    let len = source.len();
    if let Some(wrong) = indices.iter().find(|i| **i >= len) {
        bail!("subset: there is no item {wrong}: the {len} items are 0..={}", len.saturating_sub(1));
    }
    Ok(some_of(source, indices.iter().map(|i| *i as u32).collect()))
}

/// `n` items of every class, chosen by `seed` alone, in the source's order. Items without a label are left out.
pub fn per_class(source: &SourceRef, n: usize, seed: u64) -> Result<SourceRef> {
    ensure!(n >= 1, "per_class: expected at least 1 item a class, found {n}");
    ensure!(!source.class_names().is_empty(), "per_class: {} has no classes", source.describe());
    let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); source.class_names().len()];
    for index in Key::of(Purpose::PerClass, seed).permutation(source.len())? {
        // Only -1 (no label) is not an index.
        let of_class = usize::try_from(source.label(index as usize)).ok().and_then(|label| chosen.get_mut(label));
        if let Some(of_class) = of_class.filter(|c| c.len() < n) {
            of_class.push(index);
        }
    }
    if let Some((class, found)) = chosen.iter().enumerate().find(|(_, c)| c.len() < n) {
        let name = &source.class_names()[class];
        bail!("per_class: {n} items of every class were asked for, but `{name}` has {}", found.len());
    }
    let mut indices = chosen.concat();
    indices.sort_unstable();
    Ok(some_of(source, indices))
}

/// Two disjoint sources: a `fraction` of the items chosen by `seed` alone, and the rest.
pub fn split(source: &SourceRef, fraction: f64, seed: u64) -> Result<(SourceRef, SourceRef)> {
    let n = (fraction * source.len() as f64).round() as usize;
    ensure!(
        (0.0..=1.0).contains(&fraction) && n >= 1 && n < source.len(),
        "split: a fraction of {fraction} of {} items leaves one part empty",
        source.len()
    );
    let order = Key::of(Purpose::Split, seed).permutation(source.len())?;
    let sorted = |indices: &[u32]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        some_of(source, indices)
    };
    Ok((sorted(&order[..n]), sorted(&order[n..])))
}

/// The items of which `keep(index, label, name)` holds. An error of `keep` is passed on.
pub fn filter(source: &SourceRef, mut keep: impl FnMut(usize, i64, &str) -> Result<bool>) -> Result<SourceRef> {
    countable("filter", source)?;
    let mut indices = Vec::new();
    for index in 0..source.len() {
        if keep(index, source.label(index), &source.name(index))? {
            indices.push(index as u32);
        }
    }
    ensure!(!indices.is_empty(), "filter: none of the {} items is left", source.len());
    Ok(some_of(source, indices))
}

/// Several sources, one after the other.
struct Concat {
    sources: Vec<SourceRef>,
    /// The index after each source's last item.
    ends: Vec<usize>,
}

/// The items of all `sources`, which must have the same classes, one after the other.
pub fn concat(sources: &[SourceRef]) -> Result<SourceRef> {
    let Some(first) = sources.first() else { bail!("concat: expected at least one source, found none") };
    for source in sources {
        if source.class_names() != first.class_names() {
            let (a, b) = (first.class_names(), source.class_names());
            let differing = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            let name = |names: &[String]| names.get(differing).map_or("none".to_string(), |n| format!("`{n}`"));
            bail_hint!(
                "concat: the classes of {} and {} differ: class {differing} is {} in one and {} in the other",
                first.describe(), source.describe(), name(a), name(b);
                "labels are indices into the list of classes, so the lists ({} and {} classes) must be the same",
                a.len(), b.len()
            );
        }
    }
    if let Some(other) = sources.iter().find(|source| source.mode() != first.mode()) {
        bail_hint!(
            "concat: {} and {} have different modes", first.describe(), other.describe();
            "open them with the same mode: data::open(path, split, #{{ mode: \"unchanged\" }})"
        );
    }
    let ends = super::ends(sources.iter().map(|source| source.len()));
    ensure!(ends.last().is_some_and(|end| *end <= u32::MAX as usize), "concat: too many items");
    Ok(Arc::new(Concat { sources: sources.to_vec(), ends }))
}

impl Source for Concat {
    fn describe(&self) -> String {
        const SHOWN: usize = 3;
        let mut names: Vec<_> = self.sources.iter().take(SHOWN).map(|p| p.describe()).collect();
        if self.sources.len() > SHOWN {
            names.push(format!("{} more", self.sources.len() - SHOWN));
        }
        names.join(" + ")
    }
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
    fn class_names(&self) -> &[String] {
        self.sources[0].class_names()
    }
    fn split(&self) -> Option<&str> {
        let first = self.sources[0].split();
        first.filter(|_| self.sources.iter().all(|p| p.split() == first))
    }
    fn label(&self, index: usize) -> i64 {
        let (source, index) = locate(&self.ends, index);
        self.sources[source].label(index)
    }
    /// With the source's number in front, as two sources may use one name.
    fn name(&self, index: usize) -> String {
        let (source, index) = locate(&self.ends, index);
        format!("{source}/{}", self.sources[source].name(index))
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (source, index) = locate(&self.ends, index);
        self.sources[source].read(index)
    }
    fn shape(&self) -> Option<[usize; 3]> {
        let first = self.sources[0].shape();
        first.filter(|_| self.sources.iter().all(|p| p.shape() == first))
    }
    fn mode(&self) -> Mode {
        self.sources[0].mode()
    }
}
