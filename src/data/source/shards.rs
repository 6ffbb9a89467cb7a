//! The shards of a data set: which files belong to it, to which split, and whether any are missing.

use super::shard_name::{Kind, ShardName};
use super::{listing, packed, paths, split_names};
use crate::bail_hint;
use crate::error::{Context as _, Error, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// How deep below a data set's folder its shards may lie: `data/`, `CONFIGURATION/SPLIT/`.
const DEPTH: usize = 2;

/// What a file holds, as far as a look at its beginning tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evidence {
    Nothing,
    Images,
    LabelledImages,
}

impl Evidence {
    /// What it means that a file has images, and labels.
    pub fn of((has_images, has_labels): (bool, bool)) -> Self {
        match (has_images, has_labels) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Images,
            (true, true) => Self::LabelledImages,
        }
    }
}

/// Looks into a file.
pub(super) type Look = fn(&Path) -> Evidence;

/// The shards that a path stands for.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    /// Whether the path names the files themselves, alone or by a pattern.
    named: bool,
    /// Files that lie there but do not belong to the data set.
    pub passed_over: Vec<String>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    name: ShardName,
    split: Option<String>,
}

impl Shards {
    /// The shards of a folder, a pattern of files or a file; none if the folder has none of that kind.
    pub fn find(path: &str, kind: Kind, look: Look) -> Result<Self> {
        let whole = Path::new(path);
        if whole.is_dir() {
            return Self::of_folder(whole, kind, look);
        }
        if !whole.exists() && !paths::is_pattern(path) {
            return Err(paths::missing(whole));
        }
        let (files, base) = match whole.exists() {
            true => (vec![whole.to_path_buf()], whole.parent().unwrap_or(Path::new(""))),
            false => (paths::expand(path)?, Path::new(paths::base_of(path).0)),
        };
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for file in files {
            let about = paths::look_at(&file)?;
            if about.is_none() {
                bail_hint!("{} is a link that leads nowhere", file.display(); "put its file back, or remove the link");
            }
            let is_own = kind_of(&file) == Some(kind) && about.is_some_and(|found| found.is_file());
            if is_own { own.push(file) } else { others.push(file) }
        }
        let files = own;
        if files.is_empty() {
            let ending = kind.ending();
            bail_hint!("{path} is no {ending} file"; "expected a folder, a file or a pattern of {ending} files");
        }
        let passed_over = others.iter().map(|file| file.display().to_string()).collect();
        Self { files: shards(base, files), named: true, passed_over }.with_splits(base, look)
    }

    fn of_folder(dir: &Path, kind: Kind, look: Look) -> Result<Self> {
        let mut files = Vec::new();
        collect(dir, &[kind], DEPTH, &mut files)?;
        files.sort();
        let all = shards(dir, files);
        let mut sets: BTreeMap<String, Vec<Shard>> = BTreeMap::new();
        for shard in all {
            sets.entry(shard.name.set.clone()).or_default().push(shard);
        }
        let mut passed_over = Vec::new();
        if sets.len() > 1 {
            let is_empty = |set: &[Shard]| look(&set[0].path) == Evidence::Nothing;
            let empty: Vec<String> =
                sets.iter().filter(|(_, set)| is_empty(set)).map(|(name, _)| name.clone()).collect();
            if empty.len() < sets.len() {
                let left_out = empty.iter().filter_map(|name| sets.remove(name)).flatten();
                passed_over.extend(left_out.map(|shard| relative(dir, &shard.path)));
            }
        }
        if sets.len() > 1 {
            let place = |set: &String| if set.is_empty() { ".".to_string() } else { set.clone() };
            let places: Vec<String> = sets.keys().map(place).collect();
            let example = sets.keys().find(|set| !set.is_empty()).cloned().unwrap_or_default();
            bail_hint!(
                "{} holds {} data sets of {} files, in: {}",
                dir.display(), places.len(), kind.ending(), paths::some(&places);
                "open one of them, for example {}", dir.join(example).display()
            );
        }
        let files = sets.into_values().next().unwrap_or_default();
        Self { files, named: false, passed_over }.with_splits(dir, look)
    }

