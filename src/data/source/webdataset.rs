//! WebDataset shards: uncompressed tar archives whose files are grouped into samples by name.

use super::labels;
use super::listing::{self, FileState, Progress};
use super::names::{self, Names};
use super::samples::{self, Class};
use super::shard_name::{Kind, compression};
use super::shards::{Evidence, Shards};
use super::tar::refuse_compressed;
use super::{Source, StoredImage, packed, paths};
use crate::bail_hint;
use crate::error::{Context as _, Result, bail, ensure};
use crate::untrusted;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const KIND: &str = "tar";
/// No class name was given.
const NONE: u32 = u32::MAX;

/// The samples of one split's archives, in the archives' order.
pub struct WebDataset {
    path: String,
    split: Option<String>,
    class_names: Vec<String>,
    shards: Vec<Shard>,
    /// The index after each shard's last sample.
    ends: Vec<usize>,
    /// Whether there are labels that cannot be read.
    is_unread: bool,
    /// Whether the images' names in the archives are theirs in the whole data set.
    is_packed: bool,
}

struct Shard {
    path: PathBuf,
    file: File,
    index: Index,
}

/// Where the images of an archive are.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Index {
    /// Names of the image files, in the archive.
    names: Names,
    /// File offsets of their content.
    offsets: Vec<u64>,
    sizes: Vec<u32>,
    /// i32 as u32; -1 without a label.
    labels: Vec<u32>,
    /// For each sample the index of its class name in `words`, or `NONE`.
    word_of: Vec<u32>,
    words: Names,
    /// Samples without an image.
    skipped: u64,
    /// Images without a class, and the names of the first.
    unlabelled: u64,
    some_unlabelled: Vec<String>,
    /// The first sample whose JSON holds something else in place of a label, in words.
    unread: Option<String>,
    /// Whether the archive has its end mark.
    marked: bool,
}

impl WebDataset {
    /// Opens the archives that `path` stands for: a folder, a file or a pattern (`train-{0000..0146}.tar`).
    pub fn open(path: &str, split: Option<&str>) -> Result<Self> {
        let (files, split) = shards(path)?.of_split(path, split)?;
        for file in &files {
            if let Some(how) = compression(&file.to_string_lossy()) {
                refuse_compressed(file, how)?;
            }
        }
        let cache = listing::folder();
        let progress = Progress::new(format!("listing {path}"));
        let opened: Vec<(Shard, Option<String>)> =
            files.par_iter().map(|file| Shard::open(file, cache.as_deref(), &progress)).collect::<Result<_>>()?;
        let (mut shards, notes): (Vec<Shard>, Vec<_>) = opened.into_iter().unzip();
        notes.into_iter().flatten().for_each(|note| listing::note(&note));
        for shard in shards.iter().filter(|s| !s.index.marked) {
            listing::note(&format!("{} has no end mark: it may have been cut short", shard.path.display()));
        }
        let skipped: u64 = shards.iter().map(|s| s.index.skipped).sum();
        if skipped > 0 {
            listing::note(&format!("{path}: left out {} samples without an image", listing::thousands(skipped)));
        }
        let ends = super::ends(shards.iter().map(|shard| shard.index.len()));
        if ends.last().is_none_or(|end| *end == 0) {
            bail_hint!(
                "{path} holds no images";
                "a sample is an image (NAME.jpg, .png, .webp, …) with its class in NAME.cls or NAME.json beside it"
            );
        }
        if let Some((shard, unread)) = shards.iter().find_map(|s| Some((s, s.index.unread.as_ref()?))) {
            listing::note(&format!(
                "{path}: no labels are read: in {}, {unread}, where a whole number, a text, true or false, or a list of \
                 one of them is expected",
                shard.path.display()
            ));
            for index in shards.iter_mut().map(|s| &mut s.index) {
                index.labels.fill(labels::NONE as u32);
                index.word_of.fill(NONE);
                index.words = Names::default();
            }
        } else {
            need_all_labels(path, &shards)?;
        }
        let is_unread = shards.iter().any(|s| s.index.unread.is_some());
        let class_names = class_names(&mut shards)?;
        let is_packed = packed::is_packed(&shards[0].path)?;
        Ok(Self { path: path.to_string(), split, class_names, shards, ends, is_unread, is_packed })
    }

    /// The shard that holds item `index`, and its index there.
    fn locate(&self, index: usize) -> (&Shard, usize) {
        let (shard, index) = super::locate(&self.ends, index);
        (&self.shards[shard], index)
    }
}

