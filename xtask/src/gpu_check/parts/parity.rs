//! Numbers of models and of training beside the reference's, in float32.

use super::{Check, Deadline, Section, Trouble, keep_first, sets, short};
use anyhow::Context;
use serde_json::json;
use std::fs;

pub const ASKS: &str = "float32 (no TF32) beside the reference's recorded numbers: a forward and a backward pass of \
     each model of tests/fixtures/model, within 1e-4 (absolute) and 1e-3 (relative to the \
     tensor's largest); 12 steps of training, losses within 1e-4, gradient norms 1e-3, weights \
     1e-3.";

const FORWARD_LIMIT: f64 = 1e-4;
const GRADIENT_LIMIT: f64 = 1e-3;
const TRAINING_LIMITS: [(&str, f64); 3] = [("loss_limit", 1e-4), ("norm_limit", 1e-3), ("weight_limit", 1e-3)];

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    let folder = check.checkout.join("tests/fixtures/model");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if check.rehearsal {
        names.truncate(2);
    }
    let mut first = Ok(());
    let mut worst = Differences::default();
    let mut rows = vec![["model", "tensors", "forward, absolute", "gradients, relative"].map(String::from).to_vec()];
    for (i, name) in names.iter().enumerate() {
        let values = [
            ("dir", folder.join(name).display().to_string()),
            ("forward_limit", short(FORWARD_LIMIT)),
            ("gradient_limit", short(GRADIENT_LIMIT)),
        ];
        let (found, ended) =
            compare(check, &format!("parity {name}"), "parity", &values, deadline.of(names.len() + 1 - i));
        let succeeded = ended.is_ok();
        keep_first(&mut first, ended);
        let found = Differences::of_model(&found);
        if succeeded && found.tensors == 0 {
            keep_first(&mut first, Err(Trouble::failed(format!("parity {name}: no tensor was compared"))));
        }
        rows.push(vec![name.clone(), found.tensors.to_string(), short(found.forward), short(found.gradient)]);
        section.set(name, json!({ "tensors": found.tensors, "forward": found.forward, "gradient": found.gradient }));
        worst.include(&found);
    }
    section.table(&rows);

    if worst.tensors > 0 {
        section.headline = format!(
            "{} tensors of {} models; largest difference forward {} (limit {FORWARD_LIMIT:e}), gradients {} (limit \
             {GRADIENT_LIMIT:e})",
            worst.tensors,
            names.len(),
            short(worst.forward),
            short(worst.gradient)
        );
    }
    keep_first(&mut first, training(check, deadline, section));
    first
}

/// The recorded steps of training.
fn training(check: &Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    let dir = check.checkout.join("tests/fixtures/train").display().to_string();
    let limits = TRAINING_LIMITS.map(|(name, limit)| (name, short(limit)));
    let values = [vec![("dir", dir)], limits.to_vec()].concat();
    let what = "parity of training";
    let (said, ended) = compare(check, what, "train_parity", &values, deadline);
    // Lines such as `step 0  loss 0.1 (off by 1.2e-8)  grad_norm 2.3 (off by 3.4e-8 relative)`, and at the end such as
    // `final weights: 40 tensors, largest difference 5.6e-8 (name)`.
    let steps: Vec<&str> = said.lines().filter(|line| line.starts_with("step ")).collect();
    let of_steps =
        |which: usize| steps.iter().filter_map(|line| numbers_after(line, "(off by ").nth(which)).fold(0., larger);
    let (loss, norm) = (of_steps(0), of_steps(1));
    let weight = numbers_after(&said, "largest difference ").fold(0., larger);
    if steps.is_empty() {
        return ended.and(Err(Trouble::failed(format!("{what}: no step was compared"))));
    }
    section.line(format!(
        "{} steps of training: losses within {}, gradient norms {}, final weights and averages {}",
        steps.len(),
        short(loss),
        short(norm),
        short(weight)
    ));
    section.set("training", json!({ "steps": steps.len(), "loss": loss, "norm": norm, "weight": weight }));
    section.headline += &format!("; training: losses within {}, weights {}", short(loss), short(weight));
    ended
}

/// What an example says that compares, also where it finds too large a difference.
fn compare(
    check: &Check,
    what: &str,
    example: &str,
    values: &[(&str, String)],
    deadline: Deadline,
) -> (String, Result<(), Trouble>) {
    let mut command = check.nepa();
    let example = check.checkout.join("examples").join(format!("{example}.rhai"));
    check.recipe(&mut command, &example, "cuda").args(sets(values));
    match check.runner.run(what, &mut command, deadline, &mut || None) {
        Ok(ended) => (ended.out.clone(), ended.succeeded().map(drop)),
        Err(trouble) => (String::new(), Err(trouble)),
    }
}

#[derive(Default)]
struct Differences {
    tensors: usize,
    forward: f64,
    gradient: f64,
}

impl Differences {
    /// Of what examples/parity.rhai prints: `NAME  abs 1.2e-7  rel 3.4e-8`.
    fn of_model(said: &str) -> Self {
        let mut found = Differences::default();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, "abs", absolute, "rel", relative, ..] = words[..] else { continue };
            found.tensors += 1;
            let (worst, number) = if name.starts_with("grad.") {
                (&mut found.gradient, relative)
            } else {
                (&mut found.forward, absolute)
            };
            // What is no number differs by more than any.
            *worst = larger(*worst, number.parse().unwrap_or(f64::INFINITY));
        }
        found
    }

    fn include(&mut self, other: &Self) {
        self.tensors += other.tensors;
        self.forward = larger(self.forward, other.forward);
        self.gradient = larger(self.gradient, other.gradient);
    }
}

/// The larger, and a NaN before all.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The numbers that follow a text.
fn numbers_after<'t>(text: &'t str, before: &'t str) -> impl Iterator<Item = f64> + 't {
    text.split(before).skip(1).filter_map(|rest| rest.split([' ', ')', ',']).next()?.parse().ok())
}
