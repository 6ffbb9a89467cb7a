//! Recognising how images are stored, and opening them.

use super::shard_name::{Kind, compression};
use super::shards::{self, Evidence, Look, Shards, kind_of};
use super::survey::{Arrangement, Survey, survey};
use super::unchanged::Unchanged;
use super::{
    Cifar, HfDisk, Idx, ImageFolder, OpenOptions, Parquet, SourceRef, WebDataset, cifar, hf_disk, idx, listing, packed,
    parquet, paths, split_names, webdataset,
};
use crate::bail_hint;
use crate::data::image::Mode;
use crate::error::{Diagnostic, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How labelled images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A folder for each class, perhaps below a folder for each split.
    ImageFolder,
    /// Images without classes, perhaps in a folder for each split.
    Images,
    /// What `datasets` saves to disk.
    HfDisk,
    /// Parquet files, as on the Hugging Face Hub.
    Parquet,
    /// Tar archives.
    WebDataset,
    /// The files of MNIST.
    Idx,
    /// The files of CIFAR-10 or CIFAR-100.
    Cifar(cifar::Version),
}

impl Layout {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Layout::ImageFolder => "image folder",
            Layout::Images => "images without classes",
            Layout::HfDisk => "datasets folder (Arrow)",
            Layout::Parquet => "parquet shards",
            Layout::WebDataset => "WebDataset tars",
            Layout::Idx => "IDX",
            Layout::Cifar(version) => version.name(),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A path whose layout is known.
#[derive(Debug)]
pub struct Place {
    path: String,
    /// How the images are stored.
    pub layout: Layout,
    /// What lies there and does not belong to the data, by name.
    pub passed_over: Vec<String>,
}

/// A layout that a folder may have.
struct Candidate {
    layout: Layout,
    /// How much speaks for it: 4 is beyond doubt, 3 labelled images, 2 and 1 less.
    weight: u8,
    /// The files or folders that make it up, by name.
    made_of: Vec<String>,
    passed_over: Vec<String>,
    /// Where it lies, if not in the folder itself.
    below: Option<PathBuf>,
}

impl Candidate {
    fn new(layout: Layout, weight: u8, made_of: Vec<String>) -> Self {
        Self { layout, weight, made_of, passed_over: Vec::new(), below: None }
    }
}

impl Place {
    /// Recognises the layout of a folder, a file or a pattern of files. Of several layouts in one folder, it is the one
    /// for which most speaks; if that is not a single one, an error.
    pub fn find(path: &str) -> Result<Self> {
        let dir = Path::new(path);
        if dir.is_dir() {
            return Self::of_folder(path, dir);
        }
        if !dir.exists() && paths::is_pattern(path) {
            return Self::of_pattern(path);
        }
        if !dir.exists() {
            return Err(paths::missing(dir));
        }
        match kind_of(dir) {
            Some(kind) => Ok(Self { path: path.into(), layout: layout_of(kind), passed_over: Vec::new() }),
            None => bail_hint!("{path} is a file of an unknown kind"; "expected a folder, .parquet or .tar files"),
        }
    }

    fn of_pattern(path: &str) -> Result<Self> {
        let found = paths::expand(path)?;
        let mut kinds: Vec<Kind> =
            found.iter().filter(|file| file.is_file()).filter_map(|file| kind_of(file)).collect();
        kinds.dedup();
        match (&kinds[..], &found[..]) {
            ([kind], _) => Ok(Self { path: path.into(), layout: layout_of(*kind), passed_over: Vec::new() }),
            ([], [folder]) if folder.is_dir() => Self::find(&folder.display().to_string()),
            ([], all) => {
                let names: Vec<String> = all.iter().map(|file| file.display().to_string()).collect();
                bail_hint!(
                    "the pattern \"{path}\" matches {}", paths::some(&names);
                    "patterns are for .parquet and .tar files, or for a single folder"
                );
            }
            _ => bail_hint!(
                "the pattern \"{path}\" matches .parquet and .tar files";
                "give files of one kind: \"{path}.parquet\" or \"{path}.tar\""
            ),
        }
    }

