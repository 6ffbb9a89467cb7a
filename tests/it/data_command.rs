//! `nepa data`: what it reports, finds, draws and measures, and what it refuses.

use crate::common::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

/// A PNG of one colour.
fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb(colour));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A folder `d` with classes of so many images, 20 x 10.
fn with_classes(counts: &[(&str, usize)]) -> Folder {
    let folder = Folder::new();
    for (class, count) in counts {
        for i in 0..*count {
            folder.write(&format!("d/{class}/{i:03}.png"), png(20, 10, [i as u8, 100, 200]));
        }
    }
    folder
}

// ---- the report ----

#[test]
fn every_layout_is_reported_with_counts_and_sizes() {
    for (layout, name) in [
        ("folder", "image folder"),
        ("hf-disk", "datasets folder (Arrow)"),
        ("parquet", "parquet shards"),
        ("webdataset", "WebDataset tars"),
    ] {
        let said = Folder::new().nepa(&["data", &golden_data(layout)]);
        said.succeeds().prints(&[
            &format!("{layout}: {name}\n"),
            "train       28 images, 4 classes\n",
            "validation  12 images, 4 classes\n",
            "JPEGs are decoded by ",
            "train in detail (--split NAME for another)",
            "4, each of 7 images: ",
            "width 49 / 72 / 93, height 49 / 76 / 93 (least / median / most, of 28 images)",
            "3.8 kB an image on average, about 105 kB in all",
            "27 JPEG (1 CMYK, 1 grey, 1 progressive, 1 turned by Exif), 1 PNG",
        ]);
        let one = Folder::new().nepa(&["data", &golden_data(layout), "--split", "val"]);
        one.succeeds().prints(&["validation  12 images, 4 classes", "4, each of 3 images"]);
        assert!(!one.stdout.contains("train "), "{one}");
    }
}

#[test]
fn patterns_and_pixels_are_reported() {
    let said = Folder::new().nepa(&["data", &format!("{}/train-*.parquet", golden_data("parquet"))]);
    said.succeeds().prints(&["parquet shards", "28 images, 4 classes"]);
    let said = Folder::new().nepa(&["data", &fashion()]);
    said.succeeds().prints(&[
        ": IDX\n",
        "train  12000 images, 10 classes",
        "test   2000 images",
        "10, of 1154 (`T-shirt/top`) to 1262 images (`Sneaker`), median 1191",
        "    Sneaker      1262  ##############################\n",
        "width 28 / 28 / 28, height 28 / 28 / 28 (least / median / most, of 1000 sampled images)",
        "1000 pixels (1000 grey)",
    ]);
    assert!(!said.stdout.contains("JPEG"), "nothing is decoded: {said}");
    for (folder, name) in [("cifar-10-batches-py", "CIFAR-10, Python"), ("cifar-10-batches-bin", "CIFAR-10, binary")] {
        let path = repository(&format!("tests/fixtures/cifar/{folder}")).display().to_string();
        Folder::new().nepa(&["data", &path]).succeeds().prints(&[
            &format!("{folder}: {name} version\n"),
            "train  15 images, 10 classes\n",
            "test   3 images, 10 classes\n",
            "10, of 1 (`ship`) to 2 images (`airplane`), median 1",
            "15 pixels",
        ]);
    }
}

#[test]
fn few_classes_are_all_shown_and_of_many_the_largest_and_the_smallest() {
    let said = with_classes(&[("cat", 10), ("dog", 5), ("owl", 1)]).nepa(&["data", "d"]);
    said.succeeds().prints(&[
        "3, of 1 (`owl`) to 10 images (`cat`), median 5",
        "cat  10  ##############################\n    dog   5  ###############\n    owl   1  ###\n",
        "width 20 / 20 / 20, height 10 / 10 / 10",
        "16 PNG",
    ]);
    let names: Vec<String> = (0..25).map(|i| format!("c{i:02}")).collect();
    let counts: Vec<(&str, usize)> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i + 1)).collect();
    let said = with_classes(&counts).nepa(&["data", "d"]);
    said.succeeds().prints(&[
        "25, of 1 (`c00`) to 25 images (`c24`), median 13",
        "c24  25 ",
        "c20  21 ",
        "    …\n",
        "c00   1 ",
    ]);
    for hidden in ["c05 ", "c12 ", "c19 "] {
        assert!(!said.stdout.contains(hidden), "{said}");
    }
}

