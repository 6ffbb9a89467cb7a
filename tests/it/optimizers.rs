//! The optimizers against what PyTorch and timm recorded, and as options of the training loops.

use crate::common::{Folder, repository, run};
use serde_json::Value;

/// Runs an optimizer over the recorded gradients and prints the largest difference to the recorded result.
fn largest_difference(make: &str, lr: f64, case: &str) -> f64 {
    let trace = repository("tests/fixtures/optim/trace.safetensors").display().to_string();
    let said = run(&format!(
        r#"let trace = checkpoint::tensors("{trace}");
        let parts = #{{}};
        for name in trace.keys() {{ if name.starts_with("start.") {{ parts[name.sub_string(6)] = trace[name].copy(); }} }}
        let model = nn::define(parts, |m, x| x);
        let parameters = model.named_parameters();
        let optimizer = {make};
        for step in 0..6 {{
            let loss = tensor(0.0);
            for name in parameters.keys() {{ loss += (parameters[name] * trace[`grad.${{step}}.${{name}}`]).sum(); }}
            loss.backward();
            optimizer.step({lr});
        }}
        let worst = 0.0;
        for name in parameters.keys() {{
            let off = (parameters[name].detach() - trace[`{case}.${{name}}`]).abs().amax().item();
            if !(off <= worst) {{ worst = off; }}
        }}
        print(worst);"#
    ));
    said.succeeds().stdout.trim().parse().unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn updates_are_those_of_pytorch_timm_and_the_papers() {
    for (make, lr, case) in [
        ("optim::adamw(model, #{})", 0.01, "adamw"),
        ("optim::sgd(model, #{ momentum: 0.0 })", 0.1, "sgd"),
        ("optim::sgd(model, #{ weight_decay: 0.1 })", 0.1, "momentum"),
        ("optim::sgd(model, #{ momentum: 0.8, nesterov: true }, |name, t| #{ weight_decay: 0.01 })", 0.1, "nesterov"),
        ("optim::lion(model, #{ weight_decay: 0.5 })", 0.01, "lion"),
        ("optim::lamb(model, #{ weight_decay: 0.02 })", 0.05, "lamb"),
        ("optim::lars(model, #{ weight_decay: 0.05, trust_coefficient: 0.02 })", 2.0, "lars"),
        (
            "optim::optimizer(\"lars\", model, #{ weight_decay: 0.05, trust_coefficient: 0.02 }, |n, t| #{})",
            2.0,
            "lars",
        ),
    ] {
        let off = largest_difference(make, lr, case);
        assert!(off < 3e-6, "{make}: off by {off}");
    }
    // PyTorch iterates in bfloat16, which has three digits; 6 steps of 0.02, each of entries of about 0.5.
    for (adjust, case) in [("original", "muon_original"), ("match_rms_adamw", "muon_match")] {
        for dtype in ["bfloat16", "float32"] {
            let make = format!("optim::muon(model, #{{ adjust_lr_fn: \"{adjust}\", ns_dtype: \"{dtype}\" }})");
            let off = largest_difference(&make, 0.02, case);
            assert!(off < 2e-3, "{make}: off by {off}");
        }
    }
    // What the comparison would notice: another momentum.
    assert!(largest_difference("optim::sgd(model, #{ weight_decay: 0.1, momentum: 0.89 })", 0.1, "momentum") > 1e-3);
    assert!(largest_difference("optim::muon(model, #{ ns_steps: 4 })", 0.02, "muon_match") > 4e-3);
}

#[test]
fn averages_that_are_nearly_constant_count_the_gradient() {
    // The first step of AdamW is lr, whatever the betas: both averages are divided by how much of them is there.
    let step = "let m = nn::linear(1, 1); let w = m.named_parameters().weight; let before = w.item();
        optim::adamw(m, #{ betas: [0.9, BETA], weight_decay: 0.0 });
        let o = optim::adamw(m, #{ betas: [0.9, BETA], weight_decay: 0.0 });
        m.forward(ones([1, 1])).sum().backward(); o.step(0.1); print(abs(before - w.item() - 0.1) < 1e-5);";
    for beta in ["0.999", "0.9999999", "0.999999999"] {
        run(&step.replace("BETA", beta)).prints(&["true"]);
    }
}

#[test]
fn a_step_leaves_no_gradient_and_is_not_taken_by_halves() {
    run(r#"
        let m = nn::linear(2, 2);
        let p = m.named_parameters();
        let o = optim::sgd(m, #{ momentum: 0.0 });
        m.forward(ones([1, 2])).sum().backward();
        m.freeze("bias");
        print(fixed(optim::grad_norm(m).item(), 4));                // of the weight alone: four ones
        o.step(0.1);
        print(p.bias.grad == ());
        let o = optim::sgd(m, #{ momentum: 0.0 }, |name, t| #{ lr_scale: if name == "bias" { 2.0 } else { 1.0 } });
        p.bias.requires_grad(true);
        let before = p.weight.copy();
        m.forward(ones([1, 2])).sum().backward();
        try { o.step(|group| if group.lr_scale == 2.0 { 0.0 / 0.0 } else { 0.1 }); } catch (e) { print(e.message); }
        print(p.weight.equal(before));
    "#)
    .prints(&["2.0000", "true", "a learning rate must be finite and not negative, found NaN", "true"]);
}

#[test]
fn muons_update_is_orthogonal_and_leaves_the_rest_to_adamw() {
    let said = run(r#"
        let model = nn::vit_nepa(#{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1,
            num_attention_heads: 2, num_labels: 3 });
        let optimizer = optim::muon(model, #{});
        for group in optimizer.groups() {
            for name in group.names {
                if group.optimizer == "muon" { print(name); }
            }
        }
        print(optimizer.name);
        let m = nn::linear(6, 12, #{ bias: false });
        let before = m.named_parameters().weight.detach().copy();
        m.forward(randn([40, 6])).pow(2).sum().backward();
        optim::muon(m, #{ weight_decay: 0.0, ns_dtype: "float32", ns_steps: 12, adjust_lr_fn: "original" }).step(1.0);
        let update = before - m.named_parameters().weight.detach();
        let values = linalg::svdvals(update) / (12.0 / 6.0).sqrt();
        print([values.amin().item() > 0.6, values.amax().item() < 1.3]);
    "#);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    let (matrices, rest) = lines.split_at(lines.len() - 2);
    assert_eq!(rest, ["muon", "[true, true]"]);
    let mut names: Vec<&str> = matrices.iter().map(|name| name.rsplit("layer.0.").next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "attention.attention.key.weight",
            "attention.attention.query.weight",
            "attention.attention.value.weight",
            "attention.output.dense.weight",
            "intermediate.up_proj.weight",
            "output.dense.weight",
        ]
    );
}

/// A short pretraining with these options; `until` is where it fails, if it does.
fn script(options: &str, until: usize) -> String {
    format!(
        "import \"std/pretrain\" as pretrain;
         let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }});
         let images = data::synthetic(#{{ len: 16, size: 8 }});
         let stop = parse_int(param(\"stop\", \"{until}\"));
         pretrain::fit(m, images, #{{ epochs: 3, batch: 4, lr: 0.01, log_every: 1, save_every: 1, {options}
             on_epoch: |model, ema, now| if now.epoch == stop {{ throw \"stopped here\"; }} }});
         checkpoint::save(m, run::path(\"model\"));"
    )
}

#[test]
fn every_optimizer_trains_in_the_loops_and_resumes_to_the_bit() {
    for (option, words) in [
        ("optimizer: \"sgd\",", "optimizer  sgd("),
        ("optimizer: #{ kind: \"lars\", momentum: 0.8 },", "optimizer  lars("),
        ("optimizer: \"lamb\", betas: [0.8, 0.9],", "optimizer  lamb("),
        ("optimizer: |model, o| optim::lion(model, #{ weight_decay: 0.1 }),", "optimizer  lion("),
        ("optimizer: \"muon\",", "of them by adamw, weight decay 0.1 of"),
        ("optimizer: #{ kind: \"sgd\", momentum: 0.0 },", "groups), no weight decay"),
    ] {
        let folder = Folder::new();
        let text = script(option, 99);
        folder.run_with(&text, &["--out", "whole"]).succeeds().says(&[words]);
        folder.run_with(&text, &["--out", "out", "--set", "stop=1"]).fails(1).says(&["stopped here"]);
        folder
            .run_with(&text, &["--out", "out", "--resume", "--set", "stop=99"])
            .succeeds()
            .says(&["resumed from step"]);
        let weights = |out: &str| folder.read(&format!("{out}/model/model.safetensors"));
        assert!(weights("out") == weights("whole"), "{option}");
    }
}

#[test]
fn groups_and_metrics_are_options_of_the_loops() {
    let folder = Folder::new();
    let options = "groups: [#{ pattern: \"*embeddings*\", lr_scale: 0.0 }],
        metrics: |model, batch, out| #{ twice: 2.0 * out.loss, images: batch.len },";
    let text = script(options, 99);
    folder.run_with(&text, &["--out", "out"]).succeeds();
    // The model as it was made: with a learning rate of 0.
    folder.run_with(&text.replace("lr: 0.01,", "lr: 0.0,"), &["--out", "fresh"]).succeeds();
    let compare = "let a = checkpoint::tensors(\"out/model\"); let b = checkpoint::tensors(\"fresh/model\");
        for name in a.keys() { print([name.contains(\"embeddings\"), (a[name] - b[name]).abs().amax().item() == 0.0]); }";
    let said = folder.run(compare);
    let lines: Vec<&str> = said.succeeds().stdout.lines().collect();
    assert!(lines.iter().all(|line| ["[true, true]", "[false, false]"].contains(line)), "{said}");
    assert!(lines.contains(&"[true, true]") && lines.contains(&"[false, false]"), "{said}");
    let rows: Vec<Value> =
        folder.text("out/metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for row in rows.iter().filter(|row| row["lr"].is_f64()) {
        let (twice, loss) = (row["twice"].as_f64().unwrap(), row["loss"].as_f64().unwrap());
        assert!((twice - 2.0 * loss).abs() < 1e-5 && row["images"] == 4.0, "{row}");
    }
    assert!(rows.len() >= 12, "{}", rows.len());
}

#[test]
fn what_does_not_fit_is_told() {
    for (options, piece) in [
        ("optimizer: \"adamv\",", "unknown value \"adamv\"; did you mean `adamw`?"),
        ("optimizer: #{ momentum: 0.9 },", "expected a map with the key kind"),
        ("optimizer: \"sgd\", betas: [0.9, 0.95],", "unknown option `betas` of optim::sgd"),
        ("optimizer: #{ kind: \"sgd\", momentom: 0.9 },", "did you mean `momentum`?"),
        ("optimizer: #{ kind: \"sgd\", momentum: 1.0 },", "momentum must lie in [0, 1), found 1"),
        ("optimizer: #{ kind: \"muon\", ns_steps: 0 },", "ns_steps must lie in 1..=100, found 0"),
        ("optimizer: #{ kind: \"muon\", adjust_lr_fn: \"orignal\" },", "did you mean `original`?"),
        ("groups: [#{ pattern: \"*embedings*\", lr_scale: 0.1 }],", "no parameter matches the pattern `*embedings*`"),
        (
            "optimizer: #{ kind: \"sgd\", no_decay: [\"*wieght*\"] },",
            "no_decay: no parameter matches the pattern `*wieght*`",
        ),
        (
            "optimizer: #{ kind: \"muon\", exclude: [\"*haed*\"] },",
            "exclude: no parameter matches the pattern `*haed*`",
        ),
        ("clip_grad_norm: 0.0,", "clip_grad_norm: expected a positive norm, or () for no clipping, found 0"),
        ("groups: |name, tensor| #{ lr_scale: -1.0 },", "lr_scale and weight_decay must not be negative, found -1"),
        ("groups: |name, tensor| 3,", "groups: expected a map from the function, found i64"),
        ("optimizer: #{ kind: \"sgd\", groups: [] },", "groups are an option of their own"),
        ("optimizer: |m, o| optim::sgd(m, #{}), groups: |n, t| #{},", "betas and groups belong into it"),
        ("optimizer: |m, o| optim::sgd(m, #{}), betas: [0.9, 0.9],", "betas and groups belong into it"),
        ("optimizer: |m, o| optim::sgd(m, #{}), embed_lr: 0.1,", "has to set the rate itself"),
        ("embed_lr: 0.1, optimizer: \"sgd\", loss: 3,", "function or ()"),
        ("metrics: |model, batch, out| 3,", "expected a map of numbers from the function, found i64"),
        ("metrics: |model, batch, out| #{ lr: 3 },", "the loop itself logs lr: choose another name"),
        ("metrics: |model, batch, out| #{ speed: \"fast\" },", "fast"),
    ] {
        run(&script(options, 99)).fails(1).says(&[piece]);
    }
    let state = r#"
        let m = nn::linear(2, 2);
        let save = |optimizer| {
            let saver = run::checkpoints("by hand", #{ model: m, optimizer: optimizer }, #{});
            if saver.resume(#{}, []) != () { print("resumed"); }
            m.forward(ones([1, 2])).sum().backward();
            optimizer.step(0.1);
            saver.save(1, #{});
        };
        save.call(if param("sgd", false) { optim::sgd(m, #{}) } else { optim::adamw(m, #{}) });
    "#;
    let folder = Folder::new();
    folder.run_with(state, &["--out", "out"]).succeeds();
    folder
        .run_with(state, &["--out", "out", "--resume", "--set", "sgd=true"])
        .fails(1)
        .says(&["another optimizer wrote it"]);
}

#[test]
fn finetuning_takes_a_loss_of_its_own() {
    let folder = Folder::new();
    let script = r#"
        import "std/finetune" as finetune;
        let m = nn::vit_nepa(#{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,
            num_labels: 4, is_causal: false });
        let images = data::synthetic(#{ len: 16, size: 8, classes: 4 });
        let o = #{ epochs: 1, batch: 8, lr: 1e-3, log_every: 1, ema: 0.5, optimizer: "sgd" };
        o.loss = |logits, targets| (logits - one_hot(targets, 4).to("float32")).pow(2).mean();
        o.metrics = |model, batch, out| #{ again: (out.logits - one_hot(batch.targets, 4).to("float32")).pow(2).mean() };
        finetune::fit(m, images, o);
    "#;
    folder.run_with(script, &["--out", "out"]).succeeds();
    let metrics = folder.text("out/metrics.jsonl");
    let rows: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= 2);
    for row in rows {
        assert!((row["again"].as_f64().unwrap() - row["loss"].as_f64().unwrap()).abs() < 1e-6, "{row}");
    }
}

#[test]
fn what_the_optimizer_says_goes_before_the_options_beside_it() {
    let weights = |options: &str| {
        let folder = Folder::new();
        let script = format!(
            "import \"std/finetune\" as finetune;
             let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2,
                 num_labels: 4, is_causal: false }});
             let images = data::synthetic(#{{ len: 16, size: 8, classes: 4 }});
             finetune::fit(m, images, #{{ epochs: 2, batch: 4, lr: 1e-2, ema: 0.5, {options} }});
             checkpoint::save(m, run::path(\"model\"));"
        );
        folder.run_with(&script, &["--out", "out"]).succeeds();
        folder.read("out/model/model.safetensors")
    };
    let default = weights("");
    assert!(default == weights("betas: [0.9, 0.999]"));
    assert!(default != weights("betas: [0.9, 0.95]"));
    assert!(default == weights("betas: [0.5, 0.5], optimizer: #{ kind: \"adamw\", betas: [0.9, 0.999] }"));
    assert!(default != weights("optimizer: #{ kind: \"adamw\", betas: [0.9, 0.95] }"));
    assert!(default == weights("optimizer: #{ kind: \"adamw\", eps: 1e-8 }"));
    assert!(default == weights("weight_decay: 0.05"));
    let decay = weights("weight_decay: 0.3");
    assert!(decay != default && decay == weights("optimizer: #{ kind: \"adamw\", weight_decay: 0.3 }"));
    let sgd = weights("optimizer: \"sgd\"");
    assert!(
        sgd == weights("optimizer: \"sgd\", weight_decay: 0.0")
            && sgd != weights("optimizer: \"sgd\", weight_decay: 0.05")
    );
}

#[test]
fn metrics_leave_no_trace_in_training() {
    let folder = Folder::new();
    let script = |metrics: &str| {
        format!(
            "import \"std/pretrain\" as pretrain;
             let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1,
                 num_attention_heads: 2, drop_path_prob: 0.5 }});
             let images = data::synthetic(#{{ len: 12, size: 8 }});
             pretrain::fit(m, images, #{{ epochs: 2, batch: 4, lr: 0.01, log_every: 1, {metrics} }});
             checkpoint::save(m, run::path(\"model\"));"
        )
    };
    let drawing =
        "metrics: |model, batch, out| #{ drawn: randn([1]).item(), forward: model.forward(batch.images).mean(),
        bright: batch.images.mean() },";
    folder.run_with(&script(drawing), &["--out", "with"]).succeeds();
    folder.run_with(&script(""), &["--out", "without"]).succeeds();
    let weights = |out: &str| folder.read(&format!("{out}/model/model.safetensors"));
    assert!(weights("with") == weights("without"));
}

#[test]
fn gradients_are_clipped_by_value_by_norm_or_not_at_all() {
    run(r#"
        let m = nn::define(#{ w: tensor([0.0, 0.0, 0.0]) }, |m, x| (m.w * tensor([3.0, -0.2, -4.0])).sum());
        m.forward(ones([1])).backward();
        optim::clip_grad_value(m, 0.5);
        print(m.named_parameters().w.grad.to_array());
        optim::clip_grad_value(m, 0.0);"#)
    .fails(1)
    .prints(&["[0.5, -0.2", ", -0.5]"])
    .says(&["clip_grad_value needs a positive limit, found 0"]);
    // A step of SGD is as large as the gradient that is left.
    let moved = |clip: &str| {
        let said = run(&format!(
            "import \"std/train\" as train;
             let m = nn::define(#{{ w: zeros([1]) }}, |m, x| m.w.sum() * 8.0);
             let images = data::synthetic(#{{ len: 4, size: 8, channels: 1 }});
             train::fit(m, images, #{{ name: \"fit\", options: train::fit_options(),
                 loss: |m, batch, o| #{{ loss: m.forward(batch.images) }} }}, #{{ steps: 1, batch: 4, lr: 0.1, warmup: 0.0,
                 optimizer: \"sgd\", weight_decay: 0.0, clip_grad_norm: {clip} }});
             print(m.named_parameters().w.item());"
        ));
        said.succeeds().stdout.trim().parse::<f64>().unwrap()
    };
    assert!((moved("1.0") + 0.1).abs() < 1e-6, "{}", moved("1.0"));
    assert!((moved("()") + 0.8).abs() < 1e-6, "{}", moved("()"));
}
