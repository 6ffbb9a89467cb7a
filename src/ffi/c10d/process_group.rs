//! The process group and its collectives (`process_group.cpp`).

use super::store::Store;
use super::{c_string, opaque, raw};
use crate::error::Result;
use crate::ffi::{Fault, check, handles};
use std::ffi::{c_char, c_int};
use std::time::Duration;
use tch::Tensor;
use torch_sys::C_tensor;

opaque!(RawProcessGroup, RawWork);

unsafe extern "C" {
    fn nepa_process_group_open(
        store: *mut super::store::RawStore,
        rank: c_int,
        size: c_int,
        address: *const c_char,
        interface: *const c_char,
        cuda: bool,
        timeout_ms: i64,
        group: *mut *mut RawProcessGroup,
    ) -> *mut Fault;
    fn nepa_all_reduce(group: *mut RawProcessGroup, tensor: *mut C_tensor, op: c_int) -> *mut Fault;
    fn nepa_all_reduce_max_async(
        group: *mut RawProcessGroup,
        tensor: *mut C_tensor,
        work: *mut *mut RawWork,
    ) -> *mut Fault;
    fn nepa_work_wait(work: *mut RawWork) -> *mut Fault;
    fn nepa_broadcast(group: *mut RawProcessGroup, tensor: *mut C_tensor, from: c_int) -> *mut Fault;
    fn nepa_broadcast_coalesced(
        group: *mut RawProcessGroup,
        tensors: *const *mut C_tensor,
        n: usize,
        from: c_int,
    ) -> *mut Fault;
    fn nepa_all_gather(group: *mut RawProcessGroup, tensor: *mut C_tensor, gathered: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_sync_params(group: *mut RawProcessGroup, params: *const *mut C_tensor, n: usize) -> *mut Fault;
}

/// How a reduction combines values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum.
    Sum = 0,
    /// Their minimum.
    Min = 1,
    /// Their maximum.
    Max = 2,
}

/// Connected processes (`c10d::ProcessGroup`). Each must call the same collectives in the same order; each waits for
/// all. Lives to the end of the process: closing the connections would wait for the others.
pub struct ProcessGroup {
    pub(super) raw: *mut RawProcessGroup,
    size: usize,
}

impl ProcessGroup {
    /// Connects `size` processes that share a store. The others reach this machine at `address`, or over a network
    /// `interface` if one is named. With `cuda`, tensors on a GPU go through NCCL; all others go through Gloo.
    pub fn open(
        store: &Store,
        [rank, size]: [usize; 2],
        address: &str,
        interface: Option<&str>,
        cuda: bool,
        timeout: Duration,
    ) -> Result<Self> {
        let (address, interface) = (c_string(address), c_string(interface.unwrap_or("")));
        let mut group = std::ptr::null_mut();
        // SAFETY: a live store, strings that live through the call.
        check(unsafe {
            nepa_process_group_open(
                store.0,
                rank as c_int,
                size as c_int,
                address.as_ptr(),
                interface.as_ptr(),
                cuda,
                timeout.as_millis() as i64,
                &mut group,
            )
        })?;
        Ok(Self { raw: group, size })
    }

    /// Reduces the tensors of all processes, in place.
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<()> {
        // SAFETY: a live group and handle.
        check(unsafe { nepa_all_reduce(self.raw, raw(tensor), op as c_int) })
    }

    /// Starts an element-wise maximum of the tensors of all processes, in place, in the background.
    pub fn all_reduce_max_async(&self, tensor: Tensor) -> Result<Work> {
        let mut work = std::ptr::null_mut();
        // SAFETY: a live group and handle, which Work keeps; on success `work` is ours.
        check(unsafe { nepa_all_reduce_max_async(self.raw, raw(&tensor), &mut work) })?;
        Ok(Work { work, tensor })
    }

    /// Overwrites the tensor with that of rank `from`.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<()> {
        // SAFETY: a live group and handle.
        check(unsafe { nepa_broadcast(self.raw, raw(tensor), from as c_int) })
    }

    /// Overwrites tensors of one device and dtype with those of rank `from`, in few messages.
    pub fn broadcast_coalesced(&self, tensors: &[Tensor], from: usize) -> Result<()> {
        // SAFETY: a live group and n live handles.
        check(unsafe { nepa_broadcast_coalesced(self.raw, handles(tensors).as_ptr(), tensors.len(), from as c_int) })
    }

    /// Overwrites parameters with those of rank 0. It is an error where their number, shapes or dtypes differ.
    pub fn sync_params(&self, params: &[Tensor]) -> Result<()> {
        // SAFETY: a live group and n live handles.
        check(unsafe { nepa_sync_params(self.raw, handles(params).as_ptr(), params.len()) })
    }

    /// The tensors of all processes, which have one shape and dtype.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        let mut gathered = vec![std::ptr::null_mut(); self.size];
        // SAFETY: a live group and handle; on success as many new tensors that we own.
        check(unsafe { nepa_all_gather(self.raw, raw(tensor), gathered.as_mut_ptr()) })?;
        Ok(gathered.into_iter().map(|t| unsafe { Tensor::from_ptr(t) }).collect())
    }
}

/// A pending collective (`c10d::Work`).
pub struct Work {
    work: *mut RawWork,
    tensor: Tensor,
}

impl Work {
    /// The result, once all processes have taken part. A collective that nobody waits for still runs to its end.
    pub fn wait(self) -> Result<Tensor> {
        // SAFETY: ours, and given up here.
        check(unsafe { nepa_work_wait(self.work) })?;
        Ok(self.tensor)
    }
}
