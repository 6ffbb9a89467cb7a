//! The C++ shim: libtorch functions that tch does not bind. A Rust file and the C++ file of the same name belong
//! together.

mod autocast;
mod autograd;
mod c10d;
mod fused;
mod memory;
mod operators;
mod optimizers;
mod read_back;
mod runtime;
mod tensors;

pub use autocast::{Autocast, allow_tf32, autocast_on_cuda};
pub use autograd::{backward, backward_through_hooks, grad_enabled, recompute, single_threaded_backward};
pub use c10d::{ProcessGroup, ReduceOp, Reducer, Store, StoreAddress, Work};
pub use fused::{Affine, BranchEnd, FusedActivation, Norm, attention, cpu_kernels, mlp, projection, qkv};
pub use memory::{GpuMemory, gpu_memory, set_cpu_allocator};
pub use operators::{Argument, operator};
pub use optimizers::{Batch, UpdateRule};
pub use read_back::ReadBack;
pub use runtime::{exit, on_uncaught, open_cuda, set_cuda_device, torch_folder};
pub use tensors::{clear_grads, download, global_norm, is_unshared, lerp, pinned_like, scale, upload};

use crate::error::{Result, TorchFault, TorchFaultKind};
use std::ffi::{CStr, c_char, c_int};
use tch::Tensor;
use torch_sys::C_tensor;

/// Why a call failed (`shim.h`): its kind, with the message behind it. From malloc, owned by us.
#[repr(C)]
struct Fault {
    kind: c_int,
    message: [c_char; 0],
}

/// Turns the shim's fault into an error and frees it.
fn check(fault: *mut Fault) -> Result<()> {
    if fault.is_null() {
        return Ok(());
    }
    // SAFETY: a live fault, whose message ends with a zero byte.
    let (kind, text) = unsafe {
        let message = (&raw const (*fault).message).cast::<c_char>();
        ((*fault).kind, CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    // SAFETY: from malloc, and freed once.
    unsafe { libc::free(fault.cast()) };
    let kind = if kind == 1 { TorchFaultKind::Distributed } else { TorchFaultKind::Other };
    Err(TorchFault::new(kind, &text).into())
}

/// Null for none.
fn optional_handle(tensor: Option<&Tensor>) -> *mut C_tensor {
    tensor.map_or(std::ptr::null_mut(), |t| t.as_ptr() as *mut C_tensor)
}

fn handles(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|t| t.as_ptr() as *mut C_tensor).collect()
}
