//! What a call from a script costs: each expression in a script's loop, the same work in plain
//! Rust, and the difference. The aim is at most 2 µs a call.
//!
//!     cargo xtask bench call

#[path = "common/arguments.rs"]
mod arguments;

use clap::Parser;
use nepa::error::Result;
use nepa::run::signals::Interrupt;
use nepa::script::Host;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const CALLS: usize = 100_000;
const ROUNDS: usize = 5;

/// What is called, as a script writes it, and the same in Rust (true when it went well).
type Case<'a> = (&'a str, &'a str, &'a dyn Fn() -> bool);

/// What a call from a script costs, beside the same in Rust
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench call")]
struct Options {}

fn main() -> ExitCode {
    arguments::main(|_: Options| calls())
}

fn calls() -> Result<()> {
    tch::set_num_threads(1);
    let host = Host::new(None, Interrupt::default());
    let (a, b) = (Tensor::ones([4], (Kind::Float, Device::Cpu)), Tensor::ones([4], (Kind::Float, Device::Cpu)));
    let cosine = || {
        let options = nepa::optim::ScheduleOptions { total_steps: 10, ..Default::default() };
        black_box(nepa::optim::Schedule::new(nepa::optim::ScheduleKind::Cosine, &options)).is_ok()
    };
    let native: [Case<'_>; 6] = [
        ("a scalar property", "a.ndim", &|| black_box(a.dim()) > 0),
        ("a global function", "device()", &|| !black_box(nepa::device::name(Device::Cpu)).is_empty()),
        ("tensor + number", "a + 1.0", &|| a.f_add_scalar(1.0).is_ok()),
        ("tensor + tensor", "a + b", &|| a.f_add(&b).is_ok()),
        ("a method with arguments", "a.sum(0, true)", &|| a.f_sum_dim_intlist([0i64].as_slice(), true, None).is_ok()),
        ("a function in a namespace", "optim::cosine(o)", &cosine),
    ];
    // The loop itself, with an assignment, is not the call's cost.
    let empty = best(|| run_script(&host, "a"));
    println!("{:<28} {:<18} {:>10} {:>10} {:>10}", "what", "script", "script ns", "Rust ns", "overhead");
    let mut worst: f64 = 0.0;
    for (what, code, direct) in &native {
        let script = best(|| run_script(&host, code)) - empty;
        let rust = best(|| {
            let start = Instant::now();
            assert!((0..CALLS).all(|_| direct()));
            start.elapsed().as_secs_f64()
        });
        let [script, rust] = [script, rust].map(|s| s / CALLS as f64 * 1e9);
        worst = worst.max(script - rust);
        println!("{what:<28} {code:<18} {script:>10.0} {rust:>10.0} {:>10.0}", script - rust);
    }
    println!("largest overhead: {:.2} µs a call (aim: at most 2)", worst / 1e3);
    Ok(())
}

fn best(mut seconds: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| seconds()).fold(f64::INFINITY, f64::min)
}

/// Seconds that a script's loop over an expression takes.
fn run_script(host: &Host, code: &str) -> f64 {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("bench.rhai");
    let text = format!(
        "let a = ones([4]); let b = ones([4]); let o = #{{ total_steps: 10 }};\nlet x = a;\nfor i in 0..{CALLS} {{ x = {code}; }}\n"
    );
    std::fs::write(&path, text).expect("the temporary folder can be written");
    let Ok(ast) = host.compile(&path) else { panic!("the snippet `{code}` does not parse") };
    let start = Instant::now();
    if host.run(&ast, &path).is_err() {
        panic!("the snippet `{code}` fails");
    }
    start.elapsed().as_secs_f64()
}
