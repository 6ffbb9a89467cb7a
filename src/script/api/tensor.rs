//! Tensors: making, reading and computing with them.

use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::functions;
use crate::random;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Tensor, found, ints, number, ok, shape, tensors};
use crate::tensor::{DTYPES, Dtype, dtype_name, shape_text};
use rhai::{Array, Dynamic, Engine, ImmutableString};
use std::ops::{Range, RangeInclusive};
use tch::{Device, Kind};

fn kind_of(name: &str) -> Result<Kind> {
    match Dtype::find(|dtype| dtype.name == name) {
        Some(dtype) => Ok(dtype.kind),
        None => {
            let names = DTYPES.each_ref().map(|dtype| dtype.name);
            bail_hint!("unknown dtype \"{name}\"{}", did_you_mean(name, names); "the dtypes are: {}", names.join(", "))
        }
    }
}

/// New tensors lie on the run's device.
fn here(t: tch::Tensor) -> Result<Tensor> {
    ok(t.f_to_device(crate::device::current())?)
}

fn float_here() -> (Kind, Device) {
    (Kind::Float, crate::device::current())
}

/// Checks that a tensor is a scalar with a graph behind it.
pub(super) fn can_go_backward(t: &Tensor) -> Result<()> {
    if t.numel() != 1 {
        bail_hint!("backward: expected a scalar, found {}", shape_text(t); "reduce it first: t.mean().backward()");
    }
    if !t.requires_grad() {
        bail_hint!(
            "backward: nothing that this value was made from requires gradients";
            "was it computed inside no_grad, detached, or from frozen parameters only?"
        );
    }
    Ok(())
}

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Tensor>("Tensor");
    creation(engine, reference);
    let mut group = Group::global(
        reference,
        "Tensor",
        "A libtorch tensor. Passing one shares it; operations make new ones and record gradients.\n\
         Dimensions count from 0; negative ones from the end. Numbers may be ints or floats.",
    );
    reading(&mut group);
    arithmetic(&mut group);
    operators(&mut group);
    reductions(&mut group);
    shaping(&mut group);
    functional(&mut group);
    autograd(&mut group);
    group.register(engine);
}

fn creation(engine: &mut Engine, reference: &mut Reference) {
    let mut group =
        Group::global(reference, "tensors", "Making tensors, on the run's device, float32 unless said otherwise.");
    functions! { group;
        /// A tensor of the values of a (nested) array: all ints give int64, all bools bool, else float32.
        ///
        /// Example: `let t = tensor([[1.0, 2.0], [3.0, 4.0]]);`
        "tensor" (values: Dynamic) -> Tensor { here(from_values(&values)?) }
        /// Zeros of a shape.
        "zeros" (sizes: Array) -> Tensor { ok(tch::Tensor::f_zeros(shape(&sizes)?, float_here())?) }
        /// Ones of a shape.
        "ones" (sizes: Array) -> Tensor { ok(tch::Tensor::f_ones(shape(&sizes)?, float_here())?) }
        /// A shape filled with one value.
        "full" (sizes: Array, value: Dynamic) -> Tensor {
            ok(tch::Tensor::f_full(shape(&sizes)?, number(&value, "full")?, float_here())?)
        }
        /// 0, 1, … n − 1 as int64.
        "arange" (n: i64) -> Tensor { ok(tch::Tensor::f_arange(n, (Kind::Int64, crate::device::current()))?) }
        /// start, start + 1, … below end, as int64.
        "arange" (start: i64, end: i64) -> Tensor {
            ok(tch::Tensor::f_arange_start(start, end, (Kind::Int64, crate::device::current()))?)
        }
        /// `steps` values from start to end, both included.
        "linspace" (start: Dynamic, end: Dynamic, steps: i64) -> Tensor {
            ok(tch::Tensor::f_linspace(number(&start, "linspace")?, number(&end, "linspace")?, steps, float_here())?)
        }
        /// The identity matrix [n, n].
        "eye" (n: i64) -> Tensor { ok(tch::Tensor::f_eye(n, float_here())?) }
        /// Uniform values in [0, 1), from the run's generator.
        "rand" (sizes: Array) -> Tensor { here(random::next_key().uniform(&shape(&sizes)?)?) }
        /// Uniform values in [0, 1), from the run's generator, a row for each sample of the forward pass under way
        /// (sizes[0] of them): the one that its place in the batch gives it (`rng_state().samples`), so that a sample
        /// draws the same whichever process or part of the batch it is in.
        ///
        /// Example: `let hidden = rand_per_sample([batch.len, patches]) < 0.4;`
        "rand_per_sample" (sizes: Array) -> Tensor {
            let sizes = shape(&sizes)?;
            ensure!(!sizes.is_empty(), "rand_per_sample: expected the number of samples as the first size, found []");
            here(random::next_per_sample(&sizes)?)
        }
        /// Standard normal values, from the run's generator.
        "randn" (sizes: Array) -> Tensor { here(random::next_key().normal(&shape(&sizes)?)?) }
        /// Uniform int64 values in low … high − 1, from the run's generator.
        "randint" (low: i64, high: i64, sizes: Array) -> Tensor {
            here(random::next_key().integers(low, high, &shape(&sizes)?)?)
        }
        /// 0 … n − 1 in random order, int64, from the run's generator.
        "randperm" (n: i64) -> Tensor {
            ensure!(n >= 0, "randperm: expected n >= 0, found {n}");
            let order: Vec<i64> = random::next_key().permutation(n as usize).into_iter().map(i64::from).collect();
            here(tch::Tensor::f_from_slice(&order)?)
        }
        /// Joins tensors along an existing dimension.
        "cat" (parts: Array, dim: i64) -> Tensor { ok(tch::Tensor::f_cat(&tensors(&parts, "cat")?, dim)?) }
        /// Joins tensors of one shape along a new dimension.
        "stack" (parts: Array, dim: i64) -> Tensor { ok(tch::Tensor::f_stack(&tensors(&parts, "stack")?, dim)?) }
        /// Elements of a where the condition (bool) holds, else of b; shapes broadcast.
        "where" (condition: Tensor, a: Tensor, b: Tensor) -> Tensor { ok(a.f_where_self(&condition, &b)?) }
    }
    group.register(engine);
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
                bail!("tensor: the nested arrays are not of one shape: {first:?} and {sizes:?} side by side")
            }
            _ => inner = Some(sizes),
        }
    }
    Ok([vec![items.len() as i64], inner.unwrap_or_default()].concat())
}

