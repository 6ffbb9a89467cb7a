//! Reading every image of a source once.

use crate::data::decode::complaint;
use crate::data::source::SourceRef;
use crate::error::{Result, catch_panic, one_line};
use crate::train::progress::Progress;
use crate::train::signals::Interrupt;
use serde_json::{Map, json};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Findings that are shown.
const SHOWN: usize = 20;

/// What was found about one image.
struct Finding {
    source: usize,
    index: usize,
    reason: String,
    broken: bool,
}

/// Decodes everything with all threads; the exit code: 1 where something is broken.
pub fn scan(sources: &[SourceRef], threads: usize, list: Option<&Path>, interrupt: &Interrupt) -> Result<u8> {
    let total: usize = sources.iter().map(|s| s.len()).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found: Mutex<Vec<Finding>> = Mutex::default();
    out!();
    let mut progress = Progress::new("scan", total as u64);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= total || interrupt.exit_code().is_some() {
                    return;
                }
                let (mut source, mut index) = (0, i);
                while index >= sources[source].len() {
                    index -= sources[source].len();
                    source += 1;
                }
                let look = || complaint(&mut sources[source].read(index)?);
                let finding = match catch_panic(look) {
                    Ok(None) => None,
                    Ok(Some(reason)) => Some(Finding { source, index, reason, broken: false }),
                    Err(e) => Some(Finding { source, index, reason: one_line(&e), broken: true }),
                };
                if let Some(finding) = finding {
                    found.lock().unwrap_or_else(|e| e.into_inner()).push(finding);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut shown = 0;
        loop {
            let ended = workers.iter().all(|w| w.is_finished());
            let now = done.load(Ordering::Relaxed);
            let broken = found.lock().unwrap_or_else(|e| e.into_inner()).iter().filter(|f| f.broken).count();
            let values = Map::from_iter([("broken".to_string(), json!(broken))]);
            for _ in shown..now {
                progress.step(1, &values);
            }
            shown = now;
            if ended {
                progress.finish(&values);
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });

    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.sort_by_key(|f| (f.source, f.index));
    let line = |f: &Finding| {
        let name = sources[f.source].name(f.index);
        format!("{}\t{}\t{name}\t{}", sources[f.source].describe(), f.index, f.reason)
    };
    let (broken, damaged): (Vec<_>, Vec<_>) = found.iter().partition(|f| f.broken);
    let done = done.load(Ordering::Relaxed);
    if let Some(code) = interrupt.exit_code() {
        out!("interrupted after {done} of {total} images: {} broken, {} damaged so far", broken.len(), damaged.len());
        show(&broken, &line);
        return Ok(code as u8);
    }
    out!("{total} images read: {} broken, {} damaged but readable", broken.len(), damaged.len());
    show(&broken, &line);
    if !damaged.is_empty() {
        out!("damaged but readable (a part may be grey):");
        show(&damaged, &line);
    }
    if let Some(path) = list {
        let text: String = broken.iter().map(|f| line(f) + "\n").collect();
        crate::checkpoint::tensors::write_atomic(path, text.as_bytes())?;
        out!("the broken ones are listed in {}", path.display());
    }
    Ok(if broken.is_empty() { 0 } else { 1 })
}

fn show(found: &[&Finding], line: &impl Fn(&Finding) -> String) {
    for finding in found.iter().take(SHOWN) {
        out!("  {}", line(finding).replace('\t', "  "));
    }
    if found.len() > SHOWN {
        out!("  … and {} more; --list FILE writes all that are broken", found.len() - SHOWN);
    }
}
