//! Shards as the Hugging Face Hub has them: Parquet files whose columns `datasets` knows as Image and ClassLabel.

use super::shard::{Entry, ShardWriter, Stored, stored};
use crate::error::{Context as _, Result, bail};
use crate::files::{Checksum, ChecksumWriter};
use arrow_array::builder::{BinaryBuilder, Int64Builder, StringBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{Array as _, ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

const BUFFER: usize = 1 << 20;
/// Rows of a group at most, as `datasets` has it for images, and about how many bytes: a group is kept in memory.
const GROUP: (usize, usize) = (100, 64 << 20);
/// Rows after which a page may end, which it does at 1 MiB.
const ROWS_AT_ONCE: usize = 4;
const IMAGE: &str = "image";
const LABEL: &str = "label";

pub struct Writer {
    file: ArrowWriter<ChecksumWriter<BufWriter<File>>>,
    schema: SchemaRef,
    bytes: BinaryBuilder,
    paths: StringBuilder,
    labels: Int64Builder,
    rows: usize,
    size: usize,
}

impl Writer {
    /// Begins a file; without names of classes, it has no labels.
    pub fn create(path: &Path, class_names: &[String]) -> Result<Self> {
        let mut fields = vec![Field::new(IMAGE, DataType::Struct(image_fields()), true)];
        let mut features = Map::new();
        features.insert(IMAGE.into(), json!({ "_type": "Image" }));
        if !class_names.is_empty() {
            fields.push(Field::new(LABEL, DataType::Int64, true));
            features.insert(LABEL.into(), json!({ "names": class_names, "_type": "ClassLabel" }));
        }
        // JPEGs do not get any smaller, and no two are the same.
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_column_statistics_enabled(
                ColumnPath::from(vec![IMAGE.into(), "bytes".into()]),
                EnabledStatistics::None,
            )
            .set_write_batch_size(ROWS_AT_ONCE)
            .build();
        let features = json!({ "info": { "features": features } }).to_string();
        let about = HashMap::from([("huggingface".to_string(), features)]);
        let schema = Arc::new(Schema::new_with_metadata(fields, about));
        let out = ChecksumWriter::new(BufWriter::with_capacity(BUFFER, File::create(path)?));
        let file = ArrowWriter::try_new(out, schema.clone(), Some(properties))?;
        let (bytes, paths, labels) = (BinaryBuilder::new(), StringBuilder::new(), Int64Builder::new());
        Ok(Self { file, schema, bytes, paths, labels, rows: 0, size: 0 })
    }

    /// Writes the rows so far as a group.
    fn end_group(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let image: [ArrayRef; 2] = [Arc::new(self.bytes.finish()), Arc::new(self.paths.finish())];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StructArray::new(image_fields(), image.to_vec(), None))];
        if self.schema.fields().len() > 1 {
            columns.push(Arc::new(self.labels.finish()));
        }
        self.file.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?;
        self.file.flush()?;
        (self.rows, self.size) = (0, 0);
        Ok(())
    }
}

fn image_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

impl ShardWriter for Writer {
    fn add(&mut self, entry: &Entry<'_>) -> Result<Stored> {
        self.bytes.append_value(entry.bytes);
        self.paths.append_value(entry.name);
        if let Some(label) = entry.label {
            self.labels.append_value(label);
        }
        (self.rows, self.size) = (self.rows + 1, self.size + entry.bytes.len());
        if self.rows >= GROUP.0 || self.size >= GROUP.1 {
            self.end_group()?;
        }
        Ok(stored(entry.name.to_string(), entry.label, entry.bytes))
    }

    fn finish(mut self: Box<Self>) -> Result<Checksum> {
        self.end_group()?;
        let out = self.file.into_inner()?;
        let checksum = out.checksum();
        out.into_inner().into_inner().map_err(|e| e.into_error())?.sync_all()?;
        Ok(checksum)
    }
}

/// The images of a file, in its order.
pub fn read(path: &Path) -> Result<Vec<Stored>> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.with_batch_size(GROUP.0).build()?;
    let mut images = Vec::new();
    for batch in batches {
        let batch = batch?;
        let image = batch.column_by_name(IMAGE).and_then(|column| column.as_struct_opt()).context("no images")?;
        let (Some(bytes), Some(paths)) = (
            image.column_by_name("bytes").and_then(|column| column.as_binary_opt::<i32>()),
            image.column_by_name("path").and_then(|column| column.as_string_opt::<i32>()),
        ) else {
            bail!("its images have no bytes or no paths")
        };
        let labels = batch.column_by_name(LABEL).and_then(|column| column.as_primitive_opt::<Int64Type>());
        for row in 0..batch.num_rows() {
            let label = labels.filter(|labels| labels.is_valid(row)).map(|labels| labels.value(row));
            images.push(stored(paths.value(row).to_string(), label, bytes.value(row)));
        }
    }
    Ok(images)
}
