//! Signs of life. Each process tells the store twice a second that it lives and where it stands; rank 0 watches the
//! others. The first failure, with its process and its cause, is written down in the store, where all find it.

use crate::error::Result;
use crate::ffi::Store;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often a sign of life is given.
const BEAT: Duration = Duration::from_millis(500);
/// A process that gives none for so long, where others lost their connection, is gone.
const SILENCE: Duration = Duration::from_secs(3);
/// How long a process may go on after a failure elsewhere before it is ended from outside: long enough for a connection
/// to break and the script to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How long the store may take to answer one who asks why an exchange failed.
const ANSWER: Duration = Duration::from_secs(15);
/// How long the others leave it to rank 0 to find out who failed: all of them at once would drown the store.
const MAIN_FIRST: Duration = Duration::from_secs(6);
/// How long a process with a GPU may give no sign of life.
const GPU_SILENCE: Duration = Duration::from_secs(60);
const FAILURE: &str = "failure";

/// The first thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The process; `None` where it is none of them.
    pub rank: Option<usize>,
    /// What happened to it.
    pub cause: String,
    /// Whether it may have ended as it was asked to.
    pub ended: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rank {
            Some(rank) => write!(f, "rank {rank} {}", self.cause),
            None => f.write_str(&self.cause),
        }
    }
}

/// A sign of life: where a process stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Heartbeat {
    /// Signs given so far.
    beat: u64,
    /// Exchanges begun so far.
    exchanges: u64,
    /// Whether the last of them is under way.
    waits: bool,
    /// What the last one is for.
    doing: String,
    /// Whether the script has ended well.
    ended: bool,
}

/// What an exchange was for, what was said of it, and which process did not come, where that is known.
struct Failed {
    what: String,
    said: String,
    missing: Option<usize>,
}

#[derive(Default)]
struct State {
    sign: Heartbeat,
    failure: Option<Failure>,
    /// An exchange that failed here.
    failed: Option<Failed>,
}

/// What the processes have in common.
#[derive(Debug, Clone)]
pub struct GroupInfo {
    /// This process.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// How long they wait for each other.
    pub timeout: Duration,
    /// Whether torchrun's agent keeps the store, not rank 0.
    pub agent_store: bool,
}

