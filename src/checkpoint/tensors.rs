//! Named tensors in files: safetensors, which is also written, and PyTorch's own, which is only read.

use super::torch_file;
use crate::bail_hint;
use crate::error::{Context as _, Result};
use crate::nn::kind_name;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What a file of tensors holds.
pub struct TensorFile {
    /// The tensors by name, on the CPU, in order of their names.
    pub tensors: Vec<(String, Tensor)>,
    /// The `__metadata__` of a safetensors file.
    pub metadata: HashMap<String, String>,
    /// Names of what else a file of `torch.save` holds, such as step counts; the first few.
    pub others: Vec<String>,
    /// How many such values there are.
    pub others_total: usize,
}

impl TensorFile {
    /// What is left out because it is no tensor, in words; `None` where that is nothing.
    pub fn left_out(&self) -> Option<String> {
        let more = if self.others_total > self.others.len() { ", …" } else { "" };
        let plural = if self.others_total == 1 { "value that is no tensor" } else { "values that are no tensors" };
        (self.others_total > 0).then(|| format!("{} {plural}: {}{more}", self.others_total, self.others.join(", ")))
    }
}

/// Reads every tensor of a safetensors file or a file of `torch.save`, on the CPU.
pub fn read(path: &Path) -> Result<TensorFile> {
    let reading = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(reading)?;
    // SAFETY: only read. Who cuts the file short meanwhile ends the process; checkpoints are replaced
    // by renaming. Mapped, a file need not be in memory beside its tensors.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.with_context(reading)?;
    match torch_file::is_torch(path, &bytes) {
        true => torch_file::read(path, &bytes),
        false => read_safetensors(path, &bytes),
    }
}

fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<TensorFile> {
    let damaged = |e: SafeTensorError| -> anyhow::Error {
        crate::error::Diagnostic::new(format!(
            "{} is not a whole safetensors file ({} bytes): {}",
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
        let size: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let Some(kind) = kind_of(view.dtype()) else {
            bail_hint!(
                "{}: tensor `{name}` has dtype {:?}, which is not supported", path.display(), view.dtype();
                "save it as float32, bfloat16, float16 or an integer type"
            );
        };
        tensors.push((name.to_string(), Tensor::f_from_data_size(view.data(), &size, kind)?));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let metadata = header.metadata().clone().unwrap_or_default();
    Ok(TensorFile { tensors, metadata, others: Vec::new(), others_total: 0 })
}

fn fault_words(e: &SafeTensorError) -> String {
    match e {
        SafeTensorError::HeaderTooSmall => "it is shorter than a header".into(),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            "its header's length makes no sense".into()
        }
        SafeTensorError::MetadataIncompleteBuffer => "it does not end where its header says".into(),
        other => other.to_string(),
    }
}

/// Writes tensors to a safetensors file: beside it first, synced, then renamed into place.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<&str, String>) -> Result<()> {
    let mut data: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let Some(dtype) = dtype_of(tensor.kind()) else {
            crate::error::bail!("tensor `{name}` of dtype {} cannot be saved", kind_name(tensor.kind()));
        };
        let t = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0u8; t.numel() * t.kind().elt_size_in_bytes()];
        t.f_copy_data_u8(&mut bytes, t.numel())?;
        data.push((name.clone(), dtype, t.size().iter().map(|&n| n as usize).collect(), bytes));
    }
    let views = data
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    write_atomic(path, &with_metadata(&safetensors::serialize(views, None)?, metadata))
}

/// Puts `__metadata__` into a file's header, in the order of its keys: the crate would write a hash
/// map's, and the same model would make another file each time.
fn with_metadata(file: &[u8], metadata: &BTreeMap<&str, String>) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let (old, data) = file[8..].split_at(length);
    let values = serde_json::to_string(metadata).expect("strings are JSON");
    let rest = std::str::from_utf8(old).expect("a header is JSON").trim_end().trim_start_matches('{');
    let comma = if rest == "}" { "" } else { "," };
    let mut header = format!("{{\"__metadata__\":{values}{comma}{rest}");
    // The data start at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Writes a file whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let saving = || format!("cannot write {}", path.display());
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).with_context(saving)?;
    let mut file = tempfile::Builder::new().prefix(".partial-").tempfile_in(parent).with_context(saving)?;
    file.write_all(bytes).with_context(saving)?;
    file.as_file().sync_all().with_context(saving)?;
    // A temporary file is private; a result is as readable as any other file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644));
    }
    file.persist(path).with_context(saving)?;
    Ok(())
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Int64 => Dtype::I64,
        Kind::Int => Dtype::I32,
        Kind::Int16 => Dtype::I16,
        Kind::Int8 => Dtype::I8,
        Kind::Uint8 => Dtype::U8,
        Kind::Bool => Dtype::BOOL,
        _ => return None,
    })
}
