//! `nepa report`: a run directory, or that of a sweep, as one HTML page that needs no other file, no script and no
//! network. That of a sweep leads to the pages of its runs.

pub mod embed;
mod evaluation;
pub mod machine;
mod options;
mod read;
mod scatter;
mod sweep;

use crate::cli::sweep::SweepFile;
use crate::cli::sweep::results::{RunResult, Sweep};
use crate::cli::sweep::table::{self, Metric};
use crate::error::{Result, one_line};
use crate::files::{folder_of, write_atomic};
use crate::output::{err, out};
use crate::plot::{Panels, key_colour, panel_svgs};
use crate::run::schema::{RECIPE_FILE, Resumption};
use crate::run::{RunFile, inside};
use crate::text::{self, visible};
use crate::{bail_hint, cli::plot};
use clap::Args;
use embed::{Budget, PICTURE};
use machine::Machine;
use maud::{DOCTYPE, Markup, PreEscaped, html};
pub use read::is_run;
use read::{Folder, Report};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The page's name in a directory.
const REPORT_FILE: &str = "report.html";
pub const STYLE: &str = include_str!("style.css");
/// What a browser may do for the page: show what is in it. Whatever a run's files hold, nothing is fetched or run.
pub const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// About how many points the curves of a panel have together.
const MOST_POINTS: usize = 6000;
/// The most phases whose last values are shown, and the most parameters.
const MOST_SHOWN: usize = 200;

#[derive(Args)]
pub struct ReportArgs {
    /// A run directory, or that of a sweep.
    run: PathBuf,
    /// The page [default: report.html in the directory].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Of a sweep: the result that settings are compared by, as for `nepa sweep`.
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
}

pub fn report(args: &ReportArgs) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.run.join(REPORT_FILE));
    if !out.extension().is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm")) {
        bail_hint!("a report is an .html file, found {}", out.display(); "give --out FILE.html");
    }
    if SweepFile::is_in(&args.run) {
        return report_sweep(args, &out);
    }
    if let Some(metric) = &args.metric {
        bail_hint!("--metric {metric}: {} holds no sweep", args.run.display(); "leave it out for the report of a run");
    }
    write(&out, &page(&read::report(&args.run)?)?)
}

fn write(out: &Path, page: &Markup) -> Result<()> {
    let bytes = write_page(out, page)?;
    out!("{}: {}", out.display(), text::bytes(bytes as f64));
    Ok(())
}

/// Writes a page; gives its size.
fn write_page(out: &Path, page: &Markup) -> Result<u64> {
    let page = visible(&page.0);
    write_atomic(out, page.as_bytes())?;
    Ok(page.len() as u64)
}

/// The page of a sweep, and those of its runs, to which it leads.
fn report_sweep(args: &ReportArgs, out: &Path) -> Result<()> {
    let found = Sweep::read(&args.run)?;
    let metric = Metric::choose(&found, args.metric.as_deref())?;
    table::write_csv(&found)?;
    let mut written = HashSet::new();
    for run in found.runs.iter().filter(|run| run.file.is_some()) {
        let page = inside::path_in(&found.dir, Path::new(&run.planned.name).join(REPORT_FILE).as_path());
        let made = page.and_then(|path| write_page(&path, &page_of_run(&run.dir)?));
        match made {
            Ok(_) => drop(written.insert(run.planned.name.as_str())),
            Err(e) => err!("note: {} has no page of its own: {}", run.planned.name, one_line(&e)),
        }
    }
    let beside = folder_of(out).canonicalize().ok() == found.dir.canonicalize().ok();
    let base = found.dir.canonicalize().ok().filter(|_| !beside).map(|dir| address(&dir) + "/").unwrap_or_default();
    let link = |run: &RunResult| {
        let name = run.planned.name.as_str();
        written.contains(name).then(|| format!("{base}{}/{REPORT_FILE}", address(Path::new(name))))
    };
    write(out, &sweep::page(&found, metric.as_ref(), link)?)
}

fn page_of_run(dir: &Path) -> Result<Markup> {
    page(&read::report(dir)?)
}

/// The page of a run as text.
pub fn text_of_run(dir: &Path) -> Result<String> {
    Ok(visible(&page_of_run(dir)?.0).into_owned())
}

