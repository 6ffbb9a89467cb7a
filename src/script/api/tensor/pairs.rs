//! Values and their indices.

use crate::error::{Result, bail};
use crate::script::types::handles;
use crate::script::values::Tensor;
use nepa_macros::functions;

pub use functions::register;

/// What sort, topk and their like give.
#[derive(Clone)]
pub struct ValuesAndIndices {
    values: Tensor,
    indices: Tensor,
}

handles! { "ValuesAndIndices": ValuesAndIndices; }

impl From<(tch::Tensor, tch::Tensor)> for ValuesAndIndices {
    fn from((values, indices): (tch::Tensor, tch::Tensor)) -> Self {
        Self { values: values.into(), indices: indices.into() }
    }
}

#[functions]
mod functions {
    use super::*;

    /// The values.
    ///
    /// Example: `tensor([1, 3, 2]).sort().values.to_array() == [1, 2, 3]`
    #[script(get)]
    pub fn values(pair: &ValuesAndIndices) -> Tensor {
        pair.values.clone()
    }

    /// Where the values were, int64.
    ///
    /// Example: `tensor([1, 3, 2]).sort().indices.to_array() == [0, 2, 1]`
    #[script(get)]
    pub fn indices(pair: &ValuesAndIndices) -> Tensor {
        pair.indices.clone()
    }

    /// The values as [0], the indices as [1].
    ///
    /// Example: `tensor([1, 3, 2]).topk(2)[0].to_array() == [3, 2]`
    #[script(index)]
    pub fn either(pair: &ValuesAndIndices, i: i64) -> Result<Tensor> {
        match i {
            0 => Ok(pair.values.clone()),
            1 => Ok(pair.indices.clone()),
            _ => bail!("expected 0 (the values) or 1 (the indices), found {i}"),
        }
    }

    /// Both as text.
    pub fn to_string(pair: &ValuesAndIndices) -> String {
        format!(
            "values {}, indices {}",
            crate::tensor::shape_text(&pair.values),
            crate::tensor::shape_text(&pair.indices)
        )
    }
}
