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
    /// How the tensors of all processes become one.
    pub enum Reduction {
        /// Added.
        Sum = "sum",
        /// Added, and divided by the number of processes.
        Mean = "mean",
        /// The least of each element.
        Min = "min",
        /// The greatest of each element.
        Max = "max",
    }
}

choice_arguments! { Reduction }

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "dist",
        "Processes that train one model together, started by `nepa run --nproc N`, torchrun or srun: each runs the \
         whole script on its images of every batch. All must call the functions that exchange something, in the same \
         order; each waits for the others. Rank 0 alone writes files and prints. A run that was started alone is rank 0 \
         of 1.",
        functions::register,
    );
    api.methods::<Gradients>("Averages gradients over processes, made by dist::gradients.", gradients::register);
}

#[functions]
mod functions {
    use super::*;

    /// This process's rank: its number among all, from 0.
    pub fn rank() -> usize {
        dist::rank()
    }

    /// How many processes there are.
    pub fn world_size() -> usize {
        dist::world_size()
    }

    /// This process's number among those of its machine, from 0: the number of its GPU.
    pub fn local_rank() -> usize {
        dist::local_rank()
    }

    /// The sum of the tensors of all processes, which have one shape and dtype. Nothing is recorded for backward.
    pub fn all_reduce(t: &Tensor) -> Result<tch::Tensor> {
        dist::all_reduce(t, ReduceOp::Sum)
    }

    /// The sum, mean, least or greatest of the tensors of all processes, element by element.
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

    /// The tensor of rank 0, in all processes. Each gives one of the same shape and dtype.
    pub fn broadcast(t: &Tensor) -> Result<tch::Tensor> {
        dist::broadcast(t, 0)
    }

    /// The tensor of the rank `from`, in all processes.
    #[script(name = "broadcast")]
    pub fn broadcast_from(t: &Tensor, from: usize) -> Result<tch::Tensor> {
        dist::broadcast(t, from)
    }

    /// The tensors of all processes, an array by rank. They may differ in their first dimension.
    ///
    /// Example: `let all = cat(dist::all_gather(features), 0);`
    pub fn all_gather(t: &Tensor) -> Result<Vec<tch::Tensor>> {
        dist::all_gather(t)
    }

    /// Waits until all processes are here.
    pub fn barrier() -> Result<()> {
        dist::barrier()
    }

    /// What averages the gradients of a module over all processes, in buckets and while backward still runs
    /// (c10d::Reducer, under PyTorch's DistributedDataParallel). The parameters become those of rank 0. Frozen
    /// parameters, and those that take no part in a loss, are no hindrance.
    ///
    /// Example: `let gradients = dist::gradients(model); …; gradients.backward(loss); opt.step(1e-3);`
    pub fn gradients(m: &Module) -> Result<Gradients> {
        Ok(Gradients(Rc::new(RefCell::new(dist::Gradients::new(m.0.clone())?))))
    }
}

#[functions]
mod gradients {
    use super::*;

    /// Gradients of this scalar, as `loss.backward()` adds them to `grad`, where all of `grad` is then averaged over
    /// the processes: in a step of several backwards, the last one alone is called so.
    pub fn backward(gradients: &Gradients, loss: &Tensor) -> Result<()> {
        can_go_backward(loss)?;
        gradients.0.borrow_mut().backward(loss)
    }

    /// Gradients of the mean loss of a batch or micro-batch, weighted by its `loss_weight`, and gives the weighted
    /// loss, detached: a step's loss is the sum over its micro-batches. Gradients are averaged over the processes with
    /// the step's last micro-batch, or the whole batch, only.
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
