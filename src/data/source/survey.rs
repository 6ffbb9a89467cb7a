//! How the images in a folder are arranged: by split, by class, or loosely.

use super::{paths, shard_name::Kind, split_names};
use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result};
use std::path::Path;

/// Folders of pictures that belong to a description rather than to the data.
const ASSETS: [&str; 14] = [
    "asset",
    "assets",
    "doc",
    "docs",
    "example",
    "examples",
    "figures",
    "images",
    "img",
    "media",
    "previews",
    "samples",
    "screenshots",
    "thumbnails",
];

/// So many loose images may have strayed into a folder of folders.
const FEW: usize = 3;

/// What images are arranged by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arrangement {
    /// A folder for each split, in the splits' order; whether each has a folder for each class.
    Splits(Vec<(String, bool)>),
    /// A folder for each class.
    Classes,
    /// Nothing: images without classes.
    Loose,
}

/// What a folder holds.
#[derive(Debug)]
pub(super) struct Survey {
    pub arrangement: Arrangement,
    /// How much speaks for it being a data set of images in folders, from 0 to 3.
    pub weight: u8,
    /// The folders of the splits or classes, and what does not belong to them.
    pub folders: Vec<String>,
    pub passed_over: Vec<String>,
}

/// The content of a folder, without what is stray.
#[derive(Default)]
struct Contents {
    images: Vec<String>,
    folders: Vec<String>,
    /// Archives and tables: data, but not of an image folder.
    packed: Vec<String>,
}

/// How deep a folder's images lie.
#[derive(Clone, Copy, PartialEq)]
enum Images {
    Directly,
    Below,
}

/// A folder that is called what splits are called.
struct Candidate {
    name: String,
    inside: Contents,
    has_classes: bool,
}

impl Candidate {
    fn into_class(self) -> (String, Images) {
        (self.name, if self.inside.images.is_empty() { Images::Below } else { Images::Directly })
    }
}

impl Contents {
    fn of(dir: &Path) -> Result<Self> {
        let reading = || format!("cannot read {}", dir.display());
        let mut found = Self::default();
        for entry in std::fs::read_dir(dir).with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if paths::is_stray(name.as_bytes()) {
                continue;
            }
            if paths::is_folder(&entry)? {
                found.folders.push(name);
            } else if paths::is_image_name(name.as_bytes()) {
                found.images.push(name);
            } else if is_packed(&name) {
                found.packed.push(name);
            }
        }
        for list in [&mut found.images, &mut found.folders, &mut found.packed] {
            list.sort_unstable();
        }
        Ok(found)
    }

    /// Loose images and packed data, which a folder of folders does not count.
    fn loose(&self, folder: &str) -> Vec<String> {
        let images = match self.images.len() {
            n if n > FEW => {
                vec![format!("{n} images in {}", if folder.is_empty() { "the folder itself" } else { folder })]
            }
            _ => self.images.iter().map(|name| format!("{folder}{name}")).collect(),
        };
        images.into_iter().chain(self.packed.iter().map(|name| format!("{folder}{name}"))).collect()
    }
}

/// Whether a file of this name holds data in a form other than images.
fn is_packed(name: &str) -> bool {
    let lower = name.to_lowercase();
    let other = [".zip", ".rar", ".7z", ".gz", ".arrow", ".h5", ".hdf5", ".npz", ".npy", ".lmdb", ".tfrecord"];
    let tables = ["metadata.csv", "metadata.jsonl"];
    Kind::of(name).is_some() || other.iter().any(|ending| lower.ends_with(ending)) || tables.contains(&lower.as_str())
}

