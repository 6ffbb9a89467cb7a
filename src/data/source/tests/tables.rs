//! Parquet shards and `datasets` folders.

use super::*;
use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use arrow_array::builder::{BinaryBuilder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// Rows with the image `noise(i)`: every seventh has none but a path, every fifth no label.
pub(super) fn batch(rows: std::ops::Range<usize>) -> RecordBatch {
    let (mut bytes, mut paths, mut labels) = (BinaryBuilder::new(), StringBuilder::new(), Int64Builder::new());
    for i in rows {
        if i % 7 == 6 {
            bytes.append_null()
        } else {
            bytes.append_value(noise(i))
        }
        paths.append_value(format!("x/{i}.jpg"));
        labels.append_option((i % 5 != 4).then_some(i as i64 % 3));
    }
    let (bytes, paths): (ArrayRef, ArrayRef) = (Arc::new(bytes.finish()), Arc::new(paths.finish()));
    let image = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]);
    let image: ArrayRef = Arc::new(image);
    RecordBatch::try_from_iter_with_nullable([("image", image, true), ("label", Arc::new(labels.finish()) as _, true)])
        .unwrap()
}

fn features(names: &str) -> String {
    format!(r#"{{"image": {{"_type": "Image"}}, "label": {{"_type": "ClassLabel", "names": {names}}}}}"#)
}

const NAMES: &str = r#"["a", "b", "c"]"#;

fn with_features(batch: RecordBatch, names: &str) -> RecordBatch {
    let metadata = format!(r#"{{"info": {{"features": {}}}}}"#, features(names));
    let schema = batch
        .schema()
        .as_ref()
        .clone()
        .with_metadata(std::collections::HashMap::from([("huggingface".to_string(), metadata)]));
    RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).unwrap()
}

pub(super) fn parquet(batch: &RecordBatch, props: WriterProperties) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(props)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    out
}

pub(super) fn plain(batch: &RecordBatch) -> Vec<u8> {
    parquet(batch, WriterProperties::default())
}

pub(super) fn arrow(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

/// Rows 0..n as `batch` makes them; the images of those without bytes are files in `beside`.
fn is_as_made(source: &dyn Source, n: usize) {
    assert_eq!(source.len(), n);
    assert_eq!(labels(source), (0..n as i64).map(|i| if i % 5 == 4 { -1 } else { i % 3 }).collect::<Vec<_>>());
    for i in (0..n).rev() {
        let expected = if i % 7 == 6 { b"beside".to_vec() } else { noise(i) };
        assert!(bytes(source, i) == expected, "item {i}");
    }
}

fn lay_beside(dir: &Dir, at: &str, n: usize) {
    (0..n).filter(|i| i % 7 == 6).for_each(|i| dir.write(&format!("{at}/x/{i}.jpg"), "beside"));
}

#[test]
fn parquet_of_every_packing_is_read_and_the_usual_ones_image_by_image() {
    let dir = Dir::new();
    lay_beside(&dir, "d", 300);
    let rows = batch(0..300);
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::BROTLI(BrotliLevel::default()),
        Compression::GZIP(GzipLevel::default()),
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for (dictionary, page) in [(true, 1 << 20), (true, 5000), (false, 1 << 20), (false, 5000)] {
                let props = WriterProperties::builder()
                    .set_compression(compression)
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary)
                    .set_data_page_size_limit(page)
                    .set_dictionary_page_size_limit(page.max(100_000))
                    .set_write_batch_size(10)
                    .set_max_row_group_row_count(Some(120))
                    .build();
                dir.write("d/train-0.parquet", parquet(&rows, props));
                let source = Parquet::open(&dir.text("d"), None, &OpenOptions::default()).unwrap();
                is_as_made(&source, 300);
                let usual = matches!(compression, Compression::UNCOMPRESSED | Compression::SNAPPY);
                // Without a dictionary, the second version stores lengths and bytes apart.
                let plain = dictionary || version == WriterVersion::PARQUET_1_0;
                if usual && plain && page > 5000 {
                    assert!(source.is_located(0) && source.is_located(299), "{compression:?} {version:?} {dictionary}");
                }
                if !usual {
                    assert!(!source.is_located(0));
                }
            }
        }
    }
}

#[test]
fn parquet_class_names_splits_and_rows_of_several_shards() {
    let dir = Dir::new();
    lay_beside(&dir, "d", 50);
    dir.write("d/train-00000-of-00002.parquet", plain(&with_features(batch(0..30), NAMES)));
    dir.write("d/train-00001-of-00002.parquet", plain(&with_features(batch(30..50), NAMES)));
    dir.write("d/test-00000-of-00001.parquet", plain(&batch(0..3)));
    let source = Parquet::open(&dir.text("d"), Some("train"), &OpenOptions::default()).unwrap();
    is_as_made(&source, 50);
    assert_eq!(source.class_names(), ["a", "b", "c"]);
    assert_eq!(source.name(31), "train/00000031/31.jpg");
    let test = Parquet::open(&dir.text("d"), Some("test"), &OpenOptions::default()).unwrap();
    assert_eq!(test.class_names(), ["0", "1", "2"]);
    // A clone of a Hub repository.
    dir.write("hub/data/train-00000-of-00001.parquet", plain(&batch(0..3)));
    dir.write("hub/README.md", "");
    assert_eq!(open(&dir.text("hub"), None).unwrap().len(), 3);
    let many: Vec<usize> = (0..50).collect();
    use rayon::prelude::*;
    many.par_iter()
        .for_each(|i| assert!(bytes(&source, *i) == if i % 7 == 6 { b"beside".to_vec() } else { noise(*i) }));
}

