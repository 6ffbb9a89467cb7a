//! The pickle inside a file of `torch.save`, read without running anything.
//!
//! A pickle is a program for a stack machine that may call any function of Python by its name. This
//! machine knows what tensors need (dictionaries, lists, numbers, text, and a handful of PyTorch's
//! names, none of which it calls), and refuses everything else by name. Containers live in one list
//! and are referred to by their place in it: no depth of nesting and no cycle can exhaust the stack.

use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use tch::Kind;

/// A tensor as the pickle describes it: a view of a storage that lies beside the pickle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name of the storage's record.
    pub storage: String,
    /// Type of its values.
    pub kind: Kind,
    /// How many values the storage holds.
    pub storage_len: i64,
    /// Where the view begins, in values.
    pub offset: i64,
    /// The view's shape.
    pub size: Vec<i64>,
    /// Values between neighbours along each dimension.
    pub stride: Vec<i64>,
}

/// What a pickle holds.
#[derive(Debug, Default)]
pub struct Content {
    /// Tensors by name; those of nested dictionaries and lists have names joined with dots.
    pub tensors: Vec<(String, StoredTensor)>,
    /// Names of values that are no tensors, the first few of them.
    pub others: Vec<String>,
    /// How many such values there are.
    pub others_total: usize,
}

/// Nesting of dictionaries and lists; real files have three or four levels.
const MAX_DEPTH: usize = 64;
/// Values in all, one that is referred to twice counting twice: a small cycle-free pickle can mean
/// more values than there is memory.
const MAX_VALUES: usize = 10_000_000;
/// Tensors; a large model's checkpoint with its optimizer has some thousands.
const MAX_TENSORS: usize = 200_000;
/// Letters of a name.
const MAX_NAME: usize = 1024;
/// Names of other values that are kept.
const OTHERS: usize = 20;

#[derive(Clone, Copy)]
enum Value {
    /// A number, text or object that no tensor needs.
    Opaque,
    Int(i64),
    /// Place and length in the pickle.
    Text(usize, usize),
    Global(Global),
    Node(usize),
    Storage(usize),
    Tensor(usize),
}

/// What is known by name.
#[derive(Clone, Copy)]
enum Global {
    OrderedDict,
    Tensor,
    Parameter,
    Size,
    Storage(Kind),
    /// A call gives an object that no tensor needs.
    Opaque,
}

enum Node {
    Sequence(Vec<Value>),
    Dict(Vec<(Value, Value)>),
}

struct Storage {
    key: String,
    kind: Kind,
    len: i64,
}

fn global(module: &str, name: &str) -> Result<Global> {
    let refused = "only tensors, numbers, text, dictionaries and lists are read, and no code is run; in Python, save \
                   the weights alone: torch.save(model.state_dict(), path)";
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Global::Tensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::Parameter,
        ("torch", "Size") => Global::Size,
        ("torch", "device") | ("_codecs", "encode") | ("builtins" | "__builtin__", "set" | "frozenset") => {
            Global::Opaque
        }
        ("torch", storage) if storage.ends_with("Storage") => match storage_kind(storage) {
            Some(kind) => Global::Storage(kind),
            None => bail_hint!(
                "it holds a torch.{storage}, of a dtype that is not supported";
                "save its tensors as float32, bfloat16, float16 or an integer type"
            ),
        },
        ("torch._utils", "_rebuild_tensor_v3") => bail_hint!(
            "it holds a tensor of a dtype that is not supported, such as float8 or uint16";
            "save its tensors as float32, bfloat16, float16 or an integer type"
        ),
        ("torch", dtype) if is_dtype(dtype) => Global::Opaque,
        _ => {
            // Of damaged files it may be anything.
            let name: String = format!("{module}.{name}").escape_debug().take(100).collect();
            bail_hint!("it holds {name}, which is not read"; "{refused}")
        }
    })
}

fn storage_kind(name: &str) -> Option<Kind> {
    Some(match name.strip_suffix("Storage")? {
        "Double" => Kind::Double,
        "Float" => Kind::Float,
        "Half" => Kind::Half,
        "BFloat16" => Kind::BFloat16,
        "Long" => Kind::Int64,
        "Int" => Kind::Int,
        "Short" => Kind::Int16,
        "Char" => Kind::Int8,
        "Byte" => Kind::Uint8,
        "Bool" => Kind::Bool,
        _ => return None,
    })
}

