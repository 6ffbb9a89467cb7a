//! The report: a verdict first, then a section for each part, as Markdown and as JSON.

use super::{Check, parts::Part, replace};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// How a part ended, or where it is.
#[derive(Clone, Copy, PartialEq)]
pub enum State {
    Waiting,
    Running,
    Ok,
    Failed,
    Late,
    Skipped,
    Interrupted,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Waiting => "not run yet",
            State::Running => "running",
            State::Ok => "ok",
            State::Failed => "failed",
            State::Late => "late",
            State::Skipped => "skipped",
            State::Interrupted => "interrupted",
        }
    }
}

/// Why something is not ok.
pub struct Trouble {
    pub state: State,
    pub reason: String,
    /// The last lines of what the program said.
    output: Vec<String>,
}

impl Trouble {
    fn new(state: State, reason: impl Into<String>) -> Self {
        Trouble { state, reason: reason.into(), output: Vec::new() }
    }

    pub fn failed(reason: impl Into<String>) -> Self {
        Self::new(State::Failed, reason)
    }

    pub fn late(reason: impl Into<String>) -> Self {
        Self::new(State::Late, reason)
    }

    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(State::Skipped, reason)
    }

    pub fn interrupted(what: &str) -> Self {
        Self::new(State::Interrupted, format!("{what} was interrupted"))
    }

    pub fn with_output(mut self, out: &str, err: &str) -> Self {
        let last = |text: &str, count: usize| {
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(count)..].iter();
            last.map(|line| cut(line)).collect::<Vec<_>>()
        };
        self.output = [last(out, 5), last(err, 15)].concat();
        self
    }

    /// Adds the reason of another one, as long as there is room.
    pub fn add(&mut self, reason: &str) {
        if !self.reason.ends_with('…') {
            self.reason = cut(&format!("{}; {reason}", self.reason));
        }
    }

    /// Whether what the program said last has a text.
    pub fn says(&self, text: &str) -> bool {
        self.output.iter().any(|line| line.contains(text))
    }
}

/// Characters of a line of output, or of a reason.
const LONGEST: usize = 300;

/// A text, cut where it is longer.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Trouble::failed(format!("{error:#}"))
    }
}

/// What a part found.
pub struct Section {
    name: &'static str,
    asks: &'static str,
    pub state: State,
    /// The numbers that matter most, in a line.
    pub headline: String,
    pub reason: String,
    pub output: Vec<String>,
    seconds: f64,
    /// Markdown.
    lines: Vec<String>,
    values: Map<String, Value>,
}

impl Section {
    fn new(part: &Part) -> Self {
        Section {
            name: part.name,
            asks: part.asks,
            state: State::Waiting,
            headline: String::new(),
            reason: String::new(),
            output: Vec::new(),
            seconds: 0.,
            lines: Vec::new(),
            values: Map::new(),
        }
    }

    /// A line of the report.
    pub fn line(&mut self, text: impl Into<String>) {
        self.lines.push(format!("- {}", text.into()));
    }

    /// A table of the report; the first row is the heading.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        self.lines.push(String::new());
        for (i, row) in rows.iter().enumerate() {
            self.lines.push(format!("| {} |", row.join(" | ")));
            if i == 0 {
                self.lines.push(format!("|{}", "---|".repeat(row.len())));
            }
        }
        self.lines.push(String::new());
    }

    /// A value for the JSON.
    pub fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.into(), value);
    }

    pub fn end(&mut self, ended: Result<(), Trouble>, took: Duration) {
        self.seconds = took.as_secs_f64();
        self.state = State::Ok;
        if let Err(trouble) = ended {
            (self.state, self.reason, self.output) = (trouble.state, trouble.reason, trouble.output);
        }
    }

    /// What went wrong, and what was found.
    fn found(&self) -> String {
        [&self.reason, &self.headline]
            .into_iter()
            .filter(|text| !text.is_empty())
            .cloned()
            .collect::<Vec<_>>()
            .join("; ")
    }

    pub fn in_a_line(&self) -> String {
        format!("{}: {}", self.state.word(), self.found())
    }

    fn markdown(&self) -> String {
        let mut text = format!("\n## {}: {}\n\n{}\n\n", self.name, self.state.word(), self.asks);
        if !self.reason.is_empty() {
            text += &format!("**{}**\n\n", self.reason);
        }
        self.lines.iter().for_each(|line| text += &format!("{line}\n"));
        if !self.output.is_empty() {
            text += &format!("\nWhat it said last:\n\n```\n{}\n```\n", self.output.join("\n"));
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "state": self.state.word(), "headline": self.headline, "reason": self.reason,
            "seconds": self.seconds, "values": self.values, "output": self.output,
        })
    }
}