    /// Tells each file its split, and leaves out files of other kinds of names that hold no images.
    fn with_splits(mut self, base: &Path, look: Look) -> Result<Self> {
        let prefixes: BTreeSet<String> = self.files.iter().map(|shard| shard.name.prefix.clone()).collect();
        if prefixes.len() > 1 && !self.named {
            let empty: BTreeSet<&String> = prefixes
                .iter()
                .filter(|prefix| {
                    let first = self.files.iter().find(|shard| shard.name.prefix == **prefix);
                    first.is_some_and(|shard| look(&shard.path) == Evidence::Nothing)
                })
                .collect();
            if empty.len() < prefixes.len() {
                let (out, files) = self.files.into_iter().partition(|shard| empty.contains(&shard.name.prefix));
                self.files = files;
                let out: Vec<Shard> = out;
                self.passed_over.extend(out.iter().map(|shard| relative(base, &shard.path)));
            }
        }
        if let Some(splits) = packed::splits(base)? {
            let split_of = |name: &ShardName| splits.get(&name.prefix).cloned().unwrap_or_else(|| name.split.clone());
            self.files.iter_mut().for_each(|shard| shard.split = split_of(&shard.name));
            return Ok(self);
        }
        let has_keywords = self.files.iter().any(|shard| shard.name.split.is_some());
        let numbered = self.files.iter().all(|shard| shard.name.of.is_some());
        let several = self.files.iter().any(|shard| shard.name.prefix != self.files[0].name.prefix);
        for shard in &mut self.files {
            let name = &shard.name;
            // Beside files with a keyword, or with `-00000-of-00010`, another name is another split.
            let own =
                || (!name.prefix.is_empty() && (has_keywords || numbered && several)).then(|| name.prefix.clone());
            shard.split = name.split.clone().or_else(own);
        }
        if self.files.iter().all(|shard| shard.split.is_none()) {
            // `train/0000.parquet`, opened as `train`.
            let folder = base.file_name().map(|name| name.to_string_lossy().into_owned());
            let split = folder.filter(|name| split_names::is_split_name(name));
            self.files.iter_mut().for_each(|shard| shard.split = split.clone());
        }
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The names of its files, below the folder that they were found in.
    pub fn names(&self, dir: &Path) -> Vec<String> {
        self.files.iter().map(|shard| relative(dir, &shard.path)).collect()
    }

    /// What the files hold, by the first, and whether their names are those of a data set.
    pub fn evidence(&self, look: Look) -> (Evidence, bool) {
        let first = self.files.first().map_or(Evidence::Nothing, |shard| look(&shard.path));
        (first, self.files.iter().any(|shard| shard.split.is_some() || shard.name.number.is_some()))
    }

    /// The splits: training first, then validation, test and others.
    pub fn splits(&self) -> Vec<String> {
        let mut names: Vec<String> = self.files.iter().filter_map(|shard| shard.split.clone()).collect();
        split_names::sort(&mut names);
        names
    }

    /// The files of one split, and what it is called; an error if some are missing.
    pub fn of_split(self, path: &str, split: Option<&str>) -> Result<(Vec<PathBuf>, Option<String>)> {
        let names = self.splits();
        let chosen = match names.is_empty() && split.is_none() {
            true => None,
            false => Some(split_names::choose(path, split, &names)?.to_string()),
        };
        let (files, others): (Vec<Shard>, Vec<Shard>) = self.files.into_iter().partition(|s| s.split == chosen);
        let unnamed: Vec<String> =
            others.iter().filter(|s| s.split.is_none()).map(|s| relative(Path::new(path), &s.path)).collect();
        if !unnamed.is_empty() {
            let names = paths::some(&unnamed);
            listing::note_once(&format!("{path}: passed over {names}, whose names do not tell a split"));
        }
        let prefixes: BTreeSet<&str> = files.iter().map(|shard| shard.name.prefix.as_str()).collect();
        if prefixes.len() > 1 {
            let names: Vec<&str> = prefixes.into_iter().collect();
            let of = chosen.as_ref().map_or("one set".to_string(), |split| format!("the split {split}"));
            listing::note_once(&format!("{path}: took shards of several names for {of}: {}", paths::some(&names)));
        }
        need_all(path, &files, self.named)?;
        Ok((files.into_iter().map(|shard| shard.path).collect(), chosen))
    }
}

/// The kind of a file, by its name.
pub(super) fn kind_of(file: &Path) -> Option<Kind> {
    Kind::of(&file.file_name()?.to_string_lossy())
}

fn shards(base: &Path, files: Vec<PathBuf>) -> Vec<Shard> {
    let shard = |path: PathBuf| {
        let name = ShardName::of(path.strip_prefix(base).unwrap_or(&path));
        Shard { path, name, split: None }
    };
    files.into_iter().map(shard).collect()
}

fn relative(base: &Path, file: &Path) -> String {
    file.strip_prefix(base).unwrap_or(file).display().to_string()
}

/// The kinds of shards in a folder and in those below it.
pub(super) fn kinds(dir: &Path) -> Result<Vec<Kind>> {
    let mut files = Vec::new();
    collect(dir, &[Kind::Parquet, Kind::Tar], DEPTH, &mut files)?;
    let found: Vec<Kind> = files.iter().filter_map(|file| kind_of(file)).collect();
    Ok([Kind::Parquet, Kind::Tar].into_iter().filter(|kind| found.contains(kind)).collect())
}

/// Adds the shards in a folder and in those below it, except folders of images.
fn collect(dir: &Path, kinds: &[Kind], depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("cannot read {}", dir.display());
    let (mut here, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if paths::is_stray(name.as_encoded_bytes()) {
            continue;
        }
        if Kind::of(&text).is_some_and(|kind| kinds.contains(&kind)) && !paths::is_folder(&entry)? {
            here.push(entry.path());
        } else if depth < DEPTH && paths::is_image_name(name.as_encoded_bytes()) {
            return Ok(());
        } else if depth > 0 && paths::is_folder(&entry)? {
            folders.push(entry.path());
        }
    }
    files.extend(here);
    for folder in folders {
        // A folder that others may read is of no concern, unless it is the one that was asked for.
        let denied = |e: &Error| e.downcast_ref().is_some_and(|e: &io::Error| e.kind() == ErrorKind::PermissionDenied);
        match collect(&folder, kinds, depth - 1, files) {
            Err(e) if !denied(&e) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a set in which shards are missing or come twice; where the files were named, it only says so.
fn need_all(path: &str, files: &[Shard], named: bool) -> Result<()> {
    let mut sets: BTreeMap<(&str, &str), Vec<&ShardName>> = BTreeMap::new();
    for Shard { name, .. } in files {
        sets.entry((&name.folder, &name.prefix)).or_default().push(name);
    }
    for ((folder, prefix), names) in sets {
        let place = if folder.is_empty() { prefix.to_string() } else { format!("{folder}/{prefix}") };
        let mut numbers: Vec<usize> = names.iter().filter_map(|name| name.number).collect();
        numbers.sort_unstable();
        let totals: BTreeSet<usize> = names.iter().filter_map(|name| name.of).collect();
        if totals.len() > 1 {
            let totals: Vec<String> = totals.iter().map(|total| format!("{place}-…-of-{total:05}")).collect();
            bail_hint!(
                "{path} holds shards of several sets: {}", totals.join(" and ");
                "keep the files of one set, or give them by a pattern"
            );
        }
        let Some(total) = totals.first().copied() else {
            if !named {
                tell_gaps(path, &place, &numbers);
            }
            continue;
        };
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("{path} holds shard {} of {place}-…-of-{total:05} twice", pair[0]);
        }
        // Some count from 1.
        let first = (numbers.last() == Some(&total)) as usize;
        let missing: Vec<String> = (first..first + total)
            .filter(|number| numbers.binary_search(number).is_err())
            .map(|number| format!("{number:05}"))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let (there, list) = (total - missing.len(), paths::some(&missing));
        let what =
            format!("{place}-…-of-{total:05} is incomplete: {there} of {total} shards are there, without {list}");
        if named {
            listing::note_once(&format!("{path}: {what}"));
            continue;
        }
        bail_hint!(
            "{path}: {what}";
            "fetch the missing files, or give those that are there by a pattern: \"{}\"",
            Path::new(path).join(folder).join(format!("{prefix}-*")).display()
        );
    }
    Ok(())
}

/// Says where the numbers of shards leave some out.
fn tell_gaps(path: &str, place: &str, numbers: &[usize]) {
    let gap = numbers.windows(2).find(|pair| pair[1] > pair[0] + 1);
    if let Some(gap) = gap {
        let (left, count) = (gap[0] + 1, numbers[numbers.len() - 1] - numbers[0] + 1 - numbers.len());
        listing::note_once(&format!(
            "{path}: the numbers of the shards {place} leave out {count}, first {left}: files may be missing"
        ));
    }
}
