//! Gradients that are averaged over the processes.

use super::{all_reduce_mean, ensure_same_on_all_ranks};
use crate::error::{Result, TorchFault, TorchFaultKind};
use crate::ffi::{self, Reducer};
use crate::nn::{ModuleRef, named_buffers, named_parameters, named_state};
use serde_json::json;
use tch::Tensor;

/// Averages the gradients of a module over all processes, in buckets, while backward still runs. Frozen parameters are
/// left out, and a loss need not use every parameter.
pub struct Gradients {
    module: ModuleRef,
    /// Made by the first backward, and again when the set of frozen parameters changes.
    reducer: Option<(Vec<bool>, Reducer)>,
}

impl Gradients {
    /// Prepares to average a module's gradients. Every process must call it; rank 0's parameters and buffers are copied
    /// to all ranks.
    pub fn new(module: ModuleRef) -> Result<Self> {
        if let Some(world) = super::world() {
            let params: Vec<Tensor> = named_state(module.as_ref()).into_iter().map(|(_, p)| p).collect();
            if !params.is_empty() {
                world.collective("the comparison of parameters", |group| group.sync_params(&params))?;
            }
        }
        Ok(Self { module, reducer: None })
    }

    /// Adds the gradients of `loss` to those of earlier backwards of this step, then averages all of them over the
    /// processes, and buffers of floats, which each process has moved by its own images, too. Every process must call it,
    /// as the last backward of a step.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        let Some(world) = super::world() else { return ffi::backward(loss) };
        let params = named_parameters(self.module.as_ref());
        let trained: Vec<bool> = params.iter().map(|(_, p)| p.requires_grad()).collect();
        if self.reducer.as_ref().is_none_or(|(known, _)| *known != trained) {
            self.reducer = None;
            let (names, params): (Vec<String>, Vec<Tensor>) =
                params.into_iter().filter(|(_, p)| p.requires_grad()).unzip();
            ensure_same_on_all_ranks("the trained parameters", &json!({ "trained": names }))?;
            if params.is_empty() {
                return ffi::backward(loss);
            }
            let reducer = world.collective("the first exchange of gradients", |group| Reducer::new(group, &params))?;
            self.reducer = Some((trained, reducer));
        }
        let (_, reducer) = self.reducer.as_ref().expect("just made");
        const WHAT: &str = "the exchange of gradients";
        world.monitor.enter_collective(WHAT);
        let prepared = reducer.prepare(loss).map_err(|e| (true, e));
        let result = prepared.and_then(|()| ffi::backward_through_hooks(loss).map_err(|e| (is_distributed(&e), e)));
        world.monitor.leave();
        // Errors of the model itself are passed on unchanged.
        result.map_err(|(of_exchange, e)| if of_exchange { world.explain(WHAT, &e) } else { e })?;
        self.average_buffers()
    }

    /// Puts the mean over all processes in place of each buffer of floats.
    fn average_buffers(&self) -> Result<()> {
        for (_, buffer) in named_buffers(self.module.as_ref()).iter().filter(|(_, t)| t.is_floating_point()) {
            buffer.shallow_clone().f_copy_(&all_reduce_mean(buffer)?)?;
        }
        Ok(())
    }
}

/// Whether it is about an exchange with other processes.
pub(super) fn is_distributed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<TorchFault>().is_some_and(|fault| fault.kind == TorchFaultKind::Distributed))
}
