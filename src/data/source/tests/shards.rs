//! WebDataset archives.

use super::*;

/// A tar header.
fn header(name: &[u8], size: usize, kind: u8) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sign(&mut block);
    block
}

/// Writes a header's checksum.
fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| *b as u32).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A record of a pax header; `text` ends its line.
fn record(text: String) -> String {
    let n = (text.len() + 2..).find(|n| n.to_string().len() + 1 + text.len() == *n).unwrap();
    format!("{n} {text}")
}

fn entry(name: &[u8], content: &[u8], kind: u8) -> Vec<u8> {
    let mut out = header(name, content.len(), kind);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// An archive of plain files.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out: Vec<u8> = files.iter().flat_map(|(name, content)| entry(name.as_bytes(), content, b'0')).collect();
    out.resize(out.len() + 1024, 0);
    out
}

fn web(dir: &Dir, name: &str) -> Result<WebDataset> {
    WebDataset::open(&dir.text(name), None)
}

#[test]
fn samples_are_grouped_by_name() {
    let dir = Dir::new();
    let files: &[(&str, &[u8])] = &[
        ("x/b.JPG", b"one"),
        ("x/b.cls", b" 2\n"),
        ("x/b.seg.png", b"mask"),
        ("x/a.v.1.jpg", b"not an image by its ending"),
        ("x/a.json", br#"{"label": 1, "class_name": "cat"}"#),
        ("x/a.png", b"two"),
        ("README", b"no sample"),
        ("lone.cls", b"1"),
        ("c.webp", b"three"),
        ("y/b.gif", b"four"),
        ("y/b.json", br#"{"cls": 7}"#),
        ("y/b.cls", b"0"),
    ];
    dir.write("d/train-0.tar", tar(files));
    dir.settle("d");
    for _ in 0..2 {
        let source = web(&dir, "d").unwrap();
        let expected = ["x/b.JPG", "x/a.png", "c.webp", "y/b.gif"].map(|n| format!("train-0.tar/{n}"));
        assert_eq!(names(&source), expected);
        assert_eq!(labels(&source), [2, 1, -1, 0]);
        assert_eq!(source.class_names(), ["0", "cat", "2"]);
        assert_eq!(bytes(&source, 2), b"three");
        assert_eq!(source.split(), Some("train"));
        assert_eq!(printed(), [format!("{}: left out 1 samples without an image", dir.text("d"))]);
    }
    assert_eq!(dir.kept().len(), 1);
}

#[test]
fn class_names_come_from_beside_from_json_or_are_numbers() {
    let dir = Dir::new();
    dir.write("d/0.tar", tar(&[("a.jpg", b"1"), ("a.json", br#"{"wnid": "n2"}"#), ("b.jpg", b"2")]));
    dir.write("d/1.tar", tar(&[("c.jpg", b"3"), ("c.json", br#"{"wnid": "n1"}"#)]));
    let source = web(&dir, "d").unwrap();
    assert_eq!((source.class_names(), source.split()), (&strings(&["n1", "n2"])[..], None));
    assert_eq!(labels(&source), [1, -1, 0]);
    dir.write("d/classes.txt", "n0\nn1\nn2\n");
    let source = web(&dir, "d").unwrap();
    assert_eq!((source.class_names().len(), labels(&source)), (3, vec![2, -1, 1]));
    dir.write("d/1.tar", tar(&[("c.jpg", b"3"), ("c.cls", b"3")]));
    complains(web(&dir, "d"), &["classes.txt", "3 classes", "labels up to 3"]);
    dir.write("d/1.tar", tar(&[("c.jpg", b"3"), ("c.cls", b"cat")]));
    complains(web(&dir, "d"), &["1.tar: c.cls holds \"cat\"", "number of the class"]);
    dir.write("d/1.tar", tar(&[("c.jpg", b"3"), ("c.cls", b"-5")]));
    complains(web(&dir, "d"), &["1.tar: c.jpg has the label -5"]);
    dir.write("d/1.tar", tar(&[("c.jpg", b"3"), ("c.json", b"{")]));
    complains(web(&dir, "d"), &["1.tar: c.json is not JSON"]);
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let dir = Dir::new();
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
    let gnu = entry(b"././@LongLink", format!("{long}.jpg\0").as_bytes(), b'L');
    let pax = [record("mtime=1.5\n".into()), record(format!("path={long}2.jpg\n"))].concat();
    let mut prefixed = header(b"p.jpg", 1, b'0');
    prefixed[345..348].copy_from_slice(b"dir");
    sign(&mut prefixed);
    let mut folder_first = entry(b"d/", b"", b'5');
    folder_first.extend([gnu, entry(b"cut.jpg", b"A", b'0')].concat());
    folder_first.extend([entry(b"g", b"13 comment=x\n", b'g'), entry(b"p", pax.as_bytes(), b'x')].concat());
    folder_first.extend([entry(b"cut.jpg", b"BB", b'0'), prefixed, vec![b'C'; 512], vec![0; 1024]].concat());
    dir.write("t.tar", folder_first);
    let source = web(&dir, "t.tar").unwrap();
    let expected = [format!("{long}.jpg"), format!("{long}2.jpg"), "dir/p.jpg".into()];
    assert_eq!(names(&source), expected.map(|n| format!("t.tar/{n}")));
    assert_eq!((0..3).map(|i| bytes(&source, i)).collect::<Vec<_>>(), [b"A".to_vec(), b"BB".to_vec(), b"C".to_vec()]);
}

#[test]
fn a_folder_without_a_size_and_headers_between_a_name_and_its_file_lose_nothing() {
    let dir = Dir::new();
    let mut folder = header(b"d/", 0, b'5');
    folder[124..136].fill(0);
    sign(&mut folder);
    let long = format!("{}/two\nlines", "d".repeat(120));
    let local = entry(b"p", record(format!("path={long}.jpg\n")).as_bytes(), b'x');
    let global = entry(b"g", record("comment=of all\n".into()).as_bytes(), b'g');
    let link = entry(b"././@LongLink", b"target\0", b'K');
    let image = |name: &str| entry(name.as_bytes(), name.as_bytes(), b'0');
    let parts = [folder, image("a.jpg"), local.clone(), global, link, image("b.jpg"), image("c.jpg")];
    dir.write("t.tar", [parts.concat(), vec![0; 1024]].concat());
    let source = web(&dir, "t.tar").unwrap();
    assert_eq!(names(&source), ["a", &long, "c"].map(|n| format!("t.tar/{n}.jpg")));
    assert_eq!((0..3).map(|i| bytes(&source, i)).collect::<Vec<_>>(), [b"a.jpg", b"b.jpg", b"c.jpg"]);
    // A name without its file.
    dir.write("t.tar", [image("a.jpg"), local.clone(), vec![0; 1024]].concat());
    complains(web(&dir, "t.tar"), &["t.tar is damaged at byte 2048, after a.jpg", "not followed by its file"]);
    dir.write("t.tar", [image("a.jpg"), local].concat());
    complains(web(&dir, "t.tar"), &["t.tar is cut short", "the next header, after a.jpg"]);
    dir.write("t.tar", [entry(b"p", b"7 path=long", b'x'), image("a.jpg"), vec![0; 1024]].concat());
    complains(web(&dir, "t.tar"), &["t.tar is damaged at byte 0", "a pax header that cannot be read"]);
}

#[test]
fn sparse_files_are_refused_by_name() {
    let dir = Dir::new();
    dir.write("t.tar", [entry(b"s.jpg", b"1", b'S'), vec![0; 1024]].concat());
    complains(web(&dir, "t.tar"), &["t.tar holds a sparse file, s.jpg"]);
    let records = [record("GNU.sparse.major=1\n".into()), record("GNU.sparse.name=x/s.jpg\n".into())].concat();
    let pax = entry(b"p", records.as_bytes(), b'x');
    dir.write("t.tar", [pax, entry(b"GNUSparseFile.0/s.jpg", b"1", b'0'), vec![0; 1024]].concat());
    complains(web(&dir, "t.tar"), &["t.tar holds a sparse file, x/s.jpg"]);
}

#[test]
fn archives_that_are_cut_damaged_or_packed_are_reported() {
    let dir = Dir::new();
    let (one, two) = (noise(1), noise(2));
    let whole = tar(&[("a.jpg", &one), ("b.jpg", &two)]);
    let second = 512 + one.len().next_multiple_of(512);
    for (cut, what) in [
        (100, "the next header"),
        (600, "a.jpg"),
        (second + 20, "the next header, after a.jpg"),
        (second + 530, "b.jpg"),
    ] {
        dir.write("t.tar", &whole[..cut]);
        complains(web(&dir, "t.tar"), &["t.tar is cut short", &format!("ends at byte {cut}"), what]);
    }
    dir.write("t.tar", &whole[..whole.len() - 1024]);
    assert_eq!(web(&dir, "t.tar").unwrap().len(), 2);
    assert!(printed()[0].contains("t.tar has no end mark"));
    let mut wrong = whole.clone();
    wrong[second + 3] ^= 1;
    dir.write("t.tar", &wrong);
    complains(web(&dir, "t.tar"), &["t.tar is damaged", &format!("byte {second}, after a.jpg")]);
    dir.write("t.tar", "");
    complains(web(&dir, "t.tar"), &["t.tar is empty (0 bytes)"]);
    dir.write("t.tar", b"\x1f\x8b\x08\0\0\0\0\0");
    complains(web(&dir, "t.tar"), &["t.tar is compressed (gzip)", "gunzip"]);
    dir.write("d/t.tar.gz", "");
    complains(open(&dir.text("d"), None), &["t.tar.gz is compressed (gzip)"]);
    dir.write("t.tar", tar(&[("a.txt", b"no image")]));
    complains(web(&dir, "t.tar"), &["holds no images", "NAME.cls"]);
    complains(web(&dir, "u.tar"), &["u.tar does not exist"]);
}

#[test]
fn samples_that_come_twice_are_reported() {
    let dir = Dir::new();
    dir.write("t.tar", tar(&[("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3")]));
    complains(web(&dir, "t.tar"), &["t.tar holds the sample a twice"]);
    dir.write("t.tar", tar(&[("a.jpg", b"1"), ("a.JPG", b"2")]));
    complains(web(&dir, "t.tar"), &["t.tar holds a.JPG twice"]);
}

#[test]
fn a_kept_index_is_used_until_the_archive_changes() {
    let dir = Dir::new();
    dir.write("t.tar", tar(&[("a.jpg", b"1")]));
    dir.settle("t.tar");
    web(&dir, "t.tar").unwrap();
    let kept = &dir.kept()[0];
    let state = |p: &Path| std::fs::metadata(p).unwrap().modified().unwrap();
    let before = state(kept);
    web(&dir, "t.tar").unwrap();
    assert!(state(kept) == before && printed().is_empty());
    dir.write("t.tar", tar(&[("b.jpg", b"1")]));
    assert_eq!(names(&web(&dir, "t.tar").unwrap()), ["t.tar/b.jpg"]);
    let line = format!("the listing of {} is out of date (the file changed): listing again", dir.text("t.tar"));
    assert_eq!(printed(), [line]);
    // What changed just now is not kept, as it may change again at the same time.
    dir.settle("t.tar");
    web(&dir, "t.tar").unwrap();
    assert_eq!(printed().len(), 1);
    let whole = std::fs::read(kept).unwrap();
    std::fs::write(kept, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(web(&dir, "t.tar").unwrap().len(), 1);
    assert!(std::fs::read(kept).unwrap() == whole && printed().is_empty());
}
