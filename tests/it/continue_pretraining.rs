//! Pretraining that goes on from weights: every kind of source, what is taken of it, and what is refused.

use crate::common::*;
use serde_json::Value;

/// Runs the recipe into `out` on small pictures, 2 steps unless `sets` says otherwise.
fn go_on(folder: &Folder, out: &str, sets: &[&str]) -> Said {
    let file = repository("recipes/continue_pretraining.rhai").display().to_string();
    let data = format!("data={}", repository("tests/fixtures/data/folder").display());
    let small = [&data, "batch=8", "micro_batch=4", "steps=2", "evaluate_every=0", "dtype=float32"];
    let mut args = vec!["run", &file, "--device", "cpu", "--threads", "1", "--out", out];
    small.iter().chain(sets).for_each(|set| args.extend(["--set", set]));
    folder.nepa(&args)
}

/// A Hugging Face folder with raw weights and, beside them, the average.
fn hugging_face(folder: &Folder) {
    folder.copy_golden("reference-one-layer", "hf");
    let average = repository("tests/fixtures/pickle/pytorch_model_ema.bin");
    std::fs::copy(average, folder.path("hf/pytorch_model_ema.bin")).unwrap();
}

/// Fails unless the folder `model` of a run holds just the tensors of a file.
fn assert_same_weights(folder: &Folder, model: &str, file: &str) {
    let said = folder.run(&format!(
        "let a = checkpoint::tensors({model:?}); let b = checkpoint::tensors({file:?});
         if a.keys() != b.keys() {{ throw `${{a.keys()}} ${{b.keys()}}`; }}
         for name in a.keys() {{ if !a[name].equal(b[name]) {{ throw name; }} }}"
    ));
    said.succeeds();
}

