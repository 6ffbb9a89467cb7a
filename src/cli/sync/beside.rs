//! `nepa run --log CLIENT`: a `nepa sync --follow` beside the run, as a process of its own. Nothing that happens to it
//! changes the run.

use super::client::{Client, To};
use super::{DEFAULT_PYTHON, PYTHON};
use crate::error::{Context as _, Result, one_line};
use crate::run::inside;
use crate::run::progress::note_line;
use crate::text::shell_word;
use rustix::process::{Pid, Signal, kill_process_group, setpgid};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What the processes print, in the run directory.
pub const LOG_FILE: &str = "sync.log";
/// How long the end of a run waits for them.
const END: Duration = Duration::from_secs(60);
/// How long they may take to end once they are asked to.
const ASKED: Duration = Duration::from_secs(5);

static WANTED: OnceLock<Vec<To>> = OnceLock::new();
static STARTED: Mutex<Vec<Beside>> = Mutex::new(Vec::new());

/// A process beside the run.
struct Beside {
    to: To,
    process: Pid,
    /// Whether it succeeded.
    ended: Receiver<bool>,
}

fn python() -> PathBuf {
    std::env::var_os(PYTHON).map_or(DEFAULT_PYTHON.into(), PathBuf::from)
}

/// Checks that the run can be sent to these clients, as far as that is known before it starts.
pub fn prepare(to: &[To]) -> Result<()> {
    for to in to {
        Client::start(&python(), *to)?;
    }
    let _ = WANTED.set(to.to_vec());
    Ok(())
}

/// Starts the processes for the run in `dir`.
pub fn start(dir: &Path) {
    for to in WANTED.get().into_iter().flatten() {
        match start_one(dir, *to) {
            Ok(beside) => STARTED.lock().unwrap_or_else(|e| e.into_inner()).push(beside),
            Err(e) => note_line(&format!("warning: the run is not sent to {to}: {}", one_line(&e))),
        }
    }
}

fn start_one(dir: &Path, to: To) -> Result<Beside> {
    inside::check(dir, LOG_FILE, u64::MAX)?;
    let log = dir.join(LOG_FILE);
    let file = OpenOptions::new().create(true).append(true).open(&log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sync", "--to", &to.to_string(), "--follow", "--python"]).arg(python()).arg("--").arg(dir);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let sync = sync_command(dir, to);
    launch(command, to, move || {
        note_line(&format!(
            "warning: not all of the run was sent to {to}: see {}; `{sync}` sends the rest",
            log.display()
        ));
    })
}

/// Starts a process, and tells if it fails.
fn launch(mut command: Command, to: To, failed: impl FnOnce() + Send + 'static) -> Result<Beside> {
    // SAFETY: a plain system call between fork and exec.
    unsafe {
        // A new process group: Ctrl-C at the terminal is for the run, whose end this one waits for.
        command.pre_exec(|| Ok(setpgid(None, None)?));
    }
    let mut child = command.spawn().context("cannot start nepa sync")?;
    let process = Pid::from_child(&child);
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        let succeeded = child.wait().is_ok_and(|status| status.success());
        if !succeeded {
            failed();
        }
        let _ = sender.send(succeeded);
    });
    Ok(Beside { to, process, ended })
}

impl Beside {
    /// Waits for the end, which is forced at the limit. Whether it succeeded; `None`: it had to be forced.
    fn end(&self, limit: Instant, asked: Duration) -> Option<bool> {
        let found = self.ended.recv_timeout(limit.saturating_duration_since(Instant::now())).ok();
        if found.is_none() {
            let _ = kill_process_group(self.process, Signal::TERM);
            if self.ended.recv_timeout(asked).is_err() {
                let _ = kill_process_group(self.process, Signal::KILL);
            }
        }
        found
    }
}

/// The command that sends what is left.
fn sync_command(dir: &Path, to: To) -> String {
    format!("nepa sync {} --to {to}", shell_word(&dir.display().to_string()))
}

/// Waits for the processes after the end of the run in `dir`, for a while, and tells how they have ended.
pub fn finish(dir: &Path) {
    let all = std::mem::take(&mut *STARTED.lock().unwrap_or_else(|e| e.into_inner()));
    let limit = Instant::now() + END;
    for beside in all {
        let to = beside.to;
        match beside.end(limit, ASKED) {
            Some(true) => note_line(&format!("the run was sent to {to}")),
            // That has been told.
            Some(false) => {}
            None => note_line(&format!(
                "warning: {to} has not taken the whole run within {} seconds; `{}` sends the rest",
                END.as_secs(),
                sync_command(dir, to)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_waits_for_a_while() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            launch(command, To::Wandb, || {}).unwrap()
        };
        let short = Duration::from_millis(300);
        assert_eq!(shell("exit 0").end(Instant::now() + END, short), Some(true));
        assert_eq!(shell("exit 3").end(Instant::now() + END, short), Some(false));
        let started = Instant::now();
        let deaf = shell("trap '' TERM; sleep 600; sleep 600");
        assert_eq!(deaf.end(started + short, short), None);
        assert_eq!(deaf.ended.recv_timeout(END), Ok(false));
        assert!(started.elapsed() < END);
    }
}
