//! Processes that train one model together, on c10d: how they are launched ([`ClusterEnvironment`]), find each other
//! ([`Rendezvous`]), exchange tensors (`collectives`), leave work to rank 0 (`rank0`), average gradients
//! ([`Gradients`]), and learn of each other's failures (`heartbeat`).
//!
//! Every process runs the same script. Rank 0 alone writes files and prints. A run of one process needs none of this:
//! there every function returns its argument, or does the work itself.

mod collectives;
mod environment;
mod gradients;
mod heartbeat;
mod rank0;
mod rendezvous;

pub use crate::ffi::ReduceOp;
pub use collectives::{
    PendingMax, all_gather, all_reduce, all_reduce_max, all_reduce_max_async, all_reduce_mean, barrier, broadcast,
    broadcast_coalesced, ensure_same_on_all_ranks,
};
pub use environment::{ClusterEnvironment, STORE_FD, slurm_cpus_per_task};
pub use gradients::Gradients;
pub use rank0::{broadcast_from_rank0, is_rank0, local_rank0_first, on_rank0};
pub use rendezvous::{RankFacts, Rendezvous, program_facts};

use crate::error::{Diagnostic, Result, catch_panic, one_line};
use crate::ffi::{ProcessGroup, Store};
use heartbeat::{Monitor, RankFailure};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tch::Device;

/// How this process was launched; any thread may ask.
static ENVIRONMENT: OnceLock<ClusterEnvironment> = OnceLock::new();

thread_local! {
    /// The connection to the other processes, of the thread that runs the script.
    static WORLD: Cell<Option<&'static World>> = const { Cell::new(None) };
}

struct World {
    store: Store,
    group: ProcessGroup,
    monitor: Monitor,
    info: GroupInfo,
    /// How many times this process has waited for rank 0, for each purpose.
    waits: RefCell<HashMap<String, usize>>,
}

/// What is known about the process group besides its connections.
#[derive(Debug, Clone)]
struct GroupInfo {
    /// This process.
    rank: usize,
    /// How many processes there are.
    size: usize,
    /// How long they wait for each other.
    timeout: Duration,
    /// Whether torchrun's agent keeps the store; otherwise rank 0 does.
    agent_store: bool,
    /// Whether collectives run on GPUs.
    on_gpu: bool,
    hooks: Hooks,
}

/// What the program does for this module, which knows neither its log nor its files.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Prints a line about the rendezvous on rank 0.
    pub note: fn(&str),
    /// Ends a process whose script hangs, from another thread: finishes writing what must not be lost, and tells the
    /// reason.
    pub end: fn(anyhow::Error) -> !,
}

/// How long a process that is to end because of another's failure may take to finish what it is writing: a large
/// checkpoint on a slow disk.
pub const WRITING: Duration = Duration::from_secs(600);

fn world() -> Option<&'static World> {
    WORLD.get()
}

/// This process's rank, from 0.
pub fn rank() -> usize {
    ENVIRONMENT.get().map_or(0, |e| e.rank)
}

/// How many processes train together; 1 without a launcher.
pub fn world_size() -> usize {
    ENVIRONMENT.get().map_or(1, |e| e.world_size)
}

/// This process's rank on its machine, from 0.
pub fn local_rank() -> usize {
    ENVIRONMENT.get().map_or(0, |e| e.local_rank)
}

/// How many of the processes run on this machine.
pub fn local_world_size() -> usize {
    ENVIRONMENT.get().map_or(1, |e| e.local_world_size)
}

/// What this process's lines on stderr begin with: "[rank 2] ", or nothing on rank 0.
pub fn rank_prefix() -> String {
    if is_rank0() { String::new() } else { format!("[rank {}] ", rank()) }
}

/// Another process's failure, as an error of this one.
fn failed(failure: &RankFailure) -> anyhow::Error {
    Diagnostic::new(failure.to_string()).into()
}

impl World {
    /// Runs a collective, in which every process takes part. Its error names the process at fault.
    fn collective<R>(&self, what: &str, run: impl FnOnce(&ProcessGroup) -> Result<R>) -> Result<R> {
        if let Some(failure) = self.monitor.failure() {
            return Err(failed(&failure));
        }
        self.monitor.enter_collective(what);
        let result = run(&self.group);
        self.monitor.leave();
        result.map_err(|e| self.explain(what, &e))
    }

    /// Why an operation failed here with `error`: the process at fault and its cause.
    fn explain(&self, what: &str, error: &anyhow::Error) -> anyhow::Error {
        failed(&self.monitor.explain(what, &one_line(error), None))
    }
}

/// Whether this process failed because another one exited, perhaps as a signal asked it to.
pub fn lost_exited_peer() -> bool {
    world().is_some_and(|world| world.monitor.failure().is_some_and(|failure| failure.exited))
}

/// Remembers a value for [`Rendezvous::remembered`] after torchrun has restarted the processes. Only rank 0 stores it,
/// and only under torchrun, whose agent keeps the store meanwhile.
pub fn remember(key: &str, value: &str) -> Result<()> {
    match world() {
        Some(world) if is_rank0() && world.info.agent_store => world.store.set_lasting(key, value.as_bytes()),
        _ => Ok(()),
    }
}

/// Tells the other processes that this one failed, and waits until they know. Returns whether this process should print
/// the error: not if rank 0 prints the same one, as with a typo in the recipe.
pub fn report_failure(message: &str) -> bool {
    let Some(world) = world() else { return true };
    // A failure of another process is printed by each process that ends because of it.
    let is_known = world.monitor.failure().is_some_and(|known| known.to_string() == message);
    if !is_known {
        rendezvous::tell_torchrun(message);
        let own = RankFailure { rank: Some(rank()), cause: format!("failed: {message}"), exited: false };
        let _ = heartbeat::publish(&world.store, &own);
        let _ = world.store.set(&format!("error/{}", rank()), message.as_bytes());
    }
    if is_rank0() && !world.info.agent_store {
        heartbeat::wait_until_failure_is_read(&world.store, world_size());
    }
    if is_rank0() || is_known {
        return true;
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        match world.store.get("error/0") {
            Ok(Some(printed)) => return printed != message.as_bytes(),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    true
}

/// Tells the other ranks of an error that ends this process, whichever thread it is in. Where one of them has caused it,
/// that is found out. False if there are no others; else the heartbeat will end this process, after its script had time.
pub fn blame_own_rank(error: &anyhow::Error) -> bool {
    // A script that is stuck here does nothing more for the others.
    if let Some(world) = world() {
        world.monitor.set_task("");
    }
    let text = one_line(error);
    // NCCL's thread passes on an error of the GPU as one of an exchange.
    let of_exchange = gradients::is_distributed(error) && !text.starts_with("CUDA error: ");
    heartbeat::blame_own_rank(&text, of_exchange)
}

/// Tells the other processes that the script has ended here. Where rank 0 keeps the store, it waits for the others to
/// end: after a signal (`interrupted`) only for seconds, since they may be waiting for it.
pub fn shutdown(interrupted: bool) {
    let Some(world) = world() else { return };
    if let Device::Cuda(index) = crate::device::current() {
        // Collectives that are still queued here are the other processes' too. On a GPU that is lost now there are none,
        // and the script has ended well.
        let _ = catch_panic(|| {
            tch::Cuda::synchronize(index as i64);
            Ok(())
        });
    }
    let _ = world.monitor.end(&world.store);
    if is_rank0() && !world.info.agent_store {
        let limit = if interrupted { Duration::from_secs(3) } else { Duration::MAX };
        heartbeat::wait_for_peers_to_end(&world.store, &world.info, limit);
    }
}
