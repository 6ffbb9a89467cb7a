//! Work that one process does for others: rank 0 for all, or each machine's local rank 0 for that machine. The others
//! wait on the store. This is not a collective: a script may skip it on the other ranks.

use super::heartbeat::at_work;
use super::{World, failed, local_rank, rank, rendezvous, world};
use crate::error::{Diagnostic, Result, one_line};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How often a process that waits for another's work longer than usual looks whether that is still at it.
const STILL_AT_IT: Duration = Duration::from_secs(10);

/// Whether this process is rank 0, the one that writes files and prints.
pub fn is_rank0() -> bool {
    rank() == 0
}

/// Gives rank 0's value to every rank, or its error; only rank 0 calls `own`. Calls are counted by `what`: the n-th wait
/// is for the n-th call, so that a script may also make the call on rank 0 alone.
pub fn broadcast_from_rank0(what: &str, own: impl FnOnce() -> Result<Value>) -> Result<Value> {
    let Some(world) = world() else { return own() };
    let key = world.next_key(what);
    if is_rank0() {
        let result = world.at_work(what, own);
        let told = match &result {
            Ok(value) => Told::Value(value.clone()),
            Err(error) => Told::Error(Diagnostic::of(error)),
        };
        let sent = world.send(&key, &serde_json::to_vec(&told).expect("plain data"));
        return result.and_then(|value| sent.map(|()| value));
    }
    match serde_json::from_slice(&world.receive(&key, what)?)? {
        Told::Value(value) => Ok(value),
        Told::Error(diagnostic) => Err(diagnostic.into()),
    }
}

/// What rank 0 tells the others about what it has done. A script that catches an error of rank 0's must catch it on
/// every rank: those that went on would wait for rank 0 in vain.
#[derive(Serialize, Deserialize)]
enum Told {
    Value(Value),
    Error(Diagnostic),
}

/// Runs `body` on rank 0 alone, for example to write a file; the others wait until it is done, and get its error.
pub fn on_rank0(what: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    broadcast_from_rank0(what, || body().map(|()| Value::Null)).map(drop)
}

/// Runs `body` on every rank, on each machine's local rank 0 before its other ranks: for work that is slow the first
/// time only, such as listing a large folder and caching the list.
pub fn local_rank0_first<R>(what: &str, body: impl FnOnce() -> Result<R>) -> Result<R> {
    let Some(world) = world() else { return body() };
    let key = world.next_key(&format!("{what} on {}", rendezvous::host_name()));
    if local_rank() > 0 {
        // As ranks are usually numbered.
        let worker = rank().saturating_sub(local_rank());
        world.wait_for_key(&key, what, worker, None)?;
        return body();
    }
    let result = world.at_work(what, body);
    // Also after a failure: the others will run into it themselves.
    world.store.set(&key, b"1")?;
    result
}

/// The store closes the connection of who sends more than 8 MiB at once.
const PIECE: usize = 4 << 20;

impl World {
    /// Puts a message of rank 0's into the store, in pieces, and last of all how many there are.
    fn send(&self, key: &str, message: &[u8]) -> Result<()> {
        let pieces = message.chunks(PIECE);
        let count = pieces.len().to_string();
        for (i, piece) in pieces.enumerate() {
            self.store.set(&format!("{key}/{i}"), piece)?;
        }
        self.store.set(key, count.as_bytes())
    }

    /// Waits for such a message.
    fn receive(&self, key: &str, what: &str) -> Result<Vec<u8>> {
        let count = self.wait_for_key(key, what, 0, Some(0))?;
        let mut message = Vec::new();
        for i in 0..std::str::from_utf8(&count)?.parse()? {
            message.extend(self.wait_for_key(&format!("{key}/{i}"), what, 0, Some(0))?);
        }
        Ok(message)
    }

    fn next_key(&self, what: &str) -> String {
        let mut waits = self.waits.borrow_mut();
        let n = waits.entry(what.to_string()).or_insert(0);
        *n += 1;
        format!("done/{what}/{n}")
    }

    /// Does something that others wait for.
    fn at_work<R>(&self, what: &str, body: impl FnOnce() -> R) -> R {
        let before = self.monitor.set_task(what);
        let result = body();
        self.monitor.set_task(&before);
        result
    }

    /// The value of a key, once another rank has set it: `worker`, as far as is known. `missing` is the one to blame if
    /// it does not.
    fn wait_for_key(&self, key: &str, what: &str, worker: usize, missing: Option<usize>) -> Result<Vec<u8>> {
        self.monitor.enter_wait(what);
        let started = Instant::now();
        let mut patience = self.info.timeout;
        let mut heartbeat = None;
        let value = loop {
            // Before the failure of another process: what is there is there.
            let found = self.store.get(key);
            if let Ok(Some(value)) = found {
                break Ok(value);
            }
            if let Some(failure) = self.monitor.failure() {
                break Err(failed(&failure));
            }
            if let Err(e) = found {
                break Err(failed(&self.monitor.explain(what, &one_line(&e), None)));
            }
            if started.elapsed() > patience {
                // A large file takes long: as long as that rank lives and is at it, this is no hang.
                let latest = at_work(&self.store, worker, what);
                if latest.is_none() || latest == heartbeat {
                    // It may have come to its end just now.
                    if let Ok(Some(value)) = self.store.get(key) {
                        break Ok(value);
                    }
                    break Err(failed(&self.monitor.explain(what, "timed out", missing)));
                }
                (heartbeat, patience) = (latest, started.elapsed() + STILL_AT_IT);
            }
            // Short at first: most waits are.
            std::thread::sleep(started.elapsed().clamp(Duration::from_millis(1), Duration::from_millis(100)));
        };
        self.monitor.leave();
        value
    }
}
