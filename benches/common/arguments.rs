//! A benchmark's command line, and how it ends.

use clap::Parser;
use nepa::error::{Diagnostic, Result};
use std::process::ExitCode;

/// Reads the arguments and runs the benchmark. Wrong arguments end it with exit code 2 and the nearest valid ones, an
/// error with 1.
pub fn main<A: Parser>(run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    // cargo adds `--bench`.
    let arguments = A::parse_from(std::env::args_os().filter(|argument| argument != "--bench"));
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let Diagnostic { message, hint, .. } = Diagnostic::of(&error);
            eprintln!("error: {message}");
            if let Some(hint) = hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
