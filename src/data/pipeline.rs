//! What happens to one picture in a worker thread: from an item's bytes to 8-bit pixels of a known size.

use super::decode::{self, Picture};
use super::image::{Image, Interpolation, Region};
use super::resample::{resize_then_crop, resized_crop};
use super::source::{Content, Source};
use super::transform::{RandomCrop, random_resized_crop_box};
use crate::error::{Result, bail, catch_panic, ensure};
use crate::options;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// What is known of a picture before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// 1 or 3.
    pub channels: Option<usize>,
    /// Height and width.
    pub size: Option<(usize, usize)>,
}

/// One step from picture to picture. What it draws depends on the given stream alone.
pub trait Transform: Send + Sync {
    /// As a script writes it.
    fn describe(&self) -> String;
    /// Applies it. A picture that is still encoded is decoded only where it is needed.
    fn apply<'a>(&self, picture: Picture<'a>, rng: &mut ChaCha8Rng) -> Result<Picture<'a>>;
    /// What is known after it.
    fn shape(&self, before: Shape) -> Shape {
        before
    }
    /// The step that does this one and the next at once, where that is cheaper.
    fn merge(&self, _next: &dyn Transform) -> Option<Arc<dyn Transform>> {
        None
    }
    /// The side of the square that it cuts from the middle, for [`Transform::merge`].
    fn center_crop(&self) -> Option<(usize, usize)> {
        None
    }
}

/// A list of transforms, applied in order.
#[derive(Clone)]
pub struct Pipeline {
    steps: Vec<Arc<dyn Transform>>,
    /// Whether JPEGs are turned as their Exif data says.
    exif_orientation: bool,
}

impl Pipeline {
    /// A pipeline of these steps.
    pub fn new(steps: &[Arc<dyn Transform>], exif_orientation: bool) -> Self {
        let mut merged: Vec<Arc<dyn Transform>> = Vec::new();
        for step in steps {
            match merged.last().and_then(|last| last.merge(step.as_ref())) {
                Some(both) => *merged.last_mut().expect("there is a last one") = both,
                None => merged.push(step.clone()),
            }
        }
        Self { steps: merged, exif_orientation }
    }

    /// One item through all steps.
    pub fn run(&self, mut content: Content<'_>, rng: &mut ChaCha8Rng) -> Result<Image> {
        let mut picture = Picture::open(&mut content, self.exif_orientation)?;
        for step in &self.steps {
            picture = step.apply(picture, rng)?;
        }
        picture.whole()
    }

    /// Channels, height and width of every result: known from the steps, or from the source, or else those of the
    /// source's first image (with `skip_bad`, of the first that can be read).
    pub fn shape(&self, source: &dyn Source, skip_bad: bool) -> Result<[usize; 3]> {
        let mut shape = match source.shape() {
            Some([c, h, w]) => Shape { channels: Some(c), size: Some((h, w)) },
            None => Shape { channels: Some(3), size: None },
        };
        for step in &self.steps {
            shape = step.shape(shape);
        }
        if let Shape { channels: Some(c), size: Some((h, w)) } = shape {
            return Ok([c, h, w]);
        }
        ensure!(!source.is_empty(), "{} holds no images", source.describe());
        let mut index = 0;
        loop {
            let run = || self.run(source.read(index)?, &mut crate::random::Key::new(0).rng());
            match catch_panic(run) {
                Ok(first) => return Ok([first.channels, first.height, first.width]),
                Err(_) if skip_bad && index + 1 < source.len().min(MOST_BAD) => index += 1,
                Err(e) => return Err(e.context(format!("cannot read item {index} ({})", source.name(index)))),
            }
        }
    }
}

/// Broken images at a source's beginning before it is taken for lost.
const MOST_BAD: usize = 100;

/// torchvision's `Resize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    /// The shorter side, or height and width.
    pub to: ResizeTo,
    /// The filter.
    pub interpolation: Interpolation,
}

/// What a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeTo {
    /// The shorter side gets this many pixels, the longer in proportion, cut to an integer.
    Shorter(usize),
    /// Height and width.
    Exactly(usize, usize),
}

impl Resize {
    /// Width and height after resizing a picture of the given ones.
    fn target(&self, (width, height): (usize, usize)) -> (usize, usize) {
        match self.to {
            ResizeTo::Exactly(h, w) => (w, h),
            ResizeTo::Shorter(n) if width <= height => (n, (n as f64 * height as f64 / width as f64) as usize),
            ResizeTo::Shorter(n) => ((n as f64 * width as f64 / height as f64) as usize, n),
        }
    }
}

