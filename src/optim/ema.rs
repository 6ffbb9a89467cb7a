//! An exponential moving average of a module's parameters and of its buffers of floats, kept in float32.

use super::FiniteCheck;
use crate::bail_hint;
use crate::error::{Result, bail, ensure};
use crate::ffi;
use crate::nn::{Module, named_buffers, named_parameters};
use crate::options;
use crate::tensor::detached_copy;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

options! {
    /// The warm-up of an average, as timm's ModelEmaV3 has it.
    pub struct EmaOptions {
        /// Whether the decay begins low and rises: after the first update, which copies the weights, update k (k = 1,
        /// 2, …) has the decay min(decay, 1 − (1 + k / warmup_gamma)^−warmup_power).
        use_warmup: bool = false,
        /// Updates by which the warm-up is stretched, more than 0.
        warmup_gamma: f64 = 1.0,
        /// How fast the memory, 1 / (1 − decay) updates, grows in the warm-up, more than 0. With 2/3, a decay of 0.999
        /// is reached after 31,600 updates and one of 0.9999 after a million; with 3/4, after 10,000 and 215,000.
        warmup_power: f64 = 2.0 / 3.0,
    }
}

/// The first update copies the parameters; each later one moves the averages by 1 − decay
/// towards them. Averages have the names of their parameters.
pub struct Ema {
    decay: f64,
    options: EmaOptions,
    names: Vec<String>,
    params: Vec<Tensor>,
    averages: Option<Vec<Tensor>>,
    /// Buffers of ints, such as counts of batches, which are not averaged but stand beside the averages as they are.
    counts: Vec<(String, Tensor)>,
    /// Whether the parameters hold the averages' values now, and the averages theirs.
    lent: Cell<bool>,
    /// Updates so far; the last one counts if its check was passed.
    updates: Cell<u64>,
    /// The last update's, if its outcome was not known.
    check: RefCell<Option<FiniteCheck>>,
}

impl Ema {
    /// An average of the module's parameters, not started yet.
    pub fn new(module: &dyn Module, decay: f64, options: EmaOptions) -> Result<Self> {
        ensure!((0.0..1.0).contains(&decay), "an EMA decay must lie in [0, 1), found {decay}");
        let positive = |name: &str, value: f64| -> Result<()> {
            ensure!(value > 0.0 && value.is_finite(), "{name} of an EMA must be more than 0, found {value}");
            Ok(())
        };
        positive("warmup_gamma", options.warmup_gamma)?;
        positive("warmup_power", options.warmup_power)?;
        let (floats, counts): (Vec<_>, Vec<_>) =
            named_buffers(module).into_iter().partition(|(_, t)| t.is_floating_point());
        let averaged = named_parameters(module).into_iter().chain(floats);
        let (names, params) = averaged.map(|(n, p)| (n, p.detach())).unzip();
        Ok(Self {
            decay,
            options,
            names,
            params,
            averages: None,
            counts,
            lent: Cell::new(false),
            updates: Cell::new(0),
            check: RefCell::new(None),
        })
    }

    /// The decay, which the warm-up leads to.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// The decay of the next update after `updates` of them; 0 copies the parameters.
    pub fn decay_after(&self, updates: u64) -> f64 {
        let EmaOptions { use_warmup, warmup_gamma, warmup_power } = self.options;
        match (updates, use_warmup) {
            (0, _) => 0.0,
            (_, false) => self.decay,
            (k, true) => (1.0 - (1.0 + k as f64 / warmup_gamma).powf(-warmup_power)).min(self.decay),
        }
    }

    /// Updates so far. Waits for the outcome of the last one's check.
    pub fn updates(&self) -> Result<u64> {
        if let Some(check) = self.check.take()
            && !check.is_finite()?
        {
            self.updates.set(self.updates.get() - 1);
        }
        Ok(self.updates.get())
    }

    /// Goes on as after this many updates.
    pub fn set_updates(&mut self, updates: u64) {
        self.updates.set(updates);
        self.check.take();
    }

