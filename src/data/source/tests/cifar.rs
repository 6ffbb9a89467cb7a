//! CIFAR-10 and CIFAR-100 as they are distributed, on the tiny copies of `tests/fixtures/cifar`.

use super::*;
use crate::data::image::Image;
use crate::pickle::Dictionary;

const BINARY: [&str; 2] = ["cifar-10-batches-bin", "cifar-100-binary"];
const PYTHON: [&str; 2] = ["cifar-10-batches-py", "cifar-100-python"];

fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures/cifar").join(name)
}

/// A copy of one of the folders, as `d`.
fn copy(dir: &Dir, folder: &str) {
    for name in paths::entries(&fixture(folder)) {
        dir.write(&format!("d/{name}"), std::fs::read(fixture(folder).join(&name)).unwrap());
    }
}

fn pixels(source: &dyn Source, index: usize) -> Image {
    match source.read(index).unwrap() {
        StoredImage::Pixels(image) => image,
        StoredImage::Encoded(_) => panic!("encoded"),
    }
}

/// Image n as make.py there says.
fn expected(n: usize) -> Image {
    let value = |i: usize| {
        let (c, x, y) = (i % 3, i / 3 % 32, i / 96);
        ((7 * n + 85 * c + 3 * y + 5 * x + y * x / 4) % 256) as u8
    };
    Image::new(32, 32, 3, (0..3072).map(value).collect())
}

#[test]
fn both_versions_hold_the_images_that_they_were_made_of() {
    let ten = "airplane automobile bird cat deer dog frog horse ship truck";
    let hundred = "apple aquarium_fish baby bear beaver";
    for (set, train, names_of, label) in
        [(0, 15, ten, (|n: i64| 3 * n % 10) as fn(i64) -> i64), (1, 3, hundred, |n| n % 5)]
    {
        for split in ["train", "test"] {
            let sources = [BINARY[set], PYTHON[set]]
                .map(|folder| open(&fixture(folder).display().to_string(), Some(split)).unwrap());
            let (first, count) = if split == "train" { (0, train) } else { (train, 3) };
            for source in &sources {
                assert_eq!((source.len(), source.shape(), source.split()), (count, Some([3, 32, 32]), Some(split)));
                assert_eq!(source.class_names().join(" "), names_of);
                assert_eq!(source.name(2), format!("{split}/00000002"));
                for i in 0..count {
                    assert!(pixels(&**source, i) == expected(first + i), "{} {i}", source.describe());
                    assert_eq!(source.label(i), label((first + i) as i64), "{} {i}", source.describe());
                }
            }
            let [binary, python] = sources.map(|source| fingerprint(&*source).unwrap());
            assert_eq!(binary, python);
        }
    }
    assert_eq!(splits(&fixture(PYTHON[1]).display().to_string()).unwrap(), ["train", "test"]);
    let described = open(&fixture(BINARY[0]).display().to_string(), Some("test")).unwrap().describe();
    assert!(described.ends_with("cifar-10-batches-bin (CIFAR-10, binary version, test)"), "{described}");
}

#[test]
fn the_coarse_labels_of_cifar_100_are_an_option() {
    let wanted = |label: &str| OpenOptions { label: Some(label.into()), ..OpenOptions::default() };
    for folder in [BINARY[1], PYTHON[1]] {
        let path = fixture(folder).display().to_string();
        let coarse = open_with(&path, Some("test"), &wanted("coarse_label")).unwrap();
        assert_eq!(labels(&*coarse), [1, 0, 1]);
        assert_eq!(coarse.class_names(), strings(&["aquatic_mammals", "fish"]));
        assert!(coarse.describe().ends_with("test, coarse_label)"), "{}", coarse.describe());
        let fine = open_with(&path, Some("test"), &wanted("fine_label")).unwrap();
        assert_eq!(labels(&*fine), [3, 4, 0]);
        complains(open_with(&path, Some("test"), &wanted("corse_label")), &["no `corse_label`", "`coarse_label`"]);
        let image = OpenOptions { image: Some("data".into()), ..OpenOptions::default() };
        complains(open_with(&path, Some("test"), &image), &["has no columns"]);
    }
    let ten = fixture(PYTHON[0]).display().to_string();
    complains(open_with(&ten, Some("test"), &wanted("coarse_label")), &["no `coarse_label`", "one label"]);
}

