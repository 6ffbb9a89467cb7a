//! Which layout a folder has, which files and folders belong to it, and what its splits are called.

use super::shards::tar;
use super::tables::{batch, plain};
use super::*;
use crate::data::source::shard_name::Kind;
use crate::data::source::shards::{Evidence, Shards};

/// Writes class folders with two images each, in the folder `d/PLACE`.
fn classes(dir: &Dir, place: &str, classes: &[&str]) {
    for class in classes {
        for i in 0..2 {
            dir.write(&format!("d/{place}/{class}/{i}.jpg"), "x");
        }
    }
}

/// A labelled archive.
fn labelled() -> Vec<u8> {
    tar(&[("0.jpg", b"1"), ("0.cls", b"0"), ("1.jpg", b"2"), ("1.cls", b"1")])
}

fn shards(dir: &Dir, path: &str) -> Result<Shards> {
    Shards::find(&dir.text(path), Kind::Tar, |_| Evidence::LabelledImages)
}

#[test]
fn the_splits_of_shards_are_those_of_datasets() {
    let cases = repository("tests/fixtures/shard-names/cases.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(cases).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let dir = Dir::new();
        for file in case["files"].as_array().unwrap() {
            dir.write(&format!("d/{}", file.as_str().unwrap()), "");
        }
        let kind = if case.to_string().contains(".tar") { Kind::Tar } else { Kind::Parquet };
        let find = || Shards::find(&dir.text("d"), kind, |_| Evidence::LabelledImages).unwrap();
        for (split, files) in case["splits"].as_object().unwrap() {
            // A set whose names tell nothing is "train" there, and has no splits here.
            let wanted = Some(split.as_str()).filter(|_| !find().splits().is_empty());
            let found = find().of_split(&dir.text("d"), wanted).unwrap().0;
            let found: Vec<_> =
                found.iter().map(|f| f.strip_prefix(dir.path("d")).unwrap().to_str().unwrap()).collect();
            assert_eq!(serde_json::json!(found), *files, "{split} of {case}");
        }
        assert_eq!(find().splits().len().max(1), case["splits"].as_object().unwrap().len(), "{case}");
    }
}

#[test]
fn upper_case_and_names_that_disagree() {
    let dir = Dir::new();
    for name in ["Train-0.TAR", "VAL_0.tar", "train_val_0.tar", "test/train-0.tar"] {
        dir.write(&format!("d/{name}"), labelled());
    }
    assert_eq!(shards(&dir, "d").unwrap().splits(), ["train", "val", "test/train", "train_val"]);
    let (files, split) = shards(&dir, "d").unwrap().of_split("d", Some("train")).unwrap();
    assert_eq!((files, split), (vec![dir.path("d/Train-0.TAR")], Some("train".into())));
}

#[test]
fn splits_are_found_by_their_other_names() {
    let dir = Dir::new();
    for split in ["imagenet_train2012", "dev"] {
        classes(&dir, split, &["a", "b"]);
    }
    let open = |split: &str| open(&dir.text("d"), Some(split));
    assert_eq!(open("train").unwrap().split(), Some("imagenet_train2012"));
    assert_eq!(open("validation").unwrap().split(), Some("dev"));
    complains(open("test"), &["has no split \"test\"", "its splits are: imagenet_train2012, dev"]);
    classes(&dir, "val", &["a", "b"]);
    complains(open("validation"), &["several that it could mean: val, dev", "\"val\""]);
    assert_eq!(open("dev").unwrap().split(), Some("dev"));
    dir.remove("d/val");
    dir.remove("d/dev");
    classes(&dir, "eval", &["a", "b"]);
    printed();
    assert_eq!(open("validation").unwrap().split(), Some("eval"));
    assert_eq!(printed(), [format!("{} has no split \"validation\": took \"eval\"", dir.text("d"))]);
}

