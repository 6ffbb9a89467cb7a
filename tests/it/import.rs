//! `nepa import`: models of other projects compute here what they compute there, or are refused.

use crate::common::*;
use crate::python_package::{has, python, shell};
use serde_json::{Value, json};

/// Loads a folder that was imported and compares it with what the original computed of the same images.
const COMPARE: &str = r#"
    let io = checkpoint::tensors("NAME.io.safetensors");
    let m = checkpoint::load("NAME.in");
    m.train(false);
    let out = no_grad(|| m.encode(io.images, #{ attentions: true, hidden_states: true }));
    let off = |a, b| ((a - b).abs().max() / b.abs().max()).item();
    let plain = no_grad(|| m.encode(io.images)).last_hidden_state;
    print([
        off.call(out.last_hidden_state, io.last), off.call(plain, io.last),
        if "attention" in io { off.call(out.attentions[0], io.attention) } else { 0.0 },
        off.call(m.final_norm(out.hidden_states[m.config.num_hidden_layers]), io.last),
    ]);
"#;

/// Each model that tests/it/import.py makes, the options of its import, and what the command must say of it.
const MODELS: &[(&str, &[&str], &[&str])] = &[
    (
        "dinov2",
        &[],
        &["DINOv2 of transformers", "embeddings.mask_token", "the mask token, for pretraining", "mean [0.4, 0.5, 0.6]"],
    ),
    ("dinov2-no-bias", &[], &[]),
    ("dinov2-swiglu", &[], &["encoder.layer.0.mlp.weights_in.weight, the first half"]),
    ("dinov2-larger", &["--image-size", "42"], &["from 4 x 4 to 6 x 6 patches, bicubic\n"]),
    ("dinov2-registers", &[], &["shorter side to 32, bicubic, then the middle 28 x 28", "built by its model_script"]),
    ("dinov2-registers-smaller", &["--image-size", "14"], &["from 4 x 4 to 2 x 2 patches, bicubic, with antialiasing"]),
    ("dinov3", &[], &["0, since layer.0.attention.k_proj has no bias", "in both directions"]),
    ("dinov3-larger", &["--image-size", "42"], &["positions are rotary, so nothing changes"]),
    ("dinov3-gated", &[], &["wrote dinov3-gated.in: DINOv3 of transformers, attention in both directions\n"]),
    ("vit", &[], &["pooler.dense.weight"]),
    ("vit-classifier", &[], &["classifier.weight", "outside of the model, `vit.…`"]),
    ("mae", &[], &["decoder.decoder_embed.weight", "MAE of transformers"]),
    ("timm-vit", &[], &["blocks.0.attn.qkv.weight, the part of the query", "head.weight", "a classification head"]),
    ("timm-deit3", &[], &["and 0 for the class token, which has none"]),
    ("timm-larger", &["--image-size", "42"], &["from 4 x 4 to 6 x 6 patches, bicubic, with antialiasing"]),
    ("timm-gap", &[], &[]),
    ("timm-gap-registers", &[], &["fc_norm.weight", "its norm comes after pooling"]),
    ("timm-no-class", &[], &["built by its model_script"]),
    ("timm-norms", &[], &["reg_token + their rows of pos_embed", "without those of the registers"]),
    ("timm-dinov2", &[], &["blocks.1.mlp.fc1.bias, the second half"]),
    ("timm-dinov3", &[], &[]),
    ("timm-dinov3-larger", &["--image-size", "42"], &[]),
    ("timm-dinov3-plus", &[], &["blocks.0.attn.q_bias"]),
    (
        "mae.pth",
        &["--heads", "4", "--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"],
        &["without a configuration"],
    ),
    (
        "nepa.ckpt",
        &["--heads", "4", "--image-size", "28", "--mean", "0.5", "--std", "0.5"],
        &["NEPA of stable-pretraining, attention causal"],
    ),
];

#[test]
fn models_of_other_projects_compute_the_same() {
    let Some(python) = python().filter(|python| has(python, &["timm", "transformers", "safetensors"])) else {
        return println!("skipped: there is no Python with timm, transformers and safetensors");
    };
    let folder = Folder::on_cpu();
    let make = repository("tests/it/import.py").display().to_string();
    shell(&folder, python, &format!("$python -W ignore {make} .")).succeeds();
    let mut compare = String::new();
    for (name, options, says) in MODELS {
        let dest = format!("{name}.in");
        folder.nepa(&[&["import", name, &dest], *options].concat()).succeeds().prints(says);
        compare += &format!("{{ {} }}\n", COMPARE.replace("NAME", name));
    }
    let said = folder.run(&compare);
    let found = said.succeeds().numbers();
    assert_eq!(found.len(), MODELS.len(), "{said}");
    for ((name, ..), off) in MODELS.iter().zip(found) {
        // Without a final norm, hidden states are compared as they are.
        assert!(off.iter().all(|off| *off < 1e-5), "{name}: {off:?}");
    }
    let said = folder.nepa(&["import", "timm-vit", "again", "--mean", "0.5", "--std", "0.5"]);
    said.fails(1).says(&["--mean and --std", "leave them out"]);
    recipes_take(&folder);
}

/// The recipes run on what was imported: with a class token, with registers, without either.
fn recipes_take(folder: &Folder) {
    let data = format!("data={}", repository("tests/fixtures/data/folder").display());
    let run = |name: &str, model: &str, more: &[&str]| {
        let recipe = repository(&format!("recipes/{name}.rhai")).display().to_string();
        let (model, out) = (format!("model={model}.in"), format!("{name}-{model}"));
        let mut args = vec!["run", &recipe, "--device", "cpu", "--threads", "1", "--out", &out];
        for set in [&[model.as_str(), &data], more].concat() {
            args.extend(["--set", set]);
        }
        folder.nepa(&args)
    };
    run("knn", "dinov2", &["token=class", "k=[3]", "block=0,last"]).succeeds();
    run("linear_probe", "dinov3", &["token=class", "block=all", "epochs=1", "lr=[1e-2]"]).succeeds();
    run("retrieval", "timm-vit", &["token=class", "split=train"]).succeeds();
    run("embed", "mae", &["token=mean", "to=features.parquet", "split=train"]).succeeds();
    run("knn", "timm-gap", &["k=[3]", "block=1"]).succeeds();
    run("embed", "timm-gap", &["token=class", "to=class.npy", "split=train"])
        .fails(1)
        .says(&["this model has no class token"]);
    let sets = ["images=0", "patches=0,1", "split=validation"];
    run("visualize", "dinov2-registers", &[&sets[..], &["prediction=false"]].concat()).succeeds().prints(&["2 maps"]);
    run("visualize", "timm-gap-registers", &sets).succeeds().prints(&["3 maps"]);
    // Attention without regard to what comes later, and back.
    run("knn", "nepa.ckpt", &["k=[3]", "is_causal=false"]).succeeds();
}

/// Writes a tiny model, as nepa has it, under the names of transformers' DINOv3, and images with what it computes.
fn dinov3(folder: &Folder) -> Value {
    folder
        .run(
            r#"
        let m = nn::vit_nepa(#{ image_size: 8, patch_size: 4, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
            qk_norm: false, layerscale_value: 0.5, layer_norm_eps: 1e-5, is_causal: false, rope_theta: 50.0 });
        let parameters = m.named_parameters();
        for name in parameters.keys() { no_grad(|| init::normal_(parameters[name], 0.1, 0.3)); }
        let ours = m.state_dict();
        let theirs = #{};
        for name in ours.keys() {
            let own = name.sub_string("vit_nepa.".len());
            for pair in [["encoder.layer.", "layer."], ["layernorm_before", "norm1"], ["layernorm_after", "norm2"],
                ["patch_embeddings.projection", "patch_embeddings"], ["attention.attention.query", "attention.q_proj"],
                ["attention.attention.key", "attention.k_proj"], ["attention.attention.value", "attention.v_proj"],
                ["attention.output.dense", "attention.o_proj"], ["intermediate.up_proj", "mlp.up_proj"],
                ["output.layer_scale", "layer_scale2"], ["layer_scale.", "layer_scale1."], ["output.dense", "mlp.down_proj"],
                ["layernorm", "norm"]] {
                own.replace(pair[0], pair[1]);
            }
            theirs[own] = ours[name];
        }
        theirs["embeddings.mask_token"] = zeros([1, 1, 16]);
        checkpoint::save_tensors(theirs, "d/model.safetensors");
        let images = randn([2, 3, 8, 8]);
        m.train(false);
        checkpoint::save_tensors(#{ images: images, output: m.forward(images) }, "io.safetensors");
        "#,
        )
        .succeeds();
    let config = json!({
        "architectures": ["DINOv3ViTModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dtype": "float32",
        "hidden_act": "gelu", "hidden_size": 16, "image_size": 8, "initializer_range": 0.02, "intermediate_size": 64,
        "key_bias": true, "layer_norm_eps": 1e-5, "layerscale_value": 1.0, "mlp_bias": true, "model_type": "dinov3_vit",
        "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 2, "num_register_tokens": 0, "patch_size": 4,
        "pos_embed_rescale": 2.0, "proj_bias": true, "query_bias": true, "rope_theta": 50.0, "use_gated_mlp": false,
        "value_bias": true, "transformers_version": "4.56.2",
    });
    folder.write("d/config.json", config.to_string());
    config
}

const IMAGENET: [&str; 4] = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"];

#[test]
fn what_a_nepa_can_compute_becomes_one() {
    let folder = Folder::new();
    dinov3(&folder);
    folder
        .nepa(&["import", "d", "plain"])
        .fails(1)
        .says(&["nothing beside it says how images are normalised", "--mean 0.485,0.456,0.406"]);
    assert!(!folder.path("plain").exists());
    folder.nepa(&[&["import", "d", "plain"], &IMAGENET[..]].concat()).succeeds().prints(&[
        "vit_nepa.encoder.layer.1.output.layer_scale.lambda1        layer.1.layer_scale2.lambda1",
        "embeddings.mask_token",
        "wrote plain: DINOv3 of transformers, attention in both directions\n",
    ]);
    let names = ["config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"];
    assert_eq!(folder.names("plain"), names);
    assert_eq!(folder.json("plain/config.json")["model_type"], "vit_nepa");
    assert_eq!(folder.json("plain/preprocessor_config.json")["image_mean"], json!([0.485, 0.456, 0.406]));
    let provenance = folder.json("plain/provenance.json");
    assert!(provenance["imported_from"].as_str().unwrap().ends_with("/d"), "{provenance}");
    let said = folder.run(
        r#"
        let io = checkpoint::tensors("io.safetensors");
        let m = checkpoint::load("plain");
        m.train(false);
        print([(m.forward(io.images) - io.output).abs().max().item(), m.std[2]]);
    "#,
    );
    let found = said.succeeds().numbers();
    assert!(found[0][0] < 1e-6 && found[0][1] == 0.225, "{said}");
    folder.nepa(&["import", "d", "plain"]).fails(1).says(&["plain exists, and is kept"]);
    folder.nepa(&["import", "d", "x", "--causal"]).fails(1).says(&["--causal: d/config.json says", "leave it out"]);
}

/// What the tensors or the configuration of the folder `d` are changed to, and what is said then.
#[test]
fn what_would_compute_something_else_is_refused() {
    let folder = Folder::new();
    let config = dinov3(&folder);
    let tensors = folder.read("d/model.safetensors");
    let import = || folder.nepa(&[&["import", "d", "x"], &IMAGENET[..]].concat());
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        folder.write("d/config.json", config.to_string());
    };
    for (key, value, says) in [
        (
            "model_type",
            json!("clip_vision_model"),
            &["\"clip_vision_model\" are not read: CLIP norms", "dinov3_vit"][..],
        ),
        ("model_type", json!("resnet"), &["\"resnet\" are not read", "expected vit_nepa, or one of dinov2"]),
        ("quantization_config", json!({ "bits": 4 }), &["these weights were quantised"]),
        ("hidden_act", json!("quick_gelu"), &["hidden_act is \"quick_gelu\"", "exact"]),
        ("num_experts", json!(8), &["unknown key `num_experts` (8)", "could change what the network computes"]),
        ("hidden_size", json!(32), &["hidden_size is 32, but the weights have 16"]),
        ("num_hidden_layers", json!(3), &["num_hidden_layers is 3, but the weights have 2"]),
        ("intermediate_size", json!(63), &["intermediate_size is 63, but the weights have 64"]),
        ("use_gated_mlp", json!(true), &["use_gated_mlp is true, but the mlps of the weights are not gated"]),
        ("key_bias", json!(false), &["`layer.0.attention.k_proj` has a bias, but its configuration says none"]),
        ("num_attention_heads", json!(3), &["3 heads do not divide the width 16"]),
        ("num_attention_heads", json!("two"), &["`num_attention_heads` is \"two\", expected a whole number"]),
        ("layer_norm_eps", Value::Null, &["the key `layer_norm_eps` is missing"]),
        ("image_size", json!([8, 12]), &["`image_size` is [8,12], expected a whole number"]),
        ("image_size", json!(10), &["patch_size must divide image_size"]),
        (
            "model_type",
            json!("vit"),
            &["is not transformers' ViT: it has no tensor `embeddings.patch_embeddings.projection.weight`"],
        ),
    ] {
        with(key, value);
        import().fails(1).says(says);
        assert!(!folder.path("x").exists());
    }
    folder.write("d/config.json", config.to_string());
    for (change, says) in [
        (
            "t[\"layer.0.mlp.experts.0.weight\"] = zeros([2]);",
            &["`layer.0.mlp.experts.0.weight` (of a mixture of experts)"][..],
        ),
        ("t[\"norm_pre.weight\"] = zeros([16]);", &["`norm_pre.weight` (a norm before the blocks, as CLIP has)"]),
        (
            "t.remove(\"layer.1.norm2.bias\");",
            &["model.safetensors has no tensor `layer.1.norm2.bias`", "not complete"],
        ),
        ("t[\"norm.weight\"] = zeros([8]);", &["the tensor `norm.weight` is [8], expected [16]"]),
        (
            "t[\"layer.0.mlp.up_proj.weight\"] = zeros([64, 16]).to(\"int8\");",
            &["`layer.0.mlp.up_proj.weight` is [64, 16] int8: weights that were quantised"],
        ),
        ("t[\"norm.bias\"] = zeros([16]) / 0.0;", &["the tensor `vit_nepa.layernorm.bias`", "NaN or infinite"]),
        (
            "for n in t.keys() { t[`teacher.${n}`] = t[n]; }",
            &["several models, whose tensors begin with nothing (\"\"), `teacher.`", "--prefix"],
        ),
    ] {
        folder.write("d/model.safetensors", &tensors);
        let text =
            format!("let t = checkpoint::tensors(\"d\"); {change} checkpoint::save_tensors(t, \"e.safetensors\");");
        folder.run(&text).succeeds();
        std::fs::rename(folder.path("e.safetensors"), folder.path("d/model.safetensors")).unwrap();
        import().fails(1).says(says);
        assert!(!folder.path("x").exists());
    }
    // The last of them has two models.
    let args = [&["import", "d", "x", "--prefix", "student"], &IMAGENET[..]].concat();
    folder.nepa(&args).fails(1).says(&["--prefix student", "`teacher.`"]);
    let args = [&["import", "d", "x", "--prefix", "teacher"], &IMAGENET[..]].concat();
    folder.nepa(&args).succeeds().prints(&["outside of the model, `teacher.…`"]);
}

#[test]
fn timms_other_architectures_are_refused_by_name() {
    let folder = Folder::new();
    dinov3(&folder);
    for (config, says) in [
        (
            json!({ "architecture": "vit_base_patch16_clip_224" }),
            &["timm's vit_base_patch16_clip_224 is not read: CLIP norms"][..],
        ),
        (json!({ "architecture": "resnet50" }), &["timm's resnet50 is not read", "vit_base_patch16_224"]),
        (json!({ "architecture": "vit_base_patch16_xp_224" }), &["its attention and mlp are parallel"]),
        (
            json!({ "architecture": "vit_base_patch16_224", "model_args": { "act_layer": "relu" } }),
            &["the argument act_layer of timm's model is \"relu\", which is not read"],
        ),
        (
            json!({ "architecture": "vit_base_patch16_dinov3", "model_args": { "rope_type": "cat" } }),
            &["the argument rope_type of timm's model is \"cat\""],
        ),
        (
            json!({ "architecture": "vit_base_patch16_224" }),
            &["is not timm's ViT: it has no tensor `patch_embed.proj.weight`"],
        ),
    ] {
        folder.write("d/config.json", config.to_string());
        folder.nepa(&["import", "d", "x"]).fails(1).says(says);
    }
    std::fs::remove_file(folder.path("d/config.json")).unwrap();
    folder.nepa(&["import", "d", "x"]).fails(1).says(&["need the config.json beside them"]);
    folder.nepa(&["import", "nowhere", "x"]).fails(1).says(&["nowhere does not exist"]);
    folder.nepa(&["import", "d", "x", "--mean", "0.5"]).fails(2).says(&["--std"]);
    // A Swin Transformer, say, by its first tensor: refused before it is asked about heads or its image size.
    folder
        .run("checkpoint::save_tensors(#{ \"patch_embed.proj.weight\": zeros([96, 3, 4, 4]) }, \"swin.safetensors\");")
        .succeeds();
    folder.nepa(&["import", "swin.safetensors", "x"]).fails(1).says(&["swin.safetensors is no ViT", "`blocks.0.…`"]);
}

/// The authors' folders, and transformers' pull request 42978, which has their names.
#[test]
fn nepas_of_the_authors_and_of_the_pull_request_come_in() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "m");
    folder.nepa(&["import", "m", "plain"]).succeeds().prints(&["wrote plain: NEPA, attention causal"]);
    assert!(folder.read("plain/model.safetensors").len() > 1000);
    folder.nepa(&["import", "m", "x", "--heads", "4"]).fails(1).says(&["--heads: the configuration of m/model"]);
    // Averages beside the weights, a file of torch.save, shards.
    folder.copy_golden("reference-one-layer", "one");
    let average = std::fs::read(repository("tests/fixtures/pickle/pytorch_model_ema.bin")).unwrap();
    folder.write("one/pytorch_model_ema.bin", &average);
    folder.nepa(&["import", "one", "x"]).fails(1).says(&["raw and averaged weights"]);
    folder.nepa(&["import", "one", "averaged", "--weights", "ema"]).succeeds();
    assert_eq!(folder.json("averaged/provenance.json")["weights"], "ema");
    folder.write("bin/config.json", folder.text("one/config.json"));
    folder.write("bin/pytorch_model.bin", &average);
    folder.nepa(&["import", "bin", "of-bin"]).succeeds();
    let said = folder.run(
        r#"
        let shards = [#{}, #{}];
        let i = 0;
        let tensors = checkpoint::tensors("bin");
        for name in tensors.keys() { shards[i % 2][name] = tensors[name]; i += 1; }
        for i in 0..2 { checkpoint::save_tensors(shards[i], `shards/model-0000${i + 1}-of-00002.safetensors`); }
        print(tensors.keys());
    "#,
    );
    let names: Vec<String> = serde_json::from_str(said.succeeds().stdout.trim()).unwrap();
    let file = |i: usize| json!(format!("model-0000{}-of-00002.safetensors", i % 2 + 1));
    let map: serde_json::Map<String, Value> = names.into_iter().enumerate().map(|(i, n)| (n, file(i))).collect();
    folder.write("shards/model.safetensors.index.json", json!({ "weight_map": map }).to_string());
    folder.write("shards/config.json", folder.text("one/config.json"));
    folder.nepa(&["import", "shards", "of-shards"]).succeeds();
    let said = folder.run(
        r#"
        let models = ["averaged", "of-bin", "of-shards"].map(|path| checkpoint::load(path).checksum());
        let first = models[0];
        print(models.all(|sum| sum == first));
    "#,
    );
    said.succeeds().prints(&["true"]);

    // The pull request's configuration: no key of prompt tokens, and those of transformers 5.
    let mut config = folder.json("m/config.json");
    let keys = config.as_object_mut().unwrap();
    keys.remove("num_prompt_token");
    keys.insert("transformers_version".into(), json!("5.0.0.dev0"));
    keys.insert("dtype".into(), json!("float32"));
    keys.insert("architectures".into(), json!(["ViTNepaForPreTraining"]));
    folder.write("pull/config.json", config.to_string());
    std::fs::copy(folder.path("m/model.safetensors"), folder.path("pull/model.safetensors")).unwrap();
    folder.nepa(&["import", "pull", "pulled"]).succeeds().prints(&["every recipe takes the source as it is, too"]);
    let said = folder.run(
        r#"
        let x = randn([2, 3, 32, 32]);
        let models = ["m/model.safetensors", "plain", "pull", "pulled"].map(|path| checkpoint::load(path));
        for m in models { m.train(false); }
        let first = models[0].forward(x);
        print(models.all(|m| (m.forward(x) - first).abs().max().item() == 0.0));
    "#,
    );
    said.succeeds().prints(&["true"]);
    // Norms without weights leave no trace among the tensors.
    folder.copy_golden("no-layerscale-no-qknorm", "none");
    let mut config = folder.json("none/config.json");
    config["transformers_version"] = json!("5.0.0");
    folder.write("none/config.json", config.to_string());
    folder.nepa(&["import", "none", "y"]).succeeds().prints(&["note: qk_norm is false", "42978"]);
}

/// What `nepa export --to timm` writes comes back.
#[test]
fn what_was_exported_to_timm_comes_back() {
    let folder = Folder::new();
    for (name, causal) in [("gelu-affine", true), ("swiglu", true), ("gelu-affine.classify-bidirectional-pool", false)]
    {
        let model = golden(name);
        folder.nepa(&["export", &model, name, "--to", "timm"]).succeeds();
        let back = format!("{name}.in");
        folder.nepa(&["import", name, &back]).succeeds();
        let config = folder.json(&format!("{back}/config.json"));
        assert_eq!((&config["model_type"], &config["is_causal"]), (&json!("vit_nepa"), &json!(causal)), "{name}");
        let said = folder.run(&format!(
            r#"
            let x = randn([2, 3, 32, 32]);
            let models = ["{model}", "{back}"].map(|path| checkpoint::load(path));
            for m in models {{ m.train(false); }}
            print((models[0].forward(x) - models[1].forward(x)).abs().max().item() < 1e-6);
        "#
        ));
        said.succeeds().prints(&["true"]);
    }
}

/// What timm has no place for is kept beside it: the preparation of images as it is, the classes, and where weights come from.
#[test]
fn a_classifier_comes_back_from_timm_with_all_that_its_folder_says() {
    let folder = Folder::new();
    let script = format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ num_labels: 3, is_causal: false, add_pooling_layer: true }});
        m.set_normalization([1200.0, 1300.0, 1400.0], [800.0, 800.0, 700.0]);
        checkpoint::save(m, "m", #{{ class_names: ["cat", "dog", "cow"], weights: "ema", provenance: #{{ top1: 81.5 }} }});
        "#
    );
    folder.run_with(&script, &["--seed", "9"]).succeeds();
    for prepared in ["as saved", "with a crop"] {
        if prepared == "with a crop" {
            let mut content = folder.json("m/preprocessor_config.json");
            let keys = content.as_object_mut().unwrap();
            (keys["size"], keys["resample"]) = (json!({ "shortest_edge": 10 }), json!(3));
            keys.extend([
                ("do_center_crop".into(), json!(true)),
                ("crop_size".into(), json!({ "height": 8, "width": 8 })),
            ]);
            folder.write("m/preprocessor_config.json", content.to_string());
        }
        let [to, back] = ["to", "back"].map(|name| format!("{name} {prepared}"));
        folder.nepa(&["export", "m", &to, "--to", "timm"]).succeeds();
        folder.nepa(&["import", &to, &back]).succeeds();
        assert_eq!(folder.json(&format!("{back}/preprocessor_config.json")), folder.json("m/preprocessor_config.json"));
        let [before, after] = ["m", &back].map(|name| {
            let mut config = folder.json(&format!("{name}/config.json"));
            // timm's norms of queries and keys always have weights.
            config.as_object_mut().unwrap().retain(|key, _| !key.starts_with("qk_norm_"));
            config
        });
        assert_eq!(before, after);
        let provenance = folder.json(&format!("{back}/provenance.json"));
        for (key, value) in [("weights", json!("ema")), ("seed", json!(9)), ("top1", json!(81.5))] {
            assert_eq!(provenance[key], value, "{key}");
        }
        // As timm resizes: floor(8 / crop_pct).
        let timm = folder.json(&format!("{to}/config.json"));
        let (cfg, crops) = (&timm["pretrained_cfg"], prepared == "with a crop");
        let edge = (8.0 / cfg["crop_pct"].as_f64().unwrap()).floor();
        let expected = if crops { (10.0, "center", "bicubic") } else { (8.0, "squash", "bilinear") };
        assert_eq!((edge, cfg["crop_mode"].as_str().unwrap(), cfg["interpolation"].as_str().unwrap()), expected);
        assert_eq!(timm["label_names"], json!(["cat", "dog", "cow"]));
    }
    let mut timm = folder.json("to as saved/config.json");
    timm["label_names"] = json!(["cat", "dog"]);
    folder.write("to as saved/config.json", timm.to_string());
    let said = folder.nepa(&["import", "to as saved", "x"]);
    said.fails(1).says(&["label_names are not the names of 3 classes"]);
}

