//! Tables of named columns as .parquet or .csv files, written and read.

use crate::bail_hint;
use crate::error::{Result, catch_damage, ensure};
use arrow_array::{Array as _, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::Value;
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

/// A table that was read.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    /// The names of its columns.
    pub columns: Vec<String>,
    /// Its first rows, as plain values.
    pub rows: Vec<Vec<Value>>,
    /// How many more there are.
    pub left_out: usize,
}

/// The first `most` rows of a file that [`encode`] made; the ending of its name says how it was written. Numbers of a
/// .csv file are numbers again.
pub fn decode(path: &Path, bytes: Vec<u8>, most: usize) -> Result<Table> {
    catch_damage(path.display(), || match path.extension().and_then(|e| e.to_str()) {
        Some("parquet") => from_parquet(path, bytes, most),
        Some("csv") => from_csv(&bytes, most),
        _ => bail_hint!("cannot read a table from {}", path.display(); "its name ends in .parquet or .csv"),
    })
}

fn from_parquet(path: &Path, bytes: Vec<u8>, most: usize) -> Result<Table> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))?;
    let all = builder.metadata().file_metadata().num_rows().max(0) as usize;
    let columns: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for batch in builder.with_limit(most).build()? {
        let batch = batch?;
        let first = rows.len();
        rows.resize(first + batch.num_rows(), Vec::new());
        for (name, array) in columns.iter().zip(batch.columns()) {
            let Some(value) = values(array) else {
                bail_hint!(
                    "column `{name}` of {} holds {}", path.display(), array.data_type();
                    "expected whole numbers, other numbers or texts, as `run::write_table` writes them"
                );
            };
            for (i, row) in rows[first..].iter_mut().enumerate() {
                row.push(if array.is_null(i) { Value::Null } else { value(i) });
            }
        }
    }
    let left_out = all.saturating_sub(rows.len());
    Ok(Table { columns, rows, left_out })
}

/// Gives the values of a column of one of the types that are written.
fn values(array: &ArrayRef) -> Option<Box<dyn Fn(usize) -> Value + '_>> {
    let any = array.as_any();
    if let Some(a) = any.downcast_ref::<Int64Array>() {
        return Some(Box::new(|i| a.value(i).into()));
    }
    if let Some(a) = any.downcast_ref::<Float64Array>() {
        return Some(Box::new(|i| a.value(i).into()));
    }
    let a = any.downcast_ref::<StringArray>()?;
    Some(Box::new(|i| a.value(i).into()))
}

fn from_csv(bytes: &[u8], most: usize) -> Result<Table> {
    let mut reader = csv::Reader::from_reader(bytes);
    let mut table = Table { columns: reader.headers()?.iter().map(String::from).collect(), ..Table::default() };
    for record in reader.records() {
        let record = record?;
        if table.rows.len() < most {
            table.rows.push(record.iter().map(cell).collect());
        } else {
            table.left_out += 1;
        }
    }
    Ok(table)
}

/// A number, if it is written like one.
fn cell(text: &str) -> Value {
    match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(whole), _) => whole.into(),
        (_, Ok(number)) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_comes_back() {
        let columns = || {
            vec![
                ("n".to_string(), Column::Ints(vec![1, -2, 3])),
                ("x".to_string(), Column::Floats(vec![0.5, 1e-9, f64::NAN])),
                ("of \"a\", b".to_string(), Column::Texts(vec!["x, y".into(), "\"\n".into(), "é".into()])),
            ]
        };
        for (name, nan) in [("t.parquet", Value::Null), ("t.csv", json!("NaN"))] {
            let bytes = encode(Path::new(name), columns()).unwrap();
            let table = decode(Path::new(name), bytes.clone(), 10).unwrap();
            assert_eq!(table.columns, ["n", "x", "of \"a\", b"]);
            let rows = [json!([1, 0.5, "x, y"]), json!([-2, 1e-9, "\"\n"]), json!([3, nan, "é"])];
            assert_eq!(json!(table.rows), json!(rows), "{name}");
            let short = decode(Path::new(name), bytes.clone(), 2).unwrap();
            assert_eq!((json!(short.rows), short.left_out), (json!(rows[..2]), 1));
            // Damage is an error, not the end.
            let mut torn = bytes;
            torn.truncate(torn.len() / 2);
            let _ = decode(Path::new(name), torn, 10);
        }
        assert!(decode(Path::new("t.parquet"), b"no table".to_vec(), 10).is_err());
    }
}
