//! AdamW (decoupled weight decay, arXiv 1711.05101) over groups of parameters.

use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::ffi::{self, AdamwLists};
use crate::nn::{Module, named_parameters};
use crate::options;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use wildmatch::WildMatch;

options! {
    /// AdamW's hyperparameters.
    pub struct AdamwOptions {
        /// Decay rates of the first and second moments.
        betas: [f64; 2] = [0.9, 0.95],
        /// Added to the square root of the second moment.
        eps: f64 = 1e-8,
        /// Decoupled weight decay, multiplied by the learning rate.
        weight_decay: f64 = 0.05,
        /// Parameters without weight decay, besides those of at most one dimension (biases, norms, scales): name patterns,
        /// in which `*` stands for any characters.
        no_decay: Vec<String> = ["*bias*", "*layernorm*", "*layer_scale*", "*_norm*"].map(String::from).to_vec(),
        /// Parameter groups: a parameter takes the options of the first group whose pattern matches its name.
        /// Each is a map with `pattern` and the options of a grouping function.
        groups: Vec<PatternGroup> = Vec::new(),
    }
}

options! {
    /// Options for parameters whose name matches a pattern.
    pub struct PatternGroup {
        /// Name pattern, in which `*` stands for any characters.
        pattern: String = String::new(),
        /// Factor of the learning rate passed to `step`.
        lr_scale: f64 = 1.0,
        /// Weight decay; () means the optimizer's rule.
        weight_decay: Option<f64> = None,
        /// Power of the layer-wise decay, for `step` with a function.
        llrd_power: i64 = 0,
    }
}

options! {
    /// Options that a grouping function returns for a parameter.
    pub struct ParamGroupOptions {
        /// Factor of the learning rate passed to `step`.
        lr_scale: f64 = 1.0,
        /// Weight decay of this parameter; () means the optimizer's rule.
        weight_decay: Option<f64> = None,
        /// Power of the layer-wise decay, for `step` with a function.
        llrd_power: i64 = 0,
    }
}

/// Parameters that share their hyperparameters.
pub struct ParamGroup {
    /// Full names of the parameters.
    pub names: Vec<String>,
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Power of the layer-wise decay.
    pub llrd_power: i64,
    slots: Vec<Slot>,
}

struct Slot {
    param: Tensor,
    /// Moments and step count, from the first gradient on.
    state: Option<[Tensor; 3]>,
}

/// The optimizer: groups of parameters with their moments.
pub struct Adamw {
    options: AdamwOptions,
    groups: Vec<ParamGroup>,
}

impl Adamw {
    /// Groups all parameters of `module` by the options' patterns.
    pub fn new(module: &dyn Module, options: &AdamwOptions) -> Result<Self> {
        let patterns: Vec<WildMatch> = options.groups.iter().map(|g| WildMatch::new(&g.pattern)).collect();
        let names: Vec<String> = named_parameters(module).into_iter().map(|(n, _)| n).collect();
        for (group, pattern) in options.groups.iter().zip(&patterns) {
            if !names.iter().any(|n| pattern.matches(n)) {
                bail_hint!(
                    "groups: no parameter matches the pattern `{}`{}", group.pattern,
                    did_you_mean(&group.pattern, names.iter().map(String::as_str));
                    "`*` stands for any characters; print(model) lists the names"
                );
            }
        }
        Self::with_groups(module, options, |name, _| {
            let found = options.groups.iter().zip(&patterns).find(|(_, pattern)| pattern.matches(name));
            Ok(found.map_or_else(ParamGroupOptions::default, |(g, _)| ParamGroupOptions {
                lr_scale: g.lr_scale,
                weight_decay: g.weight_decay,
                llrd_power: g.llrd_power,
            }))
        })
    }

    /// Groups all parameters of `module` by the options that `group_of(name, parameter)` gives.
    pub fn with_groups(
        module: &dyn Module,
        options: &AdamwOptions,
        mut group_of: impl FnMut(&str, &Tensor) -> Result<ParamGroupOptions>,
    ) -> Result<Self> {
        let [b1, b2] = options.betas;
        ensure!((0.0..1.0).contains(&b1) && (0.0..1.0).contains(&b2), "betas must lie in [0, 1), found [{b1}, {b2}]");
        ensure!(options.eps >= 0.0, "eps must not be negative, found {}", options.eps);
        ensure!(options.weight_decay >= 0.0, "weight_decay must not be negative, found {}", options.weight_decay);
        let no_decay: Vec<WildMatch> = options.no_decay.iter().map(|p| WildMatch::new(p)).collect();
        let mut groups: Vec<ParamGroup> = Vec::new();
        for (name, param) in named_parameters(module) {
            let o = group_of(&name, &param)?;
            let decays = param.dim() > 1 && !no_decay.iter().any(|p| p.matches(&name));
            let weight_decay = o.weight_decay.unwrap_or(if decays { options.weight_decay } else { 0.0 });
            let slot = Slot { param, state: None };
            let same = |g: &&mut ParamGroup| {
                g.lr_scale == o.lr_scale && g.weight_decay == weight_decay && g.llrd_power == o.llrd_power
            };
            match groups.iter_mut().find(same) {
                Some(group) => {
                    group.names.push(name);
                    group.slots.push(slot);
                }
                None => groups.push(ParamGroup {
                    names: vec![name],
                    lr_scale: o.lr_scale,
                    weight_decay,
                    llrd_power: o.llrd_power,
                    slots: vec![slot],
                }),
            }
        }
        ensure!(!groups.is_empty(), "the module has no parameters to optimize");
        Ok(Self { options: options.clone(), groups })
    }

