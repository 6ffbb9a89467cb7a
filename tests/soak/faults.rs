//! Every call of a run on its files, struck in every way.

use crate::common::faults::{ATTACKS, Point, Start, Undisturbed};
use crate::{Row, Soak};

pub fn soak(soak: &Soak) -> Vec<Row> {
    let whole = Undisturbed::new();
    let rows = ATTACKS.iter().map(|attack| {
        let starts = [Start::Fresh, Start::Resumed];
        let points: Vec<Point> = starts.iter().flat_map(|start| whole.points(*start, *attack)).collect();
        soak.try_all(&format!("faults: {}", attack.name), soak.sample(points), |point| drop(whole.strike(*point)))
    });
    rows.collect()
}
