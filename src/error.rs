//! Errors that tell the user what to do next.
//!
//! Everything returns [`anyhow::Result`]. An error that carries advice, or that is the fault of a
//! script function's caller, is a [`Diagnostic`]; the script host finds it again in the chain.

use crate::output::err;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::fmt;

pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};

/// What went wrong, what to do about it, and whose line to show.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What went wrong: what was expected, what was found.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Show the line that called the current script function rather than the one inside it: set
    /// if the function's own arguments are at fault.
    pub blame_caller: bool,
    /// The key at fault, where the call was given a map: the caret stands at it.
    pub key: Option<String>,
}

impl Diagnostic {
    /// A message without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, blame_caller: false, key: None }
    }

    /// What any error says, on one line, with the advice in its chain.
    pub fn of(error: &anyhow::Error) -> Self {
        let mut all = error.chain().filter_map(|cause| cause.downcast_ref::<Self>());
        let blame_caller = all.clone().any(|d| d.blame_caller);
        let key = all.find_map(|d| d.key.clone());
        Self { message: one_line(error), hint: hint_of(error), blame_caller, key }
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Shows the error at the caller's line.
    pub fn blame_caller(mut self) -> Self {
        self.blame_caller = true;
        self
    }

    /// Shows the error at this key of a map in the call.
    pub fn at_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_string());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// `bail_hint!("what is wrong with {x}"; "what to do")`
#[macro_export]
macro_rules! bail_hint {
    ($($message:expr),+ ; $($hint:expr),+ $(,)?) => {
        return Err($crate::error::Diagnostic::new(format!($($message),+)).hint(format!($($hint),+)).into())
    };
}

/// The candidate nearest to `name`, if one is near enough to be what was meant: no edit for names of one or two
/// letters, one for up to four, else a third of the letters and one. Operators are not names.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(theirs, ours)| *theirs == name && candidates.contains(ours)) {
        return candidates.into_iter().find(|c| c == ours);
    }
    let lower = name.to_lowercase();
    let allowed = match name.chars().count() {
        0..=2 => return None,
        3..=4 => 1,
        n => 1 + n / 3,
    };
    // Each letter too many or too few is an edit. Of a stranger's file, there may be any number of long names.
    let length = name.len();
    candidates
        .into_iter()
        .take(MOST_CANDIDATES)
        .filter(|c| c.len().abs_diff(length) <= 4 * allowed)
        .filter(|c| *c != name && c.chars().any(char::is_alphanumeric))
        .map(|c| (strsim::damerau_levenshtein(&lower, &c.to_lowercase()), c))
        .filter(|(distance, c)| *distance <= allowed.min(1 + c.chars().count() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// The most names that are compared.
const MOST_CANDIDATES: usize = 20_000;

/// Names that other libraries have for what is called otherwise here.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("amp", "dtype"),
    ("batch_size", "batch"),
    ("bf16", "dtype"),
    ("clip_grad", "clip_grad_norm"),
    ("depth", "num_hidden_layers"),
    ("embed_dim", "hidden_size"),
    ("ema_decay", "ema"),
    ("fp16", "dtype"),
    ("grad_accum", "accumulate"),
    ("grad_clip", "clip_grad_norm"),
    ("gradient_accumulation_steps", "accumulate"),
    ("gradient_checkpointing", "recompute"),
    ("hidden_dim", "hidden_size"),
    ("in_chans", "num_channels"),
    ("layer_decay", "llrd"),
    ("learning_rate", "lr"),
    ("max_epochs", "epochs"),
    ("max_grad_norm", "clip_grad_norm"),
    ("num_classes", "num_labels"),
    ("num_epochs", "epochs"),
    ("num_heads", "num_attention_heads"),
    ("num_workers", "workers"),
    ("smoothing", "label_smoothing"),
];

/// "; did you mean `x`?" or nothing.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map(|c| format!("; did you mean `{c}`?")).unwrap_or_default()
}

/// A whole error chain on one line: "reading x: not found".
pub fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref::<tch::TchError>() {
            Some(e) => torch_message(&e.to_string()),
            None => cause.to_string(),
        };
        // Wrappers often repeat what they wrap.
        if !parts.last().is_some_and(|last| last.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// Whether a disk or a network file system failed, which says nothing about the contents of a file, and may pass.
pub fn is_storage_failure(error: &anyhow::Error) -> bool {
    const PASSING: [i32; 9] = [
        libc::EIO,
        libc::ESTALE,
        libc::ETIMEDOUT,
        libc::EAGAIN,
        libc::EBUSY,
        libc::ENETDOWN,
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::ECONNRESET,
    ];
    let number = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>()?.raw_os_error();
    error.chain().filter_map(number).any(|number| PASSING.contains(&number))
}

/// The advice given anywhere in the chain, or what helps against an error of libtorch's.
pub fn hint_of(error: &anyhow::Error) -> Option<String> {
    let given = error.chain().find_map(|cause| cause.downcast_ref::<Diagnostic>()?.hint.clone());
    given.or_else(|| torch_hint(&one_line(error)).map(String::from))
}

/// Errors after which CUDA refuses all that a process asks of it.
const GPU_LOST: [&str; 8] = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: misaligned address",
    "CUDA error: unspecified launch failure",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: hardware stack error",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unknown error",
];

