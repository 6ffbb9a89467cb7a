//! The lines of a run directory that are still to be sent: of the metrics, and of what the machine does.

use super::state::{Place, State};
use crate::bail_hint;
use crate::cli::plot::read::MOST_METRICS;
use crate::error::{Context as _, Result};
use crate::files::names_in;
use crate::run::inside;
use crate::run::metrics::METRICS_FILE;
use crate::run::system::is_system_file;
use crate::run::tensorboard::scalars_of;
use crate::untrusted;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Rows of a message.
pub const MOST_ROWS: usize = 500;

/// A file that grows line by line, or is replaced by another.
#[derive(Default)]
struct Growing {
    inode: u64,
    read: u64,
}

impl Growing {
    /// The whole lines that have come since the last call, at most so many. `None`: the file is another one, or has
    /// become shorter, and is read from its beginning on by the next call.
    fn lines(&mut self, dir: &Path, name: &str, most: usize) -> Result<Option<Vec<String>>> {
        inside::check(dir, name, MOST_METRICS)?;
        let path = dir.join(name);
        if !path.exists() {
            return Ok(Some(Vec::new()));
        }
        let mut file = untrusted::open(&path)?;
        let reading = || format!("cannot read {}", path.display());
        let about = file.metadata().with_context(reading)?;
        if about.ino() != self.inode || about.len() < self.read {
            *self = Self { inode: about.ino(), read: 0 };
            return Ok(None);
        }
        file.seek(SeekFrom::Start(self.read)).with_context(reading)?;
        let (mut file, mut lines) = (BufReader::new(file), Vec::new());
        while lines.len() < most {
            let mut line = String::new();
            let length = file.read_line(&mut line).with_context(reading)?;
            // The end, or a line that is being written.
            if !line.ends_with('\n') {
                break;
            }
            self.read += length as u64;
            lines.push(line);
        }
        Ok(Some(lines))
    }
}

/// A row that is to be sent, and where it is recorded that it has been.
pub struct Row {
    /// The message, but for the row's number.
    pub row: Value,
    mark: Mark,
}

enum Mark {
    Metrics(String, Place),
    /// A file, and its lines up to this one.
    System(String, u64),
}

impl Row {
    /// Whether it has anything to send.
    pub fn has_values(&self) -> bool {
        self.row["values"].as_object().is_some_and(|values| !values.is_empty())
    }

    /// Records that the row has been sent.
    pub fn sent(self, state: &mut State) {
        match self.mark {
            Mark::Metrics(phase, place) => state.phases.entry(phase).or_default().add(place),
            Mark::System(name, lines) => drop(state.system.insert(name, lines)),
        }
    }
}

/// A row of numbers over an axis.
fn row(axis: String, step: i64, time: Option<f64>, values: Map<String, Value>) -> Value {
    json!({ "axis": axis, "step": step, "time": time, "values": values })
}

/// Reads the metrics.
#[derive(Default)]
pub struct Metrics {
    file: Growing,
    /// Lines read.
    number: usize,
    /// Where the last line of each phase is.
    phases: BTreeMap<String, Last>,
}

#[derive(Default)]
struct Last {
    step: Option<Place>,
    stepless: u64,
}

impl Last {
    /// The place of the next line.
    fn next(&mut self, step: Option<i64>) -> Place {
        let Some(step) = step else {
            self.stepless += 1;
            return Place::Stepless(self.stepless);
        };
        let place = match self.step {
            Some(Place::Step(pass, last, number)) if step == last => Place::Step(pass, step, number + 1),
            Some(Place::Step(pass, last, _)) if step < last => Place::Step(pass + 1, step, 1),
            Some(Place::Step(pass, ..)) => Place::Step(pass, step, 1),
            _ => Place::Step(0, step, 1),
        };
        self.step = Some(place);
        place
    }
}

