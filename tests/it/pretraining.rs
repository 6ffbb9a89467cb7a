//! What std/pretrain does besides lowering a loss: says what will happen, judges the features, watches for collapse.

use crate::common::{Folder, Said, fashion};
use serde_json::Value;

const RECIPE: &str = r#"
import "std/pretrain" as pretrain;
let images = data::idx(param("data", ()), "train").take(640);
let held_out = data::idx(param("data", ()), "test");
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
    drop_path_prob: 0.2, pos_embed_rescale: 2.0, layerscale_value: 1.0,
});
let result = pretrain::fit(model, images, #{ batch: 64, lr: 3e-3, log_every: 5, transforms: [transform::normalize(0.286, 0.353)] } + OPTIONS);
checkpoint::save(model, run::path("model"));
"#;

fn fit(folder: &Folder, out: &str, options: &str) -> Said {
    let data = format!("data={}", fashion());
    folder.run_with(&RECIPE.replace("OPTIONS", options), &["--set", &data, "--out", out])
}

fn metrics(folder: &Folder, out: &str) -> Vec<Value> {
    folder.text(&format!("{out}/metrics.jsonl")).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn the_run_says_at_its_start_what_will_happen_and_then_how_fast() {
    let folder = Folder::on_cpu(); // which it names
    let said = fit(&folder, "o", "#{ epochs: 3, accumulate: 2, report_flops: true }");
    said.succeeds().says(&[
        "pretrain: vit_nepa(28² / 7, 2 x 16, 2 heads), 7504 parameters, float32 on cpu",
        "640 images 1 x 28 x 28, 10 classes; batch 64 in 2 micro-batches, 10 steps per epoch",
        "30 steps (warm-up 1), 3.0 epochs, 1920 images",
        "17 tokens per image, 52.0 MFLOP per step",
        "memory     about ",
        " MB: weights 30.0 kB, gradients 30.0 kB, optimizer 60.2 kB, EMA 30.0 kB, activations ",
        "GFLOP/s reached by plain matrix products",
        " ms per step: the data must deliver ",
        " images/s to keep up; ETA ",
    ]);
    let rows = metrics(&folder, "o");
    let steps: Vec<i64> = rows.iter().map(|r| r["step"].as_i64().unwrap()).collect();
    assert_eq!(steps, [5, 10, 15, 20, 25, 30]);
    for row in &rows {
        for name in [
            "loss",
            "lr",
            "grad_norm",
            "target_std",
            "effective_rank",
            "target_cosine",
            "images_per_second",
            "flops_share",
        ] {
            assert!(row[name].is_f64(), "{name}: {row}");
        }
        assert!((0.0..1.0).contains(&row["flops_share"].as_f64().unwrap()), "{row}");
    }
    // The log for people holds it all, with the command and the end.
    let log = folder.text("o/run.log");
    for text in [
        "---- started: ",
        "17 tokens per image",
        "pretrain: step 30, epoch 2, ",
        "checkpoint at step 30",
        "---- finished",
    ] {
        assert!(log.contains(text), "`{text}` is missing in {log}");
    }
}

#[test]
fn judging_the_features_is_logged_and_changes_nothing_in_training() {
    let folder = Folder::new();
    fit(&folder, "plain", "#{ epochs: 3 }").succeeds();
    let eval = "transforms: [transform::normalize(0.286, 0.353)], images: 200";
    fit(&folder, "epochs", &format!("#{{ epochs: 3, evaluate: #{{ every_epochs: 2, weights: \"ema\", {eval} }} }}"))
        .succeeds();
    let steps = format!(
        "#{{ epochs: 3, evaluate: #{{ every_steps: 7, weights: \"raw\", held_out: held_out, probe: false, {eval} }} }}"
    );
    fit(&folder, "steps", &steps).succeeds().says(&["pretrain: step 14: knn_top1", "of raw weights"]);
    let weights = |out: &str| folder.read(&format!("{out}/model/model.safetensors"));
    assert_eq!(weights("plain"), weights("epochs"));
    assert_eq!(weights("plain"), weights("steps"));

    let judged = |out: &str, name: &str| -> Vec<i64> {
        metrics(&folder, out).iter().filter(|r| r[name].is_f64()).map(|r| r["step"].as_i64().unwrap()).collect()
    };
    assert_eq!(judged("epochs", "probe_top1"), [0, 20, 30]);
    // An evaluation stands in the epoch and at the time that it belongs to, and says how long it took.
    let rows = metrics(&folder, "epochs");
    let times: Vec<f64> = rows.iter().map(|r| r["seconds"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let of_evaluations: Vec<_> =
        rows.iter().filter(|r| r["evaluation_seconds"].is_f64()).map(|r| &r["epoch"]).collect();
    assert_eq!(of_evaluations, [0, 1, 2]);
    assert_eq!(judged("steps", "knn_top1"), [0, 7, 14, 21, 28, 30]);
    assert!(judged("steps", "probe_top1").is_empty());
    let top1: Vec<f64> = metrics(&folder, "steps").iter().filter_map(|r| r["knn_top1"].as_f64()).collect();
    // Ten classes: chance is 10 %.
    assert!(top1.iter().all(|t| *t > 25.0), "{top1:?}");
}

/// The weights are lost after the second epoch, and those of the embeddings are not trained again.
#[test]
fn a_score_that_has_fallen_is_warned_of_once_and_stands_in_the_report() {
    let folder = Folder::new();
    let options = r#"#{
        epochs: param("epochs", 4),
        evaluate: #{ every_epochs: 1, weights: "raw", images: 200, transforms: [transform::normalize(0.286, 0.353)] },
        on_epoch: |model, ema, state| {
            if state.epoch == 1 {
                for p in model.named_parameters().values() { p.copy_(zeros(p.shape)); }
                model.freeze("*embeddings*");
            }
        },
    }"#;
    let said = fit(&folder, "o", options);
    said.succeeds().says(&["points each, of 100 images)"]);
    for name in ["knn_top1", "probe_top1"] {
        let warning = format!("warning: pretrain: step 30: {name} has fallen to ");
        let words =
            said.stderr.lines().find_map(|line| line.strip_prefix(&warning)).unwrap_or_else(|| panic!("{said}"));
        // The standard error of a fraction p of n images is √(p (1 − p) / n), here the larger of the two.
        let numbers: Vec<f64> = words.split([' ', '(']).filter_map(|word| word.parse().ok()).collect();
        let error = |p: f64| (p * (100.0 - p) / 100.0).sqrt();
        let (now, best) = (numbers[0], numbers[1]);
        assert!((numbers[2] - error(now).max(error(best))).abs() < 0.06, "{numbers:?} in {words}");
        assert!(best - now > 2.0 * numbers[2], "{numbers:?} in {words}");
        assert_eq!(said.stderr.matches(&format!("{name} has fallen")).count(), 1, "{said}");
    }
    folder.nepa(&["report", "o"]).succeeds();
    let page = folder.text("o/report.html");
    let warnings = page.split("<h2>Warnings</h2>").nth(1).and_then(|rest| rest.split("</section>").next()).unwrap();
    assert!(warnings.contains("knn_top1 has fallen to") && warnings.contains("probe_top1 has fallen to"), "{warnings}");
    // A resumed run knows what was best, and what it has said.
    let said = folder.nepa(&["run", "--resume", "o", "--set", "epochs=5", "--threads", "1", "--device", "cpu"]);
    said.succeeds().says(&["resumed from step 40", "pretrain: step 50: knn_top1"]);
    assert!(!said.stderr.contains("has fallen"), "{said}");
}

#[test]
fn a_mistake_in_the_evaluation_is_told_before_the_first_step() {
    let folder = Folder::new();
    let said = fit(&folder, "a", "#{ epochs: 3, evaluate: #{ every_epochs: 1, blok: 2 } }");
    said.fails(1).says(&["unknown option `blok` of features::online; did you mean `block`?"]);
    let said = fit(&folder, "b", "#{ epochs: 3, evaluate: #{ every_epochs: 1, weights: \"emma\" } }");
    said.fails(1).says(&["evaluate.weights", "\"ema\" or \"raw\"", "emma"]);
    let said = fit(&folder, "c", "#{ epochs: 3, evaluate: #{ weights: \"ema\" } }");
    said.fails(1).says(&["every_epochs", "every_steps"]);
    for out in ["a", "b", "c"] {
        assert!(metrics(&folder, out).is_empty());
    }
}

#[test]
fn collapse_is_logged_and_warned_of_once() {
    let folder = Folder::new();
    // A patch embedding that gives the same for every patch of every image.
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::idx(param("data", ()), "test").take(320);
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 },
            #{ patch_embeddings: nn::define(#{ bias: randn([16]) }, |m, x| zeros([x.size(0), 16, 16]) + m.bias) });
        pretrain::fit(model, images, #{ epochs: param("epochs", 4), batch: 64, log_every: 2 });
    "#;
    let data = format!("data={}", fashion());
    let said = folder.run_with(script, &["--set", &data, "--out", "flat"]);
    said.succeeds().says(&[
        "warning: pretrain: the embeddings have collapsed at step 2",
        "target_cosine 1.000",
        "not counted",
    ]);
    assert_eq!(said.stderr.matches("have collapsed").count(), 1, "{said}");
    let resumed = folder.run_with(script, &["--set", &data, "--out", "flat", "--set", "epochs=5"]);
    resumed.succeeds().says(&["resumed from step 20"]);
    assert!(!resumed.stderr.contains("have collapsed"), "{resumed}");
    let rows = metrics(&folder, "flat");
    assert!(
        rows.iter().all(|r| r["target_cosine"].as_f64().unwrap() > 0.99 && r["target_std"].as_f64().unwrap() < 0.01)
    );
}

#[test]
fn steps_may_stand_in_place_of_epochs_and_embeddings_have_a_rate_of_their_own() {
    let folder = Folder::new();
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::idx(param("data", ()), "test").take(320);
        let config = #{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 };
        for embed_lr in [(), 0.0, 1e-2] {
            seed(0);
            let model = nn::vit_nepa(config);
            let before = model.state_dict();
            let calls = [];
            let result = pretrain::fit(model, images, #{ steps: 13, batch: 64, lr: 1e-3, warmup: 0.0, weight_decay: 0.0, embed_lr: embed_lr,
                on_epoch: |model, ema, state| calls.push(state.epoch) });
            let moved = |name| (model.named_parameters()[name] - before[name]).abs().max().item();
            print([result.steps, calls.len(), moved.call("vit_nepa.embeddings.cls_token"), moved.call("vit_nepa.encoder.layer.0.output.dense.weight")]);
        }
    "#;
    let data = format!("data={}", fashion());
    let rows = folder.run_with(script, &["--set", &data]).numbers();
    for row in &rows {
        // 5 steps an epoch: two whole epochs.
        assert_eq!((row[0], row[1]), (13.0, 2.0));
        assert!(row[3] > 1e-3, "{rows:?}");
    }
    let (same, none, ten) = (rows[0][2], rows[1][2], rows[2][2]);
    assert!(none == 0.0 && same > 1e-3 && ten > 3.0 * same, "{rows:?}");
}

#[test]
fn hidden_patches_and_the_intermediate_loss_change_what_is_learned_and_micro_batches_do_not() {
    let folder = Folder::new();
    let mut losses = Vec::new();
    for (i, options) in
        ["#{ steps: 8 }", "#{ steps: 8, input_mask: 0.4 }", "#{ steps: 8, input_mask: 0.4, accumulate: 4 }"]
            .iter()
            .enumerate()
    {
        let out = format!("o{i}");
        fit(&folder, &out, options).succeeds();
        losses.push(metrics(&folder, &out).last().unwrap()["loss"].as_f64().unwrap());
    }
    assert!((losses[0] - losses[1]).abs() > 1e-3, "{losses:?}");
    assert!((losses[1] - losses[2]).abs() < 1e-5, "{losses:?}");
}
