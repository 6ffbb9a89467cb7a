//! The samples of an archive: its files joined by name, wherever they lie in it.

use super::labels::{self, JsonClass};
use super::paths;
use super::tar::{self, Member};
use crate::bail_hint;
use crate::error::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// Of images with names of their own, those that are the picture itself: `key.image.png` beside `key.depth.png`.
const IMAGES: [&str; 3] = ["image", "img", "input"];
/// Likewise of labels: `key.label.cls`.
const LABELS: [&str; 3] = ["label", "target", "class"];

/// Files of one sample: each is compared with those before it.
const MOST_FILES: usize = 1000;

/// An image, and what the archive says of its class.
pub(super) struct Sample {
    pub image: Member,
    pub class: Class,
}

/// The class of an image, as the files beside it tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Class {
    /// Its number; -1 says that it has none.
    pub label: Option<i32>,
    /// Its name.
    pub word: Option<String>,
    /// What the sample's JSON holds in place of a label, in words.
    pub unread: Option<String>,
}

impl Class {
    /// Whether nothing tells the class.
    pub fn is_unknown(&self) -> bool {
        self.label.is_none() && self.word.is_none() && self.unread.is_none()
    }
}

/// What is in an archive.
pub(super) struct Content {
    /// In the order of each sample's first file.
    pub samples: Vec<Sample>,
    /// Samples without an image.
    pub skipped: u64,
    /// Whether the archive has its end mark.
    pub marked: bool,
}

/// The files that share a name up to its first dot.
#[derive(Default)]
struct Group {
    endings: Vec<Vec<u8>>,
    images: Vec<Part<Member>>,
    numbers: Vec<Part<Result<Class>>>,
    texts: Vec<Part<Result<Class>>>,
}

/// A file of a sample.
struct Part<T> {
    /// "depth.png" of `key.depth.png`.
    ending: String,
    content: T,
}

/// Reads the names of all files and the content of those that tell classes. `progress` is told of further samples.
pub(super) fn read(path: &Path, progress: impl Fn(u64)) -> Result<Content> {
    let (mut groups, mut keys): (Vec<Group>, Vec<Vec<u8>>) = Default::default();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut twice = Vec::new();
    let marked = tar::each_member(path, |member, content| {
        let Some((key, ending)) = parts(&member.name).filter(|_| paths::strays_in(&member.name) == 0) else {
            return Ok(());
        };
        let place = *places.entry(key.to_vec()).or_insert_with(|| {
            keys.push(key.to_vec());
            groups.push(Group::default());
            groups.len() - 1
        });
        let ending = ending.to_ascii_lowercase();
        if groups[place].endings.len() == MOST_FILES {
            bail_hint!(
                "{}: more than {MOST_FILES} files share the name {}", path.display(), text(key);
                "the files of a sample share its name, which ends at the first dot"
            );
        }
        if groups[place].endings.contains(&ending) {
            twice.push(text(&member.name));
        }
        groups[place].add(path, ending, member, content)?;
        if groups.len() % 1000 == 0 && groups.len() == place + 1 && groups[place].endings.len() == 1 {
            progress(1000);
        }
        Ok(())
    })?;
    drop(places);
    progress((groups.len() % 1000) as u64);
    if !twice.is_empty() {
        bail_hint!(
            "{}: files that come twice: {} ({})", path.display(), twice.len(), paths::some(&twice);
            "two samples of an archive must not share a name; a name ends at the first dot"
        );
    }
    join(path, groups, &keys, marked)
}

impl Group {
    /// One more file; `content` reads it.
    fn add(
        &mut self,
        path: &Path,
        ending: Vec<u8>,
        member: &Member,
        content: &mut dyn FnMut() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let name = text(&ending);
        match kind(&ending) {
            b"cls" => self.numbers.push(Part { ending: name, content: number(path, &member.name, &content()?) }),
            b"json" => self.texts.push(Part { ending: name, content: class_in_json(path, &member.name, &content()?) }),
            kind if paths::is_image_extension(kind) => {
                self.images.push(Part { ending: name, content: member.clone() });
            }
            _ => (),
        }
        self.endings.push(ending);
        Ok(())
    }
}

/// The class in a file of its own.
fn number(path: &Path, name: &[u8], content: &[u8]) -> Result<Class> {
    match labels::in_text(content) {
        Ok(label) => Ok(Class { label: Some(label), ..Class::default() }),
        Err(held) => bail_hint!(
            "{}: {} holds \"{}\", which is not a label", path.display(), text(name),
            held.chars().take(40).collect::<String>();
            "expected the number of the class, as text"
        ),
    }
}

/// The class in a sample's JSON.
fn class_in_json(path: &Path, name: &[u8], content: &[u8]) -> Result<Class> {
    let value: Value = serde_json::from_slice(labels::without_mark(content))
        .with_context(|| format!("{}: {} is not JSON", path.display(), text(name)))?;
    Ok(match labels::in_json(&value) {
        Ok(JsonClass { label, name: word }) => Class { label, word, unread: None },
        Err(what) => Class { unread: Some(format!("{} {what}", text(name))), ..Class::default() },
    })
}

