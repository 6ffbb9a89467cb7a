//! Heartbeats. Each process tells the store twice a second that it is alive and what it is doing; rank 0 watches all of
//! them. The first failure, with its rank and its cause, is written to the store, where every process finds it.

use super::{GroupInfo, WRITING};
use crate::error::Result;
use crate::ffi::Store;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// How often a heartbeat is sent.
const INTERVAL: Duration = Duration::from_millis(500);
/// After others lost their connection, a process that has sent none for this long counts as lost.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a process may keep running after another one failed before it is ended: long enough for its connection to
/// break and its script to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How long the store may take to answer a process that asks why a collective failed.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the other ranks leave it to rank 0 to find out who failed: all of them asking at once would overload the
/// store.
const RANK0_FIRST: Duration = Duration::from_secs(6);
/// How long a process with a GPU may go without sending a heartbeat.
const GPU_SILENCE: Duration = Duration::from_secs(60);
const FAILURE_KEY: &str = "failure";

/// The first failure in the process group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankFailure {
    /// The process at fault; `None` if it is torchrun's agent.
    pub rank: Option<usize>,
    /// What happened to it.
    pub cause: String,
    /// Whether it exited, perhaps because a signal asked it to.
    pub exited: bool,
}

impl std::fmt::Display for RankFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rank {
            Some(rank) => write!(f, "rank {rank} {}", self.cause),
            None => f.write_str(&self.cause),
        }
    }
}

/// What a process tells the others about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Heartbeat {
    /// Heartbeats sent so far.
    number: u64,
    /// Collectives begun so far.
    collectives: u64,
    /// Whether it is inside the operation below, or after it.
    inside: bool,
    /// The last operation, a collective or a wait for rank 0; "" before the first.
    operation: String,
    /// What it does alone, for the others: a file that it writes; "" for nothing.
    task: String,
    /// Whether its script has ended well.
    ended: bool,
}

/// An operation that failed here, with its error and, if known, the process that did not join it.
struct FailedOperation {
    what: String,
    error: String,
    missing: Option<usize>,
    /// Whether it is known to be this process's fault.
    own: bool,
}

/// What the script's thread and the monitor's threads share.
#[derive(Default)]
struct Shared {
    own: Heartbeat,
    failure: Option<RankFailure>,
    /// The failure that a thread asks about.
    unexplained: Option<FailedOperation>,
}

/// What this process's threads other than the script's share with the monitor.
static SHARED: OnceLock<Arc<Mutex<Shared>>> = OnceLock::new();

/// Tells the other ranks of an error that ends this process: its own fault, or one of an exchange, whose cause is found
/// out. False if there are no others.
pub fn blame_own_rank(error: &str, of_exchange: bool) -> bool {
    let Some(shared) = SHARED.get() else { return false };
    let mut shared = lock(shared);
    if shared.own.ended {
        return false; // nobody listens any more
    }
    let what = if shared.own.inside { shared.own.operation.clone() } else { "an exchange through NCCL".into() };
    shared.unexplained = Some(FailedOperation { what, error: error.to_string(), missing: None, own: !of_exchange });
    true
}

