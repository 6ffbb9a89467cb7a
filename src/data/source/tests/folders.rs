//! Image folders, IDX and what is in no layout.

use super::*;

fn classes(dir: &Dir) -> String {
    for name in ["a/1.jpg", "a/2.jpg", "b/1.jpg"] {
        dir.write(&format!("d/{name}"), name);
    }
    dir.text("d")
}

fn folder(path: &str) -> Result<ImageFolder> {
    ImageFolder::open(Path::new(path), None)
}

#[test]
fn the_order_is_pythons() {
    let dir = Dir::new();
    // What torchvision's find_classes and make_dataset make of these names, without the hidden ones.
    let expected = [
        "B/1.JPG",
        "a/10.jpg",
        "a/9.PNG",
        "a/Z.webp",
        "a/z.tiff",
        "a/é.gif",
        "a/日.bmp",
        "a/\u{1f600}.ppm",
        "a/x/1.tif",
        "a/x-y/1.jpeg",
        "a/x.d/1.pgm",
        "a/x/n/1.jpg",
        "a/x0/1.jpg",
        "a.b/1.jpg",
        "ä/1.jpg",
    ];
    for name in expected.iter().rev() {
        dir.write(&format!("d/{name}"), name);
    }
    for other in ["a/notes.txt", "a/jpg", "a/1.jpg.part", "a/x/1.npy", ".hidden/1.jpg", "a/.jpg"] {
        dir.write(&format!("d/{other}"), "no");
    }
    let source = folder(&dir.text("d")).unwrap();
    assert_eq!(names(&source), expected);
    assert_eq!(source.class_names(), ["B", "a", "a.b", "ä"]);
    assert_eq!(labels(&source), [vec![0], vec![1; 12], vec![2, 3]].concat());
    assert!((0..source.len()).all(|i| bytes(&source, i) == expected[i].as_bytes()));
}

#[test]
fn links_are_followed_but_not_in_cycles() {
    let dir = Dir::new();
    let path = classes(&dir);
    dir.write("far/deep/3.jpg", "3");
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(dir.path(to), dir.path(from)).unwrap();
    link("far", "d/c");
    link("far/deep/3.jpg", "d/b/0.jpg");
    let source = folder(&path).unwrap();
    assert_eq!(names(&source), ["a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg", "c/deep/3.jpg"]);
    assert_eq!(bytes(&source, 2), b"3");
    link("far", "far/deep/again");
    complains(folder(&path), &["again", "links to a folder that it lies in"]);
}

#[test]
fn splits_are_chosen_or_reported() {
    let dir = Dir::new();
    for name in ["d/train/a/1.jpg", "d/val/a/2.jpg", "d/meta/notes.txt"] {
        dir.write(name, "x");
    }
    let path = dir.text("d");
    complains(folder(&path), &["several splits: train, val", "name the one to open"]);
    complains(ImageFolder::with_classes(Path::new(&path)), &["splits rather than classes: train, val", "/d/train"]);
    let val = ImageFolder::open(Path::new(&path), Some("validation")).unwrap();
    assert_eq!((names(&val), val.split()), (strings(&["a/2.jpg"]), Some("val")));
    assert_eq!(folder(&dir.text("d/train")).unwrap().split(), Some("train"));
    // A class may be called like a split.
    dir.write("e/train/1.jpg", "x");
    dir.write("e/plane/1.jpg", "x");
    assert_eq!(folder(&dir.text("e")).unwrap().class_names(), ["plane", "train"]);
    complains(open(&dir.text("e"), Some("val")), &["has no splits"]);
}

#[test]
fn folders_without_classes_or_images_are_reported() {
    let dir = Dir::new();
    let path = classes(&dir);
    complains(folder(&dir.text("dd")), &["dd does not exist", "the nearest folder that exists is", "it holds: d"]);
    complains(folder(&dir.text("d/a/c/e")), &["does not exist", "nearest folder", "1.jpg, 2.jpg"]);
    complains(folder(&dir.text("d/a/1.jpg")), &["is a file"]);
    let pieces = &["has 2 images, but no class folders", "CLASS/IMAGE.jpg", "data::open"];
    complains(ImageFolder::with_classes(&dir.path("d/a")), pieces);
    dir.write("d/empty/notes.txt", "");
    complains(folder(&path), &["1 class folder without images: empty", ".webp"]);
    dir.write("none/notes.txt", "");
    complains(folder(&dir.text("none")), &["no class folders", "notes.txt"]);
    complains(open(&dir.text("none"), None), &["no known layout", "notes.txt", "dataset_dict.json", "*.tar"]);
    complains(open(&dir.text("none/notes.txt"), None), &["unknown kind"]);
    complains(open(&dir.text("nona"), None), &["did you mean", "none"]);
}

