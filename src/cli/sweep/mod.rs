//! `nepa sweep`: a recipe with every combination of some values, a process and a directory for each.

mod display;
mod jobs;
mod options;
mod plan;
pub(super) mod results;
pub(super) mod table;
pub(super) mod values;

use super::run::{self, Prepared};
use super::{ComputeArgs, FAILED, RunArgs, command_line, key_value};
use crate::bail_hint;
use crate::dist::ClusterEnvironment;
use crate::error::{Context as _, Result, ensure};
use crate::output::{err, out, to_stdout};
use crate::provenance::timestamp;
use crate::run::lock::RunLock;
use crate::run::schema::ScriptRecord;
use crate::run::signals::Interrupt;
use crate::run::{RunFile, inside};
use crate::script::{Host, Params};
use crate::text::shell_word;
use clap::Args;
use display::Display;
use jobs::{End, Ended, Job};
use options::{Slots, run_arguments};
pub(super) use plan::SweepFile;
use results::{Progress, Sweep, ensure_is_sweep, log_of, progress_of};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use table::Metric;
use values::{Axis, SEED};

/// Where sweeps go that were given no directory.
const SWEEPS_DIR: &str = "sweeps";
/// Failed runs that are listed.
const MOST_LISTED: usize = 50;

const AFTER_HELP: &str = "\
Examples:
  nepa sweep examples/sweep.rhai --set 'lr=[1e-3,3e-3]' --set seed=0..3 --out sweeps/lr
  nepa sweep examples/sweep.rhai --set 'lr=[1e-3,3e-3,1e-2]' --set seed=0..3 --out sweeps/lr --jobs 2
  nepa sweep --resume sweeps/lr
  nepa report sweeps/lr

The first trains 2 x 3 = 6 runs. The second adds those with lr=1e-2 and does not repeat the others. Each run is a run \
directory like any other: nepa run RECIPE --resume sweeps/lr/lr=0.001,seed=0 resumes it, nepa report and nepa plot show it.

Results are what the recipe returns, if its last expression is a map, and the last value of everything that it logs.

Exit code: 0 if all runs have finished; 1 if some have not, or something else is wrong; 130 after Ctrl-C, 143 after \
SIGTERM.";

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct SweepArgs {
    /// The recipe, a .rhai file. nepa run RECIPE --help lists its parameters.
    #[arg(required_unless_present_any = ["resume", "table"])]
    recipe: Option<PathBuf>,
    /// A parameter and its values: a list [1e-3, 3e-3], a range (0..3 is 0, 1, 2; 0..=3 has the 3 too), or one value,
    /// which all runs get; may be repeated for other parameters. Texts with commas are quoted: ["a,b", c]. The values
    /// of a parameter that is a list itself are lists in a list: [[1, 2], [3, 4]]. Results are averaged over the
    /// parameter `seed`; if the recipe declares none, it is the --seed of the runs.
    #[arg(long = "set", value_name = "KEY=VALUES", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// The sweep's directory: new, or that of an earlier sweep of this recipe, whose finished runs are kept, whose
    /// unfinished ones are resumed, and to which new ones are added [default: sweeps/RECIPE].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["resume", "table"])]
    out: Option<PathBuf>,
    /// Resumes all runs of the sweep in DIR that have not finished, and starts those that are missing.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recipe", "set", "table"])]
    resume: Option<PathBuf>,
    /// Prints the table of the sweep in DIR as it is now, and writes its sweep.csv; starts nothing.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recipe", "set"])]
    table: Option<PathBuf>,
    /// Runs at a time. They share the CPU's cores equally, and each gets GPUs of its own if there are several.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// The result that settings are compared by, with :min or :max where its name does not tell which is better
    /// [default: an accuracy, else a loss, else the first].
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Where the runs compute: cpu, cuda or cuda:N [default: cuda if available, else cpu].
    #[arg(long)]
    device: Option<String>,
    /// CPU threads of each process [default: the machine's cores divided by the processes that run at a time].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Processes of each run, which train together, one per GPU if there are GPUs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    nproc: Option<u16>,
    /// How long the processes of a run wait for each other before they give up.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604800))]
    dist_timeout: Option<u64>,
    /// Seed of all randomness of each run, where `seed` is not swept [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Goes on with the sweep although this has changed since: `recipe`, `std`, or the name of a setting, as for
    /// nepa run. Several are separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allow_change: Vec<String>,
}

