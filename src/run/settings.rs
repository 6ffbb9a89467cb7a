//! The settings of a training loop: those that a resumed run must have kept, and those that may change.

use crate::checkpoint::ConfigFile;
use crate::checkpoint::tensors::checksum_of_weights;
use crate::differences::differences;
use crate::error::{Diagnostic, Error, Result, bail, did_you_mean};
use crate::nn::Module;
use crate::run::allowed::STD;
use serde_json::{Map, Value};
use std::fmt;
use std::path::Path;

/// The key of a function's code in the map that stands for the function.
pub const FUNCTION: &str = "function";

/// The setting that stands for the values of the model's weights before the first step.
pub const INITIAL_WEIGHTS: &str = "initial_weights";

/// Everything that a loop depends on, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// What may not change when the loop is resumed.
    pub fixed: Map<String, Value>,
    /// What may.
    pub changeable: Map<String, Value>,
}

impl Settings {
    /// The settings `all`, of which those named in `changeable` may change.
    pub fn new(all: Map<String, Value>, changeable: &[String]) -> Result<Self> {
        if let Some(unknown) = changeable.iter().find(|name| !all.contains_key(*name)) {
            let near = did_you_mean(unknown, all.keys().map(String::as_str));
            bail!("resume: there is no setting `{unknown}`{near}");
        }
        let (changeable, fixed) = all.into_iter().partition(|(name, _)| changeable.contains(name));
        Ok(Self { fixed, changeable })
    }

    /// Adds the model as it is before the first step: its architecture and its weights may not change. A later phase of a
    /// recipe would else go on from a checkpoint whose beginning the earlier phase, trained longer, has replaced.
    pub fn add_model(&mut self, module: &dyn Module) -> Result<()> {
        let model = match module.vit_nepa() {
            Some(model) => Value::Object(ConfigFile::of_model(model).all_keys()),
            None => module.describe().into(),
        };
        self.fixed.insert("model".into(), model);
        self.fixed.insert(INITIAL_WEIGHTS.into(), checksum_of_weights(module)?.into());
        Ok(())
    }

    /// Everything, in the order of names.
    pub fn all(&self) -> Value {
        let mut all: Vec<_> = self.fixed.iter().chain(&self.changeable).collect();
        all.sort_by_key(|(name, _)| name.as_str());
        Value::Object(all.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// The fixed settings that differ from what they were `before`.
    pub fn fixed_changes(&self, before: &Map<String, Value>) -> Vec<Change> {
        let mut before = before.clone();
        // A setting that has become changeable may change.
        before.retain(|name, _| !self.changeable.contains_key(name));
        let mut now = self.fixed.clone();
        // Runs of earlier versions did not record it.
        now.retain(|name, _| name != INITIAL_WEIGHTS || before.contains_key(name));
        changes(&before, &now)
    }

    /// The changeable settings that differ from what they were `before`. One that the earlier run did not have yet is
    /// no change.
    pub fn changeable_changes(&self, before: &Map<String, Value>) -> Vec<Change> {
        let mut now = self.changeable.clone();
        now.retain(|name, _| before.contains_key(name));
        let mut before = before.clone();
        before.retain(|name, _| now.contains_key(name));
        changes(&before, &now)
    }

    /// The error that the loop `label` cannot be resumed from a checkpoint in `dir`, because these have changed.
    pub fn refusal(&self, label: &str, dir: &Path, changed: &[Change]) -> Error {
        let lines: Vec<String> = changed.iter().map(Change::to_string).collect();
        let name = |change: &Change| match change.name.split_once('.') {
            // What the earlier run did not know came with another standard library.
            _ if change.is_new => STD.to_string(),
            // Nor did it know this part of the setting.
            Some((setting, _)) if change.before.is_null() => setting.to_string(),
            _ => change.name.clone(),
        };
        let mut names: Vec<String> = changed.iter().map(name).collect();
        names.dedup();
        let changeable: Vec<&str> = self.changeable.keys().map(String::as_str).collect();
        Diagnostic::new(format!(
            "{label}: cannot resume from {}, because these settings have changed:\n  {}",
            dir.display(),
            lines.join("\n  ")
        ))
        .hint(format!(
            "restore the old values, or start a new run with another --out; to go on with the new ones, add \
             --allow-change {}; these may change: {}",
            names.join(","),
            changeable.join(", ")
        ))
        .blame_caller()
        .into()
    }
}

/// A setting that differs from what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name, with dots where it is a part of another.
    pub name: String,
    /// What it was; null if there was none.
    pub before: Value,
    /// What it is; null if there is none.
    pub now: Value,
    /// Whether the earlier run had no such setting.
    pub is_new: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |v: &Value| if v.is_null() { "()".to_string() } else { v.to_string() };
        let before =
            if self.is_new { "unknown to the earlier run".to_string() } else { format!("was {}", word(&self.before)) };
        write!(f, "{}: {before}, now {}", self.name, word(&self.now))?;
        match self.name == INITIAL_WEIGHTS {
            true => write!(f, " (the loop starts from other weights: of a longer earlier phase, or of another model)"),
            false => Ok(()),
        }
    }
}

fn changes(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<Change> {
    let change = |(name, was, is): (String, Value, Value)| {
        let is_new = !before.contains_key(name.split('.').next().unwrap_or(&name));
        Change { name, before: was, now: is, is_new }
    };
    let all = differences(&Value::Object(before.clone()), &Value::Object(now.clone())).into_iter();
    all.filter(|(_, before, now)| !is_same_record(before, now)).map(change).collect()
}

/// Whether nothing has changed but how nepa records it: 0.1.0 named a handle by Rust's path of its type,
/// `nepa::script::api::data::Source`, and did not tell functions apart.
fn is_same_record(before: &Value, now: &Value) -> bool {
    match (before.as_str(), now.as_str()) {
        (Some("a function"), None) => now.get(FUNCTION).is_some(),
        (Some(before), Some(now)) => before.starts_with("nepa::") && before.rsplit("::").next() == Some(now),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn runs_of_earlier_versions_resume_with_equal_settings() {
        let before = map(json!({ "images": "nepa::script::api::data::Source", "head_lr": 1, "lr": 0.1 }));
        let same = map(json!({ "images": "Source", "head_lr": 1.0, "lr": 0.1 }));
        assert_eq!(changes(&before, &same), []);
        let other = map(json!({ "images": "Batch", "head_lr": 2, "lr": 0.1 }));
        assert_eq!(changes(&before, &other).len(), 2);
        let before = map(json!({ "loss": "a function" }));
        assert_eq!(changes(&before, &map(json!({ "loss": { "function": "|x|x" } }))), []);
        assert_eq!(changes(&before, &map(json!({ "loss": null }))).len(), 1);
    }

    #[test]
    fn only_settings_that_the_earlier_run_had_can_have_changed() {
        let all = map(json!({ "steps": 10, "report_flops": false, "ema_warmup": true }));
        let now = Settings::new(all, &["steps".into(), "report_flops".into()]).unwrap();
        let words = |changes: Vec<Change>| changes.iter().map(Change::to_string).collect::<Vec<_>>();
        assert_eq!(words(now.changeable_changes(&map(json!({ "steps": 5 })))), ["steps: was 5, now 10"]);
        // A fixed one may have been anything.
        let fixed = now.fixed_changes(&map(json!({})));
        assert!(fixed[0].is_new, "{fixed:?}");
        assert_eq!(words(fixed), ["ema_warmup: unknown to the earlier run, now true"]);
    }
}
