//! Linear algebra, as torch.linalg has it. Matrices are the last two dimensions [..., N, M].

use super::arguments::{DType, Dims};
use crate::error::{Result, bail};
use crate::script::values::{Tensor, found};
use nepa_macros::functions;
use rhai::{Dynamic, Map};

pub use functions::register;

// A, B and UPLO are PyTorch's names, by which the arguments may be given.
#[allow(non_snake_case)]
#[functions]
mod functions {
    use super::*;

    /// The norm of a vector or matrices: without `ord` the 2-norm of all elements or of the dimensions `dim`; of two
    /// dimensions `ord` may be "fro", "nuc", 1, 2 or their negatives, of one any number.
    ///
    /// Example: `linalg::norm(tensor([3.0, 4.0])).item() == 5.0`
    pub fn norm(
        A: &Tensor,
        #[default(())] ord: Dynamic,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        let dims = dim.as_ref().map(|dim| dim.0.as_slice());
        let kind = dtype.map(|dtype| dtype.0);
        if ord.is_unit() {
            let A = kind.map_or_else(|| Ok(A.shallow_clone()), |kind| A.f_to_kind(kind))?;
            return Ok(A.f_norm_scalaropt_dim(2.0, dims.unwrap_or(&[]), keepdim)?);
        }
        match (ord.as_float().or(ord.as_int().map(|n| n as f64)), ord.clone().into_immutable_string()) {
            (Ok(ord), _) => Ok(A.f_linalg_norm(ord, dims, keepdim, kind)?),
            (_, Ok(name)) => Ok(A.f_linalg_norm_ord_str(&name, dims, keepdim, kind)?),
            _ => bail!("linalg::norm: `ord`: expected a number, \"fro\" or \"nuc\", found {}", found(&ord)),
        }
    }

    /// The norm of vectors along one dimension or an array of them, or of all elements.
    ///
    /// Example: `linalg::vector_norm(tensor([3.0, -4.0]), 1).item() == 7.0`
    pub fn vector_norm(
        x: &Tensor,
        #[default(2.0)] ord: f64,
        #[default(())] dim: Option<Dims>,
        #[default(false)] keepdim: bool,
    ) -> Result<tch::Tensor> {
        let dims = dim.as_ref().map_or(&[][..], |dim| dim.0.as_slice());
        Ok(x.f_norm_scalaropt_dim(ord, dims, keepdim)?)
    }

