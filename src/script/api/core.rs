//! Globals: parameters, options, the device, random state, errors.

use crate::bail_hint;
use crate::error::{Context as _, Result, bail, did_you_mean};
use crate::ffi::{self, Autocast};
use crate::options;
use crate::random;
use crate::run::progress::clock;
use crate::script::registry::Api;
use crate::script::session;
use crate::script::values::{call, found, from_json};
use crate::text;
use crate::untrusted;
use nepa_macros::functions;
use rhai::{Array, Dynamic, FnPtr, Map};
use std::path::Path;
use std::time::Duration;
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

/// The most bytes of a JSON file that are read.
const MOST_JSON: u64 = 1 << 30;

pub fn register(api: &mut Api<'_>) {
    api.globals(
        "",
        "Functions without a namespace. Rhai's own (print, arrays, maps, strings, maths) are there too: rhai.rs/book.",
        functions::register,
    );
}

#[functions]
mod functions {
    use super::*;

    /// Declares a parameter of the recipe and returns its value: the default, or the value of
    /// `--set name=value`, which must have the default's type. With a default of `()`, the parameter
    /// is a required string. The name must be a string literal.
    ///
    /// Example: `let lr = param("lr", 1e-3, "peak learning rate");`
    pub fn param(name: &str, default: Dynamic, doc: &str) -> Result<Dynamic> {
        let _ = doc;
        session::param(name, &default)
    }

    /// Declares a parameter of the recipe without a description, and returns its value.
    #[script(name = "param")]
    pub fn param_without_doc(name: &str, default: Dynamic) -> Result<Dynamic> {
        session::param(name, &default)
    }

    /// Runs `body` without recording gradients and returns its value.
    ///
    /// Example: `let accuracy = no_grad(|| evaluate(model));`
    pub fn no_grad(body: FnPtr) -> Result<Dynamic> {
        tch::no_grad(|| call(&body, ()))
    }

    /// Runs `body` with autocast to `dtype` ("bfloat16") and returns its value. Matrix products, convolutions and
    /// attention cast their inputs to that dtype, losses compute in float32, and all other operations in the dtype of
    /// their inputs. Parameters and gradients stay float32. Nested inside, "float32" switches autocast off again. Use
    /// it for the forward pass and the loss; backward() keeps each operation's dtype wherever it is called.
    ///
    /// Example: `let loss = autocast("bfloat16", || my_loss(model, batch)); loss.backward();`
    pub fn autocast(dtype: &str, body: FnPtr) -> Result<Dynamic> {
        let _autocast = Autocast::enter(precision("autocast", dtype)?)?;
        call(&body, ())
    }

    /// Allows float32 matrix products and convolutions on CUDA to round their inputs to TF32 (10 bits of mantissa,
    /// several times faster), or forbids it, as at the start of a run. Has no effect on a CPU.
    pub fn allow_tf32(allow: bool) -> Result<()> {
        ffi::allow_tf32(allow)
    }

    /// Measures, for about a second, how many floating-point operations per second plain matrix products of `dtype`
    /// ("float32", "bfloat16") reach on the run's device: a yardstick for a model's own rate.
    ///
    /// Example: `let utilisation = flops_per_second / matmul_rate("bfloat16");`
    pub fn matmul_rate(dtype: &str) -> Result<f64> {
        crate::device::matmul_rate(precision("matmul_rate", dtype)?)
    }

    /// The number of GPUs that libtorch sees; 0 in a run on a CPU. As torch.cuda.device_count.
    pub fn device_count() -> i64 {
        if crate::device::current().is_cuda() { tch::Cuda::device_count() } else { 0 }
    }

    /// The memory of the run's GPU in bytes, or () on a CPU. A map: `allocated`, the most that this process's tensors
    /// have taken at once; `reserved`, the most that libtorch has taken from the driver for them; `free`, now, for any
    /// process; `total`. As torch.cuda.max_memory_allocated, max_memory_reserved and mem_get_info.
    ///
    /// Example: `if gpu_memory() != () { print(gpu_memory().allocated / 1e9); }`
    pub fn gpu_memory() -> Result<Dynamic> {
        let tch::Device::Cuda(index) = crate::device::current() else { return Ok(Dynamic::UNIT) };
        let memory = ffi::gpu_memory(index)?;
        let values = [
            ("allocated", memory.allocated),
            ("reserved", memory.reserved),
            ("free", memory.free),
            ("total", memory.total),
        ];
        Ok(Map::from_iter(values.map(|(name, bytes)| (name.into(), Dynamic::from_int(bytes as i64)))).into())
    }

