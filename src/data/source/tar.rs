//! The files in a tar archive and where their content lies, by the `tar` crate.

use super::paths;
use crate::bail_hint;
use crate::error::{Context as _, Result, bail};
use ::tar::{Archive, EntryType};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const BLOCK: u64 = 512;
/// What is read at a time while looking for headers: small files between the images come along.
const WINDOW: usize = 4096;
/// No label is longer.
const SMALL: u64 = 1 << 20;

/// A file in an archive.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: Vec<u8>,
    /// Where its content begins in the archive.
    pub offset: u64,
    pub size: u64,
}

/// Calls `visit` with each file of an archive, in its order, and a function that reads the file if it is small.
/// Returns whether the archive ends with the mark that it should have.
pub(super) fn each_member(
    path: &Path,
    mut visit: impl FnMut(&Member, &mut dyn FnMut() -> Result<Vec<u8>>) -> Result<()>,
) -> Result<bool> {
    let (file, size) = open(path)?;
    let position = Position::default();
    let mut archive = Archive::new(Window { file: &file, position: &position, bytes: Vec::new(), from: 0 });
    let mut last = String::new();
    let after = |last: &str| if last.is_empty() { String::new() } else { format!(", after {last}") };
    let cut = |what: &str, last: &str| -> Result<bool> {
        bail_hint!(
            "{} is cut short: it ends at byte {size}, inside {what}{}", path.display(), after(last);
            "fetch it again"
        )
    };
    let reading = || format!("cannot read {}", path.display());
    for entry in archive.entries_with_seek().with_context(reading)? {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(e) if e.raw_os_error().is_some() => return Err(e).with_context(reading),
            Err(_) if position.hit_end.get() => return cut("the next header", &last),
            Err(e) => {
                let at = position.at.get().saturating_sub(BLOCK);
                bail_hint!(
                    "{} is damaged at byte {at}{}: {e}", path.display(), after(&last);
                    "fetch it again; expected an uncompressed tar archive"
                )
            }
        };
        let member =
            Member { name: entry.path_bytes().into_owned(), offset: entry.raw_file_position(), size: entry.size() };
        let name = String::from_utf8_lossy(&member.name).into_owned();
        if member.offset.checked_add(member.size).is_none_or(|end| end > size) {
            return cut(&format!("{name} ({} bytes from byte {})", member.size, member.offset), &last);
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => (),
            EntryType::GNUSparse => bail!("{} holds a sparse file, {name}", path.display()),
            // Folders, links and the like.
            _ => continue,
        }
        visit(&member, &mut || {
            if member.size > SMALL {
                bail!("{}: {name} is too long for a label", path.display());
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).with_context(reading)?;
            Ok(content)
        })?;
        last = name;
    }
    Ok(!position.hit_end.get())
}

/// An archive's file and its size.
fn open(path: &Path) -> Result<(File, u64)> {
    if !path.exists() {
        return Err(paths::missing(path));
    }
    let reading = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(reading)?;
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

/// How far an archive was read.
#[derive(Default)]
struct Position {
    at: Cell<u64>,
    /// Whether more was asked for than there is.
    hit_end: Cell<bool>,
}

/// Reads a file through a small window, so that skipping content costs nothing.
struct Window<'a> {
    file: &'a File,
    position: &'a Position,
    bytes: Vec<u8>,
    /// Where `bytes` begin in the file.
    from: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let at = self.position.at.get();
        if !(self.from..self.from + self.bytes.len() as u64).contains(&at) {
            self.bytes.resize(WINDOW, 0);
            let n = self.file.read_at(&mut self.bytes, at)?;
            self.bytes.truncate(n);
            self.from = at;
        }
        let rest = &self.bytes[(at - self.from) as usize..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.position.at.set(at + n as u64);
        if n == 0 && !out.is_empty() {
            self.position.hit_end.set(true);
        }
        Ok(n)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.at.get().checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        self.position.at.set(at);
        Ok(at)
    }
}

/// The complaint about a compressed archive.
pub(super) fn refuse_compressed(path: &Path, how: &str) -> Result<()> {
    let unpack = match how {
        "zstd" => "zstd -d",
        "bzip2" => "bunzip2",
        "xz" => "unxz",
        _ => "gunzip",
    };
    bail_hint!(
        "{} is compressed ({how})", path.display();
        "images are read in any order, which a compressed archive does not allow; unpack it once: `{unpack} {}`",
        path.display()
    )
}
