//! The IDX format of MNIST and Fashion-MNIST, plain or gzipped: a few big-endian numbers, then the values. Crates for
//! it bring less (no gzip, one data set, no names) than these lines.

use super::{Source, StoredImage, names, paths};
use crate::bail_hint;
use crate::data::image::Image;
use crate::error::{Result, ensure};
use crate::untrusted;
use flate2::read::GzDecoder;
use std::io::Read;
use std::path::{Path, PathBuf};

const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;
/// The most that a file may have: all of it is kept in memory.
const MOST: u64 = 64 << 30;

/// Grey images with labels, all in memory.
pub struct Idx {
    dir: PathBuf,
    split: String,
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<u8>,
    class_names: Vec<String>,
}

impl Idx {
    /// Opens `{split}-images-idx3-ubyte[.gz]` and its labels in `dir`; `split` is "train" or
    /// "test" (whose files are called t10k). Class names come from `classes.txt`, one a line,
    /// if there is one.
    pub fn open(dir: &Path, split: &str) -> Result<Self> {
        let prefix = match split {
            "train" => "train",
            "test" => "t10k",
            other => bail_hint!("IDX data has no split \"{other}\""; "expected \"train\" or \"test\""),
        };
        if !dir.is_dir() {
            return Err(paths::missing(dir));
        }
        let images_path = find(dir, &format!("{prefix}-images-idx3-ubyte"))?;
        let labels_path = find(dir, &format!("{prefix}-labels-idx1-ubyte"))?;

        let (dims, pixels) = read(&images_path, IMAGES_MAGIC, "images", 3)?;
        let (label_dims, labels) = read(&labels_path, LABELS_MAGIC, "labels", 1)?;
        ensure!(
            dims[0] == label_dims[0],
            "{} has {} images, but {} has {} labels",
            images_path.display(),
            dims[0],
            labels_path.display(),
            label_dims[0]
        );
        ensure!(
            dims.iter().all(|d| *d > 0),
            "{} has no images, or images without pixels: its header says {dims:?}",
            images_path.display()
        );

        let classes = labels.iter().copied().max().map_or(0, |l| l as usize + 1);
        let class_names = match names::classes_beside(dir)? {
            Some((file, names)) => {
                ensure!(
                    names.len() >= classes,
                    "{} names {} classes, but {} has labels up to {}",
                    file.display(),
                    names.len(),
                    labels_path.display(),
                    classes - 1
                );
                names
            }
            None => (0..classes).map(|i| i.to_string()).collect(),
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            split: split.to_string(),
            shape: [1, dims[1], dims[2]],
            pixels,
            labels,
            class_names,
        })
    }
}

/// The file called `name`, plain or with .gz.
fn find(dir: &Path, name: &str) -> Result<PathBuf> {
    for candidate in [dir.join(name), dir.join(format!("{name}.gz"))] {
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    let mut there: Vec<String> =
        std::fs::read_dir(dir)?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    there.sort();
    bail_hint!(
        "{} has neither {name} nor {name}.gz", dir.display();
        "the folder holds: {}", if there.is_empty() { "nothing".to_string() } else { there.join(", ") }
    )
}

/// Header and content of an IDX file of unsigned bytes.
fn read(path: &Path, magic: u32, what: &str, rank: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let raw = untrusted::read(path, MOST)?;
    let mut bytes = if path.extension().is_some_and(|e| e == "gz") { unpack(path, &raw)? } else { raw };
    let header = 4 + 4 * rank;
    let word = |i: usize| bytes.get(4 * i..4 * i + 4).map(|b| u32::from_be_bytes(b.try_into().expect("4 bytes")));
    let found = word(0).unwrap_or(0);
    if found != magic {
        bail_hint!(
            "{} is not an IDX file of {what}: it starts with {found:#010x}, expected {magic:#010x}", path.display();
            "IDX images start with {IMAGES_MAGIC:#010x}, labels with {LABELS_MAGIC:#010x}"
        );
    }
    ensure!(
        bytes.len() >= header,
        "{} is truncated: its header needs {header} bytes, found {}",
        path.display(),
        bytes.len()
    );
    let dims: Vec<usize> = (1..=rank).map(|i| word(i).expect("inside the header") as usize).collect();
    let expected = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).and_then(|n| n.checked_add(header));
    if expected != Some(bytes.len()) {
        bail_hint!(
            "{} is truncated or damaged: its header announces {dims:?} = {} bytes, found {}",
            path.display(), expected.map_or("too many".to_string(), |n| n.to_string()), bytes.len();
            "fetch the file again"
        );
    }
    bytes.drain(..header);
    Ok((dims, bytes))
}

/// The content of a gzip file.
fn unpack(path: &Path, packed: &[u8]) -> Result<Vec<u8>> {
    let (mut bytes, most) = (Vec::new(), untrusted::most_unpacked(packed.len() as u64));
    if let Err(e) = GzDecoder::new(packed).take(most + 1).read_to_end(&mut bytes) {
        bail_hint!(
            "{} is not a whole gzip file: {e}", path.display();
            "it was cut short or damaged ({} bytes on disk); fetch it again", packed.len()
        );
    }
    ensure!(
        bytes.len() as u64 <= most,
        "{} unpacks to more than {most} bytes from {}, which no images do",
        path.display(),
        packed.len()
    );
    Ok(bytes)
}

/// Whether the folder has images of that split.
pub(super) fn has_split(dir: &Path, split: &str) -> bool {
    let prefix = if split == "test" { "t10k" } else { split };
    find(dir, &format!("{prefix}-images-idx3-ubyte")).is_ok()
}

impl Source for Idx {
    fn describe(&self) -> String {
        format!("{} (IDX, {})", self.dir.display(), self.split)
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn split(&self) -> Option<&str> {
        Some(&self.split)
    }
    fn label(&self, index: usize) -> i64 {
        self.labels[index] as i64
    }
    fn name(&self, index: usize) -> String {
        paths::row_name(Some(&self.split), index, None)
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let [_, height, width] = self.shape;
        let n = height * width;
        Ok(StoredImage::Pixels(Image::new(width, height, 1, self.pixels[index * n..(index + 1) * n].to_vec())))
    }
    fn shape(&self) -> Option<[usize; 3]> {
        Some(self.shape)
    }
}
