//! Operations on pictures against Pillow's results, and random transforms against the distributions
//! that they draw from.

use nepa::data::decode::LazyImage;
use nepa::data::image::{AnyImage, Image, Interpolation, Region};
use nepa::data::pillow::*;
use nepa::data::transform::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::HashMap;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn read(folder: &str, file: &str) -> Image {
    let path = format!("{}/tests/fixtures/{folder}/{file}", env!("CARGO_MANIFEST_DIR"));
    let picture = image::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    match picture.color().channel_count() {
        1 => Image::new(width, height, 1, picture.into_luma8().into_raw()),
        _ => Image::new(width, height, 3, picture.into_rgb8().into_raw()),
    }
}

/// The cases of a folder with an argument list: file, source, operation and the rest.
fn cases(folder: &str) -> Vec<Value> {
    let path = format!("{}/tests/fixtures/{folder}/cases.json", env!("CARGO_MANIFEST_DIR"));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    json["cases"].as_array().unwrap().iter().filter(|c| c["args"].is_array()).cloned().collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Runs a case; the greatest and the mean difference from what is recorded.
fn difference(folder: &str, case: &Value) -> (u8, f64) {
    let text = |key: &str| case[key].as_str().unwrap();
    let source = read(folder, text("source"));
    let args = numbers(&case["args"]);
    let found = match text("op") {
        "Hue" | "Grayscale" => {
            let mut image = source.clone();
            if let [factor] = args[..] {
                hue(&mut image, factor)
            } else {
                grayscale(&mut image)
            }
            image
        }
        op => {
            let fill = numbers(&case["fill"]);
            let fill = [fill[0] as u8, fill[1] as u8, fill[2] as u8];
            apply_op(&source, op, &args, fill, text("interpolation").parse().unwrap()).unwrap()
        }
    };
    let expected = read(folder, text("file"));
    assert_eq!((found.width, found.height, found.channels), (expected.width, expected.height, expected.channels));
    let differences: Vec<u8> = found.data.iter().zip(&expected.data).map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: f64 = differences.iter().map(|d| f64::from(*d)).sum();
    (differences.iter().copied().max().unwrap(), sum / differences.len() as f64)
}

/// Whether values that should be uniform in [low, high] are: the Kolmogorov-Smirnov statistic of n
/// values exceeds 2.2 / √n once in 8000 times. `grain` allows for rounding to pixels.
fn assert_uniform(what: &str, mut values: Vec<f64>, low: f64, high: f64, grain: f64) {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let mut worst: f64 = 0.0;
    for (i, v) in values.iter().enumerate() {
        let place = (v - low) / (high - low);
        worst = worst.max((place - i as f64 / n).abs()).max((place - (i + 1) as f64 / n).abs());
    }
    assert!(worst < 2.2 / n.sqrt() + grain, "{what}: {worst} with {n} values");
}

/// Whether `count` of `n` is what probability `p` gives, within 5 standard deviations.
fn assert_share(what: &str, count: usize, n: usize, p: f64) {
    let (count, n) = (count as f64, n as f64);
    let bound = 5.0 * (n * p * (1.0 - p)).sqrt() + 1e-9;
    assert!((count - n * p).abs() <= bound, "{what}: {count} of {n}, expected {} ± {bound}", n * p);
}

/// Whether the mean of values of the given standard deviation is right, within 5 of its own.
fn assert_mean(what: &str, values: &[f64], expected: f64, deviation: f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let bound = 5.0 * deviation / (values.len() as f64).sqrt();
    assert!((mean - expected).abs() < bound, "{what}: mean {mean}, expected {expected} ± {bound}");
}

fn picture(width: usize, height: usize, channels: usize) -> Image {
    let n = width * height * channels;
    Image::new(width, height, channels, (0..n).map(|i| (i * i * 31 + i * 7) as u8).collect())
}

#[test]
fn operations_equal_the_reference_pictures() {
    let cases = cases("images");
    assert_eq!(cases.len(), 48);
    for case in cases {
        assert_eq!(difference("images", &case), (0, 0.0), "{}", case["file"]);
    }
}

#[test]
fn operations_equal_pillow_on_colour_and_grey() {
    let cases = cases("transforms");
    assert!(cases.len() > 60);
    for case in cases {
        assert_eq!(difference("transforms", &case), (0, 0.0), "{case}");
    }
}

#[test]
fn magnitudes_give_the_reference_arguments() {
    let mut rng = rng(1);
    for case in cases("images") {
        let op = Op::parse(case["op"].as_str().unwrap()).unwrap();
        let magnitude = case["magnitude"].as_f64().unwrap();
        let drawn: Vec<_> = (0..40).map(|_| op.argument(magnitude, Reach::default(), &mut rng)).collect();
        match numbers(&case["args"])[..] {
            [] => assert!(drawn.iter().all(Option::is_none)),
            // Either sign is drawn; this is the one recorded.
            [arg] => assert!(drawn.iter().any(|d| (d.unwrap() - arg).abs() < 1e-12), "{case}: {drawn:?}"),
            _ => unreachable!(),
        }
    }
}

#[test]
fn what_does_nothing_does_nothing() {
    for channels in [1, 3] {
        let original = picture(21, 13, channels);
        let same = |what: &str, image: &Image| assert_eq!(*image, original, "{what}, {channels} channels");
        for interpolation in [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic] {
            same("rotate", &rotate(&original, 360.0, [0; 3], interpolation));
            same("shear_x", &shear_x(&original, 0.0, [0; 3], interpolation));
            same("shear_y", &shear_y(&original, 0.0, [0; 3], interpolation));
            same("translate_x", &translate_x(&original, 0.0, [0; 3], interpolation));
            same("affine", &affine(&original, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0; 3], interpolation));
        }
        let mut image = original.clone();
        invert(&mut image);
        invert(&mut image);
        horizontal_flip(&mut image);
        assert_ne!(image, original);
        horizontal_flip(&mut image);
        posterize(&mut image, 8);
        solarize(&mut image, 256.0);
        solarize_add(&mut image, 0, 128.0);
        gaussian_blur(&mut image, 0.0);
        for change in [color, contrast, brightness, sharpness] {
            change(&mut image, 1.0);
        }
        same("the rest", &image);
        let mut flat = Image::new(5, 4, channels, vec![99; 20 * channels]);
        equalize(&mut flat);
        autocontrast(&mut flat);
        contrast(&mut flat, 0.3);
        gaussian_blur(&mut flat, 2.0);
        assert!(flat.data.iter().all(|v| *v == 99));
    }
    for (width, height) in [(1, 1), (2, 7), (7, 1)] {
        for op in Op::ALL {
            let image = op.apply(picture(width, height, 3), 1.3, [1, 2, 3], Interpolation::Bicubic);
            assert_eq!((image.width, image.height), (width, height), "{op:?}");
        }
    }
}

