//! The store (`store.cpp`).

use super::{c_string, opaque};
use crate::error::Result;
use crate::ffi::{Fault, check};
use std::ffi::{c_char, c_int};
use std::net::TcpListener;
use std::os::fd::IntoRawFd as _;
use std::time::Duration;

opaque!(RawStore);

unsafe extern "C" {
    fn nepa_store_open(
        host: *const c_char,
        port: c_int,
        listen_fd: c_int,
        timeout_ms: i64,
        patience_ms: i64,
        store: *mut *mut RawStore,
    ) -> *mut Fault;
    fn nepa_store_use_prefix(store: *mut RawStore, prefix: *const c_char) -> *mut Fault;
    fn nepa_store_clone(store: *mut RawStore, clone: *mut *mut RawStore) -> *mut Fault;
    fn nepa_store_free(store: *mut RawStore);
    fn nepa_store_set(
        store: *mut RawStore,
        lasting: bool,
        key: *const c_char,
        data: *const u8,
        len: usize,
    ) -> *mut Fault;
    fn nepa_store_set_if_absent(store: *mut RawStore, key: *const c_char, data: *const u8, len: usize) -> *mut Fault;
    fn nepa_store_get(
        store: *mut RawStore,
        lasting: bool,
        key: *const c_char,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> *mut Fault;
}

/// Keys and values that all processes see (`c10d::TCPStore`), kept by one of them or by torchrun's agent. Its functions
/// do not wait for other processes.
pub struct Store(pub(super) *mut RawStore);

// SAFETY: the store has a lock of its own around each operation.
unsafe impl Send for Store {}

/// Where a store is.
pub struct StoreAddress<'a> {
    /// Name or address of the machine.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// A socket that listens at this port, if this process is to keep the store.
    pub listener: Option<TcpListener>,
}

impl Store {
    /// Opens the store, trying for as long as `timeout` if nobody keeps it yet. Each later request may take
    /// `patience`.
    pub fn open(at: StoreAddress<'_>, timeout: Duration, patience: Duration) -> Result<Self> {
        let host = c_string(at.host);
        let mut store = std::ptr::null_mut();
        // SAFETY: a string that lives through the call; the socket is c10d's from here on; on success `store` is ours.
        check(unsafe {
            nepa_store_open(
                host.as_ptr(),
                at.port.into(),
                at.listener.map_or(-1, |listener| listener.into_raw_fd()),
                timeout.as_millis() as i64,
                patience.as_millis() as i64,
                &mut store,
            )
        })?;
        Ok(Self(store))
    }

    /// Keeps the keys of this start apart from those of earlier ones, under a name that all its processes know.
    pub fn use_prefix(&mut self, start: &str) -> Result<()> {
        // SAFETY: a live store and a string that lives through the call.
        check(unsafe { nepa_store_use_prefix(self.0, c_string(&format!("nepa/{start}/")).as_ptr()) })
    }

    /// A second connection to the store: a thread that waits on one does not block a thread with the other.
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

    /// Sets a key that is still there after torchrun has restarted the processes.
    pub fn set_lasting(&self, key: &str, value: &[u8]) -> Result<()> {
        self.put(true, key, value)
    }

    fn put(&self, lasting: bool, key: &str, value: &[u8]) -> Result<()> {
        // SAFETY: a live store, a string and bytes that live through the call.
        check(unsafe { nepa_store_set(self.0, lasting, c_string(key).as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Sets a key of this start if it has no value yet: the first value stays.
    pub fn set_if_absent(&self, key: &str, value: &[u8]) -> Result<()> {
        // SAFETY: as above.
        check(unsafe { nepa_store_set_if_absent(self.0, c_string(key).as_ptr(), value.as_ptr(), value.len()) })
    }

    /// The value of a key of this start.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.look_up(false, key)
    }

    /// The value of a key that outlives a restart.
    pub fn get_lasting(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.look_up(true, key)
    }

    fn look_up(&self, lasting: bool, key: &str) -> Result<Option<Vec<u8>>> {
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
