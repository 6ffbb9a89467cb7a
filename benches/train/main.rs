//! Seconds that a pretraining step of the base model takes, part by part, beside the PyTorch reference.
//!
//!     cargo xtask bench train [--reference DIR --python PYTHON] [--batch 8] [--layers 12] [--rounds 5]
//!                             [--dtype float32,bfloat16] [--device cpu] [--threads N]
//!
//! Ours and the reference are separate processes that take one step each in turns, on the same threads, batch and
//! configuration; medians of the rounds count. Where other programs run too, the processor time tells more. README.md
//! in this folder says what is timed, and how to get the peer.

use nepa::bail_hint;
use nepa::device;
use nepa::error::{Context as _, Result, bail};
use nepa::ffi::{self, Autocast};
use nepa::loss::next_embedding;
use nepa::nn::{Architecture, CostOptions, VitNepa, VitNepaConfig, VitNepaOverrides};
use nepa::optim::{AdamwOptions, Ema, Optimizer, clip_grad_norm};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};

const PARTS: [&str; 4] = ["forward", "backward", "optimizer", "ema"];

struct Options {
    batch: i64,
    layers: i64,
    rounds: usize,
    dtypes: Vec<String>,
    device: String,
    threads: usize,
    reference: Option<String>,
    python: Option<String>,
    /// Set in our own child process: the one that takes the steps.
    side: bool,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let options = parse(&args)?;
    device::set(device::parse(&options.device)?, options.threads)?;
    if options.side {
        return side(&options);
    }
    for dtype in &options.dtypes {
        compare(dtype, &options)?;
    }
    Ok(())
}

fn parse(args: &[String]) -> Result<Options> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut o = Options {
        batch: 8,
        layers: 12,
        rounds: 5,
        dtypes: vec!["float32".into(), "bfloat16".into()],
        device: "cpu".into(),
        threads: cores,
        reference: None,
        python: None,
        side: false,
    };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let mut value = || args.next().with_context(|| format!("{name} needs a value"));
        match name.as_str() {
            "--batch" => o.batch = value()?.parse()?,
            "--layers" => o.layers = value()?.parse()?,
            "--rounds" => o.rounds = value()?.parse()?,
            "--dtype" => o.dtypes = value()?.split(',').map(String::from).collect(),
            "--device" => o.device = value()?.clone(),
            "--threads" => o.threads = value()?.parse()?,
            "--reference" => o.reference = Some(value()?.clone()),
            "--python" => o.python = Some(value()?.clone()),
            "--side" => o.side = true,
            other => bail_hint!("unknown option {other}"; "they are listed at the top of benches/train/main.rs"),
        }
    }
    if o.reference.is_some() != o.python.is_some() {
        bail_hint!("--reference and --python go together"; "see benches/train/README.md");
    }
    if let Some(other) = o.dtypes.iter().find(|d| !["float32", "bfloat16"].contains(&d.as_str())) {
        bail!("--dtype: expected float32 or bfloat16, found {other}");
    }
    Ok(o)
}

/// The published base model's pretraining.
fn architecture(o: &Options) -> Result<Architecture> {
    Architecture::new(&VitNepaConfig {
        num_hidden_layers: o.layers,
        qk_norm_affine: false,
        pos_embed_rescale: Some(2.0),
        ..Default::default()
    })
}

fn kind(dtype: &str) -> Kind {
    if dtype == "bfloat16" { Kind::BFloat16 } else { Kind::Float }
}

/// Our side: a step for every line of input, its times as a line of output.
fn side(o: &Options) -> Result<()> {
    let (kind, place) = (kind(&o.dtypes[0]), device::current());
    let model = VitNepa::new(&architecture(o)?, VitNepaOverrides::default())?;
    let mut adamw = Optimizer::new(&model, &AdamwOptions::default())?;
    let lrs = vec![1e-3; adamw.groups().len()];
    let mut ema = Ema::new(&model, 0.9999, Default::default())?;
    let images = Tensor::f_randn([o.batch, 3, 224, 224], (Kind::Float, place))?;
    for line in std::io::stdin().lines() {
        line?;
        let (mut times, cpu) = (Vec::new(), processor_time());
        let mut last = Instant::now();
        let mut lap = || {
            if let Device::Cuda(index) = place {
                Cuda::synchronize(index as i64);
            }
            times.push(last.elapsed().as_secs_f64());
            last = Instant::now();
        };
        let loss = {
            let _autocast = Autocast::enter(kind)?;
            let out = model.encode(&images, None, &Default::default())?;
            next_embedding(&out.last_hidden_state, &out.input_embedding, &Default::default())?
        };
        lap();
        ffi::backward(&loss)?;
        lap();
        let _ = clip_grad_norm(&model, 1.0)?;
        adamw.step(&lrs, None)?;
        lap();
        ema.update(None)?;
        lap();
        let cpu = processor_time() - cpu;
        println!("{}", json!({ "times": times, "cpu": cpu, "peak": peak_memory() }));
    }
    Ok(())
}

