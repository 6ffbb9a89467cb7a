//! Operations on images of 8 bits, equal to Pillow's value for value; resizing of floats, too.
//!
//! Their inner loops are compiled twice on x86-64, see `simd_dispatch`.

mod affine;
mod blur;
mod enhance;
mod hue;
mod resample;
mod simd_dispatch;
mod tone;

pub use affine::{affine, rotate, shear_x, shear_y, translate_x, translate_y};
pub use blur::gaussian_blur;
pub use enhance::{brightness, color, contrast, grayscale, luma, sharpness};
pub use hue::hue;
pub use resample::{resize_then_crop, resized, resized_crop};
pub use tone::{autocontrast, equalize, invert, posterize, solarize, solarize_add};
