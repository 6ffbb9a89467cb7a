//! Model folders: what is saved is what was loaded, whole or not at all.

use crate::common::*;
use safetensors::SafeTensors;
use serde_json::Value;

/// Asserts that two safetensors files hold the same tensors, byte for byte.
fn assert_same_tensors(a: &[u8], b: &[u8]) {
    let (a, b) = (SafeTensors::deserialize(a).unwrap(), SafeTensors::deserialize(b).unwrap());
    let names = |f: &SafeTensors<'_>| {
        let mut names: Vec<String> = f.names().iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&a), names(&b));
    for name in a.names() {
        let (x, y) = (a.tensor(name).unwrap(), b.tensor(name).unwrap());
        assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()), "{name}");
        assert!(x.data() == y.data(), "{name} has other values");
    }
}

fn metadata(bytes: &[u8]) -> std::collections::HashMap<String, String> {
    SafeTensors::read_metadata(bytes).unwrap().1.metadata().clone().unwrap()
}

/// The same value, whole floats being equal to integers.
fn equivalent(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(x), Some(y)) => x == y,
        _ => a == b,
    }
}

#[test]
fn saving_what_was_loaded_gives_identical_tensors_and_an_equivalent_configuration() {
    let folder = Folder::new();
    for name in golden_names() {
        let from = golden(&name);
        let script = format!("checkpoint::save(checkpoint::load(\"{from}\"), \"{name}\");");
        folder.run(&script).succeeds();
        let files = ["config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"];
        assert_eq!(folder.names(&name), files);

        let original = std::fs::read(format!("{from}/model.safetensors")).unwrap();
        let saved = folder.read(&format!("{name}/model.safetensors"));
        assert_same_tensors(&original, &saved);
        assert_eq!(metadata(&saved)["format"], "pt", "what Hugging Face asks for");

        let original: Value = serde_json::from_slice(&std::fs::read(format!("{from}/config.json")).unwrap()).unwrap();
        let saved = folder.json(&format!("{name}/config.json"));
        for (key, value) in original.as_object().unwrap() {
            let kept = saved.get(key).unwrap_or_else(|| panic!("{name}: {key} is gone"));
            assert!(equivalent(value, kept), "{name}: {key} was {value}, is {kept}");
        }
        assert_eq!(saved["model_type"], "vit_nepa");
    }
}

#[test]
fn a_second_round_trip_changes_nothing() {
    let folder = Folder::new();
    let from = golden("gelu-affine.classify-bidirectional-pool");
    let script = format!(
        "checkpoint::save(checkpoint::load(\"{from}\"), \"one\"); checkpoint::save(checkpoint::load(\"one\"), \"two\");"
    );
    folder.run(&script).succeeds();
    assert_eq!(folder.text("one/config.json"), folder.text("two/config.json"));
    assert!(folder.read("one/model.safetensors") == folder.read("two/model.safetensors"), "byte for byte");
}

#[test]
fn a_saved_model_gives_the_same_output() {
    let said = run(&format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ num_labels: 3, qk_norm_bias: true, use_gated_mlp: true, hidden_act: "silu" }});
        m.train(false);
        let x = randn([2, 3, 8, 8]);
        checkpoint::save(m, "m");
        let again = checkpoint::load("m");
        again.train(false);
        print(again.forward(x).equal(m.forward(x)));
        print(again.config == m.config);
        print(again.config.num_labels);
        "#
    ));
    assert_eq!(said.values(), [Value::from(true), true.into(), 3.into()]);
}

#[test]
fn class_names_are_saved_kept_and_given() {
    let folder = Folder::new();
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ num_labels: 2 }});
        checkpoint::save(m, "named", #{{ class_names: ["cat", "dog"] }});
        checkpoint::save(checkpoint::load("named"), "kept");
        checkpoint::save(m, "unnamed");
        "#
    );
    folder.run(&script).succeeds();
    for name in ["named", "kept"] {
        let config = folder.json(&format!("{name}/config.json"));
        assert_eq!(config["id2label"], serde_json::json!({ "0": "cat", "1": "dog" }));
        assert_eq!(config["label2id"], serde_json::json!({ "cat": 0, "dog": 1 }));
    }
    assert_eq!(folder.json("unnamed/config.json")["id2label"].as_object().unwrap().len(), 2);
}

