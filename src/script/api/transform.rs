//! What is done to images on their way into a batch.

use super::batch::Batch;
use crate::bail_hint;
use crate::data;
use crate::data::batch::Images;
use crate::data::image::{Interpolation, Passes, Region, Resampling};
use crate::data::pipeline::Pipeline;
use crate::data::transform::{self, *};
use crate::error::{Result, bail, ensure};
use crate::options;
use crate::script::registry::Api;
use crate::script::types::{Argument, handles};
use crate::script::values::{Tensor, call, found, number};
use crate::tensor::dtype_name;
use crate::types::{Type, Typed};
use nepa_macros::functions;
use rhai::{Array, Dynamic, FnPtr};
use send_wrapper::SendWrapper;
use std::sync::Arc;
use tch::Kind;

options! {
    /// How to interpolate when resizing.
    pub struct ResizeOptions {
        /// nearest, bilinear or bicubic; the last two with antialiasing.
        interpolation: Interpolation = Interpolation::Bilinear,
        /// The order of the two passes, between which values are rounded to 8 bits: "pillow12" as Pillow 12, rows before
        /// columns, unless the height shrinks and is more than 100 times the width; "pillow13" as Pillow 13, columns
        /// first where the height shrinks by more than twice as many pixels as the width. Elsewhere they do the same.
        passes: Passes = Passes::Pillow13,
        /// Decodes JPEGs at 1/2, 1/4 or 1/8 of their size, by libjpeg-turbo, where the image then still has so many times
        /// the sides of the result: Pillow's option of that name in `thumbnail`. Photographs of 3 to 12 megapixels are then
        /// read 1.1 to 1.6 times as fast; pixels change by 0.4 of 255 on average with 2.0, by 1.2 with 1.0. At least 1.0;
        /// () decodes all pixels, as the references do.
        reducing_gap: Option<f64> = None,
    }
}

impl ResizeOptions {
    fn how(&self, of: &str) -> Result<Resampling> {
        let ResizeOptions { interpolation, passes, reducing_gap } = *self;
        transform::check_reducing_gap(of, reducing_gap)?;
        Ok(Resampling { interpolation, passes, reducing_gap })
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

    fn apply_to_batch(&self, batch: data::batch::Batch, context: &mut BatchContext) -> Result<data::batch::Batch> {
        context.images_are_the_scripts = true;
        let given = Batch::from(batch);
        let value = call(&self.0, (given.clone(),))?;
        let batch: data::batch::Batch = if let Some(images) = value.read_lock::<Tensor>() {
            given.set_images(&images);
            given.into()
        } else if let Some(batch) = value.clone().try_cast::<Batch>() {
            batch.into()
        } else {
            bail!(
                "a function among the transforms: expected a tensor of images or a batch as its result, found {}",
                found(&value)
            );
        };
        let (images, labels) = (batch.images.numbers()?, batch.labels.size()[0]);
        let (size, kind) = (images.size(), images.kind());
        ensure!(
            size.len() == 4 && size[0] == labels,
            "a function among the transforms: expected images [{labels}, C, H, W], found {size:?}"
        );
        ensure!(
            matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16),
            "a function among the transforms: expected images as float32 (images.float() converts), found {}",
            dtype_name(kind)
        );
        match kind {
            Kind::Float => Ok(batch),
            _ => Ok(data::batch::Batch { images: Images::Numbers(images.f_to_kind(Kind::Float)?), ..batch }),
        }
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

handles! { "Transform": Transform; }

/// A number of pixels for both sides, or [height, width].
struct Size {
    height: usize,
    width: usize,
    /// Whether both sides were given.
    exact: bool,
}

impl Size {
    fn to_resize(&self) -> ResizeTo {
        match self.exact {
            true => ResizeTo::Exactly(self.height, self.width),
            false => ResizeTo::Shorter(self.height),
        }
    }
}

impl Typed for Size {
    fn script_type() -> Type {
        Type::Either(vec![usize::script_type(), <[usize; 2]>::script_type()])
    }
}

impl Argument for Size {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        let side = |v: &Dynamic| v.as_int().ok().and_then(|n| usize::try_from(n).ok());
        let sides = raw.read_lock::<Array>().map(|list| list.iter().map(side).collect::<Option<Vec<_>>>());
        let (height, width, exact) = match (side(&raw), sides.flatten().as_deref()) {
            (Some(n), _) => (n, n, false),
            (None, Some(&[height, width])) => (height, width, true),
            _ => bail!("{of}: expected a size in pixels, or [height, width], found {}", found(&raw)),
        };
        check_size(of, height, width)?;
        Ok(Self { height, width, exact })
    }
}

/// A number for all channels, or one for each.
struct PerChannel(Vec<f64>);

impl Typed for PerChannel {
    fn script_type() -> Type {
        Type::Either(vec![f64::script_type(), Vec::<f64>::script_type()])
    }
}

impl Argument for PerChannel {
    type Raw = Dynamic;
    fn read(raw: Dynamic, of: &str) -> Result<Self> {
        match raw.read_lock::<Array>() {
            Some(list) => list.iter().map(|v| number(v, of)).collect::<Result<_>>().map(Self),
            None => Ok(Self(vec![number(&raw, of)?])),
        }
    }
}

pub fn register(api: &mut Api<'_>) {
    api.namespace(
        "transform",
        "Transforms of images, as a list for data::loader. Transforms of single images run first, in worker \
         threads; then those of the batch, on the device (normalize, random_erasing, mixup, and your own functions \
         |batch| -> batch, or -> a tensor of images [B, C, H, W] of floats; what they draw comes from rand_per_sample, \
         each image's own on any number of processes, since rand and randn draw the same on every rank). Pixels match \
         Pillow's, after resizing within 2 of 255; random draws are distributed as in torchvision and timm. Single images have 8 bits a channel, grey or RGB; those of a source in the mode \
         \"unchanged\" are floats of any number of channels, which crops, resizing and flips take too (bicubic leaves \
         what it makes beyond their range), and changes of colours refuse.",
        functions::register,
    );
    api.methods::<Transform>("One entry of a list of transforms.", methods::register);
}

#[functions]
mod functions {
    use super::*;