/// Runs the command; gives its exit code.
pub fn sweep(args: &SweepArgs, host: impl FnOnce(Interrupt) -> Host) -> Result<u8> {
    if let Some(dir) = &args.table {
        let sweep = Sweep::read(dir)?;
        show_table(&sweep, args.metric.as_deref())?;
        return Ok(0);
    }
    ensure!(
        ClusterEnvironment::from_env()?.is_none(),
        "a sweep is one process: start it without torchrun or srun, and give --nproc N for runs of several processes"
    );
    let host = host(Interrupt::default());
    let dir = directory(args)?;
    inside::check_written(&dir)?;
    // Before its description is read, which another sweep might be about to change.
    let mut lock = SweepFile::is_in(&dir).then(|| RunLock::take(&dir)).transpose()?;
    let resumed = args.resume.is_some();
    let mut file = match SweepFile::is_in(&dir) {
        true => SweepFile::read(&dir)?,
        false => new_file(args, &dir)?,
    };
    let recipe = args.recipe.clone().unwrap_or_else(|| PathBuf::from(&file.recipe));
    ensure!(!recipe.display().to_string().starts_with('-'), "\"{}\" is no path of a recipe", recipe.display());
    if Path::new(&file.recipe).file_name() != recipe.file_name() {
        bail_hint!(
            "{} holds a sweep of {}, not of {}", dir.display(), file.recipe, recipe.display();
            "choose another directory with --out"
        );
    }
    file.refuse_other_seed(args.seed)?;
    options::merge(&mut file.options, args);
    let Some(prepared) = prepare(args, &file, &recipe, &host) else { return Ok(FAILED) };
    let named = match resumed {
        true => (0..file.runs.len()).collect(),
        false => add_runs(&mut file, args, &prepared)?,
    };
    if lock.is_none() {
        lock = Some(RunLock::take(&dir)?);
    }
    adopt_scripts(&mut file, &dir, &prepared, &host, &args.allow_change)?;
    // What was checked is what is run: from another folder the recipe has another path.
    file.recipe = recipe.display().to_string();
    file.command = command_line();
    file.write(&dir)?;
    let slots = Slots::new(args.jobs, &file.options, prepared.device, named.len())?;
    let code = execute(args, &dir, &file, &named, &slots, &host);
    drop(lock);
    code
}

/// The sweep's directory.
fn directory(args: &SweepArgs) -> Result<PathBuf> {
    let dir = match (&args.resume, &args.out, &args.recipe) {
        (Some(dir), ..) => {
            ensure_is_sweep(dir)?;
            dir.clone()
        }
        (None, Some(dir), _) => dir.clone(),
        (None, None, recipe) => {
            let stem = recipe.as_ref().and_then(|recipe| recipe.file_stem()).context("no recipe is given")?;
            Path::new(SWEEPS_DIR).join(stem)
        }
    };
    if dir.to_str().is_none() {
        bail_hint!("the name of the directory {} is not UTF-8", dir.display(); "choose another one");
    }
    Ok(dir)
}

/// The description of a new sweep; an error if its directory holds something else.
fn new_file(args: &SweepArgs, dir: &Path) -> Result<SweepFile> {
    if RunFile::is_in(dir) {
        bail_hint!("{} holds a run, not a sweep", dir.display(); "choose another directory with --out");
    }
    if dir.exists() && crate::files::names_in(dir)?.iter().any(|name| !name.starts_with('.')) {
        bail_hint!("{} is not empty and holds no sweep", dir.display(); "choose a new directory with --out");
    }
    let recipe = args.recipe.as_ref().map_or(String::new(), |recipe| recipe.display().to_string());
    Ok(SweepFile { recipe, started: timestamp(), ..SweepFile::default() })
}

