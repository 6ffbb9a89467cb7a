//! `nepa report SWEEP`: the runs of a sweep on one page: table, curves together, parameters against results, failures.

use super::scatter::{Scatter, scatter};
use super::{MOST_POINTS, curves, document, options, pairs};
use crate::cli::plot::metrics::{self, Group, MOST_PANELS};
use crate::cli::sweep::results::{Progress, RunResult, Sweep};
use crate::cli::sweep::table::{self, Metric, Setting, Stat, about_numbers};
use crate::cli::sweep::values::{SEED, text};
use crate::error::Result;
use crate::plot::{Curve, Key, Panel, Panels, key_colour};
use crate::run::numbers::number;
use maud::{Markup, html};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Colours that can be told apart, and how many shades each has.
const HUES: usize = 7;
/// The most settings whose curves are drawn.
const MOST_CURVES: usize = 28;
/// Results in the table, and against parameters.
const MOST_RESULTS: (usize, usize) = (16, 6);
/// The most runs that are listed, and the most that are listed as failed.
const MOST_LISTED: (usize, usize) = (2000, 200);
/// The most letters of an error.
const MOST_LETTERS: usize = 1000;

/// The page. `link` gives the address of a run's own page, if it has one.
pub fn page(sweep: &Sweep, metric: Option<&Metric>, link: impl Fn(&RunResult) -> Option<String>) -> Result<Markup> {
    let name = sweep.dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
    let name = name.unwrap_or_else(|| sweep.dir.display().to_string());
    let settings = table::settings(sweep);
    let keys = keys(sweep, &settings);
    let results = table::shown_results(sweep, metric);
    let drawn = drawn(&settings, metric);
    let panels = panels(sweep, &settings, &keys, &drawn);
    let count = |progress| sweep.in_state(progress).count();
    let states = [
        (Progress::Finished, "finished"),
        (Progress::Failed, "failed"),
        (Progress::Running, "running"),
        (Progress::Stopped, "stopped"),
        (Progress::Missing, "not started"),
    ];
    let states: Vec<String> = states
        .iter()
        .map(|(progress, word)| (count(*progress), word))
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    let body = html! {
        header {
            h1 { (name) }
            p { "Sweep of " (sweep.file.recipe) ", " (sweep.runs.len()) " runs: " strong { (states.join(", ")) } }
        }
        section { h2 { "Results" } (results_table(sweep, &settings, &keys, &results, metric)) }
        (failures(sweep, &link))
        @if let Some(panels) = panels {
            section {
                h2 { "Curves" }
                (about_curves(sweep, &settings, &drawn))
                (curves(&panels, MOST_POINTS)?)
            }
        }
        (against(sweep, &settings, &keys, &results))
        section { h2 { "Runs" } (runs(sweep, &results, &link)) }
        (how(sweep))
    };
    Ok(document(&name, &body, &sweep.dir.display().to_string()))
}

/// An entry of the legend for each setting.
fn keys(sweep: &Sweep, settings: &[Setting]) -> Vec<Key> {
    let varying = sweep.varying();
    let key = |(i, setting): (usize, &Setting)| {
        let pair = |name: &String| Some(format!("{name}={}", text(setting.params.get(name)?)));
        let name = varying.iter().filter_map(pair).collect::<Vec<_>>().join(", ");
        Key { name: if name.is_empty() { "all runs".into() } else { name }, hue: i % HUES, shade: i / HUES }
    };
    settings.iter().enumerate().map(key).collect()
}

/// The settings whose curves are drawn: the best, if there are too many.
fn drawn(settings: &[Setting], metric: Option<&Metric>) -> Vec<usize> {
    let mut places: Vec<usize> = (0..settings.len()).collect();
    if places.len() > MOST_CURVES {
        if let Some(metric) = metric {
            let mean = |place: &usize| settings[*place].stats.get(&metric.key).map_or(f64::NAN, |stat| stat.mean);
            let worse = |place: &usize| if metric.lower { mean(place) } else { -mean(place) };
            // No number, as of a setting without a result, is worst, whatever its sign.
            let order = |a: f64, b: f64| a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(&b));
            places.sort_by(|a, b| order(worse(a), worse(b)));
        }
        places.truncate(MOST_CURVES);
        places.sort_unstable();
    }
    places
}

