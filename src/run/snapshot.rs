//! A training loop at one moment, on disk: everything that it needs to be resumed as if it had never stopped.
//!
//! ```text
//! step-00000120/
//!   model_raw/            the weights, a Hugging Face folder
//!   model_ema/            their average, another folder
//!   optimizer.safetensors the optimizer's states, such as moments
//!   state.json            counters, generator, position in the data, settings, parameters, versions
//!   metrics.jsonl         what the run had logged
//!   recipe.rhai           the recipe
//!   manifest.json         sizes and checksums of all of these
//! ```

use crate::bail_hint;
use crate::checkpoint::{MODEL_FILE, ModelFolder, STATE_FILE, SaveOptions, fill, manifest, tensors};
use crate::device;
use crate::dist;
use crate::error::{Context as _, Result};
use crate::files::{Existing, exists};
use crate::nn::{Module, named_state};
use crate::optim::{Ema, Optimizer};
use crate::provenance::RunProvenance;
use crate::run::metrics::METRICS_FILE;
use crate::run::schema::{CheckpointState, RECIPE_FILE, to_json};
use crate::tensor::{Dtype, dtype_name};
use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Tensor};

/// The folder of the weights.
pub const RAW_DIR: &str = "model_raw";
/// The folder of their average.
pub const EMA_DIR: &str = "model_ema";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// What may lie in a checkpoint's folder.
const ENTRIES: [&str; 7] =
    [RAW_DIR, EMA_DIR, OPTIMIZER_FILE, STATE_FILE, METRICS_FILE, RECIPE_FILE, manifest::MANIFEST_FILE];

/// What changes in a training loop from step to step.
pub struct TrainingState<'a> {
    /// The model.
    pub model: &'a dyn Module,
    /// The average of its weights.
    pub ema: Option<&'a mut Ema>,
    /// Its optimizer.
    pub optimizer: Option<&'a mut Optimizer>,
}

/// A copy of a training state and everything saved with it, on the CPU and not shared, so that it can be written while
/// training continues.
pub struct Snapshot {
    raw: ModelFolder,
    ema: Option<ModelFolder>,
    optimizer: Option<Named>,
    state: Vec<u8>,
    metrics: Vec<u8>,
    recipe: String,
}

/// Tensors by name.
type Named = Vec<(String, Tensor)>;

impl Snapshot {
    /// Copies the training state. A tensor that is not finite is an error: every checkpoint must be fit to resume from.
    pub fn take(
        training: &TrainingState<'_>,
        state: &CheckpointState,
        metrics: Vec<u8>,
        recipe: String,
    ) -> Result<Self> {
        let provenance = RunProvenance { step: Some(state.step), ..state.run.clone() };
        let folder = |named: Named, weights: &str| {
            let options = SaveOptions { weights: weights.into(), ..Default::default() };
            ModelFolder::new(training.model, finite_copies(named, weights)?, &options, Some(provenance.clone()))
        };
        let raw = folder(named_state(training.model), "raw")?;
        let ema = match &training.ema {
            Some(ema) if ema.has_started() => Some(folder(ema.named_averages()?, "ema")?),
            _ => None,
        };
        let optimizer = training.optimizer.as_ref().map(|o| finite_copies(o.state(), "optimizer"));
        Ok(Self { raw, ema, optimizer: optimizer.transpose()?, state: to_json(state)?, metrics, recipe })
    }

    /// Writes the folder `dir`: it appears whole or not at all, in the place of an earlier one. Gives its size in bytes.
    pub fn write(&self, dir: &Path) -> Result<u64> {
        manifest::write(dir, Existing::Replace(&ENTRIES), |folder| {
            for (name, model) in [(RAW_DIR, Some(&self.raw)), (EMA_DIR, self.ema.as_ref())] {
                if let Some(model) = model {
                    model.write(|file, content| folder.file(&format!("{name}/{file}"), content))?;
                }
            }
            if let Some(state) = &self.optimizer {
                folder.file(OPTIMIZER_FILE, |out| tensors::write_to(out, state, &Default::default()))?;
            }
            folder.file(STATE_FILE, |out| Ok(out.write_all(&self.state)?))?;
            folder.file(METRICS_FILE, |out| Ok(out.write_all(&self.metrics)?))?;
            folder.file(RECIPE_FILE, |out| Ok(out.write_all(self.recipe.as_bytes())?))
        })
    }
}

