//! `nepa run`

use super::{Cli, FAILED, RunArgs};
use crate::device;
use crate::error::Result;
use crate::script::error::Report;
use crate::script::{Checked, Declared, Failure, Host, Params, Session, type_of};
use crate::train::signals::Interrupt;
use crate::train::{RunInfo, RunState};
use clap::CommandFactory;
use std::path::Path;

pub fn run(args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> u8 {
    shorten_openmp_spin();
    let interrupt = match Interrupt::listen() {
        Ok(interrupt) => interrupt,
        Err(e) => return fail(&Report::of_rust(&e), None),
    };
    let host = host(interrupt);
    let recipe = args.recipe.clone().expect("checked by the caller");

    let ast = match host.compile(&recipe) {
        Ok(ast) => ast,
        Err(report) => return fail(&report, Some(&host)),
    };
    let checked = match host.check(&ast, &recipe) {
        Ok(checked) => checked,
        Err(report) => return fail(&report, Some(&host)),
    };
    if args.help {
        print_help(&recipe, &host, &checked.params);
        return 0;
    }
    // A typo on the last line is told before the first step, not after the last.
    if !checked.problems.is_empty() {
        for problem in &checked.problems {
            eprint!("{}", host.render_problem(problem));
        }
        return FAILED;
    }
    if let Err(e) = start(&args, &recipe, &host, &checked) {
        return fail(&Report::of_rust(&e), Some(&host));
    }

    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.run(&ast, &recipe)));
    let (code, state, error) = match result {
        Ok(Ok(())) => (0, RunState::Finished, None),
        Ok(Err(Failure::Error(report))) => {
            eprint!("{}", report.render(&host.sources));
            (FAILED, RunState::Failed, Some(report.message))
        }
        Ok(Err(Failure::Interrupted(code))) => (code as u8, RunState::Interrupted, None),
        Err(_) => (70, RunState::Failed, Some("internal fault".to_string())),
    };
    let ended = Session::end(state, error.as_deref());
    match (state, ended) {
        (_, Err(e)) => return fail(&Report::of_rust(&e), Some(&host)).max(code),
        (RunState::Interrupted, Ok(Some(dir))) => eprintln!("interrupted; what was saved is in {}", dir.display()),
        (RunState::Interrupted, Ok(None)) => eprintln!("interrupted"),
        (_, Ok(Some(dir))) => eprintln!("run directory: {}", dir.display()),
        (_, Ok(None)) => {}
    }
    code
}

/// libtorch's OpenMP threads wait for each other by spinning, long enough that two busy processes on
/// one machine slow each other down many times. libgomp reads how long when it is loaded, so the
/// process starts itself once more with a short spin, unless the user has chosen one.
#[cfg(target_os = "linux")]
fn shorten_openmp_spin() {
    use std::os::unix::process::CommandExt;
    const SPIN: &str = "GOMP_SPINCOUNT";
    if std::env::var_os(SPIN).is_some() || std::env::var_os("OMP_WAIT_POLICY").is_some() {
        return;
    }
    let mut args = std::env::args_os();
    if let (Ok(nepa), Some(name)) = (std::env::current_exe(), args.next()) {
        // Returns only where it fails; then the run goes on as it is.
        let _ = std::process::Command::new(nepa).arg0(name).args(args).env(SPIN, "1000").exec();
    }
}

#[cfg(not(target_os = "linux"))]
fn shorten_openmp_spin() {}

fn fail(report: &Report, host: Option<&Host>) -> u8 {
    let none = crate::script::Sources::new(None);
    eprint!("{}", report.render(host.map_or(&none, |h| &h.sources)));
    FAILED
}

/// Chooses device, threads, seed and parameters.
fn start(args: &RunArgs, recipe: &Path, host: &Host, checked: &Checked) -> Result<()> {
    let params = Params::new(&args.set, &checked.params)?;
    let device = match &args.device {
        Some(name) => device::parse(name)?,
        None => device::parse("cuda").unwrap_or(tch::Device::Cpu),
    };
    let threads = match args.threads {
        Some(n) => n as usize,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    device::set(device, threads)?;
    crate::random::set_seed(args.seed);
    let info = RunInfo {
        recipe: recipe.to_path_buf(),
        source: host.sources.text(&recipe.display().to_string()).unwrap_or_default(),
        params: serde_json::Map::new(),
        seed: args.seed,
        device: device::name(device),
        threads,
        command: std::env::args().collect(),
    };
    Session::start(info, args.out.clone(), params)?;
    let plural = if threads == 1 { "" } else { "s" };
    eprintln!(
        "nepa {}: {} on {}, {threads} thread{plural}, seed {}",
        env!("CARGO_PKG_VERSION"),
        recipe.display(),
        device::name(device),
        args.seed
    );
    Ok(())
}

fn print_help(recipe: &Path, host: &Host, declared: &[Declared]) {
    let text = host.sources.text(&recipe.display().to_string()).unwrap_or_default();
    let header: Vec<&str> = text
        .lines()
        .take_while(|line| line.starts_with("//"))
        .map(|line| line.trim_start_matches('/').trim_start_matches('!').strip_prefix(' ').unwrap_or(""))
        .collect();
    if !header.is_empty() {
        out!("{}\n", header.join("\n").trim_end());
    }
    if declared.is_empty() {
        out!("The recipe declares no parameters.\n");
    } else {
        out!("Parameters of {} (--set KEY=VALUE):", recipe.display());
        let typed = |d: &Declared| match &d.default {
            Some(default) => format!("{}: {}", d.name, type_of(default)),
            None => d.name.clone(),
        };
        let width = declared.iter().map(|d| typed(d).len()).max().unwrap_or(0);
        for d in declared {
            let default = match &d.default {
                Some(default) if default.is_unit() => "(must be given)".to_string(),
                _ => format!("= {}", d.default_text),
            };
            out!("  {:<width$}  {default}", typed(d));
            if !d.doc.is_empty() {
                out!("  {:<width$}    {}", "", d.doc);
            }
        }
        out!();
    }
    let mut command = Cli::command();
    let run = command.find_subcommand_mut("run").expect("declared in cli").clone().bin_name("nepa run");
    out!("{}", run.mut_arg("recipe", |a| a.hide(true)).render_help());
}
