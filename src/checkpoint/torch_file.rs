//! Files of `torch.save` (`.bin`, `.pt`, `.pth`): a zip archive, not compressed, of one pickle and
//! the storages that its tensors are views of. See [`crate::pickle`] for what of it is read.

use super::TensorFile;
use crate::bail_hint;
use crate::error::{Context as _, Diagnostic, Result, bail, ensure};
use crate::pickle::{self, StoredTensor};
use crate::tensor::dtype_name;
use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;
use tch::{Device, Kind, Tensor};
use zip::{CompressionMethod, ZipArchive};

/// Extensions that PyTorch's files go by.
const EXTENSIONS: &[&str] = &["bin", "pt", "pth"];
/// How a pickle of the format before PyTorch 1.6 begins: protocol 2, then PyTorch's magic number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// A pickle of names is small; one value of it takes some tens of bytes of memory.
const MAX_PICKLE: usize = 16 << 20;

/// Whether a file is read as one of `torch.save`: by how it begins, or else by its name.
pub fn is_torch(path: &Path, bytes: &[u8]) -> bool {
    let named = path.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known)));
    let safetensors = bytes.get(8) == Some(&b'{');
    bytes.starts_with(b"PK") || bytes.starts_with(LEGACY) || (named && !safetensors)
}

/// Reads every tensor of a file of `torch.save`, on the CPU. Nothing in it is run.
pub fn read(path: &Path, bytes: &[u8]) -> Result<TensorFile> {
    let of = || format!("cannot read {}", path.display());
    let records = Records::open(path, bytes)?;
    let pickle = records.get("data.pkl").with_context(of)?;
    ensure!(
        pickle.len() <= MAX_PICKLE,
        "{}: its data.pkl has {} bytes, expected at most {MAX_PICKLE}",
        path.display(),
        pickle.len()
    );
    let content = pickle::tensors(pickle).with_context(of)?;
    let mut storages = Storages { records: &records, open: HashMap::new() };
    let mut tensors = Vec::with_capacity(content.tensors.len());
    for (name, stored) in content.tensors {
        let tensor = storages.view(&stored).with_context(|| format!("tensor `{name}`")).with_context(of)?;
        tensors.push((name, tensor));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(TensorFile { tensors, metadata: HashMap::new(), others: content.others, others_total: content.others_total })
}

/// The storages that have been read. Tensors are views of them, so that each is held once, however
/// many share it.
struct Storages<'a> {
    records: &'a Records<'a>,
    open: HashMap<String, (Kind, i64, Tensor)>,
}

impl Storages<'_> {
    fn view(&mut self, stored: &StoredTensor) -> Result<Tensor> {
        if !self.open.contains_key(&stored.storage) {
            let values = self.storage(stored)?;
            self.open.insert(stored.storage.clone(), (stored.kind, stored.storage_len, values));
        }
        let (kind, len, values) = &self.open[&stored.storage];
        ensure!(
            *kind == stored.kind && *len == stored.storage_len,
            "storage {} is both {len} values of {} and {} of {}",
            stored.storage,
            dtype_name(*kind),
            stored.storage_len,
            dtype_name(stored.kind)
        );
        Ok(values.f_as_strided(&stored.size, &stored.stride, stored.offset)?)
    }

    fn storage(&self, stored: &StoredTensor) -> Result<Tensor> {
        let bytes = self.records.get(&format!("data/{}", stored.storage))?;
        let expected = stored.storage_len.checked_mul(stored.kind.elt_size_in_bytes() as i64);
        ensure!(
            expected == Some(bytes.len() as i64),
            "storage {} should have {} values of {}, but has {} bytes",
            stored.storage,
            stored.storage_len,
            dtype_name(stored.kind),
            bytes.len()
        );
        if bytes.is_empty() {
            return Ok(Tensor::f_zeros([0], (stored.kind, Device::Cpu))?);
        }
        Ok(Tensor::f_from_data_size(bytes, &[stored.storage_len], stored.kind)?)
    }
}

