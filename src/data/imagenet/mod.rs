//! The classes of ImageNet-1K, and how the classes of images are found among those of a model.

use super::source::Source;
use crate::bail_hint;
use crate::error::{Result, did_you_mean, ensure};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The classes of ImageNet-1K.
pub struct Classes {
    /// WordNet ids, by label.
    pub synsets: Vec<&'static str>,
    /// Names in words, by label.
    pub names: Vec<&'static str>,
    /// Labels of the classes of ImageNet-A.
    pub a: Vec<i64>,
    /// Labels of the classes of ImageNet-R.
    pub r: Vec<i64>,
    /// Label by WordNet id, by the whole name and by what comes before its first comma.
    labels: HashMap<&'static str, i64>,
}

/// The classes of ImageNet-1K.
pub fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let lines = include_str!("classes.txt").lines().map(|line| line.split_once(' ').expect("id and names"));
        let (synsets, names): (Vec<_>, Vec<_>) = lines.unzip();
        let mut labels = HashMap::new();
        // Where two classes share a short name, it is neither's.
        for (label, name) in names.iter().enumerate() {
            labels.entry(short(name)).and_modify(|l| *l = -1).or_insert(label as i64);
        }
        labels.retain(|_, label| *label >= 0);
        for list in [&names, &synsets] {
            labels.extend(list.iter().enumerate().map(|(label, name)| (*name, label as i64)));
        }
        let part = |text: &'static str| text.lines().map(|id| labels[id]).collect::<Vec<i64>>();
        Classes { a: part(include_str!("a.txt")), r: part(include_str!("r.txt")), synsets, names, labels }
    })
}

/// "tench" of "tench, Tinca tinca".
fn short(name: &str) -> &str {
    name.split(',').next().unwrap_or(name).trim_end_matches(|c: char| c.is_ascii_digit())
}

/// Whether these are all the classes of ImageNet-1K in the order of their labels, in ids or in words; lists of words
/// differ in a few of them.
fn is_imagenet(names: &[String]) -> bool {
    let known = classes();
    let same = |i: usize, n: &str| known.synsets[i] == n || short(known.names[i]) == short(n);
    names.len() == known.names.len() && names.iter().enumerate().filter(|(i, n)| same(*i, n)).count() >= 950
}

/// How the labels of images become those of a model.
pub struct Matched {
    /// The model's label for each of the images' labels.
    pub labels: Vec<i64>,
    /// The model's names of its classes.
    pub names: Vec<String>,
}

/// Finds the classes of a source among the `count` classes of a model, whose names are `names` if it has any.
///
/// A class is the model's of the same name, where WordNet ids and the names of ImageNet's classes count as the same;
/// names that are numbers are labels. Without names on the model's side, images that have as many classes have the same
/// ones, and a model of 1000 classes is taken for one of ImageNet if the images' classes are WordNet ids or numbers.
pub fn match_classes(source: &dyn Source, names: Option<Vec<String>>, count: usize) -> Result<Matched> {
    let (from, of) = (source.class_names(), source.describe());
    let known = classes();
    let numbers: Option<Vec<i64>> = from.iter().map(|n| n.parse().ok()).collect();
    let numbers = numbers.filter(|all| all.iter().all(|n| (0..count as i64).contains(n)));
    let in_order = || (0..from.len() as i64).collect::<Vec<_>>();
    let imagenets = || known.names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let by_id = |n: &String| known.labels.get(n.as_str()).copied();

    let Some(names) = names else {
        if count == known.names.len() {
            let found: Option<Vec<i64>> = from.iter().map(by_id).collect();
            if is_imagenet(from) {
                return Ok(Matched { labels: in_order(), names: imagenets() });
            }
            if let Some(labels) = found.or(numbers) {
                return Ok(Matched { labels, names: imagenets() });
            }
        }
        if from.len() == count {
            return Ok(Matched { labels: in_order(), names: from.to_vec() });
        }
        bail_hint!(
            "the model has {count} classes, but {of} has {}: {}", from.len(), some(from);
            "the model has no class names (id2label in config.json) to match its classes by"
        );
    };
    ensure!(names.len() == count, "the model has {count} outputs, but {} class names", names.len());
    if from == names || is_imagenet(from) && is_imagenet(&names) {
        return Ok(Matched { labels: in_order(), names });
    }
    let imagenet = is_imagenet(&names);
    let mut label_of: HashMap<String, i64> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        let label = if imagenet { Some(index as i64) } else { by_id(name).or(by_id(&short(name).to_string())) };
        if let Some(label) = label {
            label_of.insert(known.synsets[label as usize].to_string(), index as i64);
        }
        label_of.insert(name.clone(), index as i64);
    }
    let find = |name: &String| {
        let id = || by_id(name).or(by_id(&short(name).to_string())).map(|l| known.synsets[l as usize]);
        label_of.get(name).or_else(|| label_of.get(id()?)).copied()
    };
    let labels: Option<Vec<i64>> = from.iter().map(find).collect();
    if let Some(labels) = labels.or(numbers) {
        return Ok(Matched { labels, names });
    }
    let unknown: Vec<String> = from.iter().filter(|n| find(n).is_none()).cloned().collect();
    bail_hint!(
        "{} of the {} classes of {of} are not among the model's {count}: {}{}",
        unknown.len(), from.len(), some(&unknown), did_you_mean(&unknown[0], names.iter().map(String::as_str));
        "the model's are: {}", some(&names)
    )
}

fn some(names: &[String]) -> String {
    let more = if names.len() > 6 { ", …" } else { "" };
    names.iter().take(6).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}
