//! Features of a source's images in files: .parquet, .npy or .safetensors, one or several (shards) of consecutive images.
//!
//! Beside them lies `NAME.parquet.json`, or what the name is, which says what the features are of and how they were computed. With it an interrupted
//! extraction goes on with the shards that are missing, and one of other features is refused.

use crate::bail_hint;
use crate::checkpoint::tensors;
use crate::differences::differences;
use crate::error::{Context as _, Result, did_you_mean, ensure};
use crate::files::{exists, folder_of, free_bytes, read_json, staging, write_atomic, write_atomic_with};
use crate::provenance::Versions;
use crate::table_file::{self, Column};
use crate::tensor::shape_text;
use crate::text;
use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Kind, Tensor};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    Parquet,
    Npy,
    Safetensors,
}

/// The endings of names, each with what it means.
const FORMATS: [(&str, Format); 3] =
    [("parquet", Format::Parquet), ("npy", Format::Npy), ("safetensors", Format::Safetensors)];

/// What there will be in the files.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of images.
    pub images: usize,
    /// Numbers in a feature.
    pub width: usize,
    /// Images in a file.
    pub shard: usize,
    /// Names of the classes, by label.
    pub class_names: Vec<String>,
    /// How the features are computed, for people and to compare.
    pub settings: Map<String, Value>,
}

/// The file that describes the others.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    images: usize,
    width: usize,
    files: Vec<String>,
    class_names: Vec<String>,
    settings: Map<String, Value>,
    versions: Versions,
}

/// The files of the features of one source, as they are being written.
#[derive(Debug, Clone)]
pub struct FeaturesFile {
    path: PathBuf,
    format: Format,
    plan: Plan,
}

/// What one file holds: of its images, those that could be read.
pub struct Rows<'a> {
    /// The features [n, width], float32.
    pub features: &'a Tensor,
    /// Labels [n], -1 where an image has none.
    pub labels: &'a [i64],
    /// Names of the images [n].
    pub names: &'a [String],
}

