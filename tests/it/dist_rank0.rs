//! What rank 0 does for all, and what comes of it where it fails: every rank gets the same error, at once.

use crate::common::Folder;
use crate::common::faults::strike;
use std::time::{Duration, Instant};

/// `taken` is a file, so nothing can be written below it; `folder` is one, so no file can take its place.
const SCRIPT: &str = r#"
let model = nn::linear(2, 2);
checkpoint::save(model, run::path("folder"));
let diverged = nn::linear(2, 2);
let saver = run::checkpoints("loop", #{ model: diverged }, #{ every: 1 });
saver.resume(#{}, []);
saver.due(1);
saver.save(1, #{});
diverged.named_parameters().weight.copy_(tensor([0.0 / 0.0]));
saver.due(2);
let attempts = [
    || checkpoint::save(model, "taken/model"),
    || checkpoint::save_tensors(#{ t: ones([2]) }, "taken/t.safetensors"),
    || run::write("folder", "text"),
    || run::write_json("folder", #{}),
    || plot::images("taken/images.png", ones([1, 3, 4, 4]), #{}),
    || saver.save(2, #{}),
    || saver.finish(3, #{}),
];
for i in 0..attempts.len() {
    try { attempts[i].call(); } catch (reason) { debug(`attempt ${i}: ${reason}`); }
    // The ranks meet again.
    dist::barrier();
}
print("all went on");
checkpoint::save(model, "taken/model");
"#;

#[test]
fn an_error_of_rank_0_is_that_of_all_ranks() {
    let folder = Folder::new();
    folder.write("taken", "a file");
    let said = folder.run_with(SCRIPT, &["--nproc", "2", "--dist-timeout", "20", "--out", "out"]);
    said.fails(1).prints(&["all went on"]);
    // What each rank has caught, in order.
    let words = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.split_once("attempt ")).map(|(_, what)| what.to_string()).collect()
    };
    let [rank0, rank1] = [words(&said.stdout), words(&said.stderr)];
    assert_eq!(rank0, rank1, "{said}");
    let pieces = [
        "taken/model",
        "taken/t.safetensors",
        "out/folder",
        "out/folder",
        "taken/images.png",
        "at step 2",
        "at step 3",
    ];
    assert_eq!(rank0.len(), pieces.len(), "{said}");
    for (i, piece) in pieces.into_iter().enumerate() {
        assert!(rank0[i].starts_with(&format!("{i}: ")) && rank0[i].contains(piece), "{i}, {piece}: {said}");
    }
    // Not caught, it is told once, and recorded.
    assert_eq!(said.stderr.matches("error: ").count(), 1, "{said}");
    said.at("recipe.rhai:26:13", "checkpoint::save(model, \"taken/model\");");
    assert!(folder.json("out/run.json")["error"].as_str().unwrap().contains("taken/model"));
}

/// A disk on which it takes 9 s to create the first file of a run directory: longer than the others wait for a rank that
/// is not at work, and than it then takes to find out why.
#[test]
fn the_others_wait_for_rank_0_as_long_as_it_works() {
    let folder = Folder::new();
    folder.write("recipe.rhai", "dist::barrier();\nprint(\"together\");\n");
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--nproc", "2", "--out", "out"];
    let below = folder.path("").canonicalize().unwrap().join("out").display().to_string();
    let slow = strike(&below, ",create,", "1", "slow");
    let mut run = folder.start(&[&args[..], &["--dist-timeout", "4"]].concat(), &slow);
    assert!(!run.ended_before(Instant::now() + Duration::from_secs(9)), "{}", run.finish());
    run.finish().succeeds().prints(&["together"]);
}