fn reading(group: &mut Group<'_>) {
    functions! { group;
        /// The sizes of the dimensions, as an array of ints.
        "get$shape" (t: Tensor) -> Array { Ok(t.size().into_iter().map(Dynamic::from_int).collect()) }
        /// The number of dimensions.
        "get$ndim" (t: Tensor) -> i64 { Ok(t.dim() as i64) }
        /// The number of elements.
        "get$numel" (t: Tensor) -> i64 { Ok(t.numel() as i64) }
        /// The dtype's name, as in PyTorch: "float32", "int64", …
        "get$dtype" (t: Tensor) -> String { Ok(dtype_name(t.kind()).to_string()) }
        /// The device: "cpu", "cuda:0", …
        "get$device" (t: Tensor) -> String { Ok(crate::device::name(t.device())) }
        /// The size of one dimension.
        "size" (t: Tensor, dim: i64) -> i64 {
            let sizes = t.size();
            let index = if dim < 0 { dim + sizes.len() as i64 } else { dim };
            match sizes.get(index as usize) {
                Some(n) if index >= 0 => Ok(*n),
                _ => bail!("size: dimension {dim} of a tensor {}", shape_text(&t)),
            }
        }
        /// The value of a tensor of one element, as float, int or bool.
        "item" (t: Tensor) -> Dynamic {
            ensure!(t.numel() == 1, "item: expected a tensor of one element, found {}", shape_text(&t));
            let flat = t.f_reshape([1])?;
            Ok(match t.kind() {
                Kind::Bool => Dynamic::from_bool(flat.f_int64_value(&[0])? != 0),
                _ if t.is_floating_point() => Dynamic::from_float(flat.f_double_value(&[0])?),
                _ => Dynamic::from_int(flat.f_int64_value(&[0])?),
            })
        }
        /// The elements as a flat array of floats, ints or bools.
        "to_array" (t: Tensor) -> Array {
            let flat = t.f_detach()?.f_to_device(Device::Cpu)?.f_reshape([-1])?;
            Ok(match t.kind() {
                Kind::Bool => {
                    Vec::<bool>::try_from(flat)?.into_iter().map(Dynamic::from_bool).collect()
                }
                _ if t.is_floating_point() => {
                    Vec::<f64>::try_from(flat.f_to_kind(Kind::Double)?)?.into_iter().map(Dynamic::from_float).collect()
                }
                _ => Vec::<i64>::try_from(flat.f_to_kind(Kind::Int64)?)?.into_iter().map(Dynamic::from_int).collect(),
            })
        }
        /// The tensor as text: shape, dtype, device and values, shortened where it is large.
        "to_string" (t: Tensor) -> String { Ok(text(&t)) }
        /// The same.
        "to_debug" (t: Tensor) -> String { Ok(text(&t)) }
        /// Whether two tensors have the same shape and values.
        "equal" (a: Tensor, b: Tensor) -> bool { Ok(a.size() == b.size() && a.f_equal(&b)?) }
        /// Whether all values are finite.
        "is_finite" (t: Tensor) -> bool { Ok(t.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0) }
        /// Row i, or the element i of a 1-D tensor: one dimension less.
        "index$get$" (t: Tensor, i: i64) -> Tensor { index_one(&t, 0, i) }
        /// Rows a..b of the first dimension.
        "index$get$" (t: Tensor, rows: Range<i64>) -> Tensor { narrow(&t, 0, rows.start, rows.end) }
        /// Rows a..=b of the first dimension.
        "index$get$" (t: Tensor, rows: RangeInclusive<i64>) -> Tensor { narrow(&t, 0, *rows.start(), *rows.end() + 1) }
        /// Several dimensions at once: an int picks, a range cuts, `()` keeps.
        ///
        /// Example: `let first_token = h[[(), 0]];   // [B, D] of [B, N, D]`
        "index$get$" (t: Tensor, indices: Array) -> Tensor { index_many(&t, &indices) }
        /// Rows by an int64 tensor of indices, or elements by a bool tensor of the same shape.
        "index$get$" (t: Tensor, index: Tensor) -> Tensor {
            match index.kind() {
                Kind::Bool => ok(t.f_masked_select(&index)?),
                _ => ok(t.f_index_select(0, &index.f_to_kind(Kind::Int64)?)?),
            }
        }
    }
}

