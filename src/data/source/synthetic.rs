//! Images made on the spot: for trying things out and for measuring speed without a disk.

use super::{Source, StoredImage, paths};
use crate::data::image::Image;
use crate::error::{Result, ensure};
use crate::options;
use crate::random::{Key, Purpose, uniform};
use rand::RngCore as _;
use std::f64::consts::TAU;

options! {
    /// Noisy images with a colour pattern for each class.
    pub struct SyntheticOptions {
        /// The number of images.
        len: usize = 1000,
        /// The number of classes; images alternate between them.
        classes: usize = 10,
        /// Height and width in pixels.
        size: usize = 224,
        /// 1 (grey) or 3 (colour).
        channels: usize = 3,
        /// Seed of the images.
        seed: u64 = 0,
    }
}

/// Images that depend on the seed and their index alone.
pub struct Synthetic {
    options: SyntheticOptions,
    class_names: Vec<String>,
    /// For each class and channel: waves across, waves down, and where each begins.
    patterns: Vec<Vec<[f64; 4]>>,
}

/// The most images, and the most classes, each of which keeps a pattern.
const MOST_IMAGES: usize = u32::MAX as usize;
const MOST_CLASSES: usize = 1_000_000;
/// How far each of the two waves swings; with the noise (0 … 63) they fill a byte.
const SWING: f64 = 95.0;

impl Synthetic {
    /// A source of images as `options` say.
    pub fn new(options: &SyntheticOptions) -> Result<Self> {
        let o = options;
        ensure!((1..=MOST_IMAGES).contains(&o.len), "synthetic: len must be 1..={MOST_IMAGES}, found {}", o.len);
        ensure!(
            (1..=MOST_CLASSES).contains(&o.classes),
            "synthetic: classes must be 1..={MOST_CLASSES}, found {}",
            o.classes
        );
        ensure!((1..=16384).contains(&o.size), "synthetic: size must be 1..=16384, found {}", o.size);
        ensure!(o.channels == 1 || o.channels == 3, "synthetic: channels must be 1 or 3, found {}", o.channels);
        let patterns = (0..o.classes as u64).map(|class| {
            let mut rng = Key::of(Purpose::SyntheticPatterns, o.seed).fold(class).rng();
            let mut wave = || [(0.5, 4.0), (0.5, 4.0), (0.0, TAU), (0.0, TAU)].map(|(a, b)| uniform(&mut rng, a, b));
            (0..o.channels).map(|_| wave()).collect()
        });
        Ok(Self {
            patterns: patterns.collect(),
            class_names: (0..o.classes).map(|c| c.to_string()).collect(),
            options: o.clone(),
        })
    }
}

impl Source for Synthetic {
    fn describe(&self) -> String {
        format!("synthetic images (seed {})", self.options.seed)
    }
    fn len(&self) -> usize {
        self.options.len
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn split(&self) -> Option<&str> {
        None
    }
    fn label(&self, index: usize) -> i64 {
        (index % self.options.classes) as i64
    }
    fn name(&self, index: usize) -> String {
        paths::row_name(Some("synthetic"), index, None)
    }
    fn read(&self, index: usize) -> Result<StoredImage<'_>> {
        let (size, channels) = (self.options.size, self.options.channels);
        let mut rng = Key::of(Purpose::SyntheticImages, self.options.seed).fold(index as u64).rng();
        // The pattern lies a little elsewhere in every image.
        let shift = [uniform(&mut rng, -0.5, 0.5), uniform(&mut rng, -0.5, 0.5)];
        let waves = &self.patterns[index % self.options.classes];
        let value = |frequency: f64, phase: f64, at: usize| {
            ((TAU * frequency * at as f64 / size as f64 + phase).sin() * SWING / 2.0 + SWING / 2.0) as u8
        };
        let across: Vec<u8> =
            (0..size).flat_map(|x| waves.iter().map(move |w| value(w[0], w[2] + shift[0], x))).collect();
        // A cheap generator suffices for noise; its seed comes from the good one.
        let mut state = rng.next_u64();
        let mut data = vec![0u8; size * size * channels];
        for (y, row) in data.chunks_exact_mut(size * channels).enumerate() {
            // Whole pixels that fill whole registers.
            let mut down = [0u8; 48];
            for (c, wave) in waves.iter().enumerate() {
                let value = value(wave[1], wave[3] + shift[1], y);
                down.iter_mut().skip(c).step_by(channels).for_each(|d| *d = value);
            }
            for (out, across) in row.chunks_mut(48).zip(across.chunks(48)) {
                let mut noise = [0u8; 48];
                for bytes in noise.chunks_exact_mut(8) {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mixed = (state ^ (state >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    bytes.copy_from_slice(&((mixed ^ (mixed >> 32)) & 0x3f3f_3f3f_3f3f_3f3f).to_le_bytes());
                }
                for (((out, across), down), noise) in out.iter_mut().zip(across).zip(&down).zip(&noise) {
                    *out = across + down + noise;
                }
            }
        }
        Ok(StoredImage::Pixels(Image::new(size, size, channels, data)))
    }
    fn shape(&self) -> Option<[usize; 3]> {
        Some([self.options.channels, self.options.size, self.options.size])
    }
}
