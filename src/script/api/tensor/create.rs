//! Making tensors.

use super::arguments::{DType, Number, Shape};
use crate::error::{Result, bail, ensure};
use crate::script::values::{Tensor, number};
use crate::tensor::dtype_name;
use nepa_macros::functions;
use rhai::{Array, Dynamic};
use tch::{Device, Kind};

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// A tensor from a (nested) array or a number: int64 if all values are ints, bool if all are bools, otherwise
    /// float32, unless a dtype is given. Values that do not fit into a dtype of ints are refused.
    ///
    /// Example: `let t = tensor([[1.0, 2.0], [3.0, 4.0]]); t.shape == [2, 2]`
    pub fn tensor(
        data: Dynamic,
        #[keyword(())] dtype: Option<DType>,
        #[keyword(false)] requires_grad: bool,
    ) -> Result<tch::Tensor> {
        let t = here(from_values(&data, kind(dtype))?)?;
        if requires_grad { Ok(t.f_set_requires_grad(true)?) } else { Ok(t) }
    }

    /// The same as tensor, but a tensor is given back as it is.
    ///
    /// Example: `as_tensor([1, 2]).dtype == "int64"`
    pub fn as_tensor(data: Dynamic, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        if let Some(t) = data.read_lock::<Tensor>() {
            return as_kind(t.shallow_clone(), dtype);
        }
        here(from_values(&data, kind(dtype))?)
    }

    /// A tensor of zeros.
    ///
    /// Example: `zeros([2, 3]).sum().item() == 0.0`
    pub fn zeros(size: Shape, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_zeros(size.0, options(dtype))?)
    }

    /// A tensor of ones.
    ///
    /// Example: `ones([2, 3]).sum().item() == 6.0`
    pub fn ones(size: Shape, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_ones(size.0, options(dtype))?)
    }

    /// A tensor for values to come, of zeros: nothing here is left to chance.
    ///
    /// Example: `empty([2, 3]).shape == [2, 3]`
    pub fn empty(size: Shape, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_zeros(size.0, options(dtype))?)
    }

    /// A tensor filled with one value: int64 for an int, bool for a bool, float32 for a float, unless a dtype is given.
    ///
    /// Example: `full([2], 0.5).to_array() == [0.5, 0.5]`
    pub fn full(size: Shape, fill_value: Number, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        let kind = dtype.map_or(fill_value.kind(), |dtype| dtype.0);
        Ok(tch::Tensor::f_full(size.0, fill_value.scalar(), (kind, crate::device::current()))?)
    }

    /// Zeros of another tensor's shape, dtype and device.
    ///
    /// Example: `arange(3).zeros_like().to_array() == [0, 0, 0]`
    pub fn zeros_like(input: &Tensor, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        as_kind(input.f_zeros_like()?, dtype)
    }

    /// Ones of another tensor's shape, dtype and device.
    ///
    /// Example: `arange(3).ones_like().to_array() == [1, 1, 1]`
    pub fn ones_like(input: &Tensor, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        as_kind(input.f_ones_like()?, dtype)
    }

    /// Zeros of another tensor's shape, dtype and device, for values to come.
    ///
    /// Example: `empty_like(ones([2])).shape == [2]`
    pub fn empty_like(input: &Tensor, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        as_kind(input.f_zeros_like()?, dtype)
    }

    /// One value in another tensor's shape, dtype and device.
    ///
    /// Example: `full_like(ones([2]), 3).to_array() == [3.0, 3.0]`
    pub fn full_like(input: &Tensor, fill_value: Number, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        let kind = dtype.map_or(input.kind(), |dtype| dtype.0);
        Ok(tch::Tensor::f_full(input.size(), fill_value.scalar(), (kind, input.device()))?)
    }

    /// Zeros of a shape, of another tensor's dtype and device.
    ///
    /// Example: `arange(3).new_zeros([2]).dtype == "int64"`
    pub fn new_zeros(input: &Tensor, size: Shape) -> Result<tch::Tensor> {
        Ok(input.f_new_zeros(size.0, (input.kind(), input.device()))?)
    }

    /// Ones of a shape, of another tensor's dtype and device.
    ///
    /// Example: `arange(3).new_ones([2]).to_array() == [1, 1]`
    pub fn new_ones(input: &Tensor, size: Shape) -> Result<tch::Tensor> {
        Ok(input.f_new_ones(size.0, (input.kind(), input.device()))?)
    }

    /// One value in a shape, of another tensor's dtype and device.
    ///
    /// Example: `arange(3).new_full([2], 7).to_array() == [7, 7]`
    pub fn new_full(input: &Tensor, size: Shape, fill_value: Number) -> Result<tch::Tensor> {
        Ok(input.f_new_full(size.0, fill_value.scalar(), (input.kind(), input.device()))?)
    }

    /// A tensor from a (nested) array, of another tensor's dtype and device.
    ///
    /// Example: `ones([1]).new_tensor([1, 2]).dtype == "float32"`
    pub fn new_tensor(input: &Tensor, data: Dynamic) -> Result<tch::Tensor> {
        Ok(from_values(&data, Some(input.kind()))?.f_to_device(input.device())?)
    }

    /// start, start + step, … below end: int64 if all three are ints, otherwise float32. With one number, from 0 to
    /// below it.
    ///
    /// Example: `arange(1, 7, 2).to_array() == [1, 3, 5]`
    pub fn arange(
        start: Number,
        #[default(())] end: Option<Number>,
        #[default(1)] step: Number,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        let (start, end) = end.map_or((Number::Int(0), start), |end| (start, end));
        let whole = [start, end, step].iter().all(|n| matches!(n, Number::Int(_)));
        let kind = dtype.map_or(if whole { Kind::Int64 } else { Kind::Float }, |dtype| dtype.0);
        let options = (kind, crate::device::current());
        Ok(tch::Tensor::f_arange_start_step(start.scalar(), end.scalar(), step.scalar(), options)?)
    }

    /// `steps` values from start to end, both included.
    ///
    /// Example: `linspace(0, 1, 3).to_array() == [0.0, 0.5, 1.0]`
    pub fn linspace(start: f64, end: f64, steps: i64, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linspace(start, end, steps, options(dtype))?)
    }

    /// `steps` powers of a base, with exponents from start to end, both included.
    ///
    /// Example: `logspace(0, 2, 3).to_array() == [1.0, 10.0, 100.0]`
    pub fn logspace(
        start: f64,
        end: f64,
        steps: i64,
        #[default(10.0)] base: f64,
        #[keyword(())] dtype: Option<DType>,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_logspace(start, end, steps, base, options(dtype))?)
    }

    /// The identity matrix [n, n], or its part [n, m].
    ///
    /// Example: `eye(2).to_array() == [1.0, 0.0, 0.0, 1.0]`
    pub fn eye(n: i64, #[default(())] m: Option<i64>, #[keyword(())] dtype: Option<DType>) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_eye_m(n, m.unwrap_or(n), options(dtype))?)
    }

    /// Whether a value is a tensor.
    ///
    /// Example: `is_tensor(ones([1])) && !is_tensor(1.0)`
    pub fn is_tensor(obj: Dynamic) -> bool {
        obj.is::<Tensor>()
    }
}

