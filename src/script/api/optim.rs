//! Optimizers, schedules, clipping, weight averages.

use crate::error::{Result, bail, ensure};
use crate::optim::{
    self, AdamwOptions, EmaOptions, FiniteCheck, LambOptions, LarsOptions, LionOptions, MuonOptions, OptimizerKind,
    OptimizerOptions, ScheduleKind, ScheduleOptions, SgdOptions,
};
use crate::script::registry::Api;
use crate::script::types::{choice_arguments, handles};
use crate::script::values::{Module, Tensor, call, found, from_json, number, read_options, tensors_by_name};
use nepa_macros::functions;
use rhai::{Dynamic, FnPtr, Map};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;

/// An optimizer in a script.
#[derive(Clone)]
pub struct Optimizer(pub Rc<RefCell<optim::Optimizer>>);
/// A learning-rate schedule in a script; the factor is a function of the step.
#[derive(Clone)]
struct Schedule(Rc<optim::Schedule>, Option<FnPtr>);

impl Schedule {
    fn rate(&self, step: i64, llrd_power: i64) -> Result<f64> {
        let base = self.0.at(step, llrd_power);
        let Some(factor) = &self.1 else { return Ok(base) };
        Ok(base * number(&call(factor, (step,))?, "the factor of optim::lambda_lr")?)
    }
}
/// An average of weights in a script.
#[derive(Clone)]
pub struct Ema(pub Rc<RefCell<optim::Ema>>);

choice_arguments! { ScheduleKind, OptimizerKind }

handles! {
    "Optimizer": Optimizer;
    "Schedule": Schedule;
    "Ema": Ema;
    "FiniteCheck": FiniteCheck;
}

/// What a script sees of a group.
fn group_map(optimizer: &optim::Optimizer, group: &optim::ParamGroup) -> Dynamic {
    from_json(&json!({
        "optimizer": optimizer.name_of(group),
        "lr_scale": group.lr_scale,
        "weight_decay": group.weight_decay,
        "llrd_power": group.llrd_power,
        "names": group.names,
    }))
}

fn group_maps(optimizer: &Optimizer) -> Vec<Dynamic> {
    let optimizer = optimizer.0.borrow();
    optimizer.groups().iter().map(|group| group_map(&optimizer, group)).collect()
}

fn new_optimizer(m: &Module, options: &impl OptimizerOptions) -> Result<Optimizer> {
    Ok(Optimizer(Rc::new(RefCell::new(optim::Optimizer::new(m.0.as_ref(), options)?))))
}

/// An optimizer whose groups a script's function decides.
fn grouped(m: &Module, options: &impl OptimizerOptions, group: &FnPtr) -> Result<Optimizer> {
    let new = optim::Optimizer::with_groups(m.0.as_ref(), options, |name, t| {
        let given = call(group, (name.to_string(), Tensor::from(t.shallow_clone())))?;
        match given.read_lock::<Map>() {
            Some(map) => read_options("an optimizer's group function", &map),
            None => bail!("an optimizer's group function must return a map, found {}", found(&given)),
        }
    })?;
    Ok(Optimizer(Rc::new(RefCell::new(new))))
}

fn schedule(kind: ScheduleKind, options: &ScheduleOptions) -> Result<Schedule> {
    Ok(Schedule(Rc::new(optim::Schedule::new(kind, options)?), None))
}

pub fn register(api: &mut Api<'_>) {
    api.namespace("optim", "Optimizers, learning-rate schedules, clipping, averages.", functions::register);
    api.methods::<Optimizer>("An optimizer, such as optim::adamw makes.", optimizer::register);
    api.methods::<Schedule>("A learning-rate schedule. Step 0 is the first update.", schedules::register);
    api.methods::<FiniteCheck>("Whether a number is finite, which a GPU tells later.", finite::register);
    api.methods::<Ema>("An exponential moving average of a module's parameters.", ema::register);
}

#[functions]
mod functions {
    use super::*;

    /// AdamW (arXiv 1711.05101) over all parameters of a module, a few launches per group.
    ///
    /// Example: `optim::adamw(model, #{ groups: [#{ pattern: "*embeddings*", lr_scale: 0.1 }] })`
    pub fn adamw(m: &Module, options: AdamwOptions) -> Result<Optimizer> {
        new_optimizer(m, &options)
    }