    /// Crops a region of random size, aspect ratio and position, and resizes it to a square of `size` pixels or to
    /// [height, width] (torchvision's RandomResizedCrop, antialiased as in Pillow). Only that region of a JPEG is
    /// decoded.
    pub fn random_resized_crop(size: Size, options: RandomResizedCropOptions) -> Result<Transform> {
        Ok(RandomResizedCrop::new(size.height, size.width, &options)?.into())
    }

    /// Crops a region of random size, aspect ratio and position, and resizes it, with default options.
    #[script(name = "random_resized_crop")]
    pub fn random_resized_crop_default(size: Size) -> Result<Transform> {
        Ok(RandomResizedCrop::new(size.height, size.width, &Default::default())?.into())
    }

    /// Crops the region of `height` x `width` pixels at row `top` and column `left`, and resizes it to a square of
    /// `size` pixels or to [height, width].
    pub fn resized_crop(
        top: i64,
        left: i64,
        height: i64,
        width: i64,
        size: Size,
        options: ResizeOptions,
    ) -> Result<Transform> {
        if top < 0 || left < 0 || height < 1 || width < 1 {
            let found = [top, left, height, width];
            bail!("transform::resized_crop: expected top, left, height and width of a region, found {found:?}");
        }
        let [top, left, height, width] = [top, left, height, width].map(|n| n as usize);
        let region = Region { top, left, height, width };
        let Size { height, width, .. } = size;
        let how = options.how("transform::resized_crop")?;
        Ok(ResizedCrop { region, height, width, how }.into())
    }

    /// Resizes the shorter side to `size` pixels and the longer in proportion, or to exactly [height, width]
    /// (torchvision's Resize, antialiased as in Pillow).
    pub fn resize(size: Size, options: ResizeOptions) -> Result<Transform> {
        Ok(Resize { to: size.to_resize(), how: options.how("transform::resize")? }.into())
    }

    /// Resizes with bilinear interpolation.
    #[script(name = "resize")]
    pub fn resize_default(size: Size) -> Result<Transform> {
        resize(size, ResizeOptions::default())
    }

    /// Crops the centre: a square of `size` pixels or [height, width]; smaller images get a black border. Directly
    /// after resize, only the cropped region is decoded and resized.
    pub fn center_crop(size: Size) -> Result<Transform> {
        Ok(CenterCrop { height: size.height, width: size.width }.into())
    }

    /// Crops a random region of `size` x `size` pixels or [height, width] after padding with zeros (torchvision's
    /// RandomCrop). Images that are smaller even so are an error.
    pub fn random_crop(size: Size, options: RandomCropOptions) -> Result<Transform> {
        Ok(RandomCrop::new(Some([size.height, size.width]), &options)?.into())
    }

    /// Crops a random region of the image's own size after padding with zeros: moves images by up to the padding.
    #[script(name = "random_crop")]
    pub fn random_crop_of_its_size(options: RandomCropOptions) -> Result<Transform> {
        Ok(RandomCrop::new(None, &options)?.into())
    }

    /// Mirrors an image left to right with probability p.
    pub fn random_horizontal_flip(options: RandomHorizontalFlipOptions) -> Result<Transform> {
        Ok(RandomHorizontalFlip::new(&options)?.into())
    }

    /// Mirrors an image left to right with probability ½.
    #[script(name = "random_horizontal_flip")]
    pub fn random_horizontal_flip_default() -> Result<Transform> {
        Ok(RandomHorizontalFlip::new(&Default::default())?.into())
    }

    /// Mirrors an image upside down with probability p.
    pub fn random_vertical_flip(options: RandomVerticalFlipOptions) -> Result<Transform> {
        Ok(RandomVerticalFlip::new(&options)?.into())
    }

