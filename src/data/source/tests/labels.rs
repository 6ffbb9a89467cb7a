//! Label columns of every type, and labels in JSON and text. The numbers that texts get are those of
//! `class_encode_column` of `datasets`, but for numbers, which are sorted as such.

use super::shards::tar;
use super::tables::{arrow, plain};
use super::*;
use arrow_array::builder::{Int64Builder, ListBuilder};
use arrow_array::types::{Int8Type, Int32Type};
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, DictionaryArray, Float16Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, LargeBinaryArray, LargeStringArray, NullArray, RecordBatch, StringArray,
    StringViewArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use std::sync::Arc;

/// Rows of images with further columns.
fn rows(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    let n = columns[0].1.len();
    let images: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values((0..n).map(noise)));
    let columns = columns.iter().cloned().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable([("image", images, true)].into_iter().chain(columns)).unwrap()
}

/// The labels and classes of a label column, which a parquet file and a `datasets` folder must give alike.
#[track_caller]
fn read(column: ArrayRef) -> (Vec<i64>, Vec<String>, Vec<String>) {
    let dir = Dir::new();
    let batch = rows(&[("label", column)]);
    dir.write("p/train.parquet", plain(&batch));
    dir.write("d/data.arrow", arrow(&[batch]));
    dir.write("d/state.json", "\u{feff}{\"_data_files\": [{\"filename\": \"data.arrow\"}]}");
    dir.write("d/dataset_info.json", "{}");
    let mut found = ["p", "d"].map(|path| {
        let source = open(&dir.text(path), None).unwrap();
        let said = printed().join("\n").replace(&dir.text(path), "PATH").replace("data.arrow", "train.parquet");
        (labels(&*source), source.class_names().to_vec(), said.lines().map(str::to_string).collect::<Vec<_>>())
    });
    assert_eq!(found[0], found[1]);
    std::mem::take(&mut found[0])
}

#[test]
fn numbers_of_every_type_are_labels() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int8Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(Int16Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(Int32Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(Int64Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(UInt8Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(UInt16Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(UInt32Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(UInt64Array::from(vec![Some(2), None, Some(0)])),
        Arc::new(Float32Array::from(vec![Some(2.0), None, Some(0.0)])),
        // What pandas makes of whole numbers with gaps.
        Arc::new(Float64Array::from(vec![2.0, f64::NAN, -0.0])),
    ];
    for column in columns {
        let kind = column.data_type().clone();
        let expected = (vec![2, -1, 0], strings(&["0", "1", "2"]), vec![]);
        assert_eq!(read(column), expected, "{kind}");
    }
    // 2.0 and 0.0 as halves.
    let halves = arrow_buffer::Buffer::from_slice_ref([0x4000u16, 0]);
    let halves = Float16Array::new(arrow_buffer::ScalarBuffer::new(halves, 0, 2), None);
    assert_eq!(read(Arc::new(halves)).0, [2, 0]);
    let mut list = ListBuilder::new(Int64Builder::new());
    for item in [Some(3), None, Some(1)] {
        list.values().append_option(item);
        list.append(true);
    }
    list.append(true);
    list.append_null();
    assert_eq!(read(Arc::new(list.finish())).0, [3, -1, 1, -1, -1]);
}

#[test]
fn texts_truth_values_and_categories_are_classes() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![Some("dog"), Some("Cat"), None, Some("dog"), Some("ant")])),
        Arc::new(LargeStringArray::from(vec![Some("dog"), Some("Cat"), None, Some("dog"), Some("ant")])),
        Arc::new(StringViewArray::from(vec![Some("dog"), Some("Cat"), None, Some("dog"), Some("ant")])),
        // Categories in the order of their first use, as pyarrow writes them.
        Arc::new(DictionaryArray::<Int8Type>::from_iter([Some("dog"), Some("Cat"), None, Some("dog"), Some("ant")])),
    ];
    for column in columns {
        let kind = column.data_type().clone();
        let (labels, names, said) = read(column);
        assert_eq!((labels, names), (vec![2, 0, -1, 2, 1], strings(&["Cat", "ant", "dog"])), "{kind}");
        assert!(said[0].starts_with("PATH: labels of the column label ("), "{said:?}");
        assert!(said[0].ends_with("): Cat = 0, ant = 1, dog = 2"), "{said:?}");
    }
    let truth = read(Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])));
    assert_eq!((truth.0, truth.1), (vec![1, 0, -1], strings(&["False", "True"])));
    assert_eq!(truth.2, ["PATH: labels of the column label (boolean): False = 0, True = 1"]);
    let only_true = read(Arc::new(BooleanArray::from(vec![true, true])));
    assert_eq!((only_true.0, only_true.1), (vec![1, 1], strings(&["False", "True"])));
    let codes = Int8Array::from(vec![Some(1), Some(0), None, Some(1)]);
    let numbers = DictionaryArray::<Int8Type>::new(codes, Arc::new(Int64Array::from(vec![7, 4])));
    assert_eq!(read(Arc::new(numbers)).0, [4, 7, -1, 4]);
    let empty =
        DictionaryArray::<Int8Type>::new(Int8Array::from(vec![None; 2]), Arc::new(StringArray::from(vec![""; 0])));
    assert_eq!(read(Arc::new(empty)).0, [-1, -1]);
    assert_eq!(read(Arc::new(NullArray::new(2))).0, [-1, -1]);
}

