//! Processes that do the same in turns: ours, the PyTorch reference, and the reference compiled.
//!
//! Each takes a turn for every line of input and answers with a line of JSON, so that a slower or busier machine slows
//! all of them.

use crate::figures::{load, median};
use crate::models::Model;
use crate::process::{peak_memory, processor_time};
use clap::{Args, ValueEnum};
use nepa::bail_hint;
use nepa::device;
use nepa::error::{Context as _, Result, bail, ensure, one_line};
use nepa::ffi;
use nepa::nn::{Module, VitNepaConfig, num_parameters};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tch::{Cuda, Device, Kind};

/// Turns of each side that do not count: the first ones set things up, or compile.
const WARM_UP: usize = 3;

/// Options of every benchmark that takes turns with the reference.
#[derive(Args)]
pub struct Setup {
    /// Which model
    #[arg(long, value_enum, default_value_t = Model::Base)]
    pub model: Model,
    /// Its number of blocks, if not its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub layers: Option<i64>,
    /// Images at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    pub batch: Option<i64>,
    /// How many turns of each side are timed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Types of matrix products, one after the other: float32, or bfloat16 autocast
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Dtype::Float32, Dtype::Bfloat16])]
    pub dtype: Vec<Dtype>,
    /// cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu", value_parser = known_device)]
    pub device: String,
    /// Threads of each side, one a core unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// A checkout of the PyTorch reference, to measure it too
    #[arg(long, value_name = "DIR", requires = "python")]
    pub reference: Option<PathBuf>,
    /// The Python that runs the reference
    #[arg(long, value_name = "PYTHON", requires = "reference")]
    pub python: Option<PathBuf>,
    /// Also measure the reference compiled by torch.compile
    #[arg(long, requires = "reference")]
    pub compiled: bool,
    /// Set in our own child process: the one that is measured
    #[arg(long, hide = true)]
    pub side: bool,
}

/// The type of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Dtype {
    Float32,
    Bfloat16,
}

impl Dtype {
    pub fn kind(self) -> Kind {
        if self == Dtype::Bfloat16 { Kind::BFloat16 } else { Kind::Float }
    }

    fn name(self) -> &'static str {
        if self == Dtype::Bfloat16 { "bfloat16" } else { "float32" }
    }
}

fn known_device(text: &str) -> Result<String, String> {
    device::parse(text).map(|_| text.to_string()).map_err(|error| one_line(&error))
}

impl Setup {
    /// Sets this process's device and threads.
    pub fn apply(&self) -> Result<()> {
        device::set(device::parse(&self.device)?, self.threads().into())
    }

    pub fn threads(&self) -> u16 {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.unwrap_or(cores as u16)
    }

    /// The model's configuration for pretraining, with `layers`.
    pub fn config(&self) -> VitNepaConfig {
        let config = self.model.config();
        VitNepaConfig { num_hidden_layers: self.layers.unwrap_or(config.num_hidden_layers), ..config }
    }
}

/// What one turn took.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// Seconds of each part.
    times: Vec<f64>,
    /// Processor time in seconds.
    cpu: f64,
    /// The most memory until now in bytes: of the process, or on a GPU of its tensors.
    peak: u64,
    /// Of the model.
    parameters: i64,
}

/// The parts of a turn, while it runs.
pub struct Laps {
    place: Device,
    last: Instant,
    times: Vec<f64>,
}

impl Laps {
    /// Ends a part.
    pub fn lap(&mut self) {
        if let Device::Cuda(index) = self.place {
            Cuda::synchronize(index as i64);
        }
        self.times.push(self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

/// Our side, in its own process: takes a turn for every line of input.
pub fn answer(model: &dyn Module, mut turn: impl FnMut(&mut Laps) -> Result<()>) -> Result<()> {
    let place = device::current();
    for line in std::io::stdin().lines() {
        line?;
        let cpu = processor_time();
        let mut laps = Laps { place, last: Instant::now(), times: Vec::new() };
        turn(&mut laps)?;
        let cpu = processor_time() - cpu;
        let peak = match place {
            Device::Cuda(index) => ffi::gpu_memory(index)?.allocated,
            _ => peak_memory(),
        };
        let answer = Answer { times: laps.times, cpu, peak, parameters: num_parameters(model) };
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

/// A process that takes turns.
struct Side {
    name: &'static str,
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    /// Of each turn that counts.
    answers: Vec<Answer>,
}

impl Side {
    fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut side = Side { name, child, lines, answers: Vec::new() };
        for _ in 0..WARM_UP {
            side.turn()?;
        }
        side.answers.clear();
        Ok(side)
    }

    fn turn(&mut self) -> Result<()> {
        // Where it has ended, reading says so.
        let _ = writeln!(self.child.stdin.as_mut().expect("piped"));
        let line = self.lines.next().with_context(|| format!("{} ended early", self.name))??;
        let answer: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.name))?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{}: {error}", self.name);
        }
        self.answers.push(serde_json::from_value(answer)?);
        Ok(())
    }

    /// Seconds of a part in each turn, or of whole turns.
    fn seconds(&self, part: Option<usize>) -> Vec<f64> {
        let one = |answer: &Answer| part.map_or_else(|| answer.times.iter().sum(), |p| answer.times[p]);
        self.answers.iter().map(one).collect()
    }

    fn processor_time(&self) -> Vec<f64> {
        self.answers.iter().map(|answer| answer.cpu).collect()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What all sides do, and what is printed of it.
pub struct Comparison<'a> {
    pub setup: &'a Setup,
    pub config: &'a VitNepaConfig,
    pub batch: i64,
    /// What a turn is: "step".
    pub turn: &'static str,
    /// The parts of a turn; none if it is timed as a whole.
    pub parts: &'static [&'static str],
    pub images_per_turn: i64,
    pub flops_per_image: i64,
    /// Further arguments, which our process and peer.py understand alike.
    pub arguments: Vec<String>,
}

impl Comparison<'_> {
    /// Measures with this type of matrix products, and prints a table.
    pub fn print(&self, dtype: Dtype) -> Result<()> {
        let rate = device::matmul_rate(dtype.kind())?;
        let mut sides = self.sides(dtype)?;
        let parameters: Vec<i64> = sides.iter().map(|side| side.answers[0].parameters).collect();
        ensure!(
            parameters.iter().all(|n| *n == parameters[0]),
            "the sides' models differ: ours has {} parameters, the reference's {}",
            parameters[0],
            parameters[1]
        );
        for round in 1..self.setup.rounds as usize {
            self.round(round, &mut sides)?;
        }
        let setup = self.setup;
        println!(
            "\n{}, {}: batch {}, {} blocks, {:.2} M parameters, {} on {} threads, medians of {} rounds, load {}",
            setup.model.name(),
            dtype.name(),
            self.batch,
            self.config.num_hidden_layers,
            parameters[0] as f64 / 1e6,
            setup.device,
            setup.threads(),
            setup.rounds,
            load()
        );
        let flops = (self.images_per_turn * self.flops_per_image) as f64;
        println!(
            "matrix products alone: {:.1} GFLOP/s; a {} is {} images, {:.4} GFLOP",
            rate / 1e9,
            self.turn,
            self.images_per_turn,
            flops / 1e9
        );
        self.print_table(&sides, flops, rate);
        let (ours, others) = sides.split_first().expect("ours at least");
        for other in others {
            ratio("time", other, &ours.seconds(None), &other.seconds(None));
            ratio("processor time", other, &ours.processor_time(), &other.processor_time());
        }
        Ok(())
    }

