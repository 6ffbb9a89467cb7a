//! CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) as they are distributed: the binary version, and the pickles for Python.

use super::{Source, StoredImage, ends, locate, paths, split_names};
use crate::bail_hint;
use crate::data::image::Image;
use crate::error::{Context as _, Result, did_you_mean, ensure};
use crate::pickle::Dictionary;
use crate::untrusted;
use std::path::{Path, PathBuf};

const SIDE: usize = 32;
/// Values of a channel: all of red come first, then green, then blue.
const PLANE: usize = SIDE * SIDE;
const VALUES: usize = 3 * PLANE;
/// The most that a file may have: all of it is kept in memory.
const MOST: u64 = 4 << 30;
const SPLITS: [&str; 2] = ["train", "test"];
/// The labels of CIFAR-100, in the order of its records.
const LABELS: [&str; 2] = ["coarse_label", "fine_label"];
const FINE: usize = 1;

/// What is distributed, each in a folder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `cifar-10-batches-bin`.
    Cifar10Binary,
    /// `cifar-10-batches-py`.
    Cifar10Python,
    /// `cifar-100-binary`.
    Cifar100Binary,
    /// `cifar-100-python`.
    Cifar100Python,
}

use Version::*;

impl Version {
    const ALL: [Version; 4] = [Cifar10Binary, Cifar10Python, Cifar100Binary, Cifar100Python];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Cifar10Binary => "CIFAR-10, binary version",
            Cifar10Python => "CIFAR-10, Python version",
            Cifar100Binary => "CIFAR-100, binary version",
            Cifar100Python => "CIFAR-100, Python version",
        }
    }

    /// The folder in the archive that is distributed.
    fn folder(self) -> &'static str {
        match self {
            Cifar10Binary => "cifar-10-batches-bin",
            Cifar10Python => "cifar-10-batches-py",
            Cifar100Binary => "cifar-100-binary",
            Cifar100Python => "cifar-100-python",
        }
    }

    fn is_binary(self) -> bool {
        matches!(self, Cifar10Binary | Cifar100Binary)
    }

    fn has_two_labels(self) -> bool {
        matches!(self, Cifar100Binary | Cifar100Python)
    }

    /// The files of a split.
    fn batches(self, split: &str) -> Vec<String> {
        let ending = if self.is_binary() { ".bin" } else { "" };
        match (self.has_two_labels(), split) {
            (true, split) => vec![format!("{split}{ending}")],
            (false, "train") => (1..=5).map(|i| format!("data_batch_{i}{ending}")).collect(),
            (false, _) => vec![format!("test_batch{ending}")],
        }
    }

    /// The file that names the classes.
    fn names_file(self, label: usize) -> &'static str {
        match (self, label) {
            (Cifar10Binary, _) => "batches.meta.txt",
            (Cifar10Python, _) => "batches.meta",
            (Cifar100Binary, FINE) => "fine_label_names.txt",
            (Cifar100Binary, _) => "coarse_label_names.txt",
            (Cifar100Python, _) => "meta",
        }
    }

    /// What labels are called in its pickles, but for an `s`.
    fn key(self, label: usize) -> &'static str {
        if self.has_two_labels() { LABELS[label] } else { "label" }
    }

    /// Its files in a folder, if there are images and names of classes among them.
    fn files_in(self, dir: &Path) -> Option<Vec<String>> {
        let there = |names: &mut dyn Iterator<Item = String>| -> Vec<String> {
            names.filter(|name| dir.join(name).is_file()).collect()
        };
        let images = there(&mut SPLITS.iter().flat_map(|split| self.batches(split)));
        let mut names = there(&mut [0, FINE].iter().map(|label| self.names_file(*label).to_string()));
        names.dedup();
        // Those of CIFAR-100 are called as many are.
        let is_it = !images.is_empty() && (!self.has_two_labels() || !names.is_empty());
        is_it.then(|| [images, names].concat())
    }
}

/// Which version lies in a folder, with its files.
pub(super) fn find(dir: &Path) -> Option<(Version, Vec<String>)> {
    Version::ALL.into_iter().find_map(|version| Some((version, version.files_in(dir)?)))
}

/// The folders, as they are distributed, that a folder holds.
pub(super) fn below(dir: &Path) -> Vec<(Version, &'static str)> {
    let all = Version::ALL.into_iter().map(|version| (version, version.folder()));
    all.filter(|(version, folder)| version.files_in(&dir.join(folder)).is_some()).collect()
}

/// The splits, which all versions have.
pub(super) fn splits() -> Vec<String> {
    SPLITS.map(str::to_string).to_vec()
}

/// Images with labels, all in memory.
pub struct Cifar {
    of: String,
    split: &'static str,
    batches: Vec<Batch>,
    /// The indices after each batch's last image.
    ends: Vec<usize>,
    labels: Vec<u8>,
    class_names: Vec<String>,
}

/// A file: value v of image i is the byte `start + i * row + v * column`.
struct Batch {
    bytes: Vec<u8>,
    start: usize,
    row: usize,
    column: usize,
    labels: Vec<i64>,
}

