//! Autocast: inside a scope, matrix products and convolutions cast their inputs to a narrower type.

use super::check;
use crate::device;
use crate::error::{Result, bail};
use crate::tensor::dtype_name;
use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use tch::{Device, Kind};

#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    enabled: bool,
    cache: bool,
    dtype: c_int,
}

/// libtorch's number of a bfloat16 (c10/core/ScalarType.h).
const BFLOAT16: c_int = 15;

unsafe extern "C" {
    safe fn nepa_autocast_get(cuda: bool, state: &mut State);
    safe fn nepa_autocast_set(cuda: bool, state: State);
    safe fn nepa_allow_tf32(allow: bool) -> *mut c_char;
}

fn on_cuda() -> bool {
    matches!(device::current(), Device::Cuda(_))
}

fn state() -> State {
    let mut state = State { enabled: false, cache: false, dtype: BFLOAT16 };
    nepa_autocast_get(on_cuda(), &mut state);
    state
}

/// A scope of this thread in which autocast is set for the run's device; the end of it puts back what was before.
///
/// Casts of weights are not kept. libtorch could, until the outermost scope ends, but then a step of the optimizer
/// inside of it would go unnoticed, and a weight that was first used under `no_grad` would get no gradient. A weight is
/// used once in a forward pass, so there is nothing to gain.
pub struct Autocast {
    before: State,
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
        nepa_autocast_set(on_cuda(), State { enabled, cache: false, dtype: BFLOAT16 });
        Ok(Self { before, _not_send: PhantomData })
    }

    /// The type that matrix products have in the present scope.
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
