//! Learned position embeddings for images of another size.

use crate::error::{Result, ensure};
use tch::{Kind, Tensor};

/// How a library fits position embeddings to another grid.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Resampling {
    /// torch's bicubic interpolation: transformers' ViT, MAE and DINOv2.
    Bicubic,
    /// The same, smoothed where the grid gets smaller: transformers' DINOv2 with registers, and timm.
    Antialiased,
}

impl Resampling {
    pub fn words(self) -> &'static str {
        match self {
            Self::Bicubic => "bicubic",
            Self::Antialiased => "bicubic, with antialiasing",
        }
    }
}

/// Of which tokens there are position embeddings.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Positions {
    /// Of the patches alone.
    OfPatches,
    /// Of the class token and the registers too.
    OfAll,
}

/// The side of a square of so many positions.
pub(super) fn side(positions: i64) -> Option<i64> {
    let side = (positions.max(0) as f64).sqrt().round() as i64;
    (side > 0 && side * side == positions).then_some(side)
}

/// Position embeddings [1, from², D] as [1, to², D], computed in float32.
pub(super) fn resampled(embeddings: &Tensor, from: i64, to: i64, how: Resampling) -> Result<Tensor> {
    ensure!((1..1 << 10).contains(&to), "position embeddings for {to} x {to} patches: expected 1 to 1023");
    let (kind, width) = (embeddings.kind(), embeddings.size()[2]);
    let grid = embeddings.f_to_kind(Kind::Float)?.f_reshape([1, from, from, width])?.f_permute([0, 3, 1, 2])?;
    let size = [to, to];
    let grid = match how {
        Resampling::Bicubic => grid.f_upsample_bicubic2d(size, false, None, None)?,
        Resampling::Antialiased => grid.f_internal_upsample_bicubic2d_aa(size, false, None, None)?,
    };
    Ok(grid.f_permute([0, 2, 3, 1])?.f_reshape([1, to * to, width])?.f_to_kind(kind)?)
}
