//! Where a file comes from: the time, the versions, the run.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The current time in UTC, for example `2026-01-31T12:00:00Z`.
pub fn timestamp() -> String {
    let now = time::OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a valid nanosecond");
    now.format(&time::format_description::well_known::Rfc3339).expect("a date can be written")
}

/// Versions of what a result depends on; "" if a file does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Versions {
    /// Of this program.
    pub nepa: String,
    /// Of the libtorch that it was linked with.
    pub libtorch: String,
    /// Of the interpreter.
    pub rhai: String,
}

impl Versions {
    /// Those of this build; `build.rs` finds them.
    pub fn of_this_build() -> Self {
        Self {
            nepa: env!("CARGO_PKG_VERSION").into(),
            libtorch: env!("NEPA_LIBTORCH_VERSION").into(),
            rhai: env!("NEPA_RHAI_VERSION").into(),
        }
    }

    /// Those that are known, by name.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("nepa", &self.nepa), ("libtorch", &self.libtorch), ("rhai", &self.rhai)];
        all.into_iter().filter(|(_, version)| !version.is_empty()).map(|(name, version)| (name, version.as_str()))
    }
}

/// What a checkpoint says about the run that wrote it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunProvenance {
    /// The recipe's path, as given.
    pub recipe: String,
    /// Values of the recipe's parameters.
    pub params: Map<String, Value>,
    /// Seed of everything random.
    pub seed: u64,
    /// Models that the run was started from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub started_from: Vec<StartedFrom>,
    /// Steps that the training loop had done; of its checkpoints only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
}

/// A model that a run was started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StartedFrom {
    /// Its path.
    pub path: String,
    /// Its weights, when it was saved, and whatever else the recipe says about it.
    #[serde(flatten)]
    pub about: Map<String, Value>,
}

impl StartedFrom {
    const SAVED_AT: &str = "saved_at";
    const WEIGHTS: &str = "weights";

    /// A model with what its folder says of its weights.
    pub fn model(path: String, saved: SavedWeights) -> Self {
        let weights = (Self::WEIGHTS.into(), saved.weights.into());
        let saved_at = (Self::SAVED_AT.into(), saved.saved_at.into());
        Self { path, about: Map::from_iter([weights, saved_at]) }
    }

    /// Replaces what is known about the model by `about`; only the time it was saved is kept.
    pub fn replace(&mut self, about: Map<String, Value>) {
        self.about.retain(|key, _| key == Self::SAVED_AT);
        self.about.extend(about);
    }

    /// "raw" or "ema", if known.
    pub fn weights(&self) -> Option<&str> {
        self.about.get(Self::WEIGHTS)?.as_str()
    }
}

/// `provenance.json` of a model folder. It also holds whatever else a script recorded when it saved the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelProvenance {
    /// What kind of folder this is.
    pub format: String,
    /// "raw" or "ema".
    pub weights: Option<String>,
    /// The nepa that saved it.
    pub nepa_version: String,
    /// When (UTC).
    pub saved_at: Option<String>,
    /// How many values the model's parameters have.
    pub parameters: i64,
    /// The run that saved it, if one did.
    #[serde(flatten)]
    pub run: Option<RunProvenance>,
}

/// The part of `provenance.json` that says which weights a folder holds. Its other keys may be anything, since a script
/// may have set them when it saved the model.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SavedWeights {
    /// "raw" or "ema".
    pub weights: Option<String>,
    /// When (UTC).
    pub saved_at: Option<String>,
}

impl ModelProvenance {
    /// The file's name.
    pub const FILE: &str = "provenance.json";
}
