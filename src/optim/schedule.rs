//! Learning-rate schedules, step by step as the reference's (Hugging Face's cosine, and the
//! layer-wise ones of its `schedulers.py`).

use crate::error::{Result, ensure};
use crate::{choices, options};

options! {
    /// The shape of a schedule.
    pub struct ScheduleOptions {
        /// Peak learning rate.
        lr: f64 = 1.0,
        /// Total steps of the run.
        total_steps: i64 = 0,
        /// Steps of linear warm-up from 0.
        warmup_steps: i64 = 0,
        /// Learning rate at the end ("cosine" only), as timm's min_lr and Hugging Face's cosine_with_min_lr.
        min_lr: f64 = 0.0,
        /// Layer-wise decay: a group with power p gets the rate times llrd^p.
        llrd: f64 = 1.0,
        /// Final value of llrd, reached along a cosine (llrd_cosine only); () keeps llrd constant.
        llrd_end: Option<f64> = None,
        /// Steps between two decays ("step" only).
        step_size: Option<i64> = None,
        /// Factor of each decay ("step" only).
        gamma: Option<f64> = None,
        /// Steps of the decay at the end ("warmup_stable_decay" only); () means a fifth of all.
        decay_steps: Option<i64> = None,
    }
}

choices! {
    /// The shape of a schedule.
    pub enum ScheduleKind {
        /// Linear warm-up, then half a cosine to 0, or to min_lr.
        Cosine = "cosine",
        /// Linear warm-up, then the peak.
        Constant = "constant",
        /// Linear warm-up, then a line to 0.
        Linear = "linear",
        /// Linear warm-up, then times gamma after each step_size steps.
        Step = "step",
        /// Linear warm-up, then the peak, and a line to 0 over the last decay_steps.
        WarmupStableDecay = "warmup_stable_decay",
        /// A cosine schedule times llrd^power, the layer-wise decay; each layer warms up alike.
        LlrdCosine = "llrd_cosine",
        /// A cosine schedule times llrd^power, where groups with smaller factors warm up longer.
        LlrdCosineWarmup = "llrd_cosine_warmup",
    }
}

/// Learning rates by step.
#[derive(Debug, Clone)]
pub struct Schedule {
    kind: ScheduleKind,
    options: ScheduleOptions,
}

impl Schedule {
    /// A schedule, its options checked.
    pub fn new(kind: ScheduleKind, options: &ScheduleOptions) -> Result<Self> {
        let o = options;
        ensure!(o.total_steps > 0, "a schedule needs total_steps > 0, found {}", o.total_steps);
        ensure!(
            (0..=o.total_steps).contains(&o.warmup_steps),
            "warmup_steps must lie in 0..=total_steps ({}), found {}",
            o.total_steps,
            o.warmup_steps
        );
        ensure!(o.lr >= 0.0 && o.llrd >= 0.0, "lr and llrd must not be negative, found {} and {}", o.lr, o.llrd);
        ensure!(o.min_lr == 0.0 || kind == ScheduleKind::Cosine, "min_lr belongs to the schedule \"cosine\"");
        ensure!((0.0..=o.lr).contains(&o.min_lr), "min_lr must lie in 0..=lr ({}), found {}", o.lr, o.min_lr);
        ensure!(
            kind != ScheduleKind::Cosine || (o.llrd == 1.0 && o.llrd_end.is_none()),
            "cosine has no layer-wise decay: use optim::llrd_cosine or optim::llrd_cosine_warmup"
        );
        ensure!(kind == ScheduleKind::LlrdCosine || o.llrd_end.is_none(), "llrd_end belongs to optim::llrd_cosine");
        ensure!(
            o.llrd_end.is_none_or(|end| end >= 0.0),
            "llrd_end must not be negative, found {}",
            o.llrd_end.unwrap()
        );
        ensure!(
            kind == ScheduleKind::Step || (o.step_size.is_none() && o.gamma.is_none()),
            "step_size and gamma belong to the schedule \"step\""
        );
        ensure!(
            kind != ScheduleKind::Step || o.step_size.is_some_and(|size| size > 0),
            "the schedule \"step\" needs step_size, the steps between two decays"
        );
        ensure!(o.gamma.is_none_or(|gamma| gamma >= 0.0), "gamma must not be negative, found {}", o.gamma.unwrap());
        ensure!(
            kind == ScheduleKind::WarmupStableDecay || o.decay_steps.is_none(),
            "decay_steps belongs to the schedule \"warmup_stable_decay\""
        );
        let free = o.total_steps - o.warmup_steps;
        ensure!(
            o.decay_steps.is_none_or(|steps| (0..=free).contains(&steps)),
            "decay_steps must lie in 0..={free}, the steps after the warm-up, found {}",
            o.decay_steps.unwrap()
        );
        Ok(Self { kind, options: o.clone() })
    }

    /// A short text for printing.
    pub fn describe(&self) -> String {
        let o = &self.options;
        format!(
            "{}(lr {:e}, {} steps, {} warm-up)",
            ScheduleKind::NAMES[self.kind as usize],
            o.lr,
            o.total_steps,
            o.warmup_steps
        )
    }

    /// The learning rate of update `step` (0 is the first) for a group of the given llrd power.
    pub fn at(&self, step: i64, llrd_power: i64) -> f64 {
        let o = &self.options;
        if step < 0 {
            return 0.0;
        }
        let (step_f, total) = (step as f64, o.total_steps as f64);
        let llrd = match o.llrd_end {
            Some(end) => o.llrd + (end - o.llrd) * 0.5 * (1.0 - (std::f64::consts::PI * step_f / total).cos()),
            None => o.llrd,
        };
        let factor = llrd.powf(llrd_power as f64);
        let warmup = match self.kind {
            ScheduleKind::LlrdCosineWarmup if o.warmup_steps == 0 => 0,
            ScheduleKind::LlrdCosineWarmup => {
                // Python's round: halves go to the even neighbour.
                let shorter = (o.warmup_steps as f64 * factor.min(1.0)).round_ties_even() as i64;
                (o.warmup_steps - shorter.clamp(0, o.warmup_steps)).clamp(1, o.total_steps)
            }
            _ => o.warmup_steps,
        };
        if step < warmup {
            return o.lr * factor * (step_f / warmup.max(1) as f64);
        }
        let progress = (step - warmup) as f64 / (o.total_steps - warmup).max(1) as f64;
        let cosine = |progress: f64| (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0);
        o.lr * factor
            * match self.kind {
                // Hugging Face's rises again after the last step; the reference's layer-wise ones end at 0.
                ScheduleKind::Cosine if o.min_lr == 0.0 => cosine(progress),
                ScheduleKind::Cosine => {
                    let least = o.min_lr / o.lr;
                    least + (1.0 - least) * cosine(progress.min(1.0))
                }
                ScheduleKind::LlrdCosine | ScheduleKind::LlrdCosineWarmup if step >= o.total_steps => 0.0,
                ScheduleKind::LlrdCosine | ScheduleKind::LlrdCosineWarmup => cosine(progress.clamp(0.0, 1.0)),
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => (1.0 - progress).max(0.0),
                ScheduleKind::Step => {
                    let decays = (step - warmup) / o.step_size.unwrap_or(o.total_steps).max(1);
                    o.gamma.unwrap_or(0.1).powf(decays as f64)
                }
                ScheduleKind::WarmupStableDecay => {
                    let decay = o.decay_steps.unwrap_or((o.total_steps / 5).min(o.total_steps - warmup));
                    let left = (o.total_steps - step) as f64 / decay.max(1) as f64;
                    left.clamp(0.0, 1.0)
                }
            }
    }
}