/// Copies on the CPU of tensors, all of which must be finite; `of` says whose they are.
fn finite_copies(named: Named, of: &str) -> Result<Named> {
    tensors::ensure_finite(&named, of)?;
    let (names, tensors): (Vec<_>, Vec<_>) = named.into_iter().unzip();
    Ok(names.into_iter().zip(device::download(&tensors)?).collect())
}

/// What the run had logged when the checkpoint was taken.
pub fn read_metrics(dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join(METRICS_FILE);
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The tensors of a checkpoint.
struct Tensors {
    raw: Named,
    ema: Option<Named>,
    optimizer: Option<Named>,
}

impl Tensors {
    /// What rank 0 reads, on all ranks.
    fn broadcast(read: impl FnOnce() -> Result<Self>) -> Result<Self> {
        let headers = |named: &Named| -> Value {
            let one = |(name, t): &(String, Tensor)| json!([name, t.size(), dtype_name(t.kind())]);
            named.iter().map(one).collect()
        };
        let mut own = None;
        let lists = dist::broadcast_from_rank0("the tensors of the checkpoint", || {
            let all = own.insert(read()?);
            Ok(json!([headers(&all.raw), all.ema.as_ref().map(headers), all.optimizer.as_ref().map(headers)]))
        })?;
        if let Some(own) = own {
            own.overwrite_with_rank0()?;
            return Ok(own);
        }
        let made = |list: &Value| -> Result<Option<Named>> {
            let one = |entry: &Value| -> Result<(String, Tensor)> {
                let (name, size, dtype): (String, Vec<i64>, String) = serde_json::from_value(entry.clone())?;
                let dtype = Dtype::find(|known| known.name == dtype).context("unknown dtype")?;
                Ok((name, Tensor::f_zeros(size, (dtype.kind, Device::Cpu))?))
            };
            list.as_array().map(|list| list.iter().map(one).collect()).transpose()
        };
        let made =
            Self { raw: made(&lists[0])?.unwrap_or_default(), ema: made(&lists[1])?, optimizer: made(&lists[2])? };
        made.overwrite_with_rank0()?;
        Ok(made)
    }

    fn overwrite_with_rank0(&self) -> Result<()> {
        let all = [Some(&self.raw), self.ema.as_ref(), self.optimizer.as_ref()];
        let all = all.into_iter().flatten().flatten().map(|(_, t)| t.shallow_clone());
        dist::broadcast_coalesced(&all.collect::<Vec<_>>(), "the tensors of the checkpoint")
    }
}

/// Puts a checkpoint's tensors into the training state. Everything is read, by rank 0, before anything is changed.
pub fn restore(dir: &Path, training: &mut TrainingState<'_>) -> Result<()> {
    let tensors = Tensors::broadcast(|| read(dir, training))?;
    let hint = "resume with the recipe that wrote it, or start a new run with another --out";
    fill(training.model, &tensors.raw, &dir.join(RAW_DIR).display().to_string(), Some(hint))?;
    if let (Some(own), Some(state)) = (&mut training.optimizer, tensors.optimizer) {
        own.load_state(&state).with_context(|| dir.join(OPTIMIZER_FILE).display().to_string())?;
    }
    if let (Some(own), Some(averages)) = (&mut training.ema, tensors.ema) {
        own.restore(&averages).with_context(|| dir.join(EMA_DIR).display().to_string())?;
    }
    Ok(())
}

fn read(dir: &Path, training: &TrainingState<'_>) -> Result<Tensors> {
    let read = |name: &str| -> Result<Named> { Ok(tensors::read(&dir.join(name))?.tensors) };
    let raw = read(&format!("{RAW_DIR}/{MODEL_FILE}"))?;
    let has = |name: &str| exists(&dir.join(name));
    let ema = if has(EMA_DIR)? { Some(read(&format!("{EMA_DIR}/{MODEL_FILE}"))?) } else { None };
    let optimizer = if has(OPTIMIZER_FILE)? { Some(read(OPTIMIZER_FILE)?) } else { None };
    let misfit = |held: bool, what: &str| -> Result<()> {
        let (with, without) = if held { ("holds", "this loop has none") } else { ("lacks", "this loop needs it") };
        bail_hint!(
            "{} {with} {what}, but {without}", dir.display();
            "resume with the recipe that wrote it, or start a new run with another --out"
        );
    };
    // An average may be missing: it starts with the first update.
    if ema.is_some() && training.ema.is_none() {
        misfit(true, "an average of the weights")?;
    }
    if optimizer.is_some() != training.optimizer.is_some() {
        misfit(optimizer.is_some(), "an optimizer's state")?;
    }
    Ok(Tensors { raw, ema, optimizer })
}
