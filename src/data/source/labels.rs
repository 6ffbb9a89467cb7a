//! What the values of a label column mean, and those of a sample's JSON.
//!
//! | values | labels |
//! |---|---|
//! | whole numbers of any type, also as floats | the number |
//! | true, false | 1, 0; the classes are "False" and "True", as `datasets` names them |
//! | texts, and categories of texts | the place among all texts of the split: sorted, as by `class_encode_column` of `datasets`; texts that are all numbers are sorted as numbers |
//! | a list of one value | that value |
//! | null, NaN, an empty list | -1, none |

use super::names::sort_classes;
use super::paths;
use crate::bail_hint;
use crate::error::{Result, bail};
use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, types};
use arrow_schema::DataType;
use serde_json::Value;
use std::collections::HashMap;

/// A value that is no label.
pub(super) const NONE: i32 = -1;
/// A longer text, of so many bytes, names no class: it is compared with others at every row.
const LONGEST: usize = 1024;
/// A number beyond i32, which is no label either and is reported with the other wrong ones.
const TOO_LARGE: i32 = i32::MIN;

/// What a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Numbers,
    Truth,
    Texts,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Kind::Numbers => "numbers",
            Kind::Truth => "truth values",
            Kind::Texts => "texts",
        }
    }
}

/// A value of a label column.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Label<'a> {
    None,
    Number(i32),
    Truth(bool),
    Text(&'a str),
}

/// The labels of one file's rows, while they are read.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Numbers, or for texts their index in `texts`.
    rows: Vec<i32>,
    kind: Option<Kind>,
    texts: Vec<String>,
    index_of: HashMap<String, i32>,
    /// Why the column's values are no labels: "row 3 holds 0.73".
    pub unfit: Option<String>,
}

impl Labels {
    /// How many rows have been added.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds rows without a label, up to `rows` of them.
    pub fn fill(&mut self, rows: usize) {
        self.rows.resize(rows, NONE);
    }

    /// Adds the values of a column.
    pub fn push(&mut self, column: &dyn Array) {
        let before = self.rows.len();
        if self.unfit.is_none()
            && let Err((row, what)) = each(column, &mut |value| self.push_one(value))
        {
            self.unfit = Some(format!("row {} holds {what}", before + row));
        }
        if self.unfit.is_some() {
            self.rows.resize(before + column.len(), NONE);
        }
    }

    fn push_one(&mut self, value: Label<'_>) {
        let (kind, row) = match value {
            Label::None => return self.rows.push(NONE),
            Label::Number(n) => (Kind::Numbers, n),
            Label::Truth(t) => (Kind::Truth, t.into()),
            Label::Text(text) => {
                let next = self.texts.len() as i32;
                let index = self.index_of.get(text).copied().unwrap_or(next);
                if index == next {
                    self.texts.push(text.to_string());
                    self.index_of.insert(text.to_string(), next);
                }
                (Kind::Texts, index)
            }
        };
        // A column has one type.
        self.kind = Some(kind);
        self.rows.push(row);
    }
}

/// Whether a column of this type can hold labels.
pub(super) fn is_label(kind: &DataType) -> bool {
    match kind {
        DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Boolean | DataType::Null => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_label(values),
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            is_label(field.data_type())
        }
        other => other.is_integer(),
    }
}

/// The first row whose value is no label, and the value in words.
type Unfit = (usize, String);

