//! The stack machine: its memory, and what each instruction does to it.

use super::globals::Purpose;
use super::{Array, Node, Storage, StoredTensor, Value};
use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use std::collections::HashMap;

/// Instructions of a pickle: a value takes some tens of bytes of memory. Weights and data sets have some 100,000.
const MOST_INSTRUCTIONS: usize = 16 << 20;

pub(super) struct Machine<'a> {
    purpose: Purpose,
    pub(super) bytes: &'a [u8],
    at: usize,
    pub(super) stack: Vec<Value>,
    /// Heights of the stack where a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    pub(super) nodes: Vec<Node>,
    pub(super) storages: Vec<Storage>,
    pub(super) tensors: Vec<StoredTensor>,
    /// Those that were not given a state are `None`.
    pub(super) arrays: Vec<Option<Array>>,
}

impl<'a> Machine<'a> {
    /// Follows a pickle's instructions; gives the value that it stands for, with what that refers to.
    pub(super) fn run(bytes: &'a [u8], purpose: Purpose) -> Result<(Self, Value)> {
        let mut machine = Self {
            purpose,
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            nodes: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            arrays: Vec::new(),
        };
        for _ in 0..MOST_INSTRUCTIONS {
            let at = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok((machine, root)),
                Err(e) => return Err(e.context(format!("byte {at} of its pickle"))),
            }
        }
        bail!("its pickle has more than {MOST_INSTRUCTIONS} instructions")
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        ensure!(n <= rest.len(), "it ends where {n} more bytes were announced");
        self.at += n;
        Ok(&rest[..n])
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A length or index of `n` bytes, little-endian.
    fn unsigned(&mut self, n: usize) -> Result<usize> {
        let mut value = [0u8; 8];
        value[..n].copy_from_slice(self.take(n)?);
        usize::try_from(u64::from_le_bytes(value)).map_err(|_| anyhow::anyhow!("an impossible length"))
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

    pub(super) fn str_of(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(at, length) => std::str::from_utf8(&self.bytes[at..at + length]).ok(),
            _ => None,
        }
    }

    /// What Python 2 or 3 has for a text.
    pub(super) fn bytes_of(&self, value: Value) -> Option<&'a [u8]> {
        match value {
            Value::Text(at, length) | Value::Bytes(at, length) => Some(&self.bytes[at..at + length]),
            _ => None,
        }
    }

    pub(super) fn node(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(Value::Node(self.nodes.len() - 1));
    }

    pub(super) fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "it takes more values than it has made");
        Ok(self.stack.pop().expect("just counted"))
    }

    /// The values above the last mark, which goes.
    fn pop_mark(&mut self) -> Result<Vec<Value>> {
        let Some(mark) = self.marks.pop() else { bail!("it goes back to a mark that was not set") };
        Ok(self.stack.split_off(mark))
    }

    pub(super) fn sequence(&self, value: Value) -> Result<&[Value]> {
        match value {
            Value::Node(i) => match &self.nodes[i] {
                Node::Sequence(items) => Ok(items),
                Node::Dict(_) => bail!("expected a tuple, found a dictionary"),
            },
            _ => bail!("expected a tuple, found a single value"),
        }
    }

    /// The container that values are put into, below those values.
    pub(super) fn container(&mut self) -> Result<&mut Node> {
        match self.stack.last() {
            Some(Value::Node(i)) if self.stack.len() > self.marks.last().copied().unwrap_or(0) => {
                Ok(&mut self.nodes[*i])
            }
            _ => bail!("it fills something that is not a list or dictionary"),
        }
    }

    fn set_items(&mut self, items: &[Value]) -> Result<()> {
        ensure!(items.len().is_multiple_of(2), "a dictionary with a key that has no value");
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

    pub(super) fn last(&self) -> Result<Value> {
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
            // PROTO, FRAME: how the file is divided, which does not matter here.
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
                self.stack.push(Value::Global(self.purpose.global(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.str_of(module), self.str_of(name)) else {
                    bail!("a name that is not text");
                };
                self.stack.push(Value::Global(self.purpose.global(module, name)?));
            }
            b'R' => self.call()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            other => {
                if !self.push_literal(other)? && !self.collect(other)? {
                    bail_hint!(
                        "the instruction 0x{other:02x}, which is not read";
                        "the file is damaged, or holds more: {}", self.purpose.advice()
                    );
                }
            }
        }
        Ok(None)
    }

    /// Carries out an instruction that pushes a value written in the pickle; false if it is another one.
    fn push_literal(&mut self, op: u8) -> Result<bool> {
        match op {
            b'N' => self.stack.push(Value::Opaque),
            // NEWTRUE, NEWFALSE
            0x88 | 0x89 => self.stack.push(Value::Bool(op == 0x88)),
            b'J' => {
                let bytes = self.take(4)?.try_into().expect("4 bytes");
                self.stack.push(Value::Int(i32::from_le_bytes(bytes).into()));
            }
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            // LONG1, LONG4
            0x8a | 0x8b => {
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
            b'B' | b'T' => self.bytes_of_length(4)?,
            b'C' | b'U' => self.bytes_of_length(1)?,
            0x8e | 0x96 => self.bytes_of_length(8)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Carries out an instruction that makes or fills a tuple, list, set or dictionary; false if it is another one.
    fn collect(&mut self, op: u8) -> Result<bool> {
        match op {
            // EMPTY_TUPLE, EMPTY_LIST, EMPTY_SET
            b')' | b']' | 0x8f => self.node(Node::Sequence(Vec::new())),
            0x85..=0x87 => {
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
            _ => return Ok(false),
        }
        Ok(true)
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

    fn bytes_of_length(&mut self, n: usize) -> Result<()> {
        let length = self.unsigned(n)?;
        let at = self.at;
        self.take(length)?;
        self.stack.push(Value::Bytes(at, length));
        Ok(())
    }

    fn keep(&mut self, n: usize) -> Result<()> {
        let key = self.unsigned(n)?;
        self.memo.insert(key as u32, self.last()?);
        Ok(())
    }
}

/// A Python integer of any length, little-endian; one of more than 8 bytes cannot be a size.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut value = [if negative { 0xff } else { 0 }; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(value))
}
