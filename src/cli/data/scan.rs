//! Reading and decoding every image, to find those that are broken.

use super::{FAILED, Split, counted};
use crate::bail_hint;
use crate::data::decode;
use crate::data::source::SourceRef;
use crate::error::{Context as _, Result, catch_panic, one_line};
use crate::files::write_atomic;
use crate::output::out;
use crate::run::progress::Progress;
use crate::run::signals::Interrupt;
use serde_json::{Map, Value};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// How the first line of our lists begins: only such files are overwritten.
const MARK: &str = "# nepa data --scan ";
/// Lines on the screen.
const SHOWN: usize = 20;

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It cannot be used.
    Broken,
    /// It decodes, but the decoder complains.
    Damaged,
}

struct Found {
    split: String,
    index: usize,
    name: String,
    fault: Fault,
    reason: String,
}

/// Refuses to overwrite a file that is not a list of ours.
pub fn check_list(path: &Path) -> Result<()> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    let mut start = Vec::new();
    let read = file.take(MARK.len() as u64).read_to_end(&mut start);
    if read.is_err() || start != MARK.as_bytes() {
        bail_hint!(
            "--list: {} already exists and is not a list of a scan", path.display();
            "name another file, for example --list broken-images.txt"
        );
    }
    Ok(())
}

/// Scans all splits, and prints and lists what was found. Returns the exit code.
pub fn scan(path: &str, splits: &[Split], list: &Path, threads: usize, interrupt: &Interrupt) -> Result<u8> {
    let (mut found, mut done, total) = (Vec::new(), 0, splits.iter().map(|s| s.source.len()).sum::<usize>());
    out!("\nreading and decoding every image on {}", counted(threads, "thread", "threads"));
    for split in splits {
        let (mut of_split, count) = scan_split(split, threads, interrupt)?;
        of_split.sort_by_key(|f| f.index);
        found.append(&mut of_split);
        done += count;
    }
    let count = |fault| found.iter().filter(|f| f.fault == fault).count();
    let (broken, damaged) = (count(Fault::Broken), count(Fault::Damaged));
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
        let fault = if f.fault == Fault::Damaged { "damaged: " } else { "" };
        out!("  {} item {} ({}): {fault}{}", f.split, f.index, f.name, plain(&f.reason));
    }
    if !rest.is_empty() {
        out!("  … and {} more", rest.len());
    }
    // A list of an earlier scan that no longer holds is replaced, too.
    if !found.is_empty() || list.exists() {
        check_list(list)?;
        let mut text = format!("{MARK}of {}: {summary}{early}\n# state\tsplit\tindex\tname\treason\n", plain(path));
        for f in &found {
            let fault = if f.fault == Fault::Broken { "broken" } else { "damaged" };
            text += &format!("{fault}\t{}\t{}\t{}\t{}\n", plain(&f.split), f.index, plain(&f.name), plain(&f.reason));
        }
        write_atomic(list, text.as_bytes()).with_context(|| format!("cannot write {}", list.display()))?;
        out!("  listed in {}", list.display());
    }
    Ok(if broken > 0 { FAILED } else { 0 })
}

/// What was found in one split, and how many images were looked at.
fn scan_split(split: &Split, threads: usize, interrupt: &Interrupt) -> Result<(Vec<Found>, usize)> {
    let (source, next) = (&split.source, AtomicUsize::new(0));
    let mut progress = Progress::of_images(&format!("scan {}", split.name()), source.len() as u64);
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
                // The receiver is gone only if something failed.
                if sender.send((index, look_at(source, index))).is_err() {
                    return;
                }
            };
            std::thread::Builder::new().name(format!("nepa-scan-{i}")).spawn_scoped(scope, work)?;
        }
        drop(sender);
        for (index, wrong) in results {
            if let Some((fault, reason)) = wrong {
                let name = source.name(index);
                found.push(Found { split: split.name().to_string(), index, name, fault, reason });
                let key = if fault == Fault::Broken { "broken" } else { "damaged" };
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
fn look_at(source: &SourceRef, index: usize) -> Option<(Fault, String)> {
    let looked = catch_panic(|| decode::complaint(&mut source.read(index)?, source.mode()));
    match looked {
        Ok(None) => None,
        Ok(Some(complaint)) => Some((Fault::Damaged, complaint)),
        Err(e) => Some((Fault::Broken, one_line(&e))),
    }
}
