//! What a script that builds a model may call: the model may come from a stranger's folder, and must be built alike
//! anywhere. So it reads and writes nothing, and knows nothing of a run.

use crate::bail_hint;
use crate::error::Result;
use std::cell::Cell;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Namespaces that read, write, or belong to a run.
const CLOSED: [&str; 7] = ["checkpoint::", "data::", "dist::", "optim::", "plot::", "run::", "nn::build"];
/// And such functions without a namespace.
const CLOSED_FUNCTIONS: [&str; 8] =
    ["param", "read_json", "seed", "rng_state", "allow_tf32", "matmul_rate", "gpu_memory", "device_count"];

/// Calls `body`, in which a model's script has only what models are made of.
pub fn enter<R>(body: impl FnOnce() -> R) -> R {
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    DEPTH.set(DEPTH.get() + 1);
    let _inside = Inside;
    body()
}

/// Whether a model's script is being called.
pub fn is_inside() -> bool {
    DEPTH.get() > 0
}

/// Refuses a function, by its full name, that a model's script may not call.
pub fn check(function: &str) -> Result<()> {
    if is_inside() && (CLOSED.iter().any(|closed| function.starts_with(closed)) || CLOSED_FUNCTIONS.contains(&function))
    {
        bail_hint!(
            "{function} cannot be called by a script that builds a model";
            "it can use tensors, nn and loss: the model must be built alike anywhere, so hand what it needs on in the \
             configuration"
        );
    }
    Ok(())
}
