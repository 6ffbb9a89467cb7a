//! A tensor's values on their way from the device to the host (`read_back.cpp`).

use super::{Fault, check};
use crate::error::Result;
use crate::tensor::detached_copy;
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

/// A tensor's values on the CPU, or on their way there from a GPU.
#[derive(Debug)]
pub struct ReadBack(Place);

#[derive(Debug)]
enum Place {
    Here(Tensor),
    UnderWay(UnderWay),
}

#[derive(Debug)]
struct UnderWay(NonNull<Values>);

impl ReadBack {
    /// Begins to copy a tensor's values to the CPU, outside any graph. The host does not wait for a GPU.
    pub fn begin(tensor: &Tensor) -> Result<Self> {
        if !tensor.device().is_cuda() {
            return Ok(Self(Place::Here(detached_copy(tensor)?)));
        }
        let mut made = std::ptr::null_mut();
        // SAFETY: a live handle; on success `made` is a new object that we own.
        check(unsafe { nepa_read_back(tensor.as_ptr() as *mut C_tensor, &mut made) })?;
        Ok(Self(Place::UnderWay(UnderWay(NonNull::new(made).expect("made without a fault")))))
    }

    /// Whether the values are there.
    pub fn has_arrived(&self) -> Result<bool> {
        let Place::UnderWay(UnderWay(values)) = &self.0 else { return Ok(true) };
        let mut arrived = false;
        // SAFETY: a live object.
        check(unsafe { nepa_read_back_has_arrived(values.as_ptr(), &mut arrived) })?;
        Ok(arrived)
    }

    /// The values, for which the host waits if it must.
    pub fn wait(&self) -> Result<Tensor> {
        let values = match &self.0 {
            Place::Here(values) => return Ok(values.shallow_clone()),
            Place::UnderWay(UnderWay(values)) => values,
        };
        let mut host = std::ptr::null_mut();
        // SAFETY: a live object; on success `host` is a new handle that we own.
        check(unsafe { nepa_read_back_wait(values.as_ptr(), &mut host) })?;
        Ok(unsafe { Tensor::from_ptr(host) })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // SAFETY: made by nepa_read_back and freed once.
        unsafe { nepa_read_back_free(self.0.as_ptr()) }
    }
}
