//! `nepa run`

use super::{Cli, FAILED, RunArgs, launcher};
use crate::bail_hint;
use crate::device;
use crate::dist::{self, ClusterEnvironment, Hooks, RankFacts, Rendezvous};
use crate::error::Result;
use crate::run::checkpoints::wait_for_writers;
use crate::run::progress::note_line;
use crate::run::signals::Interrupt;
use crate::run::{RunInfo, RunState, directory};
use crate::script::error::Report;
use crate::script::{Checked, Declared, Failure, Host, Params, Session, type_of};
use clap::CommandFactory;
use rhai::AST;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn run(mut args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> u8 {
    if let Some(nproc) = args.nproc
        && !args.help
    {
        return match launcher::launch(nproc.into()) {
            Ok(code) => code,
            Err(e) => fail(&Report::of_rust(&e), None),
        };
    }
    shorten_openmp_spin();
    let listening = Interrupt::listen();
    launcher::end_with_launcher();
    let interrupt = match listening {
        Ok(interrupt) => interrupt,
        Err(e) => return fail(&Report::of_rust(&e), None),
    };
    let host = host(interrupt.clone());
    if args.help {
        return help(&args, &host);
    }
    let mut rendezvous = match open_rendezvous(&args) {
        Ok(rendezvous) => rendezvous,
        Err(e) => return fail(&Report::of_rust(&e), None),
    };
    let prepared = prepare(&mut args, &host);
    // Whatever is wrong in one process, the others are told.
    let agreed = rendezvous.as_mut().map_or(Ok(true), |rendezvous| rendezvous.compare(about(&args, &host, &prepared)));
    let prepared = match (prepared, agreed) {
        (Err(text), agreed) => {
            if agreed.unwrap_or(true) {
                eprint!("{}{text}", dist::rank_prefix());
            }
            return FAILED;
        }
        (Ok(_), Err(e)) => return fail(&Report::of_rust(&e), None),
        (Ok(prepared), Ok(_)) => prepared,
    };
    if let Err(e) = start(args.clone(), rendezvous, &host, &prepared, interrupt.clone()) {
        let report = Report::of_rust(&e);
        let speaks = dist::report_failure(&report.message);
        return if speaks { fail(&report, Some(&host)) } else { FAILED };
    }

    let Prepared { recipe, ast, .. } = &prepared;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.run(ast, recipe)));
    let (code, state, error) = match result {
        Ok(Ok(())) => (0, RunState::Finished, None),
        // What the others say of a process that a signal ended is not the cause.
        Ok(Err(Failure::Error(_))) if dist::lost_exited_peer() && interrupt.exit_code().is_some() => {
            (interrupt.exit_code().unwrap_or_default() as u8, RunState::Interrupted, None)
        }
        Ok(Err(Failure::Error(report))) => {
            if dist::report_failure(&report.message) {
                eprint!("{}{}", dist::rank_prefix(), report.render(&host.sources));
            }
            (FAILED, RunState::Failed, Some(report.message))
        }
        Ok(Err(Failure::Interrupted(code))) => (code as u8, RunState::Interrupted, None),
        Err(_) => {
            dist::report_failure("internal fault");
            (70, RunState::Failed, Some("internal fault".to_string()))
        }
    };
    let ended = Session::end(state, error.as_deref());
    if state != RunState::Failed {
        dist::shutdown(state == RunState::Interrupted);
    }
    if !dist::is_rank0() {
        return code;
    }
    let dir = ended.as_ref().ok().cloned().flatten();
    match (state, ended) {
        (_, Err(e)) => return fail(&Report::of_rust(&e), Some(&host)).max(code),
        (RunState::Interrupted, Ok(Some(dir))) => eprintln!("interrupted; what was saved is in {}", dir.display()),
        (RunState::Interrupted, Ok(None)) => eprintln!("interrupted"),
        (_, Ok(Some(dir))) => eprintln!("run directory: {}", dir.display()),
        (_, Ok(None)) => {}
    }
    if let Some(dir) = dir.filter(|dir| state != RunState::Finished && !directory::all_checkpoints(dir).is_empty()) {
        eprintln!("to go on from its last checkpoint: {}", resuming_command(&args, recipe, &dir));
    }
    code
}

/// A recipe that is ready to be run.
struct Prepared {
    recipe: PathBuf,
    ast: AST,
    checked: Checked,
    device: tch::Device,
}

/// Finds the other processes, where there are some.
fn open_rendezvous(args: &RunArgs) -> Result<Option<Rendezvous>> {
    let Some(environment) = ClusterEnvironment::from_env()? else { return Ok(None) };
    let hooks = Hooks { note: note_line, before_exit: || wait_for_writers(Duration::from_secs(60)) };
    Rendezvous::open(environment, Duration::from_secs(args.dist_timeout), hooks).map(Some)
}

