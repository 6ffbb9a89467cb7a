//! The pages in docs/ and the README: links lead somewhere, the book lists every page, and the first steps work.

use crate::common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The pages by their path from the repository's root.
fn pages() -> BTreeMap<String, String> {
    let names = names_in(&repository("docs")).into_iter().map(|name| format!("docs/{name}"));
    let all = names.filter(|name| name.ends_with(".md")).chain(["README.md".to_string()]);
    all.map(|name| (name.clone(), std::fs::read_to_string(repository(&name)).unwrap())).collect()
}

/// The lines of a page that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// What is linked to: `](target)`, without code in backticks.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let mut rest = plain.as_str();
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            found.push(rest[..end].to_string());
            rest = &rest[end..];
        }
    }
    found
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let pages = pages();
    let mut count = 0;
    for (page, text) in &pages {
        for link in links(text).iter().filter(|link| !link.starts_with("http")) {
            let (path, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let folder = Path::new(page).parent().unwrap();
            let target = if path.is_empty() { repository(page) } else { repository("").join(folder).join(path) };
            assert!(target.exists(), "{page}: the link {link} leads nowhere");
            if let Some(anchor) = anchor {
                let text = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).contains(anchor), "{page}: {link}: there is no such heading");
            }
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn the_book_lists_every_page() {
    let pages = pages();
    let listed: BTreeSet<String> =
        links(&pages["docs/SUMMARY.md"]).into_iter().map(|link| format!("docs/{link}")).collect();
    let all: BTreeSet<String> =
        pages.keys().filter(|name| name.starts_with("docs/") && *name != "docs/SUMMARY.md").cloned().collect();
    assert_eq!(listed, all);
}

/// The blocks of code of a page in a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(rest) if !open && rest == language => {
                open = true;
                found.push(String::new());
            }
            Some(_) => open = false,
            None if open => {
                let block = found.last_mut().unwrap();
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    found
}

#[test]
fn the_first_steps_work() {
    let folder = Folder::on_cpu();
    let text = std::fs::read_to_string(repository("docs/first-steps.md")).unwrap();
    for script in blocks(&text, "rhai") {
        let name = script.lines().next().unwrap().strip_prefix("// ").expect("the name of its file").to_string();
        folder.write(&name, script);
    }
    let commands = blocks(&text, "console").concat();
    let commands: Vec<&str> = commands.lines().map(|line| line.strip_prefix("$ nepa ").expect("a command")).collect();
    assert!(commands.len() > 12, "{commands:?}");
    let mut said = String::new();
    for command in commands.iter().filter(|command| **command != "doctor") {
        let words: Vec<&str> = command.split(' ').collect();
        said += &folder.nepa(&words).succeeds().stdout;
    }
    assert!(said.contains("kNN top-1") && said.contains("lr"), "{said}");
    for file in ["runs/first/report.html", "runs/first/curves.png", "both.png", "model-timm/config.json"] {
        assert!(folder.path(file).exists(), "{file}");
    }
}
