//! Paths and patterns, errors about those that do not exist, and names that mean no data.

use super::StoredImage;
use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, ensure, nearest};
use crate::untrusted;
use rustix::io::Errno;
use std::borrow::Cow;
use std::fs::{DirEntry, File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};

/// The error for a path that does not exist, with the nearest one that does.
pub(super) fn missing(path: &Path) -> anyhow::Error {
    let there = path.ancestors().skip(1).find(|p| p.is_dir());
    let there = there.map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    let hint = there.map(|parent| {
        let rest = path.strip_prefix(parent).unwrap_or(path);
        let wanted = rest.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let names = entries(parent);
        match nearest(&wanted, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {}?", parent.join(near).display()),
            None => format!("the nearest folder that exists is {}; it holds: {}", parent.display(), some(&names)),
        }
    });
    let error = Diagnostic::new(format!("{} does not exist", path.display()));
    match hint {
        Some(hint) => error.hint(hint).into(),
        None => error.into(),
    }
}

/// The names in a folder, sorted; none if it cannot be read.
pub(super) fn entries(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = found.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What lies at a path, links followed; nothing if there is none, or a link that leads nowhere. One that cannot be
/// looked at is an error: taken for missing, it would leave its images out.
pub(super) fn look_at(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(e) if leads_nowhere(&e) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Whether it tells that there is nothing: also at the end of a link that goes through a file, or to itself.
fn leads_nowhere(error: &std::io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Whether it is a folder, or a link to one.
pub(super) fn is_folder(entry: &DirEntry) -> Result<bool> {
    let kind = entry.file_type().with_context(|| format!("cannot read {}", entry.path().display()))?;
    match kind.is_symlink() {
        true => Ok(look_at(&entry.path())?.is_some_and(|found| found.is_dir())),
        false => Ok(kind.is_dir()),
    }
}

/// The names of the folders in a folder, without stray ones, sorted; none if it cannot be read.
pub(super) fn folders(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| is_folder(e).unwrap_or(false));
    let mut names: Vec<String> = found.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !is_stray(name.as_bytes()));
    names.sort();
    names
}

/// The first few of them, in words.
pub(super) fn some<S: AsRef<str>>(names: &[S]) -> String {
    const FEW: usize = 8;
    let first: Vec<&str> = names.iter().take(FEW).map(S::as_ref).collect();
    match names.len() {
        0 => "nothing".to_string(),
        n if n > FEW => format!("{}, … ({n} in all)", first.join(", ")),
        _ => first.join(", "),
    }
}

/// Whether it is a pattern rather than a path.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '{']) && !Path::new(path).exists()
}

/// The folder in front of a pattern, with its `/`, and the rest. Folders are what they are called, so that `data[1]` is
/// no pattern where there is such a folder.
pub(super) fn base_of(path: &str) -> (&str, &str) {
    let slashes = path.match_indices('/').map(|(i, _)| i);
    let end = slashes.take_while(|i| Path::new(&path[..(*i).max(1)]).is_dir()).last().map_or(0, |i| i + 1);
    path.split_at(end)
}

