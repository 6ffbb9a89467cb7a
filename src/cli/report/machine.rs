//! What the machines of a run did while it ran.

use crate::cli::plot::read::{MOST_METRICS, text};
use crate::error::Result;
use crate::files::names_in;
use crate::plot::{Curve, Key, Panel, Panels};
use crate::run::inside;
use crate::run::system::{SYSTEM_FILE, is_system_file};
use serde_json::{Map, Value};
use std::path::Path;

/// The most machines that the page shows, and the most GPUs of each.
const MOST_MACHINES: usize = 32;
const MOST_GPUS: usize = 16;

/// Title, what values are divided by, and the curves: name in the lines, and in the legend.
pub type Chart<'a> = (&'a str, f64, &'a [(&'a str, &'a str)]);

/// Those of a machine.
pub const CHARTS: &[Chart<'static>] = &[
    ("processor (%)", 1.0, &[("cpu_percent", "machine"), ("process_cpu_percent", "process; 100: one core")]),
    ("memory (GB)", 1e9, &[("memory_used_bytes", "machine"), ("process_memory_bytes", "process")]),
    ("disk (MB/s)", 1e6, &[("disk_read_bytes_per_second", "read"), ("disk_write_bytes_per_second", "written")]),
    (
        "network (MB/s)",
        1e6,
        &[("network_received_bytes_per_second", "received"), ("network_sent_bytes_per_second", "sent")],
    ),
];
/// The same of each GPU: the name comes after the GPU's.
pub const GPU_CHARTS: &[(&str, f64, &str)] = &[
    ("GPU utilization (%)", 1.0, "utilization_percent"),
    ("GPU memory (GB)", 1e9, "memory_used_bytes"),
    ("GPU power (W)", 1.0, "power_watts"),
    ("GPU temperature (°C)", 1.0, "temperature_celsius"),
];

/// The charts of a machine.
pub struct Machine {
    /// Of which it is, where there are several.
    pub title: String,
    pub charts: Vec<Panels>,
}

/// The machines of the run in `dir`.
pub fn machines(dir: &Path) -> Result<Vec<Machine>> {
    let mut found = Vec::new();
    for name in names_in(dir)?.into_iter().filter(|name| is_system_file(name)).take(MOST_MACHINES) {
        inside::check(dir, &name, MOST_METRICS)?;
        // A line that was cut short tells nothing.
        let all = text(&dir.join(&name), MOST_METRICS)?;
        let lines: Vec<Map<String, Value>> = all.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let title = match name.as_str() {
            SYSTEM_FILE => "Machine of rank 0".to_string(),
            other => format!("Machine of rank {}", other.trim_matches(|c: char| !c.is_ascii_digit())),
        };
        found.push(Machine { title, charts: charts(&lines) });
    }
    found.retain(|machine| !machine.charts.is_empty());
    // system.jsonl comes after system-8.jsonl.
    found.sort_by_key(|machine| machine.title != "Machine of rank 0");
    Ok(found)
}

fn charts(lines: &[Map<String, Value>]) -> Vec<Panels> {
    let is_there = |name: &str| lines.iter().any(|line| line.contains_key(name));
    let gpus: Vec<String> = (0..MOST_GPUS).map(|n| format!("gpu{n}")).collect();
    let mut all: Vec<Panels> = CHARTS.iter().filter_map(|chart| panels(lines, *chart)).collect();
    for (title, unit, name) in GPU_CHARTS {
        let names: Vec<(String, &String)> = gpus.iter().map(|gpu| (format!("{gpu}_{name}"), gpu)).collect();
        let known = names.iter().filter(|(name, _)| is_there(name));
        let curves: Vec<(&str, &str)> = known.map(|(name, gpu)| (name.as_str(), gpu.as_str())).collect();
        all.extend(panels(lines, (title, *unit, &curves)));
    }
    all
}

/// A chart, if there is anything to draw.
fn panels(lines: &[Map<String, Value>], (title, unit, wanted): Chart<'_>) -> Option<Panels> {
    let number = |line: &Map<String, Value>, name: &str| line.get(name).and_then(Value::as_f64);
    let start = lines.iter().find_map(|line| number(line, "time"))?;
    let (mut keys, mut curves) = (Vec::new(), Vec::new());
    for (name, legend) in wanted {
        let point = |line| Some(((number(line, "time")? - start) / 3600.0, number(line, name)? / unit));
        let points: Vec<(f64, f64)> = lines.iter().filter_map(point).collect();
        if !points.is_empty() {
            curves.push(Curve { key: keys.len(), points, band: Vec::new() });
            keys.push(Key { name: (*legend).into(), hue: keys.len(), shade: 0 });
        }
    }
    let panel = Panel { title: title.into(), log: false, curves };
    let some = !keys.is_empty();
    some.then(|| Panels { header: Vec::new(), x: "hours".into(), keys, panels: vec![panel], smooth: 1 })
}
