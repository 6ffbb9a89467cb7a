//! Python's pickles, read without running anything: the one inside a file of `torch.save`, and those of numpy's arrays.
//!
//! A pickle is a program for a stack machine that may call any function of Python by its name. This machine knows what
//! tensors and arrays need (dictionaries, lists, numbers, text, and a handful of names, none of which it calls), and
//! refuses everything else by name. Containers live in one list and are referred to by their index in it: no depth of
//! nesting and no cycle can exhaust the stack.

mod array;
mod call;
mod dictionary;
mod globals;
mod machine;
mod walk;

pub use array::Array;
pub use dictionary::Dictionary;

use crate::error::Result;
use globals::{Global, Purpose};
use machine::Machine;
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

/// What a pickle of tensors holds.
#[derive(Debug, Default)]
pub struct Content {
    /// Tensors by name; those of nested dictionaries and lists have names joined with dots.
    pub tensors: Vec<(String, StoredTensor)>,
    /// Names of values that are not tensors, the first few of them.
    pub others: Vec<String>,
    /// How many such values there are.
    pub others_total: usize,
}

/// Letters of a name.
const MAX_NAME: usize = 1024;
/// Tensors, and storages, each of which takes some kilobytes while it is read, used or not; a large model's checkpoint with
/// its optimizer has some thousands.
const MAX_TENSORS: usize = 200_000;

#[derive(Clone, Copy)]
enum Value {
    /// A number, text or object that no tensor needs.
    Opaque,
    Bool(bool),
    Int(i64),
    /// Offset and length in the pickle.
    Text(usize, usize),
    /// Likewise. What Python 2 calls text is bytes.
    Bytes(usize, usize),
    Global(Global),
    Node(usize),
    Storage(usize),
    Tensor(usize),
    /// numpy's code of a type, where the pickle has it.
    Dtype(usize, usize),
    Array(usize),
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

/// Reads the tensors of a pickle.
pub fn tensors(bytes: &[u8]) -> Result<Content> {
    let (machine, root) = Machine::run(bytes, Purpose::Tensors)?;
    walk::content(&machine, root)
}
