//! What has to happen before the libraries that nepa is linked with are initialised, which takes libtorch a quarter of a
//! second.

use std::ffi::{CStr, c_char, c_int};

/// Environment variables that a process starts with, beyond which it is left as it is.
const MOST: usize = 4096;

/// Ignores SIGUSR1, until a run listens for it. Programs that this one starts ignore it too.
pub fn ignore_save_requests() {
    // SAFETY: a plain system call.
    unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
}

/// Called by the loader as a function of `.preinit_array`, when libraries are in place but none is initialised.
///
/// SIGUSR1 asks a run for a checkpoint, and would end a process that does not listen for it yet: it is ignored until then.
///
/// libtorch's OpenMP threads wait for each other by spinning, long enough that two busy processes on one machine slow
/// each other down many times over. libgomp reads how long when it is initialised, and there is no other way to tell it:
/// so `nepa run` starts itself once more with a shorter spin, unless the user has chosen one. With 5,000 rounds a small
/// model's step takes 40 ms instead of 41 to 59 with 1,000, and 38 with libgomp's own 300,000; where three such processes
/// share two cores, 150 ms, 120 and 320.
///
/// # Safety
/// The arguments must be those of a process: a counted list and one that ends with a null pointer.
pub unsafe extern "C" fn before_main(count: c_int, args: *const *const c_char, env: *const *const c_char) {
    ignore_save_requests();
    // SAFETY: by the caller's promise; each word ends with a zero.
    let word = |list: *const *const c_char, i: usize| unsafe {
        let word = *list.add(i);
        (!word.is_null()).then(|| CStr::from_ptr(word))
    };
    if !(1..count as usize).any(|i| word(args, i) == Some(c"run")) {
        return;
    }
    let mut longer = [std::ptr::null(); MOST + 2];
    let mut n = 0;
    while let Some(variable) = word(env, n) {
        let has_chosen = [c"GOMP_SPINCOUNT=", c"OMP_WAIT_POLICY="];
        if n == MOST || has_chosen.iter().any(|name| variable.to_bytes().starts_with(name.to_bytes())) {
            return;
        }
        longer[n] = variable.as_ptr();
        n += 1;
    }
    longer[n] = c"GOMP_SPINCOUNT=5000".as_ptr();
    let mut path = [0u8; libc::PATH_MAX as usize + 1];
    // SAFETY: the buffer is one byte longer than what is written, and so ends with a zero. execve returns only if it
    // fails; then the process goes on without.
    unsafe {
        if libc::readlink(c"/proc/self/exe".as_ptr(), path.as_mut_ptr().cast(), path.len() - 1) > 0 {
            libc::execve(path.as_ptr().cast(), args, longer.as_ptr());
        }
    }
}