/// Checks the recipe as `nepa run` does, once for all runs. What is wrong with it has been told if there is none.
fn prepare(args: &SweepArgs, file: &SweepFile, recipe: &Path, host: &Host) -> Option<Prepared> {
    let mut run = RunArgs {
        recipe: Some(recipe.to_path_buf()),
        set: Vec::new(),
        compute: ComputeArgs {
            device: file.options.device.clone(),
            threads: None,
            nproc: None,
            dist_timeout: super::DIST_TIMEOUT,
        },
        out: None,
        resume: None,
        allow_change: args.allow_change.clone(),
        seed: None,
        log: Vec::new(),
        help: false,
    };
    run::prepare(&mut run, host).map_err(|text| crate::output::to_stderr(&text)).ok()
}

/// Adds the runs of the command line to the sweep; gives the places of all that it names.
fn add_runs(file: &mut SweepFile, args: &SweepArgs, prepared: &Prepared) -> Result<Vec<usize>> {
    let declared = &prepared.checked.params;
    let mut axes: Vec<Axis> = Vec::new();
    for (name, text) in &args.set {
        if axes.iter().any(|axis| axis.name == *name) {
            bail_hint!("--set {name} is given twice"; "write all of its values in one list: --set {name}=[A,B]");
        }
        let found = declared.iter().find(|d| d.name == *name);
        if found.is_none() && name != SEED {
            // Says which parameters there are.
            Params::new(&[(name.clone(), text.clone())], declared)?;
        }
        axes.push(Axis::parse(name, text, found)?);
    }
    file.seed_is_option = !declared.iter().any(|d| d.name == SEED);
    if let (Some(seed), true) = (args.seed, file.seed_is_option && axes.iter().any(|axis| axis.name == SEED)) {
        bail_hint!("--seed {seed} and --set {SEED} both give the seed"; "leave one of them out");
    }
    file.add(&axes, declared)
}

/// Takes up the scripts as they are now. If they do something else than those of earlier runs, that must be allowed:
/// the results could not be compared.
fn adopt_scripts(file: &mut SweepFile, dir: &Path, prepared: &Prepared, host: &Host, allowed: &[String]) -> Result<()> {
    let now: Vec<ScriptRecord> = prepared.scripts(host).iter().map(|script| script.record()).collect();
    let was = |script: &ScriptRecord| file.scripts.iter().find(|before| before.name == script.name);
    let differs = |script: &&ScriptRecord| was(script).is_none_or(|before| before.code_crc32 != script.code_crc32);
    let changed: Vec<&str> = now.iter().filter(differs).map(|script| script.name.as_str()).collect();
    let has_run = file.runs.iter().any(|run| RunFile::is_in(&dir.join(&run.name)));
    let kind = |name: &str| if name.starts_with("std/") { "std" } else { "recipe" };
    let refused: Vec<&str> = changed.into_iter().filter(|name| !allowed.iter().any(|a| a == kind(name))).collect();
    if let (Some(first), true) = (refused.first(), has_run && !file.scripts.is_empty()) {
        bail_hint!(
            "{} has changed since the runs in {}, so that new ones could not be compared with them",
            refused.join(", "), dir.display();
            "choose another directory with --out, or restore it (its text is in the scripts/ of each run); to go on \
             all the same, add --allow-change {}", kind(first)
        );
    }
    file.scripts = now;
    Ok(())
}

/// Runs what is to be run, and tells what came of it.
fn execute(args: &SweepArgs, dir: &Path, file: &SweepFile, named: &[usize], slots: &Slots, host: &Host) -> Result<u8> {
    let mut jobs = VecDeque::new();
    let (mut finished, mut elsewhere) = (0, Vec::new());
    for place in named {
        let run = &file.runs[*place];
        let (progress, _) = progress_of(dir, &run.name)?;
        match progress {
            Progress::Finished => finished += 1,
            Progress::Running => elsewhere.push(run.name.as_str()),
            _ => {
                let again = progress != Progress::Missing;
                let allowed = if again { &args.allow_change[..] } else { &[] };
                let arguments = run_arguments(file, run, dir, host.sources.stdlib(), slots.threads, allowed);
                let log = log_of(dir, &run.name)?;
                let (name, dir) = (run.name.clone(), dir.join(&run.name));
                jobs.push_back(Job { place: *place, name, dir, log, arguments, again });
            }
        }
    }
    announce(dir, file, named.len(), finished, &jobs);
    for name in &elsewhere {
        err!("{name}: left alone, since another process is running it");
    }
    if !jobs.is_empty() {
        err!("{}", slots.words());
    }
    let mut display = Display::new(named.len(), finished, jobs.len(), slots.environments.len());
    let ended = jobs::run(jobs, &slots.environments, &mut display)?;
    display.finish();
    let sweep = Sweep::read(dir)?;
    show_table(&sweep, args.metric.as_deref())?;
    Ok(conclude(args, &sweep, named, &ended, slots, host))
}

