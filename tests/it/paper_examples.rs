//! The examples of what others made of NEPA, and of what it can be made into from a script alone: each runs, and what has
//! to hold whatever it learns holds.

use crate::common::{Folder, Said, assert_close, repository};
use serde_json::Value;

fn path(name: &str) -> String {
    repository(&format!("examples/{name}.rhai")).display().to_string()
}

/// Runs an example in a folder, at a small scale.
fn run(folder: &Folder, name: &str, out: &str, sets: &[&str]) -> Said {
    let script = path(name);
    let mut args = vec!["run", &script, "--device", "cpu", "--threads", "1", "--out", out];
    for set in sets {
        args.extend(["--set", set]);
    }
    folder.nepa(&args)
}

/// What the run in a folder returned.
fn result(folder: &Folder, out: &str) -> Value {
    folder.json(&format!("{out}/run.json"))["result"].clone()
}

/// Runs the definitions of an example, which end before `end`, and then lines of a test.
fn with(name: &str, end: &str, then: &str, sets: &[&str]) -> Said {
    let text = std::fs::read_to_string(path(name)).unwrap();
    let (definitions, _) = text.split_once(end).unwrap_or_else(|| panic!("{name} should have a line `{end}`"));
    let script = format!("{definitions}{then}");
    let mut args = Vec::new();
    for set in sets {
        args.extend(["--set", set]);
    }
    Folder::new().run_with(&script, &args)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

// ---- LeNEPA ----

#[test]
fn without_a_stop_gradient_targets_collapse_and_sigreg_keeps_them_apart() {
    let folder = Folder::new();
    let small = ["steps=60", "batch=16", "width=32", "layers=2", "directions=16", "labels=80", "tested=80"];
    run(&folder, "lenepa", "out", &small).succeeds().prints(&["probe top-1", "SIGReg"]);
    let found = result(&folder, "out");
    let (neither, sigreg) = (&found["neither"], &found["SIGReg"]);
    assert!(number(&neither["target_std"]) < 0.3 && number(&neither["target_cosine"]) > 0.9, "{found}");
    assert!(number(&sigreg["target_std"]) > 0.5 && number(&sigreg["target_cosine"]) < 0.5, "{found}");
    // Where all targets are alike, they are predicted with ease.
    assert!(number(&neither["loss"]) < number(&sigreg["loss"]) / 10.0, "{found}");
}

#[test]
fn sigreg_measures_the_distance_from_a_standard_normal() {
    let said = with(
        "lenepa",
        "let rows",
        "let normal = randn([4, 4096, 8]);
         print(sigreg.call(normal).item());
         print(sigreg.call(normal * 2.0).item());
         print(sigreg.call(normal + 1.0).item());
         print(sigreg.call(zeros([4, 16, 8])).item());
         // Rotated queries and keys see how far apart they are, not where.
         let q = randn([1, 1, 1, 16]).expand([1, 1, tokens, 16]);
         let scores = nn::apply_rotary(q, rotary).matmul(nn::apply_rotary(q, rotary).transpose(2, 3))[[0, 0]];
         print((scores[[1..9, 4..12]] - scores[[0..8, 3..11]]).abs().max().item());
         // As many of each kind, of which no two are alike.
         let made = signals.call(64);
         print(bincount(made.kind).tolist());
         print(made.x.shape);",
        &[],
    );
    let found = said.numbers();
    // Of tokens that are all zero, the integral of (1 - bell)² · bell over the line: √(π/2) − √π + √(π/6), twice.
    let pi = std::f64::consts::PI;
    let zero = 2.0 * ((pi / 2.0).sqrt() - pi.sqrt() + (pi / 6.0).sqrt());
    assert!(found[0][0] < 0.002, "{said}");
    assert!(found[1][0] > 0.05 && found[2][0] > 0.05, "{said}");
    assert_close(&found[3], &[zero], 0.01);
    assert!(found[4][0] < 1e-4, "{said}");
    assert_eq!((&found[5], &found[6]), (&vec![16.0; 4], &vec![64.0, 256.0]));
}

// ---- several next embeddings, InfoNCE ----

#[test]
fn one_next_embedding_by_cosine_is_nepas_loss_and_info_nce_knows_its_own() {
    let said = with(
        "next_k_info_nce",
        "let rows",
        "let encoder = nn::vit_nepa(config);
         let some = randn([3, 1, 28, 28]);
         let out = encoder.encode(some);
         let nepa = loss::next_embedding(out.last_hidden_state, out.input_embedding);
         let one = #{ encoder: encoder, heads: [nn::identity()] };
         print((next_k.call(one, some, cosine) - nepa).abs().item());
         // The second of two heads predicts the embedding after the next one.
         let two = #{ encoder: encoder, heads: [nn::identity(), nn::identity()] };
         let n = out.last_hidden_state.size(1);
         let after = cosine.call(out.last_hidden_state.slice(1, 0, n - 2), out.input_embedding.slice(1, 2, n));
         print((next_k.call(two, some, cosine) * 2.0 - nepa - after).abs().item());
         // Where no target stands out, the chance of finding the own one is 1 of 8; among orthogonal ones it is found.
         print(info_nce.call(randn([8, 16]), ones([8, 16])).item());
         print(info_nce.call(eye(8), eye(8)).item());
         print(info_nce.call(eye(8), eye(8).flip([0])).item());",
        &["width=32", "layers=2"],
    );
    let found = said.numbers();
    assert!(found[0][0] < 1e-6 && found[1][0] < 1e-6, "{said}");
    // Cosines of 1 and 0, divided by a temperature of 0.1.
    let found_it = (1.0 + 7.0 * (-10f64).exp()).ln();
    assert_close(&[found[2][0], found[3][0], found[4][0]], &[8f64.ln(), found_it, 10.0 + found_it], 1e-4);
}

#[test]
fn the_losses_of_several_next_embeddings_fall() {
    let folder = Folder::new();
    let small = ["epochs=4", "images=128", "batch=16", "width=32", "layers=2"];
    run(&folder, "next_k_info_nce", "out", &small).succeeds().prints(&["kNN top-1", "InfoNCE"]);
    for phase in ["cosine 1", "InfoNCE 1", "InfoNCE 3"] {
        let losses = losses(&folder, "out", phase);
        assert!(losses.len() == 4 && losses[3] < losses[0] - 0.02, "{phase}: {losses:?}");
    }
}

/// The losses that a phase of a run has logged.
fn losses(folder: &Folder, out: &str, phase: &str) -> Vec<f64> {
    let metrics = folder.text(&format!("{out}/metrics.jsonl"));
    let rows = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    rows.filter(|row| row["phase"] == phase).filter_map(|row| row["loss"].as_f64()).collect()
}

// ---- scan orders ----

const SCANS: [&str; 5] = ["images=64", "batch=16", "epochs=1", "width=16", "layers=2"];

/// The orders that the example prints, by name.
fn order(said: &Said, name: &str) -> Vec<i64> {
    let line = said.stdout.lines().find_map(|line| line.strip_prefix(&format!("{name}: ["))).expect(name);
    serde_json::from_str(&format!("[{line}")).unwrap_or_else(|e| panic!("{name}: {e}: {said}"))
}

#[test]
fn scan_orders_visit_each_patch_once_and_two_of_them_go_to_a_neighbour() {
    for (patch, side) in [("patch=14", 2), ("patch=7", 4)] {
        let folder = Folder::new();
        let said = run(&folder, "scan_orders", "out", &[&SCANS[..], &[patch]].concat());
        said.succeeds();
        let plain: Vec<i64> = (0..side * side).collect();
        assert_eq!(order(&said, "raster"), plain);
        for name in ["serpentine", "hilbert"] {
            let found = order(&said, name);
            let mut sorted = found.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, plain, "{name}");
            let far = |a: i64, b: i64| (a / side - b / side).abs() + (a % side - b % side).abs();
            assert!(found.windows(2).all(|step| far(step[0], step[1]) == 1), "{name}: {found:?}");
        }
        if side == 4 {
            // Hilbert's curve finishes each quarter before it goes on to the next one.
            let quarter = |place: &i64| (place / side / 2) * 2 + place % side / 2;
            let quarters: Vec<i64> = order(&said, "hilbert").iter().map(quarter).collect();
            assert!(quarters.chunks(4).all(|four| four.iter().all(|q| *q == four[0])), "{quarters:?}");
        }
        // Read line by line, the model is the built-in one.
        let line = said.stdout.lines().find(|line| line.starts_with("raster: the loss differs")).expect("a check");
        let off: f64 = line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a number");
        assert!(off < 1e-6, "{said}");
    }
}

