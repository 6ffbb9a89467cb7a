//! The EMA (averaged weights): its warm-up, and warnings of a memory that is longer than the run.

use crate::common::*;

/// Decays and averages as timm 1.0's ModelEmaV3 gives them: `get_decay` of steps 1, 2, 3, 10, 31 and 40; the average of
/// weights (k² / 10, −k) after updates k = 1 … 12 with torch 2.11's `_foreach_lerp_`.
#[test]
fn the_decay_and_its_warm_up_are_timms() {
    let script = r#"
        for options in [#{}, #{ use_warmup: true }, #{ use_warmup: true, warmup_gamma: 5.0, warmup_power: 0.75 }] {
            let ema = optim::ema(nn::linear(1, 1), 0.9, options);
            print([0, 1, 2, 9, 30, 39].map(|updates| ema.decay_after(updates)));
        }
        for setting in [[0.9, #{}], [0.9, #{ use_warmup: true }], [0.7, #{ use_warmup: true, warmup_gamma: 3.0, warmup_power: 0.75 }]] {
            let model = nn::linear(1, 1);
            let ema = optim::ema(model, setting[0], setting[1]);
            for k in 1..=12 {
                model.named_parameters()["weight"].copy_(tensor([[k * k / 10.0]]));
                model.named_parameters()["bias"].copy_(tensor([-1.0 * k]));
                ema.update();
            }
            let averages = ema.state_dict();
            print([averages.weight.item(), averages.bias.item(), ema.updates]);
        }
    "#;
    let found = run(script).numbers();
    let decays = [
        [0.0, 0.9, 0.9, 0.9, 0.9, 0.9],
        [0.0, 0.3700394750525634, 0.5192501432308638, 0.7845565309968117, 0.8986651402454389, 0.9],
        [0.0, 0.12780405050657873, 0.22303049575908773, 0.5380111687082851, 0.7676319197574591, 0.8042787431901439],
    ];
    for (found, expected) in found.iter().zip(decays) {
        assert_close(found, &expected, 1e-12);
    }
    let averages = [
        [5.098697662353516, -5.824295520782471, 12.0],
        [8.534353256225586, -8.798996925354004, 12.0],
        [10.692959785461426, -10.152507781982422, 12.0],
    ];
    for (found, expected) in found[3..].iter().zip(averages) {
        assert_close(found, &expected, 1e-5);
    }
}

#[test]
fn a_warm_up_that_makes_no_sense_is_refused() {
    for (options, pieces) in [
        ("#{ warmup_gamma: 0.0 }", &["warmup_gamma", "more than 0, found 0"][..]),
        ("#{ warmup_power: -1.0 }", &["warmup_power", "more than 0, found -1"]),
        ("#{ warmup: true }", &["unknown option `warmup` of optim::ema", "use_warmup"]),
    ] {
        run(&format!("optim::ema(nn::linear(1, 1), 0.9, {options});")).fails(1).says(pieces);
    }
}

/// Pretraining, then fine-tuning, with averages that warm up, on 64 images.
const RECIPE: &str = r#"
    import "std/pretrain" as pretrain;
    import "std/finetune" as finetune;
    let images = data::idx(param("data", ()), "test").take(64);
    let model = nn::vit_nepa(#{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 });
    let average = #{ batch: 16, lr: 1e-2, ema: 0.9, ema_warmup: true, ema_warmup_power: 0.75 };
    pretrain::fit(model, images, average + #{ steps: 12 });
    finetune::fit(finetune::classifier(model, 10, #{}), images, average + #{ steps: 12 });
"#;

#[test]
fn a_warm_up_goes_on_where_a_resumed_run_left_it() {
    let folder = Folder::new();
    let data = format!("data={}", fashion());
    let read =
        |out: &str, of: &str| folder.read(&format!("{out}/checkpoints/{of}/step-00000012/model_ema/model.safetensors"));
    folder.run_with(RECIPE, &["--set", &data, "--out", "whole"]).succeeds();
    let state = folder.json("whole/checkpoints/finetune/step-00000012/state.json");
    assert_eq!(state["ema_updates"], 12);
    let plain = RECIPE.replace("ema_warmup: true, ", "");
    folder.run_with(&plain, &["--set", &data, "--out", "plain"]).succeeds();
    assert_ne!(read("whole", "pretrain"), read("plain", "pretrain"));
    // Stopped by a signal in the midst of either.
    for stop in [5, 17] {
        let out = format!("stopped-{stop}");
        let slow = RECIPE.replace("ema: 0.9,", &format!(
            "ema: 0.9, transforms: [transform::normalize(0.5, 0.5), |batch| {{ calls[0] += 1; if calls[0] == {stop} && param(\"stop\", false) {{ print(\"now\"); let end = seconds() + 1.0; while seconds() < end {{ }} }} batch }}],"
        )).replacen("let average", "let calls = [0];\n    let average", 1);
        folder.write("recipe.rhai", &slow);
        let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--set", &data, "--out", &out];
        let running = folder.start(&[&args[..], &["--set", "stop=true"]].concat(), &[]);
        running.wait_for("now");
        running.signal(libc::SIGTERM);
        running.finish().fails(143);
        folder.nepa(&args).succeeds().says(&["resumed from step"]);
        for of in ["pretrain", "finetune"] {
            assert_eq!(read("whole", of), read(&out, of), "{of} stopped at {stop}");
        }
    }
}

#[test]
fn a_memory_that_is_longer_than_the_run_is_warned_of() {
    let folder = Folder::new();
    let data = format!("data={}", fashion());
    let warning = "warning: pretrain: the averaged weights remember 1000 steps, 1 / (1 - ema) with ema: 0.999, and the run has 40";
    let fit = |options: &str| {
        let script = format!(
            "import \"std/pretrain\" as pretrain; let images = data::idx(param(\"data\", ()), \"test\").take(32);\n\
             let model = nn::vit_nepa(#{{ image_size: 28, patch_size: 14, num_channels: 1, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }});\n\
             pretrain::fit(model, images, #{{ steps: 40, batch: 16{options} }});"
        );
        folder.run_with(&script, &["--set", &data])
    };
    let said = fit("");
    said.succeeds().says(&[
        warning,
        "96 % of them will be the weights of the first step",
        "ema: 0.75 remembers a tenth of the run",
        "ema_warmup: true",
    ]);
    // What the warning advises is not warned of.
    for options in [", ema: 0.75", ", ema_warmup: true", ", ema: 0.97"] {
        let said = fit(options);
        said.succeeds();
        assert!(!said.stderr.contains("warning"), "{options}: {said}");
    }
    fit(", ema: 0.98").succeeds().says(&["remember 50 steps"]);
}
