//! Enforces the table of rooms in docs/architecture.md: which may use which.
//!
//! A room is a folder or a file directly below src/. It knows another one where its code names a path into it:
//! `crate::…`, `super::…`, or a macro that the other exports. Comments, strings and tests do not count.

use crate::common::repository;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A Rust file below src/.
struct Source {
    /// As in `data/loader/mod.rs`.
    file: String,
    /// As in `["data", "loader"]`.
    module: Vec<String>,
    /// Code with comments, strings and test modules blanked out, line for line.
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        &self.module[0]
    }

    /// The paths from the crate's root that the code names, with their lines.
    fn paths(&self) -> Vec<(usize, Vec<String>)> {
        let mut found = Vec::new();
        for (start, word) in words(&self.code) {
            let mut base = match word {
                "crate" => Vec::new(),
                "super" if !self.code[..start].ends_with("::") => self.module[..self.module.len() - 1].to_vec(),
                _ => continue,
            };
            let mut rest = &self.code[start + word.len()..];
            while let Some(further) = rest.strip_prefix("::super") {
                base.pop();
                rest = further;
            }
            if let Some(tree) = rest.strip_prefix("::") {
                for path in leaves(tree) {
                    found.push((line_of(&self.code, start), [base.clone(), path].concat()));
                }
            }
        }
        found
    }
}

/// The identifiers of a text, each with its offset.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].find(is_word)?;
        let length = text[start..].find(|c| !is_word(c)).unwrap_or(text.len() - start);
        at = start + length;
        Some((start, &text[start..at]))
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// The paths of a use tree or of an expression: `a::{b, c::d} …` has a::b and a::c::d.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim_start();
    if let Some(group) = tree.strip_prefix('{') {
        let (mut depth, mut from, mut found) = (0, 0, Vec::new());
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    found.extend(leaves(&group[from..i]));
                    from = i + 1;
                }
                '}' if depth == 0 => {
                    found.extend(leaves(&group[from..i]));
                    return found;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        panic!("a use tree without an end: {{{group}");
    }
    let Some((0, name)) = words(tree).next() else { return Vec::new() };
    match tree[name.len()..].strip_prefix("::") {
        Some(rest) => {
            let rest = leaves(rest);
            let inner = if rest.is_empty() { vec![Vec::new()] } else { rest };
            inner.into_iter().map(|path| [vec![name.to_string()], path].concat()).collect()
        }
        None => vec![vec![name.to_string()]],
    }
}

/// Replaces the characters of some ranges by blanks, keeping lines.
fn blank(text: &mut [u8], from: usize, to: usize) {
    for byte in &mut text[from..to] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

/// Code without comments, strings and characters.
fn without_text(source: &str) -> String {
    let mut out = source.as_bytes().to_vec();
    let mut at = 0;
    while at < source.len() {
        let rest = &source.as_bytes()[at..];
        let raw = rest.strip_prefix(b"r").map(|r| r.iter().take_while(|b| **b == b'#').count());
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            source[at..].find("*/").map_or(rest.len(), |i| i + 2)
        } else if let Some(hashes) = raw.filter(|n| rest.get(n + 1) == Some(&b'"')) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 2;
            source[at + begin..].find(&end).map_or(rest.len(), |i| begin + i + end.len())
        } else if rest[0] == b'"' {
            let mut i = 1;
            while i < rest.len() && rest[i] != b'"' {
                i += if rest[i] == b'\\' { 2 } else { 1 };
            }
            (i + 1).min(rest.len())
        } else if rest.starts_with(b"'\"'") || rest.starts_with(b"'{'") || rest.starts_with(b"'}'") {
            3
        } else if rest.starts_with(b"'\\") {
            2 + rest[2..].iter().position(|b| *b == b'\'').map_or(1, |i| i.max(1) + 1)
        } else {
            // A whole identifier, so that the r of `for"` begins no raw string.
            let word = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
            at += word.max(1);
            continue;
        };
        blank(&mut out, at, at + length);
        at += length;
    }
    String::from_utf8(out).expect("blanks replace whole characters")
}

/// Blanks what follows each `#[cfg(test)]`: to the end of its braces, or to the semicolon before any.
fn without_tests(code: String) -> String {
    let mut out = code.clone().into_bytes();
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0;
        for (i, c) in code[start..].char_indices() {
            depth += i64::from(c == '{') - i64::from(c == '}');
            if depth == 0 && (c == '}' || c == ';') {
                blank(&mut out, start, start + i + 1);
                break;
            }
        }
    }
    String::from_utf8(out).expect("blanks replace whole characters")
}

