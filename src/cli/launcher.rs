//! `nepa run --nproc N`: starts N processes of this command on this machine, passes signals on to them, and ends all of
//! them if one fails.

use crate::dist::{STORE_FD, WRITING};
use crate::error::{Context as _, Result};
use crate::output::err;
use crate::run::signals::stop_signals;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process, setpgid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::net::TcpListener;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long the others may take to end by themselves after one has ended: they find out why.
const END_ALONE: Duration = Duration::from_secs(60);
/// How long they may take after SIGTERM. Rank 0, which may be writing, has as long as that takes: see [`WRITING`].
const END_ASKED: Duration = Duration::from_secs(10);

/// The environment variable that tells processes the launcher's process id.
const LAUNCHER: &str = "NEPA_LAUNCHER";

enum Event {
    Signal(i32),
    Ended(usize, ExitStatus),
}

/// Starts this process's command line, without --nproc, `n` times, and waits for all. Returns the exit code.
pub fn launch(n: usize) -> Result<u8> {
    // Of a sweep, if that has started it.
    end_with_launcher();
    // Held open until rank 0 has it, so that nobody takes the port.
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on 127.0.0.1 for the ranks")?;
    let port = listener.local_addr()?.port();
    let listener = OwnedFd::from(listener);
    let (send, events) = channel();
    let mut signals = Signals::new([stop_signals(), vec![SIGUSR1]].concat())?;
    let sender = send.clone();
    std::thread::spawn(move || signals.forever().try_for_each(|signal| sender.send(Event::Signal(signal))));

    let mut processes = Processes { pids: Vec::new(), running: vec![true; n] };
    for rank in 0..n {
        let child = match start(rank, n, port, &listener) {
            Ok(child) => child,
            Err(e) => {
                processes.signal(SIGKILL, 0..rank);
                return Err(e).with_context(|| format!("cannot start rank {rank}"));
            }
        };
        processes.pids.push(Pid::from_child(&child));
        let send = send.clone();
        std::thread::spawn(move || wait(child, rank, |event| drop(send.send(event))));
    }
    drop(listener);
    Ok(processes.watch(&events))
}

fn start(rank: usize, n: usize, port: u16, listener: &OwnedFd) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments(std::env::args_os().skip(1)));
    for (name, value) in
        [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", n), ("LOCAL_WORLD_SIZE", n), ("MASTER_PORT", port.into())]
    {
        command.env(name, value.to_string());
    }
    command.env("MASTER_ADDR", "127.0.0.1");
    // A torchrun around this launcher is not the launcher of its processes.
    for name in ["TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"] {
        command.env_remove(name);
    }
    let handed_over = if rank == 0 { Some(listener.try_clone()?) } else { None };
    match &handed_over {
        Some(listener) => command.env(STORE_FD, listener.as_raw_fd().to_string()),
        None => command.env_remove(STORE_FD),
    };
    launched(&mut command);
    // SAFETY: only plain system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if let Some(listener) = &handed_over {
                fcntl_setfd(listener, FdFlags::empty())?;
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Prepares a `nepa run` for being started by this process, which passes signals on to it: see [`end_with_launcher`].
/// The thread that starts it must wait for it.
pub fn launched(command: &mut Command) {
    command.env(LAUNCHER, std::process::id().to_string());
    // SAFETY: only plain system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // A new process group: Ctrl-C reaches it once, through the launcher.
            setpgid(None, None)?;
            // A signal that this process ignores is ignored there from the start; one with a handler would not be.
            super::before_main::ignore_save_requests();
            Ok(())
        });
    }
}

/// Whether [`launch`] has started this process, which shows all of them the same GPUs.
pub fn started_here() -> bool {
    std::env::var_os(LAUNCHER).is_some()
}

/// In a process that [`launch`] has started: sends this process a SIGTERM when the launcher ends, however it ends, so
/// that none is left behind.
pub fn end_with_launcher() {
    #[cfg(target_os = "linux")]
    if let Some(launcher) = std::env::var(LAUNCHER).ok().and_then(|pid| pid.parse::<i32>().ok()) {
        // The setting belongs to this thread, and is lost by exec. If it fails, the launcher's end goes unnoticed.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
        if rustix::process::getppid() != Pid::from_raw(launcher) {
            crate::ffi::exit(128 + SIGTERM as u8);
        }
    }
}

/// The command line without --nproc.
fn arguments(all: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut kept = Vec::new();
    let mut all = all.peekable();
    while let Some(argument) = all.next() {
        match argument.to_str() {
            Some("--nproc") => drop(all.next()),
            Some(text) if text.starts_with("--nproc=") => {}
            _ => kept.push(argument),
        }
    }
    kept
}

fn wait(mut child: Child, rank: usize, send: impl FnOnce(Event)) {
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(1 << 8));
    send(Event::Ended(rank, status));
}

