//! Operations on 8-bit pictures that equal Pillow's, and the random transforms made of them, which
//! draw as torchvision's and timm's do.
//!
//! A random transform is made of its options with `new`, which checks them, and draws from the
//! generator that it is given. [`Mixing`], [`RandomErasing`] and [`random_resized_crop_box`] only
//! draw; others move the pixels.

mod affine;
mod blur;
mod crop;
mod enhance;
mod hue;
mod jitter;
mod mixing;
mod ops;
mod rand_augment;
mod tone;

pub use affine::{affine, rotate, shear_x, shear_y, translate_x, translate_y};
pub use blur::gaussian_blur;
pub use crop::{EraseMode, RandomErasing, RandomErasingOptions, random_resized_crop_box};
pub use enhance::{brightness, color, contrast, grayscale, sharpness};
pub use hue::hue;
pub use jitter::{
    ColorJitter, ColorJitterOptions, HorizontalFlip, HorizontalFlipOptions, RandomBlur, RandomBlurOptions, RandomCrop,
    RandomCropOptions, RandomGrayscale, RandomGrayscaleOptions, RandomSolarize, RandomSolarizeOptions, horizontal_flip,
    padded_crop,
};
pub use mixing::{Mix, MixMode, Mixing, MixingOptions};
pub use ops::{Op, Reach, apply_op};
pub use rand_augment::{DrawnOp, RandAugment, RandAugmentOptions, ThreeAugment, ThreeAugmentOptions};
pub use tone::{autocontrast, equalize, invert, posterize, solarize, solarize_add};
