//! Programs with a deadline, which end with all that they have started.

use super::report::Trouble;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(20);
/// How long a killed program may take to end. One that a driver holds does not.
const GRACE: Duration = Duration::from_secs(5);

/// A moment by which something must have ended.
#[derive(Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(time: Duration) -> Self {
        Deadline(Instant::now() + time)
    }

    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// An earlier one, after `time`.
    pub fn within(self, time: Duration) -> Self {
        Deadline(self.0.min(Instant::now() + time))
    }

    /// For the next of `count` things that are to be done: about twice its share, so that one that hangs leaves time
    /// for the others.
    pub fn of(self, count: usize) -> Self {
        self.within(self.left().mul_f64(2. / (count as f64 + 1.)))
    }
}

/// Starts programs, and keeps what they say in files.
pub struct Runner {
    logs: PathBuf,
    interrupted: Arc<AtomicBool>,
}

/// How a program ended, and what it said.
pub struct Ended {
    what: String,
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn succeeded(self) -> Result<Self, Trouble> {
        if self.status.success() { Ok(self) } else { Err(self.trouble(&self.status.to_string())) }
    }

    /// The JSON that a script has printed last.
    pub fn answer(&self) -> Result<Value, Trouble> {
        let line = self.out.lines().rfind(|line| line.starts_with('{'));
        line.and_then(|line| serde_json::from_str(line).ok()).ok_or_else(|| self.trouble("no JSON was printed"))
    }

    /// A failure, with what the program said.
    pub fn trouble(&self, reason: &str) -> Trouble {
        Trouble::failed(format!("{}: {reason}", self.what)).with_output(&self.out, &self.err)
    }
}

impl Runner {
    pub fn new(logs: PathBuf) -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, interrupted.clone()).context("cannot wait for signals")?;
        }
        Ok(Runner { logs, interrupted })
    }

    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Runs a program to its end, or kills it and what it has started at the deadline. `watch` is asked again and again
    /// for a signal to send.
    pub fn run(
        &self,
        what: &str,
        command: &mut Command,
        deadline: Deadline,
        watch: &mut dyn FnMut() -> Option<Signal>,
    ) -> Result<Ended, Trouble> {
        let allowed = deadline.left();
        if self.is_interrupted() {
            return Err(Trouble::interrupted(what));
        }
        if allowed.is_zero() {
            return Err(Trouble::late(format!("{what}: not begun, since no time was left")));
        }
        fs::create_dir_all(&self.logs).with_context(|| format!("cannot create {}", self.logs.display()))?;
        // Files, since a pipe would stay open for as long as anything that the program has started.
        let [out, err] = ["out", "err"].map(|kind| self.logs.join(format!("{}.{kind}", what.replace([' ', '/'], "-"))));
        let create = |path: &PathBuf| File::create(path).with_context(|| format!("cannot create {}", path.display()));
        command.stdout(create(&out)?).stderr(create(&err)?).process_group(0);
        let program = command.get_program().display().to_string();
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let pid = Pid::from_child(&child);
        let said =
            || [&out, &err].map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned());
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for a program")? {
                let [out, err] = said();
                return Ok(Ended { what: what.into(), status, out, err });
            }
            let trouble = if self.is_interrupted() {
                Some(Trouble::interrupted(what))
            } else if deadline.left().is_zero() {
                Some(Trouble::late(format!("{what}: not done after {:.0} s", allowed.as_secs_f64())))
            } else {
                None
            };
            if let Some(mut trouble) = trouble {
                if !kill(&mut child, pid) {
                    trouble.reason += ", and does not end by SIGKILL: its driver or a file system hangs";
                }
                let [out, err] = said();
                return Err(trouble.with_output(&out, &err));
            }
            if let Some(signal) = watch() {
                // It may have ended by now.
                let _ = kill_process(pid, signal);
            }
            thread::sleep(POLL);
        }
    }
}

/// Kills a program and what it has started, also in process groups of their own; whether it has ended.
fn kill(child: &mut Child, pid: Pid) -> bool {
    // Stopped first, so that none starts another one meanwhile.
    let mut all = Vec::new();
    loop {
        let new: Vec<Pid> = with_descendants(pid).into_iter().filter(|pid| !all.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in &new {
            let _ = kill_process(*pid, Signal::STOP);
        }
        all.extend(new);
    }
    let _ = kill_process_group(pid, Signal::KILL);
    for pid in all {
        let _ = kill_process(pid, Signal::KILL);
    }
    let started = Instant::now();
    while started.elapsed() < GRACE {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        thread::sleep(POLL);
    }
    false
}

/// A process and all below it; itself alone where the system does not tell.
fn with_descendants(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
        let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
        let lists: String = lists.collect();
        found.extend(lists.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
        next += 1;
    }
    found
}
