//! The settings of a training loop: those that a resumed run must have kept, and those that may change.

use crate::differences::differences;
use crate::error::{Diagnostic, Result, bail, did_you_mean};
use crate::nn::{Module, VitNepaConfig};
use serde_json::{Map, Value};
use std::path::Path;

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

    /// Adds the model, whose architecture may not change.
    pub fn add_model(&mut self, model: &dyn Module) -> Result<()> {
        let model = match model.vit_nepa() {
            Some(model) => serde_json::to_value::<&VitNepaConfig>(model.architecture())?,
            None => model.describe().into(),
        };
        self.fixed.insert("model".into(), model);
        Ok(())
    }

    /// Refuses to resume the loop `label` from a checkpoint in `dir` if a fixed setting has changed.
    pub fn ensure_unchanged(&self, label: &str, dir: &Path, before: &Map<String, Value>) -> Result<()> {
        let changed = changes(before, &self.fixed);
        if changed.is_empty() {
            return Ok(());
        }
        let changeable: Vec<&str> = self.changeable.keys().map(String::as_str).collect();
        Err(Diagnostic::new(format!(
            "{label}: cannot resume from {}, because these settings have changed:\n  {}",
            dir.display(),
            changed.join("\n  ")
        ))
        .hint(format!(
            "restore the old values, or start a new run with another --out; these may change: {}",
            changeable.join(", ")
        ))
        .blame_caller()
        .into())
    }

    /// "lr: was 0.001, now 0.002" for every changeable setting that differs from what it was `before`. One that the
    /// earlier run did not have yet is no change.
    pub fn changes_since(&self, before: &Map<String, Value>) -> Vec<String> {
        let mut now = self.changeable.clone();
        now.retain(|name, _| before.contains_key(name));
        changes(before, &now)
    }
}

fn changes(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let word = |v: &Value| if v.is_null() { "()".to_string() } else { v.to_string() };
    let line =
        |(name, before, now): (String, Value, Value)| format!("{name}: was {}, now {}", word(&before), word(&now));
    let all = differences(&Value::Object(before.clone()), &Value::Object(now.clone())).into_iter();
    all.filter(|(_, before, now)| !is_same_handle(before, now)).map(line).collect()
}

/// Whether both name one type of handle: nepa 0.1.0 recorded Rust's path of it, `nepa::script::api::data::Source`.
fn is_same_handle(before: &Value, now: &Value) -> bool {
    let (Some(before), Some(now)) = (before.as_str(), now.as_str()) else { return false };
    before.starts_with("nepa::") && before.rsplit("::").next() == Some(now)
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
        assert_eq!(changes(&before, &same), [""; 0]);
        let other = map(json!({ "images": "Batch", "head_lr": 2, "lr": 0.1 }));
        assert_eq!(changes(&before, &other).len(), 2);
    }

    #[test]
    fn only_settings_that_the_earlier_run_had_can_have_changed() {
        let all = map(json!({ "steps": 10, "report_flops": false }));
        let now = Settings::new(all, &["steps".into(), "report_flops".into()]).unwrap();
        assert_eq!(now.changes_since(&map(json!({ "steps": 5 }))), ["steps: was 5, now 10"]);
    }
}
