//! Pictures that both sides read: of any folder, the same files in one class folder.

use nepa::bail_hint;
use nepa::data::decode::LazyImage;
use nepa::data::source::StoredImage;
use nepa::error::{Context as _, Result, did_you_mean, one_line};
use nepa::random::{Key, Permutation};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How many of the files that are left out are named.
const NAMED: usize = 5;

/// A folder with links to pictures, as `ImageFolder` takes it, until it is dropped.
pub struct Pictures {
    dir: TempDir,
    pub count: usize,
}

impl Pictures {
    /// At most `most` pictures of a folder and the folders in it, chosen at random, always the same ones. Files that cannot
    /// be decoded are left out, and named on standard output.
    pub fn of(folder: &Path, most: usize) -> Result<Self> {
        if !folder.is_dir() {
            let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let (wanted, near) = (folder.file_name().unwrap_or_default().to_string_lossy(), names(parent));
            let near = did_you_mean(&wanted, near.iter().map(String::as_str));
            bail_hint!("{} is no folder{near}", folder.display(); "--images takes a folder of pictures, in any folders");
        }
        let mut files = Vec::new();
        collect(folder, &mut HashSet::new(), &mut files)?;
        files.sort();
        let order = Permutation::new(Key::new(0), files.len());
        let (mut chosen, mut left_out, mut seen) = (Vec::new(), Vec::new(), 0);
        while chosen.len() < most && seen < files.len() {
            let next = seen..files.len().min(seen + most - chosen.len());
            seen = next.end;
            let tried: Vec<_> =
                next.into_par_iter().map(|i| (&files[order.at(i)], check(&files[order.at(i)]))).collect();
            for (file, found) in tried {
                match found {
                    Ok(()) => chosen.push(file),
                    Err(error) => left_out.push((file, one_line(&error))),
                }
            }
        }
        println!("{}: {} pictures of {} files", folder.display(), chosen.len(), files.len());
        for (file, error) in left_out.iter().take(NAMED) {
            println!("  left out: {}: {error}", file.display());
        }
        if left_out.len() > NAMED {
            println!("  left out: {} more", left_out.len() - NAMED);
        }
        if chosen.is_empty() {
            bail_hint!("{} has no picture that can be read", folder.display(); "--images takes a folder of pictures");
        }
        chosen.sort();
        let dir = tempfile::tempdir()?;
        let class = dir.path().join("pictures");
        std::fs::create_dir_all(&class)?;
        for (i, file) in chosen.iter().enumerate() {
            // Both sides go by the content, but choose files by their names.
            symlink(std::path::absolute(file)?, class.join(format!("{i:06}.jpg")))?;
        }
        Ok(Pictures { dir, count: chosen.len() })
    }

    /// The folder of the class folder.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

/// The names in a folder; none if it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// All files below a folder, links followed, each folder once.
fn collect(folder: &Path, seen: &mut HashSet<PathBuf>, files: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("cannot read {}", folder.display());
    if !seen.insert(folder.canonicalize().with_context(reading)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.is_dir() {
            collect(&path, seen, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether it is a picture, whole.
fn check(file: &Path) -> Result<()> {
    let mut content = StoredImage::Encoded(Cow::Owned(std::fs::read(file)?));
    LazyImage::open(&mut content, false)?.decode()?;
    Ok(())
}