/// Joins the files of each sample.
fn join(path: &Path, groups: Vec<Group>, keys: &[Vec<u8>], marked: bool) -> Result<Content> {
    let of_images = groups.iter().flat_map(|g| g.images.iter().map(|part| part.ending.as_str()));
    let image_role = chosen_role(path, "images", of_images.collect(), &IMAGES)?;
    let of_numbers = groups.iter().flat_map(|g| g.numbers.iter().map(|part| part.ending.as_str()));
    let number_role = chosen_role(path, "labels", of_numbers.collect(), &LABELS)?;
    // JSON may hold anything: only what tells classes counts.
    let tells = |part: &&Part<Result<Class>>| {
        part.content.as_ref().map_or(role(&part.ending).is_empty(), |class| !class.is_unknown())
    };
    let of_texts = groups.iter().flat_map(|g| g.texts.iter().filter(tells).map(|part| part.ending.as_str()));
    let text_role = chosen_role(path, "labels", of_texts.collect(), &LABELS)?;

    let mut content = Content { samples: Vec::new(), skipped: 0, marked };
    let (mut several, mut lost) = (Vec::new(), Vec::new());
    for (group, key) in groups.into_iter().zip(keys) {
        let own = |parts: Vec<Part<Result<Class>>>, role: &Option<String>| -> Result<Class> {
            let part = parts.into_iter().find(|part| has_role(&part.ending, role));
            part.map_or(Ok(Class::default()), |part| part.content)
        };
        let (number, told) = (own(group.numbers, &number_role)?, own(group.texts, &text_role)?);
        let unread = told.unread.filter(|_| number.label.is_none());
        let class = Class { label: number.label.or(told.label), word: told.word, unread };
        let mut images = group.images.into_iter().filter(|part| has_role(&part.ending, &image_role));
        match (images.next(), images.next()) {
            (Some(image), None) => content.samples.push(Sample { image: image.content, class }),
            (Some(a), Some(b)) => several.push(format!("{} and {}", text(&a.content.name), text(&b.content.name))),
            (None, _) if class.is_unknown() => content.skipped += 1,
            (None, _) => lost.push(text(key)),
        }
    }
    if !several.is_empty() {
        bail_hint!(
            "{}: samples with several images: {} ({})", path.display(), several.len(), paths::some(&several);
            "give those that are no pictures a name of their own, such as KEY.mask.png"
        );
    }
    if !lost.is_empty() {
        bail_hint!(
            "{}: labels without an image: {} ({})", path.display(), lost.len(), paths::some(&lost);
            "an image and its label share a name up to the first dot, and lie in one archive"
        );
    }
    for sample in &content.samples {
        let Member { name, size, .. } = &sample.image;
        ensure!(*size <= paths::MOST_IMAGE, "{}: {} is larger than 1 GiB", path.display(), text(name));
    }
    Ok(content)
}

/// Which files of a kind, by their endings, are the samples' own: those without a role, as `key.png`; else the only
/// role that there is; else the usual one.
fn chosen_role(path: &Path, what: &str, endings: BTreeSet<&str>, usual: &[&str]) -> Result<Option<String>> {
    let roles: BTreeSet<&str> = endings.iter().map(|ending| role(ending)).collect();
    let known: Vec<&str> = roles.iter().copied().filter(|role| usual.contains(role)).collect();
    let roles: Vec<&str> = roles.into_iter().collect();
    match (&roles[..], &known[..]) {
        ([], _) => Ok(None),
        ([role], _) | ([role @ "", ..], _) | (_, [role]) => Ok(Some(role.to_string())),
        _ => {
            let endings: Vec<String> = endings.iter().map(|ending| format!(".{ending}")).collect();
            bail_hint!(
                "{}: cannot tell which files are the {what}: their names end in {}", path.display(),
                paths::some(&endings);
                "the name of a sample ends at the first dot; call its image KEY.jpg or KEY.image.jpg, its label KEY.cls"
            );
        }
    }
}

fn has_role(ending: &str, wanted: &Option<String>) -> bool {
    wanted.as_ref().is_some_and(|wanted| role(ending) == wanted)
}

/// "depth" of `depth.png`, "" of `png`.
fn role(ending: &str) -> &str {
    ending.rfind('.').map_or("", |dot| &ending[..dot])
}

/// "png" of `depth.png`.
fn kind(ending: &[u8]) -> &[u8] {
    ending.iter().rposition(|b| *b == b'.').map_or(ending, |dot| &ending[dot + 1..])
}

/// The name up to the first dot of its last part, and what follows the dot. `None` for files that WebDataset skips.
fn parts(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let base = name.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let dot = name[base..].iter().position(|b| *b == b'.').filter(|dot| *dot > 0)?;
    Some((&name[..base + dot], &name[base + dot + 1..]))
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Whether there are images, and labels, among the first files of an archive. One that cannot be read may hold images.
pub(super) fn look(path: &Path) -> (bool, bool) {
    const MOST: usize = 100;
    let (mut seen, mut images, mut labels, mut enough) = (0, false, false, false);
    let read = tar::each_member(path, |member, _| {
        if let Some((_, ending)) = parts(&member.name).filter(|_| paths::strays_in(&member.name) == 0) {
            let ending = ending.to_ascii_lowercase();
            let kind = kind(&ending);
            images |= paths::is_image_extension(kind);
            labels |= matches!(kind, b"cls" | b"json");
        }
        seen += 1;
        enough = seen == MOST || images && labels;
        ensure!(!enough, "seen enough");
        Ok(())
    });
    (images || read.is_err() && !enough, labels)
}
