//! What two processes gain over one, how much of their exchange is hidden behind backward, and how fast an exchange is.
//!
//!     cargo xtask bench dist [--rounds 9] [--python PYTHON]
//!
//! Real processes of one thread each, over loopback with Gloo. README.md in this folder says what is timed and how.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/figures.rs"]
mod figures;

use clap::Parser;
use figures::{load, median};
use nepa::error::{Context as _, Result, bail};
use nepa::ffi::{ProcessGroup, ReduceOp, Store, StoreAddress};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

const PROCESSES: usize = 2;
/// Bytes of the tensors whose all-reduce is timed.
const SIZES: [usize; 6] = [4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// Rounds in which the all-reduces of each kind take turns.
const TURNS: usize = 3;

/// A model, how many images a process has, and how many steps a round takes.
struct Case {
    name: &'static str,
    set: [(&'static str, usize); 4],
    steps: usize,
}

const CASES: [Case; 2] = [
    Case {
        name: "quickstart's model",
        set: [("hidden_size", 64), ("layers", 4), ("heads", 4), ("batch", 64)],
        steps: 5,
    },
    Case { name: "a wide one", set: [("hidden_size", 768), ("layers", 2), ("heads", 12), ("batch", 32)], steps: 1 },
];

/// What two processes gain over one, and how fast an exchange is (benches/dist/README.md)
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench dist")]
struct Options {
    /// How often each way of training takes its turn
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// A Python with torch, to measure torch.distributed too
    #[arg(long, value_name = "PYTHON")]
    python: Option<PathBuf>,
    /// Set in our own processes: the rank, and the port of the rendezvous
    #[arg(long, hide = true, num_args = 2)]
    side: Option<Vec<u16>>,
}

fn main() -> ExitCode {
    arguments::main(|options: Options| {
        if let Some([rank, port]) = options.side.as_deref() {
            return gloo(usize::from(*rank), *port);
        }
        println!("{PROCESSES} processes, one thread each; load before: {}", load());
        for case in &CASES {
            steps(case, options.rounds as usize * case.steps)?;
        }
        all_reduces(options.python.as_deref())
    })
}

/// A script of this folder on two processes; what it printed.
fn nepa(script: &str, set: &[(&str, String)]) -> Result<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nepa"));
    let path = format!("{}/benches/dist/{script}", env!("CARGO_MANIFEST_DIR"));
    command.args(["run", &path, "--nproc", &PROCESSES.to_string(), "--threads", "1", "--device", "cpu"]);
    for (name, value) in set {
        command.args(["--set", &format!("{name}={value}")]);
    }
    answer(start(&mut command)?)
}

fn start(command: &mut Command) -> Result<Child> {
    let program = command.get_program().to_owned();
    command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {program:?}"))
}

fn answer(child: Child) -> Result<Value> {
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| serde_json::from_str(line).ok()) {
        Some(value) if output.status.success() => Ok(value),
        _ => bail!("a process of the benchmark failed ({}): {text}", output.status),
    }
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn steps(case: &Case, rounds: usize) -> Result<()> {
    let mut set: Vec<(&str, String)> = case.set.iter().map(|(name, n)| (*name, n.to_string())).collect();
    set.push(("rounds", rounds.to_string()));
    let found = nepa("step.rhai", &set)?;
    let times = |way: &str| list(&found["seconds"][way]);
    let (one, whole, alone) = (times("one"), times("one_whole"), times("alone"));
    let (overlapped, blocking) = (times("overlapped"), times("blocking"));
    let batch = case.set[3].1;
    let parameters = found["parameters"].as_f64().unwrap_or(f64::NAN);
    println!(
        "\n{}: {:.2} M parameters, {:.1} MB of gradients, median of {rounds} steps of each, in turns; load {}",
        case.name,
        parameters / 1e6,
        4.0 * parameters / 1e6,
        load()
    );
    let row = |what: &str, times: &[f64]| println!("  {what:<58}{:>9.1} ms", 1e3 * median(times));
    row(&format!("1 process, {batch} images"), &one);
    row(&format!("1 process, {} images", PROCESSES * batch), &whole);
    row(&format!("{PROCESSES} processes, {batch} images each, no exchange"), &alone);
    row("  exchange during backward (dist::gradients)", &overlapped);
    row("  exchange after backward (one all_reduce)", &blocking);
    // Steps of one round saw much the same machine.
    let ratio = |a: &[f64], b: &[f64]| median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>());
    let strong = ratio(&whole, &overlapped) / PROCESSES as f64;
    println!("  efficiency, {batch} images a process (weak scaling): {:.0} %", 100.0 * ratio(&one, &overlapped));
    println!("  efficiency, {} images in all (strong scaling): {:.0} %", PROCESSES * batch, 100.0 * strong);
    println!("  weak scaling without any exchange, what the machine allows: {:.0} %", 100.0 * ratio(&one, &alone));
    let cost = median(&blocking) - median(&alone);
    let hidden = (median(&blocking) - median(&overlapped)) / cost;
    println!("  fraction of the exchange hidden behind backward: {:.0} % of {:.1} ms", 100.0 * hidden, 1e3 * cost);
    Ok(())
}

fn repeats() -> Vec<usize> {
    SIZES.iter().map(|bytes| ((128 << 20) / bytes).clamp(5, 200)).collect()
}

fn all_reduces(python: Option<&Path>) -> Result<()> {
    let texts = |numbers: &[usize]| numbers.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let (sizes, counts) = (texts(&SIZES), texts(&repeats()));
    let set = [("sizes", format!("[{sizes}]")), ("repeats", format!("[{counts}]"))];
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/dist/peer.py");
    let mut kinds = vec![("dist::all_reduce", vec![Vec::new(); SIZES.len()]), ("Gloo", vec![Vec::new(); SIZES.len()])];
    if python.is_some() {
        kinds.push(("torch.distributed", vec![Vec::new(); SIZES.len()]));
    }
    for _ in 0..TURNS {
        for (name, times) in &mut kinds {
            let found = match (*name, python) {
                ("dist::all_reduce", _) => nepa("all_reduce.rhai", &set)?,
                ("torch.distributed", Some(python)) => pair(|rank, port| {
                    let mut command = Command::new(python);
                    let processes = PROCESSES.to_string();
                    command.args([peer, &rank.to_string(), &processes, &port.to_string(), &sizes, &counts]);
                    command
                })?,
                _ => {
                    let own = std::env::current_exe()?;
                    pair(|rank, port| {
                        let mut command = Command::new(&own);
                        command.args(["--side", &rank.to_string(), &port.to_string()]);
                        command
                    })?
                }
            };
            for (times, found) in times.iter_mut().zip(found["seconds"].as_array().into_iter().flatten()) {
                times.extend(list(found));
            }
        }
    }
    println!("\nall-reduce of float32, GB/s (size / median time of {TURNS} turns); load {}", load());
    print!("  {:>9}", "size");
    for (name, _) in &kinds {
        print!("{name:>20}");
    }
    println!();
    for (i, bytes) in SIZES.iter().enumerate() {
        print!("  {:>6} KB", bytes >> 10);
        for (_, times) in &kinds {
            print!("{:>20.3}", *bytes as f64 / median(&times[i]) / 1e9);
        }
        println!();
    }
    Ok(())
}

/// Two processes that rendezvous at a port; what rank 0 printed.
fn pair(command: impl Fn(usize, u16) -> Command) -> Result<Value> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let mut children = Vec::new();
    for rank in 0..PROCESSES {
        children.push(start(command(rank, port).env("OMP_NUM_THREADS", "1"))?);
    }
    let others = children.split_off(1);
    let found = answer(children.pop().expect("the first"));
    for mut other in others {
        other.wait()?;
    }
    found
}

