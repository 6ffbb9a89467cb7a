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

/// Follows a page: writes its scripts, those that begin with the name of their file, and runs its commands, each as
/// `adapted` has it. Gives what they printed.
fn follow(page: &str, folder: &Folder, adapted: impl Fn(&str) -> Option<String>) -> String {
    let text = std::fs::read_to_string(repository(page)).unwrap();
    for script in blocks(&text, "rhai") {
        if let Some(name) = script.lines().next().and_then(|line| line.strip_prefix("// ")) {
            folder.write(name, &script);
        }
    }
    let commands = blocks(&text, "console").concat();
    let mut said = String::new();
    for line in commands.lines() {
        let command = line.strip_prefix("$ nepa ").unwrap_or_else(|| panic!("{page}: no command of nepa: {line}"));
        if let Some(command) = adapted(command) {
            let words = words(&command);
            said += &folder.nepa(&words.iter().map(String::as_str).collect::<Vec<_>>()).succeeds().stdout;
        }
    }
    said
}

/// The words of a command, as a shell splits it: no word has a space here, but quotes keep brackets from zsh.
fn words(command: &str) -> Vec<String> {
    command.split(' ').map(|word| word.replace('\'', "")).collect()
}

/// What runs as it stands; `doctor` would judge the machine of the tests.
fn unchanged(command: &str) -> Option<String> {
    (command != "doctor").then(|| command.to_string())
}

#[test]
fn the_first_steps_work() {
    let folder = Folder::on_cpu();
    let said = follow("docs/first-steps.md", &folder, unchanged);
    assert!(said.contains("kNN top-1") && said.contains("lr"), "{said}");
    for file in ["runs/first/report.html", "runs/first/curves.png", "both.png", "model-timm/config.json"] {
        assert!(folder.path(file).exists(), "{file}");
    }
}

#[test]
fn the_tutorial_of_your_images_works() {
    let folder = Folder::on_cpu();
    let images = |class: &'static str, colour: [u8; 3]| {
        let path = move |i| format!("my-{}images/{class}/{i}.png", if i < 60 { "" } else { "test-" });
        (0..70).map(move |i| (path(i), colour))
    };
    for (path, [r, g, b]) in images("oak", [200, 40, 30]).chain(images("maple", [20, 60, 180])) {
        let shade = |x: u32, y: u32| image::Rgb([r, g, b].map(|c: u8| c.saturating_add((x * 3 + y * 2) as u8)));
        std::fs::create_dir_all(folder.path(&path).parent().unwrap()).unwrap();
        image::RgbImage::from_fn(40, 36, shade).save(folder.path(&path)).unwrap();
    }
    // Fewer epochs, all else as a reader does it.
    let said = follow("docs/tutorial-images.md", &folder, |command| {
        let shorter = ["run pretrain.rhai", "run classify.rhai"].iter().any(|start| command.starts_with(start));
        Some(format!("{command}{}", if shorter { " --set epochs=2" } else { "" }))
    });
    assert!(said.contains("top-1"), "{said}");
    for file in ["sheet.png", "runs/knn/blocks.png", "features.parquet", "both.png", "model-hf/README.md"] {
        assert!(folder.path(file).exists(), "{file}");
    }
}

#[test]
fn the_tutorial_of_a_loss_works() {
    let folder = Folder::on_cpu();
    let said = follow("docs/tutorial-loss.md", &folder, |command| {
        let shorter = command.starts_with("sweep") || command.starts_with("run");
        Some(format!("{command}{}", if shorter { " --set images=300 --set epochs=1" } else { "" }))
    });
    assert!(said.contains("knn_top1") && folder.path("right.png").exists(), "{said}");
}