/// The signal that asked a process to stop, perhaps by way of another one: it has ended with the signal's exit code, or
/// of the signal itself, where it had nothing to save yet.
pub fn asked_to_stop(status: ExitStatus) -> Option<i32> {
    let signal = status.signal().or_else(|| status.code().map(|code| code - 128))?;
    [SIGINT, SIGTERM, SIGHUP].contains(&signal).then_some(signal)
}

/// What is done to end `n` ranks of which one has ended at `since`: when, with which signal, to which ranks. The first
/// comes last.
fn ending(since: Instant, n: usize) -> Vec<(Instant, i32, Range<usize>)> {
    let alone = since + END_ALONE;
    vec![(alone + WRITING, SIGKILL, 0..n), (alone + END_ASKED, SIGKILL, 1..n), (alone, SIGTERM, 0..n)]
}

struct Processes {
    pids: Vec<Pid>,
    running: Vec<bool>,
}

impl Processes {
    /// Sends a signal to those of the ranks that run.
    fn signal(&self, signal: i32, ranks: Range<usize>) {
        let signal = Signal::from_named_raw(signal).expect("a signal of the system's");
        for rank in ranks.filter(|rank| self.running[*rank]) {
            // One that has just ended needs no signal.
            let _ = self.pids.get(rank).map(|pid| kill_process(*pid, signal));
        }
    }

    /// Waits for all processes; returns the overall exit code.
    fn watch(&mut self, events: &Receiver<Event>) -> u8 {
        let mut ended_badly: Vec<(usize, ExitStatus)> = Vec::new();
        // What is done to end those that are left; the next thing comes last.
        let mut steps: Vec<(Instant, i32, Range<usize>)> = Vec::new();
        let n = self.running.len();
        while self.running.contains(&true) {
            let left =
                steps.last().map_or(Duration::from_secs(3600), |(at, ..)| at.saturating_duration_since(Instant::now()));
            match events.recv_timeout(left) {
                Ok(Event::Signal(signal)) => self.signal(signal, 0..n),
                Ok(Event::Ended(rank, status)) => {
                    self.running[rank] = false;
                    if !status.success() {
                        if ended_badly.is_empty() {
                            steps = ending(Instant::now(), n);
                        }
                        ended_badly.push((rank, status));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some((_, signal, ranks)) = steps.pop() {
                        self.signal(signal, ranks);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let stopped = ended_badly.iter().find_map(|(_, status)| asked_to_stop(*status));
        let mut failed = ended_badly;
        failed.retain(|(_, status)| asked_to_stop(*status).is_none());
        if failed.is_empty() {
            return stopped.map_or(0, |signal| 128 + signal) as u8;
        }
        self.report(&failed);
        // A process that a signal ended has no exit code; the others know why.
        failed.iter().find_map(|(_, status)| status.code()).unwrap_or(1) as u8
    }

    fn report(&self, failed: &[(usize, ExitStatus)]) {
        err!("nepa: {} of {} processes failed, in this order:", failed.len(), self.pids.len());
        for (rank, status) in failed {
            let how = match (status.signal(), status.code()) {
                (Some(SIGKILL), _) => "was killed (signal 9); perhaps it ran out of memory".to_string(),
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, code) => format!("ended with exit code {}", code.unwrap_or(1)),
            };
            err!("  rank {rank} (process {}) {how}", self.pids[*rank].as_raw_nonzero());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_0_has_the_time_that_a_writer_has() {
        let now = Instant::now();
        let mut steps = ending(now, 4);
        assert!(steps.is_sorted_by_key(|(at, ..)| std::cmp::Reverse(*at)));
        // The others are ended soon: they may hang.
        let kills = |rank: usize, steps: &[(Instant, i32, Range<usize>)]| {
            let kill = steps.iter().rev().find(|(_, signal, ranks)| *signal == SIGKILL && ranks.contains(&rank));
            kill.map(|(at, ..)| *at - now)
        };
        assert!(kills(0, &steps).is_some_and(|after| after > WRITING));
        assert!(kills(3, &steps).is_some_and(|after| after < Duration::from_secs(120)));
        // Asked before.
        assert_eq!(steps.pop().map(|(_, signal, ranks)| (signal, ranks)), Some((SIGTERM, 0..4)));
    }

    #[test]
    fn processes_that_a_signal_has_ended_were_asked_to() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        assert_eq!(
            [exited(143), exited(129), exited(1), exited(0)].map(asked_to_stop),
            [Some(15), Some(1), None, None]
        );
        let killed = [SIGTERM, SIGKILL, libc::SIGSEGV].map(ExitStatus::from_raw);
        assert_eq!(killed.map(asked_to_stop), [Some(SIGTERM), None, None]);
    }
}
