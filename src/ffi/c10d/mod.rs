//! c10d, PyTorch's engine for processes that train together: its store, its process group, its reducer.

mod process_group;
mod reducer;
mod store;

pub use process_group::{ProcessGroup, ReduceOp, Work};
pub use reducer::Reducer;
pub use store::{Store, StoreAddress};

use std::ffi::CString;
use tch::Tensor;
use torch_sys::C_tensor;

/// Declares the C++ objects that Rust holds by pointer and never looks into.
macro_rules! opaque {
    ($($name:ident),+) => {$(
        #[repr(C)]
        pub(super) struct $name {
            _opaque: [u8; 0],
        }
    )+};
}
use opaque;

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).expect("no zero byte is left")
}

fn raw(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr() as *mut C_tensor
}