/// The files and folders that a pattern with `*`, `?`, `[…]`, `{a,b}` or `{0000..0146}` stands for, sorted; each
/// alternative in braces for one at least. Stray ones must be named as such: `*` does not stand for them.
pub(super) fn expand(path: &str) -> Result<Vec<PathBuf>> {
    let (base, pattern) = base_of(path);
    let mut files = Vec::new();
    for one in braces(pattern)? {
        if !one.contains(['*', '?', '[']) || Path::new(base).join(&one).exists() {
            let file = Path::new(base).join(one);
            if !file.exists() {
                return Err(missing(&file).context(format!("the pattern \"{path}\" names a file that is missing")));
            }
            files.push(file);
            continue;
        }
        let found = glob::glob(&format!("{}{one}", glob::Pattern::escape(base)))
            .map_err(|e| Diagnostic::new(format!("the pattern \"{path}\" is wrong: {e}")))?;
        let before = files.len();
        for file in found {
            let file = file?;
            let below = file.strip_prefix(base).unwrap_or(&file).as_os_str().as_bytes();
            if strays_in(below) <= strays_in(one.as_bytes()) {
                files.push(file);
            }
        }
        if files.len() == before {
            let dir = if base.is_empty() { "." } else { base.trim_end_matches('/') };
            let dir = Path::new(if dir.is_empty() { "/" } else { dir });
            bail_hint!(
                "no file matches the pattern \"{base}{one}\""; "{} holds: {}", dir.display(), some(&entries(dir))
            );
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// `a{b,c}d` and `a{08..11}d`, several and nested, as a shell expands them.
fn braces(pattern: &str) -> Result<Vec<String>> {
    /// No data set has more files.
    const MOST: usize = 1_000_000;
    let Some(open) = pattern.find('{') else { return Ok(vec![pattern.to_string()]) };
    let (mut depth, mut close, mut commas) = (0, None, Vec::new());
    for (i, c) in pattern.char_indices().skip_while(|(i, _)| *i < open) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => commas.push(i),
            _ => (),
        }
        if depth == 0 {
            close = Some(i);
            break;
        }
    }
    let Some(close) = close else {
        bail_hint!("the pattern \"{pattern}\" has a `{{` without a `}}`"; "write {{0000..0146}} or {{train,val}}");
    };
    let inside = &pattern[open + 1..close];
    if commas.is_empty() && !inside.contains("..") {
        // As in a shell: `{x}` stands for itself.
        let rests = braces(&pattern[close + 1..])?;
        return Ok(rests.iter().map(|rest| format!("{}{rest}", &pattern[..=close])).collect());
    }
    let mut parts = Vec::new();
    match inside.split_once("..") {
        Some((from, to)) if commas.is_empty() => {
            let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
            let (Some(first), Some(last)) = (number(from), number(to)) else {
                bail_hint!(
                    "the pattern \"{pattern}\" has {{{inside}}}, which is not a range of numbers";
                    "write for example {{0000..0146}}"
                );
            };
            ensure!(
                first <= last && last - first < MOST as u64,
                "the range {{{inside}}} of the pattern \"{pattern}\" is empty or too long"
            );
            // As in a shell: zeros in front are kept.
            let width = if from.starts_with('0') || to.starts_with('0') { from.len().max(to.len()) } else { 0 };
            parts.extend((first..=last).map(|n| format!("{n:0width$}")));
        }
        _ => {
            let mut start = open + 1;
            for comma in commas.into_iter().chain([close]) {
                parts.push(pattern[start..comma].to_string());
                start = comma + 1;
            }
        }
    }
    let mut all = Vec::new();
    for part in parts {
        all.extend(braces(&format!("{}{part}{}", &pattern[..open], &pattern[close + 1..]))?);
        ensure!(all.len() <= MOST, "the pattern \"{pattern}\" stands for more than {MOST} files");
    }
    Ok(all)
}

/// Whether systems and programs leave files and folders of this name: hidden ones (`.DS_Store`, `._1.jpg`, `.git`,
/// `.ipynb_checkpoints`), `__MACOSX`, `Thumbs.db`, … They are never classes, shards or images.
pub(super) fn is_stray(name: &[u8]) -> bool {
    const LEFT: [&str; 13] = [
        "__MACOSX",
        "__pycache__",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "lost+found",
        "@eaDir",
        "@Recycle",
        "#recycle",
        "#snapshot",
        "~snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
    ];
    let hidden = name.starts_with(b".") && !matches!(name, b"." | b"..");
    hidden || LEFT.iter().any(|left| name.eq_ignore_ascii_case(left.as_bytes()))
}

/// How many parts of a path, below a data set's folder or in an archive, are stray.
pub(super) fn strays_in(path: &[u8]) -> usize {
    path.split(|b| *b == b'/').filter(|part| is_stray(part)).count()
}

/// Whether the name ends in what image files end in, in either case.
pub(super) fn is_image_name(name: &[u8]) -> bool {
    name.iter().rposition(|b| *b == b'.').is_some_and(|dot| is_image_extension(&name[dot + 1..]))
}

/// torchvision's extensions, and GIF.
pub(super) fn is_image_extension(extension: &[u8]) -> bool {
    const KNOWN: [&str; 10] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif"];
    KNOWN.iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
}

/// The most that the file of one image may have.
pub(super) const MOST_IMAGE: u64 = 1 << 30;

/// The image file at a path.
pub(super) fn read_image(path: &Path) -> Result<StoredImage<'static>> {
    Ok(StoredImage::Encoded(Cow::Owned(untrusted::read(path, MOST_IMAGE)?)))
}

/// The file in `dir` that a data set names: one that lies there, also by its whole path. A data set from elsewhere must
/// not choose which files of this machine are read.
pub(super) fn inside(dir: &Path, name: &str) -> Result<PathBuf> {
    let whole = std::path::absolute(dir).ok();
    let below = whole.as_ref().and_then(|dir| Path::new(name).strip_prefix(dir).ok()).unwrap_or(Path::new(name));
    let lies_there = below.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !lies_there || below.as_os_str().is_empty() {
        bail_hint!(
            "the data set names the file \"{}\", which does not lie in its folder {}", name.escape_debug(), dir.display();
            "put its files there, named by their paths from there, or write their content into the table"
        );
    }
    Ok(dir.join(below))
}

/// `len` bytes at `at`, without moving the position that the file's users share.
pub(super) fn read_at(file: &File, at: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// A name for row `row`, stable and unique, that ends in the file's own name if there is one.
pub(super) fn row_name(split: Option<&str>, row: usize, file: Option<&str>) -> String {
    let file = file.and_then(|f| f.rsplit('/').next()).filter(|f| !f.is_empty());
    let parts = [split.map(str::to_string), Some(format!("{row:08}")), file.map(str::to_string)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}
