//! Operations on 8-bit pictures that equal Pillow's, and the random transforms made of them, which
//! draw as torchvision's and timm's do.

mod affine;
mod blur;
mod enhance;
mod hue;
mod tone;
mod wide;

pub use affine::{Interpolation, affine, rotate, shear_x, shear_y, translate_x, translate_y};
pub use blur::gaussian_blur;
pub use enhance::{brightness, color, contrast, grayscale, sharpness};
pub use hue::hue;
pub use tone::{autocontrast, equalize, invert, posterize, solarize, solarize_add};