    /// Inverses of square matrices.
    ///
    /// Example: `linalg::inv(eye(2) * 2.0)[0][0].item() == 0.5`
    pub fn inv(A: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linalg_inv(A)?)
    }

    /// Moore-Penrose pseudo-inverses; singular values below max(atol, rtol · the largest) count as 0.
    ///
    /// Example: `linalg::pinv(ones([2, 3])).shape == [3, 2]`
    pub fn pinv(
        A: &Tensor,
        #[keyword(())] atol: Option<f64>,
        #[keyword(())] rtol: Option<f64>,
        #[keyword(false)] hermitian: bool,
    ) -> Result<tch::Tensor> {
        Ok(A.f_linalg_pinv_atol_rtol_float(atol, rtol, hermitian)?)
    }

    /// Determinants of square matrices.
    ///
    /// Example: `linalg::det(eye(2) * 2.0).item() == 4.0`
    pub fn det(A: &Tensor) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linalg_det(A)?)
    }

    /// Signs and logarithms of the absolute values of determinants: a map of `sign` and `logabsdet`.
    ///
    /// Example: `linalg::slogdet(eye(2)).logabsdet.item() == 0.0`
    pub fn slogdet(A: &Tensor) -> Result<Map> {
        let (sign, logabsdet) = tch::Tensor::f_linalg_slogdet(A)?;
        Ok(named([("sign", sign), ("logabsdet", logabsdet)]))
    }

    /// X of A X = B, or with `left: false` of X A = B.
    ///
    /// Example: `linalg::solve(eye(2) * 2.0, ones([2])).to_array() == [0.5, 0.5]`
    pub fn solve(A: &Tensor, B: &Tensor, #[keyword(true)] left: bool) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linalg_solve(A, B, left)?)
    }

    /// X of A X = B for triangular A, of which `upper` says which triangle is read.
    ///
    /// Example: `linalg::solve_triangular(eye(2), ones([2, 1]), #{ upper: true }).shape == [2, 1]`
    pub fn solve_triangular(
        A: &Tensor,
        B: &Tensor,
        #[keyword(true)] upper: bool,
        #[keyword(true)] left: bool,
        #[keyword(false)] unitriangular: bool,
    ) -> Result<tch::Tensor> {
        Ok(A.f_linalg_solve_triangular(B, upper, left, unitriangular)?)
    }

    /// The least squares solution X of A X = B.
    ///
    /// Example: `linalg::lstsq(eye(3), ones([3, 1])).shape == [3, 1]`
    pub fn lstsq(A: &Tensor, B: &Tensor, #[default(())] rcond: Option<f64>) -> Result<tch::Tensor> {
        let driver = if A.device() == tch::Device::Cpu { "gelsy" } else { "gels" };
        Ok(A.f_linalg_lstsq(B, rcond, driver)?.0)
    }

    /// L of A = L Lᵀ, for symmetric positive definite matrices.
    ///
    /// Example: `linalg::cholesky(eye(2) * 4.0)[0][0].item() == 2.0`
    pub fn cholesky(A: &Tensor, #[keyword(false)] upper: bool) -> Result<tch::Tensor> {
        Ok(A.f_linalg_cholesky(upper)?)
    }

    /// Q R = A with orthonormal columns in Q and upper triangular R: a map of `Q` and `R`. `mode` is "reduced",
    /// "complete" or "r".
    ///
    /// Example: `linalg::qr(ones([3, 2])).R.shape == [2, 2]`
    pub fn qr(A: &Tensor, #[default("reduced")] mode: &str) -> Result<Map> {
        let (q, r) = tch::Tensor::f_linalg_qr(A, mode)?;
        Ok(named([("Q", q), ("R", r)]))
    }

    /// U diag(S) Vh = A with the singular values S in descending order: a map of `U`, `S` and `Vh`.
    ///
    /// Example: `linalg::svd(ones([3, 2]), false).U.shape == [3, 2]`
    pub fn svd(A: &Tensor, #[default(true)] full_matrices: bool) -> Result<Map> {
        let (u, s, vh) = svd_of(A, full_matrices)?;
        Ok(named([("U", u), ("S", s), ("Vh", vh)]))
    }

    /// Singular values in descending order.
    ///
    /// Example: `linalg::svdvals(eye(2)).to_array() == [1.0, 1.0]`
    pub fn svdvals(A: &Tensor) -> Result<tch::Tensor> {
        Ok(svd_of(A, false)?.1)
    }

    /// Eigenvalues of symmetric matrices in ascending order, and their eigenvectors in columns: a map of `eigenvalues`
    /// and `eigenvectors`. `UPLO` says which triangle is read, "L" or "U".
    ///
    /// Example: `linalg::eigh(eye(2)).eigenvalues.to_array() == [1.0, 1.0]`
    pub fn eigh(A: &Tensor, #[default("L")] UPLO: &str) -> Result<Map> {
        let (values, vectors) = A.f_linalg_eigh(UPLO)?;
        Ok(named([("eigenvalues", values), ("eigenvectors", vectors)]))
    }

    /// Eigenvalues of symmetric matrices in ascending order.
    ///
    /// Example: `linalg::eigvalsh(eye(2)).to_array() == [1.0, 1.0]`
    pub fn eigvalsh(A: &Tensor, #[default("L")] UPLO: &str) -> Result<tch::Tensor> {
        Ok(A.f_linalg_eigvalsh(UPLO)?)
    }

    /// Eigenvalues and eigenvectors of square matrices, complex: a map of `eigenvalues` and `eigenvectors`.
    ///
    /// Example: `linalg::eig(eye(2)).eigenvalues.real.to_array() == [1.0, 1.0]`
    pub fn eig(A: &Tensor) -> Result<Map> {
        let (values, vectors) = A.f_linalg_eig()?;
        Ok(named([("eigenvalues", values), ("eigenvectors", vectors)]))
    }

    /// Eigenvalues of square matrices, complex.
    ///
    /// Example: `linalg::eigvals(eye(2)).real.to_array() == [1.0, 1.0]`
    pub fn eigvals(A: &Tensor) -> Result<tch::Tensor> {
        Ok(A.f_linalg_eigvals()?)
    }

    /// Ranks: how many singular values are above max(atol, rtol · the largest), int64.
    ///
    /// Example: `linalg::matrix_rank(ones([3, 3])).item() == 1`
    pub fn matrix_rank(
        A: &Tensor,
        #[keyword(())] atol: Option<f64>,
        #[keyword(())] rtol: Option<f64>,
        #[keyword(false)] hermitian: bool,
    ) -> Result<tch::Tensor> {
        Ok(A.f_linalg_matrix_rank_atol_rtol_float(atol, rtol, hermitian)?)
    }

    /// Square matrices multiplied by themselves n times; negative n of the inverse.
    ///
    /// Example: `linalg::matrix_power(eye(2) * 2.0, 3)[0][0].item() == 8.0`
    pub fn matrix_power(A: &Tensor, n: i64) -> Result<tch::Tensor> {
        Ok(A.f_linalg_matrix_power(n)?)
    }

    /// The exponential of square matrices.
    ///
    /// Example: `linalg::matrix_exp(zeros([2, 2])).equal(eye(2))`
    pub fn matrix_exp(A: &Tensor) -> Result<tch::Tensor> {
        Ok(A.f_linalg_matrix_exp()?)
    }

    /// The ratio of the largest to the smallest singular value.
    ///
    /// Example: `linalg::cond(eye(2)).item() == 1.0`
    pub fn cond(A: &Tensor) -> Result<tch::Tensor> {
        Ok(A.f_linalg_cond(2.0)?)
    }

    /// The cross product of vectors of 3 elements along a dimension.
    ///
    /// Example: `linalg::cross(tensor([1, 0, 0]), tensor([0, 1, 0])).to_array() == [0, 0, 1]`
    pub fn cross(input: &Tensor, other: &Tensor, #[keyword(-1)] dim: i64) -> Result<tch::Tensor> {
        Ok(input.f_linalg_cross(other, dim)?)
    }

    /// The product of several matrices, in the order that takes the fewest operations.
    ///
    /// Example: `linalg::multi_dot([ones([2, 3]), ones([3, 4]), ones([4, 1])]).shape == [2, 1]`
    pub fn multi_dot(tensors: Vec<tch::Tensor>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linalg_multi_dot(&tensors)?)
    }
}

fn named<const N: usize>(tensors: [(&str, tch::Tensor); N]) -> Map {
    tensors.into_iter().map(|(name, t)| (name.into(), Dynamic::from(Tensor::from(t)))).collect()
}

/// U, S and Vh. libtorch's linalg_svd takes a driver here, which a CPU refuses.
fn svd_of(a: &tch::Tensor, full: bool) -> Result<(tch::Tensor, tch::Tensor, tch::Tensor)> {
    let (u, s, v) = a.f_svd(!full, true)?;
    Ok((u, s, v.f_transpose(-2, -1)?.f_conj()?))
}
