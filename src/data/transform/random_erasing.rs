//! Random erasing: regions of normalised images become zeros or noise.

use super::draws::{MOST_REPEATED, happens, in_order, within};
use super::{BatchContext, Drawn, Prepared, Stage, Transform, describe_call};
use crate::data::batch::{Batch, Images};
use crate::data::image::Region;
use crate::error::{Context as _, Result, ensure};
use crate::random::uniform;
use crate::{choices, options};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::Tensor;

options! {
    /// Random erasing (Zhong et al., 2017) as timm does it, on normalised images.
    pub struct RandomErasingOptions {
        /// Probability of erasing anything in an image.
        p: f64 = 0.5,
        /// Minimum fraction of the image to erase.
        min_area: f64 = 0.02,
        /// Maximum fraction of the image to erase.
        max_area: f64 = 1.0 / 3.0,
        /// Minimum aspect ratio (height / width) of an erased region.
        min_aspect: f64 = 0.3,
        /// Maximum aspect ratio; () means 1 / minimum.
        max_aspect: Option<f64> = None,
        /// Replacement: const (0), rand (one random colour per region), pixel (random values); both normally
        /// distributed.
        mode: EraseMode = EraseMode::Const,
        /// Minimum number of regions per image; they share the area.
        min_count: usize = 1,
        /// Maximum number of regions, up to 1000; () means the minimum.
        max_count: Option<usize> = None,
    }
}

choices! {
    /// What takes the place of an erased region, in normalised values.
    pub enum EraseMode {
        /// 0.
        Const = "const",
        /// One standard normal number per channel.
        Rand = "rand",
        /// A standard normal number per value.
        Pixel = "pixel",
    }
}

/// Chooses what to erase.
#[derive(Debug, Clone)]
pub struct RandomErasing {
    options: RandomErasingOptions,
    /// Logarithms.
    aspect: [f64; 2],
    max_count: usize,
}

impl RandomErasing {
    /// Checks the options.
    pub fn new(options: &RandomErasingOptions) -> Result<Self> {
        const OF: &str = "transform::random_erasing";
        let o = options;
        within(OF, "p", o.p, 0.0, 1.0)?;
        within(OF, "min_area", o.min_area, 0.0, 1.0)?;
        within(OF, "max_area", o.max_area, 0.0, 1.0)?;
        in_order(OF, ["min_area", "max_area"], [o.min_area, o.max_area])?;
        let is_positive = |x: f64| x > 0.0 && x.is_normal();
        ensure!(
            is_positive(o.min_aspect) && (o.max_aspect.is_some() || o.min_aspect <= 1.0),
            "option `min_aspect` of {OF}: expected a positive number, of at most 1 where max_aspect is not given, found {}",
            o.min_aspect
        );
        let max_aspect = o.max_aspect.unwrap_or(1.0 / o.min_aspect);
        ensure!(is_positive(max_aspect), "option `max_aspect` of {OF}: expected a positive number, found {max_aspect}");
        in_order(OF, ["min_aspect", "max_aspect"], [o.min_aspect, max_aspect])?;
        let max_count = o.max_count.unwrap_or(o.min_count);
        let counts = [o.min_count, max_count].map(|n| n as f64);
        within(OF, "min_count", counts[0], 1.0, MOST_REPEATED)?;
        within(OF, "max_count", counts[1], 1.0, MOST_REPEATED)?;
        in_order(OF, ["min_count", "max_count"], counts)?;
        Ok(Self { options: o.clone(), aspect: [o.min_aspect.ln(), max_aspect.ln()], max_count })
    }

    /// The regions of one image to erase, in this order. A region that fits in none of ten attempts is left out.
    pub fn draw(&self, height: usize, width: usize, rng: &mut ChaCha8Rng) -> Vec<Region> {
        let o = &self.options;
        if !happens(o.p, rng) {
            return Vec::new();
        }
        let area = (height * width) as f64;
        let count = rng.random_range(o.min_count..=self.max_count);
        let mut region = || {
            let target = uniform(rng, o.min_area, o.max_area) * area / count as f64;
            let aspect = uniform(rng, self.aspect[0], self.aspect[1]).exp();
            let h = (target * aspect).sqrt().round_ties_even() as usize;
            let w = (target / aspect).sqrt().round_ties_even() as usize;
            (w < width && h < height).then(|| Region {
                top: rng.random_range(0..=height - h),
                left: rng.random_range(0..=width - w),
                height: h,
                width: w,
            })
        };
        (0..count).filter_map(|_| (0..10).find_map(|_| region())).collect()
    }

