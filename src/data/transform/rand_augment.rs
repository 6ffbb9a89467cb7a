//! RandAugment, as timm draws it.

use super::draws::{MOST_REPEATED, happens, within};
use super::{Op, Reach, Transform, describe_call};
use crate::data::image::{Image, Interpolation};
use crate::error::{Result, bail, did_you_mean, ensure};
use crate::options;
use crate::random::uniform;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

options! {
    /// What RandAugment (Cubuk et al., 2019) has besides one of timm's policy strings.
    pub struct RandAugmentOptions {
        /// Colour of pixels from outside the image: red, green, blue from 0 to 255. timm uses 255 times the
        /// mean that images are normalised with.
        fill: Vec<i64> = vec![128, 128, 128],
        /// nearest, bilinear, bicubic, or random: bilinear or bicubic, drawn for each operation.
        interpolation: String = "random".into(),
        /// Translation at magnitude 10, as a fraction of the side.
        translate: f64 = 0.45,
    }
}

/// What a policy string says.
#[derive(Debug, Clone, PartialEq)]
struct Policy {
    magnitude: f64,
    /// Standard deviation; infinite: uniform from 0 to the magnitude.
    deviation: f64,
    max: f64,
    layers: usize,
    probability: f64,
    ops: Vec<Op>,
    /// By operation; empty: all equal, with repetition.
    weights: Vec<f64>,
}

/// One operation that RandAugment chose to apply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnOp {
    /// Which.
    pub op: Op,
    /// Its magnitude.
    pub magnitude: f64,
    /// What that came to; 0 if the operation has no argument.
    pub argument: f64,
    /// For what moves pixels.
    pub interpolation: Interpolation,
}

/// Applies operations chosen at random, in a chain.
#[derive(Debug, Clone)]
pub struct RandAugment {
    options: RandAugmentOptions,
    /// As it was given.
    text: String,
    policy: Policy,
    fill: [u8; 3],
    interpolation: Option<Interpolation>,
    reach: Reach,
}

impl RandAugment {
    /// Reads and checks the policy and the options.
    pub fn new(policy: &str, options: &RandAugmentOptions) -> Result<Self> {
        const OF: &str = "transform::rand_augment";
        within(OF, "translate", options.translate, 0.0, f64::INFINITY)?;
        Ok(Self {
            options: options.clone(),
            text: policy.to_string(),
            policy: parse_policy(policy)?,
            fill: fill_option(OF, &options.fill)?,
            interpolation: interpolation_option(OF, &options.interpolation)?,
            reach: Reach { fraction: options.translate, ..Reach::default() },
        })
    }

    /// The operations for one image: chosen first, then each kept with the policy's probability.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<DrawnOp> {
        let chosen = self.choose(rng);
        let mut drawn = Vec::with_capacity(chosen.len());
        for op in chosen {
            if happens(self.policy.probability, rng) {
                drawn.push(self.draw_op(op, rng));
            }
        }
        drawn
    }

    fn choose(&self, rng: &mut impl RngCore) -> Vec<Op> {
        let Policy { layers, ops, weights, .. } = &self.policy;
        if weights.is_empty() {
            return (0..*layers).map(|_| ops[rng.random_range(0..ops.len())]).collect();
        }
        let mut left = weights.clone();
        let draw = |_| {
            let mut point = uniform(rng, 0.0, left.iter().sum());
            let beyond = |w: &f64| {
                point -= w;
                point < 0.0
            };
            // Rounding may leave the point behind the last weight.
            let last = left.iter().rposition(|w| *w > 0.0).unwrap_or(0);
            let chosen = left.iter().position(beyond).unwrap_or(last);
            left[chosen] = 0.0;
            ops[chosen]
        };
        (0..*layers).map(draw).collect()
    }

    fn draw_op(&self, op: Op, rng: &mut impl RngCore) -> DrawnOp {
        let Policy { magnitude, deviation, max, .. } = self.policy;
        let magnitude = match deviation {
            0.0 => magnitude,
            d if d.is_infinite() => uniform(rng, 0.0, magnitude),
            d => Normal::new(magnitude, d).expect("a checked deviation").sample(rng),
        };
        let magnitude = magnitude.clamp(0.0, max);
        let argument = op.argument(magnitude, self.reach, rng).unwrap_or(0.0);
        let either = if rng.random() { Interpolation::Bilinear } else { Interpolation::Bicubic };
        DrawnOp { op, magnitude, argument, interpolation: self.interpolation.unwrap_or(either) }
    }
}

impl Transform for RandAugment {
    fn describe(&self) -> String {
        describe_call("rand_augment", &[format!("{:?}", self.text)], &self.options)
    }

    fn apply_to_image(&self, image: Image, rng: &mut ChaCha8Rng) -> Result<Image> {
        let drawn = self.draw(rng);
        Ok(drawn.iter().fold(image, |image, d| d.op.apply(image, d.argument, self.fill, d.interpolation)))
    }
}

const KEYS: [&str; 7] = ["m", "n", "p", "mstd", "mmax", "inc", "t"];
const SETS: [&str; 3] = ["weights", "3a", "3aw"];

