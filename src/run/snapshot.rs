//! A training run at one moment, on disk: everything that it needs to go on as if it had never stopped.
//!
//! ```text
//! step-00000120/
//!   model_raw/            the weights, a Hugging Face folder
//!   model_ema/            their average, another one
//!   optimizer.safetensors moments and step counts
//!   state.json            counters, generator, place in the data, settings, parameters, versions
//!   metrics.jsonl         what the run had logged
//!   recipe.rhai           the recipe
//!   manifest.json         sizes and checksums of all of these
//! ```

use crate::bail_hint;
use crate::checkpoint::{MODEL_FILE, ModelFolder, SaveOptions, fill, manifest, tensors};
use crate::dist;
use crate::error::{Context as _, Result};
use crate::nn::{Module, named_parameters};
use crate::optim::{Adamw, Ema};
use crate::tensor::{Dtype, detached_copy, dtype_name};
use serde_json::{Map, Value};
use std::path::Path;
use tch::{Device, Tensor};

/// Counters, generator, settings and the rest that is no tensor.
pub const STATE_FILE: &str = "state.json";
/// The folder of the weights.
pub const RAW_DIR: &str = "model_raw";
/// The folder of their average.
pub const EMA_DIR: &str = "model_ema";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const METRICS_FILE: &str = "metrics.jsonl";
const RECIPE_FILE: &str = "recipe.rhai";

/// The parts of a training run that change from step to step.
pub struct Parts<'a> {
    /// The model.
    pub model: &'a dyn Module,
    /// The average of its weights.
    pub ema: Option<&'a mut Ema>,
    /// Its optimizer.
    pub optimizer: Option<&'a mut Adamw>,
}

/// A copy of these parts, on the CPU and owned by nobody else, so that it can be written while training goes on.
pub struct Snapshot {
    raw: ModelFolder,
    ema: Option<ModelFolder>,
    optimizer: Option<Vec<(String, Tensor)>>,
    state: Value,
    metrics: Vec<u8>,
    recipe: String,
}

impl Snapshot {
    /// Copies the parts. `provenance` is what the model folders say about the run.
    pub fn take(
        parts: &Parts<'_>,
        provenance: Map<String, Value>,
        state: Value,
        metrics: Vec<u8>,
        recipe: String,
    ) -> Result<Self> {
        let folder = |named: Vec<(String, Tensor)>, weights: &str| {
            let options = SaveOptions { weights: weights.into(), ..Default::default() };
            ModelFolder::new(parts.model, copies(named)?, &options, provenance.clone())
        };
        let ema = match &parts.ema {
            Some(ema) if ema.has_started() => Some(folder(ema.named_averages()?, "ema")?),
            _ => None,
        };
        Ok(Self {
            raw: folder(named_parameters(parts.model), "raw")?,
            ema,
            optimizer: parts.optimizer.as_ref().map(|o| copies(o.state())).transpose()?,
            state,
            metrics,
            recipe,
        })
    }

    /// Writes the folder `dir`, which must not exist: it appears whole or not at all. Gives its size in bytes.
    pub fn write(&self, dir: &Path) -> Result<u64> {
        manifest::write(dir, |folder| {
            for (name, model) in [(RAW_DIR, Some(&self.raw)), (EMA_DIR, self.ema.as_ref())] {
                if let Some(model) = model {
                    model.write(|file, content| folder.file(&format!("{name}/{file}"), content))?;
                }
            }
            if let Some(state) = &self.optimizer {
                folder.file(OPTIMIZER_FILE, |out| tensors::write_to(out, state, &Default::default()))?;
            }
            folder.file(STATE_FILE, |out| Ok(out.write_all(crate::checkpoint::pretty(&self.state).as_bytes())?))?;
            folder.file(METRICS_FILE, |out| Ok(out.write_all(&self.metrics)?))?;
            folder.file(RECIPE_FILE, |out| Ok(out.write_all(self.recipe.as_bytes())?))
        })
    }
}

fn copies(named: Vec<(String, Tensor)>) -> Result<Vec<(String, Tensor)>> {
    let copy = |(name, t): (String, Tensor)| {
        // To another device is a copy already.
        let t = if t.device() == Device::Cpu { detached_copy(&t)? } else { t.f_detach()?.f_to_device(Device::Cpu)? };
        Ok((name, t))
    };
    named.into_iter().map(copy).collect()
}

