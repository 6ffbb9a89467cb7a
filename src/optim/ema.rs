//! An exponential moving average of a module's parameters, kept in float32.

use crate::error::{Result, bail, ensure};
use crate::ffi;
use crate::nn::{Module, named_parameters};
use crate::tensor::detached_copy;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The first update copies the parameters; every update then moves the average by 1 − decay
/// towards them. Parameters keep their names and places.
pub struct Ema {
    decay: f64,
    names: Vec<String>,
    params: Vec<Tensor>,
    averages: Option<Vec<Tensor>>,
}

impl Ema {
    /// An average of the module's parameters, not started yet.
    pub fn new(module: &dyn Module, decay: f64) -> Result<Self> {
        ensure!((0.0..1.0).contains(&decay), "an EMA decay lies in [0, 1), found {decay}");
        let (names, params) = named_parameters(module).into_iter().map(|(n, p)| (n, p.detach())).unzip();
        Ok(Self { decay, names, params, averages: None })
    }

    /// The decay.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Takes the parameters' current values in.
    pub fn update(&mut self) -> Result<()> {
        match &self.averages {
            Some(averages) => ffi::lerp(averages, &self.params, 1.0 - self.decay),
            None => {
                let copy = |p: &Tensor| detached_copy(&p.f_to_kind(Kind::Float)?);
                self.averages = Some(self.params.iter().map(copy).collect::<Result<_>>()?);
                Ok(())
            }
        }
    }

    /// The averages by parameter name.
    pub fn named_averages(&self) -> Result<Vec<(String, Tensor)>> {
        let averages = self.started()?;
        Ok(self.names.iter().cloned().zip(averages.iter().map(Tensor::shallow_clone)).collect())
    }

    /// Whether there are averages yet.
    pub fn has_started(&self) -> bool {
        self.averages.is_some()
    }

    /// Puts averages back, as [`Ema::named_averages`] gave them.
    pub fn restore(&mut self, tensors: &[(String, Tensor)]) -> Result<()> {
        let by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let own = |(name, param): (&String, &Tensor)| -> Result<Tensor> {
            match by_name.get(name.as_str()) {
                Some(t) if t.size() == param.size() => {
                    detached_copy(&t.f_to_kind(Kind::Float)?.f_to_device(param.device())?)
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

    /// Exchanges the parameters' values with the averages, in place; twice restores both.
    pub fn swap(&self) -> Result<()> {
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
