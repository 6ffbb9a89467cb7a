//! timm's operations by name, and how its 0–10 magnitudes become their arguments.

use super::{Transform, describe_call};
use crate::data::image::{Image, Interpolation};
use crate::data::pillow::*;
use crate::error::{Result, did_you_mean, ensure};
use crate::options;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;

options! {
    /// How operations that move pixels fill and interpolate.
    pub struct OpOptions {
        /// Colour of pixels from outside the image: red, green, blue from 0 to 255.
        fill: [u8; 3] = [128, 128, 128],
        /// nearest, bilinear or bicubic.
        interpolation: Interpolation = Interpolation::Bilinear,
    }
}

/// An operation of timm's `auto_augment` (its `NAME_TO_OP`), under timm's name. The variants of one
/// operation differ in how a magnitude becomes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    PosterizeIncreasing,
    PosterizeOriginal,
    Solarize,
    SolarizeIncreasing,
    SolarizeAdd,
    Color,
    ColorIncreasing,
    Contrast,
    ContrastIncreasing,
    Brightness,
    BrightnessIncreasing,
    Sharpness,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    TranslateXRel,
    TranslateYRel,
    Desaturate,
    GaussianBlur,
    GaussianBlurRand,
}

/// How far a magnitude of 10 translates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// `TranslateX` and `TranslateY`, in pixels (timm: 250, or 0.45 of the image size in its loader).
    pub pixels: f64,
    /// `TranslateXRel` and `TranslateYRel`, as a fraction of the side (timm: 0.45).
    pub fraction: f64,
}

impl Default for Reach {
    fn default() -> Self {
        Self { pixels: 250.0, fraction: 0.45 }
    }
}

impl Op {
    /// All operations.
    #[rustfmt::skip]
    pub const ALL: [Op; 27] = {
        use Op::*;
        [
            AutoContrast, Equalize, Invert, Rotate, Posterize, PosterizeIncreasing, PosterizeOriginal, Solarize,
            SolarizeIncreasing, SolarizeAdd, Color, ColorIncreasing, Contrast, ContrastIncreasing, Brightness,
            BrightnessIncreasing, Sharpness, SharpnessIncreasing, ShearX, ShearY, TranslateX, TranslateY,
            TranslateXRel, TranslateYRel, Desaturate, GaussianBlur, GaussianBlurRand,
        ]
    };

    /// timm's name.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The operation of the given name.
    pub fn parse(name: &str) -> Result<Self> {
        if let Some(op) = Self::ALL.into_iter().find(|op| op.name() == name) {
            return Ok(op);
        }
        let names = Self::ALL.map(Op::name);
        let near = did_you_mean(name, names.iter().map(String::as_str));
        crate::bail_hint!("unknown image operation `{name}`{near}"; "the operations are: {}", names.join(", "));
    }

    /// The argument that timm gives the operation at a magnitude of 0–10 (more with `mmax`); nothing
    /// for operations without one. Signs are drawn here, and the radius of `GaussianBlurRand`.
    pub fn argument(self, magnitude: f64, reach: Reach, rng: &mut impl RngCore) -> Option<f64> {
        let level = magnitude / 10.0;
        let mut signed = |v: f64| if rng.random::<bool>() { -v } else { v };
        Some(match self {
            Op::AutoContrast | Op::Equalize | Op::Invert => return None,
            Op::Rotate => signed(level * 30.0),
            Op::ShearX | Op::ShearY => signed(level * 0.3),
            Op::TranslateX | Op::TranslateY => signed(level * reach.pixels),
            Op::TranslateXRel | Op::TranslateYRel => signed(level * reach.fraction),
            Op::Posterize => (level * 4.0).trunc(),
            Op::PosterizeIncreasing => 4.0 - (level * 4.0).trunc(),
            Op::PosterizeOriginal => (level * 4.0).trunc() + 4.0,
            Op::Solarize => (level * 256.0).trunc().min(256.0),
            Op::SolarizeIncreasing => 256.0 - (level * 256.0).trunc().min(256.0),
            Op::SolarizeAdd => (level * 110.0).trunc().min(128.0),
            Op::Color | Op::Contrast | Op::Brightness | Op::Sharpness => level * 1.8 + 0.1,
            Op::ColorIncreasing | Op::ContrastIncreasing | Op::BrightnessIncreasing | Op::SharpnessIncreasing => {
                (1.0 + signed(level * 0.9)).max(0.1)
            }
            Op::Desaturate => (0.5 + 0.5 * level).clamp(0.5, 1.0),
            Op::GaussianBlur => (0.1 + 1.9 * level).clamp(0.1, 2.0),
            Op::GaussianBlurRand => {
                let end = 2.0 * level.clamp(0.0, 1.0);
                0.1 + (end - 0.1) * rng.random::<f64>()
            }
        })
    }

