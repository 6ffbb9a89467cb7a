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
        assert_eq!(folder.names(&name), ["config.json", "model.safetensors", "provenance.json"]);

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
    folder.write("m/extra.txt", "old");
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
        checkpoint::save_tensors(#{ "0.weight": full([2, 2], 7), "1.weight": zeros([3, 3]), other: ones([1]) }, "t.safetensors");
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
    let said = run(r#"
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
        "#);
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
