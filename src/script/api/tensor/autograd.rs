//! Gradients.

use crate::bail_hint;
use crate::error::Result;
use crate::nn::shape_words;
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// The values outside the graph: no gradient flows through.
    pub fn detach(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_detach()?)
    }

    /// The values outside the graph: detach, in the words of the paper.
    pub fn stop_grad(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_detach()?)
    }

    /// Whether gradients are recorded for it.
    #[script(get, name = "requires_grad")]
    pub fn is_recorded(t: &Tensor) -> bool {
        t.requires_grad()
    }

    /// Records gradients for this tensor from now on, or not; gives the tensor.
    pub fn requires_grad(t: &Tensor, on: bool) -> Result<tch::Tensor> {
        Ok(t.f_set_requires_grad(on)?)
    }

    /// Gradients of this scalar with respect to every tensor that it was made from and that
    /// requires them; they add up in `grad`.
    pub fn backward(t: &Tensor) -> Result<()> {
        can_go_backward(t)?;
        crate::ffi::backward(t)
    }

    /// The gradient that backward left, or () where there is none.
    #[script(get)]
    pub fn grad(t: &Tensor) -> Option<tch::Tensor> {
        Some(t.grad()).filter(tch::Tensor::defined)
    }

    /// Overwrites the values with those of another tensor of a shape that broadcasts; no gradient.
    pub fn copy_(t: &Tensor, source: &Tensor) -> Result<()> {
        Ok(tch::no_grad(|| t.shallow_clone().f_copy_(source))?)
    }

    /// Overwrites the places of a dimension that an int64 tensor names with those of `source`, in this order; no
    /// gradient.
    ///
    /// Example: `features.index_copy_(0, batch.indices, rows);`
    pub fn index_copy_(t: &Tensor, dim: i64, index: &Tensor, source: &Tensor) -> Result<()> {
        tch::no_grad(|| t.shallow_clone().f_index_copy_(dim, index, source).map(drop))?;
        Ok(())
    }
}

/// Checks that a tensor is a scalar with a graph behind it.
pub fn can_go_backward(t: &Tensor) -> Result<()> {
    if t.numel() != 1 {
        bail_hint!("backward: expected a scalar, found {}", shape_words(t); "reduce it first: t.mean().backward()");
    }
    if !t.requires_grad() {
        bail_hint!(
            "backward: nothing that this value was made from requires gradients";
            "was it computed inside no_grad, detached, or from frozen parameters only?"
        );
    }
    Ok(())
}
