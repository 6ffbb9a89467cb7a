//! The headers of tar archives: ustar, GNU long names, pax paths.
//!
//! The `tar` crate reads archives as streams and hides where things lie; here the places are what is wanted.

use super::paths;
use crate::bail_hint;
use crate::error::{Context as _, Result, bail};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const BLOCK: usize = 512;
/// What is read at a time while looking for headers: small files between the images come along.
const WINDOW: usize = 4096;
/// No name or label is longer.
const SMALL: u64 = 1 << 20;

/// A file in an archive.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: Vec<u8>,
    /// Where its content begins.
    pub at: u64,
    pub size: u64,
}

/// Goes through an archive's files in their order.
pub(super) struct Archive<'a> {
    path: &'a Path,
    file: File,
    size: u64,
    /// The next header.
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    last: String,
    /// Whether the archive ended with the mark that it should have.
    pub marked: bool,
}

impl<'a> Archive<'a> {
    pub fn open(path: &'a Path) -> Result<Self> {
        if !path.exists() {
            return Err(paths::missing(path));
        }
        let reading = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(reading)?;
        let size = file.metadata().with_context(reading)?.len();
        if size == 0 {
            bail_hint!("{} is empty (0 bytes)", path.display(); "it was cut short; fetch it again");
        }
        let mut archive =
            Self { path, file, size, at: 0, window: Vec::new(), window_at: 0, last: String::new(), marked: false };
        let start = archive.bytes(0, size.min(6) as usize)?;
        let compressed =
            [(&b"\x1f\x8b"[..], "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")];
        if let Some((_, how)) = compressed.iter().find(|(magic, _)| start.starts_with(magic)) {
            refuse_compressed(path, how)?;
        }
        Ok(archive)
    }

    /// The next file; None at the end.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let (mut long_name, mut long_size) = (None, None);
        loop {
            if self.at == self.size {
                return Ok(None);
            }
            if self.size - self.at < BLOCK as u64 {
                return self.cut("the next header");
            }
            let header_at = self.at;
            let header: [u8; BLOCK] = self.bytes(header_at, BLOCK)?.try_into().expect("a block");
            if header.iter().all(|b| *b == 0) {
                self.marked = true;
                return Ok(None);
            }
            let sum: u64 =
                header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { *b as u64 }).sum();
            let (Some(size), true) = (number(&header[124..136]), number(&header[148..156]) == Some(sum)) else {
                bail_hint!(
                    "{} is damaged at byte {header_at}{}: there is no tar header", self.path.display(), self.after();
                    "fetch it again; expected an uncompressed tar archive"
                );
            };
            let kind = header[156];
            let size = long_size.filter(|_| matches!(kind, b'0' | 0 | b'7')).unwrap_or(size);
            let name = long_name.clone().unwrap_or_else(|| plain_name(&header));
            let at = header_at + BLOCK as u64;
            let end = at.checked_add(size).filter(|end| *end <= self.size);
            let Some(end) = end else {
                return self.cut(&format!("{} ({size} bytes from byte {at})", String::from_utf8_lossy(&name)));
            };
            // The padding of the last file may be missing.
            self.at = end.next_multiple_of(BLOCK as u64).min(self.size);
            match kind {
                b'0' | 0 | b'7' => {
                    self.last = String::from_utf8_lossy(&name).into_owned();
                    return Ok(Some(Entry { name, at, size }));
                }
                b'L' | b'x' if size <= SMALL => {
                    let content = self.bytes(at, size as usize)?.to_vec();
                    if kind == b'L' {
                        long_name = Some(until_zero(&content).to_vec());
                    } else {
                        for (key, value) in pax(&content) {
                            match key {
                                b"path" => long_name = Some(value.to_vec()),
                                b"size" => long_size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()),
                                _ => (),
                            }
                        }
                    }
                }
                b'S' => bail!("{} holds a sparse file, {}", self.path.display(), String::from_utf8_lossy(&name)),
                // A comment, or the long target of a link, belongs to what follows as well.
                b'g' | b'K' => (),
                // Folders, links and the like.
                _ => (long_name, long_size) = (None, None),
            }
        }
    }

    /// The content of a small file.
    pub fn content(&mut self, entry: &Entry) -> Result<&[u8]> {
        if entry.size > SMALL {
            bail!("{}: {} is too long for a label", self.path.display(), String::from_utf8_lossy(&entry.name));
        }
        self.bytes(entry.at, entry.size as usize)
    }

    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let inside = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let wanted = WINDOW.max(len).min((self.size - at) as usize);
            self.window.resize(wanted, 0);
            let reading = || format!("cannot read {} at byte {at}", self.path.display());
            self.file.read_exact_at(&mut self.window, at).with_context(reading)?;
            self.window_at = at;
        }
        let start = (at - self.window_at) as usize;
        Ok(&self.window[start..start + len])
    }

    fn after(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!(", after {}", self.last) }
    }

    fn cut<T>(&self, what: &str) -> Result<T> {
        bail_hint!(
            "{} is cut short: it ends at byte {}, inside {what}{}", self.path.display(), self.size, self.after();
            "fetch it again"
        )
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

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn plain_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let (name, prefix) = (until_zero(&header[..100]), until_zero(&header[345..500]));
    // GNU's own format keeps times where ustar keeps the prefix.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
}

/// An octal number, or a large one in binary.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let bytes: [u8; 8] = field.get(field.len() - 8..)?.try_into().ok()?;
        return Some(u64::from_be_bytes(bytes)).filter(|n| *n < 1 << 62);
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// The records "LENGTH KEY=VALUE\n" of a pax header.
fn pax(mut content: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut records = Vec::new();
    while let Some(space) = content.iter().position(|b| *b == b' ') {
        let length = std::str::from_utf8(&content[..space]).ok().and_then(|t| t.parse::<usize>().ok());
        let Some(record) = length.and_then(|n| content.get(space + 1..n)) else { break };
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        if let Some(equals) = record.iter().position(|b| *b == b'=') {
            records.push((&record[..equals], &record[equals + 1..]));
        }
        content = &content[length.unwrap_or(content.len())..];
    }
    records
}
