//! ImageNet's classes, its robustness sets on small trees of the same shape, and the recipe on every layout.

use crate::common::{Folder, Said, assert_close, fashion, repository};

/// The test pictures by name, one for each.
fn picture() -> Vec<u8> {
    std::fs::read(repository("tests/fixtures/data/folder/validation/n01440764/n01440764_0007.JPEG")).unwrap()
}

/// A model of 1000 classes that says the n-th of SAID of the n-th image, label 0 second, and label 6 third.
fn saying(said: &[i64], then: &str) -> String {
    format!(
        r#"
        import "std/imagenet" as imagenet;
        import "std/evaluate" as evaluate;
        let said = tensor({said:?});
        let place = |batch| {{ batch.images = batch.indices.reshape([-1, 1, 1, 1]).to("float32"); batch }};
        let model = |images| {{
            let labels = said[images.reshape([-1]).to("int64")];
            labels.one_hot(1000).to("float32") * 4.0
                + (labels * 0).one_hot(1000).to("float32") * 2.0 + (labels * 0 + 6).one_hot(1000).to("float32")
        }};
        let models = #{{ model: model }};
        let options = #{{ transforms: [transform::resize(8), transform::center_crop(8), place], batch: 3 }};
        {then}
        "#
    )
}

#[test]
fn the_classes_are_those_of_the_labels() {
    let said = crate::common::run(
        r#"
        import "std/imagenet" as imagenet;
        let ids = imagenet::synsets();
        let names = imagenet::class_names();
        print([ids.len(), names.len(), imagenet::labels("a").len(), imagenet::labels("r").len()]);
        for i in [0, 207, 281, 517, 639, 999] { print(`${ids[i]} ${names[i]}`); }
        print(ids[imagenet::labels("a")[0]] + " " + ids[imagenet::labels("r")[199]]);
        imagenet::labels("b");"#,
    );
    said.fails(1).says(&["expected \"a\" or \"r\", found \"b\""]).prints(&[
        "[1000, 1000, 200, 200]",
        "n01440764 tench, Tinca tinca",
        "n02099601 golden retriever",
        "n02123045 tabby, tabby cat",
        "n03126707 crane2",
        "n03710721 maillot, tank suit",
        "n15075141 toilet tissue",
        "n01498041 n12267677",
    ]);
}

#[test]
fn folders_that_are_numbers_are_labels() {
    let folder = Folder::new();
    for name in ["0", "1", "2", "10", "999"] {
        folder.write(&format!("v2/{name}/x.jpg"), picture());
    }
    // In the order of the numbers: 0, 1, 2, 10, 999.
    let script = saying(
        &[0, 1, 2, 10, 998],
        "let r = imagenet::evaluate(models, \"v2\", \"v2\", options).model;
         print(r.per_class.map(|c| [c.label, c.top1.to_int()]));",
    );
    let said = folder.run(&script);
    said.succeeds().prints(&["[[0, 100], [1, 100], [2, 100], [10, 100], [999, 0]]"]);
}

#[test]
fn classes_of_imagenet_in_another_order_are_found_by_name() {
    let folder = Folder::new();
    let known = std::fs::read_to_string(repository("src/data/imagenet/classes.txt")).unwrap();
    let mut ids: Vec<&str> = known.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    ids.swap(0, 1);
    folder.write("classes.txt", ids.join("\n"));
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    folder.write("train-images-idx3-ubyte", [words(&[0x803, 1, 1, 1]), vec![7]].concat());
    folder.write("train-labels-idx1-ubyte", [words(&[0x801, 1]), vec![0]].concat());
    let said = folder.run(
        "let source = data::open(\".\");
         for names in [(), data::imagenet_classes().synsets, data::imagenet_classes().names] {
             let found = data::match_classes(source, names, 1000);
             print([found.labels[0], found.labels[1], found.labels[2], found.labels[999], found.assumed]);
         }",
    );
    let expected = "[1, 0, 2, 999, \"the outputs are taken for the classes of ImageNet-1K\"]\n[1, 0, 2, 999, ()]\n";
    assert!(said.stdout.starts_with(expected) && said.stdout.ends_with("[1, 0, 2, 999, ()]\n"), "{said}");
}

