//! `nepa report`: a run directory as one HTML page that needs no other file, no script and no network.

mod embed;
mod evaluation;
mod read;

use crate::error::Result;
use crate::files::write_atomic;
use crate::output::out;
use crate::plot::{Panels, key_colour, panel_svgs};
use crate::run::RunFile;
use crate::run::schema::{RECIPE_FILE, Resumption};
use crate::text::visible;
use crate::{bail_hint, cli::plot};
use clap::Args;
use embed::{Budget, bytes_words};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use read::{Folder, Report};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

const STYLE: &str = include_str!("style.css");
/// What a browser may do for the page: show what is in it. Whatever a run's files hold, nothing is fetched or run.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// The most phases whose last values are shown, and the most parameters.
const MOST_SHOWN: usize = 200;

#[derive(Args)]
pub struct ReportArgs {
    /// A run directory.
    run: PathBuf,
    /// The page [default: report.html in the run directory].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn report(args: &ReportArgs) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.run.join("report.html"));
    if !out.extension().is_some_and(|e| e.eq_ignore_ascii_case("html") || e.eq_ignore_ascii_case("htm")) {
        bail_hint!("a report is an .html file, found {}", out.display(); "give --out FILE.html");
    }
    let report = read::report(&args.run)?;
    let page = page(&report)?.into_string();
    let page = visible(&page);
    write_atomic(&out, page.as_bytes())?;
    out!("{}: {}", out.display(), bytes_words(page.len() as u64));
    Ok(())
}

fn page(report: &Report) -> Result<Markup> {
    let curves = plot::panels_of(&report.logged).map(|panels| curves(&panels)).transpose()?;
    let mut budget = Budget::default();
    let evaluation = report.evaluation.as_ref().map(|found| found.sections(&report.dir, &mut budget));
    let pictures = pictures(report, &mut budget);
    let run = &report.run;
    let recipe = if run.recipe.is_empty() { "unknown recipe" } else { &run.recipe };
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "nepa: " (report.logged.name) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (report.logged.name) }
                    p { (recipe) ", " strong { (report.state) } }
                    @if let Some(error) = &run.error { pre.error { (error) } }
                }
                (warnings(report))
                (parameters(run))
                @if let Some(curves) = curves { section { h2 { "Curves" } (curves) } }
                (last_metrics(report))
                @if let Some(evaluation) = evaluation { (evaluation) }
                @if let Some(pictures) = pictures { (pictures) }
                (folders("Models", &report.models))
                (folders("Checkpoints", &report.checkpoints))
                (how(run))
                @if let Some(recipe) = &report.recipe {
                    section {
                        h2 { "Recipe" }
                        details { summary { (RECIPE_FILE) } pre { code { (recipe) } } }
                    }
                }
                footer { "Written by nepa " (env!("CARGO_PKG_VERSION")) " from " (report.logged.given) }
            }
        }
    })
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

fn curves(panels: &Panels) -> Result<Markup> {
    let svgs = panel_svgs(panels)?;
    Ok(html! {
        @if panels.keys.len() > 1 {
            ul.legend { @for key in &panels.keys { li { span.key style={ "background:" (key_colour(key)) } {} (key.name) } } }
        }
        div.grid.curves { @for svg in svgs { figure.paper { (PreEscaped(svg)) } } }
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
                div.pictures { @for name in &report.pictures { figure { (budget.picture(&report.dir, name, name)) figcaption { (name) } } } }
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
                        tr { th scope="row" { (folder.name) } td.number { (bytes_words(folder.bytes)) } td { (folder.about) } }
                    }
                } }
            }
        }
    }
}
