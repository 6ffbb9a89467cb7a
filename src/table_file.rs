//! Tables of named columns as .parquet or .csv files.

use crate::bail_hint;
use crate::error::{Result, ensure};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use std::path::Path;
use std::sync::Arc;

/// The values of a column.
pub enum Column {
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Other numbers.
    Floats(Vec<f64>),
    /// Texts.
    Texts(Vec<String>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Column::Ints(v) => v.len(),
            Column::Floats(v) => v.len(),
            Column::Texts(v) => v.len(),
        }
    }

    fn text(&self, row: usize) -> String {
        match self {
            Column::Ints(v) => v[row].to_string(),
            Column::Floats(v) => v[row].to_string(),
            Column::Texts(v) => v[row].clone(),
        }
    }
}

/// The content of a file with columns of the same length; the ending of its name says how they are written.
pub fn encode(path: &Path, columns: Vec<(String, Column)>) -> Result<Vec<u8>> {
    let rows = columns.first().map_or(0, |c| c.1.len());
    if let Some((name, column)) = columns.iter().find(|c| c.1.len() != rows) {
        let first = &columns[0].0;
        bail_hint!(
            "column `{name}` has {} values, but `{first}` has {rows}", column.len();
            "all columns of a table have the same length"
        );
    }
    ensure!(!columns.is_empty(), "a table needs at least one column");
    match path.extension().and_then(|e| e.to_str()) {
        Some("parquet") => parquet_bytes(columns),
        Some("csv") => csv_bytes(&columns, rows),
        _ => bail_hint!("cannot write a table to {}", path.display(); "its name ends in .parquet or .csv"),
    }
}

fn parquet_bytes(columns: Vec<(String, Column)>) -> Result<Vec<u8>> {
    let array = |column| -> ArrayRef {
        match column {
            Column::Ints(v) => Arc::new(Int64Array::from(v)),
            Column::Floats(v) => Arc::new(Float64Array::from(v)),
            Column::Texts(v) => Arc::new(StringArray::from(v)),
        }
    };
    let batch = RecordBatch::try_from_iter(columns.into_iter().map(|(name, column)| (name, array(column))))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}

fn csv_bytes(columns: &[(String, Column)], rows: usize) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|c| &c.0))?;
    for row in 0..rows {
        writer.write_record(columns.iter().map(|c| c.1.text(row)))?;
    }
    Ok(writer.into_inner()?)
}