#[test]
fn incomplete_sets_are_errors_or_said() {
    let dir = Dir::new();
    for name in ["train-00000-of-00003.tar", "train-00002-of-00003.tar", "val-00001-of-00001.tar", "test-4.tar"] {
        dir.write(&format!("d/{name}"), labelled());
    }
    let of_split = |path: &str, split| shards(&dir, path).unwrap().of_split(&dir.text(path), split);
    let what = "train-…-of-00003 is incomplete: 2 of 3 shards are there, without 00001";
    complains(of_split("d", Some("train")), &[what, "fetch the missing files", "d/train-*\""]);
    printed();
    assert_eq!(of_split("d/train-*", None).unwrap().0.len(), 2);
    assert_eq!(printed(), [format!("{}: {what}", dir.text("d/train-*"))]);
    // Shards may be counted from 1.
    assert_eq!(of_split("d", Some("val")).unwrap().0.len(), 1);
    dir.write("d/test-7.tar", labelled());
    assert_eq!(of_split("d", Some("test")).unwrap().0.len(), 2);
    assert!(printed()[0].contains("the numbers of the shards test leave out 2, first 5"));
    dir.write("d/train-00001-of-00003.tar", labelled());
    dir.write("d/train-00001-of-00003-0a1b.tar", labelled());
    complains(of_split("d", Some("train")), &["holds shard 1 of train-…-of-00003 twice"]);
    dir.remove("d/train-00001-of-00003-0a1b.tar");
    dir.write("d/train-00001-of-00002.tar", labelled());
    complains(of_split("d", Some("train")), &["several sets: train-…-of-00002 and train-…-of-00003"]);
    // Another number before the shard's.
    for number in ["00000", "00002"] {
        dir.write(&format!("e/in-2012-train-{number}-of-00003.tar"), labelled());
    }
    let what = "in-2012-train-…-of-00003 is incomplete: 2 of 3 shards are there, without 00001";
    complains(of_split("e", Some("train")), &[what]);
}

#[test]
fn of_several_data_sets_one_must_be_named() {
    let dir = Dir::new();
    dir.write("d/small/train-0.tar", labelled());
    dir.write("d/large/train-0.tar", labelled());
    complains(open(&dir.text("d"), None), &["2 data sets of .tar files, in: large, small", "d/large"]);
    assert_eq!(open(&dir.text("d/small"), None).unwrap().split(), Some("train"));
    // Files without images are none.
    dir.write("d/large/train-0.tar", tar(&[("notes.txt", b"x")]));
    let place = Place::find(&dir.text("d")).unwrap();
    assert_eq!(place.passed_over, ["large/train-0.tar"]);
    assert_eq!(place.open(None, &OpenOptions::default()).unwrap().len(), 2);
}

#[test]
fn patterns_stand_for_files_and_brackets_for_themselves() {
    let dir = Dir::new();
    for (name, count) in [("data[1]", 1), ("data1", 2), ("a{x}", 3)] {
        (0..count).for_each(|i| dir.write(&format!("{name}/train_{i}.tar"), labelled()));
        dir.write(&format!("{name}/._train_0.tar"), "apple");
        dir.write(&format!("{name}/README.md"), "");
    }
    for (path, shards) in [
        ("data[1]", 1),
        ("data[1]/train_*.tar", 1),
        ("data[1]/*", 1),
        ("data1/*.tar", 2),
        ("data1/train_{0..1}.tar", 2),
        ("data1/{train_0,train_1}.tar", 2),
        ("a{x}/train_{0..1}.tar", 2),
        ("a{x}/train_[12].tar", 2),
        ("a{x}", 3),
        ("*{x}", 3),
    ] {
        assert_eq!(open(&dir.text(path), None).unwrap().len(), 2 * shards, "{path}");
    }
    complains(open(&dir.text("data[1]/x*"), None), &["no file matches", "data[1] holds: ._train_0.tar, README.md"]);
    complains(open(&dir.text("data?1?/train_{0..1}.tar"), None), &["no file matches"]);
    complains(open(&dir.text("data1/train_{0..2}.tar"), None), &["names a file that is missing", "train_2.tar"]);
    complains(open(&dir.text("data1/READ*"), None), &["matches", "README.md", ".parquet and .tar files"]);
}

/// What is found in `d`: the layout, splits, passed over.
fn found(dir: &Dir) -> (Layout, Vec<String>, Vec<String>) {
    let place = Place::find(&dir.text("d")).unwrap();
    (place.layout, place.splits().unwrap(), place.passed_over)
}

