//! Whether loss and gradients of a step are finite, found out without waiting for a GPU.

use crate::error::{Result, ensure};
use crate::ffi::ReadBack;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A check of a number for NaN and infinity. Updates that are given the check leave everything as it is where the number
/// is not finite. On a CPU the outcome is known at once; on a GPU the device decides, and the host hears of it later.
#[derive(Clone, Debug)]
pub struct FiniteCheck(Rc<State>);

#[derive(Debug)]
struct State {
    /// A bool for the host.
    is_finite: ReadBack,
    on_device: Option<OnDevice>,
}

/// The outcome as float32 scalars on the device.
#[derive(Debug)]
pub struct OnDevice {
    /// 1 if the number is NaN or infinite, else 0, as PyTorch's GradScaler has it.
    pub found_inf: Tensor,
    /// 1 if the number is finite, else 0.
    pub is_finite: Tensor,
}

impl FiniteCheck {
    /// Checks a tensor of one number.
    pub fn of(number: &Tensor) -> Result<Self> {
        ensure!(number.numel() == 1, "check_finite: expected one number, found a tensor of shape {:?}", number.size());
        let number = number.f_detach()?.f_reshape([0i64; 0])?;
        // Infinity minus itself is NaN, which is not 0.
        let outcome = number.f_sub(&number)?.f_eq(0.0)?;
        let is_finite = ReadBack::begin(&outcome)?;
        let for_device = || -> Result<OnDevice> {
            let is_finite = outcome.f_to_kind(Kind::Float)?;
            Ok(OnDevice { found_inf: is_finite.f_rsub_scalar(1.0)?, is_finite })
        };
        let on_device = number.device().is_cuda().then(for_device).transpose()?;
        Ok(Self(Rc::new(State { is_finite, on_device })))
    }

    /// Whether the number is finite. Waits for the device if it must.
    pub fn is_finite(&self) -> Result<bool> {
        Ok(self.0.is_finite.wait()?.f_int64_value(&[])? == 1)
    }

    /// The outcome for the device's own use; nothing on a CPU.
    pub fn on_device(&self) -> Option<&OnDevice> {
        self.0.on_device.as_ref()
    }
}
