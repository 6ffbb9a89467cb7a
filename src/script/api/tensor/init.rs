//! Initial values, as torch.nn.init has them; each changes its tensor in place, without recording gradients.

use super::arguments::Number;
use crate::error::{Result, bail, ensure};
use crate::nn::truncated_normal;
use crate::random;
use crate::script::values::Tensor;
use crate::tensor::shape_text;
use nepa_macros::functions;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// Normal values.
    ///
    /// Example: `init::normal_(zeros([2]), 3.0, 0.0).to_array() == [3.0, 3.0]`
    pub fn normal_(tensor: &Tensor, #[default(0.0)] mean: f64, #[default(1.0)] std: f64) -> Result<tch::Tensor> {
        put(tensor, random::next_key().normal(&tensor.size())?.f_mul_scalar(std)?.f_add_scalar(mean)?)
    }

    /// Uniform values in [a, b).
    ///
    /// Example: `init::uniform_(zeros([9]), 2.0, 3.0).min().item() >= 2.0`
    pub fn uniform_(tensor: &Tensor, #[default(0.0)] a: f64, #[default(1.0)] b: f64) -> Result<tch::Tensor> {
        put(tensor, uniform(&tensor.size(), a, b)?)
    }

    /// Normal values, drawn again where they lie outside of a … b.
    ///
    /// Example: `init::trunc_normal_(zeros([99]), #{ std: 0.02, a: -0.04, b: 0.04 }).abs().max().item() <= 0.04`
    pub fn trunc_normal_(
        tensor: &Tensor,
        #[default(0.0)] mean: f64,
        #[default(1.0)] std: f64,
        #[default(-2.0)] a: f64,
        #[default(2.0)] b: f64,
    ) -> Result<tch::Tensor> {
        ensure!(a < b && std > 0.0, "init::trunc_normal_: expected a < b and std > 0, found {a}, {b} and {std}");
        put(tensor, truncated_normal(random::next_key(), &tensor.size(), mean, std, a, b)?)
    }

    /// One number everywhere.
    ///
    /// Example: `init::constant_(zeros([2]), 0.3).allclose(full([2], 0.3))`
    pub fn constant_(tensor: &Tensor, val: Number) -> Result<tch::Tensor> {
        put(tensor, tch::Tensor::f_full(tensor.size(), val.scalar(), (tensor.kind(), tch::Device::Cpu))?)
    }

    /// Zeros.
    ///
    /// Example: `init::zeros_(ones([2])).to_array() == [0.0, 0.0]`
    pub fn zeros_(tensor: &Tensor) -> Result<tch::Tensor> {
        put(tensor, tensor.f_zeros_like()?)
    }

    /// Ones.
    ///
    /// Example: `init::ones_(zeros([2])).to_array() == [1.0, 1.0]`
    pub fn ones_(tensor: &Tensor) -> Result<tch::Tensor> {
        put(tensor, tensor.f_ones_like()?)
    }

    /// The identity matrix.
    ///
    /// Example: `init::eye_(ones([2, 2])).equal(eye(2))`
    pub fn eye_(tensor: &Tensor) -> Result<tch::Tensor> {
        let [n, m] = tensor.size()[..] else { bail!("init::eye_: expected a matrix, found {}", shape_text(tensor)) };
        put(tensor, tch::Tensor::f_eye_m(n, m, tch::kind::FLOAT_CPU)?)
    }

    /// Uniform values of variance gain² · 2 / (inputs + outputs) (Glorot & Bengio 2010).
    ///
    /// Example: `init::xavier_uniform_(zeros([3, 3])).abs().max().item() <= 1.0`
    pub fn xavier_uniform_(tensor: &Tensor, #[default(1.0)] gain: f64) -> Result<tch::Tensor> {
        let (inputs, outputs) = fans(tensor)?;
        let bound = gain * (6.0 / (inputs + outputs)).sqrt();
        put(tensor, uniform(&tensor.size(), -bound, bound)?)
    }

    /// Normal values of variance gain² · 2 / (inputs + outputs) (Glorot & Bengio 2010).
    ///
    /// Example: `init::xavier_normal_(zeros([3, 3])).is_finite()`
    pub fn xavier_normal_(tensor: &Tensor, #[default(1.0)] gain: f64) -> Result<tch::Tensor> {
        let (inputs, outputs) = fans(tensor)?;
        let std = gain * (2.0 / (inputs + outputs)).sqrt();
        put(tensor, random::next_key().normal(&tensor.size())?.f_mul_scalar(std)?)
    }

    /// Uniform values of variance gain² / inputs, or with mode "fan_out" outputs (He et al. 2015); the gain is that of
    /// `nonlinearity`, of which `a` is the negative slope of "leaky_relu".
    ///
    /// Example: `init::kaiming_uniform_(zeros([4, 6]), #{ nonlinearity: "relu" }).abs().max().item() <= 1.0`
    pub fn kaiming_uniform_(
        tensor: &Tensor,
        #[default(0.0)] a: f64,
        #[default("fan_in")] mode: &str,
        #[default("leaky_relu")] nonlinearity: &str,
    ) -> Result<tch::Tensor> {
        let bound = 3f64.sqrt() * kaiming_std(tensor, a, mode, nonlinearity)?;
        put(tensor, uniform(&tensor.size(), -bound, bound)?)
    }

    /// Normal values of variance gain² / inputs, or with mode "fan_out" outputs (He et al. 2015); the gain is that of
    /// `nonlinearity`, of which `a` is the negative slope of "leaky_relu".
    ///
    /// Example: `init::kaiming_normal_(zeros([4, 6]), #{ mode: "fan_out" }).is_finite()`
    pub fn kaiming_normal_(
        tensor: &Tensor,
        #[default(0.0)] a: f64,
        #[default("fan_in")] mode: &str,
        #[default("leaky_relu")] nonlinearity: &str,
    ) -> Result<tch::Tensor> {
        let std = kaiming_std(tensor, a, mode, nonlinearity)?;
        put(tensor, random::next_key().normal(&tensor.size())?.f_mul_scalar(std)?)
    }

    /// Orthogonal rows or columns, of the tensor taken as a matrix [first size, the rest] (Saxe et al. 2013).
    ///
    /// Example: `let w = init::orthogonal_(zeros([3, 3])); w.matmul(w.t()).allclose(eye(3), #{ atol: 1e-5 })`
    pub fn orthogonal_(tensor: &Tensor, #[default(1.0)] gain: f64) -> Result<tch::Tensor> {
        ensure!(tensor.dim() >= 2, "init::orthogonal_: expected 2 dimensions or more, found {}", shape_text(tensor));
        let rows = tensor.size()[0];
        let columns = tensor.numel() as i64 / rows.max(1);
        let drawn = random::next_key().normal(&[rows, columns])?;
        let turned = if rows < columns { drawn.f_transpose(0, 1)? } else { drawn };
        let (q, r) = tch::Tensor::f_linalg_qr(&turned, "reduced")?;
        let q = q.f_mul(&r.f_diagonal(0, 0, 1)?.f_sign()?)?;
        let q = if rows < columns { q.f_transpose(0, 1)? } else { q };
        put(tensor, q.f_mul_scalar(gain)?.f_reshape(tensor.size())?)
    }

    /// The factor that keeps the variance through a nonlinearity, as torch.nn.init.calculate_gain gives it: of "linear",
    /// "sigmoid", "tanh", "relu", "leaky_relu" (of a negative slope `param`, 0.01 if ()), "selu".
    ///
    /// Example: `init::calculate_gain("tanh") > 1.66`
    pub fn calculate_gain(nonlinearity: &str, #[default(())] param: Option<f64>) -> Result<f64> {
        gain_of(nonlinearity, param.unwrap_or(0.01))
    }
}

