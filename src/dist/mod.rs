//! Processes that train one model together, on c10d: how they are started ([`launch`]), meet ([`meeting`]), exchange
//! tensors (this file), average gradients ([`Gradients`]), and learn of each other's failures ([`monitor`]).
//!
//! Every process runs the same script. Rank 0 alone writes files and talks. A run that was started alone has none of
//! this: every function here then is a matter of returning its argument.

mod environment;
mod gradients;
mod heartbeat;
mod rendezvous;

pub use crate::ffi::ReduceOp;
pub use environment::{ClusterEnvironment, STORE_FD, slurm_cpus_per_task};
pub use gradients::Gradients;
pub use rendezvous::{RankFacts, Rendezvous, program_facts, remember_run};

use crate::error::{Diagnostic, Result, bail, ensure, one_line};
use crate::ffi::{self, ProcessGroup, Store};
use heartbeat::{Failure, GroupInfo, Monitor};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Rank and number of processes, and the same on this machine; any thread may ask.
static RANKS: OnceLock<[usize; 4]> = OnceLock::new();

/// Whether the processes compute on GPUs; the monitor asks from its own thread.
static ON_GPU: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The connection to the others, of the thread that runs the script.
    static WORLD: Cell<Option<&'static World>> = const { Cell::new(None) };
}

struct World {
    store: Store,
    group: ProcessGroup,
    monitor: Monitor,
    info: GroupInfo,
    /// How often rank 0 was waited for, by what for.
    announced: RefCell<HashMap<String, usize>>,
}

fn place() -> [usize; 4] {
    RANKS.get().copied().unwrap_or([0, 1, 0, 1])
}

fn world() -> Option<&'static World> {
    WORLD.get()
}

/// This process's number among all, from 0.
pub fn rank() -> usize {
    place()[0]
}

/// How many processes train together; 1 where the run was started alone.
pub fn world_size() -> usize {
    place()[1]
}

/// This process's number among those of its machine.
pub fn local_rank() -> usize {
    place()[2]
}

/// How many of the processes run on this machine.
pub fn local_world_size() -> usize {
    place()[3]
}

/// Whether this process writes files and talks: rank 0 does.
pub fn is_rank0() -> bool {
    rank() == 0
}

/// What lines of this process on stderr begin with: "[rank 2] ", or nothing for rank 0.
pub fn rank_prefix() -> String {
    if is_rank0() { String::new() } else { format!("[rank {}] ", rank()) }
}

/// A failure of another process, as an error of this one.
fn failed(failure: &Failure) -> anyhow::Error {
    Diagnostic::new(failure.to_string()).into()
}

impl World {
    /// An exchange in which all take part.
    fn exchange<R>(&self, what: &str, run: impl FnOnce(&ProcessGroup) -> Result<R>) -> Result<R> {
        if let Some(failure) = self.monitor.failure() {
            return Err(failed(&failure));
        }
        self.monitor.enter(what);
        let result = run(&self.group);
        self.monitor.leave();
        result.map_err(|e| failed(&self.monitor.explain(what, &one_line(&e), None)))
    }

    /// The tensors of all processes, which may differ in their first dimension.
    fn gather(&self, what: &str, t: &Tensor) -> Result<Vec<Tensor>> {
        if t.dim() == 0 {
            return self.exchange(what, |group| group.all_gather(t));
        }
        let rows = Tensor::f_from_slice(&[t.size()[0]])?;
        let rows = self.exchange(what, |group| group.all_gather(&rows))?;
        let rows: Vec<i64> = rows.iter().map(|n| Ok(n.f_int64_value(&[0])?)).collect::<Result<_>>()?;
        let mut padded = t.size();
        padded[0] = rows.iter().copied().max().unwrap_or(0);
        let own = Tensor::f_zeros(&padded, (t.kind(), t.device()))?;
        own.f_narrow(0, 0, t.size()[0])?.f_copy_(t)?;
        let all = self.exchange(what, |group| group.all_gather(&own))?;
        all.iter().zip(rows).map(|(t, n)| Ok(t.f_narrow(0, 0, n)?)).collect()
    }

    /// The value of a key, once process `from` (`None`: one that is not known) has set it.
    fn wait_for(&self, key: &str, what: &str, from: Option<usize>) -> Result<Vec<u8>> {
        self.monitor.enter_wait(what);
        let started = Instant::now();
        let value = loop {
            if let Some(failure) = self.monitor.failure() {
                break Err(failed(&failure));
            }
            match self.store.get(key) {
                Ok(Some(value)) => break Ok(value),
                Ok(None) if started.elapsed() < self.info.timeout => {}
                Ok(None) => break Err(failed(&self.monitor.explain(what, "it did not come", from))),
                Err(e) => break Err(failed(&self.monitor.explain(what, &one_line(&e), None))),
            }
            // Short at first: most waits are.
            std::thread::sleep(started.elapsed().clamp(Duration::from_millis(1), Duration::from_millis(100)));
        };
        self.monitor.leave();
        value
    }
}

