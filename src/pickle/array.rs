//! Arrays of numpy, which a pickle holds whole.

use super::Value;
use super::machine::Machine;
use crate::error::{Result, bail, ensure};
use std::ops::Range;

/// An array of numbers, whose values lie in the pickle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    /// numpy's code of the values' type: "u1" is uint8.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether the first index varies fastest, as in Fortran, and not the last.
    pub fortran: bool,
    /// Where its values lie in the pickle.
    pub values: Range<usize>,
}

impl Machine<'_> {
    /// An array of its state: version, shape, dtype, whether the order is Fortran's, and values.
    pub(super) fn array(&self, state: Value) -> Result<Array> {
        let &[_, shape, Value::Dtype(at, length), Value::Bool(fortran), Value::Bytes(from, count)] =
            self.sequence(state)?
        else {
            bail!("an array that is not described by shape, dtype, order and bytes");
        };
        let dtype = String::from_utf8_lossy(&self.bytes[at..at + length.min(16)]).into_owned();
        let (kind, size) = dtype.split_at_checked(1).unwrap_or_default();
        let Some(size) = size.parse().ok().filter(|size| "biufc".contains(kind) && (1..=32).contains(size)) else {
            bail!("an array of the dtype {:?}, of which only numbers are read", dtype);
        };
        let shape = self.sequence(shape)?;
        ensure!(shape.len() <= 64, "an array of {} dimensions", shape.len());
        let side = |value: &Value| match value {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let Some(shape) = shape.iter().map(side).collect::<Option<Vec<usize>>>() else {
            bail!("an array with a size that is no non-negative integer");
        };
        let expected = shape.iter().try_fold(size, |n: usize, side| n.checked_mul(*side));
        ensure!(expected == Some(count), "an array {shape:?} of {dtype} should not have {count} bytes");
        Ok(Array { dtype, shape, fortran, values: from..from + count })
    }
}
