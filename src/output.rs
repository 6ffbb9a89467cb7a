//! Words for people, on stdout and stderr. Where they cannot be written (a closed pipe or terminal, a full disk), they
//! are lost, and nothing else is: no run fails for want of a reader. What would steer a terminal is shown as an escape.

use crate::text::visible;
use std::io::{Error, ErrorKind, Result, Write};
use std::sync::atomic::{AtomicI32, Ordering};

/// The system's number of the last error of writing to stdout, but for a reader that has gone; 0 means none.
static FAILED: AtomicI32 = AtomicI32::new(0);

/// Writes text to stdout.
pub fn to_stdout(text: &str) {
    if let Err(error) = write(std::io::stdout().lock(), text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        FAILED.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Relaxed);
    }
}

/// Writes text to stderr.
pub fn to_stderr(text: &str) {
    let _ = write(std::io::stderr().lock(), text);
}

/// Writes the text at once, so that the lines of several processes do not mix.
fn write(mut to: impl Write, text: &str) -> Result<()> {
    to.write_all(visible(text).as_bytes())?;
    to.flush()
}

/// An error if something could not be written to stdout, for commands whose answer it is. A reader that has gone, as
/// `head` does, has read what it wanted.
pub fn answered() -> Result<()> {
    match FAILED.load(Ordering::Relaxed) {
        0 => Ok(()),
        code => Err(Error::from_raw_os_error(code)),
    }
}

/// Prints a line to stdout.
macro_rules! out {
    () => { $crate::output::to_stdout("\n") };
    ($($text:tt)*) => { $crate::output::to_stdout(&(format!($($text)*) + "\n")) };
}

/// Prints a line to stderr.
macro_rules! err {
    ($($text:tt)*) => { $crate::output::to_stderr(&(format!($($text)*) + "\n")) };
}

pub(crate) use {err, out};
