//! The checkpoints of one training loop: resuming from the newest one, and saving while it trains.

use crate::bail_hint;
use crate::checkpoint::tensors::DIVERGED;
use crate::dist;
use crate::error::{Diagnostic, Result, hint_of, one_line};
use crate::nn::{Module, named_parameters, train_only, trained_names};
use crate::positions::Positions;
use crate::provenance::{Versions, timestamp};
use crate::random;
use crate::run::Session;
use crate::run::metrics::METRICS_FILE;
use crate::run::progress::note_line;
use crate::run::schema::{CheckpointState, GeneratorState, ModelSize};
use crate::run::settings::{Change, Settings};
use crate::run::signal_poll::SignalRequest;
use crate::run::signals::Interrupt;
use crate::run::snapshot::{self, Snapshot, TrainingState};
use crate::run::writer::{Checkpoint, CheckpointOptions, CheckpointWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tch::Tensor;

/// The checkpoints of one training loop. All ranks call everything here; rank 0 reads and writes for all.
pub struct Checkpoints {
    label: String,
    writer: CheckpointWriter,
    interrupt: Interrupt,
    /// What a signal to any rank has asked for after the last step.
    requested: Option<SignalRequest>,
    settings: Settings,
    /// Names of the parameters that were trained when the loop began.
    trained_first: Vec<String>,
    /// How far the loop was when it was saved last, or what it was resumed from.
    saved: Option<Moment>,
    /// Where the run collects the last checkpoints that could not be written.
    unsaved: Rc<RefCell<Vec<String>>>,
    /// Whether this attempt is part of the run: its loop has come to a step.
    goes_on: bool,
    /// How much was logged before the evaluation that a signal has ended, which the resumed run logs again.
    logged: Option<usize>,
}

/// The checkpoint to resume from, as rank 0 tells the others.
#[derive(Serialize, Deserialize)]
struct Found {
    dir: PathBuf,
    state: CheckpointState,
    /// What has changed and may, in words.
    changes: Vec<String>,
    /// The new values of settings that must stay the same and were allowed to change.
    allowed: Map<String, Value>,
}

/// How far a loop has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// Steps done.
    pub step: i64,
    /// The loop's own state, which [`Checkpoints::resume`] gives back.
    pub state: Map<String, Value>,
}

fn size_of(model: &dyn Module) -> ModelSize {
    let count = |all: Vec<(String, Tensor)>| all.iter().map(|(_, t)| t.numel() as u64).sum();
    let trained = named_parameters(model).into_iter().filter(|(_, t)| t.requires_grad()).collect();
    ModelSize { model: model.describe(), parameters: count(named_parameters(model)), trained: count(trained) }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.interrupt.hold(false);
        // A loop that ends without `finish` still finishes the checkpoint being written.
        if !self.writer.wait() {
            self.unsaved.borrow_mut().push(format!("{}: {}", self.label, self.writer.last_fault()));
        }
    }
}

impl Checkpoints {
    /// Keeps the checkpoints of the run's next loop, which is called `label`.
    pub fn new(session: &mut Session, label: &str, options: &CheckpointOptions) -> Result<Self> {
        Ok(Self {
            label: label.to_string(),
            writer: CheckpointWriter::new(session.next_loop_dir(label)?, options)?,
            interrupt: session.interrupt().clone(),
            requested: None,
            settings: Settings::default(),
            trained_first: Vec::new(),
            saved: None,
            unsaved: session.unsaved(),
            goes_on: false,
            logged: None,
        })
    }

    /// Call this once before the loop. Restores the newest intact checkpoint into `training` and returns the loop's
    /// state saved with it, or `None` if there is no checkpoint yet. A change of a fixed setting is an error unless it
    /// is allowed; other changes are noted.
    pub fn resume(
        &mut self,
        session: &mut Session,
        training: &mut TrainingState<'_>,
        mut settings: Settings,
    ) -> Result<Option<Map<String, Value>>> {
        settings.add_model(training.model)?;
        self.settings = settings;
        self.trained_first = trained_names(training.model);
        let what = format!("the settings of {}", self.label);
        dist::ensure_same_on_all_ranks(&what, &Value::Object(self.settings.fixed.clone()))?;
        dist::ensure_same_on_all_ranks(&what, &Value::Object(self.settings.changeable.clone()))?;
        let found = self.find(session)?;
        session.dir()?.set_settings(&self.label, self.settings.all(), size_of(training.model));
        let Some(Found { dir, state, changes, allowed }) = found else {
            self.go_on(session)?;
            return Ok(None);
        };
        snapshot::restore(&dir, training)?;
        if let Some(ema) = &mut training.ema {
            ema.set_updates(state.ema_updates.unwrap_or(state.step as u64));
        }
        if let Some([now, first]) = &state.trained
            && *first == self.trained_first
        {
            // As hooks have frozen and unfrozen them since.
            train_only(training.model, now)?;
        }
        let GeneratorState { mut seed, drawn } = state.rng;
        if state.run.seed != session.provenance().seed {
            seed = random::state().seed; // another one, which was allowed
        }
        random::set_state(random::State { seed, drawn, samples: Positions::default() });
        dist::on_rank0(&format!("the resuming of {}", self.label), || {
            let run = session.dir()?;
            run.roll_back(&snapshot::read_metrics(&dir)?)?;
            run.loop_resumed(&self.label, state.step, &changes, allowed)
        })?;
        note_line(&format!("{}: resumed from step {} ({})", self.label, state.step, dir.display()));
        for change in changes {
            note_line(&format!("  {change}"));
        }
        self.saved = Some(Moment { step: state.step, state: state.loop_state.clone() });
        Ok(Some(state.loop_state))
    }

