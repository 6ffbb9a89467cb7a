//! Learning-rate schedules, by name and of one's own.

use crate::common::{Folder, assert_close, repository, run};
use serde_json::Value;

/// What Hugging Face's and PyTorch's schedules give, by their formulas.
fn expected(kind: &str, step: f64) -> f64 {
    let (total, warmup) = (40.0, 8.0);
    if step < warmup {
        return step / warmup;
    }
    let progress = (step - warmup) / (total - warmup);
    match kind {
        "cosine" => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        "constant" => 1.0,
        "linear" => (total - step) / (total - warmup),
        "step" => 0.5f64.powi(((step - warmup) / 10.0).floor() as i32),
        "warmup_stable_decay" if step < total - 16.0 => 1.0,
        "warmup_stable_decay" => (total - step) / 16.0,
        _ => unreachable!(),
    }
}

#[test]
fn each_schedule_has_its_formula() {
    for (kind, more) in [
        ("cosine", ""),
        ("constant", ""),
        ("linear", ""),
        ("step", ", step_size: 10, gamma: 0.5"),
        ("warmup_stable_decay", ", decay_steps: 16"),
    ] {
        let said = run(&format!(
            "let s = optim::schedule(\"{kind}\", #{{ lr: 0.3, total_steps: 40, warmup_steps: 8{more} }});
             let rates = []; for i in 0..=40 {{ rates.push(s.at(i)); }} print(rates);"
        ));
        let found = said.succeeds().numbers();
        let expected: Vec<f64> = (0..=40).map(|step| 0.3 * expected(kind, step as f64)).collect();
        assert_close(&found[0], &expected, 1e-12);
    }
    // Hugging Face: the factor f of the cosine becomes f (1 - m) + m, with m = min_lr / lr.
    let said = run("let s = optim::cosine(#{ lr: 0.4, total_steps: 12, warmup_steps: 4, min_lr: 0.1 });
                    print([s.at(2), s.at(4), s.at(8), s.at(12), s.at(20)]);");
    assert_close(&said.succeeds().numbers()[0], &[0.2, 0.4, 0.25, 0.1, 0.1], 1e-12);
    let said = run("let s = optim::lambda_lr(#{ lr: 0.5, total_steps: 4, llrd: 0.5 }, |step| 1.0 / (1 + step));
                    print([s.at(0), s.at(3), s.at(1, 2)]);");
    assert_close(&said.succeeds().numbers()[0], &[0.5, 0.125, 0.0625], 1e-12);
    for (call, piece) in [
        ("optim::schedule(\"linear\", #{ lr: 0.1, total_steps: 4, min_lr: 0.01 });", "min_lr belongs to"),
        ("optim::cosine(#{ lr: 0.1, total_steps: 4, min_lr: 0.2 });", "min_lr must lie in 0..=lr (0.1), found 0.2"),
        ("optim::schedule(\"cosin\", #{ total_steps: 4 });", "did you mean `cosine`?"),
        ("optim::schedule(\"step\", #{ total_steps: 4 });", "needs step_size"),
        ("optim::schedule(\"linear\", #{ total_steps: 4, gamma: 0.1 });", "step_size and gamma belong to"),
        ("optim::schedule(\"warmup_stable_decay\", #{ total_steps: 4, decay_steps: 5 });", "must lie in 0..=4"),
        (
            "optim::lambda_lr(#{ total_steps: 4 }, |step| \"fast\").at(1);",
            "expected a number, found the string \"fast\"",
        ),
        (
            "optim::lambda_lr(#{ total_steps: 4, warmup_steps: 2 }, |step| 1.0);",
            "the function has the warm-up in it, expected 0, found 2",
        ),
    ] {
        run(call).fails(1).says(&[piece]);
    }
}

#[test]
fn fit_takes_a_schedule_by_name_with_options_or_as_a_function() {
    for (schedule, expected) in [
        ("\"linear\"", [1.0, 2.0 / 3.0, 1.0 / 3.0]),
        ("#{ kind: \"step\", step_size: 1, gamma: 0.5 }", [1.0, 0.5, 0.25]),
        ("|step, total| 1.0 - 1.0 * step / total", [1.0, 0.75, 0.5]),
    ] {
        let folder = Folder::new();
        let warmup = if schedule.starts_with('|') { "" } else { "warmup: 0.25," };
        let script = format!(
            "import \"std/pretrain\" as pretrain;
             let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }});
             let images = data::synthetic(#{{ len: 16, size: 8 }});
             pretrain::fit(m, images, #{{ steps: 4, batch: 4, lr: 0.01, {warmup} log_every: 1, schedule: {schedule} }});"
        );
        folder.run_with(&script, &["--out", "o"]).succeeds();
        let metrics = folder.text("o/metrics.jsonl");
        let rows: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let rates: Vec<f64> = rows.iter().filter_map(|row| row["lr"].as_f64()).collect();
        let at = if schedule.starts_with('|') { 0 } else { 1 };
        let expected: Vec<f64> = expected.iter().map(|factor| 0.01 * factor).collect();
        assert_close(&rates[at..at + 3], &expected, 1e-12);
        if at == 1 {
            assert_eq!(rates[0], 0.0, "the warm-up begins at 0");
        }
    }
    let fit = |schedule: &str| {
        run(&format!(
            "import \"std/pretrain\" as pretrain;
             let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }});
             pretrain::fit(m, data::synthetic(#{{ len: 16, size: 8 }}), #{{ steps: 4, batch: 4, schedule: {schedule} }});"
        ))
    };
    fit("|step, total| 1.0, warmup: 0.5").fails(1).says(&["warmup: a function as schedule has the warm-up in it"]);
    fit("\"cosine\", warmup: 0.9").succeeds().says(&[
        "4 steps (warm-up 4), 1.0 epochs, 16 images",
        "warning: the warm-up takes all of the 4 steps: the learning rate does not reach 0.001",
    ]);
    fit("\"cosin\"").fails(1).says(&["did you mean `cosine`?"]);
    fit("#{ gamma: 1.0 }").fails(1).says(&["expected a map with the key kind"]);
    fit("3").fails(1).says(&["schedule"]);
}