#[test]
fn texts_that_are_numbers_are_sorted_as_numbers() {
    let (labels, names, _) = read(Arc::new(StringArray::from(vec!["10", "9", "0", "2", "100"])));
    assert_eq!((labels, names), (vec![3, 2, 0, 1, 4], strings(&["0", "2", "9", "10", "100"])));
    let (labels, names, _) = read(Arc::new(StringArray::from(vec!["10", "9", "x"])));
    assert_eq!((labels, names), (vec![0, 1, 2], strings(&["10", "9", "x"])));
}

#[test]
fn columns_that_hold_no_classes_are_named_with_their_type() {
    let one_hot: ArrayRef = Arc::new(arrow_array::ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(0), Some(1)]),
        Some(vec![Some(1), Some(0)]),
    ]));
    let cases: [(ArrayRef, &str); 3] = [
        (
            Arc::new(Float64Array::from(vec![1.0, 0.25])),
            "in the column label (float64) of PATH/train.parquet, row 1 holds 0.25",
        ),
        (one_hot, "in the column label (list of int32) of PATH/train.parquet, row 0 holds a list of 2 values"),
        (Arc::new(LargeBinaryArray::from(vec![&b"x"[..]])), "label (largebinary) is no type of labels"),
    ];
    for (column, words) in cases {
        let (labels, names, said) = read(column);
        assert!(labels.iter().all(|l| *l == -1) && names.is_empty(), "{labels:?} {names:?}");
        assert!(said[0].starts_with("PATH: no labels are read: ") && said[0].contains(words), "{said:?}");
    }
    let dir = Dir::new();
    dir.write("p/train.parquet", plain(&rows(&[("label", Arc::new(Float32Array::from(vec![0.5])))])));
    let source = open(&dir.text("p"), None).unwrap();
    assert!(
        source.describe().ends_with("(Parquet, train, labels of label (float32) not read)"),
        "{}",
        source.describe()
    );
    // A table of images alone has nothing to say; one with other columns names them.
    dir.write("p/train.parquet", plain(&rows(&[("species", Arc::new(StringArray::from(vec!["owl"])))])));
    printed();
    open(&dir.text("p"), None).unwrap();
    let said = printed();
    assert!(said[0].contains("none of its columns has a usual name") && said[0].contains("species (utf8)"), "{said:?}");
    let named = OpenOptions { label: Some("species".into()), ..OpenOptions::default() };
    assert_eq!(open_with(&dir.text("p"), None, &named).unwrap().class_names(), ["owl"]);
}

