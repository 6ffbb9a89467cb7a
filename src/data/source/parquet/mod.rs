//! Parquet shards, as the Hugging Face Hub keeps them.

mod header;
mod input;
mod pages;
mod snappy;

use super::columns::{self, Columns, Images, OpenOptions};
use super::labels::{self, Labels, text};
use super::listing::{self, FileState, Progress};
use super::names::Names;
use super::shard_name::Kind;
use super::shards::{Evidence, Shards};
use super::{Source, StoredImage, packed, paths};
use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Error, Result, bail, catch_damage, ensure, is_storage_failure};
use arrow_array::cast::AsArray as _;
use input::Input;
use pages::{Chunk, Values};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::basic::Compression;
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

const KIND: &str = "parquet";
/// Values of a dictionary take their whole length in each row of a batch: so many bytes together at most.
const MOST_SHARED: u64 = 256 << 20;
/// File systems have no longer names of files, and no longer paths.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4096;

/// The rows of one split's shards, in the shards' order.
pub struct Parquet {
    path: String,
    split: Option<String>,
    class_names: Vec<String>,
    shards: Vec<Shard>,
    /// The index after each shard's last row.
    ends: Vec<usize>,
    labels: Vec<i32>,
    /// The column whose labels are not read, if it has one.
    unread: Option<String>,
    /// The images' own file names, empty if there is none.
    files: Names,
    /// Whether these are the images' names in the whole data set.
    is_packed: bool,
}

struct Shard {
    path: PathBuf,
    input: Input,
    meta: ArrowReaderMetadata,
    image: String,
    /// The column of the images' bytes among all leaves.
    leaf: usize,
    groups: Vec<RowGroup>,
    /// How many groups have not been scanned.
    left: AtomicUsize,
    kept: Kept,
}

/// Where the positions of a shard's images are kept between runs.
struct Kept {
    folder: Option<PathBuf>,
    key: PathBuf,
    /// The kind of listing: each column of images has positions of its own.
    kind: String,
    /// The state of the shard that they belong to.
    state: FileState,
}

struct RowGroup {
    /// The index after its last row.
    end: usize,
    /// Where the images lie; None if they are stored in a way that needs the general reader.
    values: OnceLock<Option<Values>>,
    /// What is wrong with its pages; asked for where the general reader is needed.
    checked: OnceLock<()>,
}

/// What is read from a shard at once.
struct Table {
    columns: Columns,
    labels: Labels,
    files: Names,
}

impl Parquet {
    /// Opens the shards that `path` stands for: a folder, a file or a pattern (`data/train-*.parquet`). Labels and
    /// file names are read, images are not.
    pub fn open(path: &str, split: Option<&str>, options: &OpenOptions) -> Result<Self> {
        let (files, split) = shards(path)?.of_split(path, split)?;
        let progress = Progress::new(format!("reading the labels of {path}"));
        let folder = listing::folder();
        let opened: Vec<(Shard, Table)> = files
            .par_iter()
            .map(|file| Shard::open(file, folder.as_deref(), options, &progress))
            .collect::<Result<_>>()?;
        let (mut shards, mut ends, mut rows) = (Vec::new(), Vec::new(), 0);
        let (mut tables, mut files) = (Vec::new(), Names::default());
        for (shard, table) in opened {
            rows += table.labels.len();
            files.append(&table.files)?;
            tables.push((table.columns, table.labels));
            ends.push(rows);
            shards.push(shard);
        }
        files.shrink();
        ensure!(rows > 0, "{path} has no rows");
        let name_row = |row: usize| {
            let (shard, inside) = super::locate(&ends, row);
            format!("{}: row {inside} (row {row} of all)", shards[shard].path.display())
        };
        let name_file = |i: usize| shards[i].path.display().to_string();
        let (classes, unread) = columns::classes(path, tables, name_file, name_row)?;
        let labels::Classes { labels, names: class_names, .. } = classes;
        let is_packed = packed::is_packed(&shards[0].path)?;
        Ok(Self { path: path.to_string(), split, class_names, shards, ends, labels, unread, files, is_packed })
    }