    /// AdamW over all parameters of a module, grouped by a function: `group(name, tensor)` is called for every
    /// parameter and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power`
    /// (0). The option `groups` goes before it.
    ///
    /// Example: `optim::adamw(model, #{}, |name, t| #{ weight_decay: if t.ndim <= 1 { 0.0 } else { 0.05 } })`
    #[script(name = "adamw")]
    pub fn adamw_with_groups(m: &Module, options: AdamwOptions, group: FnPtr) -> Result<Optimizer> {
        grouped(m, &options, &group)
    }

    /// SGD with momentum over all parameters of a module, a few launches per group. As PyTorch's: weight decay is added
    /// to the gradient.
    ///
    /// Example: `optim::sgd(model, #{ momentum: 0.9, nesterov: true, weight_decay: 1e-4 })`
    pub fn sgd(m: &Module, options: SgdOptions) -> Result<Optimizer> {
        new_optimizer(m, &options)
    }

    /// SGD with momentum over all parameters of a module, grouped by a function: `group(name, tensor)` is called for
    /// every parameter and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and
    /// `llrd_power` (0). The option `groups` goes before it.
    ///
    /// Example: `optim::sgd(model, #{}, |name, t| #{ lr_scale: if t.ndim == 1 { 2.0 } else { 1.0 } })`
    #[script(name = "sgd")]
    pub fn sgd_with_groups(m: &Module, options: SgdOptions, group: FnPtr) -> Result<Optimizer> {
        grouped(m, &options, &group)
    }

    /// LARS (arXiv 1708.03888) over all parameters of a module. As in MoCo v3 and MAE:
    /// updates of parameters of more than one dimension are as large as their norm times trust_coefficient; the rest is
    /// SGD with momentum. Learning rates are large, such as 0.1 × batch / 256.
    ///
    /// Example: `optim::lars(head, #{ momentum: 0.9 })`
    pub fn lars(m: &Module, options: LarsOptions) -> Result<Optimizer> {
        new_optimizer(m, &options)
    }

    /// LARS over all parameters of a module, grouped by a function: `group(name, tensor)` is called for every parameter
    /// and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power` (0). The
    /// option `groups` goes before it.
    ///
    /// Example: `optim::lars(model, #{}, |name, t| #{ lr_scale: if t.ndim == 1 { 2.0 } else { 1.0 } })`
    #[script(name = "lars")]
    pub fn lars_with_groups(m: &Module, options: LarsOptions, group: FnPtr) -> Result<Optimizer> {
        grouped(m, &options, &group)
    }

    /// LAMB (arXiv 1904.00962) over all parameters of a module. AdamW whose updates of parameters of more than one
    /// dimension are as large as their norms (timm: of those with weight decay). It does not clip: call
    /// optim::clip_grad_norm.
    ///
    /// Example: `optim::lamb(model, #{ weight_decay: 0.02 })`
    pub fn lamb(m: &Module, options: LambOptions) -> Result<Optimizer> {
        new_optimizer(m, &options)
    }

    /// LAMB over all parameters of a module, grouped by a function: `group(name, tensor)` is called for every parameter
    /// and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power` (0). The
    /// option `groups` goes before it.
    ///
    /// Example: `optim::lamb(model, #{}, |name, t| #{ lr_scale: if t.ndim == 1 { 2.0 } else { 1.0 } })`
    #[script(name = "lamb")]
    pub fn lamb_with_groups(m: &Module, options: LambOptions, group: FnPtr) -> Result<Optimizer> {
        grouped(m, &options, &group)
    }

    /// Lion (arXiv 2302.06675) over all parameters of a module, a few launches per group. The update is the sign of an
    /// average of gradients: learning rates are 3 to 10 times smaller than AdamW's, weight decay as much larger.
    ///
    /// Example: `optim::lion(model, #{ weight_decay: 0.5 })`
    pub fn lion(m: &Module, options: LionOptions) -> Result<Optimizer> {
        new_optimizer(m, &options)
    }

    /// Lion over all parameters of a module, grouped by a function: `group(name, tensor)` is called for every parameter
    /// and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power` (0). The
    /// option `groups` goes before it.
    ///
    /// Example: `optim::lion(model, #{}, |name, t| #{ lr_scale: if t.ndim == 1 { 2.0 } else { 1.0 } })`
    #[script(name = "lion")]
    pub fn lion_with_groups(m: &Module, options: LionOptions, group: FnPtr) -> Result<Optimizer> {
        grouped(m, &options, &group)
    }

