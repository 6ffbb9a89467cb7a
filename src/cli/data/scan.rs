//! Reading and decoding every image, to find those that are broken.

use super::{FAILED, Part, counted};
use crate::bail_hint;
use crate::data::decode;
use crate::data::source::SourceRef;
use crate::error::{Context as _, Result, catch_panic, one_line};
use crate::files::write_atomic;
use crate::run::progress::Progress;
use crate::run::signals::Interrupt;
use serde_json::{Map, Value};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// How the first line of our lists begins: only such files are written over.
const MARK: &str = "# nepa data --scan ";
/// Lines on the screen.
const SHOWN: usize = 20;

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It cannot be used.
    Broken,
    /// It decodes, but the decoder complains.
    Damaged,
}

struct Found {
    part: String,
    index: usize,
    name: String,
    state: State,
    reason: String,
}

/// Refuses to write over a file that is no list of ours.
pub fn check_list(path: &Path) -> Result<()> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    let mut start = Vec::new();
    let read = file.take(MARK.len() as u64).read_to_end(&mut start);
    if read.is_err() || start != MARK.as_bytes() {
        bail_hint!(
            "--list: {} is there already and is no list of a scan", path.display();
            "name another file, for example --list broken-images.txt"
        );
    }
    Ok(())
}

/// Scans all parts, and tells and lists what was found. Returns the exit code.
pub fn scan(path: &str, parts: &[Part], list: &Path, threads: usize, interrupt: &Interrupt) -> Result<u8> {
    let (mut found, mut done, total) = (Vec::new(), 0, parts.iter().map(|p| p.source.len()).sum::<usize>());
    out!("\nevery image is read and decoded on {}", counted(threads, "thread", "threads"));
    for part in parts {
        let (mut of_part, count) = scan_part(part, threads, interrupt)?;
        of_part.sort_by_key(|f| f.index);
        found.append(&mut of_part);
        done += count;
    }
    let count = |state| found.iter().filter(|f| f.state == state).count();
    let (broken, damaged) = (count(State::Broken), count(State::Damaged));
    let damaged_words = match damaged {
        0 => String::new(),
        n => format!(", {n} damaged but readable"),
    };
    let summary = format!("{broken} broken{damaged_words} of {}", counted(done, "image", "images"));
    let early = if done < total { format!(" (interrupted, of {total})") } else { String::new() };
    out!("scan: {summary}{early}");
    let plain = |text: &str| text.trim().replace(['\t', '\n', '\r'], " ");
    let (first, rest) = found.split_at(found.len().min(SHOWN));
    for f in first {
        let state = if f.state == State::Damaged { "damaged: " } else { "" };
        out!("  {} item {} ({}): {state}{}", f.part, f.index, f.name, plain(&f.reason));
    }
    if !rest.is_empty() {
        out!("  … and {} more", rest.len());
    }
    // A list of an earlier scan that no longer holds is replaced, too.
    if !found.is_empty() || list.exists() {
        check_list(list)?;
        let mut text = format!("{MARK}of {}: {summary}{early}\n# state\tsplit\tindex\tname\treason\n", plain(path));
        for f in &found {
            let state = if f.state == State::Broken { "broken" } else { "damaged" };
            text += &format!("{state}\t{}\t{}\t{}\t{}\n", plain(&f.part), f.index, plain(&f.name), plain(&f.reason));
        }
        write_atomic(list, text.as_bytes()).with_context(|| format!("cannot write {}", list.display()))?;
        out!("  listed in {}", list.display());
    }
    Ok(if broken > 0 { FAILED } else { 0 })
}

/// What was found in one part, and how many images were looked at.
fn scan_part(part: &Part, threads: usize, interrupt: &Interrupt) -> Result<(Vec<Found>, usize)> {
    let (source, next) = (&part.source, AtomicUsize::new(0));
    let mut progress = Progress::of_images(&format!("scan {}", part.name()), source.len() as u64);
    let (mut found, mut done, mut values) = (Vec::new(), 0, Map::new());
    let (sender, results) = mpsc::sync_channel(256);
    std::thread::scope(|scope| -> Result<()> {
        for i in 0..threads.min(source.len()) {
            let (sender, next) = (sender.clone(), &next);
            let work = move || loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= source.len() || interrupt.exit_code().is_some() {
                    return;
                }
                // Nobody listens any more only where something failed.
                if sender.send((index, look_at(source, index))).is_err() {
                    return;
                }
            };
            std::thread::Builder::new().name(format!("nepa-scan-{i}")).spawn_scoped(scope, work)?;
        }
        drop(sender);
        for (index, wrong) in results {
            if let Some((state, reason)) = wrong {
                let name = source.name(index);
                found.push(Found { part: part.name().to_string(), index, name, state, reason });
                let key = if state == State::Broken { "broken" } else { "damaged" };
                let count = values.get(key).and_then(Value::as_u64).unwrap_or(0);
                values.insert(key.into(), (count + 1).into());
            }
            done += 1;
            progress.step(1, &values);
        }
        Ok(())
    })?;
    progress.finish(&values);
    Ok((found, done))
}

/// What is wrong with an image, if anything.
fn look_at(source: &SourceRef, index: usize) -> Option<(State, String)> {
    let looked = catch_panic(|| decode::complaint(&mut source.read(index)?));
    match looked {
        Ok(None) => None,
        Ok(Some(complaint)) => Some((State::Damaged, complaint)),
        Err(e) => Some((State::Broken, one_line(&e))),
    }
}
