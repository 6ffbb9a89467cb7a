//! The headers of Parquet pages, which no public part of the `parquet` crate gives with their file offsets.

use crate::data::source::paths::read_at;
use crate::error::{Result, bail, ensure};
use std::fs::File;

/// The encoding of levels.
const RLE: i64 = 3;

#[derive(Debug, Default, PartialEq)]
pub(super) enum Kind {
    Data,
    Data2,
    Dictionary,
    #[default]
    Other,
}

/// A page's header, as far as it matters here.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub kind: Kind,
    pub plain: i64,
    pub packed: i64,
    pub values: i64,
    pub encoding: i64,
    pub def_size: i64,
    pub rep_size: i64,
    pub is_packed: bool,
    /// Whether levels are stored in runs.
    pub has_runs_of_levels: bool,
}

impl Header {
    /// The header at `at`, and its length.
    pub fn read(file: &File, at: u64, end: u64) -> Result<(Self, u64)> {
        // Old writers put whole values into the statistics.
        for room in [1 << 10, 1 << 16, 1 << 26] {
            let bytes = read_at(file, at, (end - at).min(room) as usize)?;
            let mut input = Compact { bytes: &bytes, at: 0 };
            match Self::parse(&mut input) {
                Ok(header) => return Ok((header, input.at as u64)),
                Err(e) if end - at <= room => return Err(e),
                Err(_) => (),
            }
        }
        bail!("a page header is too long")
    }

    fn parse(input: &mut Compact) -> Result<Self> {
        let mut header = Self { is_packed: true, has_runs_of_levels: true, ..Default::default() };
        let mut page_type = -1;
        input.fields(&mut |input, id, kind| {
            match id {
                1 => page_type = input.int()?,
                2 => header.plain = input.int()?,
                3 => header.packed = input.int()?,
                5 | 7 | 8 => {
                    let of = id;
                    input.fields(&mut |input, id, kind| {
                        match (of, id) {
                            (_, 1) => header.values = input.int()?,
                            (5 | 7, 2) | (8, 4) => header.encoding = input.int()?,
                            // The levels of very old files are packed in another way.
                            (5, 3) => header.has_runs_of_levels = input.int()? == RLE,
                            (8, 5) => header.def_size = input.int()?,
                            (8, 6) => header.rep_size = input.int()?,
                            (8, 7) => header.is_packed = kind == 1,
                            _ => input.skip(kind, 0)?,
                        }
                        Ok(())
                    })?;
                }
                _ => input.skip(kind, 0)?,
            }
            Ok(())
        })?;
        header.kind = match page_type {
            0 => Kind::Data,
            2 => Kind::Dictionary,
            3 => Kind::Data2,
            _ => Kind::Other,
        };
        Ok(header)
    }
}

/// Refuses a footer whose columns are nested so deeply that a reader which follows them by recursion has no end.
pub(super) fn check_footer(bytes: &[u8]) -> Result<()> {
    const MOST: usize = 64;
    const SCHEMA: i64 = 2;
    const CHILDREN: i64 = 5;
    const LIST: u8 = 9;
    let mut input = Compact { bytes, at: 0 };
    // How many columns are still to come, on each level.
    let mut open: Vec<i64> = Vec::new();
    input.fields(&mut |input, id, kind| {
        if (id, kind) != (SCHEMA, LIST) {
            return input.skip(kind, 0);
        }
        let (n, _) = input.list()?;
        for _ in 0..n {
            let mut children = 0;
            input.fields(&mut |input, id, kind| {
                if id != CHILDREN {
                    return input.skip(kind, 0);
                }
                children = input.int()?;
                Ok(())
            })?;
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            if children > 0 {
                open.push(children);
            }
            ensure!(open.len() <= MOST, "its columns are nested more than {MOST} deep");
        }
        Ok(())
    })
}

/// Thrift's compact protocol.
pub(super) struct Compact<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl Compact<'_> {
    pub fn byte(&mut self) -> Result<u8> {
        let Some(byte) = self.bytes.get(self.at) else { bail!("a page header is cut short") };
        self.at += 1;
        Ok(*byte)
    }

    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= ((byte & 0x7f) as u64) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("a number is too long")
    }

    fn int(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Calls `field(self, id, type)` for each field of a struct.
    fn fields(&mut self, field: &mut dyn FnMut(&mut Self, i64, u8) -> Result<()>) -> Result<()> {
        let mut id = 0;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            id = if head >> 4 == 0 { self.int()? } else { id.wrapping_add((head >> 4) as i64) };
            field(self, id, head & 15)?;
        }
    }

    /// The number of a list's items, and their type.
    fn list(&mut self) -> Result<(u64, u8)> {
        let head = self.byte()?;
        let n = if head >> 4 == 15 { self.varint()? } else { (head >> 4) as u64 };
        let left = self.bytes.len().saturating_sub(self.at);
        ensure!(n <= left as u64, "a list of {n} items in {left} bytes");
        Ok((n, head & 15))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        ensure!(depth < 16, "a page header is nested too deeply");
        match kind {
            1 | 2 => (),
            3 => self.at += 1,
            4..=6 => {
                self.varint()?;
            }
            7 => self.at += 8,
            8 => {
                let n = self.varint()? as usize;
                self.at = self.at.saturating_add(n);
            }
            9 | 10 => {
                let (n, kind) = self.list()?;
                for _ in 0..n {
                    // A truth value in a list takes a byte, unlike one in a struct.
                    self.skip(if matches!(kind, 1 | 2) { 3 } else { kind }, depth + 1)?
                }
            }
            12 => self.fields(&mut |input, _, kind| input.skip(kind, depth + 1))?,
            other => bail!("the thrift type {other}"),
        }
        Ok(())
    }
}
