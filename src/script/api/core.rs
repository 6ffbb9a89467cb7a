//! Globals: parameters, options, the device, random state, errors.

use crate::bail_hint;
use crate::error::{Diagnostic, Result, bail, did_you_mean};
use crate::ffi::{self, Autocast};
use crate::functions;
use crate::options;
use crate::random;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{call, found, from_json, number, read_options};
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use tch::Kind;

options! {
    /// A state of the run's generator.
    pub struct RngState {
        /// The seed it started from.
        seed: i64 = 0,
        /// Draws since.
        drawn: u64 = 0,
    }
}

crate::script::types::handles! { "Error": Diagnostic; }

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Diagnostic>("Error");
    let mut group = Group::global(
        reference,
        "",
        "Functions without a namespace. Rhai's own (print, arrays, maps, strings, maths) are there too: rhai.rs/book.",
    );
    functions! { group;
        /// Declares a parameter of the recipe and gives its value: the default, or what
        /// `--set name=value` says, which must be of the default's type. A default of `()` means that
        /// the parameter must be given; it is a string. The name is a string literal.
        ///
        /// Example: `let lr = param("lr", 1e-3, "peak learning rate");`
        "param" (name: ImmutableString, default: Dynamic, doc: ImmutableString) -> Dynamic {
            let _ = doc;
            super::run::param(&name, &default)
        }
        /// The same without a description.
        "param" (name: ImmutableString, default: Dynamic) -> Dynamic { super::run::param(&name, &default) }
        /// Runs `body` without recording gradients and gives its value.
        ///
        /// Example: `let accuracy = no_grad(|| evaluate(model));`
        "no_grad" (body: FnPtr) -> Dynamic { tch::no_grad(|| call(&body, ())) }
        /// Runs `body` with autocast to `dtype` ("bfloat16") and gives its value: matrix products, convolutions and
        /// attention cast their inputs to that type, all else computes in the type that it finds, and losses in
        /// float32. Parameters and gradients stay float32. Inside, "float32" switches it off again. For the forward
        /// pass and the loss; backward() keeps each operation's type wherever it is called.
        ///
        /// Example: `let loss = autocast("bfloat16", || my_loss(model, batch)); loss.backward();`
        "autocast" (dtype: ImmutableString, body: FnPtr) -> Dynamic {
            let _autocast = Autocast::enter(precision("autocast", &dtype)?)?;
            call(&body, ())
        }
        /// Whether float32 matrix products and convolutions on CUDA may round their inputs to TF32 (10 bits of
        /// mantissa, several times faster); off at the start of a run. Without effect on a CPU.
        "allow_tf32" (allow: bool) -> () { ffi::allow_tf32(allow) }
        /// Floating-point operations a second that plain matrix products of `dtype` ("float32", "bfloat16") reach on the
        /// run's device, measured for about a second: the yardstick for a model's own rate.
        ///
        /// Example: `let share = flops_per_second / matmul_rate("bfloat16");`
        "matmul_rate" (dtype: ImmutableString) -> f64 { crate::device::matmul_rate(precision("matmul_rate", &dtype)?) }
        /// The device of the run: "cpu", "cuda:0", … Parameters and batches live there.
        "device" () -> String { Ok(crate::device::name(crate::device::current())) }
        /// The seed of the run's generator, from which initial weights, drop path, position
        /// augmentation, `rand` and `randn` are drawn.
        "seed" () -> i64 { Ok(random::seed() as i64) }
        /// Starts the run's generator anew from `seed`.
        "seed" (seed: i64) -> () { random::set_seed(seed as u64); Ok(()) }
        /// The state of the run's generator, a map of `seed` and `drawn`, the number of draws so far.
        "rng_state" () -> Map {
            let state = random::state();
            let count = |n: u64| Dynamic::from_int(n as i64);
            Ok(Map::from([("seed".into(), count(state.seed)), ("drawn".into(), count(state.drawn))]))
        }
        /// Puts the run's generator back to a state, so that the same is drawn again.
        ///
        /// Example: `let before = rng_state(); evaluate(model); rng_state(before);`
        "rng_state" (state: Map) -> () {
            let o: RngState = read_options("rng_state", &state)?;
            random::set_state(random::State { seed: o.seed as u64, drawn: o.drawn, ..random::state() });
            Ok(())
        }
        /// Mean and sample deviation (n − 1) of numbers: a map with `mean` and `std` (0 for one number).
        "mean_std" (values: Array) -> Map { mean_std(&values) }
        /// Prints rows of cells as a table with aligned columns; the first row is the heading.
        "table" (rows: Array) -> () { table(&rows) }
        /// A number with `digits` digits after the point.
        "fixed" (value: Dynamic, digits: i64) -> String {
            Ok(format!("{:.*}", digits.clamp(0, 17) as usize, number(&value, "fixed")?))
        }
        /// A number in scientific notation with `digits` digits after the point, such as 1.25e-7.
        "scientific" (value: Dynamic, digits: i64) -> String {
            Ok(format!("{:.*e}", digits.clamp(0, 17) as usize, number(&value, "scientific")?))
        }
        /// Seconds since an unspecified moment, for measuring durations.
        "seconds" () -> f64 {
            use std::{sync::OnceLock, time::Instant};
            static START: OnceLock<Instant> = OnceLock::new();
            Ok(START.get_or_init(Instant::now).elapsed().as_secs_f64())
        }
        /// The content of a JSON file: maps, arrays, numbers, strings.
        "read_json" (path: ImmutableString) -> Dynamic { read_json(&path) }
        /// What a caught error says.
        "get$message" (error: Diagnostic) -> String { Ok(error.message.clone()) }
        /// A caught error's advice, or "".
        "get$hint" (error: Diagnostic) -> String { Ok(error.hint.clone().unwrap_or_default()) }
        /// A caught error as text.
        "to_string" (error: Diagnostic) -> String { Ok(error.message.clone()) }
    }
    group.register(engine);
}