#[test]
fn crops_have_their_areas_ratios_and_places() {
    let mut rng = rng(2);
    let n = 20000;
    let (mut areas, mut ratios, mut tops, mut lefts) = (vec![], vec![], vec![], vec![]);
    for _ in 0..n {
        // Half the area at most: every attempt fits.
        let Region { top, left, height: h, width: w } =
            random_resized_crop_box(&mut rng, 1000, 1000, [0.08, 0.5], [0.75, 4.0 / 3.0]);
        areas.push((h * w) as f64 / 1e6);
        ratios.push((w as f64 / h as f64).ln());
        tops.push((top as f64 + 0.5) / (1001 - h) as f64);
        lefts.push((left as f64 + 0.5) / (1001 - w) as f64);
    }
    let log = (4.0f64 / 3.0).ln();
    assert_uniform("area", areas, 0.08, 0.5, 0.004);
    assert_uniform("log ratio", ratios, -log, log, 0.006);
    assert_uniform("top", tops, 0.0, 1.0, 0.004);
    assert_uniform("left", lefts, 0.0, 1.0, 0.004);
    // Nothing fits: the central part of the nearest ratio.
    assert_eq!(
        random_resized_crop_box(&mut rng, 10, 1000, [0.5, 1.0], [0.75, 4.0 / 3.0]),
        Region { top: 493, left: 0, height: 13, width: 10 }
    );
    assert_eq!(
        random_resized_crop_box(&mut rng, 1000, 10, [0.5, 1.0], [0.75, 4.0 / 3.0]),
        Region { top: 0, left: 493, height: 10, width: 13 }
    );
    for _ in 0..2000 {
        let Region { top, left, height: h, width: w } =
            random_resized_crop_box(&mut rng, 37, 23, [0.08, 1.0], [0.75, 4.0 / 3.0]);
        assert!(h >= 1 && w >= 1 && top + h <= 23 && left + w <= 37);
    }
}

