//! The sub-commands.

use crate::{
    cargo::{self, project},
    docs, fuzz, gpu_check, host,
    libtorch::{self, Want},
    wheel,
    wheels::Variant,
};
use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// A mistake on the command line: shown without a chain of causes, exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

const HELP: &str = "\
Usage: cargo xtask <command> [arguments]

Commands:
  run RECIPE [ARGS…]      build nepa (release) and run a recipe: `nepa run RECIPE ARGS…`
  test [ARGS…]            run all tests: `cargo test --workspace ARGS…`
  bench [NAME [ARGS…]]    run one benchmark; without a name, list them
  fuzz [TARGET]           give damaged files to the readers of files, for a while
  soak [PARTS…]           attack runs for hours: kill them, damage their files, let their system calls fail
  gpu-check               find out in minutes what nepa does on this machine's GPU, and write a report
  setup [--cuda]          set up libtorch, for the CPU or for CUDA (on first use, the CPU's is set up automatically)
  install [--to DIR]      build nepa (release) and copy it to cargo's bin folder, or to DIR
  wheel [--to DIR]        build nepa (release) and pack it as a Python wheel
  docs                    make a book of docs/ and the reference: target/book/index.html
  help                    show this text; `cargo xtask <command> --help` says more

The first command fetches libtorch into a cache that all clones share: $NEPA_CACHE, else the user's cache folder.
To use your own libtorch set LIBTORCH, or LIBTORCH_USE_PYTORCH=1 for an installed PyTorch.
";

const RUN: &str = "\
Usage: cargo xtask run RECIPE [ARGS…]

Sets up libtorch if needed, builds nepa in release mode and replaces itself with `nepa run RECIPE ARGS…` in the
current folder. `cargo xtask run -- --help` shows nepa's own help for `run`.
";

const TEST: &str = "\
Usage: cargo xtask test [--simulated-cuda] [ARGS…]

Sets up libtorch if needed and runs `cargo test --workspace ARGS…` (without --workspace if ARGS choose a package).

  --simulated-cuda  the tests of the program (`--test it`) with their runs on a CUDA device that is simulated on the CPU
                    (tests/simulated-cuda/README.md)
";

const BENCH: &str = "\
Usage: cargo xtask bench [NAME [ARGS…]]

Sets up libtorch if needed and runs `cargo bench --bench NAME -- ARGS…`. Without a name, lists the benchmarks.
";

const SOAK: &str = "\
Usage: cargo xtask soak [PARTS…] [--seed N] [--scale X] [--only TEXT] [--jobs N]

Sets up libtorch if needed and attacks runs of nepa (release build) for hours; all parts, or those named:

  kills     1,000 SIGKILLs at random moments of pretraining, fine-tuning, evaluation and two processes, each resumed
  damage    every file of a checkpoint damaged at 200 places
  steps     20,000 steps with constant memory, open files and threads
  faults    every system call on a run's files fails in turn, or the run is killed at it
  gpu       a simulated GPU's memory runs out at every allocation of a run, and it is lost at every launch

  --scale X    do so much of it, for example 0.01
  --seed N     choose other moments and places; 0 unless given
  --only TEXT  only lines of the table that have this text, such as ENOSPC
  --jobs N     so many runs at the same time; as many as there are cores unless given

A table at the end says how many attacks there were, and how many the runs survived. Exit code 1 if not all.
";

const SETUP: &str = "\
Usage: cargo xtask setup [--cuda]

Fetches libtorch 2.11.0 with `python3 -m pip download` into the cache that all clones share ($NEPA_CACHE, else the
user's cache folder), checks it, and links it as .libtorch, where plain cargo commands find it.

  --cuda    the build for NVIDIA GPUs with all its libraries (a download of more than 2 GB); the CPU's otherwise.
            Later commands keep using what is set up here.

With LIBTORCH or LIBTORCH_USE_PYTORCH set, only checks what they point at.
";

const INSTALL: &str = "\
Usage: cargo xtask install [--to DIR]

Sets up libtorch if needed, builds nepa in release mode and copies it to DIR, or to cargo's bin folder. The copy
works from anywhere; it uses libtorch where it is now, in the cache.
";

const COMMANDS: [&str; 11] =
    ["run", "test", "bench", "fuzz", "soak", "gpu-check", "setup", "install", "wheel", "docs", "help"];

type Action = fn(&[OsString]) -> Result<ExitCode>;

pub fn dispatch(args: &[OsString]) -> Result<ExitCode> {
    let (name, rest) = match args.split_first() {
        Some((name, rest)) => (name.to_string_lossy().into_owned(), rest),
        None => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let (command, help): (Action, _) = match name.as_str() {
        "run" => (run, RUN),
        "test" => (test, TEST),
        "bench" => (bench, BENCH),
        "fuzz" => (fuzz::fuzz, fuzz::HELP),
        "soak" => (soak, SOAK),
        "gpu-check" => (gpu_check::gpu_check, gpu_check::HELP),
        "setup" => (setup, SETUP),
        "install" => (install, INSTALL),
        "wheel" => (wheel::wheel, wheel::HELP),
        "docs" => (docs::docs, docs::HELP),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        _ => {
            let kind = if name.starts_with('-') { "option" } else { "command" };
            bail!(unknown(kind, &name, &COMMANDS, "cargo xtask help"));
        }
    };
    // Only in first place: further on it may be meant for the recipe, for cargo or for the benchmark.
    if rest.first().is_some_and(|a| a == "--help" || a == "-h") {
        print!("{help}");
        return Ok(ExitCode::SUCCESS);
    }
    command(rest)
}

fn run(args: &[OsString]) -> Result<ExitCode> {
    let args = args.strip_prefix(&[OsString::from("--")]).unwrap_or(args);
    if args.is_empty() {
        bail!(Usage("no recipe given, as in `cargo xtask run recipes/quickstart.rhai`".into()));
    }
    let project = project();
    libtorch::ensure(&project, Want::Linked)?;
    match cargo::build_nepa(&project)? {
        Ok(nepa) => {
            let mut command = Command::new(nepa);
            host::clean_env(&mut command, &project);
            exec(command.arg("run").args(args))
        }
        Err(code) => Ok(code),
    }
}

fn test(args: &[OsString]) -> Result<ExitCode> {
    let project = project();
    libtorch::ensure(&project, Want::Linked)?;
    if let Some((first, rest)) = args.split_first()
        && first == "--simulated-cuda"
    {
        return test_on_simulated_cuda(&project, rest);
    }
    let chosen = args.iter().take_while(|a| *a != "--").any(|a| {
        let a = a.to_string_lossy();
        // `-p NAME`, `-pNAME`, `--package NAME`, `--package=NAME`
        (a.starts_with("-p") || a == "--package" || a.starts_with("--package=")) || a == "--workspace"
    });
    let mut command = cargo::command(&project);
    command.arg("test");
    if !chosen {
        command.arg("--workspace");
    }
    // Many tests wait for other processes: one more at a time keeps the cores busy.
    if env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        command.env("RUST_TEST_THREADS", (cores + cores.div_ceil(2)).to_string());
    }
    exec(command.args(args))
}

/// Tests that compare CUDA with the CPU are left out, since they choose the device themselves.
fn test_on_simulated_cuda(project: &Path, args: &[OsString]) -> Result<ExitCode> {
    let mut command = cargo::command(project);
    command.args(["test", "--test", "it"]).env("NEPA_TEST_DEVICE", "cuda").args(args);
    if !args.iter().any(|arg| arg == "--") {
        command.arg("--");
    }
    // The simulation's own tests are in the plain suite; what takes minutes is here.
    exec(command.args(["--include-ignored", "--skip", "simulated_"]))
}

fn bench(args: &[OsString]) -> Result<ExitCode> {
    let project = project();
    let names = benches(&project);
    let list = if names.is_empty() { "there are none".to_string() } else { names.join(", ") };
    let Some((name, rest)) = args.split_first() else {
        println!("Benchmarks: {list}");
        return Ok(ExitCode::SUCCESS);
    };
    let name = name.to_string_lossy();
    if !names.iter().any(|n| *n == name) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        bail!(Usage(format!("no benchmark `{name}`{}. Benchmarks: {list}", did_you_mean(&name, &names))));
    }
    libtorch::ensure(&project, Want::Linked)?;
    let rest = rest.strip_prefix(&[OsString::from("--")]).unwrap_or(rest);
    exec(cargo::command(&project).args(["bench", "--bench", &*name, "--"]).args(rest))
}

fn soak(args: &[OsString]) -> Result<ExitCode> {
    let project = project();
    libtorch::ensure(&project, Want::Linked)?;
    exec(cargo::command(&project).args(["test", "--release", "--test", "soak", "--"]).args(args))
}

fn setup(args: &[OsString]) -> Result<ExitCode> {
    let mut variant = Variant::Cpu;
    for arg in args {
        match arg.to_string_lossy().as_ref() {
            "--cuda" => variant = Variant::Cuda,
            "--help" | "-h" => {
                print!("{SETUP}");
                return Ok(ExitCode::SUCCESS);
            }
            other => bail!(unknown("argument", other, &["--cuda", "--help"], "cargo xtask setup --help")),
        }
    }
    println!("{}", libtorch::ensure(&project(), Want::Exactly(variant))?);
    Ok(ExitCode::SUCCESS)
}

fn install(args: &[OsString]) -> Result<ExitCode> {
    let mut folder = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if text == "--to" {
            folder = Some(args.next().filter(|a| !a.is_empty()).map(PathBuf::from).ok_or_else(no_folder)?);
        } else if let Some(path) = text.strip_prefix("--to=") {
            folder = Some(Some(path).filter(|p| !p.is_empty()).map(PathBuf::from).ok_or_else(no_folder)?);
        } else if text == "--help" || text == "-h" {
            print!("{INSTALL}");
            return Ok(ExitCode::SUCCESS);
        } else {
            bail!(unknown("argument", &text, &["--to", "--help"], "cargo xtask install --help"));
        }
    }
    let folder = match folder {
        Some(folder) => std::path::absolute(folder)?,
        None => match (env::var_os("CARGO_HOME"), env::home_dir()) {
            (Some(home), _) if !home.is_empty() => std::path::absolute(home)?.join("bin"),
            (_, Some(home)) => home.join(".cargo/bin"),
            _ => bail!("neither CARGO_HOME nor HOME is set; say where to install with --to DIR"),
        },
    };

    let project = project();
    libtorch::ensure(&project, Want::Linked)?;
    let built = match cargo::build_nepa(&project)? {
        Ok(built) => built,
        Err(code) => return Ok(code),
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Copied beside the target, then renamed: nobody ever sees half a binary, and a running nepa is not disturbed.
    let (target, copy) = (folder.join("nepa"), folder.join(format!(".nepa-{}", std::process::id())));
    if let Err(error) = fs::copy(&built, &copy).and_then(|_| fs::rename(&copy, &target)) {
        let _ = fs::remove_file(&copy);
        return Err(error).with_context(|| {
            format!("cannot write {}; `cargo xtask install --to DIR` installs elsewhere", target.display())
        });
    }
    println!("Installed {}", target.display());
    let on_path = |dir: PathBuf| dir == folder || same_folder(&dir, &folder);
    match env::var_os("PATH") {
        Some(path) if env::split_paths(&path).any(on_path) => {
            println!("Its folder is on PATH: start it as `nepa`.")
        }
        _ => println!(
            "Its folder is not on PATH: start it by its full name, or add the folder with\n  export PATH=\"{}:$PATH\"",
            folder.display()
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn no_folder() -> Usage {
    Usage("--to needs a folder".into())
}

fn same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn exec(command: &mut Command) -> Result<ExitCode> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))
}

/// The names of `benches/NAME.rs` and `benches/NAME/main.rs`, sorted.
fn benches(project: &Path) -> Vec<String> {
    let entries = fs::read_dir(project.join("benches")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let found = path.extension() == Some(OsStr::new("rs")) || path.join("main.rs").is_file();
            found.then(|| path.file_stem().map(|s| s.to_string_lossy().into_owned())).flatten()
        })
        .collect();
    names.sort();
    names
}

pub fn unknown(kind: &str, name: &str, known: &[&str], help: &str) -> Usage {
    Usage(format!("unknown {kind} `{name}`{}; see `{help}`", did_you_mean(name, known)))
}

fn did_you_mean(name: &str, known: &[&str]) -> String {
    let distance = |k: &&&str| strsim::damerau_levenshtein(name, k);
    match known.iter().min_by_key(distance) {
        // A third of the letters may differ, and at least two.
        Some(near) if distance(&near) <= (near.len() / 3).max(2) => {
            format!(" (did you mean `{near}`?)")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_far_ones_not() {
        assert_eq!(did_you_mean("tset", &COMMANDS), " (did you mean `test`?)");
        assert_eq!(did_you_mean("--cdua", &["--cuda", "--help"]), " (did you mean `--cuda`?)");
        assert_eq!(did_you_mean("frobnicate", &COMMANDS), "");
    }
}