/// Gloo's own: a tensor reduced in place, without what the library does around it.
fn gloo(rank: usize, port: u16) -> Result<()> {
    tch::set_num_threads(1);
    let listener = if rank == 0 { Some(TcpListener::bind(("127.0.0.1", port))?) } else { None };
    let at = StoreAddress { host: "127.0.0.1", port, listener };
    let timeout = Duration::from_secs(60);
    let store = Store::open(at, timeout, timeout)?;
    let group = ProcessGroup::open(&store, [rank, PROCESSES], "127.0.0.1", None, false, timeout)?;
    let mut seconds = Vec::new();
    for (bytes, count) in SIZES.iter().zip(repeats()) {
        let t = Tensor::f_ones([(bytes / 4) as i64], (Kind::Float, tch::Device::Cpu))?;
        let mut times = Vec::new();
        for k in 0..count + 2 {
            let started = Instant::now();
            group.all_reduce(&t, ReduceOp::Sum)?;
            if k >= 2 {
                times.push(started.elapsed().as_secs_f64());
            }
        }
        seconds.push(times);
    }
    // The others may still be reading what the store's process has sent.
    group.all_reduce(&Tensor::f_ones([1], (Kind::Float, tch::Device::Cpu))?, ReduceOp::Sum)?;
    if rank == 0 {
        println!("{}", json!({ "seconds": seconds }));
    }
    std::process::exit(0)
}
