//! Paths, patterns and splits, and errors about those that do not exist.

use crate::bail_hint;
use crate::error::{Diagnostic, Result, did_you_mean, ensure, nearest};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Names that mean the same split; the order is the one in which splits are listed.
const SPLITS: [&[&str]; 3] = [&["train", "training"], &["validation", "val", "valid", "dev"], &["test", "testing"]];

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

/// The files that a folder (those whose names end in `extensions`), a file, or a pattern with `*`, `?`, `[…]`,
/// `{a,b}` or `{0000..0146}` stands for, sorted.
pub(super) fn expand(path: &str, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let plain = Path::new(path);
    let mut files = Vec::new();
    if plain.is_dir() {
        let fits = |name: &str| extensions.iter().any(|e| name.ends_with(e));
        files.extend(entries(plain).iter().filter(|n| fits(n)).map(|n| plain.join(n)));
    } else if plain.exists() {
        files.push(plain.to_path_buf());
    } else if is_pattern(path) {
        for one in braces(path)? {
            if !one.contains(['*', '?', '[']) {
                let file = PathBuf::from(one);
                if !file.exists() {
                    return Err(missing(&file).context(format!("the pattern \"{path}\" names a file that is missing")));
                }
                files.push(file);
                continue;
            }
            let found =
                glob::glob(&one).map_err(|e| Diagnostic::new(format!("the pattern \"{path}\" is wrong: {e}")))?;
            for file in found {
                files.push(file?);
            }
        }
        if files.is_empty() {
            let fixed = &path[..path.find(['*', '?', '[', '{']).unwrap_or(0)];
            let dir = Path::new(fixed.rfind('/').map_or(".", |i| &fixed[..i.max(1)]));
            if !dir.is_dir() {
                return Err(missing(dir));
            }
            bail_hint!("no file matches the pattern \"{path}\""; "{} holds: {}", dir.display(), some(&entries(dir)));
        }
    } else {
        return Err(missing(plain));
    }
    files.sort();
    files.dedup();
    Ok(files)
}

/// `a{b,c}d` and `a{08..11}d`, several and nested, as a shell expands them.
fn braces(pattern: &str) -> Result<Vec<String>> {
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
                first <= last && last - first < 10_000_000,
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
    }
    Ok(all)
}

/// Whether a folder or file part is called what splits are called.
pub(super) fn is_split_name(name: &str) -> bool {
    SPLITS.iter().any(|group| group.contains(&name))
}

/// The split that a shard belongs to by its name: "train" of `train-00000-of-00002.parquet`; of
/// `imagenet-val-0001.tar`, "val"; None of a bare number.
pub(super) fn split_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_string_lossy();
    let stem = name.split('.').next().unwrap_or_default();
    let mut parts = stem.split('-');
    let split = parts.clone().find(|p| is_split_name(p)).or(parts.next())?;
    let is_name = !split.is_empty() && !split.bytes().all(|b| b.is_ascii_digit());
    if is_name {
        return Some(split.to_string());
    }
    // `train/0000.parquet`
    let folder = file.parent()?.file_name()?.to_string_lossy();
    is_split_name(&folder).then(|| folder.into_owned())
}

/// The splits of shards: training first, then validation, test and others.
pub(super) fn splits_of(files: &[PathBuf]) -> Vec<String> {
    let mut splits: Vec<String> = files.iter().filter_map(|f| split_of(f)).collect();
    sort_splits(&mut splits);
    splits
}

pub(super) fn sort_splits(splits: &mut Vec<String>) {
    let rank = |s: &str| SPLITS.iter().position(|group| group.contains(&s)).unwrap_or(SPLITS.len());
    splits.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    splits.dedup();
}

/// The shards of one split, and what it is called.
pub(super) fn shards_of_split(
    path: &str,
    files: Vec<PathBuf>,
    split: Option<&str>,
) -> Result<(Vec<PathBuf>, Option<String>)> {
    let splits = splits_of(&files);
    if splits.is_empty() && split.is_none() {
        return Ok((files, None));
    }
    let chosen = choose(path, split, &splits)?.to_string();
    // Shards that do not tell their split belong to the only one there is.
    let files = files.into_iter().filter(|f| split_of(f).is_none_or(|s| s == chosen)).collect();
    Ok((files, Some(chosen)))
}

/// The split of `available` that `wanted` means.
pub(super) fn choose<'a>(path: &str, wanted: Option<&str>, available: &'a [String]) -> Result<&'a str> {
    let list = available.join(", ");
    let Some(wanted) = wanted else {
        if let [only] = available {
            return Ok(only);
        }
        let example = available.first().map_or("train", String::as_str);
        bail_hint!("{path} has several splits: {list}"; "name the one to open, for example \"{example}\"");
    };
    if let Some(found) = matching(wanted, available) {
        return Ok(found);
    }
    if available.is_empty() {
        bail_hint!("{path} has no splits, but \"{wanted}\" was asked for"; "open it without naming a split");
    }
    let near = did_you_mean(wanted, available.iter().map(String::as_str));
    bail_hint!("{path} has no split \"{wanted}\"{near}"; "its splits are: {list}")
}

/// The split called `wanted`, or else by another name of the same.
pub(super) fn matching<'a>(wanted: &str, available: &'a [String]) -> Option<&'a str> {
    let group = SPLITS.iter().find(|group| group.contains(&wanted)).copied().unwrap_or(&[]);
    let names = std::iter::once(&wanted).chain(group);
    names.filter_map(|name| available.iter().find(|a| a == name)).map(String::as_str).next()
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