/// What helps against an error of libtorch's, by its text.
fn torch_hint(message: &str) -> Option<&'static str> {
    if GPU_LOST.iter().any(|lost| message.contains(lost)) {
        return Some(
            "the process has lost its GPU; `nvidia-smi`, and lines with `Xid` in the kernel's log (`dmesg`), may tell \
             why. The same command with its run directory (--out) goes on from the last checkpoint",
        );
    }
    if message.contains("Duplicate GPU detected") {
        return Some("every process needs a GPU of its own: start as many as there are GPUs");
    }
    if message.contains("CUDA out of memory") || message.contains("CUDA error: out of memory") {
        return Some(
            "less memory: fewer images at once (a larger `accumulate`, in the ImageNet recipes a smaller \
             `micro_batch`; `batch` where nothing is trained), recompute: true, dtype: \"bfloat16\". model.cost(#{}) \
             estimates what a step takes",
        );
    }
    message
        .to_lowercase()
        .contains(ONE_DEVICE)
        .then_some("x.to(device()) moves a tensor to the device of the run, x.to(\"cpu\") back")
}

/// How libtorch's errors about tensors on several devices begin, in small letters.
const ONE_DEVICE: &str = "expected all tensors to be on the same device";

/// A convolution whose image and weight are on different devices is told by libtorch as if their types differed.
fn convolution_message(text: &str) -> Option<String> {
    let (input, rest) = text.split_once("Input type (")?.1.split_once(") and weight type (")?;
    let (weight, _) = rest.split_once(')')?;
    // CPUFloatType, CUDAFloatType
    let device = |name: &str| ["CPU", "CUDA"].into_iter().find(|device| name.starts_with(device));
    let (input, weight) = (device(input)?, device(weight)?);
    (input != weight).then(|| format!("{ONE_DEVICE}, found the input on {input} and the weight on {weight}"))
}

/// An error of NCCL's, on one line and without the place in libtorch's source: "NCCL error in: FILE:LINE, what, version",
/// its name with an explanation, "Last error:", and what NCCL has to say.
fn nccl_message(text: &str) -> Option<String> {
    let (_place, rest) = text.strip_prefix("NCCL error in: ")?.split_once(", ")?;
    let lines: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Some(format!("NCCL error: {}", lines.join("; ").replace("Last error:; ", "")))
}

/// What libtorch's error is about, by the type of its C++ exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorchFaultKind {
    /// Any other error.
    Other,
    /// An exchange with other processes failed: Gloo, NCCL or the store.
    Distributed,
}

/// An error of libtorch's, from the C++ shim or from a panic of tch.
#[derive(Debug)]
pub struct TorchFault {
    /// What it is about.
    pub kind: TorchFaultKind,
    message: String,
}

impl TorchFault {
    /// An error with libtorch's text, which loses its C++ stack.
    pub fn new(kind: TorchFaultKind, text: &str) -> Self {
        Self { kind, message: torch_message(text) }
    }
}

impl fmt::Display for TorchFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TorchFault {}

thread_local! {
    /// How many calls that catch panics are active on this thread: their panics are not printed.
    static CATCHING: Cell<usize> = const { Cell::new(0) };
}

/// Runs `body`; a panic in it becomes an error.
pub fn catch_panic<R>(body: impl FnOnce() -> Result<R>) -> Result<R> {
    caught(body).unwrap_or_else(|text| match torch_panic(&text) {
        Some(fault) => Err(fault.into()),
        None => Err(Diagnostic::new(format!("internal fault: {text}"))
            .hint("this is a bug in nepa, not in your recipe; please report it")
            .into()),
    })
}

/// Runs a reader of bytes from elsewhere. A panic in it, as of a parser of another project that meets damage which it
/// does not expect, becomes an error about `what` is read.
pub fn catch_damage<R>(what: impl fmt::Display, body: impl FnOnce() -> Result<R>) -> Result<R> {
    caught(body).unwrap_or_else(|text| {
        let message = format!("{what} is damaged in a way that its reader does not expect ({text})");
        Err(Diagnostic::new(message).hint("fetch or write it again").into())
    })
}

