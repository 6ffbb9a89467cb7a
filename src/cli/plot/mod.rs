//! `nepa plot`

mod axis;
pub(super) mod read;

use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use crate::output::{err, out};
use crate::plot::{Curve, Format, Key, Panel, Panels, panels};
use axis::Axis;
use clap::Args;
use read::Run;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// Name in the metrics, title, whether many decades are drawn logarithmically.
const METRICS: &[(&str, &str, bool)] = &[
    ("loss", "loss", false),
    ("lr", "learning rate", false),
    ("grad_norm", "gradient norm", true),
    ("target_std", "standard deviation of targets (0: collapsed)", false),
    ("effective_rank", "effective rank of targets (1: collapsed)", false),
    ("target_cosine", "cosine between targets (1: collapsed)", false),
    ("images_per_second", "throughput (images/s)", false),
    ("knn_top1", "k-NN top-1 accuracy", false),
    ("probe_top1", "linear probe top-1 accuracy", false),
    ("top1", "top-1 accuracy", false),
];
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
    /// Run directories, or metrics.jsonl files.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The picture, a .png or .svg file [default: curves.png in the run directory; for several runs, in the current
    /// folder].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The horizontal axis.
    #[arg(long, value_enum, default_value_t = Axis::Step)]
    x: Axis,
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
    // Folders of the same name are distinguished by the paths given.
    let names: Vec<String> = runs.iter().map(|r| r.name.clone()).collect();
    for run in runs.iter_mut().filter(|run| names.iter().filter(|n| **n == run.name).count() > 1) {
        run.name = run.given.clone();
    }
    let tracks = tracks(&runs, args)?;
    let picture = picture(&runs, tracks, args)?;
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
    let args = PlotArgs { runs: Vec::new(), out: None, x: Axis::Step, phase: None, smooth: 1 };
    let drawn =
        |line: &&Map<String, Value>| line.contains_key("step") && METRICS.iter().any(|m| line.contains_key(m.0));
    let lines: Vec<_> = run.lines.iter().filter(drawn).cloned().collect();
    let runs = [Run {
        lines,
        name: run.name.clone(),
        given: run.given.clone(),
        dir: run.dir.clone(),
        state: None,
        torn: false,
    }];
    // It fails only if there is nothing to draw.
    tracks(&runs, &args).and_then(|tracks| picture(&runs, tracks, &args)).ok()
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

fn picture(runs: &[Run], mut tracks: Vec<Track>, args: &PlotArgs) -> Result<Panels> {
    let scale = args.x.scale(tracks.iter().map(|t| t.lines.as_slice()));
    let positions: Vec<Vec<Option<f64>>> = tracks.iter().map(|t| scale.positions(&t.lines)).collect();
    let (mut all, mut left_out) = (Vec::new(), Vec::new());
    for (metric, title, log) in METRICS {
        let mut curves: Vec<Curve> = Vec::new();
        for (key, (track, positions)) in tracks.iter().zip(&positions).enumerate() {
            let value = |line: &Map<String, Value>| line.get(*metric).and_then(Value::as_f64);
            let points: Vec<(f64, f64)> =
                track.lines.iter().zip(positions).filter_map(|(line, x)| Some(((*x)?, value(line)?))).collect();
            if !points.is_empty() {
                curves.push(Curve { key, points });
            }
        }
        let logged = tracks.iter().flat_map(|t| &t.lines).any(|line| line.contains_key(*metric));
        match curves.is_empty() {
            false => all.push(Panel { title: title.to_string(), log: *log, curves }),
            true if logged => left_out.push(metric),
            true => {}
        }
    }
    if all.is_empty() {
        let known: Vec<&str> = METRICS.iter().map(|m| m.0).collect();
        let logged: BTreeSet<&str> =
            tracks.iter().flat_map(|t| &t.lines).flat_map(|l| l.keys()).map(String::as_str).collect();
        let shown: Vec<&str> = logged.into_iter().take(MOST_LISTED).collect();
        bail_hint!(
            "nothing to draw over {}: the lines hold {}", args.x.field(), shown.join(", ");
            "`nepa plot` draws: {}", known.join(", ")
        );
    }

    for metric in left_out {
        err!("note: `{metric}` is left out: no line with it has {}", args.x.field());
    }

    // Phases without a curve need no entry in the legend.
    let drawn: BTreeSet<usize> = all.iter().flat_map(|p| &p.curves).map(|c| c.key).collect();
    let order: Vec<usize> = drawn.into_iter().collect();
    for curve in all.iter_mut().flat_map(|p| &mut p.curves) {
        curve.key = order.iter().position(|k| *k == curve.key).expect("listed from the curves");
    }
    let tracks: Vec<Track> = {
        let mut kept: Vec<Option<Track>> = tracks.drain(..).map(Some).collect();
        order.iter().map(|i| kept[*i].take().expect("each once")).collect()
    };
    Ok(Panels {
        header: header(runs, &tracks, args),
        x: scale.title(),
        keys: keys(runs, &tracks),
        panels: all,
        smooth: args.smooth as usize,
    })
}

/// Runs differ by colour, their phases by its shade; the phases of a single run by colour.
fn keys(runs: &[Run], tracks: &[Track]) -> Vec<Key> {
    const HUES: usize = 7;
    let single = one_track_each(runs, tracks);
    let mut keys = Vec::new();
    for (i, track) in tracks.iter().enumerate() {
        let run = &runs[track.run];
        let within = tracks[..i].iter().filter(|t| t.run == track.run).count();
        let (name, hue, shade) = match (runs.len(), track.phase) {
            (1, phase) => (phase.unwrap_or("no phase").to_string(), i % HUES, i / HUES),
            (_, Some(phase)) if !single => (format!("{}: {phase}", run.name), track.run % HUES, within),
            (_, None) if !single => (run.name.clone(), track.run % HUES, within),
            _ => (format!("{}: {}", run.name, about(run)), track.run % HUES, track.run / HUES),
        };
        keys.push(Key { name, hue, shade });
    }
    keys
}

/// Whether colour alone distinguishes several runs: then the legend shows the state of each.
fn one_track_each(runs: &[Run], tracks: &[Track]) -> bool {
    runs.len() > 1 && (1..tracks.len()).all(|i| tracks[i].run != tracks[i - 1].run)
}

fn about(run: &Run) -> String {
    let plural = if run.lines.len() == 1 { "line" } else { "lines" };
    let lines = format!("{} {plural} of metrics", run.lines.len());
    match &run.state {
        Some(state) => format!("{state}; {lines}"),
        None => lines,
    }
}

fn header(runs: &[Run], tracks: &[Track], args: &PlotArgs) -> Vec<String> {
    let mut lines = match runs {
        [run] => vec![run.name.clone(), about(run)],
        _ => vec![format!("{} runs", runs.len())],
    };
    if runs.len() > 1 && !(one_track_each(runs, tracks) && tracks.len() > 1) {
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
