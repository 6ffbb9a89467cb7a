//! Resizing, padding and sampling of images.

use super::arguments::Dims;
use crate::bail_hint;
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::script::types::Argument;
use crate::script::values::{Tensor, found, number};
use crate::tensor::shape_text;
use nepa_macros::functions;
use rhai::{Array, Dynamic};

pub use functions::register;

#[functions]
pub mod functions {
    use super::*;

    /// Resizes [B, C, L], [B, C, H, W] or [B, C, D, H, W] to a `size`, one int or one for each dimension, or by a
    /// `scale_factor`. `mode` is "nearest", "nearest-exact", "linear" (3-D), "bilinear", "bicubic" (4-D), "trilinear"
    /// (5-D) or "area". `antialias` smooths before making smaller, for bilinear and bicubic.
    ///
    /// Example: `interpolate(ones([1, 3, 8, 8]), #{ scale_factor: 2, mode: "bicubic" }).shape == [1, 3, 16, 16]`
    pub fn interpolate(
        input: &Tensor,
        #[default(())] size: Option<Dims>,
        #[default(())] scale_factor: Dynamic,
        #[default("nearest")] mode: &str,
        #[default(())] align_corners: Option<bool>,
        #[default(())] recompute_scale_factor: Option<bool>,
        #[default(false)] antialias: bool,
    ) -> Result<tch::Tensor> {
        let resize = Resize::new(input, size, &scale_factor, mode, align_corners, recompute_scale_factor)?;
        resize.apply(input, mode, align_corners.unwrap_or(false), antialias)
    }

    /// Pads the last dimensions: `pad` holds the sizes before and after the last one, then those of the one before it,
    /// …; negative ones cut off. `mode` is "constant" (of `value`, 0 if ()), "reflect", "replicate" or "circular".
    ///
    /// Example: `pad(tensor([1, 2, 3]).unsqueeze(0), [1, 1], #{ mode: "constant", value: 9 }).to_array() == [9, 1, 2, 3, 9]`
    pub fn pad(
        input: &Tensor,
        pad: Vec<i64>,
        #[default("constant")] mode: &str,
        #[default(())] value: Option<f64>,
    ) -> Result<tch::Tensor> {
        const MODES: [&str; 4] = ["constant", "reflect", "replicate", "circular"];
        ensure!(
            MODES.contains(&mode),
            "pad: unknown mode \"{mode}\"{} (one of: {})",
            did_you_mean(mode, MODES),
            MODES.join(", ")
        );
        Ok(input.f_pad(pad, mode, value)?)
    }

    /// [B, C · r², H, W] to [B, C, H · r, W · r] (arXiv 1609.05158).
    ///
    /// Example: `pixel_shuffle(ones([1, 4, 2, 2]), 2).shape == [1, 1, 4, 4]`
    pub fn pixel_shuffle(input: &Tensor, upscale_factor: i64) -> Result<tch::Tensor> {
        Ok(input.f_pixel_shuffle(upscale_factor)?)
    }

    /// [B, C, H · r, W · r] to [B, C · r², H, W].
    ///
    /// Example: `pixel_unshuffle(ones([1, 1, 4, 4]), 2).shape == [1, 4, 2, 2]`
    pub fn pixel_unshuffle(input: &Tensor, downscale_factor: i64) -> Result<tch::Tensor> {
        Ok(input.f_pixel_unshuffle(downscale_factor)?)
    }

    /// The channels of [B, C, ...] in another order: groups of them side by side become interleaved.
    ///
    /// Example: `channel_shuffle(ones([1, 4, 2, 2]), 2).shape == [1, 4, 2, 2]`
    pub fn channel_shuffle(input: &Tensor, groups: i64) -> Result<tch::Tensor> {
        Ok(input.f_channel_shuffle(groups)?)
    }

    /// Values of images [B, C, H, W] at points [B, h, w, 2] (x, then y; −1 and 1 are the borders), or of volumes.
    /// `mode` is "bilinear", "nearest" or "bicubic", `padding_mode` "zeros", "border" or "reflection".
    ///
    /// Example: `grid_sample(ones([1, 3, 4, 4]), zeros([1, 2, 2, 2])).shape == [1, 3, 2, 2]`
    pub fn grid_sample(
        input: &Tensor,
        grid: &Tensor,
        #[default("bilinear")] mode: &str,
        #[default("zeros")] padding_mode: &str,
        #[default(())] align_corners: Option<bool>,
    ) -> Result<tch::Tensor> {
        let mode = place("grid_sample: `mode`", mode, &["bilinear", "nearest", "bicubic"])?;
        let padding = place("grid_sample: `padding_mode`", padding_mode, &["zeros", "border", "reflection"])?;
        Ok(input.f_grid_sampler(grid, mode, padding, align_corners.unwrap_or(false))?)
    }

    /// The points that affine maps theta [B, 2, 3] take an image of a size [B, C, H, W] from, [B, H, W, 2], for
    /// grid_sample.
    ///
    /// Example: `affine_grid(tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), [1, 3, 4, 4]).shape == [1, 4, 4, 2]`
    pub fn affine_grid(
        theta: &Tensor,
        size: Vec<i64>,
        #[default(())] align_corners: Option<bool>,
    ) -> Result<tch::Tensor> {
        Ok(tch::Tensor::f_affine_grid_generator(theta, size, align_corners.unwrap_or(false))?)
    }
}

