//! Processes that train one model together.

use super::batch::Batch;
use super::tensor::can_go_backward;
use crate::choices;
use crate::dist::{self, ReduceOp};
use crate::error::Result;
use crate::ffi;
use crate::script::registry::Api;
use crate::script::types::{choice_arguments, handles};
use crate::script::values::{Module, Tensor};
use nepa_macros::functions;
use std::cell::RefCell;
use std::rc::Rc;

/// Averaged gradients in a script.
#[derive(Clone)]
struct Gradients(Rc<RefCell<dist::Gradients>>);

handles! { "Gradients": Gradients; }

choices! {
    /// How the tensors of all processes are combined.
    pub enum Reduction {
        /// Their sum.
        Sum = "sum",
        /// Their mean.
        Mean = "mean",
        /// The smallest of each element.
        Min = "min",
        /// The largest of each element.
        Max = "max",
    }
}

choice_arguments! { Reduction }

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "dist",
        "Distributed training: processes started by `nepa run --nproc N`, torchrun or srun train one model together, \
         each running the whole script on its part of every batch. All must call the collective functions \
         (all_reduce, broadcast, …) in the same order; each waits for the others. Only rank 0 writes files and prints. \
         A run of a single process is rank 0 of 1.",
        functions::register,
    );
    api.methods::<Gradients>("Averages gradients over processes, made by dist::gradients.", gradients::register);
}

#[functions]
mod functions {
    use super::*;

    /// This process's rank among all processes, from 0.
    pub fn rank() -> usize {
        dist::rank()
    }

    /// The number of processes.
    pub fn world_size() -> usize {
        dist::world_size()
    }

    /// This process's rank among those of its machine, from 0: the index of its GPU.
    pub fn local_rank() -> usize {
        dist::local_rank()
    }

    /// The sum of all processes' tensors, which must have the same shape and dtype. Gradients do not flow through it.
    pub fn all_reduce(t: &Tensor) -> Result<tch::Tensor> {
        dist::all_reduce(t, ReduceOp::Sum)
    }

    /// The sum, mean, minimum or maximum of all processes' tensors, element by element.
    ///
    /// Example: `let loss = dist::all_reduce(loss, "mean");`
    #[script(name = "all_reduce")]
    pub fn all_reduce_by(t: &Tensor, op: Reduction) -> Result<tch::Tensor> {
        match op {
            Reduction::Sum => dist::all_reduce(t, ReduceOp::Sum),
            Reduction::Mean => dist::all_reduce_mean(t),
            Reduction::Min => dist::all_reduce(t, ReduceOp::Min),
            Reduction::Max => dist::all_reduce(t, ReduceOp::Max),
        }
    }

    /// Returns rank 0's tensor in all processes. Each must pass a tensor of the same shape and dtype.
    pub fn broadcast(t: &Tensor) -> Result<tch::Tensor> {
        dist::broadcast(t, 0)
    }

    /// Returns the tensor of rank `from` in all processes.
    #[script(name = "broadcast")]
    pub fn broadcast_from(t: &Tensor, from: usize) -> Result<tch::Tensor> {
        dist::broadcast(t, from)
    }

    /// The tensors of all processes, as an array by rank. Their first dimensions may differ.
    ///
    /// Example: `let all = cat(dist::all_gather(features), 0);`
    pub fn all_gather(t: &Tensor) -> Result<Vec<tch::Tensor>> {
        dist::all_gather(t)
    }

    /// Waits until all processes have called it.
    pub fn barrier() -> Result<()> {
        dist::barrier()
    }

    /// Averages the gradients of a module over all processes, in buckets and while backward still runs
    /// (c10d::Reducer, as in PyTorch's DistributedDataParallel). All processes start with rank 0's parameters. Some
    /// parameters may be frozen or unused in a loss.
    ///
    /// Example: `let gradients = dist::gradients(model); …; gradients.backward(loss); opt.step(1e-3);`
    pub fn gradients(m: &Module) -> Result<Gradients> {
        Ok(Gradients(Rc::new(RefCell::new(dist::Gradients::new(m.0.clone())?))))
    }
}

#[functions]
mod gradients {
    use super::*;

    /// Adds the gradients of a scalar to `grad`, as `loss.backward()` does, then averages all of `grad` over the
    /// processes. In a step of several backward passes, call it only for the last one.
    pub fn backward(gradients: &Gradients, loss: &Tensor) -> Result<()> {
        can_go_backward(loss)?;
        gradients.0.borrow_mut().backward(loss)
    }

    /// Adds the gradients of a batch's or micro-batch's mean loss, weighted by its `loss_weight`. Returns the weighted
    /// loss, detached; the step's loss is the sum over its micro-batches. Gradients are averaged over the processes
    /// once per step, with the whole batch or its last micro-batch.
    ///
    /// Example: `for b in batch.micro_batches(4) { loss += gradients.backward(my_loss(model, b), b); }`
    #[script(name = "backward")]
    pub fn backward_of_batch(gradients: &Gradients, loss: &Tensor, batch: &Batch) -> Result<tch::Tensor> {
        can_go_backward(loss)?;
        let weighted = loss.f_mul_scalar(batch.loss_weight())?;
        match batch.is_last() {
            true => gradients.0.borrow_mut().backward(&weighted)?,
            false => ffi::backward(&weighted)?,
        }
        Ok(weighted.f_detach()?)
    }
}
