//! Snappy in parts: one image of a page is unpacked without the rest.
//!
//! Encoders start afresh every 64 KiB, so that nothing after such a position refers to what is before it. Whether that
//! holds is found out once, when a page is first unpacked; the format does not promise it. The `snap` crate unpacks
//! whole pages only.

use crate::error::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// From `packed` on, the content from `plain` on can be unpacked alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Start {
    pub packed: u32,
    pub plain: u32,
}

/// How far apart the starts are at least.
const STEP: usize = 1 << 16;

/// Unpacks a whole page, and finds where parts of it can be unpacked alone.
pub(super) fn unpack(input: &[u8], size: usize) -> Result<(Vec<u8>, Vec<Start>)> {
    let mut at = 0;
    let mut announced = 0usize;
    loop {
        let Some(byte) = input.get(at).filter(|_| at < 5) else { bail!("damaged snappy header") };
        announced |= ((byte & 0x7f) as usize) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    ensure!(announced == size, "a page of {size} bytes announces {announced}");
    let mut out = Vec::with_capacity(size.min(input.len().saturating_mul(64)));
    let mut starts: Vec<Start> = Vec::new();
    while at < input.len() {
        if starts.last().is_none_or(|s| out.len() - s.plain as usize >= STEP) {
            starts.push(Start { packed: at as u32, plain: out.len() as u32 });
        }
        let oldest = element(input, &mut at, &mut out)?;
        ensure!(out.len() <= size, "a page is longer than announced");
        while starts.len() > 1 && starts.last().is_some_and(|s| oldest < s.plain as usize) {
            starts.pop();
        }
    }
    ensure!(out.len() == size, "a page of {size} bytes has {}", out.len());
    starts.shrink_to_fit();
    Ok((out, starts))
}

/// Unpacks from a start on until at least `size` bytes are in `out`, in place of what it holds.
pub(super) fn unpack_some(input: &[u8], size: usize, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    out.reserve(size + STEP);
    let mut at = 0;
    while out.len() < size {
        ensure!(at < input.len(), "a page is cut short");
        element(input, &mut at, out)?;
    }
    Ok(())
}

/// One literal or copy; gives the oldest position that it looked at.
#[inline]
fn element(input: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<usize> {
    let cut = || crate::error::Diagnostic::new("damaged snappy data");
    let little = |from: usize, n: usize| -> Result<usize> {
        let bytes = input.get(from..from + n).ok_or_else(cut)?;
        Ok(bytes.iter().rev().fold(0, |value, b| value << 8 | *b as usize))
    };
    let tag = input[*at];
    *at += 1;
    let (length, offset) = match tag & 3 {
        0 => {
            let short = (tag >> 2) as usize;
            let extra = short.saturating_sub(59);
            let length = 1 + if extra == 0 { short } else { little(*at, extra)? };
            *at += extra;
            let bytes = at.checked_add(length).and_then(|end| input.get(*at..end)).ok_or_else(cut)?;
            let oldest = out.len();
            out.extend_from_slice(bytes);
            *at += length;
            return Ok(oldest);
        }
        1 => {
            let low = little(*at, 1)?;
            *at += 1;
            (4 + (tag >> 2 & 7) as usize, (tag as usize >> 5) << 8 | low)
        }
        kind => {
            let n = if kind == 2 { 2 } else { 4 };
            let offset = little(*at, n)?;
            *at += n;
            (1 + (tag >> 2) as usize, offset)
        }
    };
    let from = out.len().checked_sub(offset).filter(|_| offset > 0).ok_or_else(cut)?;
    if offset >= length {
        out.extend_from_within(from..from + length);
    } else {
        // Source and copy overlap: a pattern repeats.
        for i in 0..length {
            out.push(out[from + i]);
        }
    }
    Ok(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Literals and copies of text and of noise.
    fn sample() -> (Vec<u8>, Vec<u8>) {
        let mut rng = crate::random::Key::new(1).rng();
        let mut plain = Vec::new();
        for i in 0..3000usize {
            if i % 3 == 0 {
                plain.extend((0..97).map(|_| rand::RngCore::next_u32(&mut rng) as u8));
            } else {
                plain.extend_from_slice(format!("row {} of {}; ", i % 17, i % 5).repeat(1 + i % 9).as_bytes());
            }
        }
        (snap::raw::Encoder::new().compress_vec(&plain).unwrap(), plain)
    }

    #[test]
    fn whole_pages_and_parts_are_what_was_packed() {
        let (packed, plain) = sample();
        let (out, starts) = unpack(&packed, plain.len()).unwrap();
        assert!(out == plain && starts.len() > 3, "{} starts", starts.len());
        for (i, start) in starts.iter().enumerate() {
            let end = starts.get(i + 1).map_or(plain.len(), |s| s.plain as usize);
            let mut part = Vec::new();
            unpack_some(&packed[start.packed as usize..], end - start.plain as usize, &mut part).unwrap();
            assert!(part[..] == plain[start.plain as usize..end]);
        }
    }

    #[test]
    fn damage_is_an_error_or_other_bytes_but_no_panic() {
        let (packed, plain) = sample();
        for i in 0..packed.len().min(4000) {
            let mut wrong = packed.clone();
            wrong[i] ^= 0x5a;
            let _ = unpack(&wrong, plain.len());
            let _ = unpack(&packed[..i], plain.len()).unwrap_err();
        }
    }
}
