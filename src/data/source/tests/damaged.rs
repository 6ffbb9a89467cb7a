//! Files that claim what cannot be, name what is not theirs, or are no files.

use super::tables::{batch, parquet, plain};
use super::*;
use ::parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{ArrayRef, DictionaryArray, Int16Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, Field};
use std::sync::Arc;

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A Thrift number.
fn number(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)) as u64)
}

/// A Parquet file of this footer after this content.
fn closed(content: &[u8], footer: &[u8]) -> Vec<u8> {
    [content, footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

/// A Parquet file with `new` in place of the only `old` of its footer.
fn with_footer(file: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let end = file.len() - 8;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
    let (content, footer) = file[..end].split_at(end - length);
    let at: Vec<usize> = (0..footer.len()).filter(|at| footer[*at..].starts_with(old)).collect();
    assert_eq!(at.len(), 1, "{old:02x?} in the footer");
    closed(content, &[&footer[..at[0]], new, &footer[at[0] + old.len()..]].concat())
}

#[test]
fn parquet_that_announces_impossible_rows_is_told() {
    let dir = Dir::new();
    let file = plain(&batch(0..61));
    // The rows of the file come before the list of its row groups; those of the group before its offset.
    let (of_file, of_group) =
        ([&[0x16][..], &number(61), &[0x19]].concat(), [&[0x16][..], &number(61), &[0x26]].concat());
    for rows in [62, 1_000_000_000_000_000_000, -1, i64::MIN] {
        let changed = with_footer(&file, &of_file, &[&[0x16][..], &number(rows), &[0x19]].concat());
        dir.write("a.parquet", &changed);
        complains(open(&dir.text("a.parquet"), None), &["a.parquet is cut short or damaged", "rows"]);
        dir.write("a.parquet", with_footer(&changed, &of_group, &[&[0x16][..], &number(rows), &[0x26]].concat()));
        complains(open(&dir.text("a.parquet"), None), &["a.parquet is cut short or damaged"]);
    }
}

/// Rows without an image or label, which take next to nothing.
#[test]
fn parquet_of_more_rows_than_bytes_is_told() {
    let dir = Dir::new();
    let mut images = BinaryBuilder::new();
    (0..100_000).for_each(|_| images.append_null());
    let labels = Int64Array::from(vec![None; 100_000]);
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("image", Arc::new(images.finish()) as ArrayRef, true),
        ("label", Arc::new(labels) as _, true),
    ]);
    dir.write("a.parquet", plain(&rows.unwrap()));
    complains(open(&dir.text("a.parquet"), None), &["a.parquet", "100000 rows, more than it has bytes"]);

    // A table of labels alone, next to one of images, is none of its shards.
    let labels = Arc::new(Int64Array::from(vec![1; 100_000])) as ArrayRef;
    dir.write("d/labels.parquet", plain(&RecordBatch::try_from_iter([("label", labels)]).unwrap()));
    dir.write("d/train.parquet", plain(&batch(0..61)));
    assert_eq!(open(&dir.text("d"), None).unwrap().len(), 61);
}

#[test]
fn parquet_with_columns_nested_without_end_is_told() {
    let dir = Dir::new();
    let n = 100_000;
    let mut footer = [&[0x15, 2, 0x19, 0xfc][..], &varint(n)].concat();
    // Columns, each with a name and one child; the first is no column, the last has values.
    footer.extend([0x48, 1, b'a', 0x15, 2, 0]);
    (2..n).for_each(|_| footer.extend([0x35, 0, 0x18, 1, b'a', 0x15, 2, 0]));
    footer.extend([0x15, 12, 0x25, 0, 0x18, 1, b'a', 0]);
    footer.extend([0x16, 0, 0x19, 0x0c, 0]);
    dir.write("a.parquet", closed(b"PAR1", &footer));
    complains(open(&dir.text("a.parquet"), None), &["a.parquet is cut short or damaged", "nested more than 64 deep"]);
}

