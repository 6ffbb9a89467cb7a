//! c10d, PyTorch's engine for processes that train together (`c10d.cpp`): its store, its groups, its reducer.

use super::{check, handles};
use crate::error::Result;
use std::ffi::{CString, c_char, c_int};
use std::time::Duration;
use tch::Tensor;
use torch_sys::C_tensor;

#[repr(C)]
struct RawStore {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawProcessGroup {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawWork {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawReducer {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn nepa_store_open(
        host: *const c_char,
        port: c_int,
        serve: bool,
        listen_fd: c_int,
        timeout_ms: i64,
        patience_ms: i64,
        store: *mut *mut RawStore,
    ) -> *mut c_char;
    fn nepa_store_enter(store: *mut RawStore, prefix: *const c_char) -> *mut c_char;
    fn nepa_store_clone(store: *mut RawStore, clone: *mut *mut RawStore) -> *mut c_char;
    fn nepa_store_free(store: *mut RawStore);
    fn nepa_store_set(
        store: *mut RawStore,
        lasting: bool,
        key: *const c_char,
        data: *const u8,
        len: usize,
    ) -> *mut c_char;
    fn nepa_store_claim(store: *mut RawStore, key: *const c_char, data: *const u8, len: usize) -> *mut c_char;
    fn nepa_store_get(
        store: *mut RawStore,
        lasting: bool,
        key: *const c_char,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> *mut c_char;
    fn nepa_group_open(
        store: *mut RawStore,
        rank: c_int,
        size: c_int,
        address: *const c_char,
        interface: *const c_char,
        cuda: bool,
        timeout_ms: i64,
        group: *mut *mut RawProcessGroup,
    ) -> *mut c_char;
    fn nepa_all_reduce(group: *mut RawProcessGroup, tensor: *mut C_tensor, op: c_int) -> *mut c_char;
    fn nepa_greatest_begin(group: *mut RawProcessGroup, tensor: *mut C_tensor, work: *mut *mut RawWork) -> *mut c_char;
    fn nepa_work_wait(work: *mut RawWork) -> *mut c_char;
    fn nepa_broadcast(group: *mut RawProcessGroup, tensor: *mut C_tensor, from: c_int) -> *mut c_char;
    fn nepa_broadcast_all(
        group: *mut RawProcessGroup,
        tensors: *const *mut C_tensor,
        n: usize,
        from: c_int,
    ) -> *mut c_char;
    fn nepa_all_gather(group: *mut RawProcessGroup, tensor: *mut C_tensor, gathered: *mut *mut C_tensor)
    -> *mut c_char;
    fn nepa_same_params(group: *mut RawProcessGroup, params: *const *mut C_tensor, n: usize) -> *mut c_char;
    fn nepa_reducer_new(
        group: *mut RawProcessGroup,
        params: *const *mut C_tensor,
        n: usize,
        reducer: *mut *mut RawReducer,
    ) -> *mut c_char;
    fn nepa_reducer_prepare(reducer: *mut RawReducer, loss: *mut C_tensor) -> *mut c_char;
    fn nepa_reducer_free(reducer: *mut RawReducer);
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).expect("no zero byte is left")
}

fn raw(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr() as *mut C_tensor
}

/// Keys and values that all processes see (`c10d::TCPStore`), kept by one of them or by torchrun's agent. Its functions
/// do not wait for other processes.
pub struct Store(*mut RawStore);

// SAFETY: the store has a lock of its own around each operation.
unsafe impl Send for Store {}

/// Where a store is.
pub struct StoreAddress<'a> {
    /// Name or address of the machine.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// Whether this process is to keep the store.
    pub serve: bool,
    /// A listening socket for it, in place of a new one at the port.
    pub listen_fd: Option<i32>,
}

impl Store {
    /// Opens the store, trying for as long as `timeout` where nobody keeps it yet. What is asked of it later may take
    /// `patience`.
    pub fn open(at: &StoreAddress<'_>, timeout: Duration, patience: Duration) -> Result<Self> {
        let host = c_string(at.host);
        let mut store = std::ptr::null_mut();
        // SAFETY: strings that live through the call; on success `store` is ours.
        check(unsafe {
            nepa_store_open(
                host.as_ptr(),
                at.port.into(),
                at.serve,
                at.listen_fd.unwrap_or(-1),
                timeout.as_millis() as i64,
                patience.as_millis() as i64,
                &mut store,
            )
        })?;
        Ok(Self(store))
    }

    /// Puts the keys of this start apart from those of earlier ones, under a name that all its processes know.
    pub fn enter(&mut self, start: &str) -> Result<()> {
        // SAFETY: a live store and a string that lives through the call.
        check(unsafe { nepa_store_enter(self.0, c_string(&format!("nepa/{start}/")).as_ptr()) })
    }

    /// The same store over a connection of its own: a thread that waits does not block another.
    pub fn connect_again(&self) -> Result<Self> {
        let mut store = std::ptr::null_mut();
        // SAFETY: a live store; on success `store` is ours.
        check(unsafe { nepa_store_clone(self.0, &mut store) })?;
        Ok(Self(store))
    }

    /// Sets a key of this start.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.put(false, key, value)
    }

