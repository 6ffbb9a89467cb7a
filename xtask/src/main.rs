//! `cargo xtask`: everything a checkout needs, from the first command on.
//!
//! Each command makes sure of libtorch first (see [`libtorch`]) and then hands over to cargo or to `nepa` itself
//! by `exec`, so that signals, exit codes and the terminal are theirs.

#[cfg(not(unix))]
compile_error!(
    "cargo xtask works on Linux and macOS; elsewhere set LIBTORCH to a libtorch 2.11.0 folder and use plain cargo"
);

// One rule for the folder that libtorch and the listings of the program are kept in.
#[path = "../../src/cache.rs"]
mod cache;
mod commands;
mod fetch;
mod host;
mod libtorch;
mod wheels;

use std::process::ExitCode;

/// A mistake on the command line: told without a chain of causes, exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    // The arguments go on to paths and to other programs; only xtask's own words need to be UTF-8.
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match commands::dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
