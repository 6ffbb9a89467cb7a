//! Named tensors in files: safetensors, which is also written, and PyTorch's own, which is only read.

use super::TensorFile;
use super::torch_file;
use crate::bail_hint;
use crate::error::{Context as _, Result, bail, catch_damage};
use crate::ffi;
use crate::files::{ChecksumWriter, write_atomic_with};
use crate::nn::{Module, named_state};
use crate::tensor::{Dtype, dtype_name};
use crate::untrusted;
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Reads every tensor of a safetensors file or a file of `torch.save`, on the CPU.
pub fn read(path: &Path) -> Result<TensorFile> {
    let reading = || format!("cannot read {}", path.display());
    let file = untrusted::open(path)?;
    // SAFETY: only read. Truncating the file meanwhile would end the process, so checkpoints are replaced by renaming.
    // A mapped file need not be in memory beside its tensors.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.with_context(reading)?;
    catch_damage(path.display(), || match torch_file::is_torch(path, &bytes) {
        true => torch_file::read(path, &bytes),
        false => read_safetensors(path, &bytes),
    })
}

fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<TensorFile> {
    let damaged = |e: SafeTensorError| -> anyhow::Error {
        crate::error::Diagnostic::new(format!(
            "{} is not a complete safetensors file ({} bytes): {}",
            path.display(),
            bytes.len(),
            fault_words(&e)
        ))
        .hint("it was cut short or damaged; copy or save it again")
        .into()
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let Ok(size) = view.shape().iter().map(|n| i64::try_from(*n)).collect::<Result<Vec<i64>, _>>() else {
            bail!("{}: tensor `{name}` has the impossible shape {:?}", path.display(), view.shape());
        };
        let Some(dtype) = Dtype::find(|dtype| dtype.safetensors == view.dtype()) else {
            bail_hint!(
                "{}: tensor `{name}` has dtype {:?}, which is not supported", path.display(), view.dtype();
                "save it as float32, bfloat16, float16 or an integer type"
            );
        };
        tensors.push((name.to_string(), Tensor::f_from_data_size(view.data(), &size, dtype.kind)?));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(TensorFile { tensors, metadata, others: Vec::new(), others_total: 0 })
}

fn fault_words(e: &SafeTensorError) -> String {
    match e {
        SafeTensorError::HeaderTooSmall => "it is shorter than a header".into(),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            "its header has an impossible length".into()
        }
        SafeTensorError::MetadataIncompleteBuffer => "it does not end where its header says".into(),
        other => other.to_string(),
    }
}

/// The CRC-32 of a module's parameters and buffers with their names, dtypes and shapes, as 8 hexadecimal digits; the same
/// on any device.
pub fn checksum_of_weights(module: &dyn Module) -> Result<String> {
    let on_cpu = |(name, t): (String, Tensor)| Ok((name, t.f_detach()?.f_to_device(Device::Cpu)?));
    let all = named_state(module).into_iter().map(on_cpu).collect::<Result<Vec<_>>>()?;
    let mut out = ChecksumWriter::new(std::io::sink());
    write_to(&mut out, &all, &BTreeMap::new())?;
    Ok(format!("{:08x}", out.checksum().crc32))
}

/// What is advised about a tensor that is not finite.
pub const DIVERGED: &str = "the training that made it has diverged";

/// Refuses tensors with values that are not finite; `of` says whose they are.
pub fn ensure_finite(tensors: &[(String, Tensor)], of: &str) -> Result<()> {
    // A norm that is finite speaks for all at once, and makes a GPU wait only once.
    let floats = tensors.iter().map(|(_, t)| t).filter(|t| t.kind() == Kind::Float && t.numel() > 0);
    let floats: Vec<Tensor> = floats.map(Tensor::shallow_clone).collect();
    let one_device = floats.iter().all(|t| t.device() == floats[0].device());
    let speaks = one_device && ffi::global_norm(&floats)?.f_double_value(&[])?.is_finite();
    let others = tensors.iter().filter(|(_, t)| t.is_floating_point() && !(speaks && t.kind() == Kind::Float));
    for (name, t) in others {
        if t.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            bail_hint!(
                "the tensor `{name}` ({of}) holds NaN or infinite values";
                "{DIVERGED}"
            );
        }
    }
    Ok(())
}

/// Writes tensors to a safetensors file: beside it first, synced, then renamed into place.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<&str, String>) -> Result<()> {
    write_atomic_with(path, |out| write_to(out, tensors, metadata))
}

/// Writes the bytes of a safetensors file: a header, and the tensors one after the other. The same tensors and metadata
/// give the same bytes (the crate writes its metadata in a hash map's order), and no copy of them is made on the way.
pub fn write_to(out: &mut dyn Write, tensors: &[(String, Tensor)], metadata: &BTreeMap<&str, String>) -> Result<()> {
    let mut order: Vec<&(String, Tensor)> = tensors.iter().collect();
    // Wide elements first, so that each tensor starts at a multiple of its element's size.
    order.sort_by(|(a, t), (b, u)| (u.kind().elt_size_in_bytes(), a).cmp(&(t.kind().elt_size_in_bytes(), b)));
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), json!(metadata));
    }
    let mut end = 0;
    for (name, tensor) in &order {
        let Some(dtype) = Dtype::find(|dtype| dtype.kind == tensor.kind()) else {
            crate::error::bail!("tensor `{name}` of dtype {} cannot be saved", dtype_name(tensor.kind()));
        };
        let start = end;
        end += tensor.numel() * tensor.kind().elt_size_in_bytes();
        let entry = json!({ "dtype": dtype.safetensors, "shape": tensor.size(), "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::to_string(&header).expect("names and numbers are JSON");
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for (_, tensor) in order {
        let t = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let length = t.numel() * t.kind().elt_size_in_bytes();
        // An empty tensor has no address.
        if length > 0 {
            // SAFETY: a contiguous tensor of that length on the CPU, alive and unchanged for as long as the slice is.
            out.write_all(unsafe { std::slice::from_raw_parts(t.data_ptr() as *const u8, length) })?;
        }
    }
    Ok(())
}