fn policy(policy: &str) -> RandAugment {
    RandAugment::new(policy, &RandAugmentOptions::default()).unwrap()
}

#[test]
fn rand_augment_draws_as_timm_does() {
    let mut rng = rng(3);
    let n = 30000;
    let augment = policy("rand-m9-mstd0.5-inc1");
    let (mut counts, mut ops) = ([0; 3], HashMap::<Op, Vec<DrawnOp>>::new());
    for _ in 0..n {
        let drawn = augment.draw(&mut rng);
        counts[drawn.len()] += 1;
        drawn.into_iter().for_each(|d| ops.entry(d.op).or_default().push(d));
    }
    // Two operations, each applied with probability ½.
    for (count, p) in counts.into_iter().zip([0.25, 0.5, 0.25]) {
        assert_share("operations of an image", count, n, p);
    }
    assert_eq!(ops.len(), 15);
    assert!(ops.contains_key(&Op::ColorIncreasing) && !ops.contains_key(&Op::Color));
    for (op, drawn) in &ops {
        assert_share(&format!("{op:?}"), drawn.len(), 2 * n, 0.5 / 15.0);
    }
    let all: Vec<DrawnOp> = ops.values().flatten().copied().collect();
    // A normal distribution cut off at 10, two deviations above its mean.
    assert_share("magnitude 10", all.iter().filter(|d| d.magnitude == 10.0).count(), all.len(), 0.02275);
    assert_share("magnitude below 9", all.iter().filter(|d| d.magnitude < 9.0).count(), all.len(), 0.5);
    assert_share("magnitude below 8.5", all.iter().filter(|d| d.magnitude < 8.5).count(), all.len(), 0.15866);
    assert!(all.iter().all(|d| (0.0..=10.0).contains(&d.magnitude)));
    let bicubic = all.iter().filter(|d| d.interpolation == Interpolation::Bicubic).count();
    assert_share("bicubic", bicubic, all.len(), 0.5);
    for op in [Op::Rotate, Op::ShearX, Op::TranslateYRel] {
        let negative = ops[&op].iter().filter(|d| d.argument < 0.0).count();
        assert_share("negative", negative, ops[&op].len(), 0.5);
        let full = match op {
            Op::Rotate => 30.0,
            Op::ShearX => 0.3,
            _ => 0.45,
        };
        assert!(ops[&op].iter().all(|d| (d.argument.abs() - full * d.magnitude / 10.0).abs() < 1e-12));
    }
    let duller = ops[&Op::ContrastIncreasing].iter().filter(|d| d.argument < 1.0).count();
    assert_share("less contrast", duller, ops[&Op::ContrastIncreasing].len(), 0.5);
}

