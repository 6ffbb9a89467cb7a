//! System calls of a run fail, or the run is killed at one of them: it goes on or says why, and the next one ends as if
//! nothing had been. These are some of all calls; `cargo xtask soak faults` tries each.

use crate::common::faults::{ATTACKS, Point, Start, Undisturbed, strike};
use crate::common::{Folder, copy, repository};
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

#[test]
fn what_cannot_be_looked_at_is_not_left_out_of_a_data_set() {
    let folder = Folder::new();
    copy(&repository("tests/fixtures/data"), &folder.path("d"));
    // What links lead to is asked of the system by name.
    for (name, moved) in [("d/webdataset/train-0001.tar", "shard"), ("d/folder/train/n01440764", "class")] {
        std::fs::rename(folder.path(name), folder.path(moved)).unwrap();
        std::os::unix::fs::symlink(folder.path(moved), folder.path(name)).unwrap();
    }
    for (open, file) in [
        ("data::webdataset(\"d/webdataset/train-*.tar\")", "d/webdataset/train-0001.tar"),
        ("data::image_folder(\"d/folder/train\")", "d/folder/train/n01440764"),
        ("data::open(\"d/folder\", \"train\")", "d/folder/train/n01440764"),
    ] {
        folder.write("open.rhai", format!("print({open}.len);"));
        folder.nepa(&["run", "open.rhai"]).succeeds();
        let below = folder.path("").canonicalize().unwrap().join(file).display().to_string();
        let fault = strike(&below, ",stat,", "1", "5");
        let said = folder.nepa_with(&[fault, vec![("FAULT_LASTS", "1")]].concat(), &["run", "open.rhai"]);
        said.fails(1).says(&[&format!("cannot read {file}: Input/output error")]);
    }
}
