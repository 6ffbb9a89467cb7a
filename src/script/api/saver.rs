//! Checkpoints of a training loop, from which a lost run goes on.

use super::optim::{Adamw, Ema};
use super::run::{provenance, with_session};
use crate::differences::differences;
use crate::dist::{self, Later};
use crate::error::{Diagnostic, Result, bail, did_you_mean, ensure};
use crate::functions;
use crate::positions::Positions;
use crate::random;
use crate::run::checkpoints::{self, SaverOptions};
use crate::run::directory::versions;
use crate::run::progress::note_line;
use crate::run::signals::Interrupt;
use crate::run::snapshot::{self, Parts, Snapshot};
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Module, found, from_json, object, to_json};
use rhai::{Array, Dynamic, Engine, Map};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The checkpoints of one training loop.
#[derive(Clone)]
pub struct Saver(Rc<RefCell<SaverParts>>);

impl Saver {
    /// Keeps the checkpoints of a loop called `label`: of the parts `model`, `ema` and `optimizer`.
    pub fn new(label: &str, parts: &Map, options: &SaverOptions) -> Result<Self> {
        Ok(Saver(Rc::new(RefCell::new(SaverParts::new(label, parts, options)?))))
    }
}

/// The question that processes ask each other beside the training: has a signal come to any of you? About twice a
/// second, since at every step it would cost more than the step where there are hundreds of them. Alone, at every step.
#[derive(Default)]
struct Question {
    /// The one under way, when it was asked, and the steps until all look at the answer.
    open: Option<(Later<3>, Instant, u32)>,
    /// Steps since it was asked.
    steps: u32,
}

impl Question {
    const WHAT: &str = "the question whether to save";

    /// To be called after every step.
    fn step(&mut self, interrupt: &Interrupt) -> Result<Option<Asked>> {
        self.steps += 1;
        if dist::world_size() == 1 {
            return self.settle([interrupt.exit_code().unwrap_or(0).into(), interrupt.take_save().into()], interrupt);
        }
        if self.open.as_ref().is_some_and(|(_, _, until)| self.steps < *until) {
            return Ok(None);
        }
        // How long a step takes, in µs: of the slowest, so that all wait for as many steps.
        let (mut took, mut answer, mut until) = (0, [0, 0], 1);
        if let Some((later, since, _)) = self.open.take() {
            took = since.elapsed().as_micros() as i64 / i64::from(self.steps);
            let [stop, save, slowest] = later.get(Self::WHAT)?;
            answer = [stop, save];
            until = if slowest > 0 { (500_000 / slowest).clamp(1, 100) as u32 } else { 1 };
        }
        let own = [interrupt.exit_code().unwrap_or(0).into(), interrupt.take_save().into(), took];
        self.open = Some((dist::greatest_later(own, Self::WHAT)?, Instant::now(), until));
        self.steps = 0;
        self.settle(answer, interrupt)
    }

    /// The last answer, after the loop.
    fn end(&mut self, interrupt: &Interrupt) -> Result<Option<Asked>> {
        if let Some((later, ..)) = self.open.take() {
            let [stop, ..] = later.get(Self::WHAT)?;
            let own = [interrupt.exit_code().unwrap_or(0).into()];
            let [late] = dist::greatest(own, Self::WHAT)?;
            return self.settle([stop.max(late), 0], interrupt);
        }
        Ok(None)
    }

