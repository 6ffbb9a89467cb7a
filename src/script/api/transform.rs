//! What is done to images on their way into a batch.

use super::data::Batch;
use crate::bail_hint;
use crate::data;
use crate::data::image::{Interpolation, Region};
use crate::data::pipeline::Pipeline;
use crate::data::transform::{self, *};
use crate::error::{Result, bail, ensure};
use crate::functions;
use crate::options;
use crate::options::Options;
use crate::script::docs::Reference;
use crate::script::registry::Group;
use crate::script::values::{Tensor, call, found, number, read_options};
use rhai::{Array, Dynamic, Engine, FnPtr, ImmutableString, Map};
use send_wrapper::SendWrapper;
use std::sync::Arc;

options! {
    /// How resizing finds values between pixels.
    pub struct ResizeOptions {
        /// nearest, bilinear or bicubic; the last two antialiased.
        interpolation: Interpolation = Interpolation::Bilinear,
    }
}

options! {
    /// How operations that move pixels fill and interpolate.
    pub struct OpOptions {
        /// Colour of what comes in from outside the image: red, green, blue from 0 to 255.
        fill: [u8; 3] = [128, 128, 128],
        /// nearest, bilinear or bicubic.
        interpolation: Interpolation = Interpolation::Bilinear,
    }
}

/// One entry of a list of transforms.
#[derive(Clone)]
pub struct Transform(Arc<dyn transform::Transform>);

impl<T: transform::Transform> From<T> for Transform {
    fn from(transform: T) -> Self {
        Self(Arc::new(transform))
    }
}

/// A transform in words, where `value` is one.
pub fn describe(value: &Dynamic) -> Option<String> {
    Some(value.read_lock::<Transform>()?.0.describe())
}

/// A function of a script's, from a batch to a batch or to its new images.
struct ScriptFunction(SendWrapper<FnPtr>);

impl transform::Transform for ScriptFunction {
    fn describe(&self) -> String {
        "a function".into()
    }

    fn stage(&self) -> Stage {
        Stage::Batch
    }

    fn apply_to_batch(&self, batch: data::batch::Batch, _context: &BatchContext) -> Result<data::batch::Batch> {
        let given = Batch::from(batch);
        let value = call(&self.0, (given.clone(),))?;
        let batch: data::batch::Batch = if let Some(images) = value.read_lock::<Tensor>() {
            given.set_images(images.clone());
            given.into()
        } else if let Some(batch) = value.clone().try_cast::<Batch>() {
            batch.into()
        } else {
            bail!(
                "a function among the transforms: expected it to give a tensor of images or a batch, found {}",
                found(&value)
            );
        };
        let (size, labels) = (batch.images.size(), batch.labels.size()[0]);
        ensure!(
            size.len() == 4 && size[0] == labels,
            "a function among the transforms: expected images [{labels}, C, H, W], found {size:?}"
        );
        Ok(batch)
    }
}

