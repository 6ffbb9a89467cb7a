//! A run's numbers as a TensorBoard event file.
//!
//! Such a file is a row of TFRecords (length, CRC of the length, content, CRC of the content), each
//! an `Event` message of protobuf. Six fields of three messages are ever written, so they are
//! encoded here rather than by generated code.

use crate::error::{Context as _, Result};
use crate::files::write_atomic;
use crate::run::numbers::number;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that TensorBoard looks for, of the event file in a run directory.
pub const EVENTS_FILE: &str = "events.out.tfevents.nepa";

/// Fields of a line of metrics that say where its numbers belong, and are not plotted themselves.
const NOT_NUMBERS: &[&str] = &["phase", "step", "time"];

/// An event file that grows record by record. Each record is written by one call, so that a killed process leaves whole
/// records.
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Creates a file, replacing one of the same name.
    pub fn create(path: &Path) -> Result<Self> {
        write_atomic(path, &record(&version_event(now())))?;
        Self::append(path)
    }

    /// Continues a file that [`EventFile::create`] or [`rewrite`] made.
    pub fn append(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(|| format!("cannot continue the event file {}", path.display()))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Adds one number; `wall_time` is in seconds since 1970.
    pub fn scalar(&mut self, tag: &str, step: i64, wall_time: f64, value: f64) -> Result<()> {
        self.write(&record(&scalars_event(wall_time, step, &[(tag, value)])))
    }

    /// Adds every number of a line of metrics, as [`scalars_of`] finds them.
    pub fn line(&mut self, line: &Map<String, Value>) -> Result<()> {
        match line_event(line) {
            Some(event) => self.write(&record(&event)),
            None => Ok(()),
        }
    }

    fn write(&mut self, record: &[u8]) -> Result<()> {
        self.file.write_all(record).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Writes a complete event file from lines of metrics, atomically replacing one of the same name.
pub fn rewrite(path: &Path, lines: impl IntoIterator<Item = Map<String, Value>>) -> Result<()> {
    let lines: Vec<Vec<u8>> = lines.into_iter().filter_map(|line| line_event(&line)).collect();
    let mut bytes = record(&version_event(now()));
    bytes.extend(lines.iter().flat_map(|event| record(event)));
    write_atomic(path, &bytes)
}

/// The numbers of a line of metrics as (tag, step, value): each field with a number, also one that is not
/// finite, if the line has an integer `step`.
/// The tag is `PHASE/NAME`, or the name alone of a line without a phase.
pub fn scalars_of(line: &Map<String, Value>) -> Vec<(String, i64, f64)> {
    let Some(step) = line.get("step").and_then(Value::as_i64) else {
        return Vec::new();
    };
    let phase = line.get("phase").and_then(Value::as_str);
    line.iter()
        .filter(|(name, _)| !NOT_NUMBERS.contains(&name.as_str()))
        .filter_map(|(name, value)| {
            let tag = match phase {
                Some(phase) => format!("{phase}/{name}"),
                None => name.clone(),
            };
            Some((tag, step, number(value)?))
        })
        .collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// One event of all numbers of a line, if it has any.
fn line_event(line: &Map<String, Value>) -> Option<Vec<u8>> {
    let scalars = scalars_of(line);
    let (_, step, _) = *scalars.first()?;
    let wall_time = line.get("time").and_then(Value::as_f64).unwrap_or_else(now);
    let pairs: Vec<(&str, f64)> = scalars.iter().map(|(tag, _, value)| (tag.as_str(), *value)).collect();
    Some(scalars_event(wall_time, step, &pairs))
}

/// `Event { wall_time: 1, file_version: 3 }`: what the first record must be.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time: 1, step: 2, summary: 5 }` with `Summary { value: 1 }` of
/// `Value { tag: 1, simple_value: 2 }`.
fn scalars_event(wall_time: f64, step: i64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, number) in scalars {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        float(&mut value, 2, *number as f32);
        bytes(&mut summary, 1, &value);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    varint(&mut event, 2 << 3);
    varint(&mut event, step as u64);
    bytes(&mut event, 5, &summary);
    event
}

// Protobuf: a field is its number and wire type (0 varint, 1 of 8 bytes, 2 with a length, 5 of 4
// bytes), then its value.

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn float(out: &mut Vec<u8>, field: u64, value: f32) {
    varint(out, field << 3 | 5);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

/// A TFRecord.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), content, &masked_crc(content)].concat()
}

/// TensorFlow's CRC: rotated and shifted, since a CRC over data that holds CRCs is weak.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}
