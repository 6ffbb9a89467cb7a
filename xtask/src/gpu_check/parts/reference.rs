//! The PyTorch reference's step, eager and compiled.

use super::{Check, Deadline, Section, Trouble, keep_first};
use anyhow::Context;
use serde_json::{Value, json};
use std::fs::{self, File};

pub const ASKS: &str = "The same step of the base model by the PyTorch reference (benches/common/peer.py), which \
     waits after each of its four parts, which costs it little at this batch. torch.compile has \
     compiled before the steps that count: medians.";

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    if check.reference.is_none() {
        return Err(Trouble::skipped("no --reference and --python"));
    }
    let mut first = Ok(());
    let mut headline = Vec::new();
    for (i, way) in ["eager", "compiled"].into_iter().enumerate() {
        match measure(check, way, deadline.of(2 - i)) {
            Ok((images_per_second, answers)) => {
                let ratio = check.images_per_second.map(|ours| ours / images_per_second);
                let beside = ratio.map_or(String::new(), |ratio| format!(" (ours / it: {ratio:.2})"));
                headline.push(format!("{way} {images_per_second:.0} images/s{beside}"));
                section
                    .set(way, json!({ "images_per_second": images_per_second, "ours_to_it": ratio, "steps": answers }));
            }
            Err(trouble) => keep_first(&mut first, Err(trouble)),
        }
    }
    section.headline = headline.join("; ");
    section.line(section.headline.clone());
    first
}

/// Its images/s, and what it says of each step.
fn measure(check: &Check, way: &str, deadline: Deadline) -> Result<(f64, Vec<Value>), Trouble> {
    const SETTING_UP: usize = 3;
    let (batch, steps) = if check.rehearsal { (2, 2) } else { (256, 20) };
    let reference = check.reference.as_ref().context("no reference")?;
    // It takes a step for each line.
    let lines = check.work.join("lines");
    fs::write(&lines, "\n".repeat(SETTING_UP + steps)).context("cannot write the lines that ask for steps")?;
    let mut command = check.program(&reference.python);
    command.arg(check.checkout.join("benches/common/peer.py")).arg("--reference").arg(&reference.checkout);
    command.args(["--batch", &batch.to_string(), "--dtype", "bfloat16", "--device", "cuda"]);
    if way == "compiled" {
        command.arg("--compile");
    }
    command.stdin(File::open(&lines).context("cannot read the lines that ask for steps")?);
    let what = format!("reference {way}");
    let ended = check.runner.run(&what, &mut command, deadline, &mut || None)?.succeeded()?;
    let answers: Vec<Value> =
        ended.out.lines().filter_map(|line| serde_json::from_str(line).ok()).skip(SETTING_UP).collect();
    let of_step =
        |answer: &Value| answer["times"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum::<f64>();
    let mut seconds: Vec<f64> = answers.iter().map(of_step).collect();
    seconds.sort_by(f64::total_cmp);
    if seconds.len() != steps {
        return Err(ended.trouble(&format!("{} steps were timed, expected {steps}", seconds.len())));
    }
    Ok((batch as f64 / seconds[steps / 2], answers))
}