/// This process's signs, and what is known of the others'.
pub struct Monitor {
    info: GroupInfo,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

fn key(rank: usize) -> String {
    format!("alive/{rank}")
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn sign_of(store: &Store, rank: usize) -> Result<Option<Heartbeat>> {
    Ok(store.get(&key(rank))?.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// The failure that the store knows of.
fn failure(store: &Store) -> Result<Option<Failure>> {
    Ok(store.get(FAILURE)?.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Writes a failure down, unless there was one before.
pub fn claim(store: &Store, failure: &Failure) -> Result<()> {
    store.claim(FAILURE, &json(failure))
}

impl Monitor {
    /// Starts to give signs of life, over a connection to the store of its own.
    pub fn start(store: Store, info: &GroupInfo) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let seen = vec![Seen { sign: None, beat: Instant::now(), exchange: Instant::now() }; info.size];
        let watch = HeartbeatThread { store, info: info.clone(), state: state.clone(), seen };
        std::thread::Builder::new().name("nepa-monitor".into()).spawn(move || watch.run())?;
        let (watched, own) = (state.clone(), info.clone());
        std::thread::Builder::new().name("nepa-watchdog".into()).spawn(move || watchdog(&watched, &own))?;
        Ok(Self { info: info.clone(), state })
    }

    /// The failure that is known of here.
    pub fn failure(&self) -> Option<Failure> {
        lock(&self.state).failure.clone()
    }

    /// An exchange of all for `what` begins: from now on the others are waited for.
    pub fn enter(&self, what: &str) {
        let sign = &mut lock(&self.state).sign;
        sign.exchanges += 1;
        sign.waits = true;
        sign.doing = what.to_string();
    }

    /// A wait for rank 0 begins, which need not be one of all.
    pub fn enter_wait(&self, what: &str) {
        let sign = &mut lock(&self.state).sign;
        sign.waits = true;
        sign.doing = what.to_string();
    }

    /// It has ended.
    pub fn leave(&self) {
        lock(&self.state).sign.waits = false;
    }

    /// Says that the script has ended well.
    pub fn end(&self, store: &Store) -> Result<()> {
        let sign = {
            let mut state = lock(&self.state);
            state.sign.ended = true;
            state.sign.clone()
        };
        store.set(&key(self.info.rank), &json(&sign))
    }

    /// Finds out who is to blame for an exchange for `what` that failed here with the error `said`, because process
    /// `missing` did not come where that is known.
    pub fn explain(&self, what: &str, said: &str, missing: Option<usize>) -> Failure {
        lock(&self.state).failed = Some(Failed { what: what.to_string(), said: said.to_string(), missing });
        let started = Instant::now();
        while started.elapsed() < ANSWER {
            if let Some(failure) = self.failure() {
                return failure;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let gone = self.info.store_is_gone();
        lock(&self.state).failure.get_or_insert(gone).clone()
    }
}

/// A store whose machine is cut off answers nothing, and who asks it hangs: then there are no more signs, also here.
fn watchdog(state: &Mutex<State>, info: &GroupInfo) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        std::thread::sleep(2 * BEAT);
        let sign = lock(state).sign.clone();
        if sign.ended {
            return;
        }
        if sign.beat != last {
            (last, since) = (sign.beat, Instant::now());
        }
        if since.elapsed() > info.timeout.max(ANSWER) {
            let gone = info.store_is_gone();
            let failure = lock(state).failure.get_or_insert(gone).clone();
            end_process(&failure);
        }
    }
}

/// Ends the process if the script does not, which may hang in an exchange that nothing ends.
fn end_process(failure: &Failure) -> ! {
    std::thread::sleep(GRACE);
    eprintln!("{}error: {failure}", super::rank_prefix());
    crate::run::writer::wait_for_writers(Duration::from_secs(60));
    // SAFETY: ends the process without running destructors, which might wait for the dead.
    unsafe { libc::_exit(1) }
}

impl GroupInfo {
    fn store_is_gone(&self) -> Failure {
        const WHY: &str = "killed, hung, or its machine or network failed";
        match self.agent_store {
            true => Failure {
                rank: None,
                cause: format!("torchrun's agent, which keeps the store, is gone: {WHY}"),
                ended: false,
            },
            false => Failure {
                rank: Some(0),
                cause: format!("is gone, and with it the store that all share: {WHY}"),
                ended: true,
            },
        }
    }
}

/// What was last seen of a process.
#[derive(Clone)]
struct Seen {
    sign: Option<Heartbeat>,
    /// When its sign changed.
    beat: Instant,
    /// When its last exchange began or ended.
    exchange: Instant,
}

impl Seen {
    fn ended(&self) -> bool {
        self.sign.as_ref().is_some_and(|s| s.ended)
    }

    fn exchanges(&self) -> u64 {
        self.sign.as_ref().map_or(0, |s| s.exchanges)
    }
}

/// The thread that gives signs and looks for failures.
struct HeartbeatThread {
    store: Store,
    info: GroupInfo,
    state: Arc<Mutex<State>>,
    seen: Vec<Seen>,
}

impl HeartbeatThread {
    fn run(mut self) {
        let failure = loop {
            match self.beat() {
                Ok(Some(failure)) => break failure,
                Ok(None) => {}
                // The end of the store is no failure once the script has ended here.
                Err(_) if lock(&self.state).sign.ended => return,
                Err(_) => break self.info.store_is_gone(),
            }
            std::thread::sleep(BEAT);
        };
        let failure = lock(&self.state).failure.get_or_insert(failure).clone();
        // So that rank 0 does not take the store away before all have read.
        let _ = self.store.set(&format!("read/{}", self.info.rank), b"");
        end_process(&failure)
    }

    fn sign(&self) -> Result<()> {
        let sign = {
            let sign = &mut lock(&self.state).sign;
            sign.beat += 1;
            sign.clone()
        };
        self.store.set(&key(self.info.rank), &json(&sign))
    }

    /// Gives a sign, and looks for a failure.
    fn beat(&mut self) -> Result<Option<Failure>> {
        self.sign()?;
        let failed = lock(&self.state).failed.take();
        if let Some(known) = failure(&self.store)? {
            return Ok(Some(known));
        }
        if let Some(failed) = failed {
            let found = self.inquire(&failed)?;
            claim(&self.store, &found)?;
            return Ok(Some(failure(&self.store)?.unwrap_or(found)));
        }
        if self.info.rank == 0 {
            self.look()?;
            // Where exchanges are only queued, nothing else tells soon that a process is gone.
            let patience = if super::on_gpu() { self.info.timeout.min(GPU_SILENCE) } else { self.info.timeout };
            if let Some(found) = self.silent(patience).or_else(|| self.behind(self.info.timeout)) {
                claim(&self.store, &found)?;
            }
        }
        Ok(None)
    }

    /// Reads the signs of all.
    fn look(&mut self) -> Result<()> {
        for (rank, seen) in self.seen.iter_mut().enumerate() {
            let sign = sign_of(&self.store, rank)?;
            let place = |s: &Option<Heartbeat>| s.as_ref().map(|s| (s.exchanges, s.waits));
            if place(&sign) != place(&seen.sign) {
                seen.exchange = Instant::now();
            }
            if sign != seen.sign {
                (seen.sign, seen.beat) = (sign, Instant::now());
            }
        }
        Ok(())
    }

    /// A process that has given no sign for so long.
    fn silent(&self, limit: Duration) -> Option<Failure> {
        let rank = self.seen.iter().position(|s| !s.ended() && s.beat.elapsed() > limit)?;
        let seconds = self.seen[rank].beat.elapsed().as_secs();
        let cause = format!(
            "has given no sign of life for {seconds} s: killed, hung, out of memory, or its machine or network failed"
        );
        Some(Failure { rank: Some(rank), cause, ended: false })
    }

    /// A process that lives, but has not come to where another has waited for so long.
    fn behind(&self, limit: Duration) -> Option<Failure> {
        let ahead = self.seen.iter().max_by_key(|s| s.exchanges())?;
        // It need not wait yet: on a GPU an exchange is only queued, and what hangs is whoever wants its result.
        let sign = ahead.sign.as_ref().filter(|_| ahead.exchange.elapsed() > limit)?;
        let rank = (0..self.seen.len()).min_by_key(|r| self.seen[*r].exchanges())?;
        (self.seen[rank].exchanges() < sign.exchanges).then(|| self.late(rank, &sign.doing))
    }

    fn late(&self, rank: usize, what: &str) -> Failure {
        let sign = self.seen[rank].sign.clone().unwrap_or_default();
        let cause = match (sign.ended, sign.waits, sign.doing.as_str()) {
            (true, ..) => format!("has ended and takes no part in {what}: the script took another way there"),
            (false, waits, doing) => {
                let place = match (waits, doing) {
                    (_, "") => "before its first exchange".to_string(),
                    (true, doing) => format!("in {doing} (exchange {})", sign.exchanges),
                    (false, doing) => format!("after {doing} (exchange {})", sign.exchanges),
                };
                format!(
                    "did not come to {what} within {} s: it lives, and stands {place}; a script that takes another way \
                     there, or data that is very slow (--dist-timeout waits longer)",
                    self.info.timeout.as_secs()
                )
            }
        };
        Failure { rank: Some(rank), cause, ended: sign.ended }
    }

    /// Whose fault it is that an exchange failed here.
    fn inquire(&mut self, Failed { what, said, missing }: &Failed) -> Result<Failure> {
        let asked = Instant::now();
        while self.info.rank > 0 && asked.elapsed() < MAIN_FIRST {
            self.sign()?;
            if let Some(known) = failure(&self.store)? {
                return Ok(known);
            }
            std::thread::sleep(BEAT / 2);
        }
        let started = Instant::now();
        for seen in &mut self.seen {
            seen.beat = started;
        }
        while started.elapsed() < SILENCE {
            // Others may be asking too.
            self.sign()?;
            self.look()?;
            if let Some(known) = failure(&self.store)? {
                return Ok(known);
            }
            std::thread::sleep(BEAT / 2);
        }
        let own = self.info.rank;
        if let Some(found) = self.silent(SILENCE - BEAT) {
            return Ok(found);
        }
        if let Some(rank) = *missing {
            return Ok(self.late(rank, what));
        }
        let mine = lock(&self.state).sign.exchanges;
        let last = (0..self.seen.len()).filter(|r| *r != own).min_by_key(|r| self.seen[*r].exchanges());
        Ok(match last {
            Some(rank) if self.seen[rank].exchanges() < mine => self.late(rank, what),
            _ => Failure { rank: Some(own), cause: format!("failed in {what}: {said}"), ended: false },
        })
    }
}

/// How long rank 0 keeps the store after a failure, for the others to read of it.
pub fn wait_for_readers(store: &Store, size: usize) {
    let started = Instant::now();
    let mut left: Vec<usize> = (1..size).collect();
    while !left.is_empty() && started.elapsed() < SILENCE {
        left.retain(|rank| {
            let read = store.get(&format!("read/{rank}")).ok().flatten().is_some();
            !read && !sign_of(store, *rank).ok().flatten().is_some_and(|s| s.ended)
        });
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until all processes have ended, as long as they give signs of life, and for at most so long.
pub fn wait_for_ends(store: &Store, info: &GroupInfo, limit: Duration) {
    let started = Instant::now();
    let mut seen: Vec<(usize, Option<Heartbeat>, Instant)> =
        (1..info.size).map(|r| (r, None, Instant::now())).collect();
    while !seen.is_empty() && started.elapsed() < limit {
        seen.retain_mut(|(rank, last, since)| {
            let sign = sign_of(store, *rank).ok().flatten();
            if sign != *last {
                (*last, *since) = (sign, Instant::now());
            }
            !last.as_ref().is_some_and(|s| s.ended) && since.elapsed() < SILENCE
        });
        std::thread::sleep(Duration::from_millis(20));
    }
}