    /// Muon over all parameters of a module, a few launches per group. Momentum made orthogonal, for matrices, as
    /// PyTorch's torch.optim.Muon (from Keller Jordan's); AdamW for everything else, and for the matrices that
    /// `exclude` names.
    ///
    /// Example: `optim::muon(model, #{ momentum: 0.95 })`
    pub fn muon(m: &Module, options: MuonOptions) -> Result<Optimizer> {
        new_optimizer(m, &options)
    }

    /// Muon over all parameters of a module, grouped by a function: `group(name, tensor)` is called for every parameter
    /// and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power` (0). The
    /// option `groups` goes before it.
    ///
    /// Example: `optim::muon(model, #{}, |name, t| #{ lr_scale: if t.ndim == 1 { 2.0 } else { 1.0 } })`
    #[script(name = "muon")]
    pub fn muon_with_groups(m: &Module, options: MuonOptions, group: FnPtr) -> Result<Optimizer> {
        grouped(m, &options, &group)
    }

    /// An optimizer by its name, as the training loops make theirs: "adamw", "sgd", "lars", "lamb", "lion" or "muon", with
    /// the options of the function of that name as `hyperparameters`, and a function that groups parameters.
    ///
    /// Example: `optim::optimizer("sgd", model, #{ momentum: 0.9 }, |name, t| #{ lr_scale: 1.0 })`
    #[script(name = "optimizer")]
    pub fn optimizer_of_kind(kind: OptimizerKind, m: &Module, hyperparameters: Map, group: FnPtr) -> Result<Optimizer> {
        match kind {
            OptimizerKind::Adamw => {
                grouped(m, &read_options::<AdamwOptions>("optim::adamw", &hyperparameters)?, &group)
            }
            OptimizerKind::Sgd => grouped(m, &read_options::<SgdOptions>("optim::sgd", &hyperparameters)?, &group),
            OptimizerKind::Lars => grouped(m, &read_options::<LarsOptions>("optim::lars", &hyperparameters)?, &group),
            OptimizerKind::Lamb => grouped(m, &read_options::<LambOptions>("optim::lamb", &hyperparameters)?, &group),
            OptimizerKind::Lion => grouped(m, &read_options::<LionOptions>("optim::lion", &hyperparameters)?, &group),
            OptimizerKind::Muon => grouped(m, &read_options::<MuonOptions>("optim::muon", &hyperparameters)?, &group),
        }
    }

    /// A schedule by its name: "cosine", "constant", "linear", "step" (PyTorch's StepLR after the warm-up),
    /// "warmup_stable_decay" (arXiv 2404.06395, with a linear decay), "llrd_cosine" or "llrd_cosine_warmup". All begin with
    /// a linear warm-up; the values are Hugging Face's.
    ///
    /// Example: `optim::schedule("step", #{ lr: 0.1, total_steps: 90, step_size: 30 })`
    #[script(name = "schedule")]
    pub fn schedule_of_kind(kind: ScheduleKind, options: ScheduleOptions) -> Result<Schedule> {
        schedule(kind, &options)
    }

    /// A schedule of your own, as PyTorch's LambdaLR: `factor(step)`, from 0, is multiplied by `lr` (and by llrd^power). It has
    /// the warm-up in it: `warmup_steps` must be 0.
    ///
    /// Example: `optim::lambda_lr(#{ lr: 1e-3, total_steps: 100 }, |step| 1.0 / (1.0 + step))`
    pub fn lambda_lr(options: ScheduleOptions, factor: FnPtr) -> Result<Schedule> {
        ensure!(
            options.warmup_steps == 0,
            "optim::lambda_lr: warmup_steps: the function has the warm-up in it, expected 0, found {}",
            options.warmup_steps
        );
        Ok(Schedule(schedule(ScheduleKind::Constant, &options)?.0, Some(factor)))
    }

    /// Linear warm-up over `warmup_steps`, then half a cosine to 0, or to `min_lr`, as in Hugging Face.
    pub fn cosine(options: ScheduleOptions) -> Result<Schedule> {
        schedule(ScheduleKind::Cosine, &options)
    }