#[test]
fn rand_augment_reads_policies() {
    let mut rng = rng(4);
    let magnitudes = |text: &str, rng: &mut ChaCha8Rng| -> Vec<f64> {
        let augment = policy(text);
        (0..10000).flat_map(|_| augment.draw(rng)).map(|d| d.magnitude).collect()
    };
    assert_uniform("uniform magnitude", magnitudes("rand-m8-mstd101-p1", &mut rng), 0.0, 8.0, 0.0);
    assert!(magnitudes("rand", &mut rng).iter().all(|m| *m == 10.0));
    assert!(magnitudes("rand-m20-mmax15", &mut rng).iter().all(|m| *m == 15.0));
    assert_eq!(magnitudes("rand-n5-p1", &mut rng).len(), 50000);
    // Weights 3 of 10.6; without repetition.
    let augment = policy("rand-n2-p1-tweights");
    let drawn: Vec<_> = (0..20000).map(|_| augment.draw(&mut rng)).collect();
    assert_share("rotate first", drawn.iter().filter(|d| d[0].op == Op::Rotate).count(), drawn.len(), 3.0 / 10.05);
    assert!(drawn.iter().all(|d| d[0].op != d[1].op));
    let augment = policy("rand-n1-p1-t3a");
    let blurs = (0..9000).filter(|_| augment.draw(&mut rng)[0].op == Op::GaussianBlur).count();
    assert_share("a third", blurs, 9000, 1.0 / 3.0);

    let error = |text: &str| RandAugment::new(text, &RandAugmentOptions::default()).unwrap_err().to_string();
    assert!(error("rnd-m9").contains("expected `rand`"), "{}", error("rnd-m9"));
    assert!(error("rand-m9.5").contains("expected an integer of at least 0 after `m`, found `9.5`"));
    assert!(error("rand-msdt0.5").contains("unknown setting `msdt0.5`; did you mean `mstd`?"));
    assert!(error("rand-p2").contains("from 0 to 1 after `p`, found `2`"));
    assert!(error("rand-inc0").contains("expected `inc1`"));
    assert!(error("rand-t3b").contains("weights, 3a, 3aw"));
    assert!(error("rand-w0").contains("unknown setting `w0`"));
    assert!(error("rand-n15-t3aw").contains("at most 14"));
    assert!(error("rand-n99999999999").contains("expected n of at most 1000, found 99999999999"));
    let error = |options| RandAugment::new("rand-m9", &options).unwrap_err().to_string();
    let fill = RandAugmentOptions { fill: vec![1, 2, 300], ..Default::default() };
    assert!(error(fill).contains("option `fill` of transform::rand_augment"));
    let interpolation = RandAugmentOptions { interpolation: "bicubik".into(), ..Default::default() };
    assert!(error(interpolation).contains("did you mean `bicubic`?"));
}

#[test]
fn augmented_pictures_depend_on_the_generator_alone() {
    let original = picture(32, 24, 3);
    let augment = policy("rand-m9-n3-mstd0.5-inc1-p1");
    let results: Vec<_> = (0..50).map(|i| augment.apply(original.clone(), &mut rng(i)).unwrap()).collect();
    assert!((0..50).all(|i| augment.apply(original.clone(), &mut rng(i)).unwrap() == results[i as usize]));
    assert!(results.iter().filter(|r| **r != original).count() > 45);

    let three = ThreeAugment::new(&ThreeAugmentOptions::default()).unwrap();
    let (mut grey, mut inverted) = (original.clone(), original.clone());
    grayscale(&mut grey);
    solarize(&mut inverted, 128.0);
    let mut rng = rng(9);
    let results: Vec<_> = (0..3000).map(|_| three.apply(original.clone(), &mut rng).unwrap()).collect();
    assert_share("greyed", results.iter().filter(|r| **r == grey).count(), 3000, 1.0 / 3.0);
    assert_share("solarized", results.iter().filter(|r| **r == inverted).count(), 3000, 1.0 / 3.0);
}

#[test]
fn jitter_draws_within_its_ranges() {
    let mut rng = rng(5);
    let n = 8000;
    let grey = Image::new(1, 1, 1, vec![200]);
    let options = ColorJitterOptions { brightness: 0.2, ..Default::default() };
    let jitter = ColorJitter::new(&options).unwrap();
    let factors: Vec<_> =
        (0..n).map(|_| f64::from(jitter.apply(grey.clone(), &mut rng).unwrap().data[0]) / 200.0).collect();
    assert_uniform("brightness", factors, 0.8, 1.2, 0.015);

    let red = Image::new(1, 1, 3, vec![255, 0, 0]);
    let jitter = ColorJitter::new(&ColorJitterOptions { hue: 0.1, ..Default::default() }).unwrap();
    let turned: Vec<_> = (0..n).map(|_| jitter.apply(red.clone(), &mut rng).unwrap().data).collect();
    // A tenth of a circle is 0.6 of the way from red to yellow or magenta.
    let angles = turned.iter().map(|p| (f64::from(p[1]) - f64::from(p[2])) / (6.0 * 255.0)).collect();
    assert!(turned.iter().all(|p| p[0] == 255 && (p[1] == 0 || p[2] == 0)));
    assert_uniform("hue", angles, -0.1, 0.1, 0.025);

    let jitter = ColorJitter::new(&ColorJitterOptions { brightness: 0.5, p: 0.8, ..Default::default() }).unwrap();
    let same = (0..n).filter(|_| jitter.apply(grey.clone(), &mut rng).unwrap() == grey).count();
    assert!((0.19..0.24).contains(&(same as f64 / n as f64)), "{same}");
    let error = ColorJitter::new(&ColorJitterOptions { hue: 0.6, ..Default::default() }).unwrap_err().to_string();
    assert_eq!(error, "option `hue` of transform::color_jitter: expected a number from 0 to 0.5, found 0.6");
}