/// DistributedDataParallel's `module.`, dictionaries in dictionaries, and averages beside the weights.
#[test]
fn weights_are_found_under_any_prefix_and_never_one_of_two_without_a_word() {
    let folder = Folder::new();
    folder.copy_golden("reference-one-layer", "m");
    let mut args = String::new();
    for (name, prefixes) in [
        ("ddp", &["module."][..]),
        ("nested", &["model."]),
        ("lightning", &["state_dict.net."]),
        ("averaged", &["state_dict.", "state_dict_ema."]),
    ] {
        folder.write(&format!("{name}/config.json"), folder.text("m/config.json"));
        args += &format!(
            r#"
            let all = #{{ "optimizer.state.0.exp_avg": zeros([2]) / 0.0 }};
            for (prefix, i) in {prefixes:?} {{ for n in m.keys() {{ all[prefix + n] = m[n] + 0.5 * i; }} }}
            checkpoint::save_tensors(all, "{name}/model.safetensors");
            "#
        );
    }
    folder.run(&format!("let m = checkpoint::tensors(\"m\"); {args}")).succeeds();
    let said = folder.run(
        r#"
        let sum = checkpoint::load("m").checksum();
        for name in ["ddp", "nested", "lightning"] {
            if checkpoint::load(name).checksum() != sum { throw name; }
            let opened = checkpoint::open(name, "");
            if !("vit_nepa.embeddings.cls_token" in opened.tensors) { throw name; }
        }
        print(sum);
        checkpoint::load("averaged");
    "#,
    );
    said.fails(1).says(&[
        "averaged/model.safetensors holds several models, whose tensors begin with `state_dict.`, `state_dict_ema.`",
        "--prefix state_dict",
    ]);
    folder.nepa(&["import", "ddp", "ddp.in"]).succeeds().prints(&["module.vit_nepa.embeddings.cls_token"]);
    folder.nepa(&["import", "averaged", "x"]).fails(1).says(&["holds several models"]);
    folder.nepa(&["import", "averaged", "x", "--prefix", "ema"]).fails(1).says(&["--prefix ema", "`state_dict_ema.`"]);
    folder.nepa(&["import", "averaged", "ema", "--prefix", "state_dict_ema"]).succeeds();
    assert_eq!(folder.json("ema/provenance.json")["weights"], "ema");
    let shift = r#"
        let both = ["m", "ema"].map(|path| checkpoint::tensors(path)["vit_nepa.embeddings.cls_token"]);
        print((both[1] - both[0] - 0.5).abs().max().item() < 1e-6);
    "#;
    folder.run(shift).succeeds().prints(&["true"]);
    // Of another project, and a module that is filled from such a file.
    dinov3(&folder);
    let two = "let d = checkpoint::tensors(\"d\"); let all = #{};
         for n in d.keys() { all[\"state_dict.\" + n] = d[n]; all[\"state_dict_ema.\" + n] = d[n]; }
         for i in 0..201 { all[`optimizer.state.${i}.exp_avg`] = zeros([1]); }
         checkpoint::save_tensors(all, \"d/model.safetensors\");
         checkpoint::load_into(nn::linear(2, 2), \"d/model.safetensors\", #{ strict: false });";
    folder.run(two).fails(1).says(&["two sets of the same tensors, state_dict and state_dict_ema"]);
    let import = |more: &[&str]| folder.nepa(&[&["import", "d", "d.in"], &IMAGENET[..], more].concat());
    import(&[]).fails(1).says(&["begin with `state_dict.`, `state_dict_ema.`", "--prefix state_dict"]);
    import(&["--prefix", "state_dict_ema"]).succeeds().prints(&[
        "state_dict.norm.bias",
        "optimizer.…",
        "201 tensors outside of the model, `state_dict_ema.…`",
    ]);
    assert_eq!(folder.json("d.in/provenance.json")["weights"], "ema");
}

#[test]
fn positions_that_may_be_of_two_grids_are_not_guessed() {
    let folder = Folder::new();
    // Four registers and nine positions: 3 x 3 patches, or the class token, the registers and 2 x 2 patches.
    let tensors = r#"
        let all = #{ "patch_embed.proj.weight": randn([64, 3, 4, 4]), "patch_embed.proj.bias": zeros([64]), "cls_token": zeros([1, 1, 64]),
            "reg_token": zeros([1, 4, 64]), "pos_embed": randn([1, 9, 64]), "norm.weight": ones([64]), "norm.bias": zeros([64]) };
        for layer in [["norm1", 64, 0], ["norm2", 64, 0], ["attn.qkv", 192, 64], ["attn.proj", 64, 64], ["mlp.fc1", 128, 64], ["mlp.fc2", 64, 128]] {
            let shape = if layer[2] == 0 { [layer[1]] } else { [layer[1], layer[2]] };
            all[`blocks.0.${layer[0]}.weight`] = ones(shape);
            all[`blocks.0.${layer[0]}.bias`] = zeros([layer[1]]);
        }
        checkpoint::save_tensors(all, "t/model.safetensors");
    "#;
    folder.run(tensors).succeeds();
    let import = |dest: &str, args: Value| {
        let config = json!({
            "architecture": "vit_tiny_patch16_224", "model_args": args,
            "pretrained_cfg": { "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 224, 224] },
        });
        folder.write("t/config.json", config.to_string());
        folder.nepa(&["import", "t", dest, "--heads", "1"])
    };
    import("x", json!({})).fails(1).says(&["may be those of 3 x 3 patches, or of 2 x 2", "no_embed_class"]);
    for (dest, args, size) in [
        ("only", json!({ "no_embed_class": true }), 12),
        ("all", json!({ "no_embed_class": false }), 8),
        ("sized", json!({ "img_size": 12 }), 12),
    ] {
        import(dest, args).succeeds();
        assert_eq!(folder.json(&format!("{dest}/config.json"))["config"]["image_size"], size, "{dest}");
    }
}
