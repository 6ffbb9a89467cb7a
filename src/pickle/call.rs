//! What the calls of a pickle stand for: storages, tensors that are views of them, and arrays.

use super::globals::Global;
use super::machine::Machine;
use super::{MAX_NAME, MAX_TENSORS, Node, Storage, StoredTensor, Value};
use crate::error::{Result, bail, ensure};

impl Machine<'_> {
    /// REDUCE: what a call of a known name with a tuple of arguments would give.
    pub(super) fn call(&mut self) -> Result<()> {
        let args = self.pop()?;
        let Value::Global(function) = self.pop()? else { bail!("it calls something that is not a function") };
        match (function, self.sequence(args)?) {
            (Global::OrderedDict, []) => self.node(Node::Dict(Vec::new())),
            (Global::Tensor, args) => {
                let tensor = self.tensor(args)?;
                ensure!(self.tensors.len() < MAX_TENSORS, "it makes more than {MAX_TENSORS} tensors");
                self.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            (Global::Parameter, [tensor @ Value::Tensor(_), ..]) => self.stack.push(*tensor),
            (Global::Size, [size @ Value::Node(_)]) => self.stack.push(*size),
            (Global::Dtype, &[Value::Bytes(at, length) | Value::Text(at, length), ..]) => {
                self.stack.push(Value::Dtype(at, length));
            }
            (Global::EmptyArray, [Value::Global(Global::NdArray), ..]) => {
                self.arrays.push(None);
                self.stack.push(Value::Array(self.arrays.len() - 1));
            }
            (Global::Opaque, _) => self.stack.push(Value::Opaque),
            (_, args) => bail!("a call with {} arguments of a name that does not take them", args.len()),
        }
        Ok(())
    }

    /// BUILD: gives an object its state. Of a state dict, it is `_metadata`, of no use here; of a dtype, the order of
    /// its bytes and the like.
    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match self.last()? {
            Value::Array(i) => self.arrays[i] = Some(self.array(state)?),
            Value::Dtype(..) => drop(self.sequence(state)?),
            _ => ensure!(
                matches!(self.container()?, Node::Dict(_)),
                "it gives attributes to something other than a dictionary"
            ),
        }
        Ok(())
    }

    /// A persistent id: ("storage", torch.FloatStorage, key, device, how many values).
    pub(super) fn storage(&mut self) -> Result<()> {
        let args = self.pop()?;
        let &[word, Value::Global(Global::Storage(kind)), key, _, Value::Int(len)] = self.sequence(args)? else {
            bail!("a reference to something other than a storage of values");
        };
        ensure!(self.str_of(word) == Some("storage"), "a reference to something other than a storage of values");
        let Some(key) = self.str_of(key).filter(|key| key.len() <= MAX_NAME) else { bail!("a storage without a name") };
        ensure!(len >= 0, "a storage of {len} values");
        ensure!(self.storages.len() < MAX_TENSORS, "it refers to more than {MAX_TENSORS} storages");
        self.storages.push(Storage { key: key.to_string(), kind, len });
        self.stack.push(Value::Storage(self.storages.len() - 1));
        Ok(())
    }

    /// The arguments of `_rebuild_tensor_v2`: storage, offset, size, stride, and what training needs.
    fn tensor(&self, args: &[Value]) -> Result<StoredTensor> {
        let [Value::Storage(storage), Value::Int(offset), size, stride, rest @ ..] = args else {
            bail!("a tensor that is not described by storage, offset, size and strides");
        };
        if let Some(Value::Node(flags)) = rest.get(2)
            && !matches!(&self.nodes[*flags], Node::Dict(pairs) if pairs.is_empty())
        {
            bail!("a tensor that is a conjugated or negated view, which is not read");
        }
        let storage = &self.storages[*storage];
        let ints = |value: &Value| -> Result<Vec<i64>> {
            let int = |v: &Value| match v {
                Value::Int(i) if *i >= 0 => Ok(*i),
                _ => bail!("a tensor with a size or stride that is not a non-negative integer"),
            };
            let values = self.sequence(*value)?;
            ensure!(values.len() <= 64, "a tensor of {} dimensions", values.len());
            values.iter().map(int).collect()
        };
        let (size, stride) = (ints(size)?, ints(stride)?);
        check_view(storage.len, *offset, &size, &stride)?;
        let Storage { key, kind, len } = storage;
        Ok(StoredTensor { storage: key.clone(), kind: *kind, storage_len: *len, offset: *offset, size, stride })
    }
}

/// Whether a view lies inside its storage.
fn check_view(len: i64, offset: i64, size: &[i64], stride: &[i64]) -> Result<()> {
    /// Values that a tensor may repeat beyond those that its storage has, as `expand` does.
    const REPEATED: i64 = 1 << 28;
    ensure!(size.len() == stride.len(), "a tensor of {} dimensions with {} strides", size.len(), stride.len());
    let count = match size.contains(&0) {
        true => Some(0),
        false => size.iter().try_fold(1i64, |n, s| n.checked_mul(*s)),
    };
    let reach = size.iter().zip(stride).try_fold(offset, |at, (n, s)| at.checked_add((n - 1).max(0).checked_mul(*s)?));
    let fits = match (count, reach) {
        (Some(0), Some(_)) => (0..=len).contains(&offset),
        (Some(count), Some(reach)) => offset >= 0 && reach < len && (count <= len || count <= REPEATED),
        _ => false,
    };
    ensure!(
        fits,
        "a tensor {size:?} with strides {stride:?} from {offset}, which its storage of {len} values does not hold"
    );
    Ok(())
}