    /// Warm-up and cosine as in optim::cosine, times llrd^power, for layer-wise decay (the reference's `llrd_cosine`).
    pub fn llrd_cosine(options: ScheduleOptions) -> Result<Schedule> {
        schedule(ScheduleKind::LlrdCosine, &options)
    }

    /// Warm-up and cosine times llrd^power, with longer warm-up for groups with smaller factors (the reference's
    /// `llrd_cosine_warmup`).
    pub fn llrd_cosine_warmup(options: ScheduleOptions) -> Result<Schedule> {
        schedule(ScheduleKind::LlrdCosineWarmup, &options)
    }

    /// Scales all gradients so that their total 2-norm is at most `max_norm`; returns the norm before clipping.
    pub fn clip_grad_norm(m: &Module, max_norm: f64) -> Result<tch::Tensor> {
        optim::clip_grad_norm(m.0.as_ref(), max_norm)
    }

    /// Clamps each element of all gradients to −`clip_value` to `clip_value` (PyTorch's `clip_grad_value_`).
    ///
    /// Example: `optim::clip_grad_value(nn::linear(2, 2), 0.5);`
    pub fn clip_grad_value(m: &Module, clip_value: f64) -> Result<()> {
        optim::clip_grad_value(m.0.as_ref(), clip_value)
    }

    /// Checks a number, such as the loss, for NaN and infinity. An optimizer's `step` and an average's `update` that are
    /// given the check leave everything as it is where the number is not finite (as with `found_inf` of PyTorch's
    /// GradScaler): a GPU finds that out by itself, and the host need not wait for it. Add up what all has to be finite.
    ///
    /// Example: `let check = optim::check_finite(loss + optim::clip_grad_norm(model, 1.0)); opt.step(1e-3, check); ema.update(check);`
    pub fn check_finite(number: &Tensor) -> Result<FiniteCheck> {
        FiniteCheck::of(number)
    }

    /// The total 2-norm of all gradients.
    pub fn grad_norm(m: &Module) -> Result<tch::Tensor> {
        optim::grad_norm(m.0.as_ref())
    }

    /// An exponential moving average (EMA) of the parameters in float32: the first update copies them,
    /// each later one moves the average towards them by 1 − decay.
    pub fn ema(m: &Module, decay: f64) -> Result<Ema> {
        Ok(Ema(Rc::new(RefCell::new(optim::Ema::new(m.0.as_ref(), decay, EmaOptions::default())?))))
    }

    /// An exponential moving average of the parameters whose decay may rise, as in timm's ModelEmaV3.
    ///
    /// Example: `let ema = optim::ema(model, 0.9999, #{ use_warmup: true, warmup_power: 0.75 });`
    #[script(name = "ema")]
    pub fn ema_with(m: &Module, decay: f64, options: EmaOptions) -> Result<Ema> {
        Ok(Ema(Rc::new(RefCell::new(optim::Ema::new(m.0.as_ref(), decay, options)?))))
    }
}

/// The groups' learning rates for `step`.
fn rates(optimizer: &Optimizer, lr: &Dynamic) -> Result<Vec<f64>> {
    match lr.read_lock::<FnPtr>() {
        Some(of_group) => {
            // Nothing is borrowed while the script runs: it may look at the optimizer.
            let rate = |g| number(&call(&of_group, (g,))?, "the learning rate of a group");
            group_maps(optimizer).into_iter().map(rate).collect()
        }
        None => {
            let lr = number(lr, "step")?;
            Ok(optimizer.0.borrow().groups().iter().map(|g| lr * g.lr_scale).collect())
        }
    }
}

#[functions]
mod optimizer {
    use super::*;

    /// Makes one update. `lr` is a learning rate, multiplied by each group's `lr_scale`, or a function
    /// that returns a group's learning rate (from a map as `groups` gives it). Parameters without a gradient stay unchanged; all gradients are cleared afterwards.
    pub fn step(optimizer: &Optimizer, lr: Dynamic) -> Result<()> {
        let lrs = rates(optimizer, &lr)?;
        optimizer.0.borrow_mut().step(&lrs, None)
    }

    /// Makes one update if a check is passed; otherwise only the gradients are cleared. AdamW and SGD let a GPU find out by
    /// itself, the other optimizers wait for it.
    ///
    /// Example: `opt.step(1e-3, optim::check_finite(loss));`
    #[script(name = "step")]
    pub fn step_if(optimizer: &Optimizer, lr: Dynamic, check: &FiniteCheck) -> Result<()> {
        let lrs = rates(optimizer, &lr)?;
        optimizer.0.borrow_mut().step(&lrs, Some(check))
    }

