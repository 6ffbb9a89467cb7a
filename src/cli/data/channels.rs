//! Mean and standard deviation of each channel, as transform::normalize takes them.

use super::counted;
use crate::data::decode::LazyImage;
use crate::data::image::AnyImage;
use crate::data::source::SourceRef;
use crate::error::{Result, catch_panic};
use crate::output::{err, out};
use rayon::prelude::*;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often it is said how far it is.
const INTERVAL: Duration = Duration::from_secs(2);

/// The moments of a channel's values.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    /// The sum of squared distances from the mean.
    squares: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (count, sum) = values.clone().fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
        let mean = sum / count;
        Self { count, mean, squares: values.map(|value| (value - mean).powi(2)).sum() }
    }

    /// Those of both (Chan et al., 1979): sums of squares alone would lose all digits where the mean is large.
    fn with(self, other: Self) -> Self {
        let count = self.count + other.count;
        let off = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + off * other.count / count,
            squares: self.squares + other.squares + off * off * self.count * other.count / count,
        }
    }

    fn std(self) -> f64 {
        (self.squares / self.count).sqrt()
    }
}

/// Reads the given images, and prints the moments over all of their pixels.
pub fn print(source: &SourceRef, indices: &[usize]) {
    let (said, done) = (Mutex::new(Instant::now()), std::sync::atomic::AtomicUsize::new(0));
    let of = |&index: &usize| {
        let moments = catch_panic(|| of_image(source, index));
        let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Ok(mut said) = said.try_lock()
            && said.elapsed() >= INTERVAL
        {
            *said = Instant::now();
            err!("mean and standard deviation: {done} of {} images…", indices.len());
        }
        moments.ok()
    };
    // In their order, so that the sums are always the same.
    let read: Vec<Option<Vec<Moments>>> = indices.par_iter().map(of).collect();
    let read: Vec<Vec<Moments>> = read.into_iter().flatten().collect();
    let Some(first) = read.first() else { return };
    let fitting: Vec<&Vec<Moments>> = read.iter().filter(|of_image| of_image.len() == first.len()).collect();
    let mut all = vec![Moments::default(); first.len()];
    for of_image in &fitting {
        all.iter_mut().zip(of_image.iter()).for_each(|(sum, one)| *sum = sum.with(*one));
    }
    let list = |value: fn(&Moments) -> f64| {
        let values: Vec<String> = all.iter().map(|of_channel| digits(value(of_channel))).collect();
        format!("[{}]", values.join(", "))
    };
    let all_or_some = if indices.len() < source.len() { "sampled images" } else { "images" };
    out!(
        "  channels   {}; mean and standard deviation over all pixels of {} {all_or_some}:",
        first.len(),
        fitting.len()
    );
    out!("             transform::normalize({}, {})", list(|m| m.mean), list(|m| m.std()));
    if fitting.len() < read.len() {
        out!("             {} of other channels left out", counted(read.len() - fitting.len(), "image", "images"));
    }
}

fn of_image(source: &SourceRef, index: usize) -> Result<Vec<Moments>> {
    fn of<T: Copy>(data: &[T], channels: usize, value: impl Fn(T) -> f64 + Copy) -> Vec<Moments> {
        (0..channels).map(|c| Moments::of(data[c..].iter().step_by(channels).map(move |v| value(*v)))).collect()
    }
    Ok(match LazyImage::open_as(&mut source.read(index)?, false, source.mode())?.pixels()? {
        AnyImage::Bytes(image) => of(&image.data, image.channels, |v| f64::from(v) / 255.0),
        AnyImage::Floats(image) => of(&image.data, image.channels, f64::from),
    })
}

/// Five digits that count, as a script reads them.
fn digits(value: f64) -> String {
    let places = (4 - value.abs().max(1e-300).log10().floor() as i32).clamp(1, 12) as usize;
    format!("{value:.places$}")
}
