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

/// A disk or a network file system fails once: the file is not called damaged, and no image is left out for it.
#[test]
fn images_are_read_again_where_the_disk_failed() {
    let folder = Folder::new();
    copy(&repository("tests/fixtures/data"), &folder.path("d"));
    folder.write(
        "read.rhai",
        r#"
        let images = data::open(param("data", (), "images"), "train");
        let options = #{ batch: 4, shuffle: false, on_bad: "skip", workers: 1 };
        let sums = [];
        for batch in data::loader(images, [transform::resize(8), transform::center_crop(8)], options).epoch(0) {
            sums.push(batch.images.sum().item());
        }
        print(sums);
        "#,
    );
    let below = folder.path("d").canonicalize().unwrap().display().to_string();
    let log = folder.path("calls.log").display().to_string();
    for data in ["d/folder", "d/parquet", "d/webdataset"] {
        let args = ["run", "read.rhai", "--device", "cpu", "--out", "out", "--set", &format!("data={data}")];
        let run = |at: usize| {
            let (_, _) = (std::fs::remove_file(&log), std::fs::remove_dir_all(folder.path("out")));
            let at = at.to_string();
            let said =
                folder.nepa_with(&[strike(&below, ",open,read,", &at, "5"), vec![("FAULT_LOG", &log)]].concat(), &args);
            (said, std::fs::read_to_string(&log).unwrap().lines().count())
        };
        let (whole, calls) = run(0);
        whole.succeeds();
        // The last calls read images of the epoch, the first ones what there is.
        for at in [1, 2, calls / 2, calls - 7, calls - 3, calls] {
            let (said, _) = run(at);
            assert!(!said.stderr.contains("damaged") && !said.stderr.contains("skipped"), "{data}, call {at}: {said}");
            match said.code {
                Some(0) => assert_eq!(said.stdout, whole.stdout, "{data}, call {at}: {said}"),
                _ => {
                    said.fails(1).says(&["cannot read d/", "Input/output error"]);
                }
            }
        }
        let (said, _) = run(calls - 2);
        said.succeeds();
        assert_eq!(said.stdout, whole.stdout, "{data}");
    }
}

/// A picture under its final name is whole, whatever fails as it is written: also the last bytes.
#[test]
fn a_picture_is_whole_or_not_there() {
    let folder = Folder::new();
    folder.write(
        "draw.rhai",
        r#"
        plot::lines("p/lines.png", #{ a: [[0, 1], [1, 2]] }, #{});
        plot::lines("p/lines.svg", #{ a: [[0, 1], [1, 2]] }, #{});
        plot::images("p/images.png", zeros([2, 1, 8, 8]), #{});
        plot::overlays("p/overlays.png", zeros([3, 8, 8]), [#{ title: "t", map: zeros([2, 2]) }], #{});
        "#,
    );
    let below = folder.path("").canonicalize().unwrap().join("p").display().to_string();
    let log = folder.path("calls.log").display().to_string();
    let run = |at: usize| {
        let (_, _) = (std::fs::remove_file(&log), std::fs::remove_dir_all(folder.path("p")));
        let at = at.to_string();
        let environment = [strike(&below, ",create,write,sync,rename,", &at, "5"), vec![("FAULT_LOG", &log)]].concat();
        let said = folder.nepa_with(&environment, &["run", "draw.rhai", "--device", "cpu"]);
        (said, std::fs::read_to_string(&log).unwrap_or_default().lines().count())
    };
    let (whole, calls) = run(0);
    whole.succeeds();
    let pictures = folder.names("p").into_iter().map(|name| (name.clone(), folder.read(&format!("p/{name}"))));
    let pictures: std::collections::BTreeMap<String, Vec<u8>> = pictures.collect();
    assert_eq!(pictures.len(), 4);
    assert!(calls >= 16, "{calls}");
    for at in 1..=calls {
        let (said, _) = run(at);
        said.fails(1).says(&["Input/output error"]);
        for name in folder.names("p") {
            assert!(folder.read(&format!("p/{name}")) == pictures[&name], "call {at}: {name} is not whole: {said}");
        }
    }
}