#[test]
fn positions_of_images_are_kept_until_the_shard_changes() {
    let dir = Dir::new();
    let write = |rows: std::ops::Range<usize>| {
        lay_beside(&dir, "d", 50);
        let props = WriterProperties::builder().set_compression(Compression::SNAPPY);
        let props = props.set_max_row_group_row_count(Some(20)).build();
        dir.write("d/train-0.parquet", parquet(&batch(rows), props));
        dir.settle("d");
    };
    write(0..50);
    let open = || Parquet::open(&dir.text("d"), None, &OpenOptions::default()).unwrap();
    open().read(0).unwrap();
    assert!(dir.kept().is_empty(), "two of three row groups were not read");
    is_as_made(&open(), 50);
    let [kept] = &dir.kept()[..] else { panic!("one listing") };
    let whole = std::fs::read(kept).unwrap();
    is_as_made(&open(), 50);
    assert!(open().is_kept(0) && open().is_kept(49));
    std::fs::write(kept, &whole[..whole.len() / 2]).unwrap();
    assert!(!open().is_kept(0));
    is_as_made(&open(), 50);
    assert!(std::fs::read(kept).unwrap() == whole);
    write(0..45);
    assert!(!open().is_kept(0));
    is_as_made(&open(), 45);
}

#[test]
fn each_column_of_images_has_positions_of_its_own() {
    let dir = Dir::new();
    let column = |from: usize| -> ArrayRef { Arc::new(BinaryArray::from_iter_values((from..from + 3).map(noise))) };
    let two = RecordBatch::try_from_iter([("image", column(0)), ("other", column(50))]).unwrap();
    let props = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    dir.write("d/train-0.parquet", parquet(&two, props));
    dir.settle("d");
    for (name, from) in [("image", 0), ("other", 50), ("image", 0), ("other", 50)] {
        let options = OpenOptions { image: Some(name.into()), ..OpenOptions::default() };
        let source = Parquet::open(&dir.text("d"), None, &options).unwrap();
        let read: Vec<Vec<u8>> = (0..3).map(|i| bytes(&source, i)).collect();
        assert!(read == (from..from + 3).map(noise).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(dir.kept().len(), 2);
}

#[test]
fn parquet_that_is_cut_empty_or_of_another_schema_is_reported() {
    let dir = Dir::new();
    let whole = plain(&batch(0..30));
    for cut in [5, whole.len() / 2, whole.len() - 1] {
        dir.write("train-0.parquet", &whole[..cut]);
        complains(
            open(&dir.text("train-0.parquet"), None),
            &["train-0.parquet is cut short or damaged", &format!("{cut} bytes"), "PAR1"],
        );
    }
    dir.write("train-0.parquet", "");
    complains(open(&dir.text("train-0.parquet"), None), &["train-0.parquet is empty (0 bytes)"]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let other = RecordBatch::try_from_iter([("text", text), ("n", Arc::new(Int64Array::from(vec![1])) as _)]).unwrap();
    dir.write("train-0.parquet", plain(&other));
    complains(
        open(&dir.text("train-0.parquet"), None),
        &["train-0.parquet has no column of images", "text (utf8), n (int64)", "expected `image` (struct of bytes"],
    );
    dir.write("train-0.parquet", plain(&with_features(batch(0..30), r#"["a", "b"]"#)));
    complains(
        open(&dir.text("train-0.parquet"), None),
        &["train-0.parquet: row 2 ", "has the label 2", "0..=1 for the 2 classes"],
    );
    // Damage inside is reported when it is reached.
    let mut wrong = plain(&batch(0..5));
    wrong[10..400].fill(0xff);
    dir.write("train-0.parquet", wrong);
    if let Ok(source) = open(&dir.text("train-0.parquet"), None) {
        let _ = source.read(0).map(|_| ());
    }
}

/// A `datasets` folder of two files.
fn saved(dir: &Dir, at: &str, names: &str, files: &[Vec<RecordBatch>]) {
    for (i, batches) in files.iter().enumerate() {
        dir.write(&format!("{at}/data-{i}.arrow"), arrow(batches));
    }
    let list: Vec<_> = (0..files.len()).map(|i| format!(r#"{{"filename": "data-{i}.arrow"}}"#)).collect();
    dir.write(&format!("{at}/state.json"), format!(r#"{{"_data_files": [{}]}}"#, list.join(",")));
    dir.write(&format!("{at}/dataset_info.json"), format!(r#"{{"features": {}}}"#, features(names)));
}

#[test]
fn saved_datasets_are_read_in_the_order_of_their_state() {
    let dir = Dir::new();
    lay_beside(&dir, "d/train", 50);
    saved(&dir, "d/train", NAMES, &[vec![batch(0..10), batch(10..11)], vec![batch(11..50)]]);
    saved(&dir, "d/test", NAMES, &[vec![batch(0..3)]]);
    dir.write("d/dataset_dict.json", r#"{"splits": ["test", "train"]}"#);
    let path = dir.text("d");
    assert_eq!(splits(&path).unwrap(), ["train", "test"]);
    let source = open(&path, Some("train")).unwrap();
    is_as_made(&*source, 50);
    assert_eq!((source.class_names(), source.split()), (&strings(&["a", "b", "c"])[..], Some("train")));
    assert_eq!(source.name(12), "train/00000012/12.jpg");
    assert!(matches!(source.read(0).unwrap(), StoredImage::Encoded(std::borrow::Cow::Borrowed(_))), "not copied");
    assert_eq!(open(&dir.text("d/train"), None).unwrap().len(), 50);
    complains(open(&dir.text("d/train"), Some("test")), &["has no splits"]);
    dir.remove("d/train/x/6.jpg");
    complains(source.read(6), &["x/6.jpg", "cannot read"]);
}

#[test]
fn columns_of_other_kinds_are_found_by_name() {
    let dir = Dir::new();
    let images: ArrayRef = Arc::new(arrow_array::LargeBinaryArray::from(vec![&b"one"[..], b"two"]));
    let labels_: ArrayRef = Arc::new(arrow_array::UInt8Array::from(vec![1, 0]));
    let rows = RecordBatch::try_from_iter([("id", labels_.clone()), ("img", images), ("labels", labels_)]).unwrap();
    dir.write("train.parquet", plain(&rows));
    dir.write("d/data.arrow", arrow(&[rows]));
    dir.write("d/state.json", r#"{"_data_files": [{"filename": "data.arrow"}]}"#);
    dir.write("d/dataset_info.json", "{}");
    for path in ["train.parquet", "d"] {
        let source = open(&dir.text(path), None).unwrap();
        assert_eq!((labels(&*source), bytes(&*source, 1)), (vec![1, 0], b"two".to_vec()));
        assert_eq!(source.class_names(), ["0", "1"]);
    }
}

#[test]
fn saved_datasets_that_are_cut_empty_or_wrong_are_reported() {
    let dir = Dir::new();
    let path = dir.text("d");
    saved(&dir, "d", r#"["a", "b"]"#, &[vec![batch(0..2)], vec![batch(2..30)]]);
    complains(open(&path, None), &["data-1.arrow: row 0 (row 2 of all) has the label 2", "0..=1 for the 2 classes"]);
    saved(&dir, "d", NAMES, &[vec![batch(0..10), batch(10..20)]]);
    let whole = std::fs::read(dir.path("d/data-0.arrow")).unwrap();
    for cut in [3, 100, whole.len() / 2, whole.len() - 8, whole.len() - 1] {
        dir.write("d/data-0.arrow", &whole[..cut]);
        complains(open(&path, None), &["data-0.arrow is cut short or damaged after row", &format!("{cut} bytes")]);
    }
    dir.write("d/data-0.arrow", "");
    complains(open(&path, None), &["data-0.arrow is empty (0 bytes)"]);
    dir.remove("d/data-0.arrow");
    complains(open(&path, None), &["data-0.arrow does not exist"]);
    let other = RecordBatch::try_from_iter([("text", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    saved(&dir, "d", NAMES, &[vec![other]]);
    complains(open(&path, None), &["data-0.arrow has no column of images", "text (utf8)"]);
    dir.write("d/state.json", "{");
    complains(open(&path, None), &["state.json is not valid JSON"]);
    dir.write("d/state.json", r#"{"_data_files": []}"#);
    complains(open(&path, None), &["state.json names no data files"]);
    dir.write("d/state.json", r#"{"_data_files": [{"filename": "x"}], "_indices_data_files": [{"filename": "y"}]}"#);
    complains(open(&path, None), &["selection of rows", "flatten_indices"]);
    complains(HfDisk::open(&dir.path("e"), None, &OpenOptions::default()), &["e does not exist"]);
}

/// Nothing is left behind by schemas without metadata.
#[test]
fn the_label_column_may_be_missing() {
    let dir = Dir::new();
    let rows = batch(0..3);
    let schema = Arc::new(Schema::new(vec![rows.schema().field(0).clone()]));
    dir.write("train.parquet", plain(&RecordBatch::try_new(schema, vec![rows.column(0).clone()]).unwrap()));
    let source = open(&dir.text("train.parquet"), None).unwrap();
    assert_eq!((labels(&*source), source.class_names().len()), (vec![-1; 3], 0));
    complains(per_class(&source, 1, 0), &["has no classes"]);
}
