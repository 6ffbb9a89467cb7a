//! Which panels the numbers of some runs become.

use crate::run::numbers::number;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

type Line = Map<String, Value>;

/// Name in the metrics, title, whether many decades are drawn logarithmically.
pub const KNOWN: &[(&str, &str, bool)] = &[
    ("loss", "loss", false),
    ("lr", "learning rate", false),
    ("grad_norm", "gradient norm", true),
    ("target_std", "standard deviation of targets (0: collapsed)", false),
    ("effective_rank", "effective rank of targets (1: collapsed)", false),
    ("target_cosine", "cosine between targets (1: collapsed)", false),
    ("images_per_second", "throughput (images/s)", false),
    ("knn_top1", "k-NN top-1 accuracy", false),
    ("probe_top1", "linear probe top-1 accuracy", false),
    ("top1", "top-1 accuracy", false),
];
/// Where a line stands on an axis: no curve of its own.
pub const POSITIONS: &[&str] = &["step", "epoch", "seconds", "time"];
/// Parts of the data: `train/loss` and `val/loss`, or `train_loss` and `val_loss`, share a panel.
const SPLITS: &[&str] = &["train", "validation", "valid", "val", "test", "eval"];
/// The most panels of a picture.
pub const MOST_PANELS: usize = 48;
/// The most names that are told apart.
const MOST_NAMES: usize = 10_000;

/// A panel: the numbers in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// Its title.
    pub title: String,
    /// Whether many decades are drawn logarithmically.
    pub log: bool,
    /// What it draws, each a name in the metrics and, where there are several, what it stands for in the legend.
    pub members: Vec<(String, Option<String>)>,
}

/// The part of the data that a name begins with, and the rest: ("val", "loss").
fn split(name: &str) -> Option<(&str, &str)> {
    let rest = |split: &'static str| {
        let rest = name.strip_prefix(split)?.strip_prefix(['/', '_', '.'])?;
        (!rest.is_empty()).then_some((split, rest))
    };
    SPLITS.iter().find_map(|split| rest(split))
}

/// The names of numbers in some lines, in the order in which they come.
pub fn numbers<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Vec<&'a str> {
    let (mut known, mut names) = (HashSet::new(), Vec::new());
    for (name, value) in lines.into_iter().flatten() {
        if number(value).is_some()
            && !POSITIONS.contains(&name.as_str())
            && names.len() < MOST_NAMES
            && known.insert(name)
        {
            names.push(name.as_str());
        }
    }
    names
}

/// The panels for some names: known ones first, then in the order of the names.
pub fn groups(names: &[&str]) -> Vec<Group> {
    let mut members: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for name in names {
        let base = split(name).map_or(*name, |(_, base)| base);
        let place = *places.entry(base).or_insert(members.len());
        if place == members.len() {
            members.push((base, Vec::new()));
        }
        members[place].1.push(name);
    }
    let place = |base: &str| KNOWN.iter().position(|known| known.0 == base).unwrap_or(KNOWN.len());
    members.sort_by_key(|(base, _)| place(base));
    members.into_iter().map(|(base, names)| group(base, &names)).collect()
}

fn group(base: &str, names: &[&str]) -> Group {
    let known = KNOWN.iter().find(|known| known.0 == base);
    let title = match (known, names) {
        (_, [only]) if *only != base => only.to_string(),
        (Some((_, title, _)), _) => title.to_string(),
        _ => base.to_string(),
    };
    let several = names.len() > 1;
    let legend = |name: &str| split(name).filter(|_| several).map(|(split, _)| split.to_string());
    let members = names.iter().map(|name| (name.to_string(), legend(name))).collect();
    Group { title, log: known.map_or(base.ends_with("norm"), |known| known.2), members }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_data_share_a_panel() {
        let found = groups(&["my_metric", "val/loss", "train_loss", "lr", "val/acc", "loss"]);
        let titles: Vec<&str> = found.iter().map(|group| group.title.as_str()).collect();
        assert_eq!(titles, ["loss", "learning rate", "my_metric", "val/acc"]);
        let member = |name: &str, split: Option<&str>| (name.to_string(), split.map(String::from));
        let expected = [member("val/loss", Some("val")), member("train_loss", Some("train")), member("loss", None)];
        assert_eq!(found[0].members, expected);
        assert_eq!(found[3].members, [member("val/acc", None)]);
        // The beginning of a word is no part of the data.
        assert_eq!(groups(&["training", "valid_", "values"]).len(), 3);
    }
}
