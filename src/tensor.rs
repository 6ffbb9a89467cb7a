//! What every module says about tensors: dtypes by name, shapes as text, copies.

use crate::error::Result;
use safetensors::Dtype as Safetensors;
use tch::{Kind, Tensor};

/// A dtype, by all the names that it goes by.
pub struct Dtype {
    /// tch's.
    pub kind: Kind,
    /// PyTorch's, as in `torch.float32`.
    pub name: &'static str,
    /// That of a safetensors file.
    pub safetensors: Safetensors,
    /// PyTorch's typed storage in a pickle, `FloatStorage` without "Storage".
    pub storage: &'static str,
}

/// Every dtype that tensors have here.
pub static DTYPES: [Dtype; 10] = [
    dtype(Kind::Float, "float32", Safetensors::F32, "Float"),
    dtype(Kind::Double, "float64", Safetensors::F64, "Double"),
    dtype(Kind::Half, "float16", Safetensors::F16, "Half"),
    dtype(Kind::BFloat16, "bfloat16", Safetensors::BF16, "BFloat16"),
    dtype(Kind::Int64, "int64", Safetensors::I64, "Long"),
    dtype(Kind::Int, "int32", Safetensors::I32, "Int"),
    dtype(Kind::Int16, "int16", Safetensors::I16, "Short"),
    dtype(Kind::Int8, "int8", Safetensors::I8, "Char"),
    dtype(Kind::Uint8, "uint8", Safetensors::U8, "Byte"),
    dtype(Kind::Bool, "bool", Safetensors::BOOL, "Bool"),
];

const fn dtype(kind: Kind, name: &'static str, safetensors: Safetensors, storage: &'static str) -> Dtype {
    Dtype { kind, name, safetensors, storage }
}

impl Dtype {
    /// The first dtype that fits, for example `Dtype::find(|d| d.name == "float32")`.
    pub fn find(fits: impl Fn(&Dtype) -> bool) -> Option<&'static Self> {
        DTYPES.iter().find(|dtype| fits(dtype))
    }
}

/// PyTorch's name of a dtype.
pub fn dtype_name(kind: Kind) -> &'static str {
    Dtype::find(|dtype| dtype.kind == kind).map_or("another dtype", |dtype| dtype.name)
}

/// A tensor in an error message: "[2, 17, 64] float32".
pub fn shape_text(t: &Tensor) -> String {
    format!("{:?} {}", t.size(), dtype_name(t.kind()))
}

/// A copy in new memory, outside any graph.
pub fn detached_copy(t: &Tensor) -> Result<Tensor> {
    let t = t.f_detach()?;
    let mut copy = t.f_empty_like()?;
    copy.f_copy_(&t)?;
    Ok(copy)
}
