//! Recipes on data with other splits, without splits and without labels; layouts that the program weighs; classes that
//! are numbers.

use crate::common::*;

/// A PNG of one grey, of `side` pixels.
fn png(grey: u8, side: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::GrayImage::from_pixel(side, side, image::Luma([grey]));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Writes class folders, `PLACE/CLASS/`, of so many images.
fn classes(folder: &Folder, place: &str, classes: &[&str], count: usize) {
    for (c, class) in classes.iter().enumerate() {
        for i in 0..count {
            folder.write(&format!("{place}/{class}/{i}.png"), png((40 * c + i) as u8, 28));
        }
    }
}

/// Runs a recipe into `out` with these parameters.
fn recipe(folder: &Folder, name: &str, out: &str, sets: &[&str]) -> Said {
    let file = repository(&format!("recipes/{name}.rhai")).display().to_string();
    let mut args = vec!["run", &file, "--device", "cpu", "--threads", "1", "--out", out];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    folder.nepa(&args)
}

/// Pretrains a tiny model into `out`.
fn pretrain(folder: &Folder, out: &str, sets: &[&str]) -> Said {
    let small = ["image_size=28", "hidden_size=16", "layers=1", "heads=2", "batch=4", "micro_batch=4", "steps=1"];
    recipe(folder, "pretrain_vits", out, &[&small, sets].concat())
}

/// Fine-tunes the model in `pre` for an epoch.
fn finetune(folder: &Folder, out: &str, sets: &[&str]) -> Said {
    let small = ["model=pre", "weights=raw", "batch=4", "micro_batch=4", "epochs=1", "dtype=float32"];
    recipe(folder, "finetune_vitb", out, &[&small, sets].concat())
}

#[test]
fn pretraining_takes_images_without_labels_and_says_that_it_does_not_evaluate() {
    let folder = Folder::new();
    for i in 0..6 {
        folder.write(&format!("flat/{i}.png"), png(i, 28));
        folder.write(&format!("one/images/{i}.png"), png(i, 28));
        folder.write(&format!("split/train/{i}.png"), png(i, 28));
        folder.write(&format!("split/val/{i}.png"), png(i, 28));
    }
    let said = pretrain(&folder, "a", &["data=flat"]);
    said.succeeds().says(&[
        "flat has no splits: all its 6 images are for training",
        "features are not evaluated: only 0 of the 6 images in flat (images without classes)",
    ]);
    pretrain(&folder, "b", &["data=split"]).succeeds().says(&["features are not evaluated: only 0 of the 6 images"]);
    let said = pretrain(&folder, "c", &["data=one"]);
    said.succeeds().says(&["features are not evaluated: one (image folder)", "images of a single class"]);
    // Nothing to say where nothing is wanted.
    let said = pretrain(&folder, "d", &["data=flat", "train_split=", "evaluate_every=0"]);
    assert!(!said.succeeds().stderr.contains("not evaluated") && !said.stderr.contains("no splits"), "{said}");
}

#[test]
fn pretraining_takes_data_without_splits_and_with_other_ones() {
    let folder = Folder::new();
    classes(&folder, "plain", &["a", "b"], 12);
    classes(&folder, "only/train", &["a", "b"], 12);
    classes(&folder, "other/learn_train", &["a", "b"], 12);
    classes(&folder, "other/dev", &["a", "b"], 6);
    let on_a_part = "features are evaluated on a part of the training images: nothing is held out";
    let said = pretrain(&folder, "a", &["data=plain"]);
    said.succeeds().says(&["plain has no splits: all its 24 images are for training", on_a_part, "knn_top1"]);
    pretrain(&folder, "b", &["data=only"]).fails(1).says(&["single split, train", "held_out_split=\"\" does without"]);
    pretrain(&folder, "c", &["data=only", "held_out_split="]).succeeds().says(&[on_a_part, "knn_top1"]);
    let said = pretrain(&folder, "d", &["data=other"]);
    said.succeeds().says(&["other/learn_train (image folder, learn_train): 24 images", "knn_top1"]);
    let said = pretrain(&folder, "e", &["data=other", "train_split=dev", "held_out_split=learn_train"]);
    said.succeeds().says(&["other/dev (image folder, dev): 12 images", "knn_top1"]);
    pretrain(&folder, "f", &["data=other", "train_split=learn"])
        .fails(1)
        .says(&["no split \"learn\"", "learn_train, dev"]);
}

#[test]
fn the_other_recipes_take_data_without_splits() {
    let folder = Folder::new();
    classes(&folder, "plain", &["a", "b"], 12);
    classes(&folder, "flatval/train", &["a", "b"], 6);
    folder.write("flatval/val/1.png", png(1, 28));
    folder.write("flat/1.png", png(1, 28));
    pretrain(&folder, "pre", &["data=plain", "evaluate_every=0"]).succeeds();

    let said = finetune(&folder, "f1", &["data=plain"]);
    said.fails(1).says(&["plain has no splits, so that nothing is held out", "held_out_split=\"\" trains without"]);
    let said = finetune(&folder, "f2", &["data=plain", "held_out_split="]);
    said.succeeds().says(&["not evaluated: nothing is held out"]);
    assert!(folder.names("f2").contains(&"model-ema".to_string()));
    let said = finetune(&folder, "f3", &["data=flatval"]);
    said.fails(1).says(&["held_out_split: needs labelled images, but only 0 of the 1 images in flatval/val"]);
    let said = finetune(&folder, "f4", &["data=flat", "held_out_split="]);
    said.fails(1).says(&["needs labelled images, but only 0 of the 1 images in flat"]);

    for name in ["knn", "linear_probe"] {
        let sets = ["model=pre/model", "data=plain", "held_out_split="];
        let said = recipe(&folder, name, name, &sets);
        said.succeeds().says(&["plain: a fifth of its images, 5 of 24, is held out, the same fifth in every run"]);
        said.prints(&["19 of plain (image folder)", "5 of plain (image folder)"]);
    }
    recipe(&folder, "visualize", "v", &["model=pre/model", "data=flat", "images=0", "patches=0,0"]).succeeds();
    let said = recipe(&folder, "eval_imagenet1k", "e", &["model=f2/model", "data=plain", "crop=28", "resize=28"]);
    said.succeeds().prints(&["top-1 %"]);
}

#[test]
fn the_small_recipes_take_any_layout_and_splits() {
    let folder = Folder::new();
    classes(&folder, "d", &["0", "1", "2"], 10);
    let swapped = [format!("data={}", fashion()), "train_split=test".into(), "held_out_split=train".into()];
    let swapped: Vec<&str> = swapped.iter().map(String::as_str).collect();
    let said = recipe(
        &folder,
        "ablations",
        "a",
        &[&swapped[..], &["seeds=1", "images=100", "variants=[\"untrained\"]"]].concat(),
    );
    said.succeeds().prints(&["untrained"]);
    let small =
        ["seeds=1", "pretrain_epochs=1", "finetune_steps=1", "labels_per_class=[2]", "data=d", "held_out_split="];
    let said = recipe(&folder, "quickstart", "q", &small);
    // 24 images, in one batch; grey files are opened as RGB, and made grey.
    said.succeeds().says(&["d: a fifth of its images, 6 of 30, is held out", "batch 24"]);
}

/// A model that was pretrained with another seed must not have seen them.
#[test]
fn the_fifth_that_is_held_out_does_not_depend_on_the_seed() {
    let folder = Folder::new();
    classes(&folder, "plain", &["a", "b"], 12);
    let held_out = |seed: &str| {
        let script = "import \"std/splits\" as splits;
            let sets = splits::both(\"plain\", \"train\", \"validation\");
            let names = []; for i in 0..sets[1].len { names.push(sets[1].name(i)); } print(names);";
        folder.run_with(script, &["--seed", seed]).succeeds().stdout.clone()
    };
    assert_eq!(held_out("0").matches(".png").count(), 5, "{}", held_out("0"));
    assert_eq!(held_out("0"), held_out("7"));
}

/// Layouts that are handed around.
#[test]
fn folders_of_splits_are_splits_whatever_lies_beside_them() {
    let folder = Folder::new();
    for (place, training, testing, beside) in [
        ("cats", "training_set", "test_set", "single_prediction"),
        ("intel", "seg_train", "seg_test", "seg_pred"),
        ("more", "imagenet_train", "imagenet_val", "flowers"),
    ] {
        classes(&folder, &format!("{place}/{training}"), &["cat", "dog"], 3);
        classes(&folder, &format!("{place}/{testing}"), &["cat", "dog"], 2);
        folder.write(&format!("{place}/{beside}/0.png"), png(9, 28));
        let held_out = if testing.contains("val") { "validation" } else { "test" };
        let said = folder.run(&format!(
            "print(data::splits(\"{place}\")); let s = data::open(\"{place}\", \"train\"); print(`${{s.len}} ${{s.class_names}}`);\n\
             print(data::open(\"{place}\", \"{held_out}\").len);"
        ));
        said.prints(&[&format!("[\"{training}\", \"{testing}\"]"), "6 [\"cat\", \"dog\"]", "4"]);
    }
    // A name with a number alone is a split, with classes or without.
    for i in 0..3 {
        folder.write(&format!("coco/train2017/{i}.png"), png(i, 28));
        folder.write(&format!("coco/val2017/{i}.png"), png(i, 28));
        folder.write(&format!("tubes/test_tube/{i}.png"), png(i, 28));
        folder.write(&format!("tubes/flask/{i}.png"), png(i, 28));
        folder.write(&format!("tiny/val/images/{i}.png"), png(i, 28));
    }
    classes(&folder, "tiny/train", &["n01", "n02"], 2);
    folder
        .run(
            "print(data::splits(\"coco\")); print(data::open(\"coco\", \"validation\").class_names);\n\
             print(data::splits(\"tubes\")); print(data::open(\"tubes\").class_names);\n\
             print(data::open(\"tiny\", \"train\").class_names); let v = data::open(\"tiny\", \"val\"); print(`${v.len} ${v.class_names}`);",
        )
        .prints(&["[\"train2017\", \"val2017\"]", "[]", "[]", "[\"flask\", \"test_tube\"]", "[\"n01\", \"n02\"]", "3 []"]);
    // One that may be a split and may be a class.
    classes(&folder, "either/training_set", &["cat", "dog"], 2);
    folder.write("either/flowers/0.png", png(1, 28));
    folder.run("data::open(\"either\");").fails(1).says(&["can be read in two ways: training_set/ as a split"]);
}

#[test]
fn a_folder_too_high_is_not_a_single_class() {
    let folder = Folder::new();
    classes(&folder, "split/train/images", &["cat", "dog"], 2);
    classes(&folder, "split/val/images", &["cat", "dog"], 2);
    classes(&folder, "root/images", &["cat", "dog"], 2);
    classes(&folder, "described/data", &["cat", "dog"], 2);
    folder.write("described/docs/figure.png", png(1, 28));
    for (open, place, name) in [
        ("\"split\", \"train\"", "split/train", "images"),
        ("\"root\"", "root", "images"),
        ("\"described\"", "described", "data"),
    ] {
        folder.run(&format!("data::open({open});")).fails(1).says(&[
            &format!("{place} would have a single class, {name}"),
            "cat, dog",
            &format!("give {place}/{name}, or move them up into {place}"),
        ]);
    }
}

#[test]
fn a_link_that_leads_nowhere_is_told_and_looked_at_again() {
    let folder = Folder::new();
    classes(&folder, "data", &["cat", "dog"], 2);
    std::os::unix::fs::symlink(folder.path("more"), folder.path("data/cat/more")).unwrap();
    let open = "print(data::open(\"data\").len);";
    folder.run(open).prints(&["4"]).says(&["more links to what is not there: passed over"]);
    folder.write("more/0.png", png(1, 28));
    folder.run(open).prints(&["5"]);
    // Archives hold the second name of a file as a link, without its content.
    folder.write("a.png", png(1, 28));
    std::fs::hard_link(folder.path("a.png"), folder.path("b.png")).unwrap();
    let mut tar = std::process::Command::new("tar");
    assert!(tar.args(["cf", "s.tar", "a.png", "b.png"]).current_dir(folder.path(".")).status().unwrap().success());
    folder.run("print(data::open(\"s.tar\").len);").prints(&["1"]).says(&["b.png is a link to another file"]);
}

#[test]
fn what_is_passed_over_is_said_by_runs_and_by_data() {
    let folder = Folder::new();
    classes(&folder, "d/train", &["cat", "dog"], 3);
    classes(&folder, "d/val", &["cat", "dog"], 1);
    for name in ["test/1.png", "assets/1.png", "train/montage.png", ".thumbs/x.png"] {
        folder.write(&format!("d/{name}"), png(9, 28));
    }
    folder.write("d/ILSVRC2012_devkit_t12.tar.gz", "x");
    let passed_over = "passed over ILSVRC2012_devkit_t12.tar.gz, assets/, train/montage.png";
    folder.nepa(&["data", "d"]).succeeds().prints(&[
        "d: image folder\n",
        "train  6 images, 2 classes\n",
        "val    2 images, 2 classes\n",
        "test   1 image, no classes;",
        passed_over,
    ]);
    let said = folder.run(
        r#"for split in ["train", "validation"] {
               let s = data::open("d", split);
               print([s.len, s.class_names, s.class_counts]);
           }"#,
    );
    assert_eq!(said.stdout, "[6, [\"cat\", \"dog\"], [3, 3]]\n[2, [\"cat\", \"dog\"], [1, 1]]\n", "{said}");
    assert_eq!(said.stderr.matches(&format!("d: {passed_over}")).count(), 1, "said once: {said}");
    folder
        .nepa(&["data", "d/test"])
        .succeeds()
        .prints(&["d/test: images without classes", "test  1 image, no classes"]);
}

/// A model of `count` outputs that answers with the class whose number is the picture's grey divided by 20.
fn evaluated(folder: &Folder, data: &str, count: usize, options: &str) -> Said {
    folder.run(&format!(
        r#"import "std/evaluate" as evaluate;
        let number = |x| (x.mean([1, 2, 3]) * 255.0 / 20.0 + 0.5).floor().to("int64");
        let model = |x| number.call(x).one_hot({count}).to("float32") * 9.0;
        let r = evaluate::classify(model, data::open("{data}"), #{{ transforms: [] }} + {options});
        print(r.top1);"#
    ))
}

#[test]
fn classes_that_are_numbers_are_labels_for_any_number_of_classes() {
    let folder = Folder::new();
    for (name, numbers) in [("nine", (0..9).collect()), ("twelve", (0..12).collect()), ("some", vec![0, 2, 10, 11])] {
        for n in numbers {
            folder.write(&format!("{name}/{n}/x.png"), png(20 * n as u8, 8));
        }
    }
    for (data, count, assumed) in [("nine", 9, false), ("twelve", 12, false), ("some", 12, true)] {
        let said = evaluated(&folder, data, count, "#{}");
        assert_eq!(said.stdout, "100.0\n", "{data}: {said}");
        let words = "the model has no class names: class names that are numbers are taken for the model's labels";
        assert_eq!(said.stderr.contains(words), assumed, "{said}");
    }
    // A model that calls its classes by numbers means those names, not labels.
    let names = |first: usize| {
        format!("#{{ class_names: {:?} }}", (first..first + 12).map(|n| n.to_string()).collect::<Vec<_>>())
    };
    evaluated(&folder, "some", 12, &names(1)).fails(1).says(&["1 of the 4 classes", "not among the model's 12: 0"]);
    assert_eq!(evaluated(&folder, "some", 12, &names(0)).stdout, "100.0\n");
    let words = (0..12).map(|n| format!("class {n}")).collect::<Vec<_>>();
    assert_eq!(evaluated(&folder, "some", 12, &format!("#{{ class_names: {words:?} }}")).stdout, "100.0\n");
    let said = folder.run("data::match_classes(data::open(\"some\"), (), 11);");
    said.fails(1).says(&["the model has 11 classes", "has 4: 0, 2, 10, 11"]);
}

#[test]
fn numbers_in_another_order_are_not_guessed() {
    // As torchvision lists folders, and `datasets` the names of a ClassLabel.
    let folder = Folder::new();
    folder.write("classes.txt", "0\n1\n10\n2\n3\n4\n5\n6\n7\n8\n9\n");
    let idx = |magic: u32, sizes: &[u32], content: &[u8]| {
        let words = std::iter::once(&magic).chain(sizes).flat_map(|w| w.to_be_bytes());
        words.chain(content.iter().copied()).collect::<Vec<u8>>()
    };
    // The class called "10" is label 2, and its picture says so.
    folder.write("train-images-idx3-ubyte", idx(0x803, &[2, 1, 1], &[40, 60]));
    folder.write("train-labels-idx1-ubyte", idx(0x801, &[2], &[2, 3]));
    let said = evaluated(&folder, ".", 11, "#{}");
    said.fails(1).says(&["are numbers, but not in their order: 0, 1, 10", "class_names"]);
    let said = evaluated(&folder, ".", 11, "#{ class_names: data::open(\".\").class_names }");
    assert_eq!(said.stdout, "100.0\n", "{said}");
}

#[test]
fn words_without_names_on_the_models_side_are_assumed_aloud() {
    let folder = Folder::new();
    for (i, name) in ["cat", "dog", "owl"].iter().enumerate() {
        folder.write(&format!("d/{name}/x.png"), png(20 * i as u8, 8));
    }
    let said = evaluated(&folder, "d", 3, "#{}");
    said.succeeds().says(&["no class names: the outputs are taken for the classes of the images, in their order"]);
    let said = evaluated(&folder, "d", 3, "#{ class_names: [\"dog\", \"cat\", \"owl\"] }");
    assert_eq!(said.stdout.trim().parse::<f64>().unwrap().round(), 33.0, "{said}");
    assert!(!said.stderr.contains("no class names"), "{said}");
}
