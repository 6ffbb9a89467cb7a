//! Ctrl-C, SIGTERM and SIGHUP ask the run to stop; SIGUSR1 asks for a checkpoint.
//!
//! The same request often comes more than once: systemd, Slurm and pkill signal the launcher, which passes the signal
//! on, and its processes too; `timeout` signals its child and its group; Slurm warns before the time limit and again at
//! the limit. What comes again is therefore no reason to end before the checkpoint is written. Only Ctrl-C, some time
//! after the first signal, ends the process at once: somebody is waiting at the terminal.

use crate::error::Result;
use signal_hook::consts::signal::SIGXFSZ;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Signals closer together than this are one.
const TOGETHER_MS: u64 = 1000;

/// The signals that were received, as the script host and the training loop see them.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Flags>);

struct Flags {
    created: Instant,
    /// The signal that asked to stop first, in the lowest byte; above it when, in milliseconds from the creation on.
    /// 0 if none has. One number, since several threads may handle signals at once.
    stop: AtomicU64,
    save: Arc<AtomicBool>,
    /// A training loop is running that stops by itself, after a checkpoint.
    held: AtomicBool,
    announced: AtomicBool,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            created: Instant::now(),
            stop: AtomicU64::new(0),
            save: Arc::default(),
            held: AtomicBool::new(false),
            announced: AtomicBool::new(false),
        }
    }
}

impl Flags {
    /// Asks to stop because of `signal`, unless another one has. Returns how long ago the first one came.
    fn ask(&self, signal: i32) -> u64 {
        let now = self.created.elapsed().as_millis() as u64;
        match self.stop.compare_exchange(0, now << 8 | signal as u64, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => 0,
            Err(first) => now.saturating_sub(first >> 8),
        }
    }
}

/// The signals that ask a run to stop: not SIGHUP under `nohup`, which has the process ignore it.
pub fn stop_signals() -> Vec<i32> {
    // SAFETY: reads how SIGHUP is handled now.
    let ignores_hangup = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(SIGHUP, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    };
    let hangup = (!ignores_hangup).then_some(SIGHUP);
    [SIGINT, SIGTERM].into_iter().chain(hangup).collect()
}

impl Interrupt {
    /// Listens for the signals. Before, those that ask to stop end the process: there is nothing to save yet.
    pub fn listen(&self) -> Result<()> {
        for signal in stop_signals() {
            let flags = self.0.clone();
            let action = move || {
                let before = flags.ask(signal);
                if signal == SIGINT && before >= TOGETHER_MS {
                    low_level::exit(128 + signal);
                }
            };
            // SAFETY: nothing but atomics, the clock and _exit, all of which a signal handler may use.
            unsafe { low_level::register(signal, action)? };
        }
        flag::register(SIGUSR1, self.0.save.clone())?;
        // A file that exceeds the size limit is a write error, not the end of the process.
        flag::register(SIGXFSZ, Arc::default())?;
        Ok(())
    }

    /// Stops this process as the signal that another one received would.
    pub fn stop(&self, exit_code: i32) {
        self.0.ask((exit_code - 128).max(1));
    }

    /// The exit code of the signal that asked to stop, if one did: 129, 130 or 143.
    pub fn exit_code(&self) -> Option<i32> {
        match self.0.stop.load(Ordering::Relaxed) {
            0 => None,
            stop => Some(128 + (stop & 0xff) as i32),
        }
    }

    /// The exit code if the script must end now; a training loop that holds it is left to finish its step.
    pub fn ends_script(&self) -> Option<i32> {
        let code = self.exit_code()?;
        if !self.0.held.load(Ordering::Relaxed) {
            return Some(code);
        }
        if !self.0.announced.swap(true, Ordering::Relaxed) {
            super::progress::note_line("stopping: saving a checkpoint first; another Ctrl-C stops at once");
        }
        None
    }

    /// Delays the end of the script until the training loop has saved (`true`), or no longer delays it.
    pub fn hold(&self, held: bool) {
        self.0.held.store(held, Ordering::Relaxed);
    }

    /// Whether SIGUSR1 came since this was last asked.
    pub fn take_save(&self) -> bool {
        self.0.save.swap(false, Ordering::Relaxed)
    }
}