/// The result of `body`, or the text of its panic, which is not printed.
fn caught<R>(body: impl FnOnce() -> R) -> std::result::Result<R, String> {
    CATCHING.set(CATCHING.get() + 1);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    CATCHING.set(CATCHING.get() - 1);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
    })
}

/// The error of libtorch's that a panic of tch is about: its functions without `f_`, such as operators between tensors,
/// unwrap. The panic carries nothing but `Torch("…")` in Rust's notation of strings, so its text must tell.
fn torch_panic(text: &str) -> Option<TorchFault> {
    let (_, message) = text.split_once("Torch(\"")?;
    let message = message.split("\\nException raised").next().unwrap_or(message);
    Some(TorchFault::new(TorchFaultKind::Other, &message.replace("\\n", "\n").replace("\\\"", "\"")))
}

thread_local! {
    /// What the last panic on this thread that nothing caught said.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The last panic on this thread that no [`catch_panic`] caught, as the hook has printed it.
pub fn last_panic() -> Option<String> {
    LAST_PANIC.take()
}

/// Prints panics that nothing catches as bugs in nepa.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        if CATCHING.get() > 0 {
            return;
        }
        let location = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        let message = format!("internal fault{location}: {message}");
        err!("error: {message}\nhint: this is a bug in nepa, not in your recipe; please report it");
        LAST_PANIC.set(Some(message));
    }));
}

/// libtorch's message without its C++ stack and without the wrapper's prefix.
pub fn torch_message(text: &str) -> String {
    let text = text.split("\nException raised from").next().unwrap_or(text);
    let text = text.split("\nException at").next().unwrap_or(text);
    let text = text.split("\nframe #0").next().unwrap_or(text);
    let text = text.trim();
    let prefixes = ["Internal torch error: ", "torch error: "];
    let text = prefixes.iter().find_map(|p| text.strip_prefix(p)).unwrap_or(text).trim();
    let text = text.split_once("watchdog thread terminated with exception: ").map_or(text, |(_, cause)| cause);
    if let Some(message) = nccl_message(text) {
        return message;
    }
    // CUDA's goes on with where to read about it and how to debug a kernel.
    if let Some((message, _)) = text.split_once('\n').filter(|_| text.starts_with("CUDA error: ")) {
        return message.to_string();
    }
    if let Some(message) = convolution_message(text) {
        return message;
    }
    // "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: …"
    match text.strip_prefix("[enforce fail at").and_then(|t| t.split_once(". ")) {
        Some((_, meaning)) => meaning.to_string(),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typos_and_refuses_strangers() {
        let names = ["depth", "hidden_size", "num_attention_heads"];
        assert_eq!(nearest("dpeth", names), Some("depth"));
        assert_eq!(nearest("hidden_sise", names), Some("hidden_size"));
        assert_eq!(nearest("learning_rate", names), None);
        assert_eq!(nearest("learning_rate", ["lr", "warmup"]), Some("lr"));
        assert_eq!(nearest("num_heads", ["num_labels", "num_attention_heads"]), Some("num_attention_heads"));
    }

    #[test]
    fn torch_messages_lose_their_cxx_stack() {
        let text = "Internal torch error: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)\n\
                    Exception raised from meta at Linear.cpp:199 (most recent call first):\nframe #0";
        assert_eq!(torch_message(text), "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)");
    }

    #[test]
    fn errors_of_cuda_and_nccl_are_one_line() {
        let lost = "CUDA error: an illegal memory access was encountered";
        let text = format!("{lost}\nSearch for `cudaErrorIllegalAddress' in …\nException raised from x at y.cpp:1");
        assert_eq!(torch_message(&text), lost);
        let watchdog = format!("[PG ID 0 Rank 1] Process group watchdog thread terminated with exception: {text}");
        assert_eq!(torch_message(&watchdog), lost);
        let text = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, invalid usage, NCCL version \
                    2.28.9\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n\
                    Duplicate GPU detected";
        let line = "NCCL error: invalid usage, NCCL version 2.28.9; ncclInvalidUsage: This usually reflects invalid \
                    usage of NCCL library.; Duplicate GPU detected";
        assert_eq!(torch_message(text), line);
    }

    #[test]
    fn a_convolution_over_two_devices_names_them() {
        let text = |input, weight| {
            format!(
                "Input type ({input}) and weight type ({weight}) should be the same or input should be a MKLDNN tensor \
                 and weight is a dense tensor"
            )
        };
        assert_eq!(
            torch_message(&text("CPUFloatType", "CUDAFloatType")),
            "expected all tensors to be on the same device, found the input on CPU and the weight on CUDA"
        );
        let types = text("CPUFloatType", "CPUBFloat16Type");
        assert_eq!(torch_message(&types), types);
    }
}
