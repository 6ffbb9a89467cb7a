//! The reducer of gradients (`reducer.cpp`).

use super::process_group::{ProcessGroup, RawProcessGroup};
use super::{opaque, raw};
use crate::error::Result;
use crate::ffi::{Fault, check, handles};
use tch::Tensor;
use torch_sys::C_tensor;

opaque!(RawReducer);

unsafe extern "C" {
    fn nepa_reducer_new(
        group: *mut RawProcessGroup,
        params: *const *mut C_tensor,
        n: usize,
        reducer: *mut *mut RawReducer,
    ) -> *mut Fault;
    fn nepa_reducer_prepare(reducer: *mut RawReducer, loss: *mut C_tensor) -> *mut Fault;
    fn nepa_reducer_free(reducer: *mut RawReducer);
}

/// Averages gradients over the processes while backward runs (`c10d::Reducer`).
pub struct Reducer(*mut RawReducer);

impl Reducer {
    /// A reducer of these trainable parameters.
    pub fn new(group: &ProcessGroup, params: &[Tensor]) -> Result<Self> {
        let mut reducer = std::ptr::null_mut();
        // SAFETY: a live group and n live handles; on success `reducer` is ours.
        check(unsafe { nepa_reducer_new(group.raw, handles(params).as_ptr(), params.len(), &mut reducer) })?;
        Ok(Self(reducer))
    }

    /// Makes the next backward, that of `loss`, average gradients; backward passes that nobody prepared add up locally.
    pub fn prepare(&self, loss: &Tensor) -> Result<()> {
        // SAFETY: a live reducer and handle.
        check(unsafe { nepa_reducer_prepare(self.0, raw(loss)) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { nepa_reducer_free(self.0) }
    }
}
