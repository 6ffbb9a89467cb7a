//! One run on its way to a client.

use super::SyncArgs;
use super::client::{Client, To};
use super::files::{self, Files, Item, checksum};
use super::lines::{Metrics, Row, System};
use super::state::StateFile;
use crate::bail_hint;
use crate::error::{Result, bail};
use crate::output::err;
use crate::run::inside;
use crate::run::lock::{LOCK_FILE, RunLock};
use crate::run::signals::Interrupt;
use crate::run::{RunFile, RunState};
use crate::untrusted::MOST_TEXT;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a run that is followed is looked at.
const POLL: Duration = Duration::from_secs(2);
/// How often a long transfer tells how far it is.
const TELL: Duration = Duration::from_secs(5);
/// TensorBoard's folder, where none is given.
const EVENTS_DIR: &str = "tensorboard";

/// A run that is being sent.
pub struct Transfer<'a> {
    args: &'a SyncArgs,
    dir: &'a Path,
    client: &'a mut Client,
    interrupt: &'a Interrupt,
    run: RunFile,
    file: StateFile,
    metrics: Metrics,
    system: System,
    files: Files,
    /// What was sent: lines, and files.
    sent: (u64, u64),
    told: Instant,
}

impl<'a> Transfer<'a> {
    /// Begins the run with the client, or goes on with it.
    pub fn start(args: &'a SyncArgs, dir: &'a Path, client: &'a mut Client, interrupt: &'a Interrupt) -> Result<Self> {
        let run = read_run(dir)?;
        let mut file = StateFile::open(dir, args.to)?;
        let is_new = file.state.id.is_none();
        if is_new {
            file.state.name = args.name.clone().unwrap_or_else(|| name_of(dir));
        }
        ensure_same_place(args, &file, dir)?;
        let (id, project) = match args.to {
            To::Tensorboard => (Some(events_folder(args, &file)?), args.project.clone()),
            _ => (file.state.id.clone(), args.project.clone().or(file.state.project.clone())),
        };
        let answer = client.ask(
            "start",
            json!({
                "to": args.to.to_string(), "project": project, "name": file.state.name, "id": id,
                "config": files::config(&run), "started": run.started,
            }),
        )?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(String::from);
        (file.state.id, file.state.project) = (text("id"), text("project"));
        file.write()?;
        let how = if is_new { "sending" } else { "going on sending" };
        err!("{}: {how} to {}, {}", dir.display(), args.to, text("where").unwrap_or_default());
        let (metrics, system, files) = (Metrics::default(), System::default(), Files::default());
        Ok(Self { args, dir, client, interrupt, run, file, metrics, system, files, sent: (0, 0), told: Instant::now() })
    }

    /// Sends what there is; with --follow, until the run has ended. Where that fails, the client keeps what it has.
    pub fn send(mut self) -> Result<()> {
        let sent = self.send_all();
        let finished = self.finish();
        sent.and(finished)
    }

    fn send_all(&mut self) -> Result<()> {
        loop {
            // What is there once it has ended is all.
            let ended = !self.args.follow || !is_running(self.dir, &self.run);
            self.send_new()?;
            if ended || self.is_stopped() {
                return self.send_model();
            }
            let started = Instant::now();
            while started.elapsed() < POLL && !self.is_stopped() {
                std::thread::sleep(Duration::from_millis(100));
            }
            self.run = read_run(self.dir)?;
        }
    }

    fn is_stopped(&self) -> bool {
        self.interrupt.exit_code().is_some()
    }

    /// Sends everything that has come or changed.
    fn send_new(&mut self) -> Result<()> {
        self.send_changed("config", "config", json!({ "config": files::config(&self.run) }))?;
        self.send_rows(|t| t.metrics.next(t.dir, &t.file.state))?;
        self.send_rows(|t| t.system.next(t.dir, &t.file.state))?;
        for item in self.files.changed(self.dir, &self.file.state.sent)? {
            self.send_item(item)?;
        }
        let summary = files::summary(self.dir, &self.run)?;
        if !summary.is_empty() {
            self.send_changed("summary", "summary", json!({ "values": summary }))?;
        }
        Ok(())
    }

    fn send_rows(&mut self, next: impl Fn(&mut Self) -> Result<(Vec<Row>, bool)>) -> Result<()> {
        let mut more = true;
        while more && !self.is_stopped() {
            let rows;
            (rows, more) = next(self)?;
            if rows.is_empty() {
                continue;
            }
            let mut messages = Vec::new();
            for row in rows.iter().filter(|row| row.has_values()) {
                let mut message = row.row.clone();
                message["row"] = (self.file.state.rows + messages.len() as u64).into();
                messages.push(message);
            }
            let count = messages.len() as u64;
            if count > 0 {
                self.client.ask("metrics", json!({ "rows": messages }))?;
            }
            for row in rows {
                row.sent(&mut self.file.state);
            }
            self.file.state.rows += count;
            self.file.write()?;
            self.sent.0 += count;
            if self.told.elapsed() >= TELL && more {
                self.told = Instant::now();
                err!("{}: {} lines sent", self.dir.display(), self.sent.0);
            }
        }
        Ok(())
    }

