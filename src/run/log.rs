//! `run.log`: what a person wants to read about a run afterwards. Everything that the terminal showed and more, each
//! line with its time (UTC).

use crate::provenance::timestamp;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// The log's name in a run directory.
pub const LOG_FILE: &str = "run.log";
/// Lines kept while the log does not exist yet or cannot be written.
const MOST_WAITING: usize = 10_000;

struct RunLog {
    file: Option<File>,
    waiting: VecDeque<Vec<u8>>,
}

static LOG: Mutex<RunLog> = Mutex::new(RunLog { file: None, waiting: VecDeque::new() });

fn locked() -> MutexGuard<'static, RunLog> {
    LOG.lock().unwrap_or_else(|e| e.into_inner())
}

impl RunLog {
    fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        // One write per line: a killed run leaves whole lines. What a failed write (a full disk) leaves of a line is
        // written with the next one.
        while let Some(line) = self.waiting.front_mut() {
            match file.write(line) {
                Ok(n) if n == line.len() => drop(self.waiting.pop_front()),
                Ok(n) if n > 0 => drop(line.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }
}

/// Starts or continues the log of a run directory; lines written before belong to it.
pub fn open(dir: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(dir.join(LOG_FILE))?;
    let mut log = locked();
    log.file = Some(file);
    log.flush();
    Ok(())
}

/// Adds a line, or several.
pub fn write(text: &str) {
    if !crate::dist::is_rank0() {
        return;
    }
    let moment = timestamp().replace('T', " ").replace('Z', "");
    let mut log = locked();
    for line in text.lines() {
        if log.waiting.len() == MOST_WAITING {
            log.waiting.pop_front();
        }
        log.waiting.push_back(format!("{moment}  {line}\n").into_bytes());
    }
    log.flush();
}
