//! The examples that compare this implementation with the reference's own numbers.

use crate::common::*;

/// Runs examples/parity.rhai on a folder.
fn parity(dir: &str) -> Said {
    let recipe = repository("examples/parity.rhai").display().to_string();
    Folder::new().nepa(&["run", &recipe, "--device", "cpu", "--set", &format!("dir={dir}")])
}

/// Tensors of io.safetensors that are results, not inputs.
fn results(name: &str) -> usize {
    let bytes = std::fs::read(format!("{}/io.safetensors", golden(name))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.names().iter().filter(|n| !["pixel_values", "labels"].contains(n)).count()
}

fn agrees(name: &str) {
    let n = results(name);
    assert!(n > 20, "{name} holds few results: {n}");
    parity(&golden(name)).succeeds().prints(&[&format!("all {n} tensors agree"), "grad."]);
}

macro_rules! golden_folders {
    ($($test:ident $name:literal)*) => {
        $(#[test] fn $test() { agrees($name); })*

        #[test]
        fn every_golden_folder_has_a_test() {
            let mut tested = vec![$($name),*];
            tested.sort();
            assert_eq!(golden_names(), tested);
        }
    };
}

golden_folders! {
    gelu_with_affine_qk_norm_agrees "gelu-affine"
    gelu_with_plain_qk_norm_agrees "gelu-plain-qknorm"
    swiglu_agrees "swiglu"
    without_layer_scale_and_qk_norm_agrees "no-layerscale-no-qknorm"
    classification_by_pooling_agrees "gelu-affine.classify-bidirectional-pool"
    classification_by_last_token_agrees "gelu-affine.classify-causal-last"
    classification_by_last_token_with_a_gated_mlp_agrees "reference-cls-last-gated"
    the_intermediate_loss_agrees "reference-intermediate"
    a_single_layer_agrees "reference-one-layer"
    qk_norm_with_bias_agrees "reference-qknormbias"
    two_layers_without_layer_scale_agree "reference-two-layer-nols"
}

#[test]
fn a_weight_that_is_off_by_a_percent_is_noticed() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "model");
    folder
        .run(
            r#"
            let tensors = checkpoint::tensors("model");
            let name = "vit_nepa.encoder.layer.1.attention.attention.value.weight";
            tensors[name] = tensors[name] * 1.01;
            checkpoint::save_tensors(tensors, "model/model.safetensors");
            "#,
        )
        .succeeds();
    let dir = folder.path("model").display().to_string();
    parity(&dir)
        .fails(1)
        .prints(&["last_hidden_state", "DIFFERS"])
        .says(&["tensors differ from the reference", "loss"]);
}

#[test]
fn another_configuration_than_the_weights_were_made_with_is_noticed() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "model");
    let config = folder.text("model/config.json").replace("\"rope_theta\": 100.0", "\"rope_theta\": 50.0");
    folder.write("model/config.json", config);
    let dir = folder.path("model").display().to_string();
    parity(&dir).fails(1).says(&["tensors differ from the reference"]);
}

#[test]
fn training_agrees() {
    let recipe = repository("examples/train_parity.rhai").display().to_string();
    let dir = format!("dir={}", repository("tests/fixtures/train").display());
    let said = Folder::new().nepa(&["run", &recipe, "--device", "cpu", "--set", &dir]);
    said.succeeds().prints(&["the training agrees with the reference", "final weights", "llrd_cosine_warmup"]);
}

#[test]
fn training_with_another_learning_rate_is_noticed() {
    let folder = Folder::new();
    for file in names_in(&repository("tests/fixtures/train")) {
        folder.write(&file, std::fs::read(repository("tests/fixtures/train").join(&file)).unwrap());
    }
    let mut trace = folder.json("pretrain-trace.json");
    trace["peak_lr"] = (trace["peak_lr"].as_f64().unwrap() * 1.1).into();
    folder.write("pretrain-trace.json", trace.to_string());
    let recipe = repository("examples/train_parity.rhai").display().to_string();
    let said = folder.nepa(&["run", &recipe, "--device", "cpu", "--set", "dir=."]);
    said.fails(1).says(&["differ from the reference", "final weights"]);
}
