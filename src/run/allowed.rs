//! What may change when a run is resumed, because `--allow-change` names it.

use crate::bail_hint;
use crate::error::{Result, did_you_mean};
use crate::run::scripts::ChangeKind;
use std::collections::BTreeSet;

/// Stands for the scripts: the recipe and what it imports.
pub const RECIPE: &str = "recipe";
/// The seed, of the run and of its loops.
pub const SEED: &str = "seed";
/// Stands for the scripts of the standard library.
pub const STD: &str = "std";

/// The names given with `--allow-change`.
#[derive(Debug, Clone, Default)]
pub struct Allowed(Vec<String>);

impl Allowed {
    /// What these names allow.
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether no name is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` is given, or what it is a part of: `model` allows `model.hidden_size`.
    pub fn has(&self, name: &str) -> bool {
        let covers = |given: &String| {
            name.strip_prefix(given.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.iter().any(covers)
    }

    /// Whether a changed script is allowed.
    pub fn has_script(&self, kind: ChangeKind) -> bool {
        match kind {
            ChangeKind::Spacing => true,
            ChangeKind::Code => self.has(RECIPE),
            ChangeKind::Library => self.has(STD),
        }
    }

    /// Refuses names that stand for nothing: neither for the scripts nor for one of `known`, the run's parameters and
    /// its loops' settings.
    pub fn ensure_known(&self, known: &[String]) -> Result<()> {
        let known: Vec<&str> = [RECIPE, STD].into_iter().chain(known.iter().map(String::as_str)).collect();
        if let Some(unknown) = self.0.iter().find(|given| !known.contains(&given.as_str())) {
            let top: BTreeSet<&str> = known[2..].iter().map(|name| name.split('.').next().unwrap_or(name)).collect();
            bail_hint!(
                "--allow-change {unknown}: the run has no setting `{unknown}`{}",
                did_you_mean(unknown, known.iter().copied());
                "it takes `{RECIPE}` (the recipe and what it imports), `{STD}` (the standard library), or the name of \
                 a setting or parameter: {}", top.into_iter().collect::<Vec<_>>().join(", ")
            );
        }
        Ok(())
    }
}
