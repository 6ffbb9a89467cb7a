//! Whether loss and gradients of a step are finite, found out without waiting for a GPU.

use crate::error::{Result, ensure};
use crate::ffi::ReadBack;
use std::cell::Cell;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A check of a number for NaN and infinity. Updates that are given the check leave everything as it is where the number
/// is not finite. On a CPU the outcome is known at once; on a GPU the device decides, and the host hears of it later.
#[derive(Clone, Debug)]
pub struct FiniteCheck(Rc<State>);

#[derive(Debug)]
struct State {
    /// Unless the outcome was known from the beginning.
    under_way: Option<UnderWay>,
    outcome: Cell<Option<bool>>,
}

#[derive(Debug)]
struct UnderWay {
    on_device: OnDevice,
    read_back: ReadBack,
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
        let is_finite = number.f_sub(&number)?.f_eq(0.0)?;
        if !number.device().is_cuda() {
            let outcome = Cell::new(Some(is_finite.f_int64_value(&[])? == 1));
            return Ok(Self(Rc::new(State { under_way: None, outcome })));
        }
        let is_finite = is_finite.f_to_kind(Kind::Float)?;
        let read_back = ReadBack::begin(&is_finite)?;
        let found_inf = is_finite.f_rsub_scalar(1.0)?;
        let under_way = Some(UnderWay { on_device: OnDevice { found_inf, is_finite }, read_back });
        Ok(Self(Rc::new(State { under_way, outcome: Cell::new(None) })))
    }

    /// Whether the host has heard of the outcome.
    pub fn is_known(&self) -> Result<bool> {
        match &self.0.under_way {
            Some(under_way) if self.0.outcome.get().is_none() => under_way.read_back.has_arrived(),
            _ => Ok(true),
        }
    }

    /// Whether the number is finite. Waits for the device if it must.
    pub fn is_finite(&self) -> Result<bool> {
        match (self.0.outcome.get(), &self.0.under_way) {
            (Some(outcome), _) => Ok(outcome),
            (None, Some(under_way)) => {
                let outcome = under_way.read_back.wait()?.f_double_value(&[])? == 1.0;
                self.0.outcome.set(Some(outcome));
                Ok(outcome)
            }
            (None, None) => unreachable!("known from the beginning"),
        }
    }

    /// The outcome for the device's own use; nothing on a CPU.
    pub fn on_device(&self) -> Option<&OnDevice> {
        self.0.under_way.as_ref().map(|under_way| &under_way.on_device)
    }
}
