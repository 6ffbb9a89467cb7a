//! Making tensors.

use super::Shape;
use crate::error::{Result, bail, ensure};
use crate::random;
use crate::script::values::{Tensor, number};
use nepa_macros::functions;
use rhai::{Array, Dynamic};
use tch::{Device, Kind};

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// A tensor from a (nested) array: int64 if all values are ints, bool if all are bools, otherwise float32.
    ///
    /// Example: `let t = tensor([[1.0, 2.0], [3.0, 4.0]]);`
    pub fn tensor(values: Dynamic) -> Result<tch::Tensor> {
        here(from_values(&values)?)
    }

    /// A tensor of zeros.
    pub fn zeros(sizes: Shape) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_zeros(sizes.0, float_here())?)
    }

    /// A tensor of ones.
    pub fn ones(sizes: Shape) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_ones(sizes.0, float_here())?)
    }

    /// A tensor filled with one value.
    pub fn full(sizes: Shape, value: f64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_full(sizes.0, value, float_here())?)
    }

    /// 0, 1, … n − 1 as int64.
    pub fn arange(n: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_arange(n, (Kind::Int64, crate::device::current()))?)
    }

    /// start, start + 1, … below end, as int64.
    #[script(name = "arange")]
    pub fn arange_from(start: i64, end: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_arange_start(start, end, (Kind::Int64, crate::device::current()))?)
    }

    /// `steps` values from start to end, both included.
    pub fn linspace(start: f64, end: f64, steps: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_linspace(start, end, steps, float_here())?)
    }

    /// The identity matrix [n, n].
    pub fn eye(n: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_eye(n, float_here())?)
    }

    /// Uniform values in [0, 1), from the run's generator.
    pub fn rand(sizes: Shape) -> Result<tch::Tensor> {
        here(random::next_key().uniform(&sizes.0)?)
    }

    /// Uniform values in [0, 1), from the run's generator, with one row for each sample of the current batch (sizes[0]
    /// of them). A row depends on the sample's position in the global batch (`batch.samples`), so a sample draws the
    /// same in any process or micro-batch.
    ///
    /// Example: `let hidden = rand_per_sample([batch.len, patches]) < 0.4;`
    pub fn rand_per_sample(sizes: Shape) -> Result<tch::Tensor> {
        ensure!(!sizes.0.is_empty(), "rand_per_sample: expected the number of samples as the first size, found []");
        here(random::next_per_sample(&sizes.0)?)
    }

    /// Standard normal values, from the run's generator.
    pub fn randn(sizes: Shape) -> Result<tch::Tensor> {
        here(random::next_key().normal(&sizes.0)?)
    }

    /// Uniform int64 values in low … high − 1, from the run's generator.
    pub fn randint(low: i64, high: i64, sizes: Shape) -> Result<tch::Tensor> {
        here(random::next_key().integers(low, high, &sizes.0)?)
    }

    /// 0 … n − 1 in random order, int64, from the run's generator.
    pub fn randperm(n: i64) -> Result<tch::Tensor> {
        let Ok(count) = u32::try_from(n) else { bail!("randperm: expected n from 0 to {}, found {n}", u32::MAX) };
        crate::tensor::fits_memory(&[n], Kind::Int64)?;
        let order = random::next_key().permutation(count as usize)?.into_iter().map(i64::from).collect::<Vec<i64>>();
        here(tch::Tensor::f_from_slice(&order)?)
    }

    /// Joins tensors along an existing dimension.
    pub fn cat(parts: Vec<tch::Tensor>, dim: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_cat(&parts, dim)?)
    }

    /// Joins tensors of one shape along a new dimension.
    pub fn stack(parts: Vec<tch::Tensor>, dim: i64) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_stack(&parts, dim)?)
    }

    /// Elements of a where the condition (bool) is true, otherwise of b; shapes broadcast.
    #[script(name = "where")]
    pub fn where_(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<tch::Tensor> {
        Ok(a.f_where_self(condition, b)?)
    }
}

/// New tensors lie on the run's device.
fn here(t: tch::Tensor) -> Result<tch::Tensor> {
    Ok(t.f_to_device(crate::device::current())?)
}

fn float_here() -> (Kind, Device) {
    (Kind::Float, crate::device::current())
}

fn from_values(values: &Dynamic) -> Result<tch::Tensor> {
    if let Some(t) = values.read_lock::<Tensor>() {
        return crate::tensor::detached_copy(&t);
    }
    let mut flat = Vec::new();
    let sizes = flatten(values, &mut flat)?;
    let all = |name: &str| !flat.is_empty() && flat.iter().all(|v| v.type_name() == name);
    let t = if all("i64") {
        tch::Tensor::f_from_slice(&flat.iter().map(|v| v.as_int().expect("checked")).collect::<Vec<i64>>())?
    } else if all("bool") {
        tch::Tensor::f_from_slice(&flat.iter().map(|v| v.as_bool().expect("checked")).collect::<Vec<bool>>())?
    } else {
        tch::Tensor::f_from_slice(&flat.iter().map(|v| Ok(number(v, "tensor")? as f32)).collect::<Result<Vec<f32>>>()?)?
    };
    Ok(t.f_reshape(&sizes)?)
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