#[test]
fn provenance_says_which_weights_from_which_run() {
    let folder = Folder::new();
    let script = r#"
        let lr = param("lr", 0.5);
        let m = nn::linear(2, 3);
        checkpoint::save(m, "m", #{ weights: "ema", provenance: #{ started_from: "there" } });
    "#;
    folder.run_with(script, &["--set", "lr=0.25", "--seed", "9"]).succeeds();
    let provenance = folder.json("m/provenance.json");
    for (key, expected) in [
        ("weights", Value::from("ema")),
        ("started_from", "there".into()),
        ("recipe", "recipe.rhai".into()),
        ("seed", 9.into()),
        ("parameters", 9.into()),
        ("nepa_version", env!("CARGO_PKG_VERSION").into()),
    ] {
        assert_eq!(provenance[key], expected, "{key} of {provenance}");
    }
    assert_eq!(provenance["params"]["lr"], 0.25);
    assert_eq!(metadata(&folder.read("m/model.safetensors"))["nepa_weights"], "ema");
    assert!(!folder.path("m/config.json").exists(), "a module that is no ViT-NEPA has no configuration");
    folder
        .run("checkpoint::save(nn::linear(2, 3), \"n\", #{ weights: \"emma\" });")
        .fails(1)
        .says(&["\"emma\"", "raw", "ema"]);
}

#[test]
fn a_model_folder_is_replaced_as_a_whole() {
    let folder = Folder::new();
    folder.write("m/model.safetensors", "old");
    folder.write("m/config.json", "that of an earlier model");
    folder.run("checkpoint::save(nn::linear(2, 3), \"m\");").succeeds();
    assert_eq!(folder.names("m"), ["model.safetensors", "provenance.json"]);
    assert_eq!(folder.names(""), ["m", "recipe.rhai"], "nothing is left beside it");
}

#[test]
fn a_folder_that_is_no_model_is_not_replaced() {
    let folder = Folder::new();
    folder.write("photos/cat.png", "precious");
    folder.write("file", "precious");
    for target in ["photos", "file"] {
        folder
            .run(&format!("checkpoint::save(nn::linear(2, 3), \"{target}\");"))
            .fails(1)
            .says(&[target, "not replaced"]);
    }
    assert_eq!((folder.text("photos/cat.png"), folder.text("file")), ("precious".into(), "precious".into()));
    folder.run("checkpoint::save(nn::linear(2, 3), \".\");").fails(1);
    assert_eq!(folder.names(""), ["file", "photos", "recipe.rhai"], "nothing is left beside them");
}

#[test]
fn a_save_that_fails_leaves_nothing_and_keeps_what_was_there() {
    let folder = Folder::new();
    let failing = format!(
        "let m = nn::vit_nepa({TINY} + #{{ num_labels: 2 }});\ncheckpoint::save(m, \"m\", #{{ class_names: [\"only one\"] }});"
    );
    folder.run(&failing).fails(1).says(&["class_names has 1 names", "2 labels"]);
    assert_eq!(folder.names(""), ["recipe.rhai"]);

    folder.copy_golden("swiglu", "m");
    let before = folder.read("m/model.safetensors");
    folder.run(&failing).fails(1);
    assert_eq!(folder.read("m/model.safetensors"), before);
    assert_eq!(folder.names(""), ["m", "recipe.rhai"]);
}

#[test]
fn a_strict_load_that_fails_changes_nothing() {
    let said = run(r#"
        let m = nn::linear(2, 2);
        let before = m.state_dict();
        try { m.load_state_dict(#{ weight: zeros([2, 2]) }); } catch (e) { print(e.message.contains("bias")); }
        try { m.load_state_dict(#{ weight: zeros([2, 2]), bias: ones([3]) }); } catch (e) { print(e.message.contains("[3]")); }
        print(m.named_parameters()["weight"].equal(before.weight));
        "#);
    assert_eq!(said.values(), [true, true, true]);
}

#[test]
fn a_lenient_load_takes_what_fits_and_accounts_for_the_rest() {
    let folder = Folder::new();
    let script = r#"
        checkpoint::save_tensors(#{ "0.weight": full([2, 2], 7.0), "1.weight": zeros([3, 3]), other: ones([1]) }, "t.safetensors");
        let m = nn::sequential([nn::linear(2, 2), nn::linear(2, 2)]);
        let r = checkpoint::load_into(m, "t.safetensors", #{ strict: false });
        print([r.loaded, r.missing, r.unexpected, r.mismatched]);
        print(m.named_parameters()["0.weight"].to_array());
        print(m.named_parameters()["1.weight"].abs().max().item() > 0.0);
        try { checkpoint::load_into(m, "t.safetensors"); } catch (e) { print("\"strict\""); }
    "#;
    let expected = [
        serde_json::json!([["0.weight"], ["0.bias", "1.bias"], ["other"], ["1.weight"]]),
        serde_json::json!([7.0, 7.0, 7.0, 7.0]),
        true.into(),
        "strict".into(),
    ];
    assert_eq!(folder.run(script).values(), expected);
}

#[test]
fn tensors_of_every_dtype_survive_a_file() {
    // What is read from files is there.
    let said = Folder::on_cpu().run(
        r#"
        let all = #{};
        for dtype in ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"] {
            all[dtype] = tensor([0.0, 1.0, 3.0]).to(dtype);
        }
        all.scalar = tensor(2.5);
        all.empty = zeros([0, 4]);
        all.turned = tensor([[1, 2, 3], [4, 5, 6]]).transpose(0, 1);
        checkpoint::save_tensors(all, "t.safetensors");
        let back = checkpoint::tensors("t.safetensors");
        for name in all.keys() {
            if back[name].dtype != all[name].dtype || back[name].shape != all[name].shape { throw name; }
            if !back[name].equal(all[name]) { throw name + " differs"; }
        }
        print(back.len());
        "#,
    );
    assert_eq!(said.values(), [13]);
}

#[test]
fn the_published_base_fine_tuning_start_accounts_for_its_missing_qk_norms() {
    // Base's pretraining has plain QK-norms, its fine-tuning affine ones, which start at 1.
    let said = run(&format!(
        r#"
        checkpoint::save(nn::vit_nepa({TINY} + #{{ qk_norm_affine: false }}), "start");
        let m = nn::vit_nepa({TINY} + #{{ num_labels: 2, is_causal: false }});
        let r = checkpoint::load_into(m, "start", #{{ strict: false }});
        let other = r.missing.filter(|n| !(n.contains("_norm.") || n.starts_with("classifier")));
        print(other + r.unexpected + r.mismatched);
        print(r.missing.filter(|n| n.contains("q_norm")).len());
        print(m.named_parameters()["vit_nepa.encoder.layer.0.attention.attention.q_norm.weight"].to_array());
        "#
    ));
    assert_eq!(said.values(), [serde_json::json!([]), 2.into(), serde_json::json!([1.0, 1.0, 1.0, 1.0])]);
}

/// The tensors of a golden model in two files, with the index of Hugging Face.
fn in_two_files(folder: &Folder, to: &str) -> Vec<String> {
    folder.copy_golden("gelu-affine", to);
    std::fs::remove_file(folder.path(&format!("{to}/model.safetensors"))).unwrap();
    let script = format!(
        "let all = checkpoint::tensors({:?}); let parts = [#{{}}, #{{}}]; let i = 0;\n\
         for name in all.keys() {{ parts[i % 2][name] = all[name]; print(name); i += 1; }}\n\
         for (part, i) in parts {{ checkpoint::save_tensors(part, `{to}/model-0000${{i + 1}}-of-00002.safetensors`); }}",
        golden("gelu-affine")
    );
    let names: Vec<String> = folder.run(&script).succeeds().stdout.lines().map(str::to_string).collect();
    let file = |i: usize| Value::from(format!("model-0000{}-of-00002.safetensors", i % 2 + 1));
    let map: serde_json::Map<String, Value> = names.iter().enumerate().map(|(i, n)| (n.clone(), file(i))).collect();
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    folder.write(&format!("{to}/model.safetensors.index.json"), index.to_string());
    names
}

#[test]
fn weights_in_several_files_are_one_model() {
    let folder = Folder::on_cpu(); // what is read from files is there
    let names = in_two_files(&folder, "two");
    let whole = golden("gelu-affine");
    let same = |path: &str| {
        format!(
            "let a = checkpoint::load({path:?}).state_dict(); let b = checkpoint::load({whole:?}).state_dict();\n\
             for n in b.keys() {{ if !a[n].equal(b[n]) {{ throw n; }} }} print(a.keys() == b.keys());"
        )
    };
    for path in ["two", "two/model.safetensors.index.json"] {
        folder.run(&same(path)).succeeds().prints(&["true"]);
    }
    let said = folder.nepa(&["inspect", "two"]);
    let half = names.len() / 2;
    let part = |i: usize, n: usize| format!("model-0000{i}-of-00002.safetensors: {n} tensors");
    said.succeeds().prints(&[
        &format!("two/model.safetensors.index.json: {} tensors", names.len()),
        &part(1, names.len() - half),
        &part(2, half),
        "configuration:",
        &names[0],
    ]);

    // PyTorch's files, of which there may be one.
    folder.copy_golden("reference-one-layer", "torch");
    std::fs::remove_file(folder.path("torch/model.safetensors")).unwrap();
    let bin = std::fs::read(repository("tests/fixtures/pickle/pytorch_model_ema.bin")).unwrap();
    folder.write("torch/pytorch_model-00001-of-00001.bin", bin);
    let listed = "for n in checkpoint::tensors(\"torch/pytorch_model-00001-of-00001.bin\").keys() { print(n); }";
    let listed = folder.run(listed).stdout;
    let map: serde_json::Map<String, Value> =
        listed.lines().map(|n| (n.to_string(), "pytorch_model-00001-of-00001.bin".into())).collect();
    folder.write("torch/pytorch_model.bin.index.json", serde_json::json!({ "weight_map": map }).to_string());
    let same = "let a = checkpoint::load(\"torch\").state_dict(); let b = checkpoint::tensors(\"torch\");\n\
                for n in a.keys() { if !a[n].equal(b[n]) { throw n; } } print(true);";
    folder.run(same).succeeds().prints(&["true"]);
    folder.nepa(&["inspect", "torch"]).succeeds().prints(&["pytorch_model-00001-of-00001.bin: "]);
}

#[test]
fn files_of_weights_that_are_missing_or_do_not_belong_together_are_named() {
    let folder = Folder::new();
    let names = in_two_files(&folder, "m");
    let second = "m/model-00002-of-00002.safetensors";
    let kept = folder.read(second);
    std::fs::remove_file(folder.path(second)).unwrap();
    let words =
        ["m/model.safetensors.index.json names 2 files, of which 1 is missing: model-00002-of-00002.safetensors"];
    folder.run("checkpoint::load(\"m\");").fails(1).says(&words);
    folder.nepa(&["inspect", "m"]).fails(1).says(&words);
    folder.write(second, folder.read("m/model-00001-of-00002.safetensors"));
    folder
        .run("checkpoint::load(\"m\");")
        .fails(1)
        .says(&[&format!("lacks the tensor `{}`", names[1]), "index.json says is in it"]);
    folder.write(second, kept);
    let index = folder.text("m/model.safetensors.index.json");
    folder.write("m/model.safetensors.index.json", index.replace("model-00001", "../model-00001"));
    folder.run("checkpoint::load(\"m\");").fails(1).says(&["expected the name of a file beside the index"]);
    std::fs::remove_file(folder.path("m/model.safetensors.index.json")).unwrap();
    for said in [folder.run("checkpoint::load(\"m\");"), folder.run("checkpoint::open(\"m\", \"raw\");")] {
        said.fails(1)
            .says(&["m has model-00001-of-00002.safetensors", "but not their index (model.safetensors.index.json"]);
    }
}

#[test]
fn the_configuration_names_the_dtype_of_the_weights_beside_it() {
    let folder = Folder::new();
    for (name, key, dtype) in [("a", "torch_dtype", "bfloat16"), ("b", "dtype", "float16"), ("c", "dtype", "float32")] {
        folder.copy_golden("gelu-affine", name);
        let script = format!(
            "let all = checkpoint::tensors({name:?}); for n in all.keys() {{ all[n] = all[n].to({dtype:?}); }}\n\
             checkpoint::save_tensors(all, \"{name}/model.safetensors\");"
        );
        folder.run(&script).succeeds();
        let mut config = folder.json(&format!("{name}/config.json"));
        config.as_object_mut().unwrap().remove("dtype");
        config[key] = dtype.into();
        folder.write(&format!("{name}/config.json"), config.to_string());
        // Weights are float32 once they are in a model.
        let script = format!(
            "let m = checkpoint::load({name:?}); checkpoint::save(m, \"{name}-saved\");\n\
             let ema = optim::ema(m, 0.9); ema.update(); ema.apply(|| checkpoint::save(m, \"{name}-ema\", #{{ weights: \"ema\" }}));"
        );
        folder.run(&script).succeeds();
        for saved in [format!("{name}-saved"), format!("{name}-ema")] {
            let config = folder.json(&format!("{saved}/config.json"));
            assert_eq!(config["dtype"], "float32", "{saved}");
            assert!(config.get("torch_dtype").is_none(), "{saved}");
            let bytes = folder.read(&format!("{saved}/model.safetensors"));
            let file = SafeTensors::deserialize(&bytes).unwrap();
            assert!(file.tensors().iter().all(|(_, t)| t.dtype() == safetensors::Dtype::F32), "{saved}");
        }
    }
}

#[test]
fn the_preprocessor_is_the_references_with_the_image_size_and_normalisation_of_the_model() {
    let folder = Folder::new();
    // As in the folders of the reference, but for keys whose value there is null.
    let published = serde_json::json!({
        "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessorFast", "image_std": [0.5, 0.5, 0.5], "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": { "height": 224, "width": 224 },
    });
    let script = format!(
        "checkpoint::save(nn::vit_nepa({TINY} + #{{ image_size: 224, patch_size: 14 }}), \"p\");\n\
         checkpoint::save(nn::vit_nepa({TINY} + #{{ image_size: 224, patch_size: 14, num_labels: 3 }}), \"c\");\n\
         checkpoint::save(nn::linear(2, 3), \"l\");"
    );
    folder.run(&script).succeeds();
    for name in ["p", "c"] {
        assert_eq!(folder.json(&format!("{name}/preprocessor_config.json")), published);
    }
    assert!(!folder.path("l/preprocessor_config.json").exists());

    // Training says how its images are normalised; every folder of the run has it, and what is loaded keeps it.
    let script = format!(
        "import \"std/pretrain\" as pretrain;\n\
         let m = nn::vit_nepa(#{{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }});\n\
         let o = #{{ epochs: 1, batch: 32, transforms: [transform::normalize(0.25, 0.5)] }};\n\
         pretrain::fit(m, data::idx({:?}, \"train\").take(64), o);\n\
         checkpoint::save(m, \"trained\"); checkpoint::save(checkpoint::load(\"trained\"), \"again\");\n\
         pretrain::fit(m, data::idx({:?}, \"train\").take(64), o + #{{ transforms: [], label: \"plain\" }}); checkpoint::save(m, \"plain\");",
        fashion(),
        fashion()
    );
    folder.run_with(&script, &["--out", "o"]).succeeds();
    let step = "o/checkpoints/pretrain/step-00000002";
    for name in ["trained", "again", &format!("{step}/model_raw"), &format!("{step}/model_ema")] {
        let found = folder.json(&format!("{name}/preprocessor_config.json"));
        assert_eq!(
            (&found["image_mean"], &found["image_std"]),
            (&serde_json::json!([0.25]), &serde_json::json!([0.5]))
        );
        assert_eq!(found["size"], serde_json::json!({ "height": 28, "width": 28 }));
    }
    assert_eq!(folder.json("plain/preprocessor_config.json")["do_normalize"], false);
    folder.write("trained/preprocessor_config.json", r#"{"image_mean": ["x"], "image_std": [1]}"#);
    let said = folder.run("checkpoint::load(\"trained\");");
    said.fails(1).says(&["trained/preprocessor_config.json: image_mean is [\"x\"], expected a list of numbers"]);
}
