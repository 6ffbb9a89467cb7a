//! Optimizers, schedules, clipping, weight averages.

use crate::error::{Result, bail, ensure};
use crate::functions;
use crate::optim::{self, AdamwOptions, ScheduleKind, ScheduleOptions};
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Module, Tensor, call, found, from_json, number, ok, read_options};
use rhai::{Dynamic, Engine, FnPtr, Map};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;

/// An optimizer in a script.
#[derive(Clone)]
pub struct Adamw(pub Rc<RefCell<optim::Adamw>>);
#[derive(Clone)]
struct Schedule(Rc<optim::Schedule>);
/// An average of weights in a script.
#[derive(Clone)]
pub struct Ema(pub Rc<RefCell<optim::Ema>>);

fn group_map(group: &optim::ParamGroup) -> Dynamic {
    from_json(&json!({
        "lr_scale": group.lr_scale,
        "weight_decay": group.weight_decay,
        "llrd_power": group.llrd_power,
        "names": group.names,
    }))
}

fn schedule(kind: ScheduleKind, of: &str, options: &Map) -> Result<Schedule> {
    let o: ScheduleOptions = read_options(of, options)?;
    Ok(Schedule(Rc::new(optim::Schedule::new(kind, &o)?)))
}

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine
        .register_type_with_name::<Adamw>("Adamw")
        .register_type_with_name::<Schedule>("Schedule")
        .register_type_with_name::<Ema>("Ema");
    let mut group = Group::namespace(reference, "optim", "Optimizers, learning-rate schedules, clipping, averages.");
    group.options::<AdamwOptions>("optim::adamw");
    group.options::<ScheduleOptions>("optim::cosine");
    group.options::<ScheduleOptions>("optim::llrd_cosine");
    group.options::<ScheduleOptions>("optim::llrd_cosine_warmup");
    functions! { group;
        /// AdamW (arXiv 1711.05101) over all parameters of a module, as one fused update a group.
        ///
        /// Example: `optim::adamw(model, #{ groups: [#{ pattern: "*embeddings*", lr_scale: 0.1 }] })`
        "adamw" (m: Module, options: Map) -> Adamw {
            let o: AdamwOptions = read_options("optim::adamw", &options)?;
            Ok(Adamw(Rc::new(RefCell::new(optim::Adamw::new(m.0.as_ref(), &o)?))))
        }
        /// The same with groups: `group(name, tensor)` is called for every parameter and gives a map
        /// with any of `lr_scale` (1.0), `weight_decay` (the optimizer's rule) and `llrd_power` (0).
        ///
        /// Example: `optim::adamw(model, #{}, |name, t| #{ weight_decay: if t.ndim <= 1 { 0.0 } else { 0.05 } })`
        "adamw" (m: Module, options: Map, group: FnPtr) -> Adamw {
            let o: AdamwOptions = read_options("optim::adamw", &options)?;
            ensure!(
                o.groups.is_empty(),
                "optim::adamw: groups come by patterns (the option `groups`) or by a function, not both"
            );
            let new = optim::Adamw::with_groups(m.0.as_ref(), &o, |name, t| {
                let given = call(&group, (name.to_string(), Tensor::from(t.shallow_clone())))?;
                match given.read_lock::<Map>() {
                    Some(map) => read_options("the group function of optim::adamw", &map),
                    None => bail!("the group function of optim::adamw must give a map, found {}", found(&given)),
                }
            })?;
            Ok(Adamw(Rc::new(RefCell::new(new))))
        }
        /// Linear warm-up over `warmup_steps`, then half a cosine to 0 (Hugging Face's).
        "cosine" (options: Map) -> Schedule { schedule(ScheduleKind::Cosine, "optim::cosine", &options) }
        /// The same times llrd^power, for layer-wise decay (the reference's `llrd_cosine`).
        "llrd_cosine" (options: Map) -> Schedule { schedule(ScheduleKind::LlrdCosine, "optim::llrd_cosine", &options) }
        /// The same, and groups of smaller factors warm up longer (the reference's `llrd_cosine_warmup`).
        "llrd_cosine_warmup" (options: Map) -> Schedule {
            schedule(ScheduleKind::LlrdCosineWarmup, "optim::llrd_cosine_warmup", &options)
        }
        /// Scales all gradients so that their common 2-norm is at most `max_norm`; gives the norm before.
        "clip_grad_norm" (m: Module, max_norm: Dynamic) -> Tensor {
            ok(optim::clip_grad_norm(m.0.as_ref(), number(&max_norm, "optim::clip_grad_norm")?)?)
        }
        /// The common 2-norm of all gradients.
        "grad_norm" (m: Module) -> Tensor { ok(optim::grad_norm(m.0.as_ref())?) }
        /// An exponential moving average of the parameters in float32: the first update copies them,
        /// each moves the average by 1 − decay.
        "ema" (m: Module, decay: Dynamic) -> Ema {
            Ok(Ema(Rc::new(RefCell::new(optim::Ema::new(m.0.as_ref(), number(&decay, "optim::ema")?)?))))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Adamw", "An optimizer, made by optim::adamw.");
    functions! { group;
        /// One update with a learning rate, times each group's `lr_scale`; or with a function of the
        /// group (a map with `lr_scale`, `weight_decay`, `llrd_power`, `names`) that gives its learning
        /// rate. Parameters without a gradient stay; all gradients are dropped afterwards.
        "step" (optimizer: Adamw, lr: Dynamic) -> () {
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
        /// The groups: an array of maps with `lr_scale`, `weight_decay`, `llrd_power` and `names`.
        "groups" (optimizer: Adamw) -> rhai::Array { Ok(optimizer.0.borrow().groups().iter().map(group_map).collect()) }
        /// The optimizer as text.
        "to_string" (optimizer: Adamw) -> String {
            let adamw = optimizer.0.borrow();
            let tensors: usize = adamw.groups().iter().map(|g| g.names.len()).sum();
            Ok(format!("adamw({tensors} tensors in {} groups)", adamw.groups().len()))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Schedule", "A learning-rate schedule. Step 0 is the first update.");
    functions! { group;
        /// The learning rate of an update.
        "at" (schedule: Schedule, step: i64) -> f64 { Ok(schedule.0.at(step, 0)) }
        /// The learning rate of an update for a group of the given layer-wise power.
        "at" (schedule: Schedule, step: i64, llrd_power: i64) -> f64 { Ok(schedule.0.at(step, llrd_power)) }
        /// The schedule as text.
        "to_string" (schedule: Schedule) -> String { Ok(schedule.0.describe()) }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Ema", "An exponential moving average of a module's parameters.");
    functions! { group;
        /// Takes the parameters' current values in.
        "update" (ema: Ema) -> () { ema.0.borrow_mut().update() }
        /// Runs `body` with the averages in the module's place, and gives its value; the parameters
        /// come back afterwards, also when it fails.
        ///
        /// Example: `ema.apply(|| checkpoint::save(model, "ema", #{ weights: "ema" }));`
        "apply" (ema: Ema, body: FnPtr) -> Dynamic {
            ema.0.borrow().swap()?;
            let result = call(&body, ());
            ema.0.borrow().swap()?;
            result
        }
        /// The averages by parameter name.
        "state_dict" (ema: Ema) -> Map {
            let all = ema.0.borrow().named_averages()?;
            Ok(all.into_iter().map(|(n, t)| (n.into(), Dynamic::from(Tensor::from(t)))).collect())
        }
        /// The decay.
        "get$decay" (ema: Ema) -> f64 { Ok(ema.0.borrow().decay()) }
        /// The average as text.
        "to_string" (ema: Ema) -> String { Ok(format!("ema(decay {})", ema.0.borrow().decay())) }
    }
    group.register(engine);
}