/// The sections of a run's page that say what it is and what it came to, as text: those that `nepa watch` does not draw
/// while the run goes on.
pub fn sections_of_run(dir: &Path) -> Result<String> {
    let report = read::without_lines(dir)?;
    let evaluation = report.evaluation.as_ref().map(|found| found.sections(dir, &mut Budget::default()));
    let sections = html! { (came_to(&report)) @if let Some(evaluation) = evaluation { (evaluation) } (made_of(&report)) (made_by(&report)) };
    Ok(visible(&sections.0).into_owned())
}

/// A path as an address has it. One that begins with a name is relative, whatever the name is.
fn address(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~=,+".contains(&byte);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes.map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A page that needs no other file.
fn document(title: &str, body: &Markup, from: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "nepa: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (body)
                footer { "Written by nepa " (env!("CARGO_PKG_VERSION")) " from " (from) }
            }
        }
    }
}

fn page(report: &Report) -> Result<Markup> {
    let curves = plot::panels_of(&report.logged).map(|panels| curves(&panels, MOST_POINTS)).transpose()?;
    let mut budget = Budget::default();
    let evaluation = report.evaluation.as_ref().map(|found| found.sections(&report.dir, &mut budget));
    let pictures = pictures(report, &mut budget);
    let run = &report.run;
    let recipe = if run.recipe.is_empty() { "unknown recipe" } else { &run.recipe };
    let body = html! {
        header {
            h1 { (report.logged.name) }
            p { (recipe) ", " strong { (report.state) } }
            @if let Some(error) = &run.error { pre.error { (error) } }
        }
        (came_to(report))
        @if let Some(curves) = curves { section { h2 { "Curves" } (curves) } }
        (last_metrics(report))
        @if let Some(evaluation) = evaluation { (evaluation) }
        @if let Some(pictures) = pictures { (pictures) }
        (made_of(report))
        (machines(&report.machines)?)
        (made_by(report))
    };
    Ok(document(&report.logged.name, &body, &report.logged.given))
}

/// What went wrong, parameters, and what the recipe returned.
fn came_to(report: &Report) -> Markup {
    html! { (warnings(report)) (parameters(&report.run)) (options::result(&report.run)) }
}

/// Models, options, and the folders that the run left.
fn made_of(report: &Report) -> Markup {
    html! {
        (options::models(&report.run))
        (options::options(&report.settings))
        (folders("Saved models", &report.models))
        (folders("Checkpoints", &report.checkpoints))
    }
}

/// When and with what the run was made, and its recipe.
fn made_by(report: &Report) -> Markup {
    html! {
        (how(&report.run))
        @if let Some(recipe) = &report.recipe {
            section {
                h2 { "Recipe" }
                details { summary { (RECIPE_FILE) } pre { code { (recipe) } } }
            }
        }
    }
}

/// A value as a person writes it: text without quotes, lists and maps as JSON.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    }
}

/// Names and values beside each other.
fn pairs<'a>(rows: impl IntoIterator<Item = (&'a str, Markup)>) -> Markup {
    html! {
        div.scroll { table { @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } } } }
    }
}

fn parameters(run: &RunFile) -> Markup {
    let set: HashSet<&str> = run.set.iter().map(|(name, _)| name.as_str()).collect();
    html! {
        section {
            h2 { "Parameters" }
            @if run.params.is_empty() { p { "The recipe has none." } } @else {
                (pairs(run.params.iter().take(MOST_SHOWN).map(|(name, value)| {
                    let given = set.contains(name.as_str());
                    (name.as_str(), html! { (words(value)) @if given { " " span.note { "given with --set" } } })
                })))
            }
        }
    }
}

/// When and with what the run was made.
fn how(run: &RunFile) -> Markup {
    let ended = run.ended.clone().unwrap_or_default();
    let (seed, threads) = (run.seed.to_string(), run.threads.to_string());
    let facts = [
        ("recipe", run.recipe.as_str()),
        ("started", &run.started),
        ("ended", &ended),
        ("seed", &seed),
        ("device", &run.device),
        ("threads", &threads),
    ];
    let known = facts.into_iter().filter(|(_, text)| !text.is_empty());
    let mut rows: Vec<(&str, Markup)> = known.map(|(name, text)| (name, html! { (text) })).collect();
    if !run.command.is_empty() {
        rows.push(("command", html! { code { (run.command.join(" ")) } }));
    }
    rows.extend(run.versions.known().map(|(name, version)| (name, html! { (version) })));
    html! { section { h2 { "How it was made" } (pairs(rows)) (resumptions(run)) } }
}

