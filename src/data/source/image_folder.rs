//! A folder per class, as torchvision's `ImageFolder` reads it.

use super::listing;
use super::names::Names;
use super::paths;
use super::{Source, StoredImage};
use crate::bail_hint;
use crate::error::{Context as _, Result, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const KIND: &str = "folder";

/// Images in class folders: labels are the indices of the sorted class names.
pub struct ImageFolder {
    root: PathBuf,
    split: Option<String>,
    class_names: Vec<String>,
    listing: Listing,
}

/// What the folders hold.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Listing {
    classes: Vec<Class>,
    /// Paths below the class folders.
    files: Names,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Class {
    folder: OsString,
    /// The index after its last image.
    end: u32,
    /// The folders that were read, below the class folder, and when each last changed.
    dirs: Vec<(OsString, u64)>,
}

impl ImageFolder {
    /// Opens the classes in `path`, or in its split folder `split` ("train", "val", …).
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self> {
        if !path.is_dir() {
            ensure!(!path.exists(), "{} is a file, expected a folder of class folders", path.display());
            return Err(paths::missing(path));
        }
        let splits = split_folders(path);
        let own_name = path.file_name().map(|n| n.to_string_lossy().into_owned()).filter(|n| paths::is_split_name(n));
        let (root, split) = if splits.is_empty() {
            let own: Vec<String> = own_name.into_iter().collect();
            match split {
                Some(wanted) if paths::matching(wanted, &own).is_none() => {
                    paths::choose(&path.display().to_string(), split, &[])?;
                }
                _ => (),
            }
            (path.to_path_buf(), own.into_iter().next())
        } else {
            if split.is_none() && splits.len() > 1 {
                let (path, list) = (path.display(), splits.join(", "));
                bail_hint!(
                    "{path} holds splits rather than classes: {list}";
                    "give {path}/{}, or name the split", splits[0]
                );
            }
            let split = paths::choose(&path.display().to_string(), split, &splits)?;
            (path.join(split), Some(split.to_string()))
        };
        let listing = listing_of(&root)?;
        let class_names = listing.classes.iter().map(|c| c.folder.to_string_lossy().into_owned()).collect();
        Ok(Self { root, split, class_names, listing })
    }

    fn path(&self, index: usize) -> PathBuf {
        let class = &self.listing.classes[self.label(index) as usize];
        let mut path = self.root.join(&class.folder);
        path.push(OsStr::from_bytes(self.listing.files.get(index)));
        path
    }
}

impl Source for ImageFolder {
    fn describe(&self) -> String {
        let split = self.split.as_ref().map(|s| format!(", {s}")).unwrap_or_default();
        format!("{} (image folder{split})", self.root.display())
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
        self.listing.classes.partition_point(|c| c.end as usize <= index) as i64
    }
    fn name(&self, index: usize) -> String {
        format!("{}/{}", self.class_names[self.label(index) as usize], self.listing.files.text(index))
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let path = self.path(index);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(StoredImage::Encoded(Cow::Owned(bytes)))
    }
}

/// The folders in `dir` that are splits with classes inside: they have a split's name and hold folders, but no images.
/// None if other folders hold images: then `train` is a class, too.
pub(super) fn split_folders(dir: &Path) -> Vec<String> {
    let mut splits = Vec::new();
    for folder in class_folders(dir).unwrap_or_default() {
        let path = dir.join(&folder);
        let images = first_image(&path);
        match folder.to_str().filter(|n| paths::is_split_name(n)) {
            Some(name) if !images && class_folders(&path).is_ok_and(|c| !c.is_empty()) => splits.push(name.to_string()),
            _ if images => return Vec::new(),
            _ => (),
        }
    }
    paths::sort_splits(&mut splits);
    splits
}

/// Whether images lie in the folder itself.
pub(super) fn first_image(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|e| paths::is_image_name(e.file_name().as_bytes()))
}

/// The folders in `dir`, links followed, sorted as Python sorts them: by code points, which is UTF-8's order.
pub(super) fn class_folders(dir: &Path) -> Result<Vec<OsString>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_symlink() && entry.path().is_dir() {
            folders.push(entry.file_name());
        }
    }
    folders.sort_unstable();
    Ok(folders)
}

