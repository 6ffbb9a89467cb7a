//! Named tensors, as a file of either format holds them.

use std::collections::HashMap;
use tch::Tensor;

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
    /// What is left out because it is not a tensor, in words; `None` if nothing is.
    pub fn left_out(&self) -> Option<String> {
        let more = if self.others_total > self.others.len() { ", …" } else { "" };
        let plural = if self.others_total == 1 { "value that is not a tensor" } else { "values that are not tensors" };
        (self.others_total > 0).then(|| format!("{} {plural}: {}{more}", self.others_total, self.others.join(", ")))
    }
}
