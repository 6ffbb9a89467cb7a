//! Millions of short names in one piece of memory.

use crate::error::{Result, ensure};
use crate::untrusted;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Byte strings, one after the other: 4 bytes each beyond their own length.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Names {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Names {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn push(&mut self, name: &[u8]) -> Result<()> {
        self.push_joined(&[name])
    }

    /// One name made of several pieces.
    pub fn push_joined(&mut self, pieces: &[&[u8]]) -> Result<()> {
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        ensure!(self.bytes.len() <= u32::MAX as usize, "the names of the images take more than 4 GiB");
        self.ends.push(self.bytes.len() as u32);
        Ok(())
    }

    pub fn append(&mut self, other: &Names) -> Result<()> {
        let before = self.bytes.len();
        ensure!(before + other.bytes.len() <= u32::MAX as usize, "the names of the images take more than 4 GiB");
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| before as u32 + end));
        Ok(())
    }

    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.bytes[start..self.ends[index] as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }

    pub fn text(&self, index: usize) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.get(index))
    }

    /// Gives back what growing had set aside.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Whether what was read from a file is consistent.
    pub fn is_consistent(&self) -> bool {
        self.ends.is_sorted() && self.ends.last().map_or(0, |e| *e as usize) == self.bytes.len()
    }
}

/// Sorts class names as Python sorts text, by code points, which is UTF-8's order; but if all are numbers, no two the
/// same, then as numbers, so that a class's number is its label wherever the classes are 0, 1, 2, ….
pub(super) fn sort_classes<T: Ord>(classes: &mut [T], name: impl Fn(&T) -> &[u8]) {
    classes.sort_unstable();
    let numbers: Option<Vec<f64>> = classes.iter().map(|class| number(name(class))).collect();
    let mut numbers = numbers.unwrap_or_default();
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    if numbers.len() == classes.len() {
        let value = |class: &T| number(name(class)).unwrap_or_default();
        classes.sort_by(|a, b| value(a).total_cmp(&value(b)));
    }
}

/// The number that a name is: 12, -1, 0.5.
fn number(name: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(name).ok()?.trim();
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// The names of the classes in `classes.txt` or `classnames.txt` in a folder, one a line, and which file it is.
pub(super) fn classes_beside(dir: &Path) -> Result<Option<(PathBuf, Vec<String>)>> {
    for file in ["classes.txt", "classnames.txt"].map(|name| dir.join(name)) {
        if file.is_file() {
            let text = untrusted::read_text(&file)?;
            let names = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string).collect();
            return Ok(Some((file, names)));
        }
    }
    Ok(None)
}
