//! Activation checkpointing: a block keeps only its input in training, and backward recomputes the rest. It costs a
//! third more computation, and holds one block's activations instead of all (Chen et al., arXiv 1604.06174).

use super::{Context, ModuleRef, is_recomputed, named_parameters};
use crate::error::{Context as _, Result};
use crate::ffi::{self, Autocast};
use crate::random;
use std::cell::Cell;
use tch::Tensor;

thread_local! {
    /// Whether backward is computing a block again.
    static REPLAYING: Cell<bool> = const { Cell::new(false) };
}

/// Whether backward is computing a block again, whose buffers have seen this batch already.
pub(super) fn is_replaying() -> bool {
    REPLAYING.get()
}

/// `block.forward(x, cx)`, recomputed in backward; `place` says where the block is, for an error there.
pub(super) fn forward(
    block: &ModuleRef,
    x: &Tensor,
    cx: &Context,
    place: impl Fn() -> String + 'static,
) -> Result<Tensor> {
    // A stack inside this block recomputes its own blocks, and taps their outputs.
    if !ffi::grad_enabled() || is_recomputed(block.as_ref()) {
        return block.forward(x, cx);
    }
    let parameters = named_parameters(block.as_ref()).into_iter().map(|(_, p)| p);
    let trained: Vec<Tensor> = parameters.filter(Tensor::requires_grad).collect();
    if !x.requires_grad() && trained.is_empty() {
        return block.forward(x, cx);
    }
    let rng = random::state();
    let kind = Autocast::current();
    let output = {
        let _no_graph = tch::no_grad_guard();
        block.forward(x, cx)?
    };
    let (block, cx) = (block.clone(), Context { taps: None, ..cx.clone() });
    ffi::recompute(x, &trained, &output, move |x| {
        let _state = Restored(random::state(), REPLAYING.replace(true));
        random::set_state(rng);
        let _autocast = Autocast::enter(kind)?;
        block.forward(x, &cx).with_context(&place).context("in backward")
    })
}

/// Restores the run's generator, and whether a block is computed again, at the end of a scope.
struct Restored(random::State, bool);

impl Drop for Restored {
    fn drop(&mut self) {
        random::set_state(self.0);
        REPLAYING.set(self.1);
    }
}
