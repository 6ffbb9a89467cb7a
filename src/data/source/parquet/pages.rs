//! Where each value of a column of byte strings lies in its file.
//!
//! Writers put a whole row group's images into one page, often the dictionary's. Readers that go by pages would unpack
//! 10 MB for each image; so a row group's pages are scanned once, and then the position of every value is known.
//! benches/data/README.md has the figures.

use super::header::{Compact, Header, Kind};
use super::snappy::{self, Start};
use crate::data::source::paths::read_at;
use crate::error::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// What must be known about a column chunk.
pub(super) struct Chunk {
    /// Its place in the file.
    pub range: Range<u64>,
    pub rows: usize,
    pub snappy: bool,
    /// The definition level of a value that is there.
    pub max_def: u32,
}

/// Where a chunk's values are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Values {
    bodies: Vec<PageBody>,
    rows: Vec<Position>,
}

/// The part of a page that may be compressed.
#[derive(Debug, Serialize, Deserialize)]
struct PageBody {
    /// Its file offset.
    offset: u64,
    size: u32,
    /// Where decompression can start; empty if it is not compressed.
    starts: Vec<Start>,
}

/// Where a value is in the decompressed body of a page.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Position {
    page: u32,
    at: u32,
    /// `NULL`: there is no value.
    size: u32,
}

const NULL: u32 = u32::MAX;

impl Values {
    /// Scans a chunk's pages. An error means only that this kind of chunk is not known here.
    pub fn locate(file: &File, chunk: &Chunk) -> Result<Self> {
        let mut values = Self { bodies: Vec::new(), rows: Vec::with_capacity(chunk.rows) };
        let mut dictionary = Vec::new();
        let Range { start: mut at, end } = chunk.range;
        while values.rows.len() < chunk.rows {
            ensure!(at < end, "a column chunk ends after {} of {} rows", values.rows.len(), chunk.rows);
            let (header, header_size) = Header::read(file, at, end)?;
            at += header_size;
            ensure!(header.has_runs_of_levels, "an encoding of levels");
            let size = u64::try_from(header.packed)?;
            ensure!(at + size <= end, "a page is longer than its column chunk");
            let mut page = Page::read(file, at, &header, chunk)?;
            at += size;
            let number = values.bodies.len() as u32;
            let count = usize::try_from(header.values)?;
            let holds_values = match header.kind {
                Kind::Dictionary => {
                    ensure!(matches!(header.encoding, PLAIN | PLAIN_DICTIONARY), "an encoding");
                    dictionary = plain(&page.plain, 0, count, number)?;
                    true
                }
                Kind::Data | Kind::Data2 => {
                    // Also keeps a damaged number from asking for gigabytes.
                    ensure!(count <= chunk.rows - values.rows.len(), "a page has more rows than its row group");
                    page.positions(&header, chunk, number, &dictionary, &mut values.rows)?
                }
                Kind::Other => false,
            };
            if holds_values {
                values.bodies.push(page.body);
            }
        }
        ensure!(values.rows.len() == chunk.rows, "a column chunk has more than its {} rows", chunk.rows);
        Ok(values)
    }

    /// The value of a row; None if it is null.
    pub fn read(&self, file: &File, row: usize) -> Result<Option<Vec<u8>>> {
        let Position { page, at, size } = self.rows[row];
        if size == NULL {
            return Ok(None);
        }
        let body = &self.bodies[page as usize];
        if body.starts.is_empty() {
            return Ok(Some(read_at(file, body.offset + at as u64, size as usize)?));
        }
        let first = body.starts.partition_point(|s| s.plain <= at) - 1;
        let start = body.starts[first];
        let behind = body.starts[first..].iter().find(|s| s.plain >= at + size).map_or(body.size, |s| s.packed);
        thread_local! {
            /// What was read and what it was unpacked to, so that each image costs one allocation, its own.
            static BUFFERS: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
        }
        BUFFERS.with_borrow_mut(|(packed, plain)| {
            let n = (behind - start.packed) as usize;
            if packed.len() < n {
                packed.resize(n, 0);
            }
            file.read_exact_at(&mut packed[..n], body.offset + start.packed as u64)?;
            let skip = (at - start.plain) as usize;
            snappy::unpack_some(&packed[..n], skip + size as usize, plain)?;
            Ok(Some(plain[skip..skip + size as usize].to_vec()))
        })
    }
}

impl Values {
    /// Whether what was read from a file is consistent, for a chunk of `rows` rows.
    pub fn is_consistent(&self, rows: usize) -> bool {
        let known = |p: &Position| p.size == NULL || (p.page as usize) < self.bodies.len();
        self.rows.len() == rows && self.rows.iter().all(known)
    }
}

/// A page while its values are being located.
struct Page {
    body: PageBody,
    /// The decompressed body.
    plain: Vec<u8>,
    /// The definition levels of a data page of version 2, which precede the body.
    levels: Vec<u8>,
}

