//! What training costs, counted from a configuration, beside other counts.

use crate::common::*;
use serde_json::{Value, json};

fn cost(model: &str, options: &str) -> Value {
    let said = Folder::on_cpu().run(&format!("let m = {model};\nprint(m.cost(#{{ {options} }}).to_json());"));
    said.values()[0].clone()
}

#[test]
fn parameters_are_those_of_the_models_themselves() {
    for name in golden_names() {
        let said = run(&format!(
            "let m = checkpoint::load(\"{}\"); print(m.cost(#{{}}).parameters); print(m.num_parameters());",
            golden(&name)
        ));
        let values = said.values();
        assert_eq!(values[0], values[1], "{name}");
    }
}

#[test]
fn operations_of_the_base_model_are_those_of_a_count_by_hand() {
    // 257 tokens of width 768 in 12 blocks; a block: q, k, v and output of 768 x 768, scores and mix of 257 x 257 x 768,
    // an mlp of 768 x 3072 and back; patches of 14 x 14 x 3.
    let block = 2.0 * 257.0 * (4.0 * 768.0 * 768.0 + 2.0 * 257.0 * 768.0 + 2.0 * 768.0 * 3072.0);
    let forward = 12.0 * block + 2.0 * 256.0 * 768.0 * 588.0;
    assert_eq!(forward, 46_322_454_528.0);
    let c = cost("nn::vit_nepa(#{})", "batch: 4");
    assert_eq!(c["flops_per_image"].as_f64(), Some(forward));
    assert_eq!((c["tokens"].as_i64(), c["parameters"].as_i64()), (Some(257), Some(85_529_088)));
    assert_eq!(c["flops_per_step"].as_f64(), Some(4.0 * 3.0 * forward));
    let again = cost("nn::vit_nepa(#{})", "batch: 4, recompute: true");
    assert_eq!(again["flops_per_step"].as_f64(), Some(4.0 * (3.0 * forward + 12.0 * block)));
    // A gated mlp has one product more, a head one of its own.
    let gated = cost("nn::vit_nepa(#{ use_gated_mlp: true, num_labels: 1000 })", "");
    let more = 12.0 * 2.0 * 257.0 * 768.0 * 3072.0 + 2.0 * 768.0 * 1000.0;
    assert_eq!(gated["flops_per_image"].as_f64(), Some(forward + more));
}

#[test]
fn memory_counts_weights_moments_averages_and_activations() {
    let m = cost("nn::vit_nepa(#{})", "batch: 8")["memory"].clone();
    let state = 4 * 85_529_088i64;
    let parts = ["weights", "gradients", "optimizer", "ema", "activations"];
    let [weights, gradients, optimizer, ema, activations] = parts.map(|p| m[p].as_i64().unwrap());
    assert_eq!([weights, gradients, optimizer, ema], [state, state, 2 * state, state]);
    assert_eq!(m["total"], json!(5 * state + activations));
    let with = |options| cost("nn::vit_nepa(#{})", options)["memory"]["activations"].as_i64().unwrap();
    assert_eq!(with("batch: 16"), 2 * activations);
    // With many images the casts of weights do not count.
    assert!(with("batch: 64, dtype: \"bfloat16\"") < with("batch: 64") * 3 / 4);
    assert!(with("batch: 8, recompute: true") < activations / 5);
}

#[test]
fn what_cannot_be_counted_is_told() {
    let told = |line: &str, pieces: &[&str]| {
        run(line).fails(1).says(pieces);
    };
    told("nn::linear(2, 2).cost(#{});", &["cost: expected a model made by nn::vit_nepa, found linear(2 -> 2)"]);
    told(
        &format!("nn::vit_nepa({TINY}).cost(#{{ dtype: \"bf16\" }});"),
        &["unknown dtype \"bf16\"", "bfloat16 and float32"],
    );
    told(&format!("nn::vit_nepa({TINY}).cost(#{{ batch: 0 }});"), &["batch must be positive, found 0"]);
    told(
        &format!("nn::vit_nepa({TINY}, #{{ encoder: nn::define(#{{}}, |m, x| x) }}).cost(#{{}});"),
        &["cost: the part `encoder`, module(), does not say how many operations it takes", "#{ flops: N }"],
    );
}

#[test]
fn the_rate_of_matrix_products_is_measured() {
    let said = run("print(matmul_rate(\"float32\"));");
    // From a slow core under load to many fast ones.
    assert!((1e8..1e15).contains(&said.numbers()[0][0]), "{said}");
}