#[test]
fn simple_transforms_happen_as_often_as_asked() {
    let mut rng = rng(6);
    let n = 6000;
    let original = picture(6, 5, 3);
    let flip = RandomHorizontalFlip::new(&RandomHorizontalFlipOptions::default()).unwrap();
    let grey = RandomGrayscale::new(&RandomGrayscaleOptions { p: 0.2 }).unwrap();
    let blur = GaussianBlur::new(&GaussianBlurOptions { p: 0.3, radius: [1.0, 2.0] }).unwrap();
    let solarizing = RandomSolarize::new(&RandomSolarizeOptions { p: 0.4, ..Default::default() }).unwrap();
    let mut changed = [0; 4];
    for _ in 0..n {
        changed[0] += usize::from(flip.apply(original.clone(), &mut rng).unwrap() != original);
        changed[1] += usize::from(grey.apply(original.clone(), &mut rng).unwrap() != original);
        changed[2] += usize::from(blur.apply(original.clone(), &mut rng).unwrap() != original);
        changed[3] += usize::from(solarizing.apply(original.clone(), &mut rng).unwrap() != original);
    }
    for (count, p) in changed.into_iter().zip([0.5, 0.2, 0.3, 0.4]) {
        assert_share("changed", count, n, p);
    }
    let never = RandomHorizontalFlip::new(&RandomHorizontalFlipOptions { p: 0.0 }).unwrap();
    let always = RandomHorizontalFlip::new(&RandomHorizontalFlipOptions { p: 1.0 }).unwrap();
    assert!((0..100).all(|_| never.apply(original.clone(), &mut rng).unwrap() == original));
    assert!((0..100).all(|_| always.apply(original.clone(), &mut rng).unwrap() != original));
    assert!(RandomHorizontalFlip::new(&RandomHorizontalFlipOptions { p: 1.5 }).is_err());
}

#[test]
fn padded_crops_show_the_image_somewhere() {
    let mut rng = rng(7);
    let original = Image::new(5, 4, 3, vec![9; 60]);
    let crop = RandomCrop::new(None, &RandomCropOptions { padding: 2 }).unwrap();
    // The places of the crop: 0 to 4 down and across, 2 and 2 being the image itself.
    let mut counts = HashMap::<Vec<u8>, usize>::new();
    for _ in 0..25000 {
        let image = crop.apply(original.clone(), &mut rng).unwrap();
        assert_eq!((image.width, image.height), (5, 4));
        *counts.entry(image.data).or_default() += 1;
    }
    assert_eq!(counts.len(), 25);
    for count in counts.values() {
        assert_share("a place", *count, 25000, 1.0 / 25.0);
    }
    assert_eq!(padded_crop(&original, 2, 2, 2, 4, 5), original);
    let corner = padded_crop(&original, 2, 0, 0, 3, 3);
    assert_eq!(corner.data.iter().map(|v| usize::from(*v > 0)).sum::<usize>(), 3);
    assert!(padded_crop(&original, 20, 0, 0, 3, 3).data.iter().all(|v| *v == 0));
    let large = RandomCrop::new(Some([9, 9]), &RandomCropOptions { padding: 2 }).unwrap();
    let error = large.apply(original, &mut rng).unwrap_err();
    // The image is not broken: on_bad: "skip" must not drop it.
    assert!(error.is::<Misfit>(), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("at least 9 x 9") && error.contains("found 8 x 9"), "{error}");
}

