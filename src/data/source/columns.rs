//! Which columns of a table hold images and labels, as Hugging Face's `datasets` writes them.

use super::labels::{self, Classes, Labels, text};
use super::listing;
use crate::data::image::Mode;
use crate::error::{Diagnostic, Result, bail, did_you_mean, ensure};
use crate::{bail_hint, options};
use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef};
use arrow_schema::{DataType, Schema};
use serde_json::Value;
use std::path::Path;

const IMAGE_NAMES: [&str; 9] = ["image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image.jpg"];
const LABEL_NAMES: [&str; 9] =
    ["label", "labels", "cls", "class", "target", "targets", "fine_label", "label_id", "category"];

options! {
    /// How to open images. Which columns of a table hold what is found by their types and usual names, where it is ().
    pub struct OpenOptions {
        /// The column of images, if there are several.
        image: Option<String> = None,
        /// The column of labels, if there are several or it has an unusual name. In CIFAR-100 "fine_label" (the default)
        /// or "coarse_label".
        label: Option<String> = None,
        /// What image files are read as. "rgb" is 8-bit red, green and blue, as Pillow's convert("RGB"): of 16 bits the
        /// upper 8 (which is said), without alpha. "unchanged" (as OpenCV's and torchvision's IMREAD_UNCHANGED and UNCHANGED) keeps
        /// all channels at full precision, as float32: integers divided by the greatest value of their type, so 0 to 1
        /// (signed ones −1 to 1), floats as they are, which must be finite. So are TIFF (1 to many samples a pixel of 1
        /// to 16 bits, or floats of 16 or 32 bits), PNG, WebP, BMP and PNM read; JPEG and GIF, of 8 bits, give red, green
        /// and blue. Palettes are looked up. A TIFF with several pages is an error.
        mode: Mode = Mode::Rgb,
    }
}

/// The columns of interest.
#[derive(Debug)]
pub(super) struct Columns {
    pub image: String,
    pub label: Option<String>,
    /// The classes' names, if the features give them.
    pub names: Option<Vec<String>>,
    /// The label's type, in words.
    kind: String,
    /// What was passed over, for the user to know.
    note: Option<String>,
}

impl Columns {
    /// Chosen by the options, else by the features' types, else by usual names.
    pub fn choose(file: &Path, schema: &Schema, features: Option<&Value>, given: &OpenOptions) -> Result<Self> {
        let table = Table { file, schema, features };
        let image = match &given.image {
            Some(name) => table.named("image", name, is_image)?,
            None => table.image()?,
        };
        let (label, note) = match &given.label {
            Some(name) => (Some(table.named("label", name, labels::is_label)?), None),
            None => table.label(&image)?,
        };
        let kind = label.as_ref().map_or(String::new(), |label| table.kind(label));
        let names = label.as_ref().and_then(|label| {
            let names = features?.get(label)?.get("names")?.as_array()?;
            Some(names.iter().map(|n| n.as_str().map_or_else(|| n.to_string(), str::to_string)).collect())
        });
        Ok(Self { image, label, names, kind, note })
    }
}

/// Whether a table holds images, and labels of them. Where it has several columns of either, the options choose.
pub(super) fn holds(file: &Path, schema: &Schema, features: Option<&Value>) -> (bool, bool) {
    let table = Table { file, schema, features };
    let has_usual = || IMAGE_NAMES.iter().any(|name| table.type_of(name).is_some_and(is_image));
    let has_images = !table.of_feature("Image", is_image).is_empty() || has_usual();
    (has_images, table.label("").map_or(true, |(label, _)| label.is_some()))
}

/// A file's columns, to choose from.
struct Table<'a> {
    file: &'a Path,
    schema: &'a Schema,
    features: Option<&'a Value>,
}