#[test]
fn classes_that_differ_between_splits_are_told() {
    let folder = Folder::new();
    for file in ["train/a", "train/b", "val/a"] {
        folder.write(&format!("d/{file}/1.png"), png(3, 3, [0; 3]));
    }
    let said = folder.nepa(&["data", "d"]);
    said.succeeds().prints(&["train  2 images, 2 classes\n", "val    1 image, 1 class; the classes differ"]);
}

#[test]
fn images_whose_header_cannot_be_read_are_told_without_a_scan() {
    let said = with_odd(&["rgb.jpg", "zero-bytes.jpg"]).nepa(&["data", "d"]);
    said.succeeds().prints(&["broken     1 of 2 images: item 1 (all/zero-bytes.jpg): the file is empty", "--scan"]);
}

#[test]
fn the_report_depends_on_nothing_but_the_data() {
    let once = || Folder::new().nepa(&["data", &fashion(), "--seed", "3"]).stdout;
    assert_eq!(once(), once());
}

// ---- scan ----

/// What a list holds: states and names.
fn listed(list: &str) -> BTreeSet<(String, String)> {
    let lines = list.lines().filter(|l| !l.starts_with('#'));
    let parts = |l: &str| l.split('\t').map(str::to_string).collect::<Vec<_>>();
    lines.map(parts).inspect(|p| assert_eq!(p.len(), 5, "{list}")).map(|p| (p[0].clone(), p[3].clone())).collect()
}

#[test]
fn a_scan_finds_exactly_the_broken_images() {
    let facts: Value = serde_json::from_slice(&odd("expected.json")).unwrap();
    let facts = facts.as_object().unwrap();
    // Kinds that Pillow reads and we do not are found, too.
    let unread = ["tiff-float.tif", "tiff-palette.tif"];
    let names: Vec<&str> = facts.keys().map(String::as_str).filter(|n| !unread.contains(n)).collect();
    let folder = with_odd(&names);
    for threads in ["1", "3"] {
        let said = folder.nepa(&["data", "d", "--scan", "--threads", threads]);
        let bad: BTreeSet<(String, String)> = facts
            .iter()
            .filter(|(_, f)| f.get("error").is_some())
            .map(|(name, _)| ("broken".to_string(), format!("all/{name}")))
            .collect();
        assert!(bad.len() >= 6);
        said.fails(1).prints(&[
            &format!("scan: {} broken of {} images", bad.len(), names.len()),
            "(all/zero-bytes.jpg): the file is empty",
            "listed in broken.txt",
        ]);
        let words = format!("scan images: {0}/{0} images in ", names.len());
        said.says(&[&words, "images/s", &format!("broken {}", bad.len())]);
        assert_eq!(listed(&folder.text("broken.txt")), bad, "{said}");
    }
}

#[test]
fn a_scan_of_whole_images_finds_nothing_and_writes_nothing() {
    for layout in ["folder", "hf-disk", "parquet", "webdataset"] {
        let folder = Folder::new();
        folder.nepa(&["data", &golden_data(layout), "--scan"]).succeeds().prints(&["scan: 0 broken of 40 images\n"]);
        assert_eq!(folder.names(""), Vec::<String>::new());
    }
}

#[test]
fn jpegs_that_decode_under_protest_are_damaged_but_readable() {
    let mut bytes =
        std::fs::read(Path::new(&golden_data("folder")).join("train/n01440764/n01440764_0003.JPEG")).unwrap();
    let middle = bytes.len() / 2;
    // A restart marker where none belongs.
    bytes[middle] = 0xff;
    bytes[middle + 1] = 0xd3;
    let folder = with_odd(&["rgb.jpg"]);
    folder.write("d/all/spoilt.jpg", bytes);
    let said = folder.nepa(&["data", "d", "--scan", "--list", "found.txt"]);
    said.succeeds().prints(&["scan: 0 broken, 1 damaged but readable of 2 images", "(all/spoilt.jpg): damaged: "]);
    let expected = BTreeSet::from([("damaged".to_string(), "all/spoilt.jpg".to_string())]);
    assert_eq!(listed(&folder.text("found.txt")), expected);
}

#[test]
fn all_splits_are_scanned_or_the_one_asked_for() {
    let folder = Folder::new();
    for split in ["train", "val"] {
        folder.write(&format!("d/{split}/a/1.png"), png(4, 4, [1; 3]));
        folder.write(&format!("d/{split}/a/2.png"), "no image");
    }
    folder.nepa(&["data", "d", "--scan"]).fails(1).prints(&[
        "2 broken of 4 images",
        "train item 1 (a/2.png): ",
        "val item 1 (a/2.png): ",
    ]);
    folder.nepa(&["data", "d", "--scan", "--split", "val"]).fails(1).prints(&["1 broken of 2 images"]);
}