impl Transform for Resize {
    fn describe(&self) -> String {
        let to = match self.to {
            ResizeTo::Shorter(n) => n.to_string(),
            ResizeTo::Exactly(h, w) => format!("[{h}, {w}]"),
        };
        format!("resize({to}, {:?})", self.interpolation).to_lowercase()
    }
    fn apply<'a>(&self, picture: Picture<'a>, _rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        let (width, height) = picture.size();
        let (to_width, to_height) = self.target((width, height));
        decode::check_size(to_width, to_height)
            .map_err(|e| e.context(format!("resizing a picture of {width} x {height} pixels")))?;
        let all = Region { left: 0, top: 0, width, height };
        Ok(Picture::Whole(resized_crop(picture, all, to_width, to_height, self.interpolation)?))
    }
    fn shape(&self, before: Shape) -> Shape {
        let size = match (self.to, before.size) {
            (ResizeTo::Exactly(h, w), _) => Some((h, w)),
            (_, Some((h, w))) => Some(self.target((w, h))).map(|(w, h)| (h, w)),
            (_, None) => None,
        };
        Shape { size, ..before }
    }
    fn merge(&self, next: &dyn Transform) -> Option<Arc<dyn Transform>> {
        let (height, width) = next.center_crop()?;
        Some(Arc::new(ResizeCenterCrop { resize: *self, crop: CenterCrop { height, width } }))
    }
}

/// torchvision's `CenterCrop`: a picture that is too small gets a black border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CenterCrop {
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
}

impl CenterCrop {
    /// The middle of a picture that is large enough; Python's rounding (half to even), as torchvision has it.
    fn region(&self, (width, height): (usize, usize)) -> Option<Region> {
        if width < self.width || height < self.height {
            return None;
        }
        let half = |n: usize| (n as f64 / 2.0).round_ties_even() as usize;
        let (left, top) = (half(width - self.width), half(height - self.height));
        Some(Region { left, top, width: self.width, height: self.height })
    }

    fn of_image(&self, image: &Image) -> Image {
        if let Some(region) = self.region((image.width, image.height)) {
            return image.crop(region);
        }
        let (width, height) = (image.width.max(self.width), image.height.max(self.height));
        let (left, top) = ((width - image.width) / 2, (height - image.height) / 2);
        let c = image.channels;
        let mut padded = Image::new(width, height, c, vec![0; width * height * c]);
        for y in 0..image.height {
            let at = ((top + y) * width + left) * c;
            padded.data[at..at + image.width * c].copy_from_slice(image.row(y));
        }
        padded.crop(self.region((width, height)).expect("large enough now"))
    }
}

impl Transform for CenterCrop {
    fn describe(&self) -> String {
        format!("center_crop([{}, {}])", self.height, self.width)
    }
    fn apply<'a>(&self, picture: Picture<'a>, _rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        match self.region(picture.size()) {
            Some(region) => {
                let part = picture.part(region)?;
                let Region { width, height, .. } = region;
                Ok(Picture::Whole(part.image.crop(Region { left: part.left, top: part.top, width, height })))
            }
            None => Ok(Picture::Whole(self.of_image(&picture.whole()?))),
        }
    }
    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
    fn center_crop(&self) -> Option<(usize, usize)> {
        Some((self.height, self.width))
    }
}

/// [`Resize`] and [`CenterCrop`] in one: no more is decoded and resized than is kept.
struct ResizeCenterCrop {
    resize: Resize,
    crop: CenterCrop,
}

impl Transform for ResizeCenterCrop {
    fn describe(&self) -> String {
        format!("{}, {}", self.resize.describe(), self.crop.describe())
    }
    fn apply<'a>(&self, picture: Picture<'a>, rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        let (width, height) = self.resize.target(picture.size());
        match self.crop.region((width, height)) {
            Some(region) => {
                let image = resize_then_crop(picture, width, height, region, self.resize.interpolation)?;
                Ok(Picture::Whole(image))
            }
            None => self.crop.apply(self.resize.apply(picture, rng)?, rng),
        }
    }
    fn shape(&self, before: Shape) -> Shape {
        self.crop.shape(self.resize.shape(before))
    }
}

/// A number of pixels given as one number or as [height, width].
pub fn check_size(of: &str, height: usize, width: usize) -> Result<()> {
    if height == 0 || width == 0 || height > 1 << 14 || width > 1 << 14 {
        bail!("{of}: expected a size of 1 to {} pixels, found {height} x {width}", 1 << 14);
    }
    Ok(())
}

/// torchvision's `RandomResizedCrop`.
#[derive(Debug, Clone)]
pub struct RandomResizedCrop {
    height: usize,
    width: usize,
    options: RandomResizedCropOptions,
}

