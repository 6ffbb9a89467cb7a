//! Several processes, a GPU each, or one process alone.

use super::{Check, Deadline, Section, Trouble, sets};
use serde_json::Value;

pub const ASKS: &str = "`dist::all_reduce` through NCCL, its sums checked: one process (NEPA_DIST_ALONE=1), and as \
     many as there are GPUs. With more than one GPU also 20 steps of \
     pretraining with a NaN in one of them, whose loss may differ from that of one process by at most 1e-3.";

const LIMIT: f64 = 1e-3;

pub fn run(check: &mut Check, deadline: Deadline, section: &mut Section) -> Result<(), Trouble> {
    let all = check.gpus.max(1);
    let tries = if all > 1 { vec![1, all] } else { vec![1] };
    let mut headline = Vec::new();
    for (i, processes) in tries.iter().enumerate() {
        let answer = match all_reduce(check, *processes, deadline.of(2 * tries.len() - i)) {
            Err(trouble) if trouble.says("this libtorch_cuda has no NCCL") => {
                return Err(Trouble::skipped("this libtorch_cuda has no NCCL"));
            }
            answer => answer?,
        };
        let mut rows = vec![["bytes", "ms", "bus GB/s"].map(String::from).to_vec()];
        let mut fastest = 0_f64;
        for row in answer["rows"].as_array().into_iter().flatten() {
            let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
            // What goes through each GPU's links.
            let n = *processes as f64;
            let bus = 2. * (n - 1.) / n * number("bytes") / number("seconds") / 1e9;
            fastest = fastest.max(bus);
            rows.push(vec![row["bytes"].to_string(), format!("{:.3}", 1e3 * number("seconds")), format!("{bus:.1}")]);
        }
        section.line(format!("{}:", in_words(*processes)));
        section.table(&rows);
        section.set(&format!("all_reduce of {processes}"), answer);
        let speed = if *processes == 1 { String::new() } else { format!(", {fastest:.0} GB/s") };
        headline.push(format!("{}: sums right{speed}", in_words(*processes)));
    }
    section.headline = headline.join("; ");
    if all > 1 {
        let (one, many) = (loss(check, 1, all, deadline.of(2))?, loss(check, all, all, deadline)?);
        section.set("losses", vec![one, many].into());
        section.headline += &format!("; loss {one:.6} with one, {many:.6} with {all}");
        // A NaN is not close to anything.
        let are_close = (one - many).abs() <= LIMIT;
        if !are_close {
            return Err(Trouble::failed(format!("the losses of 1 and {all} processes differ by more than {LIMIT:e}")));
        }
    }
    section.line(section.headline.clone());
    Ok(())
}

fn in_words(processes: u64) -> String {
    if processes == 1 { "1 process".into() } else { format!("{processes} processes") }
}

fn all_reduce(check: &Check, processes: u64, deadline: Deadline) -> Result<Value, Trouble> {
    let sizes = if check.rehearsal { "[4096, 1048576]" } else { "[4096, 1048576, 26214400, 268435456]" };
    let mut command = check.nepa();
    check.recipe(&mut command, &check.script("nccl.rhai"), "cuda").args(sets(&[("sizes", sizes.into())]));
    command.args(["--nproc", &processes.to_string()]).env("NEPA_DIST_ALONE", "1");
    let what = format!("all_reduce of {processes}");
    check.runner.run(&what, &mut command, deadline, &mut || None)?.succeeded()?.answer()
}

/// The last loss of pretraining.
fn loss(check: &Check, processes: u64, all: u64, deadline: Deadline) -> Result<f64, Trouble> {
    let more = [sets(&[("batch", (8 * all).to_string())]), vec!["--nproc".into(), processes.to_string()]].concat();
    let what = format!("training of {processes}");
    let ended = check.run(&what, &check.script("training.rhai"), "cuda", &more, deadline)?;
    let loss = ended.out.lines().rev().find_map(|line| line.split("loss ").nth(1)?.trim().parse().ok());
    loss.ok_or_else(|| ended.trouble("no loss was printed"))
}