/// A file of one page of labels, whose header announces `size` bytes when unpacked.
fn announcing(compression: Compression, size: i64) -> Vec<u8> {
    let mut images = BinaryBuilder::new();
    (0..2000).for_each(|_| images.append_value(noise(1)));
    let labels = Int64Array::from_iter_values((0..2000).map(|i| i * 7919 % 1000));
    let rows = RecordBatch::try_from_iter([
        ("image", Arc::new(images.finish()) as ArrayRef),
        ("label", Arc::new(labels) as _),
    ]);
    let props = WriterProperties::builder().set_compression(compression).set_dictionary_enabled(false);
    let mut file = parquet(&rows.unwrap(), props.build());
    let reader = SerializedFileReader::new(bytes::Bytes::from(file.clone())).unwrap();
    let (start, length) = reader.metadata().row_group(0).column(1).byte_range();
    let (start, end) = (start as usize, (start + length) as usize);
    // Its kind, its size when unpacked, and its size, each after the byte of its field.
    let is_end = |at: &usize| file[*at] & 0x80 == 0;
    let plain_end = (start + 3..).find(is_end).unwrap() + 1;
    let packed_end = (plain_end + 1..).find(is_end).unwrap() + 1;
    assert_eq!((file[start + 2], file[plain_end]), (0x15, 0x15));
    let packed = (plain_end + 1..packed_end).rev().fold(0, |n, at| n << 7 | i64::from(file[at] & 0x7f)) >> 1;
    // What the number grows by is cut from the page, so that the column keeps its size.
    let new = number(size);
    let cut = new.len() as i64 - (plain_end - start - 3) as i64;
    let head = [&[0x15][..], &new, &[0x15], &number(packed - cut)].concat();
    let header = [&file[start..start + 2], &head, &file[packed_end..]].concat();
    let kept = header.len() - (file.len() - end) - cut.max(0) as usize;
    let tail = file.split_off(end);
    file.truncate(start);
    [&file[..], &header[..kept], &tail].concat()
}

#[test]
fn parquet_pages_that_announce_too_much_or_too_little_are_told() {
    let dir = Dir::new();
    let codecs = [
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
    ];
    for codec in codecs {
        dir.write("a.parquet", announcing(codec, i32::MAX as i64));
        complains(open(&dir.text("a.parquet"), None), &["a.parquet", "announces 2147483647"]);
    }
    // Those that the crate would unpack to the end, however long.
    for codec in &codecs[1..] {
        dir.write("a.parquet", announcing(*codec, 100));
        complains(open(&dir.text("a.parquet"), None), &["a.parquet", "more than the 100 bytes"]);
    }
}

/// Every byte in turn: no panic, and the file is named.
#[test]
fn arrow_with_any_byte_changed_is_read_or_told() {
    let dir = Dir::new();
    dir.write("d/dataset_info.json", "{}");
    dir.write("d/state.json", r#"{ "_data_files": [{ "filename": "data.arrow" }] }"#);
    let whole = std::fs::read(repository("fuzz/seeds/arrow/whole.arrow")).unwrap();
    let (mut told, mut read) = (0, 0);
    for at in 0..whole.len() {
        for value in [0xff, whole[at] ^ 1] {
            let mut changed = whole.clone();
            changed[at] = value;
            dir.write("d/data.arrow", &changed);
            match open(&dir.text("d"), None) {
                Err(error) => {
                    let text = one_line(&error);
                    assert!(text.contains("data.arrow") && !text.contains("internal"), "byte {at}: {text}");
                    told += 1;
                }
                Ok(source) => (0..source.len()).for_each(|i| read += source.read(i).is_ok() as usize),
            }
        }
    }
    assert!(told > 100 && read > 100, "{told} {read}");
}

/// One row with a path in place of its image.
fn pointing(path: &str) -> RecordBatch {
    let (mut bytes, mut paths) = (BinaryBuilder::new(), StringBuilder::new());
    bytes.append_null();
    paths.append_value(path);
    let (bytes, paths): (ArrayRef, ArrayRef) = (Arc::new(bytes.finish()), Arc::new(paths.finish()));
    let image = StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes),
        (Arc::new(Field::new("path", DataType::Utf8, true)), paths),
    ]);
    RecordBatch::try_from_iter_with_nullable([("image", Arc::new(image) as ArrayRef, true)]).unwrap()
}