    /// The parameter groups: an array of maps with `optimizer` (of Muon's, "muon" or "adamw"), `lr_scale`,
    /// `weight_decay`, `llrd_power` and `names`.
    pub fn groups(optimizer: &Optimizer) -> Vec<Dynamic> {
        group_maps(optimizer)
    }

    /// The optimizer's name, such as "adamw".
    #[script(get)]
    pub fn name(optimizer: &Optimizer) -> String {
        optimizer.0.borrow().name().to_string()
    }

    /// Bytes of what it keeps, such as moments, once every parameter that is trained has had a gradient.
    #[script(get)]
    pub fn state_bytes(optimizer: &Optimizer) -> i64 {
        optimizer.0.borrow().state_bytes()
    }

    /// The optimizer as text.
    pub fn to_string(optimizer: &Optimizer) -> String {
        let optimizer = optimizer.0.borrow();
        let tensors: usize = optimizer.groups().iter().map(|g| g.names.len()).sum();
        format!("{}({tensors} tensors in {} groups)", optimizer.name(), optimizer.groups().len())
    }
}

#[functions]
mod schedules {
    use super::*;

    /// The learning rate of an update.
    pub fn at(schedule: &Schedule, step: i64) -> Result<f64> {
        schedule.rate(step, 0)
    }

    /// The learning rate of an update for a group with the given layer-wise power.
    #[script(name = "at")]
    pub fn at_power(schedule: &Schedule, step: i64, llrd_power: i64) -> Result<f64> {
        schedule.rate(step, llrd_power)
    }

    /// The schedule as text.
    pub fn to_string(schedule: &Schedule) -> String {
        schedule.0.describe()
    }
}

#[functions]
mod finite {
    use super::*;

    /// Whether the number is finite. Waits for the device if it must.
    #[script(get)]
    pub fn is_finite(check: &FiniteCheck) -> Result<bool> {
        check.is_finite()
    }

    /// The check as text, which does not wait.
    pub fn to_string(_check: &FiniteCheck) -> String {
        "a check for NaN and infinity".into()
    }
}

#[functions]
mod ema {
    use super::*;

    /// Updates the averages with the parameters' current values.
    pub fn update(ema: &Ema) -> Result<()> {
        ema.0.borrow_mut().update(None)
    }

    /// Updates the averages if a check is passed, as an optimizer's `step` does.
    ///
    /// Example: `let check = optim::check_finite(loss); opt.step(1e-3, check); ema.update(check);`
    #[script(name = "update")]
    pub fn update_if(ema: &Ema, check: &FiniteCheck) -> Result<()> {
        ema.0.borrow_mut().update(Some(check))
    }

    /// Runs `body` with the averages as the module's parameters, and returns its value. The parameters
    /// are restored afterwards, even if it fails. Inside, the average itself can be neither updated nor saved.
    ///
    /// Example: `ema.apply(|| checkpoint::save(model, "ema", #{ weights: "ema" }));`
    pub fn apply(ema: &Ema, body: FnPtr) -> Result<Dynamic> {
        ema.0.borrow().lend()?;
        let result = call(&body, ());
        ema.0.borrow().take_back()?;
        result
    }

    /// The averages by parameter name.
    pub fn state_dict(ema: &Ema) -> Result<Map> {
        Ok(tensors_by_name(ema.0.borrow().named_averages()?))
    }

    /// The decay, in a warm-up the one that it leads to.
    #[script(get)]
    pub fn decay(ema: &Ema) -> f64 {
        ema.0.borrow().decay()
    }

    /// The decay of the next update after `updates` of them: 0 for the first, which copies the parameters.
    pub fn decay_after(ema: &Ema, updates: usize) -> f64 {
        ema.0.borrow().decay_after(updates as u64)
    }

    /// How many updates there were.
    #[script(get)]
    pub fn updates(ema: &Ema) -> Result<i64> {
        Ok(ema.0.borrow().updates()? as i64)
    }

    /// The average as text.
    pub fn to_string(ema: &Ema) -> String {
        format!("ema(decay {})", ema.0.borrow().decay())
    }
}
