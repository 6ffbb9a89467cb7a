//! The recipes of pretraining and ablation, at sizes that take seconds.

use crate::common::{Folder, repository};
use serde_json::Value;

const RECIPES: [&str; 4] = ["pretrain_vits", "pretrain_vitb", "pretrain_vitl", "ablations"];

fn recipe(name: &str) -> String {
    repository(&format!("recipes/{name}.rhai")).display().to_string()
}

/// Runs a recipe with a model and batches that are small, and what `sets` says, into `out`.
fn train(folder: &Folder, name: &str, data: &str, sets: &[&str]) {
    let recipe = recipe(name);
    let mut args = vec!["run", &recipe, "--device", "cpu", "--threads", "1", "--out", "out"];
    let small = [data, "hidden_size=16", "layers=2", "heads=2", "batch=8"];
    for set in small.iter().chain(sets) {
        args.extend(["--set", set]);
    }
    folder.nepa(&args).succeeds();
}

#[test]
fn every_name_in_the_recipes_is_known_and_every_parameter_described() {
    for name in RECIPES {
        let folder = Folder::new();
        folder.nepa(&["check", &recipe(name)]).succeeds().prints(&["ok"]);
        let help = folder.nepa(&["run", &recipe(name), "--help"]);
        help.succeeds().prints(&[&format!("nepa run recipes/{name}.rhai"), "data", "steps", "batch"]);
    }
}

#[test]
fn the_pretraining_recipes_train_on_a_small_folder_of_images() {
    let data = format!("data={}", repository("tests/fixtures/data/folder").display());
    for name in ["pretrain_vits", "pretrain_vitb", "pretrain_vitl"] {
        let folder = Folder::new();
        train(&folder, name, &data, &["image_size=56", "micro_batch=4", "steps=4", "evaluate_every=1"]);

        for (model, weights) in [("model", "raw"), ("model-ema", "ema")] {
            assert_eq!(folder.json(&format!("out/{model}/provenance.json"))["weights"], weights, "{name}");
            let config = folder.json(&format!("out/{model}/config.json"));
            // What sets the two published configurations apart besides their sizes.
            assert_eq!(config["qk_norm_affine"], name != "pretrain_vitb", "{name}");
            assert_eq!((&config["is_causal"], &config["use_gated_mlp"]), (&true.into(), &false.into()), "{name}");
        }
        assert!(image::image_dimensions(folder.path("out/loss.png")).is_ok(), "{name}");
        let metrics = folder.text("out/metrics.jsonl");
        let rows: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
        assert!(rows.iter().any(|r| r["loss"].is_f64()), "{name}: {metrics}");
        assert!(rows.iter().any(|r| r["knn_top1"].is_f64() && r["probe_top1"].is_f64()), "{name}: {metrics}");
    }
}

#[test]
fn images_without_a_held_out_part_can_be_trained_on() {
    let folder = Folder::new();
    let data = format!("data={}", repository("tests/fixtures/data/folder/train").display());
    let sets = ["image_size=28", "intermediate_loss=true", "steps=2", "evaluate_every=0", "dtype=float32"];
    train(&folder, "pretrain_vitb", &data, &sets);
    assert_eq!(folder.json("out/model/config.json")["use_intermediate_loss"], true);
}

#[test]
fn every_ablation_trains_and_shows_what_came_of_it() {
    let folder = Folder::new();
    let recipe = recipe("ablations");
    let tiny = ["--set", "steps=3", "--set", "batch=32", "--set", "images=100", "--set", "seeds=1"];
    let said =
        folder.nepa(&[&["run", &recipe, "--device", "cpu", "--threads", "1", "--out", "out"][..], &tiny].concat());
    said.succeeds().prints(&["target_std", "effective_rank", "target_cosine", "kNN top-1", "probe top-1"]);

    let metrics = folder.text("out/metrics.jsonl");
    let rows: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    let rows: Vec<&Value> = rows.iter().filter(|r| r["phase"] == "ablation").collect();
    let names: Vec<&str> = rows.iter().map(|r| r["variant"].as_str().unwrap()).collect();
    let all = ["untrained", "base", "no_shift", "no_causal", "no_stop_grad", "input_mask"];
    let all = [&all[..], &["no_rope", "no_qk_norm", "no_layerscale", "no_swiglu"]].concat();
    assert_eq!(names, all);
    let losses: Vec<String> = rows.iter().map(|r| r["loss"].to_string()).collect();
    let mut different = losses.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), losses.len(), "two variants are the same: {losses:?}");
    assert!(image::image_dimensions(folder.path("out/ablations.png")).is_ok());

    let wrong = folder.nepa(&["run", &recipe, "--set", r#"variants=["base", "no_rpoe"]"#]);
    wrong.fails(1).says(&["unknown variant no_rpoe", "no_rope"]);
}
