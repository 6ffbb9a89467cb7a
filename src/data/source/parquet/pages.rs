//! Where each value of a column of byte strings lies in its file.
//!
//! Writers put a whole row group's images into one page, often the dictionary's. Readers that go by pages would
//! unpack 10 MB for each image; so a row group's pages are gone through once, and then every value is a place.

use super::header::{Compact, Header, Kind};
use super::snappy::{self, Start};
use crate::data::source::listing::{Reader, Writer};
use crate::data::source::paths::read_at;
use crate::error::{Context as _, Result, bail, ensure};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// What is needed to know of a column chunk.
pub(super) struct Chunk {
    pub at: u64,
    pub size: u64,
    pub rows: usize,
    pub snappy: bool,
    /// The definition level of a value that is there.
    pub max_def: u32,
}

/// The places of a chunk's values.
pub(super) struct Values {
    pages: Vec<Page>,
    rows: Vec<Spot>,
}

/// The part of a page that may be packed.
struct Page {
    at: u64,
    size: u32,
    /// Where it can be unpacked from; empty if it is not packed.
    starts: Vec<Start>,
}

#[derive(Debug, Clone, Copy)]
struct Spot {
    page: u32,
    at: u32,
    /// `NULL`: there is no value.
    size: u32,
}

const NULL: u32 = u32::MAX;

impl Values {
    /// Goes through a chunk's pages. An error means no more than that the chunk is not one of those known here.
    pub fn locate(file: &File, chunk: &Chunk) -> Result<Self> {
        let (mut pages, mut rows, mut dictionary) = (Vec::new(), Vec::with_capacity(chunk.rows), Vec::new());
        let (mut at, end) = (chunk.at, chunk.at + chunk.size);
        while rows.len() < chunk.rows {
            ensure!(at < end, "a column chunk ends after {} of {} rows", rows.len(), chunk.rows);
            let (header, header_size) = Header::read(file, at, end)?;
            at += header_size;
            let size = u64::try_from(header.packed)?;
            ensure!(at + size <= end, "a page is longer than its column chunk");
            let mut body = read_at(file, at, size as usize)?;
            let page = pages.len() as u32;
            // The levels of the second kind of page stand before what may be packed.
            let mut levels = Vec::new();
            let mut body_at = at;
            if header.kind == Kind::Data2 {
                ensure!(header.rep_size == 0, "lists");
                let split = usize::try_from(header.def_size)?;
                ensure!(split <= body.len(), "a page without levels");
                let rest = body.split_off(split);
                levels = std::mem::replace(&mut body, rest);
                body_at += levels.len() as u64;
            }
            let plain_size = usize::try_from(header.plain)?.checked_sub(levels.len());
            let plain_size = plain_size.context("a page without a size")?;
            let packed_size = body.len() as u32;
            let mut starts = Vec::new();
            if chunk.snappy && header.is_packed && packed_size > 0 {
                (body, starts) = snappy::unpack(&body, plain_size)?;
            }
            let count = usize::try_from(header.values)?;
            let mut used = false;
            match header.kind {
                Kind::Dictionary => {
                    ensure!(matches!(header.encoding, PLAIN | PLAIN_DICTIONARY), "an encoding");
                    dictionary = plain(&body, 0, count, page)?;
                    used = true;
                }
                Kind::Data | Kind::Data2 => {
                    // Also keeps a damaged number from asking for gigabytes.
                    ensure!(count <= chunk.rows - rows.len(), "a page has more rows than its row group");
                    let mut from = 0;
                    if header.kind == Kind::Data && chunk.max_def > 0 {
                        let head = body.get(..4).context("a page without levels")?;
                        let n = u32::from_le_bytes(head.try_into().expect("4 bytes")) as usize;
                        levels = body.get(4..4 + n).context("a page without levels")?.to_vec();
                        from = 4 + n;
                    }
                    let there: Vec<bool> = match chunk.max_def {
                        0 => vec![true; count],
                        max => {
                            let bits = 32 - max.leading_zeros();
                            hybrid(&levels, bits, count)?.into_iter().map(|level| level == max).collect()
                        }
                    };
                    let present = there.iter().filter(|t| **t).count();
                    let spots: Vec<Spot> = match header.encoding {
                        PLAIN => {
                            used = true;
                            plain(&body, from, present, page)?
                        }
                        PLAIN_DICTIONARY | RLE_DICTIONARY if present == 0 => Vec::new(),
                        PLAIN_DICTIONARY | RLE_DICTIONARY => {
                            let bits = *body.get(from).context("a page without indices")?;
                            let spot = |i: u32| dictionary.get(i as usize).copied();
                            let found = hybrid(&body[from + 1..], bits as u32, present)?.into_iter().map(spot);
                            found.collect::<Option<_>>().context("no such dictionary entry")?
                        }
                        other => bail!("the encoding {other}"),
                    };
                    let mut spots = spots.into_iter();
                    let null = Spot { page, at: 0, size: NULL };
                    rows.extend(there.iter().map(|t| if *t { spots.next().unwrap_or(null) } else { null }));
                }
                Kind::Other => (),
            }
            if used {
                pages.push(Page { at: body_at, size: packed_size, starts });
            }
            at += size;
        }
        ensure!(rows.len() == chunk.rows, "a column chunk has more than its {} rows", chunk.rows);
        Ok(Self { pages, rows })
    }