#[test]
fn the_folder_that_it_was_unpacked_into_will_do() {
    let dir = Dir::new();
    for (folder, place) in [(PYTHON[0], "root/cifar-10-batches-py"), (BINARY[1], "root/cifar-100-binary")] {
        copy(&dir, folder);
        std::fs::create_dir_all(dir.path("root")).unwrap();
        std::fs::rename(dir.path("d"), dir.path(place)).unwrap();
        dir.write("root/cifar-10-python.tar.gz", "packed");
        match place.contains("100") {
            false => {
                printed();
                let source = open(&dir.text("root"), Some("train")).unwrap();
                assert_eq!(source.len(), 15);
                assert!(source.describe().contains("root/cifar-10-batches-py (CIFAR-10"), "{}", source.describe());
                assert_eq!(printed(), [format!("{}: passed over cifar-10-python.tar.gz", dir.text("root"))]);
            }
            true => complains(
                open(&dir.text("root"), Some("train")),
                &[
                    "read in 2 ways: as CIFAR-10, Python version (cifar-10-batches-py/), or as CIFAR-100, binary version",
                    "name one of them, for example",
                    "root/cifar-10-batches-py\"",
                ],
            ),
        }
    }
    // Others are called `train`, `test` and `meta`, too.
    dir.write("other/train.bin", "");
    complains(open(&dir.text("other"), Some("train")), &["no known layout", "CIFAR-100"]);
}

#[test]
fn what_python_3_writes_is_read_and_fortrans_order_respected() {
    let dir = Dir::new();
    copy(&dir, PYTHON[0]);
    dir.write("d/test_batch", std::fs::read(fixture("python3/test_batch")).unwrap());
    let source = open(&dir.text("d"), Some("test")).unwrap();
    for i in 0..3 {
        assert!(pixels(&*source, i) == expected(15 + i), "{i}");
    }
    assert_eq!(labels(&*source), [5, 8, 1]);
}

#[test]
fn incomplete_and_damaged_files_are_told() {
    for (folder, file) in BINARY.iter().chain(&PYTHON).zip(["test_batch.bin", "test.bin", "test_batch", "test"]) {
        let dir = Dir::new();
        copy(&dir, folder);
        let whole = std::fs::read(dir.path(&format!("d/{file}"))).unwrap();
        let is_binary = file.ends_with(".bin");
        let told = |content: Vec<u8>, pieces: &[&str]| {
            dir.write(&format!("d/{file}"), content);
            complains(open(&dir.text("d"), Some("test")), &[&[file], pieces].concat());
        };
        let cut = whole[..whole.len() - 1].to_vec();
        match is_binary {
            true => {
                told(cut, &["expected records of 307", "fetch the file again"]);
                told(Vec::new(), &["holds no images"]);
                let (row, at) = if folder.contains("100") { (3074, 1) } else { (3073, 0) };
                let mut wrong = whole.clone();
                wrong[2 * row + at] = 77;
                told(wrong, &["image 2 has the label 77, expected 0 to ", "names"]);
            }
            false => {
                told(cut, &["is no batch of CIFAR-10", "ends where 1 more bytes"]);
                told(b"\x80\x02}.".to_vec(), &["its dictionary has no `data`"]);
                told(b"\x80\x02]K\x01a.".to_vec(), &["holds a list, expected a dictionary"]);
                told(b"\x80\x02}U\x04dataK\x01s.".to_vec(), &["`data` is no array"]);
                told(b"\x80\x02cos\nsystem\nU\x02ls\x85R.".to_vec(), &["it holds os.system, which is not read"]);
                told(b"PK\x03\x04".to_vec(), &["is no batch of CIFAR"]);
                // The first label: the first small integer of the file.
                let at = whole.windows(2).position(|pair| pair == b"(K").unwrap() + 2;
                let mut wrong = whole.clone();
                wrong[at] = 77;
                match folder.contains("100") {
                    false => told(wrong, &["image 0 has the label 77, expected 0 to 9", "names 10 classes"]),
                    true => told(wrong, &["image 0 has the label 77, expected 0 to 4", "names 5 classes"]),
                }
            }
        }
        dir.write(&format!("d/{file}"), whole);
        dir.remove(&format!("d/{file}"));
        complains(open(&dir.text("d"), Some("test")), &["is incomplete", &format!("{file} is missing")]);
    }
    let dir = Dir::new();
    copy(&dir, BINARY[0]);
    dir.remove("d/data_batch_4.bin");
    complains(open(&dir.text("d"), Some("train")), &["data_batch_4.bin is missing", "data_batch_5.bin"]);
    assert_eq!(open(&dir.text("d"), Some("test")).unwrap().len(), 3);
    complains(open(&dir.text("d"), None), &["several splits: train, test"]);
    dir.write("d/batches.meta.txt", "airplane\n");
    complains(open(&dir.text("d"), Some("test")), &["test_batch.bin", "label 5, expected 0 to 0", "batches.meta.txt"]);
    dir.remove("d/batches.meta.txt");
    complains(open(&dir.text("d"), Some("test")), &["batches.meta.txt is missing"]);
}