/// More elements than this are shown by their first and last few along each dimension.
const SHOW_ALL: usize = 1000;
const EDGE: i64 = 3;

fn text(t: &tch::Tensor) -> String {
    let head = format!("Tensor {} on {}", shape_text(t), crate::device::name(t.device()));
    if t.numel() == 0 {
        return head;
    }
    let mut out = String::new();
    let cpu = t.detach().to_device(Device::Cpu);
    match values_text(&cpu, t.numel() > SHOW_ALL, 0, &mut out) {
        Ok(()) => format!("{head}\n{out}"),
        Err(e) => format!("{head} ({e})"),
    }
}

/// The values as nested brackets, one row a line.
fn values_text(t: &tch::Tensor, shorten: bool, depth: usize, out: &mut String) -> Result<()> {
    let sizes = t.size();
    let Some(&n) = sizes.first() else {
        out.push_str(&match t.kind() {
            Kind::Bool => (t.f_int64_value(&[])? != 0).to_string(),
            _ if t.is_floating_point() => number_text(t.f_double_value(&[])?),
            _ => t.f_int64_value(&[])?.to_string(),
        });
        return Ok(());
    };
    let between = if sizes.len() == 1 { ", ".to_string() } else { format!(",\n{}", " ".repeat(depth + 1)) };
    out.push('[');
    let mut i = 0;
    while i < n {
        if i > 0 {
            out.push_str(&between);
        }
        if shorten && n > 2 * EDGE && i == EDGE {
            out.push('…');
            i = n - EDGE;
            continue;
        }
        values_text(&t.f_get(i)?, shorten, depth + 1, out)?;
        i += 1;
    }
    out.push(']');
    Ok(())
}

fn number_text(x: f64) -> String {
    match x.abs() {
        0.0 => "0.0".into(),
        v if v.is_finite() && !(1e-3..1e6).contains(&v) => format!("{x:.4e}"),
        _ => format!("{x:.4}"),
    }
}

fn index_one(t: &tch::Tensor, dim: i64, i: i64) -> Result<Tensor> {
    let sizes = t.size();
    ensure!(!sizes.is_empty(), "a scalar tensor cannot be indexed; its value is t.item()");
    let n = sizes[dim as usize];
    ensure!(-n <= i && i < n, "index {i} is outside dimension {dim} of a tensor {}", shape_text(t));
    ok(t.f_select(dim, i)?)
}