/// The archives that `path` stands for.
fn shards(path: &str) -> Result<Shards> {
    let found = Shards::find(path, Kind::Tar, look)?;
    if found.is_empty() {
        bail_hint!("{path} holds no .tar files"; "it holds: {}", paths::some(&paths::entries(Path::new(path))));
    }
    Ok(found)
}

/// What an archive holds, by its first files. A compressed one is none: it is refused where nothing else is there.
pub(super) fn look(path: &Path) -> Evidence {
    if compression(&path.to_string_lossy()).is_some() {
        return Evidence::Nothing;
    }
    Evidence::of(samples::look(path))
}

/// Refuses images without a class among images with one.
fn need_all_labels(path: &str, shards: &[Shard]) -> Result<()> {
    let count = |of: fn(&Index) -> u64| shards.iter().map(|s| of(&s.index)).sum::<u64>();
    let (unlabelled, all) = (count(|index| index.unlabelled), count(|index| index.len() as u64));
    if unlabelled == 0 || unlabelled == all {
        return Ok(());
    }
    let names: Vec<&String> = shards.iter().flat_map(|s| &s.index.some_unlabelled).collect();
    let (unlabelled, all) = (listing::thousands(unlabelled), listing::thousands(all));
    bail_hint!(
        "{path}: images without a label: {unlabelled} of {all} ({})", paths::some(&names);
        "an image and its label share a name up to the first dot, and lie in one archive; the label -1 means none"
    )
}

impl Shard {
    /// Opens a shard; also returns a line to print if the stored listing is out of date.
    fn open(path: &Path, cache: Option<&Path>, progress: &Progress) -> Result<(Self, Option<String>)> {
        if !path.exists() {
            return Err(paths::missing(path));
        }
        let reading = || format!("cannot read {}", path.display());
        let file = untrusted::open(path)?;
        let meta = file.metadata().with_context(reading)?;
        let state = FileState::of(&meta);
        let key = path.canonicalize().with_context(reading)?;
        let mut note = None;
        if let Some((kept, index)) = listing::load::<(FileState, Index)>(cache, KIND, &key) {
            if kept != state {
                let path = path.display();
                note = Some(format!("the listing of {path} is out of date (the file changed): listing again"));
            } else if index.is_consistent() {
                return Ok((Self { path: path.to_path_buf(), file, index }, None));
            }
        }
        let started = SystemTime::now();
        let index = Index::make(path, progress)?;
        if state.is_settled(started) {
            listing::store(cache, KIND, &key, (state, &index));
        }
        Ok((Self { path: path.to_path_buf(), file, index }, note))
    }
}

impl Index {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn make(path: &Path, progress: &Progress) -> Result<Self> {
        const NAMED: usize = 8;
        let content = samples::read(path, |n| progress.add(n))?;
        let mut index = Self { skipped: content.skipped, marked: content.marked, ..Self::default() };
        let mut words = HashMap::new();
        for sample in content.samples {
            if sample.class.is_unknown() {
                index.unlabelled += 1;
                if index.some_unlabelled.len() < NAMED {
                    index.some_unlabelled.push(String::from_utf8_lossy(&sample.image.name).into_owned());
                }
            }
            index.names.push(&sample.image.name)?;
            index.offsets.push(sample.image.offset);
            index.sizes.push(sample.image.size as u32);
            let Class { label, word, unread } = sample.class;
            index.unread = index.unread.or(unread);
            index.labels.push(label.unwrap_or(-1) as u32);
            index.word_of.push(match word {
                None => NONE,
                Some(word) => match words.get(&word) {
                    Some(place) => *place,
                    None => {
                        index.words.push(word.as_bytes())?;
                        words.insert(word, index.words.len() as u32 - 1);
                        index.words.len() as u32 - 1
                    }
                },
            });
        }
        index.names.shrink();
        for list in [&mut index.sizes, &mut index.labels, &mut index.word_of] {
            list.shrink_to_fit();
        }
        index.offsets.shrink_to_fit();
        Ok(index)
    }

    /// Whether what was read from a file is consistent.
    fn is_consistent(&self) -> bool {
        let n = self.names.len();
        let lists = [&self.sizes, &self.labels, &self.word_of];
        let words = self.word_of.iter().all(|word| *word == NONE || (*word as usize) < self.words.len());
        self.names.is_consistent()
            && self.words.is_consistent()
            && words
            && self.offsets.len() == n
            && lists.iter().all(|list| list.len() == n)
    }
}

