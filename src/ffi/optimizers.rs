//! One update of an optimizer for many tensors (`optimizers.cpp`).

use super::{Fault, check, handles, optional_handle};
use crate::error::Result;
use tch::Tensor;
use torch_sys::C_tensor;

/// As in `optimizers.cpp`.
#[repr(C)]
struct Lists {
    params: *const *mut C_tensor,
    grads: *const *mut C_tensor,
    states: [*const *mut C_tensor; 3],
    n: usize,
    found_inf: *mut C_tensor,
    is_finite: *mut C_tensor,
}

unsafe extern "C" {
    fn nepa_adamw(lists: *const Lists, lr: f64, weight_decay: f64, beta1: f64, beta2: f64, eps: f64) -> *mut Fault;
    fn nepa_sgd(lists: *const Lists, lr: f64, weight_decay: f64, momentum: f64, nesterov: bool) -> *mut Fault;
    fn nepa_lion(lists: *const Lists, lr: f64, weight_decay: f64, beta1: f64, beta2: f64) -> *mut Fault;
    fn nepa_lars(lists: *const Lists, lr: f64, weight_decay: f64, momentum: f64, trust: f64) -> *mut Fault;
    fn nepa_lamb(lists: *const Lists, lr: f64, weight_decay: f64, beta1: f64, beta2: f64, eps: f64) -> *mut Fault;
    fn nepa_muon(
        lists: *const Lists,
        lr: f64,
        weight_decay: f64,
        momentum: f64,
        nesterov: bool,
        ns_steps: i64,
        match_rms_adamw: bool,
        bfloat16: bool,
    ) -> *mut Fault;
}

/// How an optimizer updates, with its hyperparameters (described with the options in `optim`) and the states that it
/// needs.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy)]
pub enum UpdateRule {
    /// AdamW. States: first and second moments, and steps: float32 scalars, which the update raises by one.
    Adamw { betas: [f64; 2], eps: f64 },
    /// SGD. State: momentum, unless it is 0.
    Sgd { momentum: f64, nesterov: bool },
    /// Lion. State: first moments.
    Lion { betas: [f64; 2] },
    /// LARS. State: momentum.
    Lars { momentum: f64, trust_coefficient: f64 },
    /// LAMB. States: as AdamW's.
    Lamb { betas: [f64; 2], eps: f64 },
    /// Muon, for matrices. State: momentum.
    Muon { momentum: f64, nesterov: bool, ns_steps: i64, match_rms_adamw: bool, bfloat16: bool },
}

/// What an update works on: equally long lists, tensor by tensor.
#[derive(Default)]
pub struct Batch {
    /// The parameters, changed in place.
    pub params: Vec<Tensor>,
    /// Their gradients.
    pub grads: Vec<Tensor>,
    /// Their states, a list for each that the rule needs, changed in place.
    pub states: [Vec<Tensor>; 3],
    /// Float32 scalars on their device: `found_inf` and 1 − `found_inf`. Where `found_inf` is 1, nothing changes. Only
    /// for rules that ask it ([`UpdateRule::asks_found_inf`]).
    pub found_inf: Option<[Tensor; 2]>,
}

impl UpdateRule {
    /// Whether the update leaves everything as it is where `found_inf` is 1, as libtorch's fused kernels do.
    pub fn asks_found_inf(&self) -> bool {
        matches!(self, UpdateRule::Adamw { .. } | UpdateRule::Sgd { .. })
    }

    /// One update in place. A missing state is the rule's own fault, not the caller's data: the lists are checked.
    pub fn update(&self, batch: &Batch, lr: f64, weight_decay: f64) -> Result<()> {
        let n = batch.params.len();
        if n == 0 {
            return Ok(());
        }
        assert_eq!(batch.grads.len(), n, "a gradient for each parameter");
        let (params, grads) = (handles(&batch.params), handles(&batch.grads));
        let states = batch.states.each_ref().map(|list| handles(list));
        let needed = match self {
            UpdateRule::Adamw { .. } | UpdateRule::Lamb { .. } => 3,
            UpdateRule::Sgd { momentum: 0.0, .. } => 0,
            _ => 1,
        };
        assert!(states[..needed].iter().all(|list| list.len() == n), "{needed} states for each parameter");
        assert!(batch.found_inf.is_none() || self.asks_found_inf(), "{self:?} does not ask found_inf");
        let [found_inf, is_finite] = match &batch.found_inf {
            Some(both) => both.each_ref().map(|t| optional_handle(Some(t))),
            None => [std::ptr::null_mut(); 2],
        };
        let lists = Lists {
            params: params.as_ptr(),
            grads: grads.as_ptr(),
            states: states.each_ref().map(|list| list.as_ptr()),
            n,
            found_inf,
            is_finite,
        };
        let (lists, lr, wd) = (&raw const lists, lr, weight_decay);
        // SAFETY: the handles stay alive in `batch` for the call; each list that the rule reads holds n of them.
        check(unsafe {
            match *self {
                UpdateRule::Adamw { betas: [b1, b2], eps } => nepa_adamw(lists, lr, wd, b1, b2, eps),
                UpdateRule::Sgd { momentum, nesterov } => nepa_sgd(lists, lr, wd, momentum, nesterov),
                UpdateRule::Lion { betas: [b1, b2] } => nepa_lion(lists, lr, wd, b1, b2),
                UpdateRule::Lars { momentum, trust_coefficient } => {
                    nepa_lars(lists, lr, wd, momentum, trust_coefficient)
                }
                UpdateRule::Lamb { betas: [b1, b2], eps } => nepa_lamb(lists, lr, wd, b1, b2, eps),
                UpdateRule::Muon { momentum, nesterov, ns_steps, match_rms_adamw, bfloat16 } => {
                    nepa_muon(lists, lr, wd, momentum, nesterov, ns_steps, match_rms_adamw, bfloat16)
                }
            }
        })
    }
}
