//! Recognising how images are stored.

use super::{
    HfDisk, Idx, ImageFolder, Parquet, SourceRef, TableOptions, WebDataset, hf_disk, idx, image_folder, parquet, paths,
    webdataset,
};
use crate::bail_hint;
use crate::error::Result;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// How labelled images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A folder for each class, perhaps below a folder for each split.
    ImageFolder,
    /// What `datasets` saves to disk.
    HfDisk,
    /// Parquet files, as on the Hugging Face Hub.
    Parquet,
    /// Tar archives.
    WebDataset,
    /// The files of MNIST.
    Idx,
}

impl Layout {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Layout::ImageFolder => "image folder",
            Layout::HfDisk => "datasets folder (Arrow)",
            Layout::Parquet => "parquet shards",
            Layout::WebDataset => "WebDataset tars",
            Layout::Idx => "IDX",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which layout a folder, a file or a pattern of files has.
pub fn layout(path: &str) -> Result<Layout> {
    let dir = Path::new(path);
    let by_name = |name: &str| {
        let base = name.rsplit('/').next().unwrap_or(name);
        if name.ends_with(".parquet") {
            Some(Layout::Parquet)
        } else if name.ends_with(".tar") || name.ends_with(".tgz") || base.contains(".tar.") {
            Some(Layout::WebDataset)
        } else {
            None
        }
    };
    if !dir.is_dir() {
        if let Some(layout) = by_name(path) {
            return Ok(layout);
        }
        if paths::is_pattern(path) {
            let files = paths::expand(path, &[])?;
            if let Some(layout) = by_name(&files[0].to_string_lossy()) {
                return Ok(layout);
            }
            bail_hint!(
                "the pattern \"{path}\" matches {}, among others", files[0].display();
                "patterns are for .parquet and .tar files"
            );
        }
        if !dir.exists() {
            return Err(paths::missing(dir));
        }
        bail_hint!("{path} is a file of an unknown kind"; "expected a folder, .parquet or .tar files");
    }
    let names = paths::entries(dir);
    let has = |name: &str| names.iter().any(|n| n == name);
    if has("dataset_dict.json") || has("state.json") && has("dataset_info.json") {
        return Ok(Layout::HfDisk);
    }
    if names.iter().any(|n| n.ends_with("-idx3-ubyte") || n.ends_with("-idx3-ubyte.gz")) {
        return Ok(Layout::Idx);
    }
    if let Some(layout) = names.iter().find_map(|n| by_name(n)) {
        return Ok(layout);
    }
    if dir.join("data").is_dir() && paths::entries(&dir.join("data")).iter().any(|n| n.ends_with(".parquet")) {
        return Ok(Layout::Parquet);
    }
    if !image_folder::split_folders(dir).is_empty() || has_class_folders(dir) {
        return Ok(Layout::ImageFolder);
    }
    let images = names.iter().filter(|n| paths::is_image_name(n.as_bytes())).count();
    if images > 0 {
        bail_hint!(
            "{path} has {images} images, but no class folders";
            "expected a folder for each class, with its images inside: CLASS/IMAGE.jpg"
        );
    }
    bail_hint!(
        "{path} has no known layout; it holds: {}", paths::some(&names);
        "recognised layouts: class folders with images (or train/, val/ with class folders); dataset_dict.json or \
         state.json (datasets, saved to disk); *.parquet; *.tar (WebDataset); *-idx3-ubyte[.gz] (IDX)"
    )
}

/// Whether a folder in it holds images, or has folders that do.
fn has_class_folders(dir: &Path) -> bool {
    let folders = image_folder::class_folders(dir).unwrap_or_default();
    folders.iter().map(|f| dir.join(f)).any(|folder| {
        let below = || image_folder::class_folders(&folder).unwrap_or_default();
        image_folder::first_image(&folder) || below().iter().any(|f| image_folder::first_image(&folder.join(f)))
    })
}

/// The splits of what is stored there, training first; none if the layout has none.
pub fn splits(path: &str) -> Result<Vec<String>> {
    let dir = Path::new(path);
    Ok(match layout(path)? {
        Layout::ImageFolder => image_folder::split_folders(dir),
        Layout::HfDisk => hf_disk::splits(dir)?,
        Layout::Parquet => paths::splits_of(&parquet::files(path)?),
        Layout::WebDataset => paths::splits_of(&webdataset::files(path)?),
        Layout::Idx => ["train", "test"].into_iter().filter(|s| idx::has_split(dir, s)).map(str::to_string).collect(),
    })
}

/// Opens labelled images in any known layout. `split` may be left out if there is only one; "validation" and
/// "train" also find what is called val, valid, dev or training.
pub fn open(path: &str, split: Option<&str>) -> Result<SourceRef> {
    open_with(path, split, &TableOptions::default())
}

/// [`open`], with the columns of a table chosen by hand; images that are stored otherwise have none.
pub fn open_with(path: &str, split: Option<&str>, options: &TableOptions) -> Result<SourceRef> {
    let dir = Path::new(path);
    let layout = layout(path)?;
    if !matches!(layout, Layout::HfDisk | Layout::Parquet) && *options != TableOptions::default() {
        bail_hint!(
            "{path} ({layout}) has no columns, which the options image and label choose";
            "give them for parquet files and `datasets` folders only"
        );
    }
    Ok(match layout {
        Layout::ImageFolder => Arc::new(ImageFolder::open(dir, split)?),
        Layout::HfDisk => Arc::new(HfDisk::open(dir, split, options)?),
        Layout::Parquet => Arc::new(Parquet::open(path, split, options)?),
        Layout::WebDataset => Arc::new(WebDataset::open(path, split)?),
        Layout::Idx => {
            let splits = splits(path)?;
            // MNIST calls "test" what one validates with.
            let alias = split.filter(|s| paths::matching(s, &["validation".to_string()]).is_some()).map(|_| "test");
            Arc::new(Idx::open(dir, paths::choose(path, alias.or(split), &splits)?)?)
        }
    })
}