/// Compiles and checks the recipe, and chooses the device; the error is ready to be printed.
fn prepare(args: &mut RunArgs, host: &Host) -> std::result::Result<Prepared, String> {
    let render = |report: Report| report.render(&host.sources);
    if args.recipe.is_none() {
        args.recipe = Some(recipe_of(args).map_err(|e| render(Report::of_rust(&e)))?);
    }
    let recipe = args.recipe.clone().expect("just found");
    let ast = host.compile(&recipe).map_err(render)?;
    let checked = host.check(&ast, &recipe).map_err(render)?;
    // A typo on the last line is told before the first step, not after the last.
    if !checked.problems.is_empty() {
        return Err(checked.problems.iter().map(|problem| host.render_problem(problem)).collect());
    }
    let device = device::choose(args.device.as_deref(), dist::local_rank(), dist::local_world_size());
    let device = device.map_err(|e| render(Report::of_rust(&e)))?;
    Ok(Prepared { recipe, ast, checked, device })
}

/// The recipe of the run that --resume names.
fn recipe_of(args: &RunArgs) -> Result<PathBuf> {
    let Some(Some(dir)) = &args.resume else { unreachable!("checked by the caller") };
    directory::known_run(dir)?;
    Ok(PathBuf::from(directory::read_info(dir)?["recipe"].as_str().unwrap_or_default()))
}

/// What has to be the same in all processes, by name.
fn about(args: &RunArgs, host: &Host, prepared: &std::result::Result<Prepared, String>) -> RankFacts {
    let prepared = prepared.as_ref().map_err(|text| {
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_string()
    })?;
    let mut about = dist::program_facts();
    about.insert("recipe".into(), prepared.recipe.display().to_string().into());
    for (file, checksum) in host.sources.checksums() {
        about.insert(format!("text of {file}"), format!("{checksum:08x}").into());
    }
    for (name, value) in &args.set {
        about.insert(format!("parameter {name}"), value.clone().into());
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    about.insert("seed".into(), args.seed.into());
    about.insert("--out".into(), path(&args.out).into());
    about.insert("--resume".into(), args.resume.as_ref().map(|dir| path(dir).unwrap_or_default()).into());
    let kind = if prepared.device == tch::Device::Cpu { "cpu" } else { "cuda" };
    about.insert("device".into(), kind.into());
    Ok(about)
}

fn help(args: &RunArgs, host: &Host) -> u8 {
    let recipe = args.recipe.clone().expect("checked by the caller");
    let checked = host.compile(&recipe).and_then(|ast| host.check(&ast, &recipe));
    match checked {
        Ok(checked) => {
            print_help(&recipe, host, &checked.params);
            0
        }
        Err(report) => fail(&report, Some(host)),
    }
}

/// What rank 0 has found out about the run to go on with, in all of them.
fn take_over_together(args: &mut RunArgs) -> Result<()> {
    let found = dist::broadcast_from_rank0("the run to go on with", || {
        take_over(args)?;
        Ok(json!({ "set": args.set, "seed": args.seed, "out": args.out, "resume": args.resume.is_some() }))
    })?;
    if !dist::is_rank0() {
        args.set = serde_json::from_value(found["set"].clone())?;
        args.seed = found["seed"].as_u64();
        args.out = found["out"].as_str().map(PathBuf::from);
        args.resume = found["resume"].as_bool().filter(|resume| *resume).map(|_| None);
    }
    Ok(())
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
        (None, None, Some(recipe)) => directory::newest_of(recipe)?,
        (None, None, None) => unreachable!("checked by the caller"),
    };
    directory::known_run(&dir)?;
    let info = directory::read_info(&dir)?;
    if let Some(recipe) = &args.recipe {
        directory::same_recipe(&dir, &info, recipe)?;
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
    if std::env::var_os(dist::STORE_FD).is_some() {
        words.extend(["--nproc".into(), dist::world_size().to_string()]);
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
    eprint!("{}{}", dist::rank_prefix(), report.render(host.map_or(&none, |h| &h.sources)));
    FAILED
}

/// Sets device, threads, seed and parameters, and connects to the other processes.
fn start(
    mut args: RunArgs,
    rendezvous: Option<Rendezvous>,
    host: &Host,
    prepared: &Prepared,
    interrupt: Interrupt,
) -> Result<()> {
    let (recipe, checked) = (&prepared.recipe, &prepared.checked);
    let device = prepared.device;
    let threads = match args.threads {
        Some(n) => n as usize,
        None => dist::slurm_cpus_per_task().unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
            (cores / dist::local_world_size()).max(1)
        }),
    };
    device::set(device, threads)?;
    if let Some(rendezvous) = rendezvous {
        // torchrun has started the processes again: the run goes on.
        if let (None, None, Some(dir)) = (&args.resume, &args.out, rendezvous.remembered(directory::REMEMBERED_KEY)?) {
            args.out = Some(dir.into());
        }
        rendezvous.connect(device)?;
    }
    take_over_together(&mut args)?;
    let seed = args.seed.unwrap_or(0);
    let params = Params::new(&args.set, &checked.params)?;
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
    let processes = dist::world_size();
    let plural = if threads == 1 { "" } else { "s" };
    note_line(&format!(
        "nepa {}: {} on {}{}, {threads} thread{plural}{}, seed {seed}",
        env!("CARGO_PKG_VERSION"),
        recipe.display(),
        if processes == 1 { String::new() } else { format!("{processes} processes, the first of them on ") },
        device::name(device),
        if processes == 1 { "" } else { " each" },
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