    /// Sets a key that is still there after torchrun has started the processes again.
    pub fn set_lasting(&self, key: &str, value: &[u8]) -> Result<()> {
        self.put(true, key, value)
    }

    fn put(&self, lasting: bool, key: &str, value: &[u8]) -> Result<()> {
        // SAFETY: a live store, a string and bytes that live through the call.
        check(unsafe { nepa_store_set(self.0, lasting, c_string(key).as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Sets a key of this start where it has no value yet: the first one stays.
    pub fn claim(&self, key: &str, value: &[u8]) -> Result<()> {
        // SAFETY: as above.
        check(unsafe { nepa_store_claim(self.0, c_string(key).as_ptr(), value.as_ptr(), value.len()) })
    }

    /// The value of a key of this start.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.look(false, key)
    }

    /// The value of a key that outlives a start.
    pub fn get_lasting(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.look(true, key)
    }

    fn look(&self, lasting: bool, key: &str) -> Result<Option<Vec<u8>>> {
        let (mut data, mut len) = (std::ptr::null_mut(), 0);
        // SAFETY: as above; on success `data` is null or from malloc, `len` bytes of it.
        unsafe {
            check(nepa_store_get(self.0, lasting, c_string(key).as_ptr(), &mut data, &mut len))?;
            if data.is_null() {
                return Ok(None);
            }
            let value = std::slice::from_raw_parts(data, len).to_vec();
            libc::free(data.cast());
            Ok(Some(value))
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { nepa_store_free(self.0) }
    }
}

/// How values are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum.
    Sum = 0,
    /// The least of them.
    Min = 1,
    /// The greatest of them.
    Max = 2,
}

/// Processes that are connected to each other (`c10d::ProcessGroup`). Each must call the same functions in the same
/// order; each waits for all. Lives to the end of the process: taking the connections down would wait for the others.
pub struct ProcessGroup {
    raw: *mut RawProcessGroup,
    size: usize,
}

impl ProcessGroup {
    /// Connects `size` processes that share a store. `address` is one of this machine that the others reach, unless a
    /// network `interface` is named; with `cuda` tensors on a GPU go through NCCL, others through Gloo.
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
            nepa_group_open(
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

    /// Puts the tensors of all processes together, in place.
    pub fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<()> {
        // SAFETY: a live group and handle.
        check(unsafe { nepa_all_reduce(self.raw, raw(tensor), op as c_int) })
    }

    /// Begins to put the greatest of the tensors of all processes in the tensor's place, beside whatever follows.
    pub fn all_reduce_max_async(&self, tensor: Tensor) -> Result<Work> {
        let mut work = std::ptr::null_mut();
        // SAFETY: a live group and handle, which Work keeps; on success `work` is ours.
        check(unsafe { nepa_greatest_begin(self.raw, raw(&tensor), &mut work) })?;
        Ok(Work { work, tensor })
    }

    /// Overwrites the tensor with that of process `from`.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<()> {
        // SAFETY: a live group and handle.
        check(unsafe { nepa_broadcast(self.raw, raw(tensor), from as c_int) })
    }

    /// The same for many tensors, in few messages.
    pub fn broadcast_coalesced(&self, tensors: &[Tensor], from: usize) -> Result<()> {
        // SAFETY: a live group and n live handles.
        check(unsafe { nepa_broadcast_all(self.raw, handles(tensors).as_ptr(), tensors.len(), from as c_int) })
    }

    /// Makes parameters those of rank 0. It is an error where their number, shapes or dtypes differ.
    pub fn same_params(&self, params: &[Tensor]) -> Result<()> {
        // SAFETY: a live group and n live handles.
        check(unsafe { nepa_same_params(self.raw, handles(params).as_ptr(), params.len()) })
    }

    /// The tensors of all processes, which have one shape and dtype.
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        let mut gathered = vec![std::ptr::null_mut(); self.size];
        // SAFETY: a live group and handle; on success as many new tensors that we own.
        check(unsafe { nepa_all_gather(self.raw, raw(tensor), gathered.as_mut_ptr()) })?;
        Ok(gathered.into_iter().map(|t| unsafe { Tensor::from_ptr(t) }).collect())
    }
}

/// An exchange that runs beside whatever its process does.
pub struct Work {
    work: *mut RawWork,
    tensor: Tensor,
}

impl Work {
    /// What came of it, once all processes have taken part. One that is never asked runs to its end all the same.
    pub fn wait(self) -> Result<Tensor> {
        // SAFETY: ours, and given up here.
        check(unsafe { nepa_work_wait(self.work) })?;
        Ok(self.tensor)
    }
}

/// Averages gradients over the processes while backward runs (`c10d::Reducer`).
pub struct Reducer(*mut RawReducer);

impl Reducer {
    /// For these trainable parameters.
    pub fn new(group: &ProcessGroup, params: &[Tensor]) -> Result<Self> {
        let mut reducer = std::ptr::null_mut();
        // SAFETY: a live group and n live handles; on success `reducer` is ours.
        check(unsafe { nepa_reducer_new(group.raw, handles(params).as_ptr(), params.len(), &mut reducer) })?;
        Ok(Self(reducer))
    }

    /// Makes the next backward, that of `loss`, average; others add up in each process alone.
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