    fn of_folder(path: &str, dir: &Path) -> Result<Self> {
        packed::ensure_complete(dir)?;
        let names = paths::entries(dir);
        let mut found = Vec::new();
        if names.iter().any(|name| name == "dataset_dict.json") || hf_disk::is_dataset(dir) {
            let made_of = vec!["dataset_dict.json or state.json".to_string()];
            found.push(Candidate::new(Layout::HfDisk, 4, made_of));
        }
        if ["train", "test"].iter().any(|split| idx::has_split(dir, split)) {
            let made_of = vec!["*-idx3-ubyte".to_string()];
            found.push(Candidate::new(Layout::Idx, 3, made_of));
        }
        found.extend(of_cifar(dir));
        if let Some(survey) = survey(dir)? {
            found.push(of_survey(survey));
        }
        // What cannot be read is of no concern where there is something better.
        let mut trouble = None;
        let mut found_shards = Vec::new();
        for kind in shards::kinds(dir)? {
            let look: Look = if kind == Kind::Parquet { parquet::look } else { webdataset::look };
            match Shards::find(path, kind, look) {
                Ok(set) => found_shards.push((kind, look, set)),
                Err(e) => trouble = trouble.or(Some(e)),
            }
        }
        let is_alone = found.is_empty() && found_shards.len() == 1;
        let mut passed_over = Vec::new();
        for (kind, look, set) in found_shards {
            let (evidence, is_named) = if is_alone { (Evidence::LabelledImages, true) } else { set.evidence(look) };
            let weight = match evidence {
                Evidence::LabelledImages => 3,
                Evidence::Images => 1 + is_named as u8,
                Evidence::Nothing => {
                    passed_over.extend(set.names(dir));
                    continue;
                }
            };
            let made_of = set.names(dir);
            found.push(Candidate { passed_over: set.passed_over, ..Candidate::new(layout_of(kind), weight, made_of) });
        }
        if let Some(trouble) = trouble
            && found.iter().all(|candidate| candidate.weight < 3)
        {
            return Err(trouble);
        }
        Self::weighed(path, dir, found, passed_over)
    }

    fn weighed(path: &str, dir: &Path, mut found: Vec<Candidate>, mut passed_over: Vec<String>) -> Result<Self> {
        found.sort_by_key(|candidate| std::cmp::Reverse(candidate.weight));
        let Some(best) = found.first() else { return Err(unknown(path, dir)) };
        let equal: Vec<&Candidate> = found.iter().filter(|candidate| candidate.weight == best.weight).collect();
        if equal.len() > 1 {
            let ways: Vec<String> =
                equal.iter().map(|c| format!("{} ({})", c.layout, paths::some(&c.made_of))).collect();
            let hint = match &best.below {
                Some(folder) => format!("name one of them, for example \"{}\"", folder.display()),
                None => format!(
                    "put what you do not want elsewhere, or give files by a pattern, for example \"{path}/*.tar\""
                ),
            };
            bail_hint!("{path} can be read in {} ways: as {}", ways.len(), ways.join(", or as "); "{hint}");
        }
        let mut found = found.into_iter();
        let best = found.next().expect("looked at above");
        for other in found {
            passed_over.extend(other.made_of.into_iter().chain(other.passed_over));
        }
        passed_over.retain(|name| !best.made_of.contains(name));
        if best.layout == Layout::HfDisk {
            // Its tables, and the folders of its splits, which may hold images that the tables name.
            passed_over.retain(|name| !name.ends_with(".arrow") && !name.ends_with('/'));
        }
        passed_over.extend(best.passed_over);
        passed_over.sort_unstable();
        passed_over.dedup();
        let path = best.below.map_or(path.to_string(), |folder| folder.display().to_string());
        Ok(Self { path, layout: best.layout, passed_over })
    }

    /// The splits, training first; none if the layout has none.
    pub fn splits(&self) -> Result<Vec<String>> {
        let (path, dir) = (self.path.as_str(), Path::new(&self.path));
        Ok(match self.layout {
            Layout::ImageFolder | Layout::Images => match survey(dir)?.map(|found| found.arrangement) {
                Some(Arrangement::Splits(splits)) => splits.into_iter().map(|(name, _)| name).collect(),
                _ => Vec::new(),
            },
            Layout::HfDisk => hf_disk::splits(dir)?,
            Layout::Parquet => Shards::find(path, Kind::Parquet, parquet::look)?.splits(),
            Layout::WebDataset => Shards::find(path, Kind::Tar, webdataset::look)?.splits(),
            Layout::Idx => {
                ["train", "test"].into_iter().filter(|s| idx::has_split(dir, s)).map(str::to_string).collect()
            }
            Layout::Cifar(_) => cifar::splits(),
        })
    }

