//! `nepa run`

use super::{Cli, FAILED, RunArgs};
use crate::bail_hint;
use crate::device;
use crate::error::Result;
use crate::script::error::Report;
use crate::script::{Checked, Declared, Failure, Host, Params, Session, type_of};
use crate::train::signals::Interrupt;
use crate::train::{RunInfo, RunState, run_dir};
use clap::CommandFactory;
use std::path::{Path, PathBuf};

pub fn run(mut args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> u8 {
    shorten_openmp_spin();
    if let Err(e) = take_over(&mut args) {
        return fail(&Report::of_rust(&e), None);
    }
    let interrupt = match Interrupt::listen() {
        Ok(interrupt) => interrupt,
        Err(e) => return fail(&Report::of_rust(&e), None),
    };
    let host = host(interrupt.clone());
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
    if let Err(e) = start(&args, &recipe, &host, &checked, interrupt) {
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
    let dir = ended.as_ref().ok().cloned().flatten();
    match (state, ended) {
        (_, Err(e)) => return fail(&Report::of_rust(&e), Some(&host)).max(code),
        (RunState::Interrupted, Ok(Some(dir))) => eprintln!("interrupted; what was saved is in {}", dir.display()),
        (RunState::Interrupted, Ok(None)) => eprintln!("interrupted"),
        (_, Ok(Some(dir))) => eprintln!("run directory: {}", dir.display()),
        (_, Ok(None)) => {}
    }
    if let Some(dir) = dir.filter(|dir| state != RunState::Finished && !run_dir::all_checkpoints(dir).is_empty()) {
        eprintln!("to go on from its last checkpoint: {}", resuming_command(&args, &recipe, &dir));
    }
    code
}

/// Where a run is resumed: finds its directory, and takes over the parameters and the seed that it was given.
fn take_over(args: &mut RunArgs) -> Result<()> {
    let Some(resume) = args.resume.take() else { return Ok(()) };
    let dir = match (resume, &args.out, &args.recipe) {
        (Some(dir), Some(out), _) if dir != *out => bail_hint!(
            "--resume {} and --out {} are two directories", dir.display(), out.display();
            "a run goes on in its own directory: give --resume alone"
        ),
        (Some(dir), ..) => dir,
        (None, Some(out), _) => out.clone(),
        (None, None, Some(recipe)) => run_dir::newest_of(recipe)?,
        (None, None, None) => unreachable!("checked by the caller"),
    };
    run_dir::known_run(&dir)?;
    let info = run_dir::read_info(&dir)?;
    match &args.recipe {
        Some(recipe) => run_dir::same_recipe(&dir, &info, recipe)?,
        None => args.recipe = info["recipe"].as_str().map(PathBuf::from),
    }
    let given = |key: &str, args: &RunArgs| args.set.iter().any(|(k, _)| k == key);
    for (key, value) in info["set"].as_object().into_iter().flatten() {
        if let (Some(value), false) = (value.as_str(), given(key, args)) {
            args.set.push((key.clone(), value.to_string()));
        }
    }
    args.seed = args.seed.or(info["seed"].as_u64());
    args.out = Some(dir);
    args.resume = Some(None);
    Ok(())
}

/// The command that goes on with a run.
fn resuming_command(args: &RunArgs, recipe: &Path, dir: &Path) -> String {
    let quoted = |word: String| match word.chars().all(|c| c.is_alphanumeric() || "-_./:=+,@%".contains(c)) {
        true => word,
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let mut words = vec!["nepa".to_string(), "run".into(), quoted(recipe.display().to_string())];
    words.extend(["--resume".into(), quoted(dir.display().to_string())]);
    if let Some(device) = &args.device {
        words.extend(["--device".into(), quoted(device.clone())]);
    }
    if let Some(threads) = args.threads {
        words.extend(["--threads".into(), threads.to_string()]);
    }
    words.join(" ")
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
fn start(args: &RunArgs, recipe: &Path, host: &Host, checked: &Checked, interrupt: Interrupt) -> Result<()> {
    let seed = args.seed.unwrap_or(0);
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
    crate::random::set_seed(seed);
    let info = RunInfo {
        recipe: recipe.to_path_buf(),
        source: host.sources.text(&recipe.display().to_string()).unwrap_or_default(),
        set: args.set.clone(),
        params: serde_json::Map::new(),
        seed,
        device: device::name(device),
        threads,
        command: std::env::args().collect(),
    };
    Session::start(info, args.out.clone(), args.resume.is_some(), params, interrupt)?;
    let plural = if threads == 1 { "" } else { "s" };
    crate::train::progress::note_line(&format!(
        "nepa {}: {} on {}, {threads} thread{plural}, seed {}",
        env!("CARGO_PKG_VERSION"),
        recipe.display(),
        device::name(device),
        seed
    ));
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
