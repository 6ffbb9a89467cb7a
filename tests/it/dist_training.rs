//! Processes that train together, over loopback: the same run for any number of them.

use crate::common::{Folder, Said, TINY, assert_close, fashion};
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything that draws something for a sample or a batch, in two loops that need several parts a step.
const RECIPE: &str = r#"
import "std/pretrain" as pretrain;
import "std/finetune" as finetune;
let images = data::idx(param("data", ()), "test").take(340);
let augment = [transform::random_crop(#{ padding: 2 }), transform::random_horizontal_flip(), transform::normalize(0.5, 0.5)];
let model = nn::vit_nepa(#{
    image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
    drop_path_prob: 0.2, pos_embed_rescale: 2.0, pos_embed_images_per_draw: 10,
});
pretrain::fit(model, images, #{
    steps: param("steps", 20), batch: 48, accumulate: param("accumulate", 3), lr: 3e-4, input_mask: 0.2,
    recompute: param("recompute", false), log_every: 1, save_every: 6, transforms: augment,
});
checkpoint::save(model, run::path("pretrained"));
let classifier = finetune::classifier(model, 10, #{ drop_path_prob: 0.2 });
classifier.freeze("*patch_embeddings*");
// 340 images in batches of 48: four of them in the last.
finetune::fit(classifier, images, #{
    epochs: 2, batch: 48, lr: 3e-4, log_every: 1, save_every: 6,
    transforms: augment + [transform::random_erasing(#{ p: 0.5, mode: "pixel" }), transform::mixup(#{ mode: param("mixup", "elem"), images_per_draw: 20 })],
});
checkpoint::save(classifier, run::path("finetuned"));
"#;

fn run(folder: &Folder, out: &str, processes: usize, more: &[&str]) -> Said {
    folder.write("recipe.rhai", RECIPE);
    let (n, data) = (processes.to_string(), format!("data={}", fashion()));
    let mut args = vec!["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--set", &data, "--out", out];
    if processes > 1 {
        args.extend(["--nproc", &n, "--dist-timeout", "60"]);
    }
    args.extend(more);
    folder.nepa(&args)
}

/// Every float32 of a model.
fn weights(folder: &Folder, file: &str) -> BTreeMap<String, Vec<f64>> {
    let bytes = folder.read(file);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let floats = |bytes: &[u8]| bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect();
    tensors.iter().map(|(name, t)| (name.to_string(), floats(t.data()))).collect()
}

fn metrics(folder: &Folder, out: &str) -> Vec<Value> {
    folder.text(&format!("{out}/metrics.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The same weights and the same trace to float32's rounding.
#[track_caller]
fn assert_same_run(folder: &Folder, a: &str, b: &str) {
    for model in ["pretrained", "finetuned"] {
        let [x, y] = [a, b].map(|out| weights(folder, &format!("{out}/{model}/model.safetensors")));
        assert_eq!(x.len(), y.len());
        for (name, values) in &x {
            assert_close(&y[name], values, 1e-5);
        }
    }
    let (a, b) = (metrics(folder, a), metrics(folder, b));
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(&b) {
        for place in ["phase", "step", "epoch"] {
            assert_eq!(x[place], y[place]);
        }
        for number in ["loss", "lr"] {
            assert_close(&[y[number].as_f64().unwrap()], &[x[number].as_f64().unwrap()], 1e-5);
        }
        let (x, y) = (x["grad_norm"].as_f64().unwrap(), y["grad_norm"].as_f64().unwrap());
        assert!((x - y).abs() <= 1e-4 * x.max(1.0), "gradient's norm {y}, expected {x}");
    }
}

#[test]
fn one_two_and_four_processes_train_the_same() {
    let folder = Folder::new();
    run(&folder, "one", 1, &[]).succeeds();
    let said = run(&folder, "two", 2, &[]);
    said.succeeds().says(&["on 2 processes"]);
    assert_same_run(&folder, "one", "two");
    run(&folder, "four", 4, &["--set", "recompute=true"]).succeeds();
    assert_same_run(&folder, "one", "four");
    // The trace has something to compare.
    assert_eq!(metrics(&folder, "one").len(), 20 + 16);
    // Only the first process writes, and says anything.
    assert_eq!(said.stderr.matches("  optimizer  ").count(), 2, "{said}");
    assert!(!said.stderr.contains("[rank 1]"), "{said}");
}

#[test]
fn mixing_whole_batches_and_other_parts_change_nothing() {
    let folder = Folder::new();
    run(&folder, "one", 1, &["--set", "mixup=batch", "--set", "accumulate=1"]).succeeds();
    run(&folder, "three", 3, &["--set", "mixup=batch", "--set", "accumulate=7"]).succeeds();
    assert_same_run(&folder, "one", "three");
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    let folder = Folder::new();
    run(&folder, "one", 1, &[]).succeeds();
    // 2 processes for the first epoch, then 1, then 4; an error ends each part.
    let stopping = RECIPE.replace(
        "log_every: 1, save_every: 6, transforms: augment,\n});\ncheckpoint",
        "log_every: 1, save_every: 6, transforms: augment,\n    loss: (),\n    on_epoch: |m, e, s| { if s.epoch + 1 == param(\"stop\", 0) { throw \"stopped on purpose\"; } },\n});\ncheckpoint",
    );
    assert!(stopping.contains("stopped on purpose"));
    let go = |n: usize, stop: &str| {
        folder.write("recipe.rhai", &stopping);
        let (n, data, stop) = (n.to_string(), format!("data={}", fashion()), format!("stop={stop}"));
        let mut args =
            vec!["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--set", &data, "--out", "parts"];
        args.extend(["--set", &stop]);
        if n != "1" {
            args.extend(["--nproc", &n, "--dist-timeout", "60"]);
        }
        folder.nepa(&args)
    };
    // An epoch has 7 steps: the checkpoint is the one at step 6, then that at step 12.
    go(2, "1").fails(1).says(&["stopped on purpose"]);
    go(1, "2").fails(1).says(&["resumed from step 6", "processes: was 2, now 1"]);
    go(4, "0").succeeds().says(&["resumed from step 12", "processes: was 1, now 4"]);
    assert_same_run(&folder, "one", "parts");
}

#[test]
fn a_script_exchanges_what_it_likes() {
    let said = Folder::new().run_with(
        r#"
        let r = dist::rank();
        let n = dist::world_size();
        let t = tensor([1.0 + r, 10.0 * r]);
        let all = [
            dist::all_reduce(t).to_array(), dist::all_reduce(t, "mean").to_array(), dist::all_reduce(t, "max").to_array(),
            dist::all_reduce(t, "min").to_array(), dist::broadcast(t).to_array(), dist::broadcast(t, 2).to_array(),
        ];
        for values in all { print(values); }
        let rows = dist::all_gather(ones([r, 2]) * r);
        print(rows.map(|t| t.shape[0]));
        print(cat(rows, 0).to_array());
        dist::barrier();
        print([n, dist::local_rank()]);
        print(t.to_array());
        "#,
        &["--nproc", "3", "--dist-timeout", "60"],
    );
    let mut lines = said.succeeds().stdout.lines();
    for expected in [
        "[6.0, 30.0]",
        "[2.0, 10.0]",
        "[3.0, 20.0]",
        "[1.0, 0.0]",
        "[1.0, 0.0]",
        "[3.0, 20.0]",
        "[0, 1, 2]",
        "[1.0, 1.0, 2.0, 2.0, 2.0, 2.0]",
        "[3, 0]",
        "[1.0, 0.0]",
    ] {
        assert_eq!(lines.next(), Some(expected), "{said}");
    }
    assert_eq!(lines.next(), None, "only one process prints: {said}");
}

/// A module of the script's own, of which a part takes no part in some steps, and another is frozen half-way.
#[test]
fn modules_of_a_script_with_unused_parameters_train_the_same() {
    let script = r#"
        let used = nn::linear(3, 4);
        let other = nn::linear(3, 4);
        let never = nn::linear(3, 4);
        let model = nn::sequential([used, other, never]);
        let gradients = dist::gradients(model);
        let opt = optim::adamw(model, #{});
        let each = 12 / dist::world_size();
        for step in 0..12 {
            if step == 6 { used.freeze("*bias*"); }
            seed(step);
            let x = randn([12, 3]).slice(0, dist::rank() * each, (dist::rank() + 1) * each);
            let y = used.forward(x);
            if step % 3 == 1 { y = y + other.forward(x); }
            // Two parts, of which the last one exchanges.
            (y * y).mean().backward();
            gradients.backward(used.forward(x).sum() / each);
            opt.step(1e-2);
        }
        print(model.named_parameters().values().map(|t| t.reshape([-1]).to_array()));
    "#;
    let [one, two] = ["1", "2"].map(|n| {
        let folder = Folder::new();
        let said = if n == "1" {
            folder.run(script)
        } else {
            folder.run_with(script, &["--nproc", n, "--dist-timeout", "60"])
        };
        said.succeeds();
        let line = said.stdout.lines().last().unwrap().to_string();
        let values: Vec<Vec<f64>> = serde_json::from_str(&line).unwrap();
        values.concat()
    });
    assert_close(&two, &one, 1e-6);
}

/// Every gradient is the mean over the processes of what its parts add up to, whichever parts and processes use it.
#[test]
fn gradients_of_any_part_on_any_process_are_averaged() {
    let script = r#"
        let a = nn::linear(1, 1);
        let b = nn::linear(1, 1);
        let c = nn::linear(1, 1);
        let model = nn::sequential([a, b, c]);
        let gradients = dist::gradients(model);
        let first = dist::rank() == 0;
        let part = |m, factor| m.named_parameters().weight.sum() * factor;
        let tell = || {
            let grads = [a, b, c].map(|m| m.named_parameters().weight.grad);
            let own = grads.map(|grad| if grad == () { -1.0 } else { grad.item() });
            print(dist::all_gather(tensor(own)).map(|of_rank| of_rank.to_array()));
            model.zero_grad();
        };
        // In both steps `a` is used in the first part alone, and `c` in none.
        for step in 0..2 {
            part.call(a, if first { 10.0 } else { 20.0 }).backward();
            gradients.backward(part.call(b, 1.0));
            tell.call();
        }
        // On one process only; and the other has more parts.
        if first { part.call(a, 4.0).backward(); part.call(a, 8.0).backward(); }
        gradients.backward(part.call(b, if first { 1.0 } else { 3.0 }));
        tell.call();
        // What is trained changes between the parts of a step.
        part.call(a, if first { 10.0 } else { 20.0 }).backward();
        c.freeze("*");
        gradients.backward(part.call(b, 1.0));
        tell.call();
        // The last part of one process uses nothing of the model's.
        part.call(a, if first { 2.0 } else { 4.0 }).backward();
        let other = ones([1]).requires_grad(true);
        gradients.backward(if first { other.sum() } else { part.call(b, 6.0) });
        tell.call();
    "#;
    let said = Folder::new().run_with(script, &["--nproc", "2", "--dist-timeout", "20"]);
    let expected = [[15.0, 1.0, -1.0], [15.0, 1.0, -1.0], [6.0, 2.0, -1.0], [15.0, 1.0, -1.0], [3.0, 3.0, -1.0]];
    let expected: Vec<String> = expected.iter().map(|of_rank| format!("[{of_rank:?}, {of_rank:?}]")).collect();
    assert_eq!(said.succeeds().stdout.lines().collect::<Vec<_>>(), expected, "{said}");
}

#[test]
fn wrong_arguments_of_exchanges_are_told_at_their_place() {
    let folder = Folder::new();
    folder.run("let t = ones([2]);\ndist::all_reduce(t, \"maen\");\n").blames(
        "recipe.rhai:2:7",
        "dist::all_reduce(t, \"maen\");",
        &["dist::all_reduce: unknown value \"maen\"; did you mean `mean`?", "(one of: sum, mean, min, max)"],
    );
    folder.run("dist::broadcast(ones([2]), 1);\n").blames(
        "recipe.rhai:1:7",
        "dist::broadcast(ones([2]), 1);",
        &["expected a rank from 0 to 0, found 1"],
    );
    let said = folder.run("dist::all_reduce(ones([2]).to(\"int64\"), \"mean\");\n");
    said.fails(1).says(&["a mean over processes needs a floating-point tensor, found int64"]);
    let said = folder.run("let m = nn::linear(2, 2);\ndist::gradients(m).backward(ones([2, 2]));\n");
    said.fails(1).says(&["backward: expected a scalar", "recipe.rhai:2:"]);
}

#[test]
fn a_batch_that_processes_cannot_share_names_the_nearest_that_can() {
    let folder = Folder::new();
    let said = run(&folder, "out", 5, &[]);
    said.fails(1).says(&["batch 48 cannot be divided among 5 ranks", "hint: 45 or 50 can"]);
    assert_eq!(said.stderr.matches("cannot be divided").count(), 1, "told once: {said}");
}

#[test]
fn metrics_are_means_over_all_processes() {
    let folder = Folder::new();
    let script = |metrics: &str| {
        format!(
            "import \"std/pretrain\" as pretrain;
             let m = nn::vit_nepa({TINY});
             let images = data::synthetic(#{{ len: 12, size: 8 }});
             pretrain::fit(m, images, #{{ epochs: 2, batch: 4, lr: 0.01, log_every: 1, metrics: {metrics} }});"
        )
    };
    let measured = script("|model, batch, out| #{ bright: batch.images.mean(), rank: dist::rank() }");
    folder.run_with(&measured, &["--out", "one"]).succeeds();
    folder.run_with(&measured, &["--out", "two", "--nproc", "2"]).succeeds();
    let column = |out: &str, name: &str| -> Vec<f64> {
        let rows = folder.text(&format!("{out}/metrics.jsonl"));
        rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()[name].as_f64()).collect()
    };
    assert_close(&column("two", "bright"), &column("one", "bright"), 1e-5);
    assert_eq!(column("two", "rank"), [0.5; 6]);
    let other = script("|model, batch, out| if dist::rank() == 0 { #{ a: 1 } } else { #{} }");
    let said = folder.run_with(&other, &["--out", "other", "--nproc", "2"]);
    said.fails(1).says(&["metrics: all processes must give the same names"]);
}