#[test]
fn a_kept_listing_is_used_until_something_changes() {
    let dir = Dir::new();
    let path = classes(&dir);
    folder(&path).unwrap();
    assert!(dir.kept().is_empty(), "what changed just now is not trusted");
    dir.settle("d");
    folder(&path).unwrap();
    let [kept] = &dir.kept()[..] else { panic!("one listing") };
    // A listing that says something else shows that it is used.
    let before = std::fs::metadata(kept).unwrap().modified().unwrap();
    assert_eq!(names(&folder(&path).unwrap()), ["a/1.jpg", "a/2.jpg", "b/1.jpg"]);
    assert_eq!(std::fs::metadata(kept).unwrap().modified().unwrap(), before);
    assert!(printed().is_empty());

    dir.write("d/b/0.jpg", "new");
    assert_eq!(folder(&path).unwrap().len(), 4);
    assert_eq!(printed(), [format!("the listing of {path} is out of date (b changed): listing again")]);
    dir.remove("d/a/1.jpg");
    dir.settle("d");
    assert_eq!(names(&folder(&path).unwrap()), ["a/2.jpg", "b/0.jpg", "b/1.jpg"]);
    assert_eq!(printed().len(), 1);
    dir.write("d/c/1.jpg", "");
    dir.settle("d");
    assert_eq!(folder(&path).unwrap().class_names(), ["a", "b", "c"]);
    assert_eq!(printed(), [format!("the listing of {path} is out of date (c is new): listing again")]);
    dir.remove("d/a");
    dir.settle("d");
    assert_eq!(folder(&path).unwrap().class_names(), ["b", "c"]);
    assert_eq!(printed(), [format!("the listing of {path} is out of date (a is gone): listing again")]);
    folder(&path).unwrap();
    assert!(printed().is_empty());
}

#[test]
fn a_damaged_listing_is_made_again() {
    let dir = Dir::new();
    let path = classes(&dir);
    dir.settle("d");
    folder(&path).unwrap();
    let kept = &dir.kept()[0];
    let whole = std::fs::read(kept).unwrap();
    for place in (0..whole.len()).step_by(3) {
        let mut wrong = whole.clone();
        wrong[place] ^= 0x11;
        std::fs::write(kept, if place % 2 == 0 { &wrong[..] } else { &whole[..place] }).unwrap();
        assert_eq!(names(&folder(&path).unwrap()), ["a/1.jpg", "a/2.jpg", "b/1.jpg"]);
        assert!(std::fs::read(kept).unwrap() == whole, "written again");
    }
    assert!(printed().is_empty());
}

#[test]
fn a_listing_that_cannot_be_written_is_no_error() {
    let dir = Dir::new();
    let path = classes(&dir);
    dir.settle("d");
    dir.write("file", "");
    listing::testing::set_folder(&dir.path("file/listings"));
    assert_eq!(folder(&path).unwrap().len(), 3);
}

#[test]
fn idx_gives_pixels() {
    let dir = Dir::new();
    let idx = |magic: u32, sizes: &[u32], content: &[u8]| {
        let words = std::iter::once(&magic).chain(sizes).flat_map(|w| w.to_be_bytes());
        words.chain(content.iter().copied()).collect::<Vec<u8>>()
    };
    dir.write("d/t10k-images-idx3-ubyte", idx(0x803, &[2, 2, 3], &(0..12).collect::<Vec<u8>>()));
    dir.write("d/t10k-labels-idx1-ubyte", idx(0x801, &[2], &[1, 0]));
    let path = dir.text("d");
    assert_eq!(Place::find(&path).unwrap().layout, Layout::Idx);
    assert_eq!(splits(&path).unwrap(), ["test"]);
    let source = open(&path, Some("validation")).unwrap();
    assert_eq!((source.split(), source.shape()), (Some("test"), Some([1, 2, 3])));
    assert_eq!((labels(&*source), names(&*source)), (vec![1, 0], strings(&["test/00000000", "test/00000001"])));
    let StoredImage::Pixels(image) = source.read(1).unwrap() else { panic!("pixels") };
    assert_eq!(image, Image::new(3, 2, 1, (6..12).collect()));
    complains(open(&path, Some("train")), &["no split \"train\"", "test"]);
    complains(Idx::open(Path::new(&path), "tset"), &["\"tset\"", "\"train\" or \"test\""]);
    complains(Idx::open(Path::new(&path), "train"), &["train-images-idx3-ubyte.gz", "the folder holds: t10k-images"]);
    complains(Idx::open(&dir.path("nowhere"), "train"), &["nowhere does not exist"]);
    for cut in [3, 17, 20] {
        let whole = idx(0x803, &[2, 2, 3], &[7; 12]);
        dir.write("d/t10k-images-idx3-ubyte", &whole[..cut]);
        complains(open(&path, None), &["t10k-images-idx3-ubyte"]);
    }
}
