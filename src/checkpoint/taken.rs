//! Tensors on the way from one model's names to another's, with an account of each.

use crate::error::{Context as _, Result};
use std::collections::BTreeMap;
use tch::Tensor;

/// The tensors of a model by their own names, as they are taken.
pub(super) struct Taken {
    /// Whose they are, for errors.
    pub of: String,
    /// Those that are not taken yet.
    pub left: BTreeMap<String, Tensor>,
    /// Those given so far, by the names of the other model.
    pub tensors: Vec<(String, Tensor)>,
    /// Where each of them comes from, in words.
    pub account: Vec<(String, String)>,
}

impl Taken {
    pub fn new(of: String, left: BTreeMap<String, Tensor>) -> Self {
        Self { of, left, tensors: Vec::new(), account: Vec::new() }
    }

    /// Whether a tensor is there.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    pub fn take(&mut self, name: &str) -> Result<Tensor> {
        self.left.remove(name).with_context(|| format!("{} has no tensor `{name}`", self.of))
    }

    pub fn give(&mut self, name: &str, tensor: Tensor, from: &str) {
        self.account.push((name.to_string(), from.to_string()));
        self.tensors.push((name.to_string(), tensor));
    }

    /// Weight and, if it has one, bias.
    pub fn layer(&mut self, from: &str, to: &str) -> Result<()> {
        for part in ["weight", "bias"] {
            let name = format!("{from}.{part}");
            if part == "weight" || self.has(&name) {
                let tensor = self.take(&name)?;
                self.give(&format!("{to}.{part}"), tensor, &name);
            }
        }
        Ok(())
    }
}
