//! Which columns of a table hold images and labels, as Hugging Face's `datasets` writes them.

use crate::bail_hint;
use crate::error::{Result, bail};
use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, types};
use arrow_schema::{DataType, Schema};
use serde_json::Value;
use std::path::Path;

const IMAGE_NAMES: [&str; 9] = ["image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image.jpg"];
const LABEL_NAMES: [&str; 8] = ["label", "labels", "cls", "class", "target", "fine_label", "label_id", "category"];

/// The columns of interest.
#[derive(Debug)]
pub(super) struct Columns {
    pub image: String,
    pub label: Option<String>,
    /// The classes' names, if the features give them.
    pub names: Option<Vec<String>>,
}

impl Columns {
    /// Chosen by the features' types, else by usual names.
    pub fn choose(file: &Path, schema: &Schema, features: Option<&Value>) -> Result<Self> {
        let of_type = |kind: &str| -> Vec<&str> {
            let all = features.and_then(Value::as_object).into_iter().flatten();
            all.filter(|(_, f)| f["_type"] == kind).map(|(name, _)| name.as_str()).collect()
        };
        let find = |kind: &str, names: &[&'static str], fits: fn(&DataType) -> bool| -> Option<String> {
            let fits = |name: &str| schema.field_with_name(name).is_ok_and(|f| fits(f.data_type()));
            let typed: Vec<&str> = of_type(kind).into_iter().filter(|n| fits(n)).collect();
            let usual = names.iter().copied().find(|n| typed.contains(n));
            let any = names.iter().copied().find(|n| fits(n));
            usual.or(typed.first().copied()).or(any).map(str::to_string)
        };
        let Some(image) = find("Image", &IMAGE_NAMES, is_image) else {
            let columns: Vec<String> =
                schema.fields().iter().map(|f| format!("{} ({})", f.name(), type_words(f.data_type()))).collect();
            bail_hint!(
                "{} has no column of images; its columns are: {}", file.display(), columns.join(", ");
                "expected `image` (struct of bytes and path, or binary) and, for classes, `label` (int64)"
            );
        };
        let label = find("ClassLabel", &LABEL_NAMES, DataType::is_integer);
        let names = label.as_ref().and_then(|label| {
            let names = features?.get(label)?.get("names")?.as_array()?;
            Some(names.iter().map(|n| n.as_str().map_or_else(|| n.to_string(), str::to_string)).collect())
        });
        Ok(Self { image, label, names })
    }
}

fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary)
}

fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => fields.iter().any(|f| f.name() == "bytes" && is_binary(f.data_type())),
        other => is_binary(other),
    }
}

fn type_words(kind: &DataType) -> String {
    match kind {
        DataType::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|f| format!("{}: {}", f.name(), type_words(f.data_type()))).collect();
            format!("struct of {}", fields.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

/// A column of images: the files' bytes, or their paths, or both.
pub(super) struct Images {
    rows: usize,
    whole: ArrayRef,
    bytes: ArrayRef,
    path: Option<ArrayRef>,
}

impl Images {
    /// From a column that [`Columns`] has chosen; no bytes are copied.
    pub fn new(column: &ArrayRef) -> Result<Self> {
        let (bytes, path) = match column.as_struct_opt() {
            Some(fields) => match fields.column_by_name("bytes") {
                Some(bytes) => (bytes.clone(), fields.column_by_name("path").cloned()),
                None => bail!("the struct of the image column has no `bytes`"),
            },
            None => (column.clone(), None),
        };
        let path = path.filter(|p| matches!(p.data_type(), DataType::Utf8 | DataType::LargeUtf8));
        Ok(Self { rows: column.len(), whole: column.clone(), bytes, path })
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn bytes(&self, row: usize) -> Option<&[u8]> {
        if self.whole.is_null(row) || self.bytes.is_null(row) {
            return None;
        }
        match self.bytes.data_type() {
            DataType::Binary => Some(self.bytes.as_binary::<i32>().value(row)),
            _ => Some(self.bytes.as_binary::<i64>().value(row)),
        }
    }

    pub fn path(&self, row: usize) -> Option<&str> {
        text(self.path.as_ref()?, row).filter(|_| self.whole.is_valid(row))
    }
}

/// A value of a column of strings.
pub(super) fn text(column: &ArrayRef, row: usize) -> Option<&str> {
    match column.data_type() {
        _ if column.is_null(row) => None,
        DataType::Utf8 => Some(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row)),
        _ => None,
    }
}

/// Adds the labels of a column of integers; null is -1.
pub(super) fn push_labels(labels: &mut Vec<i32>, column: &ArrayRef) {
    macro_rules! push {
        ($($kind:ident => $ty:ty),*) => {
            match column.data_type() {
                $(DataType::$kind => labels.extend(column.as_primitive::<$ty>().iter().map(|v| {
                    // A value beyond i32 is not a label either, and is reported with the other wrong ones.
                    v.map_or(-1, |v| i32::try_from(v).unwrap_or(i32::MIN))
                })),)*
                other => unreachable!("labels of type {other}"),
            }
        };
    }
    push!(Int8 => types::Int8Type, Int16 => types::Int16Type, Int32 => types::Int32Type, Int64 => types::Int64Type,
          UInt8 => types::UInt8Type, UInt16 => types::UInt16Type, UInt32 => types::UInt32Type,
          UInt64 => types::UInt64Type);
}

/// The classes' names: those given, against which every label is checked, else "0" … the highest label.
pub(super) fn class_names(
    labels: &[i32],
    names: Option<Vec<String>>,
    name_row: impl Fn(usize) -> String,
) -> Result<Vec<String>> {
    let limit = names.as_ref().map_or(i32::MAX as usize, Vec::len);
    if let Some(row) = labels.iter().position(|l| *l < -1 || *l >= 0 && *l as usize >= limit) {
        let label = match labels[row] {
            i32::MIN => "a label beyond 32 bits".to_string(),
            label => format!("the label {label}"),
        };
        let expected = names.map_or("-1 (none) or more".to_string(), |n| {
            format!("0..={} for the {} classes, or -1 for none", n.len().saturating_sub(1), n.len())
        });
        bail_hint!(
            "{} has {label}, expected {expected}", name_row(row);
            "the labels and the class names do not belong together"
        );
    }
    let highest = labels.iter().copied().max().unwrap_or(-1);
    // Every class costs memory, and a label of a billion is surely wrong.
    if names.is_none() && highest >= 10_000_000 {
        let row = labels.iter().position(|l| *l == highest).unwrap_or(0);
        bail!("{} has the label {highest}, which is too high for a class", name_row(row));
    }
    Ok(names.unwrap_or_else(|| (0..=highest).map(|i| i.to_string()).collect()))
}
