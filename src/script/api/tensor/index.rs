//! What stands in brackets: rows, ranges, several dimensions, tensors of indices.

use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use crate::script::values::{Tensor, found};
use crate::tensor::shape_text;
use nepa_macros::functions;
use rhai::Array;
use std::ops::{Range, RangeInclusive};
use tch::Kind;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Row i, or element i of a 1-D tensor; the first dimension is removed.
    #[script(index)]
    pub fn index_row(t: &Tensor, i: i64) -> Result<tch::Tensor> {
        index_one(t, 0, i)
    }

    /// Rows a..b of the first dimension.
    #[script(index)]
    pub fn index_rows(t: &Tensor, rows: Range<i64>) -> Result<tch::Tensor> {
        narrow(t, 0, rows.start, rows.end)
    }

    /// Rows a..=b of the first dimension.
    #[script(index)]
    pub fn index_rows_inclusive(t: &Tensor, rows: RangeInclusive<i64>) -> Result<tch::Tensor> {
        narrow(t, 0, *rows.start(), rows.end().saturating_add(1))
    }

    /// Indexes several dimensions at once: an int selects, a range slices, `()` keeps all.
    ///
    /// Example: `let h = ones([2, 5, 3]); h[[(), 0]].shape == [2, 3]`
    #[script(index)]
    pub fn index_dimensions(t: &Tensor, indices: Array) -> Result<tch::Tensor> {
        dimensions(t, &indices)
    }

    /// Rows at the indices in an int64 or int32 tensor [...], [..., the dimensions of a row]; negative ones count from the
    /// end. Or, [N, the other dimensions], what is at the places where a bool tensor is true, whose shape is that of the
    /// tensor's first dimensions: elements for a mask of its own shape, rows for a mask [rows].
    ///
    /// Example: `let x = tensor([[1, 2], [3, 4]]); x[tensor([false, true])].to_array() == [3, 4]`
    #[script(index)]
    pub fn index_tensor(t: &Tensor, index: &Tensor) -> Result<tch::Tensor> {
        at_places(t, index)
    }
}

fn at_places(t: &tch::Tensor, index: &tch::Tensor) -> Result<tch::Tensor> {
    ensure!(t.dim() > 0, "a scalar tensor cannot be indexed; its value is t.item()");
    match index.kind() {
        Kind::Bool => ensure!(
            index.dim() > 0 && t.size().starts_with(&index.size()),
            "a mask must have the shape of the first dimensions of the tensor {}, found {}",
            shape_text(t),
            shape_text(index)
        ),
        Kind::Int64 | Kind::Int => {}
        _ => bail_hint!(
            "expected int64 indices or a bool mask, found {}", shape_text(index);
            "x[indices.long()] for indices, x[mask.bool()] for a mask"
        ),
    }
    Ok(t.f_index(&[Some(index)])?)
}

fn index_one(t: &tch::Tensor, dim: i64, i: i64) -> Result<tch::Tensor> {
    let sizes = t.size();
    ensure!(!sizes.is_empty(), "a scalar tensor cannot be indexed; its value is t.item()");
    let n = sizes[dim as usize];
    ensure!(-n <= i && i < n, "index {i} is outside dimension {dim} of a tensor {}", shape_text(t));
    Ok(t.f_select(dim, i)?)
}

/// Elements start … end − 1 of a dimension; negative places count from the end.
pub fn narrow(t: &tch::Tensor, dim: i64, start: i64, end: i64) -> Result<tch::Tensor> {
    let sizes = t.size();
    let index = if dim < 0 { dim + sizes.len() as i64 } else { dim };
    ensure!(index >= 0 && (index as usize) < sizes.len(), "dimension {dim} is outside a tensor {}", shape_text(t));
    let n = sizes[index as usize];
    let at = |i: i64| if i < 0 { i + n } else { i };
    let (start, end) = (at(start), at(end).min(n));
    ensure!(
        0 <= start && start <= end,
        "the range {start}..{end} is outside dimension {index} of a tensor {}",
        shape_text(t)
    );
    Ok(t.f_narrow(index, start, end - start)?)
}

fn dimensions(t: &tch::Tensor, indices: &Array) -> Result<tch::Tensor> {
    ensure!(
        indices.len() <= t.dim(),
        "too many indices: {} for a tensor of {} dimensions, {}",
        indices.len(),
        t.dim(),
        shape_text(t)
    );
    let (mut out, mut dim) = (t.shallow_clone(), 0);
    for index in indices {
        if index.is_unit() {
            dim += 1;
        } else if let Ok(i) = index.as_int() {
            out = index_one(&out, dim, i)?;
        } else if let Some(r) = index.read_lock::<Range<i64>>() {
            out = narrow(&out, dim, r.start, r.end)?;
            dim += 1;
        } else if let Some(r) = index.read_lock::<RangeInclusive<i64>>() {
            out = narrow(&out, dim, *r.start(), r.end().saturating_add(1))?;
            dim += 1;
        } else {
            bail!("expected an int, a range or () as index, found {}", found(index));
        }
    }
    Ok(out)
}
