//! Layout, counts, balance of the classes, sizes of the images.

use super::facts::Facts;
use super::{Split, channels, counted};
use crate::data::decode;
use crate::data::source::{self, Place, SourceRef};
use crate::error::{Result, catch_damage, one_line};
use crate::output::out;
use crate::random::{Key, Permutation, Purpose};
use crate::text::bytes;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Images whose headers are read.
const SAMPLED: usize = 1000;
/// Pixels that are decoded for the moments of the channels.
const DECODED: usize = 1 << 27;
/// Up to this many classes are all shown.
const FEW_CLASSES: usize = 20;
/// Of more, the largest and the smallest.
const SHOWN: usize = 5;

pub fn print(path: &str, place: &Place, splits: &[Split], seed: u64) {
    out!("{path}: {}", place.layout);
    let width = splits.iter().map(|p| p.name().chars().count()).max().unwrap_or(0);
    let first = splits[0].source.class_names();
    for split in splits {
        let classes = split.source.class_names();
        let note = if classes == first { "" } else { "; the classes differ from those above" };
        let classes = if classes.is_empty() { "no classes".into() } else { counted(classes.len(), "class", "classes") };
        out!("  {:<width$}  {}, {classes}{note}", split.name(), images(split.source.len()));
    }
    if !place.passed_over.is_empty() {
        out!("  {}", place.describe_passed_over());
    }
    // Stored pixels need no decoding.
    if splits.iter().any(|p| p.source.shape().is_none()) {
        out!("JPEGs are decoded by {}", decode::backend().describe());
    }
    let split = &splits[0];
    let more = if splits.len() > 1 { " in detail (--split NAME for another)" } else { "" };
    out!("\n{}{more}", split.name());
    balance(&split.source);
    let order = Permutation::new(Key::of(Purpose::Samples, seed), split.source.len().max(1));
    let drawn: Vec<usize> = (0..split.source.len().min(SAMPLED)).map(|i| order.at(i)).collect();
    let pixels = sizes(&split.source, &drawn);
    // As many of those drawn as have so many pixels together, in the order in which they are stored.
    let mut left = DECODED;
    let mut decoded: Vec<usize> = Vec::new();
    for index in drawn {
        let Some(own) = pixels.get(&index) else { continue };
        if *own > left && !decoded.is_empty() {
            break;
        }
        left = left.saturating_sub(*own);
        decoded.push(index);
    }
    decoded.sort_unstable();
    channels::print(&split.source, &decoded);
}

fn images(n: usize) -> String {
    counted(n, "image", "images")
}

fn balance(source: &SourceRef) {
    let names = source.class_names();
    let (counts, unlabelled) = source::class_counts(source.as_ref());
    if unlabelled > 0 {
        out!("  no label   {}", images(unlabelled));
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&c| std::cmp::Reverse(counts[c]));
    let (Some(&largest), Some(&smallest)) = (order.first(), order.last()) else {
        out!("  classes    none");
        return;
    };
    let (least, most, median) = (counts[smallest], counts[largest], counts[order[order.len() / 2]]);
    match least == most {
        true => {
            let first: Vec<&str> = names.iter().take(FEW_CLASSES).map(String::as_str).collect();
            let more = if names.len() > first.len() { ", …" } else { "" };
            out!("  classes    {}, each of {}: {}{more}", names.len(), images(most), first.join(", "));
        }
        false => out!(
            "  classes    {}, of {least} (`{}`) to {most} images (`{}`), median {median}",
            names.len(),
            names[smallest],
            names[largest]
        ),
    }
    let empty = counts.iter().filter(|n| **n == 0).count();
    if empty > 0 {
        out!("             {empty} without images");
    }
    if least == most {
        return;
    }
    let few = names.len() <= FEW_CLASSES;
    // All by label, or of many the largest and the smallest.
    let shown: Vec<usize> = match few {
        true => (0..names.len()).collect(),
        false => order[..SHOWN].iter().chain(&order[order.len() - SHOWN..]).copied().collect(),
    };
    let width = shown.iter().map(|&c| names[c].chars().count()).max().unwrap_or(0).min(40);
    let digits = most.to_string().len();
    for (i, &class) in shown.iter().enumerate() {
        if !few && i == SHOWN {
            out!("    …");
        }
        let name: String = names[class].chars().take(40).collect();
        let bar = "#".repeat((counts[class] * 30).div_ceil(most.max(1)));
        out!("    {name:<width$}  {:>digits$}  {bar}", counts[class]);
    }
}

/// Prints the sizes of the images; returns the pixels of those that can be read.
fn sizes(source: &SourceRef, drawn: &[usize]) -> HashMap<usize, usize> {
    let mut indices = drawn.to_vec();
    indices.sort_unstable();
    let n = indices.len();
    let of = |&i: &usize| (i, catch_damage("the image", || Facts::of(source.read(i)?, source.mode())));
    let read: Vec<(usize, Result<Facts>)> = indices.par_iter().map(of).collect();
    let (facts, broken): (Vec<_>, Vec<_>) = read.into_iter().partition(|(_, facts)| facts.is_ok());
    let facts: Vec<(usize, Facts)> = facts.into_iter().filter_map(|(i, facts)| Some((i, facts.ok()?))).collect();
    let pixels = facts.iter().map(|(i, facts)| (*i, facts.width * facts.height)).collect();
    let facts: Vec<Facts> = facts.into_iter().map(|(_, facts)| facts).collect();

    let sampled = if n < source.len() { format!("of {n} sampled images") } else { format!("of {}", images(n)) };
    if !facts.is_empty() {
        let range = |of: &dyn Fn(&Facts) -> usize| {
            let mut all: Vec<usize> = facts.iter().map(of).collect();
            all.sort_unstable();
            format!("{} / {} / {}", all[0], all[all.len() / 2], all[all.len() - 1])
        };
        let (width, height) = (range(&|f| f.width), range(&|f| f.height));
        out!("  sizes      width {width}, height {height} (least / median / most, {sampled})");
        let mean = facts.iter().map(|f| f.bytes as f64).sum::<f64>() / facts.len() as f64;
        out!("  bytes      {} an image on average, about {} in all", bytes(mean), bytes(mean * source.len() as f64));
        out!("  formats    {}", formats(&facts));
    }
    if let Some((index, Err(e))) = broken.first() {
        out!("  broken     {} {sampled}: item {index} ({}): {}", broken.len(), source.name(*index), one_line(e));
        out!("             --scan lists all");
    }
    pixels
}

/// "998 JPEG (3 grey, 1 CMYK), 2 PNG"
fn formats(facts: &[Facts]) -> String {
    let mut by_format: BTreeMap<&str, (usize, BTreeMap<&str, usize>)> = BTreeMap::new();
    for f in facts {
        let (count, kinds) = by_format.entry(&f.format).or_default();
        *count += 1;
        for kind in &f.kinds {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    let mut formats: Vec<_> = by_format.into_iter().collect();
    formats.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let one = |(format, (count, kinds)): (&str, (usize, BTreeMap<&str, usize>))| {
        let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
        format!("{count} {format}{kinds}")
    };
    formats.into_iter().map(one).collect::<Vec<_>>().join(", ")
}
