//! Images to patch tokens: a convolution whose kernel and stride are the patch side.

use super::{Context, Conv2d, Conv2dOptions, Module, ModuleVisitor, VitNepaConfig};
use crate::error::{Result, ensure};
use crate::tensor::shape_text;
use tch::Tensor;

/// [B, C, S, S] -> [B, T, D] in raster order, T = (S / patch_size)².
pub struct PatchEmbed {
    projection: Conv2d,
    config: VitNepaConfig,
}

impl PatchEmbed {
    /// The patch embedding of a configuration.
    pub fn new(config: &VitNepaConfig) -> Result<Self> {
        config.validate()?;
        let o = config;
        let conv = Conv2dOptions {
            kernel_size: o.patch_size,
            stride: o.patch_size,
            initializer_range: o.initializer_range,
            ..Default::default()
        };
        Ok(Self { projection: Conv2d::new(o.num_channels, o.hidden_size, &conv)?, config: o.clone() })
    }
}

impl Module for PatchEmbed {
    fn describe(&self) -> String {
        let o = &self.config;
        format!(
            "patch_embed({}x{}x{}, patch_size {} -> {})",
            o.num_channels, o.image_size, o.image_size, o.patch_size, o.hidden_size
        )
    }

    fn visit(&self, parts: &mut ModuleVisitor<'_>) {
        parts.child("projection", &self.projection);
    }

    fn forward(&self, x: &Tensor, cx: &Context) -> Result<Tensor> {
        let o = &self.config;
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

    fn grid(&self, images: &Tensor) -> Option<(i64, i64)> {
        let side = |dim| Some(images.size().get(dim)? / self.config.patch_size);
        Some((side(2)?, side(3)?))
    }
}