#[test]
fn erased_parts_have_their_areas_and_ratios() {
    let mut rng = rng(8);
    let n = 20000;
    // At most a fifth: every attempt fits.
    let erasing = RandomErasing::new(&RandomErasingOptions { p: 0.25, max_area: 0.2, ..Default::default() }).unwrap();
    let parts: Vec<Region> = (0..4 * n).flat_map(|_| erasing.draw(1000, 1000, &mut rng)).collect();
    assert_share("erased", parts.len(), 4 * n, 0.25);
    let log = (1.0f64 / 0.3).ln();
    assert_uniform("area", parts.iter().map(|r| r.area() as f64 / 1e6).collect(), 0.02, 0.2, 0.008);
    let ratios = parts.iter().map(|r| (r.height as f64 / r.width as f64).ln()).collect();
    assert_uniform("log ratio", ratios, -log, log, 0.006);
    assert!(parts.iter().all(|r| r.top + r.height <= 1000 && r.left + r.width <= 1000));

    let options = RandomErasingOptions {
        p: 1.0,
        max_count: Some(3),
        mode: EraseMode::Pixel,
        max_area: 0.2,
        ..Default::default()
    };
    let erasing = RandomErasing::new(&options).unwrap();
    let mut counts = [0; 4];
    for _ in 0..n {
        let parts = erasing.draw(500, 400, &mut rng);
        counts[parts.len()] += 1;
        // Parts share the area.
        assert!(parts.iter().all(|r| r.area() as f64 <= 0.205 * 2e5 / parts.len() as f64));
    }
    assert!(counts[0] == 0);
    (1..4).for_each(|k| assert_share("parts", counts[k], n, 1.0 / 3.0));
    let error = |options| RandomErasing::new(&options).unwrap_err().to_string();
    let default = RandomErasingOptions::default;
    let none = "option `min_area` of transform::random_erasing: expected a number from 0 to 1, found -0.5";
    assert_eq!(error(RandomErasingOptions { min_area: -0.5, ..default() }), none);
    let order = "options of transform::random_erasing: expected `min_area` to be at most `max_area`, found 0.3 and 0.2";
    assert_eq!(error(RandomErasingOptions { min_area: 0.3, max_area: 0.2, ..default() }), order);
    let one = error(RandomErasingOptions { min_aspect: 2.0, ..default() });
    assert!(one.starts_with("option `min_aspect`") && one.contains("at most 1 where max_aspect is not"), "{one}");
    RandomErasing::new(&RandomErasingOptions { min_aspect: 2.0, max_aspect: Some(3.0), ..default() }).unwrap();
    let infinite = error(RandomErasingOptions { max_aspect: Some(f64::INFINITY), ..default() });
    assert!(infinite.starts_with("option `max_aspect`"), "{infinite}");
    let many = error(RandomErasingOptions { min_count: 4_000_000_000, ..default() });
    assert!(many.contains("option `min_count`") && many.contains("from 1 to 1000, found 4000000000"), "{many}");
    let many = error(RandomErasingOptions { max_count: Some(1001), ..default() });
    assert!(many.contains("option `max_count`"), "{many}");
    let error = "pixels".parse::<EraseMode>().unwrap_err();
    assert!(error.message.contains("did you mean `pixel`?"), "{error}");
}

