//! Values on their way from the device.

use crate::error::Result;
use crate::ffi;
use crate::script::types::handles;
use crate::script::values::{self, Tensor};
use nepa_macros::functions;
use rhai::Dynamic;
use std::rc::Rc;

pub use functions::register;

/// What `read_back` gives.
#[derive(Clone)]
pub struct ReadBack(Rc<ffi::ReadBack>);

impl ReadBack {
    pub fn begin(t: &Tensor) -> Result<Self> {
        Ok(Self(Rc::new(ffi::ReadBack::begin(t)?)))
    }
}

handles! { "ReadBack": ReadBack; }

#[functions]
mod functions {
    use super::*;

    /// Whether the values are there; always on a CPU.
    ///
    /// Example: `if device() == "cpu" { ones([2]).read_back().has_arrived } else { true }`
    #[script(get)]
    pub fn has_arrived(values: &ReadBack) -> Result<bool> {
        values.0.has_arrived()
    }

    /// The one value as a float, an int or a bool. Waits for a GPU if it must.
    ///
    /// Example: `tensor([3]).sum().read_back().item() == 3`
    pub fn item(values: &ReadBack) -> Result<Dynamic> {
        values::item(&values.0.wait()?)
    }

    /// The values as a tensor on the CPU. Waits for a GPU if it must.
    ///
    /// Example: `ones([2]).read_back().tensor().to_array() == [1.0, 1.0]`
    pub fn tensor(values: &ReadBack) -> Result<tch::Tensor> {
        values.0.wait()
    }

    /// Whether the values are there, as text.
    pub fn to_string(values: &ReadBack) -> Result<String> {
        Ok(if values.0.has_arrived()? { "values that are there" } else { "values on their way" }.into())
    }
}
