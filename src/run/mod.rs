//! A run, with or without a script: its session, directory, checkpoints, metrics, log, signals and progress.
//!
//! A [`Session`] is a run of one recipe. It owns the [`RunDir`], which is created when something is first written. Each
//! training loop keeps [`Checkpoints`] in it: the newest one is found and its settings compared ([`Settings`]), its
//! tensors restored ([`snapshot`]), new ones written in the background ([`writer`]). When a run is resumed, its scripts
//! are compared first ([`scripts`]); what may change all the same is [`Allowed`].

pub mod allowed;
pub mod checkpoints;
pub mod directory;
pub mod inside;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod numbers;
pub mod pretrained;
pub mod progress;
pub mod schema;
pub mod scripts;
pub mod session;
pub mod settings;
pub mod signal_poll;
pub mod signals;
pub mod snapshot;
pub mod system;
pub mod tensorboard;
pub mod writer;

pub use allowed::Allowed;
pub use checkpoints::{Checkpoints, Moment};
pub use directory::{RunDir, RunInfo};
pub use schema::{CheckpointState, RunFile, RunState};
pub use scripts::Script;
pub use session::Session;
pub use settings::Settings;
pub use snapshot::TrainingState;
pub use writer::CheckpointOptions;
