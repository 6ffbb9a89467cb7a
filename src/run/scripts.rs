//! The scripts of a run: the recipe and everything that it imports. The text that an attempt runs is kept in the run
//! directory, and compared when the run is resumed.

use crate::error::Result;
use crate::files::write_atomic;
use crate::run::inside;
use crate::run::schema::ScriptRecord;
use crate::untrusted::MOST_TEXT;
use similar::TextDiff;
use std::path::Path;

/// The folder of the texts in a run directory.
pub const SCRIPTS_DIR: &str = "scripts";
/// How the names of the standard library's scripts begin.
const STD: &str = "std/";

/// A script that a run consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Its path from the recipe's folder, or `std/NAME`.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The text without comments and spacing: scripts of one code do the same.
    pub code: String,
    /// Whether it is part of nepa, whose version tells its text.
    pub is_embedded: bool,
}

impl Script {
    /// What a run records of it.
    pub fn record(&self) -> ScriptRecord {
        let crc32 = checksum(&self.text);
        let stem = Path::new(&self.name).file_stem().unwrap_or_default().to_string_lossy();
        let file = (!self.is_embedded).then(|| format!("{SCRIPTS_DIR}/{stem}-{crc32}.rhai"));
        ScriptRecord { name: self.name.clone(), file, crc32, code_crc32: checksum(&self.code) }
    }
}

/// How a script differs from the one of its name that an earlier attempt ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// In comments and spacing only.
    Spacing,
    /// In what it does.
    Code,
    /// In what it does, and it is the standard library's.
    Library,
}

/// A changed script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptChange {
    /// In what it differs.
    pub kind: ChangeKind,
    /// In one line.
    pub summary: String,
    /// The unified diff, where both texts are known.
    pub diff: Option<String>,
}

impl ScriptChange {
    /// The diff, or the summary if there is none.
    pub fn shown(&self) -> &str {
        self.diff.as_deref().unwrap_or(&self.summary)
    }
}

/// Keeps the texts of scripts in the run directory `dir`, one file for each text, and gives their records.
pub fn keep(dir: &Path, scripts: &[Script]) -> Result<Vec<ScriptRecord>> {
    let keep = |script: &Script| {
        let record = script.record();
        if let Some(file) = record.file.as_ref().map(|file| dir.join(file)).filter(|file| !file.exists()) {
            write_atomic(&file, script.text.as_bytes())?;
        }
        Ok(record)
    };
    scripts.iter().map(keep).collect()
}

/// How `now` differs from the scripts that an earlier attempt ran in the run directory `dir`; `versions` are nepa's, of
/// then and of now.
pub fn changes(dir: &Path, before: &[ScriptRecord], now: &[Script], versions: [&str; 2]) -> Vec<ScriptChange> {
    now.iter()
        .filter_map(|script| change(dir, before.iter().find(|b| b.name == script.name), script, versions))
        .collect()
}

fn change(dir: &Path, before: Option<&ScriptRecord>, script: &Script, versions: [&str; 2]) -> Option<ScriptChange> {
    let name = &script.name;
    let is_std = name.starts_with(STD);
    let Some(before) = before else {
        // A script that imports one more has changed itself, unless it computes the path.
        let summary = format!("{name}: imported now, not before");
        return (!is_std).then_some(ScriptChange { kind: ChangeKind::Code, summary, diff: None });
    };
    if before.crc32 == checksum(&script.text) {
        return None;
    }
    if before.code_crc32 == checksum(&script.code) {
        let summary = format!("{name}: only comments or spacing have changed");
        return Some(ScriptChange { kind: ChangeKind::Spacing, summary, diff: None });
    }
    let summary = match (is_std, &before.file, script.is_embedded) {
        (true, None, true) => format!("{name}: nepa {}, now nepa {}", versions[0], versions[1]),
        (true, None, false) => format!("{name}: nepa {}'s own, now one from --stdlib", versions[0]),
        (true, Some(_), true) => format!("{name}: one from --stdlib, now nepa {}'s own", versions[1]),
        _ => format!("{name}: its text has changed"),
    };
    let kind = if is_std { ChangeKind::Library } else { ChangeKind::Code };
    let diff = before.file.as_ref().and_then(|kept| {
        inside::check(dir, kept, MOST_TEXT).ok()?;
        let file = dir.join(kept);
        let text = std::fs::read_to_string(&file).ok()?;
        let headers = (format!("{name}, as it was run ({})", file.display()), format!("{name}, as it is now"));
        let diff = TextDiff::from_lines(&text, &script.text);
        Some(diff.unified_diff().header(&headers.0, &headers.1).to_string().trim_end().to_string())
    });
    Some(ScriptChange { kind, summary, diff })
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}