/// New tensors lie on the run's device.
pub fn here(t: tch::Tensor) -> Result<tch::Tensor> {
    crate::device::upload(&t, crate::device::current())
}

fn options(dtype: Option<DType>) -> (Kind, Device) {
    (dtype.map_or(Kind::Float, |dtype| dtype.0), crate::device::current())
}

fn kind(dtype: Option<DType>) -> Option<Kind> {
    dtype.map(|dtype| dtype.0)
}

fn as_kind(t: tch::Tensor, dtype: Option<DType>) -> Result<tch::Tensor> {
    match dtype {
        Some(dtype) => Ok(t.f_to_kind(dtype.0)?),
        None => Ok(t),
    }
}

/// Values as a tensor on the CPU, converted once to what is wanted.
fn from_values(values: &Dynamic, wanted: Option<Kind>) -> Result<tch::Tensor> {
    if let Some(t) = values.read_lock::<Tensor>() {
        let t = crate::tensor::detached_copy(&t)?;
        return Ok(wanted.map_or(Ok(t.shallow_clone()), |kind| t.f_to_kind(kind))?);
    }
    let mut flat = Vec::new();
    let sizes = flatten(values, &mut flat)?;
    let all = |name: &str| !flat.is_empty() && flat.iter().all(|v| v.type_name() == name);
    let is_of_ints = |kind| matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64);
    let (t, plain) = if all("bool") {
        let bools: Vec<bool> = flat.iter().map(|v| v.as_bool().expect("checked")).collect();
        (tch::Tensor::f_from_slice(&bools)?, Kind::Bool)
    } else if all("i64") || (!flat.is_empty() && wanted.is_some_and(is_of_ints)) {
        (tch::Tensor::f_from_slice(&flat.iter().map(int).collect::<Result<Vec<i64>>>()?)?, Kind::Int64)
    } else {
        let numbers = flat.iter().map(|v| number(v, "tensor"));
        (tch::Tensor::f_from_slice(&numbers.collect::<Result<Vec<f64>>>()?)?, Kind::Float)
    };
    let kind = wanted.unwrap_or(plain);
    let converted = t.f_to_kind(kind)?;
    if is_of_ints(kind) && plain == Kind::Int64 {
        let fits = converted.f_to_kind(Kind::Int64)?.f_equal(&t)?;
        ensure!(fits, "tensor: expected ints that fit into {}, found others among them", dtype_name(kind));
    }
    Ok(converted.f_reshape(&sizes)?)
}

/// A number as an int, without what stands behind its point.
fn int(value: &Dynamic) -> Result<i64> {
    if let Ok(n) = value.as_int() {
        return Ok(n);
    }
    let x = number(value, "tensor")?.trunc();
    // 2⁶³, the first float above them, is the same as i64::MAX as f64.
    ensure!(x >= i64::MIN as f64 && x < i64::MAX as f64, "tensor: expected numbers that an int can hold, found {x}");
    Ok(x as i64)
}

/// The values of nested arrays in order; gives their common shape.
fn flatten(values: &Dynamic, flat: &mut Vec<Dynamic>) -> Result<Vec<i64>> {
    let Some(items) = values.read_lock::<Array>() else {
        flat.push(values.clone());
        return Ok(Vec::new());
    };
    let mut inner: Option<Vec<i64>> = None;
    for item in items.iter() {
        let sizes = flatten(item, flat)?;
        match &inner {
            Some(first) if *first != sizes => {
                bail!("tensor: expected nested arrays of one shape, found {first:?} and {sizes:?} side by side")
            }
            _ => inner = Some(sizes),
        }
    }
    Ok([vec![items.len() as i64], inner.unwrap_or_default()].concat())
}
