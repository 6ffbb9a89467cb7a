//! What a run leaves on the disk.

use super::names_in;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// All files below a folder, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut all, mut open) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for path in names_in(&dir).iter().map(|name| dir.join(name)) {
            if path.is_dir() { open.push(path) } else { all.push(path) }
        }
    }
    all.sort();
    all
}

/// Copies a folder, without empty folders in it.
pub fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&file, to).unwrap();
    }
}

/// Whether a path in a run directory belongs to what is being written or removed.
pub fn is_unfinished(path: &str) -> bool {
    path.split('/').any(|name| name.starts_with('.') && name != ".lock")
}

/// Every checkpoint of a run that can be seen holds the files that its manifest lists, byte for byte.
#[track_caller]
pub fn assert_checkpoints_whole(run: &Path) {
    for manifest in files(&run.join("checkpoints")).iter().filter(|f| f.ends_with("manifest.json")) {
        let dir = manifest.parent().unwrap();
        // Below the run directory alone: the folder of a test is hidden too.
        let hidden = |part: Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
        if dir.strip_prefix(run).unwrap().components().any(hidden) {
            continue;
        }
        let text = std::fs::read_to_string(manifest).unwrap();
        let (list, sum) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(sum, format!("{:08x}", crc32fast::hash(list.as_bytes())), "{}", manifest.display());
        let list: Value = serde_json::from_str(list).unwrap();
        assert!(list.as_object().unwrap().len() >= 8, "{list}");
        for (name, seal) in list.as_object().unwrap() {
            let bytes = std::fs::read(dir.join(name)).unwrap();
            assert_eq!(
                (&seal["bytes"], &seal["crc32"]),
                (&bytes.len().into(), &crc32fast::hash(&bytes).into()),
                "{name}"
            );
        }
    }
}

/// What a line of metrics says about time, which differs from run to run.
pub const TIMING: [&str; 4] = ["data_wait", "evaluation_seconds", "images_per_second", "seconds"];

/// Everything in a run directory that must not depend on how often the run was stopped, by path.
pub struct Outcome(pub BTreeMap<String, Vec<u8>>);

/// What a run has left.
pub fn outcome(run: &Path) -> Outcome {
    let of_attempts = ["run.json", "run.log", "system.jsonl", ".lock", "events.out.tfevents.nepa"];
    let name = |file: &PathBuf| file.strip_prefix(run).unwrap().display().to_string();
    let kept = files(run).into_iter().map(|file| (name(&file), file));
    // Damaged checkpoints, which are set aside, are no result either.
    let other = |name: &str| of_attempts.contains(&name) || is_unfinished(name) || name.contains("/damaged-");
    let kept = kept.filter(|(name, _)| !other(name));
    Outcome(kept.map(|(name, file)| (name.clone(), comparable(&name, &std::fs::read(file).unwrap()))).collect())
}

impl Outcome {
    /// Whether a file, which the run has, has the same content.
    pub fn has(&self, name: &str, bytes: &[u8]) -> bool {
        let Some(whole) = self.0.get(name) else { return true };
        let found = comparable(name, bytes);
        // A checkpoint of the last step is replaced after the last evaluation, with whose lines its metrics end then.
        if name.ends_with("metrics.jsonl") { whole.starts_with(&found) } else { *whole == found }
    }

    /// Asserts that another run has left the same.
    #[track_caller]
    pub fn assert_same(&self, run: &Path) {
        self.assert_equals(&outcome(run));
    }

    /// Asserts that another outcome is the same.
    #[track_caller]
    pub fn assert_equals(&self, Outcome(found): &Outcome) {
        for (name, whole) in &self.0 {
            let Some(bytes) = found.get(name) else { panic!("{name} is missing; there are {:?}", found.keys()) };
            let is_text = [".jsonl", ".txt", ".csv"].iter().any(|ending| name.ends_with(ending));
            let [text, whole_text] = [bytes, whole].map(|bytes| String::from_utf8_lossy(bytes));
            let words = if is_text { format!(":\n{text}\n---- expected\n{whole_text}") } else { String::new() };
            assert!(bytes == whole, "{name} differs from the undisturbed run's{words}");
        }
        let extra = found.keys().filter(|name| name.starts_with("checkpoints/") && !self.0.contains_key(*name));
        let extra: Vec<&String> = extra.collect();
        assert!(extra.is_empty(), "more checkpoints than in the undisturbed run: {extra:?}");
    }
}

/// The part of a file that is the same in each run: nothing where times are among it.
fn comparable(name: &str, bytes: &[u8]) -> Vec<u8> {
    match name.rsplit('/').next() {
        Some("state.json" | "manifest.json" | "provenance.json") => Vec::new(),
        Some("metrics.jsonl") => {
            let row = |line: &[u8]| {
                let words = || format!("{name}: {}", String::from_utf8_lossy(line));
                let mut row: Map<String, Value> =
                    serde_json::from_slice(line).unwrap_or_else(|e| panic!("{}: {e}", words()));
                row.retain(|name, _| !TIMING.contains(&name.as_str()));
                Value::Object(row).to_string().into_bytes()
            };
            let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
            lines.map(row).collect::<Vec<_>>().join(&b'\n')
        }
        _ => bytes.to_vec(),
    }
}