options! {
    /// A part of random size and form, resized.
    pub struct RandomResizedCropOptions {
        /// Least and greatest share of the picture's area.
        scale: [f64; 2] = [0.08, 1.0],
        /// Least and greatest width over height.
        ratio: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0],
        /// nearest, bilinear or bicubic, antialiased.
        interpolation: Interpolation = Interpolation::Bilinear,
    }
}

impl RandomResizedCrop {
    /// Checks the options.
    pub fn new(height: usize, width: usize, options: &RandomResizedCropOptions) -> Result<Self> {
        const OF: &str = "transform::random_resized_crop";
        check_size(OF, height, width)?;
        let [low, high] = options.scale;
        ensure!(
            0.0 < low && low <= high && high <= 1.0,
            "option `scale` of {OF}: expected [least, greatest] within 0 to 1, found [{low}, {high}]"
        );
        let [low, high] = options.ratio;
        ensure!(
            0.0 < low && low <= high,
            "option `ratio` of {OF}: expected [least, greatest], both positive, found [{low}, {high}]"
        );
        Ok(Self { height, width, options: options.clone() })
    }
}

impl Transform for RandomResizedCrop {
    fn describe(&self) -> String {
        let RandomResizedCropOptions { scale, ratio, interpolation } = &self.options;
        let to = format!("[{}, {}]", self.height, self.width);
        format!("random_resized_crop({to}, scale {scale:?}, ratio {ratio:.2?}, {interpolation:?})").to_lowercase()
    }
    fn apply<'a>(&self, picture: Picture<'a>, rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        let (width, height) = picture.size();
        let o = &self.options;
        let (top, left, height, width) = random_resized_crop_box(rng, width, height, o.scale, o.ratio);
        let region = Region { top, left, height, width };
        Ok(Picture::Whole(resized_crop(picture, region, self.width, self.height, o.interpolation)?))
    }
    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
}

/// A given part, resized (torchvision's `resized_crop`).
#[derive(Debug, Clone)]
pub struct ResizedCrop {
    /// The part.
    pub region: Region,
    /// Rows of the result.
    pub height: usize,
    /// Columns of the result.
    pub width: usize,
    /// The filter.
    pub interpolation: Interpolation,
}

impl Transform for ResizedCrop {
    fn describe(&self) -> String {
        let Region { top, left, height, width } = self.region;
        let to = format!("[{}, {}]", self.height, self.width);
        format!("resized_crop({top}, {left}, {height}, {width}, {to}, {:?})", self.interpolation).to_lowercase()
    }
    fn apply<'a>(&self, picture: Picture<'a>, _rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        let (width, height) = picture.size();
        let r = self.region;
        ensure!(
            r.left.saturating_add(r.width) <= width && r.top.saturating_add(r.height) <= height,
            "resized_crop: the part from ({}, {}) of {} x {} pixels reaches beyond the picture of {width} x {height}",
            r.left,
            r.top,
            r.width,
            r.height
        );
        Ok(Picture::Whole(resized_crop(picture, r, self.width, self.height, self.interpolation)?))
    }
    fn shape(&self, before: Shape) -> Shape {
        Shape { size: Some((self.height, self.width)), ..before }
    }
}

/// A step made of a function from image to image, which keeps channels and size.
pub struct OnImage<F> {
    /// As a script writes it.
    pub name: String,
    /// What it does.
    pub apply: F,
}

impl<F: Fn(Image, &mut ChaCha8Rng) -> Result<Image> + Send + Sync> Transform for OnImage<F> {
    fn describe(&self) -> String {
        self.name.clone()
    }
    fn apply<'a>(&self, picture: Picture<'a>, rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        Ok(Picture::Whole((self.apply)(picture.whole()?, rng)?))
    }
}

impl Transform for RandomCrop {
    fn describe(&self) -> String {
        RandomCrop::describe(self)
    }
    fn apply<'a>(&self, picture: Picture<'a>, rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        Ok(Picture::Whole(RandomCrop::apply(self, picture.whole()?, rng)?))
    }
    fn shape(&self, before: Shape) -> Shape {
        Shape { size: self.size().map(|[h, w]| (h, w)).or(before.size), ..before }
    }
}

/// Grey to red, green and blue of the same value.
pub struct Rgb;

impl Transform for Rgb {
    fn describe(&self) -> String {
        "rgb".into()
    }
    fn apply<'a>(&self, picture: Picture<'a>, _rng: &mut ChaCha8Rng) -> Result<Picture<'a>> {
        let image = picture.whole()?;
        if image.channels == 3 {
            return Ok(Picture::Whole(image));
        }
        let data = image.data.iter().flat_map(|&v| [v, v, v]).collect();
        Ok(Picture::Whole(Image::new(image.width, image.height, 3, data)))
    }
    fn shape(&self, before: Shape) -> Shape {
        Shape { channels: Some(3), ..before }
    }
}
