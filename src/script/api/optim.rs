//! Optimizers, schedules, clipping, weight averages.

use crate::error::{Result, bail, ensure};
use crate::optim::{self, AdamwOptions, EmaOptions, ScheduleKind, ScheduleOptions};
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
pub struct Adamw(pub Rc<RefCell<optim::Adamw>>);
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

choice_arguments! { ScheduleKind }

handles! {
    "Adamw": Adamw;
    "Schedule": Schedule;
    "Ema": Ema;
}

fn group_map(group: &optim::ParamGroup) -> Dynamic {
    from_json(&json!({
        "lr_scale": group.lr_scale,
        "weight_decay": group.weight_decay,
        "llrd_power": group.llrd_power,
        "names": group.names,
    }))
}

fn schedule(kind: ScheduleKind, options: &ScheduleOptions) -> Result<Schedule> {
    Ok(Schedule(Rc::new(optim::Schedule::new(kind, options)?), None))
}

pub fn register(api: &mut Api<'_>) {
    api.namespace("optim", "Optimizers, learning-rate schedules, clipping, averages.", functions::register);
    api.methods::<Adamw>("An optimizer, made by optim::adamw.", adamw::register);
    api.methods::<Schedule>("A learning-rate schedule. Step 0 is the first update.", schedules::register);
    api.methods::<Ema>("An exponential moving average of a module's parameters.", ema::register);
}

#[functions]
mod functions {
    use super::*;

    /// AdamW (arXiv 1711.05101) over all parameters of a module, with one fused update per group.
    ///
    /// Example: `optim::adamw(model, #{ groups: [#{ pattern: "*embeddings*", lr_scale: 0.1 }] })`
    pub fn adamw(m: &Module, options: AdamwOptions) -> Result<Adamw> {
        Ok(Adamw(Rc::new(RefCell::new(optim::Adamw::new(m.0.as_ref(), &options)?))))
    }

    /// AdamW over all parameters of a module, grouped by a function: `group(name, tensor)` is called for every
    /// parameter and returns a map with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power`
    /// (0).
    ///
    /// Example: `optim::adamw(model, #{}, |name, t| #{ weight_decay: if t.ndim <= 1 { 0.0 } else { 0.05 } })`
    #[script(name = "adamw")]
    pub fn adamw_with_groups(m: &Module, options: AdamwOptions, group: FnPtr) -> Result<Adamw> {
        ensure!(
            options.groups.is_empty(),
            "optim::adamw: give groups by patterns (the option `groups`) or by a function, not both"
        );
        let new = optim::Adamw::with_groups(m.0.as_ref(), &options, |name, t| {
            let given = call(&group, (name.to_string(), Tensor::from(t.shallow_clone())))?;
            match given.read_lock::<Map>() {
                Some(map) => read_options("the group function of optim::adamw", &map),
                None => bail!("the group function of optim::adamw must return a map, found {}", found(&given)),
            }
        })?;
        Ok(Adamw(Rc::new(RefCell::new(new))))
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

    /// A schedule of your own, as PyTorch's LambdaLR: `factor(step)`, from 0, is multiplied by `lr` (and by llrd^power).
    ///
    /// Example: `optim::lambda_lr(#{ lr: 1e-3, total_steps: 100 }, |step| 1.0 / (1.0 + step))`
    pub fn lambda_lr(options: ScheduleOptions, factor: FnPtr) -> Result<Schedule> {
        let options = ScheduleOptions { warmup_steps: 0, ..options };
        Ok(Schedule(schedule(ScheduleKind::Constant, &options)?.0, Some(factor)))
    }

    /// Linear warm-up over `warmup_steps`, then half a cosine to 0, as in Hugging Face.
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

#[functions]
mod adamw {
    use super::*;

    /// Makes one update. `lr` is a learning rate, multiplied by each group's `lr_scale`, or a function
    /// that returns a group's learning rate (from a map with `lr_scale`, `weight_decay`, `llrd_power`,
    /// `names`). Parameters without a gradient stay unchanged; all gradients are cleared afterwards.
    pub fn step(optimizer: &Adamw, lr: Dynamic) -> Result<()> {
        let lrs: Vec<f64> = match lr.read_lock::<FnPtr>() {
            Some(of_group) => {
                // Nothing is borrowed while the script runs: it may look at the optimizer.
                let groups: Vec<Dynamic> = optimizer.0.borrow().groups().iter().map(group_map).collect();
                let rate = |g| number(&call(&of_group, (g,))?, "the learning rate of a group");
                groups.into_iter().map(rate).collect::<Result<_>>()?
            }
            None => {
                let lr = number(&lr, "step")?;
                optimizer.0.borrow().groups().iter().map(|g| lr * g.lr_scale).collect()
            }
        };
        optimizer.0.borrow_mut().step(&lrs)
    }

    /// The parameter groups: an array of maps with `lr_scale`, `weight_decay`, `llrd_power` and `names`.
    pub fn groups(optimizer: &Adamw) -> Vec<Dynamic> {
        optimizer.0.borrow().groups().iter().map(group_map).collect()
    }

    /// The optimizer as text.
    pub fn to_string(optimizer: &Adamw) -> String {
        let adamw = optimizer.0.borrow();
        let tensors: usize = adamw.groups().iter().map(|g| g.names.len()).sum();
        format!("adamw({tensors} tensors in {} groups)", adamw.groups().len())
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
mod ema {
    use super::*;

    /// Updates the averages with the parameters' current values.
    pub fn update(ema: &Ema) -> Result<()> {
        ema.0.borrow_mut().update()
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
    pub fn updates(ema: &Ema) -> usize {
        ema.0.borrow().updates() as usize
    }

    /// The average as text.
    pub fn to_string(ema: &Ema) -> String {
        format!("ema(decay {})", ema.0.borrow().decay())
    }
}
