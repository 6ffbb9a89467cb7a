//! Collectives: exchanges of tensors and numbers in which every process takes part.

use super::rendezvous::differing_facts;
use super::{World, world, world_size};
use crate::error::{Result, bail, ensure};
use crate::ffi::{ReduceOp, Work};
use crate::tensor::{detached_copy, dtype_name};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The tensor, ready for a collective: contiguous, detached, on the CPU or on the run's GPU.
fn prepared(t: &Tensor, what: &str) -> Result<Tensor> {
    let t = t.f_detach()?.f_contiguous()?;
    if let Device::Cuda(_) = t.device() {
        let own = crate::device::current();
        ensure!(t.device() == own, "{what}: expected a tensor on the CPU or on {own:?}, found one on {:?}", t.device());
    }
    Ok(t)
}

/// Reduces the tensors of all processes into a new tensor; with one process, returns the tensor itself.
pub fn all_reduce(t: &Tensor, op: ReduceOp) -> Result<Tensor> {
    let Some(world) = world() else { return Ok(t.f_detach()?) };
    let out = detached_copy(&prepared(t, "all_reduce")?)?;
    world.collective("all_reduce", |group| group.all_reduce(&out, op))?;
    Ok(out)
}

/// The mean of the tensors of all processes.
pub fn all_reduce_mean(t: &Tensor) -> Result<Tensor> {
    ensure!(
        t.is_floating_point(),
        "a mean over processes needs a floating-point tensor, found {}",
        dtype_name(t.kind())
    );
    let Some(world) = world() else { return Ok(t.f_detach()?) };
    Ok(all_reduce(t, ReduceOp::Sum)?.f_div_scalar(world.info.size as f64)?)
}

/// The tensor of rank `from`, on every rank.
pub fn broadcast(t: &Tensor, from: usize) -> Result<Tensor> {
    ensure!(from < world_size(), "broadcast: expected a rank from 0 to {}, found {from}", world_size() - 1);
    let Some(world) = world() else { return Ok(t.f_detach()?) };
    let out = detached_copy(&prepared(t, "broadcast")?)?;
    world.collective("broadcast", |group| group.broadcast(&out, from))?;
    Ok(out)
}

/// Overwrites the tensors with those of rank 0, in few messages.
pub fn broadcast_coalesced(tensors: &[Tensor], what: &str) -> Result<()> {
    let Some(world) = world() else { return Ok(()) };
    // c10d packs tensors of one device and dtype into a message.
    let mut kinds: Vec<(Device, Kind)> = Vec::new();
    for kind in tensors.iter().map(|t| (t.device(), t.kind())) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for kind in kinds {
        let alike = tensors.iter().filter(|t| (t.device(), t.kind()) == kind);
        let alike: Vec<Tensor> = alike.map(|t| Ok(t.f_detach()?)).collect::<Result<_>>()?;
        world.collective(what, |group| group.broadcast_coalesced(&alike, 0))?;
    }
    Ok(())
}

/// The tensors of all processes, by rank. They may differ in their first dimension.
pub fn all_gather(t: &Tensor) -> Result<Vec<Tensor>> {
    let Some(world) = world() else { return Ok(vec![t.f_detach()?]) };
    let t = prepared(t, "all_gather")?;
    world.gather("all_gather", &t)
}

impl World {
    fn gather(&self, what: &str, t: &Tensor) -> Result<Vec<Tensor>> {
        if t.dim() == 0 {
            return self.collective(what, |group| group.all_gather(t));
        }
        let rows = Tensor::f_from_slice(&[t.size()[0]])?;
        let rows = self.collective(what, |group| group.all_gather(&rows))?;
        let rows: Vec<i64> = rows.iter().map(|n| Ok(n.f_int64_value(&[0])?)).collect::<Result<_>>()?;
        let mut padded = t.size();
        padded[0] = rows.iter().copied().max().unwrap_or(0);
        let own = Tensor::f_zeros(&padded, (t.kind(), t.device()))?;
        own.f_narrow(0, 0, t.size()[0])?.f_copy_(t)?;
        let all = self.collective(what, |group| group.all_gather(&own))?;
        all.iter().zip(rows).map(|(t, n)| Ok(t.f_narrow(0, 0, n)?)).collect()
    }
}

/// Waits until every process has called this.
pub fn barrier() -> Result<()> {
    let Some(world) = world() else { return Ok(()) };
    let nothing = Tensor::f_zeros([1], tch::kind::INT64_CPU)?;
    world.collective("barrier", |group| group.all_reduce(&nothing, ReduceOp::Sum))
}

/// The maximum of each of these numbers over all processes.
pub fn all_reduce_max<const N: usize>(own: [i64; N], what: &str) -> Result<[i64; N]> {
    all_reduce_max_async(own, what)?.wait(what)
}

/// Starts an [`all_reduce_max`] that runs in the background.
pub fn all_reduce_max_async<const N: usize>(own: [i64; N], what: &str) -> Result<PendingMax<N>> {
    let begin = |world: &World| {
        let all = Tensor::f_from_slice(&own)?;
        world.collective(what, |group| group.all_reduce_max_async(all))
    };
    Ok(PendingMax { own, work: world().map(begin).transpose()? })
}

/// A pending [`all_reduce_max_async`].
pub struct PendingMax<const N: usize> {
    own: [i64; N],
    work: Option<Work>,
}

impl<const N: usize> PendingMax<N> {
    /// Waits until all processes have given their numbers, and returns the maxima.
    pub fn wait(self, what: &str) -> Result<[i64; N]> {
        let (Some(world), Some(work)) = (world(), self.work) else { return Ok(self.own) };
        world.monitor.enter_wait(what);
        let all = work.wait();
        world.monitor.leave();
        let all = all.map_err(|e| world.explain(what, &e))?;
        Ok(Vec::<i64>::try_from(&all)?.try_into().expect("as many as were given"))
    }
}

/// Checks that all processes have the same `facts`, a map; the error lists those that differ. `what` names them, in the
/// plural.
pub fn ensure_same_on_all_ranks(what: &str, facts: &Value) -> Result<()> {
    let Some(world) = world() else { return Ok(()) };
    let own = Tensor::f_from_slice(facts.to_string().as_bytes())?;
    let texts = world.gather(&format!("the comparison of {what}"), &own)?;
    let read = |text: &Tensor| -> Result<Value> { Ok(serde_json::from_slice(&Vec::<u8>::try_from(text)?)?) };
    let facts = texts.iter().map(read).collect::<Result<Vec<_>>>()?;
    for (rank, theirs) in facts.iter().enumerate().skip(1) {
        let found = differing_facts(&facts[0], theirs);
        if !found.is_empty() {
            bail!("{what} differ between ranks: on rank {rank}, {}", found.join("; "));
        }
    }
    Ok(())
}
