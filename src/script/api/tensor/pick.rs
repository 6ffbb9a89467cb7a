//! Picking and filling elements by indices and masks; joining tensors.

use super::arguments::{Number, Operand};
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::ffi::{Argument, operator};
use crate::script::values::Tensor;
use nepa_macros::functions;
use rhai::Dynamic;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Joins tensors along an existing dimension.
    ///
    /// Example: `cat([ones([2, 3]), ones([1, 3])]).shape == [3, 3]`
    pub fn cat(tensors: Vec<tch::Tensor>, #[default(0)] dim: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cat(&tensors, dim)?)
    }

    /// The same as cat.
    ///
    /// Example: `concat([ones([2]), ones([1])]).shape == [3]`
    pub fn concat(tensors: Vec<tch::Tensor>, #[default(0)] dim: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cat(&tensors, dim)?)
    }

    /// Joins tensors of one shape along a new dimension.
    ///
    /// Example: `stack([ones([2]), ones([2])]).shape == [2, 2]`
    pub fn stack(tensors: Vec<tch::Tensor>, #[default(0)] dim: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_stack(&tensors, dim)?)
    }

    /// Joins vectors end to end, others along the second dimension.
    ///
    /// Example: `hstack([ones([2, 1]), ones([2, 3])]).shape == [2, 4]`
    pub fn hstack(tensors: Vec<tch::Tensor>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_hstack(&tensors)?)
    }

    /// Joins vectors as rows, others along the first dimension.
    ///
    /// Example: `vstack([ones([3]), ones([3])]).shape == [2, 3]`
    pub fn vstack(tensors: Vec<tch::Tensor>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_vstack(&tensors)?)
    }

    /// Grids of coordinates from vectors [A], [B], …: tensors [A, B, …]; with indexing "xy" [B, A, …].
    ///
    /// Example: `meshgrid([arange(2), arange(3)])[0].shape == [2, 3]`
    pub fn meshgrid(tensors: Vec<tch::Tensor>, #[keyword("ij")] indexing: &str) -> Result<Vec<tch::Tensor>> {
        Ok(tch::Tensor::f_meshgrid_indexing(&tensors, indexing)?)
    }

    /// All combinations of the elements of vectors, as rows.
    ///
    /// Example: `cartesian_prod([arange(2), arange(3)]).shape == [6, 2]`
    pub fn cartesian_prod(tensors: Vec<tch::Tensor>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cartesian_prod(&tensors)?)
    }

    /// Tensors expanded to one shape by the rules of broadcasting.
    ///
    /// Example: `broadcast_tensors([ones([2, 1]), ones([3])])[0].shape == [2, 3]`
    pub fn broadcast_tensors(tensors: Vec<tch::Tensor>) -> Result<Vec<tch::Tensor>> {
        Ok(tch::Tensor::f_broadcast_tensors(&tensors)?)
    }

    /// Elements of the first where the condition (bool) is true, otherwise of the second, tensors or numbers; shapes
    /// broadcast. With the condition alone, the indices where it is true, an int64 tensor for each dimension.
    ///
    /// Example: `where(tensor([true, false]), tensor([1, 2]), 0).to_array() == [1, 0]`
    #[script(name = "where")]
    pub fn where_(
        condition: &Tensor,
        #[default(())] input: Option<Operand>,
        #[default(())] other: Option<Operand>,
    ) -> Result<Dynamic> {
        chosen(condition, input, other)
    }

    /// Elements at int64 indices along a dimension: out[i][j] = input[i][index[i][j]] for dim 1.
    ///
    /// Example: `tensor([[1, 2], [3, 4]]).gather(1, tensor([[1], [0]])).to_array() == [2, 3]`
    pub fn gather(input: &Tensor, dim: i64, index: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_gather(dim, index, false)?)
    }

    /// Elements of the flattened tensor at int64 indices.
    ///
    /// Example: `tensor([[1, 2], [3, 4]]).take(tensor([0, 3])).to_array() == [1, 4]`
    pub fn take(input: &Tensor, index: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_take(index)?)
    }

    /// Elements along a dimension at indices that argmax or argsort gave; without `dim` of the flattened tensor.
    ///
    /// Example: `let x = tensor([3, 1]); take_along_dim(x, x.argsort(), 0).to_array() == [1, 3]`
    pub fn take_along_dim(input: &Tensor, indices: &Tensor, #[default(())] dim: Option<i64>) -> Result<tch::Tensor> {
        Ok(input.f_take_along_dim(indices, dim)?)
    }

    /// The slices of a dimension at the indices in an int64 tensor [N].
    ///
    /// Example: `eye(3).index_select(0, tensor([2]))[0].to_array() == [0.0, 0.0, 1.0]`
    pub fn index_select(input: &Tensor, dim: i64, index: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_index_select(dim, index)?)
    }

    /// Elements where the mask (bool) is true, in one dimension.
    ///
    /// Example: `let x = tensor([1, 2]); x.masked_select(x > 1).to_array() == [2]`
    pub fn masked_select(input: &Tensor, mask: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_masked_select(mask)?)
    }

    /// Where elements are not 0: int64 [N, dimensions], or with `as_tuple` an array of tensors [N], one a dimension.
    ///
    /// Example: `tensor([0, 5]).nonzero().to_array() == [1]`
    pub fn nonzero(input: &Tensor, #[keyword(false)] as_tuple: bool) -> Result<Dynamic> {
        match as_tuple {
            true => Ok(input
                .f_nonzero_numpy()?
                .into_iter()
                .map(|t| Dynamic::from(Tensor::from(t)))
                .collect::<Vec<_>>()
                .into()),
            false => Ok(Dynamic::from(Tensor::from(input.f_nonzero()?))),
        }
    }

    /// Writes the elements of src, or a number, to int64 indices along a dimension: out[index[i][j]][j] = src[i][j] for
    /// dim 0. With `reduce` "add" or "multiply" it combines them with what is there.
    ///
    /// Example: `zeros([3]).scatter(0, tensor([2]), 5.0).to_array() == [0.0, 0.0, 5.0]`
    pub fn scatter(
        input: &Tensor,
        dim: i64,
        index: &Tensor,
        src: Operand,
        #[keyword(())] reduce: Option<String>,
    ) -> Result<tch::Tensor> {
        scattered(input, dim, index, src, reduce.as_deref())
    }

    /// Adds the elements of src at int64 indices along a dimension.
    ///
    /// Example: `zeros([2]).scatter_add(0, tensor([1, 1]), ones([2])).to_array() == [0.0, 2.0]`
    pub fn scatter_add(input: &Tensor, dim: i64, index: &Tensor, src: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_scatter_add(dim, index, src)?)
    }

    /// Combines the elements of src at int64 indices along a dimension with what is there, by "sum", "prod", "mean",
    /// "amax" or "amin"; with `include_self: false` without what is there. The mean of ints is rounded down.
    ///
    /// Example: `zeros([2]).scatter_reduce(0, tensor([1, 1]), tensor([3.0, 7.0]), "sum")[1].item() == 10.0`
    pub fn scatter_reduce(
        input: &Tensor,
        dim: i64,
        index: &Tensor,
        src: &Tensor,
        reduce: &str,
        #[keyword(true)] include_self: bool,
    ) -> Result<tch::Tensor> {
        scatter_reduced(input, dim, index, src, reduce, include_self)
    }

    /// Adds alpha · the slices of source to those of a dimension at the indices in an int64 tensor [N].
    ///
    /// Example: `zeros([2]).index_add(0, tensor([1]), ones([1]), #{ alpha: 3 }).to_array() == [0.0, 3.0]`
    pub fn index_add(
        input: &Tensor,
        dim: i64,
        index: &Tensor,
        source: &Tensor,
        #[keyword(1)] alpha: Number,
    ) -> Result<tch::Tensor> {
        let (index, source) = (Argument::Tensor(index), Argument::Tensor(source));
        operator("index_add", "", &[Argument::Tensor(input), Argument::Int(dim), index, source, alpha.argument()])
    }

    /// Replaces the slices of a dimension at the indices in an int64 tensor [N] with those of source.
    ///
    /// Example: `zeros([2]).index_copy(0, tensor([1]), ones([1])).to_array() == [0.0, 1.0]`
    pub fn index_copy(input: &Tensor, dim: i64, index: &Tensor, source: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_index_copy(dim, index, source)?)
    }

    /// Fills the slices of a dimension at the indices in an int64 tensor [N] with a number.
    ///
    /// Example: `zeros([2]).index_fill(0, tensor([1]), 4).to_array() == [0.0, 4.0]`
    pub fn index_fill(input: &Tensor, dim: i64, index: &Tensor, value: Number) -> Result<tch::Tensor> {
        Ok(input.f_index_fill(dim, index, value.scalar())?)
    }

    /// Replaces elements with `value` where the mask (bool) is true; shapes broadcast.
    ///
    /// Example: `ones([2]).masked_fill(tensor([true, false]), 0).to_array() == [0.0, 1.0]`
    pub fn masked_fill(input: &Tensor, mask: &Tensor, value: Operand) -> Result<tch::Tensor> {
        match value {
            Operand::Number(value) => Ok(input.f_masked_fill(mask, value.scalar())?),
            Operand::Tensor(value) => Ok(input.f_masked_fill_tensor(mask, &value)?),
        }
    }

    /// Replaces elements where the mask (bool) is true with those of source, in order.
    ///
    /// Example: `zeros([2]).masked_scatter(tensor([false, true]), ones([1])).to_array() == [0.0, 1.0]`
    pub fn masked_scatter(input: &Tensor, mask: &Tensor, source: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_masked_scatter(mask, source)?)
    }

    /// One-hot vectors, int64 [..., classes], of class indices, int64 [...]; −1 takes as many classes as there are
    /// indices up to the largest.
    ///
    /// Example: `tensor([0, 2]).one_hot(3).to_array() == [1, 0, 0, 0, 0, 1]`
    pub fn one_hot(tensor: &Tensor, #[default(-1)] num_classes: i64) -> Result<tch::Tensor> {
        Ok(tensor.f_one_hot(num_classes)?)
    }

    /// Rows of a table, weight [N, D], at int64 indices [...]: [..., D]. Row `padding_idx` gets no gradient.
    ///
    /// Example: `embedding(tensor([1]), eye(3)).to_array() == [0.0, 1.0, 0.0]`
    pub fn embedding(input: &Tensor, weight: &Tensor, #[default(())] padding_idx: Option<i64>) -> Result<tch::Tensor> {
        let rows = weight.size().first().copied().unwrap_or(0);
        let padding = padding_idx.map_or(-1, |i| if i < 0 { i + rows } else { i });
        Ok(tch::Tensor::f_embedding(weight, input, padding, false, false)?)
    }
}

