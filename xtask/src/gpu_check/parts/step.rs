//! Seconds and memory of a step of pretraining.

use super::{Check, Deadline, Section, Trouble, keep_first, sets};
use serde_json::{Value, json};

pub const ASKS: &str = "Steps of pretraining in bfloat16, 224 x 224, batch 256, on images that are on the GPU \
     already (scripts/step.rhai; one wait after 20 steps). MFU is the share of what plain matrix \
     products reach (part device), by the operations that `model.cost` counts. Memory: what \
     tensors took at most, and what `model.cost` expected. Launches and waits are not measured on \
     a GPU.";

struct Size {
    name: &'static str,
    sets: [(&'static str, &'static str); 4],
}

const SIZES: [Size; 2] = [
    Size { name: "base", sets: [("hidden_size", "768"), ("layers", "12"), ("heads", "12"), ("affine", "false")] },
    Size { name: "large", sets: [("hidden_size", "1024"), ("layers", "24"), ("heads", "16"), ("affine", "true")] },
];
/// In place of the sizes and of the batch.
const REHEARSED: [(&str, &str); 6] =
    [("hidden_size", "16"), ("layers", "2"), ("heads", "2"), ("image_size", "28"), ("batch", "8"), ("steps", "3")];

const COLUMNS: [&str; 7] =
    ["model", "s per step", "images/s", "TFLOP/s", "MFU", "peak memory, GB (reserved)", "of model.cost"];

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    let mut first = Ok(());
    let mut rows = vec![COLUMNS.map(String::from).to_vec()];
    let mut headline = Vec::new();
    for (i, size) in SIZES.iter().enumerate() {
        let what = format!("step {}", size.name);
        match measure(check, &what, size, deadline.of(SIZES.len() - i)) {
            Ok(answer) => {
                let found = Found::of(&answer, check.matmul_rate);
                check.images_per_second = check.images_per_second.or(Some(found.images_per_second));
                headline.push(format!(
                    "{} {:.0} images/s, {:.4} s a step, MFU {:.0} %, {:.1} GB",
                    size.name,
                    found.images_per_second,
                    found.seconds,
                    100. * found.mfu,
                    found.gigabytes
                ));
                rows.push(found.row(size.name, &answer));
                section.set(
                    size.name,
                    json!({
                        "images_per_second": found.images_per_second, "mfu": found.mfu,
                        "memory_of_estimate": found.of_estimate, "measured": answer,
                    }),
                );
            }
            Err(trouble) => keep_first(&mut first, Err(trouble)),
        }
    }
    section.table(&rows);
    section.headline = headline.join("; ");
    first
}

fn measure(check: &Check, what: &str, size: &Size, deadline: Deadline) -> Result<Value, Trouble> {
    let own = |values: &[(&'static str, &str)]| values.iter().map(|(name, value)| (*name, value.to_string())).collect();
    let mut values: Vec<(&str, String)> = own(&size.sets);
    if check.rehearsal {
        values.retain(|(name, _)| *name == "affine");
        values.extend::<Vec<_>>(own(&REHEARSED));
    }
    check.run(what, &check.script("step.rhai"), "cuda", &sets(&values), deadline)?.answer()
}

struct Found {
    seconds: f64,
    images_per_second: f64,
    flops_per_second: f64,
    mfu: f64,
    gigabytes: f64,
    of_estimate: f64,
}

impl Found {
    fn of(answer: &Value, rate: Option<f64>) -> Self {
        let number = |place: &str| answer.pointer(place).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let seconds = number("/seconds_per_step");
        let flops_per_second = number("/flops_per_step") / seconds;
        let peak = number("/memory/allocated");
        Found {
            seconds,
            images_per_second: number("/batch") / seconds,
            flops_per_second,
            mfu: flops_per_second / rate.unwrap_or(f64::NAN),
            gigabytes: peak / 1e9,
            of_estimate: peak / number("/estimate/total"),
        }
    }

    fn row(&self, name: &str, answer: &Value) -> Vec<String> {
        let at_once = &answer["at_once"];
        let name = if *at_once == answer["batch"] { name.into() } else { format!("{name}, {at_once} at once") };
        let reserved = answer["memory"]["reserved"].as_f64().unwrap_or(f64::NAN) / 1e9;
        vec![
            name,
            format!("{:.4}", self.seconds),
            format!("{:.0}", self.images_per_second),
            format!("{:.1}", self.flops_per_second / 1e12),
            format!("{:.1} %", 100. * self.mfu),
            format!("{:.2} ({reserved:.2})", self.gigabytes),
            format!("{:.0} %", 100. * self.of_estimate),
        ]
    }
}
