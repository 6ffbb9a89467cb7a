//! What `datasets` writes with `save_to_disk`: Arrow streams, mapped into memory.

use super::columns::{self, Columns, Images, OpenOptions};
use super::labels::{self, Labels};
use super::{Source, StoredImage, paths, split_names};
use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, bail, catch_damage, ensure};
use crate::untrusted;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A split of a `datasets` folder.
pub struct HfDisk {
    dir: PathBuf,
    split: Option<String>,
    class_names: Vec<String>,
    labels: Vec<i32>,
    /// The column whose labels are not read, if it has one.
    unread: Option<String>,
    /// Record batches, and for each the number of rows up to its end.
    batches: Vec<Images>,
    ends: Vec<usize>,
}

/// One file: its columns, its images' batches, and labels.
struct ShardRows {
    columns: Columns,
    batches: Vec<Images>,
    labels: Labels,
}

impl HfDisk {
    /// Opens `split` of a `DatasetDict` folder, or a `Dataset` folder. Nothing but labels is read.
    pub fn open(path: &Path, split: Option<&str>, options: &OpenOptions) -> Result<Self> {
        if !path.exists() {
            return Err(paths::missing(path));
        }
        let splits = splits(path)?;
        let (dir, split) = match splits.is_empty() {
            false => {
                let split = split_names::choose(&path.display().to_string(), split, &splits)?;
                (paths::inside(path, split)?, Some(split.to_string()))
            }
            true => (path.to_path_buf(), split_names::of_folder(path, split)?),
        };
        if !dir.is_dir() {
            return Err(paths::missing(&dir));
        }
        let (state, info) = (json(&dir.join("state.json"))?, json(&dir.join("dataset_info.json"))?);
        if state["_indices_data_files"].as_array().is_some_and(|f| !f.is_empty()) {
            bail_hint!(
                "{} was saved with a selection of rows that was never applied", dir.display();
                "load it with `datasets` and save `dataset.flatten_indices()`"
            );
        }
        let names: Option<Vec<&str>> =
            state["_data_files"].as_array().and_then(|files| files.iter().map(|f| f["filename"].as_str()).collect());
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            bail!("{} names no data files", dir.join("state.json").display());
        };
        let files: Vec<PathBuf> = names.into_iter().map(|name| paths::inside(&dir, name)).collect::<Result<_>>()?;
        let features = info.get("features");
        let read: Vec<ShardRows> =
            files.par_iter().map(|file| ShardRows::open(file, features, options)).collect::<Result<_>>()?;

        let (mut rows, mut batches, mut tables, mut starts) = (0, Vec::new(), Vec::new(), Vec::new());
        for shard in read {
            starts.push(rows);
            rows += shard.labels.len();
            batches.extend(shard.batches);
            tables.push((shard.columns, shard.labels));
        }
        let name_row = |row: usize| {
            let file = starts.partition_point(|s| *s <= row) - 1;
            format!("{}: row {} (row {row} of all)", files[file].display(), row - starts[file])
        };
        let name_file = |i: usize| files[i].display().to_string();
        let (classes, unread) = columns::classes(&dir.display().to_string(), tables, name_file, name_row)?;
        let labels::Classes { labels, names: class_names, .. } = classes;
        let ends = super::ends(batches.iter().map(Images::len));
        ensure!(!labels.is_empty(), "{} has no rows", dir.display());
        Ok(Self { dir, split, class_names, labels, unread, batches, ends })
    }

    /// The batch that holds row `index`, and its index there.
    fn locate(&self, index: usize) -> (&Images, usize) {
        let (batch, row) = super::locate(&self.ends, index);
        (&self.batches[batch], row)
    }
}

impl ShardRows {
    fn open(path: &Path, features: Option<&Value>, options: &OpenOptions) -> Result<Self> {
        catch_damage(path.display(), || Self::read(path, features, options))
    }