    /// Whether item `index` is read alone rather than with its page.
    #[cfg(test)]
    pub(super) fn is_located(&self, index: usize) -> bool {
        let _ = self.read(index);
        self.is_kept(index)
    }

    /// Whether its position is known without scanning the file.
    #[cfg(test)]
    pub(super) fn is_kept(&self, index: usize) -> bool {
        let (shard, row) = super::locate(&self.ends, index);
        let groups = &self.shards[shard].groups;
        matches!(groups[groups.partition_point(|g| g.end <= row)].values.get(), Some(Some(_)))
    }
}

/// The shards that `path` stands for.
fn shards(path: &str) -> Result<Shards> {
    let found = Shards::find(path, Kind::Parquet, look)?;
    if found.is_empty() {
        bail_hint!("{path} holds no .parquet files"; "it holds: {}", paths::some(&paths::entries(Path::new(path))));
    }
    Ok(found)
}

/// What a file holds, by its schema. One that cannot be read may hold images.
pub(super) fn look(path: &Path) -> Evidence {
    let Ok(meta) = catch_damage(path.display(), || Input::open(path)?.metadata()) else { return Evidence::Images };
    Evidence::of(columns::holds(path, meta.schema(), features(&meta).as_ref()))
}

impl Shard {
    fn open(path: &Path, folder: Option<&Path>, options: &OpenOptions, progress: &Progress) -> Result<(Self, Table)> {
        if !path.exists() {
            return Err(paths::missing(path));
        }
        let input = Input::open(path)?;
        ensure!(input.size > 0, "{} is empty (0 bytes): it was cut short; fetch it again", path.display());
        catch_damage(path.display(), || Self::of(path, input, folder, options, progress))
    }

    fn of(
        path: &Path,
        input: Input,
        folder: Option<&Path>,
        options: &OpenOptions,
        progress: &Progress,
    ) -> Result<(Self, Table)> {
        let reading = || format!("cannot read {}", path.display());
        let about = input.file.metadata().with_context(reading)?;
        let damaged = |what: String| {
            let message = format!("{} is cut short or damaged ({} bytes): {what}", path.display(), about.len());
            Diagnostic::new(message).hint("fetch it again; expected a Parquet file, which ends in PAR1")
        };
        let unread = |e: Error| {
            let e = input.explain(e);
            match is_storage_failure(&e) {
                true => e.context(reading()),
                false => damaged(e.to_string()).into(),
            }
        };
        let meta = input.metadata().map_err(unread)?;
        let rows = meta.metadata().file_metadata().num_rows();
        // A row without an image takes almost nothing, but this is to be a table of images.
        if rows as u64 > input.size {
            return Err(damaged(format!("it announces {rows} rows, more than it has bytes")).into());
        }
        if meta.metadata().row_groups().iter().flat_map(|g| g.columns()).any(|c| c.compression() == Compression::LZO) {
            bail_hint!("{} is compressed with LZO, which is not read", path.display(); "write it anew with snappy or zstd");
        }
        let features = features(&meta);
        let columns = Columns::choose(path, meta.schema(), features.as_ref(), options)?;
        let leaves = meta.parquet_schema().columns();
        let leaf = |parts: &[&str]| leaves.iter().position(|c| c.path().parts().iter().eq(parts));
        let Some(bytes) = leaf(&[&columns.image, "bytes"]).or(leaf(&[&columns.image])) else {
            bail!("{}: the column {} has no bytes", path.display(), columns.image)
        };
        let image = columns.image.clone();
        let is_packed = packed::is_packed(path)?;
        let table = Table::read(&input, &meta, columns, is_packed, progress).map_err(unread)?;
        let groups = meta.metadata().row_groups().iter().scan(0, |end, group| {
            *end += group.num_rows() as usize;
            Some(RowGroup { end: *end, values: OnceLock::new(), checked: OnceLock::new() })
        });
        let mut groups: Vec<RowGroup> = groups.collect();
        let kept = Kept {
            folder: folder.map(Path::to_path_buf),
            key: path.canonicalize().with_context(reading)?,
            kind: format!("{KIND}-{bytes}"),
            state: FileState::of(&about),
        };
        // Positions from another state of the file are silently dropped: they are found again bit by bit, as rows are
        // read.
        if let Some(values) = kept.load(&groups) {
            groups.iter_mut().zip(values).for_each(|(group, values)| group.values = OnceLock::from(values));
        }
        let left = AtomicUsize::new(groups.iter().filter(|g| g.values.get().is_none()).count());
        Ok((Self { path: path.to_path_buf(), input, meta, image, leaf: bytes, groups, left, kept }, table))
    }

