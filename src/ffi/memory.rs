//! A limit on the memory of tensors (`memory.cpp`).

use super::{Fault, check};
use crate::error::Result;

unsafe extern "C" {
    safe fn nepa_limit_memory(bytes: u64) -> *mut Fault;
}

/// Makes a tensor of more bytes, on the CPU, an error from now on.
pub fn limit_memory(bytes: u64) -> Result<()> {
    check(nepa_limit_memory(bytes))
}