#[test]
fn one_of_several_label_columns_is_taken_with_a_word_or_by_name() {
    let dir = Dir::new();
    let number = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let text: ArrayRef = Arc::new(StringArray::from(vec!["owl", "ant"]));
    dir.write("p/train.parquet", plain(&rows(&[("label", text), ("label_id", number(vec![1, 0]))])));
    let source = open(&dir.text("p"), None).unwrap();
    assert_eq!((labels(&*source), source.class_names()), (vec![1, 0], &strings(&["0", "1"])[..]));
    let said = printed();
    assert!(said[0].contains("labels are read from label_id (int64), not from label (utf8)"), "{said:?}");
    let named = |label: &str| OpenOptions { label: Some(label.into()), ..OpenOptions::default() };
    assert_eq!(open_with(&dir.text("p"), None, &named("label")).unwrap().class_names(), ["ant", "owl"]);
    complains(open_with(&dir.text("p"), None, &named("lable")), &["no column `lable`", "did you mean `label`?"]);
    complains(open_with(&dir.text("p"), None, &named("image")), &["the option label names the column image", "binary"]);

    let batch = rows(&[("coarse", number(vec![0, 1])), ("fine", number(vec![1, 0]))]);
    let features = r#"{"coarse": {"_type": "ClassLabel", "names": ["a", "b"]}, "fine": {"_type": "ClassLabel", "names": ["x", "y"]}}"#;
    dir.write("d/data.arrow", arrow(&[batch]));
    dir.write("d/state.json", r#"{"_data_files": [{"filename": "data.arrow"}]}"#);
    dir.write("d/dataset_info.json", format!(r#"{{"features": {features}}}"#));
    let several = ["data.arrow has several columns of labels: coarse, fine", "#{ label: \"coarse\" }"];
    complains(open(&dir.text("d"), None), &several);
    assert_eq!(open_with(&dir.text("d"), None, &named("fine")).unwrap().class_names(), ["x", "y"]);
    dir.write("f/a/1.png", "");
    complains(open_with(&dir.text("f"), None, &named("fine")), &["(image folder) has no columns"]);
}

#[test]
fn a_table_with_several_columns_of_images_or_labels_is_one_beside_other_things_too() {
    let dir = Dir::new();
    let image = |seed: usize| -> ArrayRef { Arc::new(LargeBinaryArray::from_iter_values([noise(seed)])) };
    let label: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let two = RecordBatch::try_from_iter([("front", image(1)), ("back", image(2)), ("label", label)]).unwrap();
    let features = r#"{"info":{"features":{"front":{"_type":"Image"},"back":{"_type":"Image"}}}}"#;
    let noted = [("huggingface".to_string(), features.to_string())];
    let schema = two.schema().as_ref().clone().with_metadata(std::collections::HashMap::from(noted));
    let table = plain(&two.with_schema(Arc::new(schema)).unwrap());
    dir.write("d/data/train-00000-of-00001.parquet", &table);
    dir.write("d/assets/picture.png", "x");
    dir.write("sets/a/train.parquet", &table);
    dir.write("sets/b/train.parquet", &table);
    let several = &["has several columns of images: ", "#{ image: \""];
    complains(open(&dir.text("d"), None), several);
    let back = OpenOptions { image: Some("back".into()), ..OpenOptions::default() };
    assert!(bytes(&*open_with(&dir.text("d"), None, &back).unwrap(), 0) == noise(2));
    complains(open(&dir.text("sets"), None), &["holds 2 data sets of .parquet files, in: a, b"]);
}

#[test]
fn files_of_a_split_must_agree_on_their_labels() {
    let dir = Dir::new();
    let text = |texts: &[&str]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    dir.write("p/train-00000-of-00002.parquet", plain(&rows(&[("label", text(&["owl", "bee"]))])));
    dir.write("p/train-00001-of-00002.parquet", plain(&rows(&[("label", text(&["ant", "bee"]))])));
    let source = open(&dir.text("p"), None).unwrap();
    assert_eq!((labels(&*source), source.class_names()), (vec![2, 1, 0, 1], &strings(&["ant", "bee", "owl"])[..]));
    let number: ArrayRef = Arc::new(Int64Array::from(vec![0]));
    dir.write("p/train-00001-of-00002.parquet", plain(&rows(&[("label", number.clone())])));
    complains(
        open(&dir.text("p"), None),
        &["labels are texts in", "00000-of-00002.parquet, but numbers in", "00001-of"],
    );
    dir.write("p/train-00001-of-00002.parquet", plain(&rows(&[("labels", text(&["ant"]))])));
    complains(open(&dir.text("p"), None), &["00001-of-00002.parquet has another label column than"]);
    dir.write("p/train-00001-of-00002.parquet", plain(&rows(&[("id", number)])));
    printed();
    assert_eq!(labels(&*open(&dir.text("p"), None).unwrap()), [1, 0, -1]);
    assert!(printed().iter().any(|line| line.contains("00001-of-00002.parquet has no column label")));
}

#[test]
fn labels_in_json_and_text() {
    let dir = Dir::new();
    let web = |samples: &[(&str, &str)]| -> Vec<(i64, String)> {
        let files: Vec<(String, &[u8])> = samples
            .iter()
            .enumerate()
            .flat_map(|(i, (kind, text))| {
                [(format!("{i:03}.jpg"), &b"x"[..]), (format!("{i:03}.{kind}"), text.as_bytes())]
            })
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&name[..], *bytes)).collect();
        dir.write("w/0.tar", tar(&files));
        let source = open(&dir.text("w"), None).unwrap();
        let name = |label: i64| usize::try_from(label).map_or(String::new(), |i| source.class_names()[i].clone());
        labels(&*source).into_iter().map(|label| (label, name(label))).collect()
    };
    let same =
        [r#"{"label": 3}"#, r#"{"label": 3.0}"#, r#"{"label": "3"}"#, r#"{"label": [3]}"#, "\u{feff}{\"cls\": 3}"];
    for json in same {
        assert_eq!(web(&[("json", json)]), [(3, "3".to_string())], "{json}");
    }
    for text in ["3", " 3\n", "3.0", "\"3\"", "\u{feff}3\r\n"] {
        assert_eq!(web(&[("cls", text)]), [(3, "3".to_string())], "{text:?}");
    }
    assert_eq!(
        web(&[("json", r#"{"label": true}"#), ("json", r#"{"label": null}"#)])[..],
        [(1, "1".into()), (-1, "".into())]
    );
    // Names of classes, sorted; numbers as numbers.
    let words = [("json", r#"{"wnid": "10"}"#), ("json", r#"{"wnid": "9"}"#), ("json", r#"{"wnid": "-1"}"#)];
    assert_eq!(web(&words), [(2, "10".to_string()), (1, "9".to_string()), (0, "-1".to_string())]);
    printed();
    assert_eq!(web(&[("json", r#"{"label": ["owl"]}"#), ("json", r#"{"class": "ant"}"#)])[0], (1, "owl".to_string()));
    assert!(printed()[0].ends_with("labels of the names in the samples' JSON: ant = 0, owl = 1"));
    for (json, words) in [(r#"{"label": 3.5}"#, "3.5"), (r#"{"label": [1, 2]}"#, "[1,2]"), (r#"{"label": {}}"#, "{}")] {
        printed();
        assert_eq!(web(&[("json", json), ("json", r#"{"label": 1}"#)])[1].0, -1);
        let said = printed();
        let line = format!("0.tar, 000.json \"label\" holds {words}, where a whole number");
        assert!(said[0].contains("no labels are read: in ") && said[0].contains(&line), "{said:?}");
        assert!(!said.iter().any(|line| line.contains("labels of the names")), "{said:?}");
    }
    assert_eq!(web(&[("json", r#"{"label": 1, "class_name": "owl"}"#), ("json", r#"{"class_name": "owl"}"#)])[1].0, 1);
}