/// All files of the library, but lib.rs, main.rs and folders of tests.
fn sources() -> Vec<Source> {
    let root = repository("src");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.extend(source(&root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

fn source(root: &Path, path: &Path) -> Option<Source> {
    let inside: PathBuf = path.strip_prefix(root).unwrap().into();
    let mut module: Vec<String> =
        inside.with_extension("").iter().map(|name| name.to_str().unwrap().to_string()).collect();
    module.pop_if(|last| last == "mod");
    if module == ["lib"] || module == ["main"] || module.iter().any(|name| name == "tests") {
        return None;
    }
    let code = without_tests(without_text(&std::fs::read_to_string(path).unwrap()));
    Some(Source { file: inside.display().to_string(), module, code })
}

/// Which room exports which macro at the crate's root.
fn macros(sources: &[Source]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for source in sources {
        let words: Vec<&str> = words(&source.code).map(|(_, word)| word).collect();
        let names = words.windows(2).filter(|pair| pair[0] == "macro_rules").map(|pair| pair[1].to_string());
        found.extend(names.map(|name| (name, source.room().to_string())));
    }
    found
}

/// The table of docs/architecture.md: rooms in its order, each with those that it may know.
fn table() -> Vec<(String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(repository("docs/architecture.md")).unwrap();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>();
    let rows = text.lines().skip_while(|line| !line.starts_with("| room ")).skip(2);
    let rows: Vec<_> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').collect();
            (names(cells[1]).remove(0), names(cells[3]).into_iter().collect())
        })
        .collect();
    assert!(rows.len() > 10, "docs/architecture.md has its table of rooms");
    rows
}

#[test]
fn rooms_know_only_what_the_table_allows() {
    let (sources, table) = (sources(), table());
    let macros = macros(&sources);
    let allowed: BTreeMap<_, _> = table.iter().cloned().collect();
    let rooms: BTreeSet<&str> = sources.iter().map(Source::room).collect();
    let listed: BTreeSet<&str> = allowed.keys().map(String::as_str).collect();
    assert_eq!(rooms, listed, "rooms of src/ (left) and of docs/architecture.md (right)");

    let (mut wrong, mut known) = (Vec::new(), BTreeSet::new());
    for source in &sources {
        for (line, path) in source.paths() {
            let Some(first) = path.first() else { continue };
            let other = if rooms.contains(first.as_str()) { first } else { macros.get(first).unwrap_or(first) };
            let at = format!("src/{}:{line}: `{}`", source.file, path.join("::"));
            if other == source.room() || other == "error" {
                continue;
            } else if !rooms.contains(other.as_str()) {
                wrong.push(format!("{at} is in no room of the table"));
            } else if !allowed[source.room()].contains(other) {
                wrong.push(format!("{at}: {} may not know {other}", source.room()));
            }
            known.insert((source.room().to_string(), other.clone()));
        }
    }
    for (room, others) in &table {
        for other in others.iter().filter(|other| !known.contains(&(room.clone(), (*other).clone()))) {
            wrong.push(format!("docs/architecture.md: {room} does not know {other}: leave it out"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_room_knows_only_rooms_above_it() {
    let mut above = BTreeSet::new();
    for (room, others) in table() {
        for other in others {
            assert!(
                above.contains(&other),
                "docs/architecture.md: {room} knows {other}, which does not stand above it"
            );
        }
        above.insert(room);
    }
}

/// A `mod.rs` is a room's or a folder's face: it names its files and they name it.
#[test]
fn no_files_of_a_room_know_each_other_in_a_circle() {
    let sources = sources();
    let files: BTreeMap<&[String], &Source> = sources.iter().map(|s| (&s.module[..], s)).collect();
    let is_face = |s: &Source| s.file.ends_with("mod.rs");
    let knows = |source: &Source| -> BTreeSet<&str> {
        let paths = source.paths();
        let file = |path: &Vec<String>| (1..=path.len()).rev().find_map(|n| files.get(&path[..n]).copied());
        let others = paths.iter().filter_map(|(_, path)| file(path));
        let beside = |o: &&Source| o.room() == source.room() && o.file != source.file && !is_face(o);
        others.filter(beside).map(|o| o.file.as_str()).collect()
    };
    let edges: BTreeMap<&str, BTreeSet<&str>> =
        sources.iter().filter(|s| !is_face(s)).map(|s| (s.file.as_str(), knows(s))).collect();
    // Files that know nobody who is left go; what stays stands in a circle, or leads to one.
    let mut left: BTreeSet<&str> = edges.keys().copied().collect();
    loop {
        let before = left.len();
        let kept = |file: &&str| !edges[file].is_disjoint(&left);
        left = left.iter().copied().filter(kept).collect();
        if left.len() == before {
            break;
        }
    }
    // Likewise those whom nobody who is left knows.
    loop {
        let before = left.len();
        let known: BTreeSet<&str> = left.iter().flat_map(|file| edges[file].iter().copied()).collect();
        left = left.intersection(&known).copied().collect();
        if left.len() == before {
            break;
        }
    }
    let told = left.iter().map(|file| {
        let others: Vec<_> = edges[file].intersection(&left).copied().collect();
        format!("src/{file} knows {}", others.join(", "))
    });
    assert!(left.is_empty(), "in circles:\n{}", told.collect::<Vec<_>>().join("\n"));
}

#[test]
fn paths_are_found_in_code_alone() {
    let text = r##"
use crate::data::{self, source::{Item, open}};
use super::super::nn;
// use crate::comment::x;
fn f() { crate::dist::rank(); let s = "crate::text::x"; let c = '"'; let r = r#"crate::raw"x"#; }
#[cfg(test)]
mod tests { use crate::plot::bars; fn g() { {} } }
fn h<'a>(x: &'a str) -> char { crate::run::x('{') }
"##;
    let source = Source {
        file: "script/api/x.rs".into(),
        module: ["script", "api", "x"].map(String::from).to_vec(),
        code: without_tests(without_text(text)),
    };
    let found: Vec<_> = source.paths().into_iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect();
    let expected =
        ["2 data::self", "2 data::source::Item", "2 data::source::open", "3 script::nn", "5 dist::rank", "8 run::x"];
    assert_eq!(found, expected);
}