/// What a checkpoint says besides its tensors. Read it after [`manifest::verify`].
pub fn read_state(dir: &Path) -> Result<Value> {
    let path = dir.join(STATE_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))
}

/// What the run had logged when the checkpoint was taken.
pub fn read_metrics(dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join(METRICS_FILE);
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The tensors of a checkpoint by name.
#[derive(Default)]
pub struct Tensors {
    raw: Named,
    ema: Option<Named>,
    optimizer: Option<Named>,
}

type Named = Vec<(String, Tensor)>;

impl Tensors {
    /// What rank 0 has read, in all processes.
    fn share(self) -> Result<Self> {
        let empty = |named: &Named| -> Value {
            let one = |(name, t): &(String, Tensor)| serde_json::json!([name, t.size(), dtype_name(t.kind())]);
            named.iter().map(one).collect()
        };
        let lists = dist::broadcast_from_rank0("the tensors of the checkpoint", || {
            Ok(serde_json::json!([empty(&self.raw), self.ema.as_ref().map(empty), self.optimizer.as_ref().map(empty)]))
        })?;
        if dist::is_rank0() {
            self.broadcast()?;
            return Ok(self);
        }
        let made = |list: &Value| -> Result<Option<Named>> {
            let one = |entry: &Value| -> Result<(String, Tensor)> {
                let (name, size, dtype): (String, Vec<i64>, String) = serde_json::from_value(entry.clone())?;
                let dtype = Dtype::find(|known| known.name == dtype).context("a dtype that is not known")?;
                Ok((name, Tensor::f_zeros(size, (dtype.kind, Device::Cpu))?))
            };
            list.as_array().map(|list| list.iter().map(one).collect()).transpose()
        };
        let made =
            Self { raw: made(&lists[0])?.unwrap_or_default(), ema: made(&lists[1])?, optimizer: made(&lists[2])? };
        made.broadcast()?;
        Ok(made)
    }

    fn broadcast(&self) -> Result<()> {
        let all = [Some(&self.raw), self.ema.as_ref(), self.optimizer.as_ref()];
        let all = all.into_iter().flatten().flatten().map(|(_, t)| t.shallow_clone());
        dist::broadcast_coalesced(&all.collect::<Vec<_>>(), "the tensors of the checkpoint")
    }
}

/// Puts a checkpoint's tensors into the parts. Everything is read, by rank 0, before anything is changed.
pub fn restore(dir: &Path, parts: &mut Parts<'_>) -> Result<()> {
    let tensors = if dist::is_rank0() { read(dir, parts)? } else { Tensors::default() }.share()?;
    fill(parts.model, &tensors.raw, &dir.join(RAW_DIR).display().to_string(), true)?;
    if let (Some(own), Some(state)) = (&mut parts.optimizer, tensors.optimizer) {
        own.load_state(&state).with_context(|| dir.join(OPTIMIZER_FILE).display().to_string())?;
    }
    if let (Some(own), Some(averages)) = (&mut parts.ema, tensors.ema) {
        own.restore(&averages).with_context(|| dir.join(EMA_DIR).display().to_string())?;
    }
    Ok(())
}

fn read(dir: &Path, parts: &Parts<'_>) -> Result<Tensors> {
    let read = |name: &str| -> Result<Vec<(String, Tensor)>> { Ok(tensors::read(&dir.join(name))?.tensors) };
    let raw = read(&format!("{RAW_DIR}/{MODEL_FILE}"))?;
    let has = |name: &str| dir.join(name).exists();
    let ema = if has(EMA_DIR) { Some(read(&format!("{EMA_DIR}/{MODEL_FILE}"))?) } else { None };
    let optimizer = if has(OPTIMIZER_FILE) { Some(read(OPTIMIZER_FILE)?) } else { None };
    let misfit = |held: bool, what: &str| -> Result<()> {
        let (with, without) = if held { ("holds", "this loop has none") } else { ("lacks", "this loop needs it") };
        bail_hint!(
            "{} {with} {what}, and {without}", dir.display();
            "resume with the recipe that wrote it, or start a new run with another --out"
        );
    };
    // An average may be missing: it starts with the first update.
    if ema.is_some() && parts.ema.is_none() {
        misfit(true, "an average of the weights")?;
    }
    if optimizer.is_some() != parts.optimizer.is_some() {
        misfit(optimizer.is_some(), "an optimizer's state")?;
    }
    Ok(Tensors { raw, ema, optimizer })
}
