//! timm's `Mixup`: mixup and CutMix of a batch, or of each group of its images, with itself in reverse order.

use super::draws::{happens, within};
use super::{BatchContext, Prepared, Stage, Transform, describe_call};
use crate::data::batch::{Batch, Images};
use crate::data::image::Region;
use crate::error::{Context as _, Result, bail, ensure};
use crate::positions::{Groups, Positions};
use crate::tensor::dtype_name;
use crate::{choices, options};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};
use tch::{Kind, Tensor};

options! {
    /// Mixup (Zhang et al., 2017) and CutMix (Yun et al., 2019) of a batch with itself in reverse order.
    pub struct MixupOptions {
        /// Parameter α of Mixup's λ ~ Beta(α, α); 0 turns Mixup off.
        mixup_alpha: f64 = 0.8,
        /// Parameter α of CutMix's λ ~ Beta(α, α); 0 turns CutMix off.
        cutmix_alpha: f64 = 1.0,
        /// Minimum and maximum fraction of each side that CutMix replaces, instead of drawing λ from Beta.
        cutmix_minmax: Option<[f64; 2]> = None,
        /// Probability of mixing.
        prob: f64 = 1.0,
        /// Probability of CutMix instead of Mixup if both are on.
        switch_prob: f64 = 0.5,
        /// What shares one λ: batch (all images of a draw), elem (each image) or pair of images.
        mode: MixupMode = MixupMode::Batch,
        /// Images of a draw, which are mixed with each other: neighbours in the global batch, however processes and
        /// micro-batches divide it; an even number. What is left at the end of a batch is a smaller draw. () means one
        /// draw for the whole global batch. timm draws once for what one process collates: 128 images in NEPA's
        /// fine-tuning, 8 draws in a step of 1024.
        images_per_draw: Option<usize> = None,
        /// Whether to correct CutMix's λ to the fraction of pixels that remain.
        correct_lam: bool = true,
        /// Label smoothing of the mixed targets: this fraction is spread evenly over all classes, and the label gets
        /// the rest.
        label_smoothing: f64 = 0.1,
    }
}

choices! {
    /// What gets a λ.
    pub enum MixupMode {
        /// All images of a draw.
        Batch = "batch",
        /// Each image.
        Elem = "elem",
        /// Each image and its partner.
        Pair = "pair",
    }
}

/// How an image is mixed with its partner, the image as far from the end of its group as it is from the beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// λ: the image's weight in the label, and with mixup in every pixel; 1: it stays as it is.
    pub lam: f64,
    /// CutMix: what the partner replaces, perhaps nothing. Without it: mixup.
    pub region: Option<Region>,
}

impl Mix {
    /// No mixing.
    pub const NONE: Mix = Mix { lam: 1.0, region: None };
}

/// Draws mixes.
#[derive(Debug, Clone)]
pub struct Mixup {
    options: MixupOptions,
    mixup: Option<Beta<f64>>,
    cutmix: Option<Beta<f64>>,
    groups: Groups,
}

impl Mixup {
    /// Checks the options.
    pub fn new(options: &MixupOptions) -> Result<Self> {
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
        let beta = |alpha: f64| (alpha > 0.0).then(|| Beta::new(alpha, alpha).expect("a positive number"));
        // timm: with bounds on the sides, CutMix is on and its λ does not come from Beta.
        let cutmix = beta(if o.cutmix_minmax.is_some() { 1.0 } else { o.cutmix_alpha });
        ensure!(
            o.mixup_alpha > 0.0 || cutmix.is_some(),
            "options of {OF}: expected mixup_alpha or cutmix_alpha to be positive, found 0 for both"
        );
        let groups = match o.images_per_draw {
            Some(n) if n < 2 || !n.is_multiple_of(2) => {
                bail!("option `images_per_draw` of {OF}: expected an even number of images, found {n}")
            }
            Some(n) => Groups::of(n),
            None => Groups::WHOLE,
        };
        Ok(Self { options: o.clone(), mixup: beta(o.mixup_alpha), cutmix, groups })
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
        let lam = beta.sample(rng);
        if !cut || lam == 1.0 {
            return Mix { lam, region: None };
        }
        let region = match self.options.cutmix_minmax {
            Some(bounds) => region_within(height, width, bounds, rng),
            None => region_of(height, width, lam, rng),
        };
        let left = 1.0 - region.area() as f64 / (height * width) as f64;
        let lam = if self.options.correct_lam || self.options.cutmix_minmax.is_some() { left } else { lam };
        Mix { lam, region: Some(region) }
    }

