//! What tells runs apart: the parameters in which they differ.

use super::read::Run;
use crate::cli::sweep::values::text;
use serde_json::{Map, Value};

/// The most parameters in a label, and the most letters of a value.
const MOST: (usize, usize) = (6, 40);

/// Gives runs names made of the parameters in which they differ, if that tells all apart; else those that have the same
/// name are named by the paths given.
pub fn name(runs: &mut [Run]) {
    if let Some(labels) = differences(runs) {
        for (run, label) in runs.iter_mut().zip(labels) {
            run.folder = Some(std::mem::replace(&mut run.name, label));
        }
        return;
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in runs.iter_mut().filter(|run| names.iter().filter(|name| **name == run.name).count() > 1) {
        run.name = run.given.clone();
    }
}

fn differences(runs: &[Run]) -> Option<Vec<String>> {
    let all: Vec<&Map<String, Value>> = runs.iter().map(|run| run.params.as_ref()).collect::<Option<_>>()?;
    let mut names: Vec<&String> = Vec::new();
    for name in all.iter().flat_map(|params| params.keys()) {
        let differs = all.iter().any(|params| params.get(name) != all[0].get(name));
        if differs && !names.contains(&name) {
            names.push(name);
        }
    }
    names.truncate(MOST.0);
    let shown = |value: Option<&Value>| {
        let text = value.map_or("-".to_string(), text);
        if text.chars().count() <= MOST.1 { text } else { text.chars().take(MOST.1).chain(['…']).collect() }
    };
    let label = |params: &&Map<String, Value>| {
        let pairs: Vec<String> = names.iter().map(|name| format!("{name}={}", shown(params.get(*name)))).collect();
        pairs.join(", ")
    };
    let mut labels: Vec<String> = all.iter().map(label).collect();
    let mut sorted = labels.clone();
    sorted.sort();
    sorted.dedup();
    if runs.len() < 2 || names.is_empty() {
        return None;
    }
    // Runs of the same parameters are told apart by their folders too.
    if sorted.len() < labels.len() {
        labels.iter_mut().zip(runs).for_each(|(label, run)| *label += &format!(" ({})", run.given));
    }
    Some(labels)
}
