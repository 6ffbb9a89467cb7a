//! A simulated GPU whose memory runs out at every allocation of a run, and that is lost at every launch.

use crate::common::gpu_faults::{Fault, Undisturbed};
use crate::{Row, Soak};

pub fn soak(soak: &Soak) -> Vec<Row> {
    let whole = Undisturbed::new();
    let parts = [("gpu: out of memory", Fault::OutOfMemory), ("gpu: lost", Fault::Lost)];
    let wanted = parts.into_iter().filter(|(what, _)| soak.wants(what));
    let rows = wanted.map(|(what, fault)| {
        soak.try_all(what, soak.sample(whole.moments(fault)), |moment| drop(whole.strike(*moment)))
    });
    rows.collect()
}