fn narrow(t: &tch::Tensor, dim: i64, start: i64, end: i64) -> Result<Tensor> {
    let sizes = t.size();
    let index = if dim < 0 { dim + sizes.len() as i64 } else { dim };
    ensure!(index >= 0 && (index as usize) < sizes.len(), "dimension {dim} is outside a tensor {}", shape_text(t));
    let n = sizes[index as usize];
    let at = |i: i64| if i < 0 { i + n } else { i };
    let (start, end) = (at(start), at(end).min(n));
    ensure!(
        0 <= start && start <= end,
        "the range {start}..{end} is outside dimension {index} of a tensor {}",
        shape_text(t)
    );
    ok(t.f_narrow(index, start, end - start)?)
}

fn index_many(t: &tch::Tensor, indices: &Array) -> Result<Tensor> {
    ensure!(
        indices.len() <= t.dim(),
        "{} indices for a tensor of {} dimensions: {}",
        indices.len(),
        t.dim(),
        shape_text(t)
    );
    let (mut out, mut dim) = (Tensor::from(t.shallow_clone()), 0);
    for index in indices {
        if index.is_unit() {
            dim += 1;
        } else if let Ok(i) = index.as_int() {
            out = index_one(&out, dim, i)?;
        } else if let Some(r) = index.read_lock::<Range<i64>>() {
            out = narrow(&out, dim, r.start, r.end)?;
            dim += 1;
        } else if let Some(r) = index.read_lock::<RangeInclusive<i64>>() {
            out = narrow(&out, dim, *r.start(), *r.end() + 1)?;
            dim += 1;
        } else {
            bail!("an index is an int, a range or (), found {}", found(index));
        }
    }
    Ok(out)
}

fn arithmetic(group: &mut Group<'_>) {
    functions! { group;
        /// Matrix product over the last two dimensions; the others broadcast.
        "matmul" (a: Tensor, b: Tensor) -> Tensor { ok(a.f_matmul(&b)?) }
        /// a raised to a power.
        "pow" (a: Tensor, exponent: Dynamic) -> Tensor { ok(a.f_pow_tensor_scalar(number(&exponent, "pow")?)?) }
        /// e to the power of each element.
        "exp" (t: Tensor) -> Tensor { ok(t.f_exp()?) }
        /// Natural logarithm.
        "log" (t: Tensor) -> Tensor { ok(t.f_log()?) }
        /// Square root.
        "sqrt" (t: Tensor) -> Tensor { ok(t.f_sqrt()?) }
        /// 1 / √t.
        "rsqrt" (t: Tensor) -> Tensor { ok(t.f_rsqrt()?) }
        /// Absolute value.
        "abs" (t: Tensor) -> Tensor { ok(t.f_abs()?) }
        /// Sine of radians.
        "sin" (t: Tensor) -> Tensor { ok(t.f_sin()?) }
        /// Cosine of radians.
        "cos" (t: Tensor) -> Tensor { ok(t.f_cos()?) }
        /// Hyperbolic tangent.
        "tanh" (t: Tensor) -> Tensor { ok(t.f_tanh()?) }
        /// 1 / (1 + e^−t).
        "sigmoid" (t: Tensor) -> Tensor { ok(t.f_sigmoid()?) }
        /// The nearest integer, halves to the even one.
        "round" (t: Tensor) -> Tensor { ok(t.f_round()?) }
        /// The greatest integer not above.
        "floor" (t: Tensor) -> Tensor { ok(t.f_floor()?) }
        /// Values limited to low … high.
        "clamp" (t: Tensor, low: Dynamic, high: Dynamic) -> Tensor {
            ok(t.f_clamp(number(&low, "clamp")?, number(&high, "clamp")?)?)
        }
        /// Values of at least low.
        "clamp_min" (t: Tensor, low: Dynamic) -> Tensor { ok(t.f_clamp_min(number(&low, "clamp_min")?)?) }
        /// Values of at most high.
        "clamp_max" (t: Tensor, high: Dynamic) -> Tensor { ok(t.f_clamp_max(number(&high, "clamp_max")?)?) }
        /// The greater of two tensors, element by element.
        "maximum" (a: Tensor, b: Tensor) -> Tensor { ok(a.f_maximum(&b)?) }
        /// The smaller of two tensors, element by element.
        "minimum" (a: Tensor, b: Tensor) -> Tensor { ok(a.f_minimum(&b)?) }
        /// The sign reversed.
        "-" (t: Tensor) -> Tensor { ok(t.f_neg()?) }
        /// Not, for bool tensors.
        "!" (t: Tensor) -> Tensor { ok(t.f_logical_not()?) }
    }
}