#[test]
fn many_broken_images_are_all_listed_and_a_few_shown() {
    let folder = Folder::new();
    for i in 0..30 {
        folder.write(&format!("d/a/{i:02}.jpg"), "no image");
    }
    let said = folder.nepa(&["data", "d", "--scan"]);
    said.fails(1).prints(&["30 broken of 30 images", "item 19 (", "… and 10 more"]);
    assert!(!said.stdout.contains("item 20 ("), "{said}");
    assert_eq!(listed(&folder.text("broken.txt")).len(), 30);
}

#[test]
fn only_lists_of_scans_are_written_over() {
    let folder = with_odd(&["rgb.jpg", "zero-bytes.jpg"]);
    folder.write("broken.txt", "my notes on broken things");
    let said = folder.nepa(&["data", "d", "--scan"]);
    said.fails(1).says(&["--list: broken.txt already exists and is not a list of a scan", "--list broken-images.txt"]);
    assert_eq!((said.stdout.as_str(), folder.text("broken.txt").as_str()), ("", "my notes on broken things"));

    folder.nepa(&["data", "d", "--scan", "--list", "l.txt"]).fails(1);
    assert!(folder.text("l.txt").contains("1 broken of 2 images"));
    // Mended: the list says so.
    std::fs::remove_file(folder.path("d/all/zero-bytes.jpg")).unwrap();
    folder.nepa(&["data", "d", "--scan", "--list", "l.txt"]).succeeds();
    assert!(folder.text("l.txt").contains("0 broken of 1 image"));
    assert!(listed(&folder.text("l.txt")).is_empty());
}

#[test]
fn ctrl_c_ends_a_scan_with_what_it_has_found() {
    let folder = Folder::new();
    // Large enough that the scan takes long.
    let large = png(6000, 6000, [7; 3]);
    folder.write("d/a/00.png", "no image");
    folder.write("large.png", large);
    for i in 1..400 {
        std::os::unix::fs::symlink("../../large.png", folder.path(&format!("d/a/{i:03}.png"))).unwrap();
    }
    let running = folder.start(&["data", "d", "--scan", "--threads", "1"], &[]);
    running.wait_for("reading and decoding every image on 1 thread");
    std::thread::sleep(std::time::Duration::from_millis(500));
    running.signal(libc::SIGINT);
    let said = running.finish();
    said.fails(130).prints(&["scan: 1 broken of ", "(interrupted, of 400)", "listed in broken.txt"]);
    assert!(folder.text("broken.txt").contains("interrupted"));
}

// ---- the sheet ----

fn sheet(folder: &Folder, name: &str) -> image::RgbImage {
    image::load_from_memory(&folder.read(name)).unwrap().into_rgb8()
}

/// The picture in a column (0: original) and row of a sheet of `rows` rows with tiles of 160 pixels, `row_height` from
/// each other.
fn tile(sheet: &image::RgbImage, column: u32, row: u32, (rows, row_height): (u32, u32)) -> image::RgbImage {
    // From below: how many lines the title takes depends on the path.
    let top = sheet.height() - 6 - rows * row_height;
    image::imageops::crop_imm(sheet, 6 + column * 166, top + row * row_height + 20, 160, 160).to_image()
}

