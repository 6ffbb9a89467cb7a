//! Operations on many tensors at once (`tensors.cpp`).

use super::{Fault, check, handles, optional_handle};
use crate::error::Result;
use std::ffi::c_int;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn nepa_lerp(
        averages: *const *mut C_tensor,
        values: *const *mut C_tensor,
        n: usize,
        weight: f64,
        found_inf: *mut C_tensor,
    ) -> *mut Fault;
    fn nepa_global_norm(tensors: *const *mut C_tensor, n: usize, norm: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_scale(tensors: *const *mut C_tensor, n: usize, factor: *mut C_tensor) -> *mut Fault;
    fn nepa_clear_grads(tensors: *const *mut C_tensor, n: usize) -> *mut Fault;
    fn nepa_pinned_like(tensor: *mut C_tensor, made: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_upload(tensor: *mut C_tensor, index: c_int, copy: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_download(tensors: *const *mut C_tensor, n: usize, copies: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_is_unshared(tensor: *mut C_tensor) -> bool;
}

/// `averages += weight * (values - averages)`, in place, all tensors at once, unless `found_inf` (a float32 scalar on
/// their device) is 1.
pub fn lerp(averages: &[Tensor], values: &[Tensor], weight: f64, found_inf: Option<&Tensor>) -> Result<()> {
    assert_eq!(averages.len(), values.len(), "lerp lists of different lengths");
    if averages.is_empty() {
        return Ok(());
    }
    let (averages_, values_) = (handles(averages), handles(values));
    // SAFETY: both lists hold n live handles; the last one is live or null.
    check(unsafe {
        nepa_lerp(averages_.as_ptr(), values_.as_ptr(), averages.len(), weight, optional_handle(found_inf))
    })
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

/// A new CPU tensor like this one, its values undefined, in pinned memory, from which a GPU copies by itself.
pub fn pinned_like(tensor: &Tensor) -> Result<Tensor> {
    let mut made = std::ptr::null_mut();
    // SAFETY: a live handle; on success `made` is a new tensor that we own.
    check(unsafe { nepa_pinned_like(tensor.as_ptr() as *mut C_tensor, &mut made) })?;
    Ok(unsafe { Tensor::from_ptr(made) })
}

/// A copy of a CPU tensor on a CUDA device, outside any graph. The host does not wait for it; it must not change pinned
/// memory before the copy has ended, which the allocator of pinned memory knows and others do not.
pub fn upload(tensor: &Tensor, device: usize) -> Result<Tensor> {
    let mut copy = std::ptr::null_mut();
    // SAFETY: a live handle; on success `copy` is a new tensor that we own.
    check(unsafe { nepa_upload(tensor.as_ptr() as *mut C_tensor, device as c_int, &mut copy) })?;
    Ok(unsafe { Tensor::from_ptr(copy) })
}

/// Copies on the CPU of tensors on a CUDA device, outside any graph. The host waits once, for all of them.
pub fn download(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    let mut copies = vec![std::ptr::null_mut(); tensors.len()];
    // SAFETY: n live handles; on success `copies` holds as many new tensors, which we own.
    check(unsafe { nepa_download(handles(tensors).as_ptr(), tensors.len(), copies.as_mut_ptr()) })?;
    Ok(copies.into_iter().map(|copy| unsafe { Tensor::from_ptr(copy) }).collect())
}

/// Whether nobody but this handle holds the tensor, and no view its memory.
pub fn is_unshared(tensor: &Tensor) -> bool {
    // SAFETY: a live handle, only looked at.
    unsafe { nepa_is_unshared(tensor.as_ptr() as *mut C_tensor) }
}
