//! Sources made of sources: some of the items, or those of several.

use super::{Source, SourceRef, StoredImage, locate};
use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use crate::random::Key;
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
}

fn part(source: &SourceRef, indices: Vec<u32>) -> SourceRef {
    Arc::new(Subset { source: source.clone(), indices })
}

/// The first `n` items.
pub fn take(source: &SourceRef, n: usize) -> Result<SourceRef> {
    ensure!(n >= 1 && n <= source.len(), "take: expected 1..={} items, found {n}", source.len());
    Ok(part(source, (0..n as u32).collect()))
}

/// The items at the given places, in that order; a place may come more than once.
pub fn subset(source: &SourceRef, indices: &[usize]) -> Result<SourceRef> {
    ensure!(!indices.is_empty(), "subset: expected at least 1 index, found none");
    let len = source.len();
    if let Some(wrong) = indices.iter().find(|i| **i >= len) {
        bail!("subset: there is no item {wrong}: the {len} items are 0..={}", len.saturating_sub(1));
    }
    Ok(part(source, indices.iter().map(|i| *i as u32).collect()))
}

/// `n` items of every class, chosen by `seed` alone, in the source's order. Items without a label are left out.
pub fn per_class(source: &SourceRef, n: usize, seed: u64) -> Result<SourceRef> {
    ensure!(n >= 1, "per_class: expected at least 1 item a class, found {n}");
    ensure!(!source.class_names().is_empty(), "per_class: {} has no classes", source.describe());
    let mut chosen: Vec<Vec<u32>> = vec![Vec::new(); source.class_names().len()];
    for index in Key::new(seed).permutation(source.len()) {
        // Only -1, no label, is no place.
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
    Ok(part(source, indices))
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
    let sorted = |indices: &[u32]| {
        let mut indices = indices.to_vec();
        indices.sort_unstable();
        part(source, indices)
    };
    Ok((sorted(&order[..n]), sorted(&order[n..])))
}

/// The items of which `keep(index, label, name)` holds. An error of `keep` ends it.
pub fn filter(source: &SourceRef, mut keep: impl FnMut(usize, i64, &str) -> Result<bool>) -> Result<SourceRef> {
    let mut indices = Vec::new();
    for index in 0..source.len() {
        if keep(index, source.label(index), &source.name(index))? {
            indices.push(index as u32);
        }
    }
    ensure!(!indices.is_empty(), "filter: none of the {} items is left", source.len());
    Ok(part(source, indices))
}

/// Several sources, one after the other.
struct Concat {
    parts: Vec<SourceRef>,
    /// The place after each part's last item.
    ends: Vec<usize>,
}

/// The items of all `parts`, which must have the same classes, one after the other.
pub fn concat(parts: &[SourceRef]) -> Result<SourceRef> {
    let Some(first) = parts.first() else { bail!("concat: expected at least one source, found none") };
    for part in parts {
        if part.class_names() != first.class_names() {
            let (a, b) = (first.class_names(), part.class_names());
            let place = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
            let name = |names: &[String]| names.get(place).map_or("none".to_string(), |n| format!("`{n}`"));
            bail_hint!(
                "concat: the classes of {} and {} differ: class {place} is {} in one and {} in the other",
                first.describe(), part.describe(), name(a), name(b);
                "labels are places in the list of classes, so the lists ({} and {} classes) must be the same",
                a.len(), b.len()
            );
        }
    }
    let ends: Vec<usize> = parts
        .iter()
        .scan(0, |end, part| {
            *end += part.len();
            Some(*end)
        })
        .collect();
    ensure!(ends.last().is_some_and(|end| *end <= u32::MAX as usize), "concat: too many items");
    Ok(Arc::new(Concat { parts: parts.to_vec(), ends }))
}

impl Source for Concat {
    fn describe(&self) -> String {
        const SHOWN: usize = 3;
        let mut names: Vec<_> = self.parts.iter().take(SHOWN).map(|p| p.describe()).collect();
        if self.parts.len() > SHOWN {
            names.push(format!("{} more", self.parts.len() - SHOWN));
        }
        names.join(" + ")
    }
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
    fn class_names(&self) -> &[String] {
        self.parts[0].class_names()
    }
    fn split(&self) -> Option<&str> {
        let first = self.parts[0].split();
        first.filter(|_| self.parts.iter().all(|p| p.split() == first))
    }
    fn label(&self, index: usize) -> i64 {
        let (part, index) = locate(&self.ends, index);
        self.parts[part].label(index)
    }
    /// With the part's number in front, as two parts may use the same name.
    fn name(&self, index: usize) -> String {
        let (part, index) = locate(&self.ends, index);
        format!("{part}/{}", self.parts[part].name(index))
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (part, index) = locate(&self.ends, index);
        self.parts[part].read(index)
    }
    fn shape(&self) -> Option<[usize; 3]> {
        let first = self.parts[0].shape();
        first.filter(|_| self.parts.iter().all(|p| p.shape() == first))
    }
}
