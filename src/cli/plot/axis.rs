//! The horizontal axis: where a line of metrics stands on it.

use clap::ValueEnum;
use serde_json::{Map, Value};

type Line = Map<String, Value>;

/// What the horizontal axis counts.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// Optimizer steps.
    Step,
    /// Passes over the data, with fractions.
    Epoch,
    /// Time since the phase began.
    Time,
}

/// An axis with its unit.
pub struct Scale {
    axis: Axis,
    /// Seconds in a unit of time.
    unit: (f64, &'static str),
}

fn number(line: &Line, field: &str) -> Option<f64> {
    line.get(field).and_then(Value::as_f64)
}

impl Axis {
    /// What a line must have to stand on the axis.
    pub fn field(self) -> &'static str {
        match self {
            Axis::Step => "a `step`",
            Axis::Epoch => "an `epoch`",
            Axis::Time => "`seconds` or a `time`",
        }
    }

    /// The axis for all curves of a picture.
    pub fn scale<'a>(self, tracks: impl Iterator<Item = &'a [&'a Line]>) -> Scale {
        let longest = match self {
            Axis::Time => tracks.flat_map(times).flatten().fold(0.0, f64::max),
            _ => 0.0,
        };
        let unit = match longest {
            s if s > 2.0 * 86_400.0 => (86_400.0, "days"),
            s if s > 2.0 * 3600.0 => (3600.0, "hours"),
            s if s > 180.0 => (60.0, "minutes"),
            _ => (1.0, "seconds"),
        };
        Scale { axis: self, unit }
    }
}

impl Scale {
    /// Name and unit.
    pub fn title(&self) -> String {
        match self.axis {
            Axis::Step => "step".into(),
            Axis::Epoch => "epoch".into(),
            Axis::Time => format!("time ({})", self.unit.1),
        }
    }

    /// The position of each line of one phase on the axis.
    pub fn positions(&self, lines: &[&Line]) -> Vec<Option<f64>> {
        match self.axis {
            Axis::Step => lines.iter().map(|line| number(line, "step")).collect(),
            Axis::Epoch => epochs(lines),
            Axis::Time => times(lines).into_iter().map(|t| Some(t? / self.unit.0)).collect(),
        }
    }
}

/// Seconds since the phase began: as logged, or by the clock from its first line.
fn times(lines: &[&Line]) -> Vec<Option<f64>> {
    let start = lines.iter().find_map(|line| number(line, "time"));
    lines.iter().map(|line| number(line, "seconds").or_else(|| Some(number(line, "time")? - start?))).collect()
}

/// Epochs with fractions. Lines name the epoch that they lie in, from 0 on; the steps of the lines say how many
/// make one, since epoch e holds the steps from e · n + 1 to (e + 1) · n. What is logged before the first is step 0.
fn epochs(lines: &[&Line]) -> Vec<Option<f64>> {
    let pairs = || lines.iter().filter_map(|line| Some((number(line, "epoch")?, number(line, "step")?)));
    // The steps of a single epoch do not say how many it will have.
    let several = pairs().zip(pairs().skip(1)).any(|(before, after)| before.0 != after.0);
    let least = pairs().map(|(epoch, step)| step / (epoch + 1.0)).fold(1.0, f64::max).ceil();
    let below =
        pairs().filter(|(epoch, _)| *epoch > 0.0).map(|(epoch, step)| step / epoch).fold(f64::INFINITY, f64::min);
    // If no number fits, as when a recipe counts otherwise, the epochs are as logged.
    let fits = least < below && pairs().all(|(epoch, step)| epoch >= 0.0 && step >= 0.0);
    let steps = (several && fits).then_some(least);
    lines
        .iter()
        .map(|line| {
            let epoch = number(line, "epoch")?;
            match (steps, number(line, "step")) {
                (Some(steps), Some(step)) => Some(step / steps),
                _ => Some(epoch),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn positions(axis: Axis, lines: &[Value]) -> Vec<Option<f64>> {
        let lines: Vec<&Line> = lines.iter().map(|l| l.as_object().unwrap()).collect();
        axis.scale([lines.as_slice()].into_iter()).positions(&lines)
    }

    #[test]
    fn epochs_get_fractions_from_the_steps() {
        // 7 steps an epoch, a line every 3 steps and at the end.
        let lines: Vec<Value> =
            [3, 6, 9, 12, 15, 18, 21].iter().map(|s| json!({ "step": s, "epoch": (s - 1) / 7 })).collect();
        let found = positions(Axis::Epoch, &lines);
        assert_eq!(
            found.iter().map(|x| (x.unwrap() * 7.0).round()).collect::<Vec<_>>(),
            [3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0]
        );
    }

    /// An evaluation comes after the last step of an epoch, and may come before the first step of all.
    #[test]
    fn evaluations_lie_at_the_ends_of_their_epochs() {
        let training = [3, 6, 9, 12, 15, 18, 21].map(|step| (step, (step - 1) / 7));
        let evaluations = [(0, 0), (7, 0), (14, 1), (21, 2)];
        let mut all: Vec<(i64, i64)> = training.into_iter().chain(evaluations).collect();
        all.sort_unstable();
        let lines: Vec<Value> = all.iter().map(|(step, epoch)| json!({ "step": step, "epoch": epoch })).collect();
        let expected: Vec<Option<f64>> = all.iter().map(|(step, _)| Some(*step as f64 / 7.0)).collect();
        assert_eq!(positions(Axis::Epoch, &lines), expected);
    }

    #[test]
    fn a_single_epoch_stays_as_logged() {
        let lines: Vec<Value> = (1..=10).map(|i| json!({ "step": 10 * i, "epoch": 0 })).collect();
        assert_eq!(positions(Axis::Epoch, &lines), [Some(0.0); 10]);
        let lines = [json!({ "step": 301, "epoch": 3 }), json!({ "step": 350, "epoch": 3 })];
        assert_eq!(positions(Axis::Epoch, &lines), [Some(3.0); 2]);
    }

    #[test]
    fn epochs_that_do_not_go_with_the_steps_stay_as_logged() {
        let lines = [
            json!({ "step": 5, "epoch": 3 }),
            json!({ "step": 100, "epoch": 3 }),
            json!({ "epoch": 4 }),
            json!({ "step": 1 }),
        ];
        assert_eq!(positions(Axis::Epoch, &lines), [Some(3.0), Some(3.0), Some(4.0), None]);
    }

    #[test]
    fn times_are_since_the_start_in_a_fitting_unit() {
        assert_eq!(
            positions(Axis::Time, &[json!({ "seconds": 60 }), json!({ "seconds": 7200 }), json!({ "seconds": 14400 })]),
            [Some(1.0 / 60.0), Some(2.0), Some(4.0)]
        );
        assert_eq!(
            positions(Axis::Time, &[json!({ "time": 1000 }), json!({ "time": 1010 }), json!({})]),
            [Some(0.0), Some(10.0), None]
        );
    }
}
