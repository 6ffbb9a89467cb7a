//! Ctrl-C and SIGTERM ask the run to stop, a second one ends the process at once; SIGUSR1 asks for a checkpoint.

use crate::error::Result;
use signal_hook::consts::signal::SIGXFSZ;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The signals that were received, as the script host and the training loop see them.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Flags>);

#[derive(Default)]
struct Flags {
    stop: Arc<AtomicUsize>,
    save: Arc<AtomicBool>,
    /// A training loop is running that stops by itself, after a checkpoint.
    held: AtomicBool,
    announced: AtomicBool,
}

impl Interrupt {
    /// Listens for the signals.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Order matters: the second signal, whichever it is, finds `again` set and ends the process.
            flag::register_conditional_shutdown(signal, 128 + signal, again.clone())?;
            flag::register(signal, again.clone())?;
            flag::register_usize(signal, interrupt.0.stop.clone(), signal as usize)?;
        }
        flag::register(SIGUSR1, interrupt.0.save.clone())?;
        // A file that exceeds the size limit is a write error, not the end of the process.
        flag::register(SIGXFSZ, Arc::default())?;
        Ok(interrupt)
    }

    /// Stops this process as the signal that another one received would.
    pub fn stop(&self, exit_code: i32) {
        let signal = (exit_code - 128).max(1) as usize;
        let _ = self.0.stop.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The exit code of the signal that asked to stop, if one did: 130 or 143.
    pub fn exit_code(&self) -> Option<i32> {
        match self.0.stop.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(128 + signal as i32),
        }
    }

    /// The exit code if the script must end now; a training loop that holds it is left to finish its step.
    pub fn ends_script(&self) -> Option<i32> {
        let code = self.exit_code()?;
        if !self.0.held.load(Ordering::Relaxed) {
            return Some(code);
        }
        if !self.0.announced.swap(true, Ordering::Relaxed) {
            super::progress::note_line("stopping: finishing the step and saving; a second signal stops at once");
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
