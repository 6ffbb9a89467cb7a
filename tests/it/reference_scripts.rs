//! What the reference's own scripts compute, recorded by tests/fixtures/reference/make.py: preparation of pictures,
//! evaluation and its ties, visualisation.

use crate::common::*;
use safetensors::SafeTensors;
use serde_json::Value;

fn fixture(name: &str) -> String {
    repository("tests/fixtures/reference").join(name).display().to_string()
}

fn recorded(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let exps: Vec<f64> = logits.iter().map(|l| l.exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

const OPENED: &str = r#"
    import "std/evaluate" as evaluate;
    let images = data::open("IMAGES");
    let model = checkpoint::load("CLASSIFIER");
    let base = [transform::resize(64, #{ interpolation: "bicubic" }), transform::center_crop(56), transform::normalize(0.5, 0.5)];
    let large = [transform::resize([58, 58], #{ interpolation: "bicubic" })] + base.extract(1);
"#;

fn opened(then: &str) -> String {
    OPENED.replace("IMAGES", &fixture("images")).replace("CLASSIFIER", &fixture("classifier")) + then
}

/// The five most probable labels of each image with their probabilities, from a file of predictions.
fn predictions(text: &str) -> Vec<(String, Vec<(usize, f64)>)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let five = (0..5).map(|k| (cells[3 + 3 * k].parse().unwrap(), cells[5 + 3 * k].parse().unwrap())).collect();
        (cells[0].to_string(), five)
    };
    text.lines().skip(1).map(row).collect()
}

/// The largest difference between probabilities and those of recorded logits.
fn farthest(found: &[(String, Vec<(usize, f64)>)], expected: &Value) -> f64 {
    let logits = expected["logits"].as_object().unwrap();
    assert_eq!(found.len(), logits.len());
    let differences = found.iter().flat_map(|(name, five)| {
        let right = softmax(&numbers(&logits[name]));
        five.iter().map(move |(label, p)| (p - right[*label]).abs()).collect::<Vec<_>>()
    });
    differences.fold(0.0, f64::max)
}

#[test]
fn evaluation_gives_the_logits_loss_and_accuracy_of_the_references_script() {
    let expected = recorded("evaluation.json");
    let folder = Folder::new();
    let script = opened(
        r#"
        for way in ["base", "large"] {
            for dtype in ["float32", "bfloat16"] {
                let result = evaluate::classify(model, images, #{
                    transforms: if way == "base" { base } else { large }, dtype: dtype, exif_orientation: true,
                    predictions: `${way}-${dtype}.csv`,
                });
                print([result.top1, result.loss]);
                if result.dtype != dtype || !result.exif_orientation { throw "what was done is not said"; }
            }
        }
        evaluate::classify(model, images, #{ transforms: base, predictions: "as-stored.csv" });
        "#,
    );
    let found = folder.run_with(&script, &["--out", "run"]).numbers();
    let read = |name: &str| predictions(&folder.text(&format!("run/{name}.csv")));
    for (name, found) in ["base-float32", "base-bfloat16", "large-float32", "large-bfloat16"].iter().zip(&found) {
        let expected = &expected[*name];
        let tolerance = if name.ends_with("float32") { 0.01 } else { 0.02 };
        assert!(farthest(&read(name), expected) < tolerance, "{name}: {}", farthest(&read(name), expected));
        assert_close(&[found[0]], &[100.0 * expected["accuracy"].as_f64().unwrap()], 1e-9);
        assert_close(&[found[1]], &[expected["loss"].as_f64().unwrap()], 0.01);
    }
    // Another resize, or pictures as they are stored, would not do.
    for (other, what) in
        [("large-float32", "base-float32"), ("base-float32", "large-float32"), ("as-stored", "base-float32")]
    {
        assert!(farthest(&read(other), &expected[what]) > 0.1, "{other}");
    }
}

#[test]
fn ties_go_to_the_lowest_class() {
    let expected = recorded("ties.json");
    let rows: Vec<&Value> = expected["logits"].as_object().unwrap().values().collect();
    let folder = Folder::new();
    let script = opened(&format!(
        r#"
        let logits = tensor({}).to("bfloat16");
        let place = |batch| {{ batch.images = batch.indices.reshape([-1, 1, 1, 1]).to("float32"); batch }};
        for dtype in ["float32", "bfloat16"] {{
            let result = evaluate::classify(|x| logits[x.reshape([-1]).to("int64")], images, #{{
                transforms: [transform::resize([8, 8]), place], batch: 5, dtype: dtype, predictions: `${{dtype}}.csv`,
            }});
            print([result.top1, result.loss, result.top5]);
        }}
        "#,
        serde_json::to_string(&rows).unwrap()
    ));
    // In the order of the names, as data::open has them.
    let names: Vec<&String> = expected["logits"].as_object().unwrap().keys().collect();
    assert!(names.is_sorted());
    let said = folder.run_with(&script, &["--out", "run"]);
    let top5: Vec<Vec<f64>> = expected["top5"].as_array().unwrap().iter().map(numbers).collect();
    let right = top5.iter().zip(&names).filter(|(five, name)| five.contains(&class_of(name))).count() as f64;
    for found in said.numbers() {
        let accuracy = 100.0 * expected["accuracy"].as_f64().unwrap();
        assert_close(&found, &[accuracy, expected["loss"].as_f64().unwrap(), 100.0 * right / 16.0], 1e-5);
    }
    for dtype in ["float32", "bfloat16"] {
        for ((name, five), expected) in predictions(&folder.text(&format!("run/{dtype}.csv"))).iter().zip(&top5) {
            let labels: Vec<f64> = five.iter().map(|(label, _)| *label as f64).collect();
            assert_eq!(&labels, expected, "{name}");
        }
    }
}

/// The label in a name such as "class3/03.jpg".
fn class_of(name: &str) -> f64 {
    name["class".len()..].split('/').next().unwrap().parse().unwrap()
}

#[test]
fn ties_of_neighbours_and_votes_go_to_the_first() {
    let said = run(r#"
        import "std/probe" as probe;
        // Equal features everywhere: the nearest is the first, however many are compared at once.
        let known = #{ features: ones([9, 4]), labels: tensor([2, 1, 0, 1, 2, 0, 0, 1, 2]), class_names: ["a", "b", "c"] };
        let tested = #{ features: ones([2, 4]), labels: tensor([2, 1]), class_names: ["a", "b", "c"] };
        for chunk in [1, 2, 4, 100] {
            let found = probe::neighbours(known, tested, #{ k: [1, 2, 3, 6, 9], temperature: 1.0, chunk: chunk });
            print(found.by_k.map(|pair| pair[1]));
            print(found.predictions.to_array());
        }
        // Classes with as many votes: the lowest.
        for dtype in ["float32", "bfloat16"] { print(tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]).to(dtype).argmax(1).to_array()); }
        "#);
    // Of 2; of 2, 1; of 2, 1, 0; of 2, 1, 0, 1, 2, 0; of all: the votes of the last two and of 2, 1 are equal.
    let by_k = vec![50.0, 50.0, 0.0, 0.0, 0.0];
    let mut expected: Vec<Vec<f64>> = Vec::new();
    (0..4).for_each(|_| expected.extend([by_k.clone(), vec![2.0, 2.0]]));
    expected.extend([vec![1.0, 0.0], vec![1.0, 0.0]]);
    assert_eq!(said.numbers(), expected);
}

#[test]
fn every_way_to_pictures_turns_them_where_asked_for() {
    let folder = Folder::new();
    let script = opened(
        r#"
        import "std/features" as features;
        import "std/finetune" as finetune;
        import "std/pretrain" as pretrain;
        let features_of = |turned| features::extract(model, images, #{ transforms: base, exif_orientation: turned }).features;
        let differ = (features_of.call(true) - features_of.call(false)).abs().amax(1) > 1e-3;
        print(differ.to("int64").to_array());
        let options = #{ transforms: base, exif_orientation: true };
        features::knn(model, images, images.take(15), options + #{ k: 1 });
        features::linear_probe(model, images, images.take(15), options + #{ steps: 1 });
        features::online(model, images, options + #{ steps: 1 });
        // Weights that do not move are evaluated as the classifier was.
        let nothing = #{ epochs: 1, batch: 16, lr: 1e-12, weight_decay: 0.0, transforms: base };
        let held_out = #{ images: images, transforms: base };
        for turned in [true, false] {
            finetune::fit(model, images, nothing + #{
                exif_orientation: turned, label: `as training, ${turned}`, evaluate: held_out,
            });
            finetune::fit(model, images, nothing + #{
                label: `as told, ${turned}`, evaluate: held_out + #{ exif_orientation: turned, dtype: "bfloat16" },
            });
        }
        pretrain::fit(nn::vit_nepa(model.config + #{ num_labels: 0 }), images, nothing + #{
            exif_orientation: true, evaluate: #{ every_epochs: 1, transforms: base, steps: 1 },
        });
        print(images.image(9, #{ exif_orientation: true }).width - images.image(9).height);
        "#,
    );
    let said = folder.run_with(&script, &["--out", "run"]);
    let found = said.numbers();
    // By the orientations that make.py writes, in the order of the names; 1 is upright.
    let turned: Vec<f64> = [1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 8, 7, 1, 8, 1].map(|o| f64::from(o != 1)).to_vec();
    assert_eq!(found[0], turned, "{said}");
    assert_eq!(found[1], [0.0]);
    said.says(&["as told, true: epoch 0: top-1 18.75 %", "%, in bfloat16", "%, in float32"]);
    let metrics = folder.text("run/metrics.jsonl");
    let rows: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let loss = |phase: &str| {
        let row = rows.iter().find(|r| r["phase"] == phase && r["val_loss"].is_f64());
        row.unwrap_or_else(|| panic!("{phase}: {metrics}"))["val_loss"].as_f64().unwrap()
    };
    let expected = recorded("evaluation.json");
    for (phase, name) in [("as training, true", "base-float32"), ("as told, true", "base-bfloat16")] {
        assert_close(&[loss(phase)], &[expected[name]["loss"].as_f64().unwrap()], 0.005);
    }
    for phase in ["as training, false", "as told, false"] {
        assert!((loss(phase) - expected["base-float32"]["loss"].as_f64().unwrap()).abs() > 0.02, "{metrics}");
    }
}

#[test]
fn pictures_and_maps_are_those_of_the_references_visualisation() {
    let bytes = std::fs::read(fixture("visualization.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: String| -> Vec<f64> {
        let bytes = file.tensor(&name).unwrap().data().to_vec();
        bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
    };
    for shown in recorded("visualization.json").as_array().unwrap() {
        let (number, row, column) = (&shown["number"], &shown["row"], &shown["column"]);
        let script = opened(&format!(
            r#"
            import "std/visualize" as visualize;
            let way = visualize::preparation("squash", 56, 64);
            let picture = visualize::picture(images, {number}, way.transforms, #{{ exif_orientation: true }});
            print(picture.flatten(0, -1).to_array());
            let maps = visualize::maps(model, visualize::input(picture, 0.5, 0.5), {row}, {column}, #{{ average: true }});
            for m in maps {{ print(m.map.flatten(0, -1).to_array()); }}
            print([maps.len()]);
            "#
        ));
        let found = run(&script).numbers();
        let picture: Vec<f64> =
            file.tensor(&format!("{number}.picture")).unwrap().data().iter().map(|v| f64::from(*v)).collect();
        // The reference's way back from normalised numbers may lose one.
        assert_close(&found[0], &picture, 2.0);
        assert_close(&found[1], &floats(format!("{number}.attention")), 2e-3);
        assert_close(&found[2], &floats(format!("{number}.prediction")), 2e-3);
        assert_eq!(found[3], [2.0]);
    }
    run(&opened("import \"std/visualize\" as v; v::preparation(\"squish\", 56, 64);"))
        .fails(1)
        .says(&["prepare: expected crop or squash, found \"squish\""]);
}

#[test]
fn resizing_follows_either_pillow() {
    let mut script = String::new();
    let sizes = [[40, 40], [40, 40], [20, 45], [45, 20], [70, 64]];
    for (i, size) in sizes.iter().enumerate() {
        for by in ["bilinear", "bicubic"] {
            for passes in ["pillow12", "pillow13"] {
                let (from, to) =
                    (fixture(&format!("resized/{i}.png")), fixture(&format!("resized/{i}-{by}-{passes}.png")));
                script += &format!(
                    "let a = data::read_image(\"{from}\").apply([transform::resize({size:?}, #{{ interpolation: \"{by}\", \
                     passes: \"{passes}\" }})], 0).tensor().to(\"float32\");\n\
                     print((a - data::read_image(\"{to}\").tensor().to(\"float32\")).abs().max().item());\n"
                );
            }
        }
    }
    let found = run(&script).numbers().concat();
    assert_eq!(found.len(), 20);
    assert!(found.iter().all(|most| *most <= 1.0), "{found:?}");
    // The pictures differ by more than that where the order does.
    let differ = "let f = |p| data::read_image(p).tensor().to(\"float32\");";
    let [a, b] = ["pillow12", "pillow13"].map(|passes| fixture(&format!("resized/2-bicubic-{passes}.png")));
    let most = run(&format!("{differ} print((f.call(\"{a}\") - f.call(\"{b}\")).abs().max().item());")).numbers();
    assert!(most[0][0] > 2.0, "{most:?}");
    // A run tells the orders apart.
    run("print(transform::resize(8)); print(transform::resize(8, #{ passes: \"pillow12\" }));\
         print(transform::random_resized_crop(8, #{ passes: \"pillow12\" }));")
    .succeeds()
    .prints(&[
        "resize(8, bilinear)\n",
        "resize(8, bilinear, pillow12)",
        "random_resized_crop([8, 8], passes: \"pillow12\")",
    ]);
}

#[test]
fn the_resize_that_a_model_was_published_with_is_known_by_its_size() {
    let said = run(r#"
        import "std/imagenet" as imagenet;
        let base = #{ image_size: 224, patch_size: 14, hidden_size: 768, num_hidden_layers: 12, num_attention_heads: 12 };
        let large = base + #{ hidden_size: 1024, num_hidden_layers: 24, num_attention_heads: 16 };
        let tiny = base + #{ hidden_size: 16 };
        for config in [base, large, tiny, large + #{ image_size: 448 }] {
            for r in imagenet::resizes("published", config) { print(`${r.to}: ${r.words}`); }
        }
        for r in imagenet::resizes(" 256, 235 x 235,200x100", tiny) { print(`${r.name} ${r.to}: ${r.words}`); }
        for wrong in ["big", "1x2x3", "", "256,"] { try { imagenet::resizes(wrong, tiny); } catch (e) { print(`${e}`); } }
        "#);
    said.succeeds().prints(&[
        "256: the shorter side to 256, as the reference evaluates its ViT-B/14",
        "[235, 235]: height and width to 235 (aspect ratio not kept), as the reference evaluates its ViT-L/14",
        "256: the shorter side to 256, as no setting is published for a model of this size",
        "[471, 471]: ",
        "256 256: the shorter side to 256\n",
        "235x235 [235, 235]: height and width to 235 and 235 (aspect ratio not kept)",
        "200x100 [200, 100]: ",
        "found \"big\"",
        "found \"1x2x3\"",
        "found \"\"",
        "found \"256,\"",
    ]);
}
