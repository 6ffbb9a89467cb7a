use nepa::data::{decode::*, image::Image, resample::*, source::Content};
use std::borrow::Cow;
use std::time::Instant;
fn main() {
    let dir = std::env::args().nth(1).filter(|a| a != "--bench").unwrap_or("/tmp/bench-images/60kb".into());
    println!("{}", backend().describe());
    let mut files = vec![];
    for c in std::fs::read_dir(&dir).unwrap() { for f in std::fs::read_dir(c.unwrap().path()).unwrap() { files.push(std::fs::read(f.unwrap().path()).unwrap()); } }
    println!("{} files, {} bytes mean", files.len(), files.iter().map(|f| f.len()).sum::<usize>() / files.len());
    let time = |what: &str, f: &dyn Fn(&[u8]) -> Image| {
        for _ in 0..2 {
            let t = Instant::now();
            let mut n = 0;
            while t.elapsed().as_secs_f64() < 1.5 { for file in &files { std::hint::black_box(f(file)); n += 1; } }
            println!("{what}: {:.0} images/s, {:.0} us", n as f64 / t.elapsed().as_secs_f64(), 1e6 * t.elapsed().as_secs_f64() / n as f64);
        }
    };
    fn open<'a>(c: &'a mut Content<'_>) -> Picture<'a> { Picture::open(c, false).unwrap() }
    time("whole", &|f| open(&mut Content::Encoded(Cow::Borrowed(f))).whole().unwrap());
    time("crop .54 area", &|f| { let mut c = Content::Encoded(Cow::Borrowed(f)); open(&mut c).part(Region { left: 80, top: 60, width: 367, height: 275 }).unwrap().image });
    time("crop+resize", &|f| { let mut c = Content::Encoded(Cow::Borrowed(f)); resized_crop(open(&mut c), Region { left: 80, top: 60, width: 367, height: 275 }, 224, 224, Interpolation::Bilinear).unwrap() });
    time("eval", &|f| { let mut c = Content::Encoded(Cow::Borrowed(f)); resize_then_crop(open(&mut c), 341, 256, Region { left: 58, top: 16, width: 224, height: 224 }, Interpolation::Bicubic).unwrap() });
    let mut c = Content::Encoded(Cow::Borrowed(&files[0]));
    let img = open(&mut c).whole().unwrap();
    time("resize only", &|_| { let mut c = Content::Pixels(img.clone()); resized_crop(open(&mut c), Region { left: 80, top: 60, width: 367, height: 275 }, 224, 224, Interpolation::Bilinear).unwrap() });
    time("clone only", &|_| img.clone());
}