    /// Sends a message, unless it is what was sent last under a name.
    fn send_changed(&mut self, name: &str, what: &'static str, message: Value) -> Result<()> {
        let checksum = checksum(message.to_string().as_bytes());
        self.send_item(Item { name: name.into(), checksum, what, messages: vec![message] })
    }

    fn send_item(&mut self, item: Item) -> Result<()> {
        if self.file.state.sent.get(&item.name) == Some(&item.checksum) || self.is_stopped() {
            return Ok(());
        }
        for mut message in item.messages {
            message["row"] = self.file.state.rows.into();
            let answer = self.client.ask(item.what, message)?;
            self.file.state.rows += 1;
            if let Some(why) = answer.get("left_out").and_then(Value::as_str) {
                self.files.tell(&format!("{}: {} is left out: {why}", self.dir.display(), item.name));
            } else if item.what != "config" && item.what != "summary" {
                self.sent.1 += 1;
            }
        }
        self.file.state.sent.insert(item.name, item.checksum);
        self.file.write()
    }

    /// Sends the model, if it is wanted.
    fn send_model(&mut self) -> Result<()> {
        let Some(name) = self.args.model.as_ref().filter(|_| !self.is_stopped()) else { return Ok(()) };
        if let Some(model) = files::model(self.dir, name.as_deref())? {
            return self.send_item(model);
        }
        bail_hint!(
            "{} holds no model to send", self.dir.display();
            "recipes save one with checkpoint::save(model, run::path(\"model\")); leave out --model"
        );
    }

    /// Ends the run with the client, and tells what was sent.
    fn finish(&mut self) -> Result<()> {
        self.run = read_run(self.dir)?;
        let (state, words) = match (self.run.state, is_running(self.dir, &self.run)) {
            (_, true) => ("running", "is running"),
            (RunState::Running, false) => ("killed", "was killed"),
            (RunState::Finished, false) => ("finished", "has finished"),
            (RunState::Failed, false) => ("failed", "has failed"),
            (RunState::Interrupted, false) => ("interrupted", "was interrupted"),
            (RunState::Unknown, false) => ("unknown", "is in a state that this version does not know"),
        };
        self.client.ask("finish", json!({ "state": state, "ended": self.run.ended }))?;
        let plural = |n: u64, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let (lines, files) = self.sent;
        let what = match self.sent {
            (0, 0) => "nothing new".to_string(),
            (_, 0) => format!("{} sent", plural(lines, "line")),
            _ => format!("{} and {} sent", plural(lines, "line"), plural(files, "file")),
        };
        err!("{}: {what}; the run {words}", self.dir.display());
        Ok(())
    }
}

fn read_run(dir: &Path) -> Result<RunFile> {
    for name in [RunFile::NAME, LOCK_FILE] {
        inside::check(dir, name, MOST_TEXT)?;
    }
    RunFile::read(dir)
}

/// Whether a process has the run. Where locks do not tell, what it says itself counts.
fn is_running(dir: &Path, run: &RunFile) -> bool {
    RunLock::is_held(dir).unwrap_or(run.state == RunState::Running)
}

/// The name of a run directory.
fn name_of(dir: &Path) -> String {
    let real = dir.canonicalize().ok();
    let name = real.as_deref().unwrap_or(dir).file_name();
    name.map_or("run".into(), |name| name.to_string_lossy().into_owned())
}

/// Refuses to send a run to another place than before.
fn ensure_same_place(args: &SyncArgs, file: &StateFile, dir: &Path) -> Result<()> {
    let state = &file.state;
    if state.id.is_none() {
        return Ok(());
    }
    // A folder may be named in several ways.
    let project = state.project.as_ref().filter(|_| args.to != To::Tensorboard);
    for (option, now, before) in [("--project", &args.project, project), ("--name", &args.name, Some(&state.name))] {
        if let (Some(now), Some(before)) = (now, before)
            && now != before
        {
            bail_hint!(
                "{option} {now}: {} was sent before with {before}", dir.display();
                "leave it out to go on there; to send the run anew, remove {}", file.path().display()
            );
        }
    }
    Ok(())
}

/// The folder of a run's event files, which the command line alone determines.
fn events_folder(args: &SyncArgs, file: &StateFile) -> Result<String> {
    let above = std::path::absolute(args.project.as_deref().unwrap_or(EVENTS_DIR))?;
    if file.state.name.contains('/') || file.state.name.starts_with('.') {
        bail!("the name of a folder for TensorBoard was expected, found {}", file.state.name);
    }
    let named = |n: u32| match n {
        1 => above.join(&file.state.name),
        n => above.join(format!("{}-{n}", file.state.name)),
    };
    let text = |path: PathBuf| path.display().to_string();
    let Some(known) = &file.state.id else {
        return Ok(text((1..).map(named).find(|path| !path.exists()).expect("an endless list")));
    };
    let is_known = |path: &PathBuf| text(path.clone()) == *known;
    match (1..1000).map(named).find(is_known) {
        Some(path) => Ok(text(path)),
        None => bail_hint!(
            "the run was sent to {known} before, not to {}", above.display();
            "name the folder above it with --project, or remove {} to send it anew", file.path().display()
        ),
    }
}