    /// Moves the averages towards the parameters' current values; with a check, if that is passed. A GPU finds it out by
    /// itself after the first update, and the host waits for what it found at the next one.
    pub fn update(&mut self, check: Option<&FiniteCheck>) -> Result<()> {
        self.is_home("updated")?;
        // The decay depends on it.
        let updates = self.updates()?;
        let decay = self.decay_after(updates);
        let on_device = check.and_then(|check| check.on_device()).filter(|_| self.averages.is_some() && decay > 0.0);
        if let (Some(check), None) = (check, on_device)
            && !check.is_finite()?
        {
            return Ok(());
        }
        match &self.averages {
            Some(averages) if decay > 0.0 => {
                let found_inf = on_device.map(|check| &check.found_inf);
                ffi::lerp(averages, &self.params, 1.0 - decay, found_inf)?;
            }
            Some(averages) => tch::no_grad(|| {
                averages.iter().zip(&self.params).try_for_each(|(a, p)| a.shallow_clone().f_copy_(p).map(drop))
            })?,
            None => {
                let copy = |p: &Tensor| detached_copy(&p.f_to_kind(kind_of_average(p))?);
                self.averages = Some(self.params.iter().map(copy).collect::<Result<_>>()?);
            }
        }
        self.updates.set(updates + 1);
        if on_device.is_some() {
            self.check.replace(check.cloned());
        }
        Ok(())
    }

    /// The averages by the names of parameters and buffers, and the module's counts.
    pub fn named_averages(&self) -> Result<Vec<(String, Tensor)>> {
        self.is_home("read or saved")?;
        let averages = self.started()?;
        let averages = self.names.iter().cloned().zip(averages.iter().map(Tensor::shallow_clone));
        Ok(averages.chain(self.counts.iter().map(|(name, t)| (name.clone(), t.shallow_clone()))).collect())
    }

    /// Whether there are averages yet.
    pub fn has_started(&self) -> bool {
        self.averages.is_some()
    }

    /// Restores averages that [`Ema::named_averages`] gave.
    pub fn restore(&mut self, tensors: &[(String, Tensor)]) -> Result<()> {
        self.is_home("restored")?;
        let by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let own = |(name, param): (&String, &Tensor)| -> Result<Tensor> {
            match by_name.get(name.as_str()) {
                Some(t) if t.size() == param.size() => {
                    detached_copy(&t.f_to_kind(kind_of_average(param))?.f_to_device(param.device())?)
                }
                Some(t) => {
                    bail!("the average of `{name}` has the shape {:?}, the parameter {:?}", t.size(), param.size())
                }
                None => bail!("there is no average of `{name}`"),
            }
        };
        self.averages = Some(self.names.iter().zip(&self.params).map(own).collect::<Result<_>>()?);
        Ok(())
    }

    /// Puts the averages in the parameters' place, until [`Ema::take_back`].
    pub fn lend(&self) -> Result<()> {
        self.is_home("applied again")?;
        self.swap()?;
        self.lent.set(true);
        Ok(())
    }

    /// Restores the parameters' values, and the averages.
    pub fn take_back(&self) -> Result<()> {
        self.swap()?;
        self.lent.set(false);
        Ok(())
    }

    /// Checks that the averages are not in the parameters' place, where they would be mistaken for each other.
    fn is_home(&self, done: &str) -> Result<()> {
        if self.lent.get() {
            bail_hint!(
                "an average cannot be {done} while it is applied: the model holds the averages, and they the model's values";
                "do it before or after `ema.apply`; inside, the model's parameters are the averages"
            );
        }
        Ok(())
    }

    /// Swaps the parameters' values with the averages, in place; a second call restores both.
    fn swap(&self) -> Result<()> {
        tch::no_grad(|| {
            for (param, average) in self.params.iter().zip(self.started()?) {
                let kept = detached_copy(param)?;
                param.shallow_clone().f_copy_(average)?;
                average.shallow_clone().f_copy_(&kept)?;
            }
            Ok(())
        })
    }

    fn started(&self) -> Result<&[Tensor]> {
        match &self.averages {
            Some(averages) => Ok(averages),
            None => bail!("this EMA has no averages yet: call update() after the first step"),
        }
    }
}

/// Averages are float32, or as wide as their parameter, which has to come back unchanged from their place.
fn kind_of_average(param: &Tensor) -> Kind {
    if param.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}
