//! Tensors: making, reading and computing with them.

mod arithmetic;
mod autograd;
mod create;
mod functional;
mod index;
mod read;
mod reduce;
mod reshape;

pub use autograd::can_go_backward;

use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean};
use crate::script::registry::Api;
use crate::script::types::Argument;
use crate::script::values::{Tensor, found, ints, shape};
use crate::types::{Type, Typed};
use rhai::{Array, Dynamic};
use tch::Kind;

pub fn register(api: &mut Api<'_>) {
    api.globals("tensors", "Making tensors, on the run's device, float32 unless said otherwise.", create::register);
    api.methods::<Tensor>(
        "A libtorch tensor. Passing one shares it; operations make new ones and record gradients.\n\
         Dimensions count from 0; negative ones from the end. Numbers may be ints or floats.",
        |tensor| {
            read::register(tensor);
            index::register(tensor);
            arithmetic::register(tensor);
            reduce::register(tensor);
            reshape::register(tensor);
            functional::register(tensor);
            autograd::register(tensor);
        },
    );
}

const KINDS: [(&str, Kind); 10] = [
    ("float32", Kind::Float),
    ("float64", Kind::Double),
    ("float16", Kind::Half),
    ("bfloat16", Kind::BFloat16),
    ("int64", Kind::Int64),
    ("int32", Kind::Int),
    ("int16", Kind::Int16),
    ("int8", Kind::Int8),
    ("uint8", Kind::Uint8),
    ("bool", Kind::Bool),
];

fn kind_of(name: &str) -> Result<Kind> {
    match KINDS.iter().find(|(n, _)| *n == name) {
        Some((_, kind)) => Ok(*kind),
        None => {
            let names = KINDS.map(|k| k.0);
            bail_hint!("unknown dtype \"{name}\"{}", did_you_mean(name, names); "the dtypes are: {}", names.join(", "))
        }
    }
}

/// The sizes of a new tensor.
struct Shape(Vec<i64>);

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

/// Dimensions given as one int or an array of ints.
struct Dims(Vec<i64>);

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
            _ => bail!("{of}: expected a dimension or an array of dimensions, found {}", found(&raw)),
        }))
    }
}