/// Binary operators between tensors and numbers, in every combination.
fn operators(group: &mut Group<'_>) {
    /// A scalar as a tensor, for the operand on the left.
    fn scalar(x: f64, like: &Tensor) -> Result<tch::Tensor> {
        let kind = if like.is_floating_point() { like.kind() } else { Kind::Float };
        Ok(tch::Tensor::f_full([0i64; 0], x, (kind, like.device()))?)
    }
    fn int_scalar(x: i64, like: &Tensor) -> Result<tch::Tensor> {
        // Weak, as in PyTorch: an int takes the tensor's dtype.
        let kind = if like.kind() == Kind::Bool { Kind::Int64 } else { like.kind() };
        Ok(tch::Tensor::f_full([0i64; 0], x, (kind, like.device()))?)
    }
    macro_rules! binary {
        ($($doc:literal $name:literal $tensor:ident $with_scalar:ident;)*) => { $(
            functions! { group;
                #[doc = $doc]
                $name (a: Tensor, b: Tensor) -> Tensor { ok(a.$tensor(&b)?) }
                #[doc = $doc]
                $name (a: Tensor, b: f64) -> Tensor { ok(a.$with_scalar(b)?) }
                #[doc = $doc]
                $name (a: Tensor, b: i64) -> Tensor { ok(a.$with_scalar(b)?) }
                #[doc = $doc]
                $name (a: f64, b: Tensor) -> Tensor { ok(scalar(a, &b)?.$tensor(&b)?) }
                #[doc = $doc]
                $name (a: i64, b: Tensor) -> Tensor { ok(int_scalar(a, &b)?.$tensor(&b)?) }
            }
        )* };
    }
    binary! {
        " Sum; shapes broadcast." "+" f_add f_add_scalar;
        " Difference; shapes broadcast." "-" f_sub f_sub_scalar;
        " Product, element by element; shapes broadcast." "*" f_mul f_mul_scalar;
        " Quotient; shapes broadcast." "/" f_div f_div_scalar;
        " Whether elements are equal, as a bool tensor." "==" f_eq_tensor f_eq;
        " Whether elements differ, as a bool tensor." "!=" f_ne_tensor f_ne;
        " Whether elements are less, as a bool tensor." "<" f_lt_tensor f_lt;
        " Whether elements are at most, as a bool tensor." "<=" f_le_tensor f_le;
        " Whether elements are greater, as a bool tensor." ">" f_gt_tensor f_gt;
        " Whether elements are at least, as a bool tensor." ">=" f_ge_tensor f_ge;
    }
    functions! { group;
        /// And, for bool tensors.
        "&" (a: Tensor, b: Tensor) -> Tensor { ok(a.f_logical_and(&b)?) }
        /// Or, for bool tensors.
        "|" (a: Tensor, b: Tensor) -> Tensor { ok(a.f_logical_or(&b)?) }
    }
}

/// Dimensions given as one int or an array of ints.
fn dims_of(dim: &Dynamic, what: &str) -> Result<Vec<i64>> {
    match (dim.as_int(), dim.read_lock::<Array>()) {
        (Ok(d), _) => Ok(vec![d]),
        (_, Some(dims)) => ints(&dims, what),
        _ => bail!("{what}: expected a dimension or an array of dimensions, found {}", found(dim)),
    }
}

