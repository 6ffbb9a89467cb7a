//! No function is longer than a page: 80 lines, in Rust and in scripts.

use crate::common::repository;
use std::path::PathBuf;

const PAGE: usize = 80;

/// The `.rs` and `.rhai` files below some folders of the repository.
fn files() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        ["src", "xtask/src", "stdlib", "recipes", "examples"].iter().map(|folder| repository(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|e| e.to_str()) {
                Some("rs" | "rhai") => files.push(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// Names and lengths of a file's functions. In a formatted file a function ends where a brace stands below its
/// beginning.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let name = |line: &str| -> Option<String> {
        let (before, after) = line.split_once("fn ")?;
        let words = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "extern", "\"C\"", "private"];
        let declares = before.split_whitespace().all(|word| words.contains(&word)) && !line.ends_with(['}', ';']);
        declares.then(|| after.split(['(', '<']).next().unwrap().to_string())
    };
    let length = |start: usize| {
        let line = lines[start];
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        // A declaration of a function of C, over several lines, has no body.
        let declared = format!("{indent}) -> ");
        let ends = |line: &&str| *line == end || line.starts_with(&declared) && line.ends_with(';');
        lines[start..].iter().position(ends).map(|lines| lines + 1)
    };
    (0..lines.len()).filter_map(|i| Some((name(lines[i])?, length(i)?))).collect()
}

#[test]
fn functions_fit_on_a_page() {
    let mut long = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(repository("")).unwrap().display().to_string();
        let longer = functions(&text).into_iter().filter(|(_, lines)| *lines > PAGE);
        long.extend(longer.map(|(name, lines)| format!("{file}: {name} has {lines} lines")));
    }
    assert!(long.is_empty(), "longer than {PAGE} lines:\n{}", long.join("\n"));
}
