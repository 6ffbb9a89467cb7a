//! What functions of tensors take: shapes, dimensions, numbers, dtypes.

use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean};
use crate::ffi;
use crate::script::types::Argument;
use crate::script::values::{Tensor, found, ints, shape};
use crate::tensor::{DTYPES, Dtype};
use crate::types::{Type, Typed};
use rhai::{Array, Dynamic, ImmutableString};
use tch::{Kind, Scalar};

/// The dtype of a name.
pub fn kind_of(name: &str) -> Result<Kind> {
    match Dtype::find(|dtype| dtype.name == name) {
        Some(dtype) => Ok(dtype.kind),
        None => {
            let names = DTYPES.each_ref().map(|dtype| dtype.name);
            bail_hint!("unknown dtype \"{name}\"{}", did_you_mean(name, names); "the dtypes are: {}", names.join(", "))
        }
    }
}

/// A dtype, by its name.
pub struct DType(pub Kind);

impl Typed for DType {
    fn script_type() -> Type {
        Type::named("string")
    }
}

impl Argument for DType {
    type Raw = ImmutableString;
    fn read(raw: ImmutableString, _: &str) -> Result<Self> {
        kind_of(&raw).map(Self)
    }
}

/// The sizes of a new tensor.
pub struct Shape(pub Vec<i64>);

impl Typed for Shape {
    fn script_type() -> Type {
        Vec::<i64>::script_type()
    }
}

impl Argument for Shape {
    type Raw = Array;
    fn read(raw: Array, _: &str) -> Result<Self> {
        Ok(Self(shape(&raw)?))
    }
}

/// Dimensions or sizes given as one int or an array of ints.
#[derive(Clone)]
pub struct Dims(pub Vec<i64>);

impl Dims {
    /// One for each of `n` dimensions; a single one stands for all.
    pub fn each(&self, n: usize, what: &str) -> Result<Vec<i64>> {
        match self.0.len() {
            1 => Ok(vec![self.0[0]; n]),
            len if len == n => Ok(self.0.clone()),
            _ => bail!("{what}: expected an int or {n} of them, found {:?}", self.0),
        }
    }
}

impl Typed for Dims {
    fn script_type() -> Type {
        Type::Either(vec![i64::script_type(), Vec::<i64>::script_type()])
    }
}

impl Argument for Dims {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        Ok(Self(match (raw.as_int(), raw.read_lock::<Array>()) {
            (Ok(dim), _) => vec![dim],
            (_, Some(dims)) => ints(&dims, of)?,
            _ => bail!("{of}: expected an int or an array of ints, found {}", found(&raw)),
        }))
    }
}

/// A number, which stays an int where it is one.
#[derive(Clone, Copy)]
pub enum Number {
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl Number {
    pub fn scalar(self) -> Scalar {
        match self {
            Number::Int(n) => n.into(),
            Number::Float(x) => x.into(),
            Number::Bool(b) => i64::from(b).into(),
        }
    }

    /// As an argument of one of libtorch's operators.
    pub fn argument(self) -> ffi::Argument<'static> {
        match self {
            Number::Int(n) => ffi::Argument::Int(n),
            Number::Float(x) => ffi::Argument::Float(x),
            Number::Bool(b) => ffi::Argument::Bool(b),
        }
    }

    /// The dtype that PyTorch gives a tensor filled with it.
    pub fn kind(self) -> Kind {
        match self {
            Number::Int(_) => Kind::Int64,
            Number::Float(_) => Kind::Float,
            Number::Bool(_) => Kind::Bool,
        }
    }

    fn of(value: &Dynamic) -> Option<Self> {
        let float = || value.as_float().ok().map(Number::Float);
        let truth = || value.as_bool().ok().map(Number::Bool);
        value.as_int().ok().map(Number::Int).or_else(float).or_else(truth)
    }
}

impl Typed for Number {
    fn script_type() -> Type {
        Type::Either(vec![i64::script_type(), f64::script_type()])
    }
}

