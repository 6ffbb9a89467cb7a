//! Evaluation of classifiers: measures against ones counted by hand, files read back, and what must not matter.

use crate::common::{Folder, Said, assert_close, repository};
use arrow_array::RecordBatchReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

fn fixture(layout: &str) -> String {
    repository("tests/fixtures/data").join(layout).display().to_string()
}

/// The 12 validation images of 4 classes, and a model that gives for the class and the place of each image the logits that
/// a table has: it reads both from a pixel that the transforms write.
fn fixed_logits(then: &str) -> String {
    format!(
        r#"
        import "std/evaluate" as evaluate;
        let images = data::open("{}", "validation");
        let said = [0, 0, 1, 1, 1, 0, 2, 2, 2, 3, 0, 0];              // of classes 0 0 0 1 1 1 2 2 2 3 3 3
        let margin = [4.0, 1.0, 1.0, 4.0, 4.0, 1.0, 4.0, 4.0, 4.0, 4.0, 1.0, 4.0];
        let rows = [];
        for i in 0..12 {{
            let row = [0.0, 0.0, 0.0, 0.0];
            row[said[i]] = margin[i];
            rows.push(row);
        }}
        let logits = tensor(rows);
        let place = |batch| {{ batch.images = batch.indices.reshape([-1, 1, 1, 1]).to("float32"); batch }};
        let model = |images| logits[images.reshape([-1]).to("int64")];
        let options = #{{ transforms: [transform::resize(8), transform::center_crop(8), place], batch: 5 }};
        {then}
        "#,
        fixture("folder")
    )
}

fn evaluated(folder: &Folder, script: &str, args: &[&str]) -> Value {
    let mut all = vec!["--out", "run"];
    all.extend(args);
    folder.run_with(script, &all).succeeds();
    folder.json("run/evaluation.json")
}

const SAVE: &str = "evaluate::save(evaluate::classify_each(#{ model: model }, images, options), images);";

