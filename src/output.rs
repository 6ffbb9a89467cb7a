//! Words for people, on stdout and stderr. Where they cannot be written (a closed pipe or terminal, a full disk), they
//! are lost, and nothing else is: no run fails for want of a reader. What would steer a terminal is shown as an escape.

use crate::text::visible;
use std::io::Write;

/// Writes text to stdout.
pub fn to_stdout(text: &str) {
    write(std::io::stdout().lock(), text);
}

/// Writes text to stderr.
pub fn to_stderr(text: &str) {
    write(std::io::stderr().lock(), text);
}

/// Writes the text at once, so that the lines of several processes do not mix.
fn write(mut to: impl Write, text: &str) {
    let _ = to.write_all(visible(text).as_bytes()).and_then(|()| to.flush());
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
