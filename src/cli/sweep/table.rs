//! The results of a sweep by what varies: mean and standard deviation over seeds, the best setting, and `sweep.csv`.

use super::results::{RunResult, Sweep};
use super::values::{SEED, text};
use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use crate::files::write_atomic;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The file of the table, a row for each run.
pub const CSV_FILE: &str = "sweep.csv";
/// A deviation below this fraction of the mean is none.
const ROUNDING: f64 = 1e-12;
/// Results that the printed table shows.
const MOST_COLUMNS: usize = 6;

/// A result to compare runs by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub key: String,
    /// Whether less is better.
    pub lower: bool,
}

/// A result over the seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of a sample (n - 1); none of one value.
    pub deviation: Option<f64>,
    /// How many values there are.
    pub n: usize,
}

/// Runs that differ in their seed alone.
pub struct Setting {
    /// Their parameters, without the seed.
    pub params: Map<String, Value>,
    /// Their places among the runs.
    pub runs: Vec<usize>,
    /// How many of them have finished.
    pub finished: usize,
    /// Results of those that have finished, by name.
    pub stats: HashMap<String, Stat>,
}

impl Setting {
    /// A result as the table has it: "0.812 ± 0.013", with how many runs it is of where others have finished without it.
    pub fn words(&self, key: &str) -> Option<String> {
        let stat = self.stats.get(key)?;
        Some(match stat.n < self.finished {
            true => format!("{} ({} of {})", stat.words(), stat.n, self.finished),
            false => stat.words(),
        })
    }

    /// Whether all its runs have finished with a result.
    fn is_complete(&self, key: &str) -> bool {
        self.finished == self.runs.len() && self.stats.get(key).is_some_and(|stat| stat.n == self.finished)
    }
}

impl Stat {
    /// Of some values; none of no value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (n > 0).then(|| Self { mean, deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }

    /// "0.812 ± 0.013": the deviation with two digits, the mean with as many after the point.
    pub fn words(&self) -> String {
        let Some(deviation) = self.deviation else { return number(self.mean) };
        // What rounding leaves of 0.
        let deviation = if deviation < ROUNDING * self.mean.abs() { 0.0 } else { deviation };
        if !self.mean.is_finite() || !deviation.is_finite() || deviation == 0.0 {
            return format!("{} ± {}", number(self.mean), number(deviation));
        }
        let size = self.mean.abs().max(deviation);
        if !(1e-4..1e7).contains(&size) {
            return format!("{:.3e} ± {:.1e}", self.mean, deviation);
        }
        let digits = (1 - deviation.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{:.digits$} ± {:.digits$}", self.mean, deviation)
    }
}

/// A number with four digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => value.to_string(),
        0.0 => "0".into(),
        v if !(1e-4..1e7).contains(&v) => format!("{value:.3e}"),
        _ if value.fract() == 0.0 => value.to_string(),
        v => format!("{value:.*}", (3 - v.log10().floor() as i32).clamp(0, 7) as usize),
    }
}

impl Metric {
    /// The one that is asked for, as NAME, NAME:min or NAME:max; else an accuracy, else a loss, else the first.
    pub fn choose(sweep: &Sweep, asked: Option<&str>) -> Result<Option<Self>> {
        let Some(asked) = asked else { return Ok(Self::obvious(sweep)) };
        let (key, lower) = match asked.rsplit_once(':') {
            Some((key, "min")) => (key, Some(true)),
            Some((key, "max")) => (key, Some(false)),
            _ => (asked, None),
        };
        let known = || sweep.keys.iter().map(String::as_str);
        if !known().any(|name| name == key) {
            let all: Vec<&str> = known().take(50).collect();
            bail_hint!(
                "--metric {asked}: no run has a result `{key}`{}", did_you_mean(key, known());
                "the results are: {}", if all.is_empty() { "none yet".to_string() } else { all.join(", ") }
            );
        }
        Ok(Some(Self { key: key.to_string(), lower: lower.unwrap_or_else(|| is_lower_better(key)) }))
    }

    fn obvious(sweep: &Sweep) -> Option<Self> {
        let keys = sweep.results();
        let first = |is_one: fn(&str) -> bool| {
            let mut found = keys.iter().filter(move |key| is_one(key));
            let held_out = ["val", "test", "eval", "held"];
            let first = found.clone().next();
            found.find(|key| held_out.iter().any(|word| key.starts_with(word))).or(first)
        };
        let key = first(is_accuracy).or_else(|| first(is_loss)).or(keys.first())?;
        Some(Self { key: key.to_string(), lower: is_lower_better(key) })
    }