    /// The newest intact checkpoint, which must come from a loop with these settings.
    fn find(&mut self, session: &mut Session) -> Result<Option<Found>> {
        let what = format!("the checkpoint of {}", self.label);
        let found = dist::broadcast_from_rank0(&what, || {
            let Some(Checkpoint { path, .. }) = self.writer.find_newest()? else {
                session.dir()?.note_new_loop(&self.label)?;
                return Ok(Value::Null);
            };
            let state = CheckpointState::read(&path)?;
            if state.label != self.label {
                bail_hint!(
                    "{} is a checkpoint of the loop \"{}\", not of \"{}\"", path.display(), state.label, self.label;
                    "the loops' labels or their order have changed: restore them, or start a new run with another --out"
                );
            }
            let fixed = self.settings.fixed_changes(&state.fixed);
            let run = session.dir()?;
            let (allowed, refused): (Vec<_>, Vec<_>) =
                fixed.into_iter().partition(|change| run.allows(&self.label, state.step, change));
            if !refused.is_empty() {
                return Err(self.settings.refusal(&self.label, &path, &refused));
            }
            self.writer.set_damaged_aside()?;
            let changeable = self.settings.changeable_changes(&state.changeable);
            let mut changes: Vec<String> = allowed.iter().chain(&changeable).map(Change::to_string).collect();
            if state.processes != dist::world_size() {
                changes.push(format!("processes: was {}, now {}", state.processes, dist::world_size()));
            }
            let allowed = allowed.into_iter().map(|change| (change.name, change.now)).collect();
            Ok(serde_json::to_value(Found { dir: path, state, changes, allowed })?)
        })?;
        Ok(serde_json::from_value(found)?)
    }

    /// The first time, makes this attempt part of the run.
    fn go_on(&mut self, session: &mut Session) -> Result<()> {
        if !self.goes_on {
            let dir = session.dir()?;
            dist::on_rank0(&format!("the start of {}", self.label), || dir.go_on())?;
            self.goes_on = true;
        }
        Ok(())
    }

    /// Call this after every step: returns whether a checkpoint is due, by the number of steps or because a signal to
    /// any rank asks for it. All ranks get the same answer.
    pub fn is_due(&mut self, session: &mut Session, step: i64) -> Result<bool> {
        self.go_on(session)?;
        self.writer.poll();
        self.interrupt.hold(true);
        self.requested = session.signals().step()?;
        Ok(self.requested.is_some() || self.writer.is_due(step))
    }

    /// Call this before an evaluation within the loop: a signal to any rank may end it where it calls
    /// [`SignalPoll::step_of_evaluation`](crate::run::signal_poll::SignalPoll::step_of_evaluation).
    pub fn begin_evaluation(&mut self, session: &mut Session) -> Result<()> {
        self.logged = Some(session.dir()?.logged()?.len());
        session.signals().evaluation(true);
        Ok(())
    }

    /// Call this after the evaluation. If a signal has ended it, the checkpoint is saved without what it logged, since
    /// the resumed run evaluates again.
    pub fn end_evaluation(&mut self, session: &mut Session, is_ended: bool) {
        session.signals().evaluation(false);
        if session.signals().stops() {
            self.requested = Some(SignalRequest::Stop);
        }
        self.logged.take_if(|_| !is_ended);
    }

