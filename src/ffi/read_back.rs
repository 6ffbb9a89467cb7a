//! A tensor's values on their way from a CUDA device to the host (`read_back.cpp`).

use super::{Fault, check};
use crate::error::Result;
use std::marker::{PhantomData, PhantomPinned};
use std::ptr::NonNull;
use tch::Tensor;
use torch_sys::C_tensor;

/// The C++ object.
#[repr(C)]
struct Values {
    _opaque: [u8; 0],
    _neither_sent_nor_moved: PhantomData<(*mut u8, PhantomPinned)>,
}

unsafe extern "C" {
    fn nepa_read_back(tensor: *mut C_tensor, made: *mut *mut Values) -> *mut Fault;
    fn nepa_read_back_has_arrived(values: *const Values, arrived: *mut bool) -> *mut Fault;
    fn nepa_read_back_wait(values: *const Values, host: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_read_back_free(values: *mut Values);
}

/// A copy on the CPU of a tensor on a CUDA device, begun without waiting for it.
#[derive(Debug)]
pub struct ReadBack(NonNull<Values>);

impl ReadBack {
    /// Begins to copy.
    pub fn begin(tensor: &Tensor) -> Result<Self> {
        let mut made = std::ptr::null_mut();
        // SAFETY: a live handle; on success `made` is a new object that we own.
        check(unsafe { nepa_read_back(tensor.as_ptr() as *mut C_tensor, &mut made) })?;
        Ok(Self(NonNull::new(made).expect("made without a fault")))
    }

    /// Whether the copy has ended.
    pub fn has_arrived(&self) -> Result<bool> {
        let mut arrived = false;
        // SAFETY: a live object.
        check(unsafe { nepa_read_back_has_arrived(self.0.as_ptr(), &mut arrived) })?;
        Ok(arrived)
    }

    /// The copy, for which the host waits if it must.
    pub fn wait(&self) -> Result<Tensor> {
        let mut host = std::ptr::null_mut();
        // SAFETY: a live object; on success `host` is a new handle that we own.
        check(unsafe { nepa_read_back_wait(self.0.as_ptr(), &mut host) })?;
        Ok(unsafe { Tensor::from_ptr(host) })
    }
}

impl Drop for ReadBack {
    fn drop(&mut self) {
        // SAFETY: made by nepa_read_back and freed once.
        unsafe { nepa_read_back_free(self.0.as_ptr()) }
    }
}
