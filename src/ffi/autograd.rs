//! Backward, and activation checkpointing: blocks that backward recomputes (`autograd.cpp`).

use super::{Autocast, Fault, check};
use crate::error::{Error, Result, catch_panic};
use std::cell::RefCell;
use std::ffi::c_void;
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

type Compute = dyn Fn(&Tensor) -> Result<Tensor>;

unsafe extern "C" {
    fn nepa_recompute(
        input: *mut C_tensor,
        parameters: *const *mut C_tensor,
        count: usize,
        output: *mut C_tensor,
        closure: *mut c_void,
        compute: unsafe extern "C" fn(*mut c_void, *mut C_tensor) -> *mut C_tensor,
        drop: unsafe extern "C" fn(*mut c_void),
        connected: *mut *mut C_tensor,
    ) -> *mut Fault;
    fn nepa_backward(loss: *mut C_tensor, through_hooks: bool) -> *mut Fault;
    safe fn nepa_grad_enabled() -> bool;
    safe fn nepa_single_threaded_backward();
}

thread_local! {
    /// Why a closure failed inside the current backward: the exception that ends it carries only a message.
    static CLOSURE_ERROR: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Whether this thread records operations for backward; inside `no_grad` it does not.
pub fn grad_enabled() -> bool {
    nepa_grad_enabled()
}

/// Connects `output`, which `compute(input)` gave without a graph, to `input` and to the trained `parameters` that
/// `compute` uses. Backward then calls `compute` once more, on its own thread (see [`single_threaded_backward`]). Other
/// leaves that `compute` uses get their gradients too, but directly, in each call, outside the surrounding graph.
pub fn recompute(
    input: &Tensor,
    parameters: &[Tensor],
    output: &Tensor,
    compute: impl Fn(&Tensor) -> Result<Tensor> + 'static,
) -> Result<Tensor> {
    // Only this thread may call it.
    let closure: Box<Box<Compute>> = Box::new(Box::new(on_this_thread(compute)));
    let parameters: Vec<_> = parameters.iter().map(|p| p.as_ptr() as *mut C_tensor).collect();
    let mut connected = std::ptr::null_mut();
    // SAFETY: live handles; the closure is C++'s from here on, to be dropped once by `drop_closure`.
    check(unsafe {
        nepa_recompute(
            input.as_ptr() as *mut C_tensor,
            parameters.as_ptr(),
            parameters.len(),
            output.as_ptr() as *mut C_tensor,
            Box::into_raw(closure).cast(),
            call_closure,
            drop_closure,
            &mut connected,
        )
    })?;
    // SAFETY: on success a new tensor that we own.
    Ok(unsafe { Tensor::from_ptr(connected) })
}

fn on_this_thread(compute: impl Fn(&Tensor) -> Result<Tensor>) -> impl Fn(&Tensor) -> Result<Tensor> {
    let compute = send_wrapper::SendWrapper::new(compute);
    move |x| {
        crate::error::ensure!(compute.valid(), "backward runs on another thread than forward");
        compute(x)
    }
}

unsafe extern "C" fn call_closure(closure: *mut c_void, input: *mut C_tensor) -> *mut C_tensor {
    // SAFETY: C++ hands the input over, and holds the closure for the call.
    let (input, compute) = unsafe { (Tensor::from_ptr(input), &*closure.cast::<Box<Compute>>()) };
    match catch_panic(|| compute(&input)) {
        Ok(output) => {
            let output = std::mem::ManuallyDrop::new(output);
            output.as_ptr() as *mut C_tensor
        }
        Err(error) => {
            CLOSURE_ERROR.set(Some(error));
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn drop_closure(closure: *mut c_void) {
    // SAFETY: made by Box::into_raw in `recompute`, and dropped once.
    drop(unsafe { Box::from_raw(closure.cast::<Box<Compute>>()) });
}

/// Adds the gradients of a scalar with respect to every leaf behind it to `grad`. Autocast is off meanwhile: each
/// operation's gradient has the dtype of its forward.
pub fn backward(loss: &Tensor) -> Result<()> {
    run_backward(loss, false)
}

/// As [`backward`], through the hooks of the leaves, which a [`super::Reducer`] listens to.
pub fn backward_through_hooks(loss: &Tensor) -> Result<()> {
    run_backward(loss, true)
}

fn run_backward(loss: &Tensor, through_hooks: bool) -> Result<()> {
    let _off = Autocast::enter(Kind::Float)?;
    // SAFETY: a live handle.
    let result = check(unsafe { nepa_backward(loss.as_ptr() as *mut C_tensor, through_hooks) });
    match CLOSURE_ERROR.take() {
        Some(error) => Err(error),
        None => result,
    }
}

/// Keeps backward of this thread's graphs on this thread, also for CUDA tensors, as [`recompute`] needs.
pub fn single_threaded_backward() {
    nepa_single_threaded_backward();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    #[test]
    fn gradients_of_parameters_are_those_of_the_outer_graph() {
        let (x, w, other) = (leaf(&[1.0, 2.0]), leaf(&[3.0, -1.0]), leaf(&[0.5, 4.0]));
        let loss = || {
            let parts = [x.shallow_clone(), w.shallow_clone(), other.shallow_clone()];
            let compute = move |x: &Tensor| Ok((x * &parts[1]).f_mul(&parts[2])?);
            let output = tch::no_grad(|| compute(&x)).unwrap();
            let once = recompute(&x, &[w.shallow_clone()], &output, compute).unwrap();
            // The parameter is used outside of it too.
            (&once * &once).sum(tch::Kind::Float) + (&w * 10.0).sum(tch::Kind::Float)
        };
        // d/dw Σ (x w o)² + 10 w
        let expected = Tensor::from_slice(&[2.0 * 1.5 * 0.5 + 10.0, 2.0 * -8.0 * 8.0 + 10.0f32]);
        let found = Tensor::run_backward(&[loss()], &[&w], false, false);
        assert!(found[0].equal(&expected), "{}", found[0]);
        assert!(!w.grad().defined() && !x.grad().defined(), "nothing is accumulated inside the node");

        backward(&loss()).unwrap();
        assert!(w.grad().equal(&expected), "{}", w.grad());
        assert!(x.grad().equal(&Tensor::from_slice(&[2.0 * 1.5 * 1.5, 2.0 * -8.0 * -4.0f32])), "{}", x.grad());
        // A leaf that is not a parameter gets its gradient from both calls.
        assert!(other.grad().equal(&Tensor::from_slice(&[2.0 * 2.0 * 1.5 * 3.0, 2.0 * 2.0 * -8.0 * -2.0f32])));
    }
}