/// Visits the values of a column of a type that [`is_label`] accepts, one after the other: a few texts may stand for
/// more than there is memory.
fn each(column: &dyn Array, visit: &mut dyn FnMut(Label<'_>)) -> Result<(), Unfit> {
    fn integers<T: ArrowPrimitiveType>(column: &dyn Array, visit: &mut dyn FnMut(Label<'_>)) -> Result<(), Unfit>
    where
        i32: TryFrom<T::Native>,
    {
        let number = |v| i32::try_from(v).unwrap_or(TOO_LARGE);
        column.as_primitive::<T>().iter().for_each(|v| visit(v.map_or(Label::None, |v| Label::Number(number(v)))));
        Ok(())
    }
    fn floats<T: ArrowPrimitiveType>(column: &dyn Array, visit: &mut dyn FnMut(Label<'_>)) -> Result<(), Unfit>
    where
        f64: From<T::Native>,
    {
        for (row, value) in column.as_primitive::<T>().iter().enumerate() {
            let value = value.map(f64::from);
            visit(value.map_or(Ok(Label::None), |v| whole(v).ok_or((row, v.to_string())))?);
        }
        Ok(())
    }
    match column.data_type() {
        DataType::Int8 => integers::<types::Int8Type>(column, visit),
        DataType::Int16 => integers::<types::Int16Type>(column, visit),
        DataType::Int32 => integers::<types::Int32Type>(column, visit),
        DataType::Int64 => integers::<types::Int64Type>(column, visit),
        DataType::UInt8 => integers::<types::UInt8Type>(column, visit),
        DataType::UInt16 => integers::<types::UInt16Type>(column, visit),
        DataType::UInt32 => integers::<types::UInt32Type>(column, visit),
        DataType::UInt64 => integers::<types::UInt64Type>(column, visit),
        DataType::Float16 => floats::<types::Float16Type>(column, visit),
        DataType::Float32 => floats::<types::Float32Type>(column, visit),
        DataType::Float64 => floats::<types::Float64Type>(column, visit),
        DataType::Boolean => {
            column.as_boolean().iter().for_each(|v| visit(v.map_or(Label::None, Label::Truth)));
            Ok(())
        }
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            let values = dictionary.values();
            // Without values, no row has one.
            let places = if values.is_empty() { Vec::new() } else { dictionary.normalized_keys() };
            only_items(column, |row| values.slice(places[row], 1), |what| what, visit)
        }
        DataType::List(_) => only_items(column, |row| column.as_list::<i32>().value(row), listed, visit),
        DataType::LargeList(_) => only_items(column, |row| column.as_list::<i64>().value(row), listed, visit),
        DataType::FixedSizeList(..) => only_items(column, |row| column.as_fixed_size_list().value(row), listed, visit),
        _ => {
            for row in 0..column.len() {
                match text(column, row) {
                    Some(text) if text.len() > LONGEST => return Err((row, format!("a text of {} bytes", text.len()))),
                    text => visit(text.map_or(Label::None, Label::Text)),
                }
            }
            Ok(())
        }
    }
}

/// A value of a column of strings.
pub(super) fn text(column: &dyn Array, row: usize) -> Option<&str> {
    match column.data_type() {
        _ if column.is_null(row) => None,
        DataType::Utf8 => Some(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Some(column.as_string_view().value(row)),
        _ => None,
    }
}

fn listed(what: String) -> String {
    format!("[{what}]")
}

/// Visits the only one of each row's items; `worded` gives the words for one that is no label.
fn only_items(
    column: &dyn Array,
    items: impl Fn(usize) -> ArrayRef,
    worded: impl Fn(String) -> String,
    visit: &mut dyn FnMut(Label<'_>),
) -> Result<(), Unfit> {
    for row in 0..column.len() {
        if column.is_null(row) {
            visit(Label::None);
            continue;
        }
        let items = items(row);
        match items.len() {
            0 => visit(Label::None),
            1 => each(&items, visit).map_err(|(_, what)| (row, worded(what)))?,
            n => return Err((row, format!("a list of {n} values"))),
        }
    }
    Ok(())
}

/// A whole number as a label; NaN is none.
fn whole(value: f64) -> Option<Label<'static>> {
    match value {
        v if v.is_nan() => Some(Label::None),
        v if v.fract() != 0.0 => None,
        v if v.abs() > i32::MAX as f64 => Some(Label::Number(TOO_LARGE)),
        v => Some(Label::Number(v as i32)),
    }
}

/// The labels of all rows of a split and its classes' names.
#[derive(Debug)]
pub(super) struct Classes {
    pub labels: Vec<i32>,
    pub names: Vec<String>,
    /// How what is no number became one: "cat = 0, dog = 1".
    pub mapping: Option<String>,
}

/// Puts the labels of a split's files together. `names` are the classes' names, if the files give them; `file` names a
/// file and `row` a row of all, for errors.
pub(super) fn classes(
    files: Vec<Labels>,
    names: Option<Vec<String>>,
    file: impl Fn(usize) -> String,
    row: impl Fn(usize) -> String,
) -> Result<Classes> {
    let kinds: Vec<(usize, Kind)> = files.iter().enumerate().filter_map(|(i, f)| Some((i, f.kind?))).collect();
    if let Some(other) = kinds.iter().find(|(_, kind)| *kind != kinds[0].1) {
        bail_hint!(
            "the labels are {} in {}, but {} in {}", kinds[0].1.words(), file(kinds[0].0), other.1.words(), file(other.0);
            "the files of a split must agree; write the labels anew, in one type"
        );
    }
    let mut labels: Vec<i32> = Vec::with_capacity(files.iter().map(Labels::len).sum());
    match kinds.first() {
        Some((_, Kind::Texts)) => {
            let names = sorted(files.iter().flat_map(|f| f.texts.iter().cloned()).collect());
            let place_of: HashMap<&String, i32> = names.iter().zip(0..).collect();
            for one in &files {
                let place: Vec<i32> = one.texts.iter().map(|text| place_of[text]).collect();
                labels.extend(one.rows.iter().map(|i| if *i == NONE { NONE } else { place[*i as usize] }));
            }
            let mapping = Some(mapping(&names));
            Ok(Classes { labels, names, mapping })
        }
        kind => {
            files.into_iter().for_each(|f| labels.extend(f.rows));
            let truth = matches!(kind, Some((_, Kind::Truth)));
            let names = names.or_else(|| truth.then(|| vec!["False".to_string(), "True".to_string()]));
            let names = class_names(&labels, names, row)?;
            Ok(Classes { labels, names, mapping: truth.then(|| "False = 0, True = 1".to_string()) })
        }
    }
}

/// "cat = 0, dog = 1"
pub(super) fn mapping(names: &[String]) -> String {
    paths::some(&names.iter().enumerate().map(|(i, name)| format!("{name} = {i}")).collect::<Vec<_>>())
}

/// Sorts the names of classes and drops repetitions.
pub(super) fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names.dedup();
    sort_classes(&mut names, |name| name.as_bytes());
    names
}

/// The classes' names: those given, against which every label is checked, else "0" … the highest label.
fn class_names(labels: &[i32], names: Option<Vec<String>>, name_row: impl Fn(usize) -> String) -> Result<Vec<String>> {
    let limit = names.as_ref().map_or(i32::MAX as usize, Vec::len);
    if let Some(row) = labels.iter().position(|l| *l < NONE || *l >= 0 && *l as usize >= limit) {
        let label = match labels[row] {
            TOO_LARGE => "a label beyond 32 bits".to_string(),
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
    let highest = labels.iter().copied().max().unwrap_or(NONE);
    // Every class costs memory, and a label of a billion is surely wrong.
    if names.is_none() && highest >= 10_000_000 {
        let row = labels.iter().position(|l| *l == highest).unwrap_or(0);
        bail!("{} has the label {highest}, which is too high for a class", name_row(row));
    }
    Ok(names.unwrap_or_else(|| (0..=highest).map(|i| i.to_string()).collect()))
}

/// The label in a text file of its own: a whole number, also written as 3.0 or "3".
pub(super) fn in_text(text: &[u8]) -> Result<i32, String> {
    let text = String::from_utf8_lossy(without_mark(text)).trim().to_string();
    in_word(text.trim_matches('"').trim()).ok_or(text)
}

fn in_word(word: &str) -> Option<i32> {
    let number = word.trim().parse::<f64>().ok()?;
    match whole(number)? {
        Label::Number(n) if n != TOO_LARGE => Some(n),
        _ => None,
    }
}

/// The class in a sample's JSON: a label, or the name of a class, or both.
#[derive(Debug, Default, PartialEq)]
pub(super) struct JsonClass {
    pub label: Option<i32>,
    pub name: Option<String>,
}

/// Keys of a sample's JSON that hold a label; a text there that is no number names the class.
const LABEL_KEYS: [&str; 4] = ["label", "cls", "class", "class_id"];
/// Keys that name the class.
const NAME_KEYS: [&str; 5] = ["class_name", "classname", "label_name", "wnid", "synset"];

/// The class in a sample's JSON: 3, 3.0, "3", true and a list of one of them are labels. An error says which value is
/// none, in words.
pub(super) fn in_json(value: &Value) -> Result<JsonClass, String> {
    let text = |key: &&str| value[*key].as_str().map(str::to_string);
    let mut found = JsonClass { label: None, name: NAME_KEYS.iter().find_map(text) };
    let mut is_without = false;
    for key in LABEL_KEYS {
        let Some(mut held) = value.get(key) else { continue };
        if let Some([only]) = held.as_array().map(Vec::as_slice) {
            held = only;
        }
        let label = match held {
            Value::Array(items) if !items.is_empty() => None,
            Value::Null | Value::Array(_) => {
                is_without = true;
                continue;
            }
            Value::Bool(truth) => Some(i32::from(*truth)),
            Value::Number(n) => match n.as_f64().and_then(whole) {
                Some(Label::Number(n)) if n != TOO_LARGE => Some(n),
                _ => None,
            },
            Value::String(word) => match in_word(word) {
                None => {
                    found.name.get_or_insert_with(|| word.clone());
                    continue;
                }
                label => label,
            },
            _ => None,
        };
        match label {
            None => {
                let shown: String = value[key].to_string().chars().take(40).collect();
                return Err(format!("\"{key}\" holds {shown}"));
            }
            // Of several labels, the first key's.
            label => found.label = found.label.or(label),
        }
    }
    // An image that is said to have no label has none by intention.
    if is_without && found == JsonClass::default() {
        found.label = Some(NONE);
    }
    Ok(found)
}

/// A text without the byte order mark that editors on Windows put before it.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
