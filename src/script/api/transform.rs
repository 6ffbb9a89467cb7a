//! What is done to images on their way into a batch.

use super::batch::Batch;
use crate::bail_hint;
use crate::data::batch::{BatchStep, Normalize};
use crate::data::image::{Image, Interpolation, Region};
use crate::data::pipeline::{
    CenterCrop, OnImage, RandomResizedCrop, RandomResizedCropOptions, Resize, ResizeTo, ResizedCrop, Rgb, Transform,
    check_size,
};
use crate::data::transform::*;
use crate::error::{Result, bail};
use crate::functions;
use crate::options;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Tensor, call, found, number, read_options};
use rand_chacha::ChaCha8Rng;
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use std::rc::Rc;
use std::sync::Arc;

options! {
    /// How pixels are made up.
    pub struct ResizeOptions {
        /// nearest, bilinear or bicubic; the last two antialiased.
        interpolation: Interpolation = Interpolation::Bilinear,
    }
}

options! {
    /// How what moves pixels fills and interpolates.
    pub struct OpOptions {
        /// Colour of what comes in from outside the image: red, green, blue from 0 to 255.
        fill: [u8; 3] = [128, 128, 128],
        /// nearest, bilinear or bicubic.
        interpolation: Interpolation = Interpolation::Bilinear,
    }
}

/// One entry of a list of transforms.
#[derive(Clone)]
pub enum Step {
    /// On each image, in a worker thread.
    Image(Arc<dyn Transform>),
    /// On the batch, on the device.
    Batch(BatchStep),
}

/// A transform in words, where `value` is one.
pub fn describe(value: &Dynamic) -> Option<String> {
    Some(value.read_lock::<Step>()?.describe())
}

impl Step {
    fn describe(&self) -> String {
        match self {
            Step::Image(transform) => transform.describe(),
            Step::Batch(BatchStep::Normalize(n)) => format!("normalize({:?}, {:?})", n.mean, n.std),
            Step::Batch(BatchStep::Erase(erasing)) => erasing.describe(),
            Step::Batch(BatchStep::Mix(mixing)) => mixing.describe(),
            Step::Batch(BatchStep::Call(_)) => "a function".into(),
        }
    }
}

/// A list of transforms, taken apart: what the workers do, and what is done to the batch.
pub struct Steps {
    /// On each image, in the workers.
    pub image: Vec<Arc<dyn Transform>>,
    /// On the batch.
    pub batch: Vec<BatchStep>,
}

impl Steps {
    /// Reads a script's list.
    pub fn of(name: &str, value: &Dynamic) -> Result<Self> {
        match value.read_lock::<Array>() {
            Some(list) => steps(name, &list),
            None => bail_hint!(
                "{name}: expected a list of transforms, found {}", found(value);
                "write it as in a recipe: [transform::random_resized_crop(224)]"
            ),
        }
    }
}

/// Reads a script's list of transforms; its functions of a batch are entries too.
pub fn steps(of: &str, list: &Array) -> Result<Steps> {
    let mut steps = Steps { image: Vec::new(), batch: Vec::new() };
    for (i, entry) in list.iter().enumerate() {
        let step = match entry.clone().try_cast::<Step>() {
            Some(step) => step,
            None => match entry.clone().try_cast::<FnPtr>() {
                Some(function) => Step::Batch(BatchStep::Call(Rc::new(move |batch| {
                    let given = Batch::from(batch);
                    let value = call(&function, (given.clone(),))?;
                    if let Some(images) = value.read_lock::<Tensor>() {
                        given.set_images(images.clone());
                        return Ok(given.into());
                    }
                    match value.clone().try_cast::<Batch>() {
                        Some(batch) => Ok(batch.into()),
                        None => bail!(
                            "a function among the transforms: expected it to give a tensor of images or a batch, \
                             found {}",
                            found(&value)
                        ),
                    }
                }))),
                None => bail!("{of}: expected a list of transforms, found {} at place {i}", found(entry)),
            },
        };
        match step {
            Step::Image(transform) if steps.batch.is_empty() => steps.image.push(transform),
            Step::Image(transform) => bail!(
                "{of}: {} works on 8-bit images, so it must come before what works on the batch ({})",
                transform.describe(),
                Step::Batch(steps.batch[0].clone()).describe()
            ),
            Step::Batch(step) => {
                let erases = |step: &BatchStep| matches!(step, BatchStep::Erase(_));
                if erases(&step) && steps.batch.iter().any(erases) {
                    bail!("{of}: random_erasing is listed twice; max_count erases several parts");
                }
                steps.batch.push(step);
            }
        }
    }
    Ok(steps)
}

