//! Signals that came to any of the processes that train together.

use crate::dist::{self, PendingMax};
use crate::error::Result;
use crate::run::signals::Interrupt;
use std::time::Instant;

/// What a signal asks of a training loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalRequest {
    /// To save a checkpoint and continue (SIGUSR1).
    Save,
    /// To save a checkpoint and end (Ctrl-C, SIGTERM, SIGHUP).
    Stop,
}

/// Asks all ranks for signals alongside training, about twice a second: with hundreds of ranks, asking at every step
/// could cost more than the step itself. A process that trains alone looks at every step.
#[derive(Default)]
pub struct SignalPoll {
    pending: Option<Pending>,
    /// Steps since the pending exchange began.
    steps: u32,
}

struct Pending {
    /// Exit code of a stop, whether to save, microseconds a step: the greatest of all ranks.
    exchange: PendingMax<3>,
    since: Instant,
    /// Steps until all ranks look at the result.
    until: u32,
}

const WHAT: &str = "the poll for signals";
/// Time from poll to poll.
const INTERVAL_US: i64 = 500_000;

impl SignalPoll {
    /// Call this after every step, on all ranks: returns what a signal to any of them has asked for.
    pub fn step(&mut self, interrupt: &Interrupt) -> Result<Option<SignalRequest>> {
        self.steps += 1;
        if dist::world_size() == 1 {
            return Ok(request([own_stop(interrupt), interrupt.take_save().into()], interrupt));
        }
        if self.pending.as_ref().is_some_and(|pending| self.steps < pending.until) {
            return Ok(None);
        }
        // The slowest rank's time decides, so that all wait for as many steps.
        let (mut step_us, mut result, mut until) = (0, [0, 0], 1);
        if let Some(Pending { exchange, since, .. }) = self.pending.take() {
            step_us = since.elapsed().as_micros() as i64 / i64::from(self.steps);
            let [stop, save, slowest] = exchange.wait(WHAT)?;
            result = [stop, save];
            until = if slowest > 0 { (INTERVAL_US / slowest).clamp(1, 100) as u32 } else { 1 };
        }
        let own = [own_stop(interrupt), interrupt.take_save().into(), step_us];
        let exchange = dist::all_reduce_max_async(own, WHAT)?;
        self.pending = Some(Pending { exchange, since: Instant::now(), until });
        self.steps = 0;
        Ok(request(result, interrupt))
    }

    /// Call this after the loop, on all ranks: returns a stop that a signal asked for during the last steps.
    pub fn finish(&mut self, interrupt: &Interrupt) -> Result<Option<SignalRequest>> {
        let Some(Pending { exchange, .. }) = self.pending.take() else { return Ok(None) };
        let [stop, ..] = exchange.wait(WHAT)?;
        let [late] = dist::all_reduce_max([own_stop(interrupt)], WHAT)?;
        Ok(request([stop.max(late), 0], interrupt))
    }
}

/// The exit code of a signal to this process, or 0.
fn own_stop(interrupt: &Interrupt) -> i64 {
    interrupt.exit_code().unwrap_or(0).into()
}

/// What the ranks' signals ask for; a stop stops this process too.
fn request([stop, save]: [i64; 2], interrupt: &Interrupt) -> Option<SignalRequest> {
    if stop != 0 {
        interrupt.stop(stop as i32);
    }
    match (stop, save) {
        (0, 0) => None,
        (0, _) => Some(SignalRequest::Save),
        _ => Some(SignalRequest::Stop),
    }
}