/// Names of ImageNet's classes in a few words, as published id2label maps have them, tell two cranes and two maillots not apart.
#[test]
fn a_name_that_two_classes_of_a_model_have_is_not_guessed() {
    let folder = Folder::new();
    for path in ["birds/n02012849", "birds/n01440764", "machines/n03126707", "fish/n01440764", "words/crane"] {
        folder.write(&format!("{path}/x.jpg"), picture());
    }
    let matched = |data: &str, names: &str, count: usize| {
        folder.run(&format!(
            "let names = {names}; print(data::match_classes(data::open(\"{data}\"), names, {count}).labels);"
        ))
    };
    let few = r#"["crane", "tench", "crane"]"#;
    matched("fish", few, 3).succeeds().prints(&["[1]"]);
    for data in ["birds", "words"] {
        matched(data, few, 3).fails(1).says(&[
            "may be any of [0, 2] among the model's 3 classes",
            "crane, crane",
            "id2label",
        ]);
    }
    // All of ImageNet's in their order: WordNet ids tell them apart.
    let all = r#"data::imagenet_classes().names; names[517] = "crane""#;
    matched("birds", all, 1000).succeeds().prints(&["[0, 134]"]);
    matched("machines", all, 1000).succeeds().prints(&["[517]"]);
    matched("words", all, 1000).fails(1).says(&["the class crane of", "any of [134, 517]"]);
}

#[test]
fn a_model_decides_among_the_two_hundred_classes_of_a_and_r() {
    let folder = Folder::new();
    for id in ["n01498041", "n01531178"] {
        folder.write(&format!("a/{id}/x.jpg"), picture());
    }
    // Label 0 is no class of ImageNet-A: what is said second there does not count.
    let script = saying(
        &[6, 0],
        "options.predictions = \"p.csv\";
         let plain = imagenet::evaluate(models, \"a\", \"\", options).model;
         print([plain.top1, plain.confusions[0].predicted]);
         let r = imagenet::evaluate(models, \"a\", \"a\", options).model;
         print([r.top1, r.per_class.map(|c| c.label), r.confusions[0].predicted]);",
    );
    let said = folder.run(&script);
    said.succeeds().prints(&["[50.0, \"tench, Tinca tinca\"]", "[50.0, [6, 11], \"stingray\"]"]);
    folder.write("b/n01440764/x.jpg", picture());
    let said = folder.run(&saying(&[0], "imagenet::evaluate(models, \"b\", \"a\", options);"));
    said.fails(1).says(&["option subset lacks the class n01440764"]);
}

#[test]
fn reals_labels_go_by_file_names() {
    let folder = Folder::new();
    for (id, number) in [("n01440764", 2), ("n01443537", 1), ("n01443537", 3)] {
        folder.write(&format!("val/{id}/ILSVRC2012_val_{number:08}.JPEG"), picture());
    }
    folder.write("real.json", "[[5, 1], [7], []]");
    let evaluate = "let r = imagenet::evaluate(models, \"val\", \"real\", options).model; print([r.images, r.top1]);
                    print(r.samples.map(|s| s.right && s.label != s.predicted));";
    let with = |more: &str| saying(&[7, 1], &format!("{more} {evaluate}"));
    let said = folder.run(&with("options.real_json = \"real.json\";"));
    // The second answer is right, and not the label that stands first.
    said.succeeds().prints(&["[2, 100.0]\n[false, true]\n"]);
    folder.run(&with("")).fails(1).says(&["needs the option real_json"]);
    folder.write("val/n01440764/other.JPEG", picture());
    let said = folder.run(&with("options.real_json = \"real.json\";"));
    said.fails(1).says(&["ILSVRC2012_val_00000001", "is named n01440764/other.JPEG"]);
}

#[test]
fn the_corruption_error_is_a_share_of_alexnets() {
    // The errors of AlexNet as Hendrycks & Dietterich (2019) have them.
    let alexnet = [
        ("gaussian_noise", 88.6),
        ("shot_noise", 89.4),
        ("impulse_noise", 92.3),
        ("defocus_blur", 82.0),
        ("glass_blur", 82.6),
        ("motion_blur", 78.6),
        ("zoom_blur", 79.8),
        ("snow", 86.7),
        ("frost", 82.7),
        ("fog", 81.9),
        ("brightness", 56.5),
        ("contrast", 85.3),
        ("elastic_transform", 64.6),
        ("pixelate", 71.8),
        ("jpeg_compression", 60.7),
    ];
    let folder = Folder::new();
    for (name, _) in alexnet {
        for severity in 1..=5 {
            // Always "tench": right for one of two images, of none for the snow at its worst.
            let ids = if name == "snow" && severity == 5 { vec!["n01443537"] } else { vec!["n01440764", "n01443537"] };
            for id in ids {
                folder.write(&format!("c/{name}/{severity}/{id}/x.jpg"), picture());
            }
        }
    }
    let then = "let r = imagenet::evaluate(models, \"c\", \"c\", options).model;
                print([r.mce, r.mean_error, r.top1, r.corruptions.snow.error, r.corruptions.fog.ce]);";
    let found = folder.run(&saying(&[0, 0], then)).numbers();
    let mce = alexnet.iter().map(|(name, a)| 100.0 * if *name == "snow" { 60.0 } else { 50.0 } / a).sum::<f64>() / 15.0;
    let mean = (14.0 * 50.0 + 60.0) / 15.0;
    assert_close(&found[0], &[mce, mean, 100.0 - mean, 60.0, 100.0 * 50.0 / 81.9], 1e-6);
    let said = folder.run(&saying(&[0, 0], "imagenet::evaluate(models, \"c\", \"d\", options);"));
    said.fails(1).says(&["unknown variant \"d\"", "\"sketch\""]);
}

/// Runs the recipe on a tiny model that is in m.
fn recipe(folder: &Folder, out: &str, sets: &[&str]) -> Said {
    let recipe = repository("recipes/eval_imagenet1k.rhai").display().to_string();
    let mut args = vec!["run", &recipe, "--device", "cpu", "--threads", "1", "--out", out, "--set", "model=m"];
    for set in sets {
        args.extend(["--set", set]);
    }
    folder.nepa(&args)
}

/// Makes tiny classifiers in m/model_raw and m/model_ema.
fn tiny_models(folder: &Folder, labels: i64, channels: i64) {
    let script = format!(
        "for name in [\"raw\", \"ema\"] {{
             checkpoint::save(nn::vit_nepa(#{{ image_size: 28, patch_size: 14, num_channels: {channels}, hidden_size: 8,
                 num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, num_labels: {labels},
                 initializer_range: 0.5 }}), `m/model_${{name}}`);
         }}"
    );
    folder.run(&script).succeeds();
}