/// Tensors of all processes are exchanged where they are; on a CPU, and on CUDA where that is the run's device.
fn exchangeable(t: &Tensor, what: &str) -> Result<Tensor> {
    let t = t.f_detach()?.f_contiguous()?;
    if let Device::Cuda(_) = t.device() {
        let own = crate::device::current();
        ensure!(t.device() == own, "{what}: expected a tensor on the CPU or on {own:?}, found one on {:?}", t.device());
    }
    Ok(t)
}

/// The tensors of all processes put together, as a new one; alone, the tensor itself.
pub fn all_reduce(t: &Tensor, op: ReduceOp) -> Result<Tensor> {
    let Some(world) = world() else { return Ok(t.f_detach()?) };
    let out = crate::tensor::detached_copy(&exchangeable(t, "all_reduce")?)?;
    world.exchange("all_reduce", |group| group.all_reduce(&out, op))?;
    Ok(out)
}

/// The mean of the tensors of all processes.
pub fn all_reduce_mean(t: &Tensor) -> Result<Tensor> {
    ensure!(t.is_floating_point(), "a mean over processes needs a tensor of floats, found {:?}", t.kind());
    let Some(world) = world() else { return Ok(t.f_detach()?) };
    Ok(all_reduce(t, ReduceOp::Sum)?.f_div_scalar(world.info.size as f64)?)
}

/// The tensor of process `from`, in all.
pub fn broadcast(t: &Tensor, from: usize) -> Result<Tensor> {
    ensure!(from < world_size(), "broadcast: expected a rank from 0 to {}, found {from}", world_size() - 1);
    let Some(world) = world() else { return Ok(t.f_detach()?) };
    let out = crate::tensor::detached_copy(&exchangeable(t, "broadcast")?)?;
    world.exchange("broadcast", |group| group.broadcast(&out, from))?;
    Ok(out)
}

/// Overwrites the tensors with those of rank 0.
pub fn broadcast_coalesced(tensors: &[Tensor], what: &str) -> Result<()> {
    let Some(world) = world() else { return Ok(()) };
    // One message a device and dtype is put together from them.
    let mut kinds: Vec<(Device, Kind)> = Vec::new();
    for kind in tensors.iter().map(|t| (t.device(), t.kind())) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for kind in kinds {
        let same = tensors.iter().filter(|t| (t.device(), t.kind()) == kind);
        let same: Vec<Tensor> = same.map(|t| Ok(t.f_detach()?)).collect::<Result<_>>()?;
        world.exchange(what, |group| group.broadcast_coalesced(&same, 0))?;
    }
    Ok(())
}

/// The tensors of all processes, by rank. They may differ in their first dimension.
pub fn all_gather(t: &Tensor) -> Result<Vec<Tensor>> {
    let Some(world) = world() else { return Ok(vec![t.f_detach()?]) };
    let t = exchangeable(t, "all_gather")?;
    world.gather("all_gather", &t)
}

/// Waits until all processes are here.
pub fn barrier() -> Result<()> {
    let Some(world) = world() else { return Ok(()) };
    let nothing = Tensor::f_zeros([1], tch::kind::INT64_CPU)?;
    world.exchange("barrier", |group| group.all_reduce(&nothing, ReduceOp::Sum))
}

/// The greatest of each of these numbers over all processes.
pub fn all_reduce_max<const N: usize>(own: [i64; N], what: &str) -> Result<[i64; N]> {
    all_reduce_max_async(own, what)?.wait(what)
}

/// The same as an exchange that runs beside what follows.
pub fn all_reduce_max_async<const N: usize>(own: [i64; N], what: &str) -> Result<PendingMax<N>> {
    let begin = |world: &World| {
        let all = Tensor::f_from_slice(&own)?;
        world.exchange(what, |group| group.all_reduce_max_async(all))
    };
    Ok(PendingMax { own, exchange: world().map(begin).transpose()? })
}

/// The greatest of some numbers over all processes, soon.
pub struct PendingMax<const N: usize> {
    own: [i64; N],
    exchange: Option<ffi::Work>,
}

impl<const N: usize> PendingMax<N> {
    /// The numbers, once all processes have given theirs.
    pub fn wait(self, what: &str) -> Result<[i64; N]> {
        let (Some(world), Some(exchange)) = (world(), self.exchange) else { return Ok(self.own) };
        world.monitor.enter_wait(what);
        let all = exchange.wait();
        world.monitor.leave();
        let all = all.map_err(|e| failed(&world.monitor.explain(what, &one_line(&e), None)))?;
        Ok(Vec::<i64>::try_from(&all)?.try_into().expect("as many as were given"))
    }
}