    /// Saves a checkpoint. If a signal asked for it, it is on disk when this returns; if one asked to stop, the script
    /// then ends.
    pub fn save(&mut self, session: &mut Session, training: &TrainingState<'_>, moment: Moment) -> Result<()> {
        let requested = self.requested.take();
        let step = moment.step;
        // The others wait: they have to know of an error, and one that ends before rank 0 has saved might take it down.
        dist::on_rank0(&format!("the checkpoint of {} at step {step}", self.label), || {
            let begun = self.begin_save(session, training, moment);
            let Some(request) = requested else { return begun };
            self.unless_stopping(request, begun)?;
            self.writer.wait();
            if let Some(Checkpoint { path, .. }) = self.writer.last().filter(|last| last.step == step) {
                note_line(&format!("{}: saved at step {step}: {}", self.label, path.display()));
            }
            Ok(())
        })?;
        if requested == Some(SignalRequest::Stop) {
            // The script ends at its next operation.
            self.interrupt.hold(false);
        }
        Ok(())
    }

    /// A run that a signal stops ends by it even where its last step cannot be saved, which is then told.
    fn unless_stopping(&self, request: SignalRequest, saved: Result<()>) -> Result<()> {
        match saved {
            Err(e) if request == SignalRequest::Stop => {
                note_line(&format!("warning: {}", one_line(&e)));
                Ok(())
            }
            other => other,
        }
    }

    /// Takes a snapshot and starts writing it; called on rank 0.
    fn begin_save(&mut self, session: &mut Session, training: &TrainingState<'_>, moment: Moment) -> Result<()> {
        session.dir()?.go_on()?;
        let Moment { step, state: loop_state } = moment.clone();
        let rng = random::state();
        let info = session.info();
        let state = CheckpointState {
            format: CheckpointState::FORMAT,
            label: self.label.clone(),
            step,
            loop_state,
            rng: GeneratorState { seed: rng.seed, drawn: rng.drawn },
            ema_updates: training.ema.as_ref().map(|ema| ema.updates()).transpose()?,
            trained: Some([trained_names(training.model), self.trained_first.clone()]),
            fixed: self.settings.fixed.clone(),
            changeable: self.settings.changeable.clone(),
            device: info.device.clone(),
            threads: info.threads,
            processes: dist::world_size(),
            saved_at: timestamp(),
            versions: Versions::of_this_build(),
            run: session.provenance(),
        };
        let recipe = info.recipe_text().to_string();
        let mut metrics = session.dir()?.logged()?;
        metrics.truncate(self.logged.unwrap_or(usize::MAX));
        let snapshot = match Snapshot::take(training, &state, metrics, recipe) {
            Ok(snapshot) => snapshot,
            Err(e) => {
                self.writer.wait();
                let good = self.writer.last_words();
                let message = format!("{}: no checkpoint at step {step}: {}; {good}", self.label, one_line(&e));
                let hint = hint_of(&e).map(|hint| match hint.as_str() {
                    DIVERGED => format!("the training has diverged: see its loss and gradient norm in {METRICS_FILE}"),
                    _ => hint,
                });
                return Err(Diagnostic { hint, ..Diagnostic::new(message) }.into());
            }
        };
        self.writer.write(step, snapshot)?;
        self.saved = Some(moment);
        Ok(())
    }

    /// Call this after the loop: saves the last step if it is not saved yet, and waits until everything is on disk. If it
    /// cannot be written, the recipe goes on, since it may save the model elsewhere, but the run will have failed.
    pub fn finish(&mut self, session: &mut Session, training: &TrainingState<'_>, moment: &Moment) -> Result<()> {
        let requested = session.signals().finish()?.or(self.requested.take());
        dist::on_rank0(&format!("the last checkpoint of {}", self.label), || {
            let saved = self.save_last(session, training, moment);
            match requested {
                Some(request) => self.unless_stopping(request, saved),
                None => saved,
            }
        })?;
        self.interrupt.hold(false);
        Ok(())
    }

    /// Saves the last step, unless it is saved as it is: the interval may have done so, but before an evaluation. If
    /// writing fails, tries once more.
    fn save_last(&mut self, session: &mut Session, training: &TrainingState<'_>, moment: &Moment) -> Result<()> {
        if self.writer.wait() && self.saved.as_ref() == Some(moment) {
            session.prune_at_end(self.writer.kept());
            return Ok(());
        }
        for pause in [0, 3] {
            std::thread::sleep(Duration::from_secs(pause));
            self.begin_save(session, training, moment.clone())?;
            if self.writer.wait() {
                session.prune_at_end(self.writer.kept());
                break;
            }
        }
        // If it has not been written, that is told when the loop ends (`drop`).
        Ok(())
    }

    /// The folder of the newest intact checkpoint, on all ranks. Waits for one that is being written.
    pub fn last(&mut self) -> Result<Option<PathBuf>> {
        let last = dist::broadcast_from_rank0("the last checkpoint", || {
            self.writer.wait();
            Ok(serde_json::to_value(self.writer.last().map(|last| &last.path))?)
        })?;
        Ok(serde_json::from_value(last)?)
    }
}
