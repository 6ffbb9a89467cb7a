//! The command line: see `nepa --help`.

fn main() -> std::process::ExitCode {
    nepa::cli::main()
}
