//! What a checkpoint holds beside tensors, and what a resumed run takes from it.

use crate::common::*;
use serde_json::Value;

/// A loop over synthetic images, OPTIONS of finetune::fit among its options; it can be stopped by an error after an epoch.
const RECIPE: &str = r#"
import "std/finetune" as finetune;
let images = data::synthetic(#{ len: 32, classes: 2, size: 8, channels: 3, seed: 1 });
let test = data::synthetic(#{ len: 8, classes: 2, size: 8, channels: 3, seed: 2 });
let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 2,
    num_attention_heads: 2, num_labels: 2, is_causal: false });
BEFORE
let stop = param("stop", 0);
let result = finetune::fit(model, images, #{ epochs: 4, batch: 8, lr: 1e-2, ema: 0.5, save_every: 4, log_every: 1,
    on_epoch: |m, ema, state| { HOOK if state.epoch + 1 == stop { throw "stopped on purpose"; } }, OPTIONS });
checkpoint::save(model, run::path("model"));
"#;

fn run(folder: &Folder, out: &str, parts: [&str; 3], more: &[&str]) -> Said {
    let [before, hook, options] = parts;
    let recipe = RECIPE.replace("BEFORE", before).replace("HOOK", hook).replace("OPTIONS", options);
    folder.run_with(&recipe, &[&["--out", out][..], more].concat())
}

