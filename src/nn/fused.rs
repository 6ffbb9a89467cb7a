//! The built-in parts of a block by fused operations: the same formulas as the modules compute one by one, with fewer
//! passes over memory and less kept for backward. What they do not fit goes the plain way.

use super::{Activation, Attention, Context, DropPath, LayerNorm, LayerScale, Linear, Mlp, Module, rotary};
use crate::error::Result;
use crate::ffi::{self, Affine, Autocast, BranchEnd, FusedActivation, Norm};
use std::cell::Cell;
use tch::{Device, Kind, Tensor};

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// Whether blocks of this thread are computed by fused operations where these fit; they are unless switched off.
pub fn set_fused(enabled: bool) {
    ENABLED.set(enabled);
}

/// Whether they are switched on.
pub(super) fn is_enabled() -> bool {
    ENABLED.get()
}

/// Whether there are fused operations for a branch around this module.
pub(super) fn knows(inner: &dyn Module) -> bool {
    inner.as_any().is_some_and(|inner| inner.is::<Attention>() || inner.is::<Mlp>())
}

/// What a residual branch has around its inner module.
pub(super) struct Branch<'a> {
    pub norm: &'a LayerNorm,
    pub scale: Option<&'a LayerScale>,
    /// With the mask that was drawn for it, if one was.
    pub drop_path: (&'a DropPath, Option<&'a Tensor>),
}

impl Branch<'_> {
    /// The branch around a module; `None` where the fused operations do not fit.
    pub fn forward(&self, inner: &dyn Module, x: &Tensor, cx: &Context) -> Result<Option<Tensor>> {
        let Some(inner) = inner.as_any().filter(|_| ENABLED.get()) else { return Ok(None) };
        if let Some(attention) = inner.downcast_ref::<Attention>() {
            return self.attention(attention, x, cx);
        }
        inner.downcast_ref::<Mlp>().map_or(Ok(None), |mlp| self.mlp(mlp, x))
    }

    fn attention(&self, attention: &Attention, x: &Tensor, cx: &Context) -> Result<Option<Tensor>> {
        let products = [&attention.query, &attention.key, &attention.value].map(affine);
        let output = affine(&attention.output);
        let qk_norms = match (&attention.q_norm, &attention.k_norm) {
            (Some(q), Some(k)) => Some([norm(q), norm(k)]),
            _ => None,
        };
        let of_norms = qk_norms.iter().flatten().map(|norm| norm.affine);
        let angles = (cx.rotary.as_ref(), None);
        let wants_attentions = cx.taps.as_ref().is_some_and(|taps| taps.want_attentions);
        let (images, tokens, head) = (x.size()[0], x.size()[1], x.size()[2] / attention.heads);
        let angles_fit = cx.rotary.as_ref().is_none_or(|angles| {
            // They are no inputs of the node, and would get no gradient.
            !angles.requires_grad() && rotary::angles_fit(angles, images, tokens, head)
        });
        if wants_attentions
            || !angles_fit
            || !self.fits(x, products.into_iter().chain(of_norms).chain([output, angles]))
        {
            return Ok(None);
        }
        let [q, k, v] =
            ffi::qkv(x, norm(self.norm), products, qk_norms, cx.rotary.as_ref(), attention.heads, Autocast::current())?;
        let mixed = match ffi::attention(&q, &k, &v, attention.is_causal)? {
            Some(mixed) => mixed,
            None => attention.mix(&q, &k, &v)?,
        };
        let mixed = mixed.f_transpose(1, 2)?.f_reshape(x.size())?;
        let mask = self.mask(x)?;
        Ok(Some(ffi::projection(x, &mixed, output, self.end(&mask))?))
    }

    fn mlp(&self, mlp: &Mlp, x: &Tensor) -> Result<Option<Tensor>> {
        let products = [affine(&mlp.up), mlp.gate.as_ref().map_or((None, None), affine), affine(&mlp.down)];
        if !self.fits(x, products) {
            return Ok(None);
        }
        let act = match mlp.act {
            Activation::Gelu => FusedActivation::Gelu,
            Activation::Silu => FusedActivation::Silu,
        };
        let mask = self.mask(x)?;
        Ok(Some(ffi::mlp(x, norm(self.norm), products, self.end(&mask), act, Autocast::current())?))
    }

    fn mask(&self, x: &Tensor) -> Result<Option<Tensor>> {
        let (drop_path, drawn) = self.drop_path;
        drop_path.mask(x, drawn)
    }

    fn end<'a>(&'a self, mask: &'a Option<Tensor>) -> BranchEnd<'a> {
        BranchEnd { scale: self.scale.map(|scale| &scale.lambda1), mask: mask.as_ref() }
    }

    /// Whether everything is float32 and on one device. What is not goes the plain way, and to its errors.
    fn fits<'a>(&'a self, x: &Tensor, others: impl IntoIterator<Item = Affine<'a>>) -> bool {
        let place = |t: &Tensor| (t.kind(), t.device());
        let wanted = (Kind::Float, x.device());
        let own = [norm(self.norm).affine, (self.scale.map(|scale| &scale.lambda1), None)];
        let mut all = others.into_iter().chain(own).flat_map(|(weight, bias)| [weight, bias]).flatten();
        let device_fits = matches!(x.device(), Device::Cpu | Device::Cuda(_));
        device_fits && x.numel() > 0 && place(x) == wanted && all.all(|t| place(t) == wanted)
    }
}

fn affine(linear: &Linear) -> Affine<'_> {
    (Some(&linear.weight), linear.bias.as_ref())
}

fn norm(norm: &LayerNorm) -> Norm<'_> {
    Norm { affine: (norm.weight.as_ref(), norm.bias.as_ref()), eps: norm.eps }
}