fn about_curves(sweep: &Sweep, settings: &[Setting], drawn: &[usize]) -> Markup {
    let seeds = sweep.varying_with_seed().iter().any(|name| name == SEED);
    html! {
        @if seeds { p.note { "Means over " (SEED) "; bands are one standard deviation to either side." } }
        @if drawn.len() < settings.len() {
            p.note { "The " (drawn.len()) " best of " (settings.len()) " settings." }
        }
    }
}

fn results_table(
    sweep: &Sweep,
    settings: &[Setting],
    keys: &[Key],
    results: &[String],
    metric: Option<&Metric>,
) -> Markup {
    let varying = sweep.varying();
    let best = metric.and_then(|metric| table::best(settings, metric));
    let columns = &results[..results.len().min(MOST_RESULTS.0)];
    html! {
        div.scroll { table {
            thead { tr {
                th {} @for name in &varying { th { (name) } } th.number { "runs" }
                @for key in columns { th.number { (key) } }
            } }
            @for ((i, setting), key) in settings.iter().enumerate().zip(keys) {
                tr.best[best == Some(i)] {
                    td { span.key style={ "background:" (key_colour(key)) } {} }
                    @for name in &varying { td { (setting.params.get(name).map_or(String::new(), text)) } }
                    td.number {
                        (setting.finished) @if setting.finished < setting.runs.len() { " of " (setting.runs.len()) }
                    }
                    @for key in columns { td.number { (setting.words(key).unwrap_or_default()) } }
                }
            }
        } }
        p.note {
            (about_numbers(sweep)) "."
            @if let (Some(metric), Some(_)) = (metric, best) { " Bold: the best, " (metric.words()) "." }
            @if results.len() > columns.len() {
                " " (results.len() - columns.len()) " more results are in " (table::CSV_FILE) "."
            }
        }
    }
}

/// The runs that failed, with their errors.
fn failures(sweep: &Sweep, link: &impl Fn(&RunResult) -> Option<String>) -> Markup {
    let failed: Vec<&RunResult> = sweep.in_state(Progress::Failed).collect();
    let error = |run: &RunResult| {
        let error = run.error.as_deref().unwrap_or("for an unknown reason");
        error.chars().take(MOST_LETTERS).collect::<String>()
    };
    html! {
        @if !failed.is_empty() {
            section {
                h2 { "Failures" }
                div.scroll { table {
                    @for run in failed.iter().take(MOST_LISTED.1) {
                        tr { th scope="row" { (linked(run, link)) } td { span.wrong { (error(run)) } } }
                    }
                } }
                @if failed.len() > MOST_LISTED.1 { p.note { "… and " (failed.len() - MOST_LISTED.1) " more." } }
            }
        }
    }
}

fn linked(run: &RunResult, link: &impl Fn(&RunResult) -> Option<String>) -> Markup {
    html! { @if let Some(to) = link(run) { a href=(to) { (run.planned.name) } } @else { (run.planned.name) } }
}

/// Every number over the steps, a panel for each and each phase, a curve for each setting.
fn panels(sweep: &Sweep, settings: &[Setting], keys: &[Key], drawn: &[usize]) -> Option<Panels> {
    let lines = || sweep.runs.iter().flat_map(|run| &run.lines).filter(|line| line.contains_key("step"));
    let mut phases: Vec<Option<&str>> = Vec::new();
    for line in lines() {
        let phase = phase_of(line);
        if phases.len() < MOST_PANELS && !phases.contains(&phase) {
            phases.push(phase);
        }
    }
    let (mut legend, mut all) = (Vec::new(), Vec::new());
    for phase in &phases {
        let names = metrics::numbers(lines().filter(|line| phase_of(line) == *phase));
        for Group { title, log, members } in metrics::groups(&names) {
            let mut curves = Vec::new();
            for (name, split) in &members {
                for place in drawn {
                    let (points, band) = average(sweep, &settings[*place], *phase, name);
                    if !points.is_empty() {
                        curves.push(Curve { key: entry(&mut legend, &keys[*place], *place, split), points, band });
                    }
                }
            }
            let title = match phase {
                Some(phase) if phases.len() > 1 => format!("{title}, {phase}"),
                _ => title,
            };
            if !curves.is_empty() && all.len() < MOST_PANELS {
                all.push(Panel { title, log, curves });
            }
        }
    }
    let keys = legend.into_iter().map(|(_, key)| key).collect();
    (!all.is_empty()).then(|| Panels { header: Vec::new(), x: "step".into(), keys, panels: all, smooth: 1 })
}

