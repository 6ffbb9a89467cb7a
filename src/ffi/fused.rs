//! Fused parts of a block (`fused/`): each is one node of the graph.

use super::{Fault, check, optional_handle};
use crate::error::Result;
use std::ffi::{CStr, c_char, c_int};
use tch::{Kind, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn nepa_fused_qkv(
        inputs: *const *mut C_tensor,
        angles: *mut C_tensor,
        heads: i64,
        eps: f64,
        qk_norm: bool,
        qk_eps: f64,
        bfloat16: bool,
        outputs: *mut *mut C_tensor,
    ) -> *mut Fault;
    fn nepa_fused_attention(
        q: *mut C_tensor,
        k: *mut C_tensor,
        v: *mut C_tensor,
        causal: bool,
        output: *mut *mut C_tensor,
    ) -> *mut Fault;
    fn nepa_cpu_kernels() -> *const c_char;
    fn nepa_fused_projection(inputs: *const *mut C_tensor, output: *mut *mut C_tensor) -> *mut Fault;
    fn nepa_fused_mlp(
        inputs: *const *mut C_tensor,
        act: c_int,
        eps: f64,
        bfloat16: bool,
        output: *mut *mut C_tensor,
    ) -> *mut Fault;
}

/// The instruction set that the CPU's kernels are compiled for; `None` where NEPA_CPU_KERNELS says that there are none.
pub fn cpu_kernels() -> Option<&'static str> {
    // SAFETY: null or a static string.
    let name = unsafe { nepa_cpu_kernels() };
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_str().expect("an ASCII name"))
}

/// An affine map's weight [out, in] and bias [out], where it has any.
pub type Affine<'a> = (Option<&'a Tensor>, Option<&'a Tensor>);

/// A LayerNorm's weight and bias, and what is added to the variance.
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// Weight and bias [D], where it has any.
    pub affine: Affine<'a>,
    /// Added to the variance.
    pub eps: f64,
}

/// Queries, keys and values [B, H, N, d] of x [B, N, D], in the dtype `kind` (float32 or bfloat16), in which products are
/// computed: those of LN(x), q and k normed over a head's width where `qk_norms` are given, and turned by `angles` where
/// there are any. Everything else is float32 and on one device.
pub fn qkv(
    x: &Tensor,
    norm: Norm<'_>,
    products: [Affine<'_>; 3],
    qk_norms: Option<[Norm<'_>; 2]>,
    angles: Option<&Tensor>,
    heads: i64,
    kind: Kind,
) -> Result<[Tensor; 3]> {
    let [q, k, v] = products;
    let [q_norm, k_norm] = qk_norms.map_or([(None, None); 2], |norms| norms.map(|norm| norm.affine));
    let inputs =
        [Some(x), norm.affine.0, norm.affine.1, q.0, k.0, v.0, q.1, k.1, v.1, q_norm.0, k_norm.0, q_norm.1, k_norm.1]
            .map(optional_handle);
    let qk_eps = qk_norms.map(|norms| norms[0].eps);
    let mut outputs = [std::ptr::null_mut(); 3];
    // SAFETY: 13 handles that are live or null, as C++ expects; on success three new tensors that we own.
    check(unsafe {
        nepa_fused_qkv(
            inputs.as_ptr(),
            optional_handle(angles),
            heads,
            norm.eps,
            qk_eps.is_some(),
            qk_eps.unwrap_or(0.0),
            kind == Kind::BFloat16,
            outputs.as_mut_ptr(),
        )
    })?;
    Ok(outputs.map(|output| unsafe { Tensor::from_ptr(output) }))
}

/// softmax(q kᵀ / √d) v of q, k, v [B, H, N, d] as [`qkv`] gives them; `None` where there is no kernel of ours for them: on a
/// GPU, and for many tokens or wide heads.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, is_causal: bool) -> Result<Option<Tensor>> {
    let [q, k, v] = [q, k, v].map(|t| optional_handle(Some(t)));
    let mut output = std::ptr::null_mut();
    // SAFETY: live handles; on success null, or a new tensor that we own.
    check(unsafe { nepa_fused_attention(q, k, v, is_causal, &mut output) })?;
    Ok((!output.is_null()).then(|| unsafe { Tensor::from_ptr(output) }))
}

/// How a branch of a block ends, without the product: a LayerScale [D] and a drop path's mask [B, 1, 1], where there are
/// any.
#[derive(Clone, Copy)]
pub struct BranchEnd<'a> {
    /// Factors of LayerScale.
    pub scale: Option<&'a Tensor>,
    /// Of drop path: 0, or 1 / keep.
    pub mask: Option<&'a Tensor>,
}

/// x + mask ⊙ scale ⊙ (a Wᵀ + b), of x [B, N, D] in float32 and a [B, N, inputs] in the dtype of products.
pub fn projection(x: &Tensor, a: &Tensor, (weight, bias): Affine<'_>, end: BranchEnd<'_>) -> Result<Tensor> {
    let inputs = [Some(x), Some(a), weight, bias, end.scale, end.mask].map(optional_handle);
    let mut output = std::ptr::null_mut();
    // SAFETY: 6 handles that are live or null, as C++ expects; on success a new tensor that we own.
    check(unsafe { nepa_fused_projection(inputs.as_ptr(), &mut output) })?;
    Ok(unsafe { Tensor::from_ptr(output) })
}

/// The nonlinearity of [`mlp`], as C++ numbers it.
#[derive(Clone, Copy)]
pub enum FusedActivation {
    /// Exact GELU.
    Gelu = 0,
    /// x · sigmoid(x).
    Silu = 1,
}

/// The feed-forward branch of x [B, N, D], float32: x + mask ⊙ scale ⊙ down(act(up(LN(x)))), or with a gate
/// … down(act(gate(LN(x))) ⊙ up(LN(x))); products in the dtype `kind`.
pub fn mlp(
    x: &Tensor,
    norm: Norm<'_>,
    [up, gate, down]: [Affine<'_>; 3],
    end: BranchEnd<'_>,
    act: FusedActivation,
    kind: Kind,
) -> Result<Tensor> {
    let inputs =
        [Some(x), norm.affine.0, norm.affine.1, up.0, up.1, gate.0, gate.1, down.0, down.1, end.scale, end.mask]
            .map(optional_handle);
    let mut output = std::ptr::null_mut();
    // SAFETY: 11 handles that are live or null, as C++ expects; on success a new tensor that we own.
    check(unsafe { nepa_fused_mlp(inputs.as_ptr(), act as c_int, norm.eps, kind == Kind::BFloat16, &mut output) })?;
    Ok(unsafe { Tensor::from_ptr(output) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn a_second_derivative_is_refused() {
        let x = Tensor::randn([2, 3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let weight = Tensor::randn([4, 4], (Kind::Float, Device::Cpu));
        let end = BranchEnd { scale: None, mask: None };
        let y = projection(&x, &x, (Some(&weight), None), end).unwrap().square().sum(Kind::Float);
        let error = Tensor::f_run_backward(&[y], &[&x], true, true).unwrap_err().to_string();
        assert!(error.contains("no second derivative: use nn::fused(false)"), "{error}");
    }
}