fn metrics(folder: &Folder, out: &str) -> Vec<Value> {
    folder.text(&format!("{out}/metrics.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_a_hook_has_frozen_or_unfrozen_stays_so() {
    let folder = Folder::new();
    let parts = [
        "model.freeze(\"*layer.0*\");",
        "if state.epoch == 1 { m.unfreeze(\"*\"); m.freeze(\"*layer.1.*query*\"); }",
        "",
    ];
    run(&folder, "whole", parts, &[]).succeeds();
    // Stopped after the third epoch: the hook of the second one is not called again.
    run(&folder, "cut", parts, &["--set", "stop=3"]).fails(1).says(&["stopped on purpose"]);
    run(&folder, "cut", parts, &[]).succeeds().says(&["finetune: resumed from step 12"]);
    let weights = |out: &str| folder.read(&format!("{out}/model/model.safetensors"));
    assert_eq!(weights("whole"), weights("cut"));
    // A recipe that freezes something else decides itself.
    let parts = ["model.freeze(\"*layer.1*\");", parts[1], parts[2]];
    run(&folder, "cut", parts, &["--allow-change", "recipe"]).succeeds();
}

#[test]
fn a_step_is_evaluated_once_where_an_epoch_ends_with_it() {
    let folder = Folder::new();
    // Four steps an epoch.
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::synthetic(#{ len: 32, classes: 2, size: 8, channels: 3, seed: 1 });
        let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1,
            num_attention_heads: 2 });
        pretrain::fit(model, images, #{ epochs: 4, batch: 8, evaluate: #{ every_epochs: 1, every_steps: 2, images: 20, steps: 2 } });
    "#;
    folder.run_with(script, &["--out", "o"]).succeeds();
    let steps: Vec<i64> = metrics(&folder, "o")
        .iter()
        .filter(|row| row["knn_top1"].is_f64())
        .map(|row| row["step"].as_i64().unwrap())
        .collect();
    assert_eq!(steps, [0, 2, 4, 6, 8, 10, 12, 14, 16]);
}

#[test]
fn the_best_weights_are_those_whose_score_is_told() {
    let folder = Folder::new();
    let options = "evaluate: #{ images: test, best: \"best\" }";
    run(&folder, "o", ["", "", options], &["--set", "stop=2"]).fails(1);
    let known = folder.json("o/best/provenance.json");
    // As if the run had been killed after a later epoch had replaced the folder.
    let mut later = known.clone();
    later["epoch"] = 7.into();
    folder.write("o/best/provenance.json", later.to_string());
    let said = run(&folder, "o", ["", "", options], &[]);
    said.succeeds().says(&["best is not of epoch", "whose weights are lost: the best ones are those from here on"]);
    assert!(folder.json("o/best/provenance.json")["epoch"].as_i64().unwrap() < 4, "{said}");
}

#[test]
fn another_seed_that_is_allowed_draws_from_there_on() {
    let folder = Folder::new();
    // The loop's only step, and what comes before or after it is saved.
    let script = |then: &str| {
        format!(
            "let model = nn::linear(2, 2);
             let saver = run::checkpoints(\"loop\", #{{ model: model }}, #{{ every: 1 }});
             let saved = saver.resume(#{{}}, []);
             if saved != () {{ print(`${{seed()}} ${{rng_state().drawn}}`); }}
             saver.due(1); {then}
             saver.finish(1, #{{}});"
        )
    };
    let stop = "throw \"stopped on purpose\";";
    folder.run_with(&script(&format!("saver.save(1, #{{}}); {stop}")), &["--out", "o", "--seed", "3"]).fails(1);
    let allowed = ["--out", "o", "--seed", "7", "--allow-change", "seed,recipe"];
    // The first attempt goes on, and ends before a checkpoint: the second one draws from the new seed too.
    let said = folder.run_with(&script(stop), &allowed);
    said.fails(1);
    assert!(said.stdout.starts_with("7 "), "{said}");
    let said = folder.run_with(&script(""), &["--out", "o", "--seed", "7", "--allow-change", "recipe"]);
    said.succeeds();
    assert!(said.stdout.starts_with("7 "), "{said}");
}

#[test]
fn an_allowed_parameter_does_not_allow_another_of_the_same_value() {
    let folder = Folder::new();
    let script = "let model = nn::linear(2, 2);
        let saver = run::checkpoints(\"loop\", #{ model: model }, #{});
        saver.resume(#{ lr: param(\"lr\", 1e-2), embed_lr: param(\"embed_lr\", 1e-2) }, []);
        saver.finish(1, #{});";
    folder.run_with(script, &["--out", "o"]).succeeds();
    let both = ["--out", "o", "--set", "lr=1e-3", "--set", "embed_lr=1e-3", "--allow-change"];
    folder.run_with(script, &[&both[..], &["lr"]].concat()).fails(1).says(&["embed_lr: was 0.01, now 0.001"]);
    folder.run_with(script, &[&both[..], &["lr,embed_lr"]].concat()).succeeds();
}

/// More than other files of JSON may have, and than the store of several processes takes at once.
#[test]
fn a_long_history_is_read_again_by_one_process_and_by_several() {
    let folder = Folder::new();
    let script = "let model = nn::linear(2, 2);
        let saver = run::checkpoints(\"loop\", #{ model: model }, #{ keep: 1 });
        let saved = saver.resume(#{}, []);
        print(if saved == () { 0 } else { saved.text.len() });
        let text = \"0123456789abcdef\";
        while text.len() < 67000000 { text += text; }
        saver.finish(1, #{ text: text });";
    folder.run_with(script, &["--out", "o"]).succeeds().prints(&["0"]);
    folder.run_with(script, &["--out", "o"]).succeeds().prints(&["67108864"]);
    folder.run_with(script, &["--out", "o", "--nproc", "2"]).succeeds().prints(&["67108864"]);
}

#[test]
fn averages_of_float64_give_the_weights_back_as_they_were() {
    crate::common::run(
        "let m = nn::define(#{ w: tensor([0.1]).to(\"float64\") / 3.0 }, |m, x| x * m.w);
         let w = m.named_parameters().w;
         let before = w.copy();
         let ema = optim::ema(m, 0.5);
         ema.update();
         ema.apply(|| ());
         print(w.dtype + \" \" + w.equal(before));",
    )
    .prints(&["float64 true"]);
}
