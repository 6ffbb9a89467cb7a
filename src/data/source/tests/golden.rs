//! Forty images in four layouts.

use super::*;
use std::collections::BTreeMap;

const LAYOUTS: [(&str, Layout); 4] = [
    ("folder", Layout::ImageFolder),
    ("hf-disk", Layout::HfDisk),
    ("parquet", Layout::Parquet),
    ("webdataset", Layout::WebDataset),
];

/// File names without their ending, in order.
fn stems(source: &dyn Source) -> Vec<String> {
    names(source).iter().map(|n| n.rsplit('/').next().unwrap().split('.').next().unwrap().to_string()).collect()
}

/// Label and stem, in the order of the image folder.
fn expected_items(split: &str) -> Vec<(i64, String)> {
    let text = std::fs::read_to_string(golden("labels.json")).unwrap();
    let all: BTreeMap<String, Vec<(i64, String)>> = serde_json::from_str(&text).unwrap();
    all[split].iter().map(|(label, file)| (*label, file.split('.').next().unwrap().to_string())).collect()
}

#[test]
fn the_layouts_are_recognised_with_their_splits() {
    let _dir = Dir::new();
    for (name, expected) in LAYOUTS {
        let path = golden(name).display().to_string();
        assert_eq!(Place::find(&path).unwrap().layout, expected);
        assert_eq!(splits(&path).unwrap(), ["train", "validation"], "{name}");
        complains(open(&path, None), &["train, validation"]);
        complains(open(&path, Some("tran")), &["did you mean `train`", "its splits are: train, validation"]);
        assert_eq!(open(&path, Some("val")).unwrap().split(), Some("validation"));
        assert_eq!(open(&path, Some("training")).unwrap().split(), Some("train"));
    }
}

#[test]
fn all_layouts_hold_the_same_pictures_and_labels() {
    let _dir = Dir::new();
    for (split, n) in [("train", 28), ("validation", 12)] {
        let expected = expected_items(split);
        let folder = open(&golden("folder").display().to_string(), Some(split)).unwrap();
        let content: BTreeMap<String, Vec<u8>> =
            stems(&*folder).into_iter().enumerate().map(|(i, stem)| (stem, bytes(&*folder, i))).collect();
        for (name, _) in LAYOUTS {
            let source = open(&golden(name).display().to_string(), Some(split)).unwrap();
            assert_eq!(source.len(), n);
            assert_eq!(source.class_names().len(), 4);
            let stems = stems(&*source);
            let mut found: Vec<_> = labels(&*source).into_iter().zip(stems.iter().cloned()).collect();
            // The archives tell apart even and odd images, each in the order of the others.
            match name {
                "webdataset" => {
                    let (even, odd): (Vec<_>, Vec<_>) =
                        expected.iter().cloned().enumerate().partition(|(i, _)| i % 2 == 0);
                    let order: Vec<_> = even.into_iter().chain(odd).map(|(_, item)| item).collect();
                    assert_eq!(found, order);
                    found.sort();
                    assert_eq!(found, expected);
                    assert_eq!(source.class_names(), ["0", "1", "2", "3"]);
                }
                _ => {
                    assert_eq!(found, expected, "{name}");
                    assert_eq!(source.class_names(), folder.class_names(), "{name}");
                }
            }
            for (i, stem) in stems.iter().enumerate() {
                assert!(bytes(&*source, i) == content[stem], "{name}: {stem}");
            }
        }
    }
}

#[test]
fn names_are_readable_and_differ() {
    let _dir = Dir::new();
    let first = |name: &str| open(&golden(name).display().to_string(), Some("train")).unwrap().name(0);
    assert_eq!(first("folder"), "n01440764/n01440764_0000.JPEG");
    assert_eq!(first("hf-disk"), "train/00000000/n01440764_0000.JPEG");
    assert_eq!(first("parquet"), "train/00000000/n01440764_0000.JPEG");
    assert_eq!(first("webdataset"), "train-0000.tar/n01440764_0000.jpg");
    for (name, _) in LAYOUTS {
        let source = open(&golden(name).display().to_string(), Some("train")).unwrap();
        let mut all = names(&*source);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 28);
        assert!(source.describe().contains(name) && source.describe().contains("train"), "{}", source.describe());
    }
}

#[test]
fn patterns_choose_shards() {
    let _dir = Dir::new();
    let at = |name: &str| golden(name).display().to_string();
    assert_eq!(open(&at("webdataset/train-{0000..0001}.tar"), None).unwrap().len(), 28);
    assert_eq!(open(&at("webdataset/{train,validation}-0000.tar"), Some("valid")).unwrap().len(), 6);
    assert_eq!(open(&at("webdataset/train-0001.tar"), None).unwrap().len(), 14);
    assert_eq!(open(&at("parquet/train-*.parquet"), None).unwrap().len(), 28);
    assert_eq!(open(&at("parquet/*-00001-of-*.parquet"), Some("train")).unwrap().len(), 14);
    complains(open(&at("parquet/*.parquet"), None), &["several splits: train, validation"]);
    complains(
        open(&at("webdataset/train-{0000..0003}.tar"), None),
        &["names a file that is missing", "train-0002.tar"],
    );
    complains(open(&at("webdataset/test-*.tar"), None), &["no file matches", "train-0000.tar"]);
    complains(open(&at("webdataset/train-{0000.tar"), None), &["without a `}`"]);
}