#[test]
fn measures_are_those_counted_by_hand() {
    let folder = Folder::new();
    let found = evaluated(&folder, &fixed_logits(SAVE), &[]);
    let r = &found["model"];
    let number = |key: &str| r[key].as_f64().unwrap();
    // Right: 2 of class 0, 2 of class 1, 3 of class 2, 1 of class 3.
    assert_close(&[number("top1"), number("top5"), number("images")], &[100.0 * 8.0 / 12.0, 100.0, 12.0], 1e-9);
    // Wilson's interval of 8 in 12, from its textbook form.
    let (p, n, z) = (8.0 / 12.0, 12.0, 1.959964f64);
    let root = (z * z - 1.0 / n + 4.0 * n * p * (1.0 - p) + 1.0 / n).sqrt();
    let [low, high] = [-1.0, 1.0].map(|s| 100.0 * (2.0 * n * p + z * z + s * z * root) / (2.0 * (n + z * z)));
    let ci: Vec<f64> = r["top1_ci95"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_close(&ci, &[low, high], 1e-6);
    // Two confidences: e⁴ / (e⁴ + 3) eight times, of which 7 are right, and e / (e + 3) four times, 1 right... by hand:
    // margin 4: images 0 3 4 6 7 8 9 11, wrong is 11; margin 1: images 1 2 5 10, right is 1.
    let (sure, unsure) = (4f64.exp() / (4f64.exp() + 3.0), 1f64.exp() / (1f64.exp() + 3.0));
    let ece = 100.0 * (8.0 * (sure - 7.0 / 8.0).abs() + 4.0 * (unsure - 1.0 / 4.0).abs()) / 12.0;
    assert_close(&[number("ece")], &[ece], 1e-4);
    let rest = |margin: f64| (margin.exp() + 3.0).ln();
    let loss = (7.0 * (rest(4.0) - 4.0) + rest(4.0) + (rest(1.0) - 1.0) + 3.0 * rest(1.0)) / 12.0;
    assert_close(&[number("loss")], &[loss], 1e-6);
    let counts: Vec<u64> = r["calibration"].as_array().unwrap().iter().map(|b| b["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 8]);
    let per_class: Vec<(String, f64)> = r["per_class"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["name"].as_str().unwrap().to_string(), c["top1"].as_f64().unwrap().round()))
        .collect();
    let names = ["n01440764", "n01443537", "n02099601", "n03777568"];
    assert_eq!(per_class, names.map(str::to_string).into_iter().zip([67.0, 67.0, 100.0, 33.0]).collect::<Vec<_>>());
    let confusion = |label: &str, predicted: &str, count: u64| serde_json::json!({ "count": count, "label": label, "predicted": predicted });
    let expected =
        [confusion(names[3], names[0], 2), confusion(names[0], names[1], 1), confusion(names[1], names[0], 1)];
    assert_eq!(r["confusions"].as_array().unwrap(), &expected);
    // All twelve images fit among the samples; each is a file.
    let samples = found["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 12);
    assert_eq!(samples.iter().filter(|s| s["label"] != s["predicted"]).count(), 4);
    for sample in samples {
        assert_eq!(sample["right"], sample["label"] == sample["predicted"]);
        assert!(folder.read(&format!("run/{}", sample["image"].as_str().unwrap())).starts_with(b"\x89PNG"));
    }
}

#[test]
fn predictions_are_read_back_from_parquet_and_csv() {
    let folder = Folder::new();
    let script = r#"
        options.predictions = "p.parquet";
        evaluate::classify(model, images, options);
        options.predictions = "p.csv";
        evaluate::classify_each(#{ raw: model, ema: model }, images, options);"#;
    folder.run_with(&fixed_logits(script), &["--out", "run"]).succeeds();
    let file = std::fs::File::open(folder.path("run/p.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let columns: Vec<String> = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(columns[..6], ["item", "label", "label_name", "predicted1", "name1", "probability1"]);
    let batch = reader.map(|b| b.unwrap()).next().unwrap();
    let ints = |i: usize| batch.column(i).as_any().downcast_ref::<arrow_array::Int64Array>().unwrap().values().to_vec();
    assert_eq!(ints(1), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
    assert_eq!(ints(3), [0, 0, 1, 1, 1, 0, 2, 2, 2, 3, 0, 0]);
    let text = folder.text("run/p-raw.csv");
    assert_eq!(text, folder.text("run/p-ema.csv"));
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("item,label,label_name,predicted1,name1,probability1,predicted2"));
    let third: Vec<&str> = lines.nth(2).unwrap().split(',').collect();
    assert_eq!(third[1..5], ["0", "n01440764", "1", "n01443537"]);
    assert!(third[0].starts_with("n01440764/") && third[0].ends_with(".JPEG"));
    assert_close(&[third[5].parse().unwrap()], &[1f64.exp() / (1f64.exp() + 3.0)], 1e-6);
    assert!(!folder.names("run").contains(&"p.csv".to_string()));
}

/// A tiny classifier of the four classes, raw and averaged, at batch size BATCH.
const TWO: &str = r#"
    import "std/evaluate" as evaluate;
    let images = data::open("DATA", "validation");
    let config = #{ image_size: 28, patch_size: 14, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,
                    intermediate_size: 16, num_labels: 4, initializer_range: 0.5, drop_path_prob: 0.5 };
    let raw = nn::vit_nepa(config);
    let ema = nn::vit_nepa(config);
    ema.train(false);
    let options = #{ transforms: [transform::resize(32), transform::center_crop(28), transform::normalize(0.5, 0.5)], batch: BATCH };
"#;

fn two(data: &str, batch: usize, then: &str) -> String {
    TWO.replace("DATA", data).replace("BATCH", &batch.to_string()) + then
}

#[test]
fn one_pass_for_two_models_gives_what_two_passes_give() {
    let then = r#"
        let both = evaluate::classify_each(#{ raw: raw, ema: ema }, images, options);
        print(both.raw == evaluate::classify(raw, images, options));
        print(both.ema == evaluate::classify(ema, images, options));
        print(both.raw == both.ema);
        print([raw.training, ema.training]);"#;
    let said = Folder::new().run(&two(&fixture("folder"), 5, then));
    said.succeeds();
    assert_eq!(said.stdout, "true\ntrue\nfalse\n[true, false]\n");
}

#[test]
fn neither_batch_size_nor_threads_nor_layout_change_the_predictions() {
    let then = "options.predictions = \"p.csv\"; let r = evaluate::classify(raw, images, options); print([r.top1, r.top5, r.images]);";
    let predicted = |layout: &str, batch: usize, threads: &str| {
        let folder = Folder::new();
        let said = folder.run_with(&two(&fixture(layout), batch, then), &["--out", "run", "--threads", threads]);
        said.succeeds();
        let text = folder.text("run/p.csv");
        let labels: Vec<[String; 4]> = text
            .lines()
            .skip(1)
            .map(|l| l.split(',').collect::<Vec<_>>())
            .map(|c| [c[1], c[3], c[6], c[9]].map(str::to_string))
            .collect();
        (said.stdout.clone(), labels)
    };
    let first = predicted("folder", 12, "1");
    assert_eq!(first.1.len(), 12);
    for (layout, batch, threads) in [("folder", 5, "1"), ("folder", 1, "2"), ("hf-disk", 7, "2"), ("parquet", 12, "1")]
    {
        assert_eq!(predicted(layout, batch, threads), first, "{layout}, batch {batch}, {threads} threads");
    }
}

#[test]
fn several_right_labels_and_a_subset_of_the_outputs() {
    // Image 2 of class 0 was called 1, which is right now; images 9 to 11 have no right label and are left out.
    let then = r#"
        options.real = [[0], [0], [0, 1], [1], [1], [1], [2], [2, 3], [3], [], [], []];
        let r = evaluate::classify(model, images, options);
        print([r.images, r.top1 * 9.0 / 100.0, r.loss]);
        options.remove("real");
        // Labels are the model's, also among some of its outputs.
        options.subset = [3, 2];
        let two = images.filter(|i| i.label == 2);
        options.transforms[2] = |batch| { batch.images = batch.indices.reshape([-1, 1, 1, 1]).to("float32") + 6.0; batch };
        let r = evaluate::classify(model, two, options);
        print([r.images, r.top1, r.per_class[0].label]);"#;
    let found = Folder::new().run(&fixed_logits(then)).numbers();
    let rest = |margin: f64| (margin.exp() + 3.0).ln();
    assert_close(&found[0][..2], &[9.0, 7.0], 1e-6);
    let two_right = |margin: f64| rest(margin) - (margin.exp() + 1.0).ln();
    let expected = (3.0 * (rest(4.0) - 4.0)
        + (rest(1.0) - 1.0)
        + two_right(1.0)
        + rest(1.0)
        + two_right(4.0)
        + rest(4.0)
        + (rest(4.0) - 4.0))
        / 9.0;
    assert_close(&found[0][2..], &[expected], 1e-5);
    assert_close(&found[1], &[3.0, 100.0, 2.0], 1e-9);
}

#[test]
fn what_does_not_fit_is_told() {
    let data = fixture("folder");
    let fails = |then: &str, pieces: &[&str]| {
        let said: Said = Folder::new().run(&two(&data, 5, then));
        said.fails(1).says(pieces);
    };
    fails(
        "config.num_labels = 3; evaluate::classify(nn::vit_nepa(config), images, options);",
        &["the model has 3 classes", "has 4: n01440764"],
    );
    fails("options.batsh = 3; evaluate::classify(raw, images, options);", &["unknown option `batsh`", "`batch`"]);
    fails("options.predictions = \"p.txt\"; evaluate::classify(raw, images, options);", &["p.txt", ".parquet or .csv"]);
    fails(
        "options.real = [[0]]; evaluate::classify(raw, images, options);",
        &["option real: expected labels for 12 images, found 1"],
    );
    for (real, piece) in [
        ("[0]", "found [0] for n01440764"),
        ("0", "expected an array of labels (integers from 0 on) for each image, found 0"),
        ("[-1]", "found [-1]"),
        ("[0.7]", "found [0.7]"),
        ("[]", "option real: no image in "),
    ] {
        let real = format!("options.real = []; for i in 0..12 {{ options.real.push({real}); }}");
        let said = Folder::new().run(&two(&data, 5, &format!("{real} evaluate::classify(raw, images, options);")));
        if real.contains("([0])") {
            said.succeeds();
        } else {
            said.fails(1).says(&[piece]);
        }
    }
    fails(
        "options.subset = [0, 1, 2, 3, 2]; evaluate::classify(raw, images, options);",
        &["option subset: the label 2 is there twice"],
    );
    fails(
        "options.subset = [0, 1]; evaluate::classify(raw, images, options);",
        &["option subset lacks the class n02099601"],
    );
    fails(
        "evaluate::classify(|x| raw.forward(x) / 0.0, images, options);",
        &["\"model\" gives NaN or infinite logits"],
    );
    fails(
        "config.num_labels = 0; evaluate::classify(nn::vit_nepa(config), images, options);",
        &["\"model\": expected logits [5, classes], found [5, ", "does it have a classification head?"],
    );
    fails("evaluate::classify_each(#{}, images, options);", &["at least one model"]);
    let save =
        "checkpoint::save(raw, run::path(\"m\"), #{ class_names: [\"cat\", \"dog\", \"goldfish\", \"Model T\"] });
                let m = checkpoint::load(run::path(\"m\")); print(m.class_names);";
    fails(
        &format!("{save} evaluate::classify(m, images, options);"),
        &["2 of the 4 classes", "not among the model's 4: n01440764, n02099601", "cat, dog, goldfish, Model T"],
    );
    let same = save.replace("\"cat\", \"dog\"", "\"tench\", \"golden retriever\"");
    let then = format!("{same} print(evaluate::classify(m, images, options).per_class.map(|c| [c.label, c.name]));");
    Folder::new()
        .run(&two(&data, 5, &then))
        .succeeds()
        .prints(&["[[0, \"tench\"], [1, \"golden retriever\"], [2, \"goldfish\"], [3, \"Model T\"]]"]);
}

#[test]
fn an_interrupted_evaluation_says_what_it_has() {
    let folder = Folder::new();
    let then = r#"
        let slow = |x| { let m = raw.forward(x); for i in 0..200_000 { } print("step"); m };
        let many = data::concat([images, images, images, images, images, images, images, images, images, images]);
        options.batch = 1;
        evaluate::classify(slow, data::concat([many, many, many, many, many, many, many, many]), options);"#;
    folder.write("recipe.rhai", two(&fixture("folder"), 5, then));
    let running = folder.start(&["run", "recipe.rhai", "--device", "cpu", "--threads", "1"], &[]);
    running.wait_for("step").wait_for("step").wait_for("step").signal(libc::SIGINT);
    running.finish().fails(130).says(&[
        "evaluate: interrupted after ",
        "/960 steps (",
        "images): top1 ",
        "interrupted",
    ]);
}
