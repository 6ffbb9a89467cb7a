//! What every module says about tensors and needs of them: dtypes by name, shapes as text, copies, the largest elements.

use crate::error::{Result, bail};
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
    match kind {
        Kind::ComplexFloat => "complex64",
        Kind::ComplexDouble => "complex128",
        _ => Dtype::find(|dtype| dtype.kind == kind).map_or("another dtype", |dtype| dtype.name),
    }
}

/// Whether a tensor holds complex numbers, as Fourier transforms give them.
pub fn is_complex(t: &Tensor) -> bool {
    matches!(t.kind(), Kind::ComplexHalf | Kind::ComplexFloat | Kind::ComplexDouble)
}

/// A tensor in an error message: "[2, 17, 64] float32".
pub fn shape_text(t: &Tensor) -> String {
    format!("{:?} {}", t.size(), dtype_name(t.kind()))
}

/// The number of elements of a tensor that is to be made, if the machine's memory holds them.
pub fn fits_memory(shape: &[i64], kind: Kind) -> Result<usize> {
    let elements = shape.iter().try_fold(1usize, |n, size| n.checked_mul(usize::try_from(*size).ok()?));
    let bytes = elements.and_then(|n| n.checked_mul(kind.elt_size_in_bytes()));
    match (elements, bytes) {
        (Some(n), Some(bytes)) if bytes as u64 <= crate::memory::total() => Ok(n),
        _ => bail!(
            "not enough memory for a tensor {shape:?} {}: the machine has {:.1} GB",
            dtype_name(kind),
            crate::memory::total() as f64 / 1e9
        ),
    }
}

/// A copy in new memory, outside any graph.
pub fn detached_copy(t: &Tensor) -> Result<Tensor> {
    let t = t.f_detach()?;
    let mut copy = t.f_empty_like()?;
    copy.f_copy_(&t)?;
    Ok(copy)
}

/// The `k` largest elements along the last dimension in descending order, and their indices; equal ones in the order of
/// their indices. libtorch's own top-k chooses among equal ones as it likes.
pub fn topk(t: &Tensor, k: i64) -> Result<(Tensor, Tensor)> {
    let n = t.size().last().copied().unwrap_or(1);
    // To sort short rows takes a GPU less than to wait for it, which looking for equal ones does.
    const SHORT: i64 = 4096;
    if t.device().is_cuda() && (k..=SHORT).contains(&n) && t.dim() > 0 {
        let (values, indices) = t.f_sort_stable(true, -1, true)?;
        return Ok((values.f_narrow(-1, 0, k)?, indices.f_narrow(-1, 0, k)?));
    }
    // With one more, if there is one: the last may equal it.
    let (values, indices) = t.f_topk(if 0 < k && k < n { k + 1 } else { k }, -1, true, true)?;
    let count = values.size().last().copied().unwrap_or(1);
    if count < 2 {
        return Ok((values, indices));
    }
    let neighbours = values.f_narrow(-1, 1, count - 1)?.f_eq_tensor(&values.f_narrow(-1, 0, count - 1)?)?;
    let tied = neighbours.f_any_dim(-1, false)?.f_reshape([-1])?.f_nonzero()?.f_squeeze_dim(-1)?;
    let (values, indices) = (values.f_narrow(-1, 0, k)?, indices.f_narrow(-1, 0, k)?);
    if tied.numel() == 0 {
        return Ok((values, indices));
    }
    let sorted = t.f_reshape([-1, n])?.f_index_select(0, &tied)?.f_sort_stable(true, -1, true)?;
    let put = |into: &Tensor, rows: &Tensor| -> Result<Tensor> {
        let filled = into.f_reshape([-1, k])?.f_index_copy(0, &tied, &rows.f_narrow(1, 0, k)?)?;
        Ok(filled.f_reshape(into.size())?)
    };
    Ok((put(&values, &sorted.0)?, put(&indices, &sorted.1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_elements_the_lowest_indices_come_first() {
        // Few values, so that nearly every row has ties at its end; against a stable sort.
        for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
            for (a, b, n) in [(2, 20, 7), (1, 3, 1000), (1, 1, 1)] {
                let values: Vec<i64> = (0..a * b * n).map(|i| (i * 7919 % 104_729) % 5 - 2).collect();
                let t = Tensor::from_slice(&values).to_kind(kind).reshape([a, b, n]);
                for k in [1, 5.min(n), n] {
                    let (found, indices) = topk(&t, k).unwrap();
                    let (sorted, order) = t.sort_stable(true, -1, true);
                    assert_eq!(found, sorted.narrow(-1, 0, k), "{kind:?} {b} {n} {k}");
                    assert_eq!(indices, order.narrow(-1, 0, k), "{kind:?} {b} {n} {k}");
                }
            }
        }
        let (values, indices) = topk(&Tensor::from_slice(&[2.0, f64::NEG_INFINITY, 3.0, 2.0]), 2).unwrap();
        assert_eq!(Vec::<i64>::try_from(indices).unwrap(), [2, 0]);
        assert_eq!(Vec::<f64>::try_from(values).unwrap(), [3.0, 2.0]);
        assert_eq!(topk(&Tensor::from_slice(&[1.0, 1.0]), 0).unwrap().0.numel(), 0);
        assert_eq!(topk(&Tensor::from(5.0), 1).unwrap().1.int64_value(&[]), 0);
        assert!(topk(&Tensor::from_slice(&[1.0, 1.0]), 3).is_err());
    }
}