/// CPU time of the process in seconds, all threads together.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a plain system call into a struct of our own.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The peak memory of this process, in bytes; 0 if unknown.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// A process that takes steps when asked to.
struct Stepper {
    name: &'static str,
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    /// Of each step, its parts.
    times: Vec<Vec<f64>>,
    /// Of each step, the processor time.
    cpu: Vec<f64>,
    peak: u64,
}

impl Stepper {
    fn start(name: &'static str, command: &mut Command, dtype: &str, o: &Options) -> Result<Self> {
        command.args(["--batch", &o.batch.to_string(), "--layers", &o.layers.to_string(), "--dtype", dtype]);
        command.args(["--device", &o.device, "--threads", &o.threads.to_string()]);
        // What an idle side's threads do must not cost the other side.
        command.env("OMP_NUM_THREADS", o.threads.to_string()).env("GOMP_SPINCOUNT", "1000");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut stepper = Stepper { name, child, lines, times: Vec::new(), cpu: Vec::new(), peak: 0 };
        stepper.step()?; // the first step sets things up
        stepper.times.clear();
        stepper.cpu.clear();
        Ok(stepper)
    }

    fn step(&mut self) -> Result<()> {
        writeln!(self.child.stdin.as_mut().expect("piped"))?;
        let line = self.lines.next().with_context(|| format!("{} ended early", self.name))??;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))?;
        self.times.push(serde_json::from_value(answer["times"].clone())?);
        self.cpu.push(answer["cpu"].as_f64().unwrap_or(f64::NAN));
        self.peak = answer["peak"].as_u64().unwrap_or(0);
        Ok(())
    }

    /// Median seconds of a part, or of whole steps.
    fn median(&self, part: Option<usize>) -> f64 {
        let one = |times: &Vec<f64>| part.map_or_else(|| times.iter().sum(), |p| times[p]);
        median(self.times.iter().map(one).collect())
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(dtype: &str, o: &Options) -> Result<()> {
    let rate = device::matmul_rate(kind(dtype))?;
    let mut sides = vec![Stepper::start("ours", Command::new(std::env::current_exe()?).arg("--side"), dtype, o)?];
    if let (Some(reference), Some(python)) = (&o.reference, &o.python) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/train/peer.py");
        let mut command = Command::new(python);
        sides.push(Stepper::start("reference", command.args([script, "--reference", reference]), dtype, o)?);
    }
    for round in 0..o.rounds {
        // Whoever goes first this time goes last next time.
        let count = sides.len();
        for i in 0..count {
            sides[(i + round) % count].step()?;
        }
    }

    let cost = architecture(o)?.cost(&CostOptions { batch: o.batch, dtype: dtype.into(), ..Default::default() });
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "\n{dtype}: batch {}, {} blocks, {} on {} threads, median of {} steps each in turns, load {}",
        o.batch,
        o.layers,
        o.device,
        o.threads,
        o.rounds,
        load.split(' ').next().unwrap_or("?")
    );
    println!(
        "matrix products alone: {:.1} GFLOP/s; a step is {:.1} GFLOP",
        rate / 1e9,
        cost.flops_per_step as f64 / 1e9
    );
    print!("{:<11}", "s");
    for part in PARTS.iter().chain(&["step", "cpu"]) {
        print!("{part:>11}");
    }
    println!("{:>11}{:>9}{:>10}{:>10}", "images/s", "GFLOP/s", "of rate", "peak MB");
    for side in &sides {
        let step = side.median(None);
        print!("{:<11}", side.name);
        for part in 0..PARTS.len() {
            print!("{:>11.4}", side.median(Some(part)));
        }
        let speed = cost.flops_per_step as f64 / step;
        print!("{step:>11.4}{:>11.4}", median(side.cpu.clone()));
        print!("{:>11.2}{:>9.1}", o.batch as f64 / step, speed / 1e9);
        println!("{:>9.0}%{:>10.0}", 100.0 * speed / rate, side.peak as f64 / 1e6);
    }
    if let [ours, theirs] = &sides[..] {
        let wall = |side: &Stepper| side.times.iter().map(|t| t.iter().sum()).collect::<Vec<f64>>();
        for (what, ours, theirs) in
            [("time", wall(ours), wall(theirs)), ("processor time", ours.cpu.clone(), theirs.cpu.clone())]
        {
            // In one round both saw much the same machine.
            let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| b / a).collect();
            ratios.sort_by(f64::total_cmp);
            let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
            println!("{what} of the reference / ours: {:.3}, rounds from {least:.3} to {most:.3}", median(ratios));
        }
    }
    Ok(())
}
