//! Autocast (`autocast.cpp`): inside a scope, matrix products and convolutions cast their inputs to a narrower type.

use super::{Fault, check};
use crate::device;
use crate::error::{Result, bail};
use crate::tensor::dtype_name;
use std::ffi::c_int;
use std::marker::PhantomData;
use tch::{Device, Kind};

#[repr(C)]
#[derive(Clone, Copy)]
struct AutocastState {
    enabled: bool,
    cache: bool,
    dtype: c_int,
}

/// libtorch's number of a bfloat16 (c10/core/ScalarType.h).
const BFLOAT16: c_int = 15;

unsafe extern "C" {
    safe fn nepa_autocast_get(cuda: bool, state: &mut AutocastState);
    safe fn nepa_autocast_set(cuda: bool, state: AutocastState);
    safe fn nepa_allow_tf32(allow: bool) -> *mut Fault;
}

fn on_cuda() -> bool {
    matches!(device::current(), Device::Cuda(_))
}

fn state() -> AutocastState {
    let mut state = AutocastState { enabled: false, cache: false, dtype: BFLOAT16 };
    nepa_autocast_get(on_cuda(), &mut state);
    state
}

/// A scope of this thread with its own autocast setting for the run's device; its end restores the setting before.
///
/// Casts of weights are not cached. libtorch can cache them until the outermost scope ends, but then a step of the
/// optimizer inside it would go unnoticed, and a weight that was first used under `no_grad` would get no gradient. A
/// forward pass uses each weight once, so nothing is lost.
pub struct Autocast {
    before: AutocastState,
    // The state belongs to the thread.
    _not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// Casts to bfloat16, or (float32) not at all.
    pub fn enter(kind: Kind) -> Result<Self> {
        let enabled = match kind {
            Kind::Float => false,
            Kind::BFloat16 => true,
            other => bail!("autocast expects bfloat16 or float32, found {}", dtype_name(other)),
        };
        let before = state();
        nepa_autocast_set(on_cuda(), AutocastState { enabled, cache: false, dtype: BFLOAT16 });
        Ok(Self { before, _not_send: PhantomData })
    }

    /// The dtype of matrix products in the present scope.
    pub fn current() -> Kind {
        if state().enabled { Kind::BFloat16 } else { Kind::Float }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        nepa_autocast_set(on_cuda(), self.before);
    }
}

/// Whether float32 matrix products and convolutions on CUDA may round their inputs to TF32 (10 bits of mantissa).
pub fn allow_tf32(allow: bool) -> Result<()> {
    check(nepa_allow_tf32(allow))
}