    /// The mixes of all images of a global batch: in each group, by the mode, one for all, one for each, or one for each
    /// pair.
    pub fn draw_batch(&self, batch: usize, height: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<Mix> {
        let mut mixes: Vec<Mix> = Vec::with_capacity(batch);
        while mixes.len() < batch {
            let (_, group) = self.groups.around(mixes.len(), batch);
            let (start, n) = (group.start, group.len());
            match self.options.mode {
                MixupMode::Batch => mixes.extend(vec![self.draw(height, width, rng); n]),
                MixupMode::Elem => mixes.extend((0..n).map(|_| self.draw(height, width, rng))),
                MixupMode::Pair => {
                    mixes.extend(vec![Mix::NONE; n]);
                    for i in 0..n / 2 {
                        mixes[start + i] = self.draw(height, width, rng);
                        mixes[start + n - 1 - i] = mixes[start + i];
                    }
                }
            }
        }
        mixes
    }

    /// For each image of a process its partner's place among them; its own where the partner is elsewhere, which is only
    /// so for a stand-in that does not count.
    fn partners(&self, samples: &Positions, global_batch: usize) -> Vec<i64> {
        let mut places = vec![None; global_batch];
        (0..samples.len()).for_each(|i| places[samples.at(i)] = Some(i));
        let partner = |i: usize| places[self.groups.partner(samples.at(i), global_batch)].unwrap_or(i) as i64;
        (0..samples.len()).map(partner).collect()
    }
}

/// CutMix's rectangle: of 1 − `lam` of the area and the image's form around any pixel, then cut
/// off at the edges (timm's `rand_bbox`).
fn region_of(height: usize, width: usize, lam: f64, rng: &mut impl RngCore) -> Region {
    let ratio = (1.0 - lam).sqrt();
    let mut side = |n: usize| {
        let length = (n as f64 * ratio) as usize;
        let centre = rng.random_range(0..n);
        (centre.saturating_sub(length / 2), (centre + length.div_ceil(2)).min(n))
    };
    let (top, bottom) = side(height);
    let (left, right) = side(width);
    Region { top, left, height: bottom - top, width: right - left }
}

/// A rectangle whose sides are a fraction of the image's within bounds (timm's `rand_bbox_minmax`).
fn region_within(height: usize, width: usize, [low, high]: [f64; 2], rng: &mut impl RngCore) -> Region {
    let mut side = |n: usize| {
        let (low, high) = ((n as f64 * low) as usize, (n as f64 * high) as usize);
        // Small images may leave one length only.
        let length = rng.random_range(low..high.max(low + 1));
        (rng.random_range(0..=n - length), length)
    };
    let (top, height) = side(height);
    let (left, width) = side(width);
    Region { top, left, height, width }
}

impl Transform for Mixup {
    fn describe(&self) -> String {
        describe_call("mixup", &[], &self.options)
    }

    fn stage(&self) -> Stage {
        Stage::Batch
    }

    fn prepare(&self, context: &BatchContext, [_, height, width]: [usize; 3]) -> Result<Option<Prepared>> {
        // Of the global batch, whichever rank draws them.
        let all = self.draw_batch(context.global_batch, height, width, &mut context.key.rng());
        let samples = &context.samples;
        let mixes: Vec<Mix> = (0..samples.len()).map(|i| all[samples.at(i)]).collect();
        let numbers = numbers_of(&mixes, &self.partners(samples, context.global_batch))?;
        Ok(Some(Prepared { drawn: Box::new(mixes), numbers }))
    }

