//! Fine-tuning: what a classifier takes from a pretrained model, what training moves, and the recipes.

use crate::common::{Folder, fashion, golden, repository};
use serde_json::Value;

const HEAD: &str = "import \"std/finetune\" as finetune;\n";
/// A pretrained model with LayerScale and biases of its own in every channel, saved as `pre`.
const PRETRAINED: &str = r#"
let config = #{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 16, num_hidden_layers: 2,
                num_attention_heads: 2, layerscale_value: 0.5, qk_norm_affine: false };
let pretrained = nn::vit_nepa(config);
for name in pretrained.named_parameters().keys() {
    let tensor = pretrained.named_parameters()[name];
    if name.contains("layer_scale") || name.ends_with(".dense.bias") { tensor.copy_(randn([16])); }
}
checkpoint::save(pretrained, "pre");
pretrained.train(false);
let images = randn([3, 1, 28, 28]);
let off = |a, b| (a - b).abs().max().item();
"#;

fn script(body: &str) -> String {
    format!("{HEAD}{PRETRAINED}{body}")
}

#[test]
fn a_classifier_computes_what_the_pretrained_model_did_with_layer_scale_kept_folded_or_added() {
    let body = r#"
        let h = pretrained.encode(images).last_hidden_state;
        for changes in [#{}, #{ layerscale_value: () }, #{ qk_norm_affine: true }] {
            let c = finetune::classifier(checkpoint::open("pre", "raw"), 5, #{ is_causal: true } + changes);
            c.train(false);
            print(off.call(c.encode(images).last_hidden_state, h));
            print(c.forward(images).abs().max().item());         // the head starts at zero
        }
        // A source without LayerScale, into a model that has it.
        let plain = nn::vit_nepa(config + #{ layerscale_value: () });
        plain.train(false);
        let c = finetune::classifier(plain, 5, #{ is_causal: true, layerscale_value: 1e-5 });
        c.train(false);
        print(off.call(c.encode(images).last_hidden_state, plain.encode(images).last_hidden_state));
        // Bidirectional where nothing else is said.
        print(finetune::classifier(plain, 5, #{}).config.is_causal);
    "#;
    let said = Folder::new().run(&script(body));
    let values = said.succeeds().values();
    for (i, off) in values[..7].iter().enumerate() {
        let limit = if i % 2 == 1 { 0.0 } else { 2e-6 };
        assert!(off.as_f64().unwrap() <= limit, "{i}: {values:?}");
    }
    assert_eq!(values[7], false);
    said.says(&["folded     4", "fresh      8", "q_norm.weight (2)"]);
}

#[test]
fn what_became_of_each_tensor_is_said_listed_and_kept_with_the_models() {
    let folder = Folder::new();
    let body = r#"
        let c = finetune::classifier(checkpoint::open("pre", "raw"), 5, #{ layerscale_value: (), image_size: 42 });
        checkpoint::save(c, "five");
        c = finetune::classifier(checkpoint::open("five", "raw"), 5, #{});
        c = finetune::classifier(checkpoint::open("five", "raw"), 3, #{});
        checkpoint::save(c, "three");
    "#;
    let said = folder.run_with(&script(body), &["--out", "o"]);
    said.succeeds().says(&[
        "from pre/model.safetensors (raw weights)",
        "folded     4: vit_nepa.encoder.layer.*.layer_scale.lambda1 (2), vit_nepa.encoder.layer.*.output.layer_scale.lambda1 (2)",
        "nothing to adapt from 28² to 42²: they are rotary, on grids of 4 and 6 patches per side",
        "replaced   4",
    ]);
    let list = folder.text("o/initialisation.txt");
    assert!(list.lines().any(|l| l == "replaced\tclassifier.weight"), "{list}");
    assert!(list.lines().any(|l| l == "taken\tvit_nepa.layernorm.weight"), "{list}");

    let started = folder.json("five/provenance.json")["started_from"][0].clone();
    assert_eq!(started["path"], "pre/model.safetensors");
    assert_eq!((&started["weights"], &started["image_size"]), (&"raw".into(), &28.into()));
    assert_eq!(started["folded"].as_array().unwrap().len(), 4);
    assert!(started["fresh"].as_array().unwrap().contains(&"classifier.weight".into()));
    let started = folder.json("three/provenance.json")["started_from"].clone();
    assert_eq!(started.as_array().unwrap().len(), 2, "{started}");
}

/// The expected numbers are what timm 1.0's `adapt_input_conv` gives.
#[test]
fn a_patch_embedding_is_adapted_to_other_channels_as_by_timm() {
    let body = r#"
        let name = "vit_nepa.embeddings.patch_embeddings.projection.weight";
        let rgb = #{ rest: ones([2]) };
        rgb[name] = tensor([1.0, 2.0, 4.0, 0.5, -3.0, 8.0]).reshape([2, 3, 1, 1]);
        for n in [1, 2, 3, 4, 5, 6] {
            let found = checkpoint::adapt_channels(rgb, n);
            if found.tensors[name].shape != [2, n, 1, 1] || !found.tensors.rest.equal(rgb.rest) { throw `${n}`; }
            if found.adapted != (if n == 3 { [] } else { [name] }) { throw `${n}: ${found.adapted}`; }
            print(found.tensors[name].flatten().to_array());
        }
        let half = checkpoint::adapt_channels(#{ "embeddings.patch_embeddings.projection.weight": rgb[name].to("bfloat16") }, 1);
        print(half.tensors["embeddings.patch_embeddings.projection.weight"].dtype);
        print(rgb[name].shape);                              // the tensor that was given stays
        let five = checkpoint::adapt_channels(rgb, 5).tensors;
        try { checkpoint::adapt_channels(five, 2); } catch (e) { print(e.to_string()); }
    "#;
    let said = Folder::new().run(body);
    said.succeeds();
    let expected: [&[f64]; 6] = [
        &[7.0, 5.5],
        &[1.5, 3.0, 0.75, -4.5],
        &[1.0, 2.0, 4.0, 0.5, -3.0, 8.0],
        &[0.75, 1.5, 3.0, 0.75, 0.375, -2.25, 6.0, 0.375],
        &[0.6, 1.2, 2.4, 0.6, 1.2, 0.3, -1.8, 4.8, 0.3, -1.8],
        &[0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 0.25, -1.5, 4.0, 0.25, -1.5, 4.0],
    ];
    for (n, (expected, line)) in expected.iter().zip(said.stdout.lines()).enumerate() {
        let found: Vec<f64> = serde_json::from_str(line).unwrap();
        let off = found.iter().zip(*expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(found.len() == expected.len() && off < 1e-6, "{}: {found:?}", n + 1);
    }
    said.prints(&["bfloat16", "[2, 3, 1, 1]", "is for images of 5 channels, and the model has 2"]);
}

#[test]
fn a_classifier_of_other_channels_takes_adapted_weights_and_says_so() {
    let folder = Folder::new();
    let body = r#"
        let config = #{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 };
        let rgb = nn::vit_nepa(config);
        checkpoint::save(rgb, "rgb");
        let name = "vit_nepa.embeddings.patch_embeddings.projection.weight";
        let c = finetune::classifier(checkpoint::open("rgb", "raw"), 4, #{ num_channels: 5 });
        let ours = c.named_parameters()[name];
        let green = rgb.named_parameters()[name].select(1, 1) * 0.6;
        print((ours.select(1, 4) - green).abs().max().item());
        print((ours.select(1, 1) - green).abs().max().item());
        print(c.forward(randn([2, 5, 8, 8])).shape);
        checkpoint::save(c, "five");
    "#;
    let said = folder.run_with(&format!("{HEAD}{body}"), &["--out", "o"]);
    said.succeeds().says(&["adapted    1: vit_nepa.embeddings.patch_embeddings.projection.weight"]);
    let values = said.values();
    assert!(values[0].as_f64().unwrap() < 1e-7 && values[1].as_f64().unwrap() < 1e-7, "{values:?}");
    let list = folder.text("o/initialisation.txt");
    assert!(list.contains("adapted\tvit_nepa.embeddings.patch_embeddings.projection.weight\n"), "{list}");
    let started = folder.json("five/provenance.json")["started_from"][0].clone();
    assert_eq!(started["adapted"][0], "vit_nepa.embeddings.patch_embeddings.projection.weight");
}

#[test]
fn a_backbone_alone_and_the_references_average_are_taken() {
    let folder = Folder::on_cpu(); // what is read from files is there
    let body = r#"
        let alone = #{};
        for name in pretrained.state_dict().keys() { alone[name.sub_string("vit_nepa.".len())] = pretrained.state_dict()[name]; }
        checkpoint::save_tensors(alone, "pre/model.safetensors");
        let c = finetune::classifier(checkpoint::open("pre", "raw"), 5, #{ is_causal: true });
        c.train(false);
        print(off.call(c.encode(images).last_hidden_state, pretrained.encode(images).last_hidden_state));
    "#;
    assert_eq!(folder.run(&script(body)).succeeds().numbers(), [[0.0]]);

    // Hugging Face's layout: the average lies beside the weights.
    folder.copy_golden("gelu-affine", "hf");
    let average = repository("tests/fixtures/pickle/pytorch_model_ema.bin");
    folder.write("hf/pytorch_model_ema.bin", std::fs::read(average).unwrap());
    let body = r#"
        let p = checkpoint::open("hf", "ema");
        let q = checkpoint::open("hf", "raw");
        print(p.path); print(p.weights); print(q.path);
        print(p.tensors.keys().len() > 0);
    "#;
    folder.run(body).succeeds().prints(&["hf/pytorch_model_ema.bin", "ema", "hf/model.safetensors", "true"]);

    // Both are found in a folder, and are models of its configuration.
    folder.copy_golden("reference-one-layer", "one");
    let said = folder.run("print(checkpoint::files(\"one\"));");
    said.succeeds().prints(&["#{\"model\": \"one/model.safetensors\"}\n"]);
    std::fs::copy(folder.path("hf/pytorch_model_ema.bin"), folder.path("one/pytorch_model_ema.bin")).unwrap();
    let body = r#"
        let both = checkpoint::files("one");
        print(both);
        let average = checkpoint::load(both.ema).named_parameters();
        let expected = checkpoint::tensors("one/pytorch_model_ema.bin");
        print(expected.keys() == average.keys());
        for name in average.keys() { if !average[name].equal(expected[name]) { throw name; } }
        print(checkpoint::load(both.raw).config.hidden_size == checkpoint::load(both.ema).config.hidden_size);
    "#;
    let said = folder.run(body);
    said.succeeds();
    assert_eq!(
        said.stdout,
        "#{\"ema\": \"one/pytorch_model_ema.bin\", \"raw\": \"one/model.safetensors\"}\ntrue\ntrue\n"
    );
}

#[test]
fn weights_that_are_not_there_or_do_not_fit_are_told_with_both_sides() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "hf");
    folder.write("empty.rhai", "");
    let open = |path: &str, weights: &str| format!("checkpoint::open({path:?}, {weights:?});");
    folder.run(&open("hf", "emma")).fails(1).says(&[
        "unknown weights \"emma\"",
        "did you mean `ema`?",
        "\"raw\" (as trained)",
    ]);
    folder
        .run(&open("hf", "ema"))
        .fails(1)
        .says(&["hf has no averaged weights (pytorch_model_ema.bin)", "pass \"raw\""]);
    folder.run(&open("hff", "raw")).fails(1).says(&["hff does not exist", "hf"]);

    let save = script(
        "checkpoint::save(pretrained, \"average\", #{ weights: \"ema\" }); checkpoint::open(\"average\", \"raw\");",
    );
    folder.run(&save).fails(1).says(&["average holds ema weights, but \"raw\" were asked for"]);

    let from =
        |changes: &str| script(&format!("finetune::classifier(checkpoint::open(\"pre\", \"raw\"), 5, {changes});"));
    folder.run(&from("#{ patch_size: 14 }")).fails(1).says(&[
        "patch_embeddings.projection.weight: [16, 1, 7, 7] in the pretrained model, [16, 1, 14, 14] in the classifier",
    ]);
    folder
        .run(&from("#{ num_hidden_layers: 3 }"))
        .fails(1)
        .says(&["encoder.layer.2.", "missing in the pretrained model"]);
    folder.run(&from("#{ num_hidden_layer: 3 }")).fails(1).says(&["num_hidden_layer", "num_hidden_layers"]);

    let mut config: Value = serde_json::from_str(&folder.text("hf/config.json")).unwrap();
    config["model_type"] = "vit_mae".into();
    folder.write("hf/config.json", config.to_string());
    folder.run(&open("hf", "raw")).fails(1).says(&["model_type is \"vit_mae\", expected \"vit_nepa\""]);
}

#[test]
fn a_run_means_its_newest_checkpoint_and_one_of_several_loops_has_to_be_named() {
    let folder = Folder::new();
    let train = |label: &str| {
        format!(
            "pretrain::fit(nn::vit_nepa(config), data::idx({:?}, \"train\").take(64), #{{ epochs: 2, batch: 32, save_every: 2, label: {label:?} }});",
            fashion()
        )
    };
    let body = format!("import \"std/pretrain\" as pretrain;\n{}", script(&train("a")));
    folder.run_with(&body, &["--out", "one"]).succeeds();
    folder.run_with(&format!("{body}{}", train("b")), &["--out", "two"]).succeeds();
    folder.run_with("run::dir();", &["--out", "none"]).succeeds();
    let opened = folder.run("for w in [\"raw\", \"ema\"] { print(checkpoint::open(\"one\", w).path); }");
    opened.succeeds().prints(&[
        "one/checkpoints/a/step-00000004/model_raw/model.safetensors",
        "one/checkpoints/a/step-00000004/model_ema/model.safetensors",
    ]);
    folder
        .run("checkpoint::open(\"two\", \"raw\");")
        .fails(1)
        .says(&["2 training loops", "two/checkpoints/b/step-00000004"]);
    folder.run("checkpoint::open(\"none\", \"raw\");").fails(1).says(&["the run none has no checkpoint"]);
}

/// Everything that loads a model takes the same paths and the same words for raw and averaged weights.
#[test]
fn a_run_a_checkpoint_a_folder_and_a_file_are_loaded_alike() {
    let folder = Folder::on_cpu(); // what is read from files is there
    let body = format!(
        "import \"std/pretrain\" as pretrain;\n{}",
        script(&format!(
            "let result = pretrain::fit(pretrained, data::idx({:?}, \"train\").take(64), #{{ epochs: 1, batch: 32, ema: 0.5 }});\n\
             checkpoint::save(pretrained, run::path(\"model\"));\n\
             result.ema.apply(|| checkpoint::save(pretrained, run::path(\"model-ema\"), #{{ weights: \"ema\" }}));",
            fashion()
        ))
    );
    folder.run_with(&body, &["--out", "o"]).succeeds();
    let step = "o/checkpoints/pretrain/step-00000002";
    let same = |path: &str, weights: &str, expected: &str| {
        format!(
            "{{ let a = checkpoint::load({path:?}, {weights:?}).state_dict(); let b = checkpoint::tensors({expected:?});\n\
             let c = checkpoint::open({path:?}, {weights:?}).tensors;\n\
             for n in b.keys() {{ if !a[n].equal(b[n]) || !c[n].equal(b[n]) {{ throw n; }} }} print({path:?}); }}\n"
        )
    };
    let raw = ["o", step, "o/model", "o/model/model.safetensors", &format!("{step}/model_raw")];
    let ema = ["o", step, "o/model-ema", "o/model-ema/model.safetensors", &format!("{step}/model_ema")];
    let all = raw
        .iter()
        .map(|path| same(path, "raw", "o/model"))
        .chain(ema.iter().map(|path| same(path, "ema", "o/model-ema")));
    let only = ["o/model", "o/model-ema"].map(|path| same(path, "", path));
    let script = all.chain(only).collect::<String>();
    assert_eq!(folder.run(&script).succeeds().stdout.lines().count(), 12);
    let kinds = folder.run(
        "print(checkpoint::files(\"o\").keys()); print(checkpoint::open(\"o/model-ema\", \"\").weights); \
         print(checkpoint::files(\"o/model-ema\").keys());",
    );
    assert_eq!(kinds.succeeds().stdout, "[\"ema\", \"raw\"]\nema\n[\"ema\"]\n");

    for path in ["o", step] {
        for call in ["load({path}, \"\")", "load({path})", "open({path}, \"\")"] {
            let script = format!("checkpoint::{};", call.replace("{path}", &format!("{path:?}")));
            let words = ["holds raw and averaged weights", "say which: weights \"raw\" (as trained) or \"ema\""];
            folder.run(&script).fails(1).says(&words);
        }
    }
    folder.run("checkpoint::load(\"o/model\", \"ema\");").fails(1).says(&["o/model holds raw weights", "pass \"raw\""]);
    for recipe in ["knn", "linear_probe"] {
        let recipe = repository(&format!("recipes/{recipe}.rhai"));
        let data = format!("data={}", fashion());
        let given = ["--set", &data, "--set", "model=o", "--set", "train_split=test", "--set", "held_out_split=test"];
        let words = [&["run", recipe.to_str().unwrap()][..], &given].concat();
        folder.nepa(&words).fails(1).says(&["o holds raw and averaged weights"]);
    }
}

/// A classifier of 10 classes on Fashion-MNIST.
fn classifier(body: &str) -> String {
    let model = "#{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 32, num_hidden_layers: 3, \
                  num_attention_heads: 2, layerscale_value: 1.0, num_labels: 10, is_causal: false, drop_path_prob: 0.2 }";
    format!("{HEAD}let model = nn::vit_nepa({model});\nlet images = data::idx({:?}, \"train\");\n{body}", fashion())
}

#[test]
fn thirty_two_images_are_learnt_by_heart_and_the_best_average_is_kept() {
    let folder = Folder::new();
    let body = r#"
        let few = images.per_class(4, 0).take(32);
        let result = finetune::fit(model, few, #{
            epochs: 80, batch: 32, lr: 3e-3, label_smoothing: 0.0, ema: 0.5,
            evaluate: #{ images: few, every_epochs: 10, best: "best" },
        });
        print(result.best.ema_top1);
        print(result.evaluations.len());
        print(result.best.path);
        // The first of the best.
        let best = result.best;
        let all = result.evaluations;
        print(all.filter(|e| e[2] == best.ema_top1)[0][0] == best.epoch);
        print(best.epoch < 79);
    "#;
    let said = folder.run_with(&classifier(body), &["--out", "o"]);
    said.succeeds().prints(&["100.0", "8", "o/best", "true", "true"]);
    let about = folder.json("o/best/provenance.json");
    assert_eq!((&about["weights"], about["top1"].as_f64()), (&"ema".into(), Some(100.0)));
    let judge = format!(
        "import \"std/evaluate\" as evaluate;\nlet few = data::idx({:?}, \"train\").per_class(4, 0).take(32);\n\
         print(evaluate::classify(checkpoint::load(\"o/best\"), few, #{{}}).top1);",
        fashion()
    );
    folder.run(&judge).succeeds().prints(&["100.0"]);
}

#[test]
fn frozen_parts_stay_to_the_bit_and_lower_layers_move_less() {
    let body = r#"
        model.freeze("*patch_embeddings*");
        let before = model.state_dict();
        finetune::fit(model, images.take(64), #{
            epochs: 3, batch: 32, lr: 1e-3, warmup: 0.0, llrd: 0.5, weight_decay: 0.05, evaluate: (),
        });
        let after = model.state_dict();
        let moved = #{};
        for name in before.keys() { moved[name] = (after[name] - before[name]).abs().max().item(); }
        print(moved["vit_nepa.embeddings.patch_embeddings.projection.weight"]);
        print(moved["vit_nepa.embeddings.patch_embeddings.projection.bias"]);
        print(moved["vit_nepa.embeddings.cls_token"]);
        for i in 0..3 { print(moved[`vit_nepa.encoder.layer.${i}.intermediate.up_proj.weight`]); }
    "#;
    let values: Vec<f64> =
        Folder::new().run(&classifier(body)).succeeds().values().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(values[..2], [0.0, 0.0]);
    // AdamW moves every element by about the learning rate: the ratios are llrd's.
    let ratios = [values[2] / values[3], values[3] / values[4], values[4] / values[5]];
    assert!(values[2] > 0.0 && ratios.iter().all(|r| (0.35..0.65).contains(r)), "{values:?}");
}

#[test]
fn a_batch_in_micro_batches_trains_as_the_whole_does() {
    let fit = |accumulate: i32| {
        classifier(&format!(
            "let r = finetune::fit(model, images.take(96), #{{ epochs: 2, batch: 32, accumulate: {accumulate}, \
             transforms: [transform::normalize(0.5, 0.5), transform::mixup(#{{}})] }}); print(r.history.map(|h| h[1]));\n\
             print(r.loss);"
        ))
    };
    let loss = |k| Folder::new().run(&fit(k)).succeeds().values().last().unwrap().as_f64().unwrap();
    let (whole, parts) = (loss(1), loss(3));
    assert!((whole - parts).abs() < 2e-5, "{whole} {parts}");
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_best() {
    let folder = Folder::new();
    let body = r#"
        let result = finetune::fit(model, images.take(96), #{
            epochs: 6, batch: 16, save_every: 4, log_every: 1, on_epoch: |m, e, s| print(`epoch ${s.epoch} is over`),
            evaluate: #{ images: data::idx(param("data"), "test").take(50), best: "best" },
        });
        print(result.evaluations);
    "#
    .replace("param(\"data\")", &format!("{:?}", fashion()));
    folder.write("recipe.rhai", classifier(&body));
    let run = |out: &str| ["run", "recipe.rhai", "--threads", "1", "--device", "cpu", "--out", out].map(String::from);
    let args = run("a");
    folder.nepa(&args.iter().map(String::as_str).collect::<Vec<_>>()).succeeds();
    let args = run("b");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let stopped = folder.start(&args, &[]);
    stopped.wait_for("epoch 2 is over");
    stopped.signal(libc::SIGTERM);
    stopped.finish();
    let said = folder.nepa(&args);
    said.succeeds();
    let whole = |out: &str| {
        (folder.read(&format!("{out}/best/model.safetensors")), folder.text(&format!("{out}/metrics.jsonl")))
    };
    let (a, b) = (whole("a"), whole("b"));
    assert!(a.0 == b.0, "the best averages differ");
    let scores = |metrics: &str| -> Vec<Value> {
        let rows = metrics.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        rows.filter(|r| r["ema_top1"].is_number())
            .map(|r| serde_json::json!([r["epoch"], r["top1"], r["ema_top1"]]))
            .collect()
    };
    assert_eq!(scores(&a.1), scores(&b.1));
    assert_eq!(scores(&a.1).len(), 6);
}

#[test]
fn an_evaluation_after_the_last_step_is_made_again_where_the_checkpoint_was_written_before_it() {
    let folder = Folder::new();
    let body = r#"
        let o = #{ batch: 16, save_every: 4, evaluate: #{ images: images.take(40), best: "best" } };
        let result = finetune::fit(model, images.take(96), o + #{ steps: 8 });
        print(result.evaluations);
        print(result.best);
    "#;
    let first = folder.run_with(&classifier(body), &["--out", "o"]);
    first.succeeds();
    let again = folder.run_with(&classifier(body), &["--out", "o"]);
    again.succeeds().says(&["resumed from step 8"]);
    assert_eq!(first.stdout, again.stdout);
    assert!(first.stdout.contains("], [1, "), "{first}");
}

#[test]
fn labels_and_classes_that_do_not_match_are_told_with_both_sides() {
    let fit =
        |images: &str, more: &str| classifier(&format!("finetune::fit(model, {images}, #{{ epochs: 1, {more} }});"));
    let folder = Folder::new();
    let pictures = repository("tests/fixtures/data/folder");
    let pictures = format!("data::open({:?}, \"train\")", pictures.display().to_string());
    folder.run(&fit(&pictures, "")).fails(1).says(&["the model's head has 10 labels, but", "has 4 classes"]);
    folder
        .run(&fit("images", "evaluate: #{}"))
        .fails(1)
        .says(&["the option `images` of finetune::fit: evaluate must be given"]);
    folder.run(&fit("images", "evaluate: #{ imges: images }")).fails(1).says(&["imges", "images"]);
    folder.run(&fit("images", "schedule: \"lrd_cosine\"")).fails(1).says(&[
        "optim::schedule",
        "did you mean `llrd_cosine`?",
        "llrd_cosine_warmup",
    ]);
    let headless = classifier("finetune::fit(nn::vit_nepa(model.config + #{ num_labels: 0 }), images, #{});");
    folder.run(&headless).fails(1).says(&["has no head: make a classifier"]);

    // A class folder that the held-out images lack.
    for (class, splits) in [("cat", &["train", "val"][..]), ("dog", &["train"])] {
        for split in splits {
            let picture = repository("tests/fixtures/images/small.png");
            folder.write(&format!("two/{split}/{class}/0.png"), std::fs::read(picture).unwrap());
        }
    }
    let body = format!(
        "{HEAD}let m = nn::vit_nepa(#{{ image_size: 28, patch_size: 14, hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1, num_labels: 2 }});\n\
         finetune::fit(m, data::open(\"two\", \"train\"), #{{ evaluate: #{{ images: data::open(\"two\", \"val\") }} }});"
    );
    folder.run(&body).fails(1).says(&["the classes differ: 2 in", "1 in", "only in the first: [\"dog\"]"]);
}

#[test]
fn the_recipes_fine_tune_on_every_layout_and_say_so_in_their_models() {
    let model = format!("model={}", golden("gelu-plain-qknorm"));
    for (recipe, layout) in [("vitb", "folder"), ("vitl", "hf-disk"), ("vitb", "parquet"), ("vitl", "webdataset")] {
        let folder = Folder::new();
        let file = repository(&format!("recipes/finetune_{recipe}.rhai")).display().to_string();
        let data = format!("data={}", repository(&format!("tests/fixtures/data/{layout}")).display());
        let mut args = vec!["run", &file, "--device", "cpu", "--threads", "1", "--out", "out"];
        for set in [&data, &model, "weights=raw", "batch=8", "micro_batch=4", "epochs=1", "dtype=float32"] {
            args.extend(["--set", set]);
        }
        folder.nepa(&args).succeeds().prints(&["best averaged weights: top-1", "out/best"]);
        for (name, weights) in [("model", "raw"), ("model-ema", "ema"), ("best", "ema")] {
            let about = folder.json(&format!("out/{name}/provenance.json"));
            assert_eq!(about["weights"], weights, "{layout}");
            assert_eq!(about["started_from"][0]["weights"], "raw", "{layout}");
        }
        let config = folder.json("out/model-ema/config.json");
        assert_eq!((&config["is_causal"], &config["qk_norm_affine"]), (&false.into(), &true.into()));
        assert_eq!(config["drop_path_prob"], if recipe == "vitb" { 0.1 } else { 0.2 });
        assert_eq!(config["id2label"].as_object().unwrap().len(), 4);
        // The model's images have 32 pixels: 8/7 of it on the shorter side, or 1/0.95 of it on both.
        let state = folder.text("out/checkpoints/finetune/step-00000003/state.json");
        let resize = if recipe == "vitb" { "\"resize(36, bicubic)\"" } else { "\"resize([33, 33], bicubic)\"" };
        let llrd = if recipe == "vitb" { "\"llrd\": 0.65" } else { "\"llrd\": 0.75" };
        let more = [llrd, "\"llrd_end\": null", "\"schedule\": \"llrd_cosine_warmup\""];
        for setting in [resize, "\"exif_orientation\": true", "mixup(images_per_draw: 128)"].iter().chain(&more) {
            assert!(state.contains(setting), "{setting} in {state}");
        }
        assert_eq!(config["pos_embed_images_per_draw"], 1024);
    }
}

#[test]
fn the_recipes_fine_tune_with_the_papers_rising_decay_on_request() {
    let folder = Folder::new();
    let file = repository("recipes/finetune_vitb.rhai").display().to_string();
    let model = format!("model={}", golden("gelu-plain-qknorm"));
    let data = format!("data={}", repository("tests/fixtures/data/folder").display());
    let mut args = vec!["run", &file, "--device", "cpu", "--threads", "1", "--out", "out"];
    let small = ["weights=raw", "batch=8", "micro_batch=4", "epochs=1", "dtype=float32", "held_out_split="];
    for set in [&model[..], &data, "llrd=0.35", "llrd_end=1.0"].iter().chain(&small) {
        args.extend(["--set", set]);
    }
    // 1.5e-3 x 8 / 256, of the embeddings times 0.35 to the power of the 3 blocks, and in the end all of it.
    let words = "embeddings from 2.01e-6 (llrd 0.35) to 4.69e-5 (llrd 1.0), times the schedule";
    folder.nepa(&args).succeeds().says(&[words]);
    let state = folder.text("out/checkpoints/finetune/step-00000003/state.json");
    for setting in ["\"llrd\": 0.35", "\"llrd_end\": 1.0", "\"schedule\": \"llrd_cosine\""] {
        assert!(state.contains(setting), "{setting} in {state}");
    }
}

#[test]
fn fashion_mnist_is_pretrained_fine_tuned_and_evaluated_by_one_recipe() {
    let folder = Folder::new();
    let file = repository("recipes/fashion_mnist.rhai").display().to_string();
    let mut args = vec!["run", &file, "--device", "cpu", "--threads", "2", "--out", "out"];
    for set in ["hidden_size=16", "layers=1", "heads=2", "pretrain_epochs=1", "finetune_epochs=2"] {
        args.extend(["--set", set]);
    }
    folder.nepa(&args).succeeds().prints(&["averaged weights", "raw weights"]);
    let found = folder.json("out/evaluation.json");
    assert_eq!(found["ema"]["images"], 2000);
    // Even so small a model and so few steps are better than chance.
    assert!(found["ema"]["top1"].as_f64().unwrap() > 20.0, "{found}");
    let about = folder.json("out/model-ema/provenance.json");
    assert_eq!(about["started_from"][0]["weights"], "ema");
    folder.nepa(&["report", "out"]).succeeds();
    assert!(folder.text("out/report.html").contains("Ankle boot"), "class names of the per-class table");
}

#[test]
fn every_parameter_of_the_recipes_is_described() {
    for name in ["finetune_vitb", "finetune_vitl", "fashion_mnist", "eval_imagenet1k", "continue_pretraining"] {
        let folder = Folder::new();
        let file = repository(&format!("recipes/{name}.rhai")).display().to_string();
        folder.nepa(&["check", &file]).succeeds().prints(&["ok"]);
        folder.nepa(&["run", &file, "--help"]).succeeds().prints(&[&format!("nepa run recipes/{name}.rhai"), "data"]);
    }
}

/// An encoder that does not say what its blocks are.
#[test]
fn layer_wise_decay_needs_to_know_the_blocks() {
    let fit = |blocks: &str, llrd: &str| {
        Folder::new().run(&format!(
            "import \"std/finetune\" as finetune;
             let c = #{{ image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 8, num_hidden_layers: 3, num_attention_heads: 2, num_labels: 2 }};
             let layers = [nn::linear(8, 8), nn::linear(8, 8), nn::linear(8, 8)];
             let encoder = nn::define(#{{ layers: layers }}, |m, x| {{ for l in m.layers {{ x = l.forward(x); }} x }}, #{{ {blocks} }});
             let model = nn::vit_nepa(c, #{{ encoder: encoder }});
             print(model.layer_ids()[\"classifier.weight\"]);
             let images = data::synthetic(#{{ len: 8, size: 8, channels: 1, classes: 2 }});
             finetune::fit(model, images, #{{ steps: 1, batch: 4, llrd: {llrd} }});"
        ))
    };
    fit("", "0.65").fails(1).prints(&["3"]).says(&["llrd: the encoder does not say what its 3 blocks are"]);
    fit("", "1.0").succeeds();
    fit("blocks: \"layers\"", "0.65").succeeds().prints(&["3"]);
}
