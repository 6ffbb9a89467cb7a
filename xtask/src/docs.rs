//! `cargo xtask docs`: a book of docs/ and of the reference that `nepa api` prints, made by mdBook.

use crate::{
    cargo::{self, project},
    commands::unknown,
    host,
    libtorch::{self, Want},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    ffi::OsString,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

pub const HELP: &str = "\
Usage: cargo xtask docs

Writes target/book/index.html: the pages of docs/, and the reference of everything that a script can call. Builds nepa
and, the first time, mdBook (into target/tools).
";

/// The version that has been tried.
const MDBOOK: &str = "0.5.4";

pub fn docs(args: &[OsString]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        bail!(unknown("argument", &arg.to_string_lossy(), &["--help"], "cargo xtask docs --help"));
    }
    let project = project();
    libtorch::ensure(&project, Want::Linked)?;
    let nepa = match cargo::build_nepa(&project)? {
        Ok(nepa) => nepa,
        Err(code) => return Ok(code),
    };
    let mut api = Command::new(nepa);
    host::clean_env(&mut api, &project);
    let api = api.arg("api").output().context("cannot start nepa")?;
    ensure!(api.status.success(), "nepa api: {}", String::from_utf8_lossy(&api.stderr));

    let source = project.join("target/book-source");
    write_source(&project, &source, &String::from_utf8(api.stdout)?)?;
    let book = project.join("target/book");
    let built = Command::new(mdbook(&project)?).arg("build").arg(&source).arg("--dest-dir").arg(&book).status()?;
    ensure!(built.success(), "mdbook could not make the book of {}", source.display());
    println!("wrote {}", book.join("index.html").display());
    Ok(ExitCode::SUCCESS)
}

/// The program, which is built the first time.
fn mdbook(project: &Path) -> Result<PathBuf> {
    let tools = project.join("target/tools");
    let program = tools.join("bin/mdbook");
    if !program.is_file() {
        println!("building mdBook {MDBOOK}, once");
        let mut install = cargo::command(project);
        install.args(["install", "mdbook", "--version", MDBOOK, "--locked", "--quiet", "--root"]).arg(&tools);
        ensure!(install.status()?.success(), "cargo install mdbook failed");
    }
    Ok(program)
}

/// Writes what mdBook makes the book of: the pages, and a page for each section of the reference.
fn write_source(project: &Path, source: &Path, api: &str) -> Result<()> {
    let _ = fs::remove_dir_all(source);
    let pages = source.join("src");
    fs::create_dir_all(pages.join("reference"))?;
    fs::write(source.join("book.toml"), "[book]\ntitle = \"nepa\"\nlanguage = \"en\"\n")?;
    for (folder, ending, to) in [("docs", "md", ""), ("docs/images", "png", "images")] {
        fs::create_dir_all(pages.join(to))?;
        for entry in fs::read_dir(project.join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == ending) {
                let name = path.file_name().expect("a file has a name");
                fs::copy(&path, pages.join(to).join(name))
                    .with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
    }
    let mut summary = fs::read_to_string(pages.join("SUMMARY.md"))?;
    summary.push_str("\n# Reference\n\n");
    for section in sections(api) {
        let file = format!("reference/{}.md", section.name.replace('/', "-"));
        fs::write(pages.join(&file), section.markdown())?;
        writeln!(summary, "- [{}]({file})", section.name)?;
    }
    Ok(fs::write(pages.join("SUMMARY.md"), summary)?)
}

/// A part of the reference: a namespace, a type or a module of the standard library.
struct Section<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
}

fn sections(api: &str) -> Vec<Section<'_>> {
    let mut all: Vec<Section<'_>> = Vec::new();
    for line in api.lines() {
        match line.strip_prefix("== ").and_then(|rest| rest.strip_suffix(" ==")) {
            Some(name) => all.push(Section { name, lines: Vec::new() }),
            None => all.last_mut().into_iter().for_each(|section| section.lines.push(line)),
        }
    }
    all
}

impl Section<'_> {
    /// Signatures as headings, what is said of them as text, and lists of options as they are printed.
    fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.name);
        let (mut is_within, mut is_list) = (false, false);
        for (i, line) in self.lines.iter().enumerate() {
            // What stands above an indented line is what that line is about.
            let is_about = self.lines.get(i + 1).is_some_and(|next| next.starts_with("    "));
            let is_signature = is_about && !line.is_empty() && !line.starts_with(' ');
            if is_signature && is_list {
                text.push_str("```\n\n");
                is_list = false;
            }
            is_within |= is_signature;
            if !is_list && line.trim() == "Options:" {
                text.push_str("Options:\n\n```text\n");
                is_list = true;
                continue;
            }
            let line = if is_within { line.strip_prefix("    ").unwrap_or(line) } else { line };
            let _ = match is_signature {
                true => writeln!(text, "## `{line}`\n"),
                false => writeln!(text, "{line}"),
            };
        }
        if is_list {
            text.push_str("```\n");
        }
        text
    }
}