#[test]
fn a_random_order_does_not_depend_on_how_a_batch_is_divided() {
    let folder = Folder::new();
    for (out, parts) in [("whole", "micro_batches=1"), ("parts", "micro_batches=4")] {
        run(&folder, "scan_orders", out, &[&SCANS[..], &[parts]].concat()).succeeds();
    }
    for phase in ["raster", "hilbert", "random"] {
        let (whole, parts) = (losses(&folder, "whole", phase), losses(&folder, "parts", phase));
        assert!(!whole.is_empty(), "{phase} should log its loss");
        assert_close(&parts, &whole, 1e-5);
    }
}

#[test]
fn where_each_token_sees_all_the_order_changes_nothing() {
    // The angles of a patch go with it.
    let said = with(
        "scan_orders",
        "// ---- the comparison ----",
        "config.is_causal = false;
         let model = nn::vit_nepa(config, #{ encoder: encoder.call() });
         let image = randn([2, 1, 28, 28]);
         order = orders.raster;
         let plain = model.encode(image).last_hidden_state;
         for scan in [orders.serpentine, orders.hilbert, rand([2, side * side]).argsort(1)] {
             order = scan;
             print((model.encode(image).last_hidden_state - plain).abs().max().item());
         }",
        &["width=16", "layers=2"],
    );
    said.succeeds();
    let off: Vec<f64> = said.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(off.len() == 3 && off.iter().all(|off| *off < 1e-5), "{said}");
}

#[test]
fn whatever_the_order_a_patch_is_predicted_from_those_read_before_it() {
    // One patch is changed; embeddings that are read before it, and what the model makes of them, stay as they are.
    let said = with(
        "scan_orders",
        "// ---- the comparison ----",
        "let model = nn::vit_nepa(config, #{ encoder: encoder.call() });
         let random = rand([2, side * side]).argsort(1);
         for scan in [orders.raster, orders.serpentine, orders.hilbert, random] {
             order = scan;
             let image = randn([2, 1, 28, 28]);
             let place = scan.expand([2, -1]).select(1, 9).tolist();              // the tenth that is read
             let other = image.clone();
             for b in 0..2 {
                 let row = place[b] / side * patch;
                 let column = place[b] % side * patch;
                 other[b].slice(1, row, row + patch).slice(2, column, column + patch).add_(1.0);
             }
             let off = (model.encode(image).last_hidden_state - model.encode(other).last_hidden_state).abs().amax(2);
             let off = off.slice(1, 1, 1 + side * side).gather(1, scan.expand([2, -1]));
             print([off.slice(1, 0, 9).max().item(), off.slice(1, 9, 16).min().item()]);
         }",
        &["width=16", "layers=2"],
    );
    said.succeeds();
    let rows: Vec<Vec<f64>> = said.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(rows.len(), 4, "{said}");
    assert!(rows.iter().all(|row| row[0] < 1e-6 && row[1] > 1e-5), "{said}");
}

// ---- video ----

const VIDEO: [&str; 4] = ["width=48", "layers=2", "labels=40", "tested=40"];

#[test]
fn the_example_of_video_learns() {
    let folder = Folder::new();
    let said = run(&folder, "video", "out", &[&VIDEO[..], &["steps=30", "batch=8"]].concat());
    said.succeeds().prints(&["direction of motion, probe top-1"]);
    let found = result(&folder, "out");
    let start = said.stdout.lines().find_map(|line| line.strip_prefix("step 0  loss ")).expect("the first loss");
    assert!(number(&found["loss"]) < start.parse::<f64>().unwrap() - 0.1, "{said}");
}

#[test]
fn rotary_angles_of_three_dimensions_are_those_of_images_in_one_frame_and_see_distances_alone() {
    let said = with(
        "video",
        "let start",
        "print((own - images).abs().max().item());
         // Moving both a query and a key by a frame, a row and a column leaves their score as it was.
         let place = |t, y, x| (t * grid[1] + y) * grid[2] + x;
         let q = randn([1, 1, 1, head]).expand([1, 1, grid[0] * grid[1] * grid[2], head]);
         let turned = nn::apply_rotary(q, angles_of.call(grid, head));
         let scores = turned.matmul(turned.transpose(2, 3))[[0, 0]];
         let score = |a, b| scores[[a, b]].item();
         print((score.call(place.call(0, 0, 1), place.call(1, 2, 0))
             - score.call(place.call(2, 1, 3), place.call(3, 3, 2))).abs());
         print((score.call(place.call(0, 0, 0), place.call(1, 0, 0))
             - score.call(place.call(0, 0, 0), place.call(2, 0, 0))).abs());",
        &["noise=0.0"],
    );
    said.succeeds();
    let found: Vec<f64> = said.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(found.len() == 3 && found[0] < 1e-6 && found[1] < 1e-4 && found[2] > 1e-3, "{said}");
}

#[test]
fn videos_move_as_their_labels_say_and_are_predicted_from_their_past() {
    let said = with(
        "video",
        "let start",
        "let made = videos.call(8);
         let moved = [];
         for i in 0..8 {
             let video = made.x[i][0];                                             // [frames, side, side]
             let by = [[0, 1], [0, -1], [1, 0], [-1, 0]][made.direction[i].item()];
             let next = video.slice(0, 0, frames - 1).roll(by, [1, 2]);
             moved.push((next - video.slice(0, 1, frames)).abs().max().item());
         }
         print(moved);
         // What comes later changes nothing of what is made of earlier frames.
         let model = build.call();
         let other = made.x.clone();
         other.slice(2, frames - tubelet, frames).add_(1.0);
         let off = (model.encode(made.x).last_hidden_state - model.encode(other).last_hidden_state).abs().amax([0, 2]);
         let last = off.size(0) - grid[1] * grid[2];
         print([off.slice(0, 0, last).max().item(), off.slice(0, last, off.size(0)).min().item()]);",
        &[&VIDEO[..], &["noise=0.0"]].concat(),
    );
    said.succeeds();
    let rows: Vec<Vec<f64>> = said.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    // An edge that lies on a pixel may fall on either side of it by rounding: no frame of these does.
    assert!(rows[0].len() == 8 && rows[0].iter().all(|off| *off < 1e-3), "{said}");
    assert!(rows[1][0] < 1e-6 && rows[1][1] > 1e-5, "{said}");
}

// ---- distillation ----

const STUDENTS: [&str; 6] = ["images=64", "batch=16", "epochs=2", "width=16", "teacher_width=32", "teacher_epochs=1"];

#[test]
fn a_teacher_from_a_folder_teaches_what_it_taught_where_it_was_trained() {
    let folder = Folder::new();
    run(&folder, "distill", "out", &STUDENTS).succeeds().prints(&["teacher", "NEPA alone", "distilled"]);
    let sets = [&STUDENTS[..], &["teacher=out/teacher"]].concat();
    run(&folder, "distill", "again", &sets).succeeds();
    for phase in ["NEPA alone", "distilled"] {
        let found = losses(&folder, "out", phase);
        assert!(!found.is_empty(), "{phase} should log its loss");
        assert_eq!(found, losses(&folder, "again", phase), "{phase}");
    }
    let top1 = |out: &str| number(&result(&folder, out)["distilled"]["knn_top1"]);
    assert_eq!(top1("out"), top1("again"));
}

#[test]
fn distillation_teaches_the_student_and_leaves_the_teacher_alone() {
    let said = with(
        "distill",
        "// ---- two students",
        "let some = #{ images: randn([3, 1, 28, 28]) };
         // A student that is the teacher has nothing to learn from it.
         let found = distillation.call(#{ student: teacher, map: nn::identity() }).loss.call((), some, ());
         print(found.teaching.item() + 1.0);
         print(found.loss.item() - found.nepa.item() - weight * found.teaching.item());
         let before = teacher.state_dict();
         let parts = #{ student: nn::vit_nepa(student_config), map: nn::linear(width, teacher_width) };
         let task = distillation.call(parts);
         let first = task.loss.call((), some, ());
         first.loss.backward();
         print(optim::grad_norm(parts.student).item() > 0.0 && optim::grad_norm(parts.map).item() > 0.0);
         let whole = nn::define(parts, |m, images| m.student.forward(images));
         train::fit(whole, images, task, common + #{ label: \"test\", lr: 1e-2, steps: 24 });
         print(task.loss.call((), some, ()).teaching.item() < first.teaching.item() - 0.2);
         let moved = 0.0;
         for (name, i) in before.keys() { moved += (teacher.state_dict()[name] - before[name]).abs().max().item(); }
         print(moved + optim::grad_norm(teacher).item());",
        &[&STUDENTS[..], &["layers=4"]].concat(),
    );
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    let number = |i: usize| lines[i].parse::<f64>().unwrap_or_else(|e| panic!("line {i}: {e}: {said}"));
    assert!(number(0).abs() < 1e-5 && number(1).abs() < 1e-5, "{said}");
    assert_eq!((lines[2], lines[3], number(4)), ("true", "true", 0.0), "{said}");
}
