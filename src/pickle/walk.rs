//! Names for everything in the value that a pickle stands for.

use super::machine::Machine;
use super::{Content, MAX_NAME, MAX_TENSORS, Node, Value};
use crate::error::{Result, bail, ensure};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Nesting of dictionaries and lists; real files have three or four levels.
const MAX_DEPTH: usize = 64;
/// Values in all, one that is referred to twice counting twice: a small cycle-free pickle can mean
/// more values than there is memory.
const MAX_VALUES: usize = 10_000_000;
/// Names of other values that are kept.
const OTHERS: usize = 20;

/// Everything in a pickle's value, by name.
pub(super) fn content(machine: &Machine, root: Value) -> Result<Content> {
    let mut walk = Walk { machine, content: Content::default(), names: HashSet::new(), values: 0 };
    walk.value(root, &mut String::new(), 0)?;
    Ok(walk.content)
}

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

    /// A key as part of a name; `None` if it is neither text nor number.
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
