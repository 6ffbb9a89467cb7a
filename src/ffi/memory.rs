//! The memory of tensors (`memory.cpp`).

use super::{Fault, check};
use crate::error::Result;
use std::ffi::c_int;

unsafe extern "C" {
    safe fn nepa_set_cpu_allocator(machine: u64) -> *mut Fault;
    safe fn nepa_gpu_memory(index: c_int, numbers: &mut [u64; 4]) -> *mut Fault;
}

/// Brings in the allocator of tensors on the CPU. One of more bytes than the machine has is an error from now on.
pub fn set_cpu_allocator(machine: u64) -> Result<()> {
    check(nepa_set_cpu_allocator(machine))
}

/// The memory of a GPU, in bytes.
pub struct GpuMemory {
    /// The most that tensors have taken at once.
    pub allocated: u64,
    /// The most that libtorch has taken from the driver, of which it keeps what tensors do not need.
    pub reserved: u64,
    /// What is free now, for any process.
    pub free: u64,
    /// All.
    pub total: u64,
}

/// The memory of a GPU that this process uses.
pub fn gpu_memory(index: usize) -> Result<GpuMemory> {
    let mut numbers = [0; 4];
    check(nepa_gpu_memory(index as c_int, &mut numbers))?;
    let [allocated, reserved, free, total] = numbers;
    Ok(GpuMemory { allocated, reserved, free, total })
}
