//! `nepa plot`

mod axis;
mod labels;
pub(super) mod metrics;
pub(super) mod read;

use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use crate::output::{err, out};
use crate::plot::{Curve, Format, Key, Panel, Panels, panels};
use crate::run::numbers::number;
use axis::Axis;
use clap::Args;
use metrics::{Group, MOST_PANELS};
use read::Run;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// The picture's name in a run directory.
pub(super) const CURVES_FILE: &str = "curves.png";
/// The most phases of a run that are drawn.
const MOST_PHASES: usize = 200;
/// The most names that an error lists.
const MOST_LISTED: usize = 50;
/// Runs whose state stands above the panels.
const HEADED: usize = 8;

#[derive(Args)]
pub struct PlotArgs {
    /// Run directories, or metrics.jsonl files. Several runs are told apart by the parameters in which they differ.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The picture, a .png or .svg file [default: curves.png in the run directory; for several runs, in the current
    /// folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The horizontal axis.
    #[arg(long, value_enum, default_value_t = Axis::Step)]
    x: Axis,
    /// Draws this number only, as the script has logged it; may be repeated [default: all].
    #[arg(long = "metric", value_name = "NAME")]
    metrics: Vec<String>,
    /// One phase only, such as pretrain [default: all, one curve each].
    #[arg(long, value_name = "NAME")]
    phase: Option<String>,
    /// Draws a moving average over N points, bold over the faint curve; curves of up to 40 points stay as they are.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    smooth: u32,
}

pub fn plot(args: &PlotArgs) -> Result<()> {
    // A wrong name is reported before anything is read.
    args.out.as_deref().map(Format::of).transpose()?;
    let mut runs = args.runs.iter().map(|path| read::run(path)).collect::<Result<Vec<Run>>>()?;
    for run in runs.iter().filter(|run| run.torn) {
        err!("note: ignoring the last line of {}'s metrics, which was cut short, as when a run is killed", run.given);
    }
    labels::name(&mut runs);
    let tracks = tracks(&runs, args)?;
    let picture = picture(&runs, &tracks, args)?;
    let out = match (&args.out, runs.as_slice()) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.dir.join(CURVES_FILE),
        (None, _) => PathBuf::from(CURVES_FILE),
    };
    panels(&out, &picture)?;
    let drawn: Vec<&str> = picture.panels.iter().map(|p| p.title.split(" (").next().unwrap_or(&p.title)).collect();
    out!("{}: {}", out.display(), drawn.join(", "));
    Ok(())
}

/// The panels of one run over its steps; none if nothing that is drawn was logged.
pub(super) fn panels_of(run: &Run) -> Option<Panels> {
    let args = PlotArgs { runs: Vec::new(), out: None, x: Axis::Step, metrics: Vec::new(), phase: None, smooth: 1 };
    let lines: Vec<_> = run.lines.iter().filter(|line| line.contains_key("step")).cloned().collect();
    let (name, given, dir) = (run.name.clone(), run.given.clone(), run.dir.clone());
    let runs = [Run { lines, name, given, dir, folder: None, state: None, params: None, torn: false }];
    // It fails only if there is nothing to draw.
    tracks(&runs, &args).and_then(|tracks| picture(&runs, &tracks, &args)).ok()
}

/// The lines of one phase of one run.
struct Track<'a> {
    run: usize,
    phase: Option<&'a str>,
    lines: Vec<&'a Map<String, Value>>,
}

fn phase_of(line: &Map<String, Value>) -> Option<&str> {
    line.get("phase").and_then(Value::as_str)
}

