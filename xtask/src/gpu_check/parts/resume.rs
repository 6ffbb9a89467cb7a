//! A run of the real recipe that is killed and resumed, beside one that is not.

use super::{Check, Deadline, Section, Trouble, sets, short};
use anyhow::{Context, Result, anyhow};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

pub const ASKS: &str = "200 steps of recipes/pretrain_vitb.rhai in bfloat16 on synthetic images, undisturbed; and \
     once more with a SIGUSR1, which saves a checkpoint, then a SIGKILL, then the same command, \
     which resumes. The losses of both may differ by at most 0.02, since kernels of a GPU need \
     not add in the same order twice.";

const LIMIT: f64 = 0.02;
/// Three starts, two checkpoints each, and what else is not steps, in seconds.
const OVERHEAD: f64 = 40.;
/// How much of the steps is run in all, as a multiple of one run's: some are run again after the SIGKILL.
const RUNS: f64 = 2.5;

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    // So many that the checkpoint is written before the run ends, also where steps take milliseconds.
    let steps = if check.rehearsal { 100 } else { 200 };
    let batch = if check.rehearsal { 8 } else { batch(check, steps, deadline) };
    let mut values = vec![
        ("data", check.images()?.folder.display().to_string()),
        ("steps", steps.to_string()),
        ("batch", batch.to_string()),
        ("micro_batch", batch.to_string()),
        ("evaluate_every", "0".into()),
    ];
    if check.rehearsal {
        let small =
            [("hidden_size", "16"), ("layers", "2"), ("heads", "2"), ("image_size", "28"), ("dtype", "float32")];
        values.extend(small.map(|(name, value)| (name, value.to_string())));
    }
    let run = |what: &str, folder: &Path, deadline: Deadline, watch: &mut dyn FnMut() -> Option<Signal>| {
        let mut command = check.nepa();
        let recipe = check.checkout.join("recipes/pretrain_vitb.rhai");
        check.recipe(&mut command, &recipe, "cuda").arg("--out").arg(folder).args(sets(&values));
        check.runner.run(what, &mut command, deadline, watch)
    };

    let (undisturbed, killed) = (Run(check.work.join("undisturbed")), Run(check.work.join("killed")));
    let what = "the undisturbed run";
    run(what, &undisturbed.0, deadline.of(2), &mut || None)?.succeeded()?;

    let mut asked = false;
    let ended = run("the run to be killed", &killed.0, deadline, &mut || {
        let step = killed.last_step();
        if !asked && step >= steps / 4 {
            asked = true;
            return Some(Signal::USR1);
        }
        (asked && step >= steps / 2 && killed.has_checkpoint()).then_some(Signal::KILL)
    })?;
    if ended.status.signal() != Some(Signal::KILL.as_raw()) {
        return Err(ended.trouble(&format!("it ended before it was: {}", ended.status)));
    }
    let killed_at = killed.last_step();
    let what = "the resumed run";
    run(what, &killed.0, deadline, &mut || None)?.succeeded()?;

    let from = killed.resumed_from()?;
    let difference = compare(&undisturbed.losses()?, &killed.losses()?, steps)?;
    let last = undisturbed.losses()?[&steps];
    section.headline = format!(
        "{steps} steps of {batch} images, killed after step {killed_at}, resumed from step {from}: losses differ by \
         at most {} (limit {LIMIT}); last loss {last:.4}",
        short(difference)
    );
    section.line(section.headline.clone());
    section.set("steps", steps.into());
    section.set("batch", batch.into());
    section.set("killed_at", killed_at.into());
    section.set("resumed_from", from.into());
    section.set("difference", difference.into());
    section.set("losses", json!(undisturbed.losses()?.into_values().collect::<Vec<_>>()));
    if difference > LIMIT {
        return Err(Trouble::failed(format!("the losses differ by {difference:.1e}, more than {LIMIT}")));
    }
    Ok(())
}

/// The largest batch with which all steps fit into the time, by what the step takes in and what a core decodes.
fn batch(check: &Check, steps: u64, deadline: Deadline) -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let speed = check.images_per_second.unwrap_or(200.).min(400. * cores as f64);
    let images = (deadline.left().as_secs_f64() - OVERHEAD) * speed;
    let fits = |batch: &u64| RUNS * (steps * batch) as f64 <= images;
    [256, 128, 64, 32].into_iter().find(fits).unwrap_or(16)
}

/// A run directory.
struct Run(PathBuf);

impl Run {
    /// The losses that were logged, by step.
    fn losses(&self) -> Result<BTreeMap<u64, f64>> {
        let path = self.0.join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // The last line may be half written.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        // A NaN is no number in JSON.
        Ok(lines.filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64().unwrap_or(f64::NAN)))).collect())
    }

    fn last_step(&self) -> u64 {
        self.losses().ok().and_then(|losses| losses.into_keys().next_back()).unwrap_or(0)
    }

    fn has_checkpoint(&self) -> bool {
        let entries = fs::read_dir(self.0.join("checkpoints/pretrain")).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("step-"))
    }

    /// The step that it was resumed from.
    fn resumed_from(&self) -> Result<u64> {
        let text = fs::read_to_string(self.0.join("run.json")).context("the killed run has no run.json")?;
        let run: Value = serde_json::from_str(&text).context("the killed run's run.json")?;
        let step = run["resumed"].as_array().and_then(|all| all.last()?["steps"]["pretrain"].as_u64());
        step.filter(|step| *step > 0)
            .ok_or_else(|| anyhow!("it began anew: run.json names no step that it was resumed from"))
    }
}

/// The largest difference of the losses that both have logged.
fn compare(a: &BTreeMap<u64, f64>, b: &BTreeMap<u64, f64>, steps: u64) -> Result<f64, Trouble> {
    for (which, losses) in [("undisturbed", a), ("resumed", b)] {
        if losses.keys().next_back() != Some(&steps) {
            let last = losses.keys().next_back();
            return Err(Trouble::failed(format!("the {which} run logged {last:?} as its last step, expected {steps}")));
        }
        if let Some((step, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
            return Err(Trouble::failed(format!("the {which} run's loss is {loss} at step {step}")));
        }
    }
    Ok(a.iter().filter_map(|(step, loss)| Some((loss - b.get(step)?).abs())).fold(0., f64::max))
}