/// A number of pixels for both sides, or [height, width].
fn size(of: &str, value: &Dynamic) -> Result<(usize, usize)> {
    let side = |v: &Dynamic| v.as_int().ok().and_then(|n| usize::try_from(n).ok());
    let (height, width) = match (side(value), value.read_lock::<Array>().as_deref().map(Vec::as_slice)) {
        (Some(n), _) => (n, n),
        (None, Some([h, w])) if side(h).is_some() && side(w).is_some() => (side(h).unwrap_or(0), side(w).unwrap_or(0)),
        _ => bail!("{of}: expected a size in pixels, or [height, width], found {}", found(value)),
    };
    check_size(of, height, width)?;
    Ok((height, width))
}

fn numbers(of: &str, value: &Dynamic) -> Result<Vec<f64>> {
    match value.read_lock::<Array>() {
        Some(list) => list.iter().map(|v| number(v, of)).collect(),
        None => Ok(vec![number(value, of)?]),
    }
}

fn resize(value: &Dynamic, options: &Map) -> Result<Step> {
    const OF: &str = "transform::resize";
    let o: ResizeOptions = read_options(OF, options)?;
    let (height, width) = size(OF, value)?;
    let to = if value.is_array() { ResizeTo::Exactly(height, width) } else { ResizeTo::Shorter(height) };
    Ok(Step::Image(Arc::new(Resize { to, interpolation: o.interpolation })))
}

fn on_image(name: String, apply: impl Fn(Image, &mut ChaCha8Rng) -> Result<Image> + Send + Sync + 'static) -> Step {
    Step::Image(Arc::new(OnImage { name, apply }))
}

fn random_resized_crop(value: &Dynamic, options: &Map) -> Result<Step> {
    const OF: &str = "transform::random_resized_crop";
    let o: RandomResizedCropOptions = read_options(OF, options)?;
    let (height, width) = size(OF, value)?;
    Ok(Step::Image(Arc::new(RandomResizedCrop::new(height, width, &o)?)))
}

/// A random transform from its options.
macro_rules! from_options {
    ($of:literal, $options:expr, $kind:ident, $read:ty) => {{
        let o: $read = read_options(concat!("transform::", $of), $options)?;
        let transform = $kind::new(&o)?;
        Ok(on_image(format!("{}({})", $of, changed(&o)), move |image, rng| Ok(transform.apply(image, rng))))
    }};
}

/// The options that differ from their defaults, as a script writes them.
fn changed<T: options::Options>(given: &T) -> String {
    let value = |o: &T| serde_json::to_value(o).unwrap_or_default();
    let (given, default) = (value(given), value(&T::default()));
    let names = T::NAMES.iter().filter(|n| given[**n] != default[**n]);
    names.map(|n| format!("{n}: {}", options::script_literal(&given[*n]))).collect::<Vec<_>>().join(", ")
}

fn flip(options: &Map) -> Result<Step> {
    from_options!("random_horizontal_flip", options, HorizontalFlip, HorizontalFlipOptions)
}

fn rand_augment(policy: &str, options: Map) -> Result<Step> {
    let mut options = options;
    options.insert("policy".into(), policy.into());
    from_options!("rand_augment", &options, RandAugment, RandAugmentOptions)
}

