//! `nepa data pack`: what becomes of images, that they keep their order, labels and names, that it goes on where it was
//! stopped, and what it refuses.

use crate::common::*;
use image::RgbImage;
use image::imageops::{FilterType, grayscale, resize};
use nepa::data::decode::LazyImage;
use nepa::data::source::{SourceRef, StoredImage, open, splits};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const FORMATS: [&str; 2] = ["webdataset", "parquet"];

fn opened(folder: &Folder, name: &str, split: Option<&str>) -> SourceRef {
    open(&folder.path(name).display().to_string(), split).unwrap_or_else(|e| panic!("{e:#}"))
}

fn content(source: &SourceRef, index: usize) -> Vec<u8> {
    match source.read(index).unwrap() {
        StoredImage::Encoded(bytes) => bytes.into_owned(),
        StoredImage::Pixels(image) => image.data,
    }
}

fn decoded(bytes: &[u8], exif_orientation: bool) -> RgbImage {
    let mut stored = StoredImage::Encoded(Cow::Borrowed(bytes));
    let image = LazyImage::open(&mut stored, exif_orientation).unwrap().decode().unwrap();
    RgbImage::from_raw(image.width as u32, image.height as u32, image.data).unwrap()
}

/// The mean difference in brightness of two pictures, of 255; of the first one resized to the second's size.
fn difference(before: &RgbImage, after: &RgbImage) -> f64 {
    let (width, height) = after.dimensions();
    let resized = grayscale(&resize(before, width, height, FilterType::CatmullRom));
    let after = grayscale(after);
    let sum: u64 = resized.as_raw().iter().zip(after.as_raw()).map(|(a, b)| a.abs_diff(*b) as u64).sum();
    sum as f64 / after.as_raw().len() as f64
}

/// The name without its ending.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// A JPEG of stripes.
fn jpeg(width: u16, height: u16) -> Vec<u8> {
    let (mut bytes, pixels) = (Vec::new(), (0..3 * width as usize * height as usize).map(|i| (i / 7) as u8));
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
    encoder.encode(&pixels.collect::<Vec<_>>(), width, height, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

/// The shards in a folder, by name.
fn shards(folder: &Folder, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let is_shard = |name: &String| name.ends_with(".tar") || name.ends_with(".parquet");
    let names = folder.names(dir).into_iter().filter(is_shard);
    names.map(|name| (name.clone(), folder.read(&format!("{dir}/{name}")))).collect()
}

/// The arguments with those that all of these tests have.
fn pack<'a>(source: &'a str, dest: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["data", "pack", source, dest, "--threads", "2"][..], more].concat()
}

// ---- what becomes of images ----

#[test]
fn images_keep_their_order_labels_classes_and_names() {
    let golden = golden_data("folder");
    for format in FORMATS {
        let folder = Folder::on_cpu();
        let said = folder.nepa(&pack(
            &golden,
            "out",
            &["--shorter-side", "60", "--images-per-shard", "10", "--format", format],
        ));
        said.succeeds().prints(&[
            "image folder: train 28 images, validation 12 images\n",
            "140 kB now) in 5 shards",
            "out is complete\n  40 images in 5 shards, ",
            " 15  JPEG with a shorter side of at most 60: copied byte for byte\n",
            " 24  resized to a shorter side of 60, JPEG quality 90\n",
            " 1  kept without loss",
        ]);
        said.says(&["pack: 40/40 images in "]);
        for split in ["train", "validation"] {
            let (before, after) = (open(&golden, Some(split)).unwrap(), opened(&folder, "out", Some(split)));
            assert_eq!((before.len(), before.class_names()), (after.len(), after.class_names()));
            assert_eq!(after.split(), Some(split));
            for i in 0..before.len() {
                let is_tar = format == "webdataset";
                let name = |name: String| if is_tar { stem(&name).to_string() } else { name };
                let named = |source: &SourceRef| (name(source.name(i)), source.label(i));
                assert_eq!(named(&before), named(&after), "{format} {i}");
                let (was, is) = (content(&before, i), content(&after, i));
                let (was_decoded, is_decoded) = (decoded(&was, false), decoded(&is, false));
                let shorter = |image: &RgbImage| image.width().min(image.height());
                if was == is {
                    assert!(shorter(&was_decoded) <= 60 || before.name(i).contains("0002"), "{}", before.name(i));
                    continue;
                }
                assert_eq!(shorter(&is_decoded), 60.min(shorter(&was_decoded)));
                let difference = difference(&was_decoded, &is_decoded);
                assert!(difference < 5.0, "{} differs by {difference}", before.name(i));
            }
        }
        folder
            .nepa(&["data", "out", "--scan"])
            .succeeds()
            .prints(&["4, each of 7 images", "scan: 0 broken of 40 images"]);
    }
}