/// Each time that the run was resumed: from where, and what had changed.
fn resumptions(run: &RunFile) -> Markup {
    let steps =
        |r: &Resumption| r.steps.iter().map(|(label, step)| format!("{label}: step {step}")).collect::<Vec<_>>();
    html! {
        @if !run.resumed.is_empty() {
            h3 { "Resumed" }
            div.scroll { table {
                thead { tr { th { "when" } th { "command" } th { "from" } th { "what had changed" } } }
                @for resumption in &run.resumed {
                    tr {
                        th scope="row" { (resumption.at) }
                        td { code { (resumption.command.join(" ")) } }
                        td { (steps(resumption).join(", ")) }
                        td { @for change in &resumption.changes { (change) br; } }
                    }
                }
            } }
        }
    }
}

/// What the run warned of while it ran.
fn warnings(report: &Report) -> Markup {
    html! {
        @if !report.warnings.is_empty() {
            section { h2 { "Warnings" } ul { @for warning in &report.warnings { li { (warning) } } } }
        }
    }
}

/// The legend and the panels, whose curves have together about `most` points each.
fn curves(panels: &Panels, most: usize) -> Result<Markup> {
    let svgs = panel_svgs(panels, most)?;
    Ok(html! {
        @if panels.keys.len() > 1 {
            ul.legend { @for key in &panels.keys { li { span.key style={ "background:" (key_colour(key)) } {} (key.name) } } }
        }
        div.grid.curves { @for svg in svgs { figure.paper { (PreEscaped(svg)) } } }
    })
}

/// The charts of what the machines did.
fn machines(machines: &[Machine]) -> Result<Markup> {
    let several = machines.len() > 1;
    Ok(html! {
        @for machine in machines {
            section {
                h2 { @if several { (machine.title) } @else { "Machine" } }
                div.grid.curves { @for chart in &machine.charts { div { (curves(chart, MOST_POINTS)?) } } }
            }
        }
    })
}

/// The last value of everything that was logged, by phase.
fn last_metrics(report: &Report) -> Markup {
    let mut phases: Vec<(&str, Map<String, Value>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for line in &report.logged.lines {
        let phase = line.get("phase").and_then(Value::as_str).unwrap_or("no phase");
        let place = *places.entry(phase).or_insert(phases.len());
        if place == phases.len() {
            phases.push((phase, Map::new()));
        }
        for (key, value) in line.iter().filter(|(key, value)| *key != "phase" && !value.is_object()) {
            phases[place].1.insert(key.clone(), value.clone());
        }
    }
    let left_out = phases.len().saturating_sub(MOST_SHOWN);
    phases.truncate(MOST_SHOWN);
    html! {
        section {
            h2 { "Last values" }
            @if report.logged.torn { p.note { "The last line of the metrics was cut short, as when a run is killed." } }
            @if phases.is_empty() { p { "Nothing was logged." } }
            @if left_out > 0 { p.note { "The first " (MOST_SHOWN) " phases; there are " (left_out) " more." } }
            div.grid {
                @for (phase, values) in &phases {
                    div {
                        h3 { (phase) }
                        (pairs(values.iter().take(MOST_SHOWN).map(|(name, value)| {
                            (name.as_str(), html! { (evaluation::short(value)) })
                        })))
                    }
                }
            }
        }
    }
}

fn pictures(report: &Report, budget: &mut Budget) -> Option<Markup> {
    (!report.pictures.is_empty()).then(|| {
        html! {
            section {
                h2 { "Pictures" }
                div.pictures { @for name in &report.pictures { figure { (budget.picture(&report.dir, name, name, PICTURE)) figcaption { (name) } } } }
            }
        }
    })
}

fn folders(title: &str, folders: &[Folder]) -> Markup {
    html! {
        @if !folders.is_empty() {
            section {
                h2 { (title) }
                div.scroll { table {
                    thead { tr { th { "folder" } th { "size" } th { "about" } } }
                    @for folder in folders {
                        tr { th scope="row" { (folder.name) } td.number { (text::bytes(folder.bytes as f64)) } td { (folder.about) } }
                    }
                } }
            }
        }
    }
}