/// The pipeline of a script's list of transforms; its functions of a batch are entries too.
pub fn pipeline(of: &str, value: &Dynamic, exif_orientation: bool) -> Result<Pipeline> {
    let Some(list) = value.read_lock::<Array>() else {
        bail_hint!(
            "{of}: expected a list of transforms, found {}", found(value);
            "write it as in a recipe: [transform::random_resized_crop(224)]"
        );
    };
    let transform = |(i, entry): (usize, &Dynamic)| -> Result<Arc<dyn transform::Transform>> {
        if let Some(transform) = entry.read_lock::<Transform>() {
            return Ok(transform.0.clone());
        }
        match entry.clone().try_cast::<FnPtr>() {
            Some(function) => Ok(Arc::new(ScriptFunction(SendWrapper::new(function)))),
            None => bail!("{of}: expected a list of transforms, found {} at index {i}", found(entry)),
        }
    };
    let transforms: Vec<_> = list.iter().enumerate().map(transform).collect::<Result<_>>()?;
    Pipeline::new(of, &transforms, exif_orientation)
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

fn resize(value: &Dynamic, options: &Map) -> Result<Transform> {
    const OF: &str = "transform::resize";
    let o: ResizeOptions = read_options(OF, options)?;
    let (height, width) = size(OF, value)?;
    let to = if value.is_array() { ResizeTo::Exactly(height, width) } else { ResizeTo::Shorter(height) };
    Ok(Resize { to, interpolation: o.interpolation }.into())
}

fn resized_crop(region: [i64; 4], size: &Dynamic, options: &Map) -> Result<Transform> {
    const OF: &str = "transform::resized_crop";
    let o: ResizeOptions = read_options(OF, options)?;
    let [top, left, height, width] = region;
    if top < 0 || left < 0 || height < 1 || width < 1 {
        bail!("{OF}: expected top, left, height and width of a region, found {region:?}");
    }
    let [top, left, height, width] = region.map(|n| n as usize);
    let region = Region { top, left, height, width };
    let (height, width) = self::size(OF, size)?;
    Ok(ResizedCrop { region, height, width, interpolation: o.interpolation }.into())
}

fn random_resized_crop(value: &Dynamic, options: &Map) -> Result<Transform> {
    const OF: &str = "transform::random_resized_crop";
    let o: RandomResizedCropOptions = read_options(OF, options)?;
    let (height, width) = size(OF, value)?;
    Ok(RandomResizedCrop::new(height, width, &o)?.into())
}

/// A transform that takes nothing but options.
fn from_options<O: Options, T: transform::Transform>(
    of: &str,
    options: &Map,
    new: impl Fn(&O) -> Result<T>,
) -> Result<Transform> {
    let o: O = read_options(of, options)?;
    Ok(new(&o)?.into())
}

fn flip(options: &Map) -> Result<Transform> {
    from_options("transform::random_horizontal_flip", options, RandomHorizontalFlip::new)
}

fn rand_augment(policy: &str, mut options: Map) -> Result<Transform> {
    options.insert("policy".into(), policy.into());
    from_options("transform::rand_augment", &options, RandAugment::new)
}

fn op(name: &str, args: &Array, options: &Map) -> Result<Transform> {
    const OF: &str = "transform::op";
    let o: OpOptions = read_options(OF, options)?;
    let args = args.iter().map(|v| number(v, OF)).collect::<Result<_>>()?;
    Ok(FixedOp::new(name, args, o.fill, o.interpolation)?.into())
}

pub fn register(engine: &mut Engine, reference: &mut Reference) {
    engine.register_type_with_name::<Transform>("Transform");
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
    group.options::<RandomHorizontalFlipOptions>("transform::random_horizontal_flip");
    group.options::<ColorJitterOptions>("transform::color_jitter");
    group.options::<RandomGrayscaleOptions>("transform::random_grayscale");
    group.options::<GaussianBlurOptions>("transform::gaussian_blur");
    group.options::<RandomSolarizeOptions>("transform::random_solarize");
    group.options::<RandAugmentOptions>("transform::rand_augment");
    group.options::<ThreeAugmentOptions>("transform::three_augment");
    group.options::<OpOptions>("transform::op");
    group.options::<RandomErasingOptions>("transform::random_erasing");
    group.options::<MixupOptions>("transform::mixup");
    functions! { group;
        /// A region of random size, form and position, resized to a square of `size` pixels or to [height, width]
        /// (torchvision's RandomResizedCrop, antialiased as in Pillow). Of a JPEG, only that region is decoded.
        "random_resized_crop" (size: Dynamic, options: Map) -> Transform { random_resized_crop(&size, &options) }
        /// A region of random size, form and position, resized, with the default options.
        "random_resized_crop" (size: Dynamic) -> Transform { random_resized_crop(&size, &Map::new()) }
        /// The region of `height` x `width` pixels with `top` rows above and `left` columns to the left of it, resized
        /// to a square of `size` pixels or to [height, width].
        "resized_crop" (top: i64, left: i64, height: i64, width: i64, size: Dynamic, options: Map) -> Transform {
            resized_crop([top, left, height, width], &size, &options)
        }
        /// Resizes: the shorter side to `size` pixels, the longer in proportion; or to exactly [height, width]
        /// (torchvision's Resize, antialiased as in Pillow).
        "resize" (size: Dynamic, options: Map) -> Transform { resize(&size, &options) }
        /// Resizes, bilinear.
        "resize" (size: Dynamic) -> Transform { resize(&size, &Map::new()) }
        /// The middle: a square of `size` pixels or [height, width]; smaller images get a black border. Right after
        /// resize, only what is kept is decoded and resized.
        "center_crop" (size: Dynamic) -> Transform {
            let (height, width) = self::size("transform::center_crop", &size)?;
            Ok(CenterCrop { height, width }.into())
        }
        /// A crop at random after padding with zeros.
        "random_crop" (options: Map) -> Transform {
            from_options("transform::random_crop", &options, RandomCrop::new)
        }
        /// Mirrors an image left to right with probability p.
        "random_horizontal_flip" (options: Map) -> Transform { flip(&options) }
        /// Mirrors an image left to right with probability ½.
        "random_horizontal_flip" () -> Transform { flip(&Map::new()) }
        /// Random changes of brightness, contrast, saturation and hue, in random order.
        "color_jitter" (options: Map) -> Transform {
            from_options("transform::color_jitter", &options, ColorJitter::new)
        }
        /// Greys an image with probability p.
        "random_grayscale" (options: Map) -> Transform {
            from_options("transform::random_grayscale", &options, RandomGrayscale::new)
        }
        /// Blurs an image with probability p (Pillow's Gaussian blur).
        "gaussian_blur" (options: Map) -> Transform {
            from_options("transform::gaussian_blur", &options, GaussianBlur::new)
        }
        /// Inverts what is brighter than a threshold, with probability p.
        "random_solarize" (options: Map) -> Transform {
            from_options("transform::random_solarize", &options, RandomSolarize::new)
        }
        /// RandAugment by one of timm's policy strings, such as "rand-m9-mstd0.5-inc1".
        "rand_augment" (policy: ImmutableString, options: Map) -> Transform { rand_augment(&policy, options) }
        /// RandAugment by one of timm's policy strings, with the default options.
        "rand_augment" (policy: ImmutableString) -> Transform { rand_augment(&policy, Map::new()) }
        /// 3-Augment: greying, solarizing or blurring, one of them for each image (DeiT III).
        "three_augment" (options: Map) -> Transform {
            from_options("transform::three_augment", &options, ThreeAugment::new)
        }
        /// One of RandAugment's operations with given arguments, always: "Rotate" [degrees], "ShearX" [factor],
        /// "TranslateXRel" [fraction of the width], "Posterize" [bits], "Solarize" [threshold], "SolarizeAdd" [value],
        /// "Color", "Contrast", "Brightness", "Sharpness" [factor], "AutoContrast", "Equalize", "Invert" [].
        "op" (name: ImmutableString, args: Array, options: Map) -> Transform { op(&name, &args, &options) }
        /// Grey images to three equal channels; images with three stay as they are.
        "rgb" () -> Transform { Ok(Rgb.into()) }
        /// (x − mean) / std, x in [0, 1]: a number for all channels or an array with one for each. Without it, images
        /// stay in [0, 1].
        "normalize" (mean: Dynamic, std: Dynamic) -> Transform {
            let (mean, std) = (numbers("transform::normalize", &mean)?, numbers("transform::normalize", &std)?);
            Ok(Normalize::new(mean, std)?.into())
        }
        /// Replaces regions of normalised images by zeros or noise.
        "random_erasing" (options: Map) -> Transform {
            from_options("transform::random_erasing", &options, RandomErasing::new)
        }
        /// Mixup and CutMix: each image is mixed with another of the batch, and `batch.targets` becomes float32
        /// [B, classes], for loss::cross_entropy.
        "mixup" (options: Map) -> Transform {
            from_options("transform::mixup", &options, Mixup::new)
        }
    }
    group.register(engine);

    let mut group = Group::global(reference, "Transform", "One entry of a list of transforms.");
    functions! { group;
        /// As a script writes it.
        "to_string" (transform: Transform) -> String { Ok(transform.0.describe()) }
    }
    group.register(engine);
}
