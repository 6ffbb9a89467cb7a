//! An optimizer: groups of parameters, with what it keeps of each.

use super::FiniteCheck;
use super::algorithms::{self, Algorithm, OptimizerOptions, ParamGroupOptions, PatternGroup, ensure_matches};
use crate::error::{Result, bail, ensure};
use crate::ffi::{self, Batch};
use crate::nn::{Module, named_parameters};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use wildmatch::WildMatch;

/// Parameters that share their hyperparameters.
pub struct ParamGroup {
    /// Full names of the parameters.
    pub names: Vec<String>,
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Power of the layer-wise decay.
    pub llrd_power: i64,
    /// Which of the optimizer's algorithms updates them.
    algorithm: usize,
    slots: Vec<Slot>,
}

struct Slot {
    param: Tensor,
    /// From the first gradient on.
    states: Option<Vec<Tensor>>,
}

/// The optimizer: groups of parameters with their states, updated by algorithms.
pub struct Optimizer {
    algorithms: Vec<Algorithm>,
    groups: Vec<ParamGroup>,
}

impl Optimizer {
    /// Groups all parameters of `module` by the options' patterns.
    pub fn new(module: &dyn Module, options: &impl OptimizerOptions) -> Result<Self> {
        Self::with_groups(module, options, |_, _| Ok(ParamGroupOptions::default()))
    }

