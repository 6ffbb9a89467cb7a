//! Batch normalisation (Ioffe & Szegedy, arXiv 1502.03167).

use super::recompute::is_replaying;
use super::{Context, Module, ModuleVisitor, full, zeros};
use crate::error::{Result, ensure};
use crate::tensor::{detached_copy, shape_text};
use std::cell::Cell;
use tch::{Kind, Tensor};

/// How a batch norm is made.
pub struct BatchNormOptions {
    /// Added to the variance.
    pub eps: f64,
    /// How far the running statistics move towards those of a batch; without it they are the mean of all batches.
    pub momentum: Option<f64>,
    /// Whether it has a learned weight and bias.
    pub affine: bool,
    /// Whether it keeps running statistics, which evaluation normalises by. Those of a batch that are not finite are left
    /// out.
    pub track_running_stats: bool,
}

/// `weight` [C] starting at 1 and `bias` [C] starting at 0, where asked for; buffers `running_mean` [C], `running_var`
/// [C] (starting at 1) and `num_batches_tracked`, int64, where statistics are kept.
pub struct BatchNorm {
    /// Dimensions beside batch and channels: 1 (with [B, C] also taken), 2 or 3.
    dims: usize,
    features: i64,
    options: BatchNormOptions,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    running: Option<Running>,
    training: Cell<bool>,
}

struct Running {
    mean: Tensor,
    var: Tensor,
    batches: Tensor,
}

impl BatchNorm {
    /// A norm of `features` channels of inputs with `dims` dimensions beside batch and channels.
    pub fn new(dims: usize, features: i64, options: BatchNormOptions) -> Result<Self> {
        ensure!(features > 0, "a batch norm needs a positive number of features, found {features}");
        let on = crate::device::current();
        let running = || -> Result<Running> {
            Ok(Running {
                mean: Tensor::f_zeros([features], (Kind::Float, on))?,
                var: Tensor::f_ones([features], (Kind::Float, on))?,
                batches: Tensor::f_zeros([0i64; 0], (Kind::Int64, on))?,
            })
        };
        Ok(Self {
            dims,
            features,
            weight: options.affine.then(|| full(&[features], 1.0)).transpose()?,
            bias: options.affine.then(|| zeros(&[features])).transpose()?,
            running: options.track_running_stats.then(running).transpose()?,
            options,
            training: Cell::new(true),
        })
    }

    /// Counts a batch; how far the running statistics move towards it.
    fn count(&self, running: &Running) -> Result<f64> {
        let _ = running.batches.shallow_clone().f_add_scalar_(1)?;
        match self.options.momentum {
            Some(momentum) => Ok(momentum),
            None => Ok(1.0 / running.batches.f_int64_value(&[])? as f64),
        }
    }
}

impl Module for BatchNorm {
    fn describe(&self) -> String {
        let momentum = self.options.momentum.map_or("()".to_string(), |m| m.to_string());
        format!("batch_norm{}d({}, eps {:e}, momentum {momentum})", self.dims, self.features, self.options.eps)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.training(&self.training);
        if let (Some(weight), Some(bias)) = (&self.weight, &self.bias) {
            visitor.parameter("weight", weight);
            visitor.parameter("bias", bias);
        }
        if let Some(running) = &self.running {
            visitor.buffer("running_mean", &running.mean);
            visitor.buffer("running_var", &running.var);
            visitor.buffer("num_batches_tracked", &running.batches);
        }
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        let fits = x.dim() == self.dims + 2 || (self.dims == 1 && x.dim() == 2);
        ensure!(
            fits && x.size()[1] == self.features && x.is_floating_point(),
            "{} expects floats [B, {}{}], found {}",
            self.describe(),
            self.features,
            [", L", ", H, W", ", D, H, W"][self.dims - 1],
            shape_text(x)
        );
        let training = self.training.get();
        ensure!(
            !training || x.numel() as i64 > self.features,
            "{} needs more than one value for each channel in training, found {}",
            self.describe(),
            shape_text(x)
        );
        let (weight, bias, eps) = (self.weight.as_ref(), self.bias.as_ref(), self.options.eps);
        // A block that backward computes again has counted its batch already.
        match self.running.as_ref().filter(|_| !(training && is_replaying())) {
            Some(running) if training => {
                let momentum = self.count(running)?;
                let (mean, var) = (detached_copy(&running.mean)?, detached_copy(&running.var)?);
                let y = x.f_batch_norm(weight, bias, Some(&mean), Some(&var), true, momentum, eps, true)?;
                // A step that is skipped because an image holds NaN must not leave it here.
                for (statistic, new) in [(&running.mean, mean), (&running.var, var)] {
                    let kept = new.f_where_self(&new.f_isfinite()?, statistic)?;
                    statistic.shallow_clone().f_copy_(&kept)?;
                }
                Ok(y)
            }
            Some(running) => {
                let (mean, var) = (Some(&running.mean), Some(&running.var));
                Ok(x.f_batch_norm(weight, bias, mean, var, false, 0.0, eps, true)?)
            }
            None => Ok(x.f_batch_norm(weight, bias, None, None, true, 0.0, eps, true)?),
        }
    }
}
