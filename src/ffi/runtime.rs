//! libtorch as it is loaded (`runtime.cpp`).

use super::{Fault, check};
use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

unsafe extern "C" {
    fn nepa_torch_folder() -> *mut c_char;
    safe fn nepa_set_cuda_device(index: c_int) -> *mut Fault;
    safe fn nepa_open_cuda(found: &mut bool) -> *mut Fault;
    safe fn nepa_on_uncaught(report: extern "C" fn(*mut Fault));
}

/// What is told of libtorch's errors that nothing can catch.
static ON_UNCAUGHT: OnceLock<fn(Error) -> !> = OnceLock::new();

/// Tells `report` of an error of libtorch's that nothing can catch, in whichever thread it happens: in a destructor, or
/// in a thread of NCCL's. C++ would end the process with a signal.
pub fn on_uncaught(report: fn(Error) -> !) {
    extern "C" fn uncaught(fault: *mut Fault) {
        if let (Err(error), Some(report)) = (check(fault), ON_UNCAUGHT.get()) {
            report(error);
        }
    }
    let _ = ON_UNCAUGHT.set(report);
    nepa_on_uncaught(uncaught);
}

/// Opens `libtorch_cuda.so` beside the loaded libtorch; true when there was one. To be called
/// before anything asks libtorch about CUDA, since the answer is cached.
pub fn open_cuda() -> Result<bool> {
    let mut found = false;
    check(nepa_open_cuda(&mut found))?;
    Ok(found)
}

/// Makes a GPU that of this thread, for operations that do not name one.
pub fn set_cuda_device(index: usize) -> Result<()> {
    check(nepa_set_cuda_device(index as c_int))
}

/// The folder that libtorch was loaded from.
pub fn torch_folder() -> Option<PathBuf> {
    // SAFETY: null or a string from strdup, owned by us.
    let folder = unsafe { nepa_torch_folder() };
    if folder.is_null() {
        return None;
    }
    // SAFETY: a live string, freed once.
    let path = unsafe { CStr::from_ptr(folder).to_string_lossy().into_owned() };
    unsafe { libc::free(folder.cast()) };
    Some(path.into())
}

/// Ends the process without running destructors and exit handlers: those of libtorch take a tenth of a second, and clash
/// with threads that are still running, such as c10d's, which may wait for dead processes.
pub fn exit(code: u8) -> ! {
    let _ = std::io::Write::flush(&mut std::io::stdout());
    unsafe extern "C" {
        #[cfg_attr(not(target_os = "linux"), link_name = "_exit")]
        safe fn quick_exit(code: c_int) -> !;
    }
    quick_exit(code.into())
}
