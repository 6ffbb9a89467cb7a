//! Labelled images, from where they are stored to batches on the device.
//!
//! ```text
//! source      where images lie: folders, Arrow, Parquet, tar, IDX, synthetic; subsets and unions of them
//! decode      an image file's bytes to pixels, or to the region of them that is wanted
//! pillow      resizing and other operations on 8-bit images, equal to Pillow's
//! batch       images with their labels, on the device
//! transform   one step of a list of transforms, of images or of batches
//! pipeline    the list, as the loader applies it
//! loader      worker threads that make batches ahead
//! imagenet    the classes of ImageNet-1K, and those of images among those of a model
//! ```
//!
//! Each knows those above it only.

pub mod batch;
pub mod decode;
pub mod examples;
pub mod image;
pub mod imagenet;
pub mod loader;
pub mod pillow;
pub mod pipeline;
pub mod source;
pub mod transform;