/// The names of the classes: those in `classes.txt` beside the archives, else those in the samples' JSON, else "0" …
/// the highest label. Samples that give only a name get the name's index in the sorted list as label.
fn class_names(shards: &mut [Shard]) -> Result<Vec<String>> {
    let given = names::classes_beside(shards[0].path.parent().unwrap_or(Path::new(".")))?;
    let highest = highest_label(shards)?;
    if let Some((file, names)) = given {
        label_by_words(shards, &names);
        let highest = highest_label(shards)?;
        ensure!(
            highest < names.len() as i64,
            "{} names {} classes, but there are labels up to {highest}",
            file.display(),
            names.len()
        );
        return Ok(names);
    }
    if highest < 0 {
        let words = shards.iter().flat_map(|s| s.index.words.iter());
        let names = labels::sorted(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect());
        label_by_words(shards, &names);
        if !names.is_empty() {
            let dir = shards[0].path.parent().unwrap_or(Path::new("."));
            listing::note(&format!(
                "{}: labels of the names in the samples' JSON: {}",
                dir.display(),
                labels::mapping(&names)
            ));
        }
        return Ok(names);
    }
    let mut names: Vec<String> = (0..=highest).map(|i| i.to_string()).collect();
    // Of several names for one label, the last one read: they are only shown.
    for index in shards.iter().map(|s| &s.index) {
        for (label, word) in index.labels.iter().zip(&index.word_of) {
            if *word != NONE
                && *label as i32 >= 0
                && names[*label as usize].as_bytes() != index.words.get(*word as usize)
            {
                names[*label as usize] = index.words.text(*word as usize).into_owned();
            }
        }
    }
    label_by_words(shards, &names);
    Ok(names)
}

/// Gives samples without a label the index of their class name as label. Says which names are not among `names`.
fn label_by_words(shards: &mut [Shard], names: &[String]) {
    let (mut unknown, mut example) = (0, None);
    let mut place: HashMap<&[u8], u32> = HashMap::new();
    for (i, name) in names.iter().enumerate() {
        place.entry(name.as_bytes()).or_insert(i as u32);
    }
    for Shard { path, index, .. } in shards.iter_mut() {
        let known_words: Vec<Option<u32>> = index.words.iter().map(|word| place.get(word).copied()).collect();
        for (label, word) in index.labels.iter_mut().zip(&index.word_of) {
            if *label as i32 == labels::NONE && *word != NONE {
                let known = known_words[*word as usize];
                *label = known.unwrap_or(labels::NONE as u32);
                if known.is_none() {
                    unknown += 1;
                    example.get_or_insert_with(|| {
                        format!("\"{}\" in {}", index.words.text(*word as usize), path.display())
                    });
                }
            }
        }
    }
    if let Some(example) = example {
        let count = listing::thousands(unknown);
        listing::note(&format!(
            "{count} samples have no label, since their class's name is not among the classes: {example}"
        ));
    }
}

fn highest_label(shards: &[Shard]) -> Result<i64> {
    let mut highest = -1;
    for shard in shards {
        for (i, label) in shard.index.labels.iter().enumerate() {
            let label = *label as i32 as i64;
            if !(-1..10_000_000).contains(&label) {
                bail!(
                    "{}: {} has the label {label}, which is not a class",
                    shard.path.display(),
                    shard.index.names.text(i)
                );
            }
            highest = highest.max(label);
        }
    }
    Ok(highest)
}

impl Source for WebDataset {
    fn describe(&self) -> String {
        let split = self.split.as_ref().map(|s| format!(", {s}")).unwrap_or_default();
        let unread = if self.is_unread { ", labels not read" } else { "" };
        format!("{} (WebDataset{split}{unread})", self.path)
    }
    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn split(&self) -> Option<&str> {
        self.split.as_deref()
    }
    fn label(&self, index: usize) -> i64 {
        let (shard, index) = self.locate(index);
        shard.index.labels[index] as i32 as i64
    }
    fn name(&self, index: usize) -> String {
        let (shard, index) = self.locate(index);
        if self.is_packed {
            return shard.index.names.text(index).into_owned();
        }
        let tar = shard.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{tar}/{}", shard.index.names.text(index))
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (shard, index) = self.locate(index);
        let (offset, size) = (shard.index.offsets[index], shard.index.sizes[index] as usize);
        let bytes = paths::read_at(&shard.file, offset, size)
            .with_context(|| format!("cannot read {} at byte {offset}", shard.path.display()))?;
        Ok(StoredImage::Encoded(Cow::Owned(bytes)))
    }
}
