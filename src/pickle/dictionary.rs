//! A dictionary of arrays and lists.

use super::globals::Purpose;
use super::machine::Machine;
use super::{Array, Node, Value};
use crate::error::{Result, bail, ensure};

/// What a pickle holds under names.
pub struct Dictionary<'a> {
    machine: Machine<'a>,
    pairs: Vec<(Value, Value)>,
}

impl<'a> Dictionary<'a> {
    /// Reads a pickle that holds a dictionary.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let (mut machine, root) = Machine::run(bytes, Purpose::Arrays)?;
        let pairs = match root {
            Value::Node(i) => match &mut machine.nodes[i] {
                Node::Dict(pairs) => std::mem::take(pairs),
                Node::Sequence(_) => bail!("its pickle holds a list, expected a dictionary"),
            },
            _ => bail!("its pickle holds a single value, expected a dictionary"),
        };
        Ok(Self { machine, pairs })
    }

    /// The array of that name.
    pub fn array(&self, name: &str) -> Result<&Array> {
        match self.get(name)? {
            Value::Array(i) => match &self.machine.arrays[i] {
                Some(array) => Ok(array),
                None => bail!("the array `{name}` has no values"),
            },
            _ => bail!("`{name}` is no array"),
        }
    }

    /// The integers in the list of that name.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let integer = |value: &Value| match value {
            Value::Int(n) => Ok(*n),
            _ => bail!("`{name}` holds something other than integers"),
        };
        self.list(name)?.iter().map(integer).collect()
    }

    /// The texts in the list of that name.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        let mut left = self.machine.bytes.len();
        let mut text = |value: &Value| {
            let Some(bytes) = self.machine.bytes_of(*value) else { bail!("`{name}` holds something other than texts") };
            // One text may be referred to many times.
            let Some(rest) = left.checked_sub(bytes.len()) else {
                bail!("the texts of `{name}` are longer than the file")
            };
            left = rest;
            match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.to_string()),
                Err(_) => bail!("`{name}` holds text that is not UTF-8"),
            }
        };
        self.list(name)?.iter().map(&mut text).collect()
    }

    fn list(&self, name: &str) -> Result<&[Value]> {
        match self.get(name)? {
            Value::Node(i) if matches!(self.machine.nodes[i], Node::Sequence(_)) => {
                self.machine.sequence(Value::Node(i))
            }
            _ => bail!("`{name}` is no list"),
        }
    }

    /// Of a name that is set twice the last value counts.
    fn get(&self, name: &str) -> Result<Value> {
        let is_it = |key: Value| self.machine.bytes_of(key) == Some(name.as_bytes());
        if let Some((_, value)) = self.pairs.iter().rev().find(|(key, _)| is_it(*key)) {
            return Ok(*value);
        }
        let shown = |key: Value| self.machine.bytes_of(key).map(|key| String::from_utf8_lossy(key).into_owned());
        let names: Vec<String> = self.pairs.iter().take(10).filter_map(|(key, _)| shown(*key)).collect();
        ensure!(!names.is_empty(), "its dictionary has no `{name}`");
        let names: String = names.join(", ").escape_debug().take(200).collect();
        bail!("its dictionary has no `{name}`; it has {names}")
    }
}
