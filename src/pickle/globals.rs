//! The names of Python that a pickle may mention.

use crate::bail_hint;
use crate::error::Result;
use crate::tensor::Dtype;
use tch::Kind;

/// What is known by name.
#[derive(Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    Tensor,
    Parameter,
    Size,
    Storage(Kind),
    /// `numpy.dtype`.
    Dtype,
    /// `numpy.ndarray`.
    NdArray,
    /// What makes an empty array, which is then given its state.
    EmptyArray,
    /// A call gives an object that no tensor needs.
    Opaque,
}

/// What a pickle is read for, which says what names it may mention.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Tensors,
    Arrays,
}

impl Purpose {
    /// What to do about a pickle that holds more.
    pub fn advice(self) -> &'static str {
        match self {
            Purpose::Tensors => {
                "only tensors, numbers, text, dictionaries and lists are read, and no code is run; in Python, save the \
                 weights alone: torch.save(model.state_dict(), path)"
            }
            Purpose::Arrays => {
                "only numpy's arrays, numbers, text, dictionaries and lists are read, and no code is run"
            }
        }
    }

    /// What a name stands for; an error for one that is not read.
    pub fn global(self, module: &str, name: &str) -> Result<Global> {
        let found = match self {
            Purpose::Tensors => of_tensors(module, name)?,
            Purpose::Arrays => of_arrays(module, name),
        };
        let Some(global) = found else {
            // In a damaged file it may be anything.
            let name: String = format!("{module}.{name}").escape_debug().take(100).collect();
            bail_hint!("it holds {name}, which is not read"; "{}", self.advice())
        };
        Ok(global)
    }
}

/// The names of numpy, before and since version 2.
fn of_arrays(module: &str, name: &str) -> Option<Global> {
    match (module, name) {
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Some(Global::EmptyArray),
        ("numpy", "ndarray") => Some(Global::NdArray),
        ("numpy", "dtype") => Some(Global::Dtype),
        _ => None,
    }
}

/// The names of PyTorch.
fn of_tensors(module: &str, name: &str) -> Result<Option<Global>> {
    Ok(Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::Parameter,
        ("torch", "Size") => Global::Size,
        ("torch", "device") | ("_codecs", "encode") | ("builtins" | "__builtin__", "set" | "frozenset") => {
            Global::Opaque
        }
        ("torch", storage) if storage.ends_with("Storage") => match storage_kind(storage) {
            Some(kind) => Global::Storage(kind),
            None => bail_hint!(
                "it holds a torch.{storage}, of a dtype that is not supported";
                "save its tensors as float32, bfloat16, float16 or an integer type"
            ),
        },
        ("torch._utils", "_rebuild_tensor_v3") => bail_hint!(
            "it holds a tensor of a dtype that is not supported, such as float8 or uint16";
            "save its tensors as float32, bfloat16, float16 or an integer type"
        ),
        ("torch", dtype) if is_dtype(dtype) => Global::Opaque,
        _ => return Ok(None),
    }))
}

fn storage_kind(name: &str) -> Option<Kind> {
    let name = name.strip_suffix("Storage")?;
    Dtype::find(|dtype| dtype.storage == name).map(|dtype| dtype.kind)
}

/// `torch.float32` and the like, which configurations beside the weights name.
fn is_dtype(name: &str) -> bool {
    let bits = ["bfloat", "float", "uint", "int", "complex"].iter().find_map(|kind| name.strip_prefix(kind));
    name == "bool" || bits.is_some_and(|bits| bits.starts_with(|c: char| c.is_ascii_digit()))
}