/// Surveys a folder; None if no images lie in it or in the folders below it.
pub(super) fn survey(dir: &Path) -> Result<Option<Survey>> {
    let here = Contents::of(dir)?;
    let (mut exact, mut similar, mut others) = (Vec::new(), Vec::<Candidate>::new(), Vec::new());
    for name in &here.folders {
        let path = dir.join(name);
        if split_names::keyword(name).is_some() {
            // A folder that cannot be read has nothing to say here.
            let inside = Contents::of(&path).unwrap_or_default();
            let found: Vec<(&String, Images)> =
                inside.folders.iter().filter_map(|folder| Some((folder, images_in(&path.join(folder))?))).collect();
            // `val/images/0.jpg` has no classes.
            let is_loose = matches!(found[..], [(name, Images::Directly)] if is_asset(name));
            let has_classes = !found.is_empty() && !is_loose;
            if !found.is_empty() || !inside.images.is_empty() {
                let list = if split_names::is_numbered_split_name(name) { &mut exact } else { &mut similar };
                list.push(Candidate { name: name.clone(), inside, has_classes });
            }
        } else if let Some(images) = images_in(&path) {
            others.push((name.clone(), images));
        }
    }
    let own: Vec<(String, Images)> = others.iter().filter(|(name, _)| !is_asset(name)).cloned().collect();
    // `training_set` is a split beside `train` or, with classes in both, `test_set`, or where nothing else is and it has
    // classes: `test_tube` may be a class.
    let is_beside = exact.iter().any(|split| split.has_classes) || !exact.is_empty() && own.is_empty();
    let with_classes: Vec<&str> = similar.iter().filter(|s| s.has_classes).map(|s| s.name.as_str()).collect();
    let are_several = with_classes.iter().any(|name| split_names::differ(name, with_classes[0]));
    if is_beside || are_several || own.is_empty() && !with_classes.is_empty() {
        exact.append(&mut similar);
    } else if let ([name, ..], [(other, _), ..]) = (&with_classes[..], &own[..]) {
        return Err(two_ways(dir, name, other));
    } else {
        others.extend(similar.into_iter().map(Candidate::into_class));
    }
    let has_classes = exact.iter().any(|split| split.has_classes);
    if has_classes || !exact.is_empty() && own.is_empty() {
        if has_classes {
            need_clear_splits(dir, &exact, &own)?;
        }
        return Ok(Some(by_split(&here, exact, others, has_classes)));
    }
    others.extend(exact.into_iter().map(Candidate::into_class));
    let (images, weight) = (here.images.len(), others.iter().filter(|(name, _)| !is_asset(name)).count().min(2) as u8);
    if others.is_empty() {
        let loose = Survey {
            arrangement: Arrangement::Loose,
            weight: 0,
            folders: Vec::new(),
            passed_over: here.packed.into_iter().chain(here.folders.iter().map(|f| format!("{f}/"))).collect(),
        };
        return Ok((images > 0).then_some(loose));
    }
    if let [(name, depth)] = &others[..] {
        need_clear_class(dir, name, *depth, images)?;
    }
    let mut folders: Vec<String> = others.into_iter().map(|(name, _)| name).collect();
    folders.sort_unstable();
    let passed_over = here.loose("");
    Ok(Some(Survey { arrangement: Arrangement::Classes, weight: weight + 1, folders, passed_over }))
}

fn by_split(here: &Contents, found: Vec<Candidate>, others: Vec<(String, Images)>, has_classes: bool) -> Survey {
    let mut folders: Vec<String> = found.iter().map(|split| split.name.clone()).collect();
    split_names::sort(&mut folders);
    let mut passed_over: Vec<String> = others.into_iter().map(|(name, _)| format!("{name}/")).collect();
    passed_over.extend(here.loose(""));
    for split in found.iter().filter(|split| split.has_classes) {
        passed_over.extend(split.inside.loose(&format!("{}/", split.name)));
    }
    for split in found.iter().filter(|split| !split.has_classes) {
        let (packed, folders) = (&split.inside.packed, &split.inside.folders);
        passed_over.extend(packed.iter().map(|name| format!("{}/{name}", split.name)));
        passed_over.extend(folders.iter().map(|name| format!("{}/{name}/", split.name)));
    }
    let classes_of = |name: &String| found.iter().any(|split| split.name == *name && split.has_classes);
    let splits = folders.iter().map(|name| (name.clone(), classes_of(name))).collect();
    let weight = if has_classes { 3 } else { 1 };
    Survey { arrangement: Arrangement::Splits(splits), weight, folders, passed_over }
}

