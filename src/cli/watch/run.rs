//! What the page shows of a run beside its lines: state, progress, pictures.

use super::lines::last_metrics;
use super::runs::read;
use crate::checkpoint::manifest::MANIFEST_FILE;
use crate::cli::inspect;
use crate::cli::report::embed::kind_of;
use crate::cli::sync::files::names_of;
use crate::error::{Result, hint_of, one_line};
use crate::files::names_in;
use crate::run::schema::EVALUATION_FILE;
use crate::run::system::{SYSTEM_FILE, is_system_file};
use crate::run::{RunFile, inside};
use crate::untrusted;
use serde_json::{Map, Value, json};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The most pictures that the page shows: the newest ones.
const MOST_PICTURES: usize = 60;
/// Bytes of a picture.
const MOST_PICTURE: u64 = 32 << 20;
/// The most machines.
const MOST_MACHINES: usize = 32;
/// Bytes of metrics in which the last step and the pace are looked for, and the most lines that the pace is measured over.
const LAST_BYTES: u64 = 64 << 10;
const PACE_LINES: usize = 20;

/// A run in the list.
pub fn brief(dir: &Path, name: &str) -> Value {
    match read(dir).and_then(|(run, held)| brief_of(dir, &run, held)) {
        Ok(mut brief) => {
            brief.insert("name".into(), name.into());
            brief.into()
        }
        Err(e) => json!({ "name": name, "error": one_line(&e), "hint": hint_of(&e) }),
    }
}

fn brief_of(dir: &Path, run: &RunFile, held: Option<bool>) -> Result<Map<String, Value>> {
    let mut brief = Map::new();
    brief.insert("state".into(), run.status(held).into());
    brief.insert("live".into(), (held == Some(true)).into());
    brief.insert("recipe".into(), run.recipe.clone().into());
    brief.insert("started".into(), run.started.clone().into());
    brief.insert("ended".into(), run.ended.clone().into());
    brief.insert("progress".into(), progress(run, &last_metrics(dir, LAST_BYTES)?));
    Ok(brief)
}

/// Where the loop stands that logged last: step, of how many, steps per second, and seconds left; null if none has
/// logged a step.
fn progress(run: &RunFile, lines: &[Value]) -> Value {
    let Some(last) = lines.iter().rev().find(|line| line["step"].is_i64()) else { return Value::Null };
    let of_phase = lines.iter().rev().filter(|line| line["phase"] == last["phase"] && line["step"].is_i64());
    let places: Vec<(f64, f64)> = of_phase
        .take(PACE_LINES)
        .filter_map(|line| Some((line["step"].as_f64()?, line["seconds"].as_f64()?)))
        .collect();
    let pace = match (places.first(), places.last()) {
        (Some(last), Some(first)) if last.1 > first.1 && last.0 > first.0 => {
            Some((last.0 - first.0) / (last.1 - first.1))
        }
        _ => None,
    };
    let phase = last["phase"].as_str().unwrap_or_default();
    let steps = run.settings.get(phase).and_then(|settings| settings["steps"].as_i64());
    let step = last["step"].as_i64().unwrap_or_default();
    let left = steps.zip(pace).map(|(steps, pace)| steps.saturating_sub(step).max(0) as f64 / pace);
    json!({ "phase": phase, "step": step, "steps": steps, "steps_per_second": pace, "seconds_left": left })
}

/// A run as its page shows it. `sections` changes when the report's sections do.
pub fn details(dir: &Path, name: &str) -> Result<Value> {
    let (run, held) = read(dir)?;
    let mut details = brief_of(dir, &run, held)?;
    details.insert("name".into(), name.into());
    details.insert("failure".into(), run.error.clone().into());
    let pictures = pictures(dir)?;
    details.insert("pictures_in_all".into(), pictures.len().into());
    details.insert("pictures".into(), pictures.into_iter().take(MOST_PICTURES).map(|p| p.1).collect());
    let mut machines: Vec<String> = names_in(dir)?.into_iter().filter(|name| is_system_file(name)).collect();
    machines.sort_by_key(|name| name != SYSTEM_FILE);
    machines.truncate(MOST_MACHINES);
    details.insert("machines".into(), machines.into());
    details.insert("sections".into(), sections_id(dir, &run.status(held))?.into());
    Ok(details.into())
}

/// The pictures of a run with their times, the newest first.
fn pictures(dir: &Path) -> Result<Vec<(i64, Value)>> {
    const ENDS: [&str; 5] = [".png", ".jpg", ".jpeg", ".webp", ".svg"];
    let names = names_of(dir, |name| ENDS.iter().any(|end| name.ends_with(end)))?;
    let picture = |name: String| {
        let about = std::fs::metadata(inside::path_in(dir, Path::new(&name)).ok()?).ok()?;
        let time = about.mtime() * 1000 + about.mtime_nsec() / 1_000_000;
        Some((time, json!({ "name": name, "time": time })))
    };
    let mut pictures: Vec<(i64, Value)> = names.into_iter().filter_map(picture).collect();
    pictures.sort_by_key(|picture| std::cmp::Reverse(picture.0));
    Ok(pictures)
}

/// A picture that a run shows, and its type, by its content. `None`: there is none of this name.
pub fn picture(dir: &Path, name: &str) -> Result<Option<(&'static str, Vec<u8>)>> {
    if !pictures(dir)?.iter().any(|picture| picture.1["name"] == name) {
        return Ok(None);
    }
    inside::check(dir, name, MOST_PICTURE)?;
    let content = untrusted::read(&dir.join(name), MOST_PICTURE)?;
    let kind = kind_of(&content).or_else(|| is_svg(&content).then_some("image/svg+xml"));
    Ok(kind.map(|kind| (kind, content)))
}

/// Whether it begins as an SVG file does.
fn is_svg(content: &[u8]) -> bool {
    let text = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content).trim_ascii_start();
    text.starts_with(b"<svg") || text.starts_with(b"<?xml")
}

/// Something short that changes when a file does that the report's sections are made of, or a checkpoint comes.
fn sections_id(dir: &Path, state: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    let mut files: Vec<PathBuf> = [RunFile::NAME, EVALUATION_FILE].map(|name| dir.join(name)).to_vec();
    let (checkpoints, _) = inspect::checkpoints(dir)?;
    files.extend(checkpoints.iter().map(|path| path.join(MANIFEST_FILE)));
    files.extend(inspect::models(dir)?);
    for path in files {
        let about = std::fs::metadata(&path).ok().map(|about| (about.len(), about.mtime(), about.mtime_nsec()));
        (path, about).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
