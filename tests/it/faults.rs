//! System calls of a run fail, or the run is killed at one of them: it goes on or says why, and the next one ends as if
//! nothing had been. These are some of all calls; `cargo xtask soak faults` tries each.

use crate::common::faults::{ATTACKS, Point, Start, Undisturbed};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Calls of each attack, spread over the run.
const SAMPLE: usize = 2;

#[test]
fn a_run_goes_on_or_says_why_and_the_next_one_ends_as_the_undisturbed_one() {
    let whole = Undisturbed::new();
    let mut points: Vec<Point> = Vec::new();
    for (i, attack) in ATTACKS.iter().enumerate() {
        for (start, number) in [(Start::Fresh, SAMPLE), (Start::Resumed, SAMPLE - 1)] {
            let all = whole.points(start, *attack);
            // Each attack at other places.
            let at = |k: usize| (k * ATTACKS.len() + i) * all.len() / (number * ATTACKS.len());
            points.extend((0..number).map(|k| all[at(k)]));
        }
    }
    let open = Mutex::new(points);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(point) = { open.lock().unwrap().pop() } {
            match catch_unwind(AssertUnwindSafe(|| whole.strike(point))) {
                Ok(what) => println!("{point}: {what}"),
                Err(_) => failed.lock().unwrap().push(point.to_string()),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "see above: {failed:#?}");
}