impl<'a> Table<'a> {
    fn type_of(&self, name: &str) -> Option<&'a DataType> {
        self.schema.field_with_name(name).ok().map(|f| f.data_type())
    }

    fn kind(&self, name: &str) -> String {
        self.type_of(name).map_or(String::new(), type_words)
    }

    /// "a (int64), b (utf8)"
    fn words<'b>(&self, names: impl IntoIterator<Item = &'b str>) -> String {
        names.into_iter().map(|n| format!("{n} ({})", self.kind(n))).collect::<Vec<_>>().join(", ")
    }

    fn columns(&self) -> impl Iterator<Item = &'a str> {
        self.schema.fields().iter().map(|f| f.name().as_str())
    }

    /// The columns that the features call `kind` ("Image", "ClassLabel").
    fn of_feature(&self, kind: &str, fits: fn(&DataType) -> bool) -> Vec<&'a str> {
        let all = self.features.and_then(Value::as_object).into_iter().flatten();
        let named = all.filter(|(_, f)| f["_type"] == kind).map(|(name, _)| name.as_str());
        named.filter(|name| self.type_of(name).is_some_and(fits)).collect()
    }

    /// A column that an option names.
    fn named(&self, option: &str, name: &str, fits: fn(&DataType) -> bool) -> Result<String> {
        let Some(kind) = self.type_of(name) else {
            bail_hint!(
                "{} has no column `{name}`{}", self.file.display(), did_you_mean(name, self.columns());
                "its columns are: {}", self.words(self.columns())
            );
        };
        ensure!(
            fits(kind),
            "{}: the option {option} names the column {name}, whose type is {}",
            self.file.display(),
            type_words(kind)
        );
        Ok(name.to_string())
    }

    fn image(&self) -> Result<String> {
        let typed = self.of_feature("Image", is_image);
        let usual = IMAGE_NAMES.iter().copied().find(|n| typed.contains(n));
        if usual.is_none() && typed.len() > 1 {
            return Err(self.several("images", "image", &typed));
        }
        if let Some(name) = usual.or(typed.first().copied()) {
            return Ok(name.to_string());
        }
        match IMAGE_NAMES.iter().find(|n| self.type_of(n).is_some_and(is_image)) {
            Some(name) => Ok(name.to_string()),
            None => bail_hint!(
                "{} has no column of images; its columns are: {}", self.file.display(), self.words(self.columns());
                "expected `image` (struct of bytes and path, or binary) and, for classes, `label`; name other ones: \
                 data::open(path, split, #{{ image: \"…\", label: \"…\" }})"
            ),
        }
    }

    /// The column of labels, if there is one, and what is to be said of others.
    fn label(&self, image: &str) -> Result<(Option<String>, Option<String>)> {
        let typed = self.of_feature("ClassLabel", DataType::is_integer);
        let usual: Vec<&str> = LABEL_NAMES.iter().copied().filter(|n| self.type_of(n).is_some()).collect();
        let fitting: Vec<&str> =
            usual.iter().copied().filter(|n| self.type_of(n).is_some_and(labels::is_label)).collect();
        let whole = |n: &&str| self.type_of(n).is_some_and(DataType::is_integer);
        let chosen = match (fitting.iter().find(|n| typed.contains(n)), &typed[..]) {
            (Some(name), _) | (None, [name]) => Some(*name),
            (None, []) => fitting.iter().copied().find(|n| whole(n)).or(fitting.first().copied()),
            _ => return Err(self.several("labels", "label", &typed)),
        };
        let option = "pass #{ label: \"…\" } to data::open";
        let Some(chosen) = chosen else {
            let others: Vec<&str> = self.columns().filter(|n| *n != image).collect();
            let note = match (&usual[..], &others[..]) {
                (_, []) => None,
                ([], _) => Some(format!(
                    "no labels are read, since none of its columns has a usual name for them \
                    ({}): it has {}; {option} to read one",
                    LABEL_NAMES.join(", "),
                    self.words(others)
                )),
                _ => Some(format!("no labels are read: {} is no type of labels", self.words(usual))),
            };
            return Ok((None, note));
        };
        let others: Vec<&str> = typed.into_iter().chain(fitting).filter(|n| *n != chosen).collect();
        let mut seen = std::collections::BTreeSet::new();
        let others: Vec<&str> = others.into_iter().filter(|n| seen.insert(*n)).collect();
        let note = (!others.is_empty()).then(|| {
            format!(
                "labels are read from {}, not from {}; {option} to choose",
                self.words([chosen]),
                self.words(others)
            )
        });
        Ok((Some(chosen.to_string()), note))
    }

    fn several(&self, what: &str, option: &str, columns: &[&str]) -> anyhow::Error {
        let message = format!("{} has several columns of {what}: {}", self.file.display(), columns.join(", "));
        let hint = format!("name one: data::open(path, split, #{{ {option}: \"{}\" }})", columns[0]);
        Diagnostic::new(message).hint(hint).into()
    }
}