/// Each phase of each run, or the one that is asked for, in the order of their first lines.
fn tracks<'a>(runs: &'a [Run], args: &PlotArgs) -> Result<Vec<Track<'a>>> {
    let wanted = args.phase.as_deref();
    let mut tracks: Vec<Track> = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let mut places: HashMap<Option<&str>, usize> = HashMap::new();
        let mut left_out = BTreeSet::new();
        for line in run.lines.iter().filter(|line| wanted.is_none() || phase_of(line) == wanted) {
            let phase = phase_of(line);
            match places.get(&phase) {
                Some(place) => tracks[*place].lines.push(line),
                None if places.len() == MOST_PHASES => drop(left_out.insert(phase)),
                None => {
                    places.insert(phase, tracks.len());
                    tracks.push(Track { run: i, phase, lines: vec![line] });
                }
            }
        }
        if !left_out.is_empty() {
            err!("note: {} of {}'s phases are left out: {MOST_PHASES} are drawn", left_out.len(), run.given);
        }
    }
    let Some(wanted) = wanted else { return Ok(tracks) };
    if tracks.is_empty() {
        let known: BTreeSet<&str> = runs.iter().flat_map(|run| &run.lines).filter_map(phase_of).collect();
        let mut list: Vec<&str> = known.iter().copied().take(MOST_LISTED).collect();
        if known.len() > MOST_LISTED {
            list.push("…");
        }
        bail_hint!(
            "no run has a phase `{wanted}`{}", did_you_mean(wanted, known.iter().copied());
            "the phases are: {}", if list.is_empty() { "none, so leave out --phase".to_string() } else { list.join(", ") }
        );
    }
    for (i, run) in runs.iter().enumerate() {
        if !tracks.iter().any(|t| t.run == i) {
            err!("note: {} is left out: it has no phase `{wanted}`", run.given);
        }
    }
    Ok(tracks)
}

/// The curves of a track for one part of the data, or for all: an entry of the legend.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    track: usize,
    split: Option<String>,
}

/// The curves of a number, one for each track that has it.
fn curves_of(
    name: &str,
    split: &Option<String>,
    tracks: &[Track],
    positions: &[Vec<Option<f64>>],
) -> Vec<(Series, Vec<(f64, f64)>)> {
    let curve = |(track, (Track { lines, .. }, positions)): (usize, (&Track, &Vec<Option<f64>>))| {
        let points = lines.iter().zip(positions).filter_map(|(line, x)| Some(((*x)?, number(line.get(name)?)?)));
        let points: Vec<(f64, f64)> = points.collect();
        (!points.is_empty()).then(|| (Series { track, split: split.clone() }, points))
    };
    tracks.iter().zip(positions).enumerate().filter_map(curve).collect()
}

fn picture(runs: &[Run], tracks: &[Track], args: &PlotArgs) -> Result<Panels> {
    let scale = args.x.scale(tracks.iter().map(|t| t.lines.as_slice()));
    let positions: Vec<Vec<Option<f64>>> = tracks.iter().map(|t| scale.positions(&t.lines)).collect();
    let names = metrics::numbers(tracks.iter().flat_map(|t| t.lines.iter().copied()));
    let (mut all, mut left_out) = (Vec::new(), Vec::new());
    for Group { title, log, members } in metrics::groups(&chosen(&names, &args.metrics)?) {
        let (mut curves, mut gaps) = (Vec::new(), Vec::new());
        for (name, split) in members {
            let found = curves_of(&name, &split, tracks, &positions);
            let not_finite =
                found.iter().flat_map(|(_, points)| points).filter(|(_, value)| !value.is_finite()).count();
            match (found.is_empty(), not_finite) {
                (true, _) => left_out.push(name),
                (false, 0) => {}
                (false, 1) => gaps.push(format!("1 value of `{name}` is not finite")),
                (false, n) => gaps.push(format!("{n} values of `{name}` are not finite")),
            }
            curves.extend(found);
        }
        if !curves.is_empty() {
            gaps.iter().for_each(|gap| err!("note: {gap}: its curve is broken there"));
            let title = if gaps.is_empty() { title } else { format!("{title} ({})", gaps.join(", ")) };
            all.push((title, log, curves));
        }
    }
    if all.is_empty() {
        let logged: BTreeSet<&str> =
            tracks.iter().flat_map(|t| &t.lines).flat_map(|l| l.keys()).map(String::as_str).collect();
        let shown: Vec<&str> = logged.into_iter().take(MOST_LISTED).collect();
        bail_hint!(
            "nothing to draw over {}: the lines hold {}", args.x.field(), shown.join(", ");
            "`nepa plot` draws every number that a script logs in a line with {}", args.x.field()
        );
    }
    tell_left_out(&left_out, args);
    if all.len() > MOST_PANELS {
        err!("note: {} panels of {} are drawn; choose others with --metric NAME", MOST_PANELS, all.len());
        all.truncate(MOST_PANELS);
    }

    // What has no curve needs no entry in the legend.
    let drawn: BTreeSet<Series> = all.iter().flat_map(|panel| &panel.2).map(|(series, _)| series.clone()).collect();
    let series: Vec<Series> = drawn.into_iter().collect();
    let curve = |(of, points)| Curve {
        key: series.binary_search(&of).expect("listed from the curves"),
        points,
        band: Vec::new(),
    };
    let panel = |(title, log, curves): (String, bool, Vec<_>)| Panel {
        title,
        log,
        curves: curves.into_iter().map(curve).collect(),
    };
    let panels = all.into_iter().map(panel).collect();
    Ok(Panels {
        header: header(runs, tracks, &series, args),
        x: scale.title(),
        keys: keys(runs, tracks, &series),
        panels,
        smooth: args.smooth as usize,
    })
}

