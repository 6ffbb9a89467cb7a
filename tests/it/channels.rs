//! Images of many channels or more than 8 bits, from the file to the model.

#[cfg(target_os = "linux")]
use crate::common::simulated_cuda::simulated;
use crate::common::{Folder, repository};
use serde_json::Value;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    repository("tests/fixtures/images-channels").join(name)
}

/// A folder `d` with copies of a file in class folders, an image each.
fn with_copies(name: &str, copies: usize) -> Folder {
    let folder = Folder::new();
    let ending = name.rsplit('.').next().unwrap();
    for i in 0..copies {
        folder.write(&format!("d/{}/{i}.{ending}", ["a", "b"][i % 2]), std::fs::read(fixture(name)).unwrap());
    }
    folder
}

/// A file's values, channel by channel, and how many channels it has.
fn expected(name: &str) -> (usize, Vec<f64>) {
    let all: Value = serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap();
    let facts = &all["files"][name];
    (
        serde_json::from_value(facts["shape"][0].clone()).unwrap(),
        serde_json::from_value(facts["values"].clone()).unwrap(),
    )
}

/// The mean and the standard deviation of each channel.
fn moments(name: &str) -> (Vec<f64>, Vec<f64>) {
    let (channels, values) = expected(name);
    let planes = values.chunks(values.len() / channels);
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let means: Vec<f64> = planes.clone().map(mean).collect();
    let squares = planes.zip(&means).map(|(v, m)| mean(&v.iter().map(|x| (x - m).powi(2)).collect::<Vec<_>>()).sqrt());
    (means.clone(), squares.collect())
}

const OPEN: &str = "let images = data::open(\"d\", \"\", #{ mode: \"unchanged\" });\n";