    /// The value of a row; None if it is null.
    pub fn read(&self, file: &File, row: usize) -> Result<Option<Vec<u8>>> {
        let Spot { page, at, size } = self.rows[row];
        if size == NULL {
            return Ok(None);
        }
        let page = &self.pages[page as usize];
        if page.starts.is_empty() {
            return Ok(Some(read_at(file, page.at + at as u64, size as usize)?));
        }
        let first = page.starts.partition_point(|s| s.plain <= at) - 1;
        let start = page.starts[first];
        let behind = page.starts[first..].iter().find(|s| s.plain >= at + size).map_or(page.size, |s| s.packed);
        thread_local! {
            /// What was read and what it was unpacked to, so that each image costs one allocation, its own.
            static ROOM: RefCell<(Vec<u8>, Vec<u8>)> = const { RefCell::new((Vec::new(), Vec::new())) };
        }
        ROOM.with_borrow_mut(|(packed, plain)| {
            let n = (behind - start.packed) as usize;
            if packed.len() < n {
                packed.resize(n, 0);
            }
            file.read_exact_at(&mut packed[..n], page.at + start.packed as u64)?;
            let skip = (at - start.plain) as usize;
            snappy::unpack_part(&packed[..n], skip + size as usize, plain)?;
            Ok(Some(plain[skip..skip + size as usize].to_vec()))
        })
    }
}

impl Values {
    pub fn write(&self, out: &mut Writer) {
        out.u64(self.pages.len() as u64);
        for page in &self.pages {
            out.u64s(&[page.at, page.size as u64]);
            out.u32s(&page.starts.iter().flat_map(|s| [s.packed, s.plain]).collect::<Vec<_>>());
        }
        out.u32s(&self.rows.iter().flat_map(|s| [s.page, s.at, s.size]).collect::<Vec<_>>());
    }

    /// Positions that were written before, of a chunk with that many rows.
    pub fn from_listing(from: &mut Reader, rows: usize) -> Option<Self> {
        let pages: Option<Vec<Page>> = (0..from.u64()?)
            .map(|_| {
                let [at, size]: [u64; 2] = from.u64s()?.try_into().ok()?;
                let starts = from.u32s()?;
                let starts = starts.chunks_exact(2).map(|s| Start { packed: s[0], plain: s[1] }).collect();
                Some(Page { at, size: size as u32, starts })
            })
            .collect();
        let (pages, spots) = (pages?, from.u32s()?);
        let spots: Vec<Spot> = spots.chunks_exact(3).map(|s| Spot { page: s[0], at: s[1], size: s[2] }).collect();
        let fits = spots.len() == rows && spots.iter().all(|s| s.size == NULL || (s.page as usize) < pages.len());
        fits.then_some(Self { pages, rows: spots })
    }
}

/// Byte strings, each after its length.
fn plain(body: &[u8], from: usize, count: usize, page: u32) -> Result<Vec<Spot>> {
    let (mut at, mut spots) = (from, Vec::with_capacity(count.min(body.len() / 4)));
    for _ in 0..count {
        let Some(head) = body.get(at..at + 4) else { bail!("a page ends inside its values") };
        let size = u32::from_le_bytes(head.try_into().expect("4 bytes"));
        ensure!(at + 4 + size as usize <= body.len() && size != NULL, "a page ends inside a value");
        spots.push(Spot { page, at: at as u32 + 4, size });
        at += 4 + size as usize;
    }
    Ok(spots)
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