fn announce(dir: &Path, file: &SweepFile, named: usize, finished: usize, jobs: &VecDeque<Job>) {
    let again = jobs.iter().filter(|job| job.again).count();
    let counts = [(jobs.len() - again, "to start"), (again, "to resume"), (finished, "finished before")];
    let counts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let plural = if named == 1 { "" } else { "s" };
    err!("{}: {named} run{plural} of {}: {}", dir.display(), file.recipe, counts.join(", "));
    let others = file.runs.len() - named;
    if others > 0 {
        err!("  the sweep has {others} more, of earlier commands; the table shows them too");
    }
    if file.seed_is_option && file.values.contains_key(SEED) {
        err!("  the recipe has no parameter `{SEED}`: it is the --seed of each run");
    }
}

/// Prints the table and writes it as a file.
fn show_table(sweep: &Sweep, metric: Option<&str>) -> Result<()> {
    table::write_csv(sweep)?;
    let metric = Metric::choose(sweep, metric)?;
    to_stdout(&format!("\n{}", table::render(sweep, metric.as_ref())));
    let csv = sweep.dir.join(table::CSV_FILE);
    out!(
        "{}: a row for each run; nepa report {} draws the curves",
        csv.display(),
        shell_word(&sweep.dir.display().to_string())
    );
    Ok(())
}

/// Tells of the runs that have not finished, and how to go on. Returns the exit code.
fn conclude(args: &SweepArgs, sweep: &Sweep, named: &[usize], ended: &Ended, slots: &Slots, host: &Host) -> u8 {
    let end = |place: usize| ended.runs.iter().find(|(of, _)| *of == place).map(|(_, end)| end);
    let open: Vec<usize> = named.iter().copied().filter(|place| !sweep.runs[*place].is_finished()).collect();
    let failed: Vec<(usize, &str)> = open
        .iter()
        .filter_map(|place| match end(*place) {
            Some(End::Failed(fault)) => Some((*place, fault.as_str())),
            _ => None,
        })
        .collect();
    if !failed.is_empty() {
        err!("\n{} of {} runs failed:", failed.len(), named.len());
    }
    for (place, fault) in failed.iter().take(MOST_LISTED) {
        let run = &sweep.runs[*place];
        // A run that has no directory yet has nothing that could have changed.
        let allowed = if run.file.is_some() { &args.allow_change[..] } else { &[] };
        let arguments = run_arguments(
            &sweep.file,
            &run.planned,
            &sweep.dir,
            host.sources.stdlib(),
            sweep.file.options.threads,
            allowed,
        );
        let words: Vec<String> =
            std::iter::once("nepa".to_string()).chain(arguments).map(|word| shell_word(&word).into_owned()).collect();
        err!("  {}: {fault}", run.planned.name);
        err!("    to try it again: {}", words.join(" "));
    }
    if failed.len() > MOST_LISTED {
        err!("  … and {} more", failed.len() - MOST_LISTED);
    }
    if let (false, Ok(logs)) = (failed.is_empty(), inside::path_in(&sweep.dir, Path::new(results::LOGS_DIR))) {
        err!("  what they printed is in {}", logs.display());
    }
    if open.is_empty() {
        return 0;
    }
    let again = options::resuming_command(args, &sweep.dir, host.sources.stdlib(), slots);
    err!("\n{} of {} runs have not finished; to go on: {again}", open.len(), named.len());
    ended.signal.map_or(FAILED, |signal| 128 + signal as u8)
}
