//! What surrounds a training loop: the run directory, progress, pictures, event files, signals.

pub mod checkpoints;
pub mod directory;
pub mod log;
pub mod metrics;
pub mod progress;
pub mod signals;
pub mod snapshot;
pub mod tensorboard;

pub use directory::{RunDir, RunInfo, RunState};

/// The present moment in UTC, for example `2026-01-31T12:00:00Z`.
pub fn timestamp() -> String {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a valid nanosecond");
    now.format(&time::format_description::well_known::Rfc3339).expect("a date can be written")
}
