//! The recipes and examples that come with nepa, run as their users run them, at a small scale.

use crate::common::{Folder, repository};
use serde_json::Value;

fn path(name: &str) -> String {
    repository(name).display().to_string()
}

#[test]
fn the_quickstart_leaves_a_table_checkpoints_metrics_and_pictures() {
    let folder = Folder::new();
    let recipe = path("recipes/quickstart.rhai");
    let small = ["seeds=1", "pretrain_epochs=1", "finetune_steps=10", "labels_per_class=[2, 20]"];
    let small: Vec<&str> = small.iter().flat_map(|set| ["--set", set]).collect();
    let args = [&["run", recipe.as_str(), "--threads", "1", "--out", "out", "--seed", "5"][..], &small].concat();
    let said = folder.nepa(&args);
    said.succeeds().prints(&[
        "No labels are used",
        "fine-tuned, 2 a class: pretrained",
        "fine-tuned, 20 a class: scratch",
    ]);

    for model in ["pretrained", "pretrained, 20 a class"] {
        assert_eq!(
            folder.names(&format!("out/{model}")),
            ["config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"]
        );
    }
    for picture in ["pretraining.png", "top1.png", "augmented.png"] {
        let size = image::image_dimensions(folder.path(&format!("out/{picture}"))).expect("a PNG");
        assert!(size.0 > 100 && size.1 > 100, "{picture}: {size:?}");
    }

    let metrics = folder.text("out/metrics.jsonl");
    let rows: Vec<Value> = metrics.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    let losses: Vec<f64> =
        rows.iter().filter(|r| r["phase"] == "pretrain").map(|r| r["loss"].as_f64().unwrap()).collect();
    assert!(losses.len() >= 9 && losses.last() < losses.first(), "{losses:?}");
    // The seeds of the labels begin with the run's.
    assert!(rows.iter().filter(|r| r["phase"] == "evaluate").all(|r| r["seed"] == 5), "{metrics}");
    let top1 = |row: &str| rows.iter().find(|r| r["row"] == row).expect(row)["top1"].as_f64().unwrap();
    // An epoch of pretraining already beats random weights under a linear probe, by far.
    let (trained, random) =
        (top1("linear probe, 20 a class: pretrained"), top1("linear probe, 20 a class: random weights"));
    assert!(trained > random + 2.0, "{trained} against {random}");
    // What it says at the end is what it measured.
    said.prints(&[&format!(
        "{trained:.1} % against {random:.1} % with 20 labels a class (+{:.1} points",
        trained - random
    )]);
    let run = folder.json("out/run.json");
    assert_eq!(run["result"]["top1 of linear probe, 20 a class: pretrained"], trained);
    assert_eq!((&run["state"], &run["params"]["seeds"]), (&Value::from("finished"), &Value::from(1)));
}

#[test]
fn recipes_of_several_phases_find_what_cannot_work_before_the_first_one() {
    let folder = Folder::new();
    let images = format!("data={}", path("tests/fixtures/data/folder"));
    let small = ["held_out_split=", "batch=4", "layers=2", "hidden_size=12", "pretrain_epochs=1"];
    let with = |recipe: &str, more: &[&str]| {
        let sets: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
        folder.nepa(&[&["run", path(recipe).as_str(), "--threads", "1"][..], &sets].concat())
    };
    for (set, told) in [
        ("finetune_lr=-1.0", "pretrained: expected positive learning rates, found -1"),
        ("scratch_lr=0.0", "scratch: expected positive learning rates, found 0"),
        ("epochs_10=-1", "expected 0 or more and 1 or more, found -1"),
        ("seeds=0", "expected 0 or more and 1 or more, found 200 and 0"),
        ("seeds=1", "1 % of the labels: less than one a class in "),
    ] {
        let said = with("recipes/cifar10.rhai", &[&small[..], &[&images, set]].concat());
        said.fails(1).says(&[told]);
        assert!(!said.stderr.contains("budget"), "{said}");
    }
    for (set, told) in [
        ("labels_per_class=[20,5000]", "per_class"),
        ("labels_per_class=[20,100,20]", "labels_per_class: 20 is there twice"),
        ("seeds=0", "seeds and finetune_steps: expected at least 1, found 0 and 500"),
        ("finetune_steps=0", "expected at least 1, found 3 and 0"),
    ] {
        let said = with("recipes/quickstart.rhai", &[set]);
        said.fails(1).says(&[told]);
        assert!(!said.stderr.contains("budget"), "{said}");
    }
}