impl Argument for Number {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        match Self::of(&raw) {
            Some(number) => Ok(number),
            None => bail!("{of}: expected a number, found {}", found(&raw)),
        }
    }
}

/// A tensor or a number.
pub enum Operand {
    Tensor(Tensor),
    Number(Number),
}

impl Operand {
    /// What an operator of libtorch gives for a tensor and this one. A number takes part in its whole precision, and
    /// changes the result's dtype only where a float meets ints.
    pub fn operate(&self, name: &str, input: &tch::Tensor, more: &[ffi::Argument<'_>]) -> Result<tch::Tensor> {
        let other = match self {
            Operand::Tensor(t) => ffi::Argument::Tensor(t),
            Operand::Number(number) => number.argument(),
        };
        ffi::operator(name, "Tensor", &[&[ffi::Argument::Tensor(input), other][..], more].concat())
    }

    /// As a tensor of the dtype of `like`, unless a float meets ints: for values that are chosen, not computed with, as a
    /// number is rounded to that dtype.
    pub fn tensor(&self, like: &tch::Tensor) -> Result<tch::Tensor> {
        match self {
            Operand::Tensor(t) => Ok(t.shallow_clone()),
            Operand::Number(number) => {
                let kind = match number {
                    Number::Float(_) if !like.is_floating_point() && !crate::tensor::is_complex(like) => Kind::Float,
                    Number::Int(_) if like.kind() == Kind::Bool => Kind::Int64,
                    _ => like.kind(),
                };
                Ok(tch::Tensor::f_full([0i64; 0], number.scalar(), (kind, like.device()))?)
            }
        }
    }
}

impl Typed for Operand {
    fn script_type() -> Type {
        Type::Either(vec![Tensor::script_type(), f64::script_type()])
    }
}

impl Argument for Operand {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        if let Some(t) = raw.read_lock::<Tensor>() {
            return Ok(Operand::Tensor(t.clone()));
        }
        match Number::of(&raw) {
            Some(number) => Ok(Operand::Number(number)),
            None => bail!("{of}: expected a tensor or a number, found {}", found(&raw)),
        }
    }
}

/// Sizes, or numbers of parts: an int, an array of ints, or a tensor of them.
pub enum Repeats {
    Same(i64),
    Each(Vec<i64>),
    Tensor(Tensor),
}

impl Typed for Repeats {
    fn script_type() -> Type {
        Type::Either(vec![i64::script_type(), Vec::<i64>::script_type(), Tensor::script_type()])
    }
}

impl Argument for Repeats {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        if let Some(t) = raw.read_lock::<Tensor>() {
            return Ok(Repeats::Tensor(t.clone()));
        }
        match raw.as_int() {
            Ok(n) => Ok(Repeats::Same(n)),
            Err(_) => Ok(Repeats::Each(Dims::read(raw, of)?.0)),
        }
    }
}

/// Padding of a convolution: an int, one for each dimension, "valid" (none) or "same" (the output as large as the input).
pub enum Padding {
    Sizes(Dims),
    Named(ImmutableString),
}

impl Typed for Padding {
    fn script_type() -> Type {
        Type::Either(vec![Dims::script_type(), Type::OneOf(vec!["same".into(), "valid".into()])])
    }
}

impl Argument for Padding {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        match raw.clone().into_immutable_string() {
            Ok(name) if ["same", "valid"].contains(&name.as_str()) => Ok(Padding::Named(name)),
            Ok(name) => {
                bail!(
                    "{of}: unknown padding \"{name}\"{} (one of: same, valid)",
                    did_you_mean(&name, ["same", "valid"])
                )
            }
            Err(_) => Ok(Padding::Sizes(Dims::read(raw, of)?)),
        }
    }
}

/// A tensor that an argument may be, for tch.
pub fn inner(t: &Option<Tensor>) -> Option<&tch::Tensor> {
    t.as_deref()
}