impl Metrics {
    /// The next rows that have not been sent, and whether there may be more.
    pub fn next(&mut self, dir: &Path, state: &State) -> Result<(Vec<Row>, bool)> {
        let mut rows = Vec::new();
        let Some(lines) = self.file.lines(dir, METRICS_FILE, MOST_ROWS)? else {
            (self.number, self.phases) = (0, BTreeMap::new());
            return Ok((rows, true));
        };
        for line in &lines {
            self.number += 1;
            rows.extend(self.row(&parsed(&dir.join(METRICS_FILE), self.number, line)?, state));
        }
        Ok((rows, lines.len() == MOST_ROWS))
    }

    /// A line as a row, unless it has been sent.
    fn row(&mut self, line: &Map<String, Value>, state: &State) -> Option<Row> {
        let phase = line.get("phase").and_then(Value::as_str).unwrap_or_default().to_string();
        let place = self.phases.entry(phase.clone()).or_default().next(line.get("step").and_then(Value::as_i64));
        if state.phases.get(&phase).is_some_and(|sent| sent.has(place)) {
            return None;
        }
        let step = match place {
            Place::Step(_, step, _) => step,
            Place::Stepless(number) => number as i64,
        };
        let mut line = line.clone();
        line.insert("step".into(), step.into());
        // What is not finite is text here too.
        let json = |x: f64| if x.is_finite() { x.into() } else { x.to_string().into() };
        let values = scalars_of(&line).into_iter().map(|(name, _, value)| (name, json(value))).collect();
        let axis = if phase.is_empty() { "step".to_string() } else { format!("{phase}/step") };
        let time = line.get("time").and_then(Value::as_f64);
        Some(Row { row: row(axis, step, time, values), mark: Mark::Metrics(phase, place) })
    }
}

fn parsed(path: &Path, number: usize, line: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(line)) => Ok(line),
        _ => bail_hint!(
            "{}, line {number}: expected a JSON object", path.display();
            "only `nepa run` writes to this file; remove the line if you know where it came from"
        ),
    }
}

/// Reads what the machine of rank 0 does, and each other one.
#[derive(Default)]
pub struct System {
    files: BTreeMap<String, SystemFile>,
}

#[derive(Default)]
struct SystemFile {
    file: Growing,
    number: u64,
    /// The time of the first line.
    first: Option<f64>,
}

