//! What the names of shards tell: their split, their number, and what they have in common.

use super::split_names;
use std::path::Path;

/// Endings of compressed archives, and how those are compressed.
const COMPRESSED: [(&str, &str); 8] = [
    (".tar.gz", "gzip"),
    (".tgz", "gzip"),
    (".tar.zst", "zstd"),
    (".tar.bz2", "bzip2"),
    (".tbz2", "bzip2"),
    (".tar.xz", "xz"),
    (".txz", "xz"),
    (".tar.lz4", "lz4"),
];

/// What shards are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Parquet,
    Tar,
}

impl Kind {
    /// Of a file with this name, in upper or lower case. Compressed archives count as archives, to be refused as such.
    pub fn of(name: &str) -> Option<Kind> {
        let name = name.to_lowercase();
        match () {
            _ if name.ends_with(".parquet") => Some(Kind::Parquet),
            _ if name.ends_with(".tar") || compression(&name).is_some() => Some(Kind::Tar),
            _ => None,
        }
    }

    /// The ending of its files.
    pub fn ending(self) -> &'static str {
        match self {
            Kind::Parquet => ".parquet",
            Kind::Tar => ".tar",
        }
    }
}

/// How an archive with this name is compressed, if it is.
pub(super) fn compression(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    COMPRESSED.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, how)| *how)
}

/// The name of a shard, in parts.
#[derive(Debug, PartialEq)]
pub(super) struct ShardName {
    /// The folder below the data set's own, "" for that one.
    pub folder: String,
    /// The folder without the parts that name a split: "plain_text" of `plain_text/train`.
    pub set: String,
    /// What comes before the number: "imagenet-train" of `imagenet-train-0003.tar`.
    pub prefix: String,
    /// The number, and of how many if the name tells it.
    pub number: Option<usize>,
    pub of: Option<usize>,
    /// The split, by the rules of `datasets` (its data_files.py), if a keyword tells it.
    pub split: Option<String>,
}

impl ShardName {
    /// Of a path below the data set's folder.
    pub fn of(path: &Path) -> Self {
        let folder = path.parent().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = stem(&name);
        let (prefix, number, of) = numbered(stem);
        let parts = || folder.split('/').filter(|part| !part.is_empty());
        let set: Vec<&str> = parts().filter(|part| split_names::keyword(part).is_none()).collect();
        let split = match (parts().find_map(split_names::keyword), split_names::keyword(stem)) {
            // A folder and a name that disagree make a split of their own, to be taken for neither.
            (Some(outer), Some(inner)) if !split_names::same(&outer, &inner) => Some(format!("{outer}/{prefix}")),
            (Some(outer), _) => Some(outer),
            // `datasets` takes the whole of what comes before `-00000-of-00010` for the split: "train_extra".
            (None, Some(keyword)) if of.is_none() || prefix.contains(['-', ' ']) => Some(keyword),
            (None, Some(keyword)) if prefix.to_lowercase() == keyword => Some(keyword),
            (None, Some(_)) => Some(prefix.clone()),
            // "train_val" is neither.
            (None, None) if split_names::speaks_of_several(stem) => Some(prefix.clone()),
            (None, None) => None,
        };
        Self { set: set.join("/"), folder, prefix, number, of, split }
    }
}

/// A file's name without what tells its kind.
fn stem(name: &str) -> &str {
    let lower = name.to_lowercase();
    let endings = COMPRESSED.iter().map(|(ending, _)| *ending).chain([".tar", ".parquet"]);
    let cut = endings.filter(|ending| lower.ends_with(ending)).map(str::len).max().unwrap_or(0);
    // Lower case may take another number of bytes, but endings are ASCII.
    &name[..name.len() - cut]
}

/// What comes before the number of a shard, the number, and of how many: "train", 3 and 10 of `train-00003-of-00010`.
fn numbered(stem: &str) -> (String, Option<usize>, Option<usize>) {
    let delimiter = |c: char| matches!(c, '-' | '.' | '_' | ' ');
    let words = stem.split(delimiter).scan(0, |start, word| {
        let at = *start;
        *start += word.len() + 1;
        Some((at, word))
    });
    let numbers: Vec<(usize, &str)> =
        words.filter(|(_, word)| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())).collect();
    let total = |(start, word): &(usize, &str)| {
        let rest = stem[start + word.len()..].strip_prefix("-of-")?;
        rest.split(delimiter).next()?.parse().ok()
    };
    // `imagenet-2012-train-00003-of-00010` has an earlier number, which is no shard's.
    if let Some(number) = numbers.iter().find(|number| total(number).is_some()).or(numbers.first()) {
        let prefix = stem[..number.0].trim_end_matches(delimiter).to_string();
        return (prefix, number.1.parse().ok(), total(number));
    }
    let prefix = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    (prefix.trim_end_matches(delimiter).to_string(), stem[prefix.len()..].parse().ok(), None)
}
