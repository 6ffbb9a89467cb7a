//! What rank 0 does for all, and what comes of it where it fails: every rank gets the same error, at once.

use crate::common::Folder;

/// `taken` is a file, so nothing can be written below it; `folder` is one, so no file can take its place.
const SCRIPT: &str = r#"
let model = nn::linear(2, 2);
checkpoint::save(model, run::path("folder"));
let saver = run::checkpoints("loop", #{ model: model }, #{ every: 1 });
saver.resume(#{}, []);
saver.due(1);
saver.save(1, #{});
model.named_parameters().weight.copy_(tensor([0.0 / 0.0]));
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
    for (i, piece) in
        ["taken/model", "taken/t.safetensors", "out/folder", "out/folder", "taken/images.png", "at step 2", "at step 3"]
            .into_iter()
            .enumerate()
    {
        assert!(rank0[i].starts_with(&format!("{i}: ")) && rank0[i].contains(piece), "{i}, {piece}: {said}");
    }
    // Not caught, it is told once, and recorded.
    assert_eq!(said.stderr.matches("error: ").count(), 1, "{said}");
    said.at("recipe.rhai:30:13", "checkpoint::save(model, \"taken/model\");");
    assert!(folder.json("out/run.json")["error"].as_str().unwrap().contains("taken/model"));
}