#[test]
fn the_same_seed_gives_the_same_weights_and_another_seed_others() {
    let folder = Folder::new();
    let script = r#"
        import "std/pretrain" as pretrain;
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16,
            num_hidden_layers: 2, num_attention_heads: 2, drop_path_prob: 0.2, pos_embed_rescale: 2.0 });
        let images = data::idx(param("data", ()), "test").take(256);
        pretrain::fit(model, images, #{ epochs: 2, batch: 64, transforms: [
            transform::random_crop(#{ padding: 2 }), transform::random_horizontal_flip(), transform::normalize(0.5, 0.5),
        ] });
        checkpoint::save(model, run::path("model"));
    "#;
    let data = format!("data={}", crate::common::fashion());
    for (out, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        folder.run_with(script, &["--set", &data, "--seed", seed, "--out", out]).succeeds();
    }
    let weights = |out: &str| folder.read(&format!("{out}/model/model.safetensors"));
    assert_eq!(weights("a"), weights("b"));
    assert_ne!(weights("a"), weights("c"));
}

#[test]
fn the_examples_of_an_own_embedder_and_an_own_loop_train() {
    for example in ["custom_embed", "custom_loop"] {
        let script = path(&format!("examples/{example}.rhai"));
        let said = Folder::new().nepa(&["run", &script, "--threads", "1", "--set", "steps=15"]);
        // They end with an error themselves where the loss does not fall.
        said.succeeds().prints(&["loss", "->"]);
    }
}

#[test]
fn the_contrastive_example_learns() {
    let said = Folder::new().nepa(&["run", &path("examples/info_nce.rhai"), "--threads", "1", "--set", "steps=12"]);
    let numbers: Vec<f64> = said.succeeds().stdout.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    assert!(numbers[1] < numbers[0] - 0.1, "{said}");
}

