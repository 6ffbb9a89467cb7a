//! Fourier transforms, as torch.fft has them. `norm` is "backward" (the inverse divides by n), "forward" or "ortho".

use super::arguments::Dims;
use crate::error::Result;
use crate::script::values::Tensor;
use nepa_macros::functions;
use tch::Kind;

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// The Fourier transform along a dimension, complex; cut or padded with zeros to n first.
    ///
    /// Example: `fft::fft(ones([4])).real.to_array() == [4.0, 0.0, 0.0, 0.0]`
    pub fn fft(
        input: &Tensor,
        #[default(())] n: Option<i64>,
        #[default(-1)] dim: i64,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_fft(n, dim, norm)?)
    }

    /// The inverse Fourier transform along a dimension, complex.
    ///
    /// Example: `fft::ifft(fft::fft(arange(4).float())).real.allclose(arange(4).float())`
    pub fn ifft(
        input: &Tensor,
        #[default(())] n: Option<i64>,
        #[default(-1)] dim: i64,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_ifft(n, dim, norm)?)
    }

    /// The Fourier transform of real values along a dimension: the first n / 2 + 1 frequencies, complex.
    ///
    /// Example: `fft::rfft(ones([8])).shape == [5]`
    pub fn rfft(
        input: &Tensor,
        #[default(())] n: Option<i64>,
        #[default(-1)] dim: i64,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_rfft(n, dim, norm)?)
    }

    /// Real values of the first frequencies along a dimension; n is 2 · (frequencies − 1) if ().
    ///
    /// Example: `fft::irfft(fft::rfft(ones([8]))).allclose(ones([8]))`
    pub fn irfft(
        input: &Tensor,
        #[default(())] n: Option<i64>,
        #[default(-1)] dim: i64,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_irfft(n, dim, norm)?)
    }

    /// The Fourier transform over two dimensions, complex; cut or padded with zeros to s first.
    ///
    /// Example: `fft::fft2(ones([4, 4])).real.sum().item() == 16.0`
    pub fn fft2(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default([-2, -1])] dim: Vec<i64>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_fft2(s.as_deref(), dim, norm)?)
    }

    /// The inverse Fourier transform over two dimensions, complex.
    ///
    /// Example: `fft::ifft2(fft::fft2(ones([4, 4]))).real.allclose(ones([4, 4]))`
    pub fn ifft2(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default([-2, -1])] dim: Vec<i64>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_ifft2(s.as_deref(), dim, norm)?)
    }

    /// The Fourier transform of real values over two dimensions, the last with its first frequencies alone, complex.
    ///
    /// Example: `fft::rfft2(ones([4, 8])).shape == [4, 5]`
    pub fn rfft2(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default([-2, -1])] dim: Vec<i64>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_rfft2(s.as_deref(), dim, norm)?)
    }

    /// Real values of what rfft2 gave.
    ///
    /// Example: `fft::irfft2(fft::rfft2(ones([4, 8]))).allclose(ones([4, 8]))`
    pub fn irfft2(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default([-2, -1])] dim: Vec<i64>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_irfft2(s.as_deref(), dim, norm)?)
    }

    /// The Fourier transform over several dimensions, all if (), complex.
    ///
    /// Example: `fft::fftn(ones([2, 2, 2])).real.sum().item() == 8.0`
    pub fn fftn(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default(())] dim: Option<Vec<i64>>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_fftn(s.as_deref(), dim.as_deref(), norm)?)
    }

    /// The inverse Fourier transform over several dimensions, complex.
    ///
    /// Example: `fft::ifftn(fft::fftn(ones([2, 2]))).real.allclose(ones([2, 2]))`
    pub fn ifftn(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default(())] dim: Option<Vec<i64>>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_ifftn(s.as_deref(), dim.as_deref(), norm)?)
    }

    /// The Fourier transform of real values over several dimensions, the last with its first frequencies alone.
    ///
    /// Example: `fft::rfftn(ones([2, 4])).shape == [2, 3]`
    pub fn rfftn(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default(())] dim: Option<Vec<i64>>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_rfftn(s.as_deref(), dim.as_deref(), norm)?)
    }

    /// Real values of what rfftn gave.
    ///
    /// Example: `fft::irfftn(fft::rfftn(ones([2, 4]))).allclose(ones([2, 4]))`
    pub fn irfftn(
        input: &Tensor,
        #[default(())] s: Option<Vec<i64>>,
        #[default(())] dim: Option<Vec<i64>>,
        #[default("backward")] norm: &str,
    ) -> Result<tch::Tensor> {
        Ok(input.f_fft_irfftn(s.as_deref(), dim.as_deref(), norm)?)
    }

    /// Frequencies with 0 moved to the middle, along one dimension, an array of them, or all.
    ///
    /// Example: `fft::fftshift(arange(4)).to_array() == [2, 3, 0, 1]`
    pub fn fftshift(input: &Tensor, #[default(())] dim: Option<Dims>) -> Result<tch::Tensor> {
        Ok(input.f_fft_fftshift(dim.as_ref().map(|dim| dim.0.as_slice()))?)
    }

    /// Undoes fftshift.
    ///
    /// Example: `fft::ifftshift(fft::fftshift(arange(5))).to_array() == [0, 1, 2, 3, 4]`
    pub fn ifftshift(input: &Tensor, #[default(())] dim: Option<Dims>) -> Result<tch::Tensor> {
        Ok(input.f_fft_ifftshift(dim.as_ref().map(|dim| dim.0.as_slice()))?)
    }

    /// The frequencies of fft's n values, in cycles per unit, for values d units apart.
    ///
    /// Example: `fft::fftfreq(4).to_array() == [0.0, 0.25, -0.5, -0.25]`
    pub fn fftfreq(n: i64, #[default(1.0)] d: f64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_fft_fftfreq(n, d, (Kind::Float, crate::device::current()))?)
    }

    /// The frequencies of rfft's n / 2 + 1 values.
    ///
    /// Example: `fft::rfftfreq(4).to_array() == [0.0, 0.25, 0.5]`
    pub fn rfftfreq(n: i64, #[default(1.0)] d: f64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_fft_rfftfreq(n, d, (Kind::Float, crate::device::current()))?)
    }
}
