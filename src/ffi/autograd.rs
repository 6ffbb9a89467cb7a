//! Parts of a network that are computed again in backward (`autograd.cpp`), and backward itself.

use super::{Autocast, check};
use crate::error::{Error, Result, catch_panic};
use std::cell::RefCell;
use std::ffi::{c_char, c_void};
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

type Compute = dyn Fn(&Tensor) -> Result<Tensor>;

unsafe extern "C" {
    fn nepa_computed_again(
        input: *mut C_tensor,
        output: *mut C_tensor,
        closure: *mut c_void,
        compute: unsafe extern "C" fn(*mut c_void, *mut C_tensor) -> *mut C_tensor,
        drop: unsafe extern "C" fn(*mut c_void),
        connected: *mut *mut C_tensor,
    ) -> *mut c_char;
    safe fn nepa_grad_enabled() -> bool;
    safe fn nepa_single_threaded_backward();
}

thread_local! {
    /// Why a closure failed inside the backward under way: the exception that ends it carries only a message.
    static FAULT: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Whether operations of this thread are recorded for backward: not so inside `no_grad`.
pub fn grad_enabled() -> bool {
    nepa_grad_enabled()
}

/// `output`, which `compute(input)` gave without a graph, connected to `input` and to whatever else `compute` uses:
/// backward calls `compute` again, on the thread that calls backward (see [`single_threaded_backward`]).
pub fn computed_again(
    input: &Tensor,
    output: &Tensor,
    compute: impl Fn(&Tensor) -> Result<Tensor> + 'static,
) -> Result<Tensor> {
    // A graph that another thread walks must not call it.
    let closure: Box<Box<Compute>> = Box::new(Box::new(on_this_thread(compute)));
    let mut connected = std::ptr::null_mut();
    // SAFETY: live handles; the closure is C++'s from here on, to be dropped once by `drop_closure`.
    check(unsafe {
        nepa_computed_again(
            input.as_ptr() as *mut C_tensor,
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
        crate::error::ensure!(compute.valid(), "backward runs on another thread than forward, which cannot be");
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
            FAULT.set(Some(error));
            std::ptr::null_mut()
        }
    }
}

unsafe extern "C" fn drop_closure(closure: *mut c_void) {
    // SAFETY: made by Box::into_raw in `computed_again`, and dropped once.
    drop(unsafe { Box::from_raw(closure.cast::<Box<Compute>>()) });
}

/// Gradients of a scalar with respect to all that it was made from, added up in `grad`. Autocast is off meanwhile,
/// wherever it is called: each operation's gradient has the type that its forward had.
pub fn backward(loss: &Tensor) -> Result<()> {
    let _off = Autocast::enter(Kind::Float)?;
    let result = loss.f_backward();
    match FAULT.take() {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

/// Lets backward of this thread's graphs run on this thread alone, also for CUDA tensors, as closures that are
/// computed again demand.
pub fn single_threaded_backward() {
    nepa_single_threaded_backward();
}