impl FeaturesFile {
    /// Files called `path`, of which nothing is read or written yet.
    pub fn new(path: &Path, plan: Plan) -> Result<Self> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
        let Some((_, format)) = FORMATS.iter().find(|(known, _)| *known == ending) else {
            let near = did_you_mean(&ending, FORMATS.iter().map(|(known, _)| *known));
            bail_hint!(
                "cannot write features to {}: its name does not say how{near}", path.display();
                "it ends in .parquet, .npy or .safetensors"
            );
        };
        ensure!(plan.images > 0, "{}: there are no images to compute features of", path.display());
        ensure!(plan.shard > 0, "shard: expected at least 1 image in a file, found 0");
        Ok(Self { path: path.to_path_buf(), format: *format, plan })
    }

    /// Begins, or goes on with, the files: an error if there are some of other features, or of unknown ones, or if there
    /// is no room for them.
    pub fn begin(&self) -> Result<()> {
        if exists(&self.description_path())? {
            return self.ensure_same();
        }
        for i in 0..self.count() {
            if exists(&self.file(i))? {
                bail_hint!(
                    "{} exists, and no {} says what features it holds",
                    self.file(i).display(), self.description_path().display();
                    "remove it, or choose another name"
                );
            }
        }
        let needed = (self.plan.images * self.plan.width * 4) as u64;
        let free = free_bytes(&self.path)?;
        ensure!(
            needed < free,
            "the features take {}, but {} has room for {}",
            text::bytes(needed as f64),
            folder_of(&self.path).display(),
            text::bytes(free as f64)
        );
        let description = Description {
            images: self.plan.images,
            width: self.plan.width,
            files: (0..self.count()).map(|i| name_of(&self.file(i))).collect(),
            class_names: self.plan.class_names.clone(),
            settings: self.plan.settings.clone(),
            versions: Versions::of_this_build(),
        };
        write_atomic(&self.description_path(), &[serde_json::to_vec_pretty(&description)?, b"\n".to_vec()].concat())
    }

    /// Files that exist must be of the same features.
    fn ensure_same(&self) -> Result<()> {
        let path = self.description_path();
        let found: Description = read_json(&path)?;
        let known = |images, width, files: usize, classes: &[String], settings: &Map<String, Value>| {
            let mut all = settings.clone();
            let own = json!({ "images": images, "width": width, "files": files, "class_names": classes });
            all.extend(own.as_object().cloned().unwrap_or_default());
            Value::Object(all)
        };
        let plan = &self.plan;
        let before = known(found.images, found.width, found.files.len(), &found.class_names, &found.settings);
        let now = known(plan.images, plan.width, self.count(), &plan.class_names, &plan.settings);
        let changed: Vec<String> =
            differences(&before, &now).iter().map(|(name, was, now)| format!("{name}: was {was}, now {now}")).collect();
        if !changed.is_empty() {
            bail_hint!(
                "{} holds other features: {}", self.path.display(), changed.join("; ");
                "remove {} and the files that it lists, or choose another name", path.display()
            );
        }
        Ok(())
    }

    fn description_path(&self) -> PathBuf {
        PathBuf::from(format!("{}.json", self.path.display()))
    }

    /// Number of files.
    pub fn count(&self) -> usize {
        self.plan.images.div_ceil(self.plan.shard)
    }

    /// The images in file `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        i * self.plan.shard..((i + 1) * self.plan.shard).min(self.plan.images)
    }

    /// The path of file `i`: the given one if it is the only file, else NAME-00000-of-00012.parquet.
    pub fn file(&self, i: usize) -> PathBuf {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let ending = self.path.extension().unwrap_or_default().to_string_lossy();
        match self.count() {
            1 => self.path.clone(),
            n => self.path.with_file_name(format!("{stem}-{i:05}-of-{n:05}.{ending}")),
        }
    }

    /// Whether file `i` has been written: files appear whole.
    pub fn is_written(&self, i: usize) -> Result<bool> {
        exists(&self.file(i))
    }

    /// Writes file `i`.
    pub fn write(&self, i: usize, rows: &Rows<'_>) -> Result<()> {
        let n = rows.names.len();
        let expected = [n as i64, self.plan.width as i64];
        ensure!(
            rows.features.size() == expected && rows.features.kind() == Kind::Float && rows.labels.len() == n,
            "features: expected {expected:?} float32 with {n} labels, found {} with {} labels",
            shape_text(rows.features),
            rows.labels.len()
        );
        ensure!(n <= self.range(i).len(), "file {i} holds {} images, found {n}", self.range(i).len());
        let path = self.file(i);
        match self.format {
            Format::Parquet => write_atomic(&path, &self.parquet(rows)?),
            Format::Safetensors => self.write_safetensors(&path, rows),
            Format::Npy => {
                // The names first: the features say that the shard is there.
                let names = PathBuf::from(format!("{}.names.csv", path.display()));
                let labels = Column::Ints(rows.labels.to_vec());
                let classes = rows.labels.iter().map(|label| self.class_name(*label).unwrap_or_default().into());
                let columns = vec![
                    ("name".into(), Column::Texts(rows.names.to_vec())),
                    ("label".into(), labels),
                    ("class_name".into(), Column::Texts(classes.collect())),
                ];
                write_atomic(&names, &table_file::encode(&names, columns)?)?;
                write_npy(&path, rows.features)
            }
        }
    }

    /// The name of a label's class, if it has one.
    fn class_name(&self, label: i64) -> Option<&str> {
        usize::try_from(label).ok().and_then(|i| self.plan.class_names.get(i)).map(String::as_str)
    }

    fn parquet(&self, rows: &Rows<'_>) -> Result<Vec<u8>> {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let width = i32::try_from(self.plan.width).context("so many numbers in a feature fit no parquet file")?;
        let values: Vec<f32> = Vec::try_from(&rows.features.f_contiguous()?.f_view(-1)?)?;
        let features = FixedSizeListArray::try_new(item.clone(), width, Arc::new(Float32Array::from(values)), None)?;
        let labels: Int64Array = rows.labels.iter().map(|label| (*label >= 0).then_some(*label)).collect();
        let classes: StringArray = rows.labels.iter().map(|label| self.class_name(*label)).collect();
        let columns: [ArrayRef; 4] =
            [Arc::new(StringArray::from(rows.names.to_vec())), Arc::new(labels), Arc::new(classes), Arc::new(features)];
        let schema = Arc::new(Schema::new(vec![
            Field::new("name", DataType::Utf8, false),
            Field::new("label", DataType::Int64, true),
            Field::new("class_name", DataType::Utf8, true),
            Field::new("features", DataType::FixedSizeList(item, width), false),
        ]));
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, schema.clone(), Some(properties))?;
        writer.write(&RecordBatch::try_new(schema, columns.to_vec())?)?;
        writer.close()?;
        Ok(bytes)
    }

    fn write_safetensors(&self, path: &Path, rows: &Rows<'_>) -> Result<()> {
        let all = [
            ("features".to_string(), rows.features.f_contiguous()?),
            ("labels".to_string(), Tensor::f_from_slice(rows.labels)?),
        ];
        let metadata = BTreeMap::from([
            ("names", serde_json::to_string(rows.names)?),
            ("class_names", serde_json::to_string(&self.plan.class_names)?),
        ]);
        write_atomic_with(path, |out| tensors::write_to(out, &all, &metadata))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Writes a tensor as numpy does: beside its place first, then renamed.
fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    let writing = || format!("cannot write {}", path.display());
    let beside = staging(path)?;
    let file = beside.path().join("features.npy");
    tensor.f_contiguous()?.write_npy(&file).with_context(writing)?;
    File::open(&file).and_then(|file| file.sync_all()).with_context(writing)?;
    std::fs::rename(&file, path).with_context(writing)
}
