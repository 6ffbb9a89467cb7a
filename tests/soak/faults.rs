//! Every call of a run on its files, struck in every way.

use crate::common::faults::{ATTACKS, Attack, Point, Start, Undisturbed};
use crate::{Row, Soak};

pub fn soak(soak: &Soak) -> Vec<Row> {
    let whole = Undisturbed::new();
    let name = |attack: &Attack| format!("faults: {}", attack.name);
    let wanted = ATTACKS.iter().filter(|attack| soak.wants(&name(attack)));
    let rows = wanted.map(|attack| {
        let starts = [Start::Fresh, Start::Resumed];
        let points: Vec<Point> = starts.iter().flat_map(|start| whole.points(*start, *attack)).collect();
        soak.try_all(&name(attack), soak.sample(points), |point| drop(whole.strike(*point)))
    });
    rows.collect()
}
