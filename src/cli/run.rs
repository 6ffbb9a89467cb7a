//! `nepa run`

use super::{Cli, FAILED, RunArgs, launcher};
use crate::bail_hint;
use crate::device;
use crate::dist::{self, ClusterEnvironment, Hooks, RankFacts, Rendezvous};
use crate::error::Result;
use crate::run::progress::note_line;
use crate::run::signals::Interrupt;
use crate::run::writer::wait_for_writers;
use crate::run::{Allowed, RunFile, RunInfo, RunState, Session, directory};
use crate::script::error::ScriptError;
use crate::script::{Checked, Declared, Failure, Host, Params, finish_run, start_run, type_of};
use clap::CommandFactory;
use rhai::AST;
use serde::{Deserialize, Serialize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit code of a fault in nepa itself.
const INTERNAL_FAULT: u8 = 70;

pub fn run(args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> u8 {
    match args.nproc {
        Some(processes) if !args.help => {
            launcher::launch(processes.into()).unwrap_or_else(|e| fail(&ScriptError::of_rust(&e), None))
        }
        _ => run_here(args, host).unwrap_or_else(|code| code),
    }
}

/// Runs the recipe in this process. Reports an error, and returns its exit code.
fn run_here(mut args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> std::result::Result<u8, u8> {
    shorten_openmp_spin();
    let interrupt = Interrupt::listen();
    launcher::end_with_launcher();
    let interrupt = interrupt.map_err(|e| fail(&ScriptError::of_rust(&e), None))?;
    let host = host(interrupt.clone());
    if args.help {
        return Ok(help(&args, &host));
    }
    let (rendezvous, prepared) = prepare_with_all_ranks(&mut args, &host)?;
    start(args.clone(), rendezvous, &host, &prepared, interrupt.clone()).map_err(|e| {
        let report = ScriptError::of_rust(&e);
        if dist::report_failure(&report.message) { fail(&report, Some(&host)) } else { FAILED }
    })?;
    let outcome = execute(&host, &prepared, &interrupt);
    Ok(conclude(outcome, &args, &host, &prepared.recipe))
}

/// Prepares the recipe, and checks with the other ranks, if any, that all run the same.
fn prepare_with_all_ranks(args: &mut RunArgs, host: &Host) -> std::result::Result<(Option<Rendezvous>, Prepared), u8> {
    let mut rendezvous = open_rendezvous(args).map_err(|e| fail(&ScriptError::of_rust(&e), None))?;
    let prepared = prepare(args, host);
    // A failure on one rank is reported to the others.
    let agreed = rendezvous.as_mut().map_or(Ok(true), |rendezvous| rendezvous.compare(facts(args, host, &prepared)));
    match (prepared, agreed) {
        (Ok(prepared), Ok(_)) => Ok((rendezvous, prepared)),
        (Ok(_), Err(e)) => Err(fail(&ScriptError::of_rust(&e), None)),
        (Err(text), agreed) => {
            if agreed.unwrap_or(true) {
                eprint!("{}{text}", dist::rank_prefix());
            }
            Err(FAILED)
        }
    }
}

/// How the recipe ended.
struct Outcome {
    exit_code: u8,
    state: RunState,
    error: Option<String>,
}

/// Runs the recipe; its error is shown.
fn execute(host: &Host, prepared: &Prepared, interrupt: &Interrupt) -> Outcome {
    let interrupted = |code: i32| Outcome { exit_code: code as u8, state: RunState::Interrupted, error: None };
    let failed = |exit_code, message| Outcome { exit_code, state: RunState::Failed, error: Some(message) };
    match catch_unwind(AssertUnwindSafe(|| host.run(&prepared.ast, &prepared.recipe))) {
        Ok(Ok(())) => Outcome { exit_code: 0, state: RunState::Finished, error: None },
        Ok(Err(Failure::Interrupted(code))) => interrupted(code),
        Ok(Err(Failure::Error(report))) => match interrupt.exit_code() {
            // The other ranks' errors about one that a signal ended are not the cause.
            Some(code) if dist::lost_exited_peer() => interrupted(code),
            _ => {
                if dist::report_failure(&report.message) {
                    eprint!("{}{}", dist::rank_prefix(), report.render(&host.sources));
                }
                failed(FAILED, report.message)
            }
        },
        Err(_) => {
            dist::report_failure("internal fault");
            failed(INTERNAL_FAULT, "internal fault".to_string())
        }
    }
}

/// Records how the run ended, and prints where it is and how to resume it. Returns the exit code.
fn conclude(outcome: Outcome, args: &RunArgs, host: &Host, recipe: &Path) -> u8 {
    let Outcome { exit_code, state, error } = outcome;
    let finished = finish_run(state, error.as_deref());
    if state != RunState::Failed {
        dist::shutdown(state == RunState::Interrupted);
    }
    if !dist::is_rank0() {
        return exit_code;
    }
    let dir = match finished {
        Ok(dir) => dir,
        Err(e) => return fail(&ScriptError::of_rust(&e), Some(host)).max(exit_code),
    };
    match (state, &dir) {
        (RunState::Interrupted, Some(dir)) => eprintln!("interrupted; what was saved is in {}", dir.display()),
        (RunState::Interrupted, None) => eprintln!("interrupted"),
        (_, Some(dir)) => eprintln!("run directory: {}", dir.display()),
        (_, None) => {}
    }
    if let Some(dir) = dir.filter(|dir| state != RunState::Finished && has_checkpoints(dir)) {
        eprintln!("to resume from its last checkpoint: {}", resuming_command(args, recipe, &dir));
    }
    exit_code
}

fn has_checkpoints(dir: &Path) -> bool {
    directory::checkpoints_of_run(dir).is_ok_and(|all| !all.is_empty())
}

/// A recipe that is ready to be run.
struct Prepared {
    recipe: PathBuf,
    ast: AST,
    checked: Checked,
    device: tch::Device,
}

/// Finds the other ranks, if any.
fn open_rendezvous(args: &RunArgs) -> Result<Option<Rendezvous>> {
    let Some(environment) = ClusterEnvironment::from_env()? else { return Ok(None) };
    let hooks = Hooks { note: note_line, before_exit: || wait_for_writers(Duration::from_secs(60)) };
    Rendezvous::open(environment, Duration::from_secs(args.dist_timeout), hooks).map(Some)
}

/// Compiles and checks the recipe, and chooses the device; the error is ready to be printed.
fn prepare(args: &mut RunArgs, host: &Host) -> std::result::Result<Prepared, String> {
    let render = |report: ScriptError| report.render(&host.sources);
    if args.recipe.is_none() {
        args.recipe = Some(recipe_of(args).map_err(|e| render(ScriptError::of_rust(&e)))?);
    }
    let recipe = args.recipe.clone().expect("just found");
    let ast = host.compile(&recipe).map_err(render)?;
    let checked = host.check(&ast, &recipe).map_err(render)?;
    // A typo on the last line is reported before the first step, not after the last.
    if !checked.problems.is_empty() {
        return Err(checked.problems.iter().map(|problem| host.render_problem(problem)).collect());
    }
    if dist::is_rank0() {
        checked.warnings.iter().for_each(|warning| eprint!("{}", host.render_warning(warning)));
    }
    let device = device::choose(args.device.as_deref(), dist::local_rank(), dist::local_world_size());
    let device = device.map_err(|e| render(ScriptError::of_rust(&e)))?;
    Ok(Prepared { recipe, ast, checked, device })
}

/// The recipe of the run that --resume names.
fn recipe_of(args: &RunArgs) -> Result<PathBuf> {
    let Some(Some(dir)) = &args.resume else { unreachable!("checked by the caller") };
    directory::ensure_is_run(dir)?;
    Ok(PathBuf::from(RunFile::read(dir)?.recipe))
}

/// What must be the same on all ranks, by name.
fn facts(args: &RunArgs, host: &Host, prepared: &std::result::Result<Prepared, String>) -> RankFacts {
    let prepared = prepared.as_ref().map_err(|text| {
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_string()
    })?;
    let mut facts = dist::program_facts();
    facts.insert("recipe".into(), prepared.recipe.display().to_string().into());
    for (file, checksum) in host.sources.checksums() {
        facts.insert(format!("text of {file}"), format!("{checksum:08x}").into());
    }
    for (name, value) in &args.set {
        facts.insert(format!("parameter {name}"), value.clone().into());
    }
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    facts.insert("seed".into(), args.seed.into());
    facts.insert("--out".into(), path(&args.out).into());
    facts.insert("--allow-change".into(), args.allow_change.join(",").into());
    facts.insert("--resume".into(), args.resume.as_ref().map(|dir| path(dir).unwrap_or_default()).into());
    let kind = if prepared.device == tch::Device::Cpu { "cpu" } else { "cuda" };
    facts.insert("device".into(), kind.into());
    Ok(facts)
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

/// What rank 0 chooses for all: the run directory, and what a resumed run takes over from it.
#[derive(Serialize, Deserialize)]
struct Choices {
    set: Vec<(String, String)>,
    seed: Option<u64>,
    out: Option<PathBuf>,
}

/// Puts rank 0's choices into the arguments of all ranks.
fn adopt_choices(args: &mut RunArgs) -> Result<()> {
    let choices = dist::broadcast_from_rank0("the run to resume", || Ok(serde_json::to_value(choose(args)?)?))?;
    let Choices { set, seed, out } = serde_json::from_value(choices)?;
    (args.set, args.seed, args.out) = (set, seed, out);
    Ok(())
}

/// Finds the run that `--resume` means; the command line takes precedence over what that run was given.
fn choose(args: &RunArgs) -> Result<Choices> {
    let Some(resume) = args.resume.clone() else {
        if let (None, Some(name)) = (&args.out, args.allow_change.first()) {
            bail_hint!("--allow-change {name}: no run is resumed"; "give the run's directory with --resume or --out");
        }
        return Ok(Choices { set: args.set.clone(), seed: args.seed, out: args.out.clone() });
    };
    let dir = match (resume, &args.out, &args.recipe) {
        (Some(dir), Some(out), _) if dir != *out => bail_hint!(
            "--resume {} and --out {} name different directories", dir.display(), out.display();
            "a run is resumed in its own directory: give --resume alone"
        ),
        (Some(dir), ..) => dir,
        (None, Some(out), _) => out.clone(),
        (None, None, Some(recipe)) => directory::newest_run_of(recipe)?,
        (None, None, None) => unreachable!("checked by the caller"),
    };
    directory::ensure_is_run(&dir)?;
    let run = RunFile::read(&dir)?;
    if let Some(recipe) = &args.recipe {
        directory::ensure_same_recipe(&dir, &run, recipe)?;
    }
    let mut set = args.set.clone();
    set.extend(run.set.into_iter().filter(|(name, _)| !args.set.iter().any(|(given, _)| given == name)));
    Ok(Choices { set, seed: args.seed.or(Some(run.seed)), out: Some(dir) })
}

/// The command that resumes a run.
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

/// libtorch's OpenMP threads wait for each other by spinning, long enough that two busy processes on one machine slow
/// each other down many times over. libgomp reads how long when it is loaded, so the process starts itself once more
/// with a short spin, unless the user has chosen one.
#[cfg(target_os = "linux")]
fn shorten_openmp_spin() {
    use std::os::unix::process::CommandExt;
    const SPIN: &str = "GOMP_SPINCOUNT";
    if std::env::var_os(SPIN).is_some() || std::env::var_os("OMP_WAIT_POLICY").is_some() {
        return;
    }
    let mut args = std::env::args_os();
    if let (Ok(nepa), Some(name)) = (std::env::current_exe(), args.next()) {
        // Returns only if it fails; then the run continues without it.
        let _ = std::process::Command::new(nepa).arg0(name).args(args).env(SPIN, "1000").exec();
    }
}

#[cfg(not(target_os = "linux"))]
fn shorten_openmp_spin() {}

fn fail(report: &ScriptError, host: Option<&Host>) -> u8 {
    let none = crate::script::Sources::new(None);
    eprint!("{}{}", dist::rank_prefix(), report.render(host.map_or(&none, |h| &h.sources)));
    FAILED
}

/// Sets device, threads, seed and parameters, and connects to the other ranks.
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
        // torchrun has started the processes again: the run is resumed.
        if let (None, None, Some(dir)) = (&args.resume, &args.out, rendezvous.remembered(directory::REMEMBERED_KEY)?) {
            args.out = Some(dir.into());
        }
        rendezvous.connect(device)?;
    }
    adopt_choices(&mut args)?;
    let seed = args.seed.unwrap_or(0);
    let params = Params::new(&args.set, &checked.params)?;
    crate::random::set_seed(seed);
    let info = RunInfo {
        recipe: recipe.to_path_buf(),
        scripts: checked.files.iter().map(|file| host.sources.script(recipe, file)).collect(),
        allowed: Allowed::new(args.allow_change.clone()),
        set: args.set.clone(),
        params: serde_json::Map::new(),
        seed,
        device: device::name(device),
        threads,
        command: std::env::args().collect(),
    };
    let session = Session::start(info, args.out.clone(), args.resume.is_some(), interrupt)?;
    let sources = host.sources.clone();
    start_run(session, params, move |function| sources.function(function));
    let processes = dist::world_size();
    let plural = if threads == 1 { "" } else { "s" };
    note_line(&format!(
        "nepa {}: {} on {}{}, {threads} thread{plural}{}, seed {seed}",
        env!("CARGO_PKG_VERSION"),
        recipe.display(),
        if processes == 1 { String::new() } else { format!("{processes} processes, rank 0 on ") },
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
                Some(default) if default.is_unit() => "(required)".to_string(),
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