    /// Mirrors an image upside down with probability ½.
    #[script(name = "random_vertical_flip")]
    pub fn random_vertical_flip_default() -> Result<Transform> {
        Ok(RandomVerticalFlip::new(&Default::default())?.into())
    }

    /// Random changes of brightness, contrast, saturation and hue, in random order.
    pub fn color_jitter(options: ColorJitterOptions) -> Result<Transform> {
        Ok(ColorJitter::new(&options)?.into())
    }

    /// Turns an image grey with probability p; it keeps its number of channels (transform::grayscale leaves one).
    pub fn random_grayscale(options: RandomGrayscaleOptions) -> Result<Transform> {
        Ok(RandomGrayscale::new(&options)?.into())
    }

    /// Blurs an image with probability p (Pillow's Gaussian blur).
    pub fn gaussian_blur(options: GaussianBlurOptions) -> Result<Transform> {
        Ok(GaussianBlur::new(&options)?.into())
    }

    /// Inverts values from a threshold on, with probability p.
    pub fn random_solarize(options: RandomSolarizeOptions) -> Result<Transform> {
        Ok(RandomSolarize::new(&options)?.into())
    }

    /// RandAugment with one of timm's policy strings, such as "rand-m9-mstd0.5-inc1": `rand` and settings joined by
    /// dashes. mN: magnitude (10). nN: operations per image (2; at most 1000). pX: probability of each (0.5). mstdX:
    /// standard deviation of the magnitude (0; above 100: uniform from 0 to m). mmaxN: its upper bound (10). inc1:
    /// operations that grow stronger with the magnitude. tNAME: the set of operations: 3a, or 3aw or weights, drawn by
    /// weight without repetition.
    pub fn rand_augment(policy: &str, options: RandAugmentOptions) -> Result<Transform> {
        Ok(RandAugment::new(policy, &options)?.into())
    }

    /// RandAugment with one of timm's policy strings, with default options.
    #[script(name = "rand_augment")]
    pub fn rand_augment_default(policy: &str) -> Result<Transform> {
        rand_augment(policy, RandAugmentOptions::default())
    }

    /// 3-Augment (DeiT III): greys, solarizes or blurs each image.
    pub fn three_augment(options: ThreeAugmentOptions) -> Result<Transform> {
        Ok(ThreeAugment::new(&options)?.into())
    }

    /// Applies one of RandAugment's operations, always with the same arguments: "Rotate" [degrees], "ShearX", "ShearY"
    /// [factor], "TranslateX", "TranslateY" [pixels], "TranslateXRel", "TranslateYRel" [fraction of the width or height],
    /// "Posterize" [bits to keep, a whole number], "Solarize" [threshold], "SolarizeAdd" [whole number to add] or [number,
    /// threshold], "Color", "Contrast", "Brightness", "Sharpness" [factor; 1.0 changes nothing], "Desaturate" [fraction],
    /// "GaussianBlur" [standard deviation in pixels], "AutoContrast", "Equalize", "Invert" []. timm's variants of these
    /// names, such as "ColorIncreasing", do the same with given arguments.
    pub fn op(name: &str, args: Vec<f64>, options: OpOptions) -> Result<Transform> {
        Ok(FixedOp::new(name, args, &options)?.into())
    }

    /// Gives grey images three equal channels; images with three channels stay unchanged, and others are an error.
    pub fn rgb() -> Transform {
        Rgb.into()
    }

    /// Makes images of one channel: red, green and blue become their luminance, as by Pillow's `convert("L")`
    /// (torchvision's Grayscale); images with one channel stay unchanged, and others are an error. For models with
    /// `num_channels: 1` and files that are opened as RGB: PNG, JPEG and the like, also grey ones.
    pub fn grayscale() -> Transform {
        Grayscale.into()
    }

    /// Normalises images to (x − mean) / std; each a number for all channels or an array with one per channel. x is in
    /// [0, 1] for images of 8 bits. In the mode "unchanged" it is too for files of unsigned integers, in [-1, 1] for signed
    /// ones, and as in the files for floats. Without it, images stay as they are. `nepa data PATH` prints both for a
    /// source.
    pub fn normalize(mean: PerChannel, std: PerChannel) -> Result<Transform> {
        Ok(Normalize::new(mean.0, std.0)?.into())
    }

    /// Replaces regions of normalised images with zeros or noise.
    pub fn random_erasing(options: RandomErasingOptions) -> Result<Transform> {
        Ok(RandomErasing::new(&options)?.into())
    }

    /// Mixup and CutMix: mixes each image with another of the batch, and turns `batch.targets` into float32 [B,
    /// classes] for loss::cross_entropy.
    pub fn mixup(options: MixupOptions) -> Result<Transform> {
        Ok(Mixup::new(&options)?.into())
    }
}

#[functions]
mod methods {
    use super::*;

    /// The transform as a script writes it.
    pub fn to_string(transform: &Transform) -> String {
        transform.0.describe()
    }
}