/// A pickle of `data`, an array of the shape, dtype and bytes, with three labels.
fn batch(shape: &[u8], dtype: &str, bytes: &[u8]) -> Vec<u8> {
    let dtype = [&[b'U', dtype.len() as u8], dtype.as_bytes()].concat();
    let values = [&b"T"[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R";
    [
        &b"\x80\x02}(U\x04data"[..],
        array,
        b"(K\x01",
        shape,
        b"cnumpy\ndtype\n",
        &dtype,
        b"K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89",
        &values,
        b"tbU\x06labels](K\x01K\x02K\x03eu.",
    ]
    .concat()
}

#[test]
fn arrays_that_lie_are_told() {
    let dir = Dir::new();
    copy(&dir, PYTHON[0]);
    let told = |content: Vec<u8>, pieces: &[&str]| {
        dir.write("d/test_batch", content);
        complains(open(&dir.text("d"), Some("test")), &[&["d/test_batch is no batch"], pieces].concat());
    };
    const THREE: &[u8] = b"K\x03M\0\x0c\x86";
    dir.write("d/test_batch", batch(THREE, "u1", &[9; 9216]));
    assert_eq!(labels(&*open(&dir.text("d"), Some("test")).unwrap()), [1, 2, 3]);
    told(batch(THREE, "u1", &[9; 9215]), &["an array [3, 3072] of u1 should not have 9215 bytes"]);
    told(batch(THREE, "f8", &[9; 9216]), &["an array [3, 3072] of f8 should not have 9216 bytes"]);
    told(batch(b"K\x03M\x80\x01\x86", "f8", &[9; 9216]), &["[3, 384] of \"f8\"", "expected [images, 3072] of \"u1\""]);
    told(batch(b"K\x02M\0\x0c\x86", "u1", &[9; 6144]), &["2 images, but 3 `labels`"]);
    told(batch(b"J\xff\xff\xff\xffM\0\x0c\x86", "u1", &[9; 9216]), &["no non-negative integer"]);
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fM\0\x0c\x86";
    told(batch(huge, "u1", &[9; 9216]), &["should not have 9216 bytes"]);
    told(batch(THREE, "O8", &[9; 9216]), &["the dtype \"O8\", of which only numbers are read"]);
    told(batch(THREE, "", &[9; 9216]), &["the dtype \"\""]);
    // Only a label that is an integer is one.
    let mut other = batch(THREE, "u1", &[9; 9216]);
    let end = other.len();
    other.splice(end - 5..end - 3, *b"N");
    told(other, &["`labels` holds something other than integers"]);
}

#[test]
fn any_byte_of_a_batch_changed_is_read_or_told() {
    let whole = std::fs::read(fixture("cifar-10-batches-py/test_batch")).unwrap();
    assert!(Dictionary::read(&whole).is_ok());
    // Not the pixels, of which all are alike.
    let (from, to) = (230, 9400);
    for at in (0..from).chain(to..whole.len()) {
        for value in [0, 1, 0x7f, 0xff, b'(', b'.', b'h', b'R', b'b', b'e', whole[at] ^ 1, whole[at] ^ 0x80] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Ok(found) = Dictionary::read(&changed) {
                let _ = (found.integers("labels"), found.texts("filenames"));
                if let Ok(array) = found.array("data") {
                    assert!(array.values.end <= changed.len());
                }
            }
        }
    }
    // One text, referred to again and again.
    let many =
        [&b"\x80\x02}U\x01a](T\x00\x10\x00\x00"[..], &[b'x'; 4096], b"q\0", &b"h\0".repeat(1000), b"es."].concat();
    let found = Dictionary::read(&many).unwrap().texts("a").unwrap_err().to_string();
    assert!(found.contains("longer than the file"), "{found}");
}