#[test]
fn what_lies_beside_splits_does_not_hide_them() {
    let dir = Dir::new();
    classes(&dir, "train", &["cat", "dog"]);
    classes(&dir, "val", &["cat", "dog"]);
    for name in ["test/1.jpg", "assets/1.jpg", "README.md", "logo.png", "train/montage.jpg", "train/README", "meta.bin"]
    {
        dir.write(&format!("d/{name}"), "x");
    }
    for name in ["devkit_t12.tar.gz", "train.zip", "train/cat.tar", "metadata.csv", "metadata.parquet"] {
        dir.write(&format!("d/{name}"), "x");
    }
    dir.write("d/img_val.tar", tar(&[("1.jpg", b"x")]));
    let (layout, splits, passed_over) = found(&dir);
    assert_eq!((layout, splits), (Layout::ImageFolder, strings(&["train", "val", "test"])));
    let expected = "assets/, devkit_t12.tar.gz, img_val.tar, logo.png, metadata.csv, metadata.parquet, train.zip, \
                    train/cat.tar, train/montage.jpg";
    assert_eq!(passed_over.join(", "), expected);
    printed();
    let train = open(&dir.text("d"), Some("train")).unwrap();
    assert_eq!((labels(&*train), train.class_names()), (vec![0, 0, 1, 1], &strings(&["cat", "dog"])[..]));
    let line = printed().remove(0);
    assert!(
        line.contains("passed over assets/") && line.contains("metadata.csv, metadata.parquet are not read"),
        "{line}"
    );
    let test = open(&dir.text("d"), Some("test")).unwrap();
    assert_eq!((labels(&*test), names(&*test), test.class_names().len()), (vec![-1], strings(&["1.jpg"]), 0));
    assert_eq!(test.describe(), format!("{} (images without classes, test)", dir.text("d/test")));
    assert_eq!(bytes(&*test, 0), b"x");
}

#[test]
fn a_damaged_shard_is_not_passed_over() {
    let dir = Dir::new();
    for (ending, whole) in [("tar", labelled()), ("parquet", plain(&batch(0..3)))] {
        for content in [&b""[..], b"not a shard at all", &whole[..1100]] {
            dir.write(&format!("d/train-0.{ending}"), content);
            dir.write(&format!("d/test-0.{ending}"), &whole);
            dir.write("d/assets/1.jpg", "x");
            let train = format!("train-0.{ending}");
            complains(open(&dir.text("d"), Some("train")), &[&train, if content.is_empty() { "empty" } else { "cut" }]);
            assert!(open(&dir.text("d"), Some("test")).is_ok());
        }
        dir.remove("d");
    }
}

#[test]
fn images_without_classes_have_no_labels() {
    let dir = Dir::new();
    for name in ["1.jpg", "2.PNG", ".hidden.jpg", "notes/a.txt", "metadata.jsonl"] {
        dir.write(&format!("d/{name}"), name);
    }
    let (layout, splits, passed_over) = found(&dir);
    assert_eq!((layout, splits.len(), passed_over), (Layout::Images, 0, strings(&["metadata.jsonl", "notes/"])));
    let source = open(&dir.text("d"), None).unwrap();
    assert_eq!((names(&*source), labels(&*source)), (strings(&["1.jpg", "2.PNG"]), vec![-1, -1]));
    assert_eq!(class_counts(&*source), (vec![], 2));
    complains(open(&dir.text("d"), Some("train")), &["has no splits"]);
    // Listed anew where there are class folders later, and kept in between.
    dir.settle("d");
    open(&dir.text("d"), None).unwrap();
    classes(&dir, "", &["a", "b", "notes"]);
    assert_eq!(open(&dir.text("d"), None).unwrap().class_names(), ["a", "b", "notes"]);
}

