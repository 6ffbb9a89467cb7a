//! What tch does not bind: the C++ shim (`shim.cpp`), blocks that are computed again (`autograd.cpp`), and processes
//! that train together (`c10d.cpp`, `nccl.cpp`).

mod autocast;
mod autograd;
mod c10d;

pub use autocast::{Autocast, allow_tf32};
pub use autograd::{backward, computed_again, grad_enabled, single_threaded_backward};
pub use c10d::{ProcessGroup, ReduceOp, Reducer, Store, StoreAddress, Work};

use crate::error::{Result, bail, torch_message};
use std::ffi::{CStr, c_char, c_int};
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn nepa_adamw(
        params: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        exp_avgs: *const *mut C_tensor,
        exp_avg_sqs: *const *mut C_tensor,
        steps: *const *mut C_tensor,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
    ) -> *mut c_char;
    fn nepa_lerp(averages: *const *mut C_tensor, values: *const *mut C_tensor, n: usize, weight: f64) -> *mut c_char;
    fn nepa_global_norm(tensors: *const *mut C_tensor, n: usize, norm: *mut *mut C_tensor) -> *mut c_char;
    fn nepa_scale(tensors: *const *mut C_tensor, n: usize, factor: *mut C_tensor) -> *mut c_char;
    fn nepa_clear_grads(tensors: *const *mut C_tensor, n: usize) -> *mut c_char;
    fn nepa_is_unshared(tensor: *mut C_tensor) -> bool;
    fn nepa_torch_folder() -> *mut c_char;
    safe fn nepa_set_cuda_device(index: c_int) -> *mut c_char;
    fn nepa_open_cuda(found: *mut c_int) -> *mut c_char;
}

/// Turns the shim's message into an error and frees it.
fn check(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a string from strdup, owned by us.
    let text = unsafe { CStr::from_ptr(message).to_string_lossy().into_owned() };
    unsafe { libc::free(message.cast()) };
    bail!("{}", torch_message(&text))
}

fn handles(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|t| t.as_ptr() as *mut C_tensor).collect()
}

/// The state of one AdamW parameter group: equally long lists, tensor by tensor.
pub struct AdamwLists {
    /// The parameters, changed in place.
    pub params: Vec<Tensor>,
    /// Their gradients.
    pub grads: Vec<Tensor>,
    /// First moments, changed in place.
    pub exp_avgs: Vec<Tensor>,
    /// Second moments, changed in place.
    pub exp_avg_sqs: Vec<Tensor>,
    /// float32 scalars, raised by one by the update.
    pub steps: Vec<Tensor>,
}

/// One fused AdamW update (decoupled weight decay, bias correction) in place.
pub fn adamw(lists: &AdamwLists, lr: f64, betas: [f64; 2], eps: f64, weight_decay: f64) -> Result<()> {
    let n = lists.params.len();
    if n == 0 {
        return Ok(());
    }
    let all = [&lists.grads, &lists.exp_avgs, &lists.exp_avg_sqs, &lists.steps];
    assert!(all.iter().all(|l| l.len() == n), "AdamW lists of different lengths");
    let [grads, exp_avgs, exp_avg_sqs, steps] = all.map(|l| handles(l));
    // SAFETY: the handles stay alive in `lists` for the call; all lists hold n of them.
    check(unsafe {
        nepa_adamw(
            handles(&lists.params).as_ptr(),
            grads.as_ptr(),
            exp_avgs.as_ptr(),
            exp_avg_sqs.as_ptr(),
            steps.as_ptr(),
            n,
            lr,
            betas[0],
            betas[1],
            eps,
            weight_decay,
        )
    })
}

/// `averages += weight * (values - averages)`, in place, all tensors at once.
pub fn lerp(averages: &[Tensor], values: &[Tensor], weight: f64) -> Result<()> {
    assert_eq!(averages.len(), values.len(), "lerp lists of different lengths");
    if averages.is_empty() {
        return Ok(());
    }
    // SAFETY: both lists hold n live handles.
    check(unsafe { nepa_lerp(handles(averages).as_ptr(), handles(values).as_ptr(), averages.len(), weight) })
}

/// The 2-norm over all tensors together, a scalar on their device.
pub fn global_norm(tensors: &[Tensor]) -> Result<Tensor> {
    if tensors.is_empty() {
        return Ok(Tensor::f_zeros([0; 0], tch::kind::FLOAT_CPU)?);
    }
    let mut norm = std::ptr::null_mut();
    // SAFETY: n live handles; on success `norm` is a new tensor that we own.
    check(unsafe { nepa_global_norm(handles(tensors).as_ptr(), tensors.len(), &mut norm) })?;
    Ok(unsafe { Tensor::from_ptr(norm) })
}

/// `tensors *= factor`, in place, with a scalar tensor so that a GPU is not waited for.
pub fn scale(tensors: &[Tensor], factor: &Tensor) -> Result<()> {
    if tensors.is_empty() {
        return Ok(());
    }
    // SAFETY: n live handles and one more.
    check(unsafe { nepa_scale(handles(tensors).as_ptr(), tensors.len(), factor.as_ptr() as *mut C_tensor) })
}

/// Drops the gradients, so that a parameter that takes no part in the next loss has none at all.
pub fn clear_grads(tensors: &[Tensor]) -> Result<()> {
    // SAFETY: n live handles.
    check(unsafe { nepa_clear_grads(handles(tensors).as_ptr(), tensors.len()) })
}

/// Opens `libtorch_cuda.so` beside the loaded libtorch; true when there was one. To be called
/// before anything asks libtorch about CUDA, since the answer is cached.
pub fn open_cuda() -> Result<bool> {
    let mut found = 0;
    // SAFETY: plain call with an out-parameter.
    check(unsafe { nepa_open_cuda(&mut found) })?;
    Ok(found != 0)
}

/// Makes a GPU that of this thread, for what does not say which it means.
pub fn set_cuda_device(index: usize) -> Result<()> {
    check(nepa_set_cuda_device(index as c_int))
}

/// Whether nobody but this handle holds the tensor, and no view its memory.
pub fn is_unshared(tensor: &Tensor) -> bool {
    // SAFETY: a live handle, only looked at.
    unsafe { nepa_is_unshared(tensor.as_ptr() as *mut C_tensor) }
}

/// The folder that libtorch was loaded from.
pub fn torch_folder() -> Option<std::path::PathBuf> {
    // SAFETY: null or a string from strdup, owned by us.
    let folder = unsafe { nepa_torch_folder() };
    if folder.is_null() {
        return None;
    }
    let path = unsafe { CStr::from_ptr(folder).to_string_lossy().into_owned() };
    unsafe { libc::free(folder.cast()) };
    Some(path.into())
}