    fn apply_to_batch(&self, batch: Batch, context: &mut BatchContext) -> Result<Batch> {
        let images = batch.images.numbers()?;
        let Prepared { drawn, numbers } =
            context.take_prepared(self, &images)?.context("internal: mixup has prepared nothing")?;
        let mixes: &Vec<Mix> = drawn.downcast_ref().context("internal: what another transform has prepared")?;
        let batch = Batch { images: Images::Numbers(images), ..batch };
        mix(batch, mixes, &numbers, self.options.label_smoothing, context.classes)
    }

    fn mixed(&self) -> Option<Groups> {
        Some(self.groups)
    }
}

/// Whether an image is blended with its partner as a whole.
fn blends(mix: &Mix) -> bool {
    mix.region.is_none() && mix.lam < 1.0
}

/// The region of an image that its partner's takes the place of.
fn replaced(mix: &Mix) -> Option<Region> {
    mix.region.filter(|region| region.area() > 0)
}

/// What the device has to know of mixes: 9 rows of a number for each image, which [`mix`] reads. Integers are exact in
/// float32.
fn numbers_of(mixes: &[Mix], partners: &[i64]) -> Result<Tensor> {
    let of_mix = |value: fn(&Mix) -> f64| mixes.iter().map(value).collect();
    let of_blend = |value: fn(&Mix) -> f64, otherwise: f64| {
        mixes.iter().map(|mix| if blends(mix) { value(mix) } else { otherwise }).collect()
    };
    let of_region = |bound: fn(&Region) -> usize| {
        mixes.iter().map(|mix| replaced(mix).map_or(0.0, |region| bound(&region) as f64)).collect()
    };
    let rows: [Vec<f64>; 9] = [
        of_mix(|mix| mix.lam),
        of_mix(|mix| 1.0 - mix.lam),
        of_blend(|mix| mix.lam, 1.0),
        of_blend(|mix| 1.0 - mix.lam, 0.0),
        partners.iter().map(|i| *i as f64).collect(),
        of_region(|r| r.top),
        of_region(|r| r.top + r.height),
        of_region(|r| r.left),
        of_region(|r| r.left + r.width),
    ];
    Ok(Tensor::f_from_slice(&rows.concat())?.f_to_kind(Kind::Float)?)
}

/// Mixes every image with its partner; `numbers` are [`numbers_of`] the mixes, on the images' device. Targets become
/// float32 [B, classes], smoothed and weighted by λ.
fn mix(batch: Batch, mixes: &[Mix], numbers: &Tensor, label_smoothing: f64, classes: usize) -> Result<Batch> {
    // Labels are what it mixes: other targets, also integers, would be lost.
    if batch.targets.data_ptr() != batch.labels.data_ptr() {
        let found = (dtype_name(batch.targets.kind()), batch.targets.size());
        bail!(
            "mixup: expected the labels (int64) as the batch's targets, found {} {:?} that another transform has set; list \
             mixup once, and before functions that set targets",
            found.0,
            found.1
        );
    }
    if classes == 0 {
        bail!("mixup: the images have no labels to mix");
    }
    let mut images = batch.images.numbers()?;
    let device = images.device();
    let rows = numbers.f_view([9, -1])?;
    let column = |i: i64| rows.f_get(i)?.f_unsqueeze(1);
    let (lam, rest) = (column(0)?, column(1)?);
    let off = label_smoothing / classes as f64;
    let mut plain = Tensor::f_full([batch.labels.size()[0], classes as i64], off, (Kind::Float, device))?;
    let plain = plain.f_scatter_value_(1, &batch.labels.f_unsqueeze(1)?, 1.0 - label_smoothing + off)?;
    let partners = rows.f_get(4)?.f_to_kind(Kind::Int64)?;
    let targets = plain.f_mul(&lam)?.f_add(&plain.f_index_select(0, &partners)?.f_mul(&rest)?)?;

    let partner = images.f_index_select(0, &partners)?;
    if mixes.iter().any(blends) {
        let own = column(2)?.f_view([-1, 1, 1, 1])?;
        let other = column(3)?.f_view([-1, 1, 1, 1])?;
        images = images.f_mul(&own)?.f_add_(&partner.f_mul(&other)?)?;
    }
    if mixes.iter().any(|mix| replaced(mix).is_some()) {
        images = partner.f_where_self(&inside(&rows.f_narrow(0, 5, 4)?, &images)?, &images)?;
    }
    Ok(Batch { images: Images::Numbers(images), targets, ..batch })
}

/// Whether each pixel of images [B, C, H, W] lies in its image's region: bool [B, 1, H, W]. `bounds` [4, B] are top,
/// bottom, left and right of each.
fn inside(bounds: &Tensor, images: &Tensor) -> Result<Tensor> {
    let [_, _, height, width] = images.size()[..] else { bail!("images of a batch") };
    let bounds = bounds.f_view([4, -1, 1, 1, 1])?;
    let between = |low: i64, places: Tensor| -> Result<Tensor> {
        Ok(places.f_ge_tensor(&bounds.f_get(low)?)?.f_logical_and(&places.f_lt_tensor(&bounds.f_get(low + 1)?)?)?)
    };
    let places = |n: i64| Tensor::f_arange(n, (Kind::Float, images.device()));
    let rows = between(0, places(height)?.f_view([1, 1, -1, 1])?)?;
    Ok(rows.f_logical_and(&between(2, places(width)?.f_view([1, 1, 1, -1])?)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;
    use std::collections::HashMap;

    fn most(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    /// `images` and `labels` mixed in groups.
    fn mixed(tensors: &HashMap<String, Tensor>, mixes: &[Mix], groups: Groups, classes: usize) -> Batch {
        let labels = &tensors["labels"];
        let n = labels.size()[0] as usize;
        let batch = Batch {
            images: Images::Numbers(tensors["images"].copy()),
            labels: labels.shallow_clone(),
            targets: labels.shallow_clone(),
            indices: labels.copy(),
            intact: labels.ge(0),
            all_intact: true,
            samples: Positions::run(0, n),
            loss_weight: 1.0,
        };
        let mixup = Mixup { groups, ..Mixup::new(&MixupOptions::default()).unwrap() };
        let numbers = numbers_of(mixes, &mixup.partners(&Positions::run(0, n), n)).unwrap();
        mix(batch, mixes, &numbers, 0.1, classes).unwrap()
    }

    fn assert_mixed(mixed: &Batch, tensors: &HashMap<String, Tensor>, name: &str) {
        let off = (
            most(&mixed.images.numbers().unwrap(), &tensors[&format!("{name}.images")]),
            most(&mixed.targets, &tensors[&format!("{name}.targets")]),
        );
        assert!(off.0 < 1e-6 && off.1 < 1e-6, "{name}: {off:?}");
    }

    /// timm's own results for each batch that a process collates, the last one short (tests/fixtures/reference).
    #[test]
    fn groups_are_mixed_as_timm_mixes_batches() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/reference/mixup");
        let facts: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(format!("{dir}.json")).unwrap()).unwrap();
        let tensors: HashMap<String, Tensor> =
            Tensor::read_safetensors(format!("{dir}.safetensors")).unwrap().into_iter().collect();
        let groups = Groups::of(facts["images_per_draw"].as_u64().unwrap() as usize);
        let classes = facts["classes"].as_u64().unwrap() as usize;
        for name in ["batch-mixup", "batch-cutmix", "elem-mixup", "elem-cutmix", "pair-mixup", "pair-cutmix"] {
            let drawn = facts[name].as_array().unwrap().iter().map(|draw| {
                let sides = draw["box"]
                    .as_array()
                    .map(|b| -> Vec<usize> { b.iter().map(|side| side.as_u64().unwrap() as usize).collect() });
                let region = sides.map(|s| Region { top: s[0], left: s[2], height: s[1] - s[0], width: s[3] - s[2] });
                Mix { lam: draw["lam"].as_f64().unwrap(), region }
            });
            let drawn: Vec<Mix> = drawn.collect();
            assert_mixed(&mixed(&tensors, &drawn, groups, classes), &tensors, name);
        }
    }

    #[test]
    fn each_group_has_draws_of_its_own_and_the_first_is_that_of_the_whole_batch() {
        for mode in [MixupMode::Batch, MixupMode::Elem, MixupMode::Pair] {
            let draw = |images_per_draw, n| {
                let options = MixupOptions { mode, images_per_draw, ..Default::default() };
                Mixup::new(&options).unwrap().draw_batch(n, 32, 32, &mut Key::new(1).rng())
            };
            let all = draw(Some(4), 10);
            assert_eq!(all.len(), 10);
            assert_eq!(all[..4], draw(None, 4), "{mode:?}");
            assert_eq!(draw(Some(128), 10), draw(None, 10), "{mode:?}");
            assert_ne!(all[0], all[4], "{mode:?}");
            assert_ne!(all[4], all[8], "{mode:?}");
            match mode {
                MixupMode::Batch => assert!(all[8] == all[9] && all[4] == all[7]),
                MixupMode::Elem => assert!(all[8] != all[9] && all[4] != all[7]),
                MixupMode::Pair => assert!(all[8] == all[9] && all[4] == all[7] && all[4] != all[5]),
            }
        }
        for wrong in [0, 1, 7] {
            let error = Mixup::new(&MixupOptions { images_per_draw: Some(wrong), ..Default::default() }).unwrap_err();
            assert!(
                error.to_string().contains(&format!("expected an even number of images, found {wrong}")),
                "{error}"
            );
        }
    }

    /// As timm 1.0.31 has them: odd lengths whole, and rectangles that reach the last row.
    #[test]
    fn cut_rectangles_have_their_length_and_reach_every_row() {
        let mut rng = Key::new(1).rng();
        // 0.99² of 101 rows: 99.99, so 99.
        let lam = 1.0 - 0.99f64.powi(2);
        let inside: Vec<usize> = (0..400)
            .map(|_| region_of(101, 101, lam, &mut rng))
            .filter(|r| r.top > 0 && r.top + r.height < 101)
            .map(|r| r.height)
            .collect();
        assert!(!inside.is_empty() && inside.iter().all(|height| *height == 99), "{inside:?}");
        let reached = (0..400).map(|_| region_within(7, 7, [0.3, 0.6], &mut rng)).map(|r| r.top + r.height).max();
        assert_eq!(reached, Some(7));
    }

    /// timm's own results (tests/fixtures/train/mixing.*).
    #[test]
    fn mixup_and_cutmix_give_timms_images_and_targets() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/train/mixing");
        let facts: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(format!("{dir}.json")).unwrap()).unwrap();
        let tensors: HashMap<String, Tensor> =
            Tensor::read_safetensors(format!("{dir}.safetensors")).unwrap().into_iter().collect();
        let number = |v: &serde_json::Value| v.as_f64().unwrap();
        let cut = &facts["cutmix_box"];
        let side = |from: &str, to: &str| {
            let (from, to) = (number(&cut[from]) as usize, number(&cut[to]) as usize);
            (from, to - from)
        };
        let ((top, height), (left, width)) = (side("y0", "y1"), side("x0", "x1"));
        let mixup = Mix { lam: number(&facts["lam"]), region: None };
        let region = Some(Region { top, left, height, width });
        let cutmix = Mix { lam: number(&facts["cutmix_lam"]), region };
        for (name, drawn) in [("mixup", mixup), ("cutmix", cutmix)] {
            let n = tensors["labels"].size()[0] as usize;
            let classes = tensors["logits"].size()[1] as usize;
            let mixed = mixed(&tensors, &vec![drawn; n], Groups::WHOLE, classes);
            assert_mixed(&mixed, &tensors, name);
        }
        let loss =
            crate::loss::cross_entropy(&tensors["logits"], &tensors["mixup.targets"], &Default::default()).unwrap();
        assert!(most(&loss, &tensors["soft_target_cross_entropy"]) < 1e-6);
    }
}