#[test]
fn a_batch_holds_what_the_files_hold_normalised_by_each_channels_own() {
    for name in ["bands5-f32.tif", "bands13-u16.tif", "grey-u16.png", "rgba-u16.png"] {
        let (channels, values) = expected(name);
        let (mean, std) = moments(name);
        let script = format!(
            "{OPEN}
            print(images);
            let plain = data::loader(images, [], #{{ batch: 3, shuffle: false }});
            print(plain.shape);
            for batch in plain.epoch(0) {{
                for i in 0..batch.len {{ print(batch.images[i].flatten().to_array()); }}
            }}
            let loader = data::loader(images, [transform::normalize({mean:?}, {std:?})], #{{ batch: 3, shuffle: false }});
            let batch = loader.epoch(0).next();
            print(batch.images.mean([0, 2, 3]).abs().max().item());
            print((batch.images.std([0, 2, 3], #{{ correction: 0 }}) - 1.0).abs().max().item());
            print(images.image(1).tensor().flatten().to_array());"
        );
        let said = with_copies(name, 4).run(&script);
        said.succeeds().prints(&["as they are"]);
        let lines: Vec<Value> = said.stdout.lines().skip(1).map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0], serde_json::json!([channels, 7, 9]), "{name}");
        for line in lines[1..5].iter().chain([&lines[7]]) {
            let found: Vec<f64> = serde_json::from_value(line.clone()).unwrap();
            let off = found.iter().zip(&values).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max);
            assert!(found.len() == values.len() && off < 1e-7, "{name}: {off}");
        }
        assert!(lines[5].as_f64().unwrap() < 1e-5 && lines[6].as_f64().unwrap() < 1e-5, "{name}: {:?}", &lines[5..7]);
    }
}

#[test]
fn geometry_erasing_and_mixup_work_on_any_channels() {
    let body = r#"
        for list in [
            [transform::random_resized_crop(5, #{ scale: [0.3, 1.0], interpolation: "bicubic" }), transform::random_horizontal_flip()],
            [transform::resize(12), transform::center_crop(8)],
            [transform::center_crop(16)],
            [transform::random_crop(#{ padding: 2 })],
            [transform::random_crop([5, 4], #{ padding: 0 }), transform::random_vertical_flip()],
            [transform::resized_crop(1, 2, 4, 5, [6, 6], #{})],
        ] {
            for batch in data::loader(images, list + [transform::random_erasing(#{}), transform::mixup(#{})], #{ batch: 4 }).epoch(0) {
                print(batch.images.shape);
                if !batch.images.isfinite().all() { throw "not finite"; }
            }
        }
        // A flip moves pixels, never channels.
        let plain = images.image(0);
        let flipped = plain.apply([transform::random_horizontal_flip(#{ p: 1.0 })], 0);
        print(flipped.tensor().flip([2]).equal(plain.tensor()));
        let flipped = plain.apply([transform::random_vertical_flip(#{ p: 1.0 })], 0);
        print(flipped.tensor().flip([1]).equal(plain.tensor()));
        // A border of zeros around the image.
        let padded = plain.apply([transform::center_crop([9, 11])], 0).tensor();
        print(padded.slice(1, 1, 8).slice(2, 1, 10).equal(plain.tensor()) && padded.select(1, 0).abs().sum().item() == 0.0);
    "#;
    let said = with_copies("bands5-f32.tif", 4).run(&format!("{OPEN}{body}"));
    said.succeeds().prints(&[
        "[4, 5, 5, 5]\n[4, 5, 8, 8]\n[4, 5, 16, 16]\n[4, 5, 7, 9]\n[4, 5, 5, 4]\n[4, 5, 6, 6]\ntrue\ntrue\ntrue\n",
    ]);
}

#[test]
fn changes_of_colours_refuse_other_images_by_name() {
    let folder = with_copies("bands5-f32.tif", 2);
    for (transform, name) in [
        (
            "transform::color_jitter(#{ brightness: 0.5 })",
            "transform::color_jitter(brightness: 0.5) works on grey and RGB",
        ),
        ("transform::random_grayscale(#{ p: 0.0 })", "transform::random_grayscale("),
        ("transform::random_solarize(#{})", "transform::random_solarize("),
        ("transform::gaussian_blur(#{})", "transform::gaussian_blur("),
        ("transform::three_augment(#{})", "transform::three_augment("),
        ("transform::rand_augment(\"rand-m9\")", "transform::rand_augment("),
        ("transform::op(\"Posterize\", [4.0], #{})", "transform::op("),
        ("transform::rgb()", "transform::rgb: expected an image of 1 or 3 channels, found 5"),
        ("transform::grayscale()", "transform::grayscale: expected an image of 1 or 3 channels, found 5"),
    ] {
        for on_bad in ["error", "skip"] {
            let line = format!("data::loader(images, [{transform}], #{{ batch: 2, on_bad: \"{on_bad}\" }});");
            let said = folder.run(&format!("{OPEN}{line}"));
            said.fails(1).says(&[name]).at("recipe.rhai:2:7", &line);
            if !name.contains("of 1 or 3 channels") {
                said.says(&[
                    "5 channels of floats",
                    "what works on any: resize, center_crop, random_crop",
                    "normalize",
                ]);
            }
        }
    }
    let wrong = "data::loader(images, [transform::normalize([0.1, 0.2], [1.0, 1.0])], #{ batch: 2 }).epoch(0).next();";
    folder.run(&format!("{OPEN}{wrong}")).fails(1).says(&["mean has 2 values, but the images have 5 channel(s)"]);
}

#[test]
fn the_default_says_what_it_loses_or_refuses() {
    let loop_of =
        "for b in data::loader(data::open(\"d\", \"\"), [], #{ batch: 2 }).epoch(0) { print(b.images.shape); }";
    let said = with_copies("rgb-u16.png", 4).run(loop_of);
    said.succeeds().prints(&["[2, 3, 7, 9]\n[2, 3, 7, 9]"]);
    let note = "images of 16 bits a channel are read as 8-bit RGB; to keep their bits and channels: data::open(path, split, \
                #{ mode: \"unchanged\" })";
    assert_eq!(said.stderr.matches(note).count(), 1, "{said}");
    let said = with_copies("rgb-u8.png", 2).run(loop_of);
    assert!(!said.succeeds().stderr.contains("16 bits"), "{said}");
    let said = with_copies("bands5-f32.tif", 2).run(loop_of);
    said.fails(1).says(&["a TIFF file of an unsupported kind", "#{ mode: \"unchanged\" }"]);
    // Pixels that are stored are what they are.
    let idx = repository("examples/data/fashion-mnist").display().to_string();
    let body = format!("print(data::open(\"{idx}\", \"test\", #{{ mode: \"unchanged\" }}).image(0).tensor().dtype);");
    Folder::new().run(&body).succeeds().prints(&["uint8"]);
    Folder::new().run("data::open(\"d\", \"\", #{ mode: \"rgba\" });").fails(1).says(&["rgb", "unchanged"]);
}

#[test]
fn nepa_data_prints_the_moments_of_each_channel() {
    let number = |v: &f64| format!("{v:.*}", (4 - v.abs().log10().floor() as i32) as usize);
    for (name, mode) in [("bands5-f32.tif", "unchanged"), ("bands13-u16.tif", "unchanged"), ("rgb-u8.png", "rgb")] {
        let (mean, std) = moments(name);
        let list = |values: &[f64]| values.iter().map(number).collect::<Vec<_>>().join(", ");
        let said = with_copies(name, 3).nepa(&["data", "d", "--mode", mode]);
        said.succeeds().prints(&[
            &format!("channels   {}; mean and standard deviation over all pixels of 3 images:\n", mean.len()),
            &format!("transform::normalize([{}], [{}])\n", list(&mean), list(&std)),
        ]);
    }
    let folder = with_copies("bands13-u16.tif", 3);
    folder
        .nepa(&["data", "d", "--mode", "unchanged", "--sheet", "s.png", "--transforms", "[transform::resize(20)]"])
        .succeeds();
    assert!(folder.path("s.png").is_file());
    folder.nepa(&["data", "d"]).succeeds().prints(&["broken     3 of 3 images"]);
    with_copies("rgba-u16.png", 2).nepa(&["data", "d"]).succeeds().prints(&["2 PNG (2 16-bit, 2 alpha)"]);
}

#[test]
fn a_model_of_five_channels_is_pretrained_on_floats_and_fine_tuned_from_rgb() {
    let (mean, std) = moments("bands5-f32.tif");
    let body = format!(
        r#"
        import "std/pretrain" as pretrain;
        import "std/finetune" as finetune;
        {OPEN}
        let config = #{{ image_size: 8, patch_size: 4, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 }};
        let model = nn::vit_nepa(config + #{{ num_channels: 5 }});
        let transforms = [transform::random_resized_crop(8), transform::normalize({mean:?}, {std:?})];
        let result = pretrain::fit(model, images, #{{ epochs: 2, batch: 4, lr: 1e-3, transforms: transforms }});
        print(result.loss.is_nan());
        checkpoint::save(model, "five");
        print(checkpoint::load("five").config.num_channels);
        let c = finetune::classifier(nn::vit_nepa(config), 2, #{{ num_channels: 5 }});
        finetune::fit(c, images, #{{ epochs: 1, batch: 4, transforms: transforms }});
        plot::images("x.png", data::loader(images, [], #{{ batch: 4 }}).epoch(0).next().images, #{{}});
        "#
    );
    let folder = with_copies("bands5-f32.tif", 8);
    let said = folder.run(&body);
    said.fails(1).says(&["expected images [B, 1 or 3, H, W]", "[4, 5, 7, 9]", "images.index_select(1, "]);
    said.prints(&["false\n5\n"]);
    let stored = folder.json("five/preprocessor_config.json");
    assert_eq!(stored["image_mean"].as_array().unwrap().len(), 5);
    assert!(mean.iter().any(|mean| !(0.0..=1.0).contains(mean)) && stored["do_rescale"] == false, "{stored}");
    for to in ["hf", "timm"] {
        folder.nepa(&["export", "five", to, "--to", to]).succeeds();
    }
    assert!(folder.text("hf/README.md").contains("5 channels, as they are, minus mean"));
    // timm's loader divides by 255 before it subtracts the mean.
    let timm = &folder.json("timm/config.json")["pretrained_cfg"]["mean"];
    for (told, mean) in timm.as_array().unwrap().iter().zip(mean) {
        assert!((told.as_f64().unwrap() * 255.0 - mean).abs() < 1e-3 * mean.abs(), "{timm}");
    }
}

/// Integers of 16 bits have means within 0 to 1, as pictures of 8 bits have: the mode is recorded.
#[test]
fn a_model_of_16_bits_is_given_images_as_it_was_trained_on() {
    let folder = with_copies("grey-u16.png", 4);
    let script = format!(
        r#"
        import "std/pretrain" as pretrain;
        import "std/splits" as splits;
        {OPEN}
        let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 }});
        print(splits::opening_for(m));
        pretrain::fit(m, images, #{{ epochs: 1, batch: 4, transforms: [transform::random_resized_crop(8), transform::normalize(0.25, 0.5)] }});
        checkpoint::save(m, "m");
        checkpoint::save(checkpoint::load("m"), "again");
        for model in [checkpoint::load("m"), checkpoint::open("again", "")] {{ print(splits::opening_for(model)); }}
        m.set_normalization([0.25], [0.5], "rgb");
        print(m.image_mode);
        m.set_normalization([0.25], [0.5], "rbg");
        "#
    );
    let said = folder.run(&script);
    said.fails(1).says(&["set_normalization: mode", "rbg", "rgb, unchanged"]);
    let unchanged = "#{\"mode\": \"unchanged\"}\n";
    said.prints(&[&format!("#{{\"mode\": \"rgb\"}}\n{unchanged}{unchanged}rgb\n")]);
    let stored = folder.json("again/preprocessor_config.json");
    assert_eq!((&stored["image_mode"], &stored["do_rescale"]), (&"unchanged".into(), &false.into()));
}

/// Evaluation and maps open images as the model's were: floats of five bands, and of three.
#[test]
fn classifiers_of_other_images_are_evaluated_and_drawn() {
    for name in ["bands5-f32.tif", "rgb-u16.png"] {
        let folder = with_copies(name, 6);
        let (mean, std) = moments(name);
        let channels = mean.len();
        let script = format!(
            r#"
            import "std/evaluate" as evaluate;
            {OPEN}
            let m = nn::vit_nepa(#{{ image_size: 7, patch_size: 7, num_channels: {channels}, hidden_size: 16, num_hidden_layers: 1,
                num_attention_heads: 2, num_labels: 2, is_causal: false, initializer_range: 0.5 }});
            m.set_normalization({mean:?}, {std:?}, "unchanged");
            checkpoint::save(m, "m", #{{ class_names: ["a", "b"] }});
            let t = [transform::resize(8, #{{ interpolation: "bicubic" }}), transform::center_crop(7), transform::normalize({mean:?}, {std:?})];
            print(evaluate::classify(m, images, #{{ transforms: t }}).loss);
            "#
        );
        let expected: f64 = folder.run(&script).succeeds().stdout.trim().parse().unwrap();
        let recipe = |name: &str, out: &str, sets: &[&str]| {
            let recipe = repository(&format!("recipes/{name}.rhai")).display().to_string();
            let mut args = vec!["run", &recipe, "--device", "cpu", "--out", out, "--set", "model=m", "--set", "data=d"];
            sets.iter().for_each(|set| args.extend(["--set", set]));
            folder.nepa(&args)
        };
        recipe("eval_imagenet1k", "e", &["resize=8", "dtype=float32"]).succeeds();
        let found = folder.json("e/evaluation.json");
        assert!((found["raw"]["loss"].as_f64().unwrap() - expected).abs() < 1e-6, "{name}: {expected} {found}");
        assert!(image::image_dimensions(folder.path("e/samples/000.png")).is_ok(), "{name}");
        recipe("visualize", "v", &["images=0", "patches=0,0", "resize=8"]).succeeds().prints(&["2 maps"]);
        assert!(image::image_dimensions(folder.path("v/image-0.png")).is_ok(), "{name}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_gpu_gets_the_same_batches() {
    let (mean, std) = moments("bands5-f32.tif");
    let recipe = format!(
        "{OPEN}
        let list = [transform::random_horizontal_flip(), transform::normalize({mean:?}, {std:?})];
        for transforms in [[], list] {{
            for batch in data::loader(images, transforms, #{{ batch: 2 }}).epoch(0) {{
                print(batch.images.flatten().to_array());
            }}
        }}"
    );
    let folder = with_copies("bands5-f32.tif", 5);
    folder.write("recipe.rhai", recipe);
    let on_cpu = folder.nepa(&["run", "recipe.rhai", "--device", "cpu"]);
    let on_gpu = simulated(&folder, &[], &["run", "recipe.rhai", "--device", "cuda"]);
    assert_eq!(on_cpu.succeeds().stdout.lines().count(), 6);
    on_gpu.succeeds().says(&["recipe.rhai on cuda:0"]);
    assert_eq!(on_gpu.stdout, on_cpu.stdout);
}