    /// The device of the run: "cpu", "cuda:0", … Parameters and batches live there.
    pub fn device() -> String {
        crate::device::name(crate::device::current())
    }

    /// The seed of the run's random generator, which initial weights, drop path, position
    /// augmentation, `rand` and `randn` draw from.
    pub fn seed() -> i64 {
        random::seed() as i64
    }

    /// Restarts the run's generator from `seed`.
    #[script(name = "seed")]
    pub fn set_seed(seed: i64) {
        random::set_seed(seed as u64);
    }

    /// The state of the run's generator: a map of `seed` and `drawn`, the number of draws so far.
    pub fn rng_state() -> Map {
        let state = random::state();
        let count = |n: u64| Dynamic::from_int(n as i64);
        Map::from([("seed".into(), count(state.seed)), ("drawn".into(), count(state.drawn))])
    }

    /// Restores a state of the run's generator, so that it repeats its draws.
    ///
    /// Example: `let before = rng_state(); evaluate(model); rng_state(before);`
    #[script(name = "rng_state")]
    pub fn set_rng_state(state: RngState) {
        random::set_state(random::State { seed: state.seed as u64, drawn: state.drawn, ..random::state() });
    }

    /// Mean and sample standard deviation (n − 1) of numbers: a map of `mean` and `std` (0 for one number).
    pub fn mean_std(values: Vec<f64>) -> Result<Map> {
        moments(&values)
    }

    /// Prints an array of rows as a table with aligned columns; the first row is the heading.
    pub fn table(rows: Array) -> Result<()> {
        print_table(&rows)
    }

    /// Formats a number with `digits` digits after the decimal point.
    pub fn fixed(value: f64, digits: i64) -> String {
        format!("{:.*}", digits.clamp(0, 17) as usize, value)
    }

    /// Formats a number in scientific notation with `digits` digits after the decimal point, such as 1.25e-7.
    pub fn scientific(value: f64, digits: i64) -> String {
        format!("{:.*e}", digits.clamp(0, 17) as usize, value)
    }

    /// A number of bytes as people read it: "812 bytes", "3.4 kB", "147 GB" (1 kB is 1,000 bytes).
    pub fn format_bytes(bytes: f64) -> String {
        text::bytes(bytes)
    }

    /// Seconds as people read them: "4.2s", "3m05s", "2h10m". Negative ones count as 0, ones that are not finite are "?".
    pub fn format_duration(seconds: f64) -> String {
        match Duration::try_from_secs_f64(if seconds < 0.0 { 0.0 } else { seconds }) {
            Ok(duration) => clock(duration),
            Err(_) => "?".into(),
        }
    }

    /// Seconds since an unspecified moment, for measuring durations.
    pub fn seconds() -> f64 {
        use std::{sync::OnceLock, time::Instant};
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_secs_f64()
    }

    /// Reads a JSON file into maps, arrays, numbers and strings.
    pub fn read_json(path: &Path) -> Result<Dynamic> {
        let text = untrusted::read(path, MOST_JSON)?;
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        let value = serde_json::from_slice(text).with_context(|| format!("{} is not valid JSON", path.display()))?;
        Ok(from_json(&value))
    }
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

fn moments(x: &[f64]) -> Result<Map> {
    if x.is_empty() {
        bail!("mean_std: expected at least one number, found an empty array");
    }
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let squares: f64 = x.iter().map(|v| (v - mean).powi(2)).sum();
    let std = if x.len() > 1 { (squares / (x.len() - 1) as f64).sqrt() } else { 0.0 };
    Ok(Map::from([("mean".into(), mean.into()), ("std".into(), std.into())]))
}

fn print_table(rows: &Array) -> Result<()> {
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
