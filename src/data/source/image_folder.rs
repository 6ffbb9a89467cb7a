//! A folder per class, as torchvision's `ImageFolder` reads it, and folders of images without classes.

use super::listing::{self, FileState};
use super::names::{self, Names};
use super::survey::{Arrangement, Survey, need_classes, survey};
use super::{Source, StoredImage, paths, split_names};
use crate::bail_hint;
use crate::error::{Context as _, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

const KIND: &str = "folder";
const EXPECTED: &str = "expected a folder for each class, with its images inside: CLASS/IMAGE.jpg";
/// Of a kept listing, how many files are looked for.
const SAMPLED: usize = 16;

/// Images in class folders, labelled by the folders' order; or loose images, without labels.
pub struct ImageFolder {
    root: PathBuf,
    split: Option<String>,
    /// Empty for loose images.
    class_names: Vec<String>,
    listing: Listing,
}

/// What the folders hold.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Listing {
    /// By label; for loose images a single one, of the folder itself, called "".
    classes: Vec<Class>,
    /// Paths below the class folders.
    files: Names,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Class {
    folder: OsString,
    /// The index after its last image.
    end: u32,
    /// The folders that were read, below the class folder.
    dirs: Vec<(OsString, FileState)>,
}

impl ImageFolder {
    /// Opens the images in `path`, or in its split folder `split` ("train", "val", …).
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self> {
        let shown = path.display().to_string();
        let found = surveyed(path)?;
        let (root, split, is_loose) = match found.arrangement {
            Arrangement::Splits(splits) => {
                let names: Vec<String> = splits.iter().map(|(name, _)| name.clone()).collect();
                let split = split_names::choose(&shown, split, &names)?;
                let has_classes = splits.iter().any(|(name, has_classes)| name == split && *has_classes);
                (path.join(split), Some(split.to_string()), !has_classes)
            }
            arrangement => {
                (path.to_path_buf(), split_names::of_folder(path, split)?, arrangement == Arrangement::Loose)
            }
        };
        if !is_loose {
            need_classes(&root)?;
        }
        Self::read(root, split, is_loose)
    }

    /// Opens the classes in `path`, which must be neither splits nor loose images.
    pub fn with_classes(path: &Path) -> Result<Self> {
        let shown = path.display();
        match surveyed(path)?.arrangement {
            Arrangement::Classes => {
                need_classes(path)?;
                Self::read(path.to_path_buf(), split_names::of_folder(path, None)?, false)
            }
            Arrangement::Splits(splits) => {
                let names: Vec<&str> = splits.iter().map(|(name, _)| name.as_str()).collect();
                bail_hint!(
                    "{shown} holds splits rather than classes: {}", names.join(", ");
                    "give {shown}/{}", names[0]
                );
            }
            Arrangement::Loose => {
                let names = paths::entries(path);
                let images = names.iter().filter(|n| paths::is_image_name(n.as_bytes())).count();
                bail_hint!(
                    "{shown} has {images} images, but no class folders";
                    "{EXPECTED}; data::open opens images without labels"
                );
            }
        }
    }

    fn read(root: PathBuf, split: Option<String>, is_loose: bool) -> Result<Self> {
        let listing = listing_of(&root, is_loose)?;
        let names = listing.classes.iter().map(|c| c.folder.to_string_lossy().into_owned());
        let class_names: Vec<String> = if is_loose { Vec::new() } else { names.collect() };
        if !class_names.is_sorted() {
            listing::note_once(&format!("{}: the classes are numbers, and in the order of numbers", root.display()));
        }
        Ok(Self { root, split, class_names, listing })
    }

    fn class(&self, index: usize) -> usize {
        self.listing.classes.partition_point(|c| c.end as usize <= index)
    }

    fn path(&self, index: usize) -> PathBuf {
        let class = &self.listing.classes[self.class(index)];
        let mut path = self.root.join(&class.folder);
        path.push(OsStr::from_bytes(self.listing.files.get(index)));
        path
    }
}

impl Source for ImageFolder {
    fn describe(&self) -> String {
        let split = self.split.as_ref().map(|s| format!(", {s}")).unwrap_or_default();
        let what = if self.class_names.is_empty() { "images without classes" } else { "image folder" };
        format!("{} ({what}{split})", self.root.display())
    }
    fn len(&self) -> usize {
        self.listing.files.len()
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn split(&self) -> Option<&str> {
        self.split.as_deref()
    }
    fn label(&self, index: usize) -> i64 {
        if self.class_names.is_empty() { -1 } else { self.class(index) as i64 }
    }
    fn name(&self, index: usize) -> String {
        let file = self.listing.files.text(index);
        self.class_names.get(self.class(index)).map_or_else(|| file.to_string(), |class| format!("{class}/{file}"))
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        paths::read_image(&self.path(index))
    }
}

/// What is in a folder of images.
fn surveyed(path: &Path) -> Result<Survey> {
    if !path.is_dir() {
        ensure!(!path.exists(), "{} is a file, expected a folder of class folders", path.display());
        return Err(paths::missing(path));
    }
    match survey(path)? {
        Some(found) => Ok(found),
        None => {
            let (path, entries) = (path.display(), paths::entries(path));
            bail_hint!("{path} has no class folders; it holds: {}", paths::some(&entries); "{EXPECTED}");
        }
    }
}

/// The folders in `dir`, links followed, in the order of the classes.
fn class_folders(dir: &Path) -> Result<Vec<OsString>> {
    let mut folders = Vec::new();
    let reading = || format!("cannot read {}", dir.display());
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if paths::is_stray(entry.file_name().as_bytes()) {
            continue;
        }
        if paths::is_folder(&entry)? {
            folders.push(entry.file_name());
        } else if paths::look_at(&entry.path())?.is_none() {
            listing::note_once(&format!("{} is a link that leads nowhere: it is no class", entry.path().display()));
        }
    }
    names::sort_classes(&mut folders, |folder| folder.as_bytes());
    Ok(folders)
}

/// The listing of `root`: the stored one if it is still valid, else a new one.
fn listing_of(root: &Path, is_loose: bool) -> Result<Listing> {
    let folders = if is_loose { vec![OsString::new()] } else { class_folders(root)? };
    let cache = listing::folder();
    let key = root.canonicalize().with_context(|| format!("cannot read {}", root.display()))?;
    if let Some(kept) = listing::load::<Listing>(cache.as_deref(), KIND, &key).filter(Listing::is_consistent) {
        match kept.change(root, &folders) {
            None => return Ok(kept),
            Some(what) => {
                let root = root.display();
                listing::note(&format!("the listing of {root} is out of date ({what}): listing again"));
            }
        }
    }
    let started = SystemTime::now();
    let leads_nowhere = AtomicBool::new(false);
    let new = Listing::make(root, folders, &leads_nowhere)?;
    // Where a link leads nowhere, nothing tells when there is a folder again.
    let is_whole = !leads_nowhere.into_inner();
    if is_whole && new.classes.iter().flat_map(|c| &c.dirs).all(|(_, state)| state.is_settled(started)) {
        listing::store(cache.as_deref(), KIND, &key, &new);
    }
    Ok(new)
}

impl Listing {
    fn make(root: &Path, folders: Vec<OsString>, leads_nowhere: &AtomicBool) -> Result<Self> {
        let progress = listing::Progress::new(format!("listing {}", root.display()));
        let found: Vec<(Vec<(OsString, FileState)>, Names)> = folders
            .par_iter()
            .map(|folder| walk(&root.join(folder), &progress, leads_nowhere))
            .collect::<Result<_>>()?;
        let empty: Vec<_> =
            folders.iter().zip(&found).filter(|(_, p)| p.1.len() == 0).map(|(f, _)| f.to_string_lossy()).collect();
        if !empty.is_empty() {
            let root = root.display();
            let classes = if empty.len() == 1 { "class folder" } else { "class folders" };
            bail_hint!(
                "{root} has {} {classes} without images: {}", empty.len(), paths::some(&empty);
                "every folder in {root} is a class: put others elsewhere; images end in .jpg, .jpeg, .png, .ppm, .bmp, \
                 .pgm, .tif, .tiff, .webp or .gif"
            );
        }
        let (mut classes, mut files) = (Vec::new(), Names::default());
        for (folder, (dirs, names)) in folders.into_iter().zip(found) {
            files.append(&names)?;
            classes.push(Class { folder, end: files.len() as u32, dirs });
        }
        files.shrink();
        Ok(Self { classes, files })
    }

    /// What has changed since the listing, in words.
    fn change(&self, root: &Path, folders: &[OsString]) -> Option<String> {
        let listed: HashSet<&OsStr> = self.classes.iter().map(|c| c.folder.as_os_str()).collect();
        let found: HashSet<&OsStr> = folders.iter().map(OsString::as_os_str).collect();
        if let Some(gone) = self.classes.iter().find(|c| !found.contains(c.folder.as_os_str())) {
            let is_loose = gone.folder.is_empty();
            let gone = format!("{} is gone", gone.folder.to_string_lossy());
            return Some(if is_loose { "it has class folders".to_string() } else { gone });
        }
        if let Some(new) = folders.iter().find(|f| !listed.contains(f.as_os_str())) {
            return Some(format!("{} is new", new.to_string_lossy()));
        }
        let changed = self.classes.par_iter().find_first(|class| {
            let base = root.join(&class.folder);
            class.dirs.iter().any(|(dir, state)| {
                std::fs::metadata(if dir.is_empty() { base.clone() } else { base.join(dir) })
                    .map_or(true, |meta| FileState::of(&meta) != *state)
            })
        });
        if let Some(changed) = changed {
            let folder = if changed.folder.is_empty() { "it".into() } else { changed.folder.to_string_lossy() };
            return Some(format!("{folder} changed"));
        }
        // Some file systems keep everything that tells a folder from another one in its place.
        let sampled = (0..SAMPLED.min(self.files.len())).map(|k| k * self.files.len() / SAMPLED.min(self.files.len()));
        let mut paths = sampled.map(|index| {
            let class = &self.classes[self.classes.partition_point(|c| c.end as usize <= index)];
            root.join(&class.folder).join(OsStr::from_bytes(self.files.get(index)))
        });
        paths.find(|path| std::fs::symlink_metadata(path).is_err()).map(|path| format!("{} is gone", path.display()))
    }

    fn is_consistent(&self) -> bool {
        self.files.is_consistent() && self.classes.last().is_some_and(|c| c.end as usize == self.files.len())
    }
}

/// The images below a class folder in the order of `sorted(os.walk(dir, followlinks=True))`, and the folders read. Says, and
/// notes in `leads_nowhere`, if there are links to what is not there, which may be folders.
fn walk(
    base: &Path,
    progress: &listing::Progress,
    leads_nowhere: &AtomicBool,
) -> Result<(Vec<(OsString, FileState)>, Names)> {
    let mut found: Vec<(OsString, FileState, Vec<OsString>)> = Vec::new();
    let mut open = vec![OsString::new()];
    while let Some(dir) = open.pop() {
        let path = if dir.is_empty() { base.to_path_buf() } else { base.join(&dir) };
        let reading = || format!("cannot read {}", path.display());
        // Before the content: what changes meanwhile is then noticed the next time.
        let state = FileState::of(&std::fs::metadata(&path).with_context(reading)?);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&path).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let (name, kind) = (entry.file_name(), entry.file_type().with_context(reading)?);
            if paths::is_stray(name.as_bytes()) {
                continue;
            }
            let link = kind.is_symlink();
            if paths::is_folder(&entry)? {
                if link && is_cycle(&path, &entry.path()) {
                    bail!("{} links to a folder that it lies in", entry.path().display());
                }
                let mut below = dir.clone();
                if !below.is_empty() {
                    below.push("/");
                }
                below.push(&name);
                open.push(below);
            } else if paths::is_image_name(name.as_bytes()) {
                files.push(name);
            } else if link && paths::look_at(&entry.path())?.is_none() {
                leads_nowhere.store(true, Ordering::Relaxed);
                listing::note(&format!("{} links to what is not there: passed over", entry.path().display()));
            }
        }
        files.sort_unstable();
        progress.add(files.len() as u64);
        found.push((dir, state, files));
    }
    // By the whole path, as text: "a-b" before "a/b".
    found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut names = Names::default();
    for (dir, _, files) in &found {
        for file in files {
            match dir.is_empty() {
                true => names.push(file.as_bytes())?,
                false => names.push_joined(&[dir.as_bytes(), b"/", file.as_bytes()])?,
            }
        }
    }
    Ok((found.into_iter().map(|(dir, state, _)| (dir, state)).collect(), names))
}

fn is_cycle(dir: &Path, link: &Path) -> bool {
    match (dir.canonicalize(), link.canonicalize()) {
        (Ok(dir), Ok(target)) => dir.starts_with(target),
        _ => false,
    }
}