fn metrics(folder: &Folder, out: &str) -> Vec<Value> {
    folder.text(&format!("{out}/metrics.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_hugging_face_folder_gives_its_raw_or_averaged_weights() {
    let folder = Folder::on_cpu();
    hugging_face(&folder);
    for (weights, file) in [("raw", "hf/model.safetensors"), ("ema", "hf/pytorch_model_ema.bin")] {
        // Without a learning rate, the weights stay what was taken.
        let said = go_on(&folder, weights, &["model=hf", &format!("weights={weights}"), "lr=0.0"]);
        said.succeeds().says(&[&format!("from {file} ({weights} weights)"), "taken      "]);
        assert!(!said.stderr.contains("  fresh ") && !said.stderr.contains("  dropped "), "{said}");
        assert_same_weights(&folder, &format!("{weights}/model"), file);
        let started = folder.json(&format!("{weights}/model-ema/provenance.json"))["started_from"][0].clone();
        assert_eq!((&started["path"], &started["weights"]), (&file.into(), &weights.into()), "{started}");
        let list = folder.text(&format!("{weights}/initialisation.txt"));
        assert!(list.lines().skip(1).all(|line| line.starts_with("taken\tvit_nepa.")), "{list}");
        // It is still a model of its own configuration, and still causal.
        let (ours, theirs) = (folder.json(&format!("{weights}/model/config.json")), folder.json("hf/config.json"));
        for key in ["image_size", "patch_size", "hidden_size", "is_causal", "qk_norm_affine", "pos_embed_rescale"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
    }
    go_on(&folder, "x", &["model=hf"]).fails(1).says(&["hf holds raw and averaged weights", "say which"]);
}

#[test]
fn a_run_a_checkpoint_and_a_model_folder_are_gone_on_from() {
    let folder = Folder::on_cpu();
    hugging_face(&folder);
    go_on(&folder, "first", &["model=hf", "weights=raw", "lr=0.1"]).succeeds();
    let step = "first/checkpoints/pretrain/step-00000002";
    for (i, (model, weights, file)) in [
        ("first", "raw", format!("{step}/model_raw/model.safetensors")),
        (step, "ema", format!("{step}/model_ema/model.safetensors")),
        ("first/model-ema", "", "first/model-ema/model.safetensors".into()),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("next{i}");
        let said =
            go_on(&folder, &out, &[&format!("model={model}"), &format!("weights={weights}"), "steps=1", "lr=0.0"]);
        said.succeeds().says(&[&format!("from {file}")]);
        assert_same_weights(&folder, &format!("{out}/model"), &file);
    }
    // Raw and averaged weights are not the same, and neither is the start.
    let said = folder.run(&format!(
        "let name = \"vit_nepa.embeddings.cls_token\"; let raw = checkpoint::tensors(\"{step}/model_raw\")[name];
         print(raw.equal(checkpoint::tensors(\"{step}/model_ema\")[name]) || raw.equal(checkpoint::tensors(\"hf\")[name]));"
    ));
    assert_eq!(said.values(), [false]);
}

#[test]
fn another_image_size_needs_no_other_weights_and_features_are_judged_before_and_after() {
    let folder = Folder::on_cpu();
    let model = format!("model={}", golden("gelu-plain-qknorm"));
    let said = go_on(&folder, "o", &[&model, "weights=raw", "image_size=48", "evaluate_every=1", "recompute=true"]);
    said.succeeds().says(&[
        "taken      59 tensors",
        "nothing to adapt from 32² to 48²: they are rotary, on grids of 4 and 6 patches per side",
        "pretrain: step 0: knn_top1 ",
        "pretrain: step 2: knn_top1 ",
        "batch 8 in 2 micro-batches",
    ]);
    assert_eq!(folder.json("o/model/config.json")["image_size"], 48);
    let rows = metrics(&folder, "o");
    let judged: Vec<_> = rows.iter().filter(|row| row["probe_top1"].is_f64()).map(|row| row["step"].clone()).collect();
    assert_eq!(judged, [0, 2]);
    let last = rows.iter().find(|row| row["loss"].is_f64()).expect("a line of the last step");
    assert!(last["effective_rank"].is_f64() && last["target_std"].is_f64(), "{last}");
    assert!(image::image_dimensions(folder.path("o/loss.png")).is_ok());
}

#[test]
fn images_are_normalised_as_in_pretraining_and_grey_ones_have_three_channels_for_a_model_of_colours() {
    let folder = Folder::on_cpu();
    folder.copy_golden("gelu-plain-qknorm", "hf");
    folder.write("hf/preprocessor_config.json", r#"{ "image_mean": [0.5, 0.25, 0.5], "image_std": 0.2 }"#);
    let opened = folder.run("let p = checkpoint::open(\"hf\", \"\"); print(p.mean); print(p.std);");
    assert_eq!(opened.succeeds().stdout, "[0.5, 0.25, 0.5]\n[0.2, 0.2, 0.2]\n");
    for i in 0..8 {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let picture = image::GrayImage::from_pixel(32, 32, image::Luma([30 * i]));
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        folder.write(&format!("grey/{i}.png"), bytes.into_inner());
    }
    let said = go_on(&folder, "o", &["model=hf", "data=grey", "evaluate_every=1"]);
    said.succeeds().says(&["features are not evaluated: only 0 of the 8 images"]);
    let about = folder.json("o/model/preprocessor_config.json");
    assert_eq!(about["image_mean"], serde_json::json!([0.5, 0.25, 0.5]));
    assert_eq!(about["image_std"], serde_json::json!([0.2, 0.2, 0.2]));

    // The file's faults are said.
    folder.write("hf/preprocessor_config.json", r#"{ "image_mean": [0.5, 0.25], "image_std": 0.2 }"#);
    let said = folder.run("checkpoint::open(\"hf\", \"\");");
    said.fails(1).says(&["hf/preprocessor_config.json", "mean: expected 3 numbers, found [0.5, 0.25]"]);
    // Without it, 0.5 as in the reference.
    std::fs::remove_file(folder.path("hf/preprocessor_config.json")).unwrap();
    assert_eq!(folder.run("print(checkpoint::open(\"hf\", \"\").mean);").stdout, "[0.5, 0.5, 0.5]\n");
}

#[test]
fn what_is_no_pretrained_model_is_refused() {
    let folder = Folder::on_cpu();
    // One whose configuration names its classes, and one that has a head all the same.
    folder.run(&from_pre("checkpoint::save(nn::vit_nepa(config + #{ num_labels: 3 }), \"head\");")).succeeds();
    for model in ["head", &golden("gelu-affine.classify-bidirectional-pool")] {
        let wanted = "is a classifier: expected a pretrained model without a head";
        go_on(&folder, "a", &[&format!("model={model}")]).fails(1).says(&[
            "pretrain::continued: ",
            wanted,
            "of its -sft",
        ]);
    }
    let pictures = format!("model={}", repository("tests/fixtures/data/folder").display());
    go_on(&folder, "b", &[&pictures]).fails(1).says(&["config.json and model.safetensors"]);
    go_on(&folder, "c", &["model=nowhere"]).fails(1).says(&["nowhere does not exist"]);
    let model = format!("model={}", golden("gelu-plain-qknorm"));
    go_on(&folder, "d", &[&model, "weights=ema"]).fails(1).says(&["no averaged weights", "pass \"raw\""]);
    go_on(&folder, "e", &[&model, "image_size=33"])
        .fails(1)
        .says(&["patch_size must divide image_size, found patch_size 8 and image_size 33"]);
    go_on(&folder, "f", &[&model, "batch=64"]).fails(1).says(&["28 images", "64"]);
    std::fs::create_dir(folder.path("empty")).unwrap();
    go_on(&folder, "g", &[&model, "data=empty"]).fails(1).says(&["empty", "recognised layouts"]);
}

/// A tiny pretrained model as `pre`, and what goes on from it.
fn from_pre(body: &str) -> String {
    format!(
        r#"import "std/pretrain" as pretrain;
        let config = #{{ image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 16, num_hidden_layers: 2,
                         num_attention_heads: 2, layerscale_value: 0.5, qk_norm_affine: false }};
        let pre = nn::vit_nepa(config);
        checkpoint::save(pre, "pre");
        {body}"#
    )
}

#[test]
fn each_tensor_is_accounted_for_and_shapes_that_differ_are_told_with_both_sides() {
    let folder = Folder::on_cpu();
    let body = r#"
        let images = randn([2, 1, 8, 8]);
        pre.train(false);
        let expected = pre.encode(images).last_hidden_state;
        for changes in [#{}, #{ layerscale_value: () }, #{ qk_norm_affine: true }] {
            for source in [checkpoint::open("pre", ""), pre] {
                let m = pretrain::continued(source, changes);
                m.train(false);
                print((m.encode(images).last_hidden_state - expected).abs().max().item());
            }
        }
        print(pretrain::continued(pre, #{ num_hidden_layers: 1 }).config.num_hidden_layers);
    "#;
    let said = folder.run_with(&from_pre(body), &["--out", "o"]);
    let values = said.succeeds().values();
    assert!(values[..6].iter().all(|off| off.as_f64().unwrap() < 2e-6), "{values:?}");
    assert_eq!(values[6], 1);
    said.says(&["model: vit_nepa(8² / 4, 2 x 16, 2 heads) from pre/model.safetensors (raw weights)"]);
    said.says(&["model: vit_nepa(8² / 4, 2 x 16, 2 heads) from a model in memory", "folded     4", "fresh      4"]);
    said.says(&["dropped    "]);

    for (changes, pieces) in [
        (
            "#{ patch_size: 2 }",
            ["projection.weight: [16, 1, 4, 4] in the pretrained model", "[16, 1, 2, 2] in the model"],
        ),
        ("#{ num_channels: 3 }", ["[16, 1, 4, 4] in the pretrained model", "[16, 3, 4, 4] in the model"]),
        ("#{ num_hidden_layers: 3 }", ["encoder.layer.2.", "missing in the pretrained model"]),
        ("#{ patch_sise: 2 }", ["patch_sise", "patch_size"]),
    ] {
        let said = folder.run(&from_pre(&format!("pretrain::continued(pre, {changes});")));
        said.fails(1).says(&pieces);
    }
    let said = folder.run(&from_pre("pretrain::continued(nn::vit_nepa(config + #{ num_labels: 3 }), #{});"));
    said.fails(1).says(&["is a classifier: expected a pretrained model"]);
    let said = folder.run(&from_pre(
        r#"import "std/imagenet_training" as training;
        training::pretrain(#{ data: "x", augment: [], model: #{}, training: #{}, pretrained: checkpoint::open("pre", ""), model_script: "own.rhai" });"#,
    ));
    said.fails(1).says(&["model_script: a pretrained model brings its own"]);
}

#[test]
fn a_model_of_a_script_goes_on_with_its_parts_and_their_running_statistics() {
    let folder = Folder::on_cpu();
    folder.write(
        "stem.rhai",
        "fn build(config) {
             let stem = nn::define(#{ conv: nn::conv2d(3, config.hidden_size, #{ kernel_size: 4, stride: 4 }),
                                      norm: nn::batch_norm2d(config.hidden_size) },
                                   |m, x| m.norm.forward(m.conv.forward(x)).flatten(2, 3).transpose(1, 2));
             nn::vit_nepa(config, #{ patch_embeddings: stem })
         }",
    );
    let body = r#"
        import "std/pretrain" as pretrain;
        import "std/finetune" as finetune;
        let config = #{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 };
        let pre = nn::build("stem.rhai", config);
        pre.encode(randn([16, 3, 8, 8]) * 3.0 + 1.0);                   // moves the running statistics
        checkpoint::save(pre, "pre");
        let source = checkpoint::open("pre", "");
        for m in [pretrain::continued(source, #{ image_size: 16 }), finetune::classifier(source, 2, #{})] {
            let state = m.state_dict();
            let kept = source.tensors.keys().filter(|name| name.contains("running_") || name.contains("num_batches"));
            print(kept.len());
            print(kept.all(|name| state[name].equal(source.tensors[name])));
        }
    "#;
    let said = folder.run(body);
    assert_eq!(said.succeeds().values(), [Value::from(3), true.into(), 3.into(), true.into()]);
    assert!(!said.stderr.contains("dropped"), "{said}");
}

#[test]
fn images_of_many_channels_are_taken_as_they_are_with_adapted_weights() {
    let folder = Folder::on_cpu();
    hugging_face(&folder);
    let picture = std::fs::read(repository("tests/fixtures/images-channels/bands5-f32.tif")).unwrap();
    (0..8).for_each(|i| folder.write(&format!("bands/{i}.tif"), &picture));
    let file = repository("recipes/continue_pretraining.rhai").display().to_string();
    let go_on = |out: &str, more: &[&str]| {
        let mut args = vec!["run", &file, "--device", "cpu", "--threads", "1", "--out", out];
        let small = ["data=bands", "held_out_split=", "model=hf", "weights=raw", "batch=8", "steps=1", "dtype=float32"];
        small.iter().chain(more).for_each(|set| args.extend(["--set", set]));
        folder.nepa(&args)
    };
    let said =
        go_on("out", &["lr=0.0", "channels=5", "mean=[0.1, 0.2, 0.3, 0.4, 0.5]", "std=[1.0, 1.0, 1.0, 1.0, 2.0]"]);
    said.succeeds().says(&["adapted    1: vit_nepa.embeddings.patch_embeddings.projection.weight"]);
    assert_eq!(folder.json("out/model/config.json")["num_channels"], 5);
    // Red, green, blue, red, green, each times 3 / 5 (timm).
    folder
        .run(
            r#"let name = "vit_nepa.embeddings.patch_embeddings.projection.weight";
            let rgb = checkpoint::tensors("hf/model.safetensors")[name];
            let five = checkpoint::tensors("out/model")[name];
            for c in 0..5 {
                let difference = (five.narrow(1, c, 1) - rgb.narrow(1, c % 3, 1) * 0.6).abs().max().item();
                if difference > 1e-6 { throw `channel ${c}: ${difference}`; }
            }"#,
        )
        .succeeds();
    go_on("x", &["channels=5"]).fails(1).says(&["mean and std: expected 5 numbers each, found 0 and 0", "nepa data"]);
    go_on("y", &["channels=4", "mean=[0.1, 0.2, 0.3, 0.4]", "std=[1.0, 1.0, 1.0, 1.0]"]).fails(1).says(&["5", "4"]);
}
