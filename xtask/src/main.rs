//! `cargo xtask`: everything a checkout needs, starting with the first command.
//!
//! Each command sets up libtorch first if needed (see [`libtorch`]) and then hands over to cargo or to `nepa` itself by
//! `exec`, so that signals, exit codes and the terminal are theirs.

#[cfg(not(unix))]
compile_error!(
    "cargo xtask works on Linux and macOS; elsewhere set LIBTORCH to a libtorch 2.11.0 folder and use plain cargo"
);

// One rule for the folder that libtorch and the listings of the program are kept in.
#[path = "../../src/cache.rs"]
mod cache;
mod cargo;
mod commands;
mod docs;
mod fetch;
mod fuzz;
mod gpu_check;
mod host;
mod libtorch;
mod wheel;
mod wheels;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The arguments go on to paths and to other programs; only xtask's own words need to be UTF-8.
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match commands::dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<commands::Usage>() { 2 } else { 1 })
        }
    }
}