/// The labels and classes of a split's files, read from their columns; `row` names a row of all in errors. Says on
/// stderr what was passed over, what is not read, and how texts became numbers. The second result is what is not read,
/// in words.
pub(super) fn classes(
    of: &str,
    read: Vec<(Columns, Labels)>,
    file: impl Fn(usize) -> String,
    row: impl Fn(usize) -> String,
) -> Result<(Classes, Option<String>)> {
    let (columns, files): (Vec<Columns>, Vec<Labels>) = read.into_iter().unzip();
    let labelled = columns.iter().position(|c| c.label.is_some()).unwrap_or(0);
    let first = &columns[labelled];
    for (i, other) in columns.iter().enumerate() {
        if let (Some(a), Some(b)) = (&first.label, &other.label)
            && (a != b || first.names != other.names)
        {
            let differ = if a == b { "other class names" } else { "another label column" };
            bail_hint!(
                "{} has {differ} than {}", file(i), file(labelled);
                "the files of a split must agree on the column of labels and on the order of its classes"
            );
        }
    }
    columns.iter().find_map(|c| c.note.as_ref()).into_iter().for_each(|note| listing::note(&format!("{of}: {note}")));
    let label = columns.iter().find_map(|c| Some((c.label.as_ref()?, &c.kind)));
    let Some((label, kind)) = label else {
        return Ok((labels::classes(files, None, file, row)?, None));
    };
    if let Some((i, unfit)) = files.iter().enumerate().find_map(|(i, f)| Some((i, f.unfit.as_ref()?))) {
        listing::note(&format!(
            "{of}: no labels are read: in the column {label} ({kind}) of {}, {unfit}, where a whole number, a text, \
             true or false, or a list of one of them is expected",
            file(i)
        ));
        let rows = files.iter().map(Labels::len).sum();
        let none = Classes { labels: vec![labels::NONE; rows], names: Vec::new(), mapping: None };
        return Ok((none, Some(format!("{label} ({kind})"))));
    }
    for (i, _) in columns.iter().enumerate().filter(|(_, c)| c.label.is_none()) {
        listing::note(&format!("{of}: {} has no column {label}: its images have no labels", file(i)));
    }
    let names = columns.iter().find_map(|c| c.names.clone());
    let found = labels::classes(files, names, file, row)?;
    if let Some(mapping) = &found.mapping {
        listing::note(&format!("{of}: labels of the column {label} ({kind}): {mapping}"));
    }
    Ok((found, None))
}

fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
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
        DataType::Dictionary(_, values) => format!("dictionary of {}", type_words(values)),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            format!("list of {}", type_words(field.data_type()))
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
            DataType::BinaryView => Some(self.bytes.as_binary_view().value(row)),
            _ => Some(self.bytes.as_binary::<i64>().value(row)),
        }
    }

    pub fn path(&self, row: usize) -> Option<&str> {
        text(self.path.as_ref()?, row).filter(|_| self.whole.is_valid(row))
    }
}
