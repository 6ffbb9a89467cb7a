//! `nepa run --nproc N`: starts N processes of the same command on this machine, hands signals on to them, and ends them
//! all where one fails.

use crate::dist::STORE_FD;
use crate::error::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long the others may take to end by themselves after one has failed: they find out why, and finish writing.
const OWN_END: Duration = Duration::from_secs(60);
/// How long they have after they were asked to end.
const ASKED_END: Duration = Duration::from_secs(10);

/// The launcher's process id, as its processes are told.
const LAUNCHER: &str = "NEPA_LAUNCHER";

enum Event {
    Signal(i32),
    Ended(usize, ExitStatus),
}

/// Starts the command line of this process, without --nproc, `n` times, and waits for all. Gives the exit code.
pub fn launch(n: usize) -> Result<u8> {
    // Held open until rank 0 has it, so that nobody takes the port.
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on 127.0.0.1 for the processes")?;
    let port = listener.local_addr()?.port();
    let (send, events) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    let sender = send.clone();
    std::thread::spawn(move || signals.forever().try_for_each(|signal| sender.send(Event::Signal(signal))));

    let mut processes = Processes { pids: Vec::new(), running: vec![true; n] };
    for rank in 0..n {
        let child = match start(rank, n, port, listener.as_raw_fd()) {
            Ok(child) => child,
            Err(e) => {
                processes.signal(libc::SIGKILL);
                return Err(e).with_context(|| format!("cannot start process {rank}"));
            }
        };
        processes.pids.push(child.id() as i32);
        let send = send.clone();
        std::thread::spawn(move || wait(child, rank, |event| drop(send.send(event))));
    }
    drop(listener);
    Ok(processes.watch(&events))
}

fn start(rank: usize, n: usize, port: u16, listener: RawFd) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments(std::env::args_os().skip(1)));
    for (name, value) in
        [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", n), ("LOCAL_WORLD_SIZE", n), ("MASTER_PORT", port.into())]
    {
        command.env(name, value.to_string());
    }
    command.env("MASTER_ADDR", "127.0.0.1");
    // An agent of torchrun around this launcher is none of the processes'.
    for name in ["TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"] {
        command.env_remove(name);
    }
    match rank {
        0 => command.env(STORE_FD, listener.to_string()),
        _ => command.env_remove(STORE_FD),
    };
    command.env(LAUNCHER, std::process::id().to_string());
    // SAFETY: only plain system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // A group of its own: Ctrl-C reaches it once, through the launcher.
            libc::setpgid(0, 0);
            if rank == 0 {
                libc::fcntl(listener, libc::F_SETFD, 0);
            }
            Ok(())
        });
    }
    command.spawn()
}

/// In a process that [`launch`] has started: makes the end of the launcher, however it comes, a SIGTERM for this one, so
/// that nothing is left behind.
pub fn end_with_launcher() {
    #[cfg(target_os = "linux")]
    if let Some(launcher) = std::env::var(LAUNCHER).ok().and_then(|pid| pid.parse::<i32>().ok()) {
        // SAFETY: plain system calls. The setting belongs to this thread, and is lost by exec.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            if libc::getppid() != launcher {
                libc::_exit(128 + SIGTERM);
            }
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

struct Processes {
    pids: Vec<i32>,
    running: Vec<bool>,
}

impl Processes {
    fn signal(&self, signal: i32) {
        for (pid, _) in self.pids.iter().zip(&self.running).filter(|(_, running)| **running) {
            // SAFETY: a child that was not waited for yet.
            unsafe { libc::kill(*pid, signal) };
        }
    }

    /// Waits for all processes; gives the exit code of the whole.
    fn watch(&mut self, events: &Receiver<Event>) -> u8 {
        let mut failed: Vec<(usize, ExitStatus)> = Vec::new();
        let mut stopped_by = None;
        let mut deadline: Option<(Instant, i32)> = None;
        while self.running.contains(&true) {
            let left =
                deadline.map_or(Duration::from_secs(3600), |(at, _)| at.saturating_duration_since(Instant::now()));
            match events.recv_timeout(left) {
                Ok(Event::Signal(signal)) => {
                    self.signal(signal);
                    if signal != SIGUSR1 {
                        stopped_by = stopped_by.or(Some(signal));
                    }
                }
                Ok(Event::Ended(rank, status)) => {
                    self.running[rank] = false;
                    if !status.success() {
                        failed.push((rank, status));
                        deadline = deadline.or_else(|| Some((Instant::now() + OWN_END, libc::SIGTERM)));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some((_, signal)) = deadline {
                        self.signal(signal);
                        deadline = Some((Instant::now() + ASKED_END, libc::SIGKILL));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // All have saved and ended as they were asked to, perhaps by a signal to one of them.
        let asked = [SIGINT, SIGTERM, SIGHUP].map(|signal| Some(128 + signal));
        let stopped = failed.iter().find_map(|(_, status)| status.code().filter(|code| asked.contains(&Some(*code))));
        failed.retain(|(_, status)| !asked.contains(&status.code()));
        if failed.is_empty() {
            return stopped.or(stopped_by.map(|signal| 128 + signal)).unwrap_or(0) as u8;
        }
        self.report(&failed);
        // A process that a signal ended says least; the others know why.
        failed.iter().find_map(|(_, status)| status.code()).unwrap_or(1) as u8
    }

    fn report(&self, failed: &[(usize, ExitStatus)]) {
        eprintln!("nepa: {} of {} processes failed, in this order:", failed.len(), self.pids.len());
        for (rank, status) in failed {
            let how = match (status.signal(), status.code()) {
                (Some(libc::SIGKILL), _) => "was killed (signal 9), perhaps for want of memory".to_string(),
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, code) => format!("ended with exit code {}", code.unwrap_or(1)),
            };
            eprintln!("  rank {rank} (process {}) {how}", self.pids[*rank]);
        }
    }
}
