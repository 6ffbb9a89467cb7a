//! Runs the processes of a sweep, so many at a time.

use super::display::Display;
use crate::cli::launcher::{asked_to_stop, launched};
use crate::error::{Context as _, Result};
use crate::run::signals::stop_signals;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGKILL, SIGUSR1};
use signal_hook::iterator::Signals;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often the display is brought up to date.
const TICK: Duration = Duration::from_millis(500);
/// How much of what a failed process has printed is searched for its error.
const MOST_SEARCHED: u64 = 1 << 20;

/// A run to be started.
pub struct Job {
    /// Its place in the sweep.
    pub place: usize,
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// The file that takes what the process prints.
    pub log: PathBuf,
    /// The words after `nepa`.
    pub arguments: Vec<String>,
    /// Whether it goes on with an earlier attempt.
    pub again: bool,
}

/// How the process of a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Well.
    Finished,
    /// By a signal that asked it to stop.
    Interrupted,
    /// With an error.
    Failed(String),
}

/// How the processes of a sweep ended.
pub struct Ended {
    /// Those that were started, by place.
    pub runs: Vec<(usize, End)>,
    /// The signal that has ended the sweep.
    pub signal: Option<i32>,
}

enum Event {
    Signal(i32),
    Ended(usize, ExitStatus),
}

/// A process.
struct Running {
    job: Job,
    pid: Pid,
    /// Where what it prints begins in its log.
    begin: u64,
}

/// Runs the jobs, one in each slot at a time; a slot may have GPUs of its own, as CUDA_VISIBLE_DEVICES has them. A
/// signal that asks to stop is passed on, and nothing more is started.
pub fn run(mut jobs: VecDeque<Job>, slots: &[Option<String>], display: &mut Display) -> Result<Ended> {
    let (send, events) = channel();
    let mut signals = Signals::new([stop_signals(), vec![SIGUSR1]].concat())?;
    let sender = send.clone();
    std::thread::spawn(move || signals.forever().try_for_each(|signal| sender.send(Event::Signal(signal))));
    let mut running: BTreeMap<usize, Running> = BTreeMap::new();
    let mut ended = Ended { runs: Vec::new(), signal: None };
    loop {
        for (slot, gpus) in slots.iter().enumerate() {
            if ended.signal.is_some() || running.contains_key(&slot) {
                continue;
            }
            let Some(job) = jobs.pop_front() else { break };
            match start(&job, slot, gpus.as_deref(), &send) {
                Ok((pid, begin)) => {
                    display.started(slot, &job.name, &job.dir, &job.log, job.again);
                    running.insert(slot, Running { job, pid, begin });
                }
                Err(e) => {
                    let fault = crate::error::one_line(&e);
                    display.line(&format!("{}: failed: {fault}", job.name));
                    ended.runs.push((job.place, End::Failed(fault)));
                }
            }
        }
        if running.is_empty() && (jobs.is_empty() || ended.signal.is_some()) {
            return Ok(ended);
        }
        match events.recv_timeout(TICK) {
            Ok(Event::Signal(signal)) => {
                if signal != SIGUSR1 && ended.signal.is_none() {
                    ended.signal = Some(signal);
                    display.line("stopping: the runs save a checkpoint");
                }
                let signal = Signal::from_named_raw(signal).expect("a signal of the system's");
                // One that has just ended needs no signal.
                running.values().for_each(|process| {
                    let _ = kill_process(process.pid, signal);
                });
            }
            Ok(Event::Ended(slot, status)) => {
                if let Some(process) = running.remove(&slot) {
                    let end = process.end(status);
                    display.ended(slot, end.fault().as_deref());
                    ended.runs.push((process.job.place, end));
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => display.tick(),
        }
    }
}

/// Starts a process in a slot; gives its id, and the size of its log before.
fn start(job: &Job, slot: usize, gpus: Option<&str>, send: &Sender<Event>) -> Result<(Pid, u64)> {
    let opening = || format!("cannot write {}", job.log.display());
    std::fs::create_dir_all(crate::files::folder_of(&job.log)).with_context(opening)?;
    let log = OpenOptions::new().create(true).append(true).open(&job.log).with_context(opening)?;
    let begin = log.metadata().with_context(opening)?.len();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(&job.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(gpus) = gpus {
        command.env("CUDA_VISIBLE_DEVICES", gpus);
    }
    launched(&mut command);
    let child = command.spawn().context("cannot start a process")?;
    let pid = Pid::from_child(&child);
    let send = send.clone();
    std::thread::spawn(move || wait(child, slot, &send));
    Ok((pid, begin))
}

fn wait(mut child: Child, slot: usize, send: &Sender<Event>) {
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(1 << 8));
    // The receiver is gone only where the sweep has ended.
    let _ = send.send(Event::Ended(slot, status));
}

impl Running {
    fn end(&self, status: ExitStatus) -> End {
        if status.success() {
            return End::Finished;
        }
        if asked_to_stop(status).is_some() {
            return End::Interrupted;
        }
        let printed = error_in(&self.job.log, self.begin);
        End::Failed(printed.unwrap_or_else(|| match (status.signal(), status.code()) {
            (Some(SIGKILL), _) => "it was killed (signal 9); perhaps it ran out of memory".into(),
            (Some(signal), _) => format!("it was ended by signal {signal}"),
            (None, code) => format!("it ended with exit code {}", code.unwrap_or(1)),
        }))
    }
}

impl End {
    /// What went wrong, in words.
    fn fault(&self) -> Option<String> {
        match self {
            End::Finished => None,
            End::Interrupted => Some("interrupted".into()),
            End::Failed(fault) => Some(format!("failed: {fault}")),
        }
    }
}

/// The first error that a process has printed, from `begin` on.
pub fn error_in(log: &std::path::Path, begin: u64) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let size = file.metadata().ok().filter(|about| about.is_file())?.len();
    file.seek(SeekFrom::Start(begin.max(size.saturating_sub(MOST_SEARCHED)))).ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_SEARCHED).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let error = |line: &str| {
        let (before, message) = line.split_once("error: ")?;
        (before.is_empty() || before.starts_with("[rank ")).then(|| message.to_string())
    };
    text.lines().find_map(error)
}
