//! Files that are missing, cut short, damaged or not what they should be, and places that cannot be
//! written: each is told with the path and what is wrong with it.

use crate::common::*;
use std::io::Write as _;

// ---- data ----

/// An IDX file: magic number, sizes, bytes.
fn idx(magic: u32, sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let words = std::iter::once(&magic).chain(sizes).flat_map(|w| w.to_be_bytes());
    words.chain(content.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Two images of 2 x 3 with labels 0 and 1, and then whatever the test makes of them.
fn with_data(change: impl FnOnce(&Folder)) -> Said {
    let folder = Folder::new();
    folder.write("d/train-images-idx3-ubyte", idx(0x803, &[2, 2, 3], &[7; 12]));
    folder.write("d/train-labels-idx1-ubyte", idx(0x801, &[2], &[0, 1]));
    change(&folder);
    folder.run("let source = data::idx(\"d\", \"train\");\nprint(source);")
}

/// The complaint about it, at the line that opened it.
fn blamed(change: impl FnOnce(&Folder), pieces: &[&str]) {
    let said = with_data(change);
    said.blames("recipe.rhai:1:20", "let source = data::idx(\"d\", \"train\");", pieces);
}

const IMAGES: &str = "d/train-images-idx3-ubyte";
const LABELS: &str = "d/train-labels-idx1-ubyte";

#[test]
fn whole_data_is_read_plain_and_gzipped() {
    with_data(|_| ()).succeeds().prints(&["2 images 1 x 2 x 3", "2 classes"]);
    let said = with_data(|f| {
        f.write(&format!("{IMAGES}.gz"), gzip(&f.read(IMAGES)));
        std::fs::remove_file(f.path(IMAGES)).unwrap();
    });
    said.succeeds().prints(&["2 images 1 x 2 x 3"]);
}

#[test]
fn a_missing_data_folder_or_file_is_told() {
    run("data::idx(\"nowhere\", \"train\");").blames(
        "recipe.rhai:1:7",
        "data::idx(\"nowhere\", \"train\");",
        &["nowhere", "does not exist"],
    );
    blamed(
        |f| std::fs::remove_file(f.path(LABELS)).unwrap(),
        &["train-labels-idx1-ubyte.gz", "the folder holds: train-images-idx3-ubyte"],
    );
    run("data::idx(\".\", \"tset\");").fails(1).says(&["\"tset\"", "\"train\" or \"test\""]);
}

#[test]
fn truncated_data_is_told_with_what_its_header_announces() {
    for cut in [17, 20, 27] {
        blamed(|f| f.write(IMAGES, &f.read(IMAGES)[..cut]), &[IMAGES, "[2, 2, 3] = 28 bytes", &format!("found {cut}")]);
    }
    blamed(|f| f.write(IMAGES, &f.read(IMAGES)[..10]), &[IMAGES, "truncated", "10"]);
    blamed(|f| f.write(IMAGES, ""), &[IMAGES]);
    blamed(|f| f.write(LABELS, &f.read(LABELS)[..9]), &[LABELS, "10 bytes", "found 9"]);
    blamed(|f| f.write(IMAGES, [f.read(IMAGES), vec![0]].concat()), &[IMAGES, "28 bytes", "found 29"]);
}

#[test]
fn truncated_or_damaged_gzip_is_told() {
    let whole = gzip(&idx(0x803, &[2, 2, 3], &[7; 12]));
    for bytes in [whole[..whole.len() / 2].to_vec(), whole[..whole.len() - 1].to_vec(), b"no gzip".to_vec(), Vec::new()]
    {
        let change = |f: &Folder| {
            std::fs::remove_file(f.path(IMAGES)).unwrap();
            f.write(&format!("{IMAGES}.gz"), &bytes);
        };
        blamed(change, &[&format!("{IMAGES}.gz"), "gzip"]);
    }
}

#[test]
fn a_wrong_magic_number_is_told_with_the_right_one() {
    blamed(|f| f.write(IMAGES, idx(0x804, &[2, 2, 3], &[7; 12])), &[IMAGES, "0x00000804", "expected 0x00000803"]);
    blamed(|f| f.write(LABELS, idx(0x803, &[2, 1, 1], &[0, 1])), &[LABELS, "0x00000803", "expected 0x00000801"]);
    blamed(|f| f.write(IMAGES, "<html>not found</html>"), &[IMAGES, "expected 0x00000803"]);
}

#[test]
fn headers_that_make_no_sense_are_told() {
    blamed(|f| f.write(IMAGES, idx(0x803, &[u32::MAX, u32::MAX, u32::MAX], &[7; 12])), &[IMAGES]);
    blamed(|f| f.write(LABELS, idx(0x801, &[3], &[0, 1, 1])), &["2 images", "3 labels"]);
    let empty = |f: &Folder| {
        f.write(IMAGES, idx(0x803, &[0, 2, 3], &[]));
        f.write(LABELS, idx(0x801, &[0], &[]));
    };
    blamed(empty, &[IMAGES, "no images"]);
}

#[test]
fn images_without_pixels_are_told() {
    let folder = Folder::new();
    folder.write(IMAGES, idx(0x803, &[2, 0, 3], &[]));
    folder.write(LABELS, idx(0x801, &[2], &[0, 1]));
    let script = "let source = data::idx(\"d\", \"train\");\nfor b in data::loader(source, [], #{ batch: 1 }).epoch(0) { print(b.len); }";
    folder.run(script).fails(1).says(&["recipe.rhai:1:20", IMAGES]);
}

#[test]
fn too_few_class_names_are_told() {
    blamed(|f| f.write("d/classes.txt", "shirt\n"), &["classes.txt", "1 classes", "labels up to 1"]);
}

#[test]
fn unusable_loader_settings_are_told() {
    let fashion = fashion();
    // What one option cannot be is told at its key, what several cannot be together at the call.
    for (options, at, pieces) in [
        ("batch: 0", "loader", &["batch", "found 0"][..]),
        ("batch: -1", "batch", &["batch", "-1"]),
        ("batch: 20000, drop_last: true", "loader", &["20000", "2000 images"]),
        ("workers: 0", "loader", &["workers", "found 0"]),
        ("prefetch: 0", "loader", &["prefetch", "found 0"]),
        ("on_bad: \"skp\"", "on_bad", &["on_bad", "skp", "did you mean `skip`?"]),
        ("batch: 10, world_size: 3", "loader", &["batch 10", "3 ranks", "9 or 12 can"]),
        ("rank: 2, world_size: 2, batch: 10", "loader", &["rank", "2 of 2"]),
        ("seed: -1", "seed", &["seed", "-1"]),
    ] {
        let line = format!("let l = data::loader(data::idx(\"{fashion}\", \"test\"), [], #{{ {options} }});");
        let place = format!("recipe.rhai:1:{}", line.find(at).unwrap() + 1);
        run(&format!("{line}\nfor b in l.epoch(0) {{ break; }}")).fails(1).at(&place, &line).says(pieces);
    }
    for (call, pieces) in [
        ("take(0)", &["1..=2000", "found 0"][..]),
        ("take(2001)", &["1..=2000", "found 2001"]),
        ("take(-1)", &["take", "found -1"]),
        ("per_class(187, 0)", &["187", "`Shirt` has 186"]),
        ("split(1.0, 0)", &["fraction of 1"]),
        ("split(-0.5, 0)", &["fraction of -0.5"]),
    ] {
        let line = format!("data::idx(\"{fashion}\", \"test\").{call};");
        let column = line.find(call).unwrap() + 1;
        run(&line).blames(&format!("recipe.rhai:1:{column}"), &line, pieces);
    }
}

// ---- model folders ----

/// The complaint about a copy of a golden folder, after a change.
fn loading(change: impl FnOnce(&Folder)) -> Said {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "m");
    change(&folder);
    let said = folder.run("checkpoint::load(\"m\");");
    said.fails(1).at("recipe.rhai:1:13", "checkpoint::load(\"m\");");
    said
}

fn config(folder: &Folder, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let mut config = folder.json("m/config.json");
    change(config.as_object_mut().unwrap());
    folder.write("m/config.json", config.to_string());
}

/// The complaint about a folder whose configuration has this value.
fn loading_with(key: &str, value: impl Into<serde_json::Value>) -> Said {
    loading(|folder| {
        config(folder, |c| {
            c.insert(key.to_string(), value.into());
        })
    })
}

#[test]
fn an_unknown_key_of_a_configuration_is_told_with_the_nearest_one() {
    loading_with("rope_teta", 3).says(&["m/config.json", "`rope_teta`", "did you mean `rope_theta`?"]);
}

#[test]
fn a_missing_key_of_a_configuration_is_told() {
    loading(|f| config(f, |c| c.retain(|key, _| key != "hidden_size"))).says(&[
        "m/config.json",
        "missing",
        "`hidden_size`",
    ]);
    let two = loading(|f| {
        config(f, |c| {
            c.remove("qk_norm");
            c.remove("layerscale_value");
        })
    });
    two.says(&["`qk_norm`", "`layerscale_value`"]);
}

#[test]
fn values_of_a_configuration_that_do_not_fit_are_told() {
    loading_with("hidden_size", "64").says(&["m/config.json", "`hidden_size`", "integer", "\"64\""]);
    loading_with("hidden_act", "relu").says(&["m/config.json", "`hidden_act`", "\"relu\"", "gelu", "silu"]);
    loading_with("num_attention_heads", 5).says(&["m/config.json", "num_attention_heads", "5", "64"]);
    loading_with("hidden_dropout_prob", 0.1).says(&["m/config.json", "`hidden_dropout_prob`", "0.1"]);
    loading_with("model_type", "vit").says(&["m/config.json", "\"vit\"", "vit_nepa"]);
}

#[test]
fn a_configuration_that_is_no_json_is_told() {
    loading(|f| f.write("m/config.json", &f.read("m/config.json")[..100])).says(&["m/config.json", "JSON", "line"]);
    loading(|f| f.write("m/config.json", "[1, 2]")).says(&["m/config.json", "object"]);
    loading(|f| std::fs::remove_file(f.path("m/config.json")).unwrap()).says(&["m/config.json"]);
}

#[test]
fn a_missing_model_is_told_with_what_was_perhaps_meant() {
    loading(|f| std::fs::remove_file(f.path("m/model.safetensors")).unwrap()).says(&["model.safetensors"]);
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "pretrained");
    folder.run("checkpoint::load(\"pretraind\");").fails(1).says(&["pretraind does not exist", "pretrained?"]);
}