    /// Whether `a` is better than `b`.
    fn is_better(&self, a: f64, b: f64) -> bool {
        if self.lower { a < b } else { a > b }
    }

    /// "top1, highest".
    pub fn words(&self) -> String {
        format!("{}, {}", self.key, if self.lower { "lowest" } else { "highest" })
    }
}

/// By a result's name.
fn is_accuracy(key: &str) -> bool {
    let name = key.to_lowercase();
    ["top1", "acc"].iter().any(|word| name.contains(word))
}

/// By a result's name: loss, val_loss, testloss.
fn is_loss(key: &str) -> bool {
    has_word(key, |word| word.ends_with("loss"))
}

/// By a result's name.
fn is_lower_better(key: &str) -> bool {
    const LOWER: &[&str] =
        &["error", "err", "ece", "nll", "perplexity", "ppl", "mse", "mae", "rmse", "fid", "seconds", "time"];
    is_loss(key) || has_word(key, |word| LOWER.contains(&word))
}

/// Whether a word of a result's name, in lower case, is such a one.
fn has_word(key: &str, is_one: impl Fn(&str) -> bool) -> bool {
    key.to_lowercase().split(|c: char| !c.is_alphanumeric()).any(is_one)
}

/// The settings of a sweep, in the order of its runs.
pub fn settings(sweep: &Sweep) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (i, run) in sweep.runs.iter().enumerate() {
        let mut params = run.planned.params.clone();
        params.shift_remove(SEED);
        let place = *places.entry(Value::Object(sorted(&params)).to_string()).or_insert(settings.len());
        if place == settings.len() {
            settings.push(Setting { params, runs: Vec::new(), finished: 0, stats: HashMap::new() });
        }
        settings[place].runs.push(i);
    }
    for setting in &mut settings {
        let runs: Vec<&RunResult> = setting.runs.iter().map(|i| &sweep.runs[*i]).filter(|r| r.is_finished()).collect();
        setting.finished = runs.len();
        for key in &sweep.keys {
            let values: Vec<f64> = runs.iter().filter_map(|run| run.values.get(key).copied()).collect();
            if let Some(stat) = Stat::of(&values) {
                setting.stats.insert(key.clone(), stat);
            }
        }
    }
    settings
}

fn sorted(params: &Map<String, Value>) -> Map<String, Value> {
    let mut all: Vec<_> = params.clone().into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().collect()
}

/// The place of the best setting, if there are several to choose from: among those all of whose runs have the result, if
/// there are any. A mean that is not finite is never best.
pub fn best(settings: &[Setting], metric: &Metric) -> Option<usize> {
    let known = settings.iter().enumerate().filter_map(|(i, s)| Some((i, s.stats.get(&metric.key)?.mean)));
    let all: Vec<(usize, f64)> = known.filter(|(_, mean)| mean.is_finite()).collect();
    let complete = all.iter().copied().filter(|(i, _)| settings[*i].is_complete(&metric.key));
    let complete: Vec<(usize, f64)> = complete.collect();
    let from = if complete.is_empty() { &all } else { &complete };
    let best = from.iter().copied().reduce(|best, other| if metric.is_better(other.1, best.1) { other } else { best });
    best.filter(|_| all.len() > 1).map(|(place, _)| place)
}

/// The results that a table shows first: the one that settings are compared by, then the others.
pub fn shown_results(sweep: &Sweep, metric: Option<&Metric>) -> Vec<String> {
    let mut keys: Vec<String> = metric.iter().map(|metric| metric.key.clone()).collect();
    keys.extend(sweep.results().into_iter().filter(|key| metric.is_none_or(|m| m.key != *key)).map(String::from));
    keys
}

/// What the numbers of a table are.
pub fn about_numbers(sweep: &Sweep) -> String {
    match sweep.varying_with_seed().iter().any(|name| name == SEED) {
        true => format!("mean ± standard deviation (n - 1) over {SEED}, of the finished runs"),
        false => "last values of the finished runs".into(),
    }
}