/// A dtype to compute in.
pub fn precision(of: &str, dtype: &str) -> Result<Kind> {
    match dtype {
        "float32" => Ok(Kind::Float),
        "bfloat16" => Ok(Kind::BFloat16),
        other => bail_hint!(
            "{of}: unknown dtype \"{other}\"{}", did_you_mean(other, ["bfloat16", "float32"]);
            "the dtypes to compute in are bfloat16 and float32"
        ),
    }
}

fn mean_std(values: &Array) -> Result<Map> {
    let x: Vec<f64> = values.iter().map(|v| number(v, "mean_std")).collect::<Result<_>>()?;
    if x.is_empty() {
        bail!("mean_std: expected at least one number, found an empty array");
    }
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let squares: f64 = x.iter().map(|v| (v - mean).powi(2)).sum();
    let std = if x.len() > 1 { (squares / (x.len() - 1) as f64).sqrt() } else { 0.0 };
    Ok(Map::from([("mean".into(), mean.into()), ("std".into(), std.into())]))
}

fn table(rows: &Array) -> Result<()> {
    let mut cells: Vec<Vec<String>> = Vec::new();
    for row in rows {
        let Some(row) = row.read_lock::<Array>() else {
            bail!("table: expected an array of rows (arrays), found {} in it", found(row));
        };
        cells.push(row.iter().map(|c| c.to_string()).collect());
    }
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| cells.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (i, row) in cells.iter().enumerate() {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        crate::run::progress::print_line(line.join("  ").trim_end());
        if i == 0 {
            let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
            crate::run::progress::print_line(&rule.join("  "));
        }
    }
    Ok(())
}

fn read_json(path: &str) -> Result<Dynamic> {
    use crate::error::Context as _;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let value = serde_json::from_str(&text).with_context(|| format!("{path} is not valid JSON"))?;
    Ok(from_json(&value))
}