    fn values(&self, group: usize) -> Option<&Values> {
        let mut new = false;
        let values = self.groups[group].values.get_or_init(|| {
            new = true;
            let column = self.meta.metadata().row_group(group).column(self.leaf);
            let about = column.column_descr();
            if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY)
                || about.max_rep_level() > 0
            {
                return None;
            }
            let range = self.input.range(column).ok()?;
            let rows = self.meta.metadata().row_group(group).num_rows() as usize;
            let snappy = column.compression() == Compression::SNAPPY;
            let chunk = Chunk { range, rows, snappy, max_def: about.max_def_level() as u32 };
            // If the file is damaged, the general reader reports it.
            Values::locate(&self.input.file, &chunk).ok()
        });
        // After the last group, the next run need not scan them again.
        if new && self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.kept.store(&self.groups);
        }
        values.as_ref()
    }

    fn read(&self, row: usize) -> Result<StoredImage<'_>> {
        catch_damage(self.path.display(), || self.row(row))
    }

    fn row(&self, row: usize) -> Result<StoredImage<'_>> {
        let group = self.groups.partition_point(|g| g.end <= row);
        let row = row - if group == 0 { 0 } else { self.groups[group - 1].end };
        if let Some(values) = self.values(group) {
            let reading = || format!("cannot read {}", self.path.display());
            if let Some(bytes) = values.read(&self.input.file, row).with_context(reading)? {
                return Ok(StoredImage::Encoded(Cow::Owned(bytes)));
            }
        }
        let input = self.input.apart();
        let read = self.read_generally(&input, group, row).map_err(|e| input.explain(e));
        read.with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// Reads all that the format allows, at the price of unpacking the image's page.
    fn read_generally(&self, input: &Input, group: usize, row: usize) -> Result<StoredImage<'static>> {
        let schema = self.meta.parquet_schema();
        let root = schema.columns()[self.leaf].path().parts()[0].clone();
        let leaves: Vec<usize> =
            (0..schema.num_columns()).filter(|i| schema.column(*i).path().parts()[0] == root).collect();
        // Only success is remembered: an error may be the disk's, and pass.
        if self.groups[group].checked.get().is_none() {
            let mut columns = leaves.iter().map(|leaf| self.meta.metadata().row_group(group).column(*leaf));
            columns.try_for_each(|column| input.check_pages(column).map(drop))?;
            let _ = self.groups[group].checked.set(());
        }
        let batch = ParquetRecordBatchReaderBuilder::new_with_metadata(input.clone(), self.meta.clone())
            .with_projection(ProjectionMask::leaves(schema, leaves))
            .with_row_groups(vec![group])
            .with_row_selection(RowSelection::from(vec![RowSelector::skip(row), RowSelector::select(1)]))
            .with_batch_size(1)
            .build()?
            .next();
        let Some(batch) = batch.transpose()? else { bail!("the row is missing") };
        let images = Images::new(batch.column_by_name(&self.image).context("the image column is missing")?)?;
        match (images.bytes(0), images.path(0)) {
            (Some(bytes), _) => Ok(StoredImage::Encoded(Cow::Owned(bytes.to_vec()))),
            (None, Some(path)) => {
                paths::read_image(&paths::inside(self.path.parent().unwrap_or(Path::new(".")), path)?)
            }
            (None, None) => bail!("the row has neither an image nor the path of one"),
        }
    }
}