    /// Groups all parameters of `module` by the options that `group_of(name, parameter)` gives; those of the options'
    /// patterns take their place.
    pub fn with_groups(
        module: &dyn Module,
        options: &impl OptimizerOptions,
        mut group_of: impl FnMut(&str, &Tensor) -> Result<ParamGroupOptions>,
    ) -> Result<Self> {
        let algorithms = options.algorithms()?;
        let (weight_decay, no_decay, patterns) = options.for_groups();
        ensure!(weight_decay >= 0.0, "weight_decay must not be negative, found {weight_decay}");
        let named = named_parameters(module);
        if no_decay != algorithms::no_decay() {
            no_decay.iter().try_for_each(|pattern| ensure_matches("no_decay", pattern, &named))?;
        }
        options.check_names(&named)?;
        let no_decay: Vec<WildMatch> = no_decay.iter().map(|p| WildMatch::new(p)).collect();
        let patterns = matched(patterns, &named)?;
        let mut groups: Vec<ParamGroup> = Vec::new();
        for (name, param) in named {
            let mut o = group_of(&name, &param)?;
            if let Some((given, _)) = patterns.iter().find(|(_, pattern)| pattern.matches(&name)) {
                o.lr_scale = given.lr_scale.unwrap_or(o.lr_scale);
                o.weight_decay = given.weight_decay.or(o.weight_decay);
                o.llrd_power = given.llrd_power.unwrap_or(o.llrd_power);
            }
            let decays = param.dim() > 1 && !no_decay.iter().any(|p| p.matches(&name));
            let weight_decay = o.weight_decay.unwrap_or(if decays { weight_decay } else { 0.0 });
            ensure!(
                o.lr_scale >= 0.0 && o.lr_scale.is_finite() && weight_decay >= 0.0 && weight_decay.is_finite(),
                "the group of `{name}`: lr_scale and weight_decay must not be negative, found {} and {weight_decay}",
                o.lr_scale
            );
            let algorithm = options.algorithm_of(&name, &param);
            let same = |g: &&mut ParamGroup| {
                (g.lr_scale, g.weight_decay, g.llrd_power, g.algorithm)
                    == (o.lr_scale, weight_decay, o.llrd_power, algorithm)
            };
            let slot = Slot { param, states: None };
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
                    algorithm,
                    slots: vec![slot],
                }),
            }
        }
        ensure!(!groups.is_empty(), "the module has no parameters to optimize");
        Ok(Self { algorithms, groups })
    }

    /// The optimizer's name: "adamw", "sgd", …
    pub fn name(&self) -> &'static str {
        self.algorithms[0].name
    }

    /// The name of the algorithm that updates a group: the optimizer's own, or "adamw" for what Muon leaves to it.
    pub fn name_of(&self, group: &ParamGroup) -> &'static str {
        self.algorithms[group.algorithm].name
    }

    /// The groups, in the order of their first parameters.
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// Bytes of the states, once every parameter that is trained has had a gradient.
    pub fn state_bytes(&self) -> i64 {
        let of_group = |g: &ParamGroup| {
            let states = self.algorithms[g.algorithm].states;
            let of_slot = |slot: &Slot| -> i64 {
                states
                    .iter()
                    .map(|state| match *state {
                        STEP => 4,
                        _ => (slot.param.numel() * slot.param.kind().elt_size_in_bytes()) as i64,
                    })
                    .sum()
            };
            g.slots.iter().filter(|slot| slot.param.requires_grad()).map(of_slot).sum::<i64>()
        };
        self.groups.iter().map(of_group).sum()
    }

    /// One update with each group's learning rate, in the order of [`Optimizer::groups`]. Parameters without a gradient
    /// stay as they are. The gradients are dropped afterwards.
    ///
    /// With a check that fails, everything but the gradients stays as it is. AdamW and SGD let a GPU find that out by
    /// itself; the others wait for it.
    pub fn step(&mut self, lrs: &[f64], check: Option<&FiniteCheck>) -> Result<()> {
        assert_eq!(lrs.len(), self.groups.len(), "a learning rate for each group");
        if let Some(lr) = lrs.iter().find(|lr| !(lr.is_finite() && **lr >= 0.0)) {
            bail!("a learning rate must be finite and not negative, found {lr}");
        }
        let on_device = match check {
            Some(check) => match check.on_device() {
                Some(on_device) if self.algorithms.iter().all(|a| a.rule.asks_found_inf()) => Some(on_device),
                _ if check.is_finite()? => None,
                _ => return self.drop_gradients(),
            },
            None => None,
        };
        let mut has_gradients = false;
        for (group, &lr) in self.groups.iter_mut().zip(lrs) {
            let algorithm = &self.algorithms[group.algorithm];
            let mut batch = Batch::default();
            for slot in &mut group.slots {
                let grad = slot.param.grad();
                if !grad.defined() || !slot.param.requires_grad() {
                    continue;
                }
                let states = match &slot.states {
                    Some(states) => states,
                    None => slot.states.insert(first_states(algorithm.states, &slot.param)?),
                };
                batch.params.push(slot.param.shallow_clone());
                batch.grads.push(grad);
                for (list, state) in batch.states.iter_mut().zip(states) {
                    list.push(state.shallow_clone());
                }
            }
            batch.found_inf = on_device.map(|check| [&check.found_inf, &check.is_finite].map(Tensor::shallow_clone));
            algorithm.rule.update(&batch, lr, group.weight_decay)?;
            has_gradients |= !batch.params.is_empty();
        }
        ensure!(has_gradients, "no parameter has a gradient: call loss.backward() before step");
        self.drop_gradients()
    }

    fn drop_gradients(&self) -> Result<()> {
        let params: Vec<Tensor> = self.slots().map(|(_, slot, _)| slot.param.shallow_clone()).collect();
        ffi::clear_grads(&params)
    }

    /// The parameters in order, with their algorithms.
    fn slots(&self) -> impl Iterator<Item = (&String, &Slot, &Algorithm)> {
        self.groups.iter().flat_map(|g| {
            let algorithm = &self.algorithms[g.algorithm];
            g.names.iter().zip(&g.slots).map(move |(name, slot)| (name, slot, algorithm))
        })
    }

    /// States by name, such as `exp_avg.NAME` (of the parameter's shape) and `step.NAME` (a scalar), of the parameters
    /// that had a gradient so far.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for (name, slot, algorithm) in self.slots() {
            for (state, tensor) in algorithm.states.iter().zip(slot.states.iter().flatten()) {
                all.push((format!("{state}.{name}"), tensor.shallow_clone()));
            }
        }
        all
    }

    /// Restores what [`Optimizer::state`] gave. On an error nothing has changed.
    pub fn load_state(&mut self, tensors: &[(String, Tensor)]) -> Result<()> {
        let mut by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut restored = Vec::new();
        for (name, slot, algorithm) in self.slots() {
            let mut states = Vec::new();
            for state in algorithm.states {
                let Some(found) = by_name.remove(format!("{state}.{name}").as_str()) else { continue };
                let expected = if *state == STEP { Vec::new() } else { slot.param.size() };
                ensure!(
                    found.size() == expected,
                    "the optimizer's state `{state}.{name}` has the shape {:?}, expected {expected:?}",
                    found.size()
                );
                states.push(crate::tensor::detached_copy(&found.f_to_device(slot.param.device())?)?);
            }
            ensure!(
                states.is_empty() || states.len() == algorithm.states.len(),
                "the optimizer's state of `{name}` is incomplete: {} needs {}",
                algorithm.name,
                algorithm.states.join(", ")
            );
            restored.push((!states.is_empty()).then_some(states));
        }
        if let Some(name) = by_name.keys().next() {
            let of = self.slots().find(|(param, ..)| name.ends_with(&format!(".{param}")));
            match of {
                Some((.., algorithm)) => bail!(
                    "the optimizer's state holds `{name}`, which {} does not keep: another optimizer wrote it",
                    algorithm.name
                ),
                None => bail!("the optimizer's state holds `{name}`, but the model has no such parameter"),
            }
        }
        for (slot, states) in self.groups.iter_mut().flat_map(|g| &mut g.slots).zip(restored) {
            slot.states = states;
        }
        Ok(())
    }
}

/// The state that is a scalar: how many updates there were.
const STEP: &str = "step";

fn first_states(names: &[&str], param: &Tensor) -> Result<Vec<Tensor>> {
    let first = |name: &&str| {
        Ok(match *name {
            STEP => Tensor::f_zeros([0i64; 0], (Kind::Float, param.device()))?,
            _ => param.f_zeros_like()?.f_detach()?,
        })
    };
    names.iter().map(first).collect()
}

/// The patterns, each of which must match a parameter.
fn matched<'a>(groups: &'a [PatternGroup], named: &[(String, Tensor)]) -> Result<Vec<(&'a PatternGroup, WildMatch)>> {
    let with_pattern = |group: &'a PatternGroup| {
        ensure_matches("groups", &group.pattern, named)?;
        Ok((group, WildMatch::new(&group.pattern)))
    };
    groups.iter().map(with_pattern).collect()
}
