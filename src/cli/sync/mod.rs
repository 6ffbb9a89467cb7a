//! `nepa sync`: hands runs to the official client of an experiment tracker, in the user's Python.

pub mod beside;
mod client;
pub mod files;
mod lines;
mod state;
mod transfer;

use super::FAILED;
use crate::bail_hint;
use crate::cli::report::is_run;
use crate::error::Result;
use crate::output::to_stderr;
use crate::run::signals::Interrupt;
use crate::script::{Sources, error::ScriptError};
use clap::Args;
use client::Client;
pub use client::To;
use std::path::PathBuf;
use transfer::Transfer;

/// The environment variable that names the Python with the client, and its default.
const PYTHON: &str = "NEPA_PYTHON";
const DEFAULT_PYTHON: &str = "python3";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct SyncArgs {
    /// Run directories. One that was sent before, and perhaps resumed since, goes on as the same run, without repeats.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Whose client gets them.
    #[arg(long, value_name = "CLIENT")]
    to: To,
    /// Goes on until the runs have ended. Ctrl-C ends it earlier.
    #[arg(long)]
    follow: bool,
    /// The project (wandb, trackio), experiment (mlflow) or folder (tensorboard) [default: what the client's own
    /// environment variable says, such as WANDB_PROJECT, else nepa; tensorboard: tensorboard].
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// The run's name there, of one run [default: the name of its directory].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Sends the final model too, as an artifact: the run's folder NAME [default: model, or the only one].
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    model: Option<Option<String>>,
    /// The Python whose environment has the client.
    #[arg(long, value_name = "PROGRAM", env = PYTHON, default_value = DEFAULT_PYTHON)]
    python: PathBuf,
}

const HELP: &str = "The client's own settings hold: WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID, … \
                    What was sent is recorded in the run directory, in sync-CLIENT.json.

Exit code: 0 on success, 1 if something could not be sent, 130 after Ctrl-C.";

/// Sends the runs; gives the exit code.
pub fn sync(args: &SyncArgs) -> Result<u8> {
    if let (Some(name), true) = (&args.name, args.runs.len() > 1) {
        bail_hint!("--name {name}: {} runs are given", args.runs.len(); "name one run at a time");
    }
    if args.model.is_some() && args.to == To::Tensorboard {
        bail_hint!("--model: TensorBoard keeps no models"; "leave it out, or send the run to another client");
    }
    for run in &args.runs {
        is_run(run)?;
    }
    let interrupt = Interrupt::default();
    interrupt.listen()?;
    let mut client = Client::start(&args.python, args.to)?;
    if !args.follow || args.runs.len() == 1 {
        for run in &args.runs {
            Transfer::start(args, run, &mut client, &interrupt)?.send()?;
        }
    } else if !follow_all(args, &interrupt) {
        return Ok(FAILED);
    }
    Ok(interrupt.exit_code().map_or(0, |code| code as u8))
}

/// Follows several runs at once, each with a client of its own. Whether all could be sent; errors are told at once.
fn follow_all(args: &SyncArgs, interrupt: &Interrupt) -> bool {
    let follow = |run| -> Result<()> {
        let mut client = Client::start(&args.python, args.to)?;
        Transfer::start(args, run, &mut client, interrupt)?.send()
    };
    let told = |run| {
        let followed = follow(run);
        if let Err(e) = &followed {
            to_stderr(&ScriptError::of_rust(e).render(&Sources::new(None)));
        }
        followed.is_ok()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = args.runs.iter().map(|run| scope.spawn(move || told(run))).collect();
        let sent: Vec<bool> = threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
        !sent.contains(&false)
    })
}