impl Table {
    /// Reads all labels and file names of a shard; of one that is packed, whole names.
    fn read(
        input: &Input,
        meta: &ArrowReaderMetadata,
        columns: Columns,
        is_packed: bool,
        progress: &Progress,
    ) -> Result<Self> {
        let leaves = meta.parquet_schema().columns();
        let is_path = |parts: &[String]| parts.iter().eq([&columns.image, "path"]);
        // A list's values are a leaf below it.
        let is_label = |parts: &[String]| columns.label.as_ref() == parts.first();
        let wanted: Vec<usize> = (0..leaves.len())
            .filter(|i| is_path(leaves[*i].path().parts()) || is_label(leaves[*i].path().parts()))
            .collect();
        let rows = meta.metadata().file_metadata().num_rows() as usize;
        let (mut labels, mut files) = (Labels::default(), Names::default());
        if !wanted.is_empty() {
            let mut shared = 1;
            for group in meta.metadata().row_groups() {
                for leaf in &wanted {
                    shared = input.check_pages(group.column(*leaf))?.max(shared);
                }
            }
            let batch = (MOST_SHARED / shared).clamp(1, 8192) as usize;
            let mut count = 0;
            let mask = ProjectionMask::leaves(meta.parquet_schema(), wanted);
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input.clone(), meta.clone());
            for batch in builder.with_projection(mask).with_batch_size(batch).build()? {
                let batch = batch?;
                if let Some(column) = columns.label.as_ref().and_then(|label| batch.column_by_name(label)) {
                    labels.push(column);
                }
                let of_image = batch.column_by_name(&columns.image).and_then(|c| c.as_struct_opt());
                let paths = of_image.and_then(|fields| fields.column_by_name("path"));
                for row in 0..batch.num_rows() {
                    let whole = paths.and_then(|p| text(p, row));
                    let file = whole.and_then(|p| if is_packed { Some(p) } else { p.rsplit('/').next() });
                    let longest = if is_packed { LONGEST_PATH } else { LONGEST_NAME };
                    let file = file.filter(|name| name.len() <= longest);
                    files.push(file.unwrap_or_default().as_bytes())?;
                }
                progress.add(batch.num_rows() as u64);
                count += batch.num_rows();
            }
            ensure!(count == rows, "its columns have {count} of its {rows} rows");
        }
        labels.fill(rows);
        while files.len() < rows {
            files.push(b"")?;
        }
        Ok(Self { columns, labels, files })
    }
}

impl Kept {
    fn load(&self, groups: &[RowGroup]) -> Option<Vec<Option<Values>>> {
        type Content = (FileState, Vec<Option<Values>>);
        let (state, values) = listing::load::<Content>(self.folder.as_deref(), &self.kind, &self.key)?;
        let starts = std::iter::once(0).chain(groups.iter().map(|g| g.end));
        let mut rows = groups.iter().zip(starts).map(|(group, start)| group.end - start);
        let fits = |(values, rows): (&Option<Values>, usize)| values.as_ref().is_none_or(|v| v.is_consistent(rows));
        let known = state == self.state && values.len() == groups.len() && values.iter().zip(&mut rows).all(fits);
        known.then_some(values)
    }

    fn store(&self, groups: &[RowGroup]) {
        if self.state.is_settled(SystemTime::now()) {
            let values: Vec<Option<&Values>> = groups.iter().map(|g| g.values.get().and_then(Option::as_ref)).collect();
            listing::store(self.folder.as_deref(), &self.kind, &self.key, (self.state, values));
        }
    }
}

/// The features that `datasets` notes in a file.
fn features(meta: &ArrowReaderMetadata) -> Option<Value> {
    let kept = meta.metadata().file_metadata().key_value_metadata();
    let text = kept.into_iter().flatten().find(|kv| kv.key == "huggingface").and_then(|kv| kv.value.clone());
    let text = text.or_else(|| meta.schema().metadata().get("huggingface").cloned())?;
    let mut about: Value = serde_json::from_str(&text).ok()?;
    Some(about["info"]["features"].take())
}

impl Source for Parquet {
    fn describe(&self) -> String {
        let split = self.split.as_ref().map(|s| format!(", {s}")).unwrap_or_default();
        let unread = self.unread.as_ref().map(|c| format!(", labels of {c} not read")).unwrap_or_default();
        format!("{} (Parquet{split}{unread})", self.path)
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
        let file = self.files.text(index);
        if self.is_packed { file.into_owned() } else { paths::row_name(self.split(), index, Some(&file)) }
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (shard, row) = super::locate(&self.ends, index);
        self.shards[shard].read(row)
    }
}
