//! Operators: arithmetic, comparison and logic, element by element.

use crate::error::Result;
use crate::script::registry::{Namespace, Signature, call_guarded, tensor_of};
use crate::script::values::Tensor;
use crate::types::Typed;
use nepa_macros::functions;
use rhai::{NativeCallContext, Variant};
use tch::{Kind, Scalar, TchError};

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

    /// Logical not, for bool tensors.
    #[script(name = "!")]
    pub fn not(t: &Tensor) -> Result<tch::Tensor> {
        Ok(t.f_logical_not()?)
    }
}

/// An operator between two tensors, or a tensor and a number on either side.
struct Operator {
    name: &'static str,
    doc: &'static [&'static str],
    with_tensor: WithTensor,
    with_number: WithNumber,
}

type WithTensor = fn(&tch::Tensor, &tch::Tensor) -> Result<tch::Tensor, TchError>;
type WithNumber = fn(&tch::Tensor, Scalar) -> Result<tch::Tensor, TchError>;

static OPERATORS: [Operator; 12] = [
    Operator::new("+", &[" Sum; shapes broadcast."], tch::Tensor::f_add, tch::Tensor::f_add_scalar),
    Operator::new("-", &[" Difference; shapes broadcast."], tch::Tensor::f_sub, tch::Tensor::f_sub_scalar),
    Operator::new(
        "*",
        &[" Product, element by element; shapes broadcast."],
        tch::Tensor::f_mul,
        tch::Tensor::f_mul_scalar,
    ),
    Operator::new("/", &[" Quotient; shapes broadcast."], tch::Tensor::f_div, tch::Tensor::f_div_scalar),
    Operator::new(
        "%",
        &[" Remainder of a division, with the divisor's sign, as in Python; shapes broadcast."],
        tch::Tensor::f_remainder_tensor,
        tch::Tensor::f_remainder,
    ),
    Operator::new(
        "**",
        &[" a to the power of b; shapes broadcast."],
        tch::Tensor::f_pow,
        tch::Tensor::f_pow_tensor_scalar,
    ),
    Operator::new(
        "==",
        &[" Whether elements are equal, as a bool tensor."],
        tch::Tensor::f_eq_tensor,
        tch::Tensor::f_eq,
    ),
    Operator::new("!=", &[" Whether elements differ, as a bool tensor."], tch::Tensor::f_ne_tensor, tch::Tensor::f_ne),
    Operator::new(
        "<",
        &[" Whether elements of a are less than those of b, as a bool tensor."],
        tch::Tensor::f_lt_tensor,
        tch::Tensor::f_lt,
    ),
    Operator::new(
        "<=",
        &[" Whether elements of a are at most those of b, as a bool tensor."],
        tch::Tensor::f_le_tensor,
        tch::Tensor::f_le,
    ),
    Operator::new(
        ">",
        &[" Whether elements of a are greater than those of b, as a bool tensor."],
        tch::Tensor::f_gt_tensor,
        tch::Tensor::f_gt,
    ),
    Operator::new(
        ">=",
        &[" Whether elements of a are at least those of b, as a bool tensor."],
        tch::Tensor::f_ge_tensor,
        tch::Tensor::f_ge,
    ),
];

impl Operator {
    const fn new(
        name: &'static str,
        doc: &'static [&'static str],
        with_tensor: WithTensor,
        with_number: WithNumber,
    ) -> Self {
        Self { name, doc, with_tensor, with_number }
    }

    fn register(&'static self, namespace: &mut Namespace<'_>) {
        self.overload(namespace, |o, a: &Tensor, b: &Tensor| Ok((o.with_tensor)(a, b)?));
        self.overload(namespace, |o, a: &Tensor, b: &f64| Ok((o.with_number)(a, (*b).into())?));
        self.overload(namespace, |o, a: &Tensor, b: &i64| Ok((o.with_number)(a, (*b).into())?));
        self.overload(namespace, |o, a: &f64, b: &Tensor| Ok((o.with_tensor)(&float_scalar(*a, b)?, b)?));
        self.overload(namespace, |o, a: &i64, b: &Tensor| Ok((o.with_tensor)(&int_scalar(*a, b)?, b)?));
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

/// A float as a tensor, for the left side of an operator.
fn float_scalar(x: f64, like: &Tensor) -> Result<tch::Tensor> {
    let kind = if like.is_floating_point() { like.kind() } else { Kind::Float };
    Ok(tch::Tensor::f_full([0i64; 0], x, (kind, like.device()))?)
}

/// An int as a tensor, for the left side of an operator. As in PyTorch, it takes the other side's dtype.
fn int_scalar(x: i64, like: &Tensor) -> Result<tch::Tensor> {
    let kind = if like.kind() == Kind::Bool { Kind::Int64 } else { like.kind() };
    Ok(tch::Tensor::f_full([0i64; 0], x, (kind, like.device()))?)
}

#[functions]
mod logic {
    use super::*;

    /// Logical and, for bool tensors.
    #[script(name = "&")]
    pub fn and(a: &Tensor, b: &Tensor) -> Result<tch::Tensor> {
        Ok(a.f_logical_and(b)?)
    }

    /// Logical or, for bool tensors.
    #[script(name = "|")]
    pub fn or(a: &Tensor, b: &Tensor) -> Result<tch::Tensor> {
        Ok(a.f_logical_or(b)?)
    }
}