/// timm's `rand_augment_transform`, but what timm ignores or reads otherwise than it looks is an error.
fn parse_policy(text: &str) -> Result<Policy> {
    let of = format!("policy {text:?} of rand_augment");
    let mut sections = text.split('-');
    ensure!(sections.next() == Some("rand"), "{of}: expected `rand`, then settings joined by dashes");
    let (mut magnitude, mut deviation, mut max, mut layers, mut probability) = (10, 0.0, 10, 2, 0.5);
    let (mut increasing, mut set) = (false, None);
    for section in sections {
        if let Some(name) = section.strip_prefix('t') {
            if !SETS.contains(&name) {
                let near = did_you_mean(name, SETS);
                bail!("{of}: expected one of {} after `t`, found `{name}`{near}", SETS.join(", "));
            }
            set = Some(name);
            continue;
        }
        let digits = section.find(|c: char| c.is_ascii_digit()).unwrap_or(section.len());
        let (key, value) = section.split_at(digits);
        let integer = |least: i64| -> Result<i64> {
            match value.parse() {
                Ok(v) if v >= least => Ok(v),
                _ => bail!("{of}: expected an integer of at least {least} after `{key}`, found `{value}`"),
            }
        };
        let number = |most: f64| -> Result<f64> {
            match value.parse::<f64>() {
                Ok(v) if (0.0..=most).contains(&v) => Ok(v),
                _ if most < f64::MAX => {
                    bail!("{of}: expected a number from 0 to {most} after `{key}`, found `{value}`")
                }
                _ => bail!("{of}: expected a number after `{key}`, found `{value}`"),
            }
        };
        match key {
            "m" => magnitude = integer(0)?,
            "n" => {
                layers = integer(1)?;
                ensure!(layers as f64 <= MOST_REPEATED, "{of}: expected n of at most {MOST_REPEATED}, found {layers}");
            }
            "mmax" => max = integer(1)?,
            "p" => probability = number(1.0)?,
            "mstd" => {
                deviation = Some(number(f64::MAX)?).map(|d| if d > 100.0 { f64::INFINITY } else { d }).unwrap_or(0.0)
            }
            "inc" if value == "1" => increasing = true,
            "inc" => crate::bail_hint!(
                "{of}: expected `inc1`, found `{section}`";
                "leave `inc` out for operations that do not grow stronger; timm reads every `inc` as `inc1`"
            ),
            _ => {
                let near = did_you_mean(key, KEYS);
                crate::bail_hint!("{of}: unknown setting `{section}`{near}"; "the settings are: {}", KEYS.join(", "))
            }
        }
    }
    let (ops, weights) = op_set(set, increasing);
    ensure!(
        weights.is_empty() || layers as usize <= ops.len(),
        "{of}: expected n of at most {}, as many as the set has operations, found {layers}",
        ops.len()
    );
    let (magnitude, max) = (magnitude as f64, max as f64);
    Ok(Policy { magnitude, deviation, max, layers: layers as usize, probability, ops, weights })
}

/// timm's sets of operations.
#[rustfmt::skip]
fn op_set(name: Option<&str>, increasing: bool) -> (Vec<Op>, Vec<f64>) {
    use Op::*;
    let (ops, weights): (&[Op], &[f64]) = match name {
        Some("3a") => (&[SolarizeIncreasing, Desaturate, GaussianBlur], &[]),
        Some("3aw") => (
            &[
                SolarizeIncreasing, Desaturate, GaussianBlur, Rotate, ShearX, ShearY, PosterizeIncreasing, AutoContrast,
                ColorIncreasing, SharpnessIncreasing, ContrastIncreasing, BrightnessIncreasing, Equalize, Invert,
            ],
            &[6.0, 6.0, 6.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        ),
        Some("weights") => (
            &[
                Rotate, ShearX, ShearY, TranslateXRel, TranslateYRel, ColorIncreasing, SharpnessIncreasing,
                AutoContrast, SolarizeIncreasing, SolarizeAdd, ContrastIncreasing, BrightnessIncreasing, Equalize,
                PosterizeIncreasing, Invert,
            ],
            &[3.0, 2.0, 2.0, 1.0, 1.0, 0.25, 0.25, 0.25, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05],
        ),
        _ if increasing => (
            &[
                AutoContrast, Equalize, Invert, Rotate, PosterizeIncreasing, SolarizeIncreasing, SolarizeAdd,
                ColorIncreasing, ContrastIncreasing, BrightnessIncreasing, SharpnessIncreasing, ShearX, ShearY,
                TranslateXRel, TranslateYRel,
            ],
            &[],
        ),
        _ => (
            &[
                AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness,
                Sharpness, ShearX, ShearY, TranslateXRel, TranslateYRel,
            ],
            &[],
        ),
    };
    (ops.to_vec(), weights.to_vec())
}

/// A colour as three bytes, from an option of 3 integers.
fn fill_option(of: &str, fill: &[i64]) -> Result<[u8; 3]> {
    match fill {
        [r, g, b] if fill.iter().all(|v| (0..=255).contains(v)) => Ok([*r as u8, *g as u8, *b as u8]),
        _ => bail!("option `fill` of {of}: expected 3 integers from 0 to 255, found {fill:?}"),
    }
}

/// An interpolation, or nothing for `random`: bilinear or bicubic, drawn each time.
fn interpolation_option(of: &str, name: &str) -> Result<Option<Interpolation>> {
    match (name, name.parse().ok()) {
        ("random", _) => Ok(None),
        (_, Some(i)) => Ok(Some(i)),
        _ => {
            let names = Interpolation::NAMES.iter().copied().chain(["random"]);
            let near = did_you_mean(name, names.clone());
            let names = names.collect::<Vec<_>>().join(", ");
            bail!("option `interpolation` of {of}: expected one of {names}, found {name:?}{near}")
        }
    }
}