/// `torch.float32` and the like, which configurations beside the weights name.
fn is_dtype(name: &str) -> bool {
    let bits = ["bfloat", "float", "uint", "int", "complex"].iter().find_map(|kind| name.strip_prefix(kind));
    name == "bool" || bits.is_some_and(|bits| bits.starts_with(|c: char| c.is_ascii_digit()))
}

/// Reads a pickle.
pub fn read(bytes: &[u8]) -> Result<Content> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        nodes: Vec::new(),
        storages: Vec::new(),
        tensors: Vec::new(),
    };
    let root = loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => break root,
            Err(e) => return Err(e.context(format!("byte {at} of its pickle"))),
        }
    };
    let mut walk = Walk { machine: &machine, content: Content::default(), names: HashSet::new(), values: 0 };
    walk.value(root, &mut String::new(), 0)?;
    Ok(walk.content)
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack where a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    nodes: Vec<Node>,
    storages: Vec<Storage>,
    tensors: Vec<StoredTensor>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(n <= rest.len(), "it ends where {n} more bytes were announced");
        self.at += n;
        Ok(&rest[..n])
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A length or place of `n` bytes, little-endian.
    fn unsigned(&mut self, n: usize) -> Result<usize> {
        let mut value = [0u8; 8];
        value[..n].copy_from_slice(self.take(n)?);
        usize::try_from(u64::from_le_bytes(value)).map_err(|_| anyhow::anyhow!("a length that makes no sense"))
    }

    fn text(&mut self, length: usize) -> Result<Value> {
        let at = self.at;
        ensure!(std::str::from_utf8(self.take(length)?).is_ok(), "text that is not UTF-8");
        Ok(Value::Text(at, length))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|b| *b == b'\n') else { bail!("a name without an end") };
        self.at += length + 1;
        Ok(std::str::from_utf8(&rest[..length])?)
    }

    fn str_of(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(at, length) => std::str::from_utf8(&self.bytes[at..at + length]).ok(),
            _ => None,
        }
    }

    fn node(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(Value::Node(self.nodes.len() - 1));
    }

    fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "it takes more values than it has made");
        Ok(self.stack.pop().expect("just counted"))
    }

    /// The values above the last mark, which goes.
    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let Some(mark) = self.marks.pop() else { bail!("it goes back to a mark that was not set") };
        Ok(self.stack.split_off(mark))
    }

    fn sequence(&self, value: Value) -> Result<&[Value]> {
        match value {
            Value::Node(i) => match &self.nodes[i] {
                Node::Sequence(items) => Ok(items),
                Node::Dict(_) => bail!("expected a tuple, found a dictionary"),
            },
            _ => bail!("expected a tuple, found a single value"),
        }
    }

    /// The container that values are put into, below those values.
    fn container(&mut self) -> Result<&mut Node> {
        match self.stack.last() {
            Some(Value::Node(i)) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => {
                Ok(&mut self.nodes[*i])
            }
            _ => bail!("it fills something that is no list or dictionary"),
        }
    }

    fn set_items(&mut self, items: &[Value]) -> Result<()> {
        ensure!(items.len() % 2 == 0, "a dictionary with a key that has no value");
        match self.container()? {
            Node::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|p| (p[0], p[1]))),
            Node::Sequence(_) => bail!("it sets a key of a list"),
        }
        Ok(())
    }

    fn append(&mut self, items: &[Value]) -> Result<()> {
        match self.container()? {
            Node::Sequence(list) => list.extend(items),
            Node::Dict(_) => bail!("it appends to a dictionary"),
        }
        Ok(())
    }

    fn last(&self) -> Result<Value> {
        match self.stack.last() {
            Some(value) => Ok(*value),
            None => bail!("it takes more values than it has made"),
        }
    }

    fn recall(&mut self, key: usize) -> Result<()> {
        match self.memo.get(&(key as u32)) {
            Some(value) => self.stack.push(*value),
            None => bail!("it recalls a value that it never kept"),
        }
        Ok(())
    }

    /// One instruction; the value that the pickle stands for when it was the last.
    fn step(&mut self) -> Result<Option<Value>> {
        match self.byte()? {
            // PROTO, FRAME: how the file is cut up, of no matter here.
            0x80 => ensure!((2..=5).contains(&self.byte()?), "a pickle of a protocol other than 2 to 5"),
            0x95 => drop(self.take(8)?),
            b'.' => {
                ensure!(self.marks.is_empty() && self.stack.len() == 1, "it ends with values left over");
                return self.pop().map(Some);
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => self.stack.push(self.last()?),
            // NONE, NEWTRUE, NEWFALSE
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Opaque),
            b'J' => {
                let bytes = self.take(4)?.try_into().expect("4 bytes");
                self.stack.push(Value::Int(i32::from_le_bytes(bytes).into()));
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            // LONG1, LONG4
            op @ (0x8a | 0x8b) => {
                let length = self.unsigned(if op == 0x8a { 1 } else { 4 })?;
                let bytes = self.take(length)?;
                self.stack.push(long(bytes));
            }
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Opaque);
            }
            // Text: BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'X' => self.text_of(4)?,
            0x8c => self.text_of(1)?,
            0x8d => self.text_of(8)?,
            // Bytes: BINBYTES, BINSTRING, SHORT_BINBYTES, SHORT_BINSTRING, BINBYTES8, BYTEARRAY8
            b'B' | b'T' => self.skip(4)?,
            b'C' | b'U' => self.skip(1)?,
            0x8e | 0x96 => self.skip(8)?,
            b')' | b']' => self.node(Node::Sequence(Vec::new())),
            op @ 0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x85..=op {
                    items.insert(0, self.pop()?);
                }
                self.node(Node::Sequence(items));
            }
            // TUPLE, LIST, FROZENSET
            b't' | b'l' | 0x91 => {
                let items = self.pop_mark()?;
                self.node(Node::Sequence(items));
            }
            // EMPTY_SET
            0x8f => self.node(Node::Sequence(Vec::new())),
            b'}' => self.node(Node::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_mark()?;
                self.node(Node::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            // APPENDS, ADDITEMS
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => self.keep(1)?,
            b'r' => self.keep(4)?,
            0x94 => drop(self.memo.insert(self.memo.len() as u32, self.last()?)),
            b'h' => {
                let key = self.unsigned(1)?;
                self.recall(key)?;
            }
            b'j' => {
                let key = self.unsigned(4)?;
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(global(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.str_of(module), self.str_of(name)) else {
                    bail!("a name that is no text");
                };
                self.stack.push(Value::Global(global(module, name)?));
            }
            b'R' => self.call()?,
            // BUILD gives an object attributes: of a state dict its `_metadata`, of no use here.
            b'b' => {
                self.pop()?;
                ensure!(
                    matches!(self.container()?, Node::Dict(_)),
                    "it gives attributes to something else than a dictionary"
                );
            }
            b'Q' => self.storage()?,
            other => bail_hint!(
                "the instruction 0x{other:02x}, which no state dict needs";
                "the file is damaged, or holds more than tensors; save the weights alone: torch.save(model.state_dict(), path)"
            ),
        }
        Ok(None)
    }

    fn int(&mut self, n: usize) -> Result<()> {
        let value = self.unsigned(n)?;
        self.stack.push(Value::Int(value as i64));
        Ok(())
    }

    fn text_of(&mut self, n: usize) -> Result<()> {
        let length = self.unsigned(n)?;
        let text = self.text(length)?;
        self.stack.push(text);
        Ok(())
    }

    fn skip(&mut self, n: usize) -> Result<()> {
        let length = self.unsigned(n)?;
        self.take(length)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn keep(&mut self, n: usize) -> Result<()> {
        let key = self.unsigned(n)?;
        self.memo.insert(key as u32, self.last()?);
        Ok(())
    }

    /// REDUCE: what a call of a known name with a tuple of arguments would give.
    fn call(&mut self) -> Result<()> {
        let args = self.pop()?;
        let Value::Global(function) = self.pop()? else { bail!("it calls something that is no function") };
        match (function, self.sequence(args)?) {
            (Global::OrderedDict, []) => self.node(Node::Dict(Vec::new())),
            (Global::Tensor, args) => {
                let tensor = self.tensor(args)?;
                self.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.tensors.len() - 1));
            }
            (Global::Parameter, [tensor @ Value::Tensor(_), ..]) => self.stack.push(*tensor),
            (Global::Size, [size @ Value::Node(_)]) => self.stack.push(*size),
            (Global::Opaque, _) => self.stack.push(Value::Opaque),
            (_, args) => bail!("a call with {} arguments of a name that does not take them", args.len()),
        }
        Ok(())
    }

    /// A persistent id: ("storage", torch.FloatStorage, key, device, how many values).
    fn storage(&mut self) -> Result<()> {
        let args = self.pop()?;
        let &[word, Value::Global(Global::Storage(kind)), key, _, Value::Int(len)] = self.sequence(args)? else {
            bail!("a reference to something else than a storage of values");
        };
        ensure!(self.str_of(word) == Some("storage"), "a reference to something else than a storage of values");
        let Some(key) = self.str_of(key).filter(|key| key.len() <= MAX_NAME) else { bail!("a storage without a name") };
        ensure!(len >= 0, "a storage of {len} values");
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
                _ => bail!("a tensor with a size or stride that is no number from 0"),
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

/// A Python integer of any length, little-endian; one of more than 8 bytes is no size of anything.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(value))
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

/// Names everything in a pickle's value.
struct Walk<'a> {
    machine: &'a Machine<'a>,
    content: Content,
    names: HashSet<String>,
    values: usize,
}

