//! Frozen features and what is judged by them: against encode, brute force and a plain training loop.

use crate::common::*;

/// A model, images of Fashion-MNIST to learn from and others to test on.
const FASHION: &str = r#"
    import "std/features" as features;
    let m = nn::vit_nepa(#{ image_size: 28, patch_size: 7, num_channels: 1, hidden_size: 16, num_hidden_layers: 3,
        num_attention_heads: 2, layerscale_value: 1.0 });
    let train = data::idx(param("data", (), ""), "train").take(300);
    let test = data::idx(param("data", (), ""), "test").take(90);
"#;

fn fashion_script(script: &str, args: &[&str]) -> Said {
    let data = format!("data={}", fashion());
    Folder::new().run_with(&format!("{FASHION}{script}"), &[&["--set", &data][..], args].concat())
}

#[test]
fn features_are_what_encode_gives() {
    let said = fashion_script(
        r#"
        for p in m.named_parameters().values() { p.copy_(p + randn(p.shape) * 0.1); }
        m.train(true);
        let some = test.take(10);
        let norm = nn::layer_norm(16, #{ eps: m.config.layer_norm_eps });
        let own = m.named_parameters();
        norm.load_state_dict(#{ weight: own["vit_nepa.layernorm.weight"], bias: own["vit_nepa.layernorm.bias"] });
        for is_causal in [(), false] {
            let other = nn::vit_nepa(m.config + if is_causal == () { #{} } else { #{ is_causal: is_causal } });
            other.load_state_dict(m.state_dict());
            other.train(false);
            let batches = data::loader(some, [transform::normalize(0.5, 0.5)], #{ batch: 10, shuffle: false });
            for batch in batches.epoch(0) {
                let out = no_grad(|| other.encode(batch.images, #{ hidden_states: true }));
                for token in ["mean", "class", "last"] {
                    for final_norm in [(), true, false] {
                        let wanted = [2, "last", 0, ()];
                        let found = features::extract(m, some, #{ block: wanted, token: token, final_norm: final_norm, is_causal: is_causal, batch: 4 });
                        for (set, i) in found {
                            let at = [2, 3, 0, 1][i];
                            let normed = if final_norm == () { wanted[i] == "last" } else { final_norm };
                            let x = if normed && at == 3 { out.last_hidden_state } else { out.hidden_states[at] };
                            if normed && at < 3 { x = norm.forward(x); }
                            let expected = if token == "mean" { x[[(), 1..17]].mean(1) } else { x[[(), if token == "class" { 0 } else { 16 }]] };
                            print((set.features - expected).abs().max().item());
                            if !set.labels.equal(batch.labels) { throw "labels"; }
                        }
                    }
                }
            }
        }
        print(if m.training { 0.0 } else { 1.0 });
        let causal = features::extract(m, some, #{ block: "last" }).features;
        let both_ways = features::extract(m, some, #{ block: "last", is_causal: false }).features;
        if (causal - both_ways).abs().max().item() < 1e-3 { throw "attention makes no difference"; }
        "#,
        &[],
    );
    let differences = said.numbers().concat();
    assert_eq!(differences.len(), 2 * 3 * 3 * 4 + 1);
    assert!(differences.iter().all(|d| *d < 1e-5), "{differences:?}");
}

#[test]
fn no_more_blocks_are_computed_than_wanted() {
    let said = run(&format!(
        r#"
        let m = nn::vit_nepa({TINY} + #{{ num_hidden_layers: 3, num_labels: 5 }});
        m.train(false);
        let x = randn([2, 3, 8, 8]);
        let whole = m.encode(x, #{{ hidden_states: true }});
        for i in 0..=3 {{
            let part = m.encode(x, #{{ hidden_states: true, blocks: i }});
            let same = part.hidden_states.len() == i + 1;
            for (h, at) in part.hidden_states {{ same = same && h.equal(whole.hidden_states[at]); }}
            print([same, "logits" in part, part.last_hidden_state.equal(whole.last_hidden_state)]);
        }}
        "#
    ));
    let cut = [true, false, false];
    assert_eq!(said.values(), [cut, cut, cut, [true; 3]].map(serde_json::Value::from));

    let tiny = |script: &str| run(&format!("let tiny = {TINY}; let x = randn([2, 3, 8, 8]); {script}"));
    let said = tiny("nn::vit_nepa(tiny).encode(x, #{ blocks: 3 });");
    said.fails(1).says(&["blocks: expected 0 to 2", "found 3"]);
    let said = tiny("nn::vit_nepa(tiny, #{ encoder: nn::define(#{}, |m, x| x) }).encode(x, #{ blocks: 1 });");
    said.fails(1).says(&["cannot stop after block 1", "0 hidden states, expected 2"]);
}

#[test]
fn neighbours_are_those_of_brute_force_however_they_are_cut() {
    let ks = [1, 5, 20];
    let said = fashion_script(
        r#"
        let known = features::extract(m, train, #{ block: 2 });
        let tested = features::extract(m, test, #{ block: 2 });
        for x in [known.features, known.labels, tested.features, tested.labels] { print(x.reshape([-1]).to_array()); }
        for chunk in [8192, 37, 5] {
            let all = features::knn(m, train, test, #{ block: 2, k: [1, 5, 20], chunk: chunk });
            print(all.by_k.map(|pair| pair[1]));
            for k in [1, 5, 20] { print(features::knn(m, train, test, #{ block: 2, k: k, chunk: chunk }).predictions.to_array()); }
        }
        "#,
        &[],
    );
    let numbers = said.numbers();
    let expected = ks.map(|k| brute_force(&numbers[0], &numbers[1], &numbers[2], k, 0.07));
    for found in numbers[4..].chunks(4) {
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(&found[1 + i], expected, "k = {}", ks[i]);
            let hits = expected.iter().zip(&numbers[3]).filter(|(a, b)| a == b).count();
            assert_close(&[found[0][i]], &[100.0 * hits as f64 / 90.0], 1e-9);
        }
    }
}

/// The class that each query's k nearest keys of width 16 vote for, in float64.
fn brute_force(keys: &[f64], labels: &[f64], queries: &[f64], k: usize, temperature: f64) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = |a: &[f64], b: &[f64]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let vote = |query: &[f64]| {
        let mut near: Vec<(f64, f64)> =
            keys.chunks(16).map(|key| cosine(query, key)).zip(labels.iter().copied()).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = [0.0; 10];
        for (cosine, label) in &near[..k] {
            votes[*label as usize] += (cosine / temperature).exp();
        }
        (0..10).max_by(|a, b| votes[*a].total_cmp(&votes[*b])).unwrap() as f64
    };
    queries.chunks(16).map(vote).collect()
}

#[test]
fn a_probe_is_a_linear_classifier_trained_on_standardised_features() {
    let said = fashion_script(
        r#"
        let known = features::extract(m, train, #{ block: 1 });
        let tested = features::extract(m, test, #{ block: 1 });
        for batch_norm in [true, false] {
            let state = rng_state();
            let probe = features::linear_probe(m, train, test, #{ block: 1, lr: 2e-2, steps: 60, batch_norm: batch_norm });
            if rng_state() != state { throw "the generator moved"; }
            let mean = if batch_norm { known.features.mean(0) } else { 0.0 };
            let std = if batch_norm { known.features.std(0) + 1e-6 } else { 1.0 };
            let head = nn::linear(16, 10);
            rng_state(state);
            let opt = optim::adamw(head, #{ weight_decay: 0.1 });
            for step in 0..60 {
                loss::cross_entropy(head.forward((known.features - mean) / std), known.labels).backward();
                opt.step(2e-2 * (1.0 - step / 60.0));
            }
            let expected = no_grad(|| head.forward((tested.features - mean) / std)).argmax(1);
            print([probe.predictions.equal(expected), probe.lr == 0.02, probe.rates.is_empty(), probe.top1 > if batch_norm { 30.0 } else { 10.0 }]);
        }
        "#,
        &[],
    );
    for found in said.values() {
        assert_eq!(found, serde_json::json!([true, true, true, true]), "{said}");
    }
}

#[test]
fn each_rate_of_a_sweep_is_trained_as_if_it_were_alone() {
    let said = fashion_script(
        r#"
        for rounds in [#{ steps: 40 }, #{ epochs: 8, minibatch: 64 }] {
            let options = #{ block: 1 } + rounds;
            let sweep = features::linear_probe(m, train, test, options + #{ lr: [1e-4, 1e-2, 3e-2] });
            let best = 0.0;
            for rate in sweep.rates {
                // Beside itself: no other rate there.
                let alone = features::linear_probe(m, train, test, options + #{ lr: [rate[0], rate[0]] }).rates;
                print(alone == [rate, rate]);
                best = max(best, rate[1]);
            }
            // The best on the held-out images is taken, and trained on all.
            print(sweep.rates.filter(|rate| rate[1] == best)[0][0] == sweep.lr);
            let refit = features::linear_probe(m, train, test, options + #{ lr: sweep.lr });
            print(refit.top1 == sweep.top1);
            print(sweep.rates[0][1] < best);
        }
        "#,
        &[],
    );
    assert_eq!(said.values(), [true; 12]);
}

#[test]
fn predictions_depend_on_neither_batches_nor_threads_nor_other_blocks() {
    let script = r#"
        for batch in [7, 64] {
            for block in [[3], [0, 3]] {
                let o = #{ block: block, batch: batch, is_causal: false };
                for found in [features::knn(m, train, test, o), features::linear_probe(m, train, test, o + #{ lr: [1e-3, 1e-2], steps: 30 })] {
                    print(found[found.len() - 1].predictions.to_array());
                }
            }
        }
        "#;
    let all: Vec<Vec<Vec<f64>>> =
        ["1", "2"].map(|n| fashion_script(script, &["--threads", n]).numbers()).into_iter().collect();
    for kind in 0..2 {
        let first = &all[0][kind];
        for found in all.iter().flat_map(|run| run.iter().skip(kind).step_by(2)) {
            assert_eq!(found, first);
        }
    }
}

#[test]
fn what_cannot_be_judged_is_told() {
    for (call, pieces) in [
        ("knn(m, train, test, #{ k: 0 })", &["features::knn: k: expected a positive whole number", "found [0]"][..]),
        ("knn(m, train, test, #{ k: [] })", &["k: expected a positive whole number", "found []"]),
        ("knn(m, train, test, #{ temperature: 0.0 })", &["temperature: expected a positive number"]),
        ("knn(m, train, test, #{ token: \"cls\" })", &["expected \"mean\", \"class\" or \"last\", found \"cls\""]),
        ("knn(m, train, test, #{ is_causal: 1 })", &["is_causal: expected true, false or (), found 1"]),
        ("linear_probe(m, train, test, #{ lr: [1e-3, -1] })", &["lr: expected a positive number", "-1"]),
        ("linear_probe(m, train, test, #{ lr: [] })", &["lr: expected a positive number", "found []"]),
        ("linear_probe(m, train, test, #{ lrs: 1 })", &["unknown option `lrs` of features::linear_probe", "`lr`"]),
        ("linear_probe(m, train.take(9), test, #{ lr: [1e-3, 1e-2] })", &["at least 10 training images, found 9"]),
        ("linear_probe(m, train, test, #{ steps: 0 })", &["steps and epochs: expected at least 1, found 0"]),
        ("extract(m, test, #{ block: [0, 4] })", &["expected 0 to 3 or \"last\", found 4"]),
        ("extract(m, test, #{ block: [] })", &["block: expected a block"]),
        ("online(m, train, #{ block: [1] })", &["expected a single block"]),
        ("blocks(\"0,lst\", 3)", &["0 to 3 or \"last\"", "found \"0,lst\""]),
    ] {
        fashion_script(&format!("features::{call};"), &[]).fails(1).says(pieces);
    }
}

/// Runs a recipe on a model and data; what it said, and its folder.
fn judge(recipe: &str, model: &str, data: &str, sets: &[&str]) -> (Said, Folder) {
    let folder = Folder::new();
    let recipe = repository("recipes").join(recipe).display().to_string();
    let (model, data) = (format!("model={model}"), format!("data={data}"));
    let mut args = vec!["run", &recipe, "--device", "cpu", "--threads", "1", "--out", "out"];
    for set in [&model, &data].into_iter().map(String::as_str).chain(sets.iter().copied()) {
        args.extend(["--set", set]);
    }
    let said = folder.nepa(&args);
    (said, folder)
}

#[test]
fn the_recipes_compare_blocks_on_any_layout() {
    let models = Folder::new();
    models
        .run(
            r#"
            import "std/pretrain" as pretrain;
            let m = nn::vit_nepa(#{ image_size: 32, patch_size: 8, num_channels: 3, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 });
            pretrain::fit(m, data::synthetic(#{ len: 16, size: 32 }), #{ steps: 1, batch: 8 });
            checkpoint::save(m, run::path("model"));
            "#,
        )
        .succeeds();
    let runs = models.path("runs");
    let out = runs.join(&names_in(&runs)[0]);
    let steps = out.join("checkpoints/pretrain");
    let step = steps.join(&names_in(&steps)[0]);
    let data = repository("tests/fixtures/data");
    let places = [out.join("model"), step.join("model_raw"), step.join("model_ema"), out.join("model")];
    for (layout, model) in ["folder", "hf-disk", "parquet", "webdataset"].iter().zip(places) {
        let (model, data) = (model.display().to_string(), data.join(layout).display().to_string());
        let (said, folder) = judge("linear_probe.rhai", &model, &data, &["block=all", "epochs=2", "lr=[1e-3,1e-2]"]);
        said.succeeds().prints(&["block", "top-1 (%)", "0.01: "]);
        check(&folder, "linear_probe", &["0", "1", "2"]);
        let (said, folder) = judge("knn.rhai", &model, &data, &["block=0,last", "k=[3,5]", "is_causal=false"]);
        said.succeeds().prints(&["top-1 (%), k = 3", "top-1 (%), k = 5"]);
        check(&folder, "knn", &["0", "0", "\"last\"", "\"last\""]);
    }
}

/// The rows and the picture that a recipe left of several blocks.
fn check(folder: &Folder, phase: &str, blocks: &[&str]) {
    let metrics = folder.text("out/metrics.jsonl");
    let rows: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let rows: Vec<_> = rows.iter().filter(|r| r["phase"] == phase).collect();
    let found: Vec<String> = rows.iter().map(|r| r["block"].to_string()).collect();
    assert_eq!(found, blocks, "{metrics}");
    assert!(rows.iter().all(|r| (0.0..=100.0).contains(&r["top1"].as_f64().unwrap())), "{metrics}");
    assert!(image::image_dimensions(folder.path("out/blocks.png")).is_ok());
}

#[test]
fn the_recipes_judge_a_classification_model_of_the_reference_and_grey_images() {
    let data = repository("tests/fixtures/data/folder").display().to_string();
    let (said, folder) =
        judge("knn.rhai", &golden("gelu-affine.classify-causal-last"), &data, &["k=[3]", "token=last"]);
    said.succeeds().prints(&["top-1 (%), k = 3", "last"]);
    assert!(!folder.names("out").contains(&"blocks.png".into()), "one block is no curve");

    let model = Folder::new();
    let grey = TINY.replace("image_size: 8", "image_size: 28").replace("patch_size: 4", "patch_size: 14");
    let grey = grey.replace("num_channels: 3", "num_channels: 1");
    model.run(&format!("checkpoint::save(nn::vit_nepa({grey}), \"model\");")).succeeds();
    let path = model.path("model").display().to_string();
    let (said, _) = judge("linear_probe.rhai", &path, &fashion(), &["resize=28", "block=0", "epochs=20", "lr=[1e-2]"]);
    said.succeeds();
    let row = said.stdout.lines().find(|l| l.starts_with("0 ")).unwrap_or_else(|| panic!("{said}"));
    let top1: f64 = row.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(top1 > 40.0, "far above chance, 10 %: {said}");

    let (said, _) = judge("knn.rhai", &path, &fashion(), &["is_causal=maybe"]);
    said.fails(1).says(&["is_causal: expected true, false or model, found maybe"]);
}

#[test]
fn every_parameter_of_the_recipes_is_described() {
    for (name, own) in [("linear_probe", "batch_norm"), ("knn", "temperature")] {
        let recipe = repository("recipes").join(format!("{name}.rhai")).display().to_string();
        let folder = Folder::new();
        folder.nepa(&["check", &recipe]).succeeds().prints(&["ok"]);
        let help = folder.nepa(&["run", &recipe, "--help"]);
        help.succeeds().prints(&["model", "data", "block", "token", "final_norm", "is_causal", own]);
    }
}
