//! Functions of each element of one tensor, in a table.

use crate::error::Result;
use crate::script::registry::{Namespace, Signature, call_guarded};
use crate::script::values::Tensor;
use crate::types::Typed;
use rhai::NativeCallContext;
use tch::TchError;

pub fn register(namespace: &mut Namespace<'_>) {
    for unary in &UNARY {
        unary.register(namespace);
    }
}

/// A function of one tensor.
struct Unary {
    name: &'static str,
    doc: &'static [&'static str],
    apply: fn(&tch::Tensor) -> Result<tch::Tensor, TchError>,
}

macro_rules! unary {
    ($name:literal, $apply:ident, $text:literal, $example:literal) => {
        Unary {
            name: $name,
            doc: &[concat!(" ", $text), "", concat!(" Example: `", $example, "`")],
            apply: tch::Tensor::$apply,
        }
    };
}

#[rustfmt::skip]
static UNARY: [Unary; 48] = [
    unary!("exp", f_exp, "e to the power of each element.", "tensor([0.0]).exp().item() == 1.0"),
    unary!("exp2", f_exp2, "2 to the power of each element.", "tensor([3.0]).exp2().item() == 8.0"),
    unary!("expm1", f_expm1, "eˣ − 1, exact near 0.", "tensor([0.0]).expm1().item() == 0.0"),
    unary!("log", f_log, "Natural logarithm.", "tensor([1.0]).log().item() == 0.0"),
    unary!("log2", f_log2, "Logarithm to base 2.", "tensor([8.0]).log2().item() == 3.0"),
    unary!("log10", f_log10, "Logarithm to base 10.", "tensor([100.0]).log10().item() == 2.0"),
    unary!("log1p", f_log1p, "ln(1 + x), exact near 0.", "tensor([0.0]).log1p().item() == 0.0"),
    unary!("sqrt", f_sqrt, "Square root.", "tensor([9.0]).sqrt().item() == 3.0"),
    unary!("rsqrt", f_rsqrt, "1 / √x.", "tensor([4.0]).rsqrt().item() == 0.5"),
    unary!("square", f_square, "Each element times itself.", "tensor([-3]).square().item() == 9"),
    unary!("reciprocal", f_reciprocal, "1 / x.", "tensor([4.0]).reciprocal().item() == 0.25"),
    unary!("neg", f_neg, "−x.", "tensor([4]).neg().item() == -4"),
    unary!("abs", f_abs, "Absolute value; of complex numbers the magnitude.", "tensor([-2.5]).abs().item() == 2.5"),
    unary!("sign", f_sign, "−1, 0 or 1.", "tensor([-2.5, 0.0, 3.0]).sign().to_array() == [-1.0, 0.0, 1.0]"),
    unary!("sgn", f_sgn, "−1, 0 or 1; of complex numbers x / |x|.", "tensor([-2.5]).sgn().item() == -1.0"),
    unary!("sin", f_sin, "Sine of radians.", "tensor([0.0]).sin().item() == 0.0"),
    unary!("cos", f_cos, "Cosine of radians.", "tensor([0.0]).cos().item() == 1.0"),
    unary!("tan", f_tan, "Tangent of radians.", "tensor([0.0]).tan().item() == 0.0"),
    unary!("asin", f_asin, "Arcsine, in radians.", "tensor([0.0]).asin().item() == 0.0"),
    unary!("acos", f_acos, "Arccosine, in radians.", "tensor([1.0]).acos().item() == 0.0"),
    unary!("atan", f_atan, "Arctangent, in radians.", "tensor([0.0]).atan().item() == 0.0"),
    unary!("sinh", f_sinh, "Hyperbolic sine.", "tensor([0.0]).sinh().item() == 0.0"),
    unary!("cosh", f_cosh, "Hyperbolic cosine.", "tensor([0.0]).cosh().item() == 1.0"),
    unary!("tanh", f_tanh, "Hyperbolic tangent.", "tensor([0.0]).tanh().item() == 0.0"),
    unary!("asinh", f_asinh, "Inverse hyperbolic sine.", "tensor([0.0]).asinh().item() == 0.0"),
    unary!("acosh", f_acosh, "Inverse hyperbolic cosine.", "tensor([1.0]).acosh().item() == 0.0"),
    unary!("atanh", f_atanh, "Inverse hyperbolic tangent.", "tensor([0.0]).atanh().item() == 0.0"),
    unary!("sigmoid", f_sigmoid, "1 / (1 + e^−x).", "tensor([0.0]).sigmoid().item() == 0.5"),
    unary!("erf", f_erf, "The error function.", "tensor([0.0]).erf().item() == 0.0"),
    unary!("erfc", f_erfc, "1 − erf(x).", "tensor([0.0]).erfc().item() == 1.0"),
    unary!("erfinv", f_erfinv, "The inverse of erf, for values in (−1, 1).", "tensor([0.0]).erfinv().item() == 0.0"),
    unary!("lgamma", f_lgamma, "Logarithm of the absolute value of the gamma function.", "tensor([1.0]).lgamma().item() == 0.0"),
    unary!("digamma", f_digamma, "Derivative of lgamma.", "tensor([1.0]).digamma().item() < -0.577"),
    unary!("floor", f_floor, "The largest integer not above each element.", "tensor([-1.5]).floor().item() == -2.0"),
    unary!("ceil", f_ceil, "The smallest integer not below each element.", "tensor([-1.5]).ceil().item() == -1.0"),
    unary!("trunc", f_trunc, "Each element without what stands behind the point.", "tensor([-1.5]).trunc().item() == -1.0"),
    unary!("frac", f_frac, "What stands behind the point, with the element's sign.", "tensor([-1.5]).frac().item() == -0.5"),
    unary!("deg2rad", f_deg2rad, "Degrees as radians.", "tensor([0.0]).deg2rad().item() == 0.0"),
    unary!("rad2deg", f_rad2deg, "Radians as degrees.", "tensor([0.0]).rad2deg().item() == 0.0"),
    unary!("isnan", f_isnan, "Whether elements are NaN, as a bool tensor.", "tensor([1.0]).isnan().to_array() == [false]"),
    unary!("isinf", f_isinf, "Whether elements are infinite, as a bool tensor.", "tensor([1.0]).isinf().to_array() == [false]"),
    unary!("isfinite", f_isfinite, "Whether elements are finite, as a bool tensor; `is_finite` tells of all at once.", "tensor([1.0]).isfinite().to_array() == [true]"),
    unary!("logical_not", f_logical_not, "Whether elements are false or 0, as a bool tensor.", "tensor([0, 2]).logical_not().to_array() == [true, false]"),
    unary!("bitwise_not", f_bitwise_not, "Each bit inverted; for bool tensors, not.", "tensor([0]).bitwise_not().item() == -1"),
    unary!("conj", f_conj, "The complex conjugate.", "tensor([1.0]).conj().item() == 1.0"),
    unary!("angle", f_angle, "The angle of complex numbers, in radians; π for negative real ones.", "tensor([1.0]).angle().item() == 0.0"),
    unary!("view_as_real", f_view_as_real, "A complex tensor as its real and imaginary parts, in a last dimension of size 2.", "fft::fft(ones([4])).view_as_real().shape == [4, 2]"),
    unary!("view_as_complex", f_view_as_complex, "A tensor [..., 2] as complex numbers.", "ones([4, 2]).view_as_complex().shape == [4]"),
];

impl Unary {
    fn register(&'static self, namespace: &mut Namespace<'_>) {
        let signature = Signature {
            name: self.name,
            doc: self.doc,
            params: vec![("input", Tensor::script_type())],
            returns: Tensor::script_type(),
            options: Vec::new(),
        };
        namespace.add(signature, |call: NativeCallContext<'_>, input: Tensor| {
            let given = [Some(input.clone())];
            call_guarded(|| Ok(Tensor::from((self.apply)(&input)?)), &given, call.call_position())
        });
    }
}
