//! The command line: see `nepa --help`.

use std::ffi::{c_char, c_int};

fn main() {
    nepa::cli::main()
}

/// The loader calls this first.
#[used]
#[cfg(target_os = "linux")]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_MAIN: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) = nepa::cli::before_main;