fn apply_op_step(name: &str, args: &Array, options: &Map) -> Result<Step> {
    const OF: &str = "transform::op";
    let o: OpOptions = read_options(OF, options)?;
    let args = args.iter().map(|v| number(v, OF)).collect::<Result<Vec<_>>>()?;
    let name = name.to_string();
    // A wrong name or argument is told now.
    let probe = Image::new(1, 1, 3, vec![0; 3]);
    apply_op(&probe, &name, &args, o.fill, o.interpolation)?;
    let describe = format!("op({name:?}, {args:?})");
    Ok(on_image(describe, move |image, _| apply_op(&image, &name, &args, o.fill, o.interpolation)))
}

crate::script::types::handles! { "Transform": Step; }

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Step>("Transform");
    let mut group = Group::namespace(
        reference,
        "transform",
        "What is done to images on their way into a batch, as a list for data::loader: first what works on each 8-bit \
         image, in worker threads; then what works on the batch, on the device (normalize, random_erasing, mixup, and \
         functions of your own: |batch| -> batch, or a tensor of images [B, C, H, W]). Pixels are Pillow's, draws \
         distributed as in torchvision and timm.",
    );
    group.options::<RandomResizedCropOptions>("transform::random_resized_crop");
    group.options::<ResizeOptions>("transform::resize");
    group.options::<ResizeOptions>("transform::resized_crop");
    group.options::<RandomCropOptions>("transform::random_crop");
    group.options::<HorizontalFlipOptions>("transform::random_horizontal_flip");
    group.options::<ColorJitterOptions>("transform::color_jitter");
    group.options::<RandomGrayscaleOptions>("transform::random_grayscale");
    group.options::<RandomBlurOptions>("transform::gaussian_blur");
    group.options::<RandomSolarizeOptions>("transform::random_solarize");
    group.options::<RandAugmentOptions>("transform::rand_augment");
    group.options::<ThreeAugmentOptions>("transform::three_augment");
    group.options::<OpOptions>("transform::op");
    group.options::<RandomErasingOptions>("transform::random_erasing");
    group.options::<MixingOptions>("transform::mixup");
    functions! { group;
        /// A part of random size, form and place, resized to a square of `size` pixels or to [height, width]
        /// (torchvision's RandomResizedCrop, antialiased as in Pillow). Of a JPEG, only that part is decoded.
        "random_resized_crop" (size: Dynamic, options: Map) -> Step { random_resized_crop(&size, &options) }
        /// The same with the default options.
        "random_resized_crop" (size: Dynamic) -> Step { random_resized_crop(&size, &Map::new()) }
        /// The part of `height` x `width` pixels with `top` rows above and `left` columns to the left of it, resized
        /// to a square of `size` pixels or to [height, width].
        "resized_crop" (top: i64, left: i64, height: i64, width: i64, size: Dynamic, options: Map) -> Step {
            const OF: &str = "transform::resized_crop";
            let o: ResizeOptions = read_options(OF, &options)?;
            let given = [top, left, height, width];
            if top < 0 || left < 0 || height < 1 || width < 1 {
                bail!("{OF}: expected top, left, height and width of a part, found {given:?}");
            }
            let [top, left, height, width] = given.map(|n| n as usize);
            let region = Region { top, left, height, width };
            let (height, width) = self::size(OF, &size)?;
            Ok(Step::Image(Arc::new(ResizedCrop { region, height, width, interpolation: o.interpolation })))
        }
        /// Resizes: the shorter side to `size` pixels, the longer in proportion; or to exactly [height, width]
        /// (torchvision's Resize, antialiased as in Pillow).
        "resize" (size: Dynamic, options: Map) -> Step { resize(&size, &options) }
        /// The same, bilinear.
        "resize" (size: Dynamic) -> Step { resize(&size, &Map::new()) }
        /// The middle: a square of `size` pixels or [height, width]; smaller images get a black border. Right after
        /// resize, only what is kept is decoded and resized.
        "center_crop" (size: Dynamic) -> Step {
            let (height, width) = self::size("transform::center_crop", &size)?;
            Ok(Step::Image(Arc::new(CenterCrop { height, width })))
        }
        /// A crop at random after padding with zeros.
        "random_crop" (options: Map) -> Step {
            let o: RandomCropOptions = read_options("transform::random_crop", &options)?;
            Ok(Step::Image(Arc::new(RandomCrop::new(&o)?)))
        }
        /// Mirrors an image left to right with probability p.
        "random_horizontal_flip" (options: Map) -> Step { flip(&options) }
        /// The same with probability ½.
        "random_horizontal_flip" () -> Step { flip(&Map::new()) }
        /// Random changes of brightness, contrast, saturation and hue, in random order.
        "color_jitter" (options: Map) -> Step {
            from_options!("color_jitter", &options, ColorJitter, ColorJitterOptions)
        }
        /// Greys an image with probability p.
        "random_grayscale" (options: Map) -> Step {
            from_options!("random_grayscale", &options, RandomGrayscale, RandomGrayscaleOptions)
        }
        /// Blurs an image with probability p (Pillow's Gaussian blur).
        "gaussian_blur" (options: Map) -> Step {
            from_options!("gaussian_blur", &options, RandomBlur, RandomBlurOptions)
        }
        /// Inverts what is brighter than a threshold, with probability p.
        "random_solarize" (options: Map) -> Step {
            from_options!("random_solarize", &options, RandomSolarize, RandomSolarizeOptions)
        }
        /// RandAugment by one of timm's policy strings, such as "rand-m9-mstd0.5-inc1".
        "rand_augment" (policy: ImmutableString, options: Map) -> Step { rand_augment(&policy, options) }
        /// The same with the default options.
        "rand_augment" (policy: ImmutableString) -> Step { rand_augment(&policy, Map::new()) }
        /// 3-Augment: greying, solarizing or blurring, one of them for each image (DeiT III).
        "three_augment" (options: Map) -> Step {
            from_options!("three_augment", &options, ThreeAugment, ThreeAugmentOptions)
        }
        /// One of RandAugment's operations with given arguments, always: "Rotate" [degrees], "ShearX" [factor],
        /// "TranslateXRel" [share of the width], "Posterize" [bits], "Solarize" [threshold], "SolarizeAdd" [value],
        /// "Color", "Contrast", "Brightness", "Sharpness" [factor], "AutoContrast", "Equalize", "Invert" [].
        "op" (name: ImmutableString, args: Array, options: Map) -> Step { apply_op_step(&name, &args, &options) }
        /// Grey images to three equal channels; images with three stay as they are.
        "rgb" () -> Step { Ok(Step::Image(Arc::new(Rgb))) }
        /// (x − mean) / std, x in [0, 1]: a number for all channels or an array with one for each. Without it, images
        /// stay in [0, 1].
        "normalize" (mean: Dynamic, std: Dynamic) -> Step {
            let (mean, std) = (numbers("transform::normalize", &mean)?, numbers("transform::normalize", &std)?);
            Ok(Step::Batch(BatchStep::Normalize(Normalize::new(mean, std)?)))
        }
        /// Replaces parts of normalised images by zeros or noise.
        "random_erasing" (options: Map) -> Step {
            let o: RandomErasingOptions = read_options("transform::random_erasing", &options)?;
            Ok(Step::Batch(BatchStep::Erase(RandomErasing::new(&o)?)))
        }
        /// Mixup and CutMix: each image is mixed with another of the batch, and `batch.targets` becomes float32
        /// [B, classes], for loss::cross_entropy.
        "mixup" (options: Map) -> Step {
            let o: MixingOptions = read_options("transform::mixup", &options)?;
            Ok(Step::Batch(BatchStep::Mix(Rc::new(Mixing::new(&o)?))))
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Transform", "One entry of a list of transforms.");
    functions! { group;
        /// As a script writes it.
        "to_string" (transform: Step) -> String { Ok(transform.describe()) }
    }
    group.register(engine);
}