fn reductions(group: &mut Group<'_>) {
    functions! { group;
        /// The sum of all elements.
        "sum" (t: Tensor) -> Tensor { ok(t.f_sum(None)?) }
        /// The sum over one dimension or an array of them, which vanish.
        "sum" (t: Tensor, dim: Dynamic) -> Tensor { ok(t.f_sum_dim_intlist(dims_of(&dim, "sum")?, false, None)?) }
        /// The sum over dimensions that stay with size 1 where keepdim is true.
        "sum" (t: Tensor, dim: Dynamic, keepdim: bool) -> Tensor {
            ok(t.f_sum_dim_intlist(dims_of(&dim, "sum")?, keepdim, None)?)
        }
        /// The mean of all elements.
        "mean" (t: Tensor) -> Tensor { ok(t.f_mean(None)?) }
        /// The mean over one dimension or an array of them, which vanish.
        "mean" (t: Tensor, dim: Dynamic) -> Tensor { ok(t.f_mean_dim(dims_of(&dim, "mean")?, false, None)?) }
        /// The mean over dimensions that stay with size 1 where keepdim is true.
        "mean" (t: Tensor, dim: Dynamic, keepdim: bool) -> Tensor {
            ok(t.f_mean_dim(dims_of(&dim, "mean")?, keepdim, None)?)
        }
        /// The standard deviation of all elements (n − 1).
        "std" (t: Tensor) -> Tensor { ok(t.f_std(true)?) }
        /// The standard deviation over one dimension or an array of them (n − 1).
        "std" (t: Tensor, dim: Dynamic) -> Tensor { ok(t.f_std_dim(dims_of(&dim, "std")?, true, false)?) }
        /// The variance of all elements (n − 1).
        "var" (t: Tensor) -> Tensor { ok(t.f_var(true)?) }
        /// The variance over one dimension or an array of them (n − 1).
        "var" (t: Tensor, dim: Dynamic) -> Tensor { ok(t.f_var_dim(dims_of(&dim, "var")?, true, false)?) }
        /// The 2-norm of all elements.
        "norm" (t: Tensor) -> Tensor { ok(t.f_norm()?) }
        /// The 2-norm over one dimension or an array of them.
        "norm" (t: Tensor, dim: Dynamic) -> Tensor { ok(t.f_norm_scalaropt_dim(2.0, dims_of(&dim, "norm")?, false)?) }
        /// The 2-norm over dimensions that stay with size 1 where keepdim is true.
        "norm" (t: Tensor, dim: Dynamic, keepdim: bool) -> Tensor {
            ok(t.f_norm_scalaropt_dim(2.0, dims_of(&dim, "norm")?, keepdim)?)
        }
        /// The greatest element.
        "max" (t: Tensor) -> Tensor { ok(t.f_max()?) }
        /// The greatest elements along one dimension.
        "max" (t: Tensor, dim: i64) -> Tensor { ok(t.f_amax([dim], false)?) }
        /// The smallest element.
        "min" (t: Tensor) -> Tensor { ok(t.f_min()?) }
        /// The smallest elements along one dimension.
        "min" (t: Tensor, dim: i64) -> Tensor { ok(t.f_amin([dim], false)?) }
        /// Positions of the greatest elements along a dimension, int64.
        "argmax" (t: Tensor, dim: i64) -> Tensor { ok(t.f_argmax(dim, false)?) }
        /// Positions of the smallest elements along a dimension, int64.
        "argmin" (t: Tensor, dim: i64) -> Tensor { ok(t.f_argmin(dim, false)?) }
        /// Whether any element is true or not 0.
        "any" (t: Tensor) -> bool { Ok(t.f_any()?.f_int64_value(&[])? != 0) }
        /// Whether all elements are true or not 0.
        "all" (t: Tensor) -> bool { Ok(t.f_all()?.f_int64_value(&[])? != 0) }
        /// The k greatest elements along the last dimension, in falling order: an array of the values
        /// and the int64 places.
        "topk" (t: Tensor, k: i64) -> Array {
            let (values, indices) = t.f_topk(k, -1, true, true)?;
            Ok(vec![Dynamic::from(Tensor::from(values)), Dynamic::from(Tensor::from(indices))])
        }
        /// Running sum along a dimension.
        "cumsum" (t: Tensor, dim: i64) -> Tensor { ok(t.f_cumsum(dim, None)?) }
        /// How often each of the numbers 0 to n − 1 occurs in an int64 tensor [N].
        "bincount" (t: Tensor, n: i64) -> Tensor { bincount(&t, n, None) }
        /// The sum of the weights [N] of each of them.
        "bincount" (t: Tensor, n: i64, weights: Tensor) -> Tensor { bincount(&t, n, Some(&weights)) }
    }
}

fn bincount(t: &tch::Tensor, n: i64, weights: Option<&tch::Tensor>) -> Result<Tensor> {
    let counts = t.f_bincount(weights, n)?;
    ensure!(counts.numel() as i64 <= n, "bincount: expected numbers of 0 to {}, found {}", n - 1, counts.numel() - 1);
    ok(counts)
}