    /// The operation with an argument of [`Op::argument`]'s kind; `fill` comes in from outside the
    /// image.
    pub fn apply(self, mut image: Image, arg: f64, fill: [u8; 3], interpolation: Interpolation) -> Image {
        let (w, h) = (image.width as f64, image.height as f64);
        match self {
            Op::AutoContrast => autocontrast(&mut image),
            Op::Equalize => equalize(&mut image),
            Op::Invert => invert(&mut image),
            Op::Posterize | Op::PosterizeIncreasing | Op::PosterizeOriginal => posterize(&mut image, arg as i32),
            Op::Solarize | Op::SolarizeIncreasing => solarize(&mut image, arg),
            Op::SolarizeAdd => solarize_add(&mut image, arg as u8, 128.0),
            Op::Color | Op::ColorIncreasing => color(&mut image, arg),
            Op::Contrast | Op::ContrastIncreasing => contrast(&mut image, arg),
            Op::Brightness | Op::BrightnessIncreasing => brightness(&mut image, arg),
            Op::Sharpness | Op::SharpnessIncreasing => sharpness(&mut image, arg),
            Op::Desaturate => color(&mut image, (1.0 - arg).clamp(0.0, 1.0)),
            Op::GaussianBlur | Op::GaussianBlurRand => gaussian_blur(&mut image, arg),
            Op::Rotate => return rotate(&image, arg, fill, interpolation),
            Op::ShearX => return shear_x(&image, arg, fill, interpolation),
            Op::ShearY => return shear_y(&image, arg, fill, interpolation),
            Op::TranslateX => return translate_x(&image, arg, fill, interpolation),
            Op::TranslateY => return translate_y(&image, arg, fill, interpolation),
            Op::TranslateXRel => return translate_x(&image, arg * w, fill, interpolation),
            Op::TranslateYRel => return translate_y(&image, arg * h, fill, interpolation),
        }
        image
    }
}

/// The operation of timm's name `name` on `image`. All take one argument, but `AutoContrast`,
/// `Equalize` and `Invert` take none and `SolarizeAdd` may take the threshold as a second one (128);
/// `GaussianBlurRand` takes the radius that was drawn. `fill` is what comes in from outside.
pub fn apply_op(image: &Image, name: &str, args: &[f64], fill: [u8; 3], interpolation: Interpolation) -> Result<Image> {
    let op = Op::parse(name)?;
    let counts = match op {
        Op::AutoContrast | Op::Equalize | Op::Invert => 0..=0,
        Op::SolarizeAdd => 1..=2,
        _ => 1..=1,
    };
    ensure!(
        counts.contains(&args.len()),
        "image operation {name}: expected {} argument{}, found {}",
        counts.start(),
        if *counts.start() == 1 { "" } else { "s" },
        args.len()
    );
    ensure!(args.iter().all(|a| a.is_finite()), "image operation {name}: expected finite numbers, found {args:?}");
    let range = match op {
        Op::Posterize | Op::PosterizeIncreasing | Op::PosterizeOriginal => Some((8.0, "a whole number of bits")),
        Op::Solarize | Op::SolarizeIncreasing => Some((256.0, "a threshold")),
        Op::SolarizeAdd => Some((255.0, "a whole number to add")),
        Op::GaussianBlur | Op::GaussianBlurRand => Some((1000.0, "a radius")),
        _ => None,
    };
    if let Some((high, what)) = range {
        let found = args[0];
        ensure!(
            (0.0..=high).contains(&found) && (found.fract() == 0.0 || !what.contains("whole")),
            "image operation {name}: expected {what} from 0 to {high}, found {found}"
        );
    }
    if let (Op::SolarizeAdd, [add, threshold]) = (op, args) {
        let mut image = image.clone();
        solarize_add(&mut image, *add as u8, *threshold);
        return Ok(image);
    }
    Ok(op.apply(image.clone(), args.first().copied().unwrap_or_default(), fill, interpolation))
}

/// One operation with given arguments, on every image.
#[derive(Debug, Clone)]
pub struct FixedOp {
    name: String,
    args: Vec<f64>,
    options: OpOptions,
}

impl FixedOp {
    /// Checks the name and the arguments, those of [`apply_op`].
    pub fn new(name: &str, args: Vec<f64>, options: &OpOptions) -> Result<Self> {
        apply_op(&Image::new(1, 1, 3, vec![0; 3]), name, &args, options.fill, options.interpolation)?;
        Ok(Self { name: name.to_string(), args, options: options.clone() })
    }
}

impl Transform for FixedOp {
    fn describe(&self) -> String {
        describe_call("op", &[format!("{:?}", self.name), format!("{:?}", self.args)], &self.options)
    }

    fn apply_to_image(&self, image: Image, _rng: &mut ChaCha8Rng) -> Result<Image> {
        apply_op(&image, &self.name, &self.args, self.options.fill, self.options.interpolation)
    }
}