#[test]
fn a_sheet_shows_samples_as_they_are_and_in_six_epochs() {
    let folder = Folder::new();
    let args = ["data", &golden_data("folder"), "--sheet", "s.png", "--samples", "4", "--transforms"];
    let with = |list: &str, name: &str| {
        let mut args = args;
        args[3] = name;
        folder.nepa(&[&args[..], &[list]].concat()).succeeds().prints(&["contact sheet: ", name]);
        sheet(&folder, name)
    };
    let list = "[transform::random_resized_crop(160), transform::normalize(0.5, 0.25)]";
    let a = with(list, "a.png");
    // One or two lines of title.
    assert_eq!(a.width(), 6 + 7 * 166);
    assert!([46 + 4 * 186 + 6, 66 + 4 * 186 + 6].contains(&a.height()), "{}", a.height());
    let tiles: BTreeSet<Vec<u8>> = (0..4)
        .flat_map(|row| (0..7).map(move |column| (row, column)))
        .map(|(r, c)| tile(&a, c, r, (4, 186)).into_raw())
        .collect();
    assert_eq!(tiles.len(), 28, "all pictures differ");
    assert_eq!(a, with(list, "b.png"), "it depends on the seed alone");

    // Normalisation is undone, whatever it is; other steps of the batch are shown.
    let plain = with("[transform::resize([160, 160])]", "c.png");
    let other =
        with("[transform::resize([160, 160]), transform::normalize([0.1, 0.2, 0.3], [0.2, 0.5, 1.0])]", "d.png");
    let dark = with("[transform::resize([160, 160]), |b| b.images * 0.0]", "e.png");
    let worst = |a: &image::RgbImage, b: &image::RgbImage| {
        a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    for row in 0..4 {
        assert_eq!(tile(&plain, 1, row, (4, 186)), tile(&plain, 6, row, (4, 186)), "nothing is random");
        assert!(worst(&tile(&plain, 1, row, (4, 186)), &tile(&other, 1, row, (4, 186))) <= 1);
        assert!(tile(&dark, 1, row, (4, 186)).pixels().all(|p| p.0 == [0; 3]));
        assert_eq!(tile(&dark, 0, row, (4, 186)), tile(&plain, 0, row, (4, 186)));
    }
}

#[test]
fn a_sheet_shows_erasing_and_mixing_with_their_targets() {
    let folder = Folder::new();
    for (class, colour) in [("black", [0; 3]), ("white", [255; 3])] {
        folder.write(&format!("d/{class}/1.png"), png(160, 160, colour));
    }
    let list = "[transform::normalize(0.5, 0.5), transform::mixup(#{ cutmix_alpha: 0.0 })]";
    folder.nepa(&["data", "d", "--sheet", "s.png", "--transforms", list]).succeeds();
    let mixed = sheet(&folder, "s.png");
    // One more line: the shares of the classes.
    assert_eq!(mixed.dimensions(), (6 + 7 * 166, 46 + 2 * 206 + 6));
    let colours: BTreeSet<u8> = (1..7).map(|column| tile(&mixed, column, 0, (2, 206)).get_pixel(80, 80).0[0]).collect();
    assert!(colours.len() >= 4 && colours.iter().any(|c| (1..255).contains(c)), "{colours:?}");

    let list = "[transform::normalize(0.5, 0.5), transform::random_erasing(#{ p: 1.0 })]";
    folder.nepa(&["data", "d", "--sheet", "s.png", "--transforms", list]).succeeds();
    let erased = sheet(&folder, "s.png");
    for column in 1..7 {
        // Zero after normalisation is grey.
        let grey = tile(&erased, column, 0, (2, 186)).pixels().filter(|p| p.0 == [128; 3]).count();
        assert!(grey > 160 * 160 / 100, "{column}: {grey}");
    }
}

#[test]
fn small_pictures_are_enlarged_and_grey_ones_drawn() {
    let folder = Folder::new();
    let list = "[transform::random_crop(#{ padding: 2 })]";
    folder.nepa(&["data", &fashion(), "--sheet", "sub/s.png", "--samples", "3", "--transforms", list]).succeeds();
    let sheet = sheet(&folder, "sub/s.png");
    assert_eq!(sheet.width(), 6 + 7 * 166);
    for row in 0..3 {
        // 28 x 28, each pixel 5 x 5.
        let picture = tile(&sheet, 0, row, (3, 186));
        let inside = image::imageops::crop_imm(&picture, 10, 10, 140, 140).to_image();
        assert!(inside.enumerate_pixels().all(|(x, y, p)| p == inside.get_pixel(x / 5 * 5, y / 5 * 5)));
        assert_eq!(picture.get_pixel(9, 80).0, [255; 3]);
    }
}

#[test]
fn broken_images_are_no_samples() {
    let folder = with_odd(&["rgb.jpg", "zero-bytes.jpg", "cut.jpg", "text.jpg"]);
    folder.nepa(&["data", "d", "--sheet", "s.png"]).succeeds();
    assert_eq!(sheet(&folder, "s.png").height(), 46 + 224 + 26 + 6, "one row");
    let folder = with_odd(&["zero-bytes.jpg"]);
    folder.nepa(&["data", "d", "--sheet", "s.png"]).fails(1).says(&["none of the images of d", "can be read"]);
}

// ---- the loader's speed ----

#[test]
fn the_loader_is_measured_for_each_number_of_threads() {
    let list = "[transform::resize([8, 8]), transform::normalize(0.5, 0.5)]";
    let said = with_odd(&["rgb.jpg"]).nepa(&["data", "d", "--speed", "--threads", "3", "--transforms", list]);
    said.succeeds().prints(&["decoding whole images alone: ", "threads", "of 1 thread"]);
    let rows: Vec<Vec<&str>> = said
        .stdout
        .lines()
        .skip_while(|l| !l.contains("of 1 thread"))
        .skip_while(|l| l.contains("thread"))
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(rows.iter().map(|r| r[0]).collect::<Vec<_>>(), ["1", "2", "3"], "{said}");
    assert_eq!(rows[0][2], "1.00×");
    assert!(rows.iter().all(|r| r[1].parse::<f64>().unwrap() > 10.0), "{said}");
}

// ---- what is refused ----

#[test]
fn wrong_arguments_are_told() {
    let folder = with_classes(&[("cat", 1), ("dog", 1)]);
    folder.nepa(&["data"]).fails(2).says(&["<PATH>", "Usage: nepa data"]);
    folder.nepa(&["data", "--help"]).succeeds().prints(&["--scan", "--sheet", "--transforms", "--speed", "Exit code"]);
    folder.nepa(&["data", "dd"]).fails(1).says(&["dd does not exist"]);
    let golden = golden_data("folder");
    let said = folder.nepa(&["data", &golden, "--split", "vaildation"]);
    said.fails(1).says(&["no split \"vaildation\"", "did you mean `validation`?", "train, validation"]);
    folder.nepa(&["data", "d", "--sheet", "s.jpg"]).fails(1).says(&["expected a PNG file, found s.jpg", "s.png"]);
    folder.nepa(&["data", "d", "--transforms", "[]"]).fails(2).says(&["--sheet", "--speed"]);
    folder.nepa(&["data", "d", "--list", "x.txt"]).fails(2).says(&["--scan"]);
    folder.nepa(&["data", "d", "--sheet", "s.png", "--samples", "25"]).fails(2).says(&["25", "1..=24"]);
    folder.write("e/notes.md", "");
    folder.nepa(&["data", "e"]).fails(1).says(&["e has no known layout"]);
    assert_eq!(folder.names(""), ["d", "e"]);
}

#[test]
fn wrong_transforms_are_told_with_their_place_before_anything_is_read() {
    let folder = with_classes(&[("cat", 2)]);
    for (list, place, pieces) in [
        ("[transform::center_corp(8)]", "1:13", &["`transform::center_corp`", "did you mean `center_crop`?"][..]),
        ("[transform::center_crop(8", "1:26", &["syntax error"]),
        ("[transform::center_crop(0)]", "1:13", &["expected a size of 1 to 16384 pixels"]),
        ("[transform::center_crop(sice)]", "1:25", &["unknown variable `sice`"]),
        ("let size = 8;\n[transform::center_crop(sice)]", "2:25", &["did you mean `size`?"]),
        ("8", "1:1", &["expected a list of transforms, found the integer 8", "[transform::random_resized_crop(224)]"]),
        ("[8]", "1:1", &["found the integer 8 at index 0"]),
        ("[transform::normalize(0.5, 0.5), transform::center_crop(8)]", "1:1", &["center_crop([8, 8])", "before"]),
    ] {
        let said = folder.nepa(&["data", "d", "--sheet", "s.png", "--transforms", list]);
        let line: usize = place.split(':').next().unwrap().parse().unwrap();
        said.fails(1).at(&format!("--transforms:{place}"), list.lines().nth(line - 1).unwrap()).says(pieces);
        assert_eq!(said.stdout, "");
    }
}

#[test]
fn transforms_that_fail_on_the_images_are_told() {
    let folder = with_classes(&[("cat", 2)]);
    folder.write("d/cat/x.png", png(9, 9, [0; 3]));
    let of = |list: &str| folder.nepa(&["data", "d", "--sheet", "s.png", "--transforms", list]);
    of("[]").fails(1).says(&["cannot read item", "transform::center_crop"]);
    let list = "[transform::center_crop(8), |b| b.imges]";
    of(list).fails(1).at("--transforms:1:35", list).says(&["Batch has no property `imges`"]);
    of("[transform::center_crop(8), |b| b.images.sum([1])]").fails(1).says(&["C, H, W], found [3, 8, 8]", "[3, 8, 8]"]);
    assert_eq!(folder.names(""), ["d"]);
}
