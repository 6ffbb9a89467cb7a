//! Tests of the layouts, on files made here and on the golden ones.

mod cifar;
mod damaged;
mod folders;
mod golden;
mod labels;
mod layouts;
mod shards;
mod subsets;
mod tables;

use super::*;
use crate::error::{hint_of, one_line};
use std::path::{Path, PathBuf};

/// A temporary folder, and listings of its own for the thread that made it.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        listing::testing::set_folder(&dir.path().join("cache/listings"));
        printed();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file, with the folders above it.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn remove(&self, name: &str) {
        let path = self.path(name);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }

    /// The listings that were kept.
    fn kept(&self) -> Vec<PathBuf> {
        let dir = self.path("cache/listings");
        paths::entries(&dir).into_iter().map(|name| dir.join(name)).collect()
    }

    /// Makes files and folders look as if they had last changed long ago.
    fn settle(&self, name: &str) {
        let path = self.path(name);
        if path.is_dir() {
            paths::entries(&path).iter().for_each(|n| self.settle(&format!("{name}/{n}")));
        }
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        std::fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    }
}

/// What was printed on this thread since the last call.
fn printed() -> Vec<String> {
    listing::testing::take_printed()
}

/// A source's names.
fn names(source: &dyn Source) -> Vec<String> {
    (0..source.len()).map(|i| source.name(i)).collect()
}

fn labels(source: &dyn Source) -> Vec<i64> {
    (0..source.len()).map(|i| source.label(i)).collect()
}

/// The bytes of an item that is an image file.
fn bytes(source: &dyn Source, index: usize) -> Vec<u8> {
    match source.read(index).unwrap() {
        StoredImage::Encoded(bytes) => bytes.into_owned(),
        StoredImage::Pixels(_) => panic!("pixels"),
    }
}

/// The complaint and the advice, which must hold all `pieces`.
#[track_caller]
fn complains<T>(result: Result<T>, pieces: &[&str]) {
    let Err(error) = result else { panic!("no error; expected one with {pieces:?}") };
    let text = format!("{}\nhint: {}", one_line(&error), hint_of(&error).unwrap_or_default());
    for piece in pieces {
        assert!(text.contains(piece), "{piece:?} is not in:\n{text}");
    }
}

/// The file of the golden data.
fn golden(name: &str) -> PathBuf {
    repository("tests/fixtures/data").join(name)
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|s| s.to_string()).collect()
}

/// 300 … 1300 bytes that no packer makes smaller.
fn noise(seed: usize) -> Vec<u8> {
    use rand::RngCore as _;
    let mut bytes = vec![0; 300 + seed * 7919 % 1000];
    crate::random::Key::new(seed as u64).rng().fill_bytes(&mut bytes);
    bytes
}
