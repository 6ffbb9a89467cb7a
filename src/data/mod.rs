//! Labelled images, from where they are stored to batches on the device.
//!
//! ```text
//! source      where images lie: folders, Arrow, parquet, tar, IDX, synthetic; parts and unions of them
//! decode      an image file's bytes to pixels, or to the part of them that is wanted
//! resample    resizing as Pillow does it
//! transform   Pillow's operations and the random transforms made of them
//! pipeline    a list of transforms, as a worker thread applies it to one item
//! loader      worker threads that make batches ahead
//! imagenet    the classes of ImageNet-1K, and those of images among those of a model
//! batch       what happens to a whole batch on the device: normalisation, erasing, mixing
//! ```

pub mod batch;
pub mod decode;
pub mod image;
pub mod imagenet;
pub mod loader;
pub mod pipeline;
pub mod resample;
pub mod source;
pub mod transform;
mod wide;