#[test]
fn truncated_safetensors_are_told() {
    let whole = std::fs::read(format!("{}/model.safetensors", golden("gelu-affine"))).unwrap();
    for cut in [0, 4, 8, 100, 5000, whole.len() / 2, whole.len() - 1] {
        loading(|f| f.write("m/model.safetensors", &whole[..cut])).says(&[
            "m/model.safetensors",
            "not a complete safetensors file",
            &format!("{cut} bytes"),
        ]);
    }
    loading(|f| f.write("m/model.safetensors", [whole.clone(), vec![0]].concat())).says(&["m/model.safetensors"]);
    loading(|f| f.write("m/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"))
        .says(&["m/model.safetensors"]);
}

#[test]
fn every_tensor_that_is_missing_unexpected_or_of_another_shape_is_told() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine", "m");
    let script = r#"
        let t = checkpoint::tensors("m");
        t.remove("vit_nepa.layernorm.bias");
        t["vit_nepa.layernorm.bais"] = zeros([64]);
        t["vit_nepa.encoder.layer.1.intermediate.up_proj.weight"] = zeros([64, 160]);
        checkpoint::save_tensors(t, "m/model.safetensors");
    "#;
    folder.run(script).succeeds();
    folder.run("checkpoint::load(\"m\");").blames(
        "recipe.rhai:1:13",
        "checkpoint::load(\"m\");",
        &[
            "missing (1)",
            "vit_nepa.layernorm.bias (it has vit_nepa.layernorm.bais)",
            "unexpected (1)",
            "wrong shape (1)",
            "vit_nepa.encoder.layer.1.intermediate.up_proj.weight: the model has [160, 64], it has [64, 160]",
            "strict: false",
        ],
    );
}