/// The archive's records by name, without the folder that all of them lie in.
struct Records<'a> {
    by_name: HashMap<String, Record<'a>>,
}

struct Record<'a> {
    data: &'a [u8],
    crc: u32,
    /// Neither compressed nor encrypted.
    plain: bool,
}

impl<'a> Records<'a> {
    fn open(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let shown = path.display();
        if bytes.starts_with(LEGACY) {
            bail_hint!(
                "{shown} is in PyTorch's format from before version 1.6, which is not read";
                "save it again in Python: torch.save(torch.load(path, map_location=\"cpu\"), path)"
            );
        }
        if !bytes.starts_with(b"PK") {
            let begins: String = bytes.iter().take(8).map(|b| format!("{b:02x} ")).collect();
            bail_hint!(
                "{shown} ({} bytes) is not a torch.save file: expected a zip archive, found a file that begins {}",
                bytes.len(), if bytes.is_empty() { "with nothing" } else { begins.trim_end() };
                "expected .safetensors, or a .bin, .pt or .pth file that PyTorch 1.6 or later wrote"
            );
        }
        let by_name = Self::list(bytes).map_err(|e| {
            Diagnostic::new(format!("{shown} is not a complete torch.save file ({} bytes): {e:#}", bytes.len()))
                .hint("it was cut short or damaged; copy or save it again")
        })?;
        let has = |name: &str| by_name.contains_key(name);
        if has("constants.pkl") || by_name.keys().any(|name| name.starts_with("code/")) {
            bail_hint!(
                "{shown} is a TorchScript archive, a program with its weights, which is not read";
                "save the weights alone in Python: torch.save(torch.jit.load(path).state_dict(), path)"
            );
        }
        if !has("data.pkl") {
            bail_hint!(
                "{shown} is a zip archive without a data.pkl, so not a torch.save file";
                "expected .safetensors, or a .bin, .pt or .pth file that PyTorch 1.6 or later wrote"
            );
        }
        let records = Self { by_name };
        match records.by_name.get("byteorder").map(|record| record.data) {
            Some(b"little") | None => Ok(records),
            Some(other) => bail_hint!(
                "{shown}: its numbers are in the byte order \"{}\", expected \"little\"", String::from_utf8_lossy(other).escape_debug();
                "save it as safetensors on the machine that it comes from"
            ),
        }
    }

    fn list(bytes: &'a [u8]) -> Result<HashMap<String, Record<'a>>> {
        let mut archive = ZipArchive::new(Cursor::new(bytes))?;
        // Many names for the same bytes would become many times the file in memory.
        ensure!(!archive.has_overlapping_files()?, "its records overlap");
        let mut all = HashMap::with_capacity(archive.len());
        for i in 0..archive.len() {
            let record = archive.by_index_raw(i)?;
            let name = record.name()?.into_owned();
            let start = record.data_start().context("a record without data")?;
            let data = usize::try_from(start).ok().zip(usize::try_from(record.compressed_size()).ok());
            let Some(data) = data.and_then(|(start, size)| bytes.get(start..start.checked_add(size)?)) else {
                bail!("its record {} does not lie within it", name.escape_debug());
            };
            let plain = record.compression() == CompressionMethod::Stored && !record.encrypted();
            let name = name.split_once('/').map_or(name.as_str(), |(_, rest)| rest).to_string();
            all.insert(name, Record { data, crc: record.crc32(), plain });
        }
        Ok(all)
    }

    /// A record's bytes, whose checksum must match; PyTorch can be told to write none.
    fn get(&self, name: &str) -> Result<&'a [u8]> {
        let Some(Record { data, crc, plain }) = self.by_name.get(name) else {
            bail_hint!("its record {} is missing", name.escape_debug(); "it was damaged; copy or save it again");
        };
        if !plain {
            bail_hint!("its record {name} is compressed, which PyTorch never does"; "save it again with torch.save");
        }
        if *crc != 0 && crc32fast::hash(data) != *crc {
            bail_hint!("its record {name} is damaged: its checksum does not match"; "copy or save it again");
        }
        Ok(data)
    }
}
