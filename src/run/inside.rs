//! What lies inside a run directory. A directory may come from a stranger, and a name from a file in it: neither `..`
//! nor a link may lead to anything else.

use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::run::RunFile;
use crate::run::lock::LOCK_FILE;
use crate::run::log::LOG_FILE;
use crate::run::metrics::{CUT_FILE, METRICS_FILE};
use crate::run::tensorboard::EVENTS_FILE;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// The path of a file or folder in `dir`, where it exists or could. Links that stay inside are followed.
pub fn path_in(dir: &Path, name: &Path) -> Result<PathBuf> {
    let mut path = dir.to_path_buf();
    for part in name.components() {
        if !matches!(part, Component::Normal(_) | Component::CurDir) {
            bail_hint!(
                "expected a name inside the run directory, found \"{}\"", name.display();
                "a name such as plots/loss.png, without .. and without a / in front"
            );
        }
        path.push(part);
        match std::fs::symlink_metadata(&path) {
            Ok(about) if about.is_symlink() => leads_inside(dir, &path)?,
            Ok(_) => {}
            // Nothing lies below what is not there.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("cannot look at {}", path.display())),
        }
    }
    Ok(path)
}

fn leads_inside(dir: &Path, link: &Path) -> Result<()> {
    let target = std::fs::read_link(link).unwrap_or_default();
    let hint = "nothing outside of a run directory is read or written through a link in it: remove the link";
    let real = match std::fs::canonicalize(link) {
        Ok(real) => real,
        Err(_) => bail_hint!("{} is a link that leads nowhere, to {}", link.display(), target.display(); "{hint}"),
    };
    let root = std::fs::canonicalize(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    if !real.starts_with(root) {
        bail_hint!("{} is a link that leads out of the run directory, to {}", link.display(), target.display(); "{hint}");
    }
    Ok(())
}

/// Whether a path that begins with `dir` lies in it, as [`path_in`] has it.
pub fn is_in(dir: &Path, path: &Path) -> bool {
    path.strip_prefix(dir).is_ok_and(|name| path_in(dir, name).is_ok())
}

/// Checks that a file of the directory can be read: it lies inside, is a regular one, and has at most `most` bytes. There
/// need be none.
pub fn check(dir: &Path, name: &str, most: u64) -> Result<()> {
    let path = path_in(dir, Path::new(name))?;
    let Ok(about) = std::fs::metadata(&path) else { return Ok(()) };
    if !about.is_file() {
        bail_hint!("{} is no file that can be read to its end", path.display(); "a run writes a regular file there");
    }
    if about.len() > most {
        bail_hint!(
            "{} holds {} bytes, more than the {most} that are read of such a file", path.display(), about.len();
            "no run writes that much; what has?"
        );
    }
    Ok(())
}

/// Checks that what a run appends to or replaces in its directory lies in it, before the first of them is opened.
pub fn check_written(dir: &Path) -> Result<()> {
    let names = [LOCK_FILE, RunFile::NAME, METRICS_FILE, CUT_FILE, EVENTS_FILE, LOG_FILE];
    names.iter().try_for_each(|name| check(dir, name, u64::MAX))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_lies_inside_has_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("run");
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::write(folder.path().join("secret"), "").unwrap();
        symlink("a", dir.join("inner")).unwrap();
        symlink("..", dir.join("up")).unwrap();
        symlink("/etc", dir.join("etc")).unwrap();
        symlink("../secret", dir.join("file")).unwrap();
        symlink("/nowhere/at/all", dir.join("broken")).unwrap();
        symlink("round", dir.join("round")).unwrap();
        // The directory itself may be a link.
        let link = folder.path().join("link");
        symlink("run", &link).unwrap();
        for dir in [&dir, &link] {
            for name in ["x", "a/b/x", "a/./x", "inner/b", "inner/new/x", ""] {
                assert_eq!(path_in(dir, Path::new(name)).unwrap(), dir.join(name), "{name}");
            }
            for (name, piece) in [
                ("../x", "expected a name inside the run directory"),
                ("a/../../x", "expected a name inside"),
                ("/etc/passwd", "expected a name inside"),
                ("up", "leads out of the run directory, to .."),
                ("up/run/x", "leads out"),
                ("etc/passwd", "leads out of the run directory, to /etc"),
                ("file", "leads out"),
                ("broken", "leads nowhere"),
                ("broken/x", "leads nowhere"),
                ("round", "leads nowhere"),
            ] {
                let said = path_in(dir, Path::new(name)).unwrap_err().to_string();
                assert!(said.contains(piece), "{name}: {said}");
            }
            assert!(is_in(dir, &dir.join("a/b")) && !is_in(dir, &dir.join("etc")) && !is_in(dir, Path::new("/etc")));
        }
        std::fs::write(dir.join("long"), "12345").unwrap();
        assert!(check(&dir, "long", 5).is_ok() && check(&dir, "none", 5).is_ok());
        assert!(check(&dir, "long", 4).unwrap_err().to_string().contains("holds 5 bytes, more than the 4"));
        assert!(check(&dir, "a", 4).unwrap_err().to_string().contains("is no file that can be read"));
    }
}