impl Cifar {
    /// Opens a split of the version that lies in `dir`; `label` is "fine_label" (the default) or "coarse_label" in
    /// CIFAR-100.
    pub fn open(dir: &Path, version: Version, split: Option<&str>, label: Option<&str>) -> Result<Self> {
        let shown = dir.display();
        let split = split_names::choose(&shown.to_string(), split, &splits())?.to_string();
        let split = SPLITS.into_iter().find(|known| *known == split).expect("one of them");
        let label = chosen_label(dir, version, label)?;
        let names_file = find_file(dir, version, version.names_file(label))?;
        let class_names = class_names(&names_file, version, label)?;
        ensure!(!class_names.is_empty(), "{} names no classes", names_file.display());

        let (mut batches, mut labels) = (Vec::new(), Vec::new());
        for name in version.batches(split) {
            let path = find_file(dir, version, &name)?;
            let bytes = untrusted::read(&path, MOST)?;
            let batch = match version.is_binary() {
                true => Batch::of_records(&path, bytes, version, label)?,
                false => Batch::of_pickle(&path, bytes, version, label)?,
            };
            ensure!(!batch.labels.is_empty(), "{} holds no images", path.display());
            for (i, found) in batch.labels.iter().enumerate() {
                match u8::try_from(*found) {
                    Ok(fitting) if (fitting as usize) < class_names.len() => labels.push(fitting),
                    _ => bail_hint!(
                        "{}: image {i} has the label {found}, expected 0 to {}", path.display(), class_names.len() - 1;
                        "{} names {} classes; fetch the files again", names_file.display(), class_names.len()
                    ),
                }
            }
            batches.push(batch);
        }
        let which = if version.has_two_labels() && label != FINE { ", coarse_label" } else { "" };
        let of = format!("{shown} ({}, {split}{which})", version.name());
        let ends = ends(batches.iter().map(|batch| batch.labels.len()));
        batches.iter_mut().for_each(|batch| batch.labels = Vec::new());
        Ok(Self { of, split, batches, ends, labels, class_names })
    }
}

/// Which of the two labels the option asks for.
fn chosen_label(dir: &Path, version: Version, given: Option<&str>) -> Result<usize> {
    let Some(given) = given else { return Ok(FINE) };
    if !version.has_two_labels() {
        bail_hint!(
            "{} ({}) has no `{given}`: its images have one label", dir.display(), version.name();
            "leave out the option label"
        );
    }
    match LABELS.iter().position(|label| *label == given) {
        Some(label) => Ok(label),
        None => bail_hint!(
            "{} ({}) has no `{given}`{}", dir.display(), version.name(), did_you_mean(given, LABELS);
            "its labels are: {}", LABELS.join(", ")
        ),
    }
}

/// A file of the version, which must be there.
fn find_file(dir: &Path, version: Version, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    bail_hint!(
        "{} ({}) is incomplete: {name} is missing", dir.display(), version.name();
        "the folder holds: {}; unpack its archive again", paths::some(&paths::entries(dir))
    )
}

fn class_names(path: &Path, version: Version, label: usize) -> Result<Vec<String>> {
    if version.is_binary() {
        let text = untrusted::read_text(path)?;
        return Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect());
    }
    let bytes = untrusted::read(path, untrusted::MOST_TEXT)?;
    let names = Dictionary::read(&bytes).and_then(|found| found.texts(&format!("{}_names", version.key(label))));
    names.with_context(|| format!("{} does not name the classes of {}", path.display(), version.name()))
}

impl Batch {
    /// Records of one or two labels and the values.
    fn of_records(path: &Path, bytes: Vec<u8>, version: Version, label: usize) -> Result<Self> {
        let (labels, at) = if version.has_two_labels() { (2, label) } else { (1, 0) };
        let row = labels + VALUES;
        if !bytes.len().is_multiple_of(row) {
            bail_hint!(
                "{} is truncated or damaged: expected records of {row} bytes ({labels} of labels and 3 x {SIDE} x {SIDE} \
                 values), found {} bytes", path.display(), bytes.len();
                "fetch the file again"
            );
        }
        let labels_of = bytes.iter().skip(at).step_by(row).map(|label| i64::from(*label)).collect();
        Ok(Self { bytes, start: labels, row, column: 1, labels: labels_of })
    }

    /// A dictionary with an array and lists of labels.
    fn of_pickle(path: &Path, bytes: Vec<u8>, version: Version, label: usize) -> Result<Self> {
        let read = || -> Result<_> {
            let found = Dictionary::read(&bytes)?;
            let (array, key) = (found.array("data")?, format!("{}s", version.key(label)));
            let labels = found.integers(&key)?;
            ensure!(
                array.dtype == "u1" && matches!(array.shape[..], [_, VALUES]),
                "its array `data` is {:?} of {:?}, expected [images, {VALUES}] of \"u1\" (uint8)",
                array.shape,
                array.dtype
            );
            let images = array.shape[0];
            ensure!(images == labels.len(), "it has {images} images, but {} `{key}`", labels.len());
            let (row, column) = if array.fortran { (1, images) } else { (VALUES, 1) };
            Ok((array.values.start, row, column, labels))
        };
        let (start, row, column, labels) =
            read().with_context(|| format!("{} is no batch of {}", path.display(), version.name()))?;
        Ok(Self { bytes, start, row, column, labels })
    }

    fn image(&self, index: usize) -> Image {
        let values = self.bytes[self.start + index * self.row..].iter().step_by(self.column);
        let mut data = vec![0; VALUES];
        for (i, value) in values.take(VALUES).enumerate() {
            data[i % PLANE * 3 + i / PLANE] = *value;
        }
        Image::new(SIDE, SIDE, 3, data)
    }
}

impl Source for Cifar {
    fn describe(&self) -> String {
        self.of.clone()
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn split(&self) -> Option<&str> {
        Some(self.split)
    }
    fn label(&self, index: usize) -> i64 {
        self.labels[index].into()
    }
    fn name(&self, index: usize) -> String {
        paths::row_name(Some(self.split), index, None)
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (batch, index) = locate(&self.ends, index);
        Ok(StoredImage::Pixels(self.batches[batch].image(index)))
    }
    fn shape(&self) -> Option<[usize; 3]> {
        Some([3, SIDE, SIDE])
    }
}
