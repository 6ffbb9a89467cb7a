//! Held-out images: never those of training, and prepared as those of training were.

use crate::common::*;

/// A model and images of two sets, with the libraries that judge it.
const BEGIN: &str = r#"
import "std/pretrain" as pretrain;
import "std/finetune" as finetune;
import "std/evaluate" as evaluate;
import "std/features" as features;
import "std/retrieval" as retrieval;
import "std/splits" as splits;
let config = #{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 };
let train = data::synthetic(#{ len: 24, classes: 3, size: 8, channels: 3, seed: 1 });
let test = data::synthetic(#{ len: 12, classes: 3, size: 8, channels: 3, seed: 2 });
"#;

fn script(rest: &str) -> Said {
    run(&format!("{BEGIN}{rest}"))
}

#[test]
fn images_that_would_find_themselves_are_refused() {
    let model = "let model = nn::vit_nepa(config);";
    for judge in ["knn(model, train, train, #{ k: 1 })", "linear_probe(model, train, train, #{ steps: 2 })"] {
        script(&format!("{model} features::{judge};"))
            .fails(1)
            .says(&["the images to learn from and to test on are the same"]);
    }
    script(&format!(
        "{model} features::online(model, train, #{{ held_out: train, images: 24 }});
         features::knn(model, train, test, #{{ k: 1 }});"
    ))
    .fails(1)
    .says(&["features::online: the images to learn from and to test on are the same"]);
    // Copies under another name may be meant; of those it warns.
    let folder = Folder::new();
    for (place, i) in ["a", "b"].into_iter().flat_map(|place| (0..6u8).map(move |i| (place, i))) {
        let path = folder.path(&format!("{place}/c{}/{i}.png", i % 2));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(8, 8, image::Rgb([i * 40; 3])).save(path).unwrap();
    }
    folder
        .run(&format!("{BEGIN}{model} features::knn(model, data::open(\"a\"), data::open(\"b\"), #{{ k: 1 }});"))
        .succeeds()
        .says(&["warning: features::knn: the images to test on seem to be the same pictures as those to learn from"]);
    // A gallery of the queries themselves is none: each is searched for among the others.
    script(&format!(
        "{model}
         let others = retrieval::evaluate(model, train, (), #{{}});
         let same = retrieval::evaluate(model, train, train, #{{}});
         print([others.map == same.map, others.recall == same.recall, same.map < 100.0]);"
    ))
    .prints(&["[true, true, true]"])
    .says(&["the gallery are the queries: each is searched for among the others"]);
}

#[test]
fn two_names_of_one_split_are_not_training_and_held_out_images() {
    let folder = Folder::new();
    for i in 0..6u8 {
        let path = folder.path(&format!("data/val/c{}/{i}.png", i % 2));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(8, 8, image::Rgb([i * 40; 3])).save(path).unwrap();
    }
    let both = |train| {
        let script =
            format!("import \"std/splits\" as splits; let sets = splits::both(\"data\", \"{train}\", \"validation\");");
        folder.run(&script)
    };
    both("val").fails(1).says(&[
        "data: the splits \"val\" and \"validation\" are the same images",
        "held_out_split=\"\" holds out a fifth",
    ]);
}

#[test]
fn evaluation_prepares_images_as_training_did_unless_it_is_told_otherwise() {
    let said = script(
        r#"
        let normalize = transform::normalize([0.2, 0.3, 0.4], [0.1, 0.2, 0.3]);
        let model = nn::vit_nepa(config + #{ num_labels: 3, is_causal: false });
        let result = finetune::fit(model, train, #{
            epochs: 2, batch: 8, lr: 1e-2, transforms: [normalize], evaluate: #{ images: test },
        });
        print(model.training);
        let score = |options| evaluate::classify(model, test, options).loss;
        let own = score.call(#{});
        print([own == score.call(#{ transforms: [normalize] }), own == score.call(#{ transforms: [transform::normalize(0.5, 0.5)] })]);
        let features = |options| features::extract(model, test, options).features;
        let own = features.call(#{});
        print([own.equal(features.call(#{ transforms: [normalize] })), own.equal(features.call(#{ transforms: [transform::normalize(0.5, 0.5)] }))]);
        // The loop's own evaluation did so too.
        let logged = run::path("metrics.jsonl");
        print(fixed(evaluate::classify(model, test, #{}).top1, 4));
        print(fixed(result.evaluations[1][1], 4));
        // After the training, a function finds the model in evaluation mode.
        let dropped = nn::vit_nepa(config + #{ num_labels: 3, is_causal: false, drop_path_prob: 0.9 });
        finetune::fit(dropped, train, #{ epochs: 1, batch: 8, transforms: [normalize] });
        let twice = [0, 1].map(|i| evaluate::classify_each(#{ f: |x| dropped.forward(x) }, test, #{ transforms: [normalize] }).f.loss);
        print(twice[0] == twice[1]);
        "#,
    );
    said.succeeds();
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines[..3], ["false", "[true, false]", "[true, false]"], "{said}");
    assert_eq!(lines[3], lines[4], "{said}");
    assert_eq!(lines[5], "true", "{said}");
}

#[test]
fn an_evaluation_that_cannot_work_is_refused_before_the_training() {
    let large = "let large = data::synthetic(#{ len: 12, classes: 3, size: 12, channels: 3 });
                 let model = nn::vit_nepa(config + #{ num_labels: 3, is_causal: false });";
    let fit = |evaluate: &str| {
        script(&format!("{large} finetune::fit(model, train, #{{ epochs: 1, batch: 8, evaluate: {evaluate} }});"))
    };
    let said = fit("#{ images: large }");
    said.fails(1).says(&["evaluate: transforms: expected images [3, 8, 8], as in training, found [3, 12, 12]"]);
    assert!(!said.stderr.contains("1 epochs"), "{said}");
    fit("#{ images: large, transforms: [transform::resize(8)] }").succeeds();
    fit("#{ images: train }").succeeds().says(&["the images to evaluate on are those of training"]);
    for n in ["0", "-1"] {
        fit(&format!("#{{ images: test, every_epochs: {n} }}"))
            .fails(1)
            .says(&["every_epochs: expected a whole number of at least 1"]);
    }
    let pretrain = |options: &str| {
        script(&format!("pretrain::fit(nn::vit_nepa(config), train, #{{ epochs: 1, batch: 8, {options} }});"))
    };
    for n in ["0", "-3"] {
        pretrain(&format!("evaluate: #{{ every_steps: {n} }}"))
            .fails(1)
            .says(&["every_steps: expected a whole number of at least 1", "without evaluate there is none"]);
    }
    for mask in ["40.0", "-0.1", "1.0"] {
        pretrain(&format!("input_mask: {mask}"))
            .fails(1)
            .says(&["input_mask: expected a fraction of at least 0 and below 1, found"]);
    }
}

#[test]
fn other_held_out_images_begin_a_new_comparison() {
    let folder = Folder::new();
    let recipe = format!(
        "{BEGIN}
        let model = nn::vit_nepa(config + #{{ num_labels: 3, is_causal: false }});
        let other = data::synthetic(#{{ len: 15, classes: 3, size: 8, channels: 3, seed: 3 }});
        let result = finetune::fit(model, train, #{{
            epochs: param(\"epochs\", 1), batch: 8, lr: 1e-3, ema: 0.5,
            evaluate: #{{ images: if param(\"other\", false) {{ other }} else {{ test }} }},
        }});
        print(result.best.epoch);"
    );
    folder.run_with(&recipe, &["--out", "o"]).succeeds();
    let said = folder.run_with(&recipe, &["--out", "o", "--set", "epochs=2", "--set", "other=true"]);
    said.succeeds().says(&["evaluate.images: was ", "the held-out images are others than before"]);
    said.prints(&["1"]);
}

#[test]
fn a_gallery_of_copies_of_the_queries_is_warned_of() {
    let folder = Folder::new();
    for (place, i) in ["a", "b"].into_iter().flat_map(|place| (0..6u8).map(move |i| (place, i))) {
        let path = folder.path(&format!("{place}/c{}/{i}.png", i % 2));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(8, 8, image::Rgb([i * 40; 3])).save(path).unwrap();
    }
    let search = "retrieval::evaluate(nn::vit_nepa(config), data::open(\"a\"), data::open(\"b\"), #{});";
    folder
        .run(&format!("{BEGIN}{search}"))
        .succeeds()
        .says(&["warning: retrieval::evaluate: the images to test on seem"]);
}

/// Without a class token the first token is a patch like the others.
#[test]
fn all_patches_of_a_model_without_class_token_count() {
    let said = script(
        r#"
        let plain = nn::define(#{}, |m, x| x);
        let model = nn::vit_nepa(config + #{ num_labels: 3, is_causal: false }, #{ class_token: plain });
        model.train(false);
        let parts = model.named_parameters();
        let found = features::extract(model, test, #{ block: 1, final_norm: false });
        let batch = data::loader(test, evaluate::own_normalization(model), #{ batch: 12, shuffle: false }).epoch(0).next();
        let out = model.encode(batch.images, #{ hidden_states: true });
        print(out.num_prefix_tokens);
        print((found.features - out.hidden_states[1].mean(1)).abs().max().item());
        let pooled = out.last_hidden_state.mean(1);
        let normed = (pooled - pooled.mean(1, true)) / ((pooled - pooled.mean(1, true)) ** 2).mean(1, true).sqrt();
        let logits = normed.matmul(parts["classifier.weight"].transpose(0, 1)) + parts["classifier.bias"];
        print((out.logits - logits).abs().max().item());
        features::extract(model, test, #{ token: "class" });"#,
    );
    said.fails(1).says(&["token: this model has no class token"]);
    let found: Vec<f64> = said.stdout.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(found[0], 0.0);
    assert!(found[1] < 1e-6 && found[2] < 1e-4, "{found:?}");
}

/// As BatchNorm without affine parameters in evaluation: it divides by the root of variance + 1e-6.
#[test]
fn the_probe_does_not_blow_up_features_that_are_nearly_constant() {
    let said = script(
        r#"
        import "std/probe" as probe;
        let labels = (arange(40) % 2).to("int64");
        let x = randn([40, 4]) * 0.2 + labels.to("float32").unsqueeze(1);
        let alike = |constant| #{ features: cat([x, zeros([40, 1]) + constant], 1), labels: labels, class_names: ["a", "b"] };
        let o = #{ lr: [1e-2], steps: 100, epochs: (), minibatch: 40, weight_decay: 0.0, batch_norm: true };
        print(probe::linear(alike.call(1.0), alike.call(1.01), o).top1 > 90.0);"#,
    );
    said.succeeds().prints(&["true"]);
}