#[test]
fn what_a_jpeg_cannot_hold_is_kept_and_the_rest_encoded() {
    let kept = [
        "rgba.png",
        "rgb-16.png",
        "palette-alpha.png",
        "gif-plain.gif",
        "cmyk.jpg",
        "webp-animated.webp",
        "tiff-cmyk.tif",
    ];
    let plain = [
        "palette.png",
        "ppm.ppm",
        "bmp-24.bmp",
        "webp-lossless.webp",
        "tiff-rgb-lzw.tif",
        "grey-8.png",
        "png-named.jpg",
    ];
    let folder =
        with_odd(&[&kept[..], &plain, &["baseline-444.jpg", "grey.jpg", "progressive-420-75x51.jpg"]].concat());
    for (side, copied, resized) in [("512", "3  JPEG", ""), ("16", "", "10  resized to a shorter side of 16")] {
        let dest = format!("out-{side}");
        let said = folder.nepa(&pack("d", &dest, &["--shorter-side", side]));
        said.succeeds().prints(&["17 images in 1 shard", "7  kept without loss", copied, resized]);
        let (before, after) = (opened(&folder, "d", None), opened(&folder, &dest, None));
        for i in 0..before.len() {
            let (name, was, is) = (before.name(i), content(&before, i), content(&after, i));
            let file = name.strip_prefix("all/").unwrap();
            let is_jpeg = is.starts_with(&[0xff, 0xd8]);
            if kept.contains(&file) || side == "512" && !plain.contains(&file) {
                assert_eq!(was, is, "{name} at {side}");
            } else {
                assert!(is_jpeg, "{name} at {side}");
                let difference = difference(&decoded(&was, false), &decoded(&is, false));
                assert!(difference < 6.0, "{name} differs by {difference}");
            }
            assert_eq!(is_jpeg, after.name(i).ends_with(".jpg"), "{}", after.name(i));
            if file.starts_with("grey") && is_jpeg {
                let frame = is.windows(2).position(|pair| matches!(pair, [0xff, 0xc0 | 0xc2])).unwrap();
                assert_eq!(is[frame + 9], 1, "{name} has one colour");
            }
        }
    }
}