    fn settle(&self, [stop, save]: [i64; 2], interrupt: &Interrupt) -> Result<Option<Asked>> {
        if stop != 0 {
            interrupt.stop(stop as i32);
        }
        Ok(match (stop, save) {
            (0, 0) => None,
            (0, _) => Some(Asked::Save),
            _ => Some(Asked::Stop),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To save and go on.
    Save,
    /// To save and end.
    Stop,
}

struct SaverParts {
    label: String,
    saver: checkpoints::Saver,
    interrupt: Interrupt,
    question: Question,
    /// What a signal, to whichever process, has asked for.
    asked: Option<Asked>,
    model: Module,
    ema: Option<Ema>,
    optimizer: Option<Adamw>,
    /// What may not change when the run goes on, and what may.
    fixed: serde_json::Map<String, Value>,
    changeable: serde_json::Map<String, Value>,
}

impl Drop for SaverParts {
    fn drop(&mut self) {
        self.interrupt.hold(false);
        // A loop that ends by an error leaves the checkpoint whole that was on its way.
        self.saver.poll(true);
    }
}

impl SaverParts {
    fn new(label: &str, parts: &Map, options: &SaverOptions) -> Result<Self> {
        let known = ["model", "ema", "optimizer"];
        if let Some(other) = parts.keys().find(|k| !known.contains(&k.as_str())) {
            let near = did_you_mean(other, known);
            bail!("run::checkpoints: unknown part `{other}`{near} (the parts are: {})", known.join(", "));
        }
        fn part<T: Clone + 'static>(parts: &Map, name: &str, what: &str) -> Result<Option<T>> {
            match parts.get(name).filter(|v| !v.is_unit()) {
                None => Ok(None),
                Some(value) => match value.read_lock::<T>() {
                    Some(part) => Ok(Some(part.clone())),
                    None => bail!("run::checkpoints: `{name}`: expected {what}, found {}", found(value)),
                },
            }
        }
        let Some(model) = part(parts, "model", "a module")? else {
            bail!("run::checkpoints: the part `model` is missing");
        };
        let (dir, interrupt) = with_session(|s| Ok((s.checkpoints_dir(label)?, s.interrupt.clone())))?;
        Ok(Self {
            label: label.to_string(),
            saver: checkpoints::Saver::new(dir, options)?,
            interrupt,
            question: Question::default(),
            asked: None,
            model,
            ema: part(parts, "ema", "an average made by optim::ema")?,
            optimizer: part(parts, "optimizer", "an optimizer made by optim::adamw")?,
            fixed: Default::default(),
            changeable: Default::default(),
        })
    }

    fn with_parts<R>(&self, f: impl FnOnce(&mut Parts<'_>) -> R) -> R {
        let mut ema = self.ema.as_ref().map(|e| e.0.borrow_mut());
        let mut optimizer = self.optimizer.as_ref().map(|o| o.0.borrow_mut());
        f(&mut Parts { model: self.model.0.as_ref(), ema: ema.as_deref_mut(), optimizer: optimizer.as_deref_mut() })
    }

    /// What the loop depends on: the given settings, and the model itself.
    fn set_settings(&mut self, settings: &Map, changeable: &Array) -> Result<()> {
        let names: Vec<String> = changeable.iter().map(|name| name.to_string()).collect();
        if let Some(unknown) = names.iter().find(|name| !settings.contains_key(name.as_str())) {
            let near = did_you_mean(unknown, settings.keys().map(|k| k.as_str()));
            bail!("resume: there is no setting `{unknown}`{near}");
        }
        for (name, value) in settings {
            let value = plain(value);
            let map = if names.iter().any(|n| n == name) { &mut self.changeable } else { &mut self.fixed };
            map.insert(name.to_string(), value);
        }
        let model = match self.model.0.vit_nepa() {
            Some(model) => serde_json::to_value(model.config())?,
            None => self.model.0.describe().into(),
        };
        self.fixed.insert("model".into(), model);
        Ok(())
    }

    fn resume(&mut self, settings: &Map, changeable: &Array) -> Result<Dynamic> {
        self.set_settings(settings, changeable)?;
        let own = |map: &serde_json::Map<String, Value>| Value::Object(map.clone());
        let (fixed, changeable) = (own(&self.fixed), own(&self.changeable));
        let what = format!("the settings of {}", self.label);
        dist::agree(&what, &fixed)?;
        dist::agree(&what, &changeable)?;
        // Process 0 has the checkpoints; the others get what they need from it.
        let what = format!("the checkpoint of {}", self.label);
        let found = dist::from_main(&what, || match self.saver.newest()? {
            Some((step, dir)) => {
                let state = snapshot::read_state(&dir)?;
                self.may_go_on(&dir, &state)?;
                Ok(json!({ "step": step, "dir": dir, "state": state }))
            }
            None => Ok(Value::Null),
        })?;
        if found.is_null() {
            with_session(|s| s.dir()?.begin(None))?;
            return Ok(Dynamic::UNIT);
        }
        let (step, state) = (&found["step"], &found["state"]);
        let dir = PathBuf::from(found["dir"].as_str().unwrap_or_default());
        self.with_parts(|parts| snapshot::restore(&dir, parts))?;
        let rng = |name: &str| state["rng"][name].as_u64().unwrap_or(0);
        random::set_state(random::State { seed: rng("seed"), drawn: rng("drawn"), samples: Positions::default() });
        if dist::is_main() {
            let metrics = snapshot::read_metrics(&dir)?;
            with_session(|s| s.dir()?.begin(Some(&metrics)))?;
        }
        note_line(&format!("{}: goes on from step {step} ({})", self.label, dir.display()));
        for change in changes(&state["changeable"], &changeable) {
            note_line(&format!("  {change}"));
        }
        let before = state["processes"].as_u64().unwrap_or(1) as usize;
        if before != dist::world_size() {
            note_line(&format!("  processes: {before} so far, {} now", dist::world_size()));
        }
        Ok(from_json(&state["loop"]))
    }

    /// Refuses settings that must not change.
    fn may_go_on(&self, dir: &Path, state: &Value) -> Result<()> {
        let changed = changes(&state["fixed"], &Value::Object(self.fixed.clone()));
        if !changed.is_empty() {
            let may: Vec<&str> = self.changeable.keys().map(String::as_str).collect();
            return Err(Diagnostic::new(format!(
                "{}: the run cannot go on from {} with other settings than it began with:\n  {}",
                self.label,
                dir.display(),
                changed.join("\n  ")
            ))
            .hint(format!(
                "give the old values back, or begin a new run with another --out; these may change: {}",
                may.join(", ")
            ))
            .blame_caller()
            .into());
        }
        Ok(())
    }

    /// Process 0 saves for all.
    fn save(&mut self, step: i64, state: &Map) -> Result<()> {
        if !dist::is_main() {
            return Ok(());
        }
        let rng = random::state();
        let (mut state, metrics, recipe) = with_session(|s| {
            let state = json!({
                "format": 1,
                "label": self.label,
                "step": step,
                "loop": object(state)?,
                "rng": { "seed": rng.seed, "drawn": rng.drawn },
                "fixed": self.fixed,
                "changeable": self.changeable,
                "device": s.info.device,
                "threads": s.info.threads,
                "processes": dist::world_size(),
                "saved_at": crate::run::timestamp(),
                "versions": versions(),
            });
            let metrics = s.dir()?.logged()?;
            Ok((state, metrics, s.info.source.clone()))
        })?;
        let mut about = provenance();
        state["run"] = Value::Object(about.clone());
        about.insert("step".into(), step.into());
        let snapshot = self.with_parts(|parts| Snapshot::take(parts, about, state, metrics, recipe))?;
        self.saver.save(step, snapshot)
    }

    /// Saves, and answers the signals that asked for it.
    fn save_and_answer(&mut self, step: i64, state: &Map) -> Result<()> {
        self.save(step, state)?;
        if self.asked.is_some() {
            // A process that ended before process 0 has saved might take it down.
            dist::on_main(&format!("the checkpoint of {} at step {step}", self.label), || {
                self.saver.poll(true);
                if let Some((step, path)) = self.saver.last() {
                    note_line(&format!("{}: saved at step {step}: {}", self.label, path.display()));
                }
                Ok(())
            })?;
        }
        if self.asked.take() == Some(Asked::Stop) {
            // The script ends at its next operation.
            self.interrupt.hold(false);
        }
        Ok(())
    }

    /// Whether to save after this step: all processes say the same, whichever of them a signal came to.
    fn due(&mut self, step: i64) -> Result<bool> {
        self.saver.poll(false);
        self.interrupt.hold(true);
        self.asked = self.question.step(&self.interrupt)?;
        Ok(self.asked.is_some() || self.saver.is_due(step))
    }

    fn finish(&mut self, step: i64, state: &Map) -> Result<()> {
        // A signal that came to another process in the last moments counts here, too.
        let asked = self.question.end(&self.interrupt)?;
        let what = format!("the last checkpoint of {}", self.label);
        match asked {
            // A process that ended before process 0 has saved might take it down.
            Some(Asked::Stop) => dist::on_main(&what, || self.save_last(step, state))?,
            _ if dist::is_main() => self.save_last(step, state)?,
            _ => {}
        }
        self.interrupt.hold(false);
        Ok(())
    }

    fn save_last(&mut self, step: i64, state: &Map) -> Result<()> {
        // Steps that an interval has saved already are there as they are.
        for pause in [0, 3] {
            std::thread::sleep(Duration::from_secs(pause));
            if self.saver.poll(true) && self.saver.last().is_some_and(|(last, _)| last == step) {
                break;
            }
            self.save(step, state)?;
            if self.saver.poll(true) {
                break;
            }
        }
        Ok(())
    }
}

/// A setting as JSON; what is no plain data, as the text that it shows itself with.
fn plain(value: &Dynamic) -> Value {
    if let Some(list) = value.read_lock::<Array>() {
        return list.iter().map(plain).collect();
    }
    if let Some(map) = value.read_lock::<Map>() {
        return Value::Object(map.iter().map(|(name, value)| (name.to_string(), plain(value))).collect());
    }
    if value.is_fnptr() {
        // A function's own name says where it stands, and changes with every edit above it.
        return "a function".into();
    }
    if let Some(text) = super::transform::describe(value) {
        return text.into();
    }
    to_json(value).unwrap_or_else(|_| value.type_name().into())
}

/// "lr: 0.001 so far, 0.002 now" for everything that differs.
fn changes(before: &Value, now: &Value) -> Vec<String> {
    let word = |v: &Value| if v.is_null() { "()".to_string() } else { v.to_string() };
    let line =
        |(name, before, now): (String, Value, Value)| format!("{name}: {} so far, {} now", word(&before), word(&now));
    differences(before, now).into_iter().map(line).collect()
}

crate::script::types::handles! { "Saver": Saver; }

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Saver>("Saver");
    let mut group = Group::global(
        reference,
        "Saver",
        "Keeps the checkpoints of a training loop, made by run::checkpoints. See std/pretrain for a loop with it.",
    );
    functions! { group;
        /// To be called once before the loop, by all processes: puts the newest whole checkpoint of this run into the parts and gives what
        /// the loop had saved with it, or () where there is none. `settings` is everything that the loop depends on, a
        /// map; those named in `changeable` may differ from what the run began with, which is told, others are an error.
        "resume" (saver: Saver, settings: Map, changeable: Array) -> Dynamic {
            saver.0.borrow_mut().resume(&settings, &changeable)
        }
        /// To be called after every step, by all processes: whether a checkpoint is due, by its number or because a
        /// signal (Ctrl-C, SIGTERM, SIGUSR1) asks for it, to whichever process it came.
        "due" (saver: Saver, step: i64) -> bool {
            saver.0.borrow_mut().due(step)
        }
        /// Saves after `step` steps; of several processes the first one does, for all. `state` is a map of plain values, what `resume` gives back. Where a signal asked to
        /// stop, the run ends after it.
        "save" (saver: Saver, step: i64, state: Map) -> () {
            ensure!(step >= 0, "save: expected a number of steps, found {step}");
            saver.0.borrow_mut().save_and_answer(step, &state)
        }
        /// To be called after the loop: saves where that was not done yet, and waits until everything is on the disk.
        "finish" (saver: Saver, step: i64, state: Map) -> () { saver.0.borrow_mut().finish(step, &state) }
        /// The newest checkpoint that is whole: its folder, or "" where there is none yet. One that is being written is
        /// waited for. All processes ask, and get what the first one knows.
        "get$last" (saver: Saver) -> String {
            let last = dist::from_main("the last checkpoint", || {
                let mut saver = saver.0.borrow_mut();
                saver.saver.poll(true);
                let last = saver.saver.last();
                Ok(last.map_or(String::new(), |(_, path): (i64, &Path)| path.display().to_string()).into())
            })?;
            Ok(last.as_str().unwrap_or_default().to_string())
        }
    }
    group.register(engine);
}
