//! Norms beside LayerNorm and BatchNorm: of groups of channels (Wu & He, arXiv 1803.08494), of single channels
//! (arXiv 1607.08022), and by the root mean square (Zhang & Sennrich, arXiv 1910.07467).

use super::{Context, Module, ModuleVisitor, full, zeros};
use crate::error::{Result, ensure};
use crate::tensor::shape_text;
use tch::Tensor;

/// `weight` [C] starting at 1 and `bias` [C] starting at 0, if `affine`.
pub struct GroupNorm {
    name: &'static str,
    groups: i64,
    channels: i64,
    eps: f64,
    affine: Option<(Tensor, Tensor)>,
}

impl GroupNorm {
    /// A norm of `groups` groups of `channels` channels; `name` is what it is called in a printed model.
    pub fn new(name: &'static str, groups: i64, channels: i64, eps: f64, affine: bool) -> Result<Self> {
        ensure!(
            groups > 0 && channels > 0 && channels % groups == 0,
            "{name}: expected a number of channels that {groups} groups divide, found {channels}"
        );
        let affine = affine.then(|| Ok((full(&[channels], 1.0)?, zeros(&[channels])?)));
        let affine: Result<Option<(Tensor, Tensor)>> = affine.transpose();
        Ok(Self { name, groups, channels, eps, affine: affine? })
    }
}

impl Module for GroupNorm {
    fn describe(&self) -> String {
        match self.groups == self.channels {
            true => format!("{}({}, eps {:e})", self.name, self.channels, self.eps),
            false => format!("{}({}, {}, eps {:e})", self.name, self.groups, self.channels, self.eps),
        }
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        if let Some((weight, bias)) = &self.affine {
            visitor.parameter("weight", weight);
            visitor.parameter("bias", bias);
        }
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        ensure!(
            x.dim() >= 2 && x.size()[1] == self.channels && x.is_floating_point(),
            "{} expects floats [B, {}, ...], found {}",
            self.describe(),
            self.channels,
            shape_text(x)
        );
        let (weight, bias) = self.affine.as_ref().map_or((None, None), |(w, b)| (Some(w), Some(b)));
        Ok(x.f_group_norm(self.groups, weight, bias, self.eps, true)?)
    }
}

/// `weight` of the normalised shape, starting at 1, if `affine`.
pub struct RmsNorm {
    shape: Vec<i64>,
    eps: Option<f64>,
    weight: Option<Tensor>,
}

impl RmsNorm {
    /// A norm over the last dimensions, of the given sizes.
    pub fn new(shape: Vec<i64>, eps: Option<f64>, affine: bool) -> Result<Self> {
        ensure!(
            !shape.is_empty() && shape.iter().all(|n| *n > 0),
            "rms_norm: expected positive sizes, found {shape:?}"
        );
        let weight = affine.then(|| full(&shape, 1.0)).transpose()?;
        Ok(Self { shape, eps, weight })
    }
}

impl Module for RmsNorm {
    fn describe(&self) -> String {
        format!("rms_norm({:?})", self.shape)
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        if let Some(weight) = &self.weight {
            visitor.parameter("weight", weight);
        }
    }

    fn forward(&self, x: &Tensor, _cx: &Context) -> Result<Tensor> {
        ensure!(
            x.size().ends_with(&self.shape) && x.is_floating_point(),
            "{} expects floats with last dimensions of {:?}, found {}",
            self.describe(),
            self.shape,
            shape_text(x)
        );
        Ok(x.f_rms_norm(&self.shape, self.weight.as_ref(), self.eps)?)
    }
}