#[test]
fn readings_that_are_equally_plausible_are_errors() {
    let dir = Dir::new();
    classes(&dir, "", &["cat", "dog"]);
    dir.write("d/train-0.tar", labelled());
    let pieces = &["read in 2 ways", "image folder (cat/, dog/)", "WebDataset tars (train-0.tar)", "d/*.tar\""];
    complains(open(&dir.text("d"), None), pieces);
    assert_eq!(open(&dir.text("d/*.tar"), None).unwrap().len(), 2);
    // Unlabelled archives weigh less than class folders, which weigh less than labelled ones if called like assets.
    dir.write("d/train-0.tar", tar(&[("cat/0.jpg", b"x"), ("dog/0.jpg", b"x")]));
    assert_eq!(found(&dir), (Layout::ImageFolder, vec![], strings(&["train-0.tar"])));
    dir.remove("d");
    classes(&dir, "", &["assets", "docs"]);
    dir.write("d/train-0.tar", labelled());
    assert_eq!(found(&dir), (Layout::WebDataset, strings(&["train"]), strings(&["assets/", "docs/"])));
    dir.remove("d");
    classes(&dir, "assets", &["icons"]);
    dir.write("d/data/train-0.parquet", plain(&batch(0..3)));
    assert_eq!(found(&dir), (Layout::Parquet, strings(&["train"]), strings(&["assets/"])));

    dir.remove("d");
    classes(&dir, "train", &["jet", "glider"]);
    classes(&dir, "plane", &["jet", "glider"]);
    complains(open(&dir.text("d"), Some("train")), &["two ways: train/ as a split, or train/ and plane/ as classes"]);
    assert_eq!(open(&dir.text("d/train"), Some("train")).unwrap().len(), 4);
    dir.remove("d");
    classes(&dir, "inner", &["a", "b"]);
    complains(open(&dir.text("d"), None), &["a single folder with images, inner", "a, b", "give ", "d/inner"]);
    dir.remove("d");
    classes(&dir, "", &["all"]);
    (0..3).for_each(|i| dir.write(&format!("d/{i}.jpg"), "x"));
    complains(open(&dir.text("d"), None), &["3 images without classes, or all/ as its only class", "d/all"]);
}

#[test]
fn split_folders_may_be_flat_and_classes_may_be_called_like_splits() {
    let dir = Dir::new();
    for name in ["train/1.jpg", "train/2.jpg", "val/1.jpg", "assets/x.jpg"] {
        dir.write(&format!("d/{name}"), "x");
    }
    assert_eq!(found(&dir), (Layout::Images, strings(&["train", "val"]), strings(&["assets/"])));
    assert_eq!(labels(&*open(&dir.text("d"), Some("train")).unwrap()), [-1, -1]);
    dir.write("d/test1/1.jpg", "x");
    assert_eq!(found(&dir).1, ["train", "val", "test1"]);
    dir.remove("d/test1");
    dir.write("d/plane/1.jpg", "x");
    assert_eq!(open(&dir.text("d"), None).unwrap().class_names(), ["assets", "plane", "train", "val"]);
    dir.remove("d");
    classes(&dir, "", &["test_tube", "train_station"]);
    assert_eq!(open(&dir.text("d"), None).unwrap().class_names(), ["test_tube", "train_station"]);
}

#[test]
fn unknown_folders_get_a_hint() {
    let dir = Dir::new();
    classes(&dir, "Data/CLS-LOC/train", &["a", "b"]);
    dir.write("d/Annotations/train/a/1.xml", "");
    complains(open(&dir.text("d"), None), &["no known layout", "did you mean", "d/Data/CLS-LOC?"]);
    dir.write("e/images.zip", "");
    complains(open(&dir.text("e"), None), &["no known layout", "unpack images.zip", "uncompressed .tar"]);
}

#[test]
fn strays_are_nowhere_images_classes_or_shards() {
    const STRAYS: [&str; 12] = [
        ".ipynb_checkpoints",
        ".cache",
        ".git",
        "__MACOSX",
        "._a",
        ".DS_Store",
        "Thumbs.db",
        "@eaDir",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
        "#recycle",
    ];
    let dir = Dir::new();
    for place in ["folders", "splits/train", "splits/val"] {
        classes(&dir, &format!("../{place}"), &["a", "b"]);
    }
    dir.write("tars/train-0.tar", labelled());
    dir.write("tables/train-0.parquet", plain(&batch(0..2)));
    for name in ["flat/1.jpg", "flat/2.jpg"] {
        dir.write(name, "x");
    }
    let places = ["folders", "splits", "splits/train", "tars", "tables", "flat"];
    let opened = || {
        places.map(|place| {
            let split = (place == "splits").then_some("train");
            let source = open(&dir.text(place), split).unwrap();
            (names(&*source), labels(&*source), source.class_names().to_vec())
        })
    };
    let clean = opened();
    for name in STRAYS {
        for place in places {
            // Empty, with an image, and with something like a data set.
            std::fs::create_dir_all(dir.path(&format!("{place}/{name}"))).unwrap();
            dir.write(&format!("{place}/{name}/1.jpg"), "x");
            dir.write(&format!("{place}/{name}/train/c/1.jpg"), "x");
            dir.write(&format!("{place}/{name}/train-0.tar"), "x");
        }
        dir.write(&format!("folders/a/{name}/1.jpg"), "x");
    }
    for (place, file) in
        [("folders/a", "._0.jpg"), ("flat", "._1.jpg"), ("tars", "._train-0.tar"), ("tables", "._train-0.parquet")]
    {
        dir.write(&format!("{place}/{file}"), "apple");
    }
    assert!(opened() == clean);
    for place in places {
        assert!(Place::find(&dir.text(place)).unwrap().passed_over.is_empty(), "{place}");
    }
    // A folder of that name that is asked for is opened.
    dir.write(".git/a/1.jpg", "x");
    dir.write(".git/b/1.jpg", "x");
    assert_eq!(open(&dir.text(".git"), None).unwrap().len(), 2);
}