    fn read(path: &Path, features: Option<&Value>, options: &OpenOptions) -> Result<Self> {
        let reading = || format!("cannot read {}", path.display());
        if !path.exists() {
            return Err(paths::missing(path));
        }
        let file = untrusted::open(path)?;
        let size = file.metadata().with_context(reading)?.len();
        ensure!(size > 0, "{} is empty (0 bytes): it was cut short; fetch it again", path.display());
        // SAFETY: the file must not shrink while it is mapped, which is the usual condition for data sets.
        let map = unsafe { memmap2::Mmap::map(&file) }.with_context(reading)?;
        // Pages are wanted one by one, in a random order.
        let _ = map.advise(memmap2::Advice::Random);
        let mut buffer = Buffer::from(bytes::Bytes::from_owner(map));
        // The writer's end mark: a stream without it was cut short, if only by whole batches.
        let whole = buffer.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

        let mut decoder = StreamDecoder::new();
        let (mut batches, mut labels, mut columns) = (Vec::new(), Labels::default(), None);
        let mut row = 0;
        let damaged = |row: usize, what: String| {
            let message = format!("{} is cut short or damaged after row {row} ({size} bytes): {what}", path.display());
            Diagnostic::new(message)
                .hint("fetch or write it again; expected an Arrow stream, as `save_to_disk` writes it")
        };
        while !buffer.is_empty() {
            let Some(batch) = decoder.decode(&mut buffer).map_err(|e| damaged(row, e.to_string()))? else { continue };
            if columns.is_none() {
                columns = Some(Columns::choose(path, &batch.schema(), features, options)?);
            }
            let columns = columns.as_ref().expect("just set");
            let column = |name: &str| batch.column_by_name(name).expect("a stream has one schema");
            batches.push(Images::new(column(&columns.image))?);
            row += batch.num_rows();
            match &columns.label {
                Some(label) => labels.push(column(label)),
                None => labels.fill(row),
            }
        }
        decoder.finish().map_err(|e| damaged(row, e.to_string()))?;
        if !whole {
            return Err(damaged(row, "its end mark is missing".to_string()).into());
        }
        let columns = match (columns, decoder.schema()) {
            (Some(columns), _) => columns,
            (None, Some(schema)) => Columns::choose(path, &schema, features, options)?,
            (None, None) => return Err(damaged(row, "it has no schema".to_string()).into()),
        };
        Ok(Self { columns, batches, labels })
    }
}

impl Source for HfDisk {
    fn describe(&self) -> String {
        let split = self.split.as_ref().map(|s| format!(", {s}")).unwrap_or_default();
        let unread = self.unread.as_ref().map(|c| format!(", labels of {c} not read")).unwrap_or_default();
        format!("{} (datasets folder{split}{unread})", self.dir.display())
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn split(&self) -> Option<&str> {
        self.split.as_deref()
    }
    fn label(&self, index: usize) -> i64 {
        self.labels[index] as i64
    }
    fn name(&self, index: usize) -> String {
        let (batch, row) = self.locate(index);
        paths::row_name(self.split(), index, batch.path(row))
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (batch, row) = self.locate(index);
        match (batch.bytes(row), batch.path(row)) {
            (Some(bytes), _) => Ok(StoredImage::Encoded(Cow::Borrowed(bytes))),
            (None, Some(path)) => paths::read_image(&paths::inside(&self.dir, path)?),
            (None, None) => bail!("the row has neither an image nor the path of one"),
        }
    }
}

/// Whether a folder is a `Dataset` folder.
pub(super) fn is_dataset(path: &Path) -> bool {
    ["state.json", "dataset_info.json"].iter().all(|name| path.join(name).is_file())
}

/// The splits of a `DatasetDict` folder; none for a `Dataset` folder.
pub(super) fn splits(path: &Path) -> Result<Vec<String>> {
    let file = path.join("dataset_dict.json");
    if !file.exists() {
        return Ok(Vec::new());
    }
    let dict = json(&file)?;
    let splits: Option<Vec<String>> =
        dict["splits"].as_array().and_then(|s| s.iter().map(|s| s.as_str().map(str::to_string)).collect());
    let Some(mut splits) = splits.filter(|s| !s.is_empty()) else { bail!("{} names no splits", file.display()) };
    split_names::sort(&mut splits);
    Ok(splits)
}

fn json(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Err(paths::missing(path));
    }
    untrusted::read_json(path)
}