/// The listing of `root`: the stored one if it is still valid, else a new one.
fn listing_of(root: &Path) -> Result<Listing> {
    let folders = class_folders(root)?;
    if folders.is_empty() {
        let root = root.display();
        let entries = paths::entries(Path::new(&root.to_string()));
        let images = entries.iter().filter(|n| paths::is_image_name(n.as_bytes())).count();
        let expected = "expected a folder for each class, with its images inside: CLASS/IMAGE.jpg";
        if images > 0 {
            bail_hint!("{root} has {images} images, but no class folders"; "{expected}");
        }
        bail_hint!("{root} has no class folders; it holds: {}", paths::some(&entries); "{expected}");
    }
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
    let new = Listing::make(root, folders)?;
    if new.classes.iter().flat_map(|c| &c.dirs).all(|(_, modified)| listing::is_settled(*modified, started)) {
        listing::store(cache.as_deref(), KIND, &key, &new);
    }
    Ok(new)
}

impl Listing {
    fn make(root: &Path, folders: Vec<OsString>) -> Result<Self> {
        let progress = listing::Progress::new(format!("listing {}", root.display()));
        let found: Vec<(Vec<(OsString, u64)>, Names)> =
            folders.par_iter().map(|folder| walk(&root.join(folder), &progress)).collect::<Result<_>>()?;
        let empty: Vec<_> =
            folders.iter().zip(&found).filter(|(_, p)| p.1.len() == 0).map(|(f, _)| f.to_string_lossy()).collect();
        if !empty.is_empty() {
            let root = root.display();
            let classes = if empty.len() == 1 { "class folder" } else { "class folders" };
            bail_hint!(
                "{root} has {} {classes} without images: {}", empty.len(), paths::some(&empty);
                "every folder in {root} is a class; images end in .jpg, .jpeg, .png, .ppm, .bmp, .pgm, .tif, .tiff, \
                 .webp or .gif"
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
        let listed: HashMap<&OsStr, ()> = self.classes.iter().map(|c| (c.folder.as_os_str(), ())).collect();
        if let Some(new) = folders.iter().find(|f| !listed.contains_key(f.as_os_str())) {
            return Some(format!("{} is new", new.to_string_lossy()));
        }
        if let Some(gone) = self.classes.iter().find(|c| folders.binary_search(&c.folder).is_err()) {
            return Some(format!("{} is gone", gone.folder.to_string_lossy()));
        }
        let changed = self.classes.par_iter().find_first(|class| {
            let base = root.join(&class.folder);
            class.dirs.iter().any(|(dir, at)| {
                std::fs::metadata(if dir.is_empty() { base.clone() } else { base.join(dir) })
                    .map_or(true, |meta| listing::modified(&meta) != *at)
            })
        })?;
        Some(format!("{} changed", changed.folder.to_string_lossy()))
    }

    fn is_consistent(&self) -> bool {
        self.files.is_consistent() && self.classes.last().is_some_and(|c| c.end as usize == self.files.len())
    }
}

/// The images below a class folder in the order of `sorted(os.walk(dir, followlinks=True))`, and the folders read.
fn walk(base: &Path, progress: &listing::Progress) -> Result<(Vec<(OsString, u64)>, Names)> {
    let mut found: Vec<(OsString, u64, Vec<OsString>)> = Vec::new();
    let mut open = vec![OsString::new()];
    while let Some(dir) = open.pop() {
        let path = if dir.is_empty() { base.to_path_buf() } else { base.join(&dir) };
        let reading = || format!("cannot read {}", path.display());
        // Before the content: what changes meanwhile is then noticed the next time.
        let modified = listing::modified(&std::fs::metadata(&path).with_context(reading)?);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&path).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let (name, kind) = (entry.file_name(), entry.file_type().with_context(reading)?);
            let link = kind.is_symlink();
            if kind.is_dir() || link && entry.path().is_dir() {
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
            }
        }
        files.sort_unstable();
        progress.add(files.len() as u64);
        found.push((dir, modified, files));
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
    Ok((found.into_iter().map(|(dir, modified, _)| (dir, modified)).collect(), names))
}

fn is_cycle(dir: &Path, link: &Path) -> bool {
    match (dir.canonicalize(), link.canonicalize()) {
        (Ok(dir), Ok(target)) => dir.starts_with(target),
        _ => false,
    }
}