impl System {
    /// The next rows that have not been sent, and whether there may be more.
    pub fn next(&mut self, dir: &Path, state: &State) -> Result<(Vec<Row>, bool)> {
        let (mut rows, mut more) = (Vec::new(), false);
        for name in names_in(dir)?.into_iter().filter(|name| is_system_file(name)) {
            let file = self.files.entry(name.clone()).or_default();
            let Some(lines) = file.file.lines(dir, &name, MOST_ROWS)? else {
                (file.number, file.first) = (0, None);
                more = true;
                continue;
            };
            more |= lines.len() == MOST_ROWS;
            for line in lines {
                file.number += 1;
                // One that was cut short, on a full disk say, tells nothing.
                let Ok(line) = serde_json::from_str::<Map<String, Value>>(&line) else { continue };
                let Some(time) = line.get("time").and_then(Value::as_f64) else { continue };
                let seconds = time - *file.first.get_or_insert(time);
                if file.number <= state.system.get(&name).copied().unwrap_or(0) {
                    continue;
                }
                let of = PathBuf::from(&name).with_extension("").display().to_string();
                let numbers = line.into_iter().filter(|(key, value)| key != "time" && value.is_number());
                let values = numbers.map(|(key, value)| (format!("{of}/{key}"), value)).collect();
                let row = row(format!("{of}/seconds"), seconds as i64, Some(time), values);
                rows.push(Row { row, mark: Mark::System(name.clone(), file.number) });
            }
        }
        Ok((rows, more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps and values of a phase that are to be sent.
    fn sent(metrics: &mut Metrics, dir: &Path, state: &mut State) -> Vec<(i64, Option<f64>)> {
        let mut all = Vec::new();
        loop {
            let (rows, more) = metrics.next(dir, state).unwrap();
            for row in rows {
                all.push((row.row["step"].as_i64().unwrap(), row.row["values"]["p/x"].as_f64()));
                row.sent(state);
            }
            if !more {
                return all;
            }
        }
    }

    fn text(lines: &[(Option<i64>, f64)]) -> String {
        lines.iter().map(|(step, x)| format!("{}\n", json!({ "phase": "p", "step": step, "x": x }))).collect()
    }

    #[test]
    fn steps_that_are_logged_again_are_not_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let write = |text: String| {
            // A new file, as when the metrics are rolled back.
            std::fs::write(dir.join("new"), text).unwrap();
            std::fs::rename(dir.join("new"), dir.join(METRICS_FILE)).unwrap();
        };
        let (mut metrics, mut state) = (Metrics::default(), State::default());
        assert_eq!(sent(&mut metrics, dir, &mut state), [], "no file yet");
        let at = |step: i64, x: f64| (Some(step), x);
        // Two loops of one name, two lines of one step, lines without a step.
        let first = [at(10, 1.0), at(20, 2.0), at(20, 2.5), at(5, 3.0), (None, 4.0), (None, 5.0)];
        write(text(&first));
        let expected = [(10, 1.0), (20, 2.0), (20, 2.5), (5, 3.0), (1, 4.0), (2, 5.0)].map(|(s, x)| (s, Some(x)));
        assert_eq!(sent(&mut metrics, dir, &mut state), expected);
        assert_eq!(sent(&mut metrics, dir, &mut state), []);
        // Rolled back into the first loop, then on.
        write(text(&[at(10, 1.0), at(20, 2.0)]));
        assert_eq!(sent(&mut metrics, dir, &mut state), []);
        write(text(&[at(10, 1.0), at(20, 2.0), at(20, 2.5), at(30, 6.0), at(5, 3.0), at(15, 7.0), (None, 4.0)]));
        assert_eq!(sent(&mut metrics, dir, &mut state), [(30, Some(6.0)), (15, Some(7.0))]);
        // Another process, which knows the state alone.
        assert_eq!(sent(&mut Metrics::default(), dir, &mut state), []);
        // What is being written waits.
        let mut more = std::fs::read_to_string(dir.join(METRICS_FILE)).unwrap();
        more += "{\"phase\": \"p\", \"step\": 40, ";
        std::fs::write(dir.join(METRICS_FILE), &more).unwrap();
        assert_eq!(sent(&mut metrics, dir, &mut state), []);
        std::fs::write(dir.join(METRICS_FILE), more + "\"x\": 8}\n").unwrap();
        assert_eq!(sent(&mut metrics, dir, &mut state), [(40, Some(8.0))]);
    }

    #[test]
    fn what_is_not_finite_is_sent_as_text() {
        let dir = tempfile::tempdir().unwrap();
        let line = json!({ "step": 1, "a": "NaN", "b": "-inf", "c": 0.5, "d": "text" });
        std::fs::write(dir.path().join(METRICS_FILE), format!("{line}\n")).unwrap();
        let (mut metrics, state) = (Metrics::default(), State::default());
        metrics.next(dir.path(), &state).unwrap();
        let (rows, _) = metrics.next(dir.path(), &state).unwrap();
        assert_eq!(rows[0].row["values"], json!({ "a": "NaN", "b": "-inf", "c": 0.5 }));
    }

    #[test]
    fn many_lines_come_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<_> = (0..3 * MOST_ROWS as i64 / 2).map(|step| (Some(step), step as f64)).collect();
        std::fs::write(dir.path().join(METRICS_FILE), text(&lines)).unwrap();
        let (mut metrics, mut state) = (Metrics::default(), State::default());
        assert_eq!(sent(&mut metrics, dir.path(), &mut state).len(), lines.len());
        assert_eq!(state.phases["p"].passes, [(lines.len() as i64 - 1, 1)]);
    }
}