fn shaping(group: &mut Group<'_>) {
    functions! { group;
        /// The same elements in another shape; one size may be −1.
        "reshape" (t: Tensor, sizes: Array) -> Tensor { ok(t.f_reshape(ints(&sizes, "reshape")?)?) }
        /// The dimensions in another order.
        "permute" (t: Tensor, order: Array) -> Tensor { ok(t.f_permute(ints(&order, "permute")?)?) }
        /// Two dimensions exchanged.
        "transpose" (t: Tensor, a: i64, b: i64) -> Tensor { ok(t.f_transpose(a, b)?) }
        /// Dimensions start … end (included) joined to one.
        "flatten" (t: Tensor, start: i64, end: i64) -> Tensor { ok(t.f_flatten(start, end)?) }
        /// A new dimension of size 1.
        "unsqueeze" (t: Tensor, dim: i64) -> Tensor { ok(t.f_unsqueeze(dim)?) }
        /// A dimension of size 1 removed.
        "squeeze" (t: Tensor, dim: i64) -> Tensor { ok(t.f_squeeze_dim(dim)?) }
        /// Dimensions of size 1 enlarged without copying; −1 keeps a size.
        "expand" (t: Tensor, sizes: Array) -> Tensor { ok(t.f_expand(ints(&sizes, "expand")?, false)?) }
        /// Repeated along each dimension.
        "repeat" (t: Tensor, times: Array) -> Tensor { ok(t.f_repeat(ints(&times, "repeat")?)?) }
        /// Elements start … end − 1 of a dimension; negative ends count from the end.
        "slice" (t: Tensor, dim: i64, start: i64, end: i64) -> Tensor { narrow(&t, dim, start, end) }
        /// Element i of a dimension, which vanishes.
        "select" (t: Tensor, dim: i64, i: i64) -> Tensor { ok(t.f_select(dim, i)?) }
        /// The order along a dimension reversed.
        "flip" (t: Tensor, dim: i64) -> Tensor { ok(t.f_flip([dim])?) }
        /// `parts` pieces along a dimension, as an array.
        "chunk" (t: Tensor, parts: i64, dim: i64) -> Array {
            Ok(t.f_chunk(parts, dim)?.into_iter().map(|c| Dynamic::from(Tensor::from(c))).collect())
        }
        /// Elements at int64 places along a dimension: out[i][j] = t[i][index[i][j]] for dim 1.
        "gather" (t: Tensor, dim: i64, index: Tensor) -> Tensor { ok(t.f_gather(dim, &index, false)?) }
        /// Class indices (int64 [B]) as 0 and 1 (float32 [B, classes]).
        "one_hot" (t: Tensor, classes: i64) -> Tensor { ok(t.f_one_hot(classes)?.f_to_kind(Kind::Float)?) }
        /// The lower triangle of the last two dimensions; the rest 0.
        "tril" (t: Tensor, diagonal: i64) -> Tensor { ok(t.f_tril(diagonal)?) }
        /// The upper triangle of the last two dimensions; the rest 0.
        "triu" (t: Tensor, diagonal: i64) -> Tensor { ok(t.f_triu(diagonal)?) }
        /// `value` where the mask (bool) holds.
        "masked_fill" (t: Tensor, mask: Tensor, value: Dynamic) -> Tensor {
            ok(t.f_masked_fill(&mask, number(&value, "masked_fill")?)?)
        }
        /// In another dtype ("float32", "int64", …) or on another device ("cpu", "cuda:0").
        "to" (t: Tensor, dtype_or_device: ImmutableString) -> Tensor {
            let name = dtype_or_device.as_str();
            match name == "cpu" || name.starts_with("cuda") {
                true => ok(t.f_to_device(crate::device::parse(name)?)?),
                false => ok(t.f_to_kind(kind_of(name)?)?),
            }
        }
        /// In memory of its own, in order.
        "contiguous" (t: Tensor) -> Tensor { ok(t.f_contiguous()?) }
        /// A copy of the values, outside any graph.
        "copy" (t: Tensor) -> Tensor { ok(crate::tensor::detached_copy(&t)?) }
    }
}

