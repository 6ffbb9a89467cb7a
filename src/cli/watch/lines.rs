//! Files of a run that grow line by line, in parts: the page asks for what came since it asked last.

use crate::bail_hint;
use crate::cli::plot::read::MOST_METRICS;
use crate::error::{Context as _, Result};
use crate::run::inside;
use crate::run::log::LOG_FILE;
use crate::run::metrics::METRICS_FILE;
use crate::run::system::is_system_file;
use crate::text::visible;
use crate::untrusted;
use serde_json::{Value, json};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Bytes of a part.
const MOST_PART: u64 = 4 << 20;

/// What the page has of a file.
#[derive(Default)]
pub struct Known {
    /// Which file that was: when a run is rolled back to a checkpoint, another takes its place.
    pub id: String,
    /// How many bytes of it.
    pub bytes: u64,
    /// Of a file that is new to the page, only so many bytes at its end are wanted.
    pub last: Option<u64>,
}

/// Whether the page may read such a file.
pub fn is_readable(name: &str) -> bool {
    name == METRICS_FILE || name == LOG_FILE || is_system_file(name)
}

/// The whole lines after those that are known. `anew`: they are the first ones of another file; what is known of the old
/// one no longer holds.
pub fn after(dir: &Path, name: &str, known: &Known) -> Result<Value> {
    inside::check(dir, name, MOST_METRICS)?;
    let path = dir.join(name);
    if !path.exists() {
        return Ok(json!({ "id": "", "bytes": 0, "anew": !known.id.is_empty(), "more": false, "text": "" }));
    }
    let reading = || format!("cannot read {}", path.display());
    let mut file = untrusted::open(&path)?;
    let about = file.metadata().with_context(reading)?;
    let id = about.ino().to_string();
    let anew = id != known.id || about.len() < known.bytes;
    let skipped = known.last.map_or(0, |last| about.len().saturating_sub(last));
    let start = if anew { skipped } else { known.bytes };
    file.seek(SeekFrom::Start(start)).with_context(reading)?;
    let mut bytes = Vec::new();
    file.take(MOST_PART).read_to_end(&mut bytes).with_context(reading)?;
    let full = bytes.len() as u64 == MOST_PART;
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    if full && end == 0 {
        bail_hint!("{} has a line of more than {MOST_PART} bytes at byte {start}", path.display(); "no run writes such a line");
    }
    // The first line of a part from the middle is cut.
    let begin = match anew && skipped > 0 {
        true => bytes[..end].iter().position(|b| *b == b'\n').map_or(0, |newline| newline + 1),
        false => 0,
    };
    let text = String::from_utf8_lossy(&bytes[begin..end]);
    Ok(json!({ "id": id, "bytes": start + end as u64, "anew": anew, "more": full, "text": visible(&text) }))
}

/// The values of the last whole lines of the metrics, of at most so many bytes.
pub fn last_metrics(dir: &Path, most: u64) -> Result<Vec<Value>> {
    let known = Known { last: Some(most), ..Known::default() };
    let part = after(dir, METRICS_FILE, &known)?;
    Ok(part["text"].as_str().unwrap_or_default().lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