impl<'a> Walk<'a> {
    fn value(&mut self, value: Value, name: &mut String, depth: usize) -> Result<()> {
        ensure!(depth <= MAX_DEPTH, "its dictionaries are nested more than {MAX_DEPTH} deep");
        self.count(1)?;
        match value {
            Value::Tensor(i) => {
                ensure!(self.names.len() < MAX_TENSORS, "it holds more than {MAX_TENSORS} tensors");
                let name = if depth == 0 { "tensor" } else { name.as_str() }.to_string();
                ensure!(self.names.insert(name.clone()), "two of its tensors are named `{name}`");
                self.content.tensors.push((name, self.machine.tensors[i].clone()));
                Ok(())
            }
            Value::Node(i) => match &self.machine.nodes[i] {
                Node::Sequence(items) => {
                    items.iter().enumerate().try_for_each(|(i, item)| self.inner(&i.to_string(), *item, name, depth))
                }
                Node::Dict(pairs) => {
                    self.count(pairs.len())?;
                    let keys = pairs.iter().map(|(key, _)| self.key(*key)).collect::<Result<Vec<_>>>()?;
                    // Of a key that is set twice the last value counts.
                    let last: HashMap<&str, usize> =
                        keys.iter().enumerate().filter_map(|(i, key)| Some((key.as_deref()?, i))).collect();
                    for (i, (_, value)) in pairs.iter().enumerate() {
                        match keys[i].as_deref() {
                            Some(key) if last[key] != i => {}
                            Some(key) => self.inner(key, *value, name, depth)?,
                            None => self.other(&format!("{name}[…]")),
                        }
                    }
                    Ok(())
                }
            },
            _ => {
                self.other(name);
                Ok(())
            }
        }
    }

    fn count(&mut self, values: usize) -> Result<()> {
        self.values += values;
        ensure!(self.values <= MAX_VALUES, "it holds more than {MAX_VALUES} values");
        Ok(())
    }

    /// A key as part of a name; `None` where it is neither text nor number.
    fn key(&self, key: Value) -> Result<Option<Cow<'a, str>>> {
        match key {
            Value::Int(i) => Ok(Some(i.to_string().into())),
            Value::Text(_, length) if length > MAX_NAME => bail!("a name of more than {MAX_NAME} letters"),
            key => Ok(self.machine.str_of(key).map(Cow::from)),
        }
    }

    /// A value inside that of `name`.
    fn inner(&mut self, key: &str, value: Value, name: &mut String, depth: usize) -> Result<()> {
        let outer = name.len();
        if depth > 0 {
            name.push('.');
        }
        ensure!(name.len() + key.len() <= MAX_NAME, "a name of more than {MAX_NAME} letters");
        name.push_str(key);
        let result = self.value(value, name, depth + 1);
        name.truncate(outer);
        result
    }

    fn other(&mut self, name: &str) {
        self.content.others_total += 1;
        if self.content.others.len() < OTHERS {
            self.content.others.push(name.to_string());
        }
    }
}