/// The factors of the reference's `llrd_cosine` (tests/fixtures/llrd), step by step and power by power.
fn reference_factors() -> Value {
    let text = std::fs::read_to_string(repository("tests/fixtures/llrd/schedules.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn rows(case: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(case["factors"].clone()).unwrap()
}

#[test]
fn a_layer_wise_decay_that_rises_falls_or_stays_is_the_references() {
    let known = reference_factors();
    for case in known["cases"].as_array().unwrap() {
        let end = if case["llrd_end"].is_null() { "()".to_string() } else { case["llrd_end"].to_string() };
        let said = run(&format!(
            "let s = optim::llrd_cosine(#{{ lr: 1.0, total_steps: {}, warmup_steps: {}, llrd: {}, llrd_end: {end} }});
             for step in 0..={} {{ let row = []; for power in 0..5 {{ row.push(s.at(step, power)); }} print(row); }}",
            known["total_steps"], known["warmup_steps"], case["llrd"], known["total_steps"]
        ));
        let found = said.succeeds().numbers();
        assert_eq!(found.len(), rows(case).len());
        for (found, expected) in found.iter().zip(rows(case)) {
            assert_close(found, &expected, 1e-12);
        }
    }
    let said = run("optim::llrd_cosine(#{ total_steps: 4, llrd_end: -0.1 });");
    said.fails(1).says(&["llrd_end must not be negative, found -0.1"]);
}

/// A classifier of 4 blocks that fine-tunes for 12 steps, of which 3 are warm-up.
fn twelve_steps(options: &str) -> String {
    format!(
        r#"import "std/finetune" as finetune;
        let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 4, num_attention_heads: 2,
                                 layerscale_value: 1.0, num_labels: 4, is_causal: false }});
        let images = data::synthetic(#{{ len: 4, size: 8, classes: 4 }});
        let names = ["encoder.layer.3", "encoder.layer.2", "encoder.layer.1", "encoder.layer.0"]
            .map(|layer| `vit_nepa.${{layer}}.output.dense.weight`) + ["vit_nepa.embeddings.patch_embeddings.projection.weight"];
        let before = [m.state_dict()];
        let compare = |m, ema, state| {{
            let after = m.state_dict();
            let old = before[0];
            print(names.map(|name| (after[name] - old[name]).abs().max().item()));
            before[0] = after;
        }};
        finetune::fit(m, images, #{{
            epochs: 12, batch: 4, lr: 1e-3, warmup: 0.25, weight_decay: 0.0, optimizer: "lion", on_epoch: compare,
        }} + {options});"#
    )
}