/// Refuses `train/` beside other folders that look like it: `train` may be a class as well.
fn need_clear_splits(dir: &Path, found: &[Candidate], own: &[(String, Images)]) -> Result<()> {
    let [split] = found else { return Ok(()) };
    let alike = |images: &Images| *images == Images::Below || split.inside.images.len() > FEW;
    let Some((other, _)) = own.iter().find(|(_, images)| alike(images)) else { return Ok(()) };
    Err(two_ways(dir, &split.name, other))
}

fn two_ways(dir: &Path, split: &str, other: &str) -> crate::error::Error {
    let dir = dir.display();
    Diagnostic::new(format!("{dir} can be read in two ways: {split}/ as a split, or {split}/ and {other}/ as classes"))
        .hint(format!("give {dir}/{split} for the split, or put what are no classes elsewhere"))
        .into()
}

/// Refuses a folder of classes whose only one, but for folders such as `docs`, holds folders of images itself: it is a level
/// too high, and all images would be of one class.
pub(super) fn need_classes(root: &Path) -> Result<()> {
    let folders = Contents::of(root)?.folders;
    if folders.len() > ASSETS.len() + 1 {
        return Ok(());
    }
    let found: Vec<(&String, Images)> =
        folders.iter().filter_map(|name| Some((name, images_in(&root.join(name))?))).collect();
    let own: Vec<(&String, Images)> = found.iter().filter(|(name, _)| !is_asset(name)).copied().collect();
    if let [(name, Images::Below)] = if own.is_empty() { &found[..] } else { &own[..] } {
        let inside = Contents::of(&root.join(name))?;
        if inside.images.is_empty() && inside.folders.len() > 1 {
            bail_hint!(
                "{} would have a single class, {name}, whose folder holds folders of images itself: {}", root.display(),
                paths::some(&inside.folders);
                "if those are the classes, give {0}/{name}, or move them up into {0}", root.display()
            );
        }
    }
    Ok(())
}

/// Refuses a single class folder that may as well be no class.
fn need_clear_class(dir: &Path, name: &str, depth: Images, loose: usize) -> Result<()> {
    let (path, shown) = (dir.join(name), dir.display());
    let inside = Contents::of(&path)?;
    if depth == Images::Below && !is_asset(name) && inside.folders.len() > 1 {
        bail_hint!(
            "{shown} holds a single folder with images, {name}, which holds folders itself: {}",
            paths::some(&inside.folders);
            "give {} if those are the classes", path.display()
        );
    }
    if loose > 0 && depth == Images::Directly && loose >= inside.images.len() {
        bail_hint!(
            "{shown} can be read in two ways: {loose} images without classes, or {name}/ as its only class";
            "put the images or the folder elsewhere, or give {}", path.display()
        );
    }
    Ok(())
}

fn is_asset(name: &str) -> bool {
    ASSETS.contains(&name.to_lowercase().as_str())
}

/// Whether images lie in a folder, or in folders in it.
fn images_in(dir: &Path) -> Option<Images> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if paths::is_stray(name) {
            continue;
        }
        if paths::is_folder(&entry).unwrap_or(false) {
            folders.push(entry.path());
        } else if paths::is_image_name(name) {
            return Some(Images::Directly);
        }
    }
    let has_image = |dir: &std::path::PathBuf| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.into_iter().map(|entry| entry.file_name()).any(|name| {
            let name = name.as_encoded_bytes();
            !paths::is_stray(name) && paths::is_image_name(name)
        })
    };
    folders.iter().any(has_image).then_some(Images::Below)
}