#[test]
fn mixes_have_their_shares_and_regions() {
    let mut rng = rng(10);
    let n = 20000;
    let mixing = Mixup::new(&MixupOptions { cutmix_alpha: 0.0, prob: 0.7, ..Default::default() }).unwrap();
    let mixes: Vec<Mix> = (0..n).map(|_| mixing.draw(32, 32, &mut rng)).collect();
    let shares: Vec<f64> = mixes.iter().filter(|m| **m != Mix::NONE).map(|m| m.lam).collect();
    assert_share("mixed", shares.len(), n, 0.7);
    // Beta(α, α): mean ½, variance 1 / (4 (2α + 1)).
    let variance = 1.0 / (4.0 * 2.6);
    assert_mean("share", &shares, 0.5, f64::sqrt(variance));
    // Squared distances from ½ lie between 0 and ¼: their deviation is at most ⅛.
    let squares: Vec<f64> = shares.iter().map(|s| (s - 0.5).powi(2)).collect();
    assert_mean("variance", &squares, variance, 0.125);

    let mixing = Mixup::new(&MixupOptions::default()).unwrap();
    let cuts = (0..n).filter(|_| mixing.draw(32, 32, &mut rng).region.is_some()).count();
    assert_share("cutmix", cuts, n, 0.5);

    // Without the correction the share is Beta(1, 1), and the region what the edges leave of the rest.
    let options = MixupOptions { mixup_alpha: 0.0, correct_lam: false, ..Default::default() };
    let mixing = Mixup::new(&options).unwrap();
    let mixes: Vec<Mix> = (0..n).map(|_| mixing.draw(200, 300, &mut rng)).collect();
    assert_uniform("cutmix share", mixes.iter().map(|m| m.lam).collect(), 0.0, 1.0, 0.0);
    let mut whole = 0;
    for mix in &mixes {
        let region = mix.region.unwrap();
        let area = region.area() as f64 / 6e4;
        assert!(area <= 1.0 - mix.lam + 1e-9 && region.top + region.height <= 200 && region.left + region.width <= 300);
        whole += usize::from(area > 1.0 - mix.lam - 0.02);
    }
    // Regions that no edge cuts: probability (1 − r)² for the side r = √(1 − share), over uniform
    // shares 1/6; the tolerance of 0.02 adds small regions.
    assert!((0.16..0.26).contains(&(whole as f64 / n as f64)), "{whole}");

    let mixing = Mixup::new(&MixupOptions { correct_lam: true, ..options.clone() }).unwrap();
    for _ in 0..1000 {
        let mix = mixing.draw(20, 30, &mut rng);
        assert!((mix.lam - (1.0 - mix.region.unwrap().area() as f64 / 600.0)).abs() < 1e-12);
    }
    let mixing = Mixup::new(&MixupOptions { cutmix_minmax: Some([0.2, 0.8]), ..options }).unwrap();
    for _ in 0..1000 {
        let region = mixing.draw(100, 50, &mut rng).region.unwrap();
        assert!((20..80).contains(&region.height) && (10..40).contains(&region.width));
    }
    let pair = Mixup::new(&MixupOptions { mode: MixupMode::Pair, ..Default::default() }).unwrap();
    let mixes = pair.draw_batch(8, 32, 32, &mut rng);
    assert!((0..8).all(|i| mixes[i] == mixes[7 - i]) && mixes[0] != mixes[1]);
    let elem = Mixup::new(&MixupOptions { mode: MixupMode::Elem, ..Default::default() }).unwrap();
    assert!(elem.draw_batch(2, 32, 32, &mut rng)[0] != elem.draw_batch(2, 32, 32, &mut rng)[1]);
    assert!(Mixup::new(&MixupOptions { mixup_alpha: 0.0, cutmix_alpha: 0.0, ..Default::default() }).is_err());
}

#[test]
fn unknown_operations_and_bad_arguments_are_named() {
    let image = picture(4, 4, 3);
    let error = |name: &str, args: &[f64]| {
        apply_op(&image, name, args, [0; 3], Interpolation::Bilinear).unwrap_err().to_string()
    };
    assert_eq!(error("ShearZ", &[0.1]), "unknown image operation `ShearZ`; did you mean `ShearX`?");
    assert_eq!(error("Rotate", &[]), "image operation Rotate: expected 1 argument, found 0");
    assert_eq!(
        error("Posterize", &[9.0]),
        "image operation Posterize: expected a whole number of bits from 0 to 8, found 9"
    );
    assert!(error("Posterize", &[3.7]).contains("expected a whole number of bits from 0 to 8, found 3.7"));
    assert!(error("SolarizeAdd", &[0.5]).contains("expected a whole number to add from 0 to 255, found 0.5"));
    assert!(error("Rotate", &[f64::NAN]).contains("finite"));
}

#[test]
fn one_grey_channel_is_pillows() {
    // Pillow's result has three equal channels.
    let expected = read("transforms", "rgb-70-Grayscale.png");
    let grey = Grayscale.apply(read("transforms", "rgb.png"), &mut rng(1)).unwrap();
    assert_eq!((grey.width, grey.height, grey.channels), (expected.width, expected.height, 1));
    assert!(grey.data.iter().eq(expected.data.iter().step_by(3)));
    assert_eq!(Grayscale.apply(grey.clone(), &mut rng(1)).unwrap(), grey);
    let before = Shape { channels: Some(3), size: Some((4, 5)) };
    assert_eq!(Grayscale.shape(before), Shape { channels: Some(1), ..before });

    let floats = |channels, data: &[f32]| LazyImage::Floats(Image::new(2, 1, channels, data.to_vec()));
    let of = |image| Grayscale.apply_lazily(image, &mut rng(1)).and_then(LazyImage::pixels);
    let AnyImage::Floats(grey) = of(floats(3, &[1.0, 0.0, 0.0, -2.0, 3.0, 0.5])).unwrap() else { panic!("floats") };
    assert_eq!((grey.channels, grey.data.len()), (1, 2));
    assert!((grey.data[0] - 0.299).abs() < 1e-6 && (grey.data[1] - 1.22).abs() < 1e-6, "{:?}", grey.data);
    assert!(of(floats(2, &[0.0; 4])).unwrap_err().is::<Misfit>());
}

