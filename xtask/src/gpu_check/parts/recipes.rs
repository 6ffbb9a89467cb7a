//! Recipes at tiny size on the GPU, beside the CPU.

use super::{Check, Deadline, Section, Trouble, keep_first, sets, short};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{fs, path::Path};

pub const ASKS: &str = "Recipes on the pictures of tests/fixtures in float32, on the GPU and on the CPU: losses of \
     training may differ by at most 1e-3, attention maps by 1e-3. Accuracies, of 12 pictures, are \
     shown: where two classes are close, rounding decides.";

const LIMIT: f64 = 1e-3;

/// As in tests/it/simulated_cuda.rs, where all are compared bit for bit. IMAGES and MODEL stand for what the fixtures
/// have.
const RECIPES: [(&str, &str); 6] = [
    (
        "pretrain_vits",
        "data=IMAGES evaluate_every=1 dtype=float32 hidden_size=16 layers=2 heads=2 batch=8 micro_batch=4 \
         image_size=56 steps=4",
    ),
    ("finetune_vitb", "data=IMAGES model=MODEL weights=raw batch=8 micro_batch=4 epochs=1 dtype=float32"),
    ("linear_probe", "data=IMAGES model=MODEL block=all"),
    ("knn", "data=IMAGES model=MODEL block=all"),
    ("retrieval", "data=IMAGES model=MODEL map_images=0"),
    ("visualize", "data=IMAGES model=MODEL"),
];

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    let mut first = Ok(());
    let (mut worst, mut done) = (0_f64, 0);
    let mut rows =
        vec![["recipe", "largest difference", "top-1 that differ, GPU and CPU (%)"].map(String::from).to_vec()];
    for (i, (name, values)) in RECIPES.iter().enumerate() {
        match on_both(check, name, values, deadline.of(RECIPES.len() - i)) {
            Ok(found) => {
                done += 1;
                worst = worst.max(found.difference.unwrap_or(0.));
                let difference = found.difference.map_or("none to compare".into(), short);
                let others = if found.others.is_empty() { "none".into() } else { found.others.join(", ") };
                rows.push(vec![name.to_string(), difference, format!("{others} of {}", found.accuracies)]);
                section.set(
                    name,
                    json!({ "difference": found.difference, "accuracies": found.accuracies, "others": found.others }),
                );
                // Written so that a NaN is one.
                if !found.difference.is_none_or(|difference| difference <= LIMIT) {
                    let reason = format!("{name} differs from the CPU by more than {LIMIT:e}");
                    keep_first(&mut first, Err(Trouble::failed(reason)));
                }
            }
            Err(trouble) => keep_first(&mut first, Err(trouble)),
        }
    }
    section.table(&rows);
    section.headline = format!("{done} of {} ran", RECIPES.len());
    if done > 0 {
        section.headline += &format!("; largest difference from the CPU {} (limit {LIMIT:e})", short(worst));
    }
    first
}

#[derive(Default)]
struct Found {
    /// Of the losses, or of the attention maps.
    difference: Option<f64>,
    /// Of how many top-1 accuracies, which differ.
    accuracies: usize,
    others: Vec<String>,
}

fn on_both(check: &Check, name: &str, values: &str, deadline: Deadline) -> Result<Found, Trouble> {
    let path = |place: &str| check.checkout.join(place).display().to_string();
    let (images, model) = (path("tests/fixtures/data/folder"), path("tests/fixtures/model/gelu-plain-qknorm"));
    let values = values.split_whitespace().filter_map(|set| set.split_once('='));
    let values: Vec<_> =
        values.map(|(name, value)| (name, value.replace("IMAGES", &images).replace("MODEL", &model))).collect();
    let recipe = check.checkout.join("recipes").join(format!("{name}.rhai"));
    let out = |device: &str| check.work.join(format!("{name}-{device}"));
    for (i, device) in ["cuda", "cpu"].into_iter().enumerate() {
        let more = [sets(&values), vec!["--out".into(), out(device).display().to_string()]].concat();
        check.run(&format!("{name} on {device}"), &recipe, device, &more, deadline.of(2 - i))?;
    }
    let (gpu, cpu) = (metrics(&out("cuda"))?, metrics(&out("cpu"))?);
    let maps = |device| out(device).join("maps.safetensors");
    if maps("cuda").exists() {
        let files = [("a", maps("cuda").display().to_string()), ("b", maps("cpu").display().to_string())];
        let what = format!("maps of {name}");
        let answer = check.run(&what, &check.script("maps.rhai"), "cpu", &sets(&files), deadline)?.answer()?;
        let difference = answer["difference"].as_f64().unwrap_or(f64::NAN);
        return Ok(Found { difference: Some(difference), ..Found::default() });
    }
    let number = |line: &Value, name: &str| line.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
    let mut found = Found::default();
    if gpu.len() != cpu.len() {
        return Err(Trouble::failed(format!("{name} logged {} lines on the GPU, {} on the CPU", gpu.len(), cpu.len())));
    }
    for (gpu, cpu) in gpu.iter().zip(&cpu) {
        if let (Some(gpu), Some(cpu)) = (number(gpu, "loss"), number(cpu, "loss")) {
            let (off, so_far) = ((gpu - cpu).abs(), found.difference.unwrap_or(0.));
            found.difference = Some(if off.is_nan() || off > so_far { off } else { so_far });
        }
        if let (Some(gpu), Some(cpu)) = (number(gpu, "top1"), number(cpu, "top1")) {
            found.accuracies += 1;
            if gpu != cpu {
                found.others.push(format!("{gpu:.1} and {cpu:.1}"));
            }
        }
    }
    Ok(found)
}

/// The lines of a run's metrics; none where it logs nothing.
fn metrics(run: &Path) -> Result<Vec<Value>> {
    let path = run.join("metrics.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))).collect()
}
