//! Models that a script builds: they go where a plain ViT-NEPA goes, and come back from their folders as they were.

use crate::common::{Folder, Said, names_in, repository, run};
use serde_json::{Value, json};

/// A model whose blocks, patch embedding and head are its own; part of it lies in another script.
const OWN: &str = r#"
// A key of its own, `mix`, and everything else as in nn::vit_nepa.
import "../lib/mixing" as mixing;

fn build(config) {
    if !("mix" in config) { config.mix = 2.0; }
    let mix = config.remove("mix");
    let layer = [];
    for i in 0..config.num_hidden_layers { layer.push(block(config, mix)); }
    let head = if config.num_labels > 0 {
        nn::define(#{ map: nn::linear(config.hidden_size, config.num_labels) }, |m, x| m.map.forward(x.mean(1)))
    } else { () };
    let parts = #{ layer: layer, layernorm: nn::layer_norm(config.hidden_size, #{ eps: 1e-6 }) };
    if head != () { parts.classifier = head; }
    nn::vit_nepa(config, parts)
}

private fn block(config, mix) {
    import "../lib/mixing" as mixing;
    let parts = #{ attention: nn::attention(config), norm: nn::layer_norm(config.hidden_size), mix: mix };
    nn::define(parts, |m, x| {
        import "../lib/mixing" as mixing;
        x + mixing::mixed(m.attention.forward(m.norm.forward(x)), m.mix)
    }, #{ flops: parts.attention.flops(5) })
}
"#;
const MIXING: &str = "fn mixed(x, by) { x * by }";

fn own(folder: &Folder) {
    folder.write("mine/models/own.rhai", OWN);
    folder.write("mine/lib/mixing.rhai", MIXING);
}

fn recipe(folder: &Folder, name: &str, out: &str, sets: &[&str]) -> Said {
    let recipe = repository(&format!("recipes/{name}.rhai")).display().to_string();
    let mut args = vec!["run", &recipe, "--device", "cpu", "--threads", "1", "--out", out];
    for set in sets {
        args.extend(["--set", set]);
    }
    folder.nepa(&args)
}

#[test]
fn a_model_of_a_script_goes_through_the_unchanged_recipes() {
    let folder = Folder::new();
    own(&folder);
    let data = format!("data={}", repository("tests/fixtures/data/folder").display());
    let small = ["image_size=28", "hidden_size=16", "layers=2", "heads=2", "batch=8", "micro_batch=8", "steps=150"];
    let model = ["model_script=mine/models/own.rhai", "evaluate_every=0", "dtype=float32", data.as_str()];
    let sets = [&small[..], &model[..]].concat();

    // Pretrained, stopped, resumed: to the bit what it is undisturbed.
    recipe(&folder, "pretrain_vits", "whole", &sets).succeeds();
    let pretrain = repository("recipes/pretrain_vits.rhai").display().to_string();
    let mut args = vec!["run", &pretrain, "--device", "cpu", "--threads", "1", "--out", "out"];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    let running = folder.start(&args, &[]);
    let logged = || std::fs::metadata(folder.path("out/metrics.jsonl")).is_ok_and(|about| about.len() > 0);
    while !logged() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.signal(libc::SIGTERM);
    running.finish().fails(143);
    let text = folder.text("mine/lib/mixing.rhai");
    folder.write("mine/lib/mixing.rhai", text.replace("x * by", "x * by * 3"));
    folder.nepa(&[&args[..], &["--resume"]].concat()).fails(1).says(&["its scripts have changed", "lib/mixing.rhai"]);
    folder.write("mine/lib/mixing.rhai", MIXING);
    folder.nepa(&[&args[..], &["--resume"]].concat()).succeeds().says(&["resumed from step"]);
    for file in ["model/model.safetensors", "model-ema/model.safetensors"] {
        assert!(folder.read(&format!("out/{file}")) == folder.read(&format!("whole/{file}")), "{file}");
    }

    // What is saved is how it is built. The scripts themselves are no longer needed.
    let config = folder.json("out/model-ema/config.json");
    assert_eq!((&config["model_type"], &config["script"]), (&json!("nepa_script"), &json!("models/own.rhai")));
    assert_eq!((&config["config"]["mix"], &config["architectures"]), (&Value::Null, &Value::Null));
    assert_eq!(folder.text("out/model-ema/model_script/models/own.rhai"), OWN);
    assert_eq!(folder.text("out/checkpoints/pretrain/step-00000150/model_raw/model_script/lib/mixing.rhai"), MIXING);
    std::fs::remove_dir_all(folder.path("mine")).unwrap();
    folder.nepa(&["inspect", "out/model-ema"]).succeeds().prints(&["built by models/own.rhai", "hidden_size"]);

    let sets = ["batch=8", "micro_batch=8", "epochs=1", "dtype=float32", "weights=ema", "model=out", &data];
    recipe(&folder, "finetune_vitb", "tuned", &sets).succeeds().prints(&["best averaged weights: top-1", "tuned/best"]);
    let config = folder.json("tuned/best/config.json");
    assert_eq!((&config["config"]["is_causal"], &config["config"]["num_labels"]), (&json!(false), &json!(4)));
    let tensors = folder.nepa(&["inspect", "tuned/best"]);
    tensors.succeeds().prints(&["classifier.map.weight", "vit_nepa.encoder.layer.1.attention.attention.query.weight"]);

    let model = "model=out/model-ema";
    recipe(&folder, "linear_probe", "probe", &[model, &data, "block=all", "epochs=1", "lr=[1e-2]"]).succeeds();
    recipe(&folder, "knn", "knn", &[model, &data, "block=0,last", "k=[3]", "is_causal=false"]).succeeds();
    recipe(&folder, "visualize", "maps", &[model, &data, "images=0", "patches=0,1", "split=validation"])
        .succeeds()
        .prints(&["3 maps"]);
    let sets = ["model=tuned/best", "imagenet=", &data, "batch=4"];
    recipe(&folder, "eval_imagenet1k", "scores", &[sets[0], sets[2], sets[3]]).succeeds().prints(&["top-1"]);
    folder.nepa(&["report", "tuned"]).succeeds();
    assert!(folder.text("tuned/report.html").contains("built by models/own.rhai"));
}

/// Builds the model of a file, with what follows; m is the model.
fn with(folder: &Folder, script: &str, extra: &str, then: &str) -> Said {
    folder.run(&format!(
        "let config = #{{ image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 16, num_hidden_layers: 2,
             num_attention_heads: 4, drop_path_prob: 0.2 }} + {extra};
         let m = nn::build(\"{script}\", config);
         let x = randn([3, 1, 8, 8]);
         {then}"
    ))
}

#[test]
fn each_example_trains_and_comes_back_from_its_folder() {
    for name in names_in(&repository("examples/models")) {
        let script = repository(&format!("examples/models/{name}")).display().to_string();
        let folder = Folder::new();
        let then = r#"
            import "std/pretrain" as pretrain;
            import "std/finetune" as finetune;
            let images = data::synthetic(#{ len: 16, size: 8, channels: 1, classes: 2 });
            let plain = [transform::normalize(0.5, 0.5)];
            m.recompute(true);
            let result = pretrain::fit(m, images, #{ steps: 3, batch: 8, transforms: plain });
            m.train(false);
            let out = no_grad(|| m.encode(x, #{ hidden_states: true, attentions: true }));
            checkpoint::save(m, "saved");
            let again = checkpoint::load("saved");
            again.train(false);
            let same = no_grad(|| again.encode(x, #{ hidden_states: true, attentions: true }));
            let off = (out.last_hidden_state - same.last_hidden_state).abs().max().item();
            print([off, out.hidden_states.len(), out.attentions.len(), out.attentions[0].sum(-1).mean().item()]);
            print((no_grad(|| m.encode(x, #{ blocks: 1 })).last_hidden_state
                - m.final_norm(out.hidden_states[1])).abs().max().item());
            let classifier = finetune::classifier(m, 2, #{});
            finetune::fit(classifier, images, #{ epochs: 1, batch: 8, llrd: 0.5, transforms: plain });
            let ids = classifier.layer_ids();
            print(ids.values().reduce(|a, b| max(a, b), 0));
            let cost = classifier.cost(#{ batch: 2 });
            print([cost.parameters - classifier.num_parameters(), cost.flops_per_image]);
            print(m.describe());
        "#;
        let said = with(&folder, &script, "#{}", then);
        said.succeeds().prints(&[&format!("built by {name}")]);
        let lines: Vec<&str> = said.stdout.lines().collect();
        let first: Vec<f64> = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(&first[..3], [0.0, 3.0, 2.0], "{name}: {said}");
        assert!((first[3] - 1.0).abs() < 1e-5, "{name}: rows of attention sum to 1");
        assert!(lines[1].parse::<f64>().unwrap() < 1e-6, "{name}: {said}");
        assert_eq!(lines[2], "2", "{name}: the layers of two blocks");
        let cost: Vec<i64> = serde_json::from_str(lines[3]).unwrap();
        assert!(cost[0] == 0 && cost[1] > 10_000, "{name}: {said}");
        assert_eq!(folder.json("saved/config.json")["model_type"], "nepa_script", "{name}");
    }
}

/// The same operations written as a script's module and as the built-in one give the same numbers.
#[test]
fn a_part_of_ones_own_does_what_the_built_in_one_does() {
    let folder = Folder::new();
    let grouped = repository("examples/models/grouped_query_attention.rhai").display().to_string();
    let then = r#"
        let plain = nn::vit_nepa(config);
        let named = m.state_dict();
        let tensors = #{};
        for name in named.keys() {
            let theirs = name;
            theirs.replace(".attention.query", ".attention.attention.query");
            theirs.replace(".attention.key", ".attention.attention.key");
            theirs.replace(".attention.value", ".attention.attention.value");
            theirs.replace(".attention.q_norm", ".attention.attention.q_norm");
            theirs.replace(".attention.k_norm", ".attention.attention.k_norm");
            if name.contains(".attention.output.") { theirs.replace(".attention.output.", ".attention.output.dense."); }
            tensors[theirs] = named[name];
        }
        plain.load_state_dict(tensors);
        for model in [m, plain] { model.train(false); }
        let one = m.encode(x, #{ attentions: true });
        let two = plain.encode(x, #{ attentions: true });
        print([(one.last_hidden_state - two.last_hidden_state).abs().max().item(),
            (m.encode(x).last_hidden_state - two.last_hidden_state).abs().max().item(),
            (one.attentions[1] - two.attentions[1]).abs().max().item()]);
        print([m.cost(#{}).flops_per_image, plain.cost(#{}).flops_per_image]);
    "#;
    for causal in ["true", "false"] {
        let own = format!("#{{ num_key_value_heads: 4, qk_norm_bias: true, is_causal: {causal} }}");
        let then = then
            .replace("nn::vit_nepa(config)", "{ let c = config; c.remove(\"num_key_value_heads\"); nn::vit_nepa(c) }");
        let said = with(&folder, &grouped, &own, &then);
        let found = said.succeeds().numbers();
        assert!(found[0].iter().all(|off| *off < 1e-5), "{said}");
        assert_eq!(found[1][0], found[1][1], "operations");
    }
}

#[test]
fn the_model_in_the_documentation_builds() {
    let text = std::fs::read_to_string(repository("docs/models.md")).unwrap();
    let block = text.split("```").find(|block| block.starts_with("rhai") && block.contains("fn build(config)"));
    let folder = Folder::new();
    folder.write("mine.rhai", block.expect("an example").trim_start_matches("rhai"));
    let then = "print(nn::build(\"mine.rhai\", #{ hidden_size: 24, num_attention_heads: 2, num_hidden_layers: 1 })
        .encode(randn([1, 3, 224, 224])).last_hidden_state.shape);";
    folder.run(then).succeeds().prints(&["[1, 257, 24]"]);
}

#[test]
fn what_cannot_be_built_or_built_again_is_told() {
    let folder = Folder::new();
    let plain = "nn::vit_nepa(config)";
    for (body, pieces) in [
        ("fn biuld(config) { 1 }".to_string(), &["m.rhai has no function build(config)", "did you mean `biuld`?"][..]),
        ("fn build(config) { 7 }".into(), &["build(config) must return a model, found the integer 7"]),
        ("fn build(config) { nn::linear(2, 2) }".into(), &["must return a model, found the module linear(2 -> 2)"]),
        (format!("fn build(config) {{ config.hiden = 3; {plain} }}"), &["m.rhai:1", "unknown option `hiden`", "in `build`, from recipe.rhai:3:"]),
        ("fn build(config) { config.remove(\"num_labels\"); nn::vit_nepa(config) }".into(), &[
            "was given num_labels 3, and built a model with 0",
        ]),
        (format!("fn build(config) {{ data::synthetic(#{{}}); {plain} }}"), &[
            "data::synthetic cannot be called by a script that builds a model",
        ]),
        (format!("fn build(config) {{ let p = param(\"a\", 1); {plain} }}"), &["param cannot be called"]),
        // It would change what the run draws after it.
        (format!("fn build(config) {{ seed(5); {plain} }}"), &["seed cannot be called"]),
        ("fn build(config) { nn::vit_nepa(config, #{ layernorm: nn::define(#{}, |m, x| { read_json(\"x\"); x }) }) }".into(), &[
            "read_json cannot be called by a script that builds a model",
        ]),
        (format!("fn build(config) {{ let p = \"./\" + \"x\"; import p as x; {plain} }}"), &["m.rhai, line 1", "is computed"]),
        ("fn build(config) { nn::vit_nepa(config, #{ layers: [] }) }".into(), &["unknown part `layers`", "`layer`"]),
        ("fn build(config) { nn::vit_nepa(config, #{ layer: [nn::layer_norm(16)] }) }".into(), &["expected 2 blocks", "found 1"]),
        ("fn build(config) { nn::vit_nepa(config, #{ encoder: nn::blocks(config + #{ num_hidden_layers: 3 }) }) }".into(), &[
            "has 3 blocks, but num_hidden_layers is 2",
        ]),
        ("fn build(config) { nn::vit_nepa(config, #{ rotary: nn::define(#{}, |m, x| zeros([2, 3, 4])) }) }".into(), &[
            "`rotary` must give cosines and sines [2, 4, 4]", "found [2, 3, 4]",
        ]),
    ] {
        folder.write("m.rhai", &body);
        with(&folder, "m.rhai", "#{ num_labels: 3 }", "m.encode(x);").fails(1).says(pieces);
    }
    with(&folder, "n.rhai", "#{}", "").fails(1).says(&["n.rhai does not exist", "m.rhai"]);

    // Parts that a recipe makes cannot be built again, and nothing takes their folder for a plain model's.
    let composed = "let m = nn::vit_nepa(#{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1,
        num_attention_heads: 2 }, #{ layernorm: nn::layer_norm(8) });\n";
    folder.run(&format!("{composed}checkpoint::save(m, \"parts\");")).succeeds();
    assert_eq!(folder.json("parts/config.json")["model_type"], "nepa_parts");
    folder.run("checkpoint::load(\"parts\");").fails(1).says(&["parts of its own (layernorm)", "nn::build"]);
    folder
        .run(&format!("{composed}nn::build(m.script, m.config);"))
        .fails(1)
        .says(&["(layernorm)", "fn build(config)"]);
    folder
        .run(&format!("{composed}checkpoint::load_into(m, \"parts\"); print(\"filled\");"))
        .succeeds()
        .prints(&["filled"]);
}

#[test]
fn a_models_folder_brings_only_its_own_scripts() {
    let folder = Folder::new();
    folder.write("elsewhere.rhai", "fn f() { 1 }");
    folder.write("m.rhai", "fn build(config) { nn::vit_nepa(config) }");
    with(&folder, "m.rhai", "#{}", "checkpoint::save(m, \"saved\");").succeeds();
    folder.run("checkpoint::load(\"saved\");").succeeds();
    for (import, piece) in [("../../elsewhere", "which is not kept with the model"), ("gone", "cannot find the module")]
    {
        let text = format!("fn build(config) {{ import \"{import}\" as e; nn::vit_nepa(config) }}");
        folder.write("saved/model_script/m.rhai", text);
        folder.run("checkpoint::load(\"saved\");").fails(1).says(&[piece]);
    }
    // Two folders with scripts of one name do not get in each other's way.
    folder.write(
        "m.rhai",
        "fn build(config) { nn::vit_nepa(config, #{ layernorm: nn::layer_norm(config.hidden_size) }) }",
    );
    let then =
        "checkpoint::save(m, \"other\"); checkpoint::load(\"other\"); print(checkpoint::load(\"first\").describe());";
    folder.write("first/keep", "");
    std::fs::remove_dir_all(folder.path("first")).unwrap();
    folder.write("saved/model_script/m.rhai", "fn build(config) { nn::vit_nepa(config) }");
    std::fs::rename(folder.path("saved"), folder.path("first")).unwrap();
    with(&folder, "m.rhai", "#{}", then).succeeds().prints(&["built by m.rhai"]);
    std::fs::remove_file(folder.path("first/model_script/m.rhai")).unwrap();
    folder.run("checkpoint::load(\"first\");").fails(1).says(&["does not hold the script m.rhai"]);
}

#[test]
fn the_parts_of_a_module_can_be_reached() {
    let said =
        run("let m = nn::define(#{ head: nn::linear(4, 2), scale: ones([2]), layers: [nn::linear(2, 2)], n: 3 },
             |m, x| m.head.forward(x) * m.scale);
         print(m.parts.keys());
         let x = ones([1, 4]);
         print(m.parts.head.forward(x).allclose(m.forward(x)));
         no_grad(|| m.parts.scale.fill_(0.0));
         print([m.forward(x).sum().item(), m.parts.layers.len(), m.parts.n]);");
    said.succeeds().prints(&["[\"head\", \"layers\", \"n\", \"scale\"]", "true", "[0.0, 1, 3]"]);
    run("nn::linear(4, 2).parts;").fails(1).says(&["linear(4 -> 2) has no parts: only modules that nn::define made"]);
}