type LegendEntry = ((usize, Option<String>), Key);

/// The place in the legend of a setting's curve for a part of the data.
fn entry(legend: &mut Vec<LegendEntry>, key: &Key, setting: usize, split: &Option<String>) -> usize {
    let id = (setting, split.clone());
    if let Some(place) = legend.iter().position(|(known, _)| *known == id) {
        return place;
    }
    let others = legend.iter().filter(|((of, _), _)| *of == setting).count();
    let name = split.as_ref().map_or(key.name.clone(), |split| format!("{}: {split}", key.name));
    legend.push((id, Key { name, hue: key.hue, shade: key.shade + others }));
    legend.len() - 1
}

fn phase_of(line: &Map<String, Value>) -> Option<&str> {
    line.get("phase").and_then(Value::as_str)
}

type Averages = (Vec<(f64, f64)>, Vec<(f64, f64, f64)>);

/// The mean of a number over the runs of a setting at each step, and the standard deviation to either side where there
/// are several.
fn average(sweep: &Sweep, setting: &Setting, phase: Option<&str>, name: &str) -> Averages {
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for run in setting.runs.iter().map(|place| &sweep.runs[*place]) {
        let mut own: BTreeMap<u64, f64> = BTreeMap::new();
        for line in run.lines.iter().filter(|line| phase_of(line) == phase) {
            let value = |key: &str| line.get(key).and_then(number);
            if let (Some(step), Some(value)) = (value("step").filter(|step| *step >= 0.0), value(name)) {
                // Numbers from 0 on have the order of their bits.
                own.insert(step.to_bits(), value);
            }
        }
        own.into_iter().for_each(|(step, value)| at.entry(step).or_default().push(value));
    }
    let stats = at.iter().filter_map(|(step, values)| Some((f64::from_bits(*step), Stat::of(values)?)));
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for (step, stat) in stats {
        points.push((step, stat.mean));
        if let Some(deviation) = stat.deviation {
            band.push((step, stat.mean - deviation, stat.mean + deviation));
        }
    }
    (points, band)
}

/// Each parameter that varies against each result.
fn against(sweep: &Sweep, settings: &[Setting], keys: &[Key], results: &[String]) -> Markup {
    let mut charts = Vec::new();
    for param in &sweep.varying() {
        for result in results.iter().take(MOST_RESULTS.1) {
            let mut points = Vec::new();
            for (setting, key) in settings.iter().zip(keys) {
                let Some(value) = setting.params.get(param) else { continue };
                for run in setting.runs.iter().map(|place| &sweep.runs[*place]).filter(|run| run.is_finished()) {
                    if let Some(y) = run.values.get(result).filter(|y| y.is_finite()) {
                        points.push((value.clone(), *y, key_colour(key), run.planned.name.clone()));
                    }
                }
            }
            charts.extend(scatter(&Scatter { param, result, points }));
        }
    }
    html! {
        @if !charts.is_empty() {
            section {
                h2 { "Parameters against results" }
                p.note { "A point for each finished run, in the colour of its setting; the line joins the means." }
                div.charts { @for chart in charts { (chart) } }
            }
        }
    }
}