    /// Opens the images; `split` may be left out if there is only one. Tables have columns to choose, and CIFAR has labels.
    pub fn open(&self, split: Option<&str>, options: &OpenOptions) -> Result<SourceRef> {
        let (path, dir, layout) = (self.path.as_str(), Path::new(&self.path), self.layout);
        let is_fine = match layout {
            Layout::HfDisk | Layout::Parquet => true,
            Layout::Cifar(_) => options.image.is_none(),
            _ => options.image.is_none() && options.label.is_none(),
        };
        if !is_fine {
            bail_hint!(
                "{path} ({layout}) has no columns, which the options image and label choose";
                "give them for parquet files and `datasets` folders only, and label for CIFAR-100"
            );
        }
        let source: SourceRef = match self.layout {
            Layout::ImageFolder | Layout::Images => Arc::new(ImageFolder::open(dir, split)?),
            Layout::HfDisk => Arc::new(HfDisk::open(dir, split, options)?),
            Layout::Parquet => Arc::new(Parquet::open(path, split, options)?),
            Layout::WebDataset => Arc::new(WebDataset::open(path, split)?),
            Layout::Cifar(version) => Arc::new(Cifar::open(dir, version, split, options.label.as_deref())?),
            Layout::Idx => Arc::new(Idx::open(dir, split_names::choose(path, split, &self.splits()?)?)?),
        };
        // Pixels of 8 bits are what they are.
        let is_kept = options.mode == Mode::Rgb || source.shape().is_some();
        Ok(if is_kept { source } else { Arc::new(Unchanged(source)) })
    }
}

fn layout_of(kind: Kind) -> Layout {
    match kind {
        Kind::Parquet => Layout::Parquet,
        Kind::Tar => Layout::WebDataset,
    }
}

fn of_survey(found: Survey) -> Candidate {
    let has_classes = match &found.arrangement {
        Arrangement::Splits(splits) => splits.iter().any(|(_, has_classes)| *has_classes),
        arrangement => *arrangement == Arrangement::Classes,
    };
    let folders: Vec<String> = found.folders.iter().map(|name| format!("{name}/")).collect();
    let made_of = if folders.is_empty() { vec!["images in the folder itself".to_string()] } else { folders };
    let layout = if has_classes { Layout::ImageFolder } else { Layout::Images };
    Candidate { passed_over: found.passed_over, ..Candidate::new(layout, found.weight.max(1), made_of) }
}

/// CIFAR in the folder itself, or in those of its archives that were unpacked there: torchvision's `root`.
fn of_cifar(dir: &Path) -> Vec<Candidate> {
    if let Some((version, made_of)) = cifar::find(dir) {
        return vec![Candidate::new(Layout::Cifar(version), 3, made_of)];
    }
    let below = cifar::below(dir).into_iter().map(|(version, name)| {
        let below = Some(dir.join(name));
        Candidate { below, ..Candidate::new(Layout::Cifar(version), 2, vec![format!("{name}/")]) }
    });
    below.collect()
}

/// The complaint about a folder of which nothing is recognised.
fn unknown(path: &str, dir: &Path) -> anyhow::Error {
    let names = paths::entries(dir);
    let packed = names.iter().find(|name| name.to_lowercase().ends_with(".zip") || compression(name).is_some());
    let hint = match (known_below(dir, 3), packed) {
        (Some(below), _) => format!("did you mean {}?", below.display()),
        (None, Some(packed)) => format!("unpack {packed}: of archives, only uncompressed .tar files are read"),
        (None, None) => "recognised layouts: class folders with images (or train/, val/ with class folders); images \
                         without classes; dataset_dict.json or state.json (datasets, saved to disk); *.parquet; *.tar \
                         (WebDataset); *-idx3-ubyte[.gz] (IDX); data_batch_1[.bin] … or train[.bin] with its label \
                         names (CIFAR-10, CIFAR-100)"
            .to_string(),
    };
    Diagnostic::new(format!("{path} has no known layout; it holds: {}", paths::some(&names))).hint(hint).into()
}

/// A folder below that holds images in splits or classes.
fn known_below(dir: &Path, depth: usize) -> Option<PathBuf> {
    const MOST: usize = 20;
    let folders = || paths::folders(dir).into_iter().take(MOST).map(|name| dir.join(name));
    let known = |folder: &PathBuf| {
        let found = survey(folder).ok().flatten()?;
        (found.arrangement != Arrangement::Loose).then(|| folder.clone())
    };
    folders().find_map(|folder| known(&folder)).or_else(|| match depth {
        0 => None,
        _ => folders().find_map(|folder| known_below(&folder, depth - 1)),
    })
}

/// The splits of what is stored there, training first; none if the layout has none.
pub fn splits(path: &str) -> Result<Vec<String>> {
    Place::find(path)?.splits()
}

/// Opens labelled images in any known layout, and says what it passed over. `split` may be left out if there is only
/// one; "train" also finds training, "validation" also val, valid and dev, or else test, eval and the like, which it
/// says.
pub fn open(path: &str, split: Option<&str>) -> Result<SourceRef> {
    open_with(path, split, &OpenOptions::default())
}

/// [`open`], with the columns of a table chosen by hand (images that are stored otherwise have none), or the mode.
pub fn open_with(path: &str, split: Option<&str>, options: &OpenOptions) -> Result<SourceRef> {
    let place = Place::find(path)?;
    if !place.passed_over.is_empty() {
        listing::note_once(&format!("{path}: {}", place.describe_passed_over()));
    }
    place.open(split, options)
}

impl Place {
    /// "passed over assets/, images.tar.gz".
    pub fn describe_passed_over(&self) -> String {
        let is_table =
            |name: &&String| name.to_lowercase().rsplit('/').next().is_some_and(|n| n.starts_with("metadata."));
        let tables: Vec<&str> = self.passed_over.iter().filter(is_table).map(String::as_str).collect();
        let unread = match tables.is_empty() {
            true => String::new(),
            false => format!("; labels in {} are not read", tables.join(", ")),
        };
        format!("passed over {}{unread}", paths::some(&self.passed_over))
    }
}
