//! Learning-rate schedules, by name and of one's own.

use crate::common::{Folder, assert_close, run};
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
    let said = run("let s = optim::lambda_lr(#{ lr: 0.5, total_steps: 4, llrd: 0.5 }, |step| 1.0 / (1 + step));
                    print([s.at(0), s.at(3), s.at(1, 2)]);");
    assert_close(&said.succeeds().numbers()[0], &[0.5, 0.125, 0.0625], 1e-12);
    for (call, piece) in [
        ("optim::schedule(\"cosin\", #{ total_steps: 4 });", "did you mean `cosine`?"),
        ("optim::schedule(\"step\", #{ total_steps: 4 });", "needs step_size"),
        ("optim::schedule(\"linear\", #{ total_steps: 4, gamma: 0.1 });", "step_size and gamma belong to"),
        ("optim::schedule(\"warmup_stable_decay\", #{ total_steps: 4, decay_steps: 5 });", "must lie in 0..=4"),
        (
            "optim::lambda_lr(#{ total_steps: 4 }, |step| \"fast\").at(1);",
            "expected a number, found the string \"fast\"",
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
        let script = format!(
            "import \"std/pretrain\" as pretrain;
             let m = nn::vit_nepa(#{{ image_size: 8, patch_size: 4, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 }});
             let images = data::synthetic(#{{ len: 16, size: 8 }});
             pretrain::fit(m, images, #{{ steps: 4, batch: 4, lr: 0.01, warmup: 0.25, log_every: 1, schedule: {schedule} }});"
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
    fit("\"cosin\"").fails(1).says(&["did you mean `cosine`?"]);
    fit("#{ gamma: 1.0 }").fails(1).says(&["expected a map with the key kind"]);
    fit("3").fails(1).says(&["schedule"]);
}