/// This process's heartbeat, and what is known of failures.
pub struct Monitor {
    info: GroupInfo,
    shared: Arc<Mutex<Shared>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

fn key(rank: usize) -> String {
    format!("heartbeat/{rank}")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn heartbeat_of(store: &Store, rank: usize) -> Result<Option<Heartbeat>> {
    Ok(store.get(&key(rank))?.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// The failure recorded in the store.
fn published(store: &Store) -> Result<Option<RankFailure>> {
    Ok(store.get(FAILURE_KEY)?.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Writes a failure to the store, unless there is one already.
pub fn publish(store: &Store, failure: &RankFailure) -> Result<()> {
    store.set_if_absent(FAILURE_KEY, &json(failure))
}

impl Monitor {
    /// Starts sending heartbeats, over a separate connection to the store.
    pub fn start(store: Store, info: &GroupInfo) -> Result<Self> {
        let shared = SHARED.get_or_init(Arc::default).clone();
        let now = Instant::now();
        let peers = vec![Peer { heartbeat: None, last_heartbeat: now, last_progress: now }; info.size];
        let thread = HeartbeatThread { store, info: info.clone(), shared: shared.clone(), peers };
        std::thread::Builder::new().name("nepa-heartbeat".into()).spawn(move || thread.run())?;
        let (watched, own) = (shared.clone(), info.clone());
        std::thread::Builder::new().name("nepa-watchdog".into()).spawn(move || watchdog(&watched, &own))?;
        Ok(Self { info: info.clone(), shared })
    }

    /// The failure that this process knows of.
    pub fn failure(&self) -> Option<RankFailure> {
        lock(&self.shared).failure.clone()
    }

    /// Marks the start of the collective `what`: from now on this process waits for the others.
    pub fn enter_collective(&self, what: &str) {
        let own = &mut lock(&self.shared).own;
        own.collectives += 1;
        own.inside = true;
        own.operation = what.to_string();
    }

    /// Marks the start of a wait that is not a collective.
    pub fn enter_wait(&self, what: &str) {
        let own = &mut lock(&self.shared).own;
        own.inside = true;
        own.operation = what.to_string();
    }

    /// Marks the end of the operation.
    pub fn leave(&self) {
        lock(&self.shared).own.inside = false;
    }

    /// What this process does alone, for the others, from now on; "" for nothing. Returns what it did before.
    pub fn set_task(&self, what: &str) -> String {
        std::mem::replace(&mut lock(&self.shared).own.task, what.to_string())
    }

    /// Tells the others that the script has ended well.
    pub fn end(&self, store: &Store) -> Result<()> {
        let own = {
            let mut shared = lock(&self.shared);
            shared.own.ended = true;
            shared.own.clone()
        };
        store.set(&key(self.info.rank), &json(&own))
    }

    /// Finds out which process is to blame for an operation `what` that failed here with `error`. `missing` is the
    /// process that did not join it, if known.
    pub fn explain(&self, what: &str, error: &str, missing: Option<usize>) -> RankFailure {
        let operation = FailedOperation { what: what.to_string(), error: error.to_string(), missing, own: false };
        lock(&self.shared).unexplained = Some(operation);
        let started = Instant::now();
        while started.elapsed() < ANSWER {
            if let Some(failure) = self.failure() {
                return failure;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let lost = self.info.store_lost();
        lock(&self.shared).failure.get_or_insert(lost).clone()
    }
}

/// A store whose machine is cut off does not answer, and the heartbeat thread hangs in it. This thread notices that no
/// more heartbeats are sent from here.
fn watchdog(shared: &Mutex<Shared>, info: &GroupInfo) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        std::thread::sleep(2 * INTERVAL);
        let own = lock(shared).own.clone();
        if own.ended {
            return;
        }
        if own.number != last {
            (last, since) = (own.number, Instant::now());
        }
        if since.elapsed() > info.timeout.max(ANSWER) {
            let lost = info.store_lost();
            let failure = lock(shared).failure.get_or_insert(lost).clone();
            abort_process(info, shared, &failure);
        }
    }
}

/// Ends the process if the script does not: it may hang in a collective forever. What it is writing is finished first.
fn abort_process(info: &GroupInfo, shared: &Mutex<Shared>, failure: &RankFailure) -> ! {
    let started = Instant::now();
    let mut idle_since = started;
    while idle_since.elapsed() < GRACE && started.elapsed() < WRITING {
        std::thread::sleep(INTERVAL / 5);
        if !lock(shared).own.task.is_empty() {
            idle_since = Instant::now();
        }
    }
    (info.hooks.end)(super::failed(failure))
}

/// The number of a process's last heartbeat, if that says that it is at work on `what`.
pub fn at_work(store: &Store, rank: usize, what: &str) -> Option<u64> {
    heartbeat_of(store, rank).ok().flatten().filter(|h| h.task == what).map(|h| h.number)
}

impl GroupInfo {
    fn store_lost(&self) -> RankFailure {
        const WHY: &str = "killed, hung, or its machine or network failed";
        match self.agent_store {
            true => RankFailure {
                rank: None,
                cause: format!("torchrun's agent, which keeps the store, is lost: {WHY}"),
                exited: false,
            },
            false => RankFailure {
                rank: Some(0),
                cause: format!("is lost, and with it the store that all ranks share: {WHY}"),
                exited: true,
            },
        }
    }
}

/// What was last seen of a process.
#[derive(Clone)]
struct Peer {
    heartbeat: Option<Heartbeat>,
    /// When its heartbeat last changed.
    last_heartbeat: Instant,
    /// When it last entered or left a collective.
    last_progress: Instant,
}

impl Peer {
    fn ended(&self) -> bool {
        self.heartbeat.as_ref().is_some_and(|h| h.ended)
    }

    fn collectives(&self) -> u64 {
        self.heartbeat.as_ref().map_or(0, |h| h.collectives)
    }
}

/// The thread that sends heartbeats and looks for failures.
struct HeartbeatThread {
    store: Store,
    info: GroupInfo,
    shared: Arc<Mutex<Shared>>,
    /// All processes, this one among them.
    peers: Vec<Peer>,
}

impl HeartbeatThread {
    fn run(mut self) {
        let failure = loop {
            match self.tick() {
                Ok(Some(failure)) => break failure,
                Ok(None) => {}
                // The store going away is not a failure once the script has ended here.
                Err(_) if lock(&self.shared).own.ended => return,
                Err(_) => break self.info.store_lost(),
            }
            std::thread::sleep(INTERVAL);
        };
        let failure = lock(&self.shared).failure.get_or_insert(failure).clone();
        // So that rank 0 keeps the store until all have read the failure.
        let _ = self.store.set(&format!("read/{}", self.info.rank), b"");
        abort_process(&self.info, &self.shared, &failure)
    }

    fn send_heartbeat(&self) -> Result<()> {
        let own = {
            let own = &mut lock(&self.shared).own;
            own.number += 1;
            own.clone()
        };
        self.store.set(&key(self.info.rank), &json(&own))
    }

    /// Sends a heartbeat, and looks for a failure.
    fn tick(&mut self) -> Result<Option<RankFailure>> {
        self.send_heartbeat()?;
        let unexplained = lock(&self.shared).unexplained.take();
        if let Some(known) = published(&self.store)? {
            return Ok(Some(known));
        }
        if let Some(operation) = unexplained {
            let found = self.diagnose(&operation)?;
            publish(&self.store, &found)?;
            return Ok(Some(published(&self.store)?.unwrap_or(found)));
        }
        if self.info.rank == 0 {
            self.read_heartbeats()?;
            // On GPUs collectives are only queued, and a lost process does not soon show as a broken connection.
            let patience = if self.info.on_gpu { self.info.timeout.min(GPU_SILENCE) } else { self.info.timeout };
            if let Some(found) = self.find_silent(patience).or_else(|| self.find_straggler(self.info.timeout)) {
                publish(&self.store, &found)?;
            }
        }
        Ok(None)
    }

    fn read_heartbeats(&mut self) -> Result<()> {
        for (rank, peer) in self.peers.iter_mut().enumerate() {
            let heartbeat = heartbeat_of(&self.store, rank)?;
            let progress = |h: &Option<Heartbeat>| h.as_ref().map(|h| (h.collectives, h.inside));
            if progress(&heartbeat) != progress(&peer.heartbeat) {
                peer.last_progress = Instant::now();
            }
            if heartbeat != peer.heartbeat {
                (peer.heartbeat, peer.last_heartbeat) = (heartbeat, Instant::now());
            }
        }
        Ok(())
    }

    /// A process that has sent no heartbeat for longer than `limit`.
    fn find_silent(&self, limit: Duration) -> Option<RankFailure> {
        let rank = self.peers.iter().position(|p| !p.ended() && p.last_heartbeat.elapsed() > limit)?;
        let seconds = self.peers[rank].last_heartbeat.elapsed().as_secs();
        let cause = format!(
            "has sent no heartbeat for {seconds} s: killed, hung, out of memory, or its machine or network failed"
        );
        Some(RankFailure { rank: Some(rank), cause, exited: false })
    }

    /// A process that is alive, but has not reached the collective that another has waited in for longer than `limit`.
    fn find_straggler(&self, limit: Duration) -> Option<RankFailure> {
        let ahead = self.peers.iter().max_by_key(|p| p.collectives())?;
        // It need not be inside the collective: on a GPU a collective is only queued, and the code that wants its
        // result hangs.
        let heartbeat = ahead.heartbeat.as_ref().filter(|_| ahead.last_progress.elapsed() > limit)?;
        let rank = (0..self.peers.len()).min_by_key(|r| self.peers[*r].collectives())?;
        (self.peers[rank].collectives() < heartbeat.collectives).then(|| self.straggler(rank, &heartbeat.operation))
    }

    fn straggler(&self, rank: usize, what: &str) -> RankFailure {
        let heartbeat = self.peers[rank].heartbeat.clone().unwrap_or_default();
        let cause = if heartbeat.ended {
            format!("ended without joining {what}: its script took another path")
        } else {
            let position = match (heartbeat.inside, heartbeat.operation.as_str()) {
                (_, "") => "before its first collective".to_string(),
                (true, operation) => format!("in {operation} (collective {})", heartbeat.collectives),
                (false, operation) => format!("after {operation} (collective {})", heartbeat.collectives),
            };
            format!(
                "did not reach {what} within {} s: it is alive, {position}; its script took another path, or its data \
                 is very slow (--dist-timeout waits longer)",
                self.info.timeout.as_secs()
            )
        };
        RankFailure { rank: Some(rank), cause, exited: heartbeat.ended }
    }

    /// Which process is at fault for an operation that failed here.
    fn diagnose(&mut self, FailedOperation { what, error, missing, own }: &FailedOperation) -> Result<RankFailure> {
        if *own {
            return Ok(RankFailure { rank: Some(self.info.rank), cause: format!("failed: {error}"), exited: false });
        }
        let asked = Instant::now();
        while self.info.rank > 0 && asked.elapsed() < RANK0_FIRST {
            self.send_heartbeat()?;
            if let Some(known) = published(&self.store)? {
                return Ok(known);
            }
            std::thread::sleep(INTERVAL / 2);
        }
        let started = Instant::now();
        for peer in &mut self.peers {
            peer.last_heartbeat = started;
        }
        while started.elapsed() < SILENCE {
            // Others may be diagnosing too.
            self.send_heartbeat()?;
            self.read_heartbeats()?;
            if let Some(known) = published(&self.store)? {
                return Ok(known);
            }
            std::thread::sleep(INTERVAL / 2);
        }
        let own = self.info.rank;
        if let Some(found) = self.find_silent(SILENCE - INTERVAL) {
            return Ok(found);
        }
        if let Some(rank) = *missing {
            return Ok(self.straggler(rank, what));
        }
        let reached = lock(&self.shared).own.collectives;
        let last = (0..self.peers.len()).filter(|r| *r != own).min_by_key(|r| self.peers[*r].collectives());
        Ok(match last {
            Some(rank) if self.peers[rank].collectives() < reached => self.straggler(rank, what),
            _ => RankFailure { rank: Some(own), cause: format!("failed in {what}: {error}"), exited: false },
        })
    }
}

/// Keeps the store on rank 0 until the other processes have read the failure, for some seconds at most.
pub fn wait_until_failure_is_read(store: &Store, size: usize) {
    let started = Instant::now();
    let mut left: Vec<usize> = (1..size).collect();
    while !left.is_empty() && started.elapsed() < SILENCE {
        left.retain(|rank| {
            let read = store.get(&format!("read/{rank}")).ok().flatten().is_some();
            !read && !heartbeat_of(store, *rank).ok().flatten().is_some_and(|h| h.ended)
        });
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until all other processes have ended, as long as they send heartbeats, and for at most `limit`.
pub fn wait_for_peers_to_end(store: &Store, info: &GroupInfo, limit: Duration) {
    let started = Instant::now();
    let mut peers: Vec<(usize, Option<Heartbeat>, Instant)> =
        (1..info.size).map(|rank| (rank, None, Instant::now())).collect();
    while !peers.is_empty() && started.elapsed() < limit {
        peers.retain_mut(|(rank, last, since)| {
            let heartbeat = heartbeat_of(store, *rank).ok().flatten();
            if heartbeat != *last {
                (*last, *since) = (heartbeat, Instant::now());
            }
            !last.as_ref().is_some_and(|h| h.ended) && since.elapsed() < SILENCE
        });
        std::thread::sleep(Duration::from_millis(20));
    }
}