#[test]
fn the_orientation_stays_beside_the_pixels() {
    let names: Vec<String> = (1..=8).map(|n| format!("orientation-{n}.jpg")).collect();
    let folder = with_odd(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in ["exif.png", "xmp.png", "exif.webp", "turned-6.tif"] {
        folder.write(
            &format!("d/all/{name}"),
            std::fs::read(repository("tests/fixtures/images-kinds").join(name)).unwrap(),
        );
    }
    folder.nepa(&pack("d", "out", &["--shorter-side", "9", "--quality", "95"])).succeeds();
    let (before, after) = (opened(&folder, "d", None), opened(&folder, "out", None));
    for i in 0..before.len() {
        let (was, is) = (content(&before, i), content(&after, i));
        for turned in [false, true] {
            let (was, is) = (decoded(&was, turned), decoded(&is, turned));
            assert_eq!(was.width() < was.height(), is.width() < is.height(), "{}", before.name(i));
            let difference = difference(&was, &is);
            assert!(difference < 12.0, "{}, turned {turned}, differs by {difference}", before.name(i));
        }
    }
}

#[test]
fn pixels_are_kept_without_loss() {
    let folder = Folder::on_cpu();
    let pixels: Vec<u8> = (0..12 * 7 * 5).map(|i| (i * 31 % 251) as u8).collect();
    let head = |kind: u8, sizes: &[u32]| {
        [&[0, 0, 8, kind][..], &sizes.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<_>>()].concat()
    };
    folder.write("d/t10k-images-idx3-ubyte", [head(3, &[12, 7, 5]), pixels.clone()].concat());
    folder.write("d/t10k-labels-idx1-ubyte", [head(1, &[12]), (0..12).map(|i| i % 3).collect()].concat());
    folder
        .nepa(&pack("d", "out", &["--images-per-shard", "9"]))
        .succeeds()
        .prints(&["12 images in 2 shards", "12  kept"]);
    let (before, after) = (opened(&folder, "d", Some("test")), opened(&folder, "out", Some("test")));
    for i in 0..12 {
        let grey: Vec<u8> = decoded(&content(&after, i), false).pixels().map(|p| p.0[0]).collect();
        assert_eq!((before.label(i), content(&before, i)), (after.label(i), grey), "{i}");
    }
    folder
        .nepa(&pack("d", "small", &["--shorter-side", "3"]))
        .succeeds()
        .prints(&["12  resized to a shorter side of 3"]);
}

#[test]
fn images_without_classes_have_none_afterwards() {
    let folder = Folder::on_cpu();
    for name in ["b.x.jpg", "a.jpg", "b.y.jpg", "b_x.png"] {
        folder.write(&format!("d/{name}"), odd("rgb.jpg"));
    }
    for format in FORMATS {
        folder.nepa(&pack("d", format, &["--format", format])).succeeds();
        let after = opened(&folder, format, None);
        assert_eq!((after.len(), after.class_names().len(), after.label(0)), (4, 0, -1));
        assert_eq!((after.split(), splits(&folder.path(format).display().to_string()).unwrap()), (None, vec![]));
    }
    let names = |dest: &str| (0..4).map(|i| opened(&folder, dest, None).name(i)).collect::<Vec<_>>();
    assert_eq!(names("webdataset"), ["a.jpg", "b_x.jpg", "b_y.jpg", "b_x-2.jpg"]);
    assert_eq!(names("parquet"), ["a.jpg", "b.x.jpg", "b.y.jpg", "b_x.png"]);
}

#[test]
fn splits_keep_their_names() {
    let folder = Folder::on_cpu();
    for split in ["train2017", "val-2017"] {
        folder.write(&format!("d/{split}/cat/1.jpg"), odd("rgb.jpg"));
        folder.write(&format!("d/{split}/dog/1.jpg"), odd("grey.jpg"));
    }
    folder.nepa(&pack("d", "out", &[])).succeeds();
    let names = |path: &str| splits(&folder.path(path).display().to_string()).unwrap();
    assert_eq!((names("out"), names("d").len()), (names("d"), 2));
    assert_eq!(opened(&folder, "out", Some("validation")).split(), Some("val-2017"));
}

#[test]
fn shards_do_not_depend_on_the_threads() {
    let golden = golden_data("parquet");
    let folder = Folder::on_cpu();
    for format in FORMATS {
        let run = |threads: &str| {
            let dest = format!("{format}-{threads}");
            let args =
                ["data", "pack", &golden, &dest, "--shorter-side", "50", "--format", format, "--threads", threads];
            folder.nepa(&args).succeeds();
            shards(&folder, &dest)
        };
        let one = run("1");
        assert_eq!(one.len(), 2);
        assert!(one == run("3"));
    }
}

#[test]
fn what_packing_saves_is_measured() {
    let folder = Folder::on_cpu();
    let large = jpeg(120, 100);
    (0..32).for_each(|i| folder.write(&format!("d/c/{i:03}.jpg"), &large));
    let said = folder.nepa(&["data", "pack", "d", "out", "--shorter-side", "32", "--threads", "1"]);
    said.succeeds().prints(&["32 images, 1 thread, from memory:\n", " images/s from d\n", " images/s from out: "]);
    let factor = said.stdout.split("from out: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(factor.parse::<f64>().unwrap() > 0.2, "{said}");
}

// ---- broken images ----

#[test]
fn broken_images_are_told_or_left_out() {
    let folder = with_odd(&["rgb.jpg", "zero-bytes.jpg", "cut.jpg", "baseline-444.jpg"]);
    let said = folder.nepa(&pack("d", "out", &[]));
    said.fails(1).says(&[
        "cannot pack item 1 (all/cut.jpg) of d (image folder",
        "the JPEG is truncated",
        "--on-bad skip",
    ]);
    folder.nepa(&["data", "out"]).fails(1).says(&["out is not complete", "nepa data pack d out --shorter-side 512"]);
    let said = folder.nepa(&pack("d", "out", &["--on-bad", "skip"]));
    said.succeeds().prints(&[
        "2 images in 1 shard",
        "2  broken: left out",
        "item 1 (all/cut.jpg): the JPEG is truncated",
        "item 3 (all/zero-bytes.jpg)",
    ]);
    let after = opened(&folder, "out", None);
    assert_eq!([after.name(0), after.name(1)], ["all/baseline-444.jpg", "all/rgb.jpg"]);
    let about = folder.json("out/nepa-pack.json");
    assert_eq!(about["complete"], Value::Bool(true));
    assert_eq!(about["shards"][0]["left_out"][1]["name"], "all/zero-bytes.jpg");
    let said = with_odd(&["cut.jpg"]).nepa(&pack("d", "out", &["--on-bad", "skip"]));
    said.fails(1).says(&["none of the images of d (image folder) can be decoded"]);
    let crc = format!("{:08x}", crc32fast::hash(&folder.read("out/train-00000-of-00001.tar")));
    assert_eq!(about["shards"][0]["crc32"], crc.as_str());
}

// ---- interruption ----

/// 28 images in 6 shards.
const SIX: [&str; 4] = ["--split", "train", "--images-per-shard", "5"];

#[cfg(target_os = "linux")]
#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    use crate::common::faults::strike;
    let golden = golden_data("folder");
    for format in FORMATS {
        let more = [&SIX[..], &["--shorter-side", "60", "--format", format]].concat();
        let whole = Folder::on_cpu();
        whole.nepa(&pack(&golden, "out", &more)).succeeds();
        let expected = shards(&whole, "out");
        assert_eq!(expected.len(), 6);
        let blows = match format {
            "webdataset" => {
                &[("1", "kill"), ("3", "torn"), ("9", "kill"), ("17", "torn"), ("31", "28"), ("47", "kill")][..]
            }
            _ => &[("5", "kill"), ("14", "28"), ("24", "torn"), ("40", "kill")],
        };
        for (at, blow) in blows {
            let folder = Folder::on_cpu();
            let below = folder.path("").canonicalize().unwrap().display().to_string();
            let env = strike(&below, ",create,write,sync,rename,mkdir,remove,", at, blow);
            match (folder.start(&pack(&golden, "out", &more), &env).end(), *blow) {
                (Ended::Killed(_), "kill" | "torn") => {}
                (Ended::Said(said), "28") => {
                    said.fails(1).says(&["No space left on device", "cannot write"]);
                }
                (Ended::Said(said) | Ended::Killed(said), _) => panic!("{at} {blow}: {said}"),
            }
            folder.nepa(&pack(&golden, "out", &more)).succeeds().prints(&["out is complete"]);
            assert!(shards(&folder, "out") == expected, "{format} {at} {blow}");
            assert!(!folder.path("out/.nepa-pack").exists());
            assert_eq!(opened(&folder, "out", Some("train")).len(), 28);
        }
    }
}

#[test]
fn after_ctrl_c_it_goes_on_and_says_so() {
    let folder = Folder::on_cpu();
    let large = jpeg(600, 600);
    (0..30).for_each(|i| folder.write(&format!("d/c/{i:03}.jpg"), &large));
    let args = pack("d", "out", &["--shorter-side", "100", "--images-per-shard", "3"]);
    let running = folder.start(&args, &[]);
    let until = Instant::now() + Duration::from_secs(60);
    while !folder.path("out/train-00001-of-00010.tar").exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    running.signal(libc::SIGINT);
    let said = running.finish();
    said.fails(130).prints(&[" of 10 shards are whole; the same command goes on from there"]);
    said.says(&["pack: interrupted after "]);
    let first = std::fs::metadata(folder.path("out/train-00000-of-00010.tar")).unwrap().modified().unwrap();
    let said = folder.nepa(&args);
    said.succeeds().prints(&[" of 10 shards are there: going on\n", "out is complete"]);
    let after = std::fs::metadata(folder.path("out/train-00000-of-00010.tar")).unwrap().modified().unwrap();
    assert_eq!(first, after, "it is not written again");
    folder.nepa(&args).succeeds().prints(&["out is complete already\n  30 images in 10 shards"]);
}

/// A folder `d` of two images in two shards, of which the second is missing from `out`.
fn begun() -> Folder {
    let folder = with_odd(&["baseline-444.jpg", "cut.jpg"]);
    folder.nepa(&pack("d", "out", &["--images-per-shard", "1"])).fails(1);
    assert_eq!(folder.names("out"), [".nepa-pack", "classes.txt", "nepa-pack.json", "train-00000-of-00002.tar"]);
    folder
}

#[test]
fn other_options_or_images_are_refused() {
    let folder = begun();
    let one = ["--images-per-shard", "1"];
    let said = folder.nepa(&pack("d", "out", &[&one[..], &["--quality", "80", "--shorter-side", "256"]].concat()));
    said.fails(1)
        .says(&["out was begun with other options: shorter_side 512 there, 256 here; quality 90 there, 80 here"]);
    folder.nepa(&pack("d", "out", &[])).fails(1).says(&["images_per_shard 1 there, 5000 here"]);
    folder.write("d/all/more.jpg", odd("rgb.jpg"));
    let said = folder.nepa(&pack("d", "out", &one));
    said.fails(1).says(&["out was begun with other images: no split (2 images, 1 classes, ", "(3 images, 1 classes, "]);
}

#[test]
fn files_of_others_are_not_touched() {
    let folder = with_odd(&["baseline-444.jpg"]);
    folder.write("full/notes.txt", "mine");
    folder.nepa(&pack("d", "full", &[])).fails(1).says(&["full is not empty: it holds notes.txt"]);
    folder.nepa(&pack("d", "full/notes.txt", &[])).fails(1).says(&["notes.txt is a file, expected a folder"]);
    assert_eq!((folder.names("full"), folder.text("full/notes.txt")), (vec!["notes.txt".to_string()], "mine".into()));

    let folder = begun();
    let args = pack("d", "out", &["--images-per-shard", "1", "--on-bad", "skip"]);
    folder.write("out/train-00001-of-00002.tar", "mine");
    folder.nepa(&args).fails(1).says(&["train-00001-of-00002.tar is in the way"]);
    assert_eq!(folder.text("out/train-00001-of-00002.tar"), "mine");
    std::fs::remove_file(folder.path("out/train-00001-of-00002.tar")).unwrap();
    let mut first = folder.read("out/train-00000-of-00002.tar");
    first.push(0);
    folder.write("out/train-00000-of-00002.tar", first);
    folder.nepa(&args).fails(1).says(&["train-00000-of-00002.tar has ", " bytes, ", "remove it"]);
    std::fs::remove_file(folder.path("out/train-00000-of-00002.tar")).unwrap();
    folder.write("out/notes.txt", "mine");
    folder.nepa(&args).succeeds().prints(&["out is complete"]);
    assert_eq!(folder.text("out/notes.txt"), "mine");
}

// ---- what is refused ----

#[test]
fn an_unfinished_folder_is_not_opened() {
    let folder = begun();
    let said = folder.run("data::open(\"out\");");
    said.fails(1).says(&[
        "out is not complete",
        "this goes on where it was: nepa data pack d out --shorter-side 512 --quality 90",
    ]);
}

#[test]
fn wrong_arguments_are_told() {
    let folder = with_odd(&["baseline-444.jpg"]);
    folder.nepa(&["data", "pack"]).fails(2).says(&["<SOURCE>", "<DEST>", "Usage: nepa data pack"]);
    folder.nepa(&["data", "pack", "--help"]).succeeds().prints(&[
        "--shorter-side <N>",
        "[default: 512]",
        "Examples:",
        "Exit code",
    ]);
    folder.nepa(&["data", "--help"]).succeeds().prints(&["pack"]);
    folder.nepa(&pack("dd", "out", &[])).fails(1).says(&["dd does not exist"]);
    folder.nepa(&["data", "pak", "d", "out"]).fails(2).says(&["no command 'pak'", "did you mean nepa data pack?"]);
    folder.nepa(&pack("d", "out", &["--qualty", "9"])).fails(2).says(&["--qualty", "--quality"]);
    folder.nepa(&pack("d", "out", &["--quality", "101"])).fails(2).says(&["101", "1..=100"]);
    folder.nepa(&pack("d", "out", &["--shorter-side", "0"])).fails(2).says(&["1..=16384"]);
    folder.nepa(&pack("d", "out", &["--format", "webdatset"])).fails(2).says(&["webdatset", "webdataset"]);
    folder.nepa(&pack("d", "out", &["--split", "train"])).fails(1).says(&["has no splits"]);
    folder.nepa(&pack("d", "d/out", &[])).fails(1).says(&["d/out lies in the source", "packed"]);
    folder.nepa(&pack("d", "d", &[])).fails(1).says(&["lies in the source"]);
    folder.write("empty/notes.md", "");
    folder.nepa(&pack("empty", "out", &[])).fails(1).says(&["empty has no known layout"]);
    assert_eq!(folder.names(""), ["d", "empty"]);
    // A folder of that name is not out of reach.
    std::fs::rename(folder.path("d"), folder.path("pack")).unwrap();
    folder.nepa(&["data", "./pack"]).succeeds().prints(&["./pack: image folder"]);
}

#[cfg(target_os = "linux")]
#[test]
fn what_will_not_fit_is_not_begun() {
    use crate::common::faults::strike;
    let (folder, golden) = (Folder::on_cpu(), golden_data("folder"));
    let env = [strike("/none", ",", "0", "0"), vec![("FAULT_FREE", "100000")]].concat();
    let said = folder.start(&pack(&golden, "new/out", &[]), &env).finish();
    said.fails(1).says(&["are needed for new/out, by a sample of 40 images, but 100 kB are free", "--shorter-side"]);
    assert!(folder.names("").is_empty());
    let env = [strike("/none", ",", "0", "0"), vec![("FAULT_FREE", "1000000")]].concat();
    folder.start(&pack(&golden, "new/out", &[]), &env).finish().succeeds().prints(&["1.0 MB are free"]);
    assert!(Path::new(&folder.path("new/out/nepa-pack.json")).exists());
}
