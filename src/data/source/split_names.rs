//! The names of splits.

use super::listing;
use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use std::path::Path;

/// The keywords of `datasets` (its data_files.py), one list for each split; the order is the one in which splits are
/// listed.
const SPLITS: [&[&str]; 3] =
    [&["train", "training"], &["validation", "val", "valid", "dev"], &["test", "testing", "eval", "evaluation"]];
const VALIDATION: usize = 1;
const TEST: usize = 2;

/// Which of the lists holds this name, in upper or lower case.
fn group(name: &str) -> Option<usize> {
    SPLITS.iter().position(|group| group.contains(&name.to_lowercase().as_str()))
}

/// Whether this is what splits are called.
pub(super) fn is_split_name(name: &str) -> bool {
    group(name).is_some()
}

/// Whether this is what splits are called, perhaps with a number: `train`, `val2017`.
pub(super) fn is_numbered_split_name(name: &str) -> bool {
    let mut found = words(name).filter(|word| !word.is_empty());
    found.next().is_some_and(is_split_name) && found.next().is_none()
}

/// Whether two names with a keyword mean different splits: `training_set` and `test_set`.
pub(super) fn differ(a: &str, b: &str) -> bool {
    let of = |name: &str| keyword(name).and_then(|word| group(&word));
    of(a) != of(b)
}

/// The keyword in a name, in lower case, where `-`, `.`, `_`, spaces and digits delimit words, as in `datasets`: "val"
/// of `imagenet_val_0001`. None if there is none, and none of a name that speaks of several splits.
pub(super) fn keyword(name: &str) -> Option<String> {
    let mut found = words(name).filter(|word| is_split_name(word));
    let first = found.next()?;
    found.all(|word| group(word) == group(first)).then(|| first.to_lowercase())
}

/// Whether two names mean one split.
pub(super) fn same(a: &str, b: &str) -> bool {
    group(a) == group(b)
}

/// Whether a name has keywords of several splits, such as `train_val`.
pub(super) fn speaks_of_several(name: &str) -> bool {
    keyword(name).is_none() && words(name).any(is_split_name)
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| matches!(c, '-' | '.' | '_' | ' ') || c.is_ascii_digit())
}

/// Training first, then validation, test and others.
pub(super) fn sort(splits: &mut Vec<String>) {
    let rank = |s: &str| {
        let of_name = group(s).map(|i| (i, SPLITS[i].iter().position(|name| *name == s).unwrap_or(0)));
        of_name.unwrap_or((keyword(s).and_then(|k| group(&k)).unwrap_or(SPLITS.len()), SPLITS.len()))
    };
    splits.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    splits.dedup();
}

/// The split of `available` that `wanted` means; the only one if none is wanted.
pub(super) fn choose<'a>(path: &str, wanted: Option<&str>, available: &'a [String]) -> Result<&'a str> {
    let list = available.join(", ");
    let Some(wanted) = wanted else {
        if let [only] = available {
            return Ok(only);
        }
        let example = available.first().map_or("train", String::as_str);
        bail_hint!("{path} has several splits: {list}"; "name the one to open, for example \"{example}\"");
    };
    let mut found = matching(path, wanted, available)?;
    if found.is_none() && group(wanted) == Some(VALIDATION) {
        found = of_group(path, wanted, TEST, available)?;
    }
    if let Some(found) = found {
        if !found.eq_ignore_ascii_case(wanted) {
            listing::note_once(&format!("{path} has no split \"{wanted}\": took \"{found}\""));
        }
        return Ok(found);
    }
    if available.is_empty() {
        bail_hint!("{path} has no splits, but \"{wanted}\" was asked for"; "open it without naming a split, or with \"\" for it");
    }
    let near = did_you_mean(wanted, available.iter().map(String::as_str));
    bail_hint!("{path} has no split \"{wanted}\"{near}"; "its splits are: {list}")
}

/// The split that a folder without splits is by its own name, if any; an error if it is not the one `wanted`.
pub(super) fn of_folder(path: &Path, wanted: Option<&str>) -> Result<Option<String>> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let own: Vec<String> = name.filter(|name| is_split_name(name)).into_iter().collect();
    let shown = path.display().to_string();
    if let Some(wanted) = wanted
        && matching(&shown, wanted, &own)?.is_none()
    {
        choose(&shown, Some(wanted), &[])?;
    }
    Ok(own.into_iter().next())
}

/// The split called `wanted`, or else the one by another name of the same: `dev` or `imagenet_val` for "validation".
fn matching<'a>(path: &str, wanted: &str, available: &'a [String]) -> Result<Option<&'a str>> {
    let same = available.iter().find(|name| *name == wanted);
    let same = same.or_else(|| available.iter().find(|name| name.to_lowercase() == wanted.to_lowercase()));
    if let Some(same) = same {
        return Ok(Some(same));
    }
    match group(wanted) {
        Some(group) => of_group(path, wanted, group, available),
        None => Ok(None),
    }
}

/// The only split with a name of this list, or else with a keyword of it.
fn of_group<'a>(path: &str, wanted: &str, of: usize, available: &'a [String]) -> Result<Option<&'a str>> {
    let by_name: Vec<&String> = available.iter().filter(|name| group(name) == Some(of)).collect();
    let by_keyword = || available.iter().filter(|name| keyword(name).is_some_and(|k| group(&k) == Some(of))).collect();
    let found: Vec<&String> = if by_name.is_empty() { by_keyword() } else { by_name };
    if found.len() > 1 {
        let names: Vec<&str> = found.iter().map(|name| name.as_str()).collect();
        bail_hint!(
            "{path} has no split \"{wanted}\", but several that it could mean: {}", names.join(", ");
            "name one of them, for example \"{}\"", names[0]
        );
    }
    Ok(found.first().map(|name| name.as_str()))
}
