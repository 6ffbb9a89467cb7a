//! How batches are mixed with themselves: timm's `Mixup`, as draws without pixels.

use super::ops::{happens, within};
use crate::data::image::Region;
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::options;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

options! {
    /// Mixup (Zhang et al., 2017) and CutMix (Yun et al., 2019) of a batch with itself in reverse order.
    pub struct MixingOptions {
        /// Mixup's share is drawn from Beta(this, this); 0 turns mixup off.
        mixup_alpha: f64 = 0.8,
        /// The same for CutMix.
        cutmix_alpha: f64 = 1.0,
        /// Least and greatest share of each side that CutMix replaces, instead of a share from Beta.
        cutmix_minmax: Option<[f64; 2]> = None,
        /// Probability of mixing at all.
        prob: f64 = 1.0,
        /// Probability of CutMix where both are on.
        switch_prob: f64 = 0.5,
        /// Draws one share for each batch, elem (image) or pair of images.
        mode: String = "batch".into(),
        /// Whether CutMix's share is that of the pixels that were left.
        correct_lam: bool = true,
        /// Label smoothing inside the mixed targets: every class gets this, divided by their number, and the label
        /// the rest.
        label_smoothing: f64 = 0.1,
    }
}

/// What has a share of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MixMode {
    /// All images of a batch.
    Batch,
    /// Each image.
    Elem,
    /// Each image and its partner.
    Pair,
}

/// How an image is mixed with its partner, the image as far from the batch's end as it is from its
/// beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// The image's share of the label, and with mixup of every pixel; 1: it stays as it is.
    pub share: f64,
    /// CutMix: what the partner replaces, perhaps nothing. Without it: mixup.
    pub region: Option<Region>,
}

impl Mix {
    /// No mixing.
    pub const NONE: Mix = Mix { share: 1.0, region: None };
}

/// Draws mixes.
#[derive(Debug, Clone)]
pub struct Mixing {
    options: MixingOptions,
    mode: MixMode,
    mixup: Option<Beta<f64>>,
    cutmix: Option<Beta<f64>>,
}

impl Mixing {
    /// The transform with its options, in words.
    pub fn describe(&self) -> String {
        format!("mixup({})", serde_json::to_string(&self.options).expect("options are plain data"))
    }

    /// Checks the options.
    pub fn new(options: &MixingOptions) -> Result<Self> {
        const OF: &str = "transform::mixup";
        let o = options;
        within(OF, "mixup_alpha", o.mixup_alpha, 0.0, f64::INFINITY)?;
        within(OF, "cutmix_alpha", o.cutmix_alpha, 0.0, f64::INFINITY)?;
        within(OF, "prob", o.prob, 0.0, 1.0)?;
        within(OF, "switch_prob", o.switch_prob, 0.0, 1.0)?;
        within(OF, "label_smoothing", o.label_smoothing, 0.0, 1.0)?;
        if let Some([low, high]) = o.cutmix_minmax {
            ensure!(
                0.0 <= low && low < high && high < 1.0,
                "option `cutmix_minmax` of {OF}: expected [least, greatest] from 0 to below 1, found [{low}, {high}]"
            );
        }
        let mode = match o.mode.as_str() {
            "batch" => MixMode::Batch,
            "elem" => MixMode::Elem,
            "pair" => MixMode::Pair,
            other => {
                let near = did_you_mean(other, ["batch", "elem", "pair"]);
                bail!("option `mode` of {OF}: expected batch, elem or pair, found {other:?}{near}")
            }
        };
        let beta = |alpha: f64| (alpha > 0.0).then(|| Beta::new(alpha, alpha).expect("a positive number"));
        // timm: with bounds on the sides, CutMix is on and its share does not come from Beta.
        let cutmix = beta(if o.cutmix_minmax.is_some() { 1.0 } else { o.cutmix_alpha });
        ensure!(
            o.mixup_alpha > 0.0 || cutmix.is_some(),
            "options of {OF}: expected mixup_alpha or cutmix_alpha to be positive, found 0 for both"
        );
        Ok(Self { options: o.clone(), mode, mixup: beta(o.mixup_alpha), cutmix })
    }

    /// What has a share of its own.
    pub fn mode(&self) -> MixMode {
        self.mode
    }

    /// Label smoothing inside the mixed targets.
    pub fn label_smoothing(&self) -> f64 {
        self.options.label_smoothing
    }

    /// One mix, for a batch or for one of its images.
    pub fn draw(&self, height: usize, width: usize, rng: &mut ChaCha8Rng) -> Mix {
        if !happens(self.options.prob, rng) {
            return Mix::NONE;
        }
        let (beta, cut) = match (&self.mixup, &self.cutmix) {
            (Some(_), Some(cutmix)) if happens(self.options.switch_prob, rng) => (cutmix, true),
            (Some(mixup), _) => (mixup, false),
            (None, Some(cutmix)) => (cutmix, true),
            (None, None) => return Mix::NONE,
        };
        let share = beta.sample(rng);
        if !cut || share == 1.0 {
            return Mix { share, region: None };
        }
        let region = match self.options.cutmix_minmax {
            Some(bounds) => region_within(height, width, bounds, rng),
            None => region_of(height, width, share, rng),
        };
        let left = 1.0 - region.area() as f64 / (height * width) as f64;
        let share = if self.options.correct_lam || self.options.cutmix_minmax.is_some() { left } else { share };
        Mix { share, region: Some(region) }
    }

    /// The mixes of all images of a batch, by the mode: all alike, each its own, or partners alike.
    pub fn draw_batch(&self, batch: usize, height: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<Mix> {
        match self.mode {
            MixMode::Batch => vec![self.draw(height, width, rng); batch],
            MixMode::Elem => (0..batch).map(|_| self.draw(height, width, rng)).collect(),
            MixMode::Pair => {
                let mut mixes = vec![Mix::NONE; batch];
                for i in 0..batch / 2 {
                    mixes[i] = self.draw(height, width, rng);
                    mixes[batch - 1 - i] = mixes[i];
                }
                mixes
            }
        }
    }
}

/// CutMix's rectangle: of 1 − `share` of the area and the picture's form around any pixel, then cut
/// off at the edges (timm's `rand_bbox`).
fn region_of(height: usize, width: usize, share: f64, rng: &mut impl RngCore) -> Region {
    let ratio = (1.0 - share).sqrt();
    let mut side = |n: usize| {
        let half = (n as f64 * ratio) as usize / 2;
        let centre = rng.random_range(0..n);
        (centre.saturating_sub(half), (centre + half).min(n))
    };
    let (top, bottom) = side(height);
    let (left, right) = side(width);
    Region { top, left, height: bottom - top, width: right - left }
}

/// A rectangle whose sides are a share of the picture's within bounds (timm's `rand_bbox_minmax`).
fn region_within(height: usize, width: usize, [low, high]: [f64; 2], rng: &mut impl RngCore) -> Region {
    let mut side = |n: usize| {
        let (low, high) = ((n as f64 * low) as usize, (n as f64 * high) as usize);
        // Small pictures may leave one length only.
        let length = rng.random_range(low..high.max(low + 1));
        (rng.random_range(0..n - length), length)
    };
    let (top, height) = side(height);
    let (left, width) = side(width);
    Region { top, left, height, width }
}