    fn draw_values(&self, [channels, height, width]: [usize; 3], rng: &mut ChaCha8Rng) -> Vec<Erased> {
        let regions = self.draw(height, width, rng);
        let mut normal = |n: usize| (0..n).map(|_| StandardNormal.sample(rng)).collect();
        let with_values = |region: Region| {
            let values = match self.options.mode {
                EraseMode::Const => vec![0.0; channels],
                EraseMode::Rand => normal(channels),
                EraseMode::Pixel => normal(channels * region.area()),
            };
            Erased { region, values }
        };
        regions.into_iter().map(with_values).collect()
    }
}

/// A region and what takes its place: the values channel by channel, one a channel or one a pixel.
struct Erased {
    region: Region,
    values: Vec<f32>,
}

/// What is erased of a batch, in the order of its values.
struct Place {
    /// Which image of the batch.
    image: usize,
    region: Region,
    /// How many numbers take its place.
    values: usize,
}

impl Transform for RandomErasing {
    fn describe(&self) -> String {
        describe_call("random_erasing", &[], &self.options)
    }

    fn stage(&self) -> Stage {
        Stage::Batch
    }

    /// Noise for every pixel takes long to draw.
    fn draw_for_batch(&self, shape: [usize; 3], rng: &mut ChaCha8Rng) -> Option<Drawn> {
        let erased = self.draw_values(shape, rng);
        (!erased.is_empty()).then(|| Box::new(erased) as Drawn)
    }

    fn prepare(&self, context: &BatchContext, shape: [usize; 3]) -> Result<Option<Prepared>> {
        // What was drawn for images of another size does not fit these.
        let again: Option<Vec<_>> = (shape != context.drawn_for)
            .then(|| context.image_keys.iter().map(|key| self.draw_for_batch(shape, &mut key.rng())).collect());
        let drawn = again.as_ref().unwrap_or(&context.drawn).iter().enumerate();
        let erased = drawn.filter_map(|(i, drawn)| Some((i, drawn.as_ref()?.downcast_ref::<Vec<Erased>>()?)));
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for (image, Erased { region, values: own }) in erased.flat_map(|(i, all)| all.iter().map(move |e| (i, e))) {
            places.push(Place { image, region: *region, values: own.len() });
            values.extend_from_slice(own);
        }
        if places.is_empty() {
            return Ok(None);
        }
        Ok(Some(Prepared { drawn: Box::new(places), numbers: Tensor::f_from_slice(&values)? }))
    }

    fn apply_to_batch(&self, batch: Batch, context: &mut BatchContext) -> Result<Batch> {
        let images = batch.images.numbers()?;
        let Some(Prepared { drawn, numbers }) = context.take_prepared(self, &images)? else {
            return Ok(Batch { images: Images::Numbers(images), ..batch });
        };
        let images = if context.images_are_the_scripts { images.f_alias_copy()? } else { images };
        let places: &Vec<Place> = drawn.downcast_ref().context("internal: what another transform has prepared")?;
        let channels = images.size()[1];
        let mut at = 0;
        for Place { image, region, values } in places {
            let (h, w) = (region.height as i64, region.width as i64);
            let image = images.f_get(*image as i64)?;
            let mut part = image.f_narrow(1, region.top as i64, h)?.f_narrow(2, region.left as i64, w)?;
            let count = *values as i64;
            let shape = if count == channels { [channels, 1, 1] } else { [channels, h, w] };
            part.f_copy_(&numbers.f_narrow(0, at, count)?.f_view(shape)?)?;
            at += count;
        }
        Ok(Batch { images: Images::Numbers(images), ..batch })
    }
}
