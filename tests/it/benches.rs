//! The benchmarks at tiny sizes: that they run, and what they say. What they measure is no test's matter.

use crate::common::{Folder, repository};
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

/// Stands in for a Python with the reference's script: what it has trained lies in the folder `trained`.
const TRAINED: &str = r#"#!/bin/sh
echo "$*" >> calls
while [ "$1" != --output_dir ]; do shift; done
mkdir -p "$2" && cp trained/* "$2"
"#;

#[test]
#[ignore = "builds the benchmarks, which takes minutes: a stage of .ci/run"]
fn outcome_judges_both_sides_alike() {
    let folder = Folder::on_cpu();
    for split in ["train", "test"] {
        for i in 0..8 {
            let pixels: Vec<u8> = (0..28 * 28).map(|p| (p * (i % 2 + 1) * 7 + i) as u8).collect();
            let picture = [b"P5 28 28 255\n".as_slice(), &pixels].concat();
            folder.write(&format!("data/{split}/{}/{i}.pgm", i % 2), picture);
        }
    }
    let configs = "reference/configs/pretrain/nepa-base-patch14-224";
    let config = std::fs::read(repository("tests/fixtures/model/reference-one-layer/config.json")).unwrap();
    folder.write(&format!("{configs}/config.json"), config);
    folder.write(&format!("{configs}/preprocessor_config.json"), "{}");
    folder.write(
        "python",
        TRAINED
            .replace("calls", &folder.path("calls").display().to_string())
            .replace("trained/", &format!("{}/", folder.path("trained").display())),
    );
    std::fs::set_permissions(folder.path("python"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| folder.path(name).display().to_string();
    let (reference, python, data, out) = (path("reference"), path("python"), path("data"), path("out"));
    let arguments = ["--reference", &reference, "--python", &python, "--data", &data, "--out", &out];
    let tiny = ["--seeds", "1", "--pretrain-epochs", "1", "--finetune-epochs", "0", "--batch", "4"];
    let arguments = [&arguments[..], &tiny].concat();

    // Without a model, it is said where to look.
    let output = bench("outcome", &arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("pretrain-0/reference.log: exit status: 1"), "{error}");

    // The same weights as ours: they are judged alike.
    std::fs::remove_dir_all(folder.path("out/pretrain-0/reference")).unwrap();
    std::fs::rename(folder.path("out/pretrain-0/ours/model"), folder.path("trained")).unwrap();
    std::fs::remove_dir_all(folder.path("out/pretrain-0/ours")).unwrap();
    let said = said("outcome", &arguments);
    assert!(said.contains("train): 8 images") && said.contains("time, reference / ours: "), "{said}");
    for what in ["probe", "knn"] {
        let top1 = |side: &str| row(&said, &format!("pretrained, {what}: {side}"))[0];
        assert_eq!(top1("ours"), top1("reference"), "{said}");
    }
    let config = folder.json("out/config/config.json");
    assert_eq!((&config["hidden_size"], &config["num_channels"]), (&64.into(), &3.into()));
    let calls = folder.text("calls");
    for argument in ["run_nepa.py", "--num_train_epochs 1", "--per_device_train_batch_size 4", "--seed 0"] {
        assert!(calls.contains(argument), "{calls}");
    }
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
        ("outcome", &["--reference", "x"], "--python <PYTHON>"),
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