#[test]
fn class_names_that_do_not_match_the_classifier_are_told() {
    let folder = Folder::new();
    folder.copy_golden("gelu-affine.classify-causal-last", "m");
    config(&folder, |c| {
        c.insert("id2label".into(), serde_json::json!({ "0": "cat", "1": "dog" }));
    });
    folder.run("checkpoint::load(\"m\");").fails(1).says(&["names 2 classes", "7 rows"]);
}

// ---- places that cannot be written ----

#[test]
fn an_output_directory_that_cannot_be_made_is_told_before_the_script_starts() {
    let folder = Folder::new();
    folder.write("file", "");
    for out in ["file/run", "file", "/proc/nowhere/run"] {
        let said = folder.run_with("print(\"started\");", &["--out", out]);
        said.fails(1).says(&[out]);
        assert_eq!(said.stdout, "", "{said}");
    }
}

#[test]
fn files_that_cannot_be_written_are_told_at_the_line_that_wrote_them() {
    let folder = Folder::new();
    folder.write("file", "");
    for line in [
        "checkpoint::save(nn::linear(2, 2), \"file/model\");",
        "checkpoint::save(nn::linear(2, 2), \"/proc/nowhere\");",
        "checkpoint::save_tensors(#{ a: ones([2]) }, \"file/x.safetensors\");",
        "plot::lines(\"file/x.png\", #{ a: [[0, 1], [1, 2]] }, #{});",
    ] {
        let column = line.find("::").unwrap() + 3;
        let path = line.split('"').find(|s| s.contains('/')).unwrap();
        folder.run(line).blames(&format!("recipe.rhai:1:{column}"), line, &[path]);
    }
}

#[test]
fn a_script_cannot_write_outside_its_run_directory_by_run_write() {
    let folder = Folder::new();
    folder.run_with("run::write(\"../outside.txt\", \"x\");", &["--out", "o"]).fails(1).says(&["../outside.txt"]);
    assert!(!folder.path("outside.txt").exists());
}