    /// The groups, in the order of their first parameters.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// One update with each group's learning rate, in the order of [`Adamw::groups`]. Parameters
    /// without a gradient stay as they are. The gradients are dropped afterwards.
    pub fn step(&mut self, lrs: &[f64]) -> Result<()> {
        assert_eq!(lrs.len(), self.groups.len(), "a learning rate for each group");
        let mut used = Vec::new();
        for (group, &lr) in self.groups.iter_mut().zip(lrs) {
            ensure!(lr.is_finite() && lr >= 0.0, "a learning rate must be finite and not negative, found {lr}");
            let mut lists = AdamwLists {
                params: Vec::new(),
                grads: Vec::new(),
                exp_avgs: Vec::new(),
                exp_avg_sqs: Vec::new(),
                steps: Vec::new(),
            };
            for slot in &mut group.slots {
                let grad = slot.param.grad();
                if !grad.defined() || !slot.param.requires_grad() {
                    continue;
                }
                let state = match &slot.state {
                    Some(state) => state,
                    None => slot.state.insert([
                        slot.param.f_zeros_like()?.f_detach()?,
                        slot.param.f_zeros_like()?.f_detach()?,
                        Tensor::f_zeros([0i64; 0], (Kind::Float, slot.param.device()))?,
                    ]),
                };
                lists.params.push(slot.param.shallow_clone());
                lists.grads.push(grad);
                lists.exp_avgs.push(state[0].shallow_clone());
                lists.exp_avg_sqs.push(state[1].shallow_clone());
                lists.steps.push(state[2].shallow_clone());
            }
            ffi::adamw(&lists, lr, self.options.betas, self.options.eps, group.weight_decay)?;
            used.append(&mut lists.params);
        }
        ensure!(!used.is_empty(), "no parameter has a gradient: call loss.backward() before step");
        ffi::clear_grads(&used)
    }

    /// Moments and step counts by name: `exp_avg.NAME`, `exp_avg_sq.NAME` (of the parameter's shape) and `step.NAME`
    /// (a scalar), of the parameters that had a gradient so far.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for (name, slot) in self.groups.iter().flat_map(|g| g.names.iter().zip(&g.slots)) {
            for (kind, tensor) in STATE_NAMES.iter().zip(slot.state.iter().flatten()) {
                all.push((format!("{kind}.{name}"), tensor.shallow_clone()));
            }
        }
        all
    }

    /// Restores what [`Adamw::state`] gave. On an error nothing has changed.
    pub fn load_state(&mut self, tensors: &[(String, Tensor)]) -> Result<()> {
        let mut by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut states = Vec::new();
        for (name, slot) in self.groups.iter().flat_map(|g| g.names.iter().zip(&g.slots)) {
            let found = STATE_NAMES.map(|kind| by_name.remove(format!("{kind}.{name}").as_str()));
            states.push(match found {
                [Some(exp_avg), Some(exp_avg_sq), Some(step)] => {
                    for moment in [exp_avg, exp_avg_sq] {
                        ensure!(
                            moment.size() == slot.param.size(),
                            "the optimizer's state of `{name}` has the shape {:?}, the parameter {:?}",
                            moment.size(),
                            slot.param.size()
                        );
                    }
                    Some([exp_avg, exp_avg_sq, step].map(Tensor::shallow_clone))
                }
                [None, None, None] => None,
                _ => bail!("the optimizer's state of `{name}` is incomplete"),
            });
        }
        if let Some(name) = by_name.keys().next() {
            bail!("the optimizer's state holds `{name}`, but the model has no such parameter");
        }
        let slots = self.groups.iter_mut().flat_map(|g| &mut g.slots);
        for (slot, state) in slots.zip(states) {
            let device = slot.param.device();
            let own = |t: Tensor| -> Result<Tensor> { crate::tensor::detached_copy(&t.f_to_device(device)?) };
            slot.state = match state {
                Some([a, b, c]) => Some([own(a)?, own(b)?, own(c)?]),
                None => None,
            };
        }
        Ok(())
    }
}

/// Names of a parameter's state, in the order of [`Slot::state`].
const STATE_NAMES: [&str; 3] = ["exp_avg", "exp_avg_sq", "step"];