    /// The sides after the first round.
    fn sides(&self, dtype: Dtype) -> Result<Vec<Side>> {
        let mut own = Command::new(std::env::current_exe()?);
        let model = self.setup.model.name();
        own.args(["--side", "--model", &model, "--layers", &self.config.num_hidden_layers.to_string()]);
        let mut sides = vec![Side::start("ours", self.command(&mut own, dtype))?];
        if let (Some(reference), Some(python)) = (&self.setup.reference, &self.setup.python) {
            let module = reference.join("models/vit_nepa");
            if !module.is_dir() {
                bail_hint!(
                    "--reference {}: expected a checkout of the reference, but it has no folder models/vit_nepa",
                    reference.display();
                    "benches/train/README.md says where it is from"
                );
            }
            let peer = || -> Result<Command> {
                let mut command = Command::new(python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/common/peer.py"));
                command.arg("--reference").arg(reference).arg("--config").arg(serde_json::to_string(self.config)?);
                Ok(command)
            };
            sides.push(Side::start("reference", self.command(&mut peer()?, dtype))?);
            if self.setup.compiled {
                let mut command = peer()?;
                // What fails is answered; what the compiler says besides is long.
                command.arg("--compile").stderr(Stdio::null());
                match Side::start("compiled", self.command(&mut command, dtype)) {
                    Ok(side) => sides.push(side),
                    Err(error) => {
                        println!("\n{}: torch.compile does not work here and is left out: {error:#}", dtype.name())
                    }
                }
            }
        }
        self.round(0, &mut sides)?;
        Ok(sides)
    }

    fn command<'c>(&self, command: &'c mut Command, dtype: Dtype) -> &'c mut Command {
        let threads = self.setup.threads().to_string();
        command.args(["--batch", &self.batch.to_string(), "--dtype", dtype.name()]);
        command.args(["--device", &self.setup.device, "--threads", &threads]).args(&self.arguments);
        // What an idle side's threads do must not cost the other sides.
        command.env("OMP_NUM_THREADS", threads).env("GOMP_SPINCOUNT", "5000")
    }

    /// A turn of each; whoever goes first goes last in the next round.
    fn round(&self, round: usize, sides: &mut [Side]) -> Result<()> {
        let count = sides.len();
        (0..count).try_for_each(|i| sides[(i + round) % count].turn())
    }

    fn print_table(&self, sides: &[Side], flops: f64, rate: f64) {
        print!("{:<11}", "s");
        for part in self.parts.iter().chain(&[self.turn, "cpu"]) {
            print!("{part:>11}");
        }
        println!("{:>11}{:>9}{:>10}{:>10}", "images/s", "GFLOP/s", "of rate", "peak MB");
        for side in sides {
            let turn = median(&side.seconds(None));
            print!("{:<11}", side.name);
            for part in 0..self.parts.len() {
                print!("{:>11.4}", median(&side.seconds(Some(part))));
            }
            let (speed, peak) = (flops / turn, side.answers.last().map_or(0, |answer| answer.peak));
            print!("{turn:>11.4}{:>11.4}", median(&side.processor_time()));
            print!("{:>11.2}{:>9.1}", self.images_per_turn as f64 / turn, speed / 1e9);
            println!("{:>9.0}%{:>10.0}", 100.0 * speed / rate, peak as f64 / 1e6);
        }
    }
}

/// Prints how much longer the other side takes than ours: the median over rounds, and their spread. In one round all
/// saw much the same machine.
fn ratio(what: &str, other: &Side, ours: &[f64], theirs: &[f64]) {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    println!("{what}, {} / ours: {:.3}, rounds from {least:.3} to {most:.3}", other.name, median(&ratios));
}