fn runs(sweep: &Sweep, results: &[String], link: &impl Fn(&RunResult) -> Option<String>) -> Markup {
    let columns = &results[..results.len().min(MOST_RESULTS.0)];
    html! {
        div.scroll { table {
            thead { tr {
                th { "run" } th { "state" } th { "started" } th { "ended" } @for key in columns { th.number { (key) } }
            } }
            @for run in sweep.runs.iter().take(MOST_LISTED.0) {
                tr {
                    th scope="row" { (linked(run, link)) }
                    td { (run.state) }
                    td { (run.file.as_ref().map_or("", |file| file.started.as_str())) }
                    td { (run.file.as_ref().and_then(|file| file.ended.as_deref()).unwrap_or_default()) }
                    @for key in columns {
                        td.number { (run.values.get(key).map_or(String::new(), |value| table::number(*value))) }
                    }
                }
            }
        } }
        @if sweep.runs.len() > MOST_LISTED.0 {
            p.note { "The first " (MOST_LISTED.0) " of " (sweep.runs.len()) "; all are in " (table::CSV_FILE) "." }
        }
    }
}

/// The values that were tried, the command, the models, and the options that all runs have.
fn how(sweep: &Sweep) -> Markup {
    let file = &sweep.file;
    let values = |values: &Value| match values {
        Value::Array(values) => values.iter().take(100).map(text).collect::<Vec<_>>().join(", "),
        other => text(other),
    };
    let mut rows = vec![("recipe", html! { (file.recipe) }), ("started", html! { (file.started) })];
    if !file.command.is_empty() {
        rows.push(("command", html! { code { (file.command.join(" ")) } }));
    }
    let first = sweep.runs.iter().find_map(|run| run.file.as_ref().filter(|file| !file.settings.is_empty()));
    let first = first.or_else(|| sweep.runs.iter().find_map(|run| run.file.as_ref()));
    if let Some(run) = first {
        rows.push(("device", html! { (run.device) ", " (run.threads) " threads" }));
        rows.extend(run.versions.known().map(|(name, version)| (name, html! { (version) })));
    }
    let settings = first.map(|run| common(&run.settings, sweep)).unwrap_or_default();
    html! {
        section {
            h2 { "How it was made" }
            (pairs(file.values.iter().map(|(name, all)| (name.as_str(), html! { (values(all)) }))))
            (pairs(rows))
        }
        @if let Some(run) = first { (options::models(run)) }
        @if !settings.is_empty() {
            (options::options(&settings))
            p.note { "Those that all runs have in common; the others are in each run's own page." }
        }
    }
}

/// The settings that are the same in all runs that have recorded them.
fn common(settings: &Map<String, Value>, sweep: &Sweep) -> Map<String, Value> {
    let others: Vec<&Map<String, Value>> =
        sweep.runs.iter().filter_map(|run| Some(&run.file.as_ref()?.settings)).filter(|all| !all.is_empty()).collect();
    let mut common = Map::new();
    for (label, own) in settings {
        let mut own = own.as_object().cloned().unwrap_or_default();
        own.retain(|name, value| others.iter().all(|all| all.get(label).and_then(|one| one.get(name)) == Some(value)));
        common.insert(label.clone(), Value::Object(own));
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_best_settings_are_drawn_and_those_without_a_result_last() {
        let setting = |mean: Option<f64>| {
            let stat = mean.map(|mean| ("top1".to_string(), Stat { mean, deviation: None, n: 1 }));
            let stats: HashMap<String, Stat> = stat.into_iter().collect();
            Setting { params: Map::new(), runs: vec![0], finished: stats.len(), stats }
        };
        // Three without a result, one that diverged, then better and better ones.
        let without = [None, None, None, Some(f64::NAN)].map(setting);
        let settings: Vec<Setting> = without.into_iter().chain((0..30).map(|i| setting(Some(f64::from(i))))).collect();
        let drawn = |lower| drawn(&settings, Some(&Metric { key: "top1".into(), lower }));
        assert_eq!(drawn(false), (6..34).collect::<Vec<_>>());
        assert_eq!(drawn(true), (4..32).collect::<Vec<_>>());
    }
}
