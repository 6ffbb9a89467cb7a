//! The classes of ImageNet-1K, and how the classes of images are found among those of a model.

use super::source::Source;
use crate::bail_hint;
use crate::error::{Result, did_you_mean, ensure};
use std::collections::{HashMap, HashSet};
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
/// differ in a few of them, but none may be the name of another class.
fn is_imagenet(names: &[String]) -> bool {
    let known = classes();
    let same = |i: usize, n: &str| known.synsets[i] == n || short(known.names[i]) == short(n);
    let of_another = |i: usize, n: &str| known.labels.get(n).is_some_and(|label| *label != i as i64);
    names.len() == known.names.len()
        && names.iter().enumerate().filter(|(i, n)| same(*i, n)).count() >= 950
        && !names.iter().enumerate().any(|(i, n)| !same(i, n) && of_another(i, n))
}

/// The numbers that these names are, in digits, if all are and no two the same.
fn numbers(names: &[String]) -> Option<Vec<i64>> {
    let number = |name: &String| name.parse().ok().filter(|_| name.bytes().all(|b| b.is_ascii_digit()));
    let numbers: Vec<i64> = names.iter().map(number).collect::<Option<_>>()?;
    let distinct: HashSet<&i64> = numbers.iter().collect();
    (distinct.len() == numbers.len()).then_some(numbers)
}

/// How the labels of images become those of a model.
pub struct Matched {
    /// The model's label for each of the images' labels.
    pub labels: Vec<i64>,
    /// The model's names of its classes.
    pub names: Vec<String>,
    /// What was assumed where names do not tell: "the outputs are …".
    pub assumed: Option<&'static str>,
}

impl Matched {
    /// By names.
    fn known(labels: Vec<i64>, names: Vec<String>) -> Self {
        Self { labels, names, assumed: None }
    }
}

/// Finds the classes of a source among the `count` classes of a model, whose names are `names` if it has any.
///
/// A class is the model's of the same name, where WordNet ids and the names of ImageNet's classes count as the same;
/// names that are numbers are labels, unless the model's names are numbers too. Without names on the model's side,
/// numbers are labels as well, and else images that have as many classes have the same ones in the same order; a model
/// of 1000 classes is taken for one of ImageNet if the images' classes are WordNet ids or numbers.
pub fn match_classes(source: &dyn Source, names: Option<Vec<String>>, count: usize) -> Result<Matched> {
    let from = source.class_names();
    let Some(names) = names else { return match_nameless(source, count) };
    ensure!(names.len() == count, "the model has {count} outputs, but {} class names", names.len());
    let in_order = || (0..from.len() as i64).collect::<Vec<_>>();
    if from == names || is_imagenet(from) && is_imagenet(&names) {
        return Ok(Matched::known(in_order(), names));
    }
    match_names(source, names)
}

/// The classes of a source among those of a model of which no names are known.
fn match_nameless(source: &dyn Source, count: usize) -> Result<Matched> {
    let (from, of) = (source.class_names(), source.describe());
    let known = classes();
    let in_order: Vec<i64> = (0..from.len() as i64).collect();
    let numbers = numbers(from).filter(|all| all.iter().all(|n| (0..count as i64).contains(n)));
    if count == known.names.len() {
        let found: Option<Vec<i64>> = from.iter().map(|name| known.labels.get(name.as_str()).copied()).collect();
        let labels = if is_imagenet(from) { Some(in_order.clone()) } else { found.or_else(|| numbers.clone()) };
        if let Some(labels) = labels {
            let assumed = Some("the outputs are taken for the classes of ImageNet-1K");
            return Ok(Matched { labels, names: known.names.iter().map(|n| n.to_string()).collect(), assumed });
        }
    }
    match numbers {
        // `0`, `1`, `10`, … as a table's ClassLabel may list them.
        Some(labels) if from.len() == count && labels != in_order => bail_hint!(
            "the classes of {of} are numbers, but not in their order: {}; a model without class names may mean the \
             number or the place in that list", some(from);
            "say which: give the model's `class_names`, for example those of the images that it was trained on"
        ),
        Some(labels) => {
            let plain = from.iter().enumerate().all(|(label, name)| *name == label.to_string());
            let assumed = (from.len() < count || !plain)
                .then_some("class names that are numbers are taken for the model's labels");
            let all = || (0..count).map(|label| label.to_string()).collect();
            let names = if from.len() == count { from.to_vec() } else { all() };
            Ok(Matched { labels, names, assumed })
        }
        None if from.len() == count => {
            let assumed = Some("the outputs are taken for the classes of the images, in their order");
            Ok(Matched { labels: in_order, names: from.to_vec(), assumed })
        }
        None => bail_hint!(
            "the model has {count} classes, but {of} has {}: {}", from.len(), some(from);
            "the model has no class names (id2label in config.json) to match its classes by"
        ),
    }
}

/// The classes of a source among those of a model, by name.
fn match_names(source: &dyn Source, names: Vec<String>) -> Result<Matched> {
    let (from, of, count) = (source.class_names(), source.describe(), names.len());
    let known = classes();
    let by_id = |n: &String| known.labels.get(n.as_str()).copied();
    let imagenet = is_imagenet(&names);
    let known_label = |name: &String| by_id(name).or(by_id(&short(name).to_string()));
    // The model's labels by name, and by ImageNet's; several where names do not tell classes apart (two are a "crane").
    let mut by_name: HashMap<&str, Vec<i64>> = HashMap::new();
    let mut by_known: HashMap<i64, Vec<i64>> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(label) = if imagenet { Some(index as i64) } else { known_label(name) } {
            by_known.entry(label).or_default().push(index as i64);
        }
        by_name.entry(name).or_default().push(index as i64);
    }
    let find_all = |name: &String| by_name.get(name.as_str()).or_else(|| by_known.get(&known_label(name)?));
    for name in from {
        if let Some(several) = find_all(name).filter(|found| found.len() > 1) {
            bail_hint!(
                "the class {name} of {of} may be any of {several:?} among the model's {count} classes: their names are {}",
                several.iter().map(|label| names[*label as usize].as_str()).collect::<Vec<_>>().join(", ");
                "give each class of the model a name of its own: by the option `class_names`, or id2label in config.json; \
                 WordNet ids (data::imagenet_classes().synsets) tell ImageNet's apart"
            );
        }
    }
    let find = |name: &String| find_all(name).map(|found| found[0]);
    let labels: Option<Vec<i64>> = from.iter().map(find).collect();
    // "3" may be the model's fourth class by label, or its class "3": then only by name.
    let labels_of_numbers = || {
        let all = numbers(from).filter(|all| all.iter().all(|n| (0..count as i64).contains(n)))?;
        names.iter().all(|name| numbers(std::slice::from_ref(name)).is_none()).then_some(all)
    };
    if let Some(labels) = labels {
        return Ok(Matched::known(labels, names));
    }
    if let Some(labels) = labels_of_numbers() {
        let assumed = Some("the images' classes are numbers, which are taken for the model's labels");
        return Ok(Matched { labels, names, assumed });
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
