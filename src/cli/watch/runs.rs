//! The runs that are watched: found anew by each request, since they come while the page is open.

use crate::error::Result;
use crate::files::folders_in;
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::{RunFile, inside};
use crate::untrusted::MOST_TEXT;
use std::path::{Component, Path, PathBuf};

/// The most runs that the page lists.
const MOST_RUNS: usize = 2000;

/// A run directory, or a folder with runs in it.
pub struct Root {
    dir: PathBuf,
    /// The folder's own name.
    name: String,
}

impl Root {
    pub fn new(dir: &Path) -> Self {
        let named = dir.canonicalize().ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
        Self { dir: dir.into(), name: named.unwrap_or_else(|| dir.display().to_string()) }
    }

    /// The folder as it was given.
    pub fn given(&self) -> String {
        self.dir.display().to_string()
    }

    /// Whether it is a run itself.
    pub fn is_run(&self) -> bool {
        RunFile::is_in(&self.dir)
    }

    /// The names of its runs: of folders in it, and of folders in these, such as those of a sweep. Links that lead out
    /// are not followed.
    pub fn names(&self) -> Result<Vec<String>> {
        if self.is_run() {
            return Ok(vec![self.name.clone()]);
        }
        let mut names = Vec::new();
        for folder in folders_in(&self.dir)?.into_iter().filter(|folder| self.is_shown(folder)) {
            if RunFile::is_in(&folder) {
                names.extend(self.name_of(&folder));
                continue;
            }
            // One that cannot be read holds none that could be shown.
            let below = folders_in(&folder).unwrap_or_default();
            let runs = below.into_iter().filter(|folder| RunFile::is_in(folder) && self.is_shown(folder));
            names.extend(runs.filter_map(|folder| self.name_of(&folder)));
        }
        names.truncate(MOST_RUNS);
        Ok(names)
    }

    fn is_shown(&self, folder: &Path) -> bool {
        let hidden = folder.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden && inside::is_in(&self.dir, folder)
    }

    fn name_of(&self, folder: &Path) -> Option<String> {
        folder.strip_prefix(&self.dir).ok()?.to_str().map(String::from)
    }

    /// The directory of a run that [`Root::names`] lists.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        if self.is_run() {
            return (name == self.name).then(|| self.dir.clone());
        }
        let path = Path::new(name);
        let is_plain =
            |part: Component<'_>| matches!(part, Component::Normal(part) if !part.as_encoded_bytes().starts_with(b"."));
        if !(1..=2).contains(&path.components().count()) || !path.components().all(is_plain) {
            return None;
        }
        inside::path_in(&self.dir, path).ok().filter(|dir| RunFile::is_in(dir))
    }
}

/// A run's own file, and whether a process runs it; `None`: that cannot be found out.
pub fn read(dir: &Path) -> Result<(RunFile, Option<bool>)> {
    for name in [RunFile::NAME, LOCK_FILE] {
        inside::check(dir, name, MOST_TEXT)?;
    }
    Ok((RunFile::read(dir)?, RunLock::is_held(dir)))
}
