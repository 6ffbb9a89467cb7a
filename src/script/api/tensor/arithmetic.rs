//! Operators: arithmetic, comparison and logic, element by element.

use crate::bail_hint;
use crate::error::Result;
use crate::script::registry::{Namespace, Signature, call_guarded, tensor_of};
use crate::script::values::Tensor;
use crate::tensor::shape_text;
use crate::types::Typed;
use nepa_macros::functions;
use rhai::{NativeCallContext, Variant};
use tch::{Scalar, TchError};

pub fn register(namespace: &mut Namespace<'_>) {
    functions::register(namespace);
    for operator in &OPERATORS {
        operator.register(namespace);
    }
    logic::register(namespace);
}

#[functions]
mod functions {
    use super::*;

    /// Negation.
    #[script(name = "-")]
    pub fn negative(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_neg()?)
    }

    /// Not: of bool tensors, or each bit of ints inverted.
    #[script(name = "!")]
    pub fn not(t: &Tensor) -> Result<tch::Tensor> {
        have_bits("!", &[t])?;
        Ok(t.f_bitwise_not()?)
    }
}

/// An operator between two tensors, or a tensor and a number on either side.
struct Operator {
    name: &'static str,
    doc: &'static [&'static str],
    with_tensor: WithTensor,
    with_number: WithNumber,
    of_number: OfNumber,
}

type WithTensor = fn(&tch::Tensor, &tch::Tensor) -> Result<tch::Tensor, TchError>;
type WithNumber = fn(&tch::Tensor, Scalar) -> Result<tch::Tensor, TchError>;
type OfNumber = fn(Scalar, &tch::Tensor) -> Result<tch::Tensor, TchError>;

/// Numbers stay numbers: as tensors of the other side's dtype they would be rounded before they take part. On the left
/// each is taken as PyTorch takes it.
static OPERATORS: [Operator; 12] = [
    Operator {
        name: "+",
        doc: &[" Sum; shapes broadcast."],
        with_tensor: tch::Tensor::f_add,
        with_number: tch::Tensor::f_add_scalar,
        of_number: |x, t| t.f_add_scalar(x),
    },
    Operator {
        name: "-",
        doc: &[" Difference; shapes broadcast."],
        with_tensor: tch::Tensor::f_sub,
        with_number: tch::Tensor::f_sub_scalar,
        of_number: |x, t| t.f_rsub_scalar(x),
    },
    Operator {
        name: "*",
        doc: &[" Product, element by element; shapes broadcast."],
        with_tensor: tch::Tensor::f_mul,
        with_number: tch::Tensor::f_mul_scalar,
        of_number: |x, t| t.f_mul_scalar(x),
    },
    Operator {
        name: "/",
        doc: &[" Quotient; shapes broadcast."],
        with_tensor: tch::Tensor::f_div,
        with_number: tch::Tensor::f_div_scalar,
        of_number: |x, t| t.f_reciprocal()?.f_mul_scalar(x),
    },
    Operator {
        name: "%",
        doc: &[" Remainder of a division, with the divisor's sign, as in Python; shapes broadcast."],
        with_tensor: tch::Tensor::f_remainder_tensor,
        with_number: tch::Tensor::f_remainder,
        of_number: tch::Tensor::f_remainder_scalar_tensor,
    },
    Operator {
        name: "**",
        doc: &[" a to the power of b; shapes broadcast."],
        with_tensor: tch::Tensor::f_pow,
        with_number: tch::Tensor::f_pow_tensor_scalar,
        of_number: tch::Tensor::f_pow_scalar,
    },
    Operator {
        name: "==",
        doc: &[" Whether elements are equal, as a bool tensor."],
        with_tensor: tch::Tensor::f_eq_tensor,
        with_number: tch::Tensor::f_eq,
        of_number: |x, t| t.f_eq(x),
    },
    Operator {
        name: "!=",
        doc: &[" Whether elements differ, as a bool tensor."],
        with_tensor: tch::Tensor::f_ne_tensor,
        with_number: tch::Tensor::f_ne,
        of_number: |x, t| t.f_ne(x),
    },
    Operator {
        name: "<",
        doc: &[" Whether elements of a are less than those of b, as a bool tensor."],
        with_tensor: tch::Tensor::f_lt_tensor,
        with_number: tch::Tensor::f_lt,
        of_number: |x, t| t.f_gt(x),
    },
    Operator {
        name: "<=",
        doc: &[" Whether elements of a are at most those of b, as a bool tensor."],
        with_tensor: tch::Tensor::f_le_tensor,
        with_number: tch::Tensor::f_le,
        of_number: |x, t| t.f_ge(x),
    },
    Operator {
        name: ">",
        doc: &[" Whether elements of a are greater than those of b, as a bool tensor."],
        with_tensor: tch::Tensor::f_gt_tensor,
        with_number: tch::Tensor::f_gt,
        of_number: |x, t| t.f_lt(x),
    },
    Operator {
        name: ">=",
        doc: &[" Whether elements of a are at least those of b, as a bool tensor."],
        with_tensor: tch::Tensor::f_ge_tensor,
        with_number: tch::Tensor::f_ge,
        of_number: |x, t| t.f_le(x),
    },
];

impl Operator {
    fn register(&'static self, namespace: &mut Namespace<'_>) {
        self.overload(namespace, |o, a: &Tensor, b: &Tensor| Ok((o.with_tensor)(a, b)?));
        self.overload(namespace, |o, a: &Tensor, b: &f64| Ok((o.with_number)(a, (*b).into())?));
        self.overload(namespace, |o, a: &Tensor, b: &i64| Ok((o.with_number)(a, (*b).into())?));
        self.overload(namespace, |o, a: &f64, b: &Tensor| Ok((o.of_number)((*a).into(), b)?));
        self.overload(namespace, |o, a: &i64, b: &Tensor| Ok((o.of_number)((*a).into(), b)?));
    }

    fn overload<A: Typed + Variant + Clone, B: Typed + Variant + Clone>(
        &'static self,
        namespace: &mut Namespace<'_>,
        apply: fn(&Self, &A, &B) -> Result<tch::Tensor>,
    ) {
        let signature = Signature {
            name: self.name,
            doc: self.doc,
            params: vec![("a", A::script_type()), ("b", B::script_type())],
            returns: Tensor::script_type(),
            options: Vec::new(),
        };
        namespace.add(signature, move |call: NativeCallContext<'_>, a: A, b: B| {
            let given = [tensor_of(&a), tensor_of(&b)];
            call_guarded(|| Ok(Tensor::from(apply(self, &a, &b)?)), &given, call.call_position())
        });
    }
}

#[functions]
mod logic {
    use super::*;

    /// And: of bool tensors, or bit by bit of ints.
    #[script(name = "&")]
    pub fn and(a: &Tensor, b: &Tensor) -> Result<tch::Tensor> {
        have_bits("&", &[a, b])?;
        Ok(a.f_bitwise_and_tensor(b)?)
    }

    /// Or: of bool tensors, or bit by bit of ints.
    #[script(name = "|")]
    pub fn or(a: &Tensor, b: &Tensor) -> Result<tch::Tensor> {
        have_bits("|", &[a, b])?;
        Ok(a.f_bitwise_or_tensor(b)?)
    }
}

fn have_bits(operator: &str, tensors: &[&Tensor]) -> Result<()> {
    if let Some(t) = tensors.iter().find(|t| t.is_floating_point() || crate::tensor::is_complex(t)) {
        bail_hint!(
            "{operator}: expected bool or int tensors, found {}", shape_text(t);
            "compare first, as in x > 0"
        );
    }
    Ok(())
}