#[test]
fn paths_in_tables_stay_in_the_data_sets_folder() {
    let dir = Dir::new();
    dir.write("secret", "secret");
    dir.write("d/inside/x.gif", "image");
    std::os::unix::fs::symlink(dir.path("secret"), dir.path("d/link.gif")).unwrap();
    dir.write("e/dataset_info.json", "{}");
    dir.write("e/state.json", r#"{ "_data_files": [{ "filename": "data.arrow" }] }"#);
    dir.write("e/inside/x.gif", "image");
    let absolute = dir.text("secret");
    for path in ["../secret", "inside/../../secret", &absolute, "/dev/zero", ""] {
        dir.write("d/a.parquet", plain(&pointing(path)));
        dir.write("e/data.arrow", super::tables::arrow(&[pointing(path)]));
        for data in ["d/a.parquet", "e"] {
            let source = open(&dir.text(data), None).unwrap();
            complains(source.read(0).map(drop), &[&format!("names the file \"{path}\""), "not lie in its folder", "/"]);
        }
    }
    // As a user lays it out: below the folder, or linked from there; by its whole path, too.
    let whole = dir.text("d/inside/x.gif");
    for (path, content) in
        [("inside/x.gif", "image"), ("./inside/x.gif", "image"), (&*whole, "image"), ("link.gif", "secret")]
    {
        dir.write("d/a.parquet", plain(&pointing(path)));
        assert_eq!(bytes(&*open(&dir.text("d/a.parquet"), None).unwrap(), 0), content.as_bytes());
    }
    for name in ["../secret", &absolute] {
        dir.write("e/state.json", format!(r#"{{ "_data_files": [{{ "filename": "{name}" }}] }}"#));
        complains(open(&dir.text("e"), None), &[&format!("names the file \"{name}\""), "folder"]);
    }
    dir.write("f/dataset_dict.json", r#"{ "splits": ["../e"] }"#);
    complains(open(&dir.text("f"), None), &["names the file \"../e\""]);
}

#[test]
fn only_files_are_read_as_images_and_shards() {
    let dir = Dir::new();
    dir.write("d/cat/1.gif", "image");
    std::os::unix::fs::symlink(dir.path("d/cat/1.gif"), dir.path("d/cat/2.gif")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path("d/cat/3.gif")).unwrap();
    let pipe = |name: &str| {
        let name = std::ffi::CString::new(dir.text(name)).unwrap();
        // SAFETY: a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    };
    pipe("d/cat/4.gif");
    std::fs::File::create(dir.path("d/cat/5.gif")).unwrap().set_len(100 << 30).unwrap();
    let source = ImageFolder::open(&dir.path("d"), None).unwrap();
    assert_eq!([bytes(&source, 0), bytes(&source, 1)], [b"image", b"image"]);
    for (index, what) in [(2, "3.gif is a device"), (3, "4.gif is a named pipe"), (4, "5.gif has 107374182400 bytes")] {
        complains(source.read(index).map(drop), &[what]);
    }
    pipe("train.tar");
    pipe("train.parquet");
    for name in ["train.tar", "train.parquet"] {
        complains(open(&dir.text(name), None), &[name, "is no ."]);
    }
}

#[test]
fn links_that_lead_nowhere_are_no_classes_and_no_shards() {
    let dir = Dir::new();
    dir.write("d/cat/1.gif", "image");
    dir.write("file", "");
    for (name, to) in [("dog", "../gone"), ("elk", "elk"), ("fox", "../file/fox")] {
        std::os::unix::fs::symlink(to, dir.path("d").join(name)).unwrap();
    }
    printed();
    assert_eq!(ImageFolder::open(&dir.path("d"), None).unwrap().class_names(), ["cat"]);
    let mut said = printed();
    said.sort();
    let expected = ["dog", "elk", "fox"].map(|name| format!("d/{name} is a link that leads nowhere: it is no class"));
    assert!(said.len() == 3 && said.iter().zip(&expected).all(|(said, line)| said.ends_with(line)), "{said:?}");
    dir.write("s/train-0.tar", "");
    std::os::unix::fs::symlink("gone", dir.path("s/train-1.tar")).unwrap();
    complains(open(&dir.text("s/train-*.tar"), None), &["s/train-1.tar is a link that leads nowhere"]);
    std::fs::remove_file(dir.path("s/train-0.tar")).unwrap();
    complains(open(&dir.text("s"), None), &["s/train-1.tar"]);
}

/// A few bytes may stand for more than there is memory.
#[test]
fn texts_that_many_rows_share_are_held_once_and_long_ones_are_no_labels() {
    for (length, unfit) in [(1000, None), (1 << 20, Some("row 0 holds a text of 1048576 bytes"))] {
        let text = "x".repeat(length);
        let texts = Arc::new(StringArray::from(vec![text.as_str()]));
        let mut labels = super::super::labels::Labels::default();
        labels.push(&DictionaryArray::new(Int16Array::from(vec![0; 30_000]), texts));
        assert_eq!((labels.len(), labels.unfit.as_deref()), (30_000, unfit));
    }
}

#[test]
fn a_gzip_file_that_unpacks_without_end_is_told() {
    use std::io::{Read as _, Write as _};
    let dir = Dir::new();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[0x803u32, 300, 1000, 1000].map(u32::to_be_bytes).concat()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(300_000_000), &mut packed).unwrap();
    dir.write("d/train-images-idx3-ubyte.gz", packed.finish().unwrap());
    dir.write("d/train-labels-idx1-ubyte", [0x801u32.to_be_bytes(), 1u32.to_be_bytes()].concat());
    complains(Idx::open(&dir.path("d"), "train"), &["train-images-idx3-ubyte.gz unpacks to more than 268435456 bytes"]);
}

#[test]
fn patterns_that_stand_for_too_many_files_are_refused() {
    let dir = Dir::new();
    for (pattern, what) in [("{0..9999999}.tar", "too long"), ("{0..9999}{0..9999}.tar", "more than 1000000 files")] {
        complains(open(&dir.text(pattern), None), &[pattern, what]);
    }
}

/// Links in an archive, and names that leave it, are names alone.
#[test]
fn archives_are_read_within_themselves() {
    let dir = Dir::new();
    dir.write("secret.gif", "secret");
    let mut tar = ::tar::Builder::new(Vec::new());
    let mut add = |name: &str, link: Option<&str>, content: &[u8]| {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = link {
            header.set_entry_type(::tar::EntryType::Symlink);
            header.set_link_name_literal(target).unwrap();
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    let secret = dir.text("secret.gif");
    add("a.gif", Some(&secret), b"");
    add("../secret.gif", None, b"inside");
    add("/etc/hostname.gif", None, b"inside");
    dir.write("a.tar", tar.into_inner().unwrap());
    let source = open(&dir.text("a.tar"), None).unwrap();
    assert_eq!([bytes(&*source, 0), bytes(&*source, 1)], [b"inside", b"inside"]);
    assert_eq!(source.len(), 2);
}

#[test]
fn samples_of_too_many_files_are_told() {
    let dir = Dir::new();
    let mut tar = ::tar::Builder::new(Vec::new());
    for i in 0..1001 {
        let mut header = ::tar::Header::new_gnu();
        header.set_cksum();
        tar.append_data(&mut header, format!("a.{i}"), &b""[..]).unwrap();
    }
    dir.write("a.tar", tar.into_inner().unwrap());
    complains(open(&dir.text("a.tar"), None), &["a.tar: more than 1000 files share the name a"]);
}
