//! `nepa export`: models for other programs, which compute the same.

use crate::common::*;
use crate::python_package::{has, python, shell};
use safetensors::SafeTensors;
use serde_json::Value;

fn export(folder: &Folder, model: &str, dest: &str, more: &[&str]) -> Said {
    folder.nepa(&[&["export", model, dest][..], more].concat())
}

/// Images and what a model computes of them.
fn io(folder: &Folder, model: &str, name: &str) {
    folder
        .run(&format!(
            r#"
            let m = checkpoint::load("{model}");
            m.train(false);
            let images = randn([3, m.config.num_channels, m.config.image_size, m.config.image_size]);
            checkpoint::save_tensors(#{{ images: images, output: m.forward(images) }}, "{name}.io.safetensors");
            "#
        ))
        .succeeds();
}

#[test]
fn a_hugging_face_folder_has_a_card_and_computes_the_same() {
    let folder = Folder::new();
    let recipe = r#"
        import "std/finetune" as finetune;
        let images = data::synthetic(#{ len: 8, size: 8, classes: 2 });
        let model = finetune::classifier(nn::vit_nepa(TINY), 2, #{});
        finetune::fit(model, images, #{ batch: 4, epochs: 1, lr: param("lr", 0.02, "the | rate"),
            evaluate: #{ images: images, best: "best" } });
    "#;
    folder.run_with(&recipe.replace("TINY", TINY), &["--out", "run", "--seed", "7"]).succeeds();
    export(&folder, "run/best", "hf", &["--to", "hf"]).succeeds().prints(&["wrote hf"]);
    let names = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"];
    assert_eq!(folder.names("hf"), names);
    let card = folder.text("hf/README.md");
    for part in [
        "pipeline_tag: image-classification",
        "a classifier of 2 classes",
        "| weights | averaged (EMA) |",
        "| seed | 7 |",
        "| top1 | ",
        "| parameter `lr` | 0.02 |",
        "8 x 8 pixels, 3 channels",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    let provenance = folder.json("hf/provenance.json");
    assert_eq!((&provenance["weights"], &provenance["seed"]), (&Value::from("ema"), &Value::from(7)));
    assert!(provenance["exported_from"].as_str().unwrap().ends_with("run/best"), "{provenance}");
    for file in ["model.safetensors", "config.json", "preprocessor_config.json"] {
        assert!(folder.read(&format!("hf/{file}")) == folder.read(&format!("run/best/{file}")), "{file}");
    }
    // A checkpoint's weights, of which there are two kinds; the encoder alone.
    export(&folder, "run", "raw", &["--to", "hf"]).fails(1).says(&["holds raw and averaged weights", "say which"]);
    export(&folder, "run", "raw", &["--to", "hf", "--weights", "raw", "--part", "encoder"]).succeeds();
    let bytes = folder.read("raw/model.safetensors");
    let names = SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(String::from).collect::<Vec<_>>();
    assert!(names.iter().all(|name| !name.contains("classifier") && !name.contains("fc_norm")), "{names:?}");
    assert!(folder.text("raw/README.md").contains("pipeline_tag: image-feature-extraction"));
    let said = folder.run(
        r#"
        let whole = checkpoint::load("run", "raw");
        let encoder = checkpoint::load("raw");
        let x = randn([2, 3, 8, 8]);
        for m in [whole, encoder] { m.train(false); }
        print((whole.encode(x, #{}).last_hidden_state - encoder.forward(x)).abs().max().item() == 0.0);
        print(encoder.config.num_labels);
    "#,
    );
    assert_eq!(said.succeeds().stdout.trim(), "true\n0");
}

#[test]
fn images_are_prepared_for_an_exported_model_as_for_its_source() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "m");
    let crop = serde_json::json!({
        "do_center_crop": true, "crop_size": { "height": 32, "width": 32 }, "size": { "shortest_edge": 36 }, "resample": 3,
        "do_rescale": true, "rescale_factor": 1.0, "image_mean": [127.5, 127.5, 127.5], "image_std": [63.75, 63.75, 63.75],
        "image_processor_type": "BitImageProcessor",
    });
    folder.write("m/preprocessor_config.json", crop.to_string());
    export(&folder, "m", "hf", &["--to", "hf"]).succeeds();
    assert_eq!(folder.json("hf/preprocessor_config.json"), crop);
    // (x − 127.5) / 63.75 is (x / 255 − 0.5) / 0.25.
    assert!(folder.text("hf/README.md").contains("minus mean [0.5, 0.5, 0.5] and divided by [0.25, 0.25, 0.25]"));
    export(&folder, "m", "timm", &["--to", "timm"]).succeeds();
    let timm = &folder.json("timm/config.json")["pretrained_cfg"];
    assert_eq!(timm["mean"], serde_json::json!([0.5, 0.5, 0.5]));
    assert_eq!((&timm["crop_mode"], &timm["interpolation"]), (&"center".into(), &"bicubic".into()));
    assert_eq!((32.0 / timm["crop_pct"].as_f64().unwrap()).floor(), 36.0);
}

/// Loads each folder in timm, and compares.
const IN_TIMM: &str = r#"
import sys
from functools import partial
from pathlib import Path
import timm, torch
from nepa.tensor_file import read_tensors
for name, causal in zip(sys.argv[1::2], sys.argv[2::2]):
    norm = partial(timm.layers.LayerNorm, eps=1e-12)
    model = timm.create_model(f"local-dir:{name}", pretrained=True, norm_layer=norm).eval()
    io = read_tensors(Path(f"{name}.io.safetensors"))
    with torch.no_grad():
        tokens = model.forward_features(io["images"], is_causal=causal == "true")
        found = model.forward_head(tokens) if model.num_classes else tokens
    difference = (found - io["output"]).abs().max().item()
    assert found.shape == io["output"].shape and difference < 2e-5, f"{name}: {difference}"
print("the same")
"#;

#[test]
fn timm_computes_the_same() {
    let folder = Folder::on_cpu();
    // Class token, LayerScale, QK-norm with and without weights, SwiGLU, no bias, another theta; a head.
    let models = [
        "gelu-affine",
        "gelu-plain-qknorm",
        "no-layerscale-no-qknorm",
        "swiglu",
        "reference-qknormbias",
        "gelu-affine.classify-bidirectional-pool",
    ];
    let mut args = String::new();
    for name in models {
        export(&folder, &golden(name), name, &["--to", "timm"]).succeeds().prints(&[
            "blocks.0.attn.qkv.weight",
            "encoder.layer.0.attention.attention.{query, key, value}.weight, joined",
            "timm.create_model(\"local-dir:",
        ]);
        let config = folder.json(&format!("{name}/config.json"));
        assert_eq!(config["model_args"]["rope_type"], "dinov3");
        io(&folder, &golden(name), name);
        let causal = std::fs::read_to_string(format!("{}/config.json", golden(name))).unwrap();
        let causal: Value = serde_json::from_str(&causal).unwrap();
        args += &format!(" {name} {}", causal["is_causal"]);
    }
    let refused = |model: &str, more: &[&str], says: &str| {
        export(&folder, model, "no", &[&["--to", "timm"][..], more].concat()).fails(1).says(&[says]);
        assert!(!folder.path("no").exists());
    };
    refused(&golden("gelu-affine.classify-causal-last"), &[], "timm's Eva has no head on the last token");
    export(&folder, &golden("gelu-affine.classify-causal-last"), "body", &["--to", "timm", "--part", "encoder"])
        .succeeds();
    folder.run(&format!("checkpoint::save(nn::vit_nepa({TINY} + #{{ hidden_act: \"silu\" }}), \"silu\");")).succeeds();
    refused("silu", &[], "timm's Eva has no plain mlp of silu");
    refused(&golden("gelu-affine"), &["--part", "classifier"], "has no classification head");

    let Some(python) = python().filter(|python| has(python, &["timm"])) else {
        return println!("not compared: there is no timm");
    };
    folder.write("in_timm.py", IN_TIMM);
    shell(&folder, python, &format!("$python in_timm.py{args}")).succeeds().prints(&["the same"]);
}

#[test]
fn programs_of_pytorch_are_exported_by_python() {
    let folder = Folder::on_cpu();
    let model = golden("gelu-affine.classify-bidirectional-pool");
    let said = export(&folder, &model, "m.onnx", &["--to", "onnx", "--python", "no-such-python"]);
    said.fails(1).says(&["cannot start no-such-python", "with --python or NEPA_PYTHON"]);
    let said = export(&folder, &model, "hf", &["--to", "hf", "--preprocess"]);
    said.fails(1).says(&["--preprocess is for --to onnx or torch"]);
    folder.write("there", "mine");
    export(&folder, &model, "there", &["--to", "hf"]).fails(1).says(&["there exists, and is kept"]);
    assert_eq!(folder.text("there"), "mine");
    export(&folder, "nowhere", "m", &["--to", "hf"]).fails(1).says(&["nowhere"]);
    export(&folder, &model, "m", &["--to", "onxx"]).fails(2).says(&["onxx", "onnx"]);
    // Python takes no module from the folder where it is started, which may be a stranger's.
    for name in ["argparse", "json", "nepa", "torch", "tempfile"] {
        folder.write(&format!("{name}.py"), "raise SystemExit('a stranger was here')");
    }
    let said = export(&folder, &model, "m.txt", &["--to", "onnx"]);
    said.fails(1).says(&["error: m.txt"]);
    assert!(!said.stderr.contains("stranger"), "{said}");

    let Some(python) = python() else { return };
    let said = export(&folder, &model, "m.pt2", &["--to", "torch", "--python", python, "--dtype", "float16"]);
    said.succeeds().prints(&["wrote m.pt2", "verified on random images"]);
    let said = export(&folder, &model, "e.onnx", &["--to", "onnx", "--python", python, "--part", "encoder"]);
    said.succeeds().prints(&["wrote e.onnx", "-> last_hidden_state"]);
    let said = export(&folder, &model, "e.pt2", &["--to", "onnx", "--python", python]);
    said.fails(1).says(&["e.pt2: expected a name that ends in .onnx"]);
}
