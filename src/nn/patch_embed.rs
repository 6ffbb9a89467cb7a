//! Images to patch tokens: a convolution whose kernel and stride are the patch side.

use super::{Architecture, Context, Conv2d, Conv2dOptions, Module, ModuleVisitor};
use crate::error::{Result, ensure};
use crate::tensor::shape_text;
use tch::Tensor;

/// [B, C, S, S] -> [B, T, D] in raster order, T = (S / patch_size)².
pub struct PatchEmbed {
    projection: Conv2d,
    architecture: Architecture,
}

impl PatchEmbed {
    /// The patch embedding of a configuration.
    pub fn new(architecture: &Architecture) -> Result<Self> {
        let o = architecture;
        let conv = Conv2dOptions {
            kernel_size: o.patch_size,
            stride: o.patch_size,
            initializer_range: o.initializer_range,
            ..Default::default()
        };
        Ok(Self { projection: Conv2d::new(o.num_channels, o.hidden_size, &conv)?, architecture: o.clone() })
    }
}

impl Module for PatchEmbed {
    fn describe(&self) -> String {
        let o = &self.architecture;
        format!(
            "patch_embed({}x{}x{}, patch_size {} -> {})",
            o.num_channels, o.image_size, o.image_size, o.patch_size, o.hidden_size
        )
    }

    fn visit(&self, visitor: &mut ModuleVisitor<'_>) {
        visitor.child("projection", &self.projection);
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        let o = &self.architecture;
        ensure!(
            x.dim() == 4 && x.size()[1..] == [o.num_channels, o.image_size, o.image_size],
            "{} expects images [B, {}, {}, {}] of floats, found {}",
            self.describe(),
            o.num_channels,
            o.image_size,
            o.image_size,
            shape_text(x)
        );
        Ok(self.projection.forward(x, cx)?.f_flatten(2, 3)?.f_transpose(1, 2)?)
    }

    fn flops(&self, tokens: i64) -> Option<i64> {
        let o = &self.architecture;
        Some(2 * tokens * o.hidden_size * o.num_channels * o.patch_size * o.patch_size)
    }

    fn grid(&self, images: &Tensor) -> Option<(i64, i64)> {
        let side = |dim| Some(images.size().get(dim)? / self.architecture.patch_size);
        Some((side(2)?, side(3)?))
    }
}