#[test]
fn fine_tuning_moves_each_layer_by_the_rates_of_a_decay_that_changes() {
    // Lion moves every element by just the learning rate.
    let known = reference_factors();
    for case in &known["cases"].as_array().unwrap()[..2] {
        let options = format!("#{{ llrd: {}, llrd_end: {:?} }}", case["llrd"], case["llrd_end"].as_f64().unwrap());
        let said = run(&twelve_steps(&options));
        let found = said.succeeds().numbers();
        assert_eq!(found.len(), 12, "{said}");
        for (found, expected) in found.iter().zip(rows(case)) {
            let expected: Vec<f64> = expected.iter().map(|factor| 1e-3 * factor).collect();
            assert_close(found, &expected, 2e-8);
        }
    }
    let said = run(&twelve_steps("#{ llrd: 0.35, llrd_end: 1.0 }"));
    said.says(&["lr 0.001, head 0.001, embeddings from 1.50e-5 (llrd 0.35) to 1.00e-3 (llrd 1.0), times the schedule"]);
    run(&twelve_steps("#{ llrd: 0.5 }")).succeeds().says(&["lr 0.001, head 0.001, embeddings 6.25e-5"]);
}

#[test]
fn a_decay_that_cannot_change_is_refused() {
    let needs = "finetune::fit: llrd_end: needs the schedule \"llrd_cosine\", in which the decay may change";
    for (options, pieces) in [
        ("#{ llrd_end: 1.0, schedule: \"llrd_cosine_warmup\" }", [needs, "found \"llrd_cosine_warmup\""]),
        ("#{ llrd_end: 1.0, schedule: #{ kind: \"linear\" } }", [needs, "found \"linear\""]),
        ("#{ llrd_end: 1.0, schedule: |step, total| 1.0 }", [needs, "found a Fn"]),
        ("#{ llrd_end: 1.0, schedule: #{} }", [needs, "found a ()"]),
        (
            "#{ schedule: #{ kind: \"llrd_cosine\", llrd_end: 1.0 } }",
            ["llrd_end is an option of its own", "beside schedule"],
        ),
        ("#{ schedule: #{ kind: \"llrd_cosine\", llrd: 0.5 } }", ["llrd is an option of its own", "beside schedule"]),
        ("#{ llrd_end: -0.5 }", ["llrd_end must not be negative", "found -0.5"]),
        ("#{ llrd_end: 0.0 / 0.0 }", ["`llrd_end`", "NaN"]),
        ("#{ llrd_ende: 0.5 }", ["llrd_ende", "did you mean `llrd_end`?"]),
        (
            "#{ llrd_end: 0.5, optimizer: |m, o| optim::adamw(m, #{}) }",
            ["llrd, llrd_end and head_lr", "group the parameters"],
        ),
    ] {
        run(&twelve_steps(options)).fails(1).says(&pieces);
    }
}