#[test]
fn a_task_of_ones_own_learns_resumes_exactly_and_runs_on_two_processes() {
    let folder = Folder::new();
    let script = path("examples/custom_task.rhai");
    let args = |out: &str| {
        ["run", &script, "--threads", "1", "--device", "cpu", "--set", "epochs=1", "--out", out].map(String::from)
    };
    let run = |out: &str, more: &[&str]| {
        let args = args(out);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let said = folder.nepa(&args);
        let numbers = said.succeeds().stdout.split_whitespace().filter_map(|w| w.trim_end_matches(',').parse().ok());
        numbers.collect::<Vec<f64>>()
    };
    let whole = run("whole", &[]);
    // The variance of the noise is 0.25, that of the pixels 1.
    assert!(whole[0] < 0.23 && whole[1] == 93.0, "{whole:?}");

    let args = args("killed");
    let running = folder.start(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let checkpoint = folder.path("killed/checkpoints/denoise/step-00000050");
    while !checkpoint.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    running.signal(libc::SIGKILL);
    running.killed();
    assert_eq!(run("killed", &[]), whole);
    let last = |out: &str| folder.read(&format!("{out}/checkpoints/denoise/step-00000093/model_raw/model.safetensors"));
    assert_eq!(last("killed"), last("whole"));

    let two = run("two", &["--nproc", "2", "--dist-timeout", "60"]);
    crate::common::assert_close(&two, &whole, 1e-3);
}

#[test]
fn mistakes_in_a_task_are_told_by_its_name() {
    let fit = |task: &str, options: &str| {
        let script = format!(
            "import \"std/train\" as train;\nlet images = data::synthetic(#{{ len: 8, size: 8 }});\n\
             let model = nn::conv2d(3, 4, #{{ kernel_size: 8 }});\n\
             let loss = |model, batch, o| #{{ loss: model.forward(batch.images).mean() }};\n\
             train::fit(model, images, #{{ {task} }}, #{{ batch: 4, epochs: 1, {options} }});"
        );
        Folder::new().run(&script)
    };
    fit("loss: loss", "").succeeds();
    fit("", "").fails(1).says(&["the option `loss` of a task of train::fit must be given"]);
    fit("loss: loss, evalute: 1", "").fails(1).says(&["evalute", "did you mean `evaluate`?"]);
    fit("loss: loss, name: \"mine\"", "lrr: 1.0").fails(1).says(&["unknown option `lrr` of mine", "recipe.rhai:5:"]);
    fit("loss: loss, name: \"mine\"", "evaluate: #{ every_epochs: 1 }").fails(1).says(&["mine: the option evaluate"]);
    fit("loss: loss, evaluate: |m, e, n, o| #{}", "evaluate: #{}").fails(1).says(&["every_epochs or every_steps"]);
    let evaluated = "loss: loss, name: \"mine\", evaluate: |m, e, n, o| #{ step: 1 }";
    fit(evaluated, "evaluate: #{ every_epochs: 1 }").fails(1).says(&["mine: evaluate: ", "counts or gives step"]);
    fit("loss: loss, name: \"mine\", state: #{ done: 1 }", "")
        .fails(1)
        .says(&["mine: state: ", "counts or gives done"]);
    fit("loss: loss, options: train::declared(#{ lr: 1e-2, label: \"own\" })", "").succeeds().says(&["own: "]);
    let said = fit("loss: loss, options: train::declared(#{ lrr: 1e-2 })", "");
    said.fails(1).says(&["unknown option `lrr` of train::declared", "did you mean `lr`?", "recipe.rhai:5:"]);
    fit("loss: loss", "accumulate: 5").fails(1).says(&["expected 1 to 4 micro-batches for a batch of 4 images"]);
}

#[test]
fn hooks_of_the_loops_are_called() {
    let folder = Folder::new();
    let script = r#"
        import "std/pretrain" as pretrain;
        import "std/finetune" as finetune;
        import "std/evaluate" as evaluate;
        let config = #{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2 };
        let model = nn::vit_nepa(config);
        let images = data::idx(param("data", ()), "test").per_class(13, 0);
        let calls = [];
        pretrain::fit(model, images, #{
            epochs: 2, batch: 32,
            loss: |model, batch| { let out = model.encode(batch.images); loss::next_embedding(out.last_hidden_state, out.input_embedding, #{ shift: false }) },
            on_epoch: |model, ema, state| calls.push(`pretrain ${state.epoch} ${state.step}`),
        });
        let classifier = finetune::classifier(model, 10, #{});
        finetune::fit(classifier, images, #{ epochs: 2, batch: 65, on_epoch: |model, ema, state| calls.push(`finetune ${state.epoch} ${state.step}`) });
        print(calls);
        let score = evaluate::classify(classifier, images, #{ batch: 7 });
        print(score.images);
        print(score.top1 == evaluate::classify(classifier, images, #{ batch: 130 }).top1);
    "#;
    let data = format!("data={}", crate::common::fashion());
    folder.run_with(script, &["--set", &data]).succeeds().prints(&[
        r#"["pretrain 0 4", "pretrain 1 8", "finetune 0 2", "finetune 1 4"]"#,
        "130",
        "true",
    ]);
}

#[test]
fn a_hook_may_evaluate_raw_and_averaged_weights_without_changing_the_mode() {
    let folder = Folder::new();
    let script = r#"
        import "std/finetune" as finetune;
        import "std/evaluate" as evaluate;
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16,
            num_hidden_layers: 1, num_attention_heads: 2, is_causal: false, num_labels: 10, drop_path_prob: 0.1 });
        let images = data::idx(param("data", ()), "test").per_class(5, 0);
        finetune::fit(model, images, #{ epochs: 2, on_epoch: |model, ema, state| {
            let before = model.training;
            evaluate::classify(model, images, #{});
            ema.apply(|| evaluate::classify(model, images, #{}));
            print(`${state.epoch}: ${before} ${model.training}`);
        } });
        model.train(false);
        evaluate::classify(model, images, #{});
        print(`after: ${model.training}`);
    "#;
    let data = format!("data={}", crate::common::fashion());
    folder.run_with(script, &["--set", &data]).succeeds().prints(&["0: true true", "1: true true", "after: false"]);
}

#[test]
fn a_loss_that_diverges_ends_the_run_and_names_the_step() {
    let script = r#"
        import "std/pretrain" as pretrain;
        let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2 });
        let images = data::idx(param("data", ()), "test").take(256);
        pretrain::fit(model, images, #{ epochs: 5, batch: 64, loss: |model, batch| (model.forward(batch.images) * 1e30).exp().mean(), log_every: 1 });
    "#;
    let data = format!("data={}", crate::common::fashion());
    Folder::new().run_with(script, &["--set", &data]).fails(1).says(&["step 1", "diverged", "std/pretrain.rhai"]);
}

#[test]
fn a_typo_in_an_option_of_a_loop_is_shown_in_the_recipe() {
    let script = "import \"std/pretrain\" as pretrain;\nlet m = nn::linear(2, 2);\npretrain::fit(m, m, #{ epocs: 3 });";
    crate::common::run(script).blames(
        "recipe.rhai:3:24",
        "pretrain::fit(m, m, #{ epocs: 3 });",
        &["epocs", "`epochs`"],
    );
}