pub struct Report {
    out: PathBuf,
    rehearsal: bool,
    sections: Vec<Section>,
    /// What to say instead of paths, which may hold names: the longest first.
    paths: Vec<(String, &'static str)>,
}

impl Report {
    pub fn new(out: &Path, check: &Check, parts: &[Part]) -> Self {
        let mut paths = vec![(check.work.clone(), "WORK"), (check.checkout.clone(), "CHECKOUT"), (out.into(), "OUT")];
        paths.extend(check.nepa.parent().map(|folder| (folder.into(), "BIN")));
        if let Some(reference) = &check.reference {
            paths.push((reference.checkout.clone(), "REFERENCE"));
            paths.extend(reference.python.parent().map(|folder| (folder.into(), "PYTHON")));
        }
        paths.extend(env::home_dir().map(|home| (home, "~")));
        let is_folder = |path: &Path| path.is_absolute() && path.parent().is_some();
        let paths = paths.into_iter().filter(|(path, _)| is_folder(path));
        let mut paths: Vec<_> = paths.map(|(path, name)| (path.display().to_string(), name)).collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Report {
            out: out.into(),
            rehearsal: check.rehearsal,
            sections: parts.iter().map(Section::new).collect(),
            paths,
        }
    }

    pub fn section(&mut self, i: usize) -> &mut Section {
        &mut self.sections[i]
    }

    pub fn first(&self) -> &Section {
        &self.sections[0]
    }

    pub fn file(&self) -> PathBuf {
        self.out.join("report.md")
    }

    /// The state that decides about the exit code.
    pub fn worst(&self) -> State {
        let order = [State::Interrupted, State::Failed, State::Late, State::Running, State::Waiting];
        let is_there = |state: &State| self.sections.iter().any(|section| section.state == *state);
        order.into_iter().find(is_there).unwrap_or(State::Ok)
    }

    pub fn verdict(&self) -> String {
        let ok = self.sections.iter().filter(|section| section.state == State::Ok).count();
        let mut text = format!("{ok} of {} parts ok", self.sections.len());
        for section in self.sections.iter().filter(|section| section.state != State::Ok) {
            text += &format!("; {} {}", section.name, section.state.word());
        }
        text
    }

    /// Writes both files.
    pub fn write(&self) -> Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot create {}", self.out.display()))?;
        let mut text = format!("# nepa gpu-check\n\n**{}**\n", self.verdict());
        if self.rehearsal {
            text += "\nA rehearsal, at sizes whose speed means nothing.\n";
        }
        text += "\n| part | state | what was found | s |\n|---|---|---|---|\n";
        for section in &self.sections {
            let (name, state, found) = (section.name, section.state.word(), section.found().replace('|', "/"));
            text += &format!("| {name} | {state} | {found} | {:.0} |\n", section.seconds);
        }
        self.sections.iter().for_each(|section| text += &section.markdown());
        replace(&self.file(), &self.without_paths(text))?;

        let parts: Vec<Value> = self.sections.iter().map(Section::json).collect();
        let all = json!({
            "format": 1, "verdict": self.verdict(), "rehearsal": self.rehearsal,
            "parts": self.json_without_paths(parts.into()),
        });
        replace(&self.out.join("report.json"), &format!("{all:#}\n"))
    }

    fn without_paths(&self, text: String) -> String {
        self.paths.iter().fold(text, |text, (path, name)| text.replace(path, name))
    }

    fn json_without_paths(&self, value: Value) -> Value {
        match value {
            Value::String(text) => self.without_paths(text).into(),
            Value::Array(all) => all.into_iter().map(|value| self.json_without_paths(value)).collect(),
            Value::Object(all) => all.into_iter().map(|(name, value)| (name, self.json_without_paths(value))).collect(),
            other => other,
        }
    }
}