fn functional(group: &mut Group<'_>) {
    functions! { group;
        /// Exponentials along a dimension that sum to 1.
        "softmax" (t: Tensor, dim: i64) -> Tensor { ok(t.f_softmax(dim, None)?) }
        /// Logarithm of softmax.
        "log_softmax" (t: Tensor, dim: i64) -> Tensor { ok(t.f_log_softmax(dim, None)?) }
        /// Exact GELU (erf), arXiv 1606.08415.
        "gelu" (t: Tensor) -> Tensor { ok(t.f_gelu("none")?) }
        /// t · sigmoid(t).
        "silu" (t: Tensor) -> Tensor { ok(t.f_silu()?) }
        /// max(t, 0).
        "relu" (t: Tensor) -> Tensor { ok(t.f_relu()?) }
        /// Divided by the 2-norm over the last dimension (at least 1e-12), float32.
        "normalize" (t: Tensor) -> Tensor { ok(crate::loss::normalize(&t, 1e-12)?) }
        /// Mean 0 and variance 1 over the last dimension, eps 1e-12, without parameters.
        "layer_norm" (t: Tensor) -> Tensor { layer_norm(&t, None, None) }
        /// The same, then times weight and plus bias, both of the last dimension's size.
        "layer_norm" (t: Tensor, weight: Tensor, bias: Tensor) -> Tensor {
            layer_norm(&t, Some(&weight), Some(&bias))
        }
        /// Convolution of images [B, C, H, W] with weight [O, C, k, k], without bias.
        "conv2d" (t: Tensor, weight: Tensor, stride: i64, padding: i64) -> Tensor {
            ok(t.f_conv2d(&weight, None::<tch::Tensor>, [stride; 2], [padding; 2], [1, 1], 1)?)
        }
        /// The same with a bias [O].
        "conv2d" (t: Tensor, weight: Tensor, bias: Tensor, stride: i64, padding: i64) -> Tensor {
            ok(t.f_conv2d(&weight, Some(&*bias), [stride; 2], [padding; 2], [1, 1], 1)?)
        }
        /// Images [B, C, H, W] resized bilinearly to [height, width] (pixel centres aligned, no antialias).
        "interpolate" (t: Tensor, size: Array) -> Tensor {
            ok(t.f_upsample_bilinear2d(ints(&size, "interpolate")?, false, None, None)?)
        }
        /// Mean over k × k windows of images [B, C, H, W], with stride k.
        "avg_pool2d" (t: Tensor, k: i64) -> Tensor {
            ok(t.f_avg_pool2d([k, k], [k, k], [0, 0], false, true, None)?)
        }
        /// softmax(q kᵀ / √d) v for [B, H, N, d], causal or not, by libtorch's fused kernel.
        "attention" (q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor {
            ok(tch::Tensor::f_scaled_dot_product_attention(&q, &k, &v, None::<tch::Tensor>, 0.0, is_causal, None, false)?)
        }
    }
}

fn layer_norm(t: &tch::Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(&last) = t.size().last() else { bail!("layer_norm: expected at least one dimension, found a scalar") };
    ok(t.f_layer_norm([last], weight.map(|w| &**w), bias.map(|b| &**b), 1e-12, true)?)
}

fn autograd(group: &mut Group<'_>) {
    functions! { group;
        /// The same values outside the graph: no gradient flows through.
        "detach" (t: Tensor) -> Tensor { ok(t.f_detach()?) }
        /// The same as detach, in the words of the paper.
        "stop_grad" (t: Tensor) -> Tensor { ok(t.f_detach()?) }
        /// Whether gradients are recorded for it.
        "get$requires_grad" (t: Tensor) -> bool { Ok(t.requires_grad()) }
        /// Records gradients for this tensor from now on, or not; gives the tensor.
        "requires_grad" (t: Tensor, on: bool) -> Tensor { ok(t.f_set_requires_grad(on)?) }
        /// Gradients of this scalar with respect to every tensor that it was made from and that
        /// requires them; they add up in `grad`.
        "backward" (t: Tensor) -> () {
            can_go_backward(&t)?;
            crate::ffi::backward(&t)
        }
        /// The gradient that backward left, or () where there is none.
        "get$grad" (t: Tensor) -> Dynamic {
            let grad = t.grad();
            Ok(if grad.defined() { Dynamic::from(Tensor::from(grad)) } else { Dynamic::UNIT })
        }
        /// Overwrites the values with those of another tensor of a shape that broadcasts; no gradient.
        "copy_" (t: Tensor, source: Tensor) -> () {
            tch::no_grad(|| -> Result<()> { Ok(t.shallow_clone().f_copy_(&source)?) })
        }
        /// Overwrites the places of a dimension that an int64 tensor names with those of `source`, in this order; no
        /// gradient.
        ///
        /// Example: `features.index_copy_(0, batch.indices, rows);`
        "index_copy_" (t: Tensor, dim: i64, index: Tensor, source: Tensor) -> () {
            tch::no_grad(|| -> Result<()> {
                t.shallow_clone().f_index_copy_(dim, &index, &source).map(drop)?;
                Ok(())
            })
        }
    }
}
