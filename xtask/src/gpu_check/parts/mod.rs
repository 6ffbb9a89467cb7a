//! The parts of the check, a file each, what matters most first.

mod data;
mod device;
mod nccl;
mod parity;
mod recipes;
mod reference;
mod resume;
mod step;

use super::{
    Check,
    process::Deadline,
    replace,
    report::{Section, State, Trouble},
    sets,
};
use anyhow::Result;
use std::path::Path;

pub struct Part {
    pub name: &'static str,
    /// What it finds out and how, for the report.
    pub asks: &'static str,
    /// Of the time.
    pub share: f64,
    pub run: fn(&mut Check, Deadline, &mut Section) -> Result<(), Trouble>,
}

/// What a part does not need of its share is the others'. The device's part has much of it: it is the first to read the
/// libraries, perhaps over a network.
pub fn all(check: &Check) -> Vec<Part> {
    let of_reference = if check.reference.is_some() { 25. } else { 0. };
    vec![
        Part { name: "device", asks: device::ASKS, share: 25., run: device::run },
        Part { name: "parity", asks: parity::ASKS, share: 16., run: parity::run },
        Part { name: "step", asks: step::ASKS, share: 22., run: step::run },
        Part { name: "resume", asks: resume::ASKS, share: 24., run: resume::run },
        Part { name: "recipes", asks: recipes::ASKS, share: 14., run: recipes::run },
        Part { name: "nccl", asks: nccl::ASKS, share: 8., run: nccl::run },
        Part { name: "data", asks: data::ASKS, share: 8., run: data::run },
        Part { name: "reference", asks: reference::ASKS, share: of_reference, run: reference::run },
    ]
}

/// The scripts that parts run.
const SCRIPTS: [(&str, &str); 5] = [
    ("device.rhai", include_str!("../scripts/device.rhai")),
    ("maps.rhai", include_str!("../scripts/maps.rhai")),
    ("nccl.rhai", include_str!("../scripts/nccl.rhai")),
    ("step.rhai", include_str!("../scripts/step.rhai")),
    ("training.rhai", include_str!("../scripts/training.rhai")),
];

pub fn write_scripts(folder: &Path) -> Result<()> {
    SCRIPTS.iter().try_for_each(|(name, text)| replace(&folder.join(name), text))
}

/// Keeps the first trouble of several things that are tried one after the other, with the reasons of the others.
fn keep_first(first: &mut Result<(), Trouble>, ended: Result<(), Trouble>) {
    match (first, ended) {
        (Err(first), Err(other)) if first.state != State::Interrupted => first.add(&other.reason),
        (first @ Ok(()), ended) => *first = ended,
        _ => {}
    }
}

/// As in 1.2e-6.
fn short(x: f64) -> String {
    if x == 0. { "0".into() } else { format!("{x:.1e}") }
}

/// As in "1 GPU" and "2 GPUs".
fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
