//! NaN and infinite values: in a saved state, in metrics, in weights.

use crate::common::*;
use serde_json::Value;

#[test]
fn numbers_that_are_not_finite_keep_their_type_through_a_checkpoint() {
    let folder = Folder::new();
    let script = r#"
        let saver = run::checkpoints("loop", #{ model: nn::linear(2, 2) }, #{});
        let state = saver.resume(#{}, []);
        if state == () {
            let nan = 0.0 / 0.0;
            state = #{ nan: nan, history: [[1, 0.5], [2, nan], [3, 1.0 / 0.0]], deep: #{ low: -1.0 / 0.0 }, text: "NaN", inf: "inf", tensor: tensor(nan), whole: 2.0, int: 2 };
        }
        let h = state.history;
        print([state.nan.is_nan(), h[1][1].is_nan(), fixed(h[2][1], 1) == "inf", fixed(state.deep.low, 1) == "-inf", state.text == "NaN" && state.inf == "inf"]);
        print([type_of(state.nan), type_of(h[2][1]), type_of(state.text), type_of(state.whole), type_of(state.int)].to_string() == `["f64", "f64", "string", "f64", "i64"]`);
        print([fixed(h[1][1], 2), fixed(state.deep.low, 2)]);
        saver.finish(1, state);
    "#;
    let first = folder.run_with(script, &["--out", "o"]);
    first.succeeds().prints(&["[true, true, true, true, true]\ntrue\n[\"NaN\", \"-inf\"]\n"]);
    let second = folder.run_with(script, &["--out", "o"]);
    second.succeeds();
    assert_eq!(first.stdout, second.stdout);
    // And a default of a parameter.
    let said = folder.run("print([fixed(param(\"a\", 1.0 / 0.0), 1), fixed(param(\"b\", 0.0 / 0.0), 1)]);");
    said.succeeds().prints(&["[\"inf\", \"NaN\"]"]);
}

/// The last step is skipped, so that its loss is NaN: the resumed recipe prints it as the first one did.
#[test]
fn a_resumed_run_ends_with_the_nan_of_a_skipped_step() {
    let folder = Folder::new();
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::synthetic(#{ len: 16, size: 8, classes: 2 });
        let calls = #{ n: 0 };
        let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 });
        let spoil = |batch| { calls.n += 1; if calls.n in [3, 4] { batch.images = batch.images * (0.0 / 0.0); } batch };
        let result = pretrain::fit(model, images, #{ steps: 4, batch: 4, log_every: 1, skip_nonfinite: 5, ema: 0.5,
            transforms: [transform::normalize(0.5, 0.5), spoil] });
        print(`loss ${fixed(result.loss, 4)} ${result.history.map(|point| point[1].is_nan())}`);
        plot::lines(run::path("loss.png"), #{ loss: result.history }, #{});
    "#;
    for _ in 0..2 {
        folder.run_with(script, &["--out", "o"]).succeeds().prints(&["loss NaN [false, false, true, true]"]);
    }
}

#[test]
fn a_batch_norm_keeps_its_statistics_where_those_of_a_batch_are_not_finite() {
    let said = run(r#"
        let m = nn::batch_norm2d(2);
        m.forward(rand([4, 2, 3, 3]));
        let before = m.state_dict();
        m.forward(cat([rand([4, 1, 3, 3]), rand([4, 1, 3, 3]) * (0.0 / 0.0)], 1));
        let after = m.state_dict();
        for name in ["running_mean", "running_var"] {
            print(`${after[name].is_finite()} ${after[name].select(0, 0).equal(before[name].select(0, 0))} ${after[name].select(0, 1).equal(before[name].select(0, 1))}`);
        }
        "#);
    said.prints(&["true false true", "true false true"]);
}

/// Counts one step, spoils the weights, and waits for the signal.
#[test]
fn a_run_that_is_stopped_with_weights_that_are_not_finite_keeps_its_last_good_checkpoint() {
    let folder = Folder::new();
    let script = r#"
        let model = nn::linear(2, 2);
        let saver = run::checkpoints("loop", #{ model: model }, #{ every: 1 });
        saver.resume(#{}, []);
        for step in 1..=1000 {
            if step == 2 { model.named_parameters()["bias"].copy_(tensor([0.0, 1.0 / 0.0])); print("spoilt"); let end = seconds() + 1.0; while seconds() < end { } }
            if saver.due(step) { saver.save(step, #{ step: step }); }
        }
    "#;
    folder.write("recipe.rhai", script);
    let running = folder.start(&["run", "recipe.rhai", "--device", "cpu", "--out", "o"], &[]);
    running.wait_for("spoilt");
    running.signal(libc::SIGTERM);
    let said = running.finish();
    said.fails(143).says(&[
        "warning: loop: no checkpoint at step 2: the tensor `bias` (raw) holds NaN or infinite values",
        "the last good one is o/checkpoints/loop/step-00000001 (step 1)",
    ]);
    assert!(!said.stderr.contains("saved at step"), "{said}");
    assert_eq!(folder.names("o/checkpoints/loop"), ["step-00000001"]);
    assert_eq!(folder.json("o/run.json")["state"], "interrupted");
}

#[test]
fn weights_that_are_not_finite_never_replace_a_saved_model() {
    let folder = Folder::new();
    let script = r#"
        let model = nn::linear(2, 2);
        checkpoint::save(model, "m");
        model.named_parameters()["weight"].copy_(tensor([[0.0, 0.0], [0.0 / 0.0, 1.0]]));
        checkpoint::save(model, param("to", "m"));
    "#;
    folder.write("recipe.rhai", script);
    folder
        .run_with(script, &["--set", "to=other"])
        .fails(1)
        .says(&["cannot save the model to other", "`weight` (raw) holds NaN"]);
    let good = folder.read("m/model.safetensors");
    assert!(!folder.path("other").exists());
    folder
        .run_with(&script.replacen("checkpoint::save(model, \"m\");", "", 1), &[])
        .fails(1)
        .says(&["cannot save the model to m"]);
    assert_eq!(folder.read("m/model.safetensors"), good);
}

#[test]
fn weights_that_are_no_finite_floats_are_not_loaded() {
    let folder = Folder::new();
    for (name, value, says) in [
        ("nan", "tensor([0.0, 0.0 / 0.0])", "the tensor `vit_nepa.layernorm.bias` (FILE) holds NaN or infinite values"),
        ("inf", "tensor([1.0 / 0.0, 0.0]).to(\"bfloat16\")", "holds NaN or infinite values"),
        ("int", "tensor([1, 0])", "FILE: the tensor `vit_nepa.layernorm.bias` is int64, but the model's is float32"),
    ] {
        let script = format!(
            "let m = nn::vit_nepa({TINY} + #{{ hidden_size: 2, num_attention_heads: 1, rope_theta: () }});\n\
             checkpoint::save(m, \"{name}\"); let all = checkpoint::tensors(\"{name}\");\n\
             all[\"vit_nepa.layernorm.bias\"] = {value}; checkpoint::save_tensors(all, \"{name}/model.safetensors\");"
        );
        folder.run(&script).succeeds();
        let says = says.replace("FILE", &format!("{name}/model.safetensors"));
        let load = format!("let m = checkpoint::load(\"{name}\");");
        let into = format!(
            "let m = nn::vit_nepa(checkpoint::config(\"{name}\")); checkpoint::load_into(m, \"{name}\", #{{ strict: false }});"
        );
        for script in [load, into] {
            folder.run(&script).fails(1).says(&[&says]);
        }
    }
}

/// Pretraining in which every second batch holds what is not finite, with a line of metrics at each step.
#[test]
fn a_skipped_step_is_logged_with_statistics_that_are_nan() {
    let folder = Folder::new();
    let script = r#"
        import "std/pretrain" as pretrain;
        let images = data::synthetic(#{ len: 16, size: 8, classes: 2 });
        let calls = #{ n: 0 };
        let value = switch param("kind", "nan") { "nan" => 0.0 / 0.0, "inf" => 1.0 / 0.0, _ => 1e38 };
        let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 });
        let spoil = |batch| { calls.n += 1; if calls.n % 2 == 0 { batch.images = batch.images * value; } batch };
        pretrain::fit(model, images, #{ steps: 6, batch: 4, log_every: 1, save_every: 1, skip_nonfinite: 5, ema: 0.5,
            transforms: [transform::normalize(0.5, 0.5), spoil] });
        print(model.named_parameters().values().all(|p| p.is_finite()));
    "#;
    for kind in ["nan", "inf"] {
        let said = folder.run_with(script, &["--out", kind, "--set", &format!("kind={kind}")]);
        said.succeeds().prints(&["true"]).says(&[
            "skipping the step (3 of at most 5)",
            "pretrain: step 2: an embedding is NaN or infinite, and so the statistics of collapse are NaN",
        ]);
        let rows: Vec<Value> = folder
            .text(&format!("{kind}/metrics.jsonl"))
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |name: &str| rows.iter().map(|row| row[name].is_number()).collect::<Vec<_>>();
        for name in ["loss", "effective_rank", "target_std", "target_cosine"] {
            assert_eq!(of(name), [true, false, true, false, true, false], "{name} of {rows:?}");
        }
        assert_eq!(rows[1]["effective_rank"], "NaN");
        folder.nepa(&["plot", kind]).succeeds();
    }
    folder.run_with(script, &["--out", "large", "--set", "kind=large"]).succeeds().prints(&["true"]);
}

#[test]
fn what_nepa_records_of_a_model_cannot_be_overwritten() {
    let script = "checkpoint::save(nn::linear(2, 2), \"m\", #{ provenance: #{ weights: \"mine\", note: 1 } });";
    let folder = Folder::new();
    folder.run(script).fails(1).says(&[
        "nepa itself records `weights` in provenance.json",
        "it records: format, weights, nepa_version, saved_at, parameters, recipe, params, seed",
    ]);
    assert!(!folder.path("m").exists());
    folder.run(&script.replace("weights: \"mine\", ", "")).succeeds();
    assert_eq!(
        (&folder.json("m/provenance.json")["note"], &folder.json("m/provenance.json")["weights"]),
        (&1.into(), &"raw".into())
    );
}
