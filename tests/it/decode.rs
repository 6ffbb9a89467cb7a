//! Image files of every kind against what Pillow makes of them, through the script API.

use crate::common::*;
use serde_json::Value;
use std::collections::BTreeMap;

fn odd(name: &str) -> String {
    format!("{}/tests/fixtures/images-odd/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The files that Pillow reads, with what it makes of them, and those that it refuses.
fn files() -> (Vec<String>, Vec<String>) {
    let expected: BTreeMap<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(odd("expected.json")).unwrap()).unwrap();
    let (bad, good): (Vec<_>, Vec<_>) = expected.into_iter().partition(|(_, facts)| facts.get("error").is_some());
    assert!(good.len() > 50 && bad.len() >= 6, "{} {}", good.len(), bad.len());
    let names = |list: Vec<(String, Value)>| list.into_iter().map(|(name, _)| name).collect();
    (names(good), names(bad))
}

/// Mean and largest difference of each file from its PNG, but of those whose kind is not supported.
fn differences(env: &[(&str, &str)], unread: &[&str]) -> BTreeMap<String, (f64, f64)> {
    let (mut good, _) = files();
    good.retain(|name| !unread.contains(&name.as_str()));
    let folder = Folder::new();
    let mut script = String::new();
    for name in &good {
        let png = format!("{}.expected.png", name.rsplit_once('.').unwrap().0);
        script += &format!(
            "{{ let off = (data::read_image(\"{}\").tensor().to(\"float32\") - data::read_image(\"{}\").tensor().to(\"float32\")).abs();\n\
             print([off.mean().item(), off.max().item()]); }}\n",
            odd(name),
            odd(&png)
        );
    }
    folder.write("recipe.rhai", script);
    let said = folder.nepa_with(env, &["run", "recipe.rhai"]);
    good.into_iter().zip(said.numbers().into_iter().map(|v| (v[0], v[1]))).collect()
}

#[test]
fn files_of_every_kind_give_pillows_pixels() {
    for (name, (mean, largest)) in differences(&[], &["tiff-float.tif", "tiff-palette.tif"]) {
        match name.as_str() {
            // Pillow clips 16 bits to 8 here, which leaves a white picture; ours scales them.
            "grey-16.png" | "tiff-grey-16.tif" => assert!(mean > 50.0, "{name}: {mean} {largest}"),
            name if name.starts_with("webp-lossy") => assert!(mean < 1.0, "{name}: {mean} {largest}"),
            _ => assert!(mean == 0.0 && largest == 0.0, "{name}: mean {mean}, largest {largest}"),
        }
    }
}

#[test]
fn without_libjpeg_turbo_the_pure_rust_decoder_stays_within_the_tolerance() {
    for (name, (mean, largest)) in
        differences(&[("NEPA_LIBJPEG", "none")], &["tiff-float.tif", "tiff-palette.tif", "arithmetic.jpg"])
    {
        if !name.ends_with(".jpg") {
            continue;
        }
        let limit = if name.contains("444") || name.contains("grey") { 3.0 } else { 8.0 };
        assert!(mean <= 0.5 && largest <= limit, "{name}: mean {mean}, largest {largest}");
    }
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let script = format!("data::read_image(\"{}\");", odd("tiff-float.tif"));
    run(&script).fails(1).says(&["tiff-float.tif", "of an unsupported kind"]);
    let folder = Folder::new();
    folder.write("recipe.rhai", format!("data::read_image(\"{}\");", odd("arithmetic.jpg")));
    let said = folder.nepa_with(&[("NEPA_LIBJPEG", "none")], &["run", "recipe.rhai"]);
    said.fails(1).says(&["arithmetic.jpg", "DAC"]);
}

#[test]
fn damaged_files_are_refused_with_the_reason() {
    let (_, bad) = files();
    for decoder in ["turbo", "none"] {
        for name in &bad {
            let folder = Folder::new();
            folder.write("recipe.rhai", format!("let image = data::read_image(\"{}\");\nimage.tensor();", odd(name)));
            let env: &[(&str, &str)] = if decoder == "none" { &[("NEPA_LIBJPEG", "none")] } else { &[] };
            let said = folder.nepa_with(env, &["run", "recipe.rhai"]);
            said.fails(1).says(&["recipe.rhai:"]);
            assert!(
                ["truncated", "damaged", "empty", "not an image"].iter().any(|w| said.stderr.contains(w)),
                "{name}: {}",
                said.stderr
            );
        }
    }
}

#[test]
fn exif_orientation_is_applied_only_where_asked_for() {
    let folder = Folder::on_cpu(); // where pictures are read to
    let mut script = String::new();
    for i in 1..=8 {
        folder.write(&format!("d{i}/a/x.jpg"), std::fs::read(odd(&format!("orientation-{i}.jpg"))).unwrap());
        for (apply, kind) in [("false", "expected"), ("true", "oriented")] {
            script += &format!(
                "print(data::loader(data::open(\"d{i}\"), [], #{{ exif_orientation: {apply} }}).epoch(0).next().images[0]\
                 .equal(data::read_image(\"{}\").tensor().to(\"float32\") / 255.0));\n",
                odd(&format!("orientation-{i}.{kind}.png"))
            );
        }
    }
    assert_eq!(folder.run(&script).values(), vec![Value::from(true); 16]);
}

#[test]
fn every_golden_case_is_within_its_limits() {
    let folder = Folder::new();
    let example = repository("examples/image_parity.rhai");
    let said = folder.nepa(&["run", example.to_str().unwrap()]);
    said.succeeds().prints(&["61 cases, 0 beyond their limits"]);
}

#[test]
fn a_case_that_misses_is_told() {
    let folder = Folder::new();
    for name in ["small.png", "aug-Invert-3-pos.png"] {
        let bytes = std::fs::read(repository(&format!("tests/fixtures/images/{name}"))).unwrap();
        folder.write(name, bytes);
    }
    folder.write(
        "cases.json",
        r#"{"cases": [{"file": "aug-Invert-3-pos.png", "source": "small.png", "op": "Equalize", "args": []}]}"#,
    );
    let example = repository("examples/image_parity.rhai");
    let said = folder.nepa(&["run", example.to_str().unwrap(), "--set", "cases=cases.json"]);
    said.fails(1).says(&["aug-Invert-3-pos.png", "beyond"]);
}