/// What rank 0 has; `own` is asked for there only.
pub fn broadcast_from_rank0(what: &str, own: impl FnOnce() -> Result<Value>) -> Result<Value> {
    let Some(world) = world() else { return own() };
    let key = world.next_key(what);
    if is_rank0() {
        let value = own()?;
        world.store.set(&key, value.to_string().as_bytes())?;
        return Ok(value);
    }
    Ok(serde_json::from_slice(&world.wait_for(&key, what, Some(0))?)?)
}

/// Does what only rank 0 does, such as writing a file; the others wait for it. What is done for `what` is counted: the
/// n-th wait is for the n-th time, so that a script may well call it in rank 0 alone.
pub fn on_rank0(what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(world) = world() else { return body() };
    let key = world.next_key(what);
    if is_rank0() {
        body()?;
        return world.store.set(&key, b"1");
    }
    world.wait_for(&key, what, Some(0)).map(drop)
}

/// Does what takes long but is quick where another process of the same machine has done it, as listing a large folder,
/// whose listing is kept: first the first process of the machine, then the others.
pub fn local_rank0_first<R>(what: &str, body: impl FnOnce() -> Result<R>) -> Result<R> {
    let Some(world) = world() else { return body() };
    let key = world.next_key(&format!("{what} on {}", rendezvous::host_name()));
    if local_rank() > 0 {
        world.wait_for(&key, what, None)?;
        return body();
    }
    let result = body();
    // Also where it failed: the others will see for themselves.
    world.store.set(&key, b"1")?;
    result
}

impl World {
    fn next_key(&self, what: &str) -> String {
        let mut announced = self.announced.borrow_mut();
        let n = announced.entry(what.to_string()).or_insert(0);
        *n += 1;
        format!("done/{what}/{n}")
    }
}

/// Checks that all processes have the same facts for `what`; the error says which differ.
pub fn ensure_same_on_all_ranks(what: &str, facts: &Value) -> Result<()> {
    let Some(world) = world() else { return Ok(()) };
    let own = Tensor::f_from_slice(facts.to_string().as_bytes())?;
    let texts = world.gather(&format!("the agreement on {what}"), &own)?;
    let read = |text: &Tensor| -> Result<Value> { Ok(serde_json::from_slice(&Vec::<u8>::try_from(text)?)?) };
    let facts = texts.iter().map(read).collect::<Result<Vec<_>>>()?;
    for (rank, theirs) in facts.iter().enumerate().skip(1) {
        let found = rendezvous::contradictions(&facts[0], theirs);
        if !found.is_empty() {
            bail!("{what} are not the same in all processes: on rank {rank}, {}", found.join("; "));
        }
    }
    Ok(())
}

/// Whether an exchange failed because another process has ended, perhaps as it was asked to.
pub fn lost_exited_peer() -> bool {
    world().is_some_and(|world| world.monitor.failure().is_some_and(|failure| failure.ended))
}

fn on_gpu() -> bool {
    ON_GPU.load(Ordering::Relaxed)
}

/// Tells the others that this process failed, and waits until they know. Whether there is something to say about it:
/// not so where rank 0 says the very same, as with a typo that all of them meet.
pub fn report_failure(message: &str) -> bool {
    let Some(world) = world() else { return true };
    // What another process has met, each that ends because of it tells.
    let is_known = world.monitor.failure().is_some_and(|known| known.to_string() == message);
    if !is_known {
        rendezvous::tell_agent(message);
        let own = Failure { rank: Some(rank()), cause: format!("failed: {message}"), ended: false };
        let _ = heartbeat::claim(&world.store, &own);
        let _ = world.store.set(&format!("error/{}", rank()), message.as_bytes());
    }
    if is_rank0() && !world.info.agent_store {
        heartbeat::wait_for_readers(&world.store, world_size());
    }
    if is_rank0() || is_known {
        return true;
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        match world.store.get("error/0") {
            Ok(Some(said)) => return said != message.as_bytes(),
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(_) => break,
        }
    }
    true
}

/// Tells the others that the script has ended here, by itself or because a signal asked for it. Rank 0 waits for
/// theirs, since it may keep the store: for one that a signal has `interrupted` not long, since that may wait for us.
pub fn shutdown(interrupted: bool) {
    let Some(world) = world() else { return };
    if let Device::Cuda(index) = crate::device::current() {
        // What is queued is a part of the others' exchanges.
        tch::Cuda::synchronize(index as i64);
    }
    let _ = world.monitor.end(&world.store);
    if is_rank0() && !world.info.agent_store {
        let limit = if interrupted { Duration::from_secs(3) } else { Duration::MAX };
        heartbeat::wait_for_ends(&world.store, &world.info, limit);
    }
}
