//! The files in a tar archive and where their content lies; the fields of its headers are read by the `tar` crate.
//!
//! The crate's own iterator is not used: it takes an empty size field for damage, and gives the long name that a local
//! pax header announces to a global header in between.

use super::{listing, paths};
use crate::bail_hint;
use crate::error::{Context as _, Result, bail};
use crate::untrusted;
use ::tar::{EntryType, Header};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const BLOCK: usize = 512;
/// What is read at a time while looking for headers: small files between the images come along.
const WINDOW: usize = 4096;
/// No name or label is longer.
const SMALL: u64 = 1 << 20;

/// A file in an archive.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: Vec<u8>,
    /// Where its content begins in the archive.
    pub offset: u64,
    pub size: u64,
}

/// What headers of their own say of the file after them.
#[derive(Default, PartialEq)]
struct Announced {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Whether it has holes that are not stored.
    sparse: bool,
}

/// Calls `visit` with each file of an archive, in its order, and a function that reads the file if it is small.
/// Returns whether the archive ends with the mark that it should have.
pub(super) fn each_member(
    path: &Path,
    mut visit: impl FnMut(&Member, &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<()>,
) -> Result<bool> {
    let (file, size) = open(path)?;
    let mut window = Window { file: &file, size, bytes: Vec::new(), from: 0 };
    let reading = || format!("cannot read {}", path.display());
    let cut = |what: &str, last: &str| cut_short(path, size, what, last);
    let damaged = |at: u64, last: &str, what: &str| damaged(path, at, what, last);
    let (mut at, mut last, mut announced) = (0, String::new(), Announced::default());
    let mut has_links = false;
    loop {
        let nothing_open = announced == Announced::default();
        if at >= size && nothing_open {
            return Ok(false);
        }
        if at.saturating_add(BLOCK as u64) > size {
            return cut("the next header", &last);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(window.bytes(at, BLOCK).with_context(reading)?);
        if header.as_bytes().iter().all(|b| *b == 0) {
            return if nothing_open { Ok(true) } else { damaged(at, &last, "a long name is not followed by its file") };
        }
        let stored = match size_in(&header) {
            Ok(stored) => stored,
            Err(e) => return damaged(at, &last, &e.to_string()),
        };
        let kind = header.entry_type();
        let describes_next = matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        );
        let announced_here = if describes_next { Announced::default() } else { std::mem::take(&mut announced) };
        let member = Member {
            name: announced_here.name.unwrap_or_else(|| header.path_bytes().into_owned()),
            offset: at + BLOCK as u64,
            size: announced_here.size.unwrap_or(stored),
        };
        let name = String::from_utf8_lossy(&member.name).into_owned();
        if kind == EntryType::GNUSparse || announced_here.sparse {
            bail!("{} holds a sparse file, {name}", path.display());
        }
        let Some(end) = member.offset.checked_add(member.size).filter(|end| *end <= size) else {
            return cut(&format!("{name} ({} bytes from byte {})", member.size, member.offset), &last);
        };
        let header_at = at;
        // The padding of the last file may be missing.
        at = end.next_multiple_of(BLOCK as u64);
        match kind {
            EntryType::GNULongName | EntryType::XHeader => {
                if member.size > SMALL {
                    return damaged(header_at, &last, &format!("a name of {} bytes", member.size));
                }
                let content = window.bytes(member.offset, member.size as usize).with_context(reading)?;
                if kind == EntryType::GNULongName {
                    announced.name = content.split(|b| *b == 0).next().map(<[u8]>::to_vec);
                } else if announced.add_pax(content).is_none() {
                    return damaged(header_at, &last, "a pax header that cannot be read");
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                visit(&member, &mut || {
                    if member.size > SMALL {
                        bail!("{}: {name} is too long for a label", path.display());
                    }
                    Ok(window.bytes(member.offset, member.size as usize).with_context(reading)?.to_vec())
                })?;
                last = name;
            }
            EntryType::Link | EntryType::Symlink if !has_links && paths::is_image_name(&member.name) => {
                has_links = true;
                listing::note(&format!("{}: {name} is a link to another file: links are passed over", path.display()));
            }
            // Comments on the whole archive, long targets of links; folders and the like.
            _ => (),
        }
    }
}

/// An archive that ends inside something, after the file `last`.
fn cut_short<T>(path: &Path, size: u64, what: &str, last: &str) -> Result<T> {
    bail_hint!(
        "{} is cut short: it ends at byte {size}, inside {what}{}", path.display(), after(last);
        "fetch it again"
    )
}

/// An archive with something at byte `at`, after the file `last`, that no archive has.
fn damaged<T>(path: &Path, at: u64, what: &str, last: &str) -> Result<T> {
    bail_hint!(
        "{} is damaged at byte {at}{}: {what}", path.display(), after(last);
        "fetch it again; expected an uncompressed tar archive"
    )
}

fn after(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!(", after {last}") }
}

/// The bytes that a header says follow it; an error unless it is one.
fn size_in(header: &Header) -> io::Result<u64> {
    let bytes = header.as_bytes();
    // With spaces in place of itself.
    let value = |(i, b): (usize, &u8)| if (148..156).contains(&i) { 32 } else { u32::from(*b) };
    let sum: u32 = bytes.iter().enumerate().map(value).sum();
    if header.cksum()? != sum {
        return Err(io::Error::other("archive header checksum mismatch"));
    }
    // Some leave the field empty for folders.
    let empty = header.as_old().size.iter().all(|b| matches!(b, 0 | b' '));
    if empty { Ok(0) } else { header.entry_size() }
}

impl Announced {
    /// Adds what the records "LENGTH KEY=VALUE\n" of a pax header say; None if they are none. Values may contain
    /// line ends.
    fn add_pax(&mut self, mut records: &[u8]) -> Option<()> {
        while !records.is_empty() {
            let space = records.iter().position(|b| *b == b' ')?;
            let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|b| *b == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                b"GNU.sparse.name" => (self.name, self.sparse) = (Some(value.to_vec()), true),
                _ => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
            records = &records[length..];
        }
        Some(())
    }
}

/// An archive's file and its size.
fn open(path: &Path) -> Result<(File, u64)> {
    if !path.exists() {
        return Err(paths::missing(path));
    }
    let reading = || format!("cannot read {}", path.display());
    let file = untrusted::open(path)?;
    let size = file.metadata().with_context(reading)?.len();
    if size == 0 {
        bail_hint!("{} is empty (0 bytes)", path.display(); "it was cut short; fetch it again");
    }
    let mut start = [0; 6];
    let n = file.read_at(&mut start, 0).with_context(reading)?;
    let compressed =
        [(&b"\x1f\x8b"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")];
    if let Some((_, how)) = compressed.iter().find(|(magic, _)| start[..n].starts_with(magic)) {
        refuse_compressed(path, how)?;
    }
    Ok((file, size))
}

/// Reads a file through a small window.
struct Window<'a> {
    file: &'a File,
    size: u64,
    bytes: Vec<u8>,
    /// Where `bytes` begin in the file.
    from: u64,
}

impl Window<'_> {
    /// `len` bytes, all of them inside the file.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let inside = at >= self.from && at + len as u64 <= self.from + self.bytes.len() as u64;
        if !inside {
            self.bytes.resize((WINDOW.max(len) as u64).min(self.size - at) as usize, 0);
            self.from = at;
            self.file.read_exact_at(&mut self.bytes, at)?;
        }
        let start = (at - self.from) as usize;
        Ok(&self.bytes[start..start + len])
    }
}

/// The complaint about a compressed archive.
pub(super) fn refuse_compressed(path: &Path, how: &str) -> Result<()> {
    let unpack = match how {
        "zstd" => "zstd -d",
        "bzip2" => "bunzip2",
        "xz" => "unxz",
        "lz4" => "unlz4",
        _ => "gunzip",
    };
    bail_hint!(
        "{} is compressed ({how})", path.display();
        "images are read in any order, which a compressed archive does not allow; unpack it once: `{unpack} {}`",
        path.display()
    )
}
