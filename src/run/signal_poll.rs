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
pub struct SignalPoll {
    interrupt: Interrupt,
    pending: Option<Pending>,
    /// Steps since the pending exchange began.
    steps: u32,
    /// How many evaluations of training loops this is in, one within the other: a stop may end them.
    evaluations: u32,
    /// A signal to any rank asks the run to stop, as all of them know.
    stops: bool,
    /// One asked for a checkpoint during an evaluation.
    saves: bool,
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
    /// Listens to the signals of this process, and through the process group to those of all.
    pub fn new(interrupt: Interrupt) -> Self {
        Self { interrupt, pending: None, steps: 0, evaluations: 0, stops: false, saves: false }
    }

    /// Call this after every step, on all ranks: returns what a signal to any of them has asked for.
    pub fn step(&mut self) -> Result<Option<SignalRequest>> {
        let now = self.poll()?;
        let before = std::mem::take(&mut self.saves).then_some(SignalRequest::Save);
        Ok(now.or(before))
    }

    /// Call this in every round of an evaluation, on all ranks: a stop within [`SignalPoll::evaluation`] then ends the
    /// script's function. Does nothing elsewhere.
    pub fn step_of_evaluation(&mut self) -> Result<()> {
        if self.evaluations > 0 {
            match self.poll()? {
                Some(SignalRequest::Stop) => self.interrupt.hold(false),
                Some(SignalRequest::Save) => self.saves = true,
                None => {}
            }
        }
        Ok(())
    }

    /// Marks the begin of an evaluation within a training loop (`true`), or its end.
    pub fn evaluation(&mut self, begins: bool) {
        self.evaluations = if begins { self.evaluations + 1 } else { self.evaluations.saturating_sub(1) };
        // Its batches may take longer than steps: the first one looks, and finds out how long.
        if let Some(pending) = &mut self.pending {
            pending.until = 1;
        }
        // The loop still has to save.
        self.interrupt.hold(true);
    }

    /// Whether a signal to any rank asks the run to stop, as far as all ranks know.
    pub fn stops(&self) -> bool {
        self.stops
    }

    fn poll(&mut self) -> Result<Option<SignalRequest>> {
        self.steps += 1;
        if dist::world_size() == 1 {
            let own = [own_stop(&self.interrupt), self.interrupt.take_save().into()];
            return Ok(self.request(own));
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
        let own = [own_stop(&self.interrupt), self.interrupt.take_save().into(), step_us];
        let exchange = dist::all_reduce_max_async(own, WHAT)?;
        self.pending = Some(Pending { exchange, since: Instant::now(), until });
        self.steps = 0;
        Ok(self.request(result))
    }

    /// Call this after the loop, on all ranks: returns a stop that a signal asked for during the last steps.
    pub fn finish(&mut self) -> Result<Option<SignalRequest>> {
        let Some(Pending { exchange, .. }) = self.pending.take() else { return Ok(None) };
        let [stop, ..] = exchange.wait(WHAT)?;
        let [late] = dist::all_reduce_max([own_stop(&self.interrupt)], WHAT)?;
        Ok(self.request([stop.max(late), 0]))
    }

    /// What the ranks' signals ask for; a stop stops this process too.
    fn request(&mut self, [stop, save]: [i64; 2]) -> Option<SignalRequest> {
        if stop != 0 {
            self.interrupt.stop(stop as i32);
            self.stops = true;
        }
        match (stop, save) {
            (0, 0) => None,
            (0, _) => Some(SignalRequest::Save),
            _ => Some(SignalRequest::Stop),
        }
    }
}

/// The exit code of a signal to this process, or 0.
fn own_stop(interrupt: &Interrupt) -> i64 {
    interrupt.exit_code().unwrap_or(0).into()
}