/// The table as text.
pub fn render(sweep: &Sweep, metric: Option<&Metric>) -> String {
    let settings = settings(sweep);
    let varying = sweep.varying();
    let keys = shown_results(sweep, metric);
    let columns = &keys[..keys.len().min(MOST_COLUMNS)];
    let best = metric.and_then(|metric| best(&settings, metric));
    let mut rows = vec![varying.clone()];
    rows[0].push("runs".into());
    rows[0].extend(columns.iter().cloned());
    rows[0].push(String::new());
    for (i, setting) in settings.iter().enumerate() {
        let param = |name: &String| setting.params.get(name).map_or("-".to_string(), text);
        let mut row: Vec<String> = varying.iter().map(param).collect();
        row.push(match setting.finished == setting.runs.len() {
            true => setting.finished.to_string(),
            false => format!("{} of {}", setting.finished, setting.runs.len()),
        });
        row.extend(columns.iter().map(|key| setting.words(key).unwrap_or("-".into())));
        row.push(if best == Some(i) { "<- best".into() } else { String::new() });
        rows.push(row);
    }
    let mut out = aligned(&rows);
    out += &about_numbers(sweep);
    if let Some(metric) = metric.filter(|_| best.is_some()) {
        out += &format!("; best: {}", metric.words());
    }
    if keys.len() > columns.len() {
        out += &format!("; {} more results in {CSV_FILE}", keys.len() - columns.len());
    }
    out + "\n"
}

/// Rows below each other, with a line below the first.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out += &format!("{}\n", cells.join("  ").trim_end());
        if i == 0 {
            let dashes =
                |(cell, width): (&String, &usize)| if cell.is_empty() { String::new() } else { "-".repeat(*width) };
            let rule: Vec<String> = row.iter().zip(&widths).map(dashes).collect();
            out += &format!("{}\n", rule.join("  ").trim_end());
        }
    }
    out
}

/// Writes `sweep.csv`: a row for each run with its state, parameters and results.
pub fn write_csv(sweep: &Sweep) -> Result<()> {
    let mut params: Vec<&String> = Vec::new();
    for name in sweep.runs.iter().flat_map(|run| run.planned.params.keys()) {
        if !params.contains(&name) {
            params.push(name);
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let fixed = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let mut header = fixed(&["run", "state"]);
    header.extend(params.iter().map(|name| name.to_string()));
    // A result may have the name of a parameter.
    let logged = |key: &String| if header.contains(key) { format!("{key} (result)") } else { key.clone() };
    let results: Vec<String> = sweep.keys.iter().map(logged).collect();
    writer.write_record([header.clone(), results, fixed(&["error"])].concat())?;
    for run in &sweep.runs {
        let mut row = vec![run.planned.name.clone(), run.state.clone()];
        row.extend(params.iter().map(|name| run.planned.params.get(*name).map(text).unwrap_or_default()));
        row.extend(sweep.keys.iter().map(|key| run.values.get(key).map(f64::to_string).unwrap_or_default()));
        row.push(run.error.clone().unwrap_or_default());
        writer.write_record(row)?;
    }
    write_atomic(&sweep.dir.join(CSV_FILE), &writer.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_a_sample() {
        let stat = Stat::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((stat.mean, stat.n), (5.0, 8));
        assert!((stat.deviation.unwrap() - 2.138_089_935).abs() < 1e-9);
        assert_eq!(stat.words(), "5.0 ± 2.1");
        assert_eq!(Stat::of(&[0.125]).unwrap().words(), "0.1250");
        assert_eq!(Stat::of(&[0.1 + 0.2, 0.3]).unwrap().words(), "0.3000 ± 0");
        assert_eq!(Stat::of(&[]), None);
        let close = Stat { mean: 64.7312, deviation: Some(0.0213), n: 3 };
        assert_eq!(close.words(), "64.731 ± 0.021");
        assert!(Stat::of(&[1.0, f64::NAN]).unwrap().words().starts_with("NaN"));
    }

    #[test]
    fn a_name_tells_whether_less_is_better() {
        assert!(["loss", "val/loss", "val_loss", "testloss", "test_error", "ece"].into_iter().all(is_lower_better));
        let higher = ["top1", "probe_top1", "accuracy", "effective_rank", "terror", "lossless"];
        assert!(!higher.into_iter().any(is_lower_better));
    }

    /// What is chosen as a loss is compared as one.
    #[test]
    fn an_accuracy_is_compared_else_a_loss() {
        for (keys, expected) in [
            (&["seen", "loss", "val_acc"][..], "val_acc, highest"),
            (&["seen", "loss", "top1"], "top1, highest"),
            (&["seen", "loss", "testloss"], "testloss, lowest"),
            (&["seen", "trainloss"], "trainloss, lowest"),
            (&["seen", "lossless"], "seen, highest"),
        ] {
            let keys = keys.iter().map(|key| key.to_string()).collect();
            let (dir, file) = (std::path::PathBuf::new(), super::super::SweepFile::default());
            let sweep = Sweep { dir, file, runs: Vec::new(), keys };
            assert_eq!(Metric::choose(&sweep, None).unwrap().unwrap().words(), expected);
        }
    }
}