fn chosen(condition: &Tensor, input: Option<Operand>, other: Option<Operand>) -> Result<Dynamic> {
    let value = |t: tch::Tensor| Dynamic::from(Tensor::from(t));
    let (input, other) = match (input, other) {
        (None, None) => {
            return Ok(tch::Tensor::f_where_(condition)?.into_iter().map(value).collect::<Vec<_>>().into());
        }
        (Some(input), Some(other)) => (input, other),
        (Some(_), None) | (None, Some(_)) => {
            bail!("where: expected two values, or none for the indices where the condition is true, found one")
        }
    };
    // Numbers take the dtype of the tensor beside them.
    let like = match (&input, &other) {
        (Operand::Tensor(t), _) | (_, Operand::Tensor(t)) => t.shallow_clone(),
        (Operand::Number(a), Operand::Number(b)) => {
            let kind = if matches!(a, Number::Float(_)) { a.kind() } else { b.kind() };
            tch::Tensor::f_empty([0i64; 0], (kind, condition.device()))?
        }
    };
    Ok(value(input.tensor(&like)?.f_where_self(condition, &other.tensor(&like)?)?))
}

fn scattered(input: &Tensor, dim: i64, index: &Tensor, src: Operand, reduce: Option<&str>) -> Result<tch::Tensor> {
    match (src, reduce) {
        (Operand::Tensor(src), None) => Ok(input.f_scatter(dim, index, &src)?),
        (Operand::Number(value), None) => Ok(input.f_scatter_value(dim, index, value.scalar())?),
        (Operand::Tensor(src), Some(reduce)) => scatter_reduced(input, dim, index, &src, reduction(reduce)?, true),
        (Operand::Number(value), Some(reduce)) => {
            let src = tch::Tensor::f_full(index.size(), value.scalar(), (input.kind(), input.device()))?;
            scatter_reduced(input, dim, index, &src, reduction(reduce)?, true)
        }
    }
}

/// scatter_reduce's name for a reduction of scatter.
fn reduction(name: &str) -> Result<&'static str> {
    match name {
        "add" => Ok("sum"),
        "multiply" => Ok("prod"),
        other => bail!("scatter: unknown reduce \"{other}\" (one of: add, multiply)"),
    }
}

fn scatter_reduced(
    input: &tch::Tensor,
    dim: i64,
    index: &tch::Tensor,
    src: &tch::Tensor,
    reduce: &str,
    include_self: bool,
) -> Result<tch::Tensor> {
    const NAMES: [&str; 5] = ["sum", "prod", "mean", "amax", "amin"];
    ensure!(
        NAMES.contains(&reduce),
        "scatter_reduce: unknown reduce \"{reduce}\"{} (one of: {})",
        did_you_mean(reduce, NAMES),
        NAMES.join(", ")
    );
    let (index, src) = (Argument::Tensor(index), Argument::Tensor(src));
    let arguments =
        [Argument::Tensor(input), Argument::Int(dim), index, src, Argument::Text(reduce), Argument::Bool(include_self)];
    operator("scatter_reduce", "two", &arguments)
}