/// The names that are asked for; all, if none is.
fn chosen<'a>(names: &[&'a str], asked: &[String]) -> Result<Vec<&'a str>> {
    if let Some(unknown) = asked.iter().find(|asked| !names.contains(&asked.as_str())) {
        let list: Vec<&str> = names.iter().copied().take(MOST_LISTED).collect();
        bail_hint!(
            "no run has logged a number `{unknown}`{}", did_you_mean(unknown, names.iter().copied());
            "the numbers are: {}", if list.is_empty() { "none".to_string() } else { list.join(", ") }
        );
    }
    Ok(names.iter().copied().filter(|name| asked.is_empty() || asked.iter().any(|asked| asked == name)).collect())
}

fn tell_left_out(names: &[String], args: &PlotArgs) {
    let mut list: Vec<String> = names.iter().take(MOST_LISTED).map(|name| format!("`{name}`")).collect();
    if names.len() > MOST_LISTED {
        list.push("…".into());
    }
    match list.as_slice() {
        [] => {}
        [name] => err!("note: {name} is left out: no line with it has {}", args.x.field()),
        _ => err!("note: {} are left out: no line with them has {}", list.join(", "), args.x.field()),
    }
}

/// Runs differ by colour, what they logged by its shade; a single run's by colour.
fn keys(runs: &[Run], tracks: &[Track], series: &[Series]) -> Vec<Key> {
    const HUES: usize = 7;
    let single = one_curve_each(runs, tracks, series);
    let mut keys = Vec::new();
    for (i, Series { track, split }) in series.iter().enumerate() {
        let Track { run: place, phase, .. } = tracks[*track];
        let run = &runs[place];
        let within = series[..i].iter().filter(|s| tracks[s.track].run == place).count();
        let words: Vec<&str> = phase.into_iter().chain(split.as_deref()).collect();
        let (name, hue, shade) = match (runs.len(), words.is_empty()) {
            (1, true) if tracks.len() > 1 => ("no phase".to_string(), i % HUES, i / HUES),
            (1, true) => (run.name.clone(), i % HUES, i / HUES),
            (1, false) => (words.join(" "), i % HUES, i / HUES),
            (_, false) if !single => (format!("{}: {}", run.name, words.join(" ")), place % HUES, within),
            (_, true) if !single => (run.name.clone(), place % HUES, within),
            _ => (format!("{}: {}", run.name, about(run)), place % HUES, place / HUES),
        };
        keys.push(Key { name, hue, shade });
    }
    keys
}

/// Whether colour alone distinguishes several runs: then the legend shows the state of each.
fn one_curve_each(runs: &[Run], tracks: &[Track], series: &[Series]) -> bool {
    let run = |i: usize| tracks[series[i].track].run;
    runs.len() > 1 && (1..series.len()).all(|i| run(i) != run(i - 1))
}

fn about(run: &Run) -> String {
    let plural = if run.lines.len() == 1 { "line" } else { "lines" };
    let lines = format!("{} {plural} of metrics", run.lines.len());
    let folder = run.folder.as_ref().map(|folder| format!("{folder}, ")).unwrap_or_default();
    match &run.state {
        Some(state) => format!("{folder}{state}; {lines}"),
        None => format!("{folder}{lines}"),
    }
}

fn header(runs: &[Run], tracks: &[Track], series: &[Series], args: &PlotArgs) -> Vec<String> {
    let mut lines = match runs {
        [run] => vec![run.name.clone(), about(run)],
        _ => vec![format!("{} runs", runs.len())],
    };
    if runs.len() > 1 && !(one_curve_each(runs, tracks, series) && series.len() > 1) {
        lines.extend(runs.iter().take(HEADED).map(|run| format!("{}: {}", run.name, about(run))));
        if runs.len() > HEADED {
            lines.push(format!("… and {} more", runs.len() - HEADED));
        }
    }
    if let Some(phase) = &args.phase {
        lines[0] += &format!(", phase {phase}");
    }
    if args.smooth > 1 {
        lines[0] += &format!(", moving average over {} points", args.smooth);
    }
    lines
}
