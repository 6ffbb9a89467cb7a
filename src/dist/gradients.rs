//! Gradients that are averaged over the processes.

use crate::error::{Result, one_line};
use crate::ffi::{self, Reducer};
use crate::nn::{ModuleRef, named_parameters};
use tch::Tensor;

/// Averages the gradients of a module over all processes, in buckets, while backward still runs. Parameters that take
/// no part in a loss are no hindrance; those that are frozen are left out.
pub struct Gradients {
    module: ModuleRef,
    /// Made by the first backward, and anew when other parameters are frozen.
    reducer: Option<(Vec<bool>, Reducer)>,
}

impl Gradients {
    /// Of this module. All processes call it; the module's parameters become those of rank 0.
    pub fn new(module: ModuleRef) -> Result<Self> {
        if let Some(world) = super::world() {
            let params: Vec<Tensor> = named_parameters(module.as_ref()).into_iter().map(|(_, p)| p).collect();
            if !params.is_empty() {
                world.exchange("the comparison of parameters", |group| group.same_params(&params))?;
            }
        }
        Ok(Self { module, reducer: None })
    }

    /// Gradients of `loss`, added to those that are there from earlier backwards of this step; then all of them are
    /// averaged over the processes. All must call it, as the last backward of a step.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let Some(world) = super::world() else { return ffi::backward(loss) };
        let params = named_parameters(self.module.as_ref());
        let trained: Vec<bool> = params.iter().map(|(_, p)| p.requires_grad()).collect();
        if self.reducer.as_ref().is_none_or(|(known, _)| *known != trained) {
            self.reducer = None;
            let params: Vec<Tensor> = params.into_iter().filter(|(_, p)| p.requires_grad()).map(|(_, p)| p).collect();
            if params.is_empty() {
                return ffi::backward(loss);
            }
            let reducer = world.exchange("the first exchange of gradients", |group| Reducer::new(group, &params))?;
            self.reducer = Some((trained, reducer));
        }
        let (_, reducer) = self.reducer.as_ref().expect("just made");
        world.monitor.enter("the exchange of gradients");
        let result = reducer.prepare(loss).and_then(|()| ffi::backward(loss));
        world.monitor.leave();
        // An error of the model's own is told as it is.
        result.map_err(|e| match one_line(&e) {
            said if is_of_exchange(&said) => {
                super::failed(&world.monitor.explain("the exchange of gradients", &said, None))
            }
            _ => e,
        })
    }
}

/// Whether an error in backward came from the exchange.
fn is_of_exchange(said: &str) -> bool {
    ["gloo", "NCCL", "nccl", "c10d", "onnection", "imed out", "imeout", "Socket", "reduction"]
        .iter()
        .any(|w| said.contains(w))
}
