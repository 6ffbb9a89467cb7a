//! `nepa run`

use super::resuming::{adopt_choices, resuming_command};
use super::sync::beside;
use super::{Cli, FAILED, RunArgs, command_line, launcher};
use crate::device;
use crate::dist::{self, ClusterEnvironment, Hooks, RankFacts, Rendezvous};
use crate::error::{Error, Result, last_panic};
use crate::output::{err, out, to_stderr};
use crate::provenance::timestamp;
use crate::run::progress::note_line;
use crate::run::signals::Interrupt;
use crate::run::writer::wait_for_writers;
use crate::run::{Allowed, RunFile, RunInfo, RunState, Script, Session, directory, log};
use crate::script::error::ScriptError;
use crate::script::{Checked, Declared, Failure, Host, Params, finish_run, start_run, type_of};
use clap::CommandFactory;
use rhai::AST;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Exit code of a fault in nepa itself.
const INTERNAL_FAULT: u8 = 70;

pub fn run(args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> u8 {
    match args.compute.nproc {
        Some(processes) if !args.help => {
            launcher::launch(processes.into()).unwrap_or_else(|e| fail(&ScriptError::of_rust(&e), None))
        }
        _ => run_here(args, host).unwrap_or_else(|code| code),
    }
}

/// Runs the recipe in this process. Reports an error, and returns its exit code.
fn run_here(mut args: RunArgs, host: impl FnOnce(Interrupt) -> Host) -> std::result::Result<u8, u8> {
    launcher::end_with_launcher();
    let interrupt = Interrupt::default();
    let host = host(interrupt.clone());
    if args.help {
        return Ok(help(&args, &host));
    }
    let (rendezvous, prepared) = prepare_with_all_ranks(&mut args, &host)?;
    start(args.clone(), rendezvous, &host, &prepared, interrupt.clone()).map_err(|e| {
        let report = ScriptError::of_rust(&e);
        if dist::report_failure(&report.message) { fail(&report, Some(&host)) } else { FAILED }
    })?;
    let stdlib = host.sources.stdlib().map(Path::to_path_buf);
    let resuming = RESUMING.get_or_init(|| Resuming { args, stdlib, recipe: prepared.recipe.clone() });
    let outcome = execute(&host, &prepared, &interrupt);
    Ok(conclude(outcome, resuming, &host))
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
                to_stderr(&format!("{}{text}", dist::rank_prefix()));
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
    /// The error as it is to be shown, unless another rank shows it.
    shown: String,
}

/// Runs the recipe.
fn execute(host: &Host, prepared: &Prepared, interrupt: &Interrupt) -> Outcome {
    let ended = |state, exit_code, error| Outcome { exit_code, state, error, shown: String::new() };
    let interrupted = |code: i32| ended(RunState::Interrupted, code as u8, None);
    match catch_unwind(AssertUnwindSafe(|| host.run(&prepared.ast, &prepared.recipe))) {
        Ok(Ok(())) => ended(RunState::Finished, 0, None),
        Ok(Err(Failure::Interrupted(code))) => interrupted(code),
        Ok(Err(Failure::Error(report))) => match interrupt.exit_code() {
            // The other ranks' errors about one that a signal ended are not the cause.
            Some(code) if dist::lost_exited_peer() => interrupted(code),
            _ => {
                let shown = match dist::report_failure(&report.message) {
                    true => format!("{}{}", dist::rank_prefix(), report.render(&host.sources)),
                    false => String::new(),
                };
                Outcome { shown, ..ended(RunState::Failed, FAILED, Some(report.message)) }
            }
        },
        Err(_) => {
            // The panic hook has shown it.
            let message = last_panic().unwrap_or_else(|| "internal fault".to_string());
            dist::report_failure(&message);
            ended(RunState::Failed, INTERNAL_FAULT, Some(message))
        }
    }
}

/// What a thread other than the script's has to know to tell how a run is resumed.
struct Resuming {
    args: RunArgs,
    stdlib: Option<PathBuf>,
    recipe: PathBuf,
}

static RESUMING: OnceLock<Resuming> = OnceLock::new();

impl Resuming {
    /// Tells where the run is and, unless it has finished, how it is resumed.
    fn tell(&self, dir: &Path, state: RunState) {
        match state {
            RunState::Interrupted => err!("interrupted; what was saved is in {}", dir.display()),
            _ => err!("run directory: {}", dir.display()),
        }
        if state != RunState::Finished && has_checkpoints(dir) {
            let command = resuming_command(&self.args, self.stdlib.as_deref(), &self.recipe, dir);
            err!("to resume from its last checkpoint: {command}");
        }
    }
}

/// Ends a process whose script hangs: finishes its checkpoint, and records how the run ended.
fn end_hanging(error: Error) -> ! {
    wait_for_writers(dist::WRITING);
    let report = ScriptError::of_rust(&error);
    let dir = log::directory();
    if let Some(dir) = &dir {
        log::write(&format!("---- {}: {}", RunState::Failed, report.message));
        if let Ok(mut run) = RunFile::read(dir)
            && run.state == RunState::Running
        {
            (run.state, run.ended, run.error) = (RunState::Failed, Some(timestamp()), Some(report.message.clone()));
            let _ = run.write(dir);
        }
    }
    fail(&report, None);
    if let (Some(dir), Some(resuming)) = (dir, RESUMING.get()) {
        resuming.tell(&dir, RunState::Failed);
    }
    crate::ffi::exit(FAILED)
}

/// Ends the process at an error of libtorch's that nothing could catch.
pub fn end_uncaught(error: Error) -> ! {
    if dist::blame_own_rank(&error) {
        // The heartbeat ends the process when the other ranks know, unless the script does.
        loop {
            std::thread::park();
        }
    }
    end_hanging(error)
}

/// Records how the run ended, then prints it, where the run is and how to resume it. Returns the exit code.
fn conclude(outcome: Outcome, resuming: &Resuming, host: &Host) -> u8 {
    let Outcome { exit_code, state, error, shown } = outcome;
    // With its place in the script.
    log::write(&shown);
    let finished = finish_run(state, error.as_deref());
    to_stderr(&shown);
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
    match dir {
        Some(dir) => {
            resuming.tell(&dir, state);
            beside::finish(&dir);
        }
        None if state == RunState::Interrupted => err!("interrupted"),
        None => {}
    }
    exit_code
}

fn has_checkpoints(dir: &Path) -> bool {
    directory::checkpoints_of_run(dir).is_ok_and(|all| !all.is_empty())
}

/// A recipe that is ready to be run.
pub(super) struct Prepared {
    /// Its path.
    pub recipe: PathBuf,
    ast: AST,
    /// What it consists of.
    pub checked: Checked,
    /// Where it computes.
    pub device: tch::Device,
}

impl Prepared {
    /// The recipe and what it imports.
    pub fn scripts(&self, host: &Host) -> Vec<Script> {
        self.checked.files.iter().map(|file| host.sources.script(&self.recipe, file)).collect()
    }
}

/// Finds the other ranks, if any.
fn open_rendezvous(args: &RunArgs) -> Result<Option<Rendezvous>> {
    let Some(environment) = ClusterEnvironment::from_env()? else { return Ok(None) };
    let hooks = Hooks { note: note_line, end: end_hanging };
    Rendezvous::open(environment, Duration::from_secs(args.compute.dist_timeout), hooks).map(Some)
}

/// Compiles and checks the recipe, and chooses the device; the error is ready to be printed.
pub(super) fn prepare(args: &mut RunArgs, host: &Host) -> std::result::Result<Prepared, String> {
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
        checked.warnings.iter().for_each(|warning| to_stderr(&host.render_warning(warning)));
    }
    let own_gpu_alone = !launcher::started_here();
    let device =
        device::choose(args.compute.device.as_deref(), dist::local_rank(), dist::local_world_size(), own_gpu_alone);
    let device = device.map_err(|e| render(ScriptError::of_rust(&e)))?;
    if dist::is_rank0() {
        beside::prepare(&args.log).map_err(|e| render(ScriptError::of_rust(&e)))?;
    }
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

fn fail(report: &ScriptError, host: Option<&Host>) -> u8 {
    let none = crate::script::Sources::new(None);
    to_stderr(&format!("{}{}", dist::rank_prefix(), report.render(host.map_or(&none, |h| &h.sources))));
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
    let threads = match args.compute.threads {
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
    interrupt.listen()?;
    adopt_choices(&mut args)?;
    let seed = args.seed.unwrap_or(0);
    let params = Params::new(&args.set, &checked.params)?;
    crate::random::set_seed(seed);
    let info = RunInfo {
        recipe: recipe.to_path_buf(),
        scripts: prepared.scripts(host),
        allowed: Allowed::new(args.allow_change.clone()),
        set: args.set.clone(),
        params: serde_json::Map::new(),
        seed,
        device: device::name(device),
        threads,
        command: command_line(),
        begun: Some(beside::start),
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
