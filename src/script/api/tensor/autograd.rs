//! Gradients.

use crate::bail_hint;
use crate::error::Result;
use crate::script::values::Tensor;
use crate::tensor::shape_text;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// The values, detached from the graph: no gradient flows through.
    ///
    /// Example: `let x = ones([2]).requires_grad(true); !x.detach().requires_grad`
    pub fn detach(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_detach()?)
    }

    /// The values, detached from the graph: the paper's name for detach.
    ///
    /// Example: `let x = ones([2]).requires_grad(true); !x.stop_grad().requires_grad`
    pub fn stop_grad(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_detach()?)
    }

    /// Whether gradients are recorded for it.
    ///
    /// Example: `!ones([2]).requires_grad`
    #[script(get, name = "requires_grad")]
    pub fn is_recorded(t: &Tensor) -> bool {
        t.requires_grad()
    }

    /// Turns the recording of gradients for this tensor on or off; returns the tensor.
    ///
    /// Example: `ones([2]).requires_grad(true).requires_grad`
    pub fn requires_grad(t: &Tensor, on: bool) -> Result<tch::Tensor> {
        Ok(t.f_set_requires_grad(on)?)
    }

    /// Computes the gradients of this scalar with respect to every tensor that it was computed from
    /// and that requires them, and adds them to `grad`.
    ///
    /// Example: `let x = ones([2]).requires_grad(true); (x * 3).sum().backward(); x.grad.to_array() == [3.0, 3.0]`
    pub fn backward(t: &Tensor) -> Result<()> {
        can_go_backward(t)?;
        crate::ffi::backward(t)
    }

    /// The gradient computed by backward, or () if there is none.
    ///
    /// Example: `ones([2]).grad == ()`
    #[script(get)]
    pub fn grad(t: &Tensor) -> Option<tch::Tensor> {
        Some(t.grad()).filter(tch::Tensor::defined)
    }

    /// Overwrites the values with those of another tensor, whose shape may broadcast, without recording gradients.
    ///
    /// Example: `let x = zeros([2]); x.copy_(ones([2])); x.to_array() == [1.0, 1.0]`
    pub fn copy_(t: &Tensor, source: &Tensor) -> Result<()> {
        Ok(tch::no_grad(|| t.shallow_clone().f_copy_(source))?)
    }

    /// Overwrites the slices of a dimension at the indices in an int64 tensor with those of `source`, in order, without
    /// recording gradients.
    ///
    /// Example: `let x = zeros([2]); x.index_copy_(0, tensor([1]), ones([1])); x.to_array() == [0.0, 1.0]`
    pub fn index_copy_(t: &Tensor, dim: i64, index: &Tensor, source: &Tensor) -> Result<()> {
        tch::no_grad(|| t.shallow_clone().f_index_copy_(dim, index, source).map(drop))?;
        Ok(())
    }
}

/// Checks that a tensor is a scalar with a graph behind it.
pub fn can_go_backward(t: &Tensor) -> Result<()> {
    if t.numel() != 1 {
        bail_hint!("backward: expected a scalar, found {}", shape_text(t); "reduce it first: t.mean().backward()");
    }
    if !t.requires_grad() {
        bail_hint!(
            "backward: nothing that this value was computed from requires gradients";
            "was it computed inside no_grad, detached, or from frozen parameters only?"
        );
    }
    Ok(())
}
