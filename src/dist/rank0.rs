//! Work that one process does for others: rank 0 for all, or each machine's local rank 0 for that machine. The others
//! wait on the store. This is not a collective: a script may skip it on the other ranks.

use super::{World, failed, local_rank, rank, rendezvous, world};
use crate::error::{Result, one_line};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Whether this process is rank 0, the one that writes files and prints.
pub fn is_rank0() -> bool {
    rank() == 0
}

/// Gives rank 0's value to every rank; only rank 0 calls `own`.
pub fn broadcast_from_rank0(what: &str, own: impl FnOnce() -> Result<Value>) -> Result<Value> {
    let Some(world) = world() else { return own() };
    let key = world.next_key(what);
    if is_rank0() {
        let value = own()?;
        world.store.set(&key, value.to_string().as_bytes())?;
        return Ok(value);
    }
    Ok(serde_json::from_slice(&world.wait_for_key(&key, what, Some(0))?)?)
}

/// Runs `body` on rank 0 alone, for example to write a file; the others wait until it is done. Calls are counted by
/// `what`: the n-th wait is for the n-th call, so that a script may also make the call on rank 0 alone.
pub fn on_rank0(what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let Some(world) = world() else { return body() };
    let key = world.next_key(what);
    if is_rank0() {
        body()?;
        return world.store.set(&key, b"1");
    }
    world.wait_for_key(&key, what, Some(0)).map(drop)
}

/// Runs `body` on every rank, on each machine's local rank 0 before its other ranks: for work that is slow the first
/// time only, such as listing a large folder and caching the list.
pub fn local_rank0_first<R>(what: &str, body: impl FnOnce() -> Result<R>) -> Result<R> {
    let Some(world) = world() else { return body() };
    let key = world.next_key(&format!("{what} on {}", rendezvous::host_name()));
    if local_rank() > 0 {
        world.wait_for_key(&key, what, None)?;
        return body();
    }
    let result = body();
    // Also after a failure: the others will run into it themselves.
    world.store.set(&key, b"1")?;
    result
}

impl World {
    fn next_key(&self, what: &str) -> String {
        let mut waits = self.waits.borrow_mut();
        let n = waits.entry(what.to_string()).or_insert(0);
        *n += 1;
        format!("done/{what}/{n}")
    }

    /// The value of a key, once rank `from` (`None`: whichever rank it is) has set it.
    fn wait_for_key(&self, key: &str, what: &str, from: Option<usize>) -> Result<Vec<u8>> {
        self.monitor.enter_wait(what);
        let started = Instant::now();
        let value = loop {
            if let Some(failure) = self.monitor.failure() {
                break Err(failed(&failure));
            }
            match self.store.get(key) {
                Ok(Some(value)) => break Ok(value),
                Ok(None) if started.elapsed() < self.info.timeout => {}
                Ok(None) => break Err(failed(&self.monitor.explain(what, "timed out", from))),
                Err(e) => break Err(failed(&self.monitor.explain(what, &one_line(&e), None))),
            }
            // Short at first: most waits are.
            std::thread::sleep(started.elapsed().clamp(Duration::from_millis(1), Duration::from_millis(100)));
        };
        self.monitor.leave();
        value
    }
}