impl Page {
    /// The page behind `header`, at a file offset.
    fn read(file: &File, at: u64, header: &Header, chunk: &Chunk) -> Result<Self> {
        let mut plain = read_at(file, at, usize::try_from(header.packed)?)?;
        let mut levels = Vec::new();
        if header.kind == Kind::Data2 {
            ensure!(header.rep_size == 0, "lists");
            let split = usize::try_from(header.def_size)?;
            ensure!(split <= plain.len(), "a page without levels");
            let rest = plain.split_off(split);
            levels = std::mem::replace(&mut plain, rest);
        }
        let plain_size = usize::try_from(header.plain)?.checked_sub(levels.len()).context("a page without a size")?;
        let mut body = PageBody { offset: at + levels.len() as u64, size: plain.len() as u32, starts: Vec::new() };
        if chunk.snappy && header.is_packed && body.size > 0 {
            (plain, body.starts) = snappy::unpack(&plain, plain_size)?;
        }
        Ok(Self { body, plain, levels })
    }

    /// Adds the positions of a data page's values to `rows`; whether they are in this page, not in the dictionary.
    fn positions(
        &mut self,
        header: &Header,
        chunk: &Chunk,
        number: u32,
        dictionary: &[Position],
        rows: &mut Vec<Position>,
    ) -> Result<bool> {
        let count = usize::try_from(header.values)?;
        let mut from = 0;
        if header.kind == Kind::Data && chunk.max_def > 0 {
            let head = self.plain.get(..4).context("a page without levels")?;
            let n = u32::from_le_bytes(head.try_into().expect("4 bytes")) as usize;
            self.levels = self.plain.get(4..4 + n).context("a page without levels")?.to_vec();
            from = 4 + n;
        }
        let there: Vec<bool> = match chunk.max_def {
            0 => vec![true; count],
            max => {
                let bits = 32 - max.leading_zeros();
                hybrid(&self.levels, bits, count)?.into_iter().map(|level| level == max).collect()
            }
        };
        let present = there.iter().filter(|t| **t).count();
        let found: Vec<Position> = match header.encoding {
            PLAIN => plain(&self.plain, from, present, number)?,
            PLAIN_DICTIONARY | RLE_DICTIONARY if present == 0 => Vec::new(),
            PLAIN_DICTIONARY | RLE_DICTIONARY => {
                let bits = *self.plain.get(from).context("a page without indices")?;
                let indices = hybrid(&self.plain[from + 1..], bits as u32, present)?;
                let entries = indices.into_iter().map(|i| dictionary.get(i as usize).copied());
                entries.collect::<Option<_>>().context("no such dictionary entry")?
            }
            other => bail!("the encoding {other}"),
        };
        let mut found = found.into_iter();
        let null = Position { page: number, at: 0, size: NULL };
        rows.extend(there.iter().map(|t| if *t { found.next().unwrap_or(null) } else { null }));
        Ok(header.encoding == PLAIN)
    }
}

/// Byte strings, each after its length.
fn plain(body: &[u8], from: usize, count: usize, page: u32) -> Result<Vec<Position>> {
    let (mut at, mut positions) = (from, Vec::with_capacity(count.min(body.len() / 4)));
    for _ in 0..count {
        let Some(head) = body.get(at..at + 4) else { bail!("a page ends inside its values") };
        let size = u32::from_le_bytes(head.try_into().expect("4 bytes"));
        ensure!(at + 4 + size as usize <= body.len() && size != NULL, "a page ends inside a value");
        positions.push(Position { page, at: at as u32 + 4, size });
        at += 4 + size as usize;
    }
    Ok(positions)
}

/// Runs of one number, and numbers of `bits` bits side by side.
fn hybrid(bytes: &[u8], bits: u32, count: usize) -> Result<Vec<u32>> {
    ensure!(bits <= 32, "numbers of {bits} bits");
    let mut input = Compact { bytes, at: 0 };
    let mut out: Vec<u32> = Vec::with_capacity(count.min(1 << 20));
    while out.len() < count {
        let head = input.varint()?;
        if head & 1 == 0 {
            let mut value = 0u32;
            for i in 0..bits.div_ceil(8) {
                value |= (input.byte()? as u32) << (8 * i);
            }
            let run = (head >> 1) as usize;
            ensure!(run > 0, "an empty run");
            out.extend(std::iter::repeat_n(value, run.min(count - out.len())));
        } else {
            let (mut held, mut have) = (0u64, 0);
            for _ in 0..(head >> 1).saturating_mul(8) {
                if out.len() == count {
                    break;
                }
                while have < bits {
                    held |= (input.byte()? as u64) << have;
                    have += 8;
                }
                out.push((held & ((1 << bits) - 1)) as u32);
                held >>= bits;
                have -= bits;
            }
        }
    }
    Ok(out)
}

const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE_DICTIONARY: i64 = 8;