/// Writes values into a tensor, which it gives back.
fn put(tensor: &Tensor, values: tch::Tensor) -> Result<tch::Tensor> {
    tch::no_grad(|| tensor.shallow_clone().f_copy_(&values))?;
    Ok(tensor.shallow_clone())
}

fn uniform(size: &[i64], low: f64, high: f64) -> Result<tch::Tensor> {
    Ok(random::next_key().uniform(size)?.f_mul_scalar(high - low)?.f_add_scalar(low)?)
}

/// How many inputs an output has, and how many outputs an input.
fn fans(tensor: &tch::Tensor) -> Result<(f64, f64)> {
    ensure!(tensor.dim() >= 2, "expected a weight of 2 dimensions or more, found {}", shape_text(tensor));
    let size = tensor.size();
    let field: i64 = size[2..].iter().product();
    Ok(((size[1] * field) as f64, (size[0] * field) as f64))
}

fn kaiming_std(tensor: &tch::Tensor, a: f64, mode: &str, nonlinearity: &str) -> Result<f64> {
    let (inputs, outputs) = fans(tensor)?;
    let fan = match mode {
        "fan_in" => inputs,
        "fan_out" => outputs,
        other => bail!("unknown mode \"{other}\" (one of: fan_in, fan_out)"),
    };
    Ok(gain_of(nonlinearity, a)? / fan.sqrt())
}

fn gain_of(nonlinearity: &str, slope: f64) -> Result<f64> {
    Ok(match nonlinearity {
        "linear" | "sigmoid" => 1.0,
        "tanh" => 5.0 / 3.0,
        "relu" => 2f64.sqrt(),
        "leaky_relu" => (2.0 / (1.0 + slope * slope)).sqrt(),
        "selu" => 0.75,
        other => bail!("unknown nonlinearity \"{other}\" (one of: linear, sigmoid, tanh, relu, leaky_relu, selu)"),
    })
}
