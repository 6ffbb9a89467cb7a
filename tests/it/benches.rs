//! The benchmarks at tiny sizes: that they run, and what they say. What they measure is no test's matter.

use crate::common::Folder;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

/// Runs a benchmark as `cargo xtask bench` does, but built as the tests are. cargo builds it where that has not been done.
fn bench(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.args(["bench", "--quiet", "--profile", "dev", "--bench", name, "--"]).args(arguments);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// What a benchmark says that goes well.
fn said(name: &str, arguments: &[&str]) -> String {
    let output = bench(name, arguments);
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The numbers of the table's row that begins with `name`.
fn row(said: &str, name: &str) -> Vec<f64> {
    let line = said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {said}"));
    let words = line[name.len()..].split_whitespace();
    words.map(|word| word.trim_end_matches('%').parse().unwrap_or_else(|_| panic!("{word} in {line}"))).collect()
}

/// A folder with two pictures in nested folders, and a file that is none.
fn pictures() -> Folder {
    let folder = Folder::on_cpu();
    for (name, width, height) in [("pictures/a/b/wide", 40, 30), ("pictures/tall", 9, 61)] {
        let pixels: Vec<u8> = (0..3 * width * height).map(|i| (i * 7 % 251) as u8).collect();
        folder.write(&format!("{name}.ppm"), [format!("P6 {width} {height} 255\n").as_bytes(), &pixels].concat());
    }
    folder.write("pictures/a/notes.txt", "no picture");
    folder
}

/// Stands in for a Python: it takes three times 0.5 s for each step of a model of 53,536 parameters, and cannot compile.
const PEER: &str = r#"#!/bin/sh
case "$*" in *--compile*) echo '{"error": "InductorError: no compiler"}'; exit 1 ;; esac
while read -r _; do
    echo '{"times": [0.5, 0.5, 0.5, 0.0], "cpu": 1.0, "peak": 7000000, "parameters": PARAMETERS}'
done
"#;

#[test]
#[ignore = "builds the benchmarks, which takes minutes: a stage of .ci/run"]
fn train_takes_turns_with_the_reference() {
    let folder = Folder::on_cpu();
    std::fs::create_dir_all(folder.path("reference/models/vit_nepa")).unwrap();
    let python = folder.path("python");
    let (python, reference) = (python.to_str().unwrap(), folder.path("reference").display().to_string());
    let tiny = ["--model", "quickstart", "--layers", "1", "--batch", "2", "--rounds", "2", "--dtype", "float32"];
    let beside = [&tiny[..], &["--reference", &reference, "--python", python, "--compiled"]].concat();
    let peer = |parameters: &str| {
        folder.write("python", PEER.replace("PARAMETERS", parameters));
        std::fs::set_permissions(python, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    // Patches 7² x 64 + 64, class token 64; a block: norms 4 x 64, attention 4 x (64² + 64), QK-norm 2 x 16, LayerScale
    // 2 x 64, mlp 2 x 64 x 256 + 256 + 64; final norm 2 x 64.
    peer("53536");
    let said = said("train", &beside);
    let ours = row(&said, "ours");
    assert_eq!(ours.len(), 10, "{said}");
    assert!(ours.iter().take(5).all(|seconds| (0.0..60.0).contains(seconds)), "{said}");
    // Seconds of the parts, of the step and of the processor, images/s.
    assert_eq!(row(&said, "reference")[..7], [0.5, 0.5, 0.5, 0.0, 1.5, 1.0, 1.33], "{said}");
    assert_eq!(row(&said, "reference")[9], 7.0, "{said}");
    assert!(said.contains("time, reference / ours: ") && said.contains("processor time, reference / ours: "), "{said}");
    assert!(said.contains("torch.compile does not work here and is left out: compiled: InductorError"), "{said}");

    peer("53535");
    let output = bench("train", &beside);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("ours has 53536 parameters, the reference's 53535"), "{error}");
}

#[test]
#[ignore = "builds the benchmarks, which takes minutes: a stage of .ci/run"]
fn eval_reads_any_pictures() {
    let folder = pictures();
    let images = folder.path("pictures").display().to_string();
    let tiny = ["--model", "cifar10", "--layers", "1", "--batch", "2", "--rounds", "1", "--dtype", "bfloat16"];
    let from_files = said("eval", &[&tiny[..], &["--task", "features", "--images", &images]].concat());
    assert!(from_files.contains("2 pictures of 3 files\n  left out: "), "{from_files}");
    assert!(from_files.contains("notes.txt: it is not an image of a known format"), "{from_files}");
    assert!(from_files.contains("a pass is 2 images"), "{from_files}");
    assert_eq!(row(&from_files, "ours").len(), 6, "{from_files}");
    let random = said("eval", &tiny);
    assert!(random.contains("a batch is 2 images") && row(&random, "ours")[2] > 0.0, "{random}");
}

#[test]
#[ignore = "builds the benchmarks, which takes minutes: a stage of .ci/run"]
fn data_reads_any_pictures() {
    let folder = pictures();
    let images = folder.path("pictures").display().to_string();
    let said = said("data", &["--images", &images, "--batch", "2", "--seconds", "0.01", "--rounds", "1"]);
    assert!(said.contains("2 pictures of 3 files\n  left out: ") && said.contains("notes.txt: it is not"), "{said}");
    for task in ["(a) pretraining", "(b) evaluation", "(c) fine-tuning"] {
        let rates = row(&said, task);
        assert!(rates[0] > 0.0 && rates[3] > 0.0, "{said}");
    }
    assert!(said.contains("decode and resize for evaluation"), "{said}");
}

#[test]
#[ignore = "builds the benchmarks, which takes minutes: a stage of .ci/run"]
fn wrong_arguments_end_with_the_nearest_valid_ones() {
    for (name, arguments, says) in [
        ("train", &["--modle", "base"][..], "a similar argument exists: '--model'"),
        ("train", &["--model", "cifar"], "cifar10"),
        ("train", &["--rounds", "0"], "0 is not in 1.."),
        ("train", &["--device", "cud"], "did you mean `cuda`?"),
        ("train", &["--compiled"], "--reference <DIR>"),
        ("eval", &["--task", "clasify"], "a similar value exists: 'classify'"),
        ("data", &[], "--images <DIR>"),
        ("data", &["--images", "x", "--seconds", "0"], "expected a positive number"),
    ] {
        let output = bench(name, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(says), "{name} {arguments:?}: {error}");
    }
    let folder = pictures();
    let output = bench("data", &["--images", &folder.path("picturs").display().to_string()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("did you mean `pictures`?"), "{error}");
}