#[test]
fn classes_that_are_numbers_are_in_their_order() {
    let dir = Dir::new();
    let numbers: Vec<String> = (0..12).map(|i| i.to_string()).collect();
    classes(&dir, "", &numbers.iter().map(String::as_str).collect::<Vec<_>>());
    let source = open(&dir.text("d"), None).unwrap();
    assert_eq!(source.class_names(), numbers);
    assert_eq!(printed(), [format!("{}: the classes are numbers, and in the order of numbers", dir.text("d"))]);
    // Not if one is no number, or two are the same.
    for (name, order) in [("x", ["0", "1", "10", "11", "2"]), ("01", ["0", "01", "1", "10", "11"])] {
        classes(&dir, "", &[name]);
        assert_eq!(open(&dir.text("d"), None).unwrap().class_names()[..5], order);
        dir.remove(&format!("d/{name}"));
    }
    dir.write(
        "t.tar",
        tar(&[
            ("a.jpg", b"1"),
            ("a.json", br#"{"label_name": "10"}"#),
            ("b.jpg", b"2"),
            ("b.json", br#"{"label_name": "9"}"#),
        ]),
    );
    assert_eq!(open(&dir.text("t.tar"), None).unwrap().class_names(), ["9", "10"]);
}

/// Copies the time of the last change from one path to another, as `rsync` and `tar` do.
fn same_time(from: &Path, to: &Path) {
    let time = std::fs::metadata(from).unwrap().modified().unwrap();
    std::fs::File::open(to).unwrap().set_modified(time).unwrap();
}

#[test]
fn replaced_files_and_folders_are_noticed_though_their_times_are_equal() {
    let dir = Dir::new();
    classes(&dir, "", &["a", "b"]);
    dir.write("t.tar", tar(&[("a.jpg", b"1")]));
    dir.settle("d");
    dir.settle("t.tar");
    let listed = || (names(&*open(&dir.text("d"), None).unwrap()), names(&*open(&dir.text("t.tar"), None).unwrap()));
    listed();
    assert_eq!(dir.kept().len(), 2);
    let before = listed();
    for class in ["a", "b"] {
        dir.write(&format!("new/{class}/0.jpg"), "y");
        dir.write(&format!("new/{class}/7.jpg"), "y");
        same_time(&dir.path(&format!("d/{class}")), &dir.path(&format!("new/{class}")));
    }
    dir.write("new.tar", tar(&[("z.jpg", b"1")]));
    same_time(&dir.path("t.tar"), &dir.path("new.tar"));
    same_time(&dir.path("d"), &dir.path("new"));
    dir.remove("d");
    std::fs::rename(dir.path("new"), dir.path("d")).unwrap();
    std::fs::rename(dir.path("new.tar"), dir.path("t.tar")).unwrap();
    assert_eq!(before, (strings(&["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg"]), strings(&["t.tar/a.jpg"])));
    assert_eq!(listed(), (strings(&["a/0.jpg", "a/7.jpg", "b/0.jpg", "b/7.jpg"]), strings(&["t.tar/z.jpg"])));
    assert_eq!(printed().iter().filter(|line| line.contains("out of date")).count(), 2);
}