#[test]
fn the_tutorial_of_imagenet_works_at_a_tiny_size() {
    let folder = Folder::on_cpu();
    for i in 0..16u32 {
        let split = if i < 12 { "train" } else { "val" };
        let path = folder.path(&format!("imagenet/{split}/c{}/{i}.png", i % 2));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_fn(60, 60, |x, y| image::Rgb([(x * 4) as u8, (y * 4) as u8, (i * 9) as u8]))
            .save(path)
            .unwrap();
    }
    follow("docs/tutorial-imagenet.md", &folder, |command| {
        let tiny = match command.split(' ').nth(1) {
            Some("pretrain_vitb.rhai") if !command.contains("--help") => {
                " --set image_size=28 --set hidden_size=48 --set layers=2 --set heads=2 --set batch=4 --set steps=2 \
                 --set evaluate_every=0 --threads 1"
            }
            Some("finetune_vitb.rhai") => " --set batch=4 --set epochs=1 --threads 1",
            _ => "",
        };
        unchanged(&format!("{}{tiny}", command.replace("--nproc 8", "--nproc 2")))
    });
    for file in ["packed", "runs/evaluation/report.html", "model-hf/config.json", "model-timm/config.json"] {
        assert!(folder.path(file).exists(), "{file}");
    }
}

#[test]
fn what_the_explanations_show_runs() {
    for page in ["README.md", "docs/data.md", "docs/what-is-nepa.md"] {
        let folder = Folder::on_cpu();
        let text = std::fs::read_to_string(repository(page)).unwrap();
        for script in blocks(&text, "rhai") {
            // One epoch, of fewer images where the script says how many.
            let has = |name: &str| script.contains(&format!("param(\"{name}\""));
            let shorter = [("epochs", "epochs=1"), ("images", "images=256")].into_iter().filter(|(name, _)| has(name));
            let shorter: Vec<&str> = shorter.flat_map(|(_, setting)| ["--set", setting]).collect();
            folder.run_with(&script, &shorter).succeeds();
        }
    }
}

/// The commands of nepa in a page, where they stand in blocks of code, or in a recipe's header, where they are indented;
/// without what is said beside them.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut is_fenced = false;
    let lines = text.lines().filter(|line| {
        is_fenced ^= line.starts_with("```");
        is_fenced || line.starts_with("    ") || line.starts_with("//   ")
    });
    let commands = lines.filter_map(|line| line.trim_start_matches(['/', ' ', '$']).strip_prefix("nepa "));
    let plain = commands.map(|line| line.split("  ").next().unwrap().split(" #").next().unwrap());
    plain.map(words).collect()
}

#[test]
fn commands_name_options_and_parameters_that_exist() {
    let folder = Folder::on_cpu();
    let mut texts: BTreeMap<String, String> = pages();
    for room in ["recipes", "examples"] {
        for name in names_in(&repository(room)).into_iter().filter(|name| name.ends_with(".rhai")) {
            texts.insert(
                format!("{room}/{name}"),
                std::fs::read_to_string(repository(&format!("{room}/{name}"))).unwrap(),
            );
        }
    }
    let mut help: BTreeMap<String, String> = BTreeMap::new();
    let (mut count, mut wrong) = (0, Vec::new());
    for (page, text) in &texts {
        for words in commands(text) {
            let mut of = |args: &[&str]| {
                let key = args.join(" ");
                help.entry(key).or_insert_with(|| folder.nepa(args).succeeds().stdout.clone()).clone()
            };
            let is_pack = words.starts_with(&["data".into(), "pack".into()]);
            let about = if is_pack { of(&["data", "pack", "--help"]) } else { of(&[&words[0], "--help"]) };
            let flags =
                words.iter().filter_map(|word| word.strip_prefix("--")).map(|word| word.split('=').next().unwrap());
            for flag in flags {
                if !about.contains(&format!("--{flag}")) {
                    wrong.push(format!("{page}: {}: there is no --{flag}", words.join(" ")));
                }
            }
            let recipe = words.get(1).map(|path| repository(path)).filter(|path| path.is_file());
            let Some(recipe) = recipe.filter(|_| words[0] == "run" || words[0] == "sweep") else { continue };
            let parameters = of(&["run", recipe.to_str().unwrap(), "--help"]);
            let set = words.windows(2).filter(|pair| pair[0] == "--set").filter_map(|pair| pair[1].split_once('='));
            for (name, _) in set {
                let mut known = parameters.lines().map(|line| line.trim_start().split([' ', ':']).next());
                // A sweep may vary the seed of any recipe.
                if !known.any(|known| known == Some(name)) && name != "seed" {
                    wrong.push(format!("{page}: {}: the recipe has no parameter {name}", words.join(" ")));
                }
                count += 1;
            }
        }
    }
    assert!(wrong.is_empty() && count > 40, "{count}: {wrong:#?}");
}
