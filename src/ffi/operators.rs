//! libtorch's operators by their names, for those that take numbers which tch does not pass on (`operators.cpp`).

use super::{Fault, check};
use crate::error::Result;
use std::ffi::{CString, c_char, c_int};
use tch::Tensor;
use torch_sys::C_tensor;

/// What an operator takes.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// A tensor.
    Tensor(&'a Tensor),
    /// An int, or a number that is one.
    Int(i64),
    /// A float, or a number that is one.
    Float(f64),
    /// A bool, or a number that is one.
    Bool(bool),
    /// A string.
    Text(&'a str),
}

#[repr(C)]
struct RawArgument {
    kind: c_int,
    tensor: *mut C_tensor,
    whole: i64,
    number: f64,
    text: *const c_char,
}

unsafe extern "C" {
    fn nepa_call_operator(
        name: *const c_char,
        overload: *const c_char,
        arguments: *const RawArgument,
        count: usize,
        output: *mut *mut C_tensor,
    ) -> *mut Fault;
}

/// Calls an operator that gives one tensor, by its name and overload in libtorch's native_functions.yaml, with all of its
/// arguments, those with defaults too. A number in a tensor's place takes part with its whole precision, as in PyTorch.
pub fn operator(name: &str, overload: &str, arguments: &[Argument<'_>]) -> Result<Tensor> {
    let (name, overload) = (CString::new(format!("aten::{name}"))?, CString::new(overload)?);
    let texts = arguments.iter().map(|argument| match argument {
        Argument::Text(text) => CString::new(*text),
        _ => Ok(CString::default()),
    });
    let texts = texts.collect::<std::result::Result<Vec<_>, _>>()?;
    let raw = |(argument, text): (&Argument<'_>, &CString)| {
        let none = RawArgument { kind: 0, tensor: std::ptr::null_mut(), whole: 0, number: 0.0, text: std::ptr::null() };
        match *argument {
            Argument::Tensor(t) => RawArgument { tensor: t.as_ptr() as *mut C_tensor, ..none },
            Argument::Int(whole) => RawArgument { kind: 1, whole, ..none },
            Argument::Float(number) => RawArgument { kind: 2, number, ..none },
            Argument::Bool(truth) => RawArgument { kind: 3, whole: truth.into(), ..none },
            Argument::Text(_) => RawArgument { kind: 4, text: text.as_ptr(), ..none },
        }
    };
    let raw: Vec<RawArgument> = arguments.iter().zip(&texts).map(raw).collect();
    let mut output = std::ptr::null_mut();
    // SAFETY: strings that end with a zero byte and live handles, which outlive the call.
    check(unsafe { nepa_call_operator(name.as_ptr(), overload.as_ptr(), raw.as_ptr(), raw.len(), &mut output) })?;
    // SAFETY: on success a new tensor that we own.
    Ok(unsafe { Tensor::from_ptr(output) })
}