#[test]
fn images_are_turned_upside_down_half_of_the_time() {
    let mut rng = rng(12);
    for height in [1, 4, 5] {
        let original = picture(6, height, 3);
        let rows: Vec<u8> = (0..height).rev().flat_map(|y| original.row(y).to_vec()).collect();
        let always = RandomVerticalFlip::new(&RandomVerticalFlipOptions { p: 1.0 }).unwrap();
        assert_eq!(always.apply(original, &mut rng).unwrap().data, rows);
    }
    let original = picture(6, 5, 1);
    let flip = RandomVerticalFlip::new(&RandomVerticalFlipOptions::default()).unwrap();
    let changed = (0..4000).filter(|_| flip.apply(original.clone(), &mut rng).unwrap() != original).count();
    assert_share("turned", changed, 4000, 0.5);
}

/// A run resumes only with equal transforms, which it knows by these texts.
#[test]
fn transforms_describe_themselves_exactly() {
    let options = OpOptions { fill: [1, 2, 3], interpolation: Interpolation::Nearest };
    let op = FixedOp::new("Rotate", vec![10.125], &options).unwrap();
    assert_eq!(op.describe(), r#"op("Rotate", [10.125], fill: [1, 2, 3], interpolation: "nearest")"#);
    let options = RandomResizedCropOptions { ratio: [0.751, 1.333], ..Default::default() };
    let crop = RandomResizedCrop::new(6, 5, &options).unwrap();
    assert_eq!(crop.describe(), "random_resized_crop([6, 5], ratio: [0.751, 1.333])");
    let crop = RandomCrop::new(Some([9, 8]), &RandomCropOptions { padding: 2 }).unwrap();
    assert_eq!(crop.describe(), "random_crop([9, 8], padding: 2)");
    let augment = RandAugment::new("rand-m7", &RandAugmentOptions { translate: 0.1, ..Default::default() }).unwrap();
    assert_eq!(augment.describe(), r#"rand_augment("rand-m7", translate: 0.1)"#);
    let mixup = Mixup::new(&MixupOptions { mode: MixupMode::Pair, mixup_alpha: 0.123456789, ..Default::default() });
    assert_eq!(mixup.unwrap().describe(), r#"mixup(mixup_alpha: 0.123456789, mode: "pair")"#);
    let erasing = RandomErasing::new(&RandomErasingOptions { max_count: Some(3), ..Default::default() });
    assert_eq!(erasing.unwrap().describe(), "random_erasing(max_count: 3)");
}

#[test]
fn crops_and_resizing_change_pixels_as_they_change_encoded_images() {
    let region = Region { top: 1, left: 2, height: 9, width: 8 };
    let interpolation = Interpolation::Bilinear;
    let transforms: [(Box<dyn Transform>, (usize, usize)); 4] = [
        (Box::new(CenterCrop { height: 5, width: 7 }), (5, 7)),
        (Box::new(Resize { to: ResizeTo::Shorter(6), how: interpolation.into() }), (6, 10)),
        (Box::new(ResizedCrop { region, height: 4, width: 3, how: interpolation.into() }), (4, 3)),
        (Box::new(RandomResizedCrop::new(6, 5, &RandomResizedCropOptions::default()).unwrap()), (6, 5)),
    ];
    let original = picture(20, 12, 3);
    for (transform, size) in transforms {
        let image = transform.apply(original.clone(), &mut rng(1)).unwrap();
        let lazily = transform.apply_lazily(LazyImage::Decoded(original.clone()), &mut rng(1)).unwrap();
        assert_eq!((image.height, image.width), size, "{}", transform.describe());
        assert!(image == lazily.decode().unwrap(), "{}", transform.describe());
    }
    let image = CenterCrop { height: 4, width: 6 }.apply(original.clone(), &mut rng(1)).unwrap();
    assert_eq!(image, original.crop(Region { top: 4, left: 7, height: 4, width: 6 }));
}
