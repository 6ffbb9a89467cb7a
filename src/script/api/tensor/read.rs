//! Reading tensors: sizes, values, text.

use super::read_back::ReadBack;
use crate::error::{Result, bail, ensure};
use crate::script::limits::ARRAY;
use crate::script::values::{self, Tensor};
use crate::tensor::{self, dtype_name, shape_text};
use nepa_macros::functions;
use rhai::{Array, Dynamic};
use tch::{Device, Kind};

pub use functions::register;

#[functions]
mod functions {
    use super::*;

    /// The sizes of the dimensions, as an array of ints.
    ///
    /// Example: `ones([2, 3]).shape == [2, 3]`
    #[script(get)]
    pub fn shape(t: &Tensor) -> Vec<i64> {
        t.size()
    }

    /// The number of dimensions.
    ///
    /// Example: `ones([2, 3]).ndim == 2`
    #[script(get)]
    pub fn ndim(t: &Tensor) -> usize {
        t.dim()
    }

    /// The number of elements.
    ///
    /// Example: `ones([2, 3]).numel == 6`
    #[script(get)]
    pub fn numel(t: &Tensor) -> usize {
        t.numel()
    }

    /// The dtype's name, as in PyTorch: "float32", "int64", …
    ///
    /// Example: `arange(3).dtype == "int64"`
    #[script(get)]
    pub fn dtype(t: &Tensor) -> String {
        dtype_name(t.kind()).to_string()
    }

    /// The device: "cpu", "cuda:0", …
    ///
    /// Example: `ones([2]).to("cpu").device == "cpu"`
    #[script(get)]
    pub fn device(t: &Tensor) -> String {
        crate::device::name(t.device())
    }

    /// The size of one dimension.
    ///
    /// Example: `ones([2, 3]).size(-1) == 3`
    pub fn size(t: &Tensor, dim: i64) -> Result<i64> {
        let sizes = t.size();
        let index = if dim < 0 { dim + sizes.len() as i64 } else { dim };
        match usize::try_from(index).ok().and_then(|index| sizes.get(index)) {
            Some(n) => Ok(*n),
            None => bail!("size: dimension {dim} is outside a tensor {}", shape_text(t)),
        }
    }

    /// The sizes of all dimensions, as `shape`.
    ///
    /// Example: `ones([2, 3]).size() == [2, 3]`
    #[script(name = "size")]
    pub fn sizes(t: &Tensor) -> Vec<i64> {
        t.size()
    }

    /// The number of dimensions, as `ndim`.
    ///
    /// Example: `ones([2, 3]).dim() == 2`
    pub fn dim(t: &Tensor) -> usize {
        t.dim()
    }

    /// Whether it holds floats.
    ///
    /// Example: `ones([1]).is_floating_point()`
    pub fn is_floating_point(t: &Tensor) -> bool {
        t.is_floating_point()
    }

    /// Whether it holds complex numbers.
    ///
    /// Example: `fft::fft(ones([4])).is_complex()`
    pub fn is_complex(t: &Tensor) -> bool {
        crate::tensor::is_complex(t)
    }

    /// The elements as nested arrays of floats, ints or bools; of a tensor without dimensions the value itself.
    ///
    /// Example: `eye(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]`
    pub fn tolist(t: &Tensor) -> Result<Dynamic> {
        nested(t)
    }

    /// The value of a tensor with one element, as float, int or bool.
    ///
    /// Example: `tensor([2.5]).item() == 2.5`
    pub fn item(t: &Tensor) -> Result<Dynamic> {
        values::item(t)
    }

    /// The elements as a flat array of floats, ints or bools.
    ///
    /// Example: `eye(2).to_array() == [1.0, 0.0, 0.0, 1.0]`
    pub fn to_array(t: &Tensor) -> Result<Array> {
        ensure!(t.numel() <= ARRAY, "to_array: expected at most {ARRAY} elements, found {}", shape_text(t));
        let flat = t.f_detach()?.f_to_device(Device::Cpu)?.f_reshape([-1])?;
        Ok(match t.kind() {
            _ if tensor::is_complex(t) => {
                bail!("to_array: expected real numbers, found {}; read .real and .imag", shape_text(t))
            }
            Kind::Bool => Vec::<bool>::try_from(flat)?.into_iter().map(Dynamic::from_bool).collect(),
            _ if t.is_floating_point() => {
                Vec::<f64>::try_from(flat.f_to_kind(Kind::Double)?)?.into_iter().map(Dynamic::from_float).collect()
            }
            _ => Vec::<i64>::try_from(flat.f_to_kind(Kind::Int64)?)?.into_iter().map(Dynamic::from_int).collect(),
        })
    }

    /// The tensor as text: shape, dtype, device and values, shortened if it is large.
    pub fn to_string(t: &Tensor) -> String {
        text(t)
    }

    /// The tensor as text, as `to_string` gives it.
    pub fn to_debug(t: &Tensor) -> String {
        text(t)
    }

    /// Whether two tensors have the same shape and values.
    ///
    /// Example: `ones([2]).equal(ones([2]))`
    pub fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
        Ok(a.size() == b.size() && a.f_equal(b)?)
    }

    /// Begins to copy the values from the device to the host, which goes on meanwhile (PyTorch's `non_blocking=True`, with
    /// an event). For progress and logs: what is asked for at once, as by `item`, waits for a GPU, which then has nothing
    /// to do.
    ///
    /// Example: `let loss = ones([2]).sum().read_back(); loss.item() == 2.0`
    pub fn read_back(t: &Tensor) -> Result<ReadBack> {
        ReadBack::begin(t)
    }

    /// Whether all values are finite.
    ///
    /// Example: `ones([2]).is_finite()`
    pub fn is_finite(t: &Tensor) -> Result<bool> {
        Ok(t.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
    }
}

fn nested(t: &tch::Tensor) -> Result<Dynamic> {
    ensure!(t.numel() <= ARRAY, "tolist: expected at most {ARRAY} elements, found {}", shape_text(t));
    if t.dim() == 0 {
        return values::item(t);
    }
    let rows = (0..t.size()[0]).map(|i| nested(&t.f_get(i)?));
    Ok(Dynamic::from_array(rows.collect::<Result<_>>()?))
}

/// More elements than this are shown by their first and last few along each dimension.
const SHOW_ALL: usize = 1000;
const EDGE: i64 = 3;
/// If those are still more than this, as in a tensor of many dimensions, none are shown.
const SHOW_ANY: i64 = 100_000;

fn text(t: &tch::Tensor) -> String {
    let head = format!("Tensor {} on {}", shape_text(t), crate::device::name(t.device()));
    if t.numel() == 0 {
        return head;
    }
    let shorten = t.numel() > SHOW_ALL;
    let shown =
        t.size().iter().fold(1i64, |n, size| n.saturating_mul(if shorten { (*size).min(2 * EDGE) } else { *size }));
    if shown > SHOW_ANY {
        return format!("{head} (too many values to show)");
    }
    let mut out = String::new();
    let cpu = t.detach().to_device(Device::Cpu);
    match values_text(&cpu, shorten, 0, &mut out) {
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
            _ if tensor::is_complex(t) => {
                let part = |part: tch::Tensor| Ok::<_, tch::TchError>(number_text(part.f_double_value(&[])?));
                format!("{} + {}i", part(t.f_real()?)?, part(t.f_imag()?)?)
            }
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
