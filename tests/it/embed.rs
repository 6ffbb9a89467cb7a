//! `nepa embed`, retrieval, and maps of features.

use crate::common::*;
use crate::python_package::{has, python, shell};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use safetensors::SafeTensors;
use std::fs::File;
use std::path::Path;

/// What a file of features holds.
#[derive(Debug, PartialEq)]
struct Features {
    names: Vec<String>,
    labels: Vec<i64>,
    class_names: Vec<String>,
    values: Vec<f32>,
}

impl Features {
    fn joined(parts: Vec<Self>) -> Self {
        let mut all = Self { names: vec![], labels: vec![], class_names: vec![], values: vec![] };
        for mut part in parts {
            all.names.append(&mut part.names);
            all.labels.append(&mut part.labels);
            all.class_names.append(&mut part.class_names);
            all.values.append(&mut part.values);
        }
        all
    }
}

fn parquet(path: &Path) -> Features {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches = reader.map(|batch| {
        let batch = batch.unwrap();
        let texts = |name: &str| {
            let column = batch.column_by_name(name).unwrap().as_string::<i32>();
            column.iter().map(|text| text.unwrap_or_default().to_string()).collect()
        };
        let labels = batch.column_by_name("label").unwrap().as_primitive::<Int64Type>();
        let features = batch.column_by_name("features").unwrap().as_fixed_size_list();
        Features {
            names: texts("name"),
            labels: labels.iter().map(|label| label.unwrap_or(-1)).collect(),
            class_names: texts("class_name"),
            values: features.values().as_primitive::<Float32Type>().values().to_vec(),
        }
    });
    Features::joined(batches.collect())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

/// A model, and the images of two classes.
fn folder() -> (Folder, String) {
    let folder = Folder::new();
    folder.run(&format!("checkpoint::save(nn::vit_nepa({TINY}), \"model\");")).succeeds();
    (folder, repository("tests/fixtures/data/folder").display().to_string())
}

fn embed(folder: &Folder, data: &str, to: &str, more: &[&str]) -> Said {
    folder.nepa(&[&["embed", "model", data, to, "--split", "train", "--device", "cpu"][..], more].concat())
}

#[test]
fn files_hold_the_features_names_and_labels_of_all_images() {
    let (folder, data) = folder();
    // The same by the standard library, in one batch.
    let expected = folder.run(&format!(
        r#"
        import "std/features" as features;
        let images = data::open("{data}", "train");
        let found = features::extract(checkpoint::load("model"), images, #{{
            block: "last", batch: 100, exif_orientation: true,
            transforms: [transform::resize(9, #{{ interpolation: "bicubic" }}), transform::center_crop(8), transform::normalize(0.5, 0.5)],
        }});
        print(found.features.reshape([-1]).to_array()); print(found.labels.to_array());
        let names = [];
        for i in 0..images.len {{ names.push(images.name(i)); }}
        print(names); print(images.class_names);
        "#
    ));
    let values = expected.succeeds().values();
    let texts = |i: usize| -> Vec<String> { serde_json::from_value(values[i].clone()).unwrap() };
    let labels: Vec<i64> = serde_json::from_value(values[1].clone()).unwrap();
    let classes = texts(3);
    let expected = Features {
        names: texts(2),
        class_names: labels.iter().map(|label| classes[*label as usize].clone()).collect(),
        labels,
        values: serde_json::from_value(values[0].clone()).unwrap(),
    };
    let (n, width) = (expected.names.len(), 8);
    assert_eq!(expected.values.len(), n * width);

    embed(&folder, &data, "f/one.parquet", &[]).succeeds().prints(&[&format!("{n} features of 8 numbers written")]);
    assert_eq!(parquet(&folder.path("f/one.parquet")), expected);
    // Two processes, several files: what has no file name has no trace.
    embed(&folder, &data, "f/many.parquet", &["--shard", "5", "--nproc", "2", "--batch", "2"]).succeeds();
    let count = n.div_ceil(5);
    let many = (0..count).map(|i| parquet(&folder.path(&format!("f/many-{i:05}-of-{count:05}.parquet")))).collect();
    assert_eq!(Features::joined(many), expected);

    embed(&folder, &data, "f/a.safetensors", &[]).succeeds();
    let bytes = folder.read("f/a.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("features").unwrap().shape(), [n, width]);
    assert_eq!(floats(file.tensor("features").unwrap().data()), expected.values);
    assert_eq!(file.tensor("labels").unwrap().shape(), [n]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!(serde_json::from_str::<Vec<String>>(&metadata["names"]).unwrap(), expected.names);
    assert_eq!(serde_json::from_str::<Vec<String>>(&metadata["class_names"]).unwrap(), classes);

    embed(&folder, &data, "f/a.npy", &[]).succeeds();
    let bytes = folder.read("f/a.npy");
    let header = String::from_utf8_lossy(&bytes[10..bytes.len() - 4 * n * width]).into_owned();
    assert!(bytes.starts_with(b"\x93NUMPY") && header.contains("'<f4'"), "{header}");
    assert!(header.contains(&format!("({n}, {width}")) || header.contains(&format!("({n},{width}")), "{header}");
    assert_eq!(floats(&bytes[bytes.len() - 4 * n * width..]), expected.values);
    let names = folder.text("f/a.npy.names.csv");
    assert!(names.starts_with("name,label,class_name\n"), "{names}");
    assert_eq!(names.lines().nth(1).unwrap().split(',').next(), Some(expected.names[0].as_str()));

    let Some(python) = python() else { return };
    folder.write("read.py", READ);
    let parquet = if has(python, &["pyarrow"]) { "f/one.parquet f/many.parquet" } else { "" };
    let said = shell(&folder, python, &format!("$python read.py f/a.npy f/a.safetensors {parquet}"));
    for found in said.succeeds().values() {
        assert_eq!(found[0], serde_json::to_value(&expected.values).unwrap());
        assert_eq!(found[1], serde_json::to_value(&expected.labels).unwrap());
        assert_eq!(found[2], serde_json::to_value(&expected.names).unwrap());
    }
}

/// Reads files of features in Python, and prints what they hold.
const READ: &str = r#"
import json, sys, nepa
for path in sys.argv[1:]:
    features, labels, names = nepa.embeddings(path)
    print(json.dumps([features.reshape(-1).tolist(), [int(label) for label in labels], list(names)]))
"#;

#[test]
fn an_interrupted_one_goes_on_and_one_of_other_features_is_refused() {
    let (folder, data) = folder();
    embed(&folder, &data, "f.parquet", &["--shard", "4"]).succeeds();
    let names = folder.names("");
    let files: Vec<&String> = names.iter().filter(|name| name.starts_with("f-")).collect();
    let before: Vec<Vec<u8>> = files.iter().map(|file| folder.read(file)).collect();
    assert!(files.len() >= 3, "{files:?}");
    std::fs::remove_file(folder.path(files[1])).unwrap();
    let first = std::fs::metadata(folder.path(files[0])).unwrap().modified().unwrap();
    let said = embed(&folder, &data, "f.parquet", &["--shard", "4", "--batch", "3"]);
    said.succeeds().says(&[&format!("features: {} of {} files are there already", files.len() - 1, files.len())]);
    assert_eq!(files.iter().map(|file| folder.read(file)).collect::<Vec<_>>(), before);
    assert_eq!(std::fs::metadata(folder.path(files[0])).unwrap().modified().unwrap(), first);
    embed(&folder, &data, "f.parquet", &["--shard", "4"]).succeeds().prints(&["nothing was left to do"]);

    // Another block, another model, other files.
    let refused = |more: &[&str], what: &str| {
        let said = embed(&folder, &data, "f.parquet", more);
        said.fails(1).says(&["f.parquet holds other features: ", what, "remove f.parquet.json and the files"]);
    };
    refused(&["--shard", "4", "--block", "1"], "block: was \"last\", now 1");
    refused(&["--shard", "5"], "files: was ");
    folder.run(&format!("checkpoint::save(nn::vit_nepa({TINY}), \"model\");")).succeeds();
    folder.run_with(&format!("checkpoint::save(nn::vit_nepa({TINY}), \"other\");"), &["--seed", "5"]).succeeds();
    let said = folder.nepa(&["embed", "other", &data, "f.parquet", "--split", "train", "--shard", "4"]);
    said.fails(1).says(&["f.parquet holds other features: model: was "]);

    folder.write("g.npy", "mine");
    embed(&folder, &data, "g.npy", &[]).fails(1).says(&["g.npy exists, and no g.npy.json says what features it holds"]);
    assert_eq!(folder.text("g.npy"), "mine");
    embed(&folder, &data, "g.parqet", &[]).fails(1).says(&["did you mean `parquet`?", "it ends in .parquet, .npy or"]);
    embed(&folder, &data, "h.npy", &["--block", "7"]).fails(1).says(&["block: expected 0 to 2 or \"last\", found 7"]);
    embed(&folder, &data, "h.npy", &["--set", "blok=7"]).fails(1).says(&["blok", "block"]);
    assert!(!folder.path("h.npy").exists());
}

#[test]
fn retrieval_measures_are_those_of_their_definitions() {
    let folder = Folder::new();
    let said = folder.run(&format!(
        r#"
        import "std/retrieval" as retrieval;
        let images = data::synthetic(#{{ len: 40, size: 8, classes: 3, seed: 4 }});
        let model = nn::vit_nepa({TINY});
        let options = #{{ block: 1, batch: 7, k: [1, 3, 9], shown: 4 }};
        let own = retrieval::evaluate(model, images, (), options);
        let parts = images.split(0.5, 1);
        let other = retrieval::evaluate(model, parts[0], parts[1], options);
        for found in [own, other] {{
            print([found.map, found.recall.map(|pair| pair[1]), found.queries]);
            print(found.features.features.to_array()); print(found.features.labels.to_array());
            print(found.nearest.to_array());
        }}
        import "std/features" as features;
        let known = features::extract(model, parts[1], #{{ block: 1 }});
        print(known.features.to_array()); print(known.labels.to_array());
        "#
    ));
    let v = said.succeeds().values();
    let matrix = |i: usize| -> Vec<Vec<f64>> {
        let values: Vec<f64> = serde_json::from_value(v[i].clone()).unwrap();
        values.chunks(8).map(<[f64]>::to_vec).collect()
    };
    let labels = |i: usize| -> Vec<i64> { serde_json::from_value(v[i].clone()).unwrap() };
    let (known, known_labels) = (matrix(8), labels(9));
    let judge = |at: usize, gallery: &[Vec<f64>], gallery_labels: &[i64], is_same: bool| {
        let unit = |x: &[f64]| -> Vec<f64> {
            let norm = x.iter().map(|a| a * a).sum::<f64>().sqrt();
            x.iter().map(|a| a / norm).collect()
        };
        let (queries, asked) = (matrix(at + 1), labels(at + 2));
        let (mut precision, mut recall, mut counted) = (0.0, [0.0; 3], 0.0);
        for (i, query) in queries.iter().enumerate() {
            let cosine = |j: usize| unit(query).iter().zip(unit(&gallery[j])).map(|(a, b)| a * b).sum::<f64>();
            let mut order: Vec<usize> = (0..gallery.len()).filter(|j| !is_same || *j != i).collect();
            order.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)));
            let hits: Vec<bool> = order.iter().map(|j| gallery_labels[*j] == asked[i]).collect();
            let places: Vec<usize> = (0..hits.len()).filter(|p| hits[*p]).collect();
            if places.is_empty() {
                continue;
            }
            counted += 1.0;
            let sum: f64 = places.iter().enumerate().map(|(n, p)| (n + 1) as f64 / (p + 1) as f64).sum();
            precision += sum / places.len() as f64;
            for (r, k) in recall.iter_mut().zip([1, 3, 9]) {
                *r += f64::from(places[0] < k);
            }
            assert_eq!(
                labels(at + 3)[4 * i..4 * i + 4],
                order[..4].iter().map(|j| *j as i64).collect::<Vec<_>>()[..],
                "query {i}"
            );
        }
        let found = &v[at];
        let recall: Vec<f64> = recall.iter().map(|r| 100.0 * r / counted).collect();
        assert_close(&[found[0].as_f64().unwrap()], &[100.0 * precision / counted], 1e-4);
        assert_close(&serde_json::from_value::<Vec<f64>>(found[1].clone()).unwrap(), &recall, 1e-4);
        assert_eq!(found[2], counted);
    };
    let (own, own_labels) = (matrix(1), labels(2));
    judge(0, &own, &own_labels, true);
    judge(4, &known, &known_labels, false);
}

#[test]
fn the_recipe_measures_retrieval_and_draws_a_map() {
    let (folder, data) = folder();
    let recipe = repository("recipes/retrieval.rhai").display().to_string();
    let set = [format!("data={data}"), "model=model".into(), "split=train".into(), "k=[1,2]".into()];
    let mut args = vec!["run", &recipe, "--device", "cpu", "--out", "out"];
    args.extend(set.iter().flat_map(|set| ["--set", set]));
    folder.nepa(&args).succeeds().prints(&["mAP (%)", "recall@2 (%)"]);
    let line: serde_json::Value = serde_json::from_str(&folder.text("out/metrics.jsonl")).unwrap();
    assert!(line["map"].as_f64().unwrap() > 0.0 && line["recall_at_2"].as_f64() >= line["recall_at_1"].as_f64());
    assert!(folder.text("out/classes.csv").starts_with("name,queries,map\n"));
    for picture in ["map.png", "nearest.png"] {
        assert!(image::image_dimensions(folder.path(&format!("out/{picture}"))).is_ok(), "{picture}");
    }
}

#[test]
fn a_map_keeps_groups_together_and_is_the_same_with_any_threads() {
    let folder = Folder::on_cpu();
    let script = r#"
        let groups = tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]);
        let x = groups[tensor([0, 1, 2]).repeat([40])] + randn([120, 3]);
        print(plot::tsne(x, #{ perplexity: 8.0, epochs: 400 }).to_array());
    "#;
    let run = |threads: &str| folder.run_with(script, &["--threads", threads]).succeeds().values()[0].clone();
    let map = run("1");
    assert_eq!(run("2"), map);
    assert_eq!(run("3"), map);
    let values: Vec<f64> = serde_json::from_value(map).unwrap();
    let points: Vec<[f64; 2]> = values.as_chunks::<2>().0.to_vec();
    let square = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2);
    for (i, p) in points.iter().enumerate() {
        let other = (0..points.len()).filter(|j| *j != i);
        let nearest = other.min_by(|a, b| square(*p, points[*a]).total_cmp(&square(*p, points[*b]))).unwrap();
        assert_eq!(nearest % 3, i % 3, "point {i}");
    }
    for (script, says) in [
        ("plot::tsne(zeros([9, 3]), #{ perplexity: 5.0 });", "perplexity 5 needs more than 16 features, found 9"),
        ("plot::tsne(zeros([9]), #{});", "expected features [n, D], found [9]"),
        ("plot::tsne(zeros([99, 3]) + 0.0 / 0.0, #{});", "NaN or infinite"),
        ("plot::tsne(randn([1, 3]).repeat([99, 1]), #{});", "all 99 features are alike"),
        ("plot::points(\"m.png\", zeros([2, 2]), tensor([0, 5]), [\"a\"], #{});", "labels of 1 classes, found 5"),
        ("plot::points(\"m.png\", zeros([2, 3]), tensor([0, 0]), [\"a\"], #{});", "expected points [n, 2]"),
    ] {
        folder.run(script).fails(1).says(&[says]);
    }
}
