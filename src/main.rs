//! The command line: see `nepa --help`.

fn main() -> std::process::ExitCode {
    nepa::cli::main()
}

/// SIGUSR1 asks a run for a checkpoint, and would end a process that does not listen for it yet. So it is ignored until
/// then, from before libtorch is initialised: the loader calls this first.
#[used]
#[cfg(target_os = "linux")]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_ALL: extern "C" fn() = nepa::cli::ignore_save_requests;