/// The place of a name among names.
fn place(of: &str, name: &str, names: &[&str]) -> Result<i64> {
    match names.iter().position(|known| *known == name) {
        Some(place) => Ok(place as i64),
        None => bail!("{of}: unknown \"{name}\"{} (one of: {})", did_you_mean(name, names.to_vec()), names.join(", ")),
    }
}

/// What images are resized to.
struct Resize {
    size: Vec<i64>,
    /// The factors that places are computed by; none where the sizes tell them.
    scales: Vec<Option<f64>>,
}

impl Resize {
    fn new(
        input: &tch::Tensor,
        size: Option<Dims>,
        scale_factor: &Dynamic,
        mode: &str,
        align_corners: Option<bool>,
        recompute: Option<bool>,
    ) -> Result<Self> {
        ensure!(
            (3..=5).contains(&input.dim()),
            "interpolate: expected [B, C, L], [B, C, H, W] or [B, C, D, H, W], found {}",
            shape_text(input)
        );
        ensure!(
            align_corners.is_none() || ["linear", "bilinear", "bicubic", "trilinear"].contains(&mode),
            "interpolate: align_corners has no meaning in mode \"{mode}\", only in linear, bilinear, bicubic and trilinear"
        );
        let n = input.dim() - 2;
        let inputs = &input.size()[2..];
        match (size, scale_factor.is_unit()) {
            (Some(size), true) => Ok(Self { size: size.each(n, "interpolate: `size`")?, scales: vec![None; n] }),
            (None, false) => {
                let factors = match scale_factor.read_lock::<Array>() {
                    Some(list) => Vec::<f64>::read(list.to_vec(), "interpolate: `scale_factor`")?,
                    None => vec![number(scale_factor, "interpolate: `scale_factor`")?; n],
                };
                ensure!(
                    factors.len() == n && factors.iter().all(|f| *f > 0.0 && f.is_finite()),
                    "interpolate: `scale_factor`: expected a number above 0 or {n} of them, found {}",
                    found(scale_factor)
                );
                let size = inputs.iter().zip(&factors).map(|(size, factor)| (*size as f64 * factor).floor() as i64);
                let kept = recompute != Some(true);
                Ok(Self { size: size.collect(), scales: factors.iter().map(|f| kept.then_some(*f)).collect() })
            }
            _ => bail_hint!(
                "interpolate: expected `size` or `scale_factor`, one of them";
                "interpolate(x, [32, 32]) or interpolate(x, #{{ scale_factor: 2 }})"
            ),
        }
    }

    fn apply(&self, x: &tch::Tensor, mode: &str, corners: bool, antialias: bool) -> Result<tch::Tensor> {
        let (size, s) = (self.size.as_slice(), &self.scales);
        let smooth = antialias && ["bilinear", "bicubic"].contains(&mode);
        if antialias && !smooth {
            bail!("interpolate: antialias is for the modes bilinear and bicubic, found \"{mode}\"");
        }
        Ok(match (mode, size.len()) {
            ("nearest", 1) => x.f_upsample_nearest1d(size, s[0])?,
            ("nearest", 2) => x.f_upsample_nearest2d(size, s[0], s[1])?,
            ("nearest", 3) => x.f_upsample_nearest3d(size, s[0], s[1], s[2])?,
            ("nearest-exact", 1) => x.f_internal_upsample_nearest_exact1d(size, s[0])?,
            ("nearest-exact", 2) => x.f_internal_upsample_nearest_exact2d(size, s[0], s[1])?,
            ("nearest-exact", 3) => x.f_internal_upsample_nearest_exact3d(size, s[0], s[1], s[2])?,
            ("area", 1) => x.f_adaptive_avg_pool1d(size)?,
            ("area", 2) => x.f_adaptive_avg_pool2d(size)?,
            ("area", 3) => x.f_adaptive_avg_pool3d(size)?,
            ("linear", 1) => x.f_upsample_linear1d(size, corners, s[0])?,
            ("bilinear", 2) if smooth => x.f_internal_upsample_bilinear2d_aa(size, corners, s[0], s[1])?,
            ("bilinear", 2) => x.f_upsample_bilinear2d(size, corners, s[0], s[1])?,
            ("bicubic", 2) if smooth => x.f_internal_upsample_bicubic2d_aa(size, corners, s[0], s[1])?,
            ("bicubic", 2) => x.f_upsample_bicubic2d(size, corners, s[0], s[1])?,
            ("trilinear", 3) => x.f_upsample_trilinear3d(size, corners, s[0], s[1], s[2])?,
            ("linear" | "bilinear" | "bicubic" | "trilinear", _) => bail!(
                "interpolate: mode \"{mode}\" is for {}, found {}",
                match mode {
                    "linear" => "[B, C, L]",
                    "trilinear" => "[B, C, D, H, W]",
                    _ => "[B, C, H, W]",
                },
                shape_text(x)
            ),
            _ => {
                const MODES: [&str; 7] =
                    ["nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area"];
                bail!(
                    "interpolate: unknown mode \"{mode}\"{} (one of: {})",
                    did_you_mean(mode, MODES),
                    MODES.join(", ")
                )
            }
        })
    }
}
