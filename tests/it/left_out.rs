//! Broken images in evaluations: refused with advice, or left out, counted and said.

use crate::common::*;
use serde_json::Value;

const HEAD: &str = r#"
import "std/finetune" as finetune;
import "std/pretrain" as pretrain;
import "std/evaluate" as evaluate;
import "std/features" as features;
seed(3);
let train = data::open("d", "train");
let val = data::open("d", "val");
let whole = data::open("whole", "val");
let config = #{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16 };
let classifier = nn::vit_nepa(config + #{ num_labels: 2, is_causal: false });
let model = nn::vit_nepa(config);
"#;

/// Two splits of 12 pictures in two classes; `d` has a broken one in each split, `whole` lacks it.
fn pictures() -> Folder {
    let folder = Folder::new();
    for split in ["train", "val"] {
        for (class, name) in ["a", "b"].iter().enumerate() {
            for i in 0..6usize {
                let data = (0..192).map(|k| (k * 7 + i * 31 + class * 97 + split.len() * 5) as u8).collect();
                let image = image::RgbImage::from_raw(8, 8, data).unwrap();
                let mut bytes = std::io::Cursor::new(Vec::new());
                image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
                let bytes = bytes.into_inner();
                let broken = class == 0 && i == 3;
                folder.write(&format!("d/{split}/{name}/{i}.png"), if broken { &bytes[..40] } else { &bytes });
                if !broken {
                    folder.write(&format!("whole/{split}/{name}/{i}.png"), bytes);
                }
            }
        }
    }
    folder
}

fn run_in(folder: &Folder, body: &str) -> Said {
    folder.run_with(&format!("{HEAD}{body}"), &["--out", "o"])
}

#[test]
fn an_error_about_a_broken_image_names_the_option() {
    let folder = pictures();
    for body in [
        "evaluate::classify(classifier, val, #{ batch: 4 });",
        "features::knn(model, train, val, #{});",
        "features::linear_probe(model, train, val, #{ steps: 2 });",
        "features::extract(model, val, #{});",
        "finetune::fit(classifier, whole, #{ epochs: 1, batch: 4, evaluate: #{ images: val } });",
    ] {
        let said = folder.run(&format!("{HEAD}{body}"));
        said.fails(1).says(&["a/3.png", "damaged PNG", "pass on_bad: \"skip\" to go on without broken images"]);
    }
}

#[test]
fn broken_images_are_left_out_of_every_measure() {
    let folder = pictures();
    let said = run_in(
        &folder,
        r#"
let o = #{ batch: 4, on_bad: "skip", predictions: "p.csv" };
let found = evaluate::classify(classifier, val, o);
let expected = evaluate::classify(classifier, whole, #{ batch: 4 });
for key in ["top1", "top5", "ece", "images", "top1_ci95", "calibration", "per_class", "confusions"] {
    let pair = [found[key], expected[key]].map(|value| #{ value: value }.to_json());
    if pair[0] != pair[1] { throw `${key}: ${pair}`; }
}
if (found.loss - expected.loss).abs() > 1e-6 { throw `${found.loss} and ${expected.loss}`; }
print(found.images); print(found.left_out); print(expected.left_out);
print(found.samples.map(|s| s.index).reduce(|sum, i| sum + i, 0));
evaluate::save(#{ model: found }, val);
"#,
    );
    // 0 + 1 + … + 11 without 3.
    said.succeeds();
    assert_eq!(said.values(), [11, 1, 0, 63].map(Value::from));
    said.says(&["evaluate: 1 of 12 images left out", "every number is over the other 11", "skipped 1 broken image"]);
    let predictions = folder.text("o/p.csv");
    assert!(predictions.lines().count() == 12 && !predictions.contains("a/3.png"), "{predictions}");
    assert!(folder.text("o/bad_items.txt").contains("a/3.png"));
}

#[test]
fn broken_images_are_left_out_of_features_neighbours_and_probes() {
    let folder = pictures();
    let said = run_in(
        &folder,
        r#"
let other = data::open("whole", "train");
let found = features::extract(model, val, #{ batch: 5, on_bad: "skip" });
let expected = features::extract(model, whole, #{ batch: 5 });
print((found.features - expected.features).abs().max().item() < 1e-6 && found.labels.equal(expected.labels));
print(found.read); print(expected.read == ());
let a = features::knn(model, train, val, #{ k: [1, 3], on_bad: "skip" });
let b = features::knn(model, other, whole, #{ k: [1, 3] });
print(a.by_k == b.by_k && a.images == 11 && a.left_out == 1 && b.left_out == 0);
let a = features::linear_probe(model, train, val, #{ steps: 5, on_bad: "skip" });
print(a.images == 11 && a.left_out == 1 && a.predictions.numel == 11);
"#,
    );
    let read: Vec<i64> = (0..12).filter(|i| *i != 3).collect();
    let yes = Value::from(true);
    assert_eq!(said.succeeds().values(), [yes.clone(), read.into(), yes.clone(), yes.clone(), yes]);
    said.says(&["over the other 11 (d/train", "over the other 11 (d/val"]);
}

#[test]
fn training_that_skips_broken_images_skips_them_in_its_evaluations() {
    let folder = pictures();
    let said = run_in(
        &folder,
        r#"
finetune::fit(classifier, train, #{ epochs: 1, batch: 4, on_bad: "skip", evaluate: #{ images: val, batch: 4 } });
pretrain::fit(model, train, #{ epochs: 1, batch: 4, on_bad: "skip", evaluate: #{ every_epochs: 1, held_out: val } });
"#,
    );
    said.succeeds().says(&["%, in float32 (1 of 12 images left out)", "s, images left out: 1"]);
    let lines = folder.text("o/metrics.jsonl");
    let told = lines.lines().filter(|line| line.contains("\"left_out\":1")).count();
    assert!(told >= 3, "{lines}");
    // Asked for, it is an error again.
    let body = "finetune::fit(classifier, train, #{ epochs: 1, batch: 4, on_bad: \"skip\", evaluate: #{ images: val, on_bad: \"error\" } });";
    folder.run(&format!("{HEAD}{body}")).fails(1).says(&["a/3.png"]);
}

#[test]
fn each_process_leaves_out_its_own_broken_images() {
    let folder = pictures();
    let body = r#"
let found = evaluate::classify(classifier, val, #{ batch: 2, on_bad: "skip" });
let known = features::extract(model, val, #{ batch: 2, on_bad: "skip" });
if dist::rank() == 0 { print([found.images, found.left_out, found.top1, found.loss, known.features.abs().sum().item()]); }
"#;
    folder.write("recipe.rhai", format!("{HEAD}{body}"));
    let one = folder.nepa(&["run", "recipe.rhai"]);
    let two = folder.nepa(&["run", "recipe.rhai", "--nproc", "2"]);
    assert_close(&two.succeeds().numbers()[0], &one.succeeds().numbers()[0], 1e-4);
}
