//! Products of vectors and matrices, and what lies on diagonals.

use super::arguments::{Dims, Number};
use super::math::multiplied;
use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use crate::script::values::{Tensor, found};
use crate::tensor::shape_text;
use nepa_macros::functions;
use rhai::{Array, Dynamic};

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Matrix product over the last two dimensions; the others broadcast. A vector is taken as a row on the left and as
    /// a column on the right.
    ///
    /// Example: `matmul(ones([2, 3]), ones([3, 4])).shape == [2, 4]`
    pub fn matmul(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_matmul(other)?)
    }

    /// Product of two matrices [N, M] and [M, P].
    ///
    /// Example: `mm(ones([2, 3]), ones([3, 4])).shape == [2, 4]`
    pub fn mm(input: &Tensor, mat2: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_mm(mat2)?)
    }

    /// Products of the matrices of two batches, [B, N, M] and [B, M, P].
    ///
    /// Example: `bmm(ones([5, 2, 3]), ones([5, 3, 4])).shape == [5, 2, 4]`
    pub fn bmm(input: &Tensor, mat2: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_bmm(mat2)?)
    }

    /// Product of a matrix [N, M] and a vector [M].
    ///
    /// Example: `mv(ones([2, 3]), ones([3])).to_array() == [3.0, 3.0]`
    pub fn mv(input: &Tensor, vec: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_mv(vec)?)
    }

    /// Scalar product of two vectors.
    ///
    /// Example: `dot(tensor([1, 2]), tensor([3, 4])).item() == 11`
    pub fn dot(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_dot(other)?)
    }

    /// All products of the elements of two vectors, [N] and [M] to [N, M].
    ///
    /// Example: `outer(tensor([1, 2]), tensor([3, 4])).flatten().to_array() == [3, 4, 6, 8]`
    pub fn outer(input: &Tensor, vec2: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_outer(vec2)?)
    }

    /// Scalar products over the last dimensions of two tensors.
    ///
    /// Example: `inner(ones([2, 3]), ones([4, 3])).shape == [2, 4]`
    pub fn inner(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_inner(other)?)
    }

    /// The Kronecker product.
    ///
    /// Example: `kron(eye(2), ones([1, 2])).shape == [2, 4]`
    pub fn kron(input: &Tensor, other: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_kron(other)?)
    }

    /// The cross product of vectors of 3 elements along `dim`; () means the first dimension of size 3.
    ///
    /// Example: `cross(tensor([1, 0, 0]), tensor([0, 1, 0])).to_array() == [0, 0, 1]`
    pub fn cross(input: &Tensor, other: &Tensor, #[default(())] dim: Option<i64>) -> Result<tch::Tensor> {
        let first = || input.size().iter().position(|n| *n == 3).map(|dim| dim as i64);
        match dim.or_else(first) {
            Some(dim) => Ok(input.f_linalg_cross(other, dim)?),
            None => bail!("cross: expected a dimension of size 3, found {}", shape_text(input)),
        }
    }

    /// beta · input + alpha · mat1 mat2, for matrices.
    ///
    /// Example: `addmm(ones([2, 2]), eye(2), eye(2), #{ beta: 0 }).sum().item() == 2.0`
    pub fn addmm(
        input: &Tensor,
        mat1: &Tensor,
        mat2: &Tensor,
        #[keyword(1)] beta: Number,
        #[keyword(1)] alpha: Number,
    ) -> Result<tch::Tensor> {
        multiplied("addmm", [input, mat1, mat2], &[beta, alpha])
    }

    /// beta · input + alpha · batch1 batch2, for batches of matrices.
    ///
    /// Example: `baddbmm(ones([1, 2, 2]), ones([1, 2, 3]), ones([1, 3, 2])).sum().item() == 16.0`
    pub fn baddbmm(
        input: &Tensor,
        batch1: &Tensor,
        batch2: &Tensor,
        #[keyword(1)] beta: Number,
        #[keyword(1)] alpha: Number,
    ) -> Result<tch::Tensor> {
        multiplied("baddbmm", [input, batch1, batch2], &[beta, alpha])
    }

    /// Einstein's summation: dimensions are letters, those left out after -> are summed over. The tensors come one by
    /// one or in an array.
    ///
    /// Example: `einsum("bij,bjk->bik", ones([2, 3, 4]), ones([2, 4, 5])).shape == [2, 3, 5]`
    pub fn einsum(
        equation: &str,
        operands: Dynamic,
        #[default(())] second: Option<Tensor>,
        #[default(())] third: Option<Tensor>,
    ) -> Result<tch::Tensor> {
        let mut all = operands_of(&operands)?;
        all.extend([second, third].iter().flatten().map(|t| t.shallow_clone()));
        Ok(tch::Tensor::f_einsum(equation, &all, None::<i64>)?)
    }

    /// Sums products over the last `dims` dimensions of the one and the first `dims` of the other; or over pairs of
    /// dimensions, as [[those of the one], [those of the other]].
    ///
    /// Example: `tensordot(ones([2, 3, 4]), ones([3, 4, 5])).shape == [2, 5]`
    pub fn tensordot(a: &Tensor, b: &Tensor, #[default(2)] dims: Dynamic) -> Result<tch::Tensor> {
        let (of_a, of_b) = match (dims.as_int(), dims.read_lock::<Array>()) {
            (Ok(n), _) => {
                let (most, rank) = (a.dim().min(b.dim()) as i64, a.dim() as i64);
                ensure!((0..=most).contains(&n), "tensordot: expected dims of 0 to {most}, found {n}");
                ((rank - n..rank).collect(), (0..n).collect())
            }
            (_, Some(pair)) if pair.len() == 2 => {
                let read =
                    |i: usize| <Dims as crate::script::types::Argument>::read(pair[i].clone(), "tensordot: `dims`");
                (read(0)?.0, read(1)?.0)
            }
            _ => bail_hint!(
                "tensordot: expected dims, found {}", found(&dims);
                "a number of dimensions, or [[dimensions of a], [dimensions of b]]"
            ),
        };
        Ok(a.f_tensordot(b, of_a, of_b)?)
    }

    /// The sum of a matrix's diagonal.
    ///
    /// Example: `eye(3).trace().item() == 3.0`
    pub fn trace(input: &Tensor) -> Result<tch::Tensor> {
        Ok(input.f_trace()?)
    }

    /// The inverse of square matrices [..., N, N], as linalg::inv.
    ///
    /// Example: `(eye(2) * 2.0).inverse()[0][0].item() == 0.5`
    pub fn inverse(input: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linalg_inv(input)?)
    }

    /// The determinant of square matrices [..., N, N], as linalg::det.
    ///
    /// Example: `(eye(2) * 2.0).det().item() == 4.0`
    pub fn det(input: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linalg_det(input)?)
    }

    /// A matrix with a vector on its diagonal, or a matrix's diagonal as a vector.
    ///
    /// Example: `diag(tensor([1, 2])).to_array() == [1, 0, 0, 2]`
    pub fn diag(input: &Tensor, #[default(0)] diagonal: i64) -> Result<tch::Tensor> {
        Ok(input.f_diag(diagonal)?)
    }

    /// The diagonals of the matrices in two dimensions, as the last dimension.
    ///
    /// Example: `eye(3).diagonal(1).to_array() == [0.0, 0.0]`
    pub fn diagonal(
        input: &Tensor,
        #[default(0)] offset: i64,
        #[default(0)] dim1: i64,
        #[default(1)] dim2: i64,
    ) -> Result<tch::Tensor> {
        Ok(input.f_diagonal(offset, dim1, dim2)?)
    }

    /// Matrices with the last dimension's elements on their diagonals.
    ///
    /// Example: `diag_embed(ones([2, 3])).shape == [2, 3, 3]`
    pub fn diag_embed(
        input: &Tensor,
        #[default(0)] offset: i64,
        #[default(-2)] dim1: i64,
        #[default(-1)] dim2: i64,
    ) -> Result<tch::Tensor> {
        Ok(input.f_diag_embed(offset, dim1, dim2)?)
    }

    /// A matrix with others along its diagonal.
    ///
    /// Example: `block_diag([ones([1, 2]), ones([3, 1])]).shape == [4, 3]`
    pub fn block_diag(tensors: Vec<tch::Tensor>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_block_diag(&tensors)?)
    }

    /// The lower triangle of the last two dimensions; the rest 0. `diagonal` 1 keeps the one above it, too.
    ///
    /// Example: `ones([2, 2]).tril().to_array() == [1.0, 0.0, 1.0, 1.0]`
    pub fn tril(input: &Tensor, #[default(0)] diagonal: i64) -> Result<tch::Tensor> {
        Ok(input.f_tril(diagonal)?)
    }

    /// The upper triangle of the last two dimensions; the rest 0.
    ///
    /// Example: `ones([2, 2]).triu(1).to_array() == [0.0, 1.0, 0.0, 0.0]`
    pub fn triu(input: &Tensor, #[default(0)] diagonal: i64) -> Result<tch::Tensor> {
        Ok(input.f_triu(diagonal)?)
    }

    /// Distances between all rows of x1 [..., N, D] and x2 [..., M, D], [..., N, M], by the p-norm.
    ///
    /// Example: `cdist(zeros([1, 2]), tensor([[3.0, 4.0]])).item() == 5.0`
    pub fn cdist(x1: &Tensor, x2: &Tensor, #[default(2.0)] p: f64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cdist(x1, x2, p, None::<i64>)?)
    }

    /// x Wᵀ + b, an affine map of the last dimension: weight [out, in], bias [out].
    ///
    /// Example: `linear(ones([2, 3]), ones([4, 3]), ones([4])).to_array()[0] == 4.0`
    pub fn linear(input: &Tensor, weight: &Tensor, #[default(())] bias: Option<Tensor>) -> Result<tch::Tensor> {
        Ok(input.f_linear(weight, bias.as_deref())?)
    }

    /// x1ᵀ A x2 + b for each of the outputs: weight [out, in1, in2], bias [out].
    ///
    /// Example: `bilinear(ones([2, 3]), ones([2, 4]), ones([5, 3, 4])).shape == [2, 5]`
    pub fn bilinear(
        input1: &Tensor,
        input2: &Tensor,
        weight: &Tensor,
        #[default(())] bias: Option<Tensor>,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_bilinear(input1, input2, weight, bias.as_deref())?)
    }
}

fn operands_of(operands: &Dynamic) -> Result<Vec<tch::Tensor>> {
    if let Some(t) = operands.read_lock::<Tensor>() {
        return Ok(vec![t.shallow_clone()]);
    }
    match operands.read_lock::<Array>() {
        Some(list) => crate::script::values::tensors(&list, "einsum"),
        None => bail_hint!(
            "einsum: expected tensors after the equation, found {}", found(operands);
            "einsum(\"ij,jk->ik\", a, b), or with an array: einsum(\"ij,jk->ik\", [a, b])"
        ),
    }
}