#[test]
fn the_recipe_evaluates_both_weights_on_every_layout() {
    let folder = Folder::new();
    tiny_models(&folder, 1000, 3);
    let mut first = None;
    for layout in ["folder", "hf-disk", "parquet"] {
        let data = format!("data={}", repository("tests/fixtures/data").join(layout).display());
        let said = recipe(&folder, layout, &[&data, "resize=32", "predictions=p.csv"]);
        said.succeeds().prints(&[
            "top-1 %",
            "95 % interval",
            "32      28    bfloat16  ema",
            "32      28    bfloat16  raw",
            "most confused",
        ]);
        let found = folder.json(&format!("{layout}/evaluation.json"));
        assert_eq!(found["samples"].as_array().unwrap().len(), 12);
        assert_eq!(found["raw"]["images"], 12);
        assert!(folder.names(layout).contains(&"p-ema.csv".to_string()));
        // Names of images differ, but nothing else.
        let numbers = (found["raw"].clone(), found["ema"].clone());
        assert_eq!(*first.get_or_insert(numbers.clone()), numbers, "{layout}");
    }
    let data = format!("data={}", repository("tests/fixtures/data/folder").display());
    let said =
        recipe(&folder, "swept", &[&data, "resize=32,40,33x44", "split=train", "dtype=float32", "variant=sketch"]);
    said.succeeds().prints(&["32      28    float32  raw", "40      28    float32  ema", "33x44   28    float32  raw"]);
    said.says(&["images: height and width to 33 and 44 (aspect ratio not kept); bicubic, centre crop 28; in float32"]);
    assert_eq!(folder.json("swept/evaluation.json")["ema"]["images"], 28);
    // By default as the reference evaluates, said in the log and in the file.
    let said = recipe(&folder, "published", &[&data]);
    let what = "the shorter side to 32, as no setting is published for a model of this size; bicubic, centre crop 28";
    said.succeeds().says(&[&format!("images: {what}; in bfloat16")]);
    let found = folder.json("published/evaluation.json");
    let done = ["preparation", "dtype", "exif_orientation"].map(|key| found["raw"][key].clone());
    assert_eq!(serde_json::json!(done), serde_json::json!([what, "bfloat16", true]));
    recipe(&folder, "none", &["data=nowhere"]).fails(1).says(&["nowhere"]);
}

#[test]
fn the_recipe_takes_other_data_of_one_channel() {
    let folder = Folder::new();
    tiny_models(&folder, 10, 1);
    let data = format!("data={}", fashion());
    let said = recipe(&folder, "out", &[&data, "resize=28", "batch=1000"]);
    said.succeeds().prints(&["28      28    bfloat16  raw"]);
    let found = folder.json("out/evaluation.json");
    assert_eq!(found["raw"]["per_class"].as_array().unwrap().len(), 10);
    assert_eq!(found["samples"].as_array().unwrap().len(), 32);
}
