//! Processes that train one model together.

use super::batch::Batch;
use crate::dist::{self, ReduceOp};
use crate::error::{Result, bail, did_you_mean};
use crate::ffi;
use crate::functions;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Module, Tensor, ok};
use rhai::{Array, Dynamic, Engine, ImmutableString};
use std::cell::RefCell;
use std::rc::Rc;

/// Averaged gradients in a script.
#[derive(Clone)]
struct Gradients(Rc<RefCell<dist::Gradients>>);

fn all_reduce(t: &tch::Tensor, op: &str) -> Result<tch::Tensor> {
    match op {
        "sum" => dist::all_reduce(t, ReduceOp::Sum),
        "mean" => dist::mean(t),
        "min" => dist::all_reduce(t, ReduceOp::Min),
        "max" => dist::all_reduce(t, ReduceOp::Max),
        other => {
            let near = did_you_mean(other, ["sum", "mean", "min", "max"]);
            bail!("dist::all_reduce: expected \"sum\", \"mean\", \"min\" or \"max\", found \"{other}\"{near}")
        }
    }
}

fn rank(from: i64) -> Result<usize> {
    match usize::try_from(from) {
        Ok(from) => Ok(from),
        Err(_) => bail!("dist::broadcast: expected a rank from 0 on, found {from}"),
    }
}

crate::script::types::handles! { "Gradients": Gradients; }

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Gradients>("Gradients");
    let mut group = Group::namespace(
        reference,
        "dist",
        "Processes that train one model together, started by `nepa run --nproc N`, torchrun or srun: each runs the whole \
         script on its part of every batch. All must call the functions that exchange something, in the same order; each \
         waits for the others. Process 0 alone writes files and prints. A run that was started alone is process 0 of 1.",
    );
    functions! { group;
        /// This process's number among all, from 0.
        "rank" () -> i64 { Ok(dist::rank() as i64) }
        /// How many processes there are.
        "world_size" () -> i64 { Ok(dist::world_size() as i64) }
        /// This process's number among those of its machine, from 0: the number of its GPU.
        "local_rank" () -> i64 { Ok(dist::local_rank() as i64) }
        /// The sum of the tensors of all processes, which have one shape and dtype. Nothing is recorded for backward.
        "all_reduce" (t: Tensor) -> Tensor { ok(dist::all_reduce(&t, ReduceOp::Sum)?) }
        /// Their "sum", "mean", "min" or "max".
        ///
        /// Example: `let loss = dist::all_reduce(loss, "mean");`
        "all_reduce" (t: Tensor, op: ImmutableString) -> Tensor { ok(all_reduce(&t, &op)?) }
        /// The tensor of process 0, in all. Each gives one of the same shape and dtype.
        "broadcast" (t: Tensor) -> Tensor { ok(dist::broadcast(&t, 0)?) }
        /// The tensor of process `from`, in all.
        "broadcast" (t: Tensor, from: i64) -> Tensor { ok(dist::broadcast(&t, rank(from)?)?) }
        /// The tensors of all processes, an array by rank. They may differ in their first dimension.
        ///
        /// Example: `let all = cat(dist::all_gather(features), 0);`
        "all_gather" (t: Tensor) -> Array {
            Ok(dist::all_gather(&t)?.into_iter().map(|t| Dynamic::from(Tensor::from(t))).collect())
        }
        /// Waits until all processes are here.
        "barrier" () -> () { dist::barrier() }
        /// What averages the gradients of a module over all processes, in buckets and while backward still runs
        /// (c10d::Reducer, under PyTorch's DistributedDataParallel). The parameters become those of process 0. Frozen
        /// parameters, and those that take no part in a loss, are no hindrance.
        ///
        /// Example: `let gradients = dist::gradients(model); …; gradients.backward(loss); opt.step(1e-3);`
        "gradients" (m: Module) -> Gradients {
            Ok(Gradients(Rc::new(RefCell::new(dist::Gradients::new(m.0.clone())?))))
        }
    }
    group.register(engine);

    let mut group =
        Group::global(reference, "Gradients", "Averages gradients over processes, made by dist::gradients.");
    functions! { group;
        /// Gradients of this scalar, as `loss.backward()` adds them to `grad`, where all of `grad` is then averaged over
        /// the processes: in a step of several backwards, the last one alone is called so.
        "backward" (gradients: Gradients, loss: Tensor) -> () {
            super::tensor::can_go_backward(&loss)?;
            gradients.0.borrow_mut().backward(&loss)
        }
        /// Gradients of the mean loss of a batch or micro-batch, weighted by its `loss_weight`, and gives the weighted
        /// loss, detached: a step's loss is the sum over its micro-batches. Gradients are averaged over the processes with
        /// the step's last micro-batch, or the whole batch, only.
        ///
        /// Example: `for b in batch.micro_batches(4) { loss += gradients.backward(my_loss(model, b), b); }`
        "backward" (gradients: Gradients, loss: Tensor, batch: Batch) -> Tensor {
            super::tensor::can_go_backward(&loss)?;
            let weighted = loss.f_mul_scalar(batch.loss_weight())?;
            match batch.is_last() {
                true => gradients.0.borrow_mut().backward(&weighted)?,
                false => ffi::backward(&weighted)?,
            }
            ok(weighted.f_detach()?)
        }
    }
    group.register(engine);
}
