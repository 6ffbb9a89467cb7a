//! Every recipe and example at tiny size on CUDA, which `tests/simulated-cuda` simulates: the bits of the CPU.

use crate::common::simulated_cuda::{CLASSIFIER, folder_with, simulated};
use crate::common::*;

/// Runs a recipe or an example of the repository on the CPU and on CUDA; both must leave the same.
fn same_on_both(file: &str, sets: &[&str]) {
    let path = repository(file).display().to_string();
    // Folders of one name: results may name it.
    let run = |device: &str| {
        let folder = Folder::on_cpu();
        let mut args = vec!["run", &path, "--device", device, "--threads", "1", "--out", "out"];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        let said = if device == "cpu" { folder.nepa(&args) } else { simulated(&folder, &[], &args) };
        said.succeeds();
        (outcome(&folder.path("out")), said)
    };
    let ((expected, cpu), (found, cuda)) = (run("cpu"), run("cuda"));
    expected.assert_equals(&found);
    // What is printed may tell times, but where nothing else is left, it is the result.
    if expected.0.keys().all(|name| name.contains("recipe") || name.contains("scripts/")) {
        assert!(!cpu.stdout.is_empty(), "{file} leaves nothing to compare: {cpu}");
        assert_eq!(cpu.stdout, cuda.stdout, "{file}");
    }
}

/// What is set for the recipes of the same kind. IMAGES, MODEL, CLASSES, TRACE stand for what the tests have.
const PRETRAINING: &str = "data=IMAGES evaluate_every=1 dtype=float32 hidden_size=16 layers=2 heads=2 batch=8 \
                           micro_batch=4 image_size=56 steps=2";
const FINE_TUNING: &str = "data=IMAGES model=MODEL weights=raw batch=8 micro_batch=4 epochs=1 dtype=float32";
const FEATURES: &str = "data=IMAGES model=MODEL block=all";

/// Every recipe, at a size that takes seconds.
const RECIPES: [(&str, &str); 16] = [
    ("ablations", "steps=2 batch=32 images=60 seeds=1"),
    (
        "cifar10",
        "data=IMAGES held_out_split=validation image_size=16 hidden_size=12 layers=1 pretrain_epochs=1 epochs_1=0 \
         epochs_10=0 epochs_100=1 seeds=1 block=1 batch=4",
    ),
    (
        "continue_pretraining",
        "data=IMAGES model=MODEL weights=raw evaluate_every=1 dtype=float32 batch=8 micro_batch=4 image_size=48 steps=2",
    ),
    ("embed", "data=IMAGES model=MODEL split=train to=out/features.npy"),
    ("eval_imagenet1k", "data=IMAGES model=CLASSES resize=32 dtype=float32"),
    ("fashion_mnist", "hidden_size=16 layers=1 heads=2 pretrain_epochs=1 finetune_epochs=1"),
    ("finetune_vitb", FINE_TUNING),
    ("finetune_vitl", FINE_TUNING),
    ("knn", FEATURES),
    ("linear_probe", FEATURES),
    ("pretrain_vitb", PRETRAINING),
    ("pretrain_vitl", PRETRAINING),
    ("pretrain_vits", PRETRAINING),
    ("quickstart", "seeds=1 pretrain_epochs=1 finetune_steps=5 labels_per_class=[2]"),
    ("retrieval", "data=IMAGES model=MODEL k=[1] map_images=0"),
    ("visualize", "data=IMAGES model=MODEL"),
];

/// Every example likewise.
const EXAMPLES: [(&str, &str); 16] = [
    ("custom_embed", "steps=15"),
    ("custom_loop", "steps=15"),
    ("custom_task", "epochs=1"),
    ("distill", "images=64 batch=16 epochs=1 width=16 teacher_width=32 teacher_epochs=1"),
    ("distributed_loop", "steps=15"),
    ("image_parity", ""),
    ("info_nce", "steps=12"),
    ("lenepa", "steps=3 batch=16 width=32 layers=2 directions=16 labels=40 tested=40"),
    ("next_k_info_nce", "epochs=1 images=64 batch=16 width=32 layers=2"),
    ("parity", "dir=MODEL"),
    ("resumable_loop", "steps=8"),
    ("scaling", ""),
    ("scan_orders", "images=64 batch=16 epochs=1 width=16 layers=2"),
    ("sweep", "steps=4"),
    ("train_parity", "dir=TRACE"),
    ("video", "steps=15 batch=8 width=48 layers=2 labels=40 tested=40"),
];

/// Runs what a table lists on both devices.
fn all_are_the_same(folder: &str, table: &[(&str, &str)]) {
    let models = Folder::new();
    models.run(&format!("{CLASSIFIER}; checkpoint::save(m, \"m\");")).succeeds();
    let places = [
        ("IMAGES", repository("tests/fixtures/data/folder").display().to_string()),
        ("MODEL", golden("gelu-plain-qknorm")),
        ("CLASSES", models.path("m").display().to_string()),
        ("TRACE", repository("tests/fixtures/train").display().to_string()),
    ];
    for (name, sets) in table {
        let place = |set: &str| places.iter().fold(set.to_string(), |set, (name, path)| set.replace(name, path));
        let sets: Vec<String> = sets.split_whitespace().map(place).collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        same_on_both(&format!("{folder}/{name}.rhai"), &sets);
    }
}

#[test]
fn the_tables_name_every_recipe_and_example() {
    for (folder, table) in [("recipes", &RECIPES[..]), ("examples", &EXAMPLES)] {
        let all = names_in(&repository(folder));
        let all: Vec<&str> = all.iter().filter_map(|name| name.strip_suffix(".rhai")).collect();
        assert_eq!(table.iter().map(|(name, _)| *name).collect::<Vec<_>>(), all, "{folder}");
    }
}

// Halves, which run at the same time.

#[test]
#[ignore = "takes minutes; cargo xtask test --simulated-cuda runs it"]
fn the_recipes_give_the_bits_of_the_cpu() {
    all_are_the_same("recipes", &RECIPES[..6]);
}

#[test]
#[ignore = "takes minutes; cargo xtask test --simulated-cuda runs it"]
fn the_other_recipes_give_the_bits_of_the_cpu() {
    all_are_the_same("recipes", &RECIPES[6..]);
}

#[test]
#[ignore = "takes minutes; cargo xtask test --simulated-cuda runs it"]
fn the_examples_give_the_bits_of_the_cpu() {
    all_are_the_same("examples", &EXAMPLES[..8]);
}

#[test]
#[ignore = "takes minutes; cargo xtask test --simulated-cuda runs it"]
fn the_other_examples_give_the_bits_of_the_cpu() {
    all_are_the_same("examples", &EXAMPLES[8..]);
}

#[test]
fn the_models_of_the_examples_give_the_bits_of_the_cpu() {
    let folder = folder_with(
        r#"import "std/pretrain" as pretrain;
        let config = #{ image_size: 32, patch_size: 8, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 4 };
        let model = nn::build(param("script", ""), config);
        pretrain::fit(model, data::synthetic(#{ len: 8, size: 32 }), #{ batch: 4, epochs: 1, accumulate: 2 });"#,
    );
    for model in names_in(&repository("examples/models")) {
        let script = format!("script={}", repository("examples/models").join(model).display());
        same_on_both(&folder.path("recipe.rhai").display().to_string(), &[&script]);
    }
}
