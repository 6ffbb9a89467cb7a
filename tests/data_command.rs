//! `nepa data`, as a user runs it.

mod common;

use common::*;

fn fixture(layout: &str) -> String {
    format!("{}/tests/fixtures/data/{layout}", env!("CARGO_MANIFEST_DIR"))
}

fn with_photos(broken: bool) -> Folder {
    let folder = Folder::new();
    for class in ["n01440764", "n02099601"] {
        for i in 0..3 {
            let bytes = std::fs::read(fixture(&format!("folder/train/{class}/{class}_000{i}.JPEG"))).unwrap();
            folder.write(&format!("d/{class}/{i}.jpg"), bytes);
        }
    }
    if broken {
        folder.write("d/n02099601/1.jpg", "");
        let whole = folder.read("d/n01440764/2.jpg");
        folder.write("d/n01440764/2.jpg", &whole[..whole.len() / 2]);
    }
    folder
}

#[test]
fn every_layout_is_recognised_and_counted() {
    for (layout, name) in [
        ("folder", "image folder"),
        ("hf-disk", "datasets folder (Arrow)"),
        ("parquet", "parquet shards"),
        ("webdataset", "WebDataset tars"),
    ] {
        let said = Folder::new().nepa(&["data", &fixture(layout)]);
        said.succeeds().prints(&[name, "train: 28 images, 4 classes", "validation: 12 images, 4 classes"]);
        said.prints(&["least 7", "least 3", "JPEG", "1 PNG", "decoded by"]);
        let said = Folder::new().nepa(&["data", &fixture(layout), "--split", "val"]);
        said.succeeds().prints(&["validation: 12 images"]);
        assert!(!said.stdout.contains("28 images"), "{said}");
    }
    Folder::new().nepa(&["data", &fashion()]).succeeds().prints(&["IDX", "28 x 28, 1 channel(s)", "test: 2000 images"]);
}

#[test]
fn an_uneven_balance_is_drawn() {
    let folder = with_photos(false);
    std::fs::remove_file(folder.path("d/n02099601/1.jpg")).unwrap();
    let said = folder.nepa(&["data", "d"]);
    said.succeeds().prints(&["least 2 (n02099601)", "most 3 (n01440764)", "##########"]);
}

#[test]
fn a_scan_finds_what_is_broken_and_nothing_else() {
    with_photos(false).nepa(&["data", "d", "--scan"]).succeeds().prints(&["6 images read: 0 broken, 0 damaged"]);
    for threads in ["1", "3"] {
        let folder = with_photos(true);
        let said = folder.nepa(&["data", "d", "--scan", "--list", "broken.txt", "--threads", threads]);
        said.fails(1).prints(&[
            "6 images read: 2 broken",
            "n02099601/1.jpg  the file is empty",
            "n01440764/2.jpg",
            "truncated",
            "broken.txt",
        ]);
        said.says(&["scan: 6/6"]);
        let list = folder.text("broken.txt");
        assert_eq!(list.lines().count(), 2, "{list}");
        assert!(list.lines().all(|line| line.split('\t').count() == 4), "{list}");
    }
}

#[test]
fn a_scan_is_left_with_what_it_has_so_far() {
    let folder = Folder::new();
    let source = std::fs::read(fixture("folder/train/n01440764/n01440764_0000.JPEG")).unwrap();
    for i in 0..20_000 {
        let name = format!("d/c/{i:05}.jpg");
        match i {
            0 => folder.write(&name, &source),
            _ => std::fs::hard_link(folder.path("d/c/00000.jpg"), folder.path(&name)).unwrap(),
        }
    }
    let running = folder.start(&["data", "d", "--scan", "--threads", "1"], &[]);
    running.wait_for("");
    std::thread::sleep(std::time::Duration::from_millis(300));
    running.signal(libc::SIGINT);
    running.finish().fails(130).prints(&["interrupted after", "of 20000 images"]);
}

#[test]
fn a_contact_sheet_shows_images_before_and_after() {
    let folder = with_photos(false);
    let list = "[transform::random_resized_crop(64), transform::normalize(0.5, 0.25), \
                transform::random_erasing(#{ p: 1.0, mode: \"pixel\" }), transform::mixup(#{})]";
    let args = ["data", "d", "--sheet", "out/sheet.png", "--samples", "4", "--transforms", list];
    folder.nepa(&args).succeeds().prints(&["out/sheet.png"]);
    let sheet = image::open(folder.path("out/sheet.png")).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (8 + 7 * 168, 8 + 4 * 188));
    // Cells are pictures, and no two versions of an image are the same.
    let cell = |row: u32, column: u32| {
        let (left, top) = (8 + column * 168, 8 + row * 188 + 20);
        image::imageops::crop_imm(&sheet, left, top, 160, 160).to_image().into_raw()
    };
    for row in 0..4 {
        let cells: Vec<_> = (0..7).map(|column| cell(row, column)).collect();
        for (i, a) in cells.iter().enumerate() {
            assert!(a.iter().any(|v| *v != 255), "an empty cell {row} {i}");
            assert!(cells[i + 1..].iter().all(|b| a != b), "the same picture twice in row {row}");
        }
    }
    let first = folder.read("out/sheet.png");
    folder.nepa(&args).succeeds();
    assert_eq!(first, folder.read("out/sheet.png"), "the same seed gives the same sheet");
}

#[test]
fn speed_is_measured_for_growing_numbers_of_threads() {
    let said = with_photos(false).nepa(&["data", "d", "--speed", "--threads", "2"]);
    said.succeeds().prints(&["threads  images/s", "      1  ", "      2  "]);
}

#[test]
fn wrong_arguments_are_told() {
    let folder = with_photos(false);
    folder.nepa(&["data"]).fails(2).says(&["<PATH>"]);
    folder.nepa(&["data", "--help"]).succeeds().prints(&["--split", "--scan", "--sheet", "--speed", "--transforms"]);
    folder.nepa(&["data", "nowhere"]).fails(1).says(&["nowhere does not exist"]);
    folder.nepa(&["data", "d/n02099601"]).fails(1).says(&["3 images, but no class folders", "CLASS/IMAGE.jpg"]);
    let split = |name| folder.nepa(&["data", &fixture("folder"), "--split", name]);
    split("trian").fails(1).says(&["trian", "did you mean", "train"]);
    let transforms = |list| folder.nepa(&["data", "d", "--sheet", "x.png", "--transforms", list]);
    transforms("[transform::resize(8), transform::center_corp(8)]").fails(1).says(&[
        "--transforms:1:",
        "center_corp",
        "did you mean",
        "center_crop",
    ]);
    transforms("[transform::resize(8").fails(1).says(&["--transforms:1:"]);
    transforms("3").fails(1).says(&["--transforms", "expected a list of transforms", "integer 3"]);
    transforms("[transform::normalize(0.5, 0.5), transform::center_crop(8)]").fails(1).says(&["center_crop", "before"]);
    let said = folder.nepa(&["data", "d", "--sheet", "x.jpg"]);
    said.fails(1).says(&["PNG", "x.jpg"]);
    assert!(!folder.path("x.png").exists());
}
