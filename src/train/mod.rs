//! What surrounds a training loop: the run directory, progress, pictures, event files, signals.

pub mod contact_sheet;
pub mod journal;
pub mod metrics;
pub mod plot;
pub mod progress;
pub mod run_dir;
pub mod saver;
pub mod signals;
pub mod tensorboard;

pub use run_dir::{RunDir, RunInfo, RunState};

/// The present moment in UTC, for example `2026-01-31T12:00:00Z`.
pub fn timestamp() -> String {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a valid nanosecond");
    now.format(&time::format_description::well_known::Rfc3339).expect("a date can be written")
}
